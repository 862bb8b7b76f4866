//! What the broker itself consumes: records in topics of its own that wait for something (a time, a decision).
//!
//! Such a topic has one queue and one group, whose book says what is done; the same settle records, snapshot and replay
//! keep it. Its exceptions are not in the schedule: nothing is leased, and who owns the topic knows when to look.

use std::sync::Arc;

use crate::{
    store::{AppendError, Purpose, Store, Ticket},
    types::{GroupName, NewMessage, PhysicalOffset, QueueId, QueueOffset, TopicName},
};

use super::{Broker, Pop, QueueBook, What};

impl Broker {
    /// The book of an own topic, which begins at the first message that is still stored.
    pub(in crate::broker) fn own_book(&self, topic: &'static str, group: &'static str) -> Arc<QueueBook> {
        self.inner.pop.own_book(&self.inner.store, topic, group)
    }

    /// Appends what a record of an own topic turns into (nothing, if it is only dropped), and that it is done, as one unit:
    /// a crash leaves both or neither. `topic` is where `messages` go. `Ok(None)` when the record was done already, or
    /// `topic` does not exist; nothing was appended then. Does not wait for the disk.
    pub(in crate::broker) fn append_done(
        &self,
        book: &QueueBook,
        offset: QueueOffset,
        topic: Option<&TopicName>,
        messages: Vec<NewMessage>,
        purpose: Purpose,
    ) -> Result<Option<Ticket>, AppendError> {
        self.append_done_through(book, offset, messages, |unit| match topic {
            Some(topic) => self.append_to_topic(topic, unit, purpose),
            None => Some(self.inner.store.append(unit, purpose)),
        })
    }

    /// [`Broker::append_done`] with another way into the log, which may say `None` instead of appending.
    pub(in crate::broker) fn append_done_through(
        &self,
        book: &QueueBook,
        offset: QueueOffset,
        messages: Vec<NewMessage>,
        append: impl FnOnce(&[NewMessage]) -> Option<Result<Ticket, AppendError>>,
    ) -> Result<Option<Ticket>, AppendError> {
        let pop = &self.inner.pop;
        let mut unit = messages;
        let done = What::Done(vec![(book.queue_id, vec![offset..offset.plus(1)])]);
        unit.push(pop.log.record(&book.owner, done));
        let mut pages = book.open();
        if pages.book.is_done(offset) {
            return Ok(None);
        }
        let Some(ticket) = append(&unit).transpose()? else { return Ok(None) };
        pop.touch();
        pages.book.done(offset..offset.plus(1));
        Ok(Some(ticket))
    }
}

impl Pop {
    /// [`Broker::own_book`].
    pub(super) fn own_book(&self, store: &Store, topic: &'static str, group: &'static str) -> Arc<QueueBook> {
        let (topic, group) = (TopicName::system(topic), GroupName::system(group));
        // No queue begins behind this, so it is read from its first message.
        let first = |_| QueueOffset::MAX;
        let subscription = self.subscriptions.get_or_make(store, &self.polls, (&topic, &group), 1, first, |_| {});
        let book = subscription.books()[0].clone();
        debug_assert_eq!(book.queue_id, QueueId(0));
        book
    }

    /// Where in the log the oldest record lies that an own topic still needs: retention deletes nothing from there on.
    /// Behind the log's end when there is none.
    pub(super) fn own_needs(&self) -> PhysicalOffset {
        let own = self.subscriptions.list(None).into_iter().filter(|s| s.owner.group.is_system());
        own.flat_map(|s| s.books().to_vec()).map(|book| oldest_undone(&book)).min().unwrap_or(PhysicalOffset::MAX)
    }
}

fn oldest_undone(book: &QueueBook) -> PhysicalOffset {
    let commit = book.open().book.commit();
    let first = book.queue.entries(commit, 1).map(|entries| entries.first().copied());
    match first {
        Ok(entry) => entry.map_or(PhysicalOffset::MAX, |entry| entry.physical),
        // Not known: everything stays.
        Err(_) => PhysicalOffset::ZERO,
    }
}
