//! Random histories against a simple model: each lite topic comes in order and whole, what was acked never comes again, a
//! client gets what is in its set, a power cut loses nothing that was answered.

use std::collections::BTreeMap;

use super::*;
use crate::broker::{
    pop::faults::{Fault, plant},
    testing::Dice,
};

const HISTORIES: u64 = 60;
const STEPS: usize = 150;
const LITE_TOPICS: [&str; 5] = ["a", "b", "c", "d", "e"];
const CLIENTS: [&str; 2] = ["one", "two"];

/// What we believe of a lite topic.
#[derive(Default)]
struct Believed {
    /// Retention took what is before.
    first: usize,
    sent: usize,
    acked: usize,
}

struct Game {
    world: World,
    dice: Dice,
    retaining: bool,
    topics: BTreeMap<&'static str, Believed>,
    sets: BTreeMap<&'static str, Vec<&'static str>>,
    /// Receipts that were not settled, of this and earlier runs.
    held: Vec<(&'static str, usize, Receipt)>,
    counts: BTreeMap<&'static str, u32>,
}

impl Game {
    async fn step(mut self) -> Self {
        match self.dice.roll(22) {
            0..=5 => self.send().await,
            6..=10 => self.take().await,
            11..=14 => self.ack().await,
            15 => self.put_off().await,
            16 => self.subscribe().await,
            17 => {
                let time = Duration::from_secs(self.dice.roll(40));
                self.world.later(time).await;
                self.count("time");
            }
            18 => {
                if self.retaining {
                    self.world.broker.store().step().unwrap();
                }
                self.world.broker.snapshot().unwrap();
            }
            19 => self.go_back().await,
            20 if self.retaining => self.retain().await,
            _ => return self.end_run().await,
        }
        self
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    async fn send(&mut self) {
        let name = self.dice.of(&LITE_TOPICS);
        let topic = self.topics.entry(name).or_default();
        self.world.send_to(name, &format!("{name}{}", topic.sent)).await.unwrap();
        topic.sent += 1;
    }

    async fn take(&mut self) {
        let by = self.dice.of(&CLIENTS);
        for delivery in self.world.take(by).await {
            let body = texts(std::slice::from_ref(&delivery)).remove(0);
            let (letter, number) = (&body[..1], body[1..].parse::<usize>().unwrap());
            let name = *LITE_TOPICS.iter().find(|name| **name == letter).unwrap();
            assert!(self.sets.get(by).is_some_and(|set| set.contains(&name)), "{by} got {body} without wanting it");
            assert_eq!(number, self.topics[name].acked, "{name} came out of order, or again after its ack: {body}");
            self.held.push((name, number, delivery.receipt));
            self.count("taken");
        }
    }

    async fn ack(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let at = self.dice.roll(self.held.len() as u64) as usize;
        let (name, number, receipt) = self.held.swap_remove(at);
        let result = self.world.ack(&receipt).await;
        let topic = self.topics.get_mut(name).unwrap();
        match result {
            Ok(()) if number == topic.acked => {
                topic.acked += 1;
                self.count("acked");
            }
            Ok(()) => {
                assert!(number < topic.acked, "{name}{number} was acked before what it follows");
                self.count("acked again");
            }
            Err(_) => self.count("refused"),
        }
    }

    /// A failed message, or a suspended one.
    async fn put_off(&mut self) {
        let Some((name, number, receipt)) = self.held.pop() else { return };
        let (suspend, time) = (self.dice.roll(2) == 0, Duration::from_secs(self.dice.roll(20)));
        let broker = &self.world.broker;
        let put_off = match suspend {
            true => broker.suspend(&parent(), &group(), &receipt, time).await,
            false => broker.change_invisible(&parent(), &group(), &receipt, time).await,
        };
        if let Ok(receipt) = put_off {
            self.held.push((name, number, receipt));
            self.count("put off");
        }
    }

    async fn subscribe(&mut self) {
        let by = self.dice.of(&CLIENTS);
        let set: Vec<_> = LITE_TOPICS.into_iter().filter(|_| self.dice.roll(2) == 0).collect();
        self.world.sync(by, LiteAction::Replace, &set, LiteStart::Last).await.unwrap();
        self.sets.insert(by, set);
    }

    /// The group begins anew with a lite topic: all of it comes again, and what was out is void.
    async fn go_back(&mut self) {
        let name = self.dice.of(&LITE_TOPICS);
        for by in CLIENTS {
            self.world.sync(by, LiteAction::Remove, &[name], LiteStart::Last).await.unwrap();
            self.sets.entry(by).or_default().retain(|had| *had != name);
        }
        let by = self.dice.of(&CLIENTS);
        self.world.sync(by, LiteAction::Add, &[name], LiteStart::Min).await.unwrap();
        self.sets.entry(by).or_default().push(name);
        self.held.retain(|(of, ..)| *of != name);
        if let Some(topic) = self.topics.get_mut(name) {
            topic.acked = topic.first;
        }
        self.count("went back");
    }

    /// Retention takes all that was sent, done or not; a sweep may find that, or a client.
    async fn retain(&mut self) {
        retain(&self.world).await;
        let queue = self.world.broker.store().queue(&parent(), QUEUE);
        assert_eq!(queue.min(), queue.max(), "all is gone");
        for topic in self.topics.values_mut() {
            (topic.first, topic.acked) = (topic.sent, topic.sent);
        }
        if self.dice.roll(2) == 0 {
            self.world.broker.revive().await;
        }
        // What was in flight may be acknowledged yet, to no effect.
        for (_, _, receipt) in std::mem::take(&mut self.held) {
            if self.dice.roll(2) == 0 {
                let _ = self.world.ack(&receipt).await;
            }
        }
        if self.dice.roll(2) == 0 {
            self.world.broker.expire_lite().await;
            for (by, set) in &self.sets {
                self.world.sync(by, LiteAction::Replace, set, LiteStart::Last).await.unwrap();
            }
        }
        self.count("retention");
    }

    async fn end_run(mut self) -> Self {
        let seed = self.dice.roll(1 << 40);
        if self.retaining {
            // What is answered there is not on the disk yet.
            self.world.broker.store().step().unwrap();
        }
        self.world = match self.dice.roll(3) {
            0 => self.world.restart(),
            _ => self.world.crash(seed),
        };
        self.count("crash");
        // The clients refresh.
        for (by, set) in &self.sets {
            self.world.sync(by, LiteAction::Replace, set, LiteStart::Last).await.unwrap();
        }
        self
    }
}

async fn history(seed: u64, retaining: bool) -> BTreeMap<&'static str, u32> {
    let world = if retaining {
        super::retaining(900)
    } else {
        let machine = Machine::new();
        let broker = machine.start();
        let world = World { machine, broker };
        world.make(900);
        world
    };
    let (topics, sets, counts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut game = Game { world, dice: Dice(seed), retaining, topics, sets, held: Vec::new(), counts };
    game.subscribe().await;
    for _ in 0..STEPS {
        game = game.step().await;
    }
    // In the end everything comes.
    game.world.later(Duration::from_secs(3600)).await;
    game.world.sync("one", LiteAction::Replace, &LITE_TOPICS, LiteStart::Last).await.unwrap();
    let mut came: BTreeMap<String, usize> = BTreeMap::new();
    for body in game.world.consume("one").await {
        let next = came.entry(body[..1].to_owned()).or_insert_with(|| game.topics[&body[..1]].acked);
        assert_eq!(body[1..].parse::<usize>().unwrap(), *next, "seed {seed}: {body} came out of order");
        *next += 1;
    }
    for (name, topic) in &game.topics {
        let end = came.get(*name).copied().unwrap_or(topic.acked);
        assert_eq!(end, topic.sent, "seed {seed}: lite topic {name} did not come whole");
    }
    game.world.broker.store().close();
    game.counts
}

fn run(seed: u64, retaining: bool) -> BTreeMap<&'static str, u32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(history(seed, retaining))
}

#[test]
fn random_histories_of_lite_topics_agree_with_the_model() {
    let mut counts: BTreeMap<&'static str, u32> = BTreeMap::new();
    for seed in 0..HISTORIES {
        for (what, count) in run(seed, false) {
            *counts.entry(what).or_default() += count;
        }
    }
    for what in ["taken", "acked", "refused", "put off", "went back", "crash", "time"] {
        assert!(counts.get(what).is_some_and(|n| *n > 20), "{what} hardly ever happened: {counts:?}");
    }
}

#[test]
fn random_histories_with_retention_agree_with_the_model() {
    let mut counts: BTreeMap<&'static str, u32> = BTreeMap::new();
    for seed in 0..HISTORIES / 3 {
        for (what, count) in run(seed, true) {
            *counts.entry(what).or_default() += count;
        }
    }
    for what in ["taken", "acked", "went back", "crash", "retention"] {
        assert!(counts.get(what).is_some_and(|n| *n > 20), "{what} hardly ever happened: {counts:?}");
    }
}

#[test]
fn acks_that_are_not_replayed_would_be_noticed() {
    let _planted = plant(Fault::LanesNotReplayed);
    let noticed = (0..HISTORIES).any(|seed| {
        let died = std::panic::catch_unwind(|| run(seed, false)).err();
        died.is_some_and(|why| why.downcast_ref::<String>().is_some_and(|why| why.contains("out of order")))
    });
    assert!(noticed);
}
