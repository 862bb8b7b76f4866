//! How far groups are, exactly: out of their books.

use std::collections::HashSet;

use super::{Broker, LookError};
use crate::{
    broker::{
        lite::{LiteLag, Parent},
        pop::{Backlog, QueueBook},
    },
    store::{Queue, ReadError},
    types::{Deadline, GroupName, QueueId, QueueOffset, Timestamp, TopicName},
};

/// What a group has before it on one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueLag {
    pub topic: TopicName,
    pub queue: QueueId,
    pub commit: QueueOffset,
    /// The queue's end.
    pub max: QueueOffset,
    pub backlog: Backlog,
    /// When the first message that is deliverable now was stored.
    pub ready_since: Option<Timestamp>,
    /// When the last message before the commit offset was stored, if that can still be read.
    pub consumed_to: Option<Timestamp>,
}

/// The times of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSpan {
    pub topic: TopicName,
    pub queue: QueueId,
    /// When the oldest and the newest message that are stored were stored; none in an empty queue.
    pub oldest: Option<Timestamp>,
    pub newest: Option<Timestamp>,
    /// The same of the message at which the group goes on; none when it has done all.
    pub next: Option<Timestamp>,
}

impl Broker {
    /// The lag of a group on every queue that it has begun, by topic and queue; of these topics, or of all that it consumes.
    /// Its own dead-letter topic is none of those unless it is named. Waits for the disk.
    pub fn lag(&self, group: &GroupName, topics: &[TopicName]) -> Result<Vec<QueueLag>, LookError> {
        self.consumer_group(group)?;
        topics.iter().try_for_each(|topic| self.existing(topic).map(drop))?;
        let dead_letters = TopicName::dead_letter(group);
        let named: HashSet<&TopicName> = topics.iter().collect();
        let wanted = |topic: &TopicName| match named.is_empty() {
            true => *topic != dead_letters,
            false => named.contains(topic),
        };
        let now = self.inner.clock.now();
        let mut all = Vec::new();
        for (topic, book) in self.books_of(group).into_iter().filter(|(topic, _)| wanted(topic)) {
            let (queue, min, max) = (&book.queue, book.queue.min(), book.queue.max());
            let backlog = match book.lite() {
                Some(parent) => self.lite_backlog(&book, parent, now)?,
                None => book.open().book.backlog(min, max, now),
            };
            let commit = book.open().book.commit();
            let ready_since = backlog.oldest_ready.map_or(Ok(None), |offset| self.stored_at(queue, offset))?;
            let last = commit.get().checked_sub(1).map(QueueOffset::new).filter(|last| *last >= min);
            let consumed_to = last.map_or(Ok(None), |last| self.stored_at(queue, last))?;
            all.push(QueueLag { topic, queue: book.queue_id, commit, max, backlog, ready_since, consumed_to });
        }
        all.sort_by(|a, b| (&a.topic, a.queue).cmp(&(&b.topic, b.queue)));
        Ok(all)
    }

    /// Of a LITE topic: of the lite topics that the group has begun with or that its clients want.
    fn lite_backlog(&self, book: &QueueBook, parent: &Parent, now: Deadline) -> Result<Backlog, LookError> {
        let LiteLag { lag, unread, .. } = self.lite_lag(book, parent)?;
        let (in_flight, due) = book.open().book.on_their_way(book.queue.min()..QueueOffset::MAX, now);
        let ready = lag.saturating_sub(in_flight);
        Ok(Backlog { in_flight, ready, oldest_ready: [due, unread.filter(|_| ready > 0)].into_iter().flatten().min() })
    }

    /// The times of the queues of these topics, or of all that the group consumes. Waits for the disk.
    pub fn time_span(&self, group: &GroupName, topics: &[TopicName]) -> Result<Vec<QueueSpan>, LookError> {
        self.consumer_group(group)?;
        let topics = match topics {
            [] => {
                let dead_letters = TopicName::dead_letter(group);
                let mut consumed: Vec<_> = self.progress(group).into_iter().map(|progress| progress.topic).collect();
                consumed.dedup();
                consumed.retain(|topic| *topic != dead_letters);
                consumed
            }
            topics => topics.to_vec(),
        };
        let mut all = Vec::new();
        for name in topics {
            let topic = self.existing(&name)?;
            let books = self.inner.pop.books(&name, group);
            for id in (0..topic.read_queues).map(QueueId) {
                let queue = self.inner.store.queue(&name, id);
                let (min, max) = (queue.min(), queue.max());
                let next = books.iter().find(|book| book.queue_id == id).map_or(min, |book| book.open().book.commit());
                let time = |at: QueueOffset| if at < max { self.stored_at(&queue, at) } else { Ok(None) };
                let last = QueueOffset::new(max.get().saturating_sub(1)).max(min);
                let (oldest, newest, next) = (time(min)?, time(last)?, time(next.max(min))?);
                all.push(QueueSpan { topic: name.clone(), queue: id, oldest, newest, next });
            }
        }
        Ok(all)
    }

    pub(in crate::broker) fn consumer_group(&self, group: &GroupName) -> Result<(), LookError> {
        self.group(group.as_str()).map(drop).ok_or_else(|| LookError::GroupNotFound(group.clone()))
    }

    /// When the first message at or behind this offset was stored; `None` when there is none that can be read.
    fn stored_at(&self, queue: &Queue, offset: QueueOffset) -> Result<Option<Timestamp>, LookError> {
        let Some(entry) = queue.entries(offset, 1)?.first().copied() else { return Ok(None) };
        match self.inner.store.message(entry.physical, entry.size) {
            Ok(message) => Ok(Some(message.stored_at)),
            Err(ReadError::Gone(_) | ReadError::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
