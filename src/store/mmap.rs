//! The one file of the crate with `unsafe`: a file mapped for reading, handed out as [`Bytes`] that keep the map alive;
//! a file mapped for writing; and one call to the system.
//!
//! Please leave it alone unless the facts below still hold after your change.

use std::{fs::File, io};

use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw};

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

/// A file mapped for writing over what is there.
pub(super) struct Overlay(MmapRaw);

impl Overlay {
    /// Maps the whole file.
    pub(super) fn over(file: &File) -> io::Result<Self> {
        MmapOptions::new().map_raw(file).map(Self)
    }

    /// Copies bytes into the file's pages; false when they do not lie within the map. The file must not have become
    /// shorter since, and must have blocks under the range, or the process ends with SIGBUS; a range is written by one
    /// thread at a time, and nobody has a slice of it.
    #[expect(unsafe_code, reason = "a copy to mapped memory; see the proof inside")]
    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> bool {
        let fits = at.checked_add(bytes.len() as u64).is_some_and(|end| end <= self.0.len() as u64);
        if fits {
            // SAFETY: the target lies within the map, which lives as long as `self`, and `bytes` is no part of it, since
            // no reference to this map is ever made.
            // - Who writes: the log's tail, under its lock, where zeros were written before and nothing else.
            // - Who reads: others read these pages through another map, below a position that is published after this
            //   returns; publishing orders the copy before their reads.
            // - What keeps it mapped: `self`. A file of the log is made shorter by recovery only, before the first write.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.as_mut_ptr().add(at as usize), bytes.len()) };
        }
        fits
    }
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
