//! The index: which records have a key.
//!
//! It is derived, and may lag: keys wait in memory until [`Index::flush`] writes them. Queries see them at once. How a crash between
//! two rounds of writing is undone exactly: see [`super::derived`]. A file in doubt is made right by its first use after
//! the start, from its own intact entries, so that opening does not wait for it.
//!
//! One background caller inserts, flushes and syncs; queries may come from anywhere, and wait for a flush.

mod format;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    collections::VecDeque,
    io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{
    derived::{Doubts, Error, InDoubt, Start},
    disk::{Disk, File, Open},
};
use crate::types::{PhysicalOffset, Timestamp};
pub(super) use format::Shape;
pub(super) use format::key_hash;
use format::{Entry, Header, file_name, is_file_name};
pub(super) use writer::Hashed;
use writer::{Writer, read_entry, read_header};

/// Keys that wait in memory at most: 6 MiB.
pub(super) const PENDING_MAX: usize = 1 << 18;
/// Entries that one query looks at in one file at most: a few milliseconds, in which nobody else has the index.
#[cfg(not(test))]
const CHAIN_MAX: u32 = 16_384;
#[cfg(test)]
const CHAIN_MAX: u32 = 16;
/// Entries that are looked at for one of a slot near to a place.
const BACK_MAX: usize = 4096;

/// What a query found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// Newest first.
    pub found: Vec<PhysicalOffset>,
    /// It looked no further than this; another one may go on from here.
    pub cut_at: Option<PhysicalOffset>,
}

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Loaded {
    pub files: usize,
    /// From where the caller has to insert the log's records again: `recover_from`, or earlier when files are missing. In
    /// that case its checkpoint must say so, durably, before the first flush.
    pub insert_from: PhysicalOffset,
    /// Files that are not used, each with the reason.
    pub unused: Vec<String>,
}

/// The index files of a store.
pub(super) struct Index {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    shape: Shape,
    inner: Mutex<Inner>,
}

struct Inner {
    doubts: Doubts,
    /// Oldest first, without the one being written.
    full: Vec<Full>,
    writer: Option<Writer>,
    /// The writer's file is right only up to this entry.
    repair: Option<u32>,
    pending: VecDeque<Hashed>,
    /// Where the newest inserted record lies.
    newest: Option<u64>,
    unsynced: Vec<(PathBuf, Arc<dyn File>)>,
    dir: DirState,
    persisted: PhysicalOffset,
    flushed: PhysicalOffset,
    incomplete: bool,
    failed: bool,
}

/// What is known of the directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum DirState {
    Missing,
    /// Files were made in it.
    Unsynced,
    Synced,
}

/// A file found when opening.
struct Candidate {
    name: String,
    path: PathBuf,
    file: Arc<dyn File>,
    header: Header,
    in_doubt: bool,
}

/// A file that gets no more entries.
struct Full {
    name: String,
    header: Header,
}

impl Index {
    /// Opens `<root>/index`.
    pub fn open(disk: Arc<dyn Disk>, root: &Path, shape: Shape, start: Start) -> Result<(Self, Loaded), Error> {
        let shape = Shape { slots: shape.slots.max(1), entries: shape.entries.max(2) };
        let (dir, list) = (root.join("index"), root.join("index.doubts"));
        let (doubts, doubt) =
            Doubts::load(disk.clone(), list.clone(), start.recover_from).map_err(Error::reading(&list))?;
        let inner = Inner {
            doubts,
            full: Vec::new(),
            writer: None,
            repair: None,
            pending: VecDeque::new(),
            newest: None,
            unsynced: Vec::new(),
            dir: DirState::Missing,
            persisted: start.recover_from,
            flushed: start.recover_from,
            incomplete: false,
            failed: false,
        };
        let index = Self { disk, dir, shape, inner: Mutex::new(inner) };
        let loaded = index.load(start, &doubt)?;
        Ok((index, loaded))
    }

    fn load(&self, start: Start, doubt: &InDoubt) -> Result<Loaded, Error> {
        let mut inner = self.inner.lock();
        let mut loaded = Loaded { insert_from: start.recover_from, ..Loaded::default() };
        if self.disk.exists(&self.dir).map_err(Error::reading(&self.dir))? {
            inner.dir = DirState::Synced;
        } else {
            loaded.insert_from = start.log_min.min(start.recover_from);
        }
        let mut gone = Vec::new();
        let mut files = self.find(doubt, &mut gone, &mut loaded.unused).map_err(Error::reading(&self.dir))?;
        if !start.clean
            && !doubt.listed
            && let Some(newest) = files.pop()
        {
            // A crash of Apache's broker: its newest file is as the kernel left it.
            loaded.insert_from = PhysicalOffset::new(newest.header.begin).min(start.recover_from);
            gone.push(newest.path);
        }
        self.keep(&mut inner, files, loaded.insert_from, &mut gone).map_err(Error::reading(&self.dir))?;
        for path in &gone {
            self.disk.remove_file(path).map_err(Error::removing(path))?;
        }
        if !gone.is_empty() {
            self.disk.sync_dir(&self.dir).map_err(Error::syncing(&self.dir))?;
        }
        (inner.persisted, inner.flushed) = (loaded.insert_from, loaded.insert_from);
        loaded.files = inner.full.len() + usize::from(inner.writer.is_some());
        Ok(loaded)
    }

    /// The files that can be used, oldest first.
    fn find(&self, doubt: &InDoubt, gone: &mut Vec<PathBuf>, unused: &mut Vec<String>) -> io::Result<Vec<Candidate>> {
        let mut files = Vec::new();
        for name in self.disk.list(&self.dir)?.into_iter().filter(|name| is_file_name(name)) {
            let path = self.dir.join(&name);
            let intact = doubt.marks.get(&name).map(|mark| u32::try_from(*mark).unwrap_or(u32::MAX));
            if intact.is_some_and(|intact| intact <= 1) {
                gone.push(path);
                continue;
            }
            let file = self.disk.open(&path, Open::Write)?;
            let (len, want) = (file.len()?, self.shape.file_len());
            let mut header = if len == want { read_header(&*file)? } else { Header::EMPTY };
            if let Some(intact) = intact {
                header.next = intact;
            }
            if len != want || header.next > self.shape.entries {
                unused.push(format!("{name}: {len} bytes, maxHashSlotNum and maxIndexNum make {want}"));
                continue;
            }
            files.push(Candidate { name, path, file, header, in_doubt: intact.is_some() });
        }
        Ok(files)
    }

    /// Decides, newest first, which files stay and up to which entry the newest of those is right.
    fn keep(
        &self,
        inner: &mut Inner,
        mut files: Vec<Candidate>,
        insert_from: PhysicalOffset,
        gone: &mut Vec<PathBuf>,
    ) -> io::Result<()> {
        while let Some(Candidate { name, path, file, header, in_doubt }) = files.pop() {
            let writer = Writer::open(name, path, file, self.shape, header);
            let next = writer.first_at(insert_from)?;
            if next == 1 {
                gone.push(writer.path);
                continue;
            }
            inner.newest = Some(writer.entry(next - 1)?.physical);
            inner.repair = (in_doubt || next < header.next).then_some(next);
            inner.writer = Some(writer);
            break;
        }
        inner.full = files.into_iter().map(|file| Full { name: file.name, header: file.header }).collect();
        Ok(())
    }

    /// Takes keys in, as many as there is room for, and says how many: of a record all or none. Records come in the
    /// order of the log, the keys of one record in one call; those of records that are there already need no room.
    pub fn insert(&self, keys: &[Hashed]) -> usize {
        let mut inner = self.inner.lock();
        let known = inner.newest.map_or(0, |newest| keys.partition_point(|key| key.physical <= newest));
        let new = &keys[known..];
        let room = PENDING_MAX.saturating_sub(inner.pending.len()).min(new.len());
        let is_whole = |n: &usize| new.get(*n).zip(new[..*n].last()).is_none_or(|(a, b)| a.physical != b.physical);
        let count = (0..=room).rev().find(is_whole).unwrap_or(0);
        let (before, after) = (inner.pending.len(), inner.pending.len() + count);
        if inner.pending.capacity() < after {
            inner.pending.reserve_exact((2 * before).clamp(after, PENDING_MAX) - before);
        }
        inner.pending.extend(&new[..count]);
        inner.newest = new[..count].last().map(|key| key.physical).or(inner.newest);
        known + count
    }

    /// Writes the keys of records below `below`, which must be at or before what is durable; all of them must have been
    /// inserted.
    pub fn flush(&self, below: PhysicalOffset) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        self.write(&mut inner, below)?;
        inner.flushed = inner.flushed.max(below);
        Ok(())
    }

    /// Writes them too, for room alone: what [`Self::sync`] says goes by [`Self::flush`].
    pub fn make_room(&self, below: PhysicalOffset) -> Result<(), Error> {
        self.write(&mut self.inner.lock(), below)
    }

    fn write(&self, inner: &mut Inner, below: PhysicalOffset) -> Result<(), Error> {
        inner.check()?;
        inner.incomplete = true;
        let result = self.write_below(inner, below);
        inner.note(&result);
        result?;
        inner.incomplete = false;
        Ok(())
    }

    fn write_below(&self, inner: &mut Inner, below: PhysicalOffset) -> Result<(), Error> {
        if inner.dir == DirState::Missing {
            self.disk.create_dir_all(&self.dir).map_err(Error::writing(&self.dir))?;
            inner.dir = DirState::Synced;
        }
        self.repair(inner)?;
        if inner.writer.as_ref().is_some_and(|w| !w.is_written()) {
            self.write_out(inner)?;
        }
        while let Some(key) = inner.pending.front().copied().filter(|key| key.physical < below.get()) {
            if inner.writer.as_ref().is_none_or(Writer::is_full) {
                self.roll(inner, key.stored_at)?;
            }
            let Some(writer) = &mut inner.writer else { break };
            if writer.is_written() {
                let mark = (writer.name.clone(), u64::from(writer.header.next));
                inner.doubts.list(inner.persisted, [mark])?;
            }
            writer.add(&key).map_err(Error::reading(&writer.path))?;
            inner.pending.pop_front();
        }
        if inner.pending.is_empty() {
            inner.pending.shrink_to(PENDING_MAX / 64);
        }
        if inner.writer.as_ref().is_some_and(|w| !w.is_written()) {
            self.write_out(inner)?;
        }
        Ok(())
    }

    fn write_out(&self, inner: &mut Inner) -> Result<(), Error> {
        let Some(writer) = &mut inner.writer else { return Ok(()) };
        // Before anything can fail: whatever was done to the file is synced before the round ends.
        if inner.unsynced.last().is_none_or(|(path, _)| *path != writer.path) {
            inner.unsynced.push((writer.path.clone(), writer.file.clone()));
        }
        writer.write().map_err(Error::writing(&writer.path))
    }

    /// Goes on with a new file.
    fn roll(&self, inner: &mut Inner, time: Timestamp) -> Result<(), Error> {
        self.write_out(inner)?;
        let before = inner.writer.as_ref().map(|w| (w.name.as_str(), w.header));
        let last = before.map(|(name, _)| name).or(inner.full.last().map(|full| full.name.as_str()));
        let name = file_name(time, last);
        let header = before.map(|(_, header)| header).or(inner.full.last().map(|full| full.header));
        inner.doubts.list(inner.persisted, [(name.clone(), 1)])?;
        inner.dir = DirState::Unsynced;
        let writer =
            Writer::create(&*self.disk, &self.dir, name, self.shape, header).map_err(Error::writing(&self.dir))?;
        inner.unsynced.push((writer.path.clone(), writer.file.clone()));
        if let Some(done) = inner.writer.replace(writer) {
            inner.full.push(Full { name: done.name, header: done.header });
        }
        Ok(())
    }

    /// Makes the file right that a crash left in doubt.
    fn repair(&self, inner: &mut Inner) -> Result<(), Error> {
        let (Some(next), Some(writer)) = (inner.repair, &mut inner.writer) else { return Ok(()) };
        inner.doubts.list(inner.persisted, [(writer.name.clone(), u64::from(next))])?;
        writer.repair(next).map_err(Error::writing(&writer.path))?;
        writer.file.sync().map_err(Error::syncing(&writer.path))?;
        self.disk.sync_dir(&self.dir).map_err(Error::syncing(&self.dir))?;
        inner.repair = None;
        inner.doubts.close();
        Ok(())
    }

    /// Makes durable what was flushed. Returns the position below which no record needs to be inserted again after a
    /// crash.
    pub fn sync(&self) -> Result<PhysicalOffset, Error> {
        let mut inner = self.inner.lock();
        inner.check()?;
        let result = self.sync_files(&mut inner);
        inner.note(&result);
        result?;
        if !inner.incomplete && inner.repair.is_none() {
            inner.doubts.close();
            inner.persisted = inner.flushed;
        }
        Ok(inner.persisted)
    }

    fn sync_files(&self, inner: &mut Inner) -> Result<(), Error> {
        for (path, file) in &inner.unsynced {
            file.sync().map_err(Error::syncing(path))?;
        }
        inner.unsynced.clear();
        if inner.dir == DirState::Unsynced {
            self.disk.sync_dir(&self.dir).map_err(Error::syncing(&self.dir))?;
            inner.dir = DirState::Synced;
        }
        Ok(())
    }

    /// Where records with this key, a store time in `window` and a place before `below` may lie, at most `max`. Only hashes
    /// are compared, and times by the second: the caller checks topic, key and time of the records. Times are of use only
    /// while the clock was never set back.
    pub fn query(
        &self,
        (topic, key): (&str, &str),
        window: RangeInclusive<Timestamp>,
        below: PhysicalOffset,
        max: usize,
    ) -> Result<Places, Error> {
        let mut inner = self.inner.lock();
        inner.check()?;
        let result = self.repair(&mut inner);
        inner.note(&result);
        result?;
        let hash = key_hash(topic, key);
        let below = below.get();
        let is_it = |p: &&Hashed| p.hash == hash && p.physical < below && window.contains(&p.stored_at);
        let waiting = inner.pending.iter().rev().filter(is_it);
        let found = waiting.take(max).map(|p| PhysicalOffset::new(p.physical)).collect();
        let slot = self.shape.slot_of(hash);
        let mut search = Search { hash, slot, shape: self.shape, window, below, max, found, cut_at: None };
        if let Some(writer) = &mut inner.writer {
            let (path, header) = (writer.path.clone(), writer.header);
            let newest = writer.first_of(hash).map_err(Error::reading(&path))?;
            search.follow(header, newest, |number| writer.entry(number)).map_err(Error::reading(&path))?;
        }
        for full in inner.full.iter().rev() {
            if !search.wants(&full.header) {
                continue;
            }
            let path = self.dir.join(&full.name);
            let mut in_file = || -> io::Result<()> {
                let file = self.disk.open(&path, Open::Read)?;
                let mut first = [0; 4];
                file.read_into(self.shape.slot_at(slot), &mut first)?;
                let newest = u32::from_be_bytes(first);
                search.follow(full.header, newest, |number| read_entry(&*file, self.shape, number))
            };
            in_file().map_err(Error::reading(&path))?;
        }
        Ok(Places { found: search.found, cut_at: search.cut_at.map(PhysicalOffset::new) })
    }

    /// Removes files whose records all lie before the log's beginning. The one being written stays.
    pub fn delete_before(&self, log_min: PhysicalOffset) -> Result<(), Error> {
        let mut inner = self.inner.lock();
        while let Some(oldest) = inner.full.first()
            && oldest.header.end < log_min.get()
        {
            let path = self.dir.join(&oldest.name);
            match self.disk.remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::removing(&path)(e)),
                _ => {}
            }
            inner.unsynced.retain(|(unsynced, _)| *unsynced != path);
            inner.full.remove(0);
        }
        Ok(())
    }
}

impl Inner {
    fn check(&self) -> Result<(), Error> {
        if self.failed { Err(Error::Failed) } else { Ok(()) }
    }

    fn note<T>(&mut self, result: &Result<T, Error>) {
        self.failed |= matches!(result, Err(Error::Sync { .. }));
    }
}

struct Search {
    hash: u32,
    slot: u32,
    shape: Shape,
    window: RangeInclusive<Timestamp>,
    below: u64,
    max: usize,
    found: Vec<PhysicalOffset>,
    cut_at: Option<u64>,
}

impl Search {
    /// Whether a file with this header may have more.
    fn wants(&self, header: &Header) -> bool {
        let (begin, end) = (self.window.start().as_millis(), self.window.end().as_millis());
        let may_have = header.begin_time <= end && header.end_time >= begin && header.begin < self.below;
        may_have && self.found.len() < self.max && self.cut_at.is_none()
    }

    /// The entry of the slot to begin with: the newest, or if what is sought lies further back one near to it. A slot that has
    /// none there has few.
    fn first(&self, header: &Header, newest: u32, entry: &mut impl FnMut(u32) -> io::Result<Entry>) -> io::Result<u32> {
        if !(header.begin..=header.end).contains(&self.below) {
            return Ok(newest);
        }
        let (mut low, mut high) = (1, header.next);
        while low < high {
            let middle = low + (high - low) / 2;
            if entry(middle)?.physical < self.below { low = middle + 1 } else { high = middle }
        }
        for number in (1..low).rev().take(BACK_MAX) {
            if self.shape.slot_of(entry(number)?.hash) == self.slot {
                return Ok(number);
            }
        }
        Ok(newest)
    }

    /// Follows the entries of one slot, newest first.
    fn follow(
        &mut self,
        header: Header,
        newest: u32,
        mut entry: impl FnMut(u32) -> io::Result<Entry>,
    ) -> io::Result<()> {
        if !self.wants(&header) {
            return Ok(());
        }
        let (begin, end) = (self.window.start().as_millis(), self.window.end().as_millis());
        let mut number = self.first(&header, newest, &mut entry)?;
        let mut hops = 0;
        // Numbers fall along a chain, so a damaged one ends too.
        while number > 0 && number < header.next && self.found.len() < self.max {
            let Entry { hash, physical, time_diff, before } = entry(number)?;
            let earliest = header.latest(time_diff) - 999;
            let in_time = earliest <= end && header.latest(time_diff) >= begin;
            if hash == self.hash && physical < self.below && in_time {
                self.found.push(PhysicalOffset::new(physical));
            }
            if before >= number {
                break;
            }
            (number, hops) = (before, hops + 1);
            if hops >= CHAIN_MAX && physical < self.below {
                self.cut_at = Some(physical);
                break;
            }
        }
        Ok(())
    }
}
