//! What happens to a lease before it ends, and what the log says of it.

use super::{
    super::faults::{Fault, planted},
    Book, Claim, Exception, Issue, Verdict,
};
use crate::types::{Deadline, QueueOffset};

/// What the log says of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logged {
    /// A crash forgets the delivery.
    Nothing,
    /// That it was delivered, as to FIFO groups: a crash does not end the lease.
    Lease,
    /// The same, and a crash came: an earlier run delivered it.
    Before,
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

    /// Restores a delivery of an earlier run, whose lease holds on.
    pub fn hold_over(&mut self, offset: QueueOffset, attempt: u32, until: Deadline, issue: Issue) {
        if !self.is_done(offset) {
            self.set(offset, Exception::InFlight { until, attempt, nonce: issue.nonce, logged: Logged::Before });
            self.earlier.insert(offset, issue.run);
        }
    }

    /// Which receipt settles what is in flight; `run` is this one.
    pub fn issue(&self, offset: QueueOffset, run: u64) -> Option<Issue> {
        match *self.exceptions.get(&offset)? {
            Exception::InFlight { nonce, logged: Logged::Before, .. } => {
                self.earlier.get(&offset).map(|&run| Issue { run, nonce })
            }
            Exception::InFlight { nonce, .. } => Some(Issue { run, nonce }),
            _ => None,
        }
    }

    /// The claim of an earlier run's receipt to what an earlier run delivered and holds on. That receipt settles it, also
    /// when the lease was prolonged beyond what the receipt says; another one only if it was given out later, and the log
    /// does not have that.
    pub(super) fn judge_held_over(&self, claim: Claim, issue: Issue, now: Deadline) -> Option<Verdict> {
        let Some(&Exception::InFlight { until, logged: Logged::Before, .. }) = self.exceptions.get(&claim.offset)
        else {
            return None;
        };
        let held = self.issue(claim.offset, issue.run)?;
        let holds = match issue == held || planted(Fault::ReceiptNotBoundToLease) {
            true => claim.open || now < until,
            false => claim.open && issue > held,
        };
        Some(if holds { Verdict::Live } else { Verdict::Stale })
    }

    /// Notes what the log says of the delivery.
    pub fn says(&mut self, offset: QueueOffset, what: Logged) {
        if let Some(Exception::InFlight { logged, .. }) = self.exceptions.get_mut(&offset) {
            *logged = what;
        }
    }

    /// Replaces a lease by one whose end is on record; the nonce of the new one.
    pub fn hold(&mut self, offset: QueueOffset, attempt: u32, until: Deadline) -> u32 {
        let nonce = self.fresh_nonce();
        self.set(offset, Exception::InFlight { until, attempt, nonce, logged: Logged::Change });
        nonce
    }

    /// Moves the end of a live lease of this run. Which attempt it is, and what the log says of it, which is now wrong.
    pub fn renew(&mut self, offset: QueueOffset, end: Deadline) -> Option<(u32, Logged)> {
        match self.exceptions.get(&offset) {
            Some(&Exception::InFlight { attempt, nonce, logged, .. }) if logged != Logged::Before => {
                self.set(offset, Exception::InFlight { until: end, attempt, nonce, logged });
                Some((attempt, logged))
            }
            _ => None,
        }
    }
}
