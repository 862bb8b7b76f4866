//! Moving messages that had their attempts to the dead-letter topic: apart from ending leases, so that a slow disk delays
//! nobody's redelivery.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    store::{AppendError, ReadError},
    types::QueueOffset,
};

use super::{Broker, Pages, QueueBook, SettleError};
use crate::broker::long_poll::Cause;

/// Messages that wait to be moved at most; what is doomed beyond waits in its book.
pub const WAITING_MAX: usize = 16_384;
/// Messages that are moved in one go on a blocking thread.
const MOVED_PER_GO: usize = 256;
/// How long a message waits when it could not be dead-lettered, or too many others wait for that.
pub const DOOM_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// The same when trying again soon cannot help.
const DOOM_AGAIN_LATER: Duration = Duration::from_secs(60);

/// Messages of one book that go to the dead-letter topic.
pub struct Doomed {
    pub book: Arc<QueueBook>,
    pub offsets: Vec<QueueOffset>,
}

/// What waits to be moved.
#[derive(Default)]
pub struct Burials {
    waiting: Mutex<Waiting>,
    some: Notify,
}

#[derive(Default)]
struct Waiting {
    doomed: VecDeque<Doomed>,
    messages: usize,
}

impl Burials {
    /// Messages that can still wait here.
    pub fn room(&self) -> usize {
        WAITING_MAX.saturating_sub(self.waiting.lock().messages)
    }

    pub fn add(&self, doomed: Doomed) {
        let mut waiting = self.waiting.lock();
        waiting.messages += doomed.offsets.len();
        waiting.doomed.push_back(doomed);
        drop(waiting);
        self.some.notify_one();
    }

    /// As many as are moved in one go. They count as waiting until [`Burials::moved`].
    fn next(&self) -> Vec<Doomed> {
        let mut waiting = self.waiting.lock();
        let (mut next, mut count) = (Vec::new(), 0);
        while count < MOVED_PER_GO
            && let Some(doomed) = waiting.doomed.pop_front()
        {
            count += doomed.offsets.len();
            next.push(doomed);
        }
        next
    }

    fn moved(&self, count: usize) {
        self.waiting.lock().messages -= count;
    }
}

impl Broker {
    /// Returns when there is something to [`bury`](Broker::bury).
    pub async fn doomed(&self) {
        self.inner.pop.burials.some.notified().await;
    }

    /// Moves what [`end_leases`](Broker::end_leases) found to the dead-letter topics, to the end of it unless the server ends.
    /// The server calls it in a loop of its own.
    pub async fn bury(&self) {
        let burials = &self.inner.pop.burials;
        while !self.is_ending() {
            let next = burials.next();
            if next.is_empty() {
                return;
            }
            let count = next.iter().map(|doomed| doomed.offsets.len()).sum();
            let broker = self.clone();
            let work = move || next.iter().for_each(|doomed| broker.bury_of(doomed));
            if let Err(error) = self.behind_the_runtime(work).await {
                tracing::error!(%error, "dead-lettering ended early; it goes on at the next start");
            }
            burials.moved(count);
        }
    }

    /// Waits for the disk.
    fn bury_of(&self, doomed: &Doomed) {
        let book = &doomed.book;
        let (topic, group, queue) = (&book.owner.topic, &book.owner.group, book.queue_id);
        // A full disk fails all of them alike: said once for each book and go.
        let mut later: Option<SettleError> = None;
        let mut moved = false;
        for offset in &doomed.offsets {
            let error = match self.dead_letter(book, *offset, |book| book.is_moving(*offset)) {
                Ok(_) => {
                    moved = true;
                    continue;
                }
                Err(error) => error,
            };
            if matches!(error, SettleError::Expired) {
                // Somebody else has settled it, or the group was reset and it is a message like any other again.
                continue;
            }
            let mut pages = book.open();
            match after_failure(&error) {
                Some(wait) => {
                    self.doom_again(book, &mut pages, *offset, wait);
                    later.get_or_insert(error);
                }
                None => {
                    tracing::error!(%topic, %group, %queue, %offset, %error, "a message that had its attempts cannot be read");
                    self.lane_moved_by(book, &mut pages, *offset, None);
                    pages.book.done(*offset..offset.plus(1));
                    self.inner.pop.touch();
                    self.close(book, pages, self.inner.clock.now());
                    book.owner.line.wake(Cause::Any);
                }
            }
        }
        if moved {
            // Their lines move on when it is safe, which the schedule sees to.
            self.release(book);
        }
        if let Some(error) = later {
            tracing::warn!(%topic, %group, %queue, %error, "could not dead-letter messages, trying again");
        }
    }

    /// Puts a message back that is being moved, to be tried again after a while.
    pub(super) fn doom_again(&self, book: &Arc<QueueBook>, pages: &mut Pages, offset: QueueOffset, wait: Duration) {
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
