//! The disk, handed in: the machine's file system, or the simulated one of the tests.
//!
//! A file's bytes are kept by a crash only after [`File::sync`]; its name only after [`Disk::sync_dir`] of its
//! directory. Every promise of the store rests on those two calls.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    /// What an unprivileged process may still use.
    pub free: u64,
}

impl Space {
    /// The one of which the larger part is used.
    pub(super) fn scarcer(self, other: Self) -> Self {
        let free_of = |part: Self, whole: Self| u128::from(part.free) * u128::from(whole.total);
        if free_of(other, self) < free_of(self, other) { other } else { self }
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// It must exist; reading only.
    Read,
    /// It must exist; reading and writing.
    Write,
    /// It must not exist.
    Create,
}

/// A directory tree that files live in.
pub trait Disk: Send + Sync + 'static {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>>;
    /// Makes the directory and its parents, durably: each new entry's parent is synced.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Names in a directory, sorted; `Ok(empty)` when there is no such directory.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    fn exists(&self, path: &Path) -> io::Result<bool>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Replaces `to` atomically.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Takes the exclusive lock on a file, made if need be, until the guard is dropped. `Err(WouldBlock)` when another
    /// process has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
}

/// One open file. All calls may come from several threads.
#[expect(clippy::len_without_is_empty, reason = "the length is read from the disk and may fail")]
pub trait File: Send + Sync {
    fn path(&self) -> PathBuf;
    fn len(&self) -> io::Result<u64>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Exactly `len` bytes at `at`; zero-copy where the file is mapped. The range must lie below bytes that were
    /// written and are not written again while the slice lives.
    fn read(&self, at: u64, len: usize) -> io::Result<Bytes>;
    /// Fills `buf` from `at`.
    fn read_into(&self, at: u64, buf: &mut [u8]) -> io::Result<()>;
    /// Writes all of `bytes` at `at`.
    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// The same through a map, where [`Self::allocate`] gave the range its blocks: cheaper, but whole pieces of the file
    /// count as written with it. `false`, and nothing is written, where that cannot be done. One caller at a time.
    fn write_mapped(&self, _at: u64, _bytes: &[u8]) -> bool {
        false
    }
    /// Prepares a range for [`Self::write_mapped`], from any thread. `false` where that writes nothing.
    fn make_ready(&self, _at: u64, _len: u64) -> bool {
        false
    }
    /// No more is written: lets go of what only [`Self::write_mapped`] needed.
    fn finish(&self) {}
    /// Gives a range within the file its blocks without writing them: what was not written there before reads as zeros,
    /// and a write there finds room. `Err(Unsupported)` where only writing does so.
    fn allocate(&self, at: u64, len: u64) -> io::Result<()>;
    /// Returns once every byte written before the call is on the device, and the length with it.
    fn sync(&self) -> io::Result<()>;
    /// Asks the kernel to start writing a range back, without waiting.
    fn write_back(&self, at: u64, len: u64) -> io::Result<()>;
}
