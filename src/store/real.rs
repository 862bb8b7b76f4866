//! The machine's file system as a [`Disk`].

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rustix::fs::FlockOperation;

use super::{
    disk::{Disk, File, Open, Space},
    mmap::{self, WriteMap},
};

/// The machine's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match how {
            Open::Read => {}
            Open::Write => {
                options.write(true);
            }
            Open::Create => {
                options.write(true).create_new(true);
            }
        }
        let (file, path) = (options.open(path)?, path.to_owned());
        Ok(Arc::new(RealFile { file, path, map: RwLock::default(), writing: Mutex::default() }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() || path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        if let Some(parent) = parent {
            self.create_dir_all(parent)?;
        }
        match fs::create_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            other => other?,
        }
        self.sync_dir(parent.unwrap_or(Path::new(".")))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        // The store makes no name that is not UTF-8, so it need not see one.
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    /// `total` leaves out what is kept for root, so that `free / total` is 0 when an ordinary process can write no more.
    fn space(&self, path: &Path) -> io::Result<Space> {
        let stat = rustix::fs::statvfs(path)?;
        let used = stat.f_blocks.saturating_sub(stat.f_bfree);
        Ok(Space {
            total: used.saturating_add(stat.f_bavail).saturating_mul(stat.f_frsize),
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    /// Two locks: `fcntl`'s, which a Java broker takes and sees, and `flock`'s, which also tells two stores of one
    /// process apart.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
            // POSIX lets `fcntl` say either.
            rustix::io::Errno::ACCESS => io::ErrorKind::WouldBlock.into(),
            e => io::Error::from(e),
        })?;
        if file.metadata()?.len() == 0 {
            file.write_all(b"lock")?;
        }
        Ok(Box::new(file))
    }
}

struct RealFile {
    file: fs::File,
    path: PathBuf,
    /// Made by the first read, over the length that the file then has.
    map: RwLock<Bytes>,
    writing: Mutex<Writing>,
}

/// How [`File::write_mapped`] writes.
#[derive(Default)]
enum Writing {
    /// Nothing was written that way yet.
    #[default]
    Unused,
    Map(Arc<WriteMap>),
    /// By calls: a map could not be had, or is not needed any more.
    Calls,
}

impl RealFile {
    /// The map to write through, if there can be one.
    fn write_map(&self) -> Option<Arc<WriteMap>> {
        let mut writing = self.writing.lock();
        if let Writing::Unused = *writing {
            let map = self.len().and_then(|len| WriteMap::new(&self.file, len));
            *writing = map.map_or(Writing::Calls, |map| Writing::Map(map.into()));
        }
        match &*writing {
            Writing::Map(map) => Some(map.clone()),
            _ => None,
        }
    }

    fn mapped(&self, end: u64) -> io::Result<Bytes> {
        let mut map = self.map.write();
        if (map.len() as u64) < end {
            let len = self.file.metadata()?.len();
            if len < end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            *map = mmap::map(&self.file, usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?)?;
        }
        Ok(map.clone())
    }
}

impl File for RealFile {
    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        // A map over a part that goes away would kill the process when it is read.
        *self.map.write() = Bytes::new();
        let mut writing = self.writing.lock();
        *writing = Writing::Unused;
        self.file.set_len(len)
    }

    fn read(&self, at: u64, len: usize) -> io::Result<Bytes> {
        if len == 0 {
            return Ok(Bytes::new());
        }
        let end = at.checked_add(len as u64).ok_or(io::ErrorKind::InvalidInput)?;
        let map = {
            let map = self.map.read();
            if (map.len() as u64) < end { None } else { Some(map.slice(at as usize..end as usize)) }
        };
        match map {
            Some(slice) => Ok(slice),
            None => Ok(self.mapped(end)?.slice(at as usize..end as usize)),
        }
    }

    fn read_into(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, at)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    fn write_mapped(&self, at: u64, bytes: &[u8]) -> bool {
        let Some(map) = self.write_map() else { return false };
        let written = map.write(at, bytes).is_ok();
        if !written {
            // From now on calls do it, or say why not.
            *self.writing.lock() = Writing::Calls;
        }
        written
    }

    fn make_ready(&self, at: u64, len: u64) -> bool {
        // Pages that cannot be had here cannot be had by the writer either, who has a way out.
        self.write_map().map(|map| map.make_ready(at, len)).is_some()
    }

    fn finish(&self) {
        *self.writing.lock() = Writing::Calls;
    }

    #[cfg(target_os = "linux")]
    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        use rustix::{fs::FallocateFlags, io::Errno};
        loop {
            match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), at, len) {
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Err(io::ErrorKind::Unsupported.into()),
                other => return other.map_err(io::Error::from),
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn allocate(&self, _at: u64, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write_back(&self, at: u64, len: u64) -> io::Result<()> {
        mmap::write_back(&self.file, at, len)
    }
}

#[cfg(test)]
mod tests;
