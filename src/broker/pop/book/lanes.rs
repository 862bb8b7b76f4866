//! The book of a group on a LITE topic: where the group is in each lite topic.
//!
//! A lite topic is a lane: its messages come one at a time, in order, so that one offset, the lane's cursor, says what is
//! done of it: everything below. What is between two messages of a lane belongs to others and is none of its business; so a
//! lane that nobody wants holds up nobody, and costs the group nothing.
//!
//! Ready are the lanes that may have something to deliver. A lane leaves that set when it is looked at in vain, and is put
//! back by what changes that: an arrival, an end of what is in flight.
//!
//! Memory: about 30 bytes for each lane that the group ever acknowledged in, about 20 for each that is ready, and 40 more for
//! each message that is in flight or waits.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    ops::Range,
};

use super::{Book, Exception};
use crate::{
    broker::lite::{Index, LiteSet},
    types::{Deadline, LiteId, PhysicalOffset, QueueOffset},
};

/// See the module.
#[derive(Debug, Default)]
pub struct Lanes {
    /// What is below is done.
    cursors: HashMap<LiteId, QueueOffset>,
    /// They are in use: what is below is kept. Restored books have cursors alone.
    open: bool,
    /// The lanes of exceptions.
    of: HashMap<QueueOffset, LiteId>,
    ready: BTreeSet<LiteId>,
    /// Arrivals up to here have made their lanes ready.
    seen: QueueOffset,
    /// Lanes whose last message is done, but not as safe yet as the flush policy says, and until where the log must be.
    unsafe_yet: VecDeque<(PhysicalOffset, LiteId)>,
    /// Lanes that became ready and whose polls were not woken.
    moved: Vec<LiteId>,
    /// Attempts that were due by then have been told.
    told: Deadline,
    /// Where the next walk begins.
    turn: LiteId,
}

/// The first undone message of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// There is none, or it is in flight: something will make the lane ready again.
    None,
    /// It waits for its next attempt, which is not due.
    Later,
    Ready {
        offset: QueueOffset,
        attempt: u32,
    },
}

impl Book {
    /// Restores, or sets, where the group is in a lane.
    pub fn set_cursor(&mut self, id: LiteId, to: QueueOffset) {
        self.lanes.get_or_insert_default().cursors.insert(id, to);
    }

    /// What must outlive the run, in no order.
    pub fn cursors(&self) -> impl Iterator<Item = (LiteId, QueueOffset)> {
        self.lanes.iter().flat_map(|lanes| lanes.cursors.iter().map(|(id, at)| (*id, *at)))
    }

    pub fn has_lanes(&self) -> bool {
        self.lanes.as_ref().is_some_and(|lanes| lanes.open)
    }

    /// How far arrivals were seen; `None` before the lanes are opened.
    pub fn lanes_seen(&self) -> Option<QueueOffset> {
        self.lanes.as_ref().filter(|lanes| lanes.open).map(|lanes| lanes.seen)
    }

    /// Begins to use the lanes. `lane_of` says whose a stored message is.
    pub fn open_lanes(&mut self, index: &Index, lane_of: impl Fn(QueueOffset) -> Option<LiteId>) {
        let mut lanes = self.lanes.take().unwrap_or_default();
        lanes.open = true;
        lanes.cursors.retain(|id, _| index.has(*id));
        lanes.seen = index.seen();
        lanes.ready = index.stored().filter(|id| index.next(*id, lanes.from(*id, self.commit)).is_some()).collect();
        let mut over = Vec::new();
        for offset in self.exceptions.keys() {
            match lane_of(*offset) {
                Some(id) if lanes.from(id, self.commit) <= *offset => {
                    lanes.of.insert(*offset, id);
                }
                // Done by a record that says where its lane is and nothing of what was before.
                _ => over.push(*offset),
            }
        }
        over.into_iter().for_each(|offset| self.forget(offset));
        self.lanes = Some(lanes);
    }

    /// Messages arrived in these lanes; all up to `seen` are told now.
    pub fn arrived(&mut self, ids: impl Iterator<Item = LiteId>, seen: QueueOffset) {
        if let Some(lanes) = &mut self.lanes {
            lanes.ready.extend(ids);
            lanes.seen = seen;
        }
    }

    /// The ready lanes of a set, another one first each time.
    pub fn ready_lanes(&self, set: &LiteSet) -> Vec<LiteId> {
        self.lanes.as_ref().map_or(Vec::new(), |lanes| set.among(&lanes.ready, lanes.turn))
    }

    /// Finds the first undone message of a lane. One that has none, or whose first is in flight, is not ready any more. The queue
    /// begins at `min`.
    pub fn head(&mut self, id: LiteId, index: &Index, min: QueueOffset, now: Deadline) -> Head {
        let Some(lanes) = &mut self.lanes else { return Head::None };
        let (mut from, is_safe) = (lanes.from(id, self.commit).max(min), lanes.is_safe(id));
        let first = loop {
            match index.next(id, from) {
                // An operator skipped it before it was its turn.
                Some(offset) if self.done.contains(offset) => {
                    self.done.remove(offset);
                    from = offset.plus(1);
                    lanes.cursors.insert(id, from);
                }
                first => break first,
            }
        };
        let head = match first.map(|offset| (offset, self.exceptions.get(&offset))) {
            Some((offset, None)) if is_safe => Head::Ready { offset, attempt: 1 },
            Some((offset, Some(Exception::Waiting { due, attempt, .. }))) if *due <= now => {
                Head::Ready { offset, attempt: *attempt }
            }
            Some((_, Some(Exception::Waiting { .. }))) => Head::Later,
            _ => Head::None,
        };
        if head == Head::None {
            lanes.ready.remove(&id);
        }
        head
    }

    /// Books the delivery of a lane's first message.
    pub fn deliver_in_lane(&mut self, id: LiteId, offset: QueueOffset, attempt: u32, until: Deadline) -> u32 {
        if let Some(lanes) = &mut self.lanes {
            lanes.of.insert(offset, id);
            lanes.ready.remove(&id);
            lanes.turn = LiteId::from_number(id.number().wrapping_add(1));
        }
        self.deliver(offset, attempt, until)
    }

    /// Notes whose a message is that is about to be done. Only when it is the first undone one does its lane move on; what
    /// is behind others, as a start from further back leaves it, is done by itself.
    pub fn enlist(&mut self, offset: QueueOffset, id: LiteId, index: &Index) {
        let Some(lanes) = &mut self.lanes else { return };
        if index.next(id, lanes.from(id, self.commit)) == Some(offset) {
            lanes.of.insert(offset, id);
        } else {
            lanes.of.remove(&offset);
        }
    }

    /// The lane of an exception, or of what was [enlisted](Book::enlist).
    pub fn lane_of(&self, offset: QueueOffset) -> Option<LiteId> {
        self.lanes.as_ref()?.of.get(&offset).copied()
    }

    /// Whether the lane is behind this message.
    pub fn is_passed(&self, offset: QueueOffset, id: LiteId) -> bool {
        self.lanes.as_ref().is_some_and(|lanes| lanes.cursors.get(&id).is_some_and(|at| *at > offset))
    }

    /// Marks the message as done if its lane is known: the lane, which now is behind it.
    pub(super) fn done_in_lane(&mut self, range: &Range<QueueOffset>) -> Option<LiteId> {
        if range.start.plus(1) != range.end {
            return None;
        }
        let id = self.lane_of(range.start)?;
        self.forget(range.start);
        self.touched = self.touched.max(range.end);
        self.lanes.as_mut()?.cursors.insert(id, range.end);
        Some(id)
    }

    /// Lets the group go on elsewhere in these lanes; what is in flight or waits in them is forgotten, and its receipts are
    /// void.
    pub fn move_lanes(&mut self, places: &[(LiteId, QueueOffset)]) {
        let Some(lanes) = &mut self.lanes else { return };
        let mut moved = BTreeSet::new();
        for (id, to) in places {
            lanes.cursors.insert(*id, *to);
            lanes.ready.insert(*id);
            moved.insert(*id);
        }
        let ours = |(offset, id): (&QueueOffset, &LiteId)| moved.contains(id).then_some(*offset);
        let forgotten: Vec<_> = lanes.of.iter().filter_map(ours).collect();
        forgotten.into_iter().for_each(|offset| self.forget(offset));
    }

    /// The lite topics are no more, nor are messages below `min`: no attempt of one comes.
    pub fn forget_lanes(&mut self, ids: &[LiteId], min: QueueOffset) {
        let waits = |(offset, exception): (&QueueOffset, &Exception)| {
            matches!(exception, Exception::Waiting { .. }).then_some(*offset)
        };
        let gone: Vec<_> = self.exceptions.range(..min).filter_map(waits).collect();
        gone.into_iter().for_each(|offset| self.forget(offset));
        let Some(lanes) = &mut self.lanes else { return };
        for id in ids {
            lanes.cursors.remove(id);
            lanes.ready.remove(id);
        }
        if lanes.cursors.len() < lanes.cursors.capacity() / 4 {
            lanes.cursors.shrink_to_fit();
        }
    }

    /// Lanes whose polls may find something that they could not when this was last asked.
    pub fn take_moved_lanes(&mut self, now: Deadline) -> Vec<LiteId> {
        let Some(lanes) = &mut self.lanes else { return Vec::new() };
        let due = self.retries.range((lanes.told, QueueOffset::ZERO)..=(now, QueueOffset::MAX));
        let due = due.filter_map(|(_, offset)| lanes.of.get(offset));
        lanes.moved.extend(due);
        lanes.told = lanes.told.max(now);
        std::mem::take(&mut lanes.moved)
    }
}

impl Lanes {
    fn from(&self, id: LiteId, commit: QueueOffset) -> QueueOffset {
        self.cursors.get(&id).copied().unwrap_or_default().max(commit)
    }

    fn is_safe(&self, id: LiteId) -> bool {
        !self.unsafe_yet.iter().any(|(_, waits)| *waits == id)
    }

    /// A lane goes on when the log is committed up to there.
    pub(super) fn goes_on_at(&mut self, id: LiteId, end: PhysicalOffset) {
        self.unsafe_yet.push_back((end, id));
    }

    /// A lane goes on at once.
    pub(super) fn goes_on(&mut self, id: LiteId) {
        self.ready.insert(id);
        self.moved.push(id);
    }

    /// Lets the lanes go on that are safe now.
    pub(super) fn release(&mut self, committed: PhysicalOffset) {
        while let Some((_, id)) = self.unsafe_yet.pop_front_if(|(end, _)| *end <= committed) {
            self.goes_on(id);
        }
    }

    pub(super) fn waits_for_log(&self) -> bool {
        !self.unsafe_yet.is_empty()
    }

    pub(super) fn has_moved(&self) -> bool {
        !self.moved.is_empty()
    }

    /// The book says something else of a message: what waits is looked at again, and what is gone has no lane.
    pub(super) fn now(&mut self, offset: QueueOffset, exception: Option<&Exception>) {
        match exception {
            Some(Exception::Waiting { .. }) => {
                if let Some(id) = self.of.get(&offset) {
                    self.ready.insert(*id);
                }
            }
            Some(_) => {}
            None => {
                self.of.remove(&offset);
            }
        }
    }

    /// The queue ends here now.
    pub(super) fn truncate(&mut self, end: QueueOffset) -> bool {
        let beyond: Vec<_> = self.cursors.values_mut().filter(|at| **at > end).collect();
        let cut = !beyond.is_empty();
        beyond.into_iter().for_each(|at| *at = end);
        self.open = false;
        cut
    }
}
