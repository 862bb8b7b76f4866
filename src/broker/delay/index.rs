//! Which timer is due when: the whole of it in memory, 8 bytes for each that is far off.
//!
//! Times are points of the [`Axis`](super::axis::Axis), in ms. Timers of the same 65.536 s are a bucket. A bucket whose time
//! has not come is a plain vector of 64-bit numbers, 16 bits of time within the bucket and 48 bits of queue offset; when its
//! time comes its timers move into a heap. So an insertion far ahead is a push, and only a minute's worth of timers is ever
//! in order.
//!
//! As measured (`ten_million_timers_take_about_16_bytes_each`): 8 bytes of a vector's slot, up to as much again of its slack,
//! and 16 bytes for each timer that is due within the minute. A bucket of its own costs a lone timer about 90 bytes.
//!
//! A timer that is done otherwise (recalled, carried forward) stays as a stale entry until its time or until
//! [`Index::sweep`].

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    ops::{Bound, RangeInclusive},
};

use parking_lot::Mutex;

/// Of the time within a bucket.
const TIME_BITS: u32 = 16;
/// Of the offset in a packed entry.
const OFFSET_BITS: u32 = 48;

/// A point in time and a queue offset.
pub type Entry = (u64, u64);

#[derive(Default)]
pub struct Index {
    /// The timers of all buckets before `near_end`.
    near: BinaryHeap<Reverse<Entry>>,
    near_end: u64,
    far: BTreeMap<u64, Bucket>,
    /// When the driver said that it would come; `None`: not before it is told. While it is at work: the beginning of time,
    /// since it will see whatever comes meanwhile.
    promised: Option<u64>,
}

struct Bucket {
    /// The earliest point in it.
    first: u64,
    packed: Vec<u64>,
}

/// How far a sweep has come: entries of this bucket before this place are still to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    bucket: u64,
    before: usize,
}

fn pack((point, offset): Entry) -> u64 {
    (point & ((1 << TIME_BITS) - 1)) << OFFSET_BITS | offset
}

fn unpack(bucket: u64, packed: u64) -> Entry {
    (bucket << TIME_BITS | packed >> OFFSET_BITS, packed & ((1 << OFFSET_BITS) - 1))
}

impl Index {
    /// Adds a timer; whether the driver must be told, since it is due before it would come.
    pub fn insert(&mut self, entry: Entry) -> bool {
        let (point, offset) = entry;
        let bucket = point >> TIME_BITS;
        // No queue gets that long; if one did, its timers would cost more and be as right.
        if bucket < self.near_end || offset >> OFFSET_BITS != 0 {
            self.near.push(Reverse(entry));
        } else {
            let far = self.far.entry(bucket).or_insert(Bucket { first: point, packed: Vec::new() });
            far.first = far.first.min(point);
            far.packed.push(pack(entry));
        }
        self.promised.is_none_or(|promised| point < promised)
    }

    /// Takes out what is due at `now`, the earliest first, at most `limit`. The driver is at work from then on.
    pub fn take_due(&mut self, now: u64, limit: usize) -> Vec<Entry> {
        self.promised = Some(0);
        self.near_end = self.near_end.max((now >> TIME_BITS) + 1);
        while let Some(first) = self.far.first_entry().filter(|first| *first.key() < self.near_end) {
            let (bucket, Bucket { packed, .. }) = first.remove_entry();
            self.near.extend(packed.into_iter().map(|packed| Reverse(unpack(bucket, packed))));
        }
        let mut due = Vec::new();
        while due.len() < limit
            && let Some(&Reverse(entry)) = self.near.peek()
            && entry.0 <= now
        {
            self.near.pop();
            due.push(entry);
        }
        due
    }

    /// The driver promises to come when the next timer is due, or at `at_latest` when it has something to do again; when
    /// that is.
    pub fn promise(&mut self, at_latest: Option<u64>) -> Option<u64> {
        self.promised = at_latest.or_else(|| self.next());
        self.promised
    }

    /// When the next timer is due.
    fn next(&self) -> Option<u64> {
        let near = self.near.peek().map(|Reverse((point, _))| *point);
        let far = self.far.first_key_value().map(|(_, bucket)| bucket.first);
        [near, far].into_iter().flatten().min()
    }

    /// Entries, stale ones too.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.near.len() + self.far.values().map(|bucket| bucket.packed.len()).sum::<usize>()
    }

    /// Drops stale entries, looking at `steps` at most; where to go on, `None` at the end. What is due within the minute is
    /// not looked at: it goes by itself.
    pub fn sweep(&mut self, from: Option<Cursor>, steps: usize, is_stale: impl Fn(u64) -> bool) -> Option<Cursor> {
        let bucket = from.map_or(0, |cursor| cursor.bucket);
        let (&id, far) = self.far.range_mut(bucket..).next()?;
        let before = match from {
            Some(cursor) if cursor.bucket == id => cursor.before.min(far.packed.len()),
            _ => far.packed.len(),
        };
        let until = before.saturating_sub(steps);
        // Backwards: what takes a removed entry's place was looked at already, or is new.
        for place in (until..before).rev() {
            if is_stale(unpack(id, far.packed[place]).1) {
                far.packed.swap_remove(place);
            }
        }
        if until > 0 {
            return Some(Cursor { bucket: id, before: until });
        }
        if far.packed.is_empty() {
            self.far.remove(&id);
        } else if far.packed.capacity() > 2 * far.packed.len() {
            far.packed.shrink_to_fit();
        }
        let next = id + 1;
        self.far.range(next..).next().map(|(&bucket, far)| Cursor { bucket, before: far.packed.len() })
    }
}

/// Offsets of the timers due in a range, at most `limit`, in no order. Holds the index for the copy of one bucket at a time,
/// since everybody who sends for later waits for it.
pub fn between(index: &Mutex<Index>, points: RangeInclusive<u64>, limit: usize) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    let mut take = |entries: &mut dyn Iterator<Item = Entry>| {
        for (_, offset) in entries.filter(|(point, _)| points.contains(point)) {
            if found.len() >= limit {
                return false;
            }
            found.insert(offset);
        }
        true
    };
    let (mut from, last) = (points.start() >> TIME_BITS, points.end() >> TIME_BITS);
    // The far ones first: timers move from there to the near ones only.
    while from <= last {
        let next = index.lock().far.range(from..=last).next().map(|(id, bucket)| (*id, bucket.packed.clone()));
        let Some((id, packed)) = next else { break };
        if !take(&mut packed.into_iter().map(|packed| unpack(id, packed))) {
            return found;
        }
        from = id + 1;
    }
    let near = index.lock().near.as_slice().to_vec();
    take(&mut near.into_iter().map(|Reverse(entry)| entry));
    found
}

/// The timers behind `after` in the order of their times, at least `count` of them where there are as many. Holds the index
/// for the copy alone.
pub fn following(index: &Mutex<Index>, after: Entry, count: usize) -> Vec<Entry> {
    let locked = index.lock();
    let near = locked.near.as_slice().to_vec();
    let (mut far, mut copied) = (Vec::new(), 0);
    // What is behind a bucket that is left for the next page is left with it.
    let mut end = u64::MAX;
    for (id, bucket) in locked.far.range((Bound::Included(after.0 >> TIME_BITS), Bound::Unbounded)) {
        if copied >= count {
            end = id << TIME_BITS;
            break;
        }
        let is_behind = |packed: &&u64| unpack(*id, **packed) > after;
        copied += bucket.packed.iter().filter(is_behind).count();
        far.push((*id, bucket.packed.clone()));
    }
    drop(locked);
    let far = far.into_iter().flat_map(|(id, packed)| packed.into_iter().map(move |packed| unpack(id, packed)));
    let near = near.into_iter().map(|Reverse(entry)| entry);
    let mut page: Vec<Entry> = near.chain(far).filter(|entry| *entry > after && entry.0 < end).collect();
    page.sort_unstable();
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u64, u64),
        Take(u64, usize),
        Sweep(usize, u64),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let point = prop_oneof![0u64..300, 60_000u64..140_000, 0u64..1 << 40];
        let op = prop_oneof![
            6 => (point, 0u64..50).prop_map(|(point, offset)| Op::Insert(point, offset)),
            3 => (0u64..200_000, 1usize..8).prop_map(|(ahead, limit)| Op::Take(ahead, limit)),
            1 => (1usize..5, 2u64..5).prop_map(|(steps, modulus)| Op::Sweep(steps, modulus)),
        ];
        prop::collection::vec(op, 0..80)
    }

    proptest! {
        #[test]
        fn timers_come_out_when_they_are_due_and_in_order(ops in ops()) {
            let (mut index, mut model, mut now) = (Index::default(), BTreeSet::new(), 0);
            for op in ops {
                match op {
                    Op::Insert(point, offset) if model.insert((point, offset)) => { index.insert((point, offset)); }
                    Op::Insert(..) => {}
                    Op::Take(ahead, limit) => {
                        now += ahead;
                        let due: Vec<_> = model.iter().copied().take_while(|e| e.0 <= now).take(limit).collect();
                        prop_assert_eq!(index.take_due(now, limit), due.clone());
                        due.iter().for_each(|entry| { model.remove(entry); });
                    }
                    Op::Sweep(steps, modulus) => {
                        let mut cursor = None;
                        loop {
                            cursor = index.sweep(cursor, steps, |offset| offset % modulus == 0);
                            if cursor.is_none() { break }
                        }
                        let near_end = index.near_end << TIME_BITS;
                        model.retain(|(point, offset)| *point < near_end || offset % modulus != 0);
                    }
                }
                prop_assert_eq!(index.len(), model.len());
                prop_assert!(index.next() <= model.first().map(|first| first.0) || index.next().is_none() == model.is_empty());
                let locked = Mutex::new(std::mem::take(&mut index));
                let (mut listed, mut after) = (Vec::new(), (0, 0));
                loop {
                    let page = following(&locked, after, 3);
                    let Some(last) = page.last() else { break };
                    after = *last;
                    listed.extend(page);
                }
                prop_assert_eq!(listed, model.iter().copied().filter(|e| *e > (0, 0)).collect::<Vec<_>>());
                let (from, to) = (now, now + 100_000);
                let between: Vec<_> = between(&locked, from..=to, usize::MAX).into_iter().collect();
                index = locked.into_inner();
                let mut expected: Vec<_> = model.iter().filter(|e| (from..=to).contains(&e.0)).map(|e| e.1).collect();
                expected.sort_unstable();
                expected.dedup();
                prop_assert_eq!(between, expected);
            }
        }
    }

    #[test]
    fn the_driver_is_told_only_of_what_comes_before_it_would() {
        let mut index = Index::default();
        assert!(index.insert((500_000, 1)), "it has promised nothing");
        assert_eq!(index.take_due(100, 8), []);
        assert!(!index.insert((90, 2)), "it is at work");
        assert_eq!(index.take_due(100, 8), [(90, 2)]);
        assert_eq!(index.promise(None), Some(500_000));
        assert!(!index.insert((500_000, 3)) && index.insert((499_999, 4)));
    }

    #[test]
    fn an_offset_that_does_not_fit_is_kept_all_the_same() {
        let mut index = Index::default();
        index.insert((1 << 30, 1 << 50));
        index.insert((1 << 20, 7));
        assert_eq!(index.promise(None), Some(1 << 20));
        assert_eq!(index.take_due(1 << 30, 8), [(1 << 20, 7), (1 << 30, 1 << 50)]);
    }

    #[test]
    fn ten_million_timers_take_about_16_bytes_each() {
        // A tenth of them: spread over 40 days, in a pseudo-random order.
        const COUNT: u64 = 1_000_000;
        let mut index = Index::default();
        for n in 0..COUNT {
            index.insert((n.wrapping_mul(2_862_933_555_777_941_757) % (40 * 86_400_000), n));
        }
        assert_eq!(index.len() as u64, COUNT);
        let slots: usize = index.far.values().map(|bucket| bucket.packed.capacity() * 8).sum();
        // The tree's node holds up to 11 keys and buckets and is at least half full.
        let buckets = index.far.len() * (8 + size_of::<Bucket>()) * 2;
        let each = (slots + buckets) as f64 / COUNT as f64;
        assert!((8.0..18.0).contains(&each), "{each} bytes");
    }
}
