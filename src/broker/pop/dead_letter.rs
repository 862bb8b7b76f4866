//! The way out of a message that had its attempts, or that its consumer gave up: a copy in the group's dead-letter topic.
//!
//! A client of a broadcasting group has no dead letters: there it is the end.
//!
//! The copy and the record that the original is done are one append, so a crash leaves both or neither.

use std::sync::Arc;

use parking_lot::MutexGuard;

use crate::{
    store::{AppendError, Entry, Purpose, ReadError},
    types::{
        GroupName, NewMessage, PhysicalOffset, QueueId, QueueOffset, StoredMessage, TopicName,
        properties::{PROPERTIES_LEN_MAX, Properties, key},
    },
};

use super::{AdminError, Book, Broker, Exception, Pages, QueueBook, Receipt, SettleError, What, in_order::Release};
use crate::broker::{Seen, Sighting, long_poll::Cause};

impl Broker {
    /// Copies the message to the group's dead-letter topic and marks the delivery as done, as one append. Expiry is not
    /// checked; what is done already stays done.
    pub async fn forward_to_dead_letter(
        &self,
        topic: &TopicName,
        group: &GroupName,
        receipt: &Receipt,
    ) -> Result<(), SettleError> {
        let subscription = self.settled_subscription(topic, group, std::slice::from_ref(receipt))?;
        if !receipt.is_sealed_for(topic, group) {
            return Err(SettleError::Invalid);
        }
        let books = subscription.books();
        let book = Arc::clone(books.get(receipt.queue.0 as usize).ok_or(SettleError::Invalid)?);
        let (broker, offset, issue) = (self.clone(), receipt.offset, receipt.issue());
        let _release = Release { broker: self.clone(), books: vec![Arc::clone(&book)] };
        let at = PhysicalOffset::ZERO;
        let still = move |book: &Book| !book.is_void(issue);
        let moved = self.off_the_runtime(move || broker.dead_letter(&book, offset, still)).await;
        let end = moved.map_err(|error| ReadError::Io { at, error: Arc::new(error) })??;
        Ok(self.confirmed(end).await?)
    }

    /// Copies and marks as done; the log's end that must be safe before anybody is told. Waits for the disk. `still` says
    /// whether the message is to be moved when that is about to happen: its group may have been reset meanwhile.
    pub(super) fn dead_letter(
        &self,
        book: &QueueBook,
        offset: QueueOffset,
        still: impl Fn(&Book) -> bool,
    ) -> Result<PhysicalOffset, SettleError> {
        let inner = &self.inner;
        let lane = book.lane_at(offset)?;
        let pages = book.open();
        if pages.forgotten {
            // A topic for its dead letters would outlive the group.
            return Err(SettleError::GroupNotFound(book.owner.group.clone()));
        }
        if !still(&pages.book) {
            return Err(SettleError::Expired);
        }
        if self.is_over(&pages, offset, lane) {
            return Ok(inner.store.end());
        }
        if book.owner.group.is_member() {
            return self.drop_for_member(book, pages, offset);
        }
        drop(pages);
        let owner = &book.owner;
        let entry = entry_at(book, offset)?.ok_or(SettleError::Invalid)?;
        let message = inner.store.message(entry.physical, entry.size)?;
        let topic = match self.ensure_dead_letter_topic(&owner.group) {
            Ok(topic) => topic.name.clone(),
            Err(AdminError::GroupNotFound(group)) => return Err(SettleError::GroupNotFound(group)),
            Err(error) => {
                let error = Arc::new(std::io::Error::other(error.to_string()));
                return Err(ReadError::Io { at: entry.physical, error }.into());
            }
        };
        let mut pages = book.open();
        if pages.forgotten {
            return Err(SettleError::GroupNotFound(owner.group.clone()));
        }
        if !still(&pages.book) {
            return Err(SettleError::Expired);
        }
        if self.is_over(&pages, offset, lane) {
            return Ok(inner.store.end());
        }
        self.keep_order(book, &mut pages, self.is_fifo(&owner.group));
        let done = self.done_record(book, &mut pages, offset, lane);
        let end = self.append_copy(book, &done, &topic, &message)?;
        inner.meters.buried(owner);
        inner.pop.touch();
        pages.book.done_at(offset..offset.plus(1), end);
        inner.pop.schedule.count(&mut pages);
        drop(pages);
        owner.line.wake(Cause::Any);
        Ok(end)
    }

    /// A client of a broadcasting group has had a message for the last time: it is done, and no dead letter. There would be
    /// one for each client, and Apache's broadcasting consumers drop what they fail at, too.
    fn drop_for_member(
        &self,
        book: &QueueBook,
        mut pages: MutexGuard<'_, Pages>,
        offset: QueueOffset,
    ) -> Result<PhysicalOffset, SettleError> {
        let (pop, owner) = (&self.inner.pop, &book.owner);
        let done = offset..offset.plus(1);
        let attempts = match pages.book.exception(offset) {
            Some(Exception::InFlight { attempt, .. }) => *attempt,
            // The one that it will not get.
            Some(
                Exception::Waiting { attempt, .. } | Exception::Doomed { attempt, .. } | Exception::Moving { attempt },
            ) => attempt.saturating_sub(1),
            None => 0,
        };
        let end = pop.log.append(owner, What::Done(vec![(book.queue_id, vec![done.clone()])]))?;
        pop.touch();
        pages.book.done_at(done, end);
        pop.schedule.count(&mut pages);
        drop(pages);
        owner.line.wake(Cause::Any);
        self.inner.meters.given_up(owner);
        let (topic, queue) = (&owner.topic, book.queue_id);
        if let Some(client) = owner.group.client() {
            let group = owner.group.whole();
            tracing::warn!(%topic, %group, %client, %queue, %offset, attempts, "a client of a broadcasting group gave up a message");
            let (at, host, what) = (self.inner.clock.wall(), None, Seen::Dropped);
            let messages = std::iter::once((queue, offset, attempts)).collect();
            let (topic, group) = (owner.topic.clone(), owner.group.clone());
            self.seen(Sighting { at, what, client, host, topic, group, messages });
        }
        Ok(end)
    }

    fn append_copy(
        &self,
        book: &QueueBook,
        done: &What,
        topic: &TopicName,
        message: &StoredMessage,
    ) -> Result<PhysicalOffset, SettleError> {
        match self.append_unit(book, done, message.copy_to(topic.clone(), QueueId(0), with_origin(message))) {
            // A message that only just fitted: better a copy that does not name its origin than none.
            Err(SettleError::Append(AppendError::PropertiesTooLarge { .. } | AppendError::TooLarge { .. })) => {
                let as_it_is = message.copy_to(topic.clone(), QueueId(0), message.properties.clone());
                self.append_unit(book, done, as_it_is)
            }
            appended => appended,
        }
    }

    fn append_unit(&self, book: &QueueBook, done: &What, copy: NewMessage) -> Result<PhysicalOffset, SettleError> {
        let topic = copy.topic.clone();
        let unit = [copy, self.inner.pop.log.record(&book.owner, done.clone())];
        // `None`: somebody deleted the dead-letter topic just now.
        let ticket = self.append_to_topic(&topic, &unit, Purpose::Deferrable);
        Ok(ticket.ok_or(SettleError::TopicNotFound(topic))??.end)
    }
}

/// The queue's entry of an offset, unless its message is gone.
fn entry_at(book: &QueueBook, offset: QueueOffset) -> Result<Option<Entry>, ReadError> {
    Ok(book.queue.entries(offset, 1)?.first().copied().filter(|entry| entry.offset == offset))
}

/// The message's properties and where it comes from. As in Apache (`AbstractSendMessageProcessor`), the first origin is
/// kept where a message is sent on more than once, and the dead-letter origin is the last one.
fn with_origin(message: &StoredMessage) -> Properties {
    let properties = &message.properties;
    let (topic, id) = (message.topic.as_str(), message.message_id().unwrap_or_default());
    let first_topic = properties.get(key::RETRY_TOPIC).unwrap_or(topic);
    let first_id = properties.get(key::ORIGIN_MESSAGE_ID).unwrap_or(id);
    let mut out = properties.without(&[
        key::RETRY_TOPIC,
        key::ORIGIN_MESSAGE_ID,
        key::DLQ_ORIGIN_TOPIC,
        key::DLQ_ORIGIN_MESSAGE_ID,
    ]);
    out.push(key::RETRY_TOPIC, first_topic).push(key::ORIGIN_MESSAGE_ID, first_id);
    out.push(key::DLQ_ORIGIN_TOPIC, topic).push(key::DLQ_ORIGIN_MESSAGE_ID, id);
    if out.len() > PROPERTIES_LEN_MAX { properties.clone() } else { out.build() }
}
