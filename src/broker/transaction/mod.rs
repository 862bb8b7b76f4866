//! Transactions: a message that its producer decides about later.
//!
//! A half message lies in Apache's half topic with the topic and queue that it is meant for; no consumer can name that
//! topic. What is decided is in the broker's own book of it (see [`own`](super::pop)):
//!
//! | | appended, each as one unit |
//! |---|---|
//! | half | the half message |
//! | commit | the message in its real topic, and that the half is done |
//! | rollback | that the half is done |
//! | given up | the message in [`UNDECIDED_TOPIC`], and that the half is done |
//!
//! So no step lies between deciding and doing, and a crash finds a half either decided, with all that follows, or not.
//!
//! - [`id`]: the transaction id, which names its half message.
//! - [`half`]: a message as its half, and back.
//! - [`pending`]: the halves that wait, by the time at which their producer is asked.
//! - [`decide`]: what a producer says.
//! - [`check`]: asking one that said nothing, and giving up.
//! - [`restore`]: which halves wait, after a start.
//!
//! Locks, outermost first: a book, a topic's gate, the pending halves.

mod check;
mod decide;
mod faults;
mod half;
mod id;
mod pending;
mod restore;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use check::{Askable, Check, Round};
pub use decide::Decision;
pub use id::TransactionId;

pub(super) use self::faults::{Fault, planted};
pub(super) use self::half::as_half;
use self::pending::Pending;
pub(super) use self::pending::Places;
use super::{
    Broker, Config, EndError, OpenError, ProduceError,
    metadata::{HALF_TOPIC, UNDECIDED_TOPIC},
    pop::QueueBook,
};
use crate::types::TopicName;

/// Whose progress on the half topic says which halves are decided (Apache's `MixAll.CID_SYS_RMQ_TRANS`).
pub(super) const GROUP: &str = "CID_RMQ_SYS_TRANS";

/// All that the broker knows about transactions.
pub(super) struct Transactions {
    pending: Pending,
    /// The book of the half topic; made when the broker opens.
    book: std::sync::OnceLock<Arc<QueueBook>>,
}

impl Transactions {
    pub(super) fn new(config: &Config) -> Self {
        Self { pending: Pending::new(config.transactions_max), book: std::sync::OnceLock::new() }
    }

    /// Half messages that wait, by the topic that they are meant for.
    pub(super) fn pending_by_topic(&self) -> Vec<(TopicName, u64)> {
        self.pending.by_topic()
    }

    /// Room for so many more half messages.
    pub(super) fn reserve(&self, count: usize) -> Result<Places<'_>, ProduceError> {
        self.pending.reserve(count).map_err(ProduceError::TooManyTransactions)
    }
}

impl Broker {
    fn half_book(&self) -> &Arc<QueueBook> {
        self.inner.transactions.book.get_or_init(|| self.own_book(HALF_TOPIC, GROUP))
    }

    /// Whether there is any half message that is not done, known or not.
    pub(super) fn has_undecided(&self) -> bool {
        let book = self.half_book();
        let commit = book.open().book.commit();
        commit < book.queue.max()
    }

    /// Half messages that nobody has decided about.
    pub fn pending_transactions(&self) -> usize {
        self.inner.transactions.pending.len()
    }
}
