//! Keeps the index up with the log.

use std::{io, ops::Range};

use parking_lot::Mutex;

use super::{
    by_key::{ANY_TIME, Sought},
    commit_log::CommitLog,
    derived,
    index_file::{Index, IsFull, Key, Places},
    scan::{Scanned, scan},
};
use crate::types::{PhysicalOffset, Properties, SysFlag, properties::key};

/// Bytes of the log that are gone through at once at most, so that a round of the background ends soon.
const FOLLOW_MAX: u64 = 256 << 20;
/// Room for all keys of a record: its properties have 32 KiB.
const ROOM_MIN: usize = 16 << 10;

/// The index, and how far it is up with the log. What was appended a moment ago is taken over from the appenders; what they
/// could not keep, and what this run found, is read again. Nothing waits for the index.
pub(super) struct Indexing {
    index: Index,
    next: Mutex<PhysicalOffset>,
    apache_until: PhysicalOffset,
}

impl Indexing {
    /// `next` is where the index's files leave off.
    pub(super) fn new(index: Index, next: PhysicalOffset, apache_until: PhysicalOffset) -> Self {
        Self { index, next: Mutex::new(next), apache_until }
    }

    /// Goes through the log up to `until`, which is dispatched, or some of the way; writes what does not fit in memory if
    /// its records lie below `durable`. Returns how far it came.
    fn follow(&self, log: &CommitLog, until: PhysicalOffset, durable: PhysicalOffset) -> Result<PhysicalOffset, Error> {
        let mut next = self.next.lock();
        let until = until.min(next.plus(FOLLOW_MAX));
        while *next < until {
            let room = self.index.room();
            if room < ROOM_MIN {
                if *next > durable {
                    break;
                }
                self.index.flush(*next)?;
                continue;
            }
            let (keys, end) = log.fresh_keys.take(*next..until, room);
            *next = if end > *next && self.index.insert_hashed(&keys).is_ok() {
                end
            } else {
                let fresh = log.fresh_keys.start();
                self.read(log, *next..if fresh > *next { until.min(fresh) } else { until })?
            };
        }
        Ok(*next)
    }

    /// Reads a part of the log, or some of the way. Returns how far it came.
    fn read(&self, log: &CommitLog, range: Range<PhysicalOffset>) -> Result<PhysicalOffset, Error> {
        let mut full_at = None;
        let end = scan(&log.segments, range.clone(), self.apache_until, |record| {
            if full_at.is_none() && self.insert(record).is_err() {
                full_at = Some(record.at);
            }
        })?;
        if let Some(at) = full_at {
            return Ok(at);
        }
        if end.at >= range.end {
            return Ok(end.at);
        }
        // A damaged record hides where the next one starts, up to the end of its file.
        tracing::error!(at = %end.at, defect = ?end.defect, "the log is damaged; keys behind are not indexed");
        Ok(log.segments.find(end.at).map_or(range.end, |segment| segment.end().min(range.end)))
    }

    fn insert(&self, Scanned { at, frame, bytes }: &Scanned) -> Result<(), IsFull> {
        let Ok(topic) = frame.topic_text(bytes) else { return Ok(()) };
        let properties = frame.properties_of(bytes);
        let key = |key| Key { topic, key, physical: *at, stored_at: frame.stored_at };
        self.index.insert_batch(&keys_of(frame.sys_flag, &properties).map(key).collect::<Vec<_>>())
    }

    /// Takes in what is dispatched, and makes nothing durable.
    pub(super) fn keep_near(&self, log: &CommitLog) -> Result<(), Error> {
        let marks = log.marks.get();
        self.follow(log, marks.dispatched, marks.durable).map(|_| ())
    }

    /// Reads the log up to `until` and makes what lies there durable. Returns below which position that is so.
    pub(super) fn derive(&self, log: &CommitLog, until: PhysicalOffset) -> Result<PhysicalOffset, Error> {
        let reached = self.follow(log, until, until)?;
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
}

/// What a record is found by.
pub(super) fn keys_of(sys_flag: SysFlag, properties: &Properties) -> impl Iterator<Item = &str> {
    let is_rollback = sys_flag.0 & SysFlag::TRANSACTION_MASK == SysFlag::TRANSACTION_ROLLBACK;
    let [id, others] = if is_rollback { [None; 2] } else { properties.get_each([key::UNIQ_KEY, key::KEYS]) };
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
