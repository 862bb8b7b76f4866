//! What the broker itself consumes: records in topics of its own that wait for something (a time, a decision).
//!
//! Such a topic has one queue and one group, whose book says what is done; the same settle records, snapshot and replay
//! keep it. Its exceptions are not in the schedule: nothing is leased, and who owns the topic knows when to look.

use std::sync::Arc;

use std::time::Duration;

use crate::{
    store::{AppendError, Purpose, ReadError, Store, Ticket},
    types::{Deadline, GroupName, NewMessage, PhysicalOffset, QueueId, QueueOffset, TopicName},
};

use super::{Broker, Pop, QueueBook, What, book::Exception, settle::ranges_by_queue, settle_record::Retry};

/// A record of an own topic that was looked at and is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker) struct Tried {
    pub offset: QueueOffset,
    /// At least 1.
    pub times: u32,
    /// When it is looked at again.
    pub due: Deadline,
}

/// A record of an own topic that is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::broker) struct Undone {
    pub offset: QueueOffset,
    pub physical: PhysicalOffset,
    pub size: u32,
    /// How often it was looked at, and when it is again; as far as that is on record.
    pub tried: u32,
    pub due: Option<Deadline>,
}

impl Broker {
    /// The book of an own topic, which begins at the first message that is still stored.
    pub(in crate::broker) fn own_book(&self, topic: &'static str, group: &'static str) -> Arc<QueueBook> {
        self.inner.pop.own_book(&self.inner.store, topic, group)
    }

    /// Appends what a record of an own topic turns into (nothing, if it is only dropped), and that it is done, as one unit:
    /// a crash leaves both or neither. `meant` is the topic that must exist for that, and where in the log the record lies that
    /// named it. `Ok(None)` when the record was done already, or that topic or the book's owner is gone; nothing was appended then. Does not wait
    /// for the disk.
    pub(in crate::broker) fn append_done(
        &self,
        book: &QueueBook,
        offset: QueueOffset,
        meant: Option<(&TopicName, PhysicalOffset)>,
        messages: Vec<NewMessage>,
        purpose: Purpose,
    ) -> Result<Option<Ticket>, AppendError> {
        self.append_done_through(book, offset, messages, |unit| match meant {
            Some((topic, since)) => self.append_to_topic_of(since, topic, unit, purpose),
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
        if pages.forgotten || pages.book.is_done(offset) {
            return Ok(None);
        }
        let Some(ticket) = append(&unit).transpose()? else { return Ok(None) };
        pop.touch();
        pages.book.done_at(offset..offset.plus(1), ticket.end);
        // What the broker itself consumes is not in the schedule.
        if !book.owner.group.is_system() {
            pop.schedule.count(&mut pages);
        }
        Ok(Some(ticket))
    }

    /// Records that these were looked at, in one record; those that are done stay done. Does not wait for the disk.
    pub(in crate::broker) fn append_tried(&self, book: &QueueBook, tried: &[Tried]) -> Result<(), AppendError> {
        if tried.is_empty() {
            return Ok(());
        }
        let (now, wall) = (self.inner.clock.now(), self.inner.clock.wall());
        let retry = |tried: &Tried| {
            let delay = tried.due.remaining(now);
            // The wall clock shows whole milliseconds.
            let visible_at = wall.plus(delay).plus(Duration::from_millis(1));
            let attempt = tried.times.saturating_add(1);
            Retry { queue: book.queue_id, offset: tried.offset, attempt, visible_at, delay }
        };
        let pop = &self.inner.pop;
        let mut pages = book.open();
        pop.log.append(&book.owner, What::Retry(tried.iter().map(retry).collect()))?;
        pop.touch();
        for tried in tried {
            pages.book.retry(tried.offset, tried.times.saturating_add(1), tried.due, u32::MAX);
        }
        Ok(())
    }

    /// Records that these are done and turn into nothing, in one record. Does not wait for the disk.
    pub(in crate::broker) fn append_dropped(
        &self,
        book: &QueueBook,
        dropped: &[QueueOffset],
    ) -> Result<(), AppendError> {
        if dropped.is_empty() {
            return Ok(());
        }
        let pop = &self.inner.pop;
        let done = ranges_by_queue(dropped.iter().map(|offset| (book.queue_id, *offset)).collect());
        let mut pages = book.open();
        pop.log.append(&book.owner, What::Done(done.clone()))?;
        pop.touch();
        done.into_iter().flat_map(|(_, ranges)| ranges).for_each(|range| pages.book.done(range));
        Ok(())
    }

    /// What is not done, at or behind `from`, of at most `max` records; and where to go on, unless that was the end.
    pub(in crate::broker) fn own_undone(
        &self,
        book: &QueueBook,
        from: QueueOffset,
        max: usize,
    ) -> Result<(Vec<Undone>, Option<QueueOffset>), ReadError> {
        let from = from.max(book.open().book.commit());
        let entries = book.queue.entries(from, max)?;
        let next = entries.last().map(|last| last.offset.plus(1));
        let pages = book.open();
        let undone = entries.iter().filter(|entry| !pages.book.is_done(entry.offset)).map(|entry| {
            let (tried, due) = match pages.book.exception(entry.offset) {
                Some(Exception::Waiting { attempt, due, .. }) => (attempt.saturating_sub(1), Some(*due)),
                _ => (0, None),
            };
            Undone { offset: entry.offset, physical: entry.physical, size: entry.size, tried, due }
        });
        Ok((undone.collect(), next))
    }
}

impl Pop {
    /// [`Broker::own_book`].
    pub(super) fn own_book(&self, store: &Store, topic: &'static str, group: &'static str) -> Arc<QueueBook> {
        let (topic, group) = (TopicName::system(topic), GroupName::system(group));
        // No queue begins behind this, so it is read from its first message.
        let first = |_| QueueOffset::MAX;
        let made = self.subscriptions.get_or_make(store, &self.polls, (&topic, &group), 1, first, |_| {});
        let Ok(subscription) = made else { unreachable!("books of the server's own groups are always made") };
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
