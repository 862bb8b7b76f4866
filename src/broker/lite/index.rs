//! Which messages of a parent topic are of which lite topic.
//!
//! Derived from the parent's first queue, where all messages of its lite topics lie, one after the other: each entry has
//! the lite topic's id. So there is no file and nothing to recover: the index follows the queue, and a start reads it
//! from the queue's beginning (20 bytes for each message that is still stored).
//!
//! Memory: about 200 bytes for each lite topic, and 8 for each message that is stored (up to 16 while a lite topic grows);
//! `liteTopicsMax` and `liteMessagesMax` bound them, over all parents. When there are too many messages, those go that every
//! group is past ([`Index::trim`]): no group can then begin with them.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry as Slot},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    store::Entry,
    types::{Deadline, LiteId, QueueOffset},
};

/// Of all parents.
#[derive(Debug, Default)]
pub struct Totals {
    pub topics: AtomicUsize,
    /// Offsets that are known.
    pub messages: AtomicUsize,
}

/// See the module.
#[derive(Debug)]
pub struct Index {
    /// The queue is known up to here.
    seen: QueueOffset,
    topics: BTreeMap<LiteId, LiteTopic>,
    totals: Arc<Totals>,
}

/// One lite topic.
#[derive(Debug, Default)]
struct LiteTopic {
    /// Known once somebody has named it since the start.
    name: Option<Box<str>>,
    /// Of its messages that are stored, ascending; without the first ones that every group is past, if there are too many.
    offsets: VecDeque<QueueOffset>,
    /// Behind its last message.
    end: QueueOffset,
    /// When it was last sent to, or subscribed to.
    active: Deadline,
}

/// Why there is no such lite topic, and none is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// There are as many as there may be.
    Full,
    /// Another name has its id.
    Taken,
}

impl Index {
    pub fn new(totals: Arc<Totals>) -> Self {
        Self { seen: QueueOffset::ZERO, topics: BTreeMap::new(), totals }
    }

    /// How far the queue is known.
    pub fn seen(&self) -> QueueOffset {
        self.seen
    }

    pub fn len(&self) -> usize {
        self.topics.len()
    }

    /// Takes in entries that were read from `from` on, or from where the queue began then; not if somebody else has done so.
    pub fn take_in(&mut self, from: QueueOffset, entries: &[Entry], now: Deadline) {
        let Some(last) = entries.last().filter(|_| from >= self.seen) else { return };
        self.seen = last.offset.plus(1);
        self.totals.messages.fetch_add(entries.len(), Ordering::Relaxed);
        for entry in entries {
            let topic = match self.topics.entry(LiteId::from_code(entry.tags_code)) {
                Slot::Occupied(known) => known.into_mut(),
                Slot::Vacant(new) => {
                    self.totals.topics.fetch_add(1, Ordering::Relaxed);
                    new.insert(LiteTopic::default())
                }
            };
            topic.offsets.push_back(entry.offset);
            topic.end = entry.offset.plus(1);
            topic.active = now;
        }
    }

    /// The first message of a lite topic at or behind an offset.
    pub fn next(&self, id: LiteId, from: QueueOffset) -> Option<QueueOffset> {
        let offsets = &self.topics.get(&id)?.offsets;
        match offsets.front() {
            Some(first) if *first >= from => Some(*first),
            _ => offsets.get(offsets.partition_point(|offset| *offset < from)).copied(),
        }
    }

    /// How many messages of a lite topic lie at or behind an offset, and the first of them.
    pub fn from(&self, id: LiteId, from: QueueOffset) -> (u64, Option<QueueOffset>) {
        let Some(topic) = self.topics.get(&id) else { return (0, None) };
        let at = topic.offsets.partition_point(|offset| *offset < from);
        ((topic.offsets.len() - at) as u64, topic.offsets.get(at).copied())
    }

    /// The message that is the `n`th from the end, or the first; the queue's end when there is none.
    pub fn tail(&self, id: LiteId, n: u64) -> QueueOffset {
        let Some(topic) = self.topics.get(&id) else { return self.seen };
        let at = topic.offsets.len().saturating_sub(usize::try_from(n).unwrap_or(usize::MAX));
        topic.offsets.get(at).copied().unwrap_or(self.seen)
    }

    /// Makes the lite topic if need be, when there are less than `max`, and says that it is in use.
    pub fn open(&mut self, name: &str, max: usize, now: Deadline) -> Result<LiteId, Closed> {
        let id = LiteId::of(name);
        let topic = match self.topics.entry(id) {
            Slot::Occupied(known) => known.into_mut(),
            Slot::Vacant(new) => {
                let one_more = |count| Some(count + 1).filter(|count| *count <= max);
                let counted = self.totals.topics.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
                counted.map_err(|_| Closed::Full)?;
                new.insert(LiteTopic::default())
            }
        };
        match &topic.name {
            Some(known) if **known != *name => return Err(Closed::Taken),
            Some(_) => {}
            None => topic.name = Some(name.into()),
        }
        topic.active = now;
        Ok(id)
    }

    /// A client wants it no more.
    pub fn touch(&mut self, id: LiteId, now: Deadline) {
        if let Some(topic) = self.topics.get_mut(&id) {
            topic.active = now;
        }
    }

    pub fn knows(&self, id: LiteId) -> bool {
        self.topics.contains_key(&id)
    }

    pub fn name(&self, id: LiteId) -> Option<&str> {
        self.topics.get(&id)?.name.as_deref()
    }

    /// The next lite topics behind `after`, at most `max`.
    pub fn ids(&self, after: Option<LiteId>, max: usize) -> Vec<LiteId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.topics.range((from, Bound::Unbounded)).take(max).map(|(id, _)| *id).collect()
    }

    /// Forgets messages below `floor`: they are not stored any more, or every group is past them.
    pub fn trim(&mut self, id: LiteId, floor: QueueOffset) {
        let Some(topic) = self.topics.get_mut(&id) else { return };
        let expired = topic.offsets.partition_point(|offset| *offset < floor);
        topic.offsets.drain(..expired);
        self.totals.messages.fetch_sub(expired, Ordering::Relaxed);
        if topic.offsets.len() < topic.offsets.capacity() / 4 {
            topic.offsets.shrink_to(topic.offsets.len() * 2);
        }
    }

    /// Forgets messages that are not stored any more, and the lite topic itself if it has none and was idle since before
    /// `idle_since`, when that is known. True when it is gone.
    pub fn expire(&mut self, id: LiteId, min: QueueOffset, idle_since: Option<Deadline>) -> bool {
        self.trim(id, min);
        let Some(topic) = self.topics.get(&id) else { return false };
        let is_idle = idle_since.is_some_and(|since| topic.active <= since);
        if topic.end > min || !is_idle {
            return false;
        }
        self.topics.remove(&id);
        self.totals.topics.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// Bytes of memory that it takes: a tree's nodes of eleven slots are two thirds full when keys come in no order.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        let slot = size_of::<(LiteId, LiteTopic)>() * 3 / 2;
        let inner = |topic: &LiteTopic| {
            topic.name.as_ref().map_or(0, |name| name.len()) + topic.offsets.capacity() * size_of::<QueueOffset>()
        };
        self.topics.len() * slot + self.topics.values().map(inner).sum::<usize>()
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        let messages: usize = self.topics.values().map(|topic| topic.offsets.len()).sum();
        self.totals.messages.fetch_sub(messages, Ordering::Relaxed);
        self.totals.topics.fetch_sub(self.topics.len(), Ordering::Relaxed);
    }
}
