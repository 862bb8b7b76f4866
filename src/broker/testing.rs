//! A broker on the real store over a simulated disk, for tests.

use std::{path::Path, sync::Arc};

use bytes::Bytes;

use crate::{
    store::{
        self, ReadError, Store,
        disk::{Disk, Open},
        sim::SimDisk,
    },
    types::{ManualClock, MessageType, Properties, QueueId, StoredMessage, SysFlag, Timestamp, TopicName},
};

use super::{Broker, Config, Draft, OpenError};

/// What a broker runs on. It outlives the broker, as the machine does.
pub struct Machine {
    pub disk: SimDisk,
    pub clock: Arc<ManualClock>,
    pub config: Config,
    pub store: store::Config,
}

impl Machine {
    pub fn new() -> Self {
        let config = Config { default_queues: 4, ..Config::default() };
        let store = store::Config { segment_bytes: 1 << 20, index: false, ..store::Config::at("/store") };
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_725_000_000_000)));
        Self { disk: SimDisk::new(), clock, config, store }
    }

    pub fn start(&self) -> Broker {
        self.try_start().unwrap()
    }

    pub fn try_start(&self) -> Result<Broker, OpenError> {
        let (store, _) = Store::open(self.store.clone(), Arc::new(self.disk.clone()), self.clock.clone()).unwrap();
        Broker::open(self.config.clone(), store, self.clock.clone())
    }

    /// Stops the broker in good order and starts another.
    pub fn restart(&self, broker: Broker) -> Broker {
        broker.store().close();
        drop(broker);
        self.start()
    }

    /// Takes the power away and starts another broker on what is left.
    pub fn crash(&self, broker: Broker, seed: u64) -> Broker {
        self.disk.crash(seed);
        broker.store().close();
        drop(broker);
        self.start()
    }

    /// A file of the store, as it is in the cache.
    pub fn read(&self, path: &str) -> Vec<u8> {
        let file = self.disk.open(&Path::new("/store").join(path), Open::Read).unwrap();
        file.read(0, file.len().unwrap() as usize).unwrap().to_vec()
    }

    /// Puts a file there, durably.
    pub fn write(&self, path: &str, bytes: &[u8]) {
        let path = Path::new("/store").join(path);
        let directory = path.parent().unwrap();
        self.disk.create_dir_all(directory).unwrap();
        let file = self.disk.open(&path, Open::Create).unwrap();
        file.write(0, bytes).unwrap();
        file.sync().unwrap();
        self.disk.sync_dir(directory).unwrap();
    }
}

pub fn topic(name: &str) -> TopicName {
    TopicName::parse_any(name).unwrap()
}

pub fn draft(message_type: MessageType, group: Option<&str>, body: &str) -> Draft {
    Draft {
        message_type,
        sys_flag: SysFlag::default(),
        flag: 0,
        born_at: Timestamp::from_millis(1_725_000_000_001),
        born_host: ([10, 0, 0, 1], 4000).into(),
        message_group: group.map(String::from),
        properties: Properties::default(),
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

pub fn normal(body: &str) -> Draft {
    draft(MessageType::Normal, None, body)
}

/// Everything that consumers can read of a queue.
pub fn messages(broker: &Broker, name: &TopicName, queue: u32) -> Vec<StoredMessage> {
    readable(broker, name, queue).unwrap()
}

/// [`messages`], where the power may go off at any time.
pub fn readable(broker: &Broker, name: &TopicName, queue: u32) -> Result<Vec<StoredMessage>, ReadError> {
    let queue = broker.store().queue(name, QueueId(queue));
    let mut all = Vec::new();
    let mut at = queue.min();
    loop {
        let entries = queue.entries(at, 100)?;
        let Some(last) = entries.last() else { return Ok(all) };
        at = last.offset.plus(1);
        for entry in entries {
            all.push(broker.store().message(entry.physical, entry.size)?);
        }
    }
}

/// [`messages`] of the first 16 queues, by body.
pub fn bodies(broker: &Broker, name: &TopicName) -> Vec<String> {
    let text = |message: StoredMessage| String::from_utf8(message.body.to_vec()).unwrap();
    let mut all: Vec<String> = (0..16).flat_map(|queue| messages(broker, name, queue)).map(text).collect();
    all.sort();
    all
}

/// What random histories are made from: small, seeded, good enough (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.roll(all.len() as u64) as usize]
    }
}
