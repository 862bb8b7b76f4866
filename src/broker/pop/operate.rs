//! What an operator does to a message that holds up others: skip it, or park it in the dead-letter topic now.

use std::sync::Arc;

use crate::{
    broker::OperateError,
    store::{AppendError, ReadError},
    types::{GroupName, PhysicalOffset, QueueId, QueueOffset, TopicName},
};

use super::{Broker, QueueBook, SettleError, What, in_order::Release};
use crate::broker::long_poll::Cause;

impl Broker {
    /// Marks a message as done for a group, whatever is so about it: in flight, waiting or untouched. False when it was
    /// done already. What follows in its message group can then be delivered.
    pub async fn skip(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: QueueId,
        offset: QueueOffset,
    ) -> Result<bool, OperateError> {
        let book = self.operated(group, topic, queue, offset)?;
        let _release = Release { broker: self.clone(), books: vec![Arc::clone(&book)] };
        let end = self.skip_unsynced(&book, offset).map_err(SettleError::from)?;
        // What is done already may still be on its way to the disk.
        self.confirmed(end.unwrap_or_else(|| self.inner.store.end())).await.map_err(SettleError::from)?;
        if end.is_none() {
            return Ok(false);
        }
        tracing::info!(%topic, %group, %queue, %offset, "message skipped");
        Ok(true)
    }

    fn skip_unsynced(&self, book: &QueueBook, offset: QueueOffset) -> Result<Option<PhysicalOffset>, AppendError> {
        let pop = &self.inner.pop;
        let mut pages = book.open();
        if pages.forgotten || pages.book.is_done(offset) {
            return Ok(None);
        }
        let done = offset..offset.plus(1);
        let end = pop.log.append(&book.owner, What::Done(vec![(book.queue_id, vec![done.clone()])]))?;
        pop.touch();
        pages.book.done_at(done, end);
        pop.schedule.count(&mut pages);
        drop(pages);
        book.owner.line.wake(Cause::Any);
        Ok(Some(end))
    }

    /// Moves a message to the group's dead-letter topic now, whatever attempts it has left. False when it was done
    /// already.
    pub async fn park(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: QueueId,
        offset: QueueOffset,
    ) -> Result<bool, OperateError> {
        let book = self.operated(group, topic, queue, offset)?;
        if book.open().book.is_done(offset) {
            self.confirmed(self.inner.store.end()).await.map_err(SettleError::from)?;
            return Ok(false);
        }
        let _release = Release { broker: self.clone(), books: vec![Arc::clone(&book)] };
        let broker = self.clone();
        let moved = self.off_the_runtime(move || broker.dead_letter(&book, offset, |_| true)).await;
        let at = PhysicalOffset::ZERO;
        let end = moved.map_err(|error| SettleError::from(ReadError::Io { at, error: Arc::new(error) }))??;
        self.confirmed(end).await.map_err(SettleError::from)?;
        tracing::info!(%topic, %group, %queue, %offset, "message parked in the dead-letter topic");
        Ok(true)
    }

    /// The book that tells of a message that is there.
    fn operated(
        &self,
        group: &GroupName,
        topic: &TopicName,
        queue: QueueId,
        offset: QueueOffset,
    ) -> Result<Arc<QueueBook>, OperateError> {
        let found = self.topic(topic.as_str()).ok_or_else(|| SettleError::TopicNotFound(topic.clone()))?;
        let found_group = self.group(group.as_str()).ok_or_else(|| SettleError::GroupNotFound(group.clone()))?;
        if found_group.broadcast {
            return Err(OperateError::Broadcast(group.clone()));
        }
        let subscription = self.subscription(&found, group).map_err(SettleError::from)?;
        let books = subscription.books();
        let book = books.get(queue.0 as usize).cloned().ok_or_else(|| OperateError::NoQueue {
            topic: topic.clone(),
            queue,
            queues: books.len(),
        })?;
        let (min, max) = (book.queue.min(), book.queue.max());
        if offset < min || offset >= max {
            return Err(OperateError::NoMessage { topic: topic.clone(), queue, offset, min, max });
        }
        Ok(book)
    }
}
