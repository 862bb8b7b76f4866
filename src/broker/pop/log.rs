//! Appending settle records, and the run of the server that receipts name.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    broker::metadata::SETTLE_TOPIC,
    store::{AppendError, Purpose, Queue, Store},
    types::{
        Clock, Deadline, GroupName, NewMessage, PhysicalOffset, Properties, QueueId, SysFlag, Timestamp, TopicName,
    },
};

use super::{
    settle_record::{Entry, Record, What},
    subscription::Owner,
};

/// Writes settle records.
pub struct SettleLog {
    store: Store,
    clock: Arc<dyn Clock>,
    store_host: SocketAddr,
    /// The only queue of the settle topic.
    pub queue: Queue,
    topic: TopicName,
}

impl SettleLog {
    pub fn new(store: &Store, clock: &Arc<dyn Clock>, store_host: SocketAddr) -> Self {
        let topic = TopicName::system(SETTLE_TOPIC);
        let queue = store.queue(&topic, QueueId(0));
        Self { store: store.clone(), clock: Arc::clone(clock), store_host, queue, topic }
    }

    /// Appends one record and returns the log's end behind it; does not wait for the disk. Call it with the locks of all
    /// books that it speaks of.
    pub fn append(&self, owner: &Owner, what: What) -> Result<PhysicalOffset, AppendError> {
        self.append_names(&owner.topic, &owner.group, what)
    }

    pub fn append_names(
        &self,
        topic: &TopicName,
        group: &GroupName,
        what: What,
    ) -> Result<PhysicalOffset, AppendError> {
        let record = Record { topic: topic.clone(), group: group.clone(), what };
        self.append_entry(&Entry::Record(record))
    }

    pub fn append_entry(&self, entry: &Entry) -> Result<PhysicalOffset, AppendError> {
        // On a full disk a lease that nobody prolongs ends by itself; an acknowledgement that is refused is work done twice.
        let purpose = match entry {
            Entry::Record(Record { what: What::Retry(_) | What::Leased(_), .. }) => Purpose::Deferrable,
            _ => Purpose::Internal,
        };
        Ok(self.store.append(&[self.message(entry)], purpose)?.end)
    }

    /// The record as a message, for an append of which it is only a part.
    pub fn record(&self, owner: &Owner, what: What) -> NewMessage {
        let record = Record { topic: owner.topic.clone(), group: owner.group.clone(), what };
        self.message(&Entry::Record(record))
    }

    fn message(&self, entry: &Entry) -> NewMessage {
        let body: Bytes = entry.encode();
        NewMessage {
            topic: self.topic.clone(),
            queue: QueueId(0),
            flag: 0,
            sys_flag: SysFlag::default(),
            born_at: self.clock.wall(),
            born_host: self.store_host,
            reconsume_times: 0,
            prepared_at: None,
            properties: Properties::default(),
            body,
        }
    }
}

/// One run of the server, from opening to the end.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Grows with each run.
    pub id: u64,
    wall: Timestamp,
    mono: Deadline,
}

impl Run {
    pub fn begin(id: u64, clock: &dyn Clock) -> Self {
        Self { id, wall: clock.wall(), mono: clock.now() }
    }

    pub fn began_at(&self) -> Deadline {
        self.mono
    }

    /// A point of the monotonic clock as the wall clock would show it had it not been stepped since the run began, so
    /// that within a run the two translate exactly, in milliseconds.
    pub fn wall_of(&self, at: Deadline) -> Timestamp {
        self.wall.plus(Duration::from_micros(at.as_micros().saturating_sub(self.mono.as_micros())))
    }
}
