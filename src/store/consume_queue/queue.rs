//! One consume queue: its positions and its tail in memory.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::{
    Shared,
    files::{Owner, Unit, partition_point},
};
use crate::{
    store::Entry,
    types::{PhysicalOffset, QueueId, QueueOffset, Timestamp, TopicName},
};

/// Entries that one call of [`QueueState::entries`] returns at most.
pub(in crate::store) const ENTRIES_MAX: usize = 1024;
/// Entries of a queue that stay in memory after they were written, so that reading near the tail needs no call to the
/// system.
pub(super) const RECENT_MAX: usize = 1024;
/// The same while all queues together hold more than [`RECENT_TOTAL_MAX`].
pub(super) const RECENT_MIN: usize = 64;
/// Entries in memory, of all queues: 24 MiB. Beyond it queues keep [`RECENT_MIN`].
pub(super) const RECENT_TOTAL_MAX: u64 = 1 << 20;

/// A consume queue. `min <= max <= next` and `flushed <= max`:
///
/// - entries below `flushed` are in the files (not necessarily synced), those from it on only in memory;
/// - entries from `min` on are stored, and those below `max` visible;
/// - offsets below `next` have been given to records of the log.
///
/// An idle queue takes some 250 bytes, and holds no file open.
pub(in crate::store) struct QueueState {
    /// Names the queue's open files; another one when its files begin anew, so that nobody finds a removed one open.
    uid: AtomicU64,
    topic: TopicName,
    id: QueueId,
    shared: Arc<Shared>,
    this: Weak<Self>,
    min: AtomicU64,
    max: AtomicU64,
    next: AtomicU64,
    pub(super) tail: Mutex<Tail>,
}

/// What a push changes.
#[derive(Default)]
pub(super) struct Tail {
    /// The entries before `max`: all that are not in the files, and some that are.
    pub recent: VecDeque<Unit>,
    pub flushed: u64,
    /// Of the entry at `min`; `None` in an empty queue.
    pub first_physical: Option<u64>,
    /// Of the entry before `max`, even when retention has passed it.
    pub last_physical: Option<u64>,
    /// Number of the first file.
    pub first_file: u64,
    /// Counts restarts and truncations, so that a flush sees that what it wrote is void.
    pub epoch: u64,
    pub dirty: bool,
    /// Files that are there are void: removed before the next is written.
    pub stale_files: bool,
    /// The file that `flushed` lies in has to be filled from this offset on first.
    pub fill_from: Option<u64>,
    pub deleted: bool,
}

/// What [`QueueState::push`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store) enum Pushed {
    Added,
    /// It was there.
    Known,
    /// Offsets before it had no message; readers pass over them.
    AfterGap(u64),
    /// The queue begins anew with this entry: its topic was deleted and made again, or it was empty.
    Restarted,
}

impl QueueState {
    pub(super) fn new(topic: TopicName, id: QueueId, shared: Arc<Shared>) -> Arc<Self> {
        let uid = AtomicU64::new(shared.uids.fetch_add(1, Ordering::Relaxed));
        let zero = || AtomicU64::new(0);
        let tail = Mutex::default();
        let (min, max, next) = (zero(), zero(), zero());
        Arc::new_cyclic(|this| Self { uid, topic, id, shared, this: this.clone(), min, max, next, tail })
    }

    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    pub fn id(&self) -> QueueId {
        self.id
    }

    /// First offset whose message is still stored.
    pub fn min(&self) -> QueueOffset {
        QueueOffset::new(self.min.load(Ordering::Acquire))
    }

    /// One behind the last visible entry.
    pub fn max(&self) -> QueueOffset {
        QueueOffset::new(self.max.load(Ordering::Acquire))
    }

    /// The offset that the next record gets.
    #[cfg(test)]
    pub fn next(&self) -> QueueOffset {
        QueueOffset::new(self.next.load(Ordering::Acquire))
    }

    /// Gives the next offset to a record. The caller holds the log's lock, so that offsets rise with positions in the
    /// log.
    pub fn assign(&self) -> QueueOffset {
        QueueOffset::new(self.next.fetch_add(1, Ordering::AcqRel))
    }

    pub(super) fn owner(&self) -> Owner<'_> {
        Owner { uid: self.uid.load(Ordering::Acquire), topic: &self.topic, queue: self.id }
    }

    /// As the list of files in doubt calls it.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.topic, self.id)
    }

    /// Makes an entry visible. Pushing what is there already does nothing, so recovery may push the log again. Entries
    /// come in the order of the log.
    pub fn push(&self, entry: &Entry) -> Pushed {
        let mut tail = self.tail.lock();
        let unit = Unit { physical: entry.physical.get(), size: entry.size, tags_code: entry.tags_code };
        let (offset, max) = (entry.offset.get(), self.max.load(Ordering::Relaxed));
        // Recovery comes by records that the files have, and by those of an earlier topic of the same name.
        if tail.last_physical.is_some_and(|last| unit.physical <= last) {
            return Pushed::Known;
        }
        let pushed = if offset == max {
            Pushed::Added
        } else if offset < max {
            // A later record with an earlier offset: the topic was deleted and made again in between.
            if tail.last_physical.is_none() {
                return Pushed::Known;
            }
            self.restart_at(&mut tail, offset);
            Pushed::Restarted
        } else if tail.first_physical.is_none() || offset - max > self.shared.files.per_file {
            self.restart_at(&mut tail, offset);
            Pushed::Restarted
        } else {
            // Not 0, which only the filling in front of a queue has.
            let before = tail.last_physical.unwrap_or(0).max(1);
            tail.recent.extend((max..offset).map(|_| Unit::filler(before)));
            self.shared.recent.fetch_add(offset - max, Ordering::Relaxed);
            Pushed::AfterGap(offset - max)
        };
        tail.recent.push_back(unit);
        self.shared.recent.fetch_add(1, Ordering::Relaxed);
        tail.first_physical.get_or_insert(unit.physical);
        tail.last_physical = Some(unit.physical);
        self.next.fetch_max(offset + 1, Ordering::AcqRel);
        self.max.store(offset + 1, Ordering::Release);
        self.mark_dirty(&mut tail);
        pushed
    }

    /// Empties the queue and lets it go on at `offset`.
    fn restart_at(&self, tail: &mut Tail, offset: u64) {
        self.forget_recent(tail, 0);
        self.forget_files();
        tail.flushed = offset;
        tail.first_physical = None;
        tail.last_physical = None;
        tail.first_file = offset / self.shared.files.per_file;
        tail.epoch += 1;
        tail.stale_files = true;
        let start = tail.first_file * self.shared.files.per_file;
        tail.fill_from = (start < offset).then_some(start);
        self.min.store(offset, Ordering::Release);
        self.next.store(offset, Ordering::Release);
        self.max.store(offset, Ordering::Release);
    }

    /// Lets the queue begin at `first` or later; it never moves back. There is no file of it before the first push, so
    /// whoever wants it calls it again at every open.
    pub fn begin_at(&self, first: QueueOffset) {
        let first = first.get();
        let mut tail = self.tail.lock();
        if first > self.max.load(Ordering::Relaxed) {
            self.restart_at(&mut tail, first);
        } else {
            self.min.fetch_max(first, Ordering::AcqRel);
        }
    }

    /// Its topic was deleted.
    pub fn is_deleted(&self) -> bool {
        self.tail.lock().deleted
    }

    fn forget_files(&self) {
        let fresh = self.shared.uids.fetch_add(1, Ordering::Relaxed);
        self.shared.files.forget(self.uid.swap(fresh, Ordering::AcqRel), 0..u64::MAX);
    }

    /// Keeps only the first `keep` entries in memory.
    fn forget_recent(&self, tail: &mut Tail, keep: usize) {
        let gone = tail.recent.len().saturating_sub(keep);
        tail.recent.truncate(keep);
        self.shared.recent.fetch_sub(gone as u64, Ordering::Relaxed);
    }

    /// Drops written entries from memory that are not near the tail.
    pub(super) fn trim(&self, tail: &mut Tail) {
        let keep = if self.shared.recent.load(Ordering::Relaxed) > RECENT_TOTAL_MAX { RECENT_MIN } else { RECENT_MAX };
        let unwritten = self.max.load(Ordering::Relaxed) - tail.flushed;
        let gone = tail.recent.len().saturating_sub(keep.max(unwritten as usize));
        tail.recent.drain(..gone);
        self.shared.recent.fetch_sub(gone as u64, Ordering::Relaxed);
        if tail.recent.capacity() > 2 * tail.recent.len() + RECENT_MIN {
            tail.recent.shrink_to_fit();
        }
    }

    /// Visible entries from `from` on (from `min` when that is later), at most `max` and [`ENTRIES_MAX`]. Fewer, but
    /// at least one, when they come from several places; none only when there is none. No call to the system for what
    /// is near the tail.
    pub fn entries(&self, from: QueueOffset, max: usize) -> io::Result<Vec<Entry>> {
        let mut from = from.get();
        let max = max.min(ENTRIES_MAX) as u64;
        // Each turn passes over at least one stretch of fillers or one deleted file.
        loop {
            from = from.max(self.min.load(Ordering::Acquire));
            let (units, end) = self.units(from, max)?;
            if units.is_empty() && (from >= end || max == 0) {
                return Ok(Vec::new());
            }
            let found: Vec<Entry> = units
                .iter()
                .enumerate()
                .filter(|(_, unit)| !unit.is_filler())
                .map(|(i, unit)| Entry {
                    offset: QueueOffset::new(from + i as u64),
                    physical: PhysicalOffset::new(unit.physical),
                    size: unit.size,
                    tags_code: unit.tags_code,
                })
                .collect();
            if !found.is_empty() {
                return Ok(found);
            }
            from += units.len() as u64;
        }
    }

    /// Units from `from` on and the queue's end. No units when there are none, or when retention went past `from`.
    fn units(&self, from: u64, max: u64) -> io::Result<(Vec<Unit>, u64)> {
        let tail = self.tail.lock();
        let end = self.max.load(Ordering::Relaxed);
        let in_memory = end - tail.recent.len() as u64;
        if from >= end || max == 0 {
            return Ok((Vec::new(), end));
        }
        if from >= in_memory {
            let skip = (from - in_memory) as usize;
            return Ok((tail.recent.iter().skip(skip).take(max as usize).copied().collect(), end));
        }
        let (epoch, owner) = (tail.epoch, self.owner());
        drop(tail);
        let read = self.shared.files.units(owner, from, max.min(in_memory - from));
        let tail = self.tail.lock();
        if tail.deleted {
            return Ok((Vec::new(), from));
        }
        if tail.epoch != epoch || self.min.load(Ordering::Acquire) > from {
            return Ok((Vec::new(), self.max.load(Ordering::Relaxed)));
        }
        let units = read?;
        match units.iter().position(|unit| !unit.is_written()) {
            None => Ok((units, end)),
            Some(i) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "queue {} of {} has no entry at {}; stop the server and delete the directory {} and the file \
                     checkpoint beside it: both are made again from the log",
                    self.id,
                    self.topic,
                    from + i as u64,
                    self.shared.files.root.display(),
                ),
            )),
        }
    }

    /// The first entry at or behind `offset` that is a message's, up to `end`.
    fn message_at(&self, offset: u64, end: u64) -> io::Result<Option<Entry>> {
        let found = self.entries(QueueOffset::new(offset), 1)?;
        Ok(found.into_iter().next().filter(|entry| entry.offset.get() < end))
    }

    /// The first offset stored at or after `time`; `max` when there is none. `stored_at` reads the store time of a
    /// record, `None` when retention has taken it. Reads some 20 entries and records.
    pub fn offset_at<E: From<io::Error>>(
        &self,
        time: Timestamp,
        mut stored_at: impl FnMut(PhysicalOffset, u32) -> Result<Option<Timestamp>, E>,
    ) -> Result<QueueOffset, E> {
        let (min, max) = (self.min().get(), self.max().get());
        let found = partition_point(min..max, |offset| {
            let Some(entry) = self.message_at(offset, max)? else { return Ok::<bool, E>(false) };
            Ok(stored_at(entry.physical, entry.size)?.is_none_or(|stored| stored < time))
        })?;
        Ok(QueueOffset::new(found))
    }

    /// One entry, from memory or its file.
    pub(super) fn unit(&self, tail: &Tail, offset: u64) -> io::Result<Unit> {
        let in_memory = self.max.load(Ordering::Relaxed) - tail.recent.len() as u64;
        match offset.checked_sub(in_memory) {
            Some(i) => Ok(tail.recent[i as usize]),
            None => self.shared.files.unit(self.owner(), offset),
        }
    }

    /// Sets everything from what the files have.
    pub(super) fn loaded(&self, min: u64, max: u64, first_file: u64, first: Option<u64>, last: Option<u64>) {
        let mut tail = self.tail.lock();
        tail.flushed = max;
        tail.first_file = first_file;
        tail.first_physical = first;
        tail.last_physical = last;
        self.min.store(min, Ordering::Release);
        self.next.store(max, Ordering::Release);
        self.max.store(max, Ordering::Release);
    }

    /// Empties the queue when all its entries are of records before `at`: its topic was deleted there. For recovery;
    /// the next flush removes the files.
    pub fn forget_before(&self, at: PhysicalOffset) {
        let mut tail = self.tail.lock();
        if tail.last_physical.is_some_and(|last| last < at.get()) {
            self.restart_at(&mut tail, 0);
            self.mark_dirty(&mut tail);
        }
    }

    /// Lets the next flush remove the files.
    pub(super) fn files_are_void(&self) {
        let mut tail = self.tail.lock();
        tail.stale_files = true;
        self.mark_dirty(&mut tail);
    }

    fn mark_dirty(&self, tail: &mut Tail) {
        if !tail.deleted && !std::mem::replace(&mut tail.dirty, true) {
            self.shared.dirty.lock().extend(self.this.upgrade());
        }
    }

    /// Moves the beginning to the first message at or behind `log_min`; false when it lies there already.
    pub(super) fn raise_min(&self, log_min: u64) -> io::Result<bool> {
        let mut tail = self.tail.lock();
        if tail.first_physical.is_none_or(|first| first >= log_min) {
            return Ok(false);
        }
        let (min, max) = (self.min.load(Ordering::Relaxed), self.max.load(Ordering::Relaxed));
        let found = partition_point(min..max, |offset| {
            let unit = self.unit(&tail, offset)?;
            Ok::<bool, io::Error>(unit.physical < log_min)
        })?;
        tail.first_physical = if found < max { Some(self.unit(&tail, found)?.physical) } else { None };
        self.min.store(found, Ordering::Release);
        Ok(true)
    }

    /// Drops the entries at or behind a position of the log from memory; the first offset dropped, when there is one.
    /// The files are the caller's.
    pub(super) fn cut_at(&self, physical: u64) -> io::Result<Option<u64>> {
        let mut tail = self.tail.lock();
        if tail.last_physical.is_none_or(|last| last < physical) {
            return Ok(None);
        }
        let (min, max) = (self.min.load(Ordering::Relaxed), self.max.load(Ordering::Relaxed));
        let cut =
            partition_point(min..max, |offset| Ok::<bool, io::Error>(self.unit(&tail, offset)?.physical < physical))?;
        tail.last_physical = if cut > min { Some(self.unit(&tail, cut - 1)?.physical) } else { None };
        if cut == min {
            tail.first_physical = None;
        }
        let in_memory = max - tail.recent.len() as u64;
        self.forget_recent(&mut tail, cut.saturating_sub(in_memory) as usize);
        tail.flushed = tail.flushed.min(cut);
        tail.epoch += 1;
        self.forget_files();
        self.max.store(cut, Ordering::Release);
        self.next.store(cut, Ordering::Release);
        Ok(Some(cut))
    }
}

impl Drop for QueueState {
    fn drop(&mut self) {
        let held = self.tail.get_mut().recent.len() as u64;
        self.shared.recent.fetch_sub(held, Ordering::Relaxed);
        self.shared.files.forget(self.owner().uid, 0..u64::MAX);
    }
}
