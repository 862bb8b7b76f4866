//! The book of a FIFO group: what order adds.

use std::{ops::Range, time::Duration};

use crate::types::{Deadline, PhysicalOffset, QueueOffset};

use super::{
    super::{
        faults::{Fault, planted},
        lines::{First, LineId, Lines, Locked},
    },
    Book, Exception, Logged,
};

/// How soon a book that waits for the log is looked at, should nobody who waits with it do so.
const LOG_LOOK: Duration = Duration::from_millis(20);

impl First {
    pub(super) fn of(exception: Option<&Exception>) -> Self {
        match exception {
            None => Self::Untouched,
            Some(Exception::Waiting { due, .. }) => Self::Waiting { due: *due },
            Some(Exception::InFlight { .. } | Exception::Doomed { .. } | Exception::Moving { .. }) => Self::Held,
        }
    }
}

impl Book {
    /// Begins to keep the order of message groups, or ends it. What is in flight when it begins is waited for first, and until
    /// what is done is safe.
    pub fn keep_order(&mut self, fifo: bool) {
        if fifo == self.lines.is_some() {
            return;
        }
        self.lines = fifo.then(|| {
            // What an earlier run delivered in order takes its place in its line as it is seen.
            let in_flight = self.leases.iter().map(|(_, offset)| *offset);
            let in_flight = in_flight.filter(|offset| !self.earlier.contains_key(offset));
            Box::new(Lines::starting_at(self.commit, in_flight, self.safe_at))
        });
        self.order = self.order.wrapping_add(1);
    }

    /// Books that somebody reads message groups for now: which order it is, see [`Book::learning`]. `None` when somebody
    /// does so already.
    pub fn begin_learning(&mut self) -> Option<u32> {
        let order = self.order;
        self.lines.as_mut().filter(|lines| !lines.is_read)?.is_read = true;
        Some(order)
    }

    pub fn end_learning(&mut self, order: u32) {
        if let Some(lines) = self.lines.as_mut().filter(|_| self.order == order) {
            lines.is_read = false;
        }
    }

    /// The order that somebody reads message groups for: another one each time that order begins anew.
    pub fn learning(&self) -> Option<u32> {
        self.lines.as_ref().filter(|lines| lines.is_read).map(|_| self.order)
    }

    /// Whether what is done there is as safe as the flush policy says.
    pub fn is_safe(&self, offset: QueueOffset) -> bool {
        self.lines.as_ref().is_none_or(|lines| lines.is_safe(offset))
    }

    pub fn keeps_order(&self) -> bool {
        self.lines.is_some() || self.has_lanes()
    }

    /// Marks a range as done by a record that ends at `end`. What follows in its lines is let through when that is safe
    /// ([`Book::release`]): after a crash that loses the record, it would come before what it follows.
    pub fn done_at(&mut self, range: Range<QueueOffset>, end: PhysicalOffset) {
        if let Some(id) = self.done_in_lane(&range) {
            self.lanes.iter_mut().for_each(|lanes| lanes.goes_on_at(id, end));
            return;
        }
        self.mark_done(range.clone());
        self.safe_at = self.safe_at.max(end);
        if let Some(lines) = &mut self.lines {
            lines.done_at(range, end);
        }
    }

    /// The log is as safe as the flush policy says up to there.
    pub fn release(&mut self, committed: PhysicalOffset) {
        while let Some(range) = self.lines.as_mut().and_then(|lines| lines.next_safe(committed)) {
            self.lines_move_on(range);
        }
        if let Some(lanes) = &mut self.lanes {
            lanes.release(committed);
        }
    }

    pub(super) fn next_look_at_log(&self, now: Deadline) -> Option<Deadline> {
        let lines = self.lines.as_ref().is_some_and(|lines| lines.waits_for_log());
        let (waits, moved) = self.lanes.as_ref().map_or((false, false), |l| (l.waits_for_log(), l.has_moved()));
        match moved {
            true => Some(now),
            false => (lines || waits).then(|| now.plus(LOG_LOOK)),
        }
    }

    pub(super) fn order(&self) -> Option<&Lines> {
        self.lines.as_deref().filter(|_| !planted(Fault::LocksLostAtRestart))
    }

    /// Where the messages begin whose message groups are to be read next, and how many there is room for; `None` when too
    /// many wait already.
    pub fn unseen(&mut self) -> Option<(QueueOffset, usize)> {
        let lines = self.lines.as_mut()?;
        let room = lines.room();
        if room == 0 {
            return None;
        }
        let seen = lines.seen().max(self.commit);
        let from = self.done.end_of(seen).unwrap_or(seen);
        lines.saw(from);
        Some((from, room))
    }

    /// How far the message groups are known.
    pub fn seen(&self) -> Option<QueueOffset> {
        self.lines.as_ref().map(|lines| lines.seen())
    }

    /// Notes the message group of the message at [`Book::seen`].
    pub fn see(&mut self, offset: QueueOffset, line: LineId) {
        let first = if self.is_done(offset) { First::Done } else { First::of(self.exceptions.get(&offset)) };
        let Some(lines) = &mut self.lines else { return };
        let lost = planted(Fault::LocksLostAtRestart) && first != First::Untouched;
        if (first == First::Done && lines.is_safe(offset)) || lost {
            lines.saw(offset.plus(1));
        } else {
            lines.join(offset, line, first);
        }
    }

    /// The oldest message that was never delivered and is the first of its line.
    pub fn first_fresh(&self) -> Option<QueueOffset> {
        self.lines.as_ref()?.fresh()
    }

    /// Attempts that are due and that order lets through; counted up to `enough`.
    pub fn due(&self, now: Deadline, enough: usize) -> usize {
        self.lines.as_ref().map_or(0, |lines| lines.due(now, enough))
    }

    /// Messages that were never delivered and are the first of their lines.
    pub fn fresh_heads(&self) -> usize {
        self.lines.as_ref().map_or(0, |lines| lines.fresh_heads())
    }

    /// Whether a line moved on since this was last asked, so that a poll may find something.
    pub fn has_moved(&mut self) -> bool {
        self.lines.as_mut().is_some_and(|lines| lines.take_moved())
    }

    /// What is locked. A book that nobody has asked since the start knows what it restored: each of that locks its line.
    pub fn locked(&self) -> Option<Locked> {
        match &self.lines {
            Some(lines) => lines.locked(),
            None => {
                let oldest = *self.exceptions.first_key_value()?.0;
                Some(Locked { lines: self.exceptions.len() as u64, blocked: 0, oldest })
            }
        }
    }

    /// Delivers again what is in flight under this nonce, as the same attempt; that, and the new nonce. The old one is void:
    /// whoever still holds the first answer must not give back or settle what the second one delivers.
    pub fn again(&mut self, offset: QueueOffset, nonce: u32, now: Deadline, until: Deadline) -> Option<(u32, u32)> {
        match self.exceptions.get(&offset) {
            Some(&Exception::InFlight { attempt, nonce: current, until: end, logged })
                if current == nonce && now < end && logged != Logged::Before =>
            {
                let nonce = self.deliver(offset, attempt, until);
                self.says(offset, logged);
                Some((attempt, nonce))
            }
            _ => None,
        }
    }

    pub(super) fn tell_lines(&mut self, offset: QueueOffset, state: First) {
        if let Some(lines) = &mut self.lines {
            lines.now(offset, state);
        }
    }

    pub(super) fn lines_move_on(&mut self, done: Range<QueueOffset>) {
        // Taken out, since the lines ask the book.
        let Some(mut lines) = self.lines.take() else { return };
        lines.done(done, |offset| match self.is_done(offset) {
            true => First::Done,
            false => First::of(self.exceptions.get(&offset)),
        });
        self.lines = Some(lines);
    }
}
