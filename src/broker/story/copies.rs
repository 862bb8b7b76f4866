//! Where a message is stored.

use super::{Broker, LookError, Place};
use crate::{
    broker::metadata::{HALF_TOPIC, TIMER_TOPIC, UNDECIDED_TOPIC},
    types::{
        Deadline, PhysicalOffset, QueueId, QueueOffset, StoredMessage, Timestamp, TopicName, id::DLQ_PREFIX,
        properties::key,
    },
};

/// Topics that are searched for an id without a topic.
const TOPICS_MAX: usize = 10_000;

/// One place in the log that has the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    pub kind: Kind,
    pub topic: TopicName,
    pub queue: QueueId,
    pub offset: QueueOffset,
    pub physical: PhysicalOffset,
    /// Where the next record of the same append lies.
    pub goes_on_at: Option<PhysicalOffset>,
    pub born_at: Timestamp,
    pub stored_at: Timestamp,
    pub body_bytes: usize,
    /// The topic that it is meant for, where that is not this one.
    pub meant_for: Option<TopicName>,
}

/// What a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Message,
    /// It waits, or waited, for its time.
    Timer {
        due: Timestamp,
    },
    /// It waits, or waited, for its producer's decision.
    Half,
    /// Nobody decided.
    Undecided,
    DeadLetter,
}

impl Kind {
    pub(super) fn is_consumed(self) -> bool {
        matches!(self, Self::Message | Self::DeadLetter)
    }
}

impl Copy {
    pub(super) fn place(&self) -> Place {
        (self.topic.clone(), self.queue, self.offset)
    }
}

impl Broker {
    /// Every copy of the message with this id, the oldest first. When there was no time for all topics, what is missing is
    /// told with those that were found, and an error when there are none.
    pub(super) fn copies(
        &self,
        topic: Option<&TopicName>,
        id: &str,
        until: Deadline,
    ) -> Result<(Vec<Copy>, Option<LookError>), LookError> {
        let topics = self.topics(false).into_iter().map(|topic| topic.name.clone());
        let mut searched: Vec<TopicName> = match topic {
            Some(topic) => {
                self.existing(topic)?;
                let dead_letters = topics.filter(|other| is_dead_letter(other) && other != topic);
                std::iter::once(topic.clone()).chain(dead_letters).collect()
            }
            None => topics.collect(),
        };
        if searched.len() > TOPICS_MAX {
            return Err(LookError::TooManyTopics { topics: searched.len(), max: TOPICS_MAX });
        }
        // First, since they are three and the others may be too many for the time.
        searched.splice(..0, [TIMER_TOPIC, HALF_TOPIC, UNDECIDED_TOPIC].map(TopicName::system));
        let (mut copies, mut missing) = (Vec::new(), None);
        for (number, place) in searched.iter().enumerate() {
            if self.inner.clock.now() >= until {
                missing = Some(LookError::TooSlow { searched: number, topics: searched.len() });
                break;
            }
            for message in self.find_by_id(place, id)? {
                let copy = copy(&message, self.goes_on_at(&message)?);
                let meant = copy.meant_for.as_ref().unwrap_or(&copy.topic);
                if topic.is_none_or(|topic| topic == meant || *topic == copy.topic) {
                    copies.push(copy);
                }
            }
        }
        copies.sort_by_key(|copy| copy.physical);
        match missing {
            Some(missing) if copies.is_empty() => Err(missing),
            missing => Ok((copies, missing)),
        }
    }
}

impl Broker {
    fn goes_on_at(&self, message: &StoredMessage) -> Result<Option<PhysicalOffset>, LookError> {
        if !message.goes_on {
            return Ok(None);
        }
        let queue = self.inner.store.queue(&message.topic, message.queue);
        let entry = queue.entries(message.queue_offset, 1)?.first().copied();
        let entry = entry.filter(|entry| entry.physical == message.physical);
        Ok(entry.map(|entry| entry.physical.plus(u64::from(entry.size))))
    }
}

fn is_dead_letter(topic: &TopicName) -> bool {
    topic.as_str().starts_with(DLQ_PREFIX)
}

fn copy(message: &StoredMessage, goes_on_at: Option<PhysicalOffset>) -> Copy {
    let of = |key| message.properties.get(key);
    let (kind, meant_for) = match message.topic.as_str() {
        TIMER_TOPIC => {
            let due = of(key::TIMER_OUT_MS).and_then(|due| due.parse().ok()).map(Timestamp::from_millis);
            (Kind::Timer { due: due.unwrap_or(message.stored_at) }, of(key::REAL_TOPIC))
        }
        HALF_TOPIC => (Kind::Half, of(key::REAL_TOPIC)),
        UNDECIDED_TOPIC => (Kind::Undecided, of(key::REAL_TOPIC)),
        _ if is_dead_letter(&message.topic) => (Kind::DeadLetter, of(key::DLQ_ORIGIN_TOPIC)),
        _ => (Kind::Message, None),
    };
    Copy {
        kind,
        topic: message.topic.clone(),
        queue: message.queue,
        offset: message.queue_offset,
        physical: message.physical,
        goes_on_at,
        born_at: message.born_at,
        stored_at: message.stored_at,
        body_bytes: message.body.len(),
        meant_for: meant_for.and_then(|name| TopicName::parse_any(name).ok()),
    }
}
