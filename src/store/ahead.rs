//! Keeps blocks in front of the log's end, so that appends neither wait for the file system nor find it full.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use parking_lot::{Condvar, Mutex};

use super::{
    commit_log::{CommitLog, Tail},
    segment::{Segment, is_full},
};
use crate::types::PhysicalOffset;

/// Bytes in front of the tail once there is traffic, at least and at most. The distance doubles when half of it is used
/// up before the background was there.
const DISTANCE_MIN: u64 = 4 << 20;
const DISTANCE_MAX: u64 = 64 << 20;
/// Bytes that an empty log has in front of its tail, beyond the reserve: the first append finds them there.
const FIRST_STRETCH: u64 = 256 << 10;
/// Bytes written between two looks, so that an appender who must write ahead itself waits for no more than this.
const PIECE: u64 = 256 << 10;

/// What the appender and the thread that writes ahead say to each other.
pub(super) struct Ahead {
    distance: AtomicU64,
    /// The position up to which there are blocks, the next segment's counted.
    ready_to: AtomicU64,
    is_asked: AtomicBool,
    ends: Mutex<bool>,
    asked: Condvar,
}

impl Default for Ahead {
    fn default() -> Self {
        Self {
            distance: AtomicU64::new(DISTANCE_MIN),
            ready_to: AtomicU64::new(0),
            is_asked: AtomicBool::new(false),
            ends: Mutex::new(false),
            asked: Condvar::new(),
        }
    }
}

impl Ahead {
    /// Asks for more blocks when fewer than half of the distance is left. Called under the log's lock.
    pub(super) fn look(&self, tail: &Tail) {
        let left = self.ready_to.load(Ordering::Relaxed).saturating_sub(tail.end.get());
        let distance = self.distance.load(Ordering::Relaxed).min(tail.segment.len());
        if left < distance / 2 && !self.is_asked.swap(true, Ordering::Relaxed) {
            // The lock closes the gap between the thread's last look and its sleep.
            drop(self.ends.lock());
            self.asked.notify_one();
        }
    }

    /// The appender ran into the end of the region.
    pub(super) fn came_too_late(&self) {
        let distance = self.distance.load(Ordering::Relaxed);
        self.distance.store((distance * 2).min(DISTANCE_MAX), Ordering::Relaxed);
    }

    /// Ends [`CommitLog::keep_ahead`].
    pub(super) fn end(&self) {
        *self.ends.lock() = true;
        self.asked.notify_all();
    }
}

impl CommitLog {
    /// The thread that writes ahead.
    pub(super) fn keep_ahead(&self) {
        loop {
            {
                let mut ends = self.ahead.ends.lock();
                while !*ends && !self.ahead.is_asked.load(Ordering::Relaxed) {
                    self.ahead.asked.wait(&mut ends);
                }
                if *ends {
                    return;
                }
            }
            self.write_ahead();
        }
    }

    /// One round: blocks for the whole distance, over the end of the segment if need be.
    pub(super) fn write_ahead(&self) {
        self.ahead.is_asked.store(false, Ordering::Relaxed);
        let (end, segment) = {
            let tail = self.tail.lock();
            (tail.end, tail.segment.clone())
        };
        // A segment smaller than the distance: it and the next one are enough.
        let distance = self.ahead.distance.load(Ordering::Relaxed).min(segment.len());
        let result = self.extend_from(&segment, end, distance);
        match result {
            Ok(()) => self.room.found(),
            Err(e) if is_full(&e) => self.room.ran_out(),
            Err(e) => {
                self.marks.poison("writing ahead in the log", &e);
            }
        }
    }

    /// What the first appends after opening find; written before the store is open.
    pub(super) fn write_first_stretch(&self) -> std::io::Result<()> {
        let (end, segment) = {
            let tail = self.tail.lock();
            (tail.end, tail.segment.clone())
        };
        self.extend_from(&segment, end, (self.reserve() + FIRST_STRETCH).min(segment.len()))
    }

    fn extend_from(&self, segment: &Arc<Segment>, end: PhysicalOffset, distance: u64) -> std::io::Result<()> {
        let to = segment.local(end) + distance;
        extend_in_pieces(segment, to.min(segment.len()))?;
        if to > segment.len() {
            let next = self.segments.make(segment.end())?;
            extend_in_pieces(&next, (to - segment.len()).max(self.reserve()).min(next.len()))?;
        }
        self.ahead.ready_to.store(end.plus(distance).get(), Ordering::Relaxed);
        Ok(())
    }
}

fn extend_in_pieces(segment: &Segment, to: u64) -> std::io::Result<()> {
    let from = segment.written_ahead();
    while segment.written_ahead() < to {
        segment.extend((segment.written_ahead() + PIECE).min(to))?;
    }
    // Started now, the zeros are not in the way of the next record's sync.
    let written = segment.written_ahead();
    if written > from {
        segment.write_back(segment.base().plus(from), segment.base().plus(written))?;
    }
    Ok(())
}
