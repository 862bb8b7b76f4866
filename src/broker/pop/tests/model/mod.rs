//! Random histories against a simple model: no message that was acked comes again, none is lost, attempts count right,
//! nothing comes early, the last attempt ends in the dead-letter topic, and a crash repeats only what was in flight. For
//! FIFO groups: nothing is delivered while an earlier message of its message group is undone.

mod believed;

use std::collections::{BTreeMap, HashMap};

use futures_util::FutureExt;

use self::believed::{Answer, Believed, Handle, Said, Void};
use super::*;
use crate::broker::{
    Draft, GroupChange, SettleError,
    pop::faults::{Fault, plant},
    testing::Dice,
};

/// Histories, and steps of each. A failure prints its seed; [`history`] with that seed repeats its operations.
const HISTORIES: u64 = 100;
const STEPS: usize = 120;
/// Message groups of a FIFO history.
const MESSAGE_GROUPS: u64 = 4;

/// The world, and what we believe about each message, by its body.
struct Game {
    world: Option<World>,
    dice: Dice,
    messages: BTreeMap<String, Believed>,
    /// Which run of the server this is.
    run: u32,
    /// The power is gone: the next step must be a crash.
    dark: bool,
    sent: u32,
    counts: HashMap<&'static str, u32>,
    order: Order,
    /// Whether the group is FIFO now.
    fifo: bool,
    /// The bodies of each message group, in order.
    lines: Vec<Vec<String>>,
}

/// What a history is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// The group is not FIFO.
    None,
    Fifo,
    /// The group becomes FIFO, and ceases to be, now and then.
    Sometimes,
}

/// Prints the seed when the test dies.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the history of seed {}", self.0);
        }
    }
}

#[test]
fn random_histories_agree_with_the_model() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut counts: HashMap<&'static str, u32> = HashMap::new();
    for seed in 0..HISTORIES {
        for (what, count) in runtime.block_on(history(seed, Order::None)) {
            *counts.entry(what).or_default() += count;
        }
    }
    // A history in which nothing of a kind ever happens would prove nothing about it.
    for what in
        ["acked", "refused", "again", "earlier run", "dead", "dropped", "dark", "crash", "changed", "renewed", "reset"]
    {
        assert!(counts.get(what).is_some_and(|n| *n > 20), "{what} hardly ever happened: {counts:?}");
    }
}

#[test]
fn random_histories_of_fifo_groups_agree_with_the_model() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut counts: HashMap<&'static str, u32> = HashMap::new();
    for seed in 0..HISTORIES {
        let order = if seed % 4 == 0 { Order::Sometimes } else { Order::Fifo };
        for (what, count) in runtime.block_on(history(seed, order)) {
            *counts.entry(what).or_default() += count;
        }
    }
    for what in ["acked", "again", "earlier run", "dead", "crash", "changed", "given back", "followed", "flipped"] {
        assert!(counts.get(what).is_some_and(|n| *n > 20), "{what} hardly ever happened: {counts:?}");
    }
}

#[test]
fn locks_that_are_lost_at_a_restart_would_be_noticed() {
    assert!(is_noticed(Fault::LocksLostAtRestart, Order::Fifo, "out of order"));
}

#[test]
fn receipts_that_settle_what_others_were_given_would_be_noticed() {
    assert!(is_noticed(Fault::ReceiptNotBoundToLease, Order::Fifo, "expected Refusal, got true"));
}

#[test]
fn a_commit_offset_ahead_of_the_acks_that_it_rests_on_would_be_noticed() {
    for order in [Order::None, Order::Fifo] {
        assert!(is_noticed(Fault::CommitAheadOfAcks, order, "did not come by"), "{order:?}");
    }
}

/// Whether a history fails, with these words, when the fault is planted.
fn is_noticed(fault: Fault, order: Order, words: &str) -> bool {
    let _planted = plant(fault);
    // Threads and maps have an order of their own, so that the same seed is not always the same history: one of the first
    // dozens mostly fails, and now and then it takes more than there are in a run without a fault.
    (0..20 * HISTORIES).any(|seed| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let history = std::panic::AssertUnwindSafe(|| runtime.block_on(history(seed, order)));
        let died = std::panic::catch_unwind(history).err();
        died.is_some_and(|why| why.downcast_ref::<String>().is_some_and(|why| why.contains(words)))
    })
}

async fn history(seed: u64, order: Order) -> HashMap<&'static str, u32> {
    let _seed = Seed(seed);
    let (world, dice) = (World::new(2), Dice(seed));
    let mut game = Game {
        world: Some(world),
        dice,
        messages: BTreeMap::new(),
        run: 0,
        dark: false,
        sent: 0,
        counts: HashMap::new(),
        order,
        fifo: false,
        lines: vec![Vec::new(); MESSAGE_GROUPS as usize],
    };
    if order != Order::None {
        game.flip();
    }
    for _ in 0..STEPS {
        game.step().await;
    }
    game.finish().await;
    game.counts
}

impl Game {
    fn world(&self) -> &World {
        self.world.as_ref().expect("always put back")
    }
    /// Milliseconds.
    fn now(&self) -> u64 {
        self.world().machine.clock.now().as_micros() / 1000
    }
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    async fn step(&mut self) {
        match self.dice.roll(27) {
            24 => self.give_back(),
            25 if self.order == Order::Sometimes => self.flip(),
            25 => {}
            0..4 => self.send().await,
            4..9 => {
                let lease = Duration::from_secs(1 + self.dice.roll(20));
                self.take(lease).await;
            }
            9..12 => self.ack_some().await,
            12..14 => self.change().await,
            14 => self.renew(),
            15 => self.forward().await,
            16..19 => {
                let time = ms(self.dice.roll(9000));
                self.world().pass(time);
                self.revive().await;
            }
            19 => self.take_all().await,
            20 => {
                let saved = self.world().broker.snapshot();
                assert!(saved.is_ok() || self.world().machine.disk.is_off(), "{saved:?}");
            }
            21 => self.drop_an_ack(),
            22 if self.dice.roll(2) == 0 => self.cut_the_power(),
            22 => self.crash(),
            23 => self.restart(),
            _ => self.reset().await,
        }
        // What happens in memory when the power is gone already is of no interest.
        if self.dark || self.world().machine.disk.is_off() {
            self.count("dark");
            self.crash();
        }
    }

    async fn send(&mut self) {
        let bodies: Vec<_> = (0..1 + self.dice.roll(4)).map(|n| format!("m{}", self.sent + n as u32)).collect();
        self.sent += bodies.len() as u32;
        let drafts = bodies.iter().map(|body| self.draft(body)).collect();
        let sent = self.world().broker.produce(&topic(), drafts).await;
        self.safe_if(sent.is_ok());
        for body in bodies {
            self.messages.insert(body, Believed::new(sent.is_ok()));
        }
    }

    fn draft(&mut self, body: &str) -> Draft {
        if self.order == Order::None {
            return normal(body);
        }
        let line = self.dice.roll(MESSAGE_GROUPS) as usize;
        self.lines[line].push(body.into());
        let message_group = format!("line {line}");
        let mut properties = PropertiesBuilder::default();
        properties.push(key::SHARDING_KEY, &message_group);
        Draft { properties: properties.build(), message_group: Some(message_group), ..normal(body) }
    }

    /// The other messages of a message's group, those before it and those behind.
    fn line_of(&self, body: &str) -> (&[String], &[String]) {
        let place = |line: &Vec<String>| line.iter().position(|b| b == body);
        let found = self.lines.iter().find_map(|line| place(line).map(|at| (&line[..at], &line[at + 1..])));
        found.unwrap_or_default()
    }

    fn assert_in_order(&mut self, body: &str) {
        if !self.fifo {
            return;
        }
        let (before, behind) = self.line_of(body);
        for other in before {
            let undone = self.messages[other].is_undone();
            assert!(!undone, "out of order: {body} came before {other}: {:?}", self.messages[other]);
        }
        for other in behind {
            // A consumer may hold on, across a restart, to what it got before the group became FIFO.
            let loose = self.order == Order::Sometimes && self.messages[other].held_over;
            let there = self.messages[other].is_in_flight() && !loose;
            assert!(!there, "out of order: {body} came while {other} was in flight: {:?}", self.messages[other]);
            let came = self.order == Order::Fifo && self.messages[other].has_come();
            assert!(!came, "out of order: {body} came though {other} had come: {:?}", self.messages[other]);
        }
        let follows = !before.is_empty();
        if follows {
            self.count("followed");
        }
    }

    fn flip(&mut self) {
        let change = GroupChange { fifo: Some(!self.fifo), ..GroupChange::default() };
        match self.world().broker.update_group(&group(), change) {
            Ok(now) => {
                self.fifo = now.fifo;
                self.count("flipped");
            }
            Err(_) => self.safe_if(false),
        }
    }

    fn give_back(&mut self) {
        let Some((body, index)) = self.some_handle() else { return };
        let (now, run) = (self.now(), self.run);
        let receipt = &self.messages[&body].handles[index].receipt;
        self.world().broker.give_back(&topic(), &group(), receipt);
        let message = self.messages.get_mut(&body).expect("chosen");
        if message.is_live(index, run, now) {
            message.given_back(now);
            self.count("given back");
        }
    }

    async fn take(&mut self, invisible: Duration) -> usize {
        let max = 1 + self.dice.roll(6) as usize;
        let poll = Take { invisible, ..self.world().poll(max) };
        let taken = match self.world().broker.take(poll).await {
            Ok(taken) => taken,
            Err(error) => {
                assert!(self.world().machine.disk.is_off(), "{error}");
                if self.fifo {
                    let until = self.now() + invisible.as_millis() as u64;
                    self.messages.values_mut().for_each(|message| message.maybe_delivered(until));
                }
                return 0;
            }
        };
        let (now, run, fifo) = (self.now(), self.run, self.fifo);
        let count = taken.len();
        for delivery in taken {
            let body = String::from_utf8(delivery.message.body.to_vec()).unwrap();
            let until = now + invisible.as_millis() as u64;
            let handle = Handle::new(delivery.receipt, run, until);
            self.assert_in_order(&body);
            let message = self.messages.get_mut(&body).unwrap_or_else(|| panic!("{body} was never sent"));
            if delivery.attempt > 1 {
                *self.counts.entry("again").or_default() += 1;
            }
            if let Err(why) = message.deliver(delivery.attempt, handle, now, fifo) {
                panic!("{body}, attempt {}, at {now}: {why}: {message:?}", delivery.attempt);
            }
        }
        count
    }

    /// Takes until nothing is left: whatever must be visible has been seen then.
    async fn take_all(&mut self) {
        self.revive().await;
        loop {
            self.settle_down().await;
            if self.take(Duration::from_secs(60)).await == 0 {
                break;
            }
        }
        if self.world().machine.disk.is_off() {
            return;
        }
        let now = self.now();
        if self.order == Order::Sometimes {
            // A group that becomes FIFO waits for what is in flight.
            return;
        }
        for (body, message) in &self.messages {
            let before = self.line_of(body).0;
            let held = before.iter().any(|other| self.messages[other].may_hold(now));
            let line = || before.iter().map(|other| (other, &self.messages[other])).collect::<Vec<_>>();
            assert!(held || !message.is_overdue(now), "{body} did not come by {now}: {message:?}, behind {:?}", line());
        }
    }

    /// What nobody waited for may still be on its way to the disk, and its line moves on when it is there.
    async fn settle_down(&self) {
        if self.order != Order::None && !self.world().machine.disk.is_off() {
            let store = self.world().broker.store();
            let committed = store.committed(store.end()).await;
            assert!(committed.is_ok() || self.world().machine.disk.is_off());
        }
    }

    /// A message and one of its handles, mostly the newest.
    fn some_handle(&mut self) -> Option<(String, usize)> {
        let known: Vec<_> =
            self.messages.iter().filter(|(_, m)| !m.handles.is_empty()).map(|(b, _)| b).cloned().collect();
        if known.is_empty() {
            return None;
        }
        let body = known[self.dice.roll(known.len() as u64) as usize].clone();
        let handles = self.messages[&body].handles.len();
        let index = if self.dice.roll(4) == 0 { self.dice.roll(handles as u64) as usize } else { handles - 1 };
        Some((body, index))
    }

    async fn ack_some(&mut self) {
        let mut chosen = BTreeMap::new();
        for _ in 0..1 + self.dice.roll(4) {
            chosen.extend(self.some_handle());
        }
        let receipts: Vec<_> = chosen.iter().map(|(body, i)| self.messages[body].handles[*i].receipt.clone()).collect();
        let results = self.world().broker.ack(&topic(), &group(), &receipts).await;
        let (now, run) = (self.now(), self.run);
        let mut any_ok = false;
        let Ok(results) = results else {
            chosen.keys().for_each(|body| self.messages.get_mut(body).expect("chosen").maybe_done());
            return self.safe_if(false);
        };
        for ((body, index), result) in chosen.iter().zip(results) {
            let message = self.messages.get_mut(body).expect("chosen");
            let expected = message.expect(*index, run, now);
            let ok = match result {
                Ok(()) => true,
                Err(SettleError::Expired | SettleError::Invalid) => false,
                // Nothing can be read when the power is off, so nobody knows what the receipt is worth.
                Err(SettleError::Read(_)) if self.world().machine.disk.is_off() => continue,
                Err(other) => panic!("{other}"),
            };
            let fits = match expected {
                Answer::Ok => ok,
                Answer::Refusal => !ok,
                Answer::Either => true,
            };
            assert!(fits, "{body}, handle {index}, at {now}: expected {expected:?}, got {ok}: {message:?}");
            let earlier = message.handles[*index].run != run;
            if ok {
                message.acked(*index);
            }
            self.count(if ok { "acked" } else { "refused" });
            if ok && earlier {
                self.count("earlier run");
            }
            any_ok |= ok;
        }
        // A refusal waits for nothing, so it says nothing about the disk.
        if any_ok {
            self.safe_if(true);
        }
    }

    /// An ack whose caller goes away before the answer.
    fn drop_an_ack(&mut self) {
        let Some((body, index)) = self.some_handle() else { return };
        let (now, run) = (self.now(), self.run);
        let receipts = [self.messages[&body].handles[index].receipt.clone()];
        let answered = self.world().broker.ack(&topic(), &group(), &receipts).now_or_never();
        let message = self.messages.get_mut(&body).expect("chosen");
        let expected = message.expect(index, run, now);
        match answered {
            // It has its record and waits for the disk.
            None => message.done_soon(),
            Some(Ok(results)) if results[0].is_ok() => message.acked(index),
            Some(Ok(results)) if matches!(results[0], Err(SettleError::Read(_))) => return self.safe_if(false),
            Some(Ok(_)) => return assert_ne!(expected, Answer::Ok, "{body}, handle {index}, at {now}: {message:?}"),
            Some(Err(_)) => {
                message.maybe_done();
                return self.safe_if(false);
            }
        }
        assert_ne!(expected, Answer::Refusal, "{body}, handle {index}, at {now}: {message:?}");
        self.count("dropped");
    }

    async fn change(&mut self) {
        let Some((body, index)) = self.some_handle() else { return };
        let (now, run) = (self.now(), self.run);
        let expected = self.messages[&body].expect_change(index, run, now);
        let wait = if self.dice.roll(3) == 0 { 0 } else { self.dice.roll(9000) };
        let receipt = self.messages[&body].handles[index].receipt.clone();
        let changed = self.world().broker.change_invisible(&topic(), &group(), &receipt, ms(wait)).await;
        let message = self.messages.get_mut(&body).expect("chosen");
        let attempt = receipt.attempt();
        match changed {
            Ok(receipt) => {
                assert_ne!(expected, Answer::Refusal, "{body}, handle {index}, at {now}: {message:?}");
                let handle = Handle::new(receipt, run, now + wait);
                message.held_over |= message.handles[index].run != run;
                message.changed(attempt, handle, now, now + wait);
                self.count("changed");
                self.safe_if(true);
            }
            Err(SettleError::Expired | SettleError::Invalid) => {
                assert_ne!(expected, Answer::Ok, "{body}, handle {index}, at {now}: {message:?}");
            }
            Err(_) => {
                message.maybe_changed(attempt, now + wait);
                self.safe_if(false);
            }
        }
    }

    fn renew(&mut self) {
        let Some((body, index)) = self.some_handle() else { return };
        let (now, run) = (self.now(), self.run);
        let lease = self.dice.roll(20_000);
        let receipt = &self.messages[&body].handles[index].receipt;
        let renewed = self.world().broker.renew(&topic(), &group(), receipt, ms(lease)).is_ok();
        let message = self.messages.get_mut(&body).expect("chosen");
        assert_eq!(renewed, message.is_live(index, run, now), "{body}, handle {index}, at {now}: {message:?}");
        if renewed {
            message.renewed(now + lease);
            self.count("renewed");
        }
    }

    async fn forward(&mut self) {
        let Some((body, index)) = self.some_handle().filter(|(body, _)| self.messages[body].sure) else { return };
        let receipt = self.messages[&body].handles[index].receipt.clone();
        let forwarded = self.world().broker.forward_to_dead_letter(&topic(), &group(), &receipt).await;
        let message = self.messages.get_mut(&body).expect("chosen");
        let void = message.handles[index].void;
        if void != Void::No && matches!(forwarded, Err(SettleError::Expired)) {
            return;
        }
        assert_ne!(void, Void::Yes, "{body}, handle {index}: {message:?}");
        message.dead();
        self.count("dead");
        self.safe_if(forwarded.is_ok());
    }

    /// Begins, ends, or anything between, of one queue.
    async fn reset(&mut self) {
        let queue = QueueId(self.dice.roll(2) as u32);
        let end = self.world().broker.store().queue(&topic(), queue).max().get();
        let to = at(self.dice.roll(end + 1));
        // Nothing can be read once the power is gone, and what the store does by itself may be what it goes off at.
        let Ok(there) = crate::broker::testing::readable(&self.world().broker, &topic(), queue.0) else {
            return self.safe_if(false);
        };
        let reset = self.world().broker.reset_offset(&topic(), &group(), queue, to).await;
        for stored in there {
            let body = String::from_utf8(stored.body.to_vec()).unwrap();
            let message = self.messages.get_mut(&body).expect("only what was sent is there");
            let said = if stored.queue_offset < to { Said::Done } else { Said::Nothing };
            if reset.is_ok() { message.reset(said) } else { message.maybe_reset(said) }
        }
        if reset.is_ok() {
            self.count("reset");
        }
        self.safe_if(reset.is_ok());
    }

    async fn revive(&mut self) {
        self.world().broker.revive().await;
        let now = self.now();
        self.messages.values_mut().for_each(|message| message.revive(now));
    }

    /// After an answer: everything before it is safe; after a failure the power must be gone.
    fn safe_if(&mut self, ok: bool) {
        if ok {
            self.messages.values_mut().for_each(Believed::safe);
        } else {
            assert!(self.world().machine.disk.is_off(), "refused without a reason");
            self.dark = true;
        }
    }

    fn cut_the_power(&mut self) {
        let disk = &self.world.as_ref().expect("always put back").machine.disk;
        disk.crash_at(disk.ops() + 1 + self.dice.roll(6));
    }

    fn crash(&mut self) {
        let seed = self.dice.roll(u64::MAX);
        let world = self.world.take().expect("always put back");
        world.machine.disk.crash_at(u64::MAX);
        self.world = Some(world.crash(seed));
        self.messages.values_mut().for_each(Believed::crash);
        // A change that was not confirmed may have reached the disk.
        self.fifo = self.world().broker.group(group().as_str()).is_some_and(|group| group.fifo);
        self.run += 1;
        self.dark = false;
        self.count("crash");
    }

    fn restart(&mut self) {
        let disk = self.world().machine.disk.clone();
        disk.crash_at(u64::MAX);
        if disk.is_off() {
            return self.crash();
        }
        let world = self.world.take().expect("always put back");
        self.world = Some(world.restart());
        self.messages.values_mut().for_each(Believed::crash);
        self.run += 1;
    }

    /// Consumes everything and counts.
    async fn finish(&mut self) {
        self.crash();
        // Message groups go one message at a time, and each message has all its attempts.
        let longest = self.lines.iter().map(Vec::len).max().unwrap_or(0).max(1) as u32;
        for _ in 0..(ATTEMPTS + 1) * longest {
            self.world().pass(Duration::from_secs(3600));
            self.take_all().await;
        }
        self.world().pass(Duration::from_secs(3600));
        self.revive().await;
        let store = self.world().broker.store();
        store.committed(store.end()).await.unwrap();
        let dead = crate::broker::testing::bodies(&self.world().broker, &TopicName::dead_letter(&group()));
        for (body, message) in &self.messages {
            let copies = dead.iter().filter(|b| *b == body).count();
            assert!(message.ends_well(copies), "{body} has {copies} dead letters: {message:?}");
        }
        let (commit, in_flight, waiting) = self.world().progress();
        let stored: u64 = (0..2).map(|q| self.world().broker.store().queue(&topic(), QueueId(q)).max().get()).sum();
        assert_eq!((commit, in_flight, waiting), (stored, 0, 0));
    }
}
