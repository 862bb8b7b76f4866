//! What happens to a lease before it ends, and what the log says of it.

use super::{Book, Exception};
use crate::types::{Deadline, QueueOffset};

/// What the log says of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logged {
    /// A crash forgets the delivery.
    Nothing,
    /// That it was delivered, as to FIFO groups: a crash does not end the lease.
    Lease,
    /// That the consumer wants it again then, so the end of the lease needs no record of its own.
    Change,
}

impl Book {
    /// Takes back a delivery that reached nobody: it comes again as the same attempt from `due` on. What the log says of
    /// it, which is now wrong; `None` when nothing was taken back.
    pub fn give_back(&mut self, offset: QueueOffset, nonce: u32, due: Deadline) -> Option<Logged> {
        match self.exceptions.get(&offset) {
            Some(&Exception::InFlight { attempt, nonce: current, logged, .. })
                if current == nonce && logged != Logged::Change =>
            {
                self.set(offset, Exception::Waiting { due, attempt, seen: true });
                Some(logged)
            }
            _ => None,
        }
    }

    /// The end of the lease that this delivery began, if it has not ended.
    pub fn lease(&self, offset: QueueOffset, nonce: u32) -> Option<Deadline> {
        match self.exceptions.get(&offset) {
            Some(&Exception::InFlight { until, nonce: current, .. }) if current == nonce => Some(until),
            _ => None,
        }
    }

    /// Notes that the log says of the delivery that it was made.
    pub fn lease_is_logged(&mut self, offset: QueueOffset) {
        if let Some(Exception::InFlight { logged, .. }) = self.exceptions.get_mut(&offset) {
            *logged = Logged::Lease;
        }
    }

    /// Replaces a lease by one whose end is on record; the nonce of the new one.
    pub fn hold(&mut self, offset: QueueOffset, attempt: u32, until: Deadline) -> u32 {
        let nonce = self.fresh_nonce();
        self.set(offset, Exception::InFlight { until, attempt, nonce, logged: Logged::Change });
        nonce
    }

    /// Moves the end of a live lease. What the log says of it, which is now wrong.
    pub fn renew(&mut self, offset: QueueOffset, end: Deadline) -> Logged {
        let Some(&Exception::InFlight { attempt, nonce, logged, .. }) = self.exceptions.get(&offset) else {
            return Logged::Nothing;
        };
        self.set(offset, Exception::InFlight { until: end, attempt, nonce, logged });
        logged
    }
}
