//! What the store's handles and threads share.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::{
    AppendError, Config, FlushPolicy, OpenError, Poisoned, Purpose, ReadError, Report, Threads, Ticket,
    background::Derive,
    begins::Begins,
    by_key::Sought,
    checkpoint::{Checkpoint, CheckpointFile},
    commit_log::{Batch, CommitLog},
    consume_queue::Queues,
    deletion, derived,
    disk::{Disk, Open},
    flush::Wait,
    index_file::Places,
    indexing::{self, Indexing},
    record::{self, Checksum, Head},
    recovery::{Recovered, Recovery},
    retention::TrustedTime,
    segment::is_full,
    state_file,
    unit::Unit,
};
use crate::types::{Clock, NewMessage, PhysicalOffset, StoredMessage, Timestamp, TopicName};

/// Bytes before the log's end that are taken to be in the page cache, as far as this run wrote them.
const WARM_BYTES: u64 = 256 << 20;

pub(super) struct Core {
    pub(super) config: Config,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) log: CommitLog,
    pub(super) queues: Queues,
    /// Absent when keys are not indexed.
    pub(super) index: Option<Indexing>,
    /// Held over a round of the background, which is all that writes there.
    pub(super) progress: Mutex<Progress>,
    pub(super) begins: Begins,
    /// What retention must leave alone, from here on.
    pub(super) held_from: AtomicU64,
    /// Held while a state file is written.
    saving: Mutex<()>,
    /// Where this run began to write.
    opened_at: PhysicalOffset,
    apache_until: PhysicalOffset,
    /// Held while the store is open.
    lock: Mutex<Option<Box<dyn Send + Sync>>>,
}

/// What is safe, and the file that says so.
pub(super) struct Progress {
    pub(super) file: CheckpointFile,
    /// As it was written last.
    pub(super) written: Checkpoint,
    /// A log's end and the store time there, as it was some time ago: the newest pair that is known.
    pub(super) seen: (PhysicalOffset, Timestamp),
    /// What retention judges ages by.
    pub(super) time: TrustedTime,
    /// Rounds since what is derived was written.
    pub(super) rounds: u32,
    pub(super) rounds_since_retention: u32,
    pub(super) rounds_unwritten: u32,
}

impl Core {
    pub(super) fn open(
        config: Config,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Arc<Self>, Report), OpenError> {
        let root = config.root.clone();
        disk.create_dir_all(&root).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                OpenError::NoDirectory { path: root.clone() }
            }
            _ => OpenError::Directory { path: root.clone(), source },
        })?;
        let lock = take_lock(&config, &*disk)?;
        let abort = Abort { disk: &*disk, root: root.clone() };
        let io = |doing, path: PathBuf| move |source| OpenError::Io { doing, path, source };
        let is_clean = !disk.exists(&abort.path()).map_err(io("reading", abort.path()))?;
        let path = CheckpointFile::path(&root);
        let (mut file, found) = CheckpointFile::open(&*disk, &root).map_err(io("opening", path.clone()))?;

        let recovery = Recovery { config: &config, disk: &disk, clock: &clock, checkpoint: found, is_clean };
        let recovered = recovery.run()?;
        // Before the first append: a crash from now on must find our checkpoint, and the store not closed.
        file.write(&recovered.checkpoint).map_err(io("writing", path))?;
        abort.create().map_err(io("writing", abort.path()))?;
        disk.sync_dir(&root).map_err(io("syncing", root.clone()))?;
        let Recovered { log, queues, index, checkpoint, report } = recovered;
        match log.prepare_first_stretch() {
            // What is stored can be consumed; sends are refused until there is room.
            Err(e) if is_full(&e) => log.room.ran_out(),
            other => other.map_err(io("taking room in", log.segments.dir().to_owned()))?,
        }
        let newest = (checkpoint.stored_at > Timestamp::ZERO).then_some(checkpoint.stored_at);
        let progress = Progress {
            file,
            written: checkpoint,
            seen: (checkpoint.durable, checkpoint.stored_at),
            time: TrustedTime::start(checkpoint.time, newest, clock.wall(), clock.now()),
            rounds: 0,
            rounds_since_retention: 0,
            rounds_unwritten: 0,
        };
        let core = Self {
            config,
            disk,
            clock,
            log,
            queues,
            index,
            progress: Mutex::new(progress),
            begins: Begins::default(),
            held_from: AtomicU64::new(0),
            saving: Mutex::new(()),
            opened_at: checkpoint.durable,
            apache_until: checkpoint.apache_until,
            lock: Mutex::new(Some(lock)),
        };
        Ok((Arc::new(core), report))
    }

    /// Commits what waits, on the caller's thread.
    pub(super) fn commit(&self) -> Result<(), Poisoned> {
        match self.config.flush {
            FlushPolicy::Sync => self.log.commit(&mut Batch::default(), Wait::No).map(|_| ()),
            FlushPolicy::Async { .. } => self.log.flush_written(),
        }
    }

    /// Commits and writes everything, says that the store was closed, and lets go of the directory.
    pub(super) fn close(&self) {
        self.log.tail.lock().is_closed = true;
        let Some(_lock) = self.lock.lock().take() else { return };
        if self.commit().is_ok() && self.tick_closing().is_ok() {
            // A marker that stays costs a look at the log's end at the next start.
            let _ = Abort { disk: &*self.disk, root: self.config.root.clone() }.remove();
        }
    }

    pub(super) fn append(&self, messages: &[NewMessage], purpose: Purpose) -> Result<Ticket, AppendError> {
        let unit = Unit::encode(messages, &self.queues, self.log.store_host(), self.index.is_some())?;
        self.log.append(unit, purpose)
    }

    /// See [`super::Store::delete_topic`].
    pub(super) fn delete_topic(&self, topic: &TopicName) -> io::Result<()> {
        // Held from before the record until the files are gone: no checkpoint may pass the record meanwhile.
        let mut progress = self.progress.lock();
        let record = deletion::record(topic, self.clock.wall(), &self.config);
        let ticket = self.append(&[record], Purpose::Internal).map_err(|error| match error {
            AppendError::Full { .. } => io::Error::new(io::ErrorKind::StorageFull, error),
            other => io::Error::other(other),
        })?;
        // With ASYNC_FLUSH too, the record is on the device before the files go. With SYNC_FLUSH nobody but the commit
        // thread, if there is one, may sync.
        if self.config.flush != FlushPolicy::Sync || self.config.threads == Threads::Stepped {
            self.commit().map_err(io::Error::other)?;
        }
        self.log.marks.dispatched.reached_blocking(ticket.end).map_err(io::Error::other)?;
        self.queues.delete(topic).map_err(|error| self.derived_failed(error))?;
        self.round(&mut progress, Derive::Now).map_err(io::Error::other)
    }

    /// A derived file that could not be written, as an error of the caller; poisons the store when its sync failed.
    fn derived_failed(&self, error: derived::Error) -> io::Error {
        if error.is_fatal() {
            self.log.marks.poison("writing what is derived from the log", &error);
        }
        io::Error::other(error)
    }

    pub(super) fn hold_from(&self, at: PhysicalOffset) {
        self.held_from.store(at.get(), Ordering::Relaxed);
    }

    pub(super) fn opened_at(&self) -> PhysicalOffset {
        self.opened_at
    }

    /// See [`super::Store::save_state`].
    pub(super) fn save_state(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let _one = self.saving.lock();
        let dir = self.config.root.join("config");
        let saved = state_file::save(&*self.disk, &dir, name, bytes);
        if let Err(error) = &saved
            && !is_full(error)
            && state_file::load(&*self.disk, &dir, name).is_ok_and(|now| now.as_deref() == Some(bytes))
        {
            // The new file is in place, and whether a crash keeps it nobody knows: neither answer would be true.
            self.log.marks.poison("syncing the directory of a state file", error);
        }
        saved
    }

    pub(super) fn load_state(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        state_file::load(&*self.disk, &self.config.root.join("config"), name)
    }

    /// True when the pages there may have to come from the device.
    pub(super) fn is_cold(&self, at: PhysicalOffset) -> bool {
        at < self.opened_at || at.plus(WARM_BYTES) < self.readable()
    }

    /// Where the part of the log ends that may be served. Not the dispatched mark: a queue shows a message a moment
    /// before that mark moves, and whoever saw it there must be able to read it.
    fn readable(&self) -> PhysicalOffset {
        match self.config.flush {
            FlushPolicy::Sync => self.log.marks.durable.get(),
            FlushPolicy::Async { .. } => self.log.marks.written.get(),
        }
    }

    /// Where what is sought may lie, the newest first, at most `max` places; one may come twice.
    pub(super) fn keyed(&self, sought: &Sought<'_>, max: usize) -> Result<Places, ReadError> {
        let Some(index) = &self.index else { return Ok(Places::default()) };
        let failed = |error: indexing::Error| {
            if let indexing::Error::Index(error) = &error
                && error.is_fatal()
            {
                self.log.marks.poison("reading the index", error);
            }
            ReadError::Index(Arc::new(io::Error::other(error)))
        };
        index.query(&self.log, sought, max).map_err(failed)
    }

    /// The message at such a place, if it is what is sought.
    pub(super) fn keyed_at(&self, sought: &Sought<'_>, at: PhysicalOffset) -> Result<Option<StoredMessage>, ReadError> {
        match self.message_at(at) {
            Err(ReadError::Gone(_)) => Ok(None),
            other => Ok(Some(other?).filter(|message| sought.is(message))),
        }
    }

    /// Reads the message at a position that the index names: a record starts there, or the file is gone. Elsewhere it finds
    /// none, since the checksum of what it takes for one does not fit.
    pub(super) fn message_at(&self, at: PhysicalOffset) -> Result<StoredMessage, ReadError> {
        let segment = self.log.segments.find(at).ok_or(ReadError::Gone(at))?;
        let mut head = [0; 8];
        segment.read_into(at, &mut head).map_err(|error| ReadError::Io { at, error: Arc::new(error) })?;
        match Head::read(head) {
            Head::Record(size) if u64::from(size) <= at.until(segment.end()) => self.message(at, size),
            _ => Err(ReadError::Gone(at)),
        }
    }

    /// See [`super::Store::stored_at`].
    pub(super) fn stored_at(&self, at: PhysicalOffset) -> Result<Option<Timestamp>, ReadError> {
        let Some(segment) = self.log.segments.find(at) else { return Ok(None) };
        let mut head = [0; record::TIMED_LEN];
        if at.plus(head.len() as u64) > self.readable().min(segment.end()) {
            return Ok(None);
        }
        segment.read_into(at, &mut head).map_err(|error| ReadError::Io { at, error: Arc::new(error) })?;
        Ok(record::stored_at(&head))
    }

    /// Reads a message and checks its checksums.
    pub(super) fn message(&self, at: PhysicalOffset, size: u32) -> Result<StoredMessage, ReadError> {
        if at.plus(u64::from(size)) > self.readable() {
            return Err(ReadError::Gone(at));
        }
        let segment = self.log.segments.find(at).ok_or(ReadError::Gone(at))?;
        let len = size as usize;
        let record = if self.is_cold(at) {
            // A sector that cannot be read is an error this way, and the end of the process through the map.
            let mut record = vec![0; len];
            segment.read_into(at, &mut record).map(|()| record.into())
        } else {
            segment.read(at, len)
        };
        let record = record.map_err(|error| ReadError::Io { at, error: Arc::new(error) })?;
        let rule = if at < self.apache_until { Checksum::IfPresent } else { Checksum::Required };
        record::decode(&record, at, rule).map_err(|why| ReadError::Corrupt { at, why: why.to_string() })
    }
}

/// Keeps every other process, Apache's broker too, out of the directory.
fn take_lock(config: &Config, disk: &dyn Disk) -> Result<Box<dyn Send + Sync>, OpenError> {
    let path = config.root.join("lock");
    disk.lock(&path).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => {
            let abort = Abort { disk, root: config.root.clone() };
            OpenError::Locked { path: config.root.clone(), pid: abort.pid().unwrap_or_else(|| "unknown".into()) }
        }
        _ => OpenError::Directory { path: config.root.clone(), source },
    })
}

/// The file `abort`, there while the store is open: it names the process, and found at opening it tells of a crash.
struct Abort<'a> {
    disk: &'a dyn Disk,
    root: PathBuf,
}

impl Abort<'_> {
    /// Characters of a process id at most.
    const PID_LEN_MAX: u64 = 20;

    fn path(&self) -> PathBuf {
        self.root.join("abort")
    }

    /// The caller syncs the directory.
    fn create(&self) -> io::Result<()> {
        let file = match self.disk.open(&self.path(), Open::Create) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => self.disk.open(&self.path(), Open::Write)?,
            other => other?,
        };
        let pid = std::process::id().to_string();
        file.set_len(pid.len() as u64)?;
        match file.write(0, pid.as_bytes()) {
            // That the file is there is what counts.
            Err(e) if is_full(&e) => file.set_len(0)?,
            other => other?,
        }
        file.sync()
    }

    fn remove(&self) -> io::Result<()> {
        self.disk.remove_file(&self.path())?;
        self.disk.sync_dir(&self.root)
    }

    fn pid(&self) -> Option<String> {
        let file = self.disk.open(&self.path(), Open::Read).ok()?;
        let mut pid = vec![0; file.len().ok()?.min(Self::PID_LEN_MAX) as usize];
        file.read_into(0, &mut pid).ok()?;
        String::from_utf8(pid).ok().filter(|pid| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()))
    }
}
