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

/// Bytes by which a segment is written ahead at least, so that a small append does not do it each time.
const STRETCH: u64 = 64 << 10;
/// What is written ahead at once. Larger writes cost less each, and make larger folios in the page cache. A record that
/// is copied through a map dirties its whole folio; that is done with ASYNC_FLUSH only, where one sync serves many
/// records. With SYNC_FLUSH they are written by calls, which dirty single blocks.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A file of fixed length whose name is the physical offset of its first byte. Its bytes up to
/// [`Self::written_ahead`] were really written, data or zeros: the file system has blocks for them, so that a write
/// there neither runs out of space nor changes the file's metadata. Nothing but zeros lies behind the log's end.
pub(super) struct Segment {
    base: PhysicalOffset,
    len: u64,
    file: Arc<dyn File>,
    written_ahead: AtomicU64,
    /// Held by whoever writes ahead.
    extending: Mutex<()>,
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
        Self { base, len, file, written_ahead: AtomicU64::new(written), extending: Mutex::new(()) }
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

    pub(super) fn write(&self, at: PhysicalOffset, bytes: &[u8]) -> io::Result<()> {
        debug_assert!(self.local(at) + bytes.len() as u64 <= self.written_ahead());
        self.file.write(self.local(at), bytes)
    }

    /// [`Self::write`] for many small writes that are synced now and then.
    pub(super) fn overwrite(&self, at: PhysicalOffset, bytes: &[u8]) -> io::Result<()> {
        debug_assert!(self.local(at) + bytes.len() as u64 <= self.written_ahead());
        self.file.overwrite(self.local(at), bytes)
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

    /// Bytes from the start that have their blocks.
    pub(super) fn written_ahead(&self) -> u64 {
        self.written_ahead.load(Ordering::Acquire)
    }

    /// Writes zeros until the first `to` bytes have their blocks. Done by the appender when the background is late.
    pub(super) fn extend(&self, to: u64) -> io::Result<()> {
        let _one = self.extending.lock();
        let to = to.min(self.len);
        if self.written_ahead() >= to {
            return Ok(());
        }
        let stretch = (self.written_ahead() + STRETCH).max(to).min(self.len);
        while self.written_ahead() < stretch {
            let at = self.written_ahead();
            let piece = (ZEROS.len() as u64 - at % ZEROS.len() as u64).min(stretch - at);
            match self.file.write(at, &ZEROS[..piece as usize]) {
                Ok(()) => self.written_ahead.store(at + piece, Ordering::Release),
                // More than was asked for did not fit: what was asked for is there.
                Err(e) if at >= to && is_full(&e) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
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
