//! Order within a queue: messages of one message group form a line, and only the first undone one of each line may be
//! delivered.
//!
//! ```text
//!   offsets  commit ............................ seen ..................... the queue's end
//!            done, or in its line               message groups not known yet
//! ```
//!
//! A line is kept as offsets, so that an ack finds what follows without reading anything again. What is said here is
//! derived from the book and the log, and is made anew when the queue is first looked at in order: after a start, or when
//! the group became FIFO. Since it is read in order of offset from the commit offset on, what waits for a retry since an
//! earlier run takes its place before anything later does.
//!
//! Memory: about 100 bytes for each line that has undone messages, 8 for each message behind its first, and never more
//! than [`BLOCKED_MAX`] of those.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Range,
};

use crate::types::{Deadline, PhysicalOffset, QueueOffset};

/// Messages that wait behind others of their lines, at most, in one queue for one group: 2 MB here, and about 8 MB of done
/// ranges between them in the worst case. With more of them, no message that was never looked at is delivered from the
/// queue until some are done.
#[cfg(not(test))]
pub const BLOCKED_MAX: usize = 1 << 18;
#[cfg(test)]
pub const BLOCKED_MAX: usize = 1000;

/// A message group: the hash of its name. Two groups with one hash share a line, which costs parallelism, never order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LineId(pub u64);

impl LineId {
    /// Messages without a message group are one line.
    pub const NO_GROUP: Self = Self(0);
}

/// What the book says about a message that comes first in its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    Done,
    Untouched,
    Waiting {
        due: Deadline,
    },
    /// In flight, or on its way to the dead-letter topic.
    Held,
}

/// What is locked in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locked {
    /// Message groups of which a message is delivered and undone.
    pub lines: u64,
    /// Messages known to wait behind those.
    pub blocked: u64,
    /// The oldest of the messages that lock.
    pub oldest: QueueOffset,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Lines {
    seen: QueueOffset,
    /// The first undone message of each line.
    heads: BTreeMap<QueueOffset, LineId>,
    /// What comes behind it, in order; each line that has a head. Some of it may be done meanwhile.
    behind: HashMap<LineId, VecDeque<QueueOffset>>,
    /// Messages in `behind`.
    blocked: usize,
    /// Heads that were never delivered.
    fresh: BTreeSet<QueueOffset>,
    /// Heads that wait for their next attempt.
    retries: BTreeSet<(Deadline, QueueOffset)>,
    /// What was in flight when order began. Their message groups are not known, so nothing is delivered before they are
    /// settled or have expired.
    before: BTreeSet<QueueOffset>,
    /// What is done, but not as safe yet as the flush policy says: until the log is committed up to there. A power cut may
    /// bring it back, so its line does not move on. Ascending.
    unsafe_yet: VecDeque<(PhysicalOffset, Range<QueueOffset>)>,
    /// The same for what was done before order began.
    barrier: Option<PhysicalOffset>,
    /// Something can be taken that could not be before.
    moved: bool,
    /// Somebody reads the message groups of what was not seen.
    pub is_read: bool,
}

impl Lines {
    /// `in_flight` without regard to order; what is done is safe once the log is committed up to `end`.
    pub fn starting_at(commit: QueueOffset, in_flight: impl Iterator<Item = QueueOffset>, end: PhysicalOffset) -> Self {
        Self { seen: commit, before: in_flight.collect(), barrier: Some(end), ..Self::default() }
    }

    pub fn seen(&self) -> QueueOffset {
        self.seen
    }
    /// How many further messages may take their places.
    pub fn room(&self) -> usize {
        let is_safe = self.unsafe_yet.iter().all(|(_, range)| range.end <= self.seen);
        let may = self.before.is_empty() && self.barrier.is_none() && is_safe;
        if may { BLOCKED_MAX.saturating_sub(self.blocked) } else { 0 }
    }

    /// Whether it waits for the log to be committed.
    pub fn waits_for_log(&self) -> bool {
        self.barrier.is_some() || !self.unsafe_yet.is_empty()
    }

    /// A range is done once the log is committed up to `end`.
    pub fn done_at(&mut self, range: Range<QueueOffset>, end: PhysicalOffset) {
        for (offset, _) in self.heads.range(range.clone()) {
            self.fresh.remove(offset);
        }
        self.unsafe_yet.push_back((end, range));
    }

    /// What is safe now that the log is committed up to there; hand it to [`Lines::done`].
    pub fn next_safe(&mut self, committed: PhysicalOffset) -> Option<Range<QueueOffset>> {
        if self.barrier.is_some_and(|end| end <= committed) {
            self.barrier = None;
            self.moved = true;
        }
        let (end, _) = self.unsafe_yet.front()?;
        if *end > committed {
            return None;
        }
        let (_, range) = self.unsafe_yet.pop_front()?;
        // Nobody could look further as long as it was not safe.
        self.moved |= range.end > self.seen;
        Some(range)
    }
    pub fn is_safe(&self, offset: QueueOffset) -> bool {
        !self.unsafe_yet.iter().any(|(_, range)| range.contains(&offset))
    }
    pub fn is_first(&self, offset: QueueOffset) -> bool {
        self.heads.contains_key(&offset)
    }

    /// Heads whose next attempt is due; counted up to `enough`.
    pub fn due(&self, now: Deadline, enough: usize) -> usize {
        if !self.before.is_empty() {
            return 0;
        }
        self.retries.iter().take(enough).take_while(|(due, _)| *due <= now).count()
    }
    /// Heads that were never delivered.
    pub fn fresh_heads(&self) -> usize {
        if self.before.is_empty() { self.fresh.len() } else { 0 }
    }
    /// The oldest that was never delivered.
    pub fn fresh(&self) -> Option<QueueOffset> {
        self.fresh.first().copied().filter(|_| self.before.is_empty())
    }
    /// The one whose next attempt has been due the longest.
    pub fn retry(&self) -> Option<(Deadline, QueueOffset)> {
        self.retries.first().copied().filter(|_| self.before.is_empty())
    }

    /// Everything below `end` has its place now.
    pub fn saw(&mut self, end: QueueOffset) {
        self.seen = self.seen.max(end);
    }

    /// Puts the next message in its line.
    pub fn join(&mut self, offset: QueueOffset, line: LineId, first: First) {
        self.saw(offset.plus(1));
        match self.behind.get_mut(&line) {
            Some(behind) => {
                behind.push_back(offset);
                self.blocked += 1;
            }
            None => {
                self.behind.insert(line, VecDeque::new());
                self.lead(offset, line, first);
            }
        }
    }

    fn lead(&mut self, offset: QueueOffset, line: LineId, first: First) {
        self.heads.insert(offset, line);
        self.now(offset, first);
    }

    /// The book says something else of a message.
    pub fn now(&mut self, offset: QueueOffset, state: First) {
        if state != First::Held && self.before.remove(&offset) {
            self.moved |= self.before.is_empty();
        }
        if !self.is_first(offset) {
            return;
        }
        self.fresh.remove(&offset);
        match state {
            First::Untouched => self.moved |= self.fresh.insert(offset),
            First::Waiting { due } => self.moved |= self.retries.insert((due, offset)),
            First::Done | First::Held => {}
        }
    }

    /// The book took a message's retry out.
    pub fn no_retry(&mut self, due: Deadline, offset: QueueOffset) {
        self.retries.remove(&(due, offset));
    }

    /// Lets the lines move on whose first messages are in a range that is done.
    pub fn done(&mut self, range: Range<QueueOffset>, state: impl Fn(QueueOffset) -> First) {
        while let Some((&offset, _)) = self.heads.range(range.clone()).next() {
            let Some(line) = self.heads.remove(&offset) else { return };
            self.fresh.remove(&offset);
            self.next_of(line, &state);
        }
    }

    fn next_of(&mut self, line: LineId, state: impl Fn(QueueOffset) -> First) {
        let Some(behind) = self.behind.get_mut(&line) else { return };
        let was_full = self.blocked >= BLOCKED_MAX;
        while let Some(next) = behind.pop_front() {
            self.blocked -= 1;
            self.moved |= was_full;
            let first = state(next);
            let is_safe = !self.unsafe_yet.iter().any(|(_, range)| range.contains(&next));
            if first != First::Done || !is_safe {
                // A line that was long does not keep its room for ever.
                if behind.capacity() > 64 && behind.len() < behind.capacity() / 4 {
                    behind.shrink_to(behind.len() * 2);
                }
                return self.lead(next, line, first);
            }
        }
        self.behind.remove(&line);
    }

    /// Whether something can be taken that could not be when this was last asked.
    pub fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// What is locked; `None` when nothing is.
    pub fn locked(&self) -> Option<Locked> {
        let oldest = self.heads.keys().find(|offset| !self.fresh.contains(offset))?;
        let lines = (self.heads.len() - self.fresh.len()) as u64;
        Some(Locked { lines, blocked: self.blocked as u64, oldest: *oldest })
    }
}
