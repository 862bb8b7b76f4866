//! One file of the CommitLog.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    disk::{Disk, File, Open},
    faults::{Fault, planted},
};
use crate::types::PhysicalOffset;

/// Bytes of blocks that are taken at least, so that a small append does not do it each time.
const STRETCH: u64 = 64 << 10;
/// Bytes of one write, and what its place in the file is cut at. The page cache takes memory for all of a write at
/// once, and the kernel has pieces of up to 32 KiB at hand for each core; larger ones cost up to four times as much.
const PIECE: u64 = 32 << 10;
static ZEROS: [u8; PIECE as usize] = [0; PIECE as usize];

/// A file of fixed length whose name is the physical offset of its first byte. Nothing but zeros lies behind the log's
/// end. From the start of the file on there are two stretches, the second at least as long as the first:
///
/// - up to [`Self::written`] bytes were really written, data or zeros: a write there does not change the file's
///   metadata, and a sync writes one block for a small record and no journal;
/// - up to [`Self::backed`] the file system has blocks: a write there does not run out of space.
pub(super) struct Segment {
    base: PhysicalOffset,
    len: u64,
    file: Arc<dyn File>,
    written: AtomicU64,
    backed: AtomicU64,
    /// Held by whoever writes zeros, or data where zeros may be written.
    zeroing: Mutex<()>,
    /// Held by whoever takes blocks. Not needed to write: that may take long.
    backing: Mutex<()>,
}

impl Segment {
    pub(super) fn path(dir: &Path, base: PhysicalOffset) -> PathBuf {
        dir.join(format!("{:020}", base.get()))
    }

    /// Makes the file, sparse, and makes it last: length and name are on the device when this returns.
    pub(super) fn create(disk: &dyn Disk, dir: &Path, base: PhysicalOffset, len: u64) -> io::Result<Self> {
        let path = Self::path(dir, base);
        let file = match disk.open(&path, Open::Create) {
            // Left by an attempt that failed half way. Nothing was ever written to it.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => disk.open(&path, Open::Write)?,
            other => other?,
        };
        file.set_len(len)?;
        file.sync()?;
        if !planted(Fault::NoDirSync) {
            disk.sync_dir(dir)?;
        }
        Ok(Self::over(file, base, len, 0))
    }

    /// A file that is there and has its length, of which the first bytes were really written.
    pub(super) fn over(file: Arc<dyn File>, base: PhysicalOffset, len: u64, written: u64) -> Self {
        let (written, backed) = (AtomicU64::new(written), AtomicU64::new(written));
        Self { base, len, file, written, backed, zeroing: Mutex::default(), backing: Mutex::default() }
    }

    /// The same file, with the log's end in it.
    pub(super) fn ending_at(&self, end: PhysicalOffset) -> Self {
        let written = if planted(Fault::TruncateInMemory) { self.len } else { self.local(end) };
        Self::over(self.file.clone(), self.base, self.len, written)
    }

    pub(super) fn base(&self) -> PhysicalOffset {
        self.base
    }

    /// The position behind its last byte.
    pub(super) fn end(&self) -> PhysicalOffset {
        self.base.plus(self.len)
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Where a position lies in the file.
    pub(super) fn local(&self, at: PhysicalOffset) -> u64 {
        self.base.until(at)
    }

    pub(super) fn read(&self, at: PhysicalOffset, len: usize) -> io::Result<Bytes> {
        self.file.read(self.local(at), len)
    }

    /// Reads without the mapping: an unreadable sector is an error here and a signal there.
    pub(super) fn read_into(&self, at: PhysicalOffset, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_into(self.local(at), buf)
    }

    /// Writes behind what was written, or over the zeros there. One caller at a time.
    pub(super) fn write(&self, at: PhysicalOffset, bytes: &[u8]) -> io::Result<()> {
        self.put(at, bytes, |at| self.write_pieces(at, bytes))
    }

    /// The same, where much is written until the next sync.
    pub(super) fn write_mapped(&self, at: PhysicalOffset, bytes: &[u8]) -> io::Result<()> {
        self.put(at, bytes, |at| match self.file.write_mapped(at, bytes) {
            true => Ok(()),
            false => self.write_pieces(at, bytes),
        })
    }

    fn write_pieces(&self, mut at: u64, mut rest: &[u8]) -> io::Result<()> {
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(rest.len().min((PIECE - at % PIECE) as usize));
            self.file.write(at, piece)?;
            (at, rest) = (at + piece.len() as u64, behind);
        }
        Ok(())
    }

    fn put(&self, at: PhysicalOffset, bytes: &[u8], write: impl FnOnce(u64) -> io::Result<()>) -> io::Result<()> {
        let from = self.local(at);
        let to = from + bytes.len() as u64;
        debug_assert!(from <= self.written() && to <= self.backed());
        // Where zeros may be on their way, they must not come after the data.
        let _one = (to > self.written()).then(|| self.zeroing.lock());
        write(from)?;
        self.written.fetch_max(to, Ordering::Release);
        Ok(())
    }

    /// Prepares for [`Self::write_mapped`], as far as there are blocks; `false` where that needs nothing.
    pub(super) fn make_ready(&self, at: u64, len: u64) -> bool {
        self.file.make_ready(at, len.min(self.backed().saturating_sub(at)))
    }

    /// No more is written to it: lets go of what [`Self::write_mapped`] needed.
    pub(super) fn finish(&self) {
        self.file.finish();
    }

    /// Writes what is there already, so that the next sync counts it.
    pub(super) fn rewrite(&self, at: PhysicalOffset, bytes: &[u8]) -> io::Result<()> {
        self.file.write(self.local(at), bytes)
    }

    /// Once it failed it must not be called again: the kernel then counts the lost pages as clean, and would say yes.
    pub(super) fn sync(&self) -> io::Result<()> {
        let first = self.file.sync();
        if first.is_err() && planted(Fault::RetrySync) { self.file.sync() } else { first }
    }

    /// Bytes from the start that were written, data or zeros.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Bytes from the start that have their blocks.
    pub(super) fn backed(&self) -> u64 {
        self.backed.load(Ordering::Acquire)
    }

    /// Takes blocks until the first `to` bytes have theirs. Done by the appender when the background is late.
    pub(super) fn back(&self, to: u64) -> io::Result<()> {
        let to = to.min(self.len);
        if self.backed() >= to {
            return Ok(());
        }
        let one = self.backing.lock();
        let from = self.backed();
        if from >= to {
            return Ok(());
        }
        let stretch = (from + STRETCH).max(to).min(self.len);
        let taken = match self.file.allocate(from, stretch - from) {
            // What was asked for may fit.
            Err(e) if is_full(&e) && to < stretch => self.file.allocate(from, to - from).map(|()| to),
            other => other.map(|()| stretch),
        };
        match taken {
            Ok(to) => self.backed.fetch_max(to, Ordering::Release),
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                // Whoever needs fewer does not wait for all of them.
                drop(one);
                return self.zero(to);
            }
            Err(e) => return Err(e),
        };
        Ok(())
    }

    /// Writes zeros until the first `to` bytes were written. A writer of data may be faster, and waits for one write at
    /// most.
    pub(super) fn zero(&self, to: u64) -> io::Result<()> {
        let to = to.min(self.len);
        loop {
            let _one = self.zeroing.lock();
            let at = self.written();
            if at >= to {
                return Ok(());
            }
            // Whole pieces where there is room.
            let piece = (PIECE - at % PIECE).min(self.len - at);
            let written = match self.file.write(at, &ZEROS[..piece as usize]) {
                Err(e) if is_full(&e) && at + piece > to => {
                    self.file.write(at, &ZEROS[..(to - at) as usize]).map(|()| to)
                }
                other => other.map(|()| at + piece),
            };
            self.written.store(written?, Ordering::Release);
            self.backed.fetch_max(self.written(), Ordering::Release);
        }
    }

    /// Asks the kernel to start writing what lies in the range.
    pub(super) fn write_back(&self, from: PhysicalOffset, to: PhysicalOffset) -> io::Result<()> {
        self.file.write_back(self.local(from), from.until(to.min(self.end())))
    }

    /// Makes everything from `at` on zeros, on the device. Cutting the file short and making it long again does so
    /// without reading or writing what lies there, and a crash between the two leaves a short file, which opening
    /// makes long again.
    pub(super) fn cut(&self, at: PhysicalOffset) -> io::Result<()> {
        if planted(Fault::TruncateInMemory) {
            return Ok(());
        }
        self.file.set_len(self.local(at))?;
        self.file.set_len(self.len)?;
        self.file.sync()
    }
}

/// True when an error means that there is no room, and nothing else is wrong.
pub(super) fn is_full(error: &io::Error) -> bool {
    use rustix::io::Errno;
    // A process without a free file descriptor has one again when a connection closes.
    let no_descriptor = [Errno::MFILE, Errno::NFILE].iter().any(|e| error.raw_os_error() == Some(e.raw_os_error()));
    no_descriptor || matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests;
