//! The store's threads, and what they do besides committing.

use std::{
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::{
    FlushPolicy, Poisoned, Threads,
    checkpoint::Checkpoint,
    core::{Core, Progress},
    derived,
    disk::Space,
    indexing,
    marks::Intact,
    retention,
    segment::Segment,
};
use crate::types::{Clock, Deadline, PhysicalOffset, SystemClock};

/// Between two rounds of the background.
pub(super) const ROUND: Duration = Duration::from_secs(1);
/// What is derived is written after so many rounds with something new, or once so many bytes of the log are new: a
/// restart after a crash reads that much of the log.
const DERIVE_ROUNDS: u32 = 5;
const DERIVE_BYTES: u64 = 64 << 20;
/// Each queue with something new is a file to sync, and a sync keeps the log's own waiting. So with very many queues what is
/// derived is written less often: so many files a round on average, or one for so many bytes of the log; and a restart
/// after a crash reads up to so many bytes.
const DERIVE_FILES_PER_ROUND: usize = 100;
const DERIVE_BYTES_PER_FILE: u64 = 64 << 10;
const DERIVE_BYTES_MAX: u64 = 512 << 20;

/// Retention looks after so many rounds (`cleanResourceInterval`).
const RETENTION_ROUNDS: u32 = 10;

/// Segments whose beginning retention reads in one look at most, of those that it has not read yet.
const BEGINS_PER_LOOK: usize = 64;

/// The time is saved after so many rounds without anything else to save.
const TIME_ROUNDS: u32 = 60;

/// Whether a round writes what is derived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Derive {
    WhenDue,
    Now,
}

/// What the thread of the rounds waits for.
#[derive(Default)]
pub(super) struct Rounds {
    asked: Mutex<Asked>,
    changed: Condvar,
}

#[derive(Default)]
struct Asked {
    to_end: bool,
    to_index: bool,
}

/// What that thread does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Round,
    Index,
    End,
}

impl Rounds {
    /// Many keys wait for the index.
    pub(super) fn ask_index(&self) {
        self.asked.lock().to_index = true;
        self.changed.notify_one();
    }

    fn end(&self) {
        self.asked.lock().to_end = true;
        self.changed.notify_all();
    }

    /// Waits until a round is due, or until something is asked for before.
    fn next(&self, clock: &SystemClock, due: Deadline) -> Next {
        let mut asked = self.asked.lock();
        loop {
            let left = due.remaining(clock.now());
            if asked.to_end {
                return Next::End;
            }
            if left.is_zero() {
                return Next::Round;
            }
            if std::mem::take(&mut asked.to_index) {
                return Next::Index;
            }
            self.changed.wait_for(&mut asked, left);
        }
    }
}

/// The store's threads; ended with the last handle.
pub(super) struct Owner {
    core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Owner {
    pub(super) fn start(core: Arc<Core>) -> std::io::Result<Self> {
        let owner = Self { core, threads: Mutex::default() };
        if owner.core.config.threads == Threads::Stepped {
            return Ok(owner);
        }
        owner.spawn("store-ahead", |core| core.log.keep_ahead())?;
        match owner.core.config.flush {
            FlushPolicy::Sync => owner.spawn("store-commit", |core| core.log.keep_committing())?,
            FlushPolicy::Async { interval } => {
                owner.spawn("store-flush", move |core| core.log.keep_flushing(interval))?
            }
        }
        owner.spawn("store-rounds", keep_rounds)?;
        Ok(owner)
    }

    fn spawn(&self, name: &str, work: impl FnOnce(&Core) + Send + 'static) -> std::io::Result<()> {
        let core = self.core.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let _intact = Intact(&core.log.marks);
            work(&core);
        })?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Ends the threads and waits for them. What has a place is committed first.
    pub(super) fn end(&self) {
        self.core.log.tail.lock().is_closed = true;
        self.core.log.work.notify_all();
        self.core.log.ahead.end();
        self.core.log.rounds.end();
        for thread in self.threads.lock().drain(..) {
            // A thread that panicked has said so; there is nothing left to end.
            let _ = thread.join();
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.end();
    }
}

fn keep_rounds(core: &Core) {
    // The thread's own: the store's may stand still.
    let clock = SystemClock::new();
    let mut due = clock.now().plus(ROUND);
    loop {
        let done = match core.log.rounds.next(&clock, due) {
            Next::End => return,
            Next::Index => core.index_waiting(),
            Next::Round => {
                let done = core.tick(Derive::WhenDue);
                due = clock.now().plus(ROUND);
                done
            }
        };
        if done.is_err() {
            return;
        }
    }
}

/// Whether what is derived is to be written, after so many rounds and bytes of the log, into so many files.
fn derive_is_due(rounds: u32, bytes: u64, files: usize) -> bool {
    let rounds_wanted = (files / DERIVE_FILES_PER_ROUND).max(DERIVE_ROUNDS as usize);
    let bytes_wanted = (files as u64).saturating_mul(DERIVE_BYTES_PER_FILE).clamp(DERIVE_BYTES, DERIVE_BYTES_MAX);
    rounds as usize >= rounds_wanted || bytes >= bytes_wanted
}

impl Core {
    /// One round: looks for room on the disk, writes what is derived when it is due, and checkpoints what changed.
    pub(super) fn tick(&self, derive: Derive) -> Result<(), Poisoned> {
        self.log.marks.alive()?;
        self.look_for_room();
        if let Some(index) = &self.index {
            index.rest(&self.log);
        }
        self.round(&mut self.progress.lock(), derive)
    }

    /// Lets the index take the keys that wait, before there is no room for more of them. Nothing is made durable.
    fn index_waiting(&self) -> Result<(), Poisoned> {
        self.log.marks.alive()?;
        match self.index.as_ref().map_or(Ok(()), |index| index.keep_near(&self.log)) {
            Err(indexing::Error::Index(error)) => self.derived_late(&error),
            // What cannot be read now the next round reads, and says why it cannot.
            Err(indexing::Error::Log(_)) | Ok(()) => Ok(()),
        }
    }

    /// The part of a round that excludes others.
    pub(super) fn round(&self, progress: &mut Progress, derive: Derive) -> Result<(), Poisoned> {
        let next = self.advance(progress, derive)?;
        self.checkpoint(progress, next)?;
        self.retain(progress, derive)
    }

    /// The last round: everything is committed, so everything is written, and the checkpoint says so.
    pub(super) fn tick_closing(&self) -> Result<(), Poisoned> {
        let mut progress = self.progress.lock();
        {
            let tail = self.log.tail.lock();
            progress.seen = (tail.end, tail.stored_at);
        }
        let mut next = self.advance(&mut progress, Derive::Now)?;
        next.is_closed = next.recover_from == next.durable;
        self.checkpoint(&mut progress, next)
    }

    fn look_for_room(&self) {
        // Queues, index and state lie below the root, which may be on another disk than the log.
        let spaces = [self.log.segments.dir(), &self.config.root].map(|dir| self.disk.space(dir).ok());
        if let Some(scarcest) = spaces.into_iter().flatten().reduce(Space::scarcer) {
            self.log.room.seen(scarcest);
        }
        if self.log.room.is_out() {
            self.log.go_ahead();
        }
    }

    /// What can be vouched for now.
    fn advance(&self, progress: &mut Progress, derive: Derive) -> Result<Checkpoint, Poisoned> {
        // Read before the marks: in a log that stands still this pair is durable already.
        let now = {
            let tail = self.log.tail.lock();
            (tail.end, tail.stored_at)
        };
        let marks = self.log.marks.get();
        let mut next = progress.written;
        next.durable = marks.durable;
        let (seen, stored_at) = if now.0 <= marks.durable { now } else { progress.seen };
        if seen <= next.durable {
            next.stored_at = stored_at;
        }
        let derivable = marks.durable.min(marks.dispatched);
        progress.rounds += 1;
        let is_due = derive_is_due(progress.rounds, next.recover_from.until(derivable), self.queues.dirty());
        if (derive == Derive::Now || is_due) && derivable > next.recover_from {
            next.recover_from = next.recover_from.max(self.derive(derivable)?);
            if seen <= next.recover_from {
                next.derived_at = stored_at;
            }
            progress.rounds = 0;
        }
        progress.seen = now;
        Ok(next)
    }

    /// Writes what is derived from the log below a position, which is durable. Returns how far that is safe now: not
    /// so far when the disk is full.
    fn derive(&self, until: PhysicalOffset) -> Result<PhysicalOffset, Poisoned> {
        let queued = match self.queues.flush(until).and_then(|()| self.queues.sync()) {
            Ok(safe) => safe,
            Err(error) => {
                self.derived_late(&error)?;
                PhysicalOffset::ZERO
            }
        };
        let indexed = match self.index.as_ref().map(|index| index.derive(&self.log, until)) {
            None => PhysicalOffset::MAX,
            Some(Ok(safe)) => safe,
            Some(Err(indexing::Error::Index(error))) => {
                self.derived_late(&error)?;
                PhysicalOffset::ZERO
            }
            Some(Err(error @ indexing::Error::Log(_))) => {
                tracing::warn!(error = %error, "keys could not be indexed; trying again");
                PhysicalOffset::ZERO
            }
        };
        Ok(queued.min(indexed))
    }

    /// A failed sync ends the store. Anything else is tried again in the next round; the log has it all.
    fn derived_late(&self, error: &derived::Error) -> Result<(), Poisoned> {
        if error.is_fatal() {
            return Err(self.log.marks.poison("writing what is derived from the log", error));
        }
        if error.is_full() {
            self.log.room.ran_out();
        } else {
            tracing::warn!(error = %error, "what is derived from the log could not be written; trying again");
        }
        Ok(())
    }

    /// Deletes the segments that may go.
    fn retain(&self, progress: &mut Progress, derive: Derive) -> Result<(), Poisoned> {
        let (wall, reserved) = (self.clock.wall(), self.config.retention.reserved);
        let trusted = progress.time.look(wall, self.clock.now(), reserved);
        progress.rounds_since_retention += 1;
        if progress.rounds_since_retention < RETENTION_ROUNDS && derive == Derive::WhenDue {
            return Ok(());
        }
        progress.rounds_since_retention = 0;
        let Ok(space) = self.disk.space(self.log.segments.dir()) else { return Ok(()) };
        let oldest = self.log.segments.oldest(retention::BATCH_MAX + 2);
        let later = self.begins.later(&self.log, BEGINS_PER_LOOK);
        let aged =
            |s: &Arc<Segment>| retention::Segment { base: s.base(), bytes: s.len(), newest: later.than(s.base()) };
        let segments: Vec<retention::Segment> = oldest.iter().map(aged).collect();
        let held_from = PhysicalOffset::new(self.held_from.load(Ordering::Relaxed));
        let gone = retention::expendable(&retention::Look {
            segments: &segments,
            config: &self.config.retention,
            space,
            wall,
            trusted,
            // What is not derived yet would be lost to recovery.
            hold_from: held_from.min(progress.written.recover_from),
        });
        if gone.is_empty() {
            return Ok(());
        }
        for base in &gone {
            if let Err(error) = self.log.segments.remove_first(*base) {
                tracing::warn!(error = %error, segment = %base, "an expired segment could not be removed; trying again");
                break;
            }
            tracing::info!(segment = %base, "expired segment removed");
        }
        let begin = self.log.segments.first().map_or(PhysicalOffset::ZERO, |first| first.base());
        let index = self.index.as_ref().map_or(Ok(()), |index| index.delete_before(begin));
        match self.queues.set_min_by(begin).and(index) {
            Ok(()) => Ok(()),
            Err(error) => self.derived_late(&error),
        }
    }

    fn checkpoint(&self, progress: &mut Progress, mut next: Checkpoint) -> Result<(), Poisoned> {
        progress.rounds_unwritten += 1;
        if next == progress.written && progress.rounds_unwritten < TIME_ROUNDS {
            return Ok(());
        }
        progress.rounds_unwritten = 0;
        next.time = Some(progress.time.saved());
        progress.file.write(&next).map_err(|e| self.log.marks.poison("writing the checkpoint", &e))?;
        progress.written = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_asked_for_in_between_a_round_comes_when_due_and_the_end_before_all() {
        let (clock, rounds) = (SystemClock::new(), Rounds::default());
        let (now, later) = (clock.now(), clock.now().plus(Duration::from_secs(3600)));
        // Asked before it waits, and while it does.
        rounds.ask_index();
        assert_eq!(rounds.next(&clock, later), Next::Index);
        std::thread::scope(|scope| {
            let next = scope.spawn(|| rounds.next(&clock, later));
            rounds.ask_index();
            assert_eq!(next.join().expect("no panic"), Next::Index);
        });
        assert_eq!(rounds.next(&clock, now.plus(Duration::from_millis(1))), Next::Round);
        rounds.ask_index();
        assert_eq!(rounds.next(&clock, now), Next::Round, "however much there is to index");
        assert_eq!(rounds.next(&clock, later), Next::Index, "it is not forgotten");
        rounds.end();
        assert_eq!(rounds.next(&clock, now), Next::End);
    }
}
