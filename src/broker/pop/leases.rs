//! What a FIFO group was delivered is on record before a consumer has it.
//!
//! A consumer outlives a crash of the server, with messages in its hands or in its queue. Were they given to another one
//! at once, and then what follows them, it would still handle them, out of order. So their leases hold across a crash of
//! the process: it is enough that the kernel has the record, and no device is waited for.

use std::time::Duration;

use crate::{
    store::AppendError,
    types::{Deadline, PhysicalOffset},
};

use super::{
    Broker, Delivery, Pages, QueueBook, Receipt, Subscription, TakeError, What, settle::Opened, settle_record::Retry,
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
            leased.push(self.comes_again(receipt, *attempt, until));
        }
        if leased.is_empty() {
            return Ok(None);
        }
        let end = self.inner.pop.log.append(&subscription.owner, What::Leased(leased.clone()))?;
        for lease in leased {
            if let Some((_, pages)) = opened.find(lease.queue) {
                pages.book.lease_is_logged(lease.offset);
            }
        }
        self.inner.pop.touch();
        Ok(Some(end))
    }

    /// The lease, which the log knows already, ends at another time.
    pub(super) fn log_lease(&self, book: &QueueBook, pages: &mut Pages, receipt: &Receipt) {
        let Some(until) = pages.book.lease(receipt.offset, receipt.nonce) else { return };
        let leased = vec![self.comes_again(receipt, receipt.attempt, until)];
        self.log_or_warn(book, What::Leased(leased));
    }

    /// The delivery, which the log knows already, reached nobody: the message comes again at once.
    pub(super) fn log_given_back(&self, book: &QueueBook, receipt: &Receipt) {
        let now = self.inner.clock.wall();
        let Receipt { queue, offset, attempt, .. } = *receipt;
        let retry = Retry { queue, offset, attempt, visible_at: now, delay: Duration::ZERO };
        self.log_or_warn(book, What::Retry(vec![retry]));
    }

    /// Nobody waits for this record; without it, a crash leaves the message waiting for the lease that was on record.
    fn log_or_warn(&self, book: &QueueBook, what: What) {
        self.inner.pop.touch();
        if let Err(error) = self.inner.pop.log.append(&book.owner, what) {
            let (topic, group) = (&book.owner.topic, &book.owner.group);
            tracing::debug!(%topic, %group, queue = %book.queue_id, %error, "could not record the end of a lease");
        }
    }

    /// What a crash makes of a delivery: the next attempt, when the lease ends.
    fn comes_again(&self, receipt: &Receipt, attempt: u32, until: Deadline) -> Retry {
        let delay = until.remaining(self.inner.clock.now());
        // The wall clock shows whole milliseconds; one more, so that it is never early.
        let visible_at = self.inner.clock.wall().plus(delay).plus(Duration::from_millis(1));
        Retry { queue: receipt.queue, offset: receipt.offset, attempt: attempt.saturating_add(1), visible_at, delay }
    }
}
