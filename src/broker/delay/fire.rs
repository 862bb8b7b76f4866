//! What happens when timers are due.

use std::{sync::atomic::Ordering, time::Duration};

use super::super::aside::meant_topic;
use super::{Broker, POINTS_FROM, accept::released, faults::Fault, index::Entry};
use crate::{
    store::{AppendError, Purpose, ReadError, Ticket},
    types::{Deadline, NewMessage, PhysicalOffset, QueueOffset, StoredMessage, Timestamp, TopicName, properties::key},
};

/// Timers that are fired between two waits for the disk.
const BATCH: usize = 256;
/// How long timers wait when the store cannot take their messages.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The same when it is only busy.
const BUSY_AFTER: Duration = Duration::from_millis(20);
/// The same for a message that does not fit: only another setting can help.
const UNFIT_AFTER: Duration = Duration::from_secs(60);
/// Stale entries of the index that are let be, in any case and for each timer that is none.
const STALE_MIN: usize = 1024;
const STALE_SHARE: usize = 4;
/// Entries that one step of a sweep looks at, under the index's lock, and steps of one call.
const SWEEP_STEP: usize = 4096;
const SWEEP_STEPS: usize = 64;

/// What became of a batch.
#[derive(Default)]
struct Fired {
    /// The log's end behind it.
    end: PhysicalOffset,
    /// The points of those that were delivered.
    points: Vec<u64>,
    again: Vec<Entry>,
    /// When `again` may go better, but for `unseen`.
    wait: Option<Duration>,
    /// Some cannot be read before the log is committed.
    unseen: bool,
    dropped: usize,
}

enum Outcome {
    Delivered(PhysicalOffset),
    /// Its topic is gone, or it cannot be read.
    Dropped(PhysicalOffset),
    /// Somebody else was faster.
    Done,
    /// It was in the index without its time, which is this point.
    Early(u64),
    NotYet,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("its topic is being deleted")]
    Closing,
}

impl Broker {
    /// Delivers every message whose time has come, unless the server ends, and says when to come again. The server calls it
    /// in a loop, always to its end; tests call it after moving the clock.
    pub async fn fire_timers(&self) -> Option<Deadline> {
        let timers = &self.inner.timers;
        // Appended, and not known to be safe: the next batch is appended meanwhile.
        let mut before: Option<Fired> = None;
        loop {
            let now = timers.axis.now(self.inner.clock.now());
            // What is due at the end is delivered at the next start.
            let limit = if self.is_ending() { 0 } else { BATCH };
            let due = timers.index.lock().take_due(now, limit);
            if due.is_empty() && before.is_none() {
                if self.is_ending() {
                    return None;
                }
                self.sweep_timers().await;
                return self.promise_timers(None);
            }
            let (fired, wait) = tokio::join!(self.fire_elsewhere(due), self.settle_fired(before));
            before = fired;
            if let Some(wait) = wait {
                let wait = self.settle_fired(before).await.map_or(wait, |other| other.max(wait));
                return self.promise_timers(Some(now.saturating_add(wait.as_millis() as u64)));
            }
        }
    }

    /// Fires a batch where it may wait for the disk; nothing when nothing is due.
    async fn fire_elsewhere(&self, due: Vec<Entry>) -> Option<Fired> {
        if due.is_empty() {
            return None;
        }
        let (broker, batch) = (self.clone(), due.clone());
        let fired = self.behind_the_runtime(move || broker.fire(&batch)).await;
        Some(fired.unwrap_or_else(|error| {
            tracing::error!(%error, "delivering delayed messages ended early, trying again");
            Fired { again: due, wait: Some(AGAIN_AFTER), ..Fired::default() }
        }))
    }

    /// Waits until a batch is safe; how long to let be what is to be done again.
    async fn settle_fired(&self, fired: Option<Fired>) -> Option<Duration> {
        let fired = fired?;
        let (timers, store) = (&self.inner.timers, &self.inner.store);
        let end = if fired.unseen { store.end() } else { fired.end };
        let committed = store.committed(end).await;
        let now = timers.axis.now(self.inner.clock.now());
        fired.points.iter().for_each(|point| timers.lateness.add(now.saturating_sub(*point)));
        if !fired.again.is_empty() {
            let mut index = timers.index.lock();
            // The driver is this.
            fired.again.into_iter().for_each(|entry| _ = index.insert(entry));
        }
        match committed {
            Ok(()) => fired.wait,
            // The server leaves; at its next start the log says what was delivered.
            Err(_) => Some(AGAIN_AFTER),
        }
    }

    /// Appends the messages of due timers. Waits for the disk, but not until they are safe.
    fn fire(&self, due: &[Entry]) -> Fired {
        let mut fired = Fired::default();
        let mut failed = None;
        for (place, entry) in due.iter().enumerate() {
            match self.fire_one(*entry) {
                Ok(Outcome::Delivered(end)) => {
                    fired.end = fired.end.max(end);
                    fired.points.push(entry.0);
                }
                Ok(Outcome::Dropped(end)) => {
                    fired.end = fired.end.max(end);
                    fired.dropped += 1;
                }
                Ok(Outcome::Done) => self.count_down_stale(),
                Ok(Outcome::Early(point)) => fired.again.push((point, entry.1)),
                Ok(Outcome::NotYet) => {
                    fired.unseen = true;
                    fired.again.push(*entry);
                }
                Err(failure) => {
                    let (wait, is_its_own) = after(&failure);
                    fired.wait = Some(fired.wait.map_or(wait, |other| other.min(wait)));
                    failed = Some(failure);
                    if is_its_own {
                        fired.again.push((entry.0.saturating_add(wait.as_millis() as u64), entry.1));
                        fired.wait = None;
                    } else {
                        fired.again.extend_from_slice(&due[place..]);
                        break;
                    }
                }
            }
        }
        self.inner.timers.release(fired.points.len() + fired.dropped);
        if fired.dropped > 0 {
            tracing::info!(count = fired.dropped, "delayed messages are dropped, since their topics were deleted");
        }
        if let Some(error) = failed {
            tracing::warn!(%error, count = fired.again.len(), "could not deliver delayed messages, trying again");
        }
        fired
    }

    fn fire_one(&self, (point, offset): Entry) -> Result<Outcome, Failure> {
        let offset = QueueOffset::new(offset);
        let book = self.timer_book();
        if book.open().book.is_done(offset) {
            return Ok(Outcome::Done);
        }
        let entry = book.queue.entries(offset, 1)?.first().copied().filter(|entry| entry.offset == offset);
        let message = match entry {
            Some(entry) => self.read_timer(&entry)?,
            None if offset >= book.queue.max() => return Ok(Outcome::NotYet),
            None => None,
        };
        let Some(message) = message else {
            tracing::error!(%offset, "a delayed message cannot be read and is lost");
            return self.drop_timer(offset);
        };
        if let Some(victim) = message.properties.get(key::TIMER_DEL_UNIQKEY) {
            self.obey(victim);
            return self.drop_timer(offset);
        }
        if point < POINTS_FROM
            && let Some(point) = self.still_to_come(offset, &message)
        {
            return Ok(Outcome::Early(point));
        }
        match meant_topic(&message) {
            Some(topic) => self.deliver_timer(offset, &message, &topic),
            None => {
                tracing::warn!(%offset, "a record in the timer topic names no topic and is passed over");
                self.drop_timer(offset)
            }
        }
    }

    /// When a timer is due, if that is yet to come.
    fn still_to_come(&self, offset: QueueOffset, message: &StoredMessage) -> Option<u64> {
        let timers = &self.inner.timers;
        let due = Timestamp::from_millis(message.properties.get(key::TIMER_OUT_MS)?.parse().ok()?);
        let point = timers.skews.lock().point(due, offset);
        (point > timers.axis.now(self.inner.clock.now())).then_some(point)
    }

    fn deliver_timer(
        &self,
        offset: QueueOffset,
        message: &StoredMessage,
        topic: &TopicName,
    ) -> Result<Outcome, Failure> {
        let book = self.timer_book();
        let there = || self.topic_of(message.physical, topic);
        if let Some(entry) = there() {
            let released = released(message, topic.clone(), entry.topic.write_queues);
            let store = &self.inner.store;
            let append = |unit: &[_]| store.append(unit, Purpose::User);
            let through =
                |unit: &[_]| entry.lane.gate.pass(|| self.append_faultily(unit).unwrap_or_else(|| append(unit)));
            if let Some(ticket) = self.append_done_through(book, offset, vec![released], through)? {
                self.inner.meters.came_at_its_time(&entry);
                return Ok(Outcome::Delivered(ticket.end));
            }
            // The deletion has shut the gate and may yet fail; a topic that is gone is out of the table.
            if there().is_some() && !book.open().book.is_done(offset) {
                return Err(Failure::Closing);
            }
        }
        let id = message.message_id().unwrap_or_default();
        let outcome = self.drop_timer(offset)?;
        if matches!(outcome, Outcome::Dropped(_)) {
            tracing::debug!(%topic, id, "a delayed message is dropped, since its topic was deleted");
        }
        Ok(outcome)
    }

    /// Appends the message and the end of its timer apart, if a test wants it so.
    fn append_faultily(&self, unit: &[NewMessage]) -> Option<Result<Ticket, AppendError>> {
        let faults = &self.inner.timers.faults;
        let [message, done] = unit else { return None };
        let (first, second) = match (faults.has(Fault::DoneAhead), faults.has(Fault::DoneBehind)) {
            (true, _) => (done, message),
            (_, true) => (message, done),
            _ => return None,
        };
        let append = |one: &NewMessage| self.inner.store.append(std::slice::from_ref(one), Purpose::User);
        Some(append(first).and_then(|ticket| {
            self.inner.store.committed_blocking(ticket.end)?;
            append(second)
        }))
    }

    /// Drops what an order in a store of Apache's is about, `<topic>+<message id>`.
    fn obey(&self, victim: &str) {
        let Some((topic, id)) = victim.split_once('+') else { return };
        let Ok(topic) = TopicName::parse_any(topic) else { return };
        if let Err(error) = self.cancel_timers(Some(&topic), id) {
            tracing::warn!(%topic, id, %error, "could not recall a delayed message as an order in the log says");
        }
    }

    /// Marks a timer as done without a message.
    fn drop_timer(&self, offset: QueueOffset) -> Result<Outcome, Failure> {
        let done = self.append_done(self.timer_book(), offset, None, vec![], Purpose::Internal)?;
        Ok(done.map_or(Outcome::Done, |ticket| Outcome::Dropped(ticket.end)))
    }

    /// [`Broker::drop_timer`] for one that is not due, and so still in the index.
    pub(super) fn drop_ahead(&self, offset: QueueOffset) -> Result<(), AppendError> {
        if self.append_done(self.timer_book(), offset, None, vec![], Purpose::Internal)?.is_some() {
            self.inner.timers.release(1);
            self.inner.timers.stale.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// An entry whose timer was done otherwise has gone from the index.
    fn count_down_stale(&self) {
        let less = |stale: usize| stale.checked_sub(1);
        // An `Err` says that there was none: the same entry can be met by a sweep and here.
        let _ = self.inner.timers.stale.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Drops entries of timers that were done otherwise once they are many.
    async fn sweep_timers(&self) {
        let timers = &self.inner.timers;
        let stale = timers.stale.load(Ordering::Relaxed);
        if stale > STALE_MIN && stale > timers.pending() / STALE_SHARE {
            let broker = self.clone();
            if let Err(error) = self.behind_the_runtime(move || broker.sweep_some()).await {
                tracing::error!(%error, "sweeping the index of timers ended early");
            }
        }
    }

    pub(super) fn sweep_some(&self) {
        let (timers, book) = (&self.inner.timers, self.timer_book());
        let mut cursor = timers.sweep.lock();
        for _ in 0..SWEEP_STEPS {
            let pages = book.open();
            let mut index = timers.index.lock();
            *cursor = index.sweep(*cursor, SWEEP_STEP, |offset| pages.book.is_done(QueueOffset::new(offset)));
            if cursor.is_none() {
                // What is left is what is due within the minute, or came since.
                timers.stale.store(0, Ordering::Relaxed);
                return;
            }
        }
    }
}

/// When to try again, and whether it is about this message alone.
fn after(failure: &Failure) -> (Duration, bool) {
    match failure {
        Failure::Append(AppendError::Busy { .. }) => (BUSY_AFTER, false),
        Failure::Append(AppendError::TooLarge { .. } | AppendError::PropertiesTooLarge { .. }) => (UNFIT_AFTER, true),
        Failure::Append(_) => (AGAIN_AFTER, false),
        // Others are not kept waiting by a place that the device does not give back.
        Failure::Read(_) | Failure::Closing => (AGAIN_AFTER, true),
    }
}
