//! The store's handle.

use std::sync::Arc;

use super::{
    AppendError, Config, OpenError, Poisoned, ReadError, Report,
    background::{Derive, Owner},
    consume_queue::QueueState,
    core::Core,
    disk::{Disk, Space},
};
use crate::meter::Distribution;
use crate::types::{Clock, NewMessage, PhysicalOffset, QueueId, QueueOffset, StoredMessage, Timestamp, TopicName};

/// Who appends, and so what is refused when the disk has no room: users' messages first, then what the server can do
/// later, and acknowledgements last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    User,
    /// The server's own records that can wait: copies of messages (dead letters) and failed attempts. They use half of the
    /// room kept for the server at most.
    Deferrable,
    /// The server's own records that somebody waits for, or that make room: acknowledgements, deletions.
    Internal,
}

/// Where one record of an append went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    pub queue_offset: QueueOffset,
    pub physical: PhysicalOffset,
    pub stored_at: Timestamp,
}

/// An append that has its place in the log. It may be answered once [`Store::committed`] says so.
#[derive(Clone, Debug)]
pub struct Ticket {
    /// In the order of the call.
    pub appended: Vec<Appended>,
    /// The log's end behind this append.
    pub end: PhysicalOffset,
}

/// A message that consumers can now read.
#[derive(Debug)]
pub struct Arrival<'a> {
    pub topic: &'a TopicName,
    pub queue: QueueId,
    pub queue_offset: QueueOffset,
    pub tags_code: i64,
}

/// One consume queue entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub offset: QueueOffset,
    pub physical: PhysicalOffset,
    pub size: u32,
    pub tags_code: i64,
}

/// Positions in the log: `durable <= written`, `dispatched <= ` the one that the flush policy names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watermarks {
    pub written: PhysicalOffset,
    pub durable: PhysicalOffset,
    pub dispatched: PhysicalOffset,
}

/// Whether the store takes messages.
#[derive(Clone, Debug)]
pub enum Health {
    Ready,
    Full { free: u64 },
    Poisoned(Poisoned),
}

/// A consume queue; a cheap clone. It stays readable after its topic was deleted.
#[derive(Clone)]
pub struct Queue {
    state: Arc<QueueState>,
    core: Arc<Core>,
}

impl Queue {
    pub fn topic(&self) -> &TopicName {
        self.state.topic()
    }
    pub fn id(&self) -> QueueId {
        self.state.id()
    }
    /// Its topic was deleted: nothing comes to it any more, and one of the same name is another queue.
    pub fn is_deleted(&self) -> bool {
        self.state.is_deleted()
    }
    /// First offset whose message is still stored.
    pub fn min(&self) -> QueueOffset {
        self.state.min()
    }
    /// One behind the last message that consumers may see.
    pub fn max(&self) -> QueueOffset {
        self.state.max()
    }
    /// Visible entries from `from` on (from `min()` when that is later), at most `max`.
    pub fn entries(&self, from: QueueOffset, max: usize) -> Result<Vec<Entry>, ReadError> {
        self.state.entries(from, max).map_err(|error| ReadError::Queue(Arc::new(error)))
    }
    /// The first offset stored at or after `time`; `max()` when there is none. What was stored under a clock that was set
    /// back since counts as stored when the clock was right again. It waits for the disk.
    pub fn offset_at(&self, time: Timestamp) -> Result<QueueOffset, ReadError> {
        let later = self.core.begins.later(&self.core.log, usize::MAX);
        self.state.offset_at(time, |physical, size| match self.core.message(physical, size) {
            Ok(message) => Ok(Some(message.stored_at.min(later.than(physical)))),
            Err(ReadError::Gone(_)) => Ok(None),
            Err(other) => Err(other),
        })
    }
}

/// The store; a cheap clone. See the room's door for threads and positions.
#[derive(Clone)]
pub struct Store {
    pub(super) core: Arc<Core>,
    owner: Arc<Owner>,
}

impl Store {
    /// Opens or makes the store, recovers what a crash left, and starts its threads.
    pub fn open(config: Config, disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> Result<(Self, Report), OpenError> {
        let path = config.root.clone();
        let (core, report) = Core::open(config, disk, clock)?;
        let owner = Owner::start(core.clone()).map_err(|source| OpenError::Io {
            doing: "starting the threads of",
            path,
            source,
        })?;
        Ok((Self { core, owner: Arc::new(owner) }, report))
    }
    /// Sets, once, who hears of arrivals. Called on the store's dispatching thread; it must be quick and must not call
    /// the store.
    pub fn on_arrival(&self, listener: Box<dyn Fn(&Arrival<'_>) + Send + Sync>) {
        self.core.log.dispatcher.listen(listener);
    }
    /// Gives the records their places, in order, as one unit: after a crash all of them are there or none. Does not
    /// wait for the disk.
    pub fn append(&self, unit: &[NewMessage], purpose: Purpose) -> Result<Ticket, AppendError> {
        self.core.append(unit, purpose)
    }
    /// Waits until everything below `end` is as safe as the flush policy says, and dispatched. May be dropped at any
    /// time.
    pub async fn committed(&self, end: PhysicalOffset) -> Result<(), Poisoned> {
        self.core.log.marks.dispatched.reached(end).await
    }
    /// Waits until the kernel has everything below `end`, so that it outlives this process. May be dropped at any time.
    pub async fn written(&self, end: PhysicalOffset) -> Result<(), Poisoned> {
        self.core.log.marks.written.reached(end).await
    }
    /// [`Store::committed`] for threads that may block.
    pub fn committed_blocking(&self, end: PhysicalOffset) -> Result<(), Poisoned> {
        self.core.log.marks.dispatched.reached_blocking(end)
    }
    /// Waits until everything below `end` is on the device, whatever the flush policy.
    pub fn durable_blocking(&self, end: PhysicalOffset) -> Result<(), Poisoned> {
        self.core.log.marks.durable.reached_blocking(end)
    }
    /// The log's end: behind everything that has a place.
    pub fn end(&self) -> PhysicalOffset {
        self.core.log.tail.lock().end
    }
    pub fn watermarks(&self) -> Watermarks {
        self.core.log.marks.get()
    }
    pub fn health(&self) -> Health {
        match (self.core.log.marks.alive(), self.core.log.room.is_full()) {
            (Err(reason), _) => Health::Poisoned(reason),
            (_, Some(free)) => Health::Full { free },
            _ => Health::Ready,
        }
    }
    /// Returns when the store is poisoned.
    pub async fn poisoned(&self) -> Poisoned {
        match self.core.log.marks.dispatched.reached(PhysicalOffset::MAX).await {
            Err(reason) => reason,
            // No log grows to there.
            Ok(()) => std::future::pending().await,
        }
    }
    /// The queue, made if need be (in memory; files come with its first message).
    pub fn queue(&self, topic: &TopicName, queue: QueueId) -> Queue {
        Queue { state: self.core.queues.queue(topic, queue), core: self.core.clone() }
    }
    /// Lets a queue begin at `first` or later: nothing below is served, and no message gets an offset below. It never
    /// moves a queue back, and holds until the store is closed.
    pub fn begin_queue(&self, topic: &TopicName, queue: QueueId, first: QueueOffset) {
        self.core.queues.queue(topic, queue).begin_at(first);
    }
    /// The log's start: retention has deleted everything before it.
    pub fn start(&self) -> PhysicalOffset {
        self.core.log.segments.first().map_or(PhysicalOffset::ZERO, |segment| segment.base())
    }
    /// Reads the message of an entry and checks its checksum.
    pub fn message(&self, physical: PhysicalOffset, size: u32) -> Result<StoredMessage, ReadError> {
        self.core.message(physical, size)
    }
    /// When the record at a position was stored, without reading the rest of it. `None` when it is gone. It waits for the
    /// disk.
    pub fn stored_at(&self, physical: PhysicalOffset) -> Result<Option<Timestamp>, ReadError> {
        self.core.stored_at(physical)
    }
    /// When the oldest record of the log was stored; `None` when there is none. It waits for the disk.
    pub fn oldest_stored_at(&self) -> Result<Option<Timestamp>, ReadError> {
        self.core.stored_at(self.start())
    }
    /// Bytes of the file system as they were seen last; the fuller one's, where the log has one of its own. `None` when
    /// they are not known yet.
    pub fn space(&self) -> Option<Space> {
        self.core.log.room.space()
    }
    /// How long each sync of the log took, in microseconds.
    pub fn syncs(&self) -> Distribution {
        self.core.log.syncs.get()
    }
    /// Reads the message that begins at a place which may be anybody's word; [`ReadError::Gone`] or
    /// [`ReadError::Corrupt`] where none begins.
    pub fn message_at(&self, physical: PhysicalOffset) -> Result<StoredMessage, ReadError> {
        if physical.plus(8) > self.core.log.marks.get().dispatched {
            return Err(ReadError::Gone(physical));
        }
        self.core.message_at(physical)
    }
    /// The log's end when it was opened: what lies before was stored by earlier runs.
    pub fn opened_at(&self) -> PhysicalOffset {
        self.core.opened_at()
    }
    /// `fileReservedTime`: how old a message may be before its segment goes.
    pub fn reserved(&self) -> std::time::Duration {
        self.core.config.retention.reserved
    }
    /// True when reading there may have to wait for the device.
    pub fn is_cold(&self, physical: PhysicalOffset) -> bool {
        self.core.is_cold(physical)
    }
    /// Whether messages are indexed by key.
    pub fn is_indexed(&self) -> bool {
        self.core.index.is_some()
    }
    /// Forgets the queues of a topic and removes their files, durably; a topic made again begins at offset 0. Its
    /// messages go with their segments. It waits for the disk.
    ///
    /// # Errors
    /// Nothing is forgotten when the log does not take the record of it; after any other error the call may be repeated.
    pub fn delete_topic(&self, topic: &TopicName) -> std::io::Result<()> {
        self.core.delete_topic(topic)
    }
    /// Whether consumers could see, or could once see, messages of a topic.
    pub fn has_messages(&self, topic: &TopicName) -> bool {
        self.core.queues.of(topic).iter().any(|queue| queue.max() > QueueOffset::ZERO)
    }
    /// Keeps retention from deleting anything at or behind this: what the broker still needs to rebuild its
    /// state. Nothing is deleted before the first call.
    pub fn hold_from(&self, at: PhysicalOffset) {
        self.core.hold_from(at);
    }
    /// Writes a small state file (`config/<name>`) so that a crash leaves the old or the new one. `name` is a plain file
    /// name.
    pub fn save_state(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        self.core.save_state(name, bytes)
    }
    /// Reads it back; its `.bak` when it is missing or empty; `None` when there is neither.
    pub fn load_state(&self, name: &str) -> std::io::Result<Option<Vec<u8>>> {
        self.core.load_state(name)
    }
    /// Does the background's work once on the caller's thread: commits what waits, takes room ahead, writes what is derived,
    /// looks at the disk, checkpoints. For [`Threads::Stepped`](super::Threads).
    pub fn step(&self) -> Result<(), Poisoned> {
        self.core.commit()?;
        self.core.log.go_ahead();
        self.core.tick(Derive::Now)
    }
    /// [`Store::step`], but only the commit.
    pub fn step_commit(&self) -> Result<(), Poisoned> {
        self.core.commit()
    }
    /// Flushes everything, checkpoints, removes the abort marker and ends the threads. Appends fail from now on. What
    /// cannot be written any more is left to recovery.
    pub fn close(&self) {
        self.owner.end();
        self.core.close();
    }
}

#[cfg(test)]
mod tests;
