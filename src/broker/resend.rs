//! Sending a stored message again, dead letters above all.
//!
//! The copy is the message as its topic got it: body, tag, keys, properties and **its id**, so that one id tells its whole
//! life and a consumer that knows what it has done by id goes on knowing. It goes to the topic, so every group there gets
//! it. A dead letter goes to the topic that it came from, and that copy and "the dead letter is done", a settle record of
//! its own group on the dead-letter topic, are one unit: sent again twice is something that must be asked for.

use std::sync::Arc;

use super::{
    Broker, ProduceError, Topic, Unconfirmed,
    pop::{QueueBook, TooManyBooks},
    produce::queue_of,
};
use crate::{
    store::{AppendError, Purpose, ReadError, Ticket},
    types::{
        GroupName, NewMessage, PhysicalOffset, QueueId, QueueOffset, StoredMessage, Timestamp, TopicName,
        properties::key,
    },
};

/// Dead letters that a list looks at in one go.
const LOOKED_AT_MAX: usize = 10_000;
/// Bytes of bodies that a list holds.
const LIST_BYTES_MAX: usize = 16 << 20;

/// A dead letter, and whether it was sent again or its group has consumed it.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    pub message: StoredMessage,
    pub done: bool,
}

/// Some dead letters.
#[derive(Clone, Debug, Default)]
pub struct DeadLetters {
    pub letters: Vec<DeadLetter>,
    /// Where the next ones begin; `None` at the end.
    pub next: Option<QueueOffset>,
}

/// Where a message went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resent {
    pub message_id: String,
    pub topic: TopicName,
    pub queue: QueueId,
    pub offset: QueueOffset,
}

/// Why a message was not sent again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ResendError {
    #[error("group {0} does not exist; `ferromq group list` shows those that do")]
    GroupNotFound(GroupName),
    #[error("topic {0} does not exist; create it with `ferromq topic create {0}`")]
    TopicNotFound(TopicName),
    #[error("topic {0} cannot be written; `ferromq topic update {0} --writable true` opens it")]
    NotWritable(TopicName),
    #[error("group {group} has no dead letter at offset {offset}")]
    NoLetter { group: GroupName, offset: QueueOffset },
    #[error("the dead letter at offset {0} was sent again already, or consumed; --again sends it once more")]
    Done(QueueOffset),
    #[error("the dead letter at offset {0} does not say which topic it came from")]
    NoOrigin(QueueOffset),
    #[error("the server keeps {books} books, one for each queue and group, the most is {max}; raise popBooksMax")]
    TooManyBooks { books: usize, max: usize },
    /// Of a topic of type LITE.
    #[error(transparent)]
    NotTaken(#[from] ProduceError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Unconfirmed(#[from] Unconfirmed),
}

impl From<TooManyBooks> for ResendError {
    fn from(TooManyBooks { books, max }: TooManyBooks) -> Self {
        Self::TooManyBooks { books, max }
    }
}

impl ResendError {
    /// Whether another message may well be sent: what is wrong is wrong with this one, or with its topic.
    pub fn is_of_the_letter(&self) -> bool {
        match self {
            Self::TopicNotFound(_)
            | Self::NotWritable(_)
            | Self::NoLetter { .. }
            | Self::Done(_)
            | Self::NoOrigin(_)
            | Self::NotTaken(_) => true,
            Self::Append(error) => {
                matches!(error, AppendError::TooLarge { .. } | AppendError::PropertiesTooLarge { .. })
            }
            Self::Read(error) => matches!(error, ReadError::Gone(_) | ReadError::Corrupt { .. }),
            Self::GroupNotFound(_) | Self::TooManyBooks { .. } | Self::Unconfirmed(_) => false,
        }
    }
}

impl Broker {
    /// Dead letters of a group from an offset on, those that are done too if `all`. Waits for the disk.
    pub fn dead_letters(
        &self,
        group: &GroupName,
        from: QueueOffset,
        max: usize,
        all: bool,
    ) -> Result<DeadLetters, ResendError> {
        let Some(topic) = self.dead_letter_topic(group)? else { return Ok(DeadLetters::default()) };
        // A group that has not looked at its dead letters yet has done none, and looking makes it no progress.
        let book = self.inner.pop.books(&topic.name, group).first().cloned();
        let queue = self.inner.store.queue(&topic.name, QueueId(0));
        let (mut found, mut bytes, mut looked_at) = (DeadLetters::default(), 0, 0);
        let mut next = from.max(self.queue_start(&topic.name, QueueId(0)));
        while looked_at < LOOKED_AT_MAX {
            let entries = queue.entries(next, LOOKED_AT_MAX - looked_at)?;
            let Some(last) = entries.last() else { return Ok(found) };
            for entry in &entries {
                if found.letters.len() >= max || bytes >= LIST_BYTES_MAX {
                    found.next = Some(entry.offset);
                    return Ok(found);
                }
                let done = book.as_ref().is_some_and(|book| book.open().book.is_done(entry.offset));
                if done && !all {
                    continue;
                }
                match self.inner.store.message(entry.physical, entry.size) {
                    Ok(message) => {
                        bytes += message.body.len();
                        found.letters.push(DeadLetter { message, done });
                    }
                    Err(ReadError::Gone(_) | ReadError::Corrupt { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            looked_at += entries.len();
            next = last.offset.plus(1);
        }
        found.next = Some(next).filter(|next| *next < queue.max());
        Ok(found)
    }

    /// Sends a dead letter to the topic that it came from, and counts it as done; `again` even if it was that already. As
    /// safe as the flush policy says once [`Broker::resent`] has returned. Waits for the disk.
    pub fn resend_dead_letter(
        &self,
        group: &GroupName,
        offset: QueueOffset,
        again: bool,
    ) -> Result<(Resent, PhysicalOffset), ResendError> {
        let no_letter = || ResendError::NoLetter { group: group.clone(), offset };
        let book = self.dead_letter_book(group)?.ok_or_else(no_letter)?;
        let entry = book.queue.entries(offset, 1)?.first().copied().filter(|entry| entry.offset == offset);
        let entry = entry.ok_or_else(no_letter)?;
        let message = self.inner.store.message(entry.physical, entry.size)?;
        let origin = message.properties.get(key::DLQ_ORIGIN_TOPIC).or(message.properties.get(key::RETRY_TOPIC));
        let origin = origin.and_then(|name| TopicName::parse(name).ok()).ok_or(ResendError::NoOrigin(offset))?;
        let topic = self.open_topic(&origin)?;
        self.open_lite_topic(&topic, message.lite_topic())?;
        let unit = vec![again_for(&message, &topic)];
        let append = |unit: &[NewMessage]| self.append_to_topic(&topic.name, unit, Purpose::User);
        match self.append_done_through(&book, offset, unit.clone(), append)? {
            Some(ticket) => Ok(resent(&unit[0], &ticket)),
            None if book.open().forgotten => Err(ResendError::GroupNotFound(group.clone())),
            None if !book.open().book.is_done(offset) => Err(ResendError::TopicNotFound(origin)),
            None if !again => Err(ResendError::Done(offset)),
            None => self.append_again(unit),
        }
    }

    /// Sends a copy of a stored message to its topic. Waits for the disk.
    pub fn resend(&self, message: &StoredMessage) -> Result<(Resent, PhysicalOffset), ResendError> {
        let topic = self.open_topic(&message.topic)?;
        self.open_lite_topic(&topic, message.lite_topic())?;
        self.append_again(vec![again_for(message, &topic)])
    }

    /// Waits until what was sent again up to here is as safe as the flush policy says.
    pub async fn resent(&self, end: PhysicalOffset) -> Result<(), ResendError> {
        Ok(self.confirmed(end).await?)
    }

    fn append_again(&self, unit: Vec<NewMessage>) -> Result<(Resent, PhysicalOffset), ResendError> {
        let topic = &unit[0].topic;
        let ticket = self.append_to_topic(topic, &unit, Purpose::User);
        let ticket = ticket.ok_or_else(|| ResendError::TopicNotFound(topic.clone()))??;
        Ok(resent(&unit[0], &ticket))
    }

    fn open_topic(&self, name: &TopicName) -> Result<Arc<Topic>, ResendError> {
        let topic = self.topic(name.as_str()).ok_or_else(|| ResendError::TopicNotFound(name.clone()))?;
        match topic.writable && topic.write_queues > 0 && !name.is_system() {
            true => Ok(topic),
            false => Err(ResendError::NotWritable(name.clone())),
        }
    }

    /// The group's own progress on its dead letters, begun if need be; `None` when it has never had one.
    fn dead_letter_book(&self, group: &GroupName) -> Result<Option<Arc<QueueBook>>, ResendError> {
        let Some(topic) = self.dead_letter_topic(group)? else { return Ok(None) };
        Ok(self.books_on(&topic, group)?.first().cloned())
    }

    fn dead_letter_topic(&self, group: &GroupName) -> Result<Option<Arc<Topic>>, ResendError> {
        match self.group(group.as_str()) {
            Some(_) => Ok(self.topic(TopicName::dead_letter(group).as_str())),
            None => Err(ResendError::GroupNotFound(group.clone())),
        }
    }
}

/// The message as it is sent again: as it was sent, with what only its way to the dead letters gave it left out.
fn again_for(message: &StoredMessage, topic: &Topic) -> NewMessage {
    let on_the_way = [key::RETRY_TOPIC, key::ORIGIN_MESSAGE_ID, key::DLQ_ORIGIN_TOPIC, key::DLQ_ORIGIN_MESSAGE_ID];
    let queues = topic.write_queues.max(1);
    let same = QueueId(message.queue.0 % queues);
    let queue = queue_of(&message.properties, message.message_group(), topic, same);
    NewMessage {
        topic: topic.name.clone(),
        queue,
        flag: message.flag,
        sys_flag: message.sys_flag.with_transaction(0),
        born_at: message.born_at,
        born_host: message.born_host,
        reconsume_times: 0,
        prepared_at: None,
        properties: message.properties.without(&on_the_way).build(),
        body: message.body.clone(),
    }
}

fn resent(message: &NewMessage, ticket: &Ticket) -> (Resent, PhysicalOffset) {
    let message_id = message.properties.get(key::UNIQ_KEY).unwrap_or_default().to_owned();
    let offset = ticket.appended.first().map_or(QueueOffset::ZERO, |at| at.queue_offset);
    (Resent { message_id, topic: message.topic.clone(), queue: message.queue, offset }, ticket.end)
}

/// The reason of a dead letter is not in it; what is: where it came from, and when it was moved.
impl DeadLetter {
    pub fn origin(&self) -> Option<&str> {
        self.message.properties.get(key::DLQ_ORIGIN_TOPIC)
    }
    pub fn moved_at(&self) -> Timestamp {
        self.message.stored_at
    }
}

#[cfg(test)]
mod tests;
