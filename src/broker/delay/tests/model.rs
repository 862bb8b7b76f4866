//! Random histories against a simple model: what was accepted comes once, at its time, or was recalled; nothing comes early,
//! twice, or after its recall was answered. Planted mistakes make the model fail.

use std::{
    collections::{BTreeMap, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::*;
use crate::{
    broker::{RecallError, delay::faults::Fault, testing::Dice},
    types::{QueueId, QueueOffset},
};

const HISTORIES: u64 = 60;
const STEPS: usize = 80;

/// What is known of a message, whatever became of calls that were cut off.
#[derive(Debug)]
struct Believed {
    /// It does not come before the first and has come by the second, ms on the wall clock, which is never stepped here.
    from: i64,
    by: i64,
    /// Its send was answered.
    sure: bool,
    recalled: bool,
    maybe_recalled: bool,
    /// An operator gave it another time.
    moved: bool,
    handle: Option<String>,
}

pub(super) struct Game {
    world: Option<World>,
    dice: Dice,
    fault: Option<Fault>,
    messages: BTreeMap<String, Believed>,
    pub(super) counts: HashMap<&'static str, u32>,
}

impl Game {
    pub(super) fn new(seed: u64, fault: Option<Fault>) -> Self {
        let mut machine = Machine::new();
        machine.config.timer_carry_after = Duration::from_secs(1800);
        machine.store.index = seed.is_multiple_of(2);
        let game = Self {
            world: Some(World::on(machine)),
            dice: Dice(seed),
            fault,
            messages: BTreeMap::new(),
            counts: HashMap::new(),
        };
        game.plant();
        game
    }

    fn plant(&self) {
        self.world().broker.inner.timers.faults.plant(self.fault);
    }

    pub(super) fn world(&self) -> &World {
        self.world.as_ref().expect("always put back")
    }

    fn now(&self) -> i64 {
        self.world().wall().as_millis()
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(super) async fn step(&mut self) {
        match self.dice.roll(20) {
            0..6 => {
                let delay = [1, 500, 60_000, 4_000_000, 30_000_000][self.dice.roll(5) as usize];
                let delay = 1 + self.dice.roll(delay);
                self.send(ms(delay)).await;
            }
            6..11 => {
                let time = [10, 1000, 100_000, 3_000_000][self.dice.roll(4) as usize];
                let time = ms(self.dice.roll(time));
                self.pass(time).await;
            }
            11..13 => self.recall().await,
            13 => self.reschedule(),
            14..16 => self.carry().await,
            16 => self.snapshot(),
            17 => self.cut_the_power(),
            18 => self.crash(),
            _ => self.restart(),
        }
        self.crash_if_dark();
    }

    pub(super) async fn send(&mut self, delay: Duration) {
        let (body, due) = (format!("m{}", self.messages.len()), self.world().wall().plus(delay));
        let sent = self.world().try_send(at(due, &body)).await;
        let handle = sent.as_ref().ok().and_then(|sent| self.world().broker.recall_handle(&orders(), &body, sent));
        let (from, by) = (due.as_millis(), due.as_millis());
        let believed =
            Believed { from, by, sure: sent.is_ok(), recalled: false, maybe_recalled: false, moved: false, handle };
        self.messages.insert(body, believed);
        self.count(if sent.is_ok() { "sent" } else { "cut off" });
    }

    pub(super) async fn pass(&mut self, time: Duration) {
        self.world().pass(time).await;
        if !self.world().machine.disk.is_off() {
            self.check(true);
        }
    }

    /// The bodies that have come; `None` when the power fails while they are read.
    fn came(&self) -> Option<Vec<String>> {
        let (broker, mut came) = (&self.world().broker, Vec::new());
        for queue in (0..2).map(|id| broker.store().queue(&orders(), QueueId(id))) {
            let mut next = QueueOffset::ZERO;
            while next < queue.max() {
                for entry in queue.entries(next, 100).ok()? {
                    let message = broker.store().message(entry.physical, entry.size).ok()?;
                    came.push(String::from_utf8(message.body.to_vec()).expect("text"));
                    next = entry.offset.plus(1);
                }
            }
        }
        Some(came)
    }

    /// `fired`: everything due has come.
    fn check(&mut self, fired: bool) {
        let Some(delivered) = self.came() else {
            assert!(self.world().machine.disk.is_off(), "what was delivered cannot be read");
            return;
        };
        let now = self.now();
        let mut came: HashMap<&str, u32> = HashMap::new();
        delivered.iter().for_each(|body| *came.entry(body).or_default() += 1);
        for (body, believed) in &self.messages {
            let times = came.remove(body.as_str()).unwrap_or(0);
            assert!(times <= 1, "twice: {body} {believed:?}");
            assert!(times == 0 || now >= believed.from, "early: {body} {believed:?} at {now}");
            assert!(times == 0 || !believed.recalled, "recalled and came: {body} {believed:?}");
            let must = fired && believed.sure && !believed.recalled && !believed.maybe_recalled && believed.by <= now;
            assert!(!must || times == 1, "lost: {body} {believed:?} at {now}");
        }
        assert!(came.is_empty(), "never sent: {came:?}");
        for _ in 0..delivered.len() {
            self.count("delivered");
        }
    }

    fn any(&mut self) -> Option<String> {
        let count = self.messages.len() as u64;
        let nth = if count == 0 { return None } else { self.dice.roll(count) };
        self.messages.keys().nth(nth as usize).cloned()
    }

    pub(super) async fn recall(&mut self) {
        let Some(body) = self.any() else { return };
        let Some(handle) = self.messages[&body].handle.clone() else { return };
        let recalled = self.world().broker.recall(&orders(), &handle).await;
        let (now, dark) = (self.now(), self.world().machine.disk.is_off());
        let indexed = self.world().machine.store.index;
        let believed = self.messages.get_mut(&body).expect("one of them");
        match recalled {
            Ok(_) => {
                assert!(!believed.recalled, "recalled twice: {body}");
                believed.recalled = true;
                self.count("recalled");
            }
            Err(RecallError::Delivered { .. } | RecallError::NotPending { .. }) => {
                let gone = believed.recalled || believed.maybe_recalled || believed.from <= now;
                // Without the index of keys a handle leads to the time that it names.
                let elsewhere = believed.moved && !indexed;
                assert!(gone || elsewhere || !believed.sure, "not found: {body} {believed:?} at {now}");
            }
            Err(error) => {
                assert!(dark, "{error}");
                believed.maybe_recalled = true;
            }
        }
    }

    pub(super) fn reschedule(&mut self) {
        let Some(body) = self.any() else { return };
        let due = self.world().wall().plus(ms(self.dice.roll(10_000_000)));
        let moved = self.world().broker.reschedule_timers(Some(&orders()), &body, due);
        let (now, dark) = (self.now(), self.world().machine.disk.is_off());
        let believed = self.messages.get_mut(&body).expect("one of them");
        match moved {
            Ok(_) => {
                assert!(!believed.recalled, "recalled and moved: {body}");
                (believed.from, believed.by) = (due.as_millis(), due.as_millis());
                believed.moved = true;
                self.count("moved");
            }
            Err(RecallError::NotPending { .. }) => {
                let gone = believed.recalled || believed.maybe_recalled || believed.from <= now;
                assert!(gone || !believed.sure || dark, "not found: {body} {believed:?} at {now}");
            }
            Err(error) => {
                assert!(dark, "{error}");
                believed.moved = true;
                believed.from = believed.from.min(due.as_millis());
                believed.by = believed.by.max(due.as_millis());
            }
        }
    }

    pub(super) async fn carry(&mut self) {
        match self.world().broker.carry_timers().await {
            Ok(0) => {}
            Ok(_) => self.count("carried"),
            Err(error) => assert!(self.world().machine.disk.is_off(), "{error}"),
        }
    }

    pub(super) fn snapshot(&mut self) {
        let saved = self.world().broker.snapshot();
        assert!(saved.is_ok() || self.world().machine.disk.is_off(), "{saved:?}");
    }

    fn cut_the_power(&mut self) {
        let after = self.dice.roll(12);
        self.world().machine.disk.fail_after(after);
    }

    pub(super) fn crash_if_dark(&mut self) {
        if self.world().machine.disk.is_off() {
            self.count("dark");
            self.crash();
        }
    }

    fn crash(&mut self) {
        let seed = self.dice.roll(u64::MAX);
        let world = self.world.take().expect("always put back");
        self.world = Some(world.crash(seed));
        self.plant();
        self.check(false);
        self.count("crash");
    }

    pub(super) fn restart(&mut self) {
        if self.world().machine.disk.is_off() {
            return;
        }
        // The power may be about to fail; then this is a crash.
        let world = self.world.take().expect("always put back");
        world.broker.store().close();
        if world.machine.disk.is_off() {
            self.world = Some(world);
            return self.crash();
        }
        world.machine.disk.fail_after(u64::MAX / 2);
        self.world = Some(world.restart());
        self.plant();
        self.check(false);
    }

    pub(super) async fn finish(&mut self) {
        self.crash();
        self.pass(2 * DAY).await;
        let pending = self.world().broker.pending_timers();
        assert_eq!(pending, 0, "timers are left: {:?}", self.messages);
        self.world().broker.store().close();
    }
}

async fn history(seed: u64, fault: Option<Fault>) -> HashMap<&'static str, u32> {
    let mut game = Game::new(seed, fault);
    for _ in 0..STEPS {
        game.step().await;
    }
    game.finish().await;
    game.counts
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn random_histories_agree_with_the_model() {
    let mut counts: HashMap<&'static str, u32> = HashMap::new();
    for seed in 0..HISTORIES {
        let played = catch_unwind(AssertUnwindSafe(|| runtime().block_on(history(seed, None))));
        let played = played.unwrap_or_else(|_| panic!("the history of seed {seed}"));
        played.into_iter().for_each(|(what, count)| *counts.entry(what).or_default() += count);
    }
    for what in ["sent", "cut off", "delivered", "recalled", "moved", "carried", "dark", "crash"] {
        assert!(counts.get(what).is_some_and(|n| *n > 10), "{what} hardly ever happened: {counts:?}");
    }
}

/// What the model says of a mistake; `None` when it does not find it.
fn found(fault: Fault) -> Option<String> {
    (0..HISTORIES).find_map(|seed| {
        let played = catch_unwind(AssertUnwindSafe(|| runtime().block_on(history(seed, Some(fault)))));
        played.err().map(|why| why.downcast_ref::<String>().cloned().unwrap_or_default())
    })
}

#[test]
fn a_timer_that_is_done_ahead_of_its_message_is_found() {
    let broken = found(Fault::DoneAhead).expect("it is found");
    assert!(broken.starts_with("lost"), "{broken}");
}

#[test]
fn a_timer_that_is_done_behind_its_message_is_found() {
    let broken = found(Fault::DoneBehind).expect("it is found");
    assert!(broken.starts_with("twice"), "{broken}");
}

#[test]
fn a_recall_that_is_not_written_down_is_found() {
    let broken = found(Fault::RecallInMemory).expect("it is found");
    assert!(broken.starts_with("recalled"), "{broken}");
}
