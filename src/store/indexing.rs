//! Keeps the index up with the log.

use std::{
    io,
    ops::{ControlFlow, Range},
};

use parking_lot::Mutex;

use super::{
    by_key::{ANY_TIME, Sought},
    commit_log::CommitLog,
    derived,
    fresh_keys::Handed,
    index_file::{Hashed, Index, Places, key_hash},
    scan::{Scanned, scan},
};
use crate::types::{PhysicalOffset, SysFlag, properties::key};

/// Bytes of the log that are read for the index at once at most. If the log cannot be read, what came before stays.
#[cfg(not(test))]
const PIECE: u64 = 16 << 20;
#[cfg(test)]
const PIECE: u64 = 1 << 10;
/// Bytes that are read at most in one go, so that a round of the background ends soon.
const READ_MAX: u64 = 256 << 20;

/// The index, and how far it is up with the log. It takes over the keys that the appenders left for it, once their
/// records are dispatched. What they had no room for, and what this run found, it reads from the log. So nothing waits
/// for it, and a lag costs no memory.
pub(super) struct Indexing {
    index: Index,
    progress: Mutex<Progress>,
    apache_until: PhysicalOffset,
}

struct Progress {
    /// All keys below are in the index. A unit ends here.
    next: PhysicalOffset,
    /// What was taken over last.
    handed: Handed,
    /// Nothing was taken over since the last round of the background.
    is_quiet: bool,
}

impl Indexing {
    /// `next` is where the index's files leave off.
    pub(super) fn new(index: Index, next: PhysicalOffset, apache_until: PhysicalOffset) -> Self {
        let progress = Progress { next, handed: Handed::default(), is_quiet: true };
        Self { index, progress: Mutex::new(progress), apache_until }
    }

    /// Goes through the log up to `until`, which is dispatched, or some of the way; writes what does not fit in memory
    /// as far as its records lie below `durable`. Both are ends of units, and so is what it returns: how far it came.
    fn follow(&self, log: &CommitLog, until: PhysicalOffset, durable: PhysicalOffset) -> Result<PhysicalOffset, Error> {
        let mut progress = self.progress.lock();
        let Progress { next, handed, is_quiet } = &mut *progress;
        let mut left = READ_MAX;
        loop {
            if *next >= handed.behind() {
                log.fresh_keys.take(handed);
                *is_quiet &= *next >= handed.behind();
            }
            if *next >= until || left == 0 {
                return Ok(*next);
            }
            let (is_handed, stop) = handed.at(*next);
            let part = *next..stop.min(until);
            let reached = if is_handed {
                self.take_over(handed, part, durable)?
            } else {
                let reached = self.read(log, part, durable)?;
                left = left.saturating_sub(next.until(reached));
                reached
            };
            if reached == *next {
                return Ok(reached);
            }
            *next = reached;
        }
    }

    /// Takes in the keys of a part of the log that were handed over. Returns its end, or its start if not all found
    /// room.
    fn take_over(
        &self,
        handed: &mut Handed,
        part: Range<PhysicalOffset>,
        durable: PhysicalOffset,
    ) -> Result<PhysicalOffset, derived::Error> {
        let keys = handed.unused(part.end);
        let (count, wanted) = (self.insert(keys, durable)?, keys.len());
        handed.was_used(count);
        Ok(if count == wanted { part.end } else { part.start })
    }

    /// Reads a part of the log, or some of it: whole units. Returns how far it came.
    fn read(
        &self,
        log: &CommitLog,
        part: Range<PhysicalOffset>,
        durable: PhysicalOffset,
    ) -> Result<PhysicalOffset, Error> {
        let stop = part.end.min(part.start.plus(PIECE));
        let mut all_fit = Ok(true);
        let end = scan(&log.segments, part.start..stop, self.apache_until, |record| {
            let keys = hashed(record);
            all_fit = self.insert(&keys, durable).map(|count| count == keys.len());
            if matches!(all_fit, Ok(true)) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if !all_fit? || end.at >= stop {
            return Ok(end.at);
        }
        // A damaged record hides where the next one starts, up to the end of its file.
        tracing::error!(at = %end.at, defect = ?end.defect, "the log is damaged; keys behind are not indexed");
        Ok(log.segments.find(end.at).map_or(part.end, |segment| segment.end().min(part.end)))
    }

    /// Takes keys in, as many as there is room for, and says how many; to make room it writes those before them whose
    /// records are `durable`.
    fn insert(&self, keys: &[Hashed], durable: PhysicalOffset) -> Result<usize, derived::Error> {
        let count = self.index.insert(keys);
        let Some(key) = keys.get(count) else { return Ok(count) };
        self.index.make_room(durable.min(PhysicalOffset::new(key.physical)))?;
        Ok(count + self.index.insert(&keys[count..]))
    }

    /// Takes in what is dispatched; makes nothing durable.
    pub(super) fn keep_near(&self, log: &CommitLog) -> Result<(), Error> {
        let marks = log.marks.get();
        self.follow(log, marks.dispatched, marks.durable).map(|_| ())
    }

    /// Goes through the log up to `until` and makes what lies there durable. Returns below which position that is so.
    pub(super) fn derive(&self, log: &CommitLog, until: PhysicalOffset) -> Result<PhysicalOffset, Error> {
        // A query may have brought it farther.
        let reached = self.follow(log, until, until)?.min(until);
        self.index.flush(reached)?;
        Ok(self.index.sync()?)
    }

    /// Where what is sought may lie, newest first; more than `max` are not looked for. The caller compares.
    pub(super) fn query(&self, log: &CommitLog, sought: &Sought<'_>, max: usize) -> Result<Places, Error> {
        self.keep_near(log)?;
        let named = (sought.topic.as_str(), sought.key);
        // What the index knows of times is wrong once the clock was set back.
        Ok(self.index.query(named, ANY_TIME, sought.below, max)?)
    }

    pub(super) fn delete_before(&self, begin: PhysicalOffset) -> Result<(), derived::Error> {
        self.index.delete_before(begin)
    }

    /// After a round of the background in which nothing was taken over, gives back the room for keys that a busy time
    /// took.
    pub(super) fn rest(&self, log: &CommitLog) {
        // Held, it is not quiet.
        let Some(mut progress) = self.progress.try_lock() else { return };
        if std::mem::replace(&mut progress.is_quiet, true) {
            progress.handed.rest();
            log.fresh_keys.rest();
        }
    }
}

/// The keys of a record, as its appender handed them over.
fn hashed(Scanned { at, frame, bytes }: &Scanned) -> Vec<Hashed> {
    let Ok(topic) = frame.topic_text(bytes) else { return Vec::new() };
    let properties = frame.properties_of(bytes);
    let names = properties.get_each([key::UNIQ_KEY, key::KEYS]);
    let hashed = |key| Hashed { hash: key_hash(topic, key), physical: at.get(), stored_at: frame.stored_at };
    keys_of(frame.sys_flag, names).map(hashed).collect()
}

/// The keys of a record with this id and these `KEYS`. What says that a transaction was rolled back has none.
pub(super) fn keys_of(sys_flag: SysFlag, names: [Option<&str>; 2]) -> impl Iterator<Item = &str> {
    let is_rollback = sys_flag.0 & SysFlag::TRANSACTION_MASK == SysFlag::TRANSACTION_ROLLBACK;
    let [id, others] = if is_rollback { [None; 2] } else { names };
    id.into_iter().chain(keys(others))
}

/// The items of a `KEYS` property.
pub(super) fn keys(keys: Option<&str>) -> impl Iterator<Item = &str> {
    keys.unwrap_or_default().split(' ').filter(|key| !key.is_empty())
}

/// Why the index is not up with the log.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("reading the log: {0}")]
    Log(#[from] io::Error),
    #[error(transparent)]
    Index(#[from] derived::Error),
}
