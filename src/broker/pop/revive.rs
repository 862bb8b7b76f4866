//! What happens by itself: leases run out, retries fall due, last attempts end in the dead-letter topic.

use std::{sync::Arc, time::Duration};

use crate::{
    store::{AppendError, ReadError},
    types::{Deadline, QueueOffset},
};

use super::{Broker, Pages, QueueBook, SettleError, What, book::Failed, schedule::Schedule, settle_record::Retry};
use crate::broker::long_poll::Cause;

/// Books that are looked after before other tasks of the thread get a turn.
const BOOKS_PER_TURN: usize = 64;
/// Leases that are ended under one lock of a book, and so in one record.
const EXPIRED_PER_TURN: usize = 512;
/// Messages that are dead-lettered in one go.
const DOOMED_PER_TURN: usize = 32;
/// How long a message waits when it could not be dead-lettered.
const DOOM_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The same when trying again soon cannot help.
const DOOM_AGAIN_LATER: Duration = Duration::from_secs(60);

/// Messages of one book that go to the dead-letter topic.
struct Doomed {
    book: Arc<QueueBook>,
    messages: Vec<(QueueOffset, u32)>,
}

impl Broker {
    /// Ends leases that have run out, dead-letters what has had its last attempt, wakes polls that can now be served, and
    /// says when to come again. The server calls it in a loop, always to its end; tests call it after moving the clock.
    pub async fn revive(&self) -> Option<Deadline> {
        let schedule = &self.inner.pop.schedule;
        loop {
            let now = self.inner.clock.now();
            let due = schedule.due(now, BOOKS_PER_TURN);
            if due.is_empty() {
                return schedule.promise();
            }
            let doomed: Vec<_> = due.iter().filter_map(|(at, book)| self.revive_book(book, *at, now)).collect();
            if !doomed.is_empty() {
                let broker = self.clone();
                let bury = move || doomed.iter().for_each(|doomed| broker.bury(doomed));
                if let Err(error) = self.off_the_runtime(bury).await {
                    tracing::error!(%error, "dead-lettering ended early; it goes on at the next start");
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Returns when `revive` should be called earlier than it said.
    pub async fn revive_sooner(&self) {
        self.inner.pop.schedule.sooner().await;
    }

    /// Does what is due in one book, and says what must go to the dead-letter topic.
    fn revive_book(&self, book: &Arc<QueueBook>, at: Deadline, now: Deadline) -> Option<Doomed> {
        let (pop, owner) = (&self.inner.pop, &book.owner);
        let max_attempts = self.max_attempts(&owner.group);
        let mut pages = book.open();
        Schedule::taken(&mut pages, at);
        if pages.forgotten {
            return None;
        }
        pages.book.release(self.inner.store.watermarks().dispatched);
        let failed = pages.book.expire(now, max_attempts, EXPIRED_PER_TURN);
        if !failed.is_empty() {
            pop.touch();
            self.record_failed(book, &failed);
        }
        let messages = pages.book.doomed(now, max_attempts, DOOMED_PER_TURN);
        let ready = pages.book.has_moved() | pages.book.ready(now).is_some();
        pop.schedule.bring_forward(book, &mut pages, now);
        drop(pages);
        if ready {
            owner.line.wake(Cause::Any);
        }
        (!messages.is_empty()).then(|| Doomed { book: Arc::clone(book), messages })
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
        let retries: Vec<_> = failed.iter().filter(|failed| !failed.recorded).map(retry).collect();
        if retries.is_empty() {
            return;
        }
        let count = retries.len();
        if let Err(error) = self.inner.pop.log.append(&book.owner, What::Retry(retries)) {
            let (topic, group) = (&book.owner.topic, &book.owner.group);
            tracing::warn!(%topic, %group, queue = %book.queue_id, count, %error, "could not record failed deliveries");
        }
    }

    /// Moves messages to the dead-letter topic. Waits for the disk.
    fn bury(&self, doomed: &Doomed) {
        let book = &doomed.book;
        let (topic, group, queue) = (&book.owner.topic, &book.owner.group, book.queue_id);
        // A full disk fails all of them alike: said once for each book and go.
        let mut later: Option<SettleError> = None;
        let mut safe_at = None;
        for (offset, _) in &doomed.messages {
            let error = match self.dead_letter(book, *offset) {
                Ok(end) => {
                    safe_at = Some(end);
                    continue;
                }
                Err(error) => error,
            };
            let mut pages = book.open();
            match after_failure(&error) {
                Some(wait) => {
                    self.doom_again(book, &mut pages, *offset, wait);
                    later.get_or_insert(error);
                }
                None => {
                    tracing::error!(%topic, %group, %queue, %offset, %error, "a message that had its attempts cannot be read");
                    pages.book.done(*offset..offset.plus(1));
                    self.inner.pop.touch();
                    drop(pages);
                    book.owner.line.wake(Cause::Any);
                }
            }
        }
        if let Some(end) = safe_at.filter(|_| book.open().book.keeps_order()) {
            // A poisoned store ends the process anyway.
            let _ = self.inner.store.committed_blocking(end);
            self.release(book);
        }
        if let Some(error) = later {
            tracing::warn!(%topic, %group, %queue, %error, "could not dead-letter messages, trying again");
        }
    }

    fn doom_again(&self, book: &Arc<QueueBook>, pages: &mut Pages, offset: QueueOffset, wait: Duration) {
        let now = self.inner.clock.now();
        pages.book.doom_again(offset, now.plus(wait));
        self.inner.pop.schedule.bring_forward(book, pages, now);
    }
}

/// When to try again; `None` when there is nothing to copy.
fn after_failure(error: &SettleError) -> Option<Duration> {
    match error {
        SettleError::Invalid | SettleError::Read(ReadError::Gone(_) | ReadError::Corrupt { .. }) => None,
        SettleError::Append(AppendError::TooLarge { .. } | AppendError::PropertiesTooLarge { .. }) => {
            Some(DOOM_AGAIN_LATER)
        }
        _ => Some(DOOM_AGAIN_AFTER),
    }
}
