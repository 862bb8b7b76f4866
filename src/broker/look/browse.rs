//! Messages of a topic in the order of their store times, page by page.

use std::{cmp::Reverse, collections::BinaryHeap, fmt, ops::Range, str::FromStr, sync::Arc};

use super::{Broker, Filter, LookError, Topic};
use crate::{
    store::{Entry, Queue, ReadError},
    types::{Deadline, PhysicalOffset, QueueId, QueueOffset, StoredMessage, Timestamp, TopicName},
};

/// What to show.
#[derive(Clone, Debug)]
pub struct Browse {
    pub topic: TopicName,
    /// Every queue without one.
    pub queue: Option<QueueId>,
    /// Stored at these times, both included.
    pub from: Timestamp,
    pub to: Timestamp,
    pub filter: Filter,
    /// Where the page before ended.
    pub after: Option<Cursor>,
    /// Messages at most.
    pub max: usize,
    /// Bytes of bodies at most, unless the first message alone has more.
    pub bytes_max: usize,
    /// Messages to look at, at most, and until when: a filter that wants few of them makes short pages, not long waits. One
    /// is looked at in any case.
    pub looked_at_max: usize,
    pub until: Deadline,
}

/// A part of it.
#[derive(Clone, Debug)]
pub struct Page {
    pub messages: Vec<StoredMessage>,
    /// Where the next page begins; `None` when this was the last one.
    pub next: Option<Cursor>,
    /// Messages that were looked at.
    pub looked_at: usize,
}

/// Where a page ended. As text its kind, and numbers in hexadecimal apart by points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Kind 1: the next offset of each queue.
    Queues(Vec<QueueOffset>),
    /// Kind 2, of messages with a key: the next one lies before this.
    Below(PhysicalOffset),
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queues(at) => {
                f.write_str("1")?;
                at.iter().try_for_each(|offset| write!(f, ".{:x}", offset.get()))
            }
            Self::Below(at) => write!(f, "2.{:x}", at.get()),
        }
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let number = |digits: &str| u64::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+')).ok_or(());
        if let Some(below) = text.strip_prefix("2.") {
            let below = PhysicalOffset::new(number(below)?);
            return (below <= PhysicalOffset::MAX).then_some(Self::Below(below)).ok_or(());
        }
        let offsets = text.strip_prefix("1.").ok_or(())?;
        let offset = |digits: &str| {
            let offset = QueueOffset::new(number(digits)?);
            (offset <= QueueOffset::MAX).then_some(offset).ok_or(())
        };
        offsets.split('.').map(offset).collect::<Result<_, _>>().map(Self::Queues)
    }
}

impl Browse {
    /// The queues that are looked at.
    pub(super) fn queues_of(&self, topic: &Topic) -> Result<Range<u32>, LookError> {
        match self.queue {
            Some(queue) if queue.0 >= topic.read_queues => {
                let (topic, queues) = (topic.name.clone(), topic.read_queues);
                Err(LookError::NoQueue { topic, queue, queues })
            }
            Some(queue) => Ok(queue.0..queue.0 + 1),
            None => Ok(0..topic.read_queues),
        }
    }
}

/// The next message of one queue; the earliest is the greatest to a heap.
type Head = Reverse<(Timestamp, usize, QueueOffset)>;

impl Broker {
    /// A page of a topic's messages. What cannot be read any more is passed over.
    pub fn browse(&self, browse: &Browse) -> Result<Page, LookError> {
        let topic = self.existing(&browse.topic)?;
        let mut walk = Walk::begin(self, &topic, browse)?;
        let mut heads: BinaryHeap<Head> = BinaryHeap::new();
        for index in 0..walk.queues.len() {
            heads.extend(walk.head(index, browse.to)?);
        }
        let (mut messages, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
        while let Some(Reverse((_, index, offset))) = heads.pop() {
            let message = walk.message(index, offset)?.filter(|message| browse.filter.matches(message));
            if let Some(message) = message {
                bytes += message.body.len();
                if !messages.is_empty() && bytes > browse.bytes_max {
                    return Ok(Page { messages, next: Some(walk.cursor()), looked_at });
                }
                messages.push(message);
            }
            walk.at[index] = offset.plus(1);
            heads.extend(walk.head(index, browse.to)?);
            looked_at += 1;
            let is_over = messages.len() >= browse.max
                || looked_at >= browse.looked_at_max
                || self.inner.clock.now() >= browse.until;
            if is_over && !heads.is_empty() {
                return Ok(Page { messages, next: Some(walk.cursor()), looked_at });
            }
        }
        Ok(Page { messages, next: None, looked_at })
    }

    pub(in crate::broker) fn existing(&self, topic: &TopicName) -> Result<Arc<Topic>, LookError> {
        self.topic(topic.as_str()).ok_or_else(|| LookError::TopicNotFound(topic.clone()))
    }
}

struct Walk<'a> {
    broker: &'a Broker,
    queues: Vec<Queue>,
    /// The next offset of each.
    at: Vec<QueueOffset>,
}

impl<'a> Walk<'a> {
    fn begin(broker: &'a Broker, topic: &Topic, browse: &Browse) -> Result<Self, LookError> {
        let ids = browse.queues_of(topic)?;
        let queues: Vec<Queue> = ids.map(|id| broker.inner.store.queue(&topic.name, QueueId(id))).collect();
        let at = match &browse.after {
            // Queues that came since begin where the time does.
            Some(Cursor::Queues(at)) if at.len() <= queues.len() => {
                let new = queues[at.len()..].iter().map(|queue| queue.offset_at(browse.from));
                at.iter().copied().map(Ok).chain(new).collect::<Result<_, ReadError>>()?
            }
            Some(_) => return Err(LookError::Cursor(topic.name.clone())),
            None => queues.iter().map(|queue| queue.offset_at(browse.from)).collect::<Result<_, ReadError>>()?,
        };
        Ok(Self { broker, queues, at })
    }

    fn cursor(&self) -> Cursor {
        Cursor::Queues(self.at.clone())
    }

    /// The queue's next message that can be read, if it was stored in time.
    fn head(&mut self, index: usize, to: Timestamp) -> Result<Option<Head>, LookError> {
        loop {
            let Some(entry) = self.entry(index, self.at[index])? else { return Ok(None) };
            self.at[index] = entry.offset;
            match self.read(&entry)? {
                Some(message) if message.stored_at <= to => {
                    return Ok(Some(Reverse((message.stored_at, index, entry.offset))));
                }
                Some(_) => return Ok(None),
                None => self.at[index] = entry.offset.plus(1),
            }
        }
    }

    fn message(&self, index: usize, offset: QueueOffset) -> Result<Option<StoredMessage>, LookError> {
        let entry = self.entry(index, offset)?.filter(|entry| entry.offset == offset);
        entry.map_or(Ok(None), |entry| self.read(&entry))
    }

    fn entry(&self, index: usize, from: QueueOffset) -> Result<Option<Entry>, LookError> {
        Ok(self.queues[index].entries(from, 1)?.first().copied())
    }

    fn read(&self, entry: &Entry) -> Result<Option<StoredMessage>, LookError> {
        match self.broker.inner.store.message(entry.physical, entry.size) {
            Ok(message) => Ok(Some(message)),
            Err(ReadError::Gone(_) | ReadError::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
