//! Which book has to be looked after when, so that nobody has to look at all of them.
//!
//! Each book stands here at most once, never later than its next event: taking and settling only bring it forward, and
//! when its time comes `revive` finds out what really is due. So the usual take and ack do not touch this lock at all.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::types::Deadline;

use super::{Pages, QueueBook};

#[derive(Default)]
pub struct Schedule {
    queue: Mutex<Queue>,
    sooner: Notify,
    /// Messages of all books that are in flight or wait for an attempt.
    held: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    by_time: BTreeMap<(Deadline, u64), Arc<QueueBook>>,
    /// When `revive` said that it would come again; `None`: not before it is called. While it is at work: the beginning of
    /// time, since it will see whatever is brought forward meanwhile.
    promised: Option<Deadline>,
}

impl Schedule {
    /// Messages of all books that are in flight or wait for an attempt.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Takes note of how many of them a book has, after a change. The caller has its lock.
    pub fn count(&self, pages: &mut Pages) {
        let now = if pages.forgotten { 0 } else { pages.book.in_flight() + pages.book.waiting() };
        let before = std::mem::replace(&mut pages.counted, now);
        if now > before {
            self.held.fetch_add(now - before, Ordering::Relaxed);
        } else if now < before {
            self.held.fetch_sub(before - now, Ordering::Relaxed);
        }
    }

    /// [`Schedule::count`], and brings a book forward if something happens in it earlier than it stands here. The caller
    /// has its lock.
    pub fn bring_forward(&self, book: &Arc<QueueBook>, pages: &mut Pages, now: Deadline) {
        self.count(pages);
        let Some(event) = pages.book.next_event(now) else { return };
        if pages.forgotten || pages.scheduled.is_some_and(|at| at <= event) {
            return;
        }
        let mut queue = self.queue.lock();
        if let Some(at) = pages.scheduled.replace(event) {
            queue.by_time.remove(&(at, book.id));
        }
        queue.by_time.insert((event, book.id), Arc::clone(book));
        let sooner = queue.promised.is_none_or(|promised| event < promised);
        drop(queue);
        if sooner {
            self.sooner.notify_one();
        }
    }

    /// Takes out the books that are due, at most `limit`. The caller looks after each: [`Schedule::taken`], then
    /// [`Schedule::bring_forward`].
    pub fn due(&self, now: Deadline, limit: usize) -> Vec<(Deadline, Arc<QueueBook>)> {
        let mut queue = self.queue.lock();
        queue.promised = Some(Deadline::default());
        let mut due = Vec::new();
        while due.len() < limit
            && let Some(first) = queue.by_time.first_entry().filter(|first| first.key().0 <= now)
        {
            let (at, _) = *first.key();
            due.push((at, first.remove()));
        }
        due
    }

    /// Notes that a book was taken out; not if it was brought in again meanwhile.
    pub fn taken(pages: &mut Pages, at: Deadline) {
        if pages.scheduled == Some(at) {
            pages.scheduled = None;
        }
    }

    /// Promises to come at the first event there is.
    pub fn promise(&self) -> Option<Deadline> {
        let mut queue = self.queue.lock();
        queue.promised = queue.by_time.first_key_value().map(|((at, _), _)| *at);
        queue.promised
    }

    /// Returns once something was brought forward to before the promise.
    pub async fn sooner(&self) {
        self.sooner.notified().await;
    }
}
