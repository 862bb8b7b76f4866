//! The one file of the library with `unsafe`: a file mapped for reading, handed out as [`Bytes`] that keep the map alive;
//! a file mapped for writing; what is said when a page of a map is lost; and a call to the system.
//!
//! Please leave it alone unless the facts below still hold after your change.

use std::{
    fs::File,
    io,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw};
use parking_lot::Mutex;

/// Maps the first `len` bytes of a file. The map ends when the last slice of it is dropped, also when the file was
/// removed in between.
///
/// # Errors
/// What `mmap` says; `len` must not be 0.
#[expect(unsafe_code, reason = "a shared file map is only as constant as its file; see the proof inside")]
pub(super) fn map(file: &File, len: usize) -> io::Result<Bytes> {
    // SAFETY: a slice of this map must never change or vanish while somebody holds it.
    // - Who writes: the directory is locked against other processes, and the store writes a file's byte only once before
    //   it publishes the position behind it (a record is read only below the dispatched mark).
    // - Who reads: `File::read` alone hands out slices, and its contract asks for a range that is not written again.
    // - What keeps it mapped: the map is the owner of the `Bytes`; a file that is mapped is never shortened below a
    //   range that was handed out (recovery cuts the tail before anything is read through a map).
    let map = unsafe { MmapOptions::new().len(len).map(file)? };
    Ok(Bytes::from_owner(map))
}

/// Bytes of pages that a writer who finds none ready makes ready at least. The kernel then takes them in large pieces,
/// which is most of what such a map saves.
const STEP: usize = 256 << 10;

/// A file mapped to be written behind what was written.
///
/// A write into pages that are ready takes half the time of one by a call: the page cache is filled in pieces of up to
/// 128 KiB, no lock of the file is taken, and the kernel has less to do when it writes them back. Whole pieces count as
/// written then, so it is not for small records that are each synced.
pub(super) struct WriteMap {
    map: MmapRaw,
    /// Up to here, from the last write on, the pages were made ready.
    ready: AtomicUsize,
    /// Held by the one who writes.
    writer: Mutex<()>,
}

impl WriteMap {
    /// Maps the first `len` bytes, the file's length.
    ///
    /// # Errors
    /// Also where a file system does not promise that a write into a map finds room in blocks that are there.
    pub(super) fn new(file: &File, len: u64) -> io::Result<Self> {
        if !is_in_place(file)? {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            map: MmapOptions::new().len(len).map_raw(file)?,
            ready: AtomicUsize::new(0),
            writer: Mutex::default(),
        })
    }

    /// Writes `bytes`, which have their blocks; nothing when it fails.
    ///
    /// # Errors
    /// The pages cannot be had, for which the kernel has one error whatever the reason is.
    #[expect(unsafe_code, reason = "a map of a file is written through a pointer; see the proof inside")]
    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let range = self.range(at, bytes.len() as u64)?;
        let _one = self.writer.lock();
        if range.end > self.ready.load(Ordering::Relaxed) {
            let step = (range.end.next_multiple_of(STEP) - range.start) as u64;
            // Behind the range there may be no blocks.
            self.make_ready(at, step).or_else(|_| self.make_ready(at, bytes.len() as u64))?;
        }
        // SAFETY: the range lies within the map, which lives as long as `self`, and nobody has a reference to its memory.
        // - Writers: here alone, one at a time. Zeros that a call writes keep away from data (`Segment` has a lock for it).
        // - Readers have other maps of the same file. They may share a page with what is written here, never a byte: they
        //   read below what was published, and the store writes a byte only before it publishes the position behind it.
        // - A file is not made shorter while it is mapped for writing (`RealFile::set_len` drops the map before).
        unsafe { self.map.as_mut_ptr().add(range.start).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    /// Has the kernel take the pages of a range, or of the part of it that the file has, for writing, and say so if it
    /// cannot: a write into a page that cannot be had ends the process. What was written back since is taken anew by the
    /// write itself; its blocks are there.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(super) fn make_ready(&self, at: u64, len: u64) -> io::Result<()> {
        let range = self.range(at, len.min((self.map.len() as u64).saturating_sub(at)))?;
        let from = self.ready.load(Ordering::Relaxed).clamp(range.start, range.end);
        if from < range.end {
            populate(&self.map, from, range.end - from)?;
            self.ready.fetch_max(range.end, Ordering::Relaxed);
        }
        Ok(())
    }

    fn range(&self, at: u64, len: u64) -> io::Result<Range<usize>> {
        let end = at.checked_add(len).filter(|end| *end <= self.map.len() as u64);
        end.map(|end| at as usize..end as usize).ok_or(io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(target_os = "linux")]
fn populate(map: &MmapRaw, at: usize, len: usize) -> io::Result<()> {
    map.advise_range(memmap2::Advice::PopulateWrite, at, len)
}

#[cfg(not(target_os = "linux"))]
fn populate(_map: &MmapRaw, _at: usize, _len: usize) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// True on file systems that write a block again where it lies, so that blocks once taken are room enough: ext4, and XFS
/// but for blocks that another file shares (`cp` of a live log).
#[cfg(target_os = "linux")]
pub(super) fn is_in_place(file: &File) -> io::Result<bool> {
    const EXT4: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    Ok(matches!(rustix::fs::fstatfs(file)?.f_type as u64, EXT4 | XFS))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_in_place(_file: &File) -> io::Result<bool> {
    Ok(false)
}

/// Starts writing a range of a file back to the device and does not wait for it.
///
/// It takes no note of earlier write errors, so the sync that follows still reports them.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no crate in use wraps sync_file_range")]
pub(super) fn write_back(file: &File, at: u64, len: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let past = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let (at, len) = (i64::try_from(at).map_err(past)?, i64::try_from(len).map_err(past)?);
    // SAFETY: the descriptor is open for the whole call, since `file` is borrowed, and no memory is passed.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), at, len, libc::SYNC_FILE_RANGE_WRITE) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// There is no such call here; the next sync writes everything.
#[cfg(not(target_os = "linux"))]
pub(super) fn write_back(_file: &File, _at: u64, _len: u64) -> io::Result<()> {
    Ok(())
}

/// From now on the process says why it ends when a page of a mapped file can be neither read nor written. Without it, it
/// would end without a word.
#[cfg(unix)]
#[expect(unsafe_code, reason = "only the kernel knows of it, and tells by a signal")]
pub fn explain_lost_pages() {
    const TEXT: &[u8] =
        b"ferromq: a file of the store cannot be read or written any more (SIGBUS): its disk failed \
        or is full, or another program made it shorter; the kernel's log may say more; see to the disk, then start again\n";
    extern "C" fn lost(_signal: libc::c_int) {
        // SAFETY: both calls may be made in a signal handler; the text lives as long as the program.
        unsafe {
            libc::write(libc::STDERR_FILENO, TEXT.as_ptr().cast(), TEXT.len());
            libc::_exit(1);
        }
    }
    // SAFETY: a zeroed `sigaction` is a valid one without flags and mask; `lost` has the type that goes without
    // `SA_SIGINFO`, and touches nothing of the program.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = lost as extern "C" fn(libc::c_int) as usize;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
    }
}

#[cfg(not(unix))]
pub fn explain_lost_pages() {}
