//! Taking from LITE topics, and what is different there about settling: each lite topic is a lane of its own
//! ([`book::lanes`](super::book)), and a poll gets what is in its client's set.
//!
//! Whoever changes a book of a LITE topic [closes](Broker::close) it: that tells the sets which lanes have moved.

use std::{collections::HashMap, sync::Arc};

use parking_lot::MutexGuard;

use super::{
    Broker, Pages, QueueBook, Receipt, Subscription, Topic, What,
    batch::{Batch, Booked},
    book::Head,
    settle_record::LaneAt,
    take::{BATCH_BYTES_MAX, Walk},
};
use crate::{
    broker::{
        Group, SettleError, TakeError,
        lite::{CHUNK, LiteSet, NEAR, Parent, QUEUE},
    },
    store::{Entry, Queue, ReadError},
    types::{Deadline, GroupName, LiteId, MessageType, PhysicalOffset, QueueOffset, TopicName},
};

/// Whose messages receipts name; of topics that are not LITE nobody's.
#[derive(Default)]
pub(super) struct Whose(HashMap<QueueOffset, LiteId>);

impl Whose {
    pub fn of(&self, offset: QueueOffset) -> Option<LiteId> {
        self.0.get(&offset).copied()
    }
}

impl QueueBook {
    /// The parent of the lite topics that the book is about, if it is about some.
    pub fn lite(&self) -> Option<&Arc<Parent>> {
        self.owner.lite.get().filter(|_| self.queue_id == QUEUE)
    }

    /// Where the group is in each lite topic that it has begun in. The book is open for a thousand of them at once.
    pub fn cursors(&self) -> Vec<(LiteId, QueueOffset)> {
        let mut all: Vec<(LiteId, QueueOffset)> = Vec::new();
        loop {
            let after = all.last().map(|(id, _)| *id);
            let more = self.open().book.cursors_after(after, CHUNK);
            if more.is_empty() {
                return all;
            }
            all.extend(more);
        }
    }

    /// What is in flight or waits, and in which lite topics; the same of opening.
    pub fn held(&self) -> Vec<(QueueOffset, Option<LiteId>)> {
        let mut all: Vec<(QueueOffset, Option<LiteId>)> = Vec::new();
        loop {
            let from = all.last().map_or(QueueOffset::ZERO, |(last, _)| last.plus(1));
            let more = self.open().book.held_from(from, CHUNK);
            if more.is_empty() {
                return all;
            }
            all.extend(more);
        }
    }

    /// Whose a stored message is. Waits for the disk, so nobody may do it with the book open.
    pub fn lane_at(&self, offset: QueueOffset) -> Result<Option<LiteId>, ReadError> {
        match self.lite() {
            Some(_) => Ok(entry_at(&self.queue, offset)?.map(|entry| LiteId::from_code(entry.tags_code))),
            None => Ok(None),
        }
    }
}

/// Dropped when a poll of a LITE topic has ended that was parked, has others look that found no room: it may have been woken
/// in their place, and gone without having looked.
pub(super) struct FeedsOthers {
    broker: Broker,
    book: Arc<QueueBook>,
}

impl FeedsOthers {
    pub fn of(broker: &Broker, subscription: &Subscription) -> Option<Self> {
        let books = subscription.books();
        let book = books.first().filter(|book| book.lite().is_some())?;
        Some(Self { broker: broker.clone(), book: Arc::clone(book) })
    }
}

impl Drop for FeedsOthers {
    fn drop(&mut self) {
        self.broker.close(&self.book, self.book.open(), self.broker.inner.clock.now());
    }
}

fn entry_at(queue: &Queue, offset: QueueOffset) -> Result<Option<Entry>, ReadError> {
    Ok(queue.entries(offset, 1)?.first().copied().filter(|entry| entry.offset == offset))
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

    /// The books of all groups on a LITE topic.
    pub(in crate::broker) fn lite_books(&self, topic: &TopicName) -> Vec<Arc<QueueBook>> {
        let subscriptions = self.inner.pop.subscriptions.of_topic(topic).into_iter();
        let books = subscriptions.filter_map(|subscription| subscription.books().first().cloned());
        books.filter(|book| book.lite().is_some()).collect()
    }

    /// Opens the lanes of what was restored: what is done of them is known from then on. Waits for the disk.
    pub(in crate::broker) fn open_restored_lanes(&self, topic: &Topic, parent: &Arc<Parent>) -> Result<(), ReadError> {
        for subscription in self.inner.pop.subscriptions.of_topic(&topic.name) {
            subscription.serves(topic, || Some(Arc::clone(parent)));
            for book in subscription.books().iter().take(1) {
                // Nobody else is here yet.
                let offsets: Vec<_> = book.open().book.exceptions().map(|(offset, _)| offset).collect();
                let mut whose = HashMap::new();
                for offset in offsets {
                    whose.extend(book.lane_at(offset)?.map(|id| (offset, id)));
                }
                let mut pages = book.open();
                pages.book.open_lanes(|offset| whose.get(&offset).copied());
                self.close(book, pages, self.inner.clock.now());
            }
        }
        Ok(())
    }

    /// Has the book keep the order that its group and topic want. Nothing about a lite topic can be settled before.
    pub(super) fn keep_order(&self, book: &QueueBook, pages: &mut Pages, fifo: bool) {
        match book.lite() {
            Some(_) => {
                pages.book.use_lanes();
                pages.book.release(self.inner.store.watermarks().dispatched);
            }
            None => pages.book.keep_order(fifo),
        }
    }

    /// Whose messages these receipts name.
    pub(super) async fn whose(&self, subscription: &Subscription, receipts: &[Receipt]) -> Result<Whose, ReadError> {
        let books = subscription.books();
        let Some(book) = books.first().filter(|book| book.lite().is_some()) else { return Ok(Whose::default()) };
        let mut whose = HashMap::with_capacity(receipts.len());
        let mut unknown = Vec::new();
        {
            let pages = book.open();
            for offset in receipts.iter().filter(|receipt| receipt.queue == QUEUE).map(|receipt| receipt.offset) {
                match pages.book.lane_of(offset) {
                    Some(id) => whose.extend([(offset, id)]),
                    None => unknown.push(offset),
                }
            }
        }
        if !unknown.is_empty() {
            let book = Arc::clone(book);
            let read = move || {
                let lane = |offset: &QueueOffset| Ok(book.lane_at(*offset)?.map(|id| (*offset, id)));
                unknown.iter().filter_map(|offset| lane(offset).transpose()).collect::<Result<Vec<_>, ReadError>>()
            };
            whose.extend(self.read_off_the_runtime(read).await??);
        }
        Ok(Whose(whose))
    }

    /// Whether the group is done with a message that no lease is on any more; of what lite topic it is.
    pub(super) fn is_over(&self, pages: &Pages, offset: QueueOffset, lane: Option<LiteId>) -> bool {
        pages.book.is_done(offset) || lane.is_some_and(|id| pages.book.is_passed(offset, id))
    }

    /// The record that a message is done, which is of this lite topic, if of any. The book keeps its order already.
    pub(super) fn done_record(
        &self,
        book: &QueueBook,
        pages: &mut Pages,
        offset: QueueOffset,
        lane: Option<LiteId>,
    ) -> What {
        match self.lane_moved_by(book, pages, offset, lane) {
            Some(id) => What::Lanes(vec![LaneAt { queue: book.queue_id, id, to: offset.plus(1) }]),
            None => What::Done(vec![(book.queue_id, vec![offset..offset.plus(1)])]),
        }
    }

    /// The lane that moves on when a message is done.
    pub(super) fn lane_moved_by(
        &self,
        book: &QueueBook,
        pages: &mut Pages,
        offset: QueueOffset,
        lane: Option<LiteId>,
    ) -> Option<LiteId> {
        let parent = book.lite()?;
        let id = pages.book.lane_of(offset).or(lane)?;
        pages.book.enlist(offset, id, &parent.known(), book.queue.min());
        pages.book.lane_moved_by(offset)
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
        self.keep_order(book, &mut pages, false);
        let lane = |(id, to): &(LiteId, QueueOffset)| LaneAt { queue: book.queue_id, id: *id, to: *to };
        let void = pages.book.in_lanes(places);
        let record = What::Rewind {
            lanes: places.iter().map(lane).collect(),
            void: void.iter().map(|offset| (book.queue_id, *offset)).collect(),
        };
        let end = pop.log.append(owner, record)?;
        pop.touch();
        pages.book.move_lanes(places, void);
        self.close(book, pages, self.inner.clock.now());
        Ok(end)
    }

    /// Notes that a group wants these lite topics, where it is nowhere yet: it is at their beginning then. Not waited for: the
    /// record lies in the log before whatever is sent to them later.
    pub(in crate::broker) fn want_lanes(&self, subscription: &Subscription, ids: &[LiteId]) -> Result<(), SettleError> {
        let books = subscription.books();
        let Some(book) = books.first().filter(|book| book.lite().is_some()) else { return Ok(()) };
        let mut pages = book.open();
        if pages.forgotten {
            return Ok(());
        }
        self.keep_order(book, &mut pages, false);
        let new = ids.iter().filter(|id| pages.book.cursor(**id).is_none());
        let at = |id: &LiteId| LaneAt { queue: book.queue_id, id: *id, to: QueueOffset::ZERO };
        let lanes: Vec<LaneAt> = new.map(at).collect();
        if !lanes.is_empty() {
            self.inner.pop.log.append(&subscription.owner, What::Rewind { lanes: lanes.clone(), void: Vec::new() })?;
            self.inner.pop.touch();
            lanes.iter().for_each(|lane| pages.book.set_cursor(lane.id, lane.to));
        }
        self.close(book, pages, self.inner.clock.now());
        Ok(())
    }

    /// Lite topics ended, which had no messages when the queue ended at `end`: no group is anywhere in them. Nor is it where
    /// retention has been, before `min`.
    pub(in crate::broker) fn forget_lanes(
        &self,
        topic: &TopicName,
        ids: &[LiteId],
        min: QueueOffset,
        end: QueueOffset,
    ) {
        for book in self.lite_books(topic) {
            let mut pages = book.open();
            pages.book.retained_from(min);
            pages.book.forget_lanes(ids, end);
            self.close(&book, pages, self.inner.clock.now());
        }
    }

    /// Forgets where a group was in lite topics, as it was seen a moment ago: not where it has moved on, nor that it wants
    /// one which it wants again.
    pub(in crate::broker) fn forget_cursors(&self, book: &Arc<QueueBook>, mut over: Vec<(LiteId, QueueOffset)>) {
        let Some(parent) = book.lite() else { return };
        let mut pages = book.open();
        let group = Some(&book.owner.group);
        over.retain(|(id, at)| *at > QueueOffset::ZERO || !parent.is_wanted(*id, None, group));
        pages.book.forget_cursors(&over);
        self.close(book, pages, self.inner.clock.now());
    }

    /// Closes a book that changed: has it looked after in time, and tells the sets of its group which lanes may have
    /// something now, or that there is room.
    pub(super) fn close(&self, book: &Arc<QueueBook>, mut pages: MutexGuard<'_, Pages>, now: Deadline) {
        let moved = pages.book.take_moved_lanes(now);
        self.inner.pop.schedule.bring_forward(book, &mut pages, now);
        let Some(parent) = book.lite() else { return };
        let fed = pages.book.fed(self.inner.config.in_flight_max);
        drop(pages);
        if !moved.is_empty() {
            parent.tell(Some(&book.owner.group), &moved);
        }
        fed.iter().for_each(|set| set.wake());
    }

    /// Polls of a LITE topic say whose set they are for, and no others do. A set is of a group, not of one of its clients.
    pub(in crate::broker) fn lite_or_not(
        &self,
        topic: &Topic,
        group: &Group,
        filter: &super::Filter,
    ) -> Result<(), TakeError> {
        let is_lite = topic.message_type == Some(MessageType::Lite);
        match filter {
            _ if is_lite && group.broadcast => {
                Err(TakeError::LiteBroadcast { topic: topic.name.clone(), group: group.name.clone() })
            }
            super::Filter::Lite(_) if is_lite => Ok(()),
            super::Filter::Lite(_) => Err(TakeError::NotLite(topic.name.clone())),
            _ if is_lite => Err(TakeError::LiteOnly(topic.name.clone())),
            _ => Ok(()),
        }
    }

    /// Finds out where the messages lie that were booked in their lanes. What is not stored any more is passed over, and what
    /// is too much for one answer comes again at once.
    pub(super) async fn find_booked(&self, batch: &mut Batch) -> Result<(), ReadError> {
        let places: Vec<(Queue, QueueOffset)> =
            batch.booked.iter().map(|b| (batch.books[b.book].queue.clone(), b.offset)).collect();
        let near = places.iter().all(|(queue, offset)| offset.until(queue.max()) <= NEAR);
        let read = move || places.iter().map(|(queue, offset)| entry_at(queue, *offset)).collect::<Result<Vec<_>, _>>();
        let entries = if near { read()? } else { self.read_off_the_runtime(read).await?? };
        let (mut gone, mut over, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut found: Vec<Booked> = Vec::with_capacity(entries.len());
        for (booked, entry) in std::mem::take(&mut batch.booked).into_iter().zip(entries) {
            let Some(Entry { physical, size, .. }) = entry else {
                gone.push(booked);
                continue;
            };
            bytes += u64::from(size);
            match found.is_empty() || bytes <= BATCH_BYTES_MAX {
                true => found.push(Booked { physical, size, ..booked }),
                false => over.push(booked),
            }
        }
        batch.booked = found;
        batch.pass(&gone);
        batch.give_back(over, std::time::Duration::ZERO);
        Ok(())
    }
}

impl Walk<'_> {
    /// The first undone message of each lane of the set that may have one, each looked at once. Where they lie is
    /// [found](Broker::find_booked) when the book is closed.
    pub fn first_of_lanes(&mut self, book: &QueueBook, pages: &mut Pages, set: &Arc<LiteSet>, out: &mut Vec<Booked>) {
        let Some(parent) = book.lite() else { return };
        let index = parent.known();
        let (min, mut hungry, mut hungry_again) = (book.queue.min(), false, false);
        for _ in 0..set.queued() {
            if self.is_full(out) || self.scans_left == 0 {
                break;
            }
            let Some(id) = set.next() else { break };
            self.scans_left -= 1;
            let Head::Ready { offset, attempt, fresh } = pages.book.head(id, &index, min, self.now) else { continue };
            if attempt > self.max_attempts {
                pages.book.retry(offset, attempt, self.now, self.max_attempts);
            } else if !self.has_place(&pages.book, fresh) {
                // Behind the others: there may be place for one of those.
                set.queue(id);
                if fresh { hungry = true } else { hungry_again = true }
            } else {
                let nonce = pages.book.deliver_in_lane(id, offset, attempt, self.until);
                out.push(Booked { book: 0, offset, attempt, nonce, physical: PhysicalOffset::ZERO, size: 0 });
            }
        }
        for (_, fresh) in [(hungry, true), (hungry_again, false)].into_iter().filter(|(is_so, _)| *is_so) {
            pages.book.is_hungry(set, fresh);
        }
    }
}
