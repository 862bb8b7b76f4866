//! A disk in memory that keeps only what POSIX promises: for tests, where the real store runs over it.
//!
//! What was synced is kept apart from what was only written. Reads see everything that was written (the page cache).
//! When the power goes ([`SimDisk::crash`]), each unsynced 512-byte sector is kept, dropped or torn by itself, and so
//! is each unsynced file length, created name, removed name and rename. Every change has a number
//! ([`SimDisk::ops`]), so that a test can take the power away at each of them ([`SimDisk::crash_at`]).
//!
//! It is compiled always and used by tests only, so that `cargo test` needs no feature; the linker drops it from the
//! server.

mod crash;
mod data;
mod state;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};

use super::disk::{Disk, File, Open, Space};

pub use crash::CrashChoice;
use state::{Change, State};

/// Bytes that a disk without [`SimDisk::set_capacity`] claims to have.
const CAPACITY_DEFAULT: u64 = 1 << 40;

/// The simulated disk. Clones share it.
#[derive(Clone, Default)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    stall: Arc<Stall>,
}

/// Where file syncs wait while the device does not answer.
#[derive(Default)]
struct Stall {
    stalled: Mutex<bool>,
    over: Condvar,
}

impl Stall {
    fn set(&self, stalled: bool) {
        *self.stalled.lock() = stalled;
        self.over.notify_all();
    }

    fn wait(&self) {
        let mut stalled = self.stalled.lock();
        while *stalled {
            self.over.wait(&mut stalled);
        }
    }
}

impl SimDisk {
    /// An empty disk that works.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the power away and gives it back: what was not synced is kept, dropped or torn as the seed says. Every
    /// handle and lock from before is dead.
    pub fn crash(&self, seed: u64) {
        self.crash_with(CrashChoice::Random(seed));
    }

    /// [`SimDisk::crash`] with a chosen outcome.
    pub fn crash_with(&self, choice: CrashChoice) {
        self.state.lock().crash(choice);
    }

    /// Another disk, as this one would be if its power went now. This one goes on undisturbed, so one run of a history
    /// serves many crash points. Memory is shared until either disk writes.
    pub fn crashed(&self, choice: CrashChoice) -> Self {
        let mut state = self.state.lock().clone();
        state.crash(choice);
        Self { state: Arc::new(Mutex::new(state)), stall: Arc::default() }
    }

    /// How many changes were tried so far: writes, allocations, set_len, sync, create, rename, remove, sync_dir and the single steps of
    /// making and removing a directory tree.
    pub fn ops(&self) -> u64 {
        self.state.lock().ops
    }

    /// The change with this number (from 0, as [`SimDisk::ops`] counts) meets the power failure: it may or may not
    /// reach the device, and it and everything later fails until [`SimDisk::crash`].
    pub fn crash_at(&self, op: u64) {
        self.state.lock().power_ends_at = Some(op);
    }

    /// Lets `n` more changes succeed, then the power fails.
    pub fn fail_after(&self, n: u64) {
        let mut state = self.state.lock();
        state.power_ends_at = Some(state.ops + n);
    }

    /// True between the failing of the power and the crash.
    pub fn is_off(&self) -> bool {
        self.state.lock().off
    }

    /// The next file sync fails, and the kernel forgets that the file's bytes were dirty: later syncs of it succeed
    /// without those bytes ever reaching the device, as on Linux.
    pub fn fail_sync_once_then_lie(&self) {
        self.state.lock().next_sync_fails = Some(None);
    }

    /// The same of the next sync of the log: what the store syncs besides, by itself, is not what fails.
    pub fn fail_log_sync_once_then_lie(&self) {
        self.state.lock().next_sync_fails = Some(Some("commitlog"));
    }

    /// The next directory sync fails; the names that it was to keep are as unsynced as before.
    pub fn fail_sync_dir_once(&self) {
        self.state.lock().next_sync_dir_fails = true;
    }

    /// The next removal of a file fails, and the file stays.
    pub fn fail_remove_once(&self) {
        self.state.lock().next_remove_fails = true;
    }

    /// The device does not give these bytes of a file back: whoever reads one of them gets an error. `None`: all are well.
    pub fn set_bad(&self, bad: Option<(PathBuf, std::ops::Range<u64>)>) {
        self.state.lock().bad = bad;
    }

    /// Bytes read since the disk was made.
    pub fn bytes_read(&self) -> u64 {
        self.state.lock().bytes_read
    }

    /// Files synced since the disk was made, one count for each call.
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// Has [`Disk::space`] say this of a directory and what lies below, as if it were on a disk of its own.
    pub fn set_elsewhere(&self, dir: impl Into<PathBuf>, space: Space) {
        let (dir, mut state) = (dir.into(), self.state.lock());
        state.elsewhere.retain(|(there, _)| *there != dir);
        state.elsewhere.push((dir, space));
    }

    /// The device does not answer: from now on every file sync waits, until [`SimDisk::answer_syncs`].
    pub fn stall_syncs(&self) {
        self.stall.set(true);
    }

    /// Lets the syncs that [`SimDisk::stall_syncs`] holds go on.
    pub fn answer_syncs(&self) {
        self.stall.set(false);
    }

    /// Bytes that the disk holds. Writes and allocations that need new 4 KiB blocks beyond it fail with ENOSPC and do
    /// nothing; overwriting and `set_len` never do.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity = Some(bytes);
    }

    /// Blocks are had by writing only, as on file systems without `fallocate`.
    pub fn refuse_allocations(&self) {
        self.state.lock().refuses_allocations = true;
    }

    /// Flips one bit on the device and in the cache. `bit` is 0 to 7, 0 the lowest.
    pub fn flip_bit(&self, path: impl AsRef<Path>, byte: u64, bit: u8) -> io::Result<()> {
        self.state.lock().flip_bit(path.as_ref(), byte, bit)
    }

    /// Bytes of the blocks in use.
    pub fn used(&self) -> u64 {
        self.state.lock().used()
    }
}

struct SimFile {
    state: Arc<Mutex<State>>,
    stall: Arc<Stall>,
    node: u64,
    /// Of the disk when this was opened: a crash makes another.
    generation: u64,
    path: PathBuf,
    writable: bool,
    /// Keeps the node of a removed file while it is open.
    _open: Arc<()>,
}

impl SimFile {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        state.check_power()?;
        if state.generation != self.generation {
            return Err(io::Error::other("this handle is from before the crash"));
        }
        f(&mut state)
    }

    fn change(&self, change: Change, f: impl FnOnce(&mut State) -> io::Result<()>) -> io::Result<()> {
        if !self.writable {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "opened for reading only"));
        }
        self.with(|state| state.change(change, f))
    }
}

impl File for SimFile {
    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.file(self.node).len()))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Cached, |state| {
            state.file(self.node).set_len(len);
            Ok(())
        })
    }

    fn read(&self, at: u64, len: usize) -> io::Result<Bytes> {
        let mut buf = vec![0; len];
        self.read_into(at, &mut buf)?;
        Ok(buf.into())
    }

    fn read_into(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        self.with(|state| {
            state.bytes_read += buf.len() as u64;
            let is_bad = |(path, bytes): &(PathBuf, std::ops::Range<u64>)| {
                *path == self.path && at < bytes.end && bytes.start < at + buf.len() as u64
            };
            if state.bad.as_ref().is_some_and(is_bad) {
                return Err(io::Error::other("the device cannot read this"));
            }
            state.file(self.node).read(at, buf)
        })
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(Change::Cached, |state| state.write(self.node, at, bytes))
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        self.change(Change::Cached, |state| state.allocate(self.node, at, len))
    }

    fn sync(&self) -> io::Result<()> {
        self.stall.wait();
        self.change(Change::Device, |state| state.sync_file(self.node))
    }

    fn write_back(&self, _at: u64, _len: u64) -> io::Result<()> {
        self.with(|_| Ok(()))
    }
}

/// A lock on a path, until it is dropped or the power fails.
struct SimLock {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    generation: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.generation == self.generation {
            state.locks.remove(&self.path);
        }
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        state.check_power()?;
        let node = match how {
            Open::Create => state.create(path)?,
            Open::Read | Open::Write => state.find_file(path)?,
        };
        let generation = state.generation;
        let open = state.file(node).opened();
        drop(state);
        Ok(Arc::new(SimFile {
            state: self.state.clone(),
            stall: self.stall.clone(),
            node,
            generation,
            path: path.to_owned(),
            writable: how != Open::Read,
            _open: open,
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.state.lock().create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.state.lock().list(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state.lock();
        state.check_power()?;
        Ok(state.find(path)?.is_some())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.state.lock().remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.state.lock().remove_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state.lock().rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.state.lock().sync_dir(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let state = self.state.lock();
        state.check_power()?;
        if let Some((_, space)) = state.elsewhere.iter().find(|(dir, _)| path.starts_with(dir)) {
            return Ok(*space);
        }
        let total = state.capacity.unwrap_or(CAPACITY_DEFAULT);
        Ok(Space { total, free: total.saturating_sub(state.used()) })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.state.lock();
        state.check_power()?;
        if state.find(path)?.is_none() {
            state.create(path)?;
        }
        if !state.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let generation = state.generation;
        drop(state);
        Ok(Box::new(SimLock { state: self.state.clone(), path: path.to_owned(), generation }))
    }
}
