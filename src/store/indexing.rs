//! Keeps the index up with the log.

use std::io;

use parking_lot::Mutex;

use super::{
    by_key::{ANY_TIME, Sought},
    commit_log::CommitLog,
    derived,
    index_file::{Index, IsFull, Key, Places},
    scan::{Reading, Scanned, scan},
};
use crate::types::{PhysicalOffset, SysFlag, properties::key};

/// Bytes of the log that are read for the index at once at most, so that a round of the background ends soon.
const FOLLOW_MAX: u64 = 256 << 20;
/// Bytes before the log's end that are taken to be in memory.
const FRESH_MAX: u64 = 64 << 20;

/// The index, and how far it has read the log. It is read again rather than handed over by the appenders: nothing waits
/// for the index then, and a lag costs no memory.
pub(super) struct Indexing {
    index: Index,
    next: Mutex<PhysicalOffset>,
    apache_until: PhysicalOffset,
    /// Where this run began to write.
    opened_at: PhysicalOffset,
}

impl Indexing {
    /// `next` is where the index's files leave off.
    pub(super) fn new(
        index: Index,
        next: PhysicalOffset,
        apache_until: PhysicalOffset,
        opened_at: PhysicalOffset,
    ) -> Self {
        Self { index, next: Mutex::new(next), apache_until, opened_at }
    }

    /// What this run wrote a moment ago is read through the map. Farther behind it is read by calls, with checksums, as what
    /// it found: the pages may be gone from memory, and a sector that cannot be read would end the process.
    fn reading(&self, at: PhysicalOffset, until: PhysicalOffset) -> Reading {
        if at < self.opened_at || at.until(until) > FRESH_MAX {
            Reading::Checked { apache_until: self.apache_until }
        } else {
            Reading::Fresh
        }
    }

    /// Reads the log up to `until`, which is dispatched, or some of the way; writes what does not fit in memory if its
    /// records lie below `durable`. Returns how far it came.
    fn follow(&self, log: &CommitLog, until: PhysicalOffset, durable: PhysicalOffset) -> Result<PhysicalOffset, Error> {
        let mut next = self.next.lock();
        let until = until.min(next.plus(FOLLOW_MAX));
        while *next < until {
            let mut full_at = None;
            let reading = self.reading(*next, log.marks.get().dispatched);
            // What this run wrote is read differently from what it found.
            let stop = if *next < self.opened_at { until.min(self.opened_at) } else { until };
            let end = scan(&log.segments, *next..stop, reading, |record| {
                if full_at.is_none() && self.insert(record).is_err() {
                    full_at = Some(record.at);
                }
            })?;
            match full_at {
                Some(at) => {
                    *next = at;
                    if at > durable {
                        break;
                    }
                    self.index.flush(at)?;
                }
                None if end.at >= stop => *next = end.at,
                None => {
                    // A damaged record hides where the next one starts, up to the end of its file.
                    tracing::error!(at = %end.at, defect = ?end.defect, "the log is damaged; keys behind are not indexed");
                    *next = log.segments.find(end.at).map_or(stop, |segment| segment.end().min(stop));
                }
            }
        }
        Ok(*next)
    }

    fn insert(&self, Scanned { at, frame, bytes }: &Scanned) -> Result<(), IsFull> {
        let is_rollback = frame.sys_flag.0 & SysFlag::TRANSACTION_MASK == SysFlag::TRANSACTION_ROLLBACK;
        let Ok(topic) = frame.topic_text(bytes) else { return Ok(()) };
        if is_rollback {
            return Ok(());
        }
        let properties = frame.properties_of(bytes);
        let [id, others] = properties.get_each([key::UNIQ_KEY, key::KEYS]);
        let keys = id.into_iter().chain(keys(others));
        let key = |key| Key { topic, key, physical: *at, stored_at: frame.stored_at };
        self.index.insert_batch(&keys.map(key).collect::<Vec<_>>())
    }

    /// Reads the log up to `until` and makes what lies there durable. Returns below which position that is so.
    pub(super) fn derive(&self, log: &CommitLog, until: PhysicalOffset) -> Result<PhysicalOffset, Error> {
        // A query may have brought it farther.
        let reached = self.follow(log, until, until)?.min(until);
        self.index.flush(reached)?;
        Ok(self.index.sync()?)
    }

    /// Where what is sought may lie, newest first; more than `max` are not looked for. The caller compares.
    pub(super) fn query(&self, log: &CommitLog, sought: &Sought<'_>, max: usize) -> Result<Places, Error> {
        let marks = log.marks.get();
        self.follow(log, marks.dispatched, marks.durable)?;
        let named = (sought.topic.as_str(), sought.key);
        // What the index knows of times is wrong once the clock was set back.
        Ok(self.index.query(named, ANY_TIME, sought.below, max)?)
    }

    pub(super) fn delete_before(&self, begin: PhysicalOffset) -> Result<(), derived::Error> {
        self.index.delete_before(begin)
    }
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
