//! The one file of the library with `unsafe`: a file mapped for reading, handed out as [`Bytes`] that keep the map alive;
//! and one call to the system.
//!
//! Please leave it alone unless the facts below still hold after your change.

use std::{fs::File, io};

use bytes::Bytes;
use memmap2::MmapOptions;

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
