//! Makes the log durable: group commit (SYNC_FLUSH) and at intervals (ASYNC_FLUSH).
//!
//! A sync that fails once is never tried again: the kernel has by then marked the lost pages clean, and a second sync
//! would succeed without them. The store is poisoned instead.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use parking_lot::MutexGuard;

use super::{
    Poisoned, Watermarks,
    commit_log::{Batch, CommitLog, Run},
    faults::{Fault, planted},
    segment::Segment,
};

/// How often the kernel is asked to start writing, so that it never has to do so in one burst.
const WRITE_BACK_EVERY: Duration = Duration::from_millis(200);

/// Whether to wait for something to commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    UntilThereIsSome,
    No,
}

impl CommitLog {
    /// The commit thread: takes everything that waits, writes it at once, syncs once, shows it, wakes all; until the log
    /// is closed or poisoned.
    pub(super) fn keep_committing(&self) {
        let mut batch = Batch::default();
        while let Ok(true) = self.commit(&mut batch, Wait::UntilThereIsSome) {}
    }

    /// One round of group commit. `batch` is where what waits is taken to, its buffers being used again. `Ok(false)`
    /// when there was nothing.
    pub(super) fn commit(&self, batch: &mut Batch, wait: Wait) -> Result<bool, Poisoned> {
        {
            let mut tail = self.tail.lock();
            self.marks.alive()?;
            while tail.batch.runs.is_empty() {
                if wait == Wait::No || tail.is_closed {
                    return Ok(false);
                }
                tail.is_idle = true;
                self.work.wait(&mut tail);
                self.marks.alive()?;
            }
            std::mem::swap(&mut tail.batch, batch);
            self.committing.store(batch.bytes, Ordering::Relaxed);
            self.ahead.grouped(batch.bytes);
        }
        let committed = self.make_durable(batch);
        self.committing.store(0, Ordering::Relaxed);
        committed?;
        if !planted(Fault::DispatchBeforeDurable) {
            self.dispatcher.show(&batch.dispatches);
        }
        self.marks.dispatched.advance(batch.end);
        self.dispatcher.announce(&batch.dispatches);
        batch.clear();
        Ok(true)
    }

    fn make_durable(&self, batch: &Batch) -> Result<(), Poisoned> {
        for Run { segment, at, bytes } in &batch.runs {
            segment.write(*at, bytes).map_err(|e| self.marks.poison("writing to the log", &e))?;
        }
        self.marks.written.advance(batch.end);
        if planted(Fault::DispatchBeforeDurable) {
            self.dispatcher.show(&batch.dispatches);
        }
        if planted(Fault::AckBeforeSync) {
            self.marks.dispatched.advance(batch.end);
        }
        for run in &batch.runs {
            self.sync(&run.segment)?;
        }
        self.marks.durable.advance(batch.end);
        Ok(())
    }

    /// The thread of ASYNC_FLUSH: sleeps while everything is durable; from the first write on, starts the kernel writing
    /// several times in an interval and syncs at its end; until the log is closed or poisoned.
    pub(super) fn keep_flushing(&self, interval: Duration) {
        let slices = interval.as_millis().div_ceil(WRITE_BACK_EVERY.as_millis()).max(1);
        loop {
            let mut tail = self.tail.lock();
            while !tail.is_closed && self.marks.durable.get() >= self.marks.written.get() {
                tail.is_idle = true;
                self.work.wait(&mut tail);
            }
            for _ in 0..slices {
                if tail.is_closed {
                    return;
                }
                self.work.wait_for(&mut tail, interval / slices as u32);
                MutexGuard::unlocked(&mut tail, || self.write_back());
            }
            drop(tail);
            if self.flush_written().is_err() {
                return;
            }
        }
    }

    /// Only a hint: what it does not start, the sync writes.
    fn write_back(&self) {
        let marks = self.marks.get();
        for segment in self.dirty(marks) {
            let _ = segment.write_back(marks.durable.max(segment.base()), marks.written);
        }
    }

    fn dirty(&self, marks: Watermarks) -> Vec<Arc<Segment>> {
        let is_dirty = |s: &Arc<Segment>| s.end() > marks.durable && s.base() < marks.written;
        self.segments.all().into_iter().filter(is_dirty).collect()
    }

    /// Makes everything durable that the kernel has.
    pub(super) fn flush_written(&self) -> Result<(), Poisoned> {
        // One at a time: the kernel reports a lost write to one sync only, and the other would believe all is well.
        let _one = self.flushing.lock();
        self.marks.alive()?;
        let marks = self.marks.get();
        if marks.durable >= marks.written {
            return Ok(());
        }
        for segment in self.dirty(marks) {
            self.sync(&segment)?;
        }
        self.marks.durable.advance(marks.written);
        Ok(())
    }

    fn sync(&self, segment: &Segment) -> Result<(), Poisoned> {
        let started = self.clock.now();
        let synced = segment.sync().map_err(|e| self.marks.poison("syncing the log", &e));
        self.syncs.add(self.clock.now().remaining(started).as_micros() as u64);
        synced
    }
}
