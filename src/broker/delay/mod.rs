//! Messages that are to be delivered at a time.
//!
//! - [`accept`]: what time a message asks for; it is stored once, in the timer topic, with where it really goes in its
//!   properties, as Apache stores it (`HookUtils.transformTimerMessage`).
//! - [`index`]: which timer is due when, in memory; [`axis`]: what time it is.
//! - [`fire`]: the message goes to its topic, and its timer is done, as one append: never twice, never lost.
//! - [`carry`]: what waits for long is appended anew, so that it does not hold the whole log back.
//! - [`recall`]: taking a message back, moving its time, looking at what waits; [`handle`]: how a producer names it.
//! - [`lateness`]: how late messages come.
//!
//! The truth is the log: the timer topic's records, and the own book of `CID_RMQ_SYS_TIMER` on it that says which are done.
//! The index is made anew at every start, from the consume queue alone, whose entries carry the times; so no checkpoint of
//! it can be ahead of anything.
//!
//! # What a pending timer costs
//!
//! Its message in the log. In memory 8 to 16 bytes in the index, 16 more in the minute before it is due. A timer that is
//! done while older ones wait costs a done range in the book only where its neighbours wait: at most one range, about 30
//! bytes, for each pending timer. So 10,000,000 pending take 80 to 160 MB when they were sent in the order of their times,
//! and up to 460 MB when every other one is done.
//!
//! # Time
//!
//! Within a run all is monotonic, see [`axis`]. At a start the wall clock counts: what was due meanwhile is due now. If the
//! clock was set back meanwhile, so that messages seem to have been stored in the future, each waits for what was left when
//! it was stored and no longer.
//!
//! # Locks
//!
//! The book, a topic's gate, the index. A send tells the index behind its topic's gate, an append that ends a timer passes a
//! gate under the book, and a sweep asks the book about what the index has.

mod accept;
mod axis;
mod carry;
mod faults;
mod fire;
mod handle;
mod index;
mod lateness;
mod levels;
mod recall;
mod skew;
#[cfg(test)]
mod tests;

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

pub(super) use accept::{Held, put_aside};
pub use handle::RecallHandle;
pub use lateness::Lateness;
pub use levels::{DEFAULT_LEVELS, parse_levels};
pub use recall::{PendingTimer, RecallError};

use self::{
    axis::Axis,
    index::{Cursor, Index},
    lateness::Histogram,
    skew::Skews,
};
use super::{Broker, OpenError, ProduceError, metadata::TIMER_TOPIC, pop::QueueBook};
use crate::{
    store::{Entry, ReadError},
    types::{Clock, Deadline, QueueOffset, Timestamp, properties::key},
};

/// Whose book it is: Apache's group for its own timers (`TimerMessageStore`).
pub(super) const TIMER_GROUP: &str = "CID_RMQ_SYS_TIMER";
/// Entries of the timer queue that are read at once.
const LOAD_CHUNK: usize = 4096;
/// No tag's code reaches this: codes are 32-bit hashes.
const TIMES_FROM: i64 = 1 << 32;
/// Timers with points before this (February 1970) are in the index with no time of their own: their records could not be
/// read. [`fire`] finds out when they are due.
const POINTS_FROM: u64 = 1 << 32;

/// All that is known about timers.
pub(super) struct Timers {
    axis: Axis,
    index: Mutex<Index>,
    skews: Mutex<Skews>,
    /// The driver is to come before it said.
    sooner: Notify,
    /// Timers that are not done, those that are being accepted among them.
    pending: AtomicUsize,
    /// Entries of the index whose timers are done.
    stale: AtomicUsize,
    sweep: Mutex<Option<Cursor>>,
    /// Held by the one client whose recall looks through the timers of a time; and places of those that wait for that.
    looking: Semaphore,
    lookers: Semaphore,
    lateness: Histogram,
    book: OnceLock<Arc<QueueBook>>,
    faults: faults::Faults,
}

/// A timer.
#[derive(Clone, Copy, Debug)]
struct Timer {
    due: Timestamp,
    /// When that is on the axis.
    point: u64,
    offset: QueueOffset,
}

impl Timers {
    pub(super) fn new(clock: &dyn Clock) -> Self {
        Self {
            axis: Axis::begin(clock),
            index: Mutex::default(),
            skews: Mutex::default(),
            sooner: Notify::new(),
            pending: AtomicUsize::new(0),
            stale: AtomicUsize::new(0),
            sweep: Mutex::default(),
            looking: Semaphore::new(1),
            lookers: Semaphore::new(recall::LOOKERS_MAX),
            lateness: Histogram::default(),
            book: OnceLock::new(),
            faults: faults::Faults::default(),
        }
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Counts timers in; false, and none, when there would be more than `max`.
    fn reserve(&self, count: usize, max: usize) -> bool {
        let more = |pending: usize| pending.checked_add(count).filter(|sum| *sum <= max);
        self.pending.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn release(&self, count: usize) {
        self.pending.fetch_sub(count, Ordering::Relaxed);
    }

    /// Puts a timer that was counted into the index, and calls the driver if it must come sooner.
    fn insert(&self, Timer { due, point, offset }: Timer) {
        self.skews.lock().saw(due, point, offset);
        if self.index.lock().insert((point, offset.get())) {
            self.sooner.notify_one();
        }
    }
}

impl Broker {
    fn timer_book(&self) -> &Arc<QueueBook> {
        self.inner.timers.book.get_or_init(|| self.own_book(TIMER_TOPIC, TIMER_GROUP))
    }

    /// Fills the index with all timers that are not done.
    pub(super) fn load_timers(&self) -> Result<(), OpenError> {
        let (inner, book) = (&self.inner, self.timer_book());
        let (wall, now) = (inner.clock.wall(), inner.clock.now());
        // Where the newest cannot be read, each is asked.
        let rewound = self.last_timer_stored_at().map_or(true, |last| last.is_some_and(|last| last > wall));
        let mut next = QueueOffset::ZERO;
        loop {
            next = book.open().book.undone_from(next);
            let entries = book.queue.entries(next, LOAD_CHUNK)?;
            let Some(last) = entries.last() else { break };
            next = last.offset.plus(1);
            let undone = undone(book, entries);
            inner.timers.pending.fetch_add(undone.len(), Ordering::Relaxed);
            for entry in undone {
                let (due, stored_at) = self.time_of(&entry, rewound);
                // What was stored by a clock that was ahead waits for what was left by that clock.
                let since = stored_at.map_or(wall, |stored_at| stored_at.max(wall));
                let point = inner.timers.axis.point(due, since, now);
                inner.timers.insert(Timer { due, point, offset: entry.offset });
            }
        }
        let pending = self.pending_timers();
        if pending > 0 {
            tracing::info!(pending, "delayed messages wait for their time");
        }
        Ok(())
    }

    fn last_timer_stored_at(&self) -> Result<Option<Timestamp>, OpenError> {
        let queue = &self.timer_book().queue;
        let last = QueueOffset::new(queue.max().get().saturating_sub(1));
        let Some(entry) = queue.entries(last, 1)?.first().copied() else { return Ok(None) };
        Ok(self.read_timer(&entry)?.map(|message| message.stored_at))
    }

    /// When a timer is due, and, where the record had to be read, when it was stored. The consume queue says the first
    /// unless Apache's broker wrote it. What cannot be read, now or ever, has the time of its entry, or is due at once:
    /// firing finds out what is wrong with it, and one bad place keeps no server down.
    fn time_of(&self, entry: &Entry, read: bool) -> (Timestamp, Option<Timestamp>) {
        let of_entry = (entry.tags_code >= TIMES_FROM).then(|| Timestamp::from_millis(entry.tags_code));
        if let Some(due) = of_entry.filter(|_| !read) {
            return (due, None);
        }
        let Ok(Some(message)) = self.read_timer(entry) else { return (of_entry.unwrap_or(Timestamp::ZERO), None) };
        let of = |key| message.properties.get(key);
        // An order of Apache's to delete comes before what it deletes.
        let is_order = of(key::TIMER_DEL_UNIQKEY).is_some();
        let due = of(key::TIMER_OUT_MS).filter(|_| !is_order).and_then(|due| due.parse().ok());
        (Timestamp::from_millis(due.unwrap_or(0)), Some(message.stored_at))
    }

    /// The record; `None` when it is gone or damaged.
    fn read_timer(&self, entry: &Entry) -> Result<Option<crate::types::StoredMessage>, ReadError> {
        match self.inner.store.message(entry.physical, entry.size) {
            Ok(message) => Ok(Some(message)),
            Err(ReadError::Gone(_) | ReadError::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Messages that wait for their time.
    pub fn pending_timers(&self) -> u64 {
        self.inner.timers.pending() as u64
    }

    /// How late delayed messages were delivered in this run.
    pub fn timer_lateness(&self) -> Lateness {
        self.inner.timers.lateness.get()
    }

    /// Returns when [`Broker::fire_timers`] should be called earlier than it said.
    pub async fn fire_timers_sooner(&self) {
        self.inner.timers.sooner.notified().await;
    }

    /// The driver promises to come at a point, or when the next timer is due.
    fn promise_timers(&self, at_latest: Option<u64>) -> Option<Deadline> {
        let timers = &self.inner.timers;
        let promised = timers.index.lock().promise(at_latest);
        promised.map(|point| timers.axis.deadline(point))
    }
}

/// Those of some entries that are not done.
fn undone(book: &QueueBook, entries: Vec<Entry>) -> Vec<Entry> {
    let pages = book.open();
    entries.into_iter().filter(|entry| !pages.book.is_done(entry.offset)).collect()
}
