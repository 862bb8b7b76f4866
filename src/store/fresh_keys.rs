//! The keys of what was appended a moment ago wait here for the index, so that it need not read the log for them.

use std::ops::Range;

use parking_lot::Mutex;

use super::{index_file::Hashed, unit::UnitKey};
use crate::types::{PhysicalOffset, Timestamp};

/// Keys that wait at most, and as many again that the index took and may not have yet: 3 MiB each. It reads the log for
/// what finds no room.
#[cfg(not(test))]
const KEYS_MAX: usize = 1 << 17;
#[cfg(test)]
pub(super) const KEYS_MAX: usize = 16;
/// Once so many wait the index is to take them.
const MANY: usize = KEYS_MAX / 4;
/// Keys for which there stays room when few come.
const KEPT: usize = 1 << 10;

/// Filled by the appenders, under the log's lock and so in its order; emptied by the index.
pub(super) struct FreshKeys(Mutex<Handed>);

/// A piece of the log, and the keys in the first part of it.
#[derive(Default)]
pub(super) struct Handed {
    start: PhysicalOffset,
    /// All keys from the start to here are there. A unit ends here.
    end: PhysicalOffset,
    /// What lies between there and here found no room: it has to be read. A unit ends here.
    behind: PhysicalOffset,
    keys: Vec<Hashed>,
    /// So many of them the index has.
    used: usize,
}

impl FreshKeys {
    /// `end` is where the log ends.
    pub(super) fn new(end: PhysicalOffset) -> Self {
        Self(Mutex::new(Handed { start: end, end, behind: end, ..Handed::default() }))
    }

    /// Adds the keys of a unit that was given its place, all or none. Says whether another quarter of the room is taken.
    pub(super) fn add(&self, unit: Range<PhysicalOffset>, stored_at: Timestamp, keys: &[UnitKey]) -> bool {
        let mut fresh = self.0.lock();
        let (before, after) = (fresh.keys.len(), fresh.keys.len() + keys.len());
        let goes_on = fresh.end == fresh.behind;
        fresh.behind = unit.end;
        if goes_on && after <= room() {
            fresh.end = unit.end;
            if fresh.keys.capacity() < after {
                let wanted = (2 * before).clamp(after, KEYS_MAX.max(after));
                fresh.keys.reserve_exact(wanted - before);
            }
            let physical = |key: &UnitKey| unit.start.plus(u64::from(key.at)).get();
            fresh.keys.extend(keys.iter().map(|key| Hashed { hash: key.hash, physical: physical(key), stored_at }));
        }
        // Not once: who is asked may find nothing to take yet.
        goes_on && before / MANY != after / MANY
    }

    /// Takes over all that waits, in exchange for what is used up.
    pub(super) fn take(&self, used: &mut Handed) {
        used.keys.clear();
        used.used = 0;
        let mut fresh = self.0.lock();
        (used.start, used.end, used.behind) = (fresh.behind, fresh.behind, fresh.behind);
        std::mem::swap(&mut *fresh, used);
    }

    /// See [`Handed::rest`].
    pub(super) fn rest(&self) {
        self.0.lock().rest();
    }
}

impl Handed {
    /// Where the piece ends, with what has to be read.
    pub(super) fn behind(&self) -> PhysicalOffset {
        self.behind
    }

    /// Whether the keys are there of what lies behind a position, and up to where that is so.
    pub(super) fn at(&self, at: PhysicalOffset) -> (bool, PhysicalOffset) {
        match at {
            at if at < self.start => (false, self.start),
            at if at < self.end => (true, self.end),
            _ => (false, self.behind),
        }
    }

    /// The keys of records below a position, which the index has not yet.
    pub(super) fn unused(&self, below: PhysicalOffset) -> &[Hashed] {
        let unused = &self.keys[self.used..];
        &unused[..unused.partition_point(|key| key.physical < below.get())]
    }

    /// The index has so many more.
    pub(super) fn was_used(&mut self, count: usize) {
        self.used += count;
    }

    /// Gives the room back that a busy time took, and leaves what those who come now need.
    pub(super) fn rest(&mut self) {
        self.keys.drain(..std::mem::take(&mut self.used));
        if self.keys.capacity() > 4 * self.keys.len().max(KEPT / 4) {
            self.keys.shrink_to(KEPT.max(2 * self.keys.len()));
        }
    }
}

/// Keys that wait at most.
#[cfg(not(test))]
pub(super) const fn room() -> usize {
    KEYS_MAX
}

#[cfg(test)]
pub(super) use limiting::room;
#[cfg(test)]
pub(super) use limiting::with_room;

#[cfg(test)]
mod limiting {
    use std::cell::Cell;

    thread_local! {
        // Of the thread, so that tests side by side do not limit each other; a stepped store runs on one thread.
        static ROOM: Cell<usize> = const { Cell::new(super::KEYS_MAX) };
    }

    pub(in crate::store) fn room() -> usize {
        ROOM.get()
    }

    /// Does something while no more keys than these may wait in this thread.
    pub(in super::super) fn with_room<T>(room: usize, work: impl FnOnce() -> T) -> T {
        let before = ROOM.replace(room);
        let done = work();
        ROOM.set(before);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u64) -> PhysicalOffset {
        PhysicalOffset::new(n)
    }

    /// Adds a unit of ten bytes with so many keys.
    fn add(fresh: &FreshKeys, start: u64, keys: usize) -> bool {
        let keys: Vec<UnitKey> = (0..keys).map(|k| UnitKey { at: k as u32 % 10, hash: k as u32 }).collect();
        fresh.add(at(start)..at(start + 10), Timestamp::ZERO, &keys)
    }

    fn take(fresh: &FreshKeys) -> Handed {
        let mut handed = Handed::default();
        fresh.take(&mut handed);
        handed
    }

    #[test]
    fn what_is_taken_goes_on_where_it_left_off_also_over_the_end_of_a_file() {
        let fresh = FreshKeys::new(at(100));
        let none = take(&fresh);
        assert_eq!((none.at(at(7)), none.behind()), ((false, at(100)), at(100)));
        add(&fresh, 100, 2);
        add(&fresh, 110, 0);
        let handed = take(&fresh);
        assert_eq!((handed.at(at(100)), handed.behind()), ((true, at(120)), at(120)));
        add(&fresh, 150, 1);
        let mut handed = take(&fresh);
        assert_eq!((handed.at(at(120)), handed.behind()), ((true, at(160)), at(160)));
        assert!(handed.unused(at(150)).is_empty(), "it is not dispatched yet");
        let key = Hashed { hash: 0, physical: 150, stored_at: Timestamp::ZERO };
        assert_eq!(handed.unused(at(160)), [key]);
        handed.was_used(1);
        assert!(handed.unused(at(160)).is_empty());
    }

    #[test]
    fn what_finds_no_room_is_left_to_be_read_until_the_others_are_taken() {
        let fresh = FreshKeys::new(at(0));
        add(&fresh, 0, KEYS_MAX - 1);
        add(&fresh, 10, 2);
        add(&fresh, 20, 1);
        let handed = take(&fresh);
        assert_eq!((handed.at(at(0)), handed.at(at(10)), handed.behind()), ((true, at(10)), (false, at(30)), at(30)));
        assert_eq!(handed.unused(at(30)).len(), KEYS_MAX - 1);
        add(&fresh, 30, KEYS_MAX + 1);
        let handed = take(&fresh);
        assert_eq!((handed.at(at(30)), handed.behind()), ((false, at(40)), at(40)));
        add(&fresh, 40, KEYS_MAX);
        assert_eq!(take(&fresh).at(at(40)), (true, at(50)));
    }

    #[test]
    fn it_is_said_at_every_quarter_that_there_are_many() {
        let fresh = FreshKeys::new(at(0));
        for _ in 0..2 {
            assert!(!add(&fresh, 0, MANY - 1));
            assert!(add(&fresh, 10, 1));
            assert!(!add(&fresh, 20, 1));
            assert!(add(&fresh, 30, MANY - 1), "what was asked for may have found nothing to take");
            assert!(add(&fresh, 40, KEYS_MAX));
            assert!(!add(&fresh, 50, 1));
            take(&fresh);
        }
        assert!(add(&fresh, 60, KEYS_MAX + 1), "the index is to take the place where there was no room");
    }

    #[test]
    fn room_is_given_back_at_rest() {
        let fresh = FreshKeys::new(at(0));
        add(&fresh, 0, 3);
        add(&fresh, 10, 2);
        let mut handed = take(&fresh);
        handed.keys.reserve(100 * KEPT);
        handed.was_used(3);
        handed.rest();
        assert_eq!(handed.unused(at(20)).len(), 2);
        assert!(handed.keys.capacity() < 2 * KEPT);
        // What is in use is left as it is.
        handed.keys.extend([handed.keys[0]; 2 * KEPT]);
        let capacity = handed.keys.capacity();
        handed.rest();
        assert_eq!(handed.keys.capacity(), capacity);
    }
}
