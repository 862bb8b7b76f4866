//! What a consumer says about its deliveries: done, not now, still working on it.
//!
//! Each call judges under the books' locks, appends one record, changes the books, lets go of the locks, and only then
//! waits for the record to be as safe as the flush policy says.

use std::{ops::Range, sync::Arc, time::Duration};

use parking_lot::MutexGuard;

use crate::{
    store::ReadError,
    types::{Deadline, GroupName, PhysicalOffset, QueueId, QueueOffset, TopicName},
};

use super::{
    Broker, Pages, QueueBook, Receipt, SettleError, Subscription, What,
    book::{Claim, ClaimedRun, Logged, Verdict},
    in_order::Release,
    lanes::Whose,
    receipt::Terms,
    settle_record::{LaneAt, Retry},
    subscription::Owner,
};
use crate::broker::long_poll::Cause;

/// The books of the queues that a call speaks of, locked in order of queue.
pub(super) struct Opened<'a>(Vec<(&'a Arc<QueueBook>, MutexGuard<'a, Pages>)>);

impl<'a> Opened<'a> {
    /// Opens the books of these queues; receipts of queues that do not exist find no book.
    pub fn open(books: &'a [Arc<QueueBook>], mut queues: Vec<QueueId>) -> Self {
        queues.sort_unstable();
        queues.dedup();
        let known = queues.iter().filter_map(|queue| books.get(queue.0 as usize));
        Self(known.map(|book| (book, book.open())).collect())
    }

    pub fn find(&mut self, queue: QueueId) -> Option<&mut (&'a Arc<QueueBook>, MutexGuard<'a, Pages>)> {
        self.0.iter_mut().find(|(book, _)| book.queue_id == queue)
    }
}

impl Broker {
    /// Marks deliveries as done; one result each, in order. `Ok` is as safe as the flush policy says. Acking again what a
    /// live handle acked is `Ok`.
    pub async fn ack(
        &self,
        topic: &TopicName,
        group: &GroupName,
        receipts: &[Receipt],
    ) -> Result<Vec<Result<(), SettleError>>, SettleError> {
        let subscription = match self.settled_subscription(topic, group, receipts) {
            // As with any receipt that is none: each has its own result.
            Err(SettleError::Invalid) => return Ok(receipts.iter().map(|_| Err(SettleError::Invalid)).collect()),
            other => other?,
        };
        let whose = self.whose(&subscription, receipts).await?;
        let (results, end, ordered) = self.ack_unsynced(&subscription, receipts, &whose)?;
        let _release = (!ordered.is_empty()).then(|| Release { broker: self.clone(), books: ordered });
        if let Some(end) = end {
            self.confirmed(end).await?;
        }
        Ok(results)
    }

    /// The results, up to where the log must be safe before they may be told, and books whose lines move on then.
    #[expect(clippy::type_complexity, reason = "the results are the contract's, the end goes with them")]
    fn ack_unsynced(
        &self,
        subscription: &Subscription,
        receipts: &[Receipt],
        whose: &Whose,
    ) -> Result<(Vec<Result<(), SettleError>>, Option<PhysicalOffset>, Vec<Arc<QueueBook>>), SettleError> {
        let pop = &self.inner.pop;
        let books = subscription.books();
        let mut opened = Opened::open(&books, receipts.iter().map(Receipt::queue).collect());
        let mut results = Vec::with_capacity(receipts.len());
        let mut done: Vec<(QueueId, QueueOffset)> = Vec::new();
        let mut repeated = false;
        for receipt in receipts {
            let verdict = match opened.find(receipt.queue) {
                Some((book, pages)) => self.judge(subscription, book, pages, receipt, whose),
                None => Err(SettleError::Invalid),
            };
            match verdict {
                Ok(Verdict::Live) => done.push((receipt.queue, receipt.offset)),
                Ok(_) => repeated = true,
                Err(_) => {}
            }
            results.push(verdict.map(|_| ()));
        }
        let (mut end, mut ordered) = (None, Vec::new());
        if !done.is_empty() {
            let (queues, safe_at) = self.record_done(&subscription.owner, &mut opened, done, whose)?;
            end = Some(safe_at);
            pop.touch();
            let mut moved = false;
            for (queue, ranges) in queues {
                if let Some((book, pages)) = opened.find(queue) {
                    moved |= self.has_no_room(pages);
                    ranges.into_iter().for_each(|range| pages.book.done_at(range, safe_at));
                    if pages.book.keeps_order() {
                        ordered.push(Arc::clone(book));
                    }
                    pop.schedule.count(pages);
                }
            }
            drop(opened);
            if moved {
                subscription.owner.line.wake(Cause::Any);
            }
        } else if repeated {
            // The first ack of it may still be on its way to the disk.
            end = Some(self.inner.store.end());
        }
        Ok((results, end, ordered))
    }

    /// Writes down that these are done: the ranges by queue, and the log's end behind the record. What moves a lane on is a
    /// range of its own.
    #[expect(clippy::type_complexity, reason = "the ranges are what the record says")]
    fn record_done(
        &self,
        owner: &Owner,
        opened: &mut Opened<'_>,
        mut done: Vec<(QueueId, QueueOffset)>,
        whose: &Whose,
    ) -> Result<(Vec<(QueueId, Vec<Range<QueueOffset>>)>, PhysicalOffset), SettleError> {
        let log = &self.inner.pop.log;
        if owner.lite.get().is_none() {
            let queues = ranges_by_queue(done);
            let end = log.append(owner, What::Done(queues.clone()))?;
            return Ok((queues, end));
        }
        done.sort_unstable();
        done.dedup();
        let (mut lanes, mut others, mut queues) = (Vec::new(), Vec::new(), Vec::new());
        for (queue, offset) in done {
            let Some((book, pages)) = opened.find(queue) else { continue };
            match self.lane_moved_by(book, pages, offset, whose.of(offset)) {
                Some(id) => lanes.push(LaneAt { queue, id, to: offset.plus(1) }),
                None => others.push((queue, offset)),
            }
            queues.push((queue, vec![offset..offset.plus(1)]));
        }
        let mut end = self.inner.store.end();
        if !lanes.is_empty() {
            end = log.append(owner, What::Lanes(lanes))?;
        }
        if !others.is_empty() {
            end = log.append(owner, What::Done(ranges_by_queue(others)))?;
        }
        Ok((queues, end))
    }

    /// Ends the lease and starts one of `invisible` from now; the message comes again, as the next attempt, when that
    /// ends. The old receipt is dead.
    pub async fn change_invisible(
        &self,
        topic: &TopicName,
        group: &GroupName,
        receipt: &Receipt,
        invisible: Duration,
    ) -> Result<Receipt, SettleError> {
        self.change(topic, group, receipt, invisible, false).await
    }

    /// [`Broker::change_invisible`], but a message of a lite topic comes again as the same attempt.
    pub async fn suspend(
        &self,
        topic: &TopicName,
        group: &GroupName,
        receipt: &Receipt,
        invisible: Duration,
    ) -> Result<Receipt, SettleError> {
        self.change(topic, group, receipt, invisible, true).await
    }

    async fn change(
        &self,
        topic: &TopicName,
        group: &GroupName,
        receipt: &Receipt,
        invisible: Duration,
        suspend: bool,
    ) -> Result<Receipt, SettleError> {
        let subscription = self.settled_subscription(topic, group, std::slice::from_ref(receipt))?;
        let whose = self.whose(&subscription, std::slice::from_ref(receipt)).await?;
        let (renewed, end) = self.change_unsynced(&subscription, receipt, invisible, suspend, &whose)?;
        self.confirmed(end).await?;
        Ok(renewed)
    }

    fn change_unsynced(
        &self,
        subscription: &Subscription,
        receipt: &Receipt,
        invisible: Duration,
        suspend: bool,
        whose: &Whose,
    ) -> Result<(Receipt, PhysicalOffset), SettleError> {
        let inner = &self.inner;
        let (pop, owner) = (&inner.pop, &subscription.owner);
        let max_attempts = self.max_attempts(&owner.group);
        let books = subscription.books();
        let book = books.get(receipt.queue.0 as usize).ok_or(SettleError::Invalid)?;
        let mut pages = book.open();
        if self.judge(subscription, book, &mut pages, receipt, whose)? != Verdict::Live {
            return Err(SettleError::Expired);
        }
        // Before it is in flight: what a FIFO group holds by a receipt of an earlier run has its place in its line, and is
        // nothing from before order began.
        self.keep_order(book, &mut pages, self.is_fifo(&owner.group));
        self.lane_moved_by(book, &mut pages, receipt.offset, whose.of(receipt.offset));
        let now = inner.clock.now();
        let until = now.plus(invisible);
        // A lease that ends is the attempt before the one that comes.
        let held_as =
            if suspend && book.lite().is_some() { receipt.attempt.saturating_sub(1) } else { receipt.attempt };
        let (queue, offset, next_attempt) = (receipt.queue, receipt.offset, held_as.saturating_add(1));
        // The wall clock shows whole milliseconds; one more, so that it is never early.
        let visible_at = inner.clock.wall().plus(invisible).plus(Duration::from_millis(1));
        let retry = Retry { queue, offset, attempt: next_attempt, visible_at, delay: invisible };
        let end = pop.log.append(owner, What::Retry(vec![retry]))?;
        pop.touch();
        let nonce = pages.book.hold(offset, held_as, until);
        let at_once = invisible.is_zero();
        if at_once {
            pages.book.retry(offset, next_attempt, now, max_attempts);
        }
        self.close(book, pages, now);
        if at_once {
            owner.line.wake(Cause::Any);
        }
        let attempt = receipt.attempt;
        let terms = Terms { run: pop.run.id, queue, offset, attempt, nonce, until: pop.run.wall_of(until) };
        Ok((Receipt::seal(&owner.topic, &owner.group, terms), end))
    }

    /// Takes back a delivery that nobody will see: the message comes again at once, as the same attempt. Nothing happens
    /// when it was settled, has expired or was delivered anew. Written down where the delivery was.
    pub fn give_back(&self, topic: &TopicName, group: &GroupName, receipt: &Receipt) {
        let pop = &self.inner.pop;
        let Some(subscription) = pop.subscriptions.get(topic, group) else { return };
        if receipt.run != pop.run.id || !receipt.is_sealed_for(topic, group) {
            return;
        }
        let books = subscription.books();
        let Some(book) = books.get(receipt.queue.0 as usize) else { return };
        let now = self.inner.clock.now();
        let mut pages = book.open();
        if pages.book.give_back(receipt.offset, receipt.nonce, now) == Some(Logged::Lease) && !pages.forgotten {
            self.log_given_back(book, receipt.offset, receipt.attempt);
        }
        self.close(book, pages, now);
        subscription.owner.line.wake(Cause::Any);
    }

    /// Moves the end of a live lease to `invisible` from now; the receipt stays valid. Written down where the lease was,
    /// without waiting for it.
    pub fn renew(
        &self,
        topic: &TopicName,
        group: &GroupName,
        receipt: &Receipt,
        invisible: Duration,
    ) -> Result<(), SettleError> {
        let subscription = self.settled_subscription(topic, group, std::slice::from_ref(receipt))?;
        let books = subscription.books();
        let book = books.get(receipt.queue.0 as usize).ok_or(SettleError::Invalid)?;
        let mut pages = book.open();
        // Who prolonged the lease of an earlier run's receipt ended with that run.
        if receipt.run != self.inner.pop.run.id
            || self.judge(&subscription, book, &mut pages, receipt, &Whose::default())? != Verdict::Live
        {
            return Err(SettleError::Expired);
        }
        let now = self.inner.clock.now();
        if let Some(was) = pages.book.renew(receipt.offset, now.plus(invisible)) {
            self.log_renewed(book, &mut pages, receipt, was);
        }
        self.inner.pop.schedule.bring_forward(book, &mut pages, now);
        Ok(())
    }

    /// The subscription that receipts speak of. After a crash it may have to be made: a receipt outlives what was only in
    /// memory. That is done for receipts that we made in an earlier run, and no others: this run's have their books.
    pub(super) fn settled_subscription(
        &self,
        topic: &TopicName,
        group: &GroupName,
        receipts: &[Receipt],
    ) -> Result<Arc<Subscription>, SettleError> {
        let found = self.topic(topic.as_str()).ok_or_else(|| SettleError::TopicNotFound(topic.clone()))?;
        let whole = self.group(group.as_str()).ok_or_else(|| SettleError::GroupNotFound(group.whole()))?;
        if group.is_member() && !whole.broadcast {
            return Err(SettleError::Invalid);
        }
        let pop = &self.inner.pop;
        let earlier = |receipt: &Receipt| receipt.run != pop.run.id && receipt.is_sealed_for(topic, group);
        if receipts.iter().any(earlier) {
            return Ok(self.subscription(&found, group)?);
        }
        pop.subscriptions.get_for_use(topic, group, self.inner.clock.now()).ok_or(SettleError::Invalid)
    }

    /// `Live`, or `Done` when the receipt may still hear that it is; every other verdict is the refusal to answer.
    fn judge(
        &self,
        subscription: &Subscription,
        book: &QueueBook,
        pages: &mut Pages,
        receipt: &Receipt,
        whose: &Whose,
    ) -> Result<Verdict, SettleError> {
        let owner = &subscription.owner;
        if pages.forgotten || !receipt.is_sealed_for(&owner.topic, &owner.group) {
            return Err(SettleError::Invalid);
        }
        if pages.book.is_void(receipt.issue()) {
            return Err(SettleError::Expired);
        }
        let now = self.inner.clock.now();
        if book.lite().is_some() {
            self.keep_order(book, pages, false);
        }
        let passed = self.is_over(pages, receipt.offset, whose.of(receipt.offset));
        match pages.book.judge(self.claim(book, passed, receipt, now)?, now) {
            verdict @ (Verdict::Live | Verdict::Done) => Ok(verdict),
            Verdict::Stale => Err(SettleError::Expired),
            Verdict::Unknown => Err(SettleError::Invalid),
        }
    }

    fn claim(&self, book: &QueueBook, passed: bool, receipt: &Receipt, now: Deadline) -> Result<Claim, ReadError> {
        let run = &self.inner.pop.run;
        let (claimed, today) = if receipt.run == run.id {
            (ClaimedRun::This { nonce: receipt.nonce }, run.wall_of(now))
        } else {
            let end = self.end_of_earlier_runs(book, receipt.offset)?;
            (ClaimedRun::Earlier { issue: receipt.issue(), end }, self.inner.clock.wall())
        };
        Ok(Claim {
            offset: receipt.offset,
            attempt: receipt.attempt,
            run: claimed,
            open: receipt.until > today,
            passed,
        })
    }

    /// Behind the offset when an earlier run stored its message. A tail that the log lost is given out again, and a receipt
    /// of what was lost must not settle what came in its place.
    fn end_of_earlier_runs(&self, book: &QueueBook, offset: QueueOffset) -> Result<QueueOffset, ReadError> {
        let entry = book.queue.entries(offset, 1)?.first().copied();
        let opened_at = self.inner.store.opened_at();
        Ok(match entry.filter(|entry| entry.offset == offset && entry.physical < opened_at) {
            Some(_) => offset.plus(1),
            None => offset,
        })
    }

    /// Whether takes pass by this queue because too much of it is in flight.
    fn has_no_room(&self, pages: &Pages) -> bool {
        pages.book.in_flight().max(pages.book.waiting()) >= self.inner.config.in_flight_max
    }
}

/// Groups offsets by queue, each once, as ascending ranges that do not touch.
pub(super) fn ranges_by_queue(mut done: Vec<(QueueId, QueueOffset)>) -> Vec<(QueueId, Vec<Range<QueueOffset>>)> {
    done.sort_unstable();
    done.dedup();
    let mut queues: Vec<(QueueId, Vec<Range<QueueOffset>>)> = Vec::new();
    for (queue, offset) in done {
        let end = offset.plus(1);
        match queues.last_mut().filter(|(last, _)| *last == queue) {
            Some((_, ranges)) => match ranges.last_mut().filter(|range| range.end == offset) {
                Some(range) => range.end = end,
                None => ranges.push(offset..end),
            },
            None => queues.push((queue, vec![offset..end])),
        }
    }
    queues
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_melt_into_ranges_queue_by_queue() {
        let at = QueueOffset::new;
        let done = [(1, 5), (0, 9), (1, 4), (1, 7), (0, 9), (1, 6), (1, 9)];
        let queues = ranges_by_queue(done.into_iter().map(|(q, o)| (QueueId(q), at(o))).collect());
        let expected = [(QueueId(0), vec![at(9)..at(10)]), (QueueId(1), vec![at(4)..at(8), at(9)..at(10)])];
        assert_eq!(queues, expected);
    }
}
