//! What happens by itself: leases run out, retries fall due, last attempts end on the way to the dead-letter topic.

use std::{sync::Arc, time::Duration};

use crate::types::Deadline;

use super::{
    Broker, Pages, QueueBook, What,
    book::Failed,
    bury::{DOOM_AGAIN_AFTER, Doomed},
    schedule::Schedule,
    settle_record::Retry,
};
use crate::broker::long_poll::Cause;

/// Books that are looked after before other tasks of the thread get a turn.
const BOOKS_PER_TURN: usize = 64;
/// Leases that are ended under one lock of a book, and so in one record.
const EXPIRED_PER_TURN: usize = 512;
/// Messages of a book that are handed over to be dead-lettered under one lock.
const DOOMED_PER_TURN: usize = 32;

impl Broker {
    /// Ends leases that have run out, hands what has had its last attempt to [`bury`](Broker::bury), wakes polls that can
    /// now be served, and says when to come again. The server calls it in a loop, always to its end.
    pub async fn end_leases(&self) -> Option<Deadline> {
        let schedule = &self.inner.pop.schedule;
        loop {
            let now = self.inner.clock.now();
            let due = schedule.due(now, BOOKS_PER_TURN);
            if due.is_empty() {
                return schedule.promise();
            }
            due.iter().for_each(|(at, book)| self.revive_book(book, *at));
            tokio::task::yield_now().await;
        }
    }

    /// Both of the server's loops, until nothing is due: for tests, after moving the clock.
    #[cfg(test)]
    pub async fn revive(&self) -> Option<Deadline> {
        loop {
            let next = self.end_leases().await;
            if self.inner.pop.burials.room() == super::bury::WAITING_MAX {
                return next;
            }
            self.bury().await;
        }
    }

    /// Returns when [`end_leases`](Broker::end_leases) should be called earlier than it said.
    pub async fn revive_sooner(&self) {
        self.inner.pop.schedule.sooner().await;
    }

    /// Does what is due in one book.
    fn revive_book(&self, book: &Arc<QueueBook>, at: Deadline) {
        let (pop, owner) = (&self.inner.pop, &book.owner);
        let max_attempts = self.max_attempts(&owner.group);
        let mut pages = book.open();
        let now = self.inner.clock.now();
        Schedule::taken(&mut pages, at);
        if pages.forgotten {
            return;
        }
        pages.book.release(self.inner.store.watermarks().dispatched);
        let failed = pages.book.expire(now, max_attempts, EXPIRED_PER_TURN);
        if !failed.is_empty() {
            pop.touch();
            self.record_failed(book, &failed);
        }
        self.doom(book, &mut pages, now, max_attempts);
        let ready = pages.book.has_moved() | (!pages.book.has_lanes() && pages.book.ready(now).is_some());
        self.close(book, pages, now);
        if ready {
            owner.line.wake(Cause::Any);
        }
    }

    /// Hands over what is to be dead-lettered now, as far as there is room.
    fn doom(&self, book: &Arc<QueueBook>, pages: &mut Pages, now: Deadline, max_attempts: u32) {
        let burials = &self.inner.pop.burials;
        let doomed = pages.book.doomed(now, max_attempts, DOOMED_PER_TURN);
        let offsets: Vec<_> = doomed.into_iter().map(|(offset, _)| offset).collect();
        if burials.room() < offsets.len() {
            offsets.into_iter().for_each(|offset| self.doom_again(book, pages, offset, DOOM_AGAIN_AFTER));
        } else if !offsets.is_empty() {
            burials.add(Doomed { book: Arc::clone(book), offsets });
        }
    }

    /// One record for all of them. The book has moved on already: when the log takes nothing, consumers still get their
    /// messages, and after a crash these have an attempt less.
    fn record_failed(&self, book: &QueueBook, failed: &[Failed]) {
        let visible_at = self.inner.clock.wall();
        let retry = |failed: &Failed| Retry {
            queue: book.queue_id,
            offset: failed.offset,
            attempt: failed.attempt,
            visible_at,
            delay: Duration::ZERO,
        };
        let retries: Vec<_> = failed.iter().filter(|failed| !failed.is_logged).map(retry).collect();
        if retries.is_empty() {
            return;
        }
        let count = retries.len();
        if let Err(error) = self.inner.pop.log.append(&book.owner, What::Retry(retries)) {
            let (topic, group) = (&book.owner.topic, &book.owner.group);
            tracing::warn!(%topic, %group, queue = %book.queue_id, count, %error, "could not record failed deliveries");
        }
    }
}
