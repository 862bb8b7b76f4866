//! Taking a message back, moving its time, and looking at what waits.
//!
//! A message is found by its id: the handle's hint, then the index of keys, which knows the timer topic's records as all
//! others, and, where keys are not indexed, the timers of the handle's time. A producer that repeated a send may have stored
//! the same id twice; what is done to a message is done to each of its timers.

use std::collections::BTreeSet;

use super::super::aside::meant_topic;
use super::{
    Broker, RecallHandle,
    accept::again,
    faults::Fault,
    index::{between, following},
};
use crate::{
    broker::{ProduceError, Produced, Unconfirmed},
    store::{AppendError, Entry, Purpose, ReadError, Sought, Ticket},
    types::{MessageType, PhysicalOffset, QueueOffset, StoredMessage, Timestamp, TopicName, properties::key},
};

/// Timers of one id that are found, and records with it as an id or a key that are looked at for them.
const SAME_ID_MAX: usize = 64;
const SAME_KEY_MAX: usize = 1024;
/// Timers of one time that are looked at for an id.
const SAME_TIME_MAX: usize = 4096;
/// Recalls that look, or wait until they may look, for an id among the timers of a time.
pub(super) const LOOKERS_MAX: usize = 8;
/// Timers that a list or a search looks at.
const SCAN_MAX: usize = 100_000;
/// Timers that a list shows.
const LIST_MAX: usize = 1000;
/// Timers of one look at the index.
const PAGE: usize = 4096;

/// A message that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingTimer {
    pub topic: TopicName,
    pub message_id: String,
    pub due: Timestamp,
    /// When it was appended: first, or when it was last carried forward.
    pub stored_at: Timestamp,
    pub born_at: Timestamp,
    pub tag: Option<String>,
    pub keys: Option<String>,
    pub body_bytes: usize,
    /// How often it was carried forward.
    pub rolled: u32,
    /// In the timer topic.
    pub offset: QueueOffset,
}

/// Why a message was not recalled, found or moved.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecallError {
    #[error("recall is switched off; recallMessageEnable=true switches it on")]
    Off,
    #[error("topic {0} does not exist; create it with `ferromq topic create {0}`")]
    TopicNotFound(TopicName),
    #[error("topic {topic} takes {} messages, and only DELAY messages are recalled", .has.map_or("no", MessageType::as_str))]
    NotDelay { topic: TopicName, has: Option<MessageType> },
    #[error("the recall handle is not one of this broker's")]
    Malformed,
    #[error("the recall handle is of topic {handle}, the request of topic {request}")]
    OtherTopic { handle: TopicName, request: TopicName },
    #[error("message {id} is not pending any more: its time has come")]
    Delivered { id: String },
    #[error("message {id} is not pending: it was recalled, was delivered, or never came here")]
    NotPending { id: String },
    #[error(
        "{LOOKERS_MAX} recalls already look for messages that no index knows; messageIndexEnable=true makes them quick"
    )]
    Busy,
    #[error(transparent)]
    Time(#[from] Box<ProduceError>),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Unconfirmed(#[from] Unconfirmed),
}

impl Broker {
    /// The handle by which a message that was produced can be recalled; `None` when it does not wait.
    pub fn recall_handle(&self, topic: &TopicName, message_id: &str, produced: &Produced) -> Option<String> {
        // A copy in a retry topic is the group's, not a producer's.
        let due = produced.held_until.filter(|_| !topic.is_derived())?;
        let (topic, message_id, offset) = (topic.clone(), message_id.to_owned(), Some(produced.offset));
        Some(RecallHandle { topic, due, message_id, offset }.encode(&self.inner.config.broker_name))
    }

    /// Takes back a message that waits for its time; its id. Once this returns it is not delivered, also after a crash.
    pub async fn recall(&self, topic: &TopicName, handle: &str) -> Result<String, RecallError> {
        let config = &self.inner.config;
        if !config.recall_enabled {
            return Err(RecallError::Off);
        }
        let there = self.topic(topic.as_str()).ok_or_else(|| RecallError::TopicNotFound(topic.clone()))?;
        let has = there.message_type;
        if config.check_message_type && !has.is_some_and(|has| has.accepts(MessageType::Delay)) {
            return Err(RecallError::NotDelay { topic: topic.clone(), has });
        }
        let handle = RecallHandle::decode(handle, &config.broker_name).ok_or(RecallError::Malformed)?;
        if handle.topic != *topic {
            return Err(RecallError::OtherTopic { handle: handle.topic, request: topic.clone() });
        }
        let (id, due) = (handle.message_id.clone(), handle.due);
        let Some(end) = self.cancel_named(handle).await? else {
            let is_over = due <= self.inner.clock.wall();
            return Err(if is_over { RecallError::Delivered { id } } else { RecallError::NotPending { id } });
        };
        self.confirmed(end).await?;
        Ok(id)
    }

    /// Cancels the timers that a handle names; the log's end behind that, `None` when there are none.
    async fn cancel_named(&self, handle: RecallHandle) -> Result<Option<PhysicalOffset>, RecallError> {
        let (broker, asked) = (self.clone(), handle.clone());
        let by_name = move || {
            let named = broker.named_by(&asked)?;
            Ok::<_, RecallError>((named.is_empty(), broker.cancel(&named)?))
        };
        let (is_unknown, end) = self.off_the_runtime(by_name).await.map_err(no_thread)??;
        // Where keys are indexed, what they do not name is not there. Elsewhere one client at a time looks further, and
        // the others wait for it where they keep no read waiting.
        if !is_unknown || self.inner.store.is_indexed() {
            return Ok(end);
        }
        let timers = &self.inner.timers;
        let _place = timers.lookers.try_acquire().map_err(|_| RecallError::Busy)?;
        let _turn = timers.looking.acquire().await.map_err(|_| RecallError::Busy)?;
        let broker = self.clone();
        self.off_the_runtime(move || broker.cancel(&broker.of_its_time(&handle)?)).await.map_err(no_thread)?
    }

    /// Cancels whatever waits under a message id, in a topic or in any; what it was. Waits for the disk.
    pub fn cancel_timers(&self, topic: Option<&TopicName>, id: &str) -> Result<Vec<PendingTimer>, RecallError> {
        let found = self.find_timers(topic, id)?;
        let end = self.cancel(&found.iter().map(|timer| timer.offset).collect())?;
        let end = end.ok_or_else(|| RecallError::NotPending { id: id.to_owned() })?;
        self.inner.store.committed_blocking(end).map_err(Unconfirmed::Poisoned)?;
        Ok(found)
    }

    /// Gives whatever waits under a message id another time; as it waits now. What is in the past is due at once. Waits for
    /// the disk.
    pub fn reschedule_timers(
        &self,
        topic: Option<&TopicName>,
        id: &str,
        due: Timestamp,
    ) -> Result<Vec<PendingTimer>, RecallError> {
        let (wall, now) = (self.inner.clock.wall(), self.inner.clock.now());
        let (ahead, max) = (due.since(wall), self.inner.config.timer_delay_max);
        if ahead > max {
            return Err(Box::new(ProduceError::DelayTooLong { ahead, max }).into());
        }
        let point = self.inner.timers.axis.point(due.max(wall), wall, now);
        let mut moved = Vec::new();
        for timer in self.find_timers(topic, id)? {
            let Some(message) = self.pending_record(timer.offset)? else { continue };
            let anew =
                [key::TIMER_OUT_MS, key::TIMER_DELIVER_MS, key::DELAY, key::TIMER_DELAY_SEC, key::TIMER_DELAY_MS];
            let mut properties = message.properties.without(&anew);
            properties.push(key::TIMER_OUT_MS, &due.to_string()).push(key::TIMER_DELIVER_MS, &due.to_string());
            let record = again(&message, properties.build());
            if self.replace_timer(timer.offset, &message, record, due, point)? {
                moved.push(PendingTimer { due, stored_at: wall, ..timer });
            }
        }
        if moved.is_empty() {
            return Err(RecallError::NotPending { id: id.to_owned() });
        }
        self.inner.store.committed_blocking(self.inner.store.end()).map_err(Unconfirmed::Poisoned)?;
        Ok(moved)
    }

    /// What waits under a message id, in a topic or in any. Waits for the disk.
    pub fn find_timers(&self, topic: Option<&TopicName>, id: &str) -> Result<Vec<PendingTimer>, RecallError> {
        let mut found = Vec::new();
        for offset in self.indexed(id)? {
            let timer = self.pending_record(offset)?.and_then(|message| shown(&message));
            found.extend(timer.filter(|timer| topic.is_none_or(|topic| *topic == timer.topic)));
        }
        if found.is_empty() && !self.inner.store.is_indexed() {
            found = self.scan_timers(topic, SAME_ID_MAX, |timer| timer.message_id == id)?;
        }
        Ok(found)
    }

    /// What waits, the earliest first, for a topic or for any; at most `limit` and 1000. Looks at no more than 100,000 timers.
    /// Waits for the disk.
    pub fn list_timers(&self, topic: Option<&TopicName>, limit: usize) -> Result<Vec<PendingTimer>, RecallError> {
        self.scan_timers(topic, limit.min(LIST_MAX), |_| true)
    }

    fn scan_timers(
        &self,
        topic: Option<&TopicName>,
        limit: usize,
        wanted: impl Fn(&PendingTimer) -> bool,
    ) -> Result<Vec<PendingTimer>, RecallError> {
        let (mut found, mut after, mut seen) = (Vec::new(), (0, 0), 0);
        loop {
            let page = following(&self.inner.timers.index, after, PAGE);
            let Some(last) = page.last().copied() else { return Ok(found) };
            after = last;
            for (_, offset) in page {
                if found.len() >= limit || seen == SCAN_MAX {
                    return Ok(found);
                }
                seen += 1;
                let timer = self.pending_record(QueueOffset::new(offset))?.and_then(|message| shown(&message));
                found.extend(timer.filter(|t| topic.is_none_or(|topic| *topic == t.topic) && wanted(t)));
            }
        }
    }

    /// The timers that a handle names, by its hint and by the index of keys.
    fn named_by(&self, handle: &RecallHandle) -> Result<BTreeSet<QueueOffset>, RecallError> {
        let mut offsets: BTreeSet<QueueOffset> = self.indexed(&handle.message_id)?.into_iter().collect();
        offsets.extend(handle.offset);
        self.of_message(offsets, handle)
    }

    /// Those timers of the handle's time that are its message's.
    fn of_its_time(&self, handle: &RecallHandle) -> Result<BTreeSet<QueueOffset>, RecallError> {
        let window = self.inner.timers.skews.lock().window(handle.due);
        let same_time = between(&self.inner.timers.index, window, SAME_TIME_MAX);
        self.of_message(same_time.into_iter().map(QueueOffset::new), handle)
    }

    /// Those offsets at which the handle's message waits.
    fn of_message(
        &self,
        offsets: impl IntoIterator<Item = QueueOffset>,
        handle: &RecallHandle,
    ) -> Result<BTreeSet<QueueOffset>, RecallError> {
        let mut named = BTreeSet::new();
        for offset in offsets {
            let Some(message) = self.pending_record(offset)? else { continue };
            if message.message_id() == Some(&handle.message_id) && meant_topic(&message).as_ref() == Some(&handle.topic)
            {
                named.insert(offset);
            }
        }
        Ok(named)
    }

    /// Offsets in the timer topic that the index of keys has for an id.
    fn indexed(&self, id: &str) -> Result<Vec<QueueOffset>, ReadError> {
        let sought = Sought::any(self.timer_book().queue.topic(), id);
        let found = self.inner.store.find(sought, SAME_ID_MAX, SAME_KEY_MAX, |m| m.message_id() == Some(id))?;
        Ok(found.iter().map(|m| m.queue_offset).collect())
    }

    /// The record of a timer, unless it is done or cannot be read.
    fn pending_record(&self, offset: QueueOffset) -> Result<Option<StoredMessage>, ReadError> {
        let book = self.timer_book();
        if book.open().book.is_done(offset) {
            return Ok(None);
        }
        let is_it = |entry: &Entry| entry.offset == offset;
        match book.queue.entries(offset, 1)?.first().copied().filter(is_it) {
            Some(entry) => self.read_timer(&entry),
            None => Ok(None),
        }
    }

    /// Ends timers without their messages; the log's end behind that, `None` when all were done already.
    fn cancel(&self, offsets: &BTreeSet<QueueOffset>) -> Result<Option<PhysicalOffset>, RecallError> {
        let timers = &self.inner.timers;
        let mut end = None;
        for offset in offsets {
            let append = |unit: &[_]| match timers.faults.has(Fault::RecallInMemory) {
                true => Some(Ok(Ticket { appended: vec![], end: self.inner.store.end() })),
                false => Some(self.inner.store.append(unit, Purpose::Internal)),
            };
            let done = self.append_done_through(self.timer_book(), *offset, vec![], append)?;
            if let Some(ticket) = done {
                timers.release(1);
                timers.stale.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                end = end.max(Some(ticket.end));
            }
        }
        Ok(end)
    }
}

fn shown(message: &StoredMessage) -> Option<PendingTimer> {
    let of = |key| message.properties.get(key);
    Some(PendingTimer {
        topic: meant_topic(message)?,
        message_id: message.message_id().unwrap_or_default().to_owned(),
        due: Timestamp::from_millis(of(key::TIMER_OUT_MS)?.parse().ok()?),
        stored_at: message.stored_at,
        born_at: message.born_at,
        tag: message.tag().map(str::to_owned),
        keys: of(key::KEYS).map(str::to_owned),
        body_bytes: message.body.len(),
        rolled: of(key::TIMER_ROLL_TIMES).and_then(|n| n.parse().ok()).unwrap_or(0),
        offset: message.queue_offset,
    })
}

fn no_thread(error: std::io::Error) -> RecallError {
    ReadError::Io { at: PhysicalOffset::ZERO, error: std::sync::Arc::new(error) }.into()
}
