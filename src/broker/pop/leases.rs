//! What a FIFO group was delivered is on record before a consumer has it, unless the disk is full.
//!
//! A consumer outlives a crash of the server, with messages in its hands or in its queue. Were they given to another one
//! at once, and then what follows them, it would still handle them, out of order. So their leases hold across a crash of
//! the process: it is enough that the kernel has the record, and no device is waited for. The record names the receipt, so
//! that the consumer that has the message settles it after the crash as before, and nobody else does.

use std::time::Duration;

use crate::{
    store::AppendError,
    types::{Deadline, PhysicalOffset, QueueOffset},
};

use super::{
    Broker, Delivery, Pages, QueueBook, Receipt, Subscription, TakeError, What,
    book::Logged,
    settle::Opened,
    settle_record::{Lease, Retry},
};
use crate::broker::Group;

/// Deliveries that nobody was told of yet. Dropped, they are given back.
struct Untold<'a> {
    broker: &'a Broker,
    subscription: &'a Subscription,
    deliveries: Vec<Delivery>,
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        let owner = &self.subscription.owner;
        for delivery in &self.deliveries {
            self.broker.give_back(&owner.topic, &owner.group, &delivery.receipt);
        }
    }
}

impl Broker {
    /// Writes down what a FIFO group is about to get, and waits until that outlives this process. On a full disk it gets
    /// its messages all the same: consumers make room.
    pub(super) async fn put_on_record(
        &self,
        subscription: &Subscription,
        group: &Group,
        deliveries: Vec<Delivery>,
    ) -> Result<Vec<Delivery>, TakeError> {
        if !group.fifo || deliveries.is_empty() {
            return Ok(deliveries);
        }
        let mut untold = Untold { broker: self, subscription, deliveries };
        match self.log_leases(subscription, &untold.deliveries) {
            Ok(Some(end)) => self.written(end).await?,
            Ok(None) | Err(AppendError::Full { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(std::mem::take(&mut untold.deliveries))
    }

    /// One record for all of them, as far as they still are what they were.
    fn log_leases(
        &self,
        subscription: &Subscription,
        deliveries: &[Delivery],
    ) -> Result<Option<PhysicalOffset>, AppendError> {
        let books = subscription.books();
        let mut opened = Opened::open(&books, deliveries.iter().map(|d| d.receipt.queue()).collect());
        let mut leased = Vec::with_capacity(deliveries.len());
        for Delivery { receipt, attempt, .. } in deliveries {
            let Some((_, pages)) = opened.find(receipt.queue) else { continue };
            let Some(until) = pages.book.lease(receipt.offset, receipt.nonce).filter(|_| !pages.forgotten) else {
                continue;
            };
            leased.push(self.lease_of(receipt, *attempt, until));
        }
        if leased.is_empty() {
            return Ok(None);
        }
        let end = self.inner.pop.log.append(&subscription.owner, What::Leased(leased.clone()))?;
        for lease in leased {
            if let Some((_, pages)) = opened.find(lease.queue) {
                pages.book.says(lease.offset, Logged::Lease);
            }
        }
        self.inner.pop.touch();
        Ok(Some(end))
    }

    /// The lease of this attempt, of which the log says that, ends at another time.
    pub(super) fn log_renewed(&self, book: &QueueBook, pages: &mut Pages, receipt: &Receipt, was: (u32, Logged)) {
        let Some(until) = pages.book.lease(receipt.offset, receipt.nonce) else { return };
        let lease = self.lease_of(receipt, was.0, until);
        let Lease { queue, offset, attempt, ends_at, left, .. } = lease;
        match was.1 {
            Logged::Change => {
                let retry =
                    Retry { queue, offset, attempt: attempt.saturating_add(1), visible_at: ends_at, delay: left };
                self.log_or_warn(book, What::Retry(vec![retry]));
            }
            // There was no room for its record when it began.
            Logged::Nothing if !self.is_fifo(&book.owner.group) => {}
            Logged::Nothing | Logged::Lease | Logged::Before => {
                if self.log_or_warn(book, What::Leased(vec![lease])) {
                    pages.book.says(offset, Logged::Lease);
                }
            }
        }
    }

    /// The delivery, which the log knows already, reached nobody: the message comes again at once.
    pub(super) fn log_given_back(&self, book: &QueueBook, offset: QueueOffset, attempt: u32) {
        let (queue, now) = (book.queue_id, self.inner.clock.wall());
        let retry = Retry { queue, offset, attempt, visible_at: now, delay: Duration::ZERO };
        self.log_or_warn(book, What::Retry(vec![retry]));
    }

    /// Nobody waits for this record; without it, a crash leaves the message waiting for the lease that was on record.
    fn log_or_warn(&self, book: &QueueBook, what: What) -> bool {
        self.inner.pop.touch();
        let appended = self.inner.pop.log.append(&book.owner, what);
        if let Err(error) = &appended {
            let (topic, group) = (&book.owner.topic, &book.owner.group);
            tracing::debug!(%topic, %group, queue = %book.queue_id, %error, "could not record the end of a lease");
        }
        appended.is_ok()
    }

    fn lease_of(&self, receipt: &Receipt, attempt: u32, until: Deadline) -> Lease {
        let left = until.remaining(self.inner.clock.now());
        // The wall clock shows whole milliseconds; one more, so that it never ends early.
        let ends_at = self.inner.clock.wall().plus(left).plus(Duration::from_millis(1));
        let Receipt { queue, offset, .. } = *receipt;
        Lease { queue, offset, attempt, issue: receipt.issue(), ends_at, left }
    }
}
