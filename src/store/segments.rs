//! The CommitLog's files in order.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};

use super::{
    disk::{Disk, Open},
    segment::Segment,
};
use crate::types::PhysicalOffset;

/// Equal-sized files, each starting where the one before it ends. The first goes when retention says so; a new last
/// one is made before the log needs it.
pub(super) struct Segments {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    list: RwLock<VecDeque<Arc<Segment>>>,
    /// Held by whoever makes a file.
    making: Mutex<()>,
}

impl Segments {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf, segment_bytes: u64) -> Self {
        Self { disk, dir, segment_bytes, list: RwLock::default(), making: Mutex::new(()) }
    }

    /// Opens the files that are there; those of a wrong length are made right first if they are last, since a crash
    /// leaves that between making a file and using it, or between two steps of a cut.
    ///
    /// # Errors
    /// [`LoadError::Length`] and [`LoadError::Hole`] name the first file that does not fit.
    pub(super) fn load(&self) -> Result<(), LoadError> {
        let mut list = VecDeque::new();
        let bases: Vec<u64> = (self.disk.list(&self.dir)?.iter())
            .filter(|name| name.len() == 20 && name.bytes().all(|b| b.is_ascii_digit()))
            .filter_map(|name| name.parse().ok())
            .collect();
        for (i, base) in bases.iter().enumerate() {
            let path = Segment::path(&self.dir, PhysicalOffset::new(*base));
            let file = self.disk.open(&path, Open::Write)?;
            let len = file.len()?;
            if len < self.segment_bytes && i + 1 == bases.len() {
                file.set_len(self.segment_bytes)?;
                file.sync()?;
            } else if len != self.segment_bytes {
                return Err(LoadError::Length { path, len });
            }
            if i > 0 && bases[i - 1] + self.segment_bytes != *base {
                return Err(LoadError::Hole { path, expected: bases[i - 1] + self.segment_bytes });
            }
            list.push_back(Arc::new(Segment::over(file, PhysicalOffset::new(*base), self.segment_bytes, 0)));
        }
        *self.list.write() = list;
        Ok(())
    }

    pub(super) fn segment_bytes(&self) -> u64 {
        self.segment_bytes
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn all(&self) -> Vec<Arc<Segment>> {
        self.list.read().iter().cloned().collect()
    }

    /// The first `n`.
    pub(super) fn oldest(&self, n: usize) -> Vec<Arc<Segment>> {
        self.list.read().iter().take(n).cloned().collect()
    }

    pub(super) fn first(&self) -> Option<Arc<Segment>> {
        self.list.read().front().cloned()
    }

    /// The file that a position lies in.
    pub(super) fn find(&self, at: PhysicalOffset) -> Option<Arc<Segment>> {
        let list = self.list.read();
        let first = list.front()?.base();
        let nth = at.get().checked_sub(first.get())? / self.segment_bytes;
        list.get(usize::try_from(nth).ok()?).cloned()
    }

    /// The file that starts at a position, made if it is not there. It must be where the last one ends.
    pub(super) fn make(&self, base: PhysicalOffset) -> io::Result<Arc<Segment>> {
        let _one = self.making.lock();
        if let Some(there) = self.find(base) {
            return Ok(there);
        }
        let segment = Arc::new(Segment::create(&*self.disk, &self.dir, base, self.segment_bytes)?);
        self.list.write().push_back(segment.clone());
        Ok(segment)
    }

    /// Says that the log ends at a position of this file, so that room is taken from there on.
    pub(super) fn ends_in(&self, segment: &Arc<Segment>, end: PhysicalOffset) -> Arc<Segment> {
        let known = Arc::new(segment.ending_at(end));
        if let Some(slot) = self.list.write().iter_mut().find(|s| s.base() == segment.base()) {
            *slot = known.clone();
        }
        known
    }

    /// Removes the files that start at or behind a position, last first, so that a crash leaves no hole.
    pub(super) fn remove_from(&self, at: PhysicalOffset) -> io::Result<()> {
        let mut gone = false;
        while let Some(last) = self.list.write().pop_back_if(|s| s.base() >= at) {
            self.disk.remove_file(&Segment::path(&self.dir, last.base()))?;
            gone = true;
        }
        if gone { self.disk.sync_dir(&self.dir) } else { Ok(()) }
    }

    /// Removes the first file, which starts at `base`. Whoever still reads in it keeps its bytes.
    pub(super) fn remove_first(&self, base: PhysicalOffset) -> io::Result<()> {
        if self.list.read().front().is_none_or(|first| first.base() != base) {
            return Ok(());
        }
        // A file that could not be removed stays the first: the next one must not go before it.
        self.disk.remove_file(&Segment::path(&self.dir, base))?;
        self.list.write().pop_front_if(|first| first.base() == base);
        self.disk.sync_dir(&self.dir)
    }
}

/// Why the files are no log.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{path} has {len} bytes")]
    Length { path: PathBuf, len: u64 },
    #[error("{path} does not start where the one before it ends ({expected})")]
    Hole { path: PathBuf, expected: u64 },
}
