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
/// Sightings of one ring.
const SIGHTINGS_MAX: usize = 4096;
/// Messages of one sighting, 16 bytes each: with about 200 bytes of the sighting itself, 5 MB a ring at most, whatever clients
/// send.
const MESSAGES_MAX: usize = 64;
/// Sightings that a reader copies out before it lets go of a ring's lock, which settling needs.
const STEP: usize = 32;

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
    /// It is a client of a broadcasting group, and had its last attempt at the message or gave it up: done, and no dead
    /// letter. The server saw to that.
    Dropped,
}

/// One call.
#[derive(Clone, Debug)]
pub struct Sighting {
    pub at: Timestamp,
    pub what: Seen,
    pub client: ClientId,
    /// From where it called; `None` when the server did it.
    pub host: Option<SocketAddr>,
    pub topic: TopicName,
    pub group: GroupName,
    pub messages: Sighted,
}

/// Queue, offset and attempt of a message.
pub type SightedMessage = (QueueId, QueueOffset, u32);

/// The messages of one call, each once: the first 64 alone, the rest is not remembered.
#[derive(Clone, Debug)]
pub struct Sighted {
    messages: Box<[SightedMessage]>,
    /// There were more.
    is_cut: bool,
}

impl FromIterator<SightedMessage> for Sighted {
    fn from_iter<I: IntoIterator<Item = SightedMessage>>(all: I) -> Self {
        let (mut messages, mut greatest, mut is_cut) = (Vec::<SightedMessage>::new(), None, false);
        for message in all {
            // Mostly they come in order, so that most are new at a glance.
            if greatest.is_some_and(|greatest| message <= greatest) && messages.contains(&message) {
                continue;
            }
            if messages.len() >= MESSAGES_MAX {
                is_cut = true;
                break;
            }
            greatest = greatest.max(Some(message));
            messages.push(message);
        }
        Self { messages: messages.into(), is_cut }
    }
}

impl Sighted {
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The message at a place, if it is one of these.
    pub fn at(&self, queue: QueueId, offset: QueueOffset) -> Option<SightedMessage> {
        self.messages.iter().find(|message| (message.0, message.1) == (queue, offset)).copied()
    }
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
    /// How many went before the oldest.
    gone: u64,
    /// When the newest that is forgotten was, wholly or in part.
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
            ring.gone += 1;
        }
        if sighting.messages.is_cut {
            ring.forgotten = ring.forgotten.max(Some(sighting.at));
        }
        ring.sightings.push_back(sighting);
    }

    /// Those that `wanted` wants, shard by shard, of what is there when it comes to the shard. They are looked at outside of
    /// the lock; what a full ring forgets meanwhile is left out.
    pub fn find(&self, wanted: impl Fn(&Sighting) -> bool) -> Vec<Sighting> {
        let mut found = Vec::new();
        for shard in &self.shards {
            let (mut next, end) = {
                let ring = shard.lock();
                (ring.gone, ring.gone + ring.sightings.len() as u64)
            };
            while next < end {
                let (some, after) = shard.lock().copy(next, end);
                next = after;
                found.extend(some.into_iter().filter(&wanted));
            }
        }
        found
    }

    /// Since when every sighting is remembered.
    pub fn complete_since(&self) -> Timestamp {
        let forgotten = self.shards.iter().filter_map(|shard| shard.lock().forgotten);
        forgotten.fold(self.since, Timestamp::max)
    }
}

impl Ring {
    /// A few sightings, counted from the first that ever was, and where the next ones begin.
    fn copy(&self, from: u64, end: u64) -> (Vec<Sighting>, u64) {
        let from = from.max(self.gone);
        let to = end.min(from.saturating_add(STEP as u64));
        let index = |number: u64| usize::try_from(number.saturating_sub(self.gone)).unwrap_or(usize::MAX);
        let some = self.sightings.iter().skip(index(from)).take(index(to).saturating_sub(index(from)));
        (some.cloned().collect(), to.max(from))
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
            host: Some(([127, 0, 0, 1], 1).into()),
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

    #[test]
    fn a_call_of_very_many_messages_is_remembered_by_its_first_ones_alone() {
        let message = |n: u64| (QueueId(0), QueueOffset::new(n), 1);
        let same: Sighted = (0..100_000).map(|_| message(7)).collect();
        assert_eq!((&same.messages[..], same.is_cut), (&[message(7)][..], false));
        let turned: Sighted = [3, 1, 3, 2, 1].into_iter().map(message).collect();
        assert_eq!(turned.messages[..], [3, 1, 2].map(message));
        let many: Sighted = (0..100_000).map(message).collect();
        assert_eq!((many.messages.len(), many.is_cut), (MESSAGES_MAX, true));
        assert_eq!(many.at(QueueId(0), QueueOffset::new(5)), Some(message(5)));
        let all = Sightings::since(Timestamp::ZERO);
        all.add(Sighting { messages: same, ..sighting(5) });
        assert_eq!(all.complete_since(), Timestamp::ZERO);
        all.add(Sighting { messages: many, ..sighting(6) });
        assert_eq!(all.complete_since(), Timestamp::from_millis(6), "and that it was cut is told");
    }

    #[test]
    fn a_ring_is_copied_in_small_steps_and_what_it_forgets_meanwhile_is_passed_over() {
        let mut ring = Ring::default();
        ring.sightings.extend((0..100).map(sighting));
        let times =
            |(some, next): (Vec<Sighting>, u64)| (some.iter().map(|s| s.at.as_millis()).collect::<Vec<_>>(), next);
        assert_eq!(times(ring.copy(0, 100)), ((0..32).collect(), 32));
        assert_eq!(times(ring.copy(96, 100)), ((96..100).collect(), 100));
        ring.sightings.drain(..50);
        ring.gone = 50;
        assert_eq!(times(ring.copy(32, 100)), ((50..82).collect(), 82));
        ring.gone = 200;
        assert_eq!(times(ring.copy(32, 100)), (vec![], 200));
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
