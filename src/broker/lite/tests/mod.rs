//! Lite topics, on the real broker and store over the simulated disk.

mod consuming;
mod ending;
mod many;
mod model;
mod subscribing;

use std::time::Duration;

use super::*;
use crate::{
    broker::{
        Config, Delivery, Group, LiteError, Receipt, RetryPolicy, SettleError, Take, TakeError,
        testing::{Machine, draft, normal},
    },
    types::{Clock, properties::PropertiesBuilder},
};

/// How long a taken message stays invisible here.
const LEASE: Duration = Duration::from_secs(30);
/// Deliveries of a message before it is dead-lettered.
const ATTEMPTS: u32 = 3;

fn parent() -> TopicName {
    TopicName::parse("sessions").unwrap()
}
fn group() -> GroupName {
    GroupName::parse("agents").unwrap()
}
fn client(name: &str) -> ClientId {
    ClientId::parse(name).unwrap()
}

/// A broker with one parent topic and one group.
struct World {
    machine: Machine,
    broker: Broker,
}

impl World {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(set: impl FnOnce(&mut Config)) -> Self {
        let mut machine = Machine::new();
        set(&mut machine.config);
        let broker = machine.start();
        let world = Self { machine, broker };
        world.make(ATTEMPTS - 1);
        world
    }

    fn make(&self, retry_max_times: u32) {
        let topic = Topic {
            name: parent(),
            message_type: Some(MessageType::Lite),
            read_queues: 2,
            write_queues: 2,
            readable: true,
            writable: true,
        };
        self.broker.create_topic(topic).unwrap();
        let group = Group {
            name: group(),
            fifo: false,
            retry_max_times,
            retry_policy: RetryPolicy::apache(),
            consume_enabled: true,
        };
        self.broker.create_group(group).unwrap();
    }

    fn crash(self, seed: u64) -> Self {
        let broker = self.machine.crash(self.broker, seed);
        Self { broker, machine: self.machine }
    }

    fn restart(self) -> Self {
        let broker = self.machine.restart(self.broker);
        Self { broker, machine: self.machine }
    }

    /// The first letter of a body is its lite topic.
    async fn send(&self, bodies: &[&str]) {
        for body in bodies {
            self.send_to(&body[..1], body).await.unwrap();
        }
    }

    async fn send_to(&self, lite_topic: &str, body: &str) -> Result<(), ProduceError> {
        self.broker.produce(&parent(), vec![for_lite(lite_topic, body)]).await.map(drop)
    }

    async fn sync(&self, by: &str, action: LiteAction, names: &[&str], start: LiteStart) -> Result<(), LiteError> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let sync = LiteSync { topic: parent(), group: group(), client: client(by), action, names, start };
        self.broker.sync_lite(sync).await
    }

    async fn subscribe(&self, by: &str, names: &[&str]) {
        self.sync(by, LiteAction::Add, names, LiteStart::Last).await.unwrap();
    }

    fn poll(&self, by: &str, max: usize) -> Take {
        let topic = self.broker.topic("sessions").unwrap();
        let filter = self.broker.lite_filter(&topic, &group(), &client(by)).unwrap().unwrap();
        let until = self.machine.clock.now();
        Take { topic: parent(), group: group(), filter, max, invisible: LEASE, until, attempt_id: None }
    }

    async fn take(&self, by: &str) -> Vec<Delivery> {
        self.broker.take(self.poll(by, 32)).await.unwrap()
    }

    async fn taken(&self, by: &str) -> Vec<String> {
        texts(&self.take(by).await)
    }

    async fn ack(&self, receipt: &Receipt) -> Result<(), SettleError> {
        self.broker.ack(&parent(), &group(), std::slice::from_ref(receipt)).await.unwrap().remove(0)
    }

    /// Takes and acks until nothing comes; what came, in order.
    async fn consume(&self, by: &str) -> Vec<String> {
        let mut came = Vec::new();
        loop {
            let taken = self.take(by).await;
            if taken.is_empty() {
                return came;
            }
            came.extend(texts(&taken));
            for delivery in taken {
                self.ack(&delivery.receipt).await.unwrap();
            }
        }
    }

    async fn later(&self, time: Duration) {
        self.machine.clock.advance(time);
        self.broker.revive().await;
        self.broker.store().committed(self.broker.store().end()).await.unwrap();
    }

    /// Starts a poll on this thread and lets it run until it is parked.
    async fn park(&self, by: &str) -> tokio::task::JoinHandle<Result<Vec<Delivery>, TakeError>> {
        let until = self.machine.clock.now().plus(Duration::from_secs(3600));
        let (broker, take, before) =
            (self.broker.clone(), Take { until, ..self.poll(by, 32) }, self.broker.parked_polls());
        let task = tokio::spawn(async move { broker.take(take).await });
        for _ in 0..100 {
            if self.broker.parked_polls() > before {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(self.broker.parked_polls(), before + 1, "the poll did not park");
        tokio::task::yield_now().await;
        task
    }

    /// Offsets in the index.
    fn known_messages(&self) -> usize {
        self.broker.inner.lite.totals.messages.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn lite_topics(&self) -> usize {
        self.broker.lite_topics_of(&self.broker.topic("sessions").unwrap()).unwrap()
    }
}

fn for_lite(lite_topic: &str, body: &str) -> Draft {
    let mut properties = PropertiesBuilder::default();
    properties.push(key::LITE_TOPIC, lite_topic).push(key::UNIQ_KEY, body);
    Draft { properties: properties.build(), ..draft(MessageType::Lite, None, body) }
}

fn texts(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|d| String::from_utf8(d.message.body.to_vec()).unwrap()).collect()
}

/// A world whose retention is at work when it is stepped.
fn retaining(retry_max_times: u32) -> World {
    let mut machine = Machine::new();
    machine.store.flush = crate::store::FlushPolicy::Async { interval: Duration::from_secs(3600) };
    machine.store.threads = crate::store::Threads::Stepped;
    machine.store.retention.delete_when = (0..24).collect();
    let broker = machine.start();
    let world = World { machine, broker };
    world.make(retry_max_times);
    world
}

/// Has retention delete all that was sent before. No lite topic is swept.
async fn retain(world: &World) {
    fill(world).await;
    expire(world);
}

/// Has what follows lie elsewhere than what was sent before.
async fn fill(world: &World) {
    let filler = TopicName::parse("filler").unwrap();
    for _ in 0..4 {
        let draft = Draft { body: vec![b'x'; 500_000].into(), ..normal("") };
        world.broker.produce(&filler, vec![draft]).await.unwrap();
    }
    world.broker.store().step().unwrap();
}

/// Has retention delete what was sent before it was filled up.
fn expire(world: &World) {
    world.broker.store().step().unwrap();
    world.broker.snapshot().unwrap();
    world.machine.clock.advance(Duration::from_secs(73 * 3600));
    world.broker.store().step().unwrap();
}

fn min(world: &World) -> u64 {
    world.broker.store().queue(&parent(), QUEUE).min().get()
}
