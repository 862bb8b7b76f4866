//! Beginning anew, and which receipts that makes void.

use super::{Book, Exception};
use crate::types::{PhysicalOffset, QueueOffset};

/// A receipt's place in the order in which a book gave them out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Issue {
    pub run: u64,
    pub nonce: u32,
}

impl Book {
    /// The last receipt that was given out.
    pub fn last_issue(&self, run: u64) -> Issue {
        Issue { run, nonce: self.nonce }
    }

    /// The last receipt that a reset made void.
    pub fn void(&self) -> Issue {
        self.void
    }

    pub fn is_void(&self, issue: Issue) -> bool {
        issue <= self.void
    }

    /// Begins anew at `to`, whatever was done, in flight or waiting, by a record that ends at `end`; receipts up to `void` are
    /// void.
    pub fn reset(&mut self, to: QueueOffset, void: Issue, end: PhysicalOffset) {
        let order = self.order.wrapping_add(1);
        *self = Self { nonce: self.nonce, void, order, safe_at: end, ..Self::starting_at(to) };
    }

    /// Restores what a snapshot says of receipts.
    pub fn with_void(self, void: Issue) -> Self {
        Self { void, ..self }
    }

    /// Whether the message is on its way to the dead-letter topic.
    pub fn is_moving(&self, offset: QueueOffset) -> bool {
        matches!(self.exceptions.get(&offset), Some(Exception::Moving { .. }))
    }
}
