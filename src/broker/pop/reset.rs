//! Where a group goes on: its offsets, told and set.
//!
//! A group has one offset in each queue, its book's commit offset, whether it polls or pulls. Setting it begins the book
//! anew: what was done above it, in flight or waiting for a retry is forgotten, and receipts from before are void. The
//! record of that leaves nothing of what came before it, so replaying it is as good as the first time.

use std::sync::Arc;

use crate::types::{GroupName, PhysicalOffset, QueueId, QueueOffset, Timestamp, TopicName};

use super::{Broker, OffsetError, Subscription, Topic, What, settle::Opened, settle_record::Reset};
use crate::{broker::long_poll::Cause, store::ReadError};

/// A place in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The first message that is still stored.
    Begin,
    /// Behind the last one.
    End,
    Offset(QueueOffset),
    /// The first message stored then or later; the end when there is none.
    Time(Timestamp),
}

/// What a reset does, or would do, to one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    pub queue: QueueId,
    pub from: QueueOffset,
    pub to: QueueOffset,
    /// Deliveries whose receipts become void.
    pub in_flight: u64,
    /// Messages whose attempts are forgotten.
    pub waiting_retry: u64,
}

impl Moved {
    /// Of two clients of a broadcasting group, together.
    fn with(self, other: Self) -> Self {
        let (in_flight, waiting_retry) = (self.in_flight + other.in_flight, self.waiting_retry + other.waiting_retry);
        Self { from: self.from.min(other.from), in_flight, waiting_retry, ..self }
    }
}

impl Broker {
    /// The offset at which a group goes on in a queue; `None` when it has not begun there.
    pub fn group_offset(
        &self,
        topic: &TopicName,
        group: &GroupName,
        queue: QueueId,
    ) -> Result<Option<QueueOffset>, OffsetError> {
        self.readable_queue(topic, queue)?;
        let book = self.known_subscription(topic, group).and_then(|s| s.books().get(queue.0 as usize).cloned());
        Ok(book.map(|book| book.open().book.commit()))
    }

    /// The offset of a place in a queue.
    pub async fn queue_offset(
        &self,
        topic: &TopicName,
        queue: QueueId,
        position: Position,
    ) -> Result<QueueOffset, OffsetError> {
        self.readable_queue(topic, queue)?;
        let (broker, name) = (self.clone(), topic.clone());
        if !matches!(position, Position::Time(_)) {
            return broker.place(&name, queue, position);
        }
        let found = self.off_the_runtime(move || broker.place(&name, queue, position)).await;
        found.map_err(|error| ReadError::Io { at: PhysicalOffset::ZERO, error: Arc::new(error) })?
    }

    /// What a reset of one queue, or of all, would do. A position in time waits for the disk.
    pub fn plan_reset(
        &self,
        topic: &TopicName,
        group: &GroupName,
        queue: Option<QueueId>,
        position: Position,
    ) -> Result<Vec<Moved>, OffsetError> {
        let found = self.resettable(topic, group)?;
        let queues = match queue {
            Some(queue) => {
                self.readable_queue(topic, queue)?;
                vec![queue]
            }
            None => (0..found.read_queues).map(QueueId).collect(),
        };
        let consumers = self.consumers_of_reset(&found, group)?;
        let plan = |queue: QueueId| -> Result<Moved, OffsetError> {
            let to = self.place(topic, queue, position)?;
            let books = consumers.iter().filter_map(|consumer| consumer.books().get(queue.0 as usize).cloned());
            let moved = books.map(|book| {
                let pages = book.open();
                let (in_flight, waiting_retry) = (pages.book.in_flight() as u64, pages.book.waiting() as u64);
                Moved { queue, from: pages.book.commit(), to, in_flight, waiting_retry }
            });
            let not_begun =
                || Moved { queue, from: self.queue_start(topic, queue), to, in_flight: 0, waiting_retry: 0 };
            Ok(moved.reduce(Moved::with).unwrap_or_else(not_begun))
        };
        queues.into_iter().map(plan).collect()
    }

    /// Whose books a reset moves: the group's, if it has begun, or those of all clients of a broadcasting one.
    fn consumers_of_reset(&self, topic: &Topic, group: &GroupName) -> Result<Vec<Arc<Subscription>>, OffsetError> {
        let table = &self.inner.pop.subscriptions;
        if group.is_member() || !self.is_broadcast(group) {
            return Ok(table.get(&topic.name, group).into_iter().collect());
        }
        let members = table.members_of(Some(&topic.name), group);
        match members.is_empty() {
            true => Err(OffsetError::NoClient { topic: topic.name.clone(), group: group.clone() }),
            false => Ok(members),
        }
    }

    /// Lets a group go on from `to` in a queue, see [`Broker::reset_offsets`].
    pub async fn reset_offset(
        &self,
        topic: &TopicName,
        group: &GroupName,
        queue: QueueId,
        to: QueueOffset,
    ) -> Result<Moved, OffsetError> {
        let moved = self.reset_offsets(topic, group, &[(queue, to)]).await?;
        let nothing = || OffsetError::NoQueue { topic: topic.clone(), queue, queues: 0 };
        moved.first().copied().ok_or_else(nothing)
    }

    /// Lets a group go on from these offsets (from the first message that is stored where that is later), at once, in all
    /// of the queues or in none. Receipts from before become void. `Ok` is as safe as the flush policy says. Of a broadcasting
    /// group every client, one after the other, whether or not it is there; `Moved` then has the earliest of them and sums.
    /// One record for all of them would hold thousands of books at once. A crash leaves each client at either place, and nobody
    /// was told that it is done; the same reset again moves the rest, and those that were moved to where they were moved.
    pub async fn reset_offsets(
        &self,
        topic: &TopicName,
        group: &GroupName,
        targets: &[(QueueId, QueueOffset)],
    ) -> Result<Vec<Moved>, OffsetError> {
        let found = self.resettable(topic, group)?;
        for (queue, _) in targets {
            self.readable_queue(topic, *queue)?;
        }
        let mut consumers = self.consumers_of_reset(&found, group)?;
        if consumers.is_empty() {
            consumers.push(self.subscription(&found, group)?);
        }
        let (mut all, mut last): (Vec<Moved>, _) = (Vec::new(), PhysicalOffset::ZERO);
        for consumer in consumers {
            let name = &consumer.owner.group;
            if name.is_member() && self.known_subscription(topic, name).is_none() {
                // Forgotten meanwhile.
                continue;
            }
            // It may have begun before the topic got the last of its queues.
            let consumer = self.made_subscription(&found, name)?;
            let (moved, end) = self.reset_unsynced(&consumer, targets)?;
            last = last.max(end);
            all = match all.is_empty() {
                true => moved,
                false => all.into_iter().zip(moved).map(|(a, b)| a.with(b)).collect(),
            };
            tokio::task::yield_now().await;
        }
        self.inner.lite.begins_anew(topic, group);
        self.confirmed(last).await?;
        Ok(all)
    }

    fn reset_unsynced(
        &self,
        subscription: &Subscription,
        targets: &[(QueueId, QueueOffset)],
    ) -> Result<(Vec<Moved>, PhysicalOffset), OffsetError> {
        let (pop, owner) = (&self.inner.pop, &subscription.owner);
        let books = subscription.books();
        let mut opened = Opened::open(&books, targets.iter().map(|(queue, _)| *queue).collect());
        let (mut moved, mut resets) = (Vec::with_capacity(targets.len()), Vec::with_capacity(targets.len()));
        for &(queue, to) in targets {
            let Some((book, pages)) = opened.find(queue).filter(|(_, pages)| !pages.forgotten) else {
                return Err(OffsetError::GroupNotFound(owner.group.clone()));
            };
            let max = book.queue.max();
            if to > max {
                return Err(OffsetError::Beyond { queue, offset: to, max });
            }
            let to = to.max(book.queue.min());
            let book = &pages.book;
            let (in_flight, waiting_retry) = (book.in_flight() as u64, book.waiting() as u64);
            moved.push(Moved { queue, from: book.commit(), to, in_flight, waiting_retry });
            resets.push(Reset { queue, to, void: book.last_issue(pop.run.id) });
        }
        let end = pop.log.append(owner, What::Reset(resets.clone()))?;
        pop.touch();
        for Reset { queue, to, void } in resets {
            if let Some((_, pages)) = opened.find(queue) {
                pages.book.reset(to, void, end);
                pop.schedule.count(pages);
            }
        }
        drop(opened);
        owner.line.wake(Cause::Any);
        Ok((moved, end))
    }

    /// The topic, if both exist.
    fn resettable(&self, topic: &TopicName, group: &GroupName) -> Result<Arc<Topic>, OffsetError> {
        let found = self.topic(topic.as_str()).ok_or_else(|| OffsetError::TopicNotFound(topic.clone()))?;
        match self.group(group.as_str()) {
            Some(_) => Ok(found),
            None => Err(OffsetError::GroupNotFound(group.clone())),
        }
    }

    fn readable_queue(&self, topic: &TopicName, queue: QueueId) -> Result<(), OffsetError> {
        let found = self.topic(topic.as_str()).ok_or_else(|| OffsetError::TopicNotFound(topic.clone()))?;
        if queue.0 < found.read_queues {
            return Ok(());
        }
        Err(OffsetError::NoQueue { topic: topic.clone(), queue, queues: found.read_queues })
    }

    fn known_subscription(&self, topic: &TopicName, group: &GroupName) -> Option<Arc<Subscription>> {
        self.inner.pop.subscriptions.get(topic, group)
    }

    fn place(&self, topic: &TopicName, id: QueueId, position: Position) -> Result<QueueOffset, OffsetError> {
        let queue = self.inner.store.queue(topic, id);
        Ok(match position {
            Position::Begin => queue.min(),
            Position::End => queue.max(),
            Position::Offset(offset) if offset > queue.max() => {
                return Err(OffsetError::Beyond { queue: id, offset, max: queue.max() });
            }
            Position::Offset(offset) => offset.max(queue.min()),
            Position::Time(time) => queue.offset_at(time)?,
        })
    }
}
