//! Taking from LITE topics, and what is different there about settling: each lite topic is a lane of its own
//! ([`book::lanes`](super::book)), and a poll gets what is in its client's set.

use std::sync::Arc;

use super::{
    Broker, Pages, QueueBook, Subscription, Topic, What,
    book::Head,
    settle_record::LaneAt,
    take::{Booked, Walk},
};
use crate::{
    broker::{
        SettleError, TakeError,
        lite::{Index, LiteSet, Parent, QUEUE},
        long_poll::Cause,
    },
    store::ReadError,
    types::{Deadline, GroupName, LiteId, PhysicalOffset, QueueOffset, TopicName},
};

/// Arrivals that are read at once.
const CHUNK: usize = 4096;

impl QueueBook {
    /// The parent of the lite topics that the book is about, if it is about some.
    pub fn lite(&self) -> Option<&Arc<Parent>> {
        self.owner.lite.get().filter(|_| self.queue_id == QUEUE)
    }

    /// Whose a stored message is.
    fn lane_at(&self, offset: QueueOffset) -> Option<LiteId> {
        let entries = self.queue.entries(offset, 1).ok()?;
        entries.first().filter(|entry| entry.offset == offset).map(|entry| LiteId::from_code(entry.tags_code))
    }

    /// Has the lanes know everything that the index knows.
    fn keep_up(&self, pages: &mut Pages, index: &Index) -> Result<(), ReadError> {
        let Some(mut seen) = pages.book.lanes_seen() else {
            pages.book.open_lanes(index, |offset| self.lane_at(offset));
            return Ok(());
        };
        while seen < index.seen() {
            let entries = self.queue.entries(seen, CHUNK)?;
            seen = entries.last().map_or(index.seen(), |last| last.offset.plus(1)).min(index.seen());
            pages.book.arrived(entries.iter().map(|entry| LiteId::from_code(entry.tags_code)), seen);
        }
        Ok(())
    }
}

impl Broker {
    /// The subscription of a group on a LITE topic.
    pub(in crate::broker) fn lite_subscription(
        &self,
        topic: &Topic,
        group: &GroupName,
    ) -> Result<Arc<Subscription>, super::TooManyBooks> {
        self.subscription(topic, group)
    }

    /// Opens the lanes of what was restored: what is done of them is known from then on.
    pub(in crate::broker) fn open_restored_lanes(&self, topic: &Topic, parent: &Arc<Parent>) -> Result<(), ReadError> {
        let restored = self.inner.pop.subscriptions.list(None);
        for subscription in restored.iter().filter(|subscription| subscription.owner.topic == topic.name) {
            subscription.serves(topic, || Some(Arc::clone(parent)));
            for book in subscription.books().iter().take(1) {
                let mut pages = book.open();
                self.keep_order(book, &mut pages, false)?;
                self.inner.pop.schedule.count(&mut pages);
            }
        }
        Ok(())
    }

    /// Has the book keep the order that its group and topic want. Nothing about a lite topic can be settled before.
    pub(super) fn keep_order(&self, book: &QueueBook, pages: &mut Pages, fifo: bool) -> Result<(), ReadError> {
        let Some(parent) = book.lite() else {
            pages.book.keep_order(fifo, || self.inner.store.end());
            return Ok(());
        };
        let index = parent.index(self.inner.clock.now())?;
        book.keep_up(pages, &index)?;
        pages.book.release(self.inner.store.watermarks().dispatched);
        Ok(())
    }

    /// Whether the group is done with a message that no lease is on any more.
    pub(super) fn is_over(&self, book: &QueueBook, pages: &Pages, offset: QueueOffset) -> bool {
        let passed =
            || book.lite().and_then(|_| book.lane_at(offset)).is_some_and(|id| pages.book.is_passed(offset, id));
        pages.book.is_done(offset) || passed()
    }

    /// The record that a message is done. The book keeps its order already.
    pub(super) fn done_record(&self, book: &QueueBook, pages: &mut Pages, offset: QueueOffset) -> What {
        match self.lane_moved_by(book, pages, offset) {
            Some(id) => What::Lanes(vec![LaneAt { queue: book.queue_id, id, to: offset.plus(1) }]),
            None => What::Done(vec![(book.queue_id, vec![offset..offset.plus(1)])]),
        }
    }

    /// The lane that moves on when a message is done.
    pub(super) fn lane_moved_by(&self, book: &QueueBook, pages: &mut Pages, offset: QueueOffset) -> Option<LiteId> {
        let parent = book.lite()?;
        let id = pages.book.lane_of(offset).or_else(|| book.lane_at(offset))?;
        let index = parent.index(self.inner.clock.now()).ok()?;
        pages.book.enlist(offset, id, &index);
        pages.book.lane_of(offset)
    }

    /// Lets a group go on elsewhere in these lite topics; the log's end that must be safe before anybody is told.
    pub(in crate::broker) fn move_lanes(
        &self,
        subscription: &Subscription,
        places: &[(LiteId, QueueOffset)],
    ) -> Result<PhysicalOffset, SettleError> {
        let (pop, owner) = (&self.inner.pop, &subscription.owner);
        let books = subscription.books();
        let book = books.first().filter(|book| book.lite().is_some()).ok_or(SettleError::Invalid)?;
        let mut pages = book.open();
        if pages.forgotten {
            return Err(SettleError::GroupNotFound(owner.group.clone()));
        }
        self.keep_order(book, &mut pages, false)?;
        let lane = |(id, to): &(LiteId, QueueOffset)| LaneAt { queue: book.queue_id, id: *id, to: *to };
        let end = pop.log.append(owner, What::Lanes(places.iter().map(lane).collect()))?;
        pop.touch();
        pages.book.move_lanes(places);
        pop.schedule.count(&mut pages);
        Ok(end)
    }

    /// Lite topics ended: no group is anywhere in them. Nor is it where retention has been.
    pub(in crate::broker) fn forget_lanes(&self, topic: &TopicName, ids: &[LiteId]) {
        let ours = self.inner.pop.subscriptions.list(None).into_iter().filter(|s| s.owner.topic == *topic);
        for book in ours.filter_map(|subscription| subscription.books().first().cloned()) {
            let mut pages = book.open();
            pages.book.forget_lanes(ids, book.queue.min());
            self.inner.pop.schedule.count(&mut pages);
        }
    }

    /// Wakes the polls that may find something in lanes that moved.
    pub(super) fn wake_lanes(&self, book: &QueueBook, pages: &mut Pages, now: Deadline) -> Vec<LiteId> {
        match book.lite() {
            Some(_) => pages.book.take_moved_lanes(now),
            None => Vec::new(),
        }
    }

    /// Polls of a LITE topic say whose set they are for, and no others do.
    pub(super) fn lite_or_not(&self, topic: &Topic, filter: &super::Filter) -> Result<(), TakeError> {
        let is_lite = topic.message_type == Some(crate::types::MessageType::Lite);
        match filter {
            super::Filter::Lite(_) if is_lite => Ok(()),
            super::Filter::Lite(_) => Err(TakeError::NotLite(topic.name.clone())),
            _ if is_lite => Err(TakeError::LiteOnly(topic.name.clone())),
            _ => Ok(()),
        }
    }
}

/// Wakes one poll for each lane, of those that have it in their sets.
pub fn wake(book: &QueueBook, lanes: Vec<LiteId>) {
    lanes.into_iter().for_each(|id| book.owner.line.wake(Cause::Arrival { tags_code: id.code() }));
}

impl Walk<'_> {
    /// The first undone message of each lane of the set.
    pub fn first_of_lanes(
        &mut self,
        book: &QueueBook,
        pages: &mut Pages,
        set: &LiteSet,
        out: &mut Vec<Booked>,
    ) -> Result<(), ReadError> {
        let Some(parent) = book.lite() else { return Ok(()) };
        // The book has seen what the index had a moment ago.
        let index = parent.index(self.now)?;
        let min = book.queue.min();
        for id in pages.book.ready_lanes(set) {
            if self.is_full(out) || self.scans_left == 0 {
                break;
            }
            self.scans_left -= 1;
            let Head::Ready { offset, attempt } = pages.book.head(id, &index, min, self.now) else { continue };
            if attempt > self.max_attempts {
                pages.book.retry(offset, attempt, self.now, self.max_attempts);
                continue;
            }
            if attempt == 1 && self.room(&pages.book) == 0 {
                continue;
            }
            let Some(entry) = book.queue.entries(offset, 1)?.first().copied().filter(|entry| entry.offset == offset)
            else {
                // Retention was faster; the sweep tells the index.
                continue;
            };
            if !self.has_room(&entry, out) {
                break;
            }
            let nonce = pages.book.deliver_in_lane(id, offset, attempt, self.until);
            out.push(Booked { book: 0, offset, attempt, nonce, physical: entry.physical, size: entry.size });
        }
        Ok(())
    }
}
