//! The book of one (group, topic, queue): what is consumed, what is on its way, what comes again.
//!
//! ```text
//!   offsets  0 ......... commit ........................ next ................. the queue's end
//!            all done    done ranges and exceptions      not looked at yet
//! ```
//!
//! Each offset between `commit` and `next` is either in a done range or an exception. After a restart `next` begins at
//! `commit` again (deliveries are forgotten, but for those of FIFO groups) and what the log said about offsets above lies in wait there as done
//! ranges and exceptions, which the walk to the end passes over.
//!
//! Memory follows the exceptions: 93 bytes each as measured (32 in the map, 16 in the set by time, and the slack of
//! two trees), so 1,000,000 in flight take 93 MB, and a backlog takes nothing. Done ranges are never more than the
//! exceptions that part them, plus one. An idle book takes about 250 bytes.
//!
//! Plain data: no lock, no clock, no store. Offsets are trusted; what a receipt claims is judged by [`Book::judge`].

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use crate::types::{Deadline, PhysicalOffset, QueueOffset};

use self::lanes::Lanes;
use super::{
    lines::{First, Lines},
    ranges::Ranges,
};

mod backlog;
mod in_order;
mod lanes;
mod leases;
mod reset;
mod restored;
#[cfg(test)]
mod tests;

pub use backlog::Backlog;
pub use lanes::Head;
pub use leases::Logged;
pub use reset::Issue;

/// What is so about a message that is neither done nor untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// Delivered; nobody else gets it until the lease ends.
    InFlight { until: Deadline, attempt: u32, nonce: u32, logged: Logged },
    /// To be delivered as this attempt, from `due` on. `seen`: it was delivered in this run, so receipts of earlier ones
    /// are void.
    Waiting { due: Deadline, attempt: u32, seen: bool },
    /// Has had its attempts; to be dead-lettered from `due` on. `attempt` is the one it will not get.
    Doomed { due: Deadline, attempt: u32, seen: bool },
    /// Being copied to the dead-letter topic right now.
    Moving { attempt: u32 },
}

/// Which order of time an exception is in.
enum Timed {
    Lease(Deadline),
    Retry(Deadline),
    Doom(Deadline),
    Not,
}

impl Exception {
    fn timed(&self) -> Timed {
        match *self {
            Self::InFlight { until, .. } => Timed::Lease(until),
            Self::Waiting { due, .. } => Timed::Retry(due),
            Self::Doomed { due, .. } => Timed::Doom(due),
            Self::Moving { .. } => Timed::Not,
        }
    }
}

/// What a receipt claims about an offset.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    pub offset: QueueOffset,
    pub attempt: u32,
    pub run: ClaimedRun,
    /// Whether the lease's end that the receipt names lies ahead.
    pub open: bool,
    /// Whether the lite topic of the message is done up to there.
    pub passed: bool,
}

/// Which run of the server gave the receipt out.
#[derive(Clone, Copy, Debug)]
pub enum ClaimedRun {
    /// This one: the book knows the lease.
    This { nonce: u32 },
    /// An earlier one: its deliveries are forgotten, but for those on record. The queue has messages below `end`.
    Earlier { issue: Issue, end: QueueOffset },
}

/// What the book says to a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The lease holds.
    Live,
    /// It is done, and the claim is one that may still hear so.
    Done,
    /// The lease has ended, or another one took its place.
    Stale,
    /// No such message was ever delivered.
    Unknown,
}

/// One failed delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    pub offset: QueueOffset,
    /// The attempt that comes.
    pub attempt: u32,
    /// Whether the log knows already.
    pub is_logged: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Book {
    commit: QueueOffset,
    next: QueueOffset,
    /// One behind the highest offset that was ever done or an exception: what lies there is untouched for sure.
    touched: QueueOffset,
    done: Ranges,
    exceptions: BTreeMap<QueueOffset, Exception>,
    leases: BTreeSet<(Deadline, QueueOffset)>,
    retries: BTreeSet<(Deadline, QueueOffset)>,
    doomed: BTreeSet<(Deadline, QueueOffset)>,
    /// Which runs delivered what is in flight since before this one ([`Logged::Before`]).
    earlier: BTreeMap<QueueOffset, u64>,
    nonce: u32,
    /// The last receipt that a reset made void, with all before it.
    void: Issue,
    /// While the group is FIFO.
    lines: Option<Box<Lines>>,
    /// Of a LITE topic.
    lanes: Option<Box<Lanes>>,
    /// How often order began or ended.
    order: u32,
    /// What this run has done is safe once the log is committed up to there.
    safe_at: PhysicalOffset,
}

impl Book {
    /// A book in which everything below `commit` is done.
    pub fn starting_at(commit: QueueOffset) -> Self {
        Self {
            commit,
            next: commit,
            touched: commit,
            done: Ranges::default(),
            exceptions: BTreeMap::new(),
            leases: BTreeSet::new(),
            retries: BTreeSet::new(),
            doomed: BTreeSet::new(),
            earlier: BTreeMap::new(),
            nonce: 0,
            void: Issue::default(),
            lines: None,
            lanes: None,
            order: 0,
            safe_at: PhysicalOffset::ZERO,
        }
    }

    /// The first offset that is not done.
    pub fn commit(&self) -> QueueOffset {
        self.commit
    }

    pub fn in_flight(&self) -> usize {
        self.leases.len()
    }

    /// Messages that wait for their next attempt or for the dead-letter topic.
    pub fn waiting(&self) -> usize {
        self.exceptions.len() - self.leases.len()
    }

    pub fn done_ranges(&self) -> impl Iterator<Item = Range<QueueOffset>> {
        self.done.iter()
    }

    pub fn exceptions(&self) -> impl Iterator<Item = (QueueOffset, &Exception)> {
        self.exceptions.iter().map(|(offset, exception)| (*offset, exception))
    }

    pub fn exception(&self, offset: QueueOffset) -> Option<&Exception> {
        self.exceptions.get(&offset)
    }

    pub fn is_done(&self, offset: QueueOffset) -> bool {
        offset < self.commit || self.done.contains(offset)
    }

    /// The first offset at or behind this one that is not done.
    pub fn undone_from(&self, offset: QueueOffset) -> QueueOffset {
        let offset = offset.max(self.commit);
        self.done.end_of(offset).unwrap_or(offset)
    }

    /// How many messages of a queue that has those from `min` to `max` are not done.
    pub fn undone(&self, min: QueueOffset, max: QueueOffset) -> u64 {
        if min <= self.commit {
            return self.commit.until(max).saturating_sub(self.done.covered());
        }
        // Retention was faster.
        let done = self.done.iter().map(|range| range.start.max(min).until(range.end)).sum();
        min.until(max).saturating_sub(done)
    }

    // Taking.

    /// The first offset that may be untouched. It lies at the queue's end when there is nothing new.
    pub fn next(&mut self) -> QueueOffset {
        while self.next < self.touched {
            if let Some(end) = self.done.end_of(self.next) {
                self.next = end;
            } else if self.exceptions.contains_key(&self.next) {
                self.next = self.next.plus(1);
            } else {
                break;
            }
        }
        self.next
    }

    /// Whether nothing is known of an offset yet.
    pub fn is_untouched(&self, offset: QueueOffset) -> bool {
        offset >= self.touched || !(self.is_done(offset) || self.exceptions.contains_key(&offset))
    }

    /// The message whose next attempt has been due the longest, of those that order lets through.
    pub fn ready(&self, now: Deadline) -> Option<(QueueOffset, u32)> {
        let (due, offset) = match self.order() {
            Some(lines) => lines.retry()?,
            None => *self.retries.first()?,
        };
        match self.exceptions.get(&offset) {
            Some(Exception::Waiting { attempt, .. }) if due <= now => Some((offset, *attempt)),
            _ => None,
        }
    }

    /// Books a delivery; the nonce tells it from the others of this message.
    pub fn deliver(&mut self, offset: QueueOffset, attempt: u32, until: Deadline) -> u32 {
        let nonce = self.fresh_nonce();
        self.set(offset, Exception::InFlight { until, attempt, nonce, logged: Logged::Nothing });
        self.walk(offset..offset.plus(1));
        nonce
    }

    /// Counts as done what is not to be delivered at all: filtered out, or not stored any more.
    pub fn pass(&mut self, range: Range<QueueOffset>) {
        self.done(range.clone());
        self.walk(range);
    }

    /// Passes over a delivery that turned out to be none.
    pub fn pass_delivery(&mut self, offset: QueueOffset, nonce: u32) {
        if matches!(self.exceptions.get(&offset), Some(Exception::InFlight { nonce: n, .. }) if *n == nonce) {
            self.done(offset..offset.plus(1));
        }
    }

    /// Moves `next` behind what was looked at, if everything before it was.
    fn walk(&mut self, range: Range<QueueOffset>) {
        if range.contains(&self.next) {
            self.next = range.end;
        }
    }

    fn fresh_nonce(&mut self) -> u32 {
        self.nonce = self.nonce.wrapping_add(1);
        if self.nonce == 0 {
            // All begin anew, and what was given out so long ago is void by its nonce alone.
            self.void.nonce = 0;
        }
        self.nonce
    }

    // Settling.

    /// Whether a receipt's claim holds.
    pub fn judge(&self, claim: Claim, now: Deadline) -> Verdict {
        if claim.passed || self.is_done(claim.offset) {
            return if claim.open { Verdict::Done } else { Verdict::Stale };
        }
        if let ClaimedRun::Earlier { issue, .. } = claim.run
            && let Some(verdict) = self.judge_held_over(claim, issue, now)
        {
            return verdict;
        }
        match (claim.run, self.exceptions.get(&claim.offset)) {
            (ClaimedRun::This { nonce }, Some(Exception::InFlight { until, nonce: current, logged, .. })) => {
                let is_it = *current == nonce && *logged != Logged::Before;
                if is_it && now < *until { Verdict::Live } else { Verdict::Stale }
            }
            (ClaimedRun::This { .. }, Some(_)) => Verdict::Stale,
            (ClaimedRun::This { .. }, None) => Verdict::Unknown,
            (ClaimedRun::Earlier { .. }, _) if !claim.open => Verdict::Stale,
            (ClaimedRun::Earlier { .. }, Some(Exception::InFlight { .. } | Exception::Moving { .. })) => Verdict::Stale,
            // A failure on record after that attempt names at most the one behind it; a later one was delivered since.
            (
                ClaimedRun::Earlier { .. },
                Some(Exception::Waiting { attempt, seen, .. } | Exception::Doomed { attempt, seen, .. }),
            ) => {
                if !seen && *attempt <= claim.attempt.saturating_add(1) {
                    Verdict::Live
                } else {
                    Verdict::Stale
                }
            }
            (ClaimedRun::Earlier { end, .. }, None) => {
                if claim.offset < end {
                    Verdict::Live
                } else {
                    Verdict::Unknown
                }
            }
        }
    }

    /// Marks a range as done.
    pub fn done(&mut self, range: Range<QueueOffset>) {
        if let Some(id) = self.done_in_lane(&range) {
            self.lanes.iter_mut().for_each(|lanes| lanes.goes_on(id));
            return;
        }
        self.mark_done(range.clone());
        self.lines_move_on(range);
    }

    fn mark_done(&mut self, range: Range<QueueOffset>) {
        let range = range.start.max(self.commit)..range.end;
        if range.is_empty() {
            return;
        }
        self.touched = self.touched.max(range.end);
        if range.start.plus(1) == range.end {
            self.forget(range.start);
        } else {
            let within: Vec<_> = self.exceptions.range(range.clone()).map(|(offset, _)| *offset).collect();
            within.into_iter().for_each(|offset| self.forget(offset));
        }
        if range.start == self.commit {
            self.commit = self.done.absorb(range.end);
            self.next = self.next.max(self.commit);
        } else {
            self.done.insert(range);
        }
    }

    /// Has a message come again from `due` on, or be dead-lettered when it has had `max_attempts`. Done is final.
    pub fn retry(&mut self, offset: QueueOffset, attempt: u32, due: Deadline, max_attempts: u32) {
        if self.is_done(offset) {
            return;
        }
        let seen = match self.exceptions.get(&offset) {
            Some(Exception::Waiting { seen, .. } | Exception::Doomed { seen, .. }) => *seen,
            None | Some(Exception::InFlight { logged: Logged::Before, .. }) => false,
            Some(Exception::InFlight { .. } | Exception::Moving { .. }) => true,
        };
        let exception = if attempt > max_attempts {
            Exception::Doomed { due, attempt, seen }
        } else {
            Exception::Waiting { due, attempt, seen }
        };
        self.set(offset, exception);
    }

    // Time.

    /// Ends leases that have run out, at most `limit`; each message then waits for its next attempt, due since the lease
    /// ended, or for the dead-letter topic.
    pub fn expire(&mut self, now: Deadline, max_attempts: u32, limit: usize) -> Vec<Failed> {
        let mut failed = Vec::new();
        while failed.len() < limit {
            let Some(&(until, offset)) = self.leases.first().filter(|(until, _)| *until <= now) else { break };
            let Some(&Exception::InFlight { attempt, logged, .. }) = self.exceptions.get(&offset) else { break };
            let attempt = attempt.saturating_add(1);
            self.retry(offset, attempt, until, max_attempts);
            failed.push(Failed { offset, attempt, is_logged: logged == Logged::Change });
        }
        failed
    }

    /// Messages whose dead-lettering is due, at most `limit`; they are the caller's until it says how it went.
    pub fn doomed(&mut self, now: Deadline, max_attempts: u32, limit: usize) -> Vec<(QueueOffset, u32)> {
        let mut doomed = Vec::new();
        while doomed.len() < limit {
            let Some(&(due, offset)) = self.doomed.first().filter(|(due, _)| *due <= now) else { break };
            let Some(&Exception::Doomed { attempt, seen, .. }) = self.exceptions.get(&offset) else { break };
            if attempt <= max_attempts {
                // The group was given more attempts meanwhile.
                self.set(offset, Exception::Waiting { due, attempt, seen });
            } else {
                self.set(offset, Exception::Moving { attempt });
                doomed.push((offset, attempt));
            }
        }
        doomed
    }

    /// A message that could not be dead-lettered: again from `due` on.
    pub fn doom_again(&mut self, offset: QueueOffset, due: Deadline) {
        if let Some(&Exception::Moving { attempt }) = self.exceptions.get(&offset) {
            self.set(offset, Exception::Doomed { due, attempt, seen: true });
        }
    }

    /// When something happens next by itself: a lease ends, a dead-lettering is due, or an attempt falls due after `now`
    /// (what is due already has been told).
    pub fn next_event(&self, now: Deadline) -> Option<Deadline> {
        let lease = self.leases.first().map(|(at, _)| *at);
        let doom = self.doomed.first().map(|(at, _)| *at);
        let told = self.told(now);
        let retry = self.retries.range((told, QueueOffset::MAX)..).find(|(due, _)| *due > told).map(|(at, _)| *at);
        [lease, doom, retry, self.next_look_at_log(now)].into_iter().flatten().min()
    }

    fn set(&mut self, offset: QueueOffset, exception: Exception) {
        if let Some(old) = self.exceptions.insert(offset, exception) {
            self.untime(offset, &old);
        }
        match exception.timed() {
            Timed::Lease(at) => self.leases.insert((at, offset)),
            Timed::Retry(at) => self.retries.insert((at, offset)),
            Timed::Doom(at) => self.doomed.insert((at, offset)),
            Timed::Not => true,
        };
        self.touched = self.touched.max(offset.plus(1));
        self.tell_lines(offset, First::of(Some(&exception)));
        if let Some(lanes) = &mut self.lanes {
            lanes.now(offset, Some(&exception));
        }
    }

    fn forget(&mut self, offset: QueueOffset) {
        if let Some(old) = self.exceptions.remove(&offset) {
            self.untime(offset, &old);
            self.tell_lines(offset, First::Done);
        }
        if let Some(lanes) = &mut self.lanes {
            lanes.now(offset, None);
        }
    }

    fn untime(&mut self, offset: QueueOffset, old: &Exception) {
        if !self.earlier.is_empty() {
            self.earlier.remove(&offset);
        }
        match old.timed() {
            Timed::Lease(at) => self.leases.remove(&(at, offset)),
            Timed::Retry(at) => {
                if let Some(lines) = &mut self.lines {
                    lines.no_retry(at, offset);
                }
                self.retries.remove(&(at, offset))
            }
            Timed::Doom(at) => self.doomed.remove(&(at, offset)),
            Timed::Not => true,
        };
    }
}
