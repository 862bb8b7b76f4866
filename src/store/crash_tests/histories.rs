use std::time::Duration;

use super::world::{Broken, Event, Sizes, World};
use crate::store::{
    FlushPolicy,
    fresh_keys::{KEYS_MAX, with_room},
    sim::CrashChoice,
};

pub(super) const ASYNC: FlushPolicy = FlushPolicy::Async { interval: Duration::from_millis(500) };

/// Room for keys on their way to the index: it reads the log for none of them, for some, for all.
const ROOMS: [usize; 3] = [KEYS_MAX, 2, 0];

/// A small generator of seeded numbers (xorshift64*).
pub(super) struct Seeded(u64);

impl Seeded {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    fn sizes(&mut self) -> Vec<Sizes> {
        let records = if self.below(3) == 0 { 2 + self.below(3) } else { 1 };
        (0..records)
            .map(|_| Sizes {
                body: [0, 20, 400, 1500, 2400][self.below(5) as usize],
                properties: [0, 30, 700, 1400][self.below(4) as usize],
            })
            .collect()
    }

    fn choice(&mut self) -> CrashChoice {
        match self.below(4) {
            0 => CrashChoice::FIXED[self.below(6) as usize],
            _ => CrashChoice::Random(self.below(1 << 30)),
        }
    }

    fn event(&mut self) -> Event {
        match self.below(100) {
            0..50 => Event::Append(self.sizes()),
            50..75 => Event::Commit,
            75..85 => Event::Step,
            85..88 => Event::FailSync,
            88..92 => Event::Restart,
            92..94 => Event::Kill,
            94..96 => Event::Expire,
            96 => Event::Delete,
            _ => Event::PowerCut(self.choice()),
        }
    }

    /// A history, the change on the disk at which its power fails, and how it comes back.
    pub(super) fn history(&mut self, events: u64) -> (Vec<Event>, u64, CrashChoice) {
        let history = (0..events).map(|_| self.event()).collect();
        (history, self.below(60 * events / 10), self.choice())
    }
}

/// Appends that fill segments, a commit that spans two of them, a restart, and a tail that recovery has to cut.
pub(super) fn short_history() -> Vec<Event> {
    let one = |body, properties| Event::Append(vec![Sizes { body, properties }]);
    vec![
        one(10, 30),
        Event::Commit,
        one(3000, 1400),
        Event::Append(vec![Sizes { body: 600, properties: 700 }; 3]),
        Event::Commit,
        Event::Step,
        one(5000, 20),
        one(2000, 900),
        Event::Commit,
        one(400, 1400),
        one(400, 0),
        Event::Restart,
        one(700, 700),
        Event::Commit,
        one(1, 1),
    ]
}

/// Records of one length, so that what is written over a torn tail may end exactly where old bytes begin a record.
pub(super) fn equal_records() -> Vec<Event> {
    let one = Event::Append(vec![Sizes { body: 700, properties: 700 }]);
    let two = [one.clone(), one.clone(), Event::Commit];
    [&two[..], &[one.clone(), Event::Commit, Event::Kill, one, Event::Commit]].concat()
}

/// Changes on the disk that a history makes when nothing fails.
pub(super) fn changes(flush: FlushPolicy, history: &[Event]) -> Result<u64, Broken> {
    let mut world = World::new(flush);
    world.play(history, CrashChoice::KeepAll)?;
    Ok(world.disk.ops())
}

/// Plays a history whose power fails at one change.
pub(super) fn play(flush: FlushPolicy, history: &[Event], at: u64, choice: CrashChoice) -> Result<(), Broken> {
    let mut world = World::new(flush);
    world.disk.crash_at(at);
    world.play(history, choice)
}

#[test]
fn every_crash_point_of_a_short_history_keeps_every_promise() {
    for (flush, history, seeds) in
        [(FlushPolicy::Sync, short_history(), 4), (ASYNC, short_history(), 4), (FlushPolicy::Sync, equal_records(), 30)]
    {
        for room in ROOMS {
            let changes = with_room(room, || changes(flush, &history)).expect("nothing fails");
            for at in 0..changes {
                for choice in CrashChoice::FIXED.into_iter().chain((0..seeds).map(CrashChoice::Random)) {
                    if let Err(broken) = with_room(room, || play(flush, &history, at, choice)) {
                        panic!("{flush:?}, room for {room} keys, change {at} of {changes}, {choice:?}: {broken}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_crash_point_of_the_recovery_after_a_crash_keeps_every_promise() {
    let history = short_history();
    let changes = changes(FlushPolicy::Sync, &history).expect("nothing fails");
    for at in (0..changes).step_by(5) {
        for second in (1..80).step_by(3) {
            for choice in [CrashChoice::KeepLast, CrashChoice::TearLast, CrashChoice::Random(at * 100 + second)] {
                let mut world = World::new(FlushPolicy::Sync);
                world.disk.crash_at(at);
                let room = ROOMS[second as usize / 3 % ROOMS.len()];
                if let Err(broken) = with_room(room, || world.play_with_second_crash(&history, choice, second)) {
                    panic!("room for {room} keys, changes {at} and {second} later, {choice:?}: {broken}");
                }
            }
        }
    }
}

#[test]
fn thousands_of_seeded_histories_keep_every_promise() {
    for seed in 0..2000 {
        for flush in [FlushPolicy::Sync, ASYNC] {
            let (history, at, choice) = Seeded::new(seed).history(60);
            let room = ROOMS[seed as usize % ROOMS.len()];
            if let Err(broken) = with_room(room, || play(flush, &history, at, choice)) {
                panic!("seed {seed}, {flush:?}, room for {room} keys: {broken}");
            }
        }
    }
}
