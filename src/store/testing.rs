//! What the tests of the store share.

use std::{
    future::Future,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;

use super::{Config, Entry, OpenError, Purpose, Queue, Report, Store, Threads, Ticket, sim::SimDisk};
use crate::types::{
    ManualClock, NewMessage, QueueId, QueueOffset, SysFlag, Timestamp, TopicName, properties::PropertiesBuilder,
};

/// A simulated disk, a clock that stands still, and a configuration with small files for them.
pub(super) struct Bench {
    pub(super) disk: SimDisk,
    pub(super) clock: Arc<ManualClock>,
    pub(super) config: Config,
}

impl Bench {
    pub(super) fn new() -> Self {
        let mut config = Config::at("/store");
        config.segment_bytes = 16 << 10;
        config.consume_queue_entries = 16;
        config.index_slots = 16;
        config.index_entries = 64;
        config.threads = Threads::Stepped;
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000)));
        Self { disk: SimDisk::new(), clock, config }
    }

    pub(super) fn try_open(&self) -> Result<(Store, Report), OpenError> {
        Store::open(self.config.clone(), Arc::new(self.disk.clone()), self.clock.clone())
    }

    pub(super) fn open(&self) -> Store {
        self.try_open().expect("the store opens").0
    }
}

pub(super) fn topic(name: &str) -> TopicName {
    TopicName::parse_any(name).expect("a name")
}

/// A message to queue 0, tagged `TagA`, with the key `<body>` when that is short.
pub(super) fn message(topic_name: &str, body: &str) -> NewMessage {
    let mut properties = PropertiesBuilder::default();
    properties.push("TAGS", "TagA").push("KEYS", if body.len() < 20 { body } else { "long" });
    NewMessage {
        topic: topic(topic_name),
        queue: QueueId(0),
        flag: 0,
        sys_flag: SysFlag::default(),
        born_at: Timestamp::from_millis(1),
        born_host: "127.0.0.1:1".parse().expect("an address"),
        reconsume_times: 0,
        prepared_at: None,
        properties: properties.build(),
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

pub(super) fn append(store: &Store, topic: &str, body: &str) -> Ticket {
    store.append(&[message(topic, body)], Purpose::User).expect("the log takes it")
}

/// Appends and commits on this thread.
pub(super) fn keep(store: &Store, topic: &str, body: &str) -> Ticket {
    let ticket = append(store, topic, body);
    store.step_commit().expect("it is committed");
    ticket
}

pub(super) fn queue(store: &Store, name: &str) -> Queue {
    store.queue(&topic(name), QueueId(0))
}

pub(super) fn entries(queue: &Queue) -> Vec<Entry> {
    let mut all: Vec<Entry> = Vec::new();
    loop {
        let from = all.last().map_or(QueueOffset::ZERO, |last| last.offset.plus(1));
        let more = queue.entries(from, 1000).expect("entries are read");
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}

/// Bodies of the messages that consumers see in queue 0.
pub(super) fn bodies(store: &Store, topic: &str) -> Vec<String> {
    let body = |e: &Entry| store.message(e.physical, e.size).expect("the message is read").body;
    entries(&queue(store, topic)).iter().map(|e| String::from_utf8(body(e).to_vec()).expect("text")).collect()
}

pub(super) fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    std::pin::pin!(future).as_mut().poll(&mut Context::from_waker(Waker::noop()))
}
