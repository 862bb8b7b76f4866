//! A set of offsets kept as the ranges that cover it.

use std::{collections::BTreeMap, ops::Range};

use crate::types::QueueOffset;

/// Ascending ranges that neither overlap nor touch. 16 bytes a range and the tree's slack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Start and end.
    map: BTreeMap<QueueOffset, QueueOffset>,
    /// Offsets in the set.
    covered: u64,
}

impl Ranges {
    /// Adds a range, melting it with those that it overlaps or touches.
    pub fn insert(&mut self, range: Range<QueueOffset>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        if let Some((&before, last)) = self.map.range_mut(..=start).next_back()
            && *last >= start
        {
            if *last >= end {
                return;
            }
            start = before;
        }
        while let Some((&after, &last)) = self.map.range(start..=end).next() {
            end = end.max(last);
            self.map.remove(&after);
            self.covered -= after.until(last);
        }
        self.map.insert(start, end);
        self.covered += start.until(end);
    }

    /// The end of the range that covers an offset.
    pub fn end_of(&self, offset: QueueOffset) -> Option<QueueOffset> {
        self.map.range(..=offset).next_back().filter(|(_, end)| **end > offset).map(|(_, end)| *end)
    }

    pub fn contains(&self, offset: QueueOffset) -> bool {
        self.end_of(offset).is_some()
    }

    /// Removes everything below `from`, and the range that begins at or spans it; the end of that one, else `from`.
    pub fn absorb(&mut self, mut from: QueueOffset) -> QueueOffset {
        while let Some(first) = self.map.first_entry().filter(|first| *first.key() <= from) {
            let (start, end) = first.remove_entry();
            self.covered -= start.until(end);
            from = from.max(end);
        }
        from
    }

    /// Removes everything at and behind `end`.
    pub fn truncate(&mut self, end: QueueOffset) {
        for (start, end) in self.map.split_off(&end) {
            self.covered -= start.until(end);
        }
        if let Some(mut last) = self.map.last_entry()
            && *last.get() > end
        {
            self.covered -= end.until(*last.get());
            last.insert(end);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Range<QueueOffset>> {
        self.map.iter().map(|(start, end)| *start..*end)
    }

    /// How many offsets are in the set.
    pub fn covered(&self) -> u64 {
        self.covered
    }

    /// One behind the last offset in the set.
    pub fn end(&self) -> Option<QueueOffset> {
        self.map.last_key_value().map(|(_, end)| *end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn at(n: u64) -> QueueOffset {
        QueueOffset::new(n)
    }

    proptest! {
        #[test]
        fn ranges_hold_what_a_plain_set_holds(
            inserts in prop::collection::vec((0u64..80, 0u64..9), 0..40),
            cut in 0u64..90,
            from in 0u64..90,
        ) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (start, len) in inserts {
                ranges.insert(at(start)..at(start + len));
                set.extend(start..start + len);
            }
            ranges.truncate(at(cut));
            set.retain(|n| *n < cut);
            let list: Vec<_> = ranges.iter().collect();
            prop_assert!(list.windows(2).all(|w| w[0].end < w[1].start), "{list:?} touch");
            prop_assert_eq!(ranges.covered(), set.len() as u64);
            for n in 0..100 {
                prop_assert_eq!(ranges.contains(at(n)), set.contains(&n));
            }
            let end = ranges.absorb(at(from));
            let expected = (from..).find(|n| !set.contains(n)).expect("the set is finite");
            prop_assert_eq!(end, at(expected));
            prop_assert!(ranges.iter().all(|r| r.start > end));
            prop_assert_eq!(ranges.covered(), set.range(end.get()..).count() as u64);
        }
    }
}
