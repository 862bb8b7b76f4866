//! What an operator does to a message that holds up others: skip it, or park it in the dead-letter topic now.

use std::sync::Arc;

use crate::{
    broker::OperateError,
    store::ReadError,
    types::{GroupName, LiteId, PhysicalOffset, QueueId, QueueOffset, TopicName},
};

use super::{Broker, QueueBook, SettleError, in_order::Release};
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
        let lane = self.whose_at(&book, offset).await?;
        let end = self.skip_unsynced(&book, offset, lane)?;
        // What is done already may still be on its way to the disk.
        self.confirmed(end.unwrap_or_else(|| self.inner.store.end())).await.map_err(SettleError::from)?;
        if end.is_none() {
            return Ok(false);
        }
        tracing::info!(%topic, %group, %queue, %offset, "message skipped");
        Ok(true)
    }

    fn skip_unsynced(
        &self,
        book: &QueueBook,
        offset: QueueOffset,
        lane: Option<LiteId>,
    ) -> Result<Option<PhysicalOffset>, SettleError> {
        let pop = &self.inner.pop;
        let mut pages = book.open();
        if pages.forgotten || self.is_over(&pages, offset, lane) {
            return Ok(None);
        }
        self.keep_order(book, &mut pages, self.is_fifo(&book.owner.group));
        let done = self.done_record(book, &mut pages, offset, lane);
        let end = pop.log.append(&book.owner, done)?;
        pop.touch();
        pages.book.done_at(offset..offset.plus(1), end);
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
        let lane = self.whose_at(&book, offset).await?;
        if self.is_over(&book.open(), offset, lane) {
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

    /// Of what lite topic a message is, if its topic has some; the index knows the message then.
    async fn whose_at(&self, book: &Arc<QueueBook>, offset: QueueOffset) -> Result<Option<LiteId>, SettleError> {
        let Some(parent) = book.lite() else { return Ok(None) };
        self.lite_catch_up(parent).await?;
        let book = Arc::clone(book);
        Ok(self.read_off_the_runtime(move || book.lane_at(offset)).await??)
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
        if self.group(group.as_str()).is_none() {
            return Err(SettleError::GroupNotFound(group.clone()).into());
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
