//! Sending: check, choose the queue, append, wait.
//!
//! What a front has checked already (names, properties, form) is not looked at again. Checked here, in this order: the
//! body's size, the topic, its type, its permission. Then every message of the call gets its queue, all of them enter the
//! log as one unit, and the answer waits for the flush policy, but not for ever.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;

use crate::{
    store::{Purpose, Ticket},
    types::{
        MessageType, NewMessage, PhysicalOffset, Properties, QueueId, QueueOffset, SysFlag, Timestamp, TopicName,
        java_hash, properties::key,
    },
};

use super::{
    AdminError, Broker, ProduceError, Topic, TransactionId,
    delay::{Held, put_aside},
    lite,
    metadata::TopicEntry,
    transaction::as_half,
};

/// A message as a front hands it over: every field checked for its form, nothing checked against the server's state.
#[derive(Clone, Debug)]
pub struct Draft {
    pub message_type: MessageType,
    pub sys_flag: SysFlag,
    pub flag: i32,
    pub born_at: Timestamp,
    pub born_host: SocketAddr,
    /// The ordering key; messages with the same one go to the same queue.
    pub message_group: Option<String>,
    pub properties: Properties,
    pub body: Bytes,
}

/// Where a message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    pub queue: QueueId,
    /// In that queue; while the message is held, in the timer topic; of a half message, in the queue of halves.
    pub offset: QueueOffset,
    /// When the message goes to its queue, if that is not now.
    pub held_until: Option<Timestamp>,
    /// Of a half message.
    pub transaction: Option<TransactionId>,
}

impl Draft {
    fn placed(self, topic: &TopicName, queue: QueueId) -> NewMessage {
        NewMessage {
            topic: topic.clone(),
            queue,
            flag: self.flag,
            sys_flag: self.sys_flag,
            born_at: self.born_at,
            born_host: self.born_host,
            reconsume_times: 0,
            prepared_at: None,
            properties: self.properties,
            body: self.body,
        }
    }
}

impl Broker {
    /// Stores the messages of one call, all or none, and returns once they are as safe as the flush policy says.
    ///
    /// The first message to a topic without a type decides it. Dropping the future does not undo the append.
    pub async fn produce(&self, topic: &TopicName, drafts: Vec<Draft>) -> Result<Vec<Produced>, ProduceError> {
        let Some(first) = drafts.first() else { return Ok(vec![]) };
        self.check_bodies(&drafts)?;
        let mut entry = match self.topic_entry(topic.as_str()) {
            Some(entry) => entry,
            None => self.create_for(topic).await?,
        };
        self.check_types(&entry, &drafts)?;
        if entry.topic.message_type.is_none() {
            let message_type = first.message_type;
            if message_type == MessageType::Lite && self.inner.store.has_messages(topic) {
                // It would be LITE for good, and what it has would be out of its consumers' reach.
                let expected = MessageType::Normal;
                return Err(ProduceError::TypeConflict { topic: topic.clone(), expected, actual: message_type });
            }
            let name = topic.clone();
            entry = self.change_metadata(move |broker| broker.decide_type(&name, message_type)).await?;
            // Another send may have been faster.
            self.check_types(&entry, &drafts)?;
        }
        self.open_lite_topics(&entry.topic, &drafts).await?;
        let (produced, end) = self.append_drafts(&entry, drafts)?;
        self.confirmed(end).await?;
        self.count_lite(&entry.topic).await;
        Ok(produced)
    }

    fn check_bodies(&self, drafts: &[Draft]) -> Result<(), ProduceError> {
        let max = self.inner.config.max_message_bytes;
        match drafts.iter().map(|draft| draft.body.len()).find(|size| *size > max) {
            Some(size) => Err(ProduceError::BodyTooLarge { size, max }),
            None => Ok(()),
        }
    }

    async fn create_for(&self, topic: &TopicName) -> Result<Arc<TopicEntry>, ProduceError> {
        let made = self.topic_for(topic).await?;
        let entry = made.and_then(|_| self.topic_entry(topic.as_str()));
        entry.ok_or_else(|| ProduceError::TopicNotFound(topic.clone()))
    }

    /// Whether the topic takes messages of these types and lets itself be written. Retry and dead-letter topics take all
    /// types.
    fn check_types(&self, entry: &TopicEntry, drafts: &[Draft]) -> Result<(), ProduceError> {
        let topic = &*entry.topic;
        // What is for a lite topic is found nowhere else, and nothing else is found there.
        let lite = |t: Option<MessageType>| t == Some(MessageType::Lite);
        let is_lite = lite(topic.message_type) || drafts.iter().any(|draft| lite(Some(draft.message_type)));
        if (self.inner.config.check_message_type || is_lite) && !topic.name.is_derived() {
            // All messages of a call that decides the type must be of it.
            let expected = topic.message_type.or(drafts.first().map(|first| first.message_type));
            let conflict = |draft: &&Draft| expected.is_some_and(|expected| !expected.accepts(draft.message_type));
            if let (Some(expected), Some(draft)) = (expected, drafts.iter().find(conflict)) {
                let actual = draft.message_type;
                return Err(ProduceError::TypeConflict { topic: topic.name.clone(), expected, actual });
            }
        }
        if !topic.writable || topic.write_queues == 0 || topic.name.is_system() {
            return Err(ProduceError::NotWritable(topic.name.clone()));
        }
        Ok(())
    }

    /// Gives each message its queue and all of them their places in the log, and says where the log then ends. What waits
    /// for its time gets a place in the timer topic, what waits for its producer's decision in the topic of halves.
    fn append_drafts(
        &self,
        entry: &TopicEntry,
        drafts: Vec<Draft>,
    ) -> Result<(Vec<Produced>, PhysicalOffset), ProduceError> {
        let mut held = self.hold(&drafts)?;
        let is_half = |draft: &Draft| draft.message_type == MessageType::Transaction;
        let mut places = self.inner.transactions.reserve(drafts.iter().filter(|draft| is_half(draft)).count())?;
        let topic = &*entry.topic;
        // One turn for the messages of a call that need no order: a batch stays together, batches take turns.
        let turn = entry.lane.next_queue(topic.write_queues);
        let (mut unit, mut placed) = (Vec::with_capacity(drafts.len()), Vec::with_capacity(drafts.len()));
        for (i, draft) in drafts.into_iter().enumerate() {
            let is_half = is_half(&draft);
            let queue = queue_of(&draft.properties, draft.message_group.as_deref(), topic, turn);
            placed.push((queue, draft.message_type));
            let message = draft.placed(&topic.name, queue);
            unit.push(match held.until(i) {
                Some(due) => put_aside(message, due),
                None if is_half => as_half(message),
                None => message,
            });
        }
        let append = || {
            let ticket = self.inner.store.append(&unit, Purpose::User)?;
            held.appended(&ticket);
            self.count_stored(entry, &placed, &held, &ticket);
            let all = ticket.appended.iter().zip(&unit).zip(&placed).enumerate();
            let produced = all.map(|(i, ((at, message), &(queue, kind)))| Produced {
                queue,
                offset: at.queue_offset,
                held_until: held.until(i),
                transaction: (kind == MessageType::Transaction)
                    .then(|| self.half_stored(&mut places, at, &topic.name, message)),
            });
            Ok((produced.collect(), ticket.end))
        };
        entry.lane.gate.pass(append).ok_or_else(|| ProduceError::TopicNotFound(topic.name.clone()))?
    }

    fn count_stored(&self, entry: &TopicEntry, placed: &[(QueueId, MessageType)], held: &Held<'_>, ticket: &Ticket) {
        self.inner.meters.stored(entry, placed.iter().map(|(_, kind)| *kind), ticket);
        for (place, at) in ticket.appended.iter().enumerate() {
            if let Some(due) = held.until(place) {
                self.inner.meters.delayed(entry, due, at.stored_at);
            }
        }
    }
}

/// A message goes to its message group's queue, a message with a priority to the queue of its class, others to the one
/// whose turn it is.
pub(super) fn queue_of(properties: &Properties, message_group: Option<&str>, topic: &Topic, turn: QueueId) -> QueueId {
    match topic.message_type {
        Some(MessageType::Priority) => return queue_of_priority(priority_of(properties), topic.write_queues),
        Some(MessageType::Lite) => return lite::QUEUE,
        _ => {}
    }
    message_group.map_or(turn, |group| queue_of_group(group, topic.write_queues))
}

/// 0 where the message has none.
fn priority_of(properties: &Properties) -> u32 {
    properties.get(key::PRIORITY).and_then(|priority| priority.parse().ok()).unwrap_or(0)
}

/// Each queue of a PRIORITY topic is a class: queue n holds priority n, and the last one whatever is above.
fn queue_of_priority(priority: u32, queues: u32) -> QueueId {
    QueueId(priority.min(queues.saturating_sub(1)))
}

/// The queue of a message group: Java's hash of the name, then a jump consistent hash, as RocketMQ's proxy does it
/// (`SendMessageActivity`), so that a group keeps its queue when a server takes over from Apache's.
pub(super) fn queue_of_group(group: &str, queues: u32) -> QueueId {
    QueueId(jump_hash(i64::from(java_hash(group)) as u64, queues))
}

/// Lamping and Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm". Below `buckets`; 0 when there are none.
fn jump_hash(key: u64, buckets: u32) -> u32 {
    let mut state = key;
    let mut candidate = 0;
    loop {
        state = state.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let divisor = ((state >> 33) + 1) as f64 / (1u64 << 31) as f64;
        let next = (f64::from(candidate) + 1.0) / divisor;
        if next >= f64::from(buckets) {
            return candidate;
        }
        // Below `buckets`, so it fits.
        candidate = next as u32;
    }
}

impl From<AdminError> for ProduceError {
    /// What making or changing the topic on the way to a send can say.
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::TopicNotFound(topic) => Self::TopicNotFound(topic),
            AdminError::TooMany(max) => Self::TooManyTopics(max),
            AdminError::Metadata(why) => Self::Metadata(why),
            AdminError::GroupNotFound(_)
            | AdminError::Conflict(_)
            | AdminError::Invalid(_)
            | AdminError::Late { .. }
            | AdminError::Reserved(_) => Self::Metadata(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
