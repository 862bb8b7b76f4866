//! Which messages of a parent topic are of which lite topic.
//!
//! Derived from the parent's first queue, where all messages of its lite topics lie, one after the other: each entry has
//! the lite topic's id. So there is no file and nothing to recover: the index follows the queue, and a start reads it
//! from the queue's beginning (20 bytes for each message that is still stored).
//!
//! Memory: about 200 bytes for each lite topic, and 8 for each message that is stored (up to 16 while a lite topic grows);
//! `liteTopicsMax` and `liteMessagesMax` bound them.

use std::collections::{HashMap, VecDeque, hash_map::Entry};

use crate::{
    store::{Queue, ReadError},
    types::{Deadline, LiteId, QueueOffset},
};

/// Entries that are read at once.
const CHUNK: usize = 4096;

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    /// The queue is known up to here.
    seen: QueueOffset,
    topics: HashMap<LiteId, LiteTopic>,
    /// Offsets in all of them.
    messages: usize,
}

/// One lite topic.
#[derive(Debug, Default)]
struct LiteTopic {
    /// Known once somebody has named it since the start.
    name: Option<Box<str>>,
    /// Of its messages that are stored, ascending.
    offsets: VecDeque<QueueOffset>,
    /// When it was last sent to, or subscribed to.
    active: Deadline,
    /// Clients that have it in their sets.
    subscribers: u32,
}

/// Why there is no such lite topic, and none is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The parent has this many.
    Full(usize),
    /// Another name has its id.
    Taken,
}

impl Index {
    /// How far the queue is known.
    pub fn seen(&self) -> QueueOffset {
        self.seen
    }

    pub fn len(&self) -> usize {
        self.topics.len()
    }

    pub fn messages(&self) -> usize {
        self.messages
    }

    pub fn has(&self, id: LiteId) -> bool {
        self.topics.contains_key(&id)
    }

    /// Those that have messages.
    pub fn stored(&self) -> impl Iterator<Item = LiteId> {
        self.topics.iter().filter(|(_, topic)| !topic.offsets.is_empty()).map(|(id, _)| *id)
    }

    /// Takes in what came to the queue since.
    pub fn catch_up(&mut self, queue: &Queue, now: Deadline) -> Result<(), ReadError> {
        let max = queue.max();
        self.seen = self.seen.max(queue.min());
        while self.seen < max {
            let entries = queue.entries(self.seen, CHUNK)?;
            let Some(last) = entries.last() else { break };
            self.seen = last.offset.plus(1);
            self.messages += entries.len();
            for entry in entries {
                let topic = self.topics.entry(LiteId::from_code(entry.tags_code)).or_default();
                topic.offsets.push_back(entry.offset);
                topic.active = now;
            }
        }
        Ok(())
    }

    /// The first message of a lite topic at or behind an offset.
    pub fn next(&self, id: LiteId, from: QueueOffset) -> Option<QueueOffset> {
        let offsets = &self.topics.get(&id)?.offsets;
        match offsets.front() {
            Some(first) if *first >= from => Some(*first),
            _ => offsets.get(offsets.partition_point(|offset| *offset < from)).copied(),
        }
    }

    /// The message that is the `n`th from the end, or the first; the queue's end when there is none.
    pub fn tail(&self, id: LiteId, n: u64) -> QueueOffset {
        let Some(topic) = self.topics.get(&id) else { return self.seen };
        let at = topic.offsets.len().saturating_sub(usize::try_from(n).unwrap_or(usize::MAX));
        topic.offsets.get(at).copied().unwrap_or(self.seen)
    }

    /// Makes the lite topic if need be, and says that it is in use.
    pub fn open(&mut self, name: &str, max: usize, now: Deadline) -> Result<LiteId, Closed> {
        let (id, count) = (LiteId::of(name), self.topics.len());
        let topic = match self.topics.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if count >= max => return Err(Closed::Full(count)),
            Entry::Vacant(new) => new.insert(LiteTopic::default()),
        };
        match &topic.name {
            Some(known) if **known != *name => return Err(Closed::Taken),
            Some(_) => {}
            None => topic.name = Some(name.into()),
        }
        topic.active = now;
        Ok(id)
    }

    /// Another client subscribes to it.
    pub fn subscribed(&mut self, id: LiteId) {
        if let Some(topic) = self.topics.get_mut(&id) {
            topic.subscribers += 1;
        }
    }

    /// A client does not any more.
    pub fn unsubscribed(&mut self, id: LiteId, now: Deadline) {
        if let Some(topic) = self.topics.get_mut(&id) {
            topic.subscribers = topic.subscribers.saturating_sub(1);
            topic.active = now;
        }
    }

    pub fn name(&self, id: LiteId) -> Option<&str> {
        self.topics.get(&id)?.name.as_deref()
    }

    /// Forgets the messages that are not stored any more, and the lite topics that have none, nobody subscribes to and were
    /// idle since before `idle_since`, if that is known; those.
    pub fn expire(&mut self, min: QueueOffset, idle_since: Option<Deadline>) -> Vec<LiteId> {
        let mut gone = Vec::new();
        let messages = &mut self.messages;
        self.topics.retain(|id, topic| {
            let expired = topic.offsets.partition_point(|offset| *offset < min);
            topic.offsets.drain(..expired);
            *messages -= expired;
            if topic.offsets.len() < topic.offsets.capacity() / 4 {
                topic.offsets.shrink_to(topic.offsets.len() * 2);
            }
            let stays = !topic.offsets.is_empty()
                || topic.subscribers > 0
                || idle_since.is_none_or(|since| topic.active > since);
            if !stays {
                gone.push(*id);
            }
            stays
        });
        gone
    }

    /// Bytes of memory that it takes.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        let slot = size_of::<(LiteId, LiteTopic)>() + 1;
        let inner = |topic: &LiteTopic| {
            topic.name.as_ref().map_or(0, |name| name.len()) + topic.offsets.capacity() * size_of::<QueueOffset>()
        };
        // The table keeps an eighth of its slots free and has a power of two of them.
        (self.topics.capacity() * 8 / 7) * slot + self.topics.values().map(inner).sum::<usize>()
    }
}
