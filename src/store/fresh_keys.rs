//! The keys of what was appended a moment ago, for the index to take over, so that the log need not be read for them.

use std::{collections::VecDeque, ops::Range};

use parking_lot::Mutex;

use super::{index_file::Hashed, unit::UnitKey};
use crate::types::{PhysicalOffset, Timestamp};

/// Keys at most: 6 MiB. What comes when they are all there is left to be read from the log.
#[cfg(not(test))]
const KEYS_MAX: usize = 1 << 18;
#[cfg(test)]
const KEYS_MAX: usize = 64;
/// Room that is kept when all are taken.
const KEPT_MAX: usize = 1 << 10;

/// Handed over by the appenders, in the order of the log.
#[derive(Default)]
pub(super) struct FreshKeys(Mutex<Fresh>);

#[derive(Default)]
struct Fresh {
    /// All keys of this part of the log are here, or were taken.
    range: Range<PhysicalOffset>,
    keys: VecDeque<Hashed>,
    /// What is appended next goes on with the range; else keys were left out behind it.
    goes_on: bool,
}

impl FreshKeys {
    /// Adds the keys of what has its place in `range`. Under the log's lock.
    pub(super) fn add(&self, range: Range<PhysicalOffset>, stored_at: Timestamp, keys: &[UnitKey]) {
        let mut fresh = self.0.lock();
        if fresh.keys.is_empty() && !fresh.goes_on {
            (fresh.range.start, fresh.goes_on) = (range.start, true);
        }
        fresh.goes_on &= fresh.keys.len() + keys.len() <= KEYS_MAX;
        if !fresh.goes_on {
            return;
        }
        let hashed = |key: &UnitKey| {
            let physical = range.start.plus(u64::from(key.record)).get();
            Hashed { hash: key.hash, physical, stored_at }
        };
        fresh.keys.extend(keys.iter().map(hashed));
        fresh.range.end = range.end;
    }

    /// Where the keys that are here begin.
    pub(super) fn start(&self) -> PhysicalOffset {
        self.0.lock().range.start
    }

    /// Takes the keys of the records from one position to another, or to an earlier one: not more than `max`, all of a
    /// record or none. Says how far it came, which is nowhere if the keys there are not here or are too many.
    pub(super) fn take(&self, range: Range<PhysicalOffset>, max: usize) -> (Vec<Hashed>, PhysicalOffset) {
        let mut fresh = self.0.lock();
        if !fresh.range.contains(&range.start) {
            return (Vec::new(), range.start);
        }
        let place = |key: &Hashed| PhysicalOffset::new(key.physical);
        let known = fresh.keys.partition_point(|key| place(key) < range.start);
        fresh.keys.drain(..known);
        let mut count = fresh.keys.partition_point(|key| place(key) < range.end);
        let mut end = range.end.min(fresh.range.end);
        if count > max {
            end = place(&fresh.keys[max]);
            count = fresh.keys.partition_point(|key| place(key) < end);
        }
        let taken = fresh.keys.drain(..count).collect();
        if fresh.keys.is_empty() {
            fresh.keys.shrink_to(KEPT_MAX);
        }
        (taken, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::ZERO;

    fn at(n: u64) -> PhysicalOffset {
        PhysicalOffset::new(n)
    }

    /// Records of ten bytes, one after the other, with so many keys each.
    fn add(fresh: &FreshKeys, from: u64, keys: &[usize]) {
        for (i, keys) in keys.iter().enumerate() {
            let start = from + 10 * i as u64;
            let keys: Vec<_> = (0..*keys).map(|k| UnitKey { record: 0, hash: k as u32 }).collect();
            fresh.add(at(start)..at(start + 10), NOW, &keys);
        }
    }

    fn take(fresh: &FreshKeys, range: Range<u64>, max: usize) -> (Vec<u64>, u64) {
        let (keys, end) = fresh.take(at(range.start)..at(range.end), max);
        (keys.iter().map(|key| key.physical).collect(), end.get())
    }

    #[test]
    fn keys_are_taken_in_pieces_that_split_no_record() {
        let fresh = FreshKeys::default();
        add(&fresh, 100, &[1, 0, 2, 3]);
        assert_eq!(take(&fresh, 90..140, 10), (vec![], 90), "what was before is not here");
        assert_eq!(take(&fresh, 100..130, 2), (vec![100], 120), "the third record has two more");
        assert_eq!(take(&fresh, 120..130, 2), (vec![120, 120], 130));
        assert_eq!(take(&fresh, 130..200, 2), (vec![], 130), "it has three");
        assert_eq!(take(&fresh, 130..200, 3), (vec![130; 3], 140), "there is no more");
        assert_eq!(take(&fresh, 140..200, 3), (vec![], 140));
    }

    #[test]
    fn what_was_read_from_the_log_meanwhile_is_not_taken_again() {
        let fresh = FreshKeys::default();
        add(&fresh, 0, &[1, 1, 1]);
        assert_eq!(take(&fresh, 10..20, 9), (vec![10], 20));
        assert_eq!(take(&fresh, 20..30, 9), (vec![20], 30));
    }

    #[test]
    fn what_has_no_room_is_left_to_the_log_and_then_it_goes_on() {
        let fresh = FreshKeys::default();
        let all = KEYS_MAX as u64;
        add(&fresh, 0, &[1; KEYS_MAX + 2]);
        assert_eq!(take(&fresh, 0..10 * all + 20, usize::MAX).1, 10 * all);
        assert_eq!(take(&fresh, 10 * all..10 * all + 20, 9), (vec![], 10 * all));
        add(&fresh, 10 * all + 20, &[1]);
        assert_eq!(take(&fresh, 10 * all + 20..10 * all + 30, 9), (vec![10 * all + 20], 10 * all + 30));
        assert_eq!(take(&fresh, 10 * all..10 * all + 30, 9), (vec![], 10 * all), "the gap stays one");
    }
}
