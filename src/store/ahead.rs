//! Keeps blocks in front of the log's end, so that appends neither wait for the file system nor find it full.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use parking_lot::{Condvar, Mutex};

use super::{
    FlushPolicy,
    commit_log::{CommitLog, Tail},
    segment::{Segment, is_full},
};
use crate::types::PhysicalOffset;

/// Bytes with blocks in front of the tail once there is traffic, at least and at most. The distance doubles when it
/// is used up before the background was there.
const DISTANCE_MIN: u64 = 4 << 20;
const DISTANCE_MAX: u64 = 64 << 20;
/// Bytes that an empty log has in front of its tail, beyond the reserve: the first append finds them there.
const FIRST_STRETCH: u64 = 256 << 10;
/// Bytes of zeros in front of the tail with SYNC_FLUSH, while little is synced at once.
const ZEROS: u64 = 4 << 20;
/// Bytes of pages in front of the tail that are ready to be written with ASYNC_FLUSH. They are synced with the others, so
/// they are few.
const READY: u64 = 2 << 20;
/// From so many bytes in one sync on, zeros cost more than the journal's commit that they save it. In a log of small
/// files it is a 64th of a file.
const LARGE_GROUP: u64 = 512 << 10;

/// What the appender and the thread that goes ahead say to each other.
pub(super) struct Ahead {
    distance: AtomicU64,
    /// The position up to which there are blocks, the next segment's counted.
    backed_to: AtomicU64,
    /// The same for pages.
    ready_to: AtomicU64,
    /// Bytes of such pages that there should be.
    ready: u64,
    /// Bytes of the last sync that others wait for; `u64::MAX` where there is none such.
    group: AtomicU64,
    large_group: u64,
    is_asked: AtomicBool,
    ends: Mutex<bool>,
    asked: Condvar,
}

impl Ahead {
    pub(super) fn new(policy: FlushPolicy, segment_bytes: u64) -> Self {
        let (group, ready) = match policy {
            FlushPolicy::Sync => (0, 0),
            FlushPolicy::Async { .. } => (u64::MAX, READY),
        };
        Self {
            distance: AtomicU64::new(DISTANCE_MIN),
            backed_to: AtomicU64::new(0),
            ready_to: AtomicU64::new(0),
            ready,
            group: AtomicU64::new(group),
            large_group: LARGE_GROUP.min(segment_bytes / 64),
            is_asked: AtomicBool::new(false),
            ends: Mutex::new(false),
            asked: Condvar::new(),
        }
    }

    /// Asks for more when fewer than half of the blocks, or of the zeros, are left. Called under the log's lock.
    pub(super) fn look(&self, tail: &Tail) {
        let left = |to: &AtomicU64| to.load(Ordering::Relaxed).saturating_sub(tail.end.get());
        let distance = self.distance.load(Ordering::Relaxed).min(tail.segment.len());
        let lacks_blocks = left(&self.backed_to) < distance / 2;
        let lacks_pages = left(&self.ready_to) < self.ready.min(tail.segment.len()) / 2;
        if (lacks_blocks || lacks_pages || self.lacks_zeros(tail)) && !self.is_asked.swap(true, Ordering::Relaxed) {
            // The lock closes the gap between the thread's last look and its sleep.
            drop(self.ends.lock());
            self.asked.notify_one();
        }
    }

    fn lacks_zeros(&self, tail: &Tail) -> bool {
        let at = tail.segment.local(tail.end);
        let wanted = self.zeros().min(tail.segment.len() - at);
        tail.segment.written().saturating_sub(at) < wanted / 2
    }

    /// Bytes of zeros that there should be.
    fn zeros(&self) -> u64 {
        if self.group.load(Ordering::Relaxed) < self.large_group { ZEROS } else { 0 }
    }

    /// So much is synced at once.
    pub(super) fn grouped(&self, bytes: usize) {
        self.group.store(bytes as u64, Ordering::Relaxed);
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
    /// The thread that goes ahead.
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
            self.go_ahead();
        }
    }

    /// One round: blocks for the whole distance, zeros and pages for theirs, over the end of the segment if need be.
    pub(super) fn go_ahead(&self) {
        self.ahead.is_asked.store(false, Ordering::Relaxed);
        self.finish_full();
        let distance = self.ahead.distance.load(Ordering::Relaxed);
        match self.prepare(distance, self.ahead.zeros(), self.ahead.ready) {
            Ok(()) => self.room.found(),
            Err(e) if is_full(&e) => self.room.ran_out(),
            Err(e) => {
                self.marks.poison("taking room for the log", &e);
            }
        }
    }

    /// Lets go of what writing to the segment before the last needed. Not the appender's work: a map of a whole file takes
    /// milliseconds to go.
    fn finish_full(&self) {
        let last = self.tail.lock().segment.base().get();
        if let Some(full) = last.checked_sub(1).and_then(|at| self.segments.find(PhysicalOffset::new(at))) {
            full.finish();
        }
    }

    /// What the first appends after opening find; done before the store is open.
    pub(super) fn prepare_first_stretch(&self) -> io::Result<()> {
        self.prepare(self.reserve() + FIRST_STRETCH, self.ahead.zeros().min(FIRST_STRETCH), 0)
    }

    fn prepare(&self, distance: u64, zeros: u64, ready: u64) -> io::Result<()> {
        let (end, segment) = {
            let tail = self.tail.lock();
            (tail.end, tail.segment.clone())
        };
        // A segment smaller than the distance: it and the next one are enough.
        let distance = distance.min(segment.len());
        let from = segment.local(end);
        let ready = ready.min(distance);
        segment.back(from + distance)?;
        segment.make_ready(from, ready);
        zero(&segment, from + zeros.min(distance))?;
        if from + distance > segment.len() {
            let next = self.segments.make(segment.end())?;
            next.back((from + distance - segment.len()).max(self.reserve()))?;
            zero(&next, (from + zeros.min(distance)).saturating_sub(segment.len()))?;
            next.make_ready(0, (from + ready).saturating_sub(segment.len()));
        }
        self.ahead.ready_to.store(end.plus(ready).get(), Ordering::Relaxed);
        self.ahead.backed_to.store(end.plus(distance).get(), Ordering::Relaxed);
        Ok(())
    }
}

fn zero(segment: &Segment, to: u64) -> io::Result<()> {
    let from = segment.written();
    segment.zero(to)?;
    // Started now, the zeros are not in the way of the next record's sync.
    let written = segment.written();
    if written > from {
        segment.write_back(segment.base().plus(from), segment.base().plus(written))?;
    }
    Ok(())
}
