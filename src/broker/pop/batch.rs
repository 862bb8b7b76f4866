//! What a poll has booked and does not have yet.

use std::{sync::Arc, time::Duration};

use crate::types::{Deadline, PhysicalOffset, QueueOffset, StoredMessage};

use super::{Broker, Delivery, QueueBook, Receipt, Subscription, book::Logged, receipt::Terms};
use crate::broker::long_poll::Cause;

/// A message that is booked and not yet in the hands of a consumer.
pub(super) struct Booked {
    /// Index in the subscription's books.
    pub book: usize,
    pub offset: QueueOffset,
    pub attempt: u32,
    pub nonce: u32,
    pub physical: PhysicalOffset,
    pub size: u32,
}

/// What one walk over the queues booked. Dropped, it gives back what it still holds.
pub(super) struct Batch {
    pub broker: Broker,
    pub subscription: Arc<Subscription>,
    pub books: Arc<[Arc<QueueBook>]>,
    pub booked: Vec<Booked>,
    pub until: Deadline,
    /// It ended because the batch was full.
    pub more: bool,
    /// It ended because it had looked at enough for one go.
    pub tired: bool,
}

impl Drop for Batch {
    fn drop(&mut self) {
        let booked = std::mem::take(&mut self.booked);
        self.give_back(booked, Duration::ZERO);
    }
}

impl Batch {
    pub fn of(
        broker: &Broker,
        subscription: &Arc<Subscription>,
        books: &Arc<[Arc<QueueBook>]>,
        until: Deadline,
    ) -> Self {
        let (subscription, books) = (Arc::clone(subscription), Arc::clone(books));
        Self { broker: broker.clone(), subscription, books, booked: Vec::new(), until, more: false, tired: false }
    }

    pub fn book(&mut self, booked: Booked) {
        self.booked.push(booked);
    }

    pub fn is_empty(&self) -> bool {
        self.booked.is_empty()
    }

    pub fn delivery(&self, booked: &Booked, message: StoredMessage) -> Delivery {
        let run = &self.broker.inner.pop.run;
        let terms = Terms {
            run: run.id,
            queue: self.books[booked.book].queue_id,
            offset: booked.offset,
            attempt: booked.attempt,
            nonce: booked.nonce,
            until: run.wall_of(self.until),
        };
        let owner = &self.subscription.owner;
        self.broker.inner.meters.delivered(owner, booked.attempt, booked.size);
        Delivery { message, receipt: Receipt::seal(&owner.topic, &owner.group, terms), attempt: booked.attempt }
    }

    pub fn pass(&self, passed: &[Booked]) {
        let (mut moved, now) = (false, self.broker.inner.clock.now());
        for booked in passed {
            let book = &self.books[booked.book];
            let mut pages = book.open();
            pages.book.pass_delivery(booked.offset, booked.nonce);
            moved |= pages.book.has_moved();
            self.broker.close(book, pages, now);
        }
        if moved {
            self.subscription.owner.line.wake(Cause::Any);
        }
        if !passed.is_empty() {
            self.broker.inner.pop.touch();
        }
    }

    pub fn give_back(&self, booked: Vec<Booked>, after: Duration) {
        if booked.is_empty() {
            return;
        }
        let now = self.broker.inner.clock.now();
        for booked in booked {
            let book = &self.books[booked.book];
            let mut pages = book.open();
            if pages.book.give_back(booked.offset, booked.nonce, now.plus(after)) == Some(Logged::Lease)
                && !pages.forgotten
            {
                self.broker.log_given_back(book, booked.offset, booked.attempt);
            }
            self.broker.close(book, pages, now);
        }
        self.subscription.owner.line.wake(Cause::Any);
    }
}
