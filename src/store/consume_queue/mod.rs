//! The consume queues: for each queue of a topic, where its messages lie in the log.
//!
//! They are derived: [`QueueState::push`] follows the log, and what is not in the files yet is made again from it
//! after a crash. A record's entry goes to a file only once the record itself is durable. How a crash between two
//! rounds of writing is undone exactly: see [`super::derived`].
//!
//! Threads: any may push to, read from or assign in a queue (one at a time pushes to one queue, in the order of the log).
//! Flush, sync, truncation and deletion exclude each other and never hold up readers while they wait for the disk.
//! Order of locks: `io`, then a queue's tail, then `dirty` or the open files.

mod files;
mod load;
mod queue;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
};

use parking_lot::{Mutex, RwLock};

use super::{
    derived::{Doubts, Error, Mark, Start},
    disk::{Disk, File},
};
use crate::types::{PhysicalOffset, QueueId, TopicName};
use files::{Files, UNIT, Unit};
pub(super) use load::Loaded;
pub(super) use queue::{Pushed, QueueState};

/// Files written and not yet synced that are held open; at more, a flush syncs them on the way.
const UNSYNCED_MAX: usize = 256;
/// Entries that one write takes at most: 64 KiB.
const WRITE_MAX: usize = 3276;

/// What all queues share.
struct Shared {
    files: Files,
    /// Queues with entries that are not in their files.
    dirty: Mutex<Vec<Arc<QueueState>>>,
    /// Entries in memory, of all queues.
    recent: AtomicU64,
    uids: AtomicU64,
}

/// The table of queues.
pub(super) struct Queues {
    shared: Arc<Shared>,
    table: RwLock<HashMap<TopicName, BTreeMap<QueueId, Arc<QueueState>>>>,
    io: Mutex<Round>,
}

/// What has been written and not synced.
struct Round {
    doubts: Doubts,
    unsynced: HashMap<PathBuf, Arc<dyn File>>,
    unsynced_dirs: BTreeSet<PathBuf>,
    /// Entries of records below it are durable.
    persisted: PhysicalOffset,
    /// Entries of records below it are written.
    flushed: PhysicalOffset,
    /// A flush ended with an error, so the round cannot end before one has succeeded.
    incomplete: bool,
    /// A sync failed: no more of them.
    failed: bool,
}

impl Queues {
    /// Opens `<root>/consumequeue` and brings it to where the caller can push the log from
    /// [`Loaded::dispatch_from`]. `per_file` is the number of entries of one file.
    pub fn open(disk: Arc<dyn Disk>, root: &Path, per_file: u64, start: Start) -> Result<(Self, Loaded), Error> {
        let list = root.join("consumequeue.doubts");
        let (doubts, doubt) =
            Doubts::load(disk.clone(), list.clone(), start.recover_from).map_err(Error::reading(&list))?;
        let files = Files::new(disk, root.join("consumequeue"), per_file.max(1));
        let (recent, uids) = (AtomicU64::new(0), AtomicU64::new(0));
        let queues = Self {
            shared: Arc::new(Shared { files, dirty: Mutex::default(), recent, uids }),
            table: RwLock::default(),
            io: Mutex::new(Round {
                doubts,
                unsynced: HashMap::new(),
                unsynced_dirs: BTreeSet::new(),
                persisted: start.recover_from,
                flushed: start.recover_from,
                incomplete: false,
                failed: false,
            }),
        };
        let loaded = queues.load(start, &doubt)?;
        let mut round = queues.io.lock();
        (round.persisted, round.flushed) = (loaded.dispatch_from, loaded.dispatch_from);
        drop(round);
        Ok((queues, loaded))
    }

    /// The queue, made if need be, in memory.
    pub fn queue(&self, topic: &TopicName, id: QueueId) -> Arc<QueueState> {
        if let Some(queue) = self.existing(topic, id) {
            return queue;
        }
        let mut table = self.table.write();
        let queues = table.entry(topic.clone()).or_default();
        queues.entry(id).or_insert_with(|| QueueState::new(topic.clone(), id, self.shared.clone())).clone()
    }

    /// The queue, when there is one.
    pub fn existing(&self, topic: &TopicName, id: QueueId) -> Option<Arc<QueueState>> {
        self.table.read().get(topic)?.get(&id).cloned()
    }

    /// All queues.
    pub fn all(&self) -> Vec<Arc<QueueState>> {
        self.table.read().values().flat_map(|queues| queues.values().cloned()).collect()
    }

    /// The queues of a topic that are there.
    pub fn of(&self, topic: &TopicName) -> Vec<Arc<QueueState>> {
        self.table.read().get(topic).map(|queues| queues.values().cloned().collect()).unwrap_or_default()
    }

    /// Queues with entries that are not in their files.
    pub fn dirty(&self) -> usize {
        self.shared.dirty.lock().len()
    }

    /// Writes the entries of records below `below` to their files. `below` must lie at or before what is durable, and
    /// everything before it must have been pushed. Visits only queues that have something to write.
    pub fn flush(&self, below: PhysicalOffset) -> Result<(), Error> {
        let mut round = self.io.lock();
        round.check()?;
        let (work, later) = self.take_dirty(below);
        round.incomplete |= !work.is_empty();
        let mut done = 0;
        let result = self.write_all(&mut round, &work, below, &mut done);
        let mut dirty = self.shared.dirty.lock();
        dirty.extend(later);
        dirty.extend(work.into_iter().skip(done));
        drop(dirty);
        round.note(&result);
        result?;
        round.incomplete = false;
        round.flushed = round.flushed.max(below);
        Ok(())
    }

    /// Makes durable what was flushed. Returns the position below which no record needs to be pushed again after a
    /// crash: what the checkpoint's `recover_from` may become.
    pub fn sync(&self) -> Result<PhysicalOffset, Error> {
        let mut round = self.io.lock();
        round.check()?;
        let result = round.sync(&*self.shared.files.disk);
        round.note(&result);
        result?;
        if !round.incomplete {
            round.doubts.close();
            round.persisted = round.flushed;
        }
        Ok(round.persisted)
    }

    /// Splits the dirty queues: those that have an entry to write below `below`, and the others.
    fn take_dirty(&self, below: PhysicalOffset) -> (Vec<Arc<QueueState>>, Vec<Arc<QueueState>>) {
        let dirty = std::mem::take(&mut *self.shared.dirty.lock());
        dirty.into_iter().filter(|queue| !queue.tail.lock().deleted).partition(|queue| {
            let tail = queue.tail.lock();
            let unwritten = queue.max().get() - tail.flushed;
            let first = tail.recent.len().checked_sub(unwritten as usize).and_then(|i| tail.recent.get(i));
            first.is_none_or(|unit| unit.physical < below.get())
        })
    }

    fn write_all(
        &self,
        round: &mut Round,
        work: &[Arc<QueueState>],
        below: PhysicalOffset,
        done: &mut usize,
    ) -> Result<(), Error> {
        let since = round.persisted;
        let marks = work.iter().map(|queue| {
            let tail = queue.tail.lock();
            (queue.name(), if tail.stale_files { 0 } else { tail.flushed })
        });
        round.doubts.list(since, marks)?;
        for queue in work {
            while self.write_some(round, queue, below)? {}
            let mut tail = queue.tail.lock();
            queue.trim(&mut tail);
            tail.dirty = tail.flushed < queue.max().get() && !tail.deleted;
            if tail.dirty {
                self.shared.dirty.lock().push(queue.clone());
            }
            drop(tail);
            *done += 1;
        }
        Ok(())
    }

    /// Writes one stretch of a queue; false when nothing is left to write.
    fn write_some(&self, round: &mut Round, queue: &QueueState, below: PhysicalOffset) -> Result<bool, Error> {
        let files = &self.shared.files;
        let tail = queue.tail.lock();
        let (from, epoch, stale, fill_from) = (tail.flushed, tail.epoch, tail.stale_files, tail.fill_from);
        let unwritten = (queue.max().get() - from) as usize;
        let n = unwritten.min(WRITE_MAX).min((files.per_file - from % files.per_file) as usize);
        let mut bytes = Vec::with_capacity(n * UNIT as usize);
        let next = tail.recent.iter().skip(tail.recent.len() - unwritten).take(n);
        next.take_while(|unit| unit.physical < below.get()).for_each(|unit| unit.encode(&mut bytes));
        if tail.deleted || (bytes.is_empty() && !stale) {
            return Ok(false);
        }
        drop(tail);
        if stale {
            round.doubts.list(round.persisted, [(queue.name(), 0)])?;
            self.remove_files(round, queue)?;
        }
        if bytes.is_empty() {
            let mut tail = queue.tail.lock();
            tail.stale_files &= tail.epoch != epoch;
            return Ok(false);
        }
        if let Some(start) = fill_from {
            self.fill(round, queue, start..from)?;
        }
        self.write(round, queue, from, &bytes)?;
        let mut tail = queue.tail.lock();
        if tail.epoch == epoch {
            tail.flushed += bytes.len() as u64 / UNIT;
            tail.stale_files = false;
            tail.fill_from = None;
        }
        Ok(true)
    }

    /// The filling in front of a queue that does not begin with its first file.
    fn fill(&self, round: &mut Round, queue: &QueueState, range: std::ops::Range<u64>) -> Result<(), Error> {
        let mut at = range.start;
        while at < range.end {
            let n = (range.end - at).min(WRITE_MAX as u64);
            let mut bytes = Vec::with_capacity((n * UNIT) as usize);
            (0..n).for_each(|_| Unit::filler(0).encode(&mut bytes));
            self.write(round, queue, at, &bytes)?;
            at += n;
        }
        Ok(())
    }

    /// Writes entries from offset `from` on, all of one file.
    fn write(&self, round: &mut Round, queue: &QueueState, from: u64, bytes: &[u8]) -> Result<(), Error> {
        let files = &self.shared.files;
        let number = from / files.per_file;
        let path = files.path(queue.owner(), number);
        let (file, is_new) = files.open_or_create(queue.owner(), number).map_err(Error::writing(&path))?;
        // Before anything else can fail: whatever was done to the file is synced before the round ends.
        round.unsynced.insert(path.clone(), file.clone());
        if is_new {
            round.unsynced_dirs.insert(files.dir(queue.topic(), queue.id()));
        }
        let write = || -> io::Result<()> {
            if file.len()? != files.file_len() {
                file.set_len(files.file_len())?;
            }
            file.write(from % files.per_file * UNIT, bytes)
        };
        write().map_err(Error::writing(&path))?;
        if round.unsynced.len() >= UNSYNCED_MAX {
            round.sync(&*files.disk)?;
        }
        Ok(())
    }

    /// Removes, durably, all files of a queue.
    fn remove_files(&self, round: &mut Round, queue: &QueueState) -> Result<(), Error> {
        let files = &self.shared.files;
        let dir = files.dir(queue.topic(), queue.id());
        round.forget(&dir);
        let remove = || -> io::Result<bool> {
            let names = files.disk.list(&dir)?;
            for name in &names {
                files.disk.remove_file(&dir.join(name))?;
            }
            Ok(!names.is_empty())
        };
        let removed = remove();
        files.forget(queue.owner().uid, 0..u64::MAX);
        if removed.map_err(Error::removing(&dir))? {
            files.disk.sync_dir(&dir).map_err(Error::syncing(&dir))?;
        }
        Ok(())
    }

    /// Drops, durably, the entries of records at or behind `end`: the log was cut there. Offsets go on from what is
    /// left. Returns how many queues lost entries. Only while nobody pushes or assigns.
    pub fn truncate_to(&self, end: PhysicalOffset) -> Result<usize, Error> {
        let mut round = self.io.lock();
        round.check()?;
        // What was flushed and is not synced may lie before the cut.
        let result = round.sync(&*self.shared.files.disk);
        round.note(&result);
        result?;
        round.doubts.close();
        let mut cuts = Vec::new();
        for queue in self.all() {
            let dir = self.shared.files.dir(queue.topic(), queue.id());
            if let Some(cut) = queue.cut_at(end.get()).map_err(Error::reading(&dir))? {
                let numbers = self.shared.files.numbers(queue.topic(), queue.id()).map_err(Error::reading(&dir))?;
                cuts.push((queue, numbers.unwrap_or_default(), cut));
            }
        }
        (round.persisted, round.flushed) = (round.persisted.min(end), round.flushed.min(end));
        // In force whatever the checkpoint says, until the next round's list replaces it.
        self.cut(&mut round, PhysicalOffset::MAX, &cuts)?;
        Ok(cuts.len())
    }

    /// Zeroes, durably, what lies behind an offset of each queue; `numbers` are its files. A power failure in between
    /// leaves the rest in doubt.
    fn cut(
        &self,
        round: &mut Round,
        since: PhysicalOffset,
        cuts: &[(Arc<QueueState>, Vec<u64>, u64)],
    ) -> Result<(), Error> {
        let marks = cuts.iter().map(|(queue, _, cut)| (queue.name(), *cut));
        let mut result = round.doubts.list(since, marks);
        for (queue, numbers, cut) in cuts {
            result = result.and_then(|()| self.shared.files.cut(queue.owner(), numbers, *cut));
        }
        round.note(&result);
        result?;
        round.doubts.close();
        Ok(())
    }

    /// Moves each queue's beginning to its first message at or behind the log's beginning, and removes files that lie
    /// before it, never a queue's last one. The log's beginning lies at or before the checkpoint's `recover_from`.
    pub fn set_min_by(&self, log_min: PhysicalOffset) -> Result<(), Error> {
        let mut round = self.io.lock();
        round.check()?;
        for queue in self.all() {
            let files = &self.shared.files;
            let dir = files.dir(queue.topic(), queue.id());
            if !queue.raise_min(log_min.get()).map_err(Error::reading(&dir))? {
                continue;
            }
            let mut tail = queue.tail.lock();
            if tail.stale_files || tail.flushed == 0 {
                continue;
            }
            let keep_from = (queue.min().get() / files.per_file).min((tail.flushed - 1) / files.per_file);
            let gone = tail.first_file..keep_from.max(tail.first_file);
            tail.first_file = gone.end;
            drop(tail);
            files.forget(queue.owner().uid, gone.clone());
            for number in gone {
                let path = files.path(queue.owner(), number);
                round.unsynced.remove(&path);
                let result = remove_durably(&*files.disk, &path, &dir);
                round.note(&result);
                result?;
            }
        }
        Ok(())
    }

    /// Forgets the queues of a topic and removes their files, durably. Who still holds one of the queues reads from it
    /// what is in memory. A topic made again begins at offset 0.
    ///
    /// The records of the old topic are still in the log: the caller moves the checkpoint's `recover_from` behind them.
    pub fn delete(&self, topic: &TopicName) -> Result<(), Error> {
        let mut round = self.io.lock();
        round.check()?;
        let names = |queues: &BTreeMap<_, Arc<QueueState>>| queues.values().map(|q| (q.name(), 0)).collect();
        let marks: Vec<Mark> = self.table.read().get(topic).map(names).unwrap_or_default();
        let since = round.persisted;
        let result = round.doubts.list(since, marks);
        round.note(&result);
        result?;
        let queues = self.table.write().remove(topic).unwrap_or_default();
        let files = &self.shared.files;
        for queue in queues.values() {
            queue.tail.lock().deleted = true;
            round.forget(&files.dir(topic, queue.id()));
            files.forget(queue.owner().uid, 0..u64::MAX);
        }
        let dir = files.topic_dir(topic);
        if files.disk.exists(&dir).map_err(Error::writing(&dir))? {
            files.disk.remove_dir_all(&dir).map_err(Error::removing(&dir))?;
            let result = files.disk.sync_dir(&files.root).map_err(Error::syncing(&files.root));
            round.note(&result);
            result?;
        }
        Ok(())
    }
}

/// Removes a file, durably: of several removals a power failure might keep the later ones only, and leave a hole.
fn remove_durably(disk: &dyn Disk, path: &Path, dir: &Path) -> Result<(), Error> {
    match disk.remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::removing(path)(e)),
        _ => {}
    }
    disk.sync_dir(dir).map_err(Error::syncing(dir))
}

impl Drop for Queues {
    fn drop(&mut self) {
        // A dirty queue holds what it is listed in.
        self.shared.dirty.lock().clear();
    }
}

impl Round {
    fn check(&self) -> Result<(), Error> {
        if self.failed { Err(Error::Failed) } else { Ok(()) }
    }

    fn note<T>(&mut self, result: &Result<T, Error>) {
        self.failed |= matches!(result, Err(Error::Sync { .. }));
    }

    fn sync(&mut self, disk: &dyn Disk) -> Result<(), Error> {
        for (path, file) in &self.unsynced {
            file.sync().map_err(Error::syncing(path))?;
        }
        self.unsynced.clear();
        while let Some(dir) = self.unsynced_dirs.pop_first() {
            disk.sync_dir(&dir).map_err(Error::syncing(&dir))?;
        }
        Ok(())
    }

    /// Forgets what was written to a queue whose files are being removed.
    fn forget(&mut self, dir: &Path) {
        self.unsynced.retain(|path, _| path.parent() != Some(dir));
        self.unsynced_dirs.remove(dir);
    }
}
