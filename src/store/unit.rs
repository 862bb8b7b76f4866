//! Records that enter the log together.

use std::{cell::Cell, net::SocketAddr, sync::Arc};

use super::{
    AppendError, Appended, Entry,
    consume_queue::{QueueState, Queues},
    fresh_keys,
    index_file::key_hash,
    indexing::keys_of,
    record::{self, Unplaced},
};
use crate::types::{NewMessage, PhysicalOffset, QueueOffset, Timestamp, properties::key, queue_code_of};

/// Bytes of an encoding buffer that is kept for the thread's next append.
const BUFFER_KEPT_MAX: usize = 1 << 20;
/// Keys for which room is kept likewise.
const KEYS_KEPT_MAX: usize = 1 << 12;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static KEYS: Cell<Vec<UnitKey>> = const { Cell::new(Vec::new()) };
}

/// The records of one append, encoded, in one buffer. After a crash all of them are there or none.
pub(super) struct Unit {
    buffer: Vec<u8>,
    records: Vec<Pending>,
    keys: Vec<UnitKey>,
}

/// A key of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct UnitKey {
    /// Where the record lies in the unit.
    pub(super) at: u32,
    pub(super) hash: u32,
}

struct Pending {
    record: Unplaced,
    queue: Option<Arc<QueueState>>,
    tags_code: i64,
}

/// A consume queue entry that waits until its record is safe.
pub(super) struct Dispatch {
    pub(super) queue: Arc<QueueState>,
    pub(super) entry: Entry,
}

impl Unit {
    /// Encodes the messages, and hashes their keys if they are to be `indexed`; needs no lock.
    pub(super) fn encode(
        messages: &[NewMessage],
        queues: &Queues,
        store_host: SocketAddr,
        indexed: bool,
    ) -> Result<Self, AppendError> {
        let mut unit = Self { buffer: BUFFER.take(), records: Vec::with_capacity(messages.len()), keys: KEYS.take() };
        unit.buffer.clear();
        unit.keys.clear();
        for (i, message) in messages.iter().enumerate() {
            let remaining = (messages.len() > 1).then(|| messages.len() - 1 - i);
            let record = record::encode(&mut unit.buffer, message, remaining, store_host)?;
            // The messages of a batch mostly go to one queue.
            let last = unit.records.last().and_then(|last: &Pending| last.queue.as_ref());
            let same = last.filter(|queue| queue.id() == message.queue && *queue.topic() == message.topic);
            let found = || same.cloned().unwrap_or_else(|| queues.queue(&message.topic, message.queue));
            let queue = record::is_queued(message.sys_flag).then(found);
            let NewMessage { topic, properties, .. } = message;
            let [tag, lite, id, keys] = properties.get_each([key::TAGS, key::LITE_TOPIC, key::UNIQ_KEY, key::KEYS]);
            // More find no room anyway.
            if indexed && unit.keys.len() <= fresh_keys::room() {
                let hashed = |key| UnitKey { at: record.at as u32, hash: key_hash(topic.as_str(), key) };
                unit.keys.extend(keys_of(message.sys_flag, [id, keys]).map(hashed));
            }
            let tags_code = queue_code_of(topic, properties, [tag, lite]);
            unit.records.push(Pending { record, queue, tags_code });
        }
        Ok(unit)
    }

    pub(super) fn len(&self) -> u64 {
        self.buffer.len() as u64
    }

    /// Records.
    pub(super) fn count(&self) -> usize {
        self.records.len()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// In the order of the records.
    pub(super) fn keys(&self) -> &[UnitKey] {
        &self.keys
    }

    /// Gives every record its place and hands its queue entry to `dispatch`. Under the log's lock, which is what makes
    /// queue offsets and physical offsets grow together.
    pub(super) fn place(
        &mut self,
        at: PhysicalOffset,
        stored_at: Timestamp,
        mut dispatch: impl FnMut(Dispatch),
    ) -> Vec<Appended> {
        let Self { buffer, records, .. } = self;
        let appended = records.drain(..).map(|Pending { record, queue, tags_code }| {
            let physical = at.plus(record.at as u64);
            let queue_offset = queue.as_ref().map_or(QueueOffset::ZERO, |q| q.assign());
            record.place(buffer, physical, queue_offset, stored_at);
            if let Some(queue) = queue {
                let entry = Entry { offset: queue_offset, physical, size: record.len as u32, tags_code };
                dispatch(Dispatch { queue, entry });
            }
            Appended { queue_offset, physical, stored_at }
        });
        appended.collect()
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        if self.buffer.capacity() <= BUFFER_KEPT_MAX {
            BUFFER.set(std::mem::take(&mut self.buffer));
        }
        if self.keys.capacity() <= KEYS_KEPT_MAX {
            KEYS.set(std::mem::take(&mut self.keys));
        }
    }
}
