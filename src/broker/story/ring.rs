//! What clients were seen to do with messages: deliveries leave nothing on the disk, so the newest are remembered here.
//!
//! A call leaves one sighting, however many messages it was about, in the ring of its thread's shard: an allocation and a
//! lock that nobody else holds, unless there are more threads than shards or an operator is reading. The oldest goes when a
//! ring is full.

use std::{
    cell::Cell,
    collections::VecDeque,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use parking_lot::Mutex;

use crate::types::{ClientId, GroupName, QueueId, QueueOffset, Timestamp, TopicName};

/// Rings; each thread has the same one always.
const SHARDS: usize = 16;
/// Sightings of one ring: about 200 bytes each and 16 for each message, so 3 MB at most when all calls are of 32.
const SIGHTINGS_MAX: usize = 4096;

/// What a client was seen to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It was given messages until then.
    Delivered {
        until: Timestamp,
    },
    /// It did not read them.
    Unread,
    Acked,
    /// It wants the message again then.
    Changed {
        until: Timestamp,
    },
    /// It sent the message to the dead-letter topic.
    GaveUp,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Sighting {
    pub at: Timestamp,
    pub what: Seen,
    pub client: ClientId,
    pub host: SocketAddr,
    pub topic: TopicName,
    pub group: GroupName,
    /// Queue, offset and attempt.
    pub messages: Box<[(QueueId, QueueOffset, u32)]>,
}

/// The rings.
pub struct Sightings {
    shards: [Mutex<Ring>; SHARDS],
    /// Nothing before this is remembered.
    since: Timestamp,
}

#[derive(Default)]
struct Ring {
    sightings: VecDeque<Sighting>,
    /// When the newest that is forgotten was.
    forgotten: Option<Timestamp>,
}

impl Sightings {
    pub fn since(since: Timestamp) -> Self {
        Self { shards: Default::default(), since }
    }

    pub fn add(&self, sighting: Sighting) {
        let mut ring = self.shards[shard()].lock();
        if ring.sightings.len() >= SIGHTINGS_MAX {
            ring.forgotten = ring.sightings.pop_front().map(|old| old.at).max(ring.forgotten);
        }
        ring.sightings.push_back(sighting);
    }

    /// Those that `wanted` wants, shard by shard.
    pub fn find(&self, wanted: impl Fn(&Sighting) -> bool) -> Vec<Sighting> {
        let of = |shard: &Mutex<Ring>| shard.lock().sightings.iter().filter(|s| wanted(s)).cloned().collect::<Vec<_>>();
        self.shards.iter().flat_map(of).collect()
    }

    /// Since when every sighting is remembered.
    pub fn complete_since(&self) -> Timestamp {
        let forgotten = self.shards.iter().filter_map(|shard| shard.lock().forgotten);
        forgotten.fold(self.since, Timestamp::max)
    }
}

/// The ring of this thread.
fn shard() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<Option<usize>> = const { Cell::new(None) };
    }
    MINE.with(|mine| {
        let number = mine.get().unwrap_or_else(|| THREADS.fetch_add(1, Relaxed));
        mine.set(Some(number));
        number % SHARDS
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sighting(n: i64) -> Sighting {
        Sighting {
            at: Timestamp::from_millis(n),
            what: Seen::Acked,
            client: ClientId::parse("c").unwrap(),
            host: ([127, 0, 0, 1], 1).into(),
            topic: TopicName::parse("T").unwrap(),
            group: GroupName::parse("g").unwrap(),
            messages: (0..32).map(|i| (QueueId(0), QueueOffset::new(i), 1)).collect(),
        }
    }

    #[test]
    fn the_oldest_go_and_it_is_known_since_when_all_are_there() {
        let all = Sightings::since(Timestamp::from_millis(-1));
        let more = SIGHTINGS_MAX as i64 + 10;
        (0..more).for_each(|n| all.add(sighting(n)));
        let found = all.find(|_| true);
        assert_eq!((found.len(), found[0].at), (SIGHTINGS_MAX, Timestamp::from_millis(10)));
        assert_eq!(all.complete_since(), Timestamp::from_millis(9));
        let elsewhere = std::thread::scope(|scope| scope.spawn(shard).join().unwrap());
        assert_ne!(elsewhere, shard(), "two threads share no ring while there are enough");
    }

    /// The bound is what a call costs the server in all, on a busy machine without optimization.
    #[test]
    fn a_call_leaves_its_sighting_in_a_small_part_of_its_own_time() {
        let all = Sightings::since(Timestamp::ZERO);
        let rounds = 20_000;
        let clock = crate::types::SystemClock::new();
        let best = (0..5).map(|_| {
            let start = crate::types::Clock::now(&clock);
            (0..rounds).for_each(|n| all.add(sighting(n)));
            crate::types::Clock::now(&clock).as_micros() - start.as_micros()
        });
        let each = best.min().unwrap() as f64 / rounds as f64;
        println!("{each} us for a call of 32 messages, names made anew among it");
        assert!(each < 11.0, "{each} us");
    }
}
