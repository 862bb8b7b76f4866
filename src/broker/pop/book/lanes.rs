//! The book of a group on a LITE topic: where the group is in each lite topic.
//!
//! A lite topic is a lane: its messages come one at a time, in order, so that one offset, the lane's cursor, says what is
//! done of it: everything below. What is between two messages of a lane belongs to others and is none of its business; so a
//! lane that nobody wants holds up nobody, and costs the group nothing. A message that is done before its turn, as an
//! operator skips it, is done by itself, and stays that wherever the group goes.
//!
//! The book tells which lanes have [moved](Book::take_moved_lanes): those that may have something to deliver that they had
//! not before. Whoever changes a book takes them to the sets that have them in; where that is forgotten, the book asks to be
//! looked after at once.
//!
//! Memory: about 30 bytes for each lane that the group ever acknowledged in, and 40 more for each message that is in flight
//! or waits.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    ops::{Bound, Range},
    sync::Arc,
};

use super::{Book, Exception};
use crate::{
    broker::lite::{Index, LiteSet},
    types::{Deadline, LiteId, PhysicalOffset, QueueOffset},
};

/// Sets that wait for room, among which those of clients that are gone are looked for.
const HUNGRY_MIN: usize = 64;

/// Sets that have ready lanes and found no room, the oldest first.
#[derive(Debug, Default)]
struct Hungry {
    sets: BTreeMap<u64, Arc<LiteSet>>,
    /// Sets of clients that are gone are looked for when there are so many.
    purge_at: usize,
}

impl Hungry {
    fn add(&mut self, set: &Arc<LiteSet>) {
        if self.sets.len() >= self.purge_at.max(HUNGRY_MIN) {
            self.sets.retain(|_, set| !set.is_closed());
            self.purge_at = 2 * self.sets.len();
        }
        self.sets.insert(set.number, Arc::clone(set));
    }

    /// The first of them, for so much room. A set of which no poll is parked needs no room: its next poll looks by itself.
    fn next(&mut self, room: usize) -> impl Iterator<Item = Arc<LiteSet>> {
        std::iter::from_fn(|| self.sets.pop_first().map(|(_, set)| set)).filter(|set| set.has_poll()).take(room)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Lanes {
    /// What is below is done.
    cursors: BTreeMap<LiteId, QueueOffset>,
    /// They are in use: what is below is kept. Restored books have cursors alone.
    open: bool,
    /// The lanes of exceptions.
    of: HashMap<QueueOffset, LiteId>,
    /// Those of them that are not the first of their lanes: they are done by themselves.
    aside: HashSet<QueueOffset>,
    /// Lanes whose last message is done, but not as safe yet as the flush policy says, and until where the log must be.
    unsafe_yet: VecDeque<(PhysicalOffset, LiteId)>,
    /// The last of those of each lane.
    unsafe_until: HashMap<LiteId, PhysicalOffset>,
    /// Lanes that may have something and whose sets do not know.
    moved: BTreeSet<LiteId>,
    /// Attempts that were due by then have been told.
    told: Deadline,
    /// Sets that have a message which was never delivered.
    hungry: Hungry,
    /// Sets that have an attempt which is due.
    hungry_again: Hungry,
}

/// The first undone message of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// There is none, it is in flight, or its attempt is not due: the lane moves when that changes.
    None,
    Ready {
        offset: QueueOffset,
        attempt: u32,
        /// It has no place among what is in flight or waits.
        fresh: bool,
    },
}

impl Book {
    /// Says where the group is in a lane: of what was restored, or of one in which it was nowhere.
    pub fn set_cursor(&mut self, id: LiteId, to: QueueOffset) {
        self.lanes.get_or_insert_default().cursors.insert(id, to);
    }

    /// Restores that nothing is known of a message.
    pub fn forget_attempts(&mut self, offset: QueueOffset) {
        self.forget(offset);
    }

    /// What must outlive the run.
    pub fn cursors(&self) -> impl Iterator<Item = (LiteId, QueueOffset)> {
        self.lanes.iter().flat_map(|lanes| lanes.cursors.iter().map(|(id, at)| (*id, *at)))
    }

    /// Where the group is in a lane, if it has begun there.
    pub fn cursor(&self, id: LiteId) -> Option<QueueOffset> {
        self.lanes.as_ref()?.cursors.get(&id).copied()
    }

    /// Messages at or behind `min` that were done before their turn.
    pub fn done_by_itself(&self, min: QueueOffset) -> u64 {
        self.done.iter().map(|range| range.start.max(min).until(range.end)).sum()
    }

    /// The next lanes behind `after` that the group has begun in, at most `max`, and where it is there.
    pub fn cursors_after(&self, after: Option<LiteId>, max: usize) -> Vec<(LiteId, QueueOffset)> {
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let cursors = self.lanes.iter().flat_map(|lanes| lanes.cursors.range(range));
        cursors.take(max).map(|(id, at)| (*id, *at)).collect()
    }

    /// What is in flight or waits from an offset on, at most `max`, and in which lanes.
    pub fn held_from(&self, from: QueueOffset, max: usize) -> Vec<(QueueOffset, Option<LiteId>)> {
        self.exceptions.range(from..).take(max).map(|(offset, _)| (*offset, self.lane_of(*offset))).collect()
    }

    pub fn has_lanes(&self) -> bool {
        self.lanes.as_ref().is_some_and(|lanes| lanes.open)
    }

    /// Begins to use the lanes, if that has not begun.
    pub fn use_lanes(&mut self) {
        self.lanes.get_or_insert_default().open = true;
    }

    /// Begins to use what was restored. `lane_of` says whose a stored message is.
    pub fn open_lanes(&mut self, lane_of: impl Fn(QueueOffset) -> Option<LiteId>) {
        let mut lanes = self.lanes.take().unwrap_or_default();
        lanes.open = true;
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

    /// The first message of a lane that is not done. The queue begins at `min`.
    fn first_undone(&self, lanes: &Lanes, id: LiteId, index: &Index, min: QueueOffset) -> Option<QueueOffset> {
        let mut from = lanes.from(id, self.commit).max(min);
        loop {
            let offset = index.next(id, from)?;
            match self.done.end_of(offset) {
                Some(end) => from = end,
                None => return Some(offset),
            }
        }
    }

    /// The first undone message of a lane, and whether it can be delivered. The queue begins at `min`.
    pub fn head(&self, id: LiteId, index: &Index, min: QueueOffset, now: Deadline) -> Head {
        let Some(lanes) = self.lanes.as_ref().filter(|lanes| lanes.is_safe(id)) else { return Head::None };
        let Some(offset) = self.first_undone(lanes, id, index, min) else { return Head::None };
        // What was told to be due is due for everybody, whoever read the clock first.
        let now = now.max(lanes.told);
        match self.exceptions.get(&offset) {
            None => Head::Ready { offset, attempt: 1, fresh: true },
            Some(Exception::Waiting { due, attempt, .. }) if *due <= now => {
                Head::Ready { offset, attempt: *attempt, fresh: false }
            }
            Some(_) => Head::None,
        }
    }

    /// Books the delivery of a lane's first message.
    pub fn deliver_in_lane(&mut self, id: LiteId, offset: QueueOffset, attempt: u32, until: Deadline) -> u32 {
        if let Some(lanes) = &mut self.lanes {
            lanes.of.insert(offset, id);
        }
        self.deliver(offset, attempt, until)
    }

    /// Notes whose a message is that is about to be done or held. Its lane moves on with it unless an earlier message of the
    /// lane is still stored and not done: then it is done by itself. The queue begins at `min`.
    pub fn enlist(&mut self, offset: QueueOffset, id: LiteId, index: &Index, min: QueueOffset) {
        let Some(lanes) = self.lanes.take() else { return };
        // One that retention has taken, or a lane is behind, moves nothing.
        let is_first = lanes.from(id, self.commit).max(min) <= offset
            && self.first_undone(&lanes, id, index, min).is_none_or(|first| first >= offset);
        let lanes = self.lanes.insert(lanes);
        lanes.of.insert(offset, id);
        if is_first {
            lanes.aside.remove(&offset);
        } else {
            lanes.aside.insert(offset);
            // Whatever is first in it can be looked at again.
            lanes.moved.insert(id);
        }
    }

    /// The lane of an exception, or of what was [enlisted](Book::enlist).
    pub fn lane_of(&self, offset: QueueOffset) -> Option<LiteId> {
        self.lanes.as_ref()?.of.get(&offset).copied()
    }

    /// The same if that lane moves on with it.
    pub fn lane_moved_by(&self, offset: QueueOffset) -> Option<LiteId> {
        self.lane_of(offset).filter(|_| self.lanes.as_ref().is_some_and(|lanes| !lanes.aside.contains(&offset)))
    }

    /// Whether the lane is behind this message.
    pub fn is_passed(&self, offset: QueueOffset, id: LiteId) -> bool {
        self.lanes.as_ref().is_some_and(|lanes| lanes.cursors.get(&id).is_some_and(|at| *at > offset))
    }

    /// Marks the message as done if its lane is known: the lane, which now is behind it unless it was not its turn.
    pub(super) fn done_in_lane(&mut self, range: &Range<QueueOffset>) -> Option<LiteId> {
        if range.start.plus(1) != range.end {
            return None;
        }
        let lanes = self.lanes.as_mut()?;
        let id = lanes.of.remove(&range.start)?;
        if lanes.aside.remove(&range.start) {
            self.mark_done(range.clone());
            return Some(id);
        }
        let at = lanes.cursors.entry(id).or_default();
        *at = range.end.max(*at);
        self.forget(range.start);
        self.touched = self.touched.max(range.end);
        Some(id)
    }

    /// What is in flight or waits in these lanes.
    pub fn in_lanes(&self, places: &[(LiteId, QueueOffset)]) -> Vec<QueueOffset> {
        let Some(lanes) = &self.lanes else { return Vec::new() };
        let ids: HashSet<LiteId> = places.iter().map(|(id, _)| *id).collect();
        lanes.of.iter().filter(|(_, id)| ids.contains(id)).map(|(offset, _)| *offset).collect()
    }

    /// Lets the group go on elsewhere in these lanes; what is in flight or waits in them, `void`, is forgotten, and its
    /// receipts are void.
    pub fn move_lanes(&mut self, places: &[(LiteId, QueueOffset)], void: Vec<QueueOffset>) {
        let Some(lanes) = &mut self.lanes else { return };
        for (id, to) in places {
            lanes.cursors.insert(*id, *to);
            lanes.moved.insert(*id);
        }
        void.into_iter().for_each(|offset| self.forget(offset));
    }

    /// Messages below `min` are not stored any more: nothing of them is in flight or comes again, and their lanes go on.
    pub fn retained_from(&mut self, min: QueueOffset) {
        if self.has_lanes() && self.commit < min {
            self.mark_done(self.commit..min);
        }
    }

    /// These lite topics are no more: they had no messages when the queue ended at `end`.
    pub fn forget_lanes(&mut self, ids: &[LiteId], end: QueueOffset) {
        let Some(lanes) = &mut self.lanes else { return };
        for id in ids {
            // What came since has moved it on.
            if lanes.cursors.get(id).is_some_and(|at| *at <= end) {
                lanes.cursors.remove(id);
            }
        }
    }

    /// Forgets that the group is there, where it still is.
    pub fn forget_cursors(&mut self, over: &[(LiteId, QueueOffset)]) {
        let Some(lanes) = &mut self.lanes else { return };
        for (id, at) in over {
            if lanes.cursors.get(id) == Some(at) {
                lanes.cursors.remove(id);
            }
        }
    }

    /// A set has ready lanes, and there is no room; `fresh`: for what was never delivered, else for an attempt that is due.
    pub fn is_hungry(&mut self, set: &Arc<LiteSet>, fresh: bool) {
        if let Some(lanes) = &mut self.lanes {
            if fresh { &mut lanes.hungry } else { &mut lanes.hungry_again }.add(set);
        }
    }

    /// Sets that waited for room, as far as there is some when so many may be in flight, and as many wait. What waits has its
    /// place already, so that an attempt that is due needs room among what is in flight alone.
    pub fn fed(&mut self, max: usize) -> Vec<Arc<LiteSet>> {
        let (in_flight, waiting) = (self.in_flight(), self.waiting());
        let Some(lanes) = &mut self.lanes else { return Vec::new() };
        let again = lanes.hungry_again.next(max.saturating_sub(in_flight));
        again.chain(lanes.hungry.next(max.saturating_sub(in_flight.max(waiting)))).collect()
    }

    /// Lanes that may have something to deliver that they had not when this was last asked.
    pub fn take_moved_lanes(&mut self, now: Deadline) -> Vec<LiteId> {
        let Some(lanes) = &mut self.lanes else { return Vec::new() };
        // Two callers may have read the clock in the other order.
        if now > lanes.told {
            let due = self.retries.range((lanes.told, QueueOffset::MAX)..=(now, QueueOffset::MAX));
            lanes.moved.extend(due.filter_map(|(_, offset)| lanes.of.get(offset)));
            lanes.told = now;
        }
        std::mem::take(&mut lanes.moved).into_iter().collect()
    }

    /// From when on attempts that fall due were not told.
    pub(super) fn told(&self, now: Deadline) -> Deadline {
        self.lanes.as_ref().map_or(now, |lanes| lanes.told.min(now))
    }
}

impl Lanes {
    fn from(&self, id: LiteId, commit: QueueOffset) -> QueueOffset {
        self.cursors.get(&id).copied().unwrap_or_default().max(commit)
    }

    fn is_safe(&self, id: LiteId) -> bool {
        !self.unsafe_until.contains_key(&id)
    }

    /// A lane goes on when the log is committed up to there.
    pub(super) fn goes_on_at(&mut self, id: LiteId, end: PhysicalOffset) {
        self.unsafe_yet.push_back((end, id));
        self.unsafe_until.insert(id, end);
    }

    /// A lane goes on at once.
    pub(super) fn goes_on(&mut self, id: LiteId) {
        self.moved.insert(id);
    }

    /// Lets the lanes go on that are safe now.
    pub(super) fn release(&mut self, committed: PhysicalOffset) {
        while let Some((_, id)) = self.unsafe_yet.pop_front_if(|(end, _)| *end <= committed) {
            if self.unsafe_until.get(&id).is_some_and(|until| *until <= committed) {
                self.unsafe_until.remove(&id);
                self.goes_on(id);
            }
        }
    }

    pub(super) fn waits_for_log(&self) -> bool {
        !self.unsafe_yet.is_empty()
    }

    pub(super) fn has_moved(&self) -> bool {
        !self.moved.is_empty()
    }

    /// The book says something else of a message. A lane whose message waits for an attempt that would have been told moves
    /// now, and so does one whose message is gone.
    pub(super) fn now(&mut self, offset: QueueOffset, exception: Option<&Exception>) {
        let id = match exception {
            Some(Exception::Waiting { due, .. }) if *due <= self.told => self.of.get(&offset).copied(),
            Some(_) => None,
            None => {
                self.aside.remove(&offset);
                self.of.remove(&offset)
            }
        };
        self.moved.extend(id);
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

#[cfg(test)]
mod tests;
