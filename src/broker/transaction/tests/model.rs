//! Random histories against a simple model: a half message is never visible, what was committed is visible exactly once,
//! what was rolled back never, and nothing but its own transaction decides about a message.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;

use super::*;
use crate::broker::{
    Askable,
    testing::Dice,
    transaction::faults::{Fault, plant},
};

const HISTORIES: u64 = 60;
const STEPS: usize = 60;

/// What we believe about a transaction.
#[derive(Debug, Default)]
struct Believed {
    /// As the send was answered.
    id: Option<String>,
    /// A commit, a rollback was asked for, whatever came of it.
    may_be: Vec<Decision>,
    /// What was answered.
    is: Option<Decision>,
    given_up: bool,
}

struct Game {
    machine: Machine,
    broker: Option<Broker>,
    topic: TopicName,
    dice: Dice,
    halves: BTreeMap<String, Believed>,
    dark: bool,
    counts: BTreeMap<&'static str, u32>,
}

async fn history(seed: u64) -> BTreeMap<&'static str, u32> {
    let mut machine = Machine::new();
    machine.config.transaction_checks_max = 4;
    (machine.store.index, machine.store.index_slots, machine.store.index_entries) = (true, 100, 10_000);
    let broker = machine.start();
    let topic = create(&broker, "T", MessageType::Transaction);
    let (halves, counts) = (BTreeMap::new(), BTreeMap::new());
    let mut game = Game { machine, broker: Some(broker), topic, dice: Dice(seed), halves, dark: false, counts };
    for _ in 0..STEPS {
        game.step().await;
    }
    game.crash();
    game.look();
    game.broker().store().close();
    game.counts
}

impl Game {
    fn broker(&self) -> &Broker {
        self.broker.as_ref().expect("always put back")
    }
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    async fn step(&mut self) {
        match self.dice.roll(20) {
            0..5 => self.send().await,
            5..10 => self.end().await,
            10..12 => self.end_another().await,
            12..14 => self.check().await,
            14 => self.machine.clock.advance(Duration::from_millis(self.dice.roll(20_000))),
            15 => {
                let saved = self.broker().snapshot();
                assert!(saved.is_ok() || self.machine.disk.is_off(), "{saved:?}");
            }
            16 => self.look(),
            17 => {
                let after = 1 + self.dice.roll(6);
                self.machine.disk.crash_at(self.machine.disk.ops() + after);
            }
            18 => self.crash(),
            _ => self.restart(),
        }
        if self.dark || self.machine.disk.is_off() {
            self.crash();
        }
    }

    async fn send(&mut self) {
        let bodies: Vec<_> =
            (0..1 + self.dice.roll(3) as usize).map(|n| format!("m{}", self.halves.len() + n)).collect();
        let drafts = bodies.iter().map(|body| half(body)).collect();
        let sent = self.broker().produce(&self.topic, drafts).await;
        self.dark |= sent.is_err();
        for (n, body) in bodies.into_iter().enumerate() {
            let id = sent.as_ref().ok().map(|produced| id(&produced[n]));
            self.halves.insert(body, Believed { id, ..Believed::default() });
        }
    }

    /// One whose send was answered.
    fn some(&mut self) -> Option<(String, String)> {
        let known = self.halves.iter().filter_map(|(body, half)| Some((body.clone(), half.id.clone()?)));
        let known: Vec<_> = known.collect();
        (!known.is_empty()).then(|| known[self.dice.roll(known.len() as u64) as usize].clone())
    }

    fn decision(&mut self) -> Decision {
        if self.dice.roll(3) > 0 { Decision::Commit } else { Decision::Rollback }
    }

    async fn end(&mut self) {
        let Some((body, id)) = self.some() else { return };
        let decision = self.decision();
        let answer = self.broker().end_transaction(&self.topic, &body, &id, decision).await;
        let half = self.halves.get_mut(&body).expect("it is one of them");
        match answer {
            Ok(()) => {
                let before = half.is.replace(decision);
                assert!(before.is_none_or(|before| before == decision), "{body} {decision:?}: {half:?}");
                assert!(!half.given_up || decision == Decision::Rollback || half.may_be.contains(&decision));
                half.may_be.push(decision);
                self.count(if before.is_some() { "repeated" } else { "decided" });
            }
            Err(EndError::Decided(was)) => {
                let fits = half.may_be.contains(&was) || half.given_up && was == Decision::Rollback;
                assert!(was != decision && fits && half.is.is_none_or(|is| is == was), "{body} {was:?}: {half:?}");
                half.is = Some(was);
                self.count("refused");
            }
            Err(error) => {
                assert!(self.machine.disk.is_off(), "{body} {decision:?}: {error}: {half:?}");
                half.may_be.push(decision);
                self.dark = true;
            }
        }
    }

    /// Names the transaction of one message with the id of another.
    async fn end_another(&mut self) {
        let (Some((body, _)), Some((other, id))) = (self.some(), self.some()) else { return };
        if body == other {
            return;
        }
        let decision = self.decision();
        let answer = self.broker().end_transaction(&self.topic, &body, &id, decision).await;
        assert!(
            matches!(answer, Err(EndError::Unknown)) || self.machine.disk.is_off(),
            "{decision:?} of {body} by the id of {other}: {answer:?}"
        );
        self.count("foreign");
    }

    async fn check(&mut self) {
        let max = self.machine.config.transaction_checks_max;
        self.machine.clock.advance(Duration::from_secs(30));
        let before = self.broker().pending_transactions();
        let round = self.broker().due_checks(|_| Askable::Now).await;
        assert!(round.checks.len() <= before);
        for check in &round.checks {
            let body = body(&check.message);
            let half = self.halves.get_mut(&body).unwrap_or_else(|| panic!("{body} was never sent"));
            assert_eq!(half.is, None, "{body} is decided, and asked about: {half:?}");
            // A send that was not answered may have been stored.
            half.id.get_or_insert(check.transaction.to_string());
        }
        let sent: Vec<_> = round.checks.iter().map(|check| check.transaction).collect();
        self.broker().checks_sent(&sent);
        if !round.checks.is_empty() {
            self.count("asked");
        }
        assert!(max > 0);
        self.note_given_up();
    }

    fn note_given_up(&mut self) {
        let store = self.broker().store();
        let is_safe = store.committed_blocking(store.end()).is_ok();
        // A cut that has not come yet must not come while the test reads.
        self.machine.disk.crash_at(u64::MAX);
        if !is_safe || self.machine.disk.is_off() {
            self.dark = true;
            return;
        }
        let given_up = undecided(self.broker());
        for body in &given_up {
            let half = self.halves.get_mut(body).expect("it was sent");
            assert_ne!(half.is, Some(Decision::Commit), "{body} was committed and given up");
            assert_eq!(given_up.iter().filter(|b| *b == body).count(), 1, "{body} was given up twice");
            half.given_up = true;
        }
        if !given_up.is_empty() {
            self.count("given up");
        }
    }

    /// What consumers can see.
    fn look(&mut self) {
        self.note_given_up();
        if self.dark {
            return;
        }
        let visible = bodies(self.broker(), &self.topic);
        for (body, half) in &self.halves {
            let times = visible.iter().filter(|b| *b == body).count();
            assert!(times <= 1, "{body} is there {times} times: {half:?}");
            let expected = match half.is {
                Some(Decision::Commit) => times == 1,
                Some(Decision::Rollback) => times == 0,
                None => times == 0 || half.may_be.contains(&Decision::Commit),
            };
            assert!(expected, "{body} is there {times} times: {half:?}");
            assert!(times == 0 || !half.given_up, "{body} was given up and is visible");
        }
        self.count("looked");
    }

    fn crash(&mut self) {
        let seed = self.dice.roll(u64::MAX);
        let broker = self.broker.take().expect("always put back");
        self.machine.disk.crash_at(u64::MAX);
        self.broker = Some(self.machine.crash(broker, seed));
        self.dark = false;
        self.count("crash");
        self.look();
    }

    fn restart(&mut self) {
        self.machine.disk.crash_at(u64::MAX);
        if self.machine.disk.is_off() {
            return self.crash();
        }
        let broker = self.broker.take().expect("always put back");
        self.broker = Some(self.machine.restart(broker));
        self.look();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn random_histories_agree_with_the_model() {
    let mut counts: BTreeMap<&'static str, u32> = BTreeMap::new();
    for seed in 0..HISTORIES {
        let played = runtime().block_on(AssertUnwindSafe(history(seed)).catch_unwind());
        let played = played.unwrap_or_else(|_| panic!("the history of seed {seed}"));
        for (what, count) in played {
            *counts.entry(what).or_default() += count;
        }
    }
    for what in ["decided", "repeated", "refused", "foreign", "asked", "given up", "looked", "crash"] {
        assert!(counts.get(what).is_some_and(|n| *n > 20), "{what} hardly ever happened: {counts:?}");
    }
}

/// A model that finds nothing wrong with a wrong broker proves nothing.
#[test]
fn planted_faults_are_found() {
    for fault in [Fault::HalfIsVisible, Fault::DecisionIsNotBound, Fault::CommitInTwoSteps] {
        let _planted = plant(fault);
        let is_found = |seed| runtime().block_on(AssertUnwindSafe(history(seed)).catch_unwind()).is_err();
        assert!((0..HISTORIES * 5).any(is_found), "{fault:?} was not found");
    }
}
