//! Deleted topics in the log: one record tells that what lies before it of a topic is gone.
//!
//! Without it, consume queues that are made again from the log would bring the messages of a deleted topic back, into a
//! topic of the same name that was made later.

use bytes::Bytes;

use super::Config;
use crate::types::{NewMessage, Properties, QueueId, SysFlag, Timestamp, TopicName};

/// Where the records lie: queue 0 of this topic. The body is the deleted topic's name.
const TOPIC: &str = "rmq_sys_FERROMQ_DELETED";

/// The record that says so.
pub(super) fn record(deleted: &TopicName, now: Timestamp, config: &Config) -> NewMessage {
    NewMessage {
        topic: TopicName::system(TOPIC),
        queue: QueueId(0),
        flag: 0,
        sys_flag: SysFlag::default(),
        born_at: now,
        born_host: config.store_host,
        reconsume_times: 0,
        prepared_at: None,
        properties: Properties::default(),
        body: Bytes::copy_from_slice(deleted.as_str().as_bytes()),
    }
}

/// The topic that a record says was deleted.
pub(super) fn read(topic: &TopicName, body: &[u8]) -> Option<TopicName> {
    if topic.as_str() != TOPIC {
        return None;
    }
    TopicName::parse_any(std::str::from_utf8(body).ok()?).ok()
}
