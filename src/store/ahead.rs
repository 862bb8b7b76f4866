//! Keeps blocks, and zeros or pages, in front of the log's end, so that appends neither wait for the file system nor
//! find it full.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
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
/// Bytes of pages in front of the tail that are ready to be written with ASYNC_FLUSH. They are synced with the others,
/// so they are few.
const READY: u64 = 2 << 20;
/// From so many bytes in one sync on, zeros cost more than the journal's commit that they save it. In a log of small
/// files it is a 64th of a file.
const LARGE_GROUP: u64 = 512 << 10;

/// What the appender and the thread that goes ahead say to each other.
pub(super) struct Ahead {
    distance: AtomicU64,
    /// The position up to which there are blocks, the next segment's counted.
    backed_to: AtomicU64,
    /// The position up to which pages are ready, the next segment's counted.
    ready_to: AtomicU64,
    /// Bytes of such pages that there should be: none with SYNC_FLUSH, and where the log is not written through a map.
    ready: AtomicU64,
    /// Segments that end here or before have let go of what only writing needed.
    finished_to: AtomicU64,
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
            ready: AtomicU64::new(ready),
            finished_to: AtomicU64::new(0),
            group: AtomicU64::new(group),
            large_group: LARGE_GROUP.min(segment_bytes / 64),
            is_asked: AtomicBool::new(false),
            ends: Mutex::new(false),
            asked: Condvar::new(),
        }
    }

    /// Asks for more when fewer than half of the blocks, the zeros or the pages are left. Called under the log's lock.
    pub(super) fn look(&self, tail: &Tail) {
        if (self.lacks_room(tail) || self.lacks_pages(tail)) && !self.is_asked.swap(true, Ordering::Relaxed) {
            // The lock closes the gap between the thread's last look and its sleep.
            drop(self.ends.lock());
            self.asked.notify_one();
        }
    }

    fn lacks_room(&self, tail: &Tail) -> bool {
        let left = self.backed_to.load(Ordering::Relaxed).saturating_sub(tail.end.get());
        left < self.distance.load(Ordering::Relaxed).min(tail.segment.len()) / 2 || self.lacks_zeros(tail)
    }

    fn lacks_pages(&self, tail: &Tail) -> bool {
        let left = self.ready_to.load(Ordering::Relaxed).saturating_sub(tail.end.get());
        left < self.ready.load(Ordering::Relaxed).min(tail.segment.len()) / 2
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

    /// One round: what is lacking of blocks, zeros and pages, over the end of the segment if need be.
    pub(super) fn go_ahead(&self) {
        self.ahead.is_asked.store(false, Ordering::Relaxed);
        self.finish_full();
        let lacks_room = self.ahead.lacks_room(&self.tail.lock());
        if lacks_room || self.room.is_out() {
            match self.prepare(self.ahead.distance.load(Ordering::Relaxed), self.ahead.zeros()) {
                Ok(()) => self.room.found(),
                Err(e) if is_full(&e) => self.room.ran_out(),
                Err(e) => {
                    self.marks.poison("taking room for the log", &e);
                }
            }
        }
        self.make_ready();
    }

    /// Lets go of what writing to the segments before the last needed. Not the appender's work: a map of a whole file
    /// takes milliseconds to go.
    fn finish_full(&self) {
        let last = self.tail.lock().segment.base();
        let finished = self.ahead.finished_to.swap(last.get(), Ordering::Relaxed);
        if finished < last.get() {
            let full = self.segments.all().into_iter().filter(|s| (finished..last.get()).contains(&s.base().get()));
            full.for_each(|segment| segment.finish());
        }
    }

    /// Has the pages ready that the next appends write.
    fn make_ready(&self) {
        let wanted = self.ahead.ready.load(Ordering::Relaxed);
        if wanted == 0 {
            return;
        }
        let (end, segment) = self.end();
        let from = segment.local(end);
        if !segment.make_ready(from, wanted) {
            // Asked no more in this run: another file of the log would not be written so either.
            self.ahead.ready.store(0, Ordering::Relaxed);
        }
        // The next segment, if it is there; else it is made ready by the round that follows.
        if from + wanted > segment.len()
            && let Some(next) = self.segments.find(segment.end())
        {
            next.make_ready(0, from + wanted - segment.len());
        }
        self.ahead.ready_to.store(end.plus(wanted).get(), Ordering::Relaxed);
    }

    /// What the first appends after opening find; done before the store is open.
    pub(super) fn prepare_first_stretch(&self) -> io::Result<()> {
        self.prepare(self.reserve() + FIRST_STRETCH, self.ahead.zeros().min(FIRST_STRETCH))
    }

    fn end(&self) -> (PhysicalOffset, Arc<Segment>) {
        let tail = self.tail.lock();
        (tail.end, tail.segment.clone())
    }

    fn prepare(&self, distance: u64, zeros: u64) -> io::Result<()> {
        let (end, segment) = self.end();
        // A segment smaller than the distance: it and the next one are enough.
        let distance = distance.min(segment.len());
        let from = segment.local(end);
        segment.back(from + distance)?;
        zero(&segment, from + zeros.min(distance))?;
        if from + distance > segment.len() {
            let next = self.segments.make(segment.end())?;
            next.back((from + distance - segment.len()).max(self.reserve()))?;
            zero(&next, (from + zeros.min(distance)).saturating_sub(segment.len()))?;
        }
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

#[cfg(test)]
mod tests;
