//! When the segments of the log began: the store time of each one's first record.
//!
//! Within a segment store times never go back. From one segment to the next they may, when the clock was set back for good
//! ([`CommitLog::append`]). So the time that a message counts with, for its age and for a search by time, is its store
//! time or the earliest time at which a later segment began, if that is before: it was stored before that segment was
//! begun. Those times are in the order of the log, whatever the clock did.
//!
//! It deletes nothing early. A segment that began at `T` by the wall clock began when trusted time
//! ([`TrustedTime`](super::retention::TrustedTime)) was `T` at most, and that is never faster than the monotonic clock.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::{commit_log::CommitLog, scan, segment::Segment};
use crate::types::{PhysicalOffset, Timestamp};

/// What was read of the segments that there are: each once, one small read.
#[derive(Default)]
pub(super) struct Begins {
    /// By base; `None` where the first record is damaged.
    known: Mutex<BTreeMap<PhysicalOffset, Option<Timestamp>>>,
}

/// The segments' bases, ascending, each with the earliest time at which a later one began.
pub(super) struct Later(Vec<(PhysicalOffset, Timestamp)>);

impl Begins {
    /// Reads at most `reads` segments that were not read yet, the oldest first. What is left out for that, or is damaged,
    /// makes messages seem younger, never older.
    pub(super) fn later(&self, log: &CommitLog, reads: usize) -> Later {
        let segments = log.segments.all();
        let (tail_base, tail_stored_at) = {
            let tail = log.tail.lock();
            (tail.segment.base(), tail.stored_at)
        };
        let mut begins = self.of(log, &segments, reads);
        // Of the last one the newest record is known, should its first be damaged.
        if let Some(i) = segments.iter().position(|s| s.base() == tail_base) {
            begins[i].get_or_insert(tail_stored_at);
        }
        let mut earliest = Timestamp::from_millis(i64::MAX);
        let mut later: Vec<_> = (segments.iter().zip(begins).rev())
            .map(|(segment, began)| {
                let behind = earliest;
                earliest = began.map_or(earliest, |began| began.min(earliest));
                (segment.base(), behind)
            })
            .collect();
        later.reverse();
        Later(later)
    }

    fn of(&self, log: &CommitLog, segments: &[Arc<Segment>], mut reads: usize) -> Vec<Option<Timestamp>> {
        // Behind this there may be nothing yet.
        let shown = log.marks.dispatched.get();
        let mut known = self.known.lock();
        let first = segments.first().map_or(PhysicalOffset::ZERO, |segment| segment.base());
        known.retain(|base, _| *base >= first);
        let mut began = |segment: &Arc<Segment>| {
            if let Some(known) = known.get(&segment.base()) {
                return *known;
            }
            if segment.base() >= shown || reads == 0 {
                return None;
            }
            reads -= 1;
            let read = scan::first_stored_at(segment).ok()?;
            known.insert(segment.base(), read);
            read
        };
        segments.iter().map(&mut began).collect()
    }
}

impl Later {
    /// The earliest time at which a segment behind the one that a position lies in began; the end of time when there is
    /// none.
    pub(super) fn than(&self, at: PhysicalOffset) -> Timestamp {
        let behind = self.0.partition_point(|(base, _)| *base <= at);
        behind.checked_sub(1).map_or(Timestamp::from_millis(i64::MAX), |i| self.0[i].1)
    }
}
