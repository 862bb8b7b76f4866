//! The rules of consumption, on the real broker and store over the simulated disk.

mod broadcasting;
mod fifo;
mod large;
mod model;
mod own;
mod priority;
mod resetting;
mod restarting;
mod reviving;
mod settling;
mod taking;

use std::time::Duration;

use bytes::Bytes;

use crate::{
    broker::{
        Broker, Delivery, Filter, Group, RetryPolicy, Take, TakeError, Topic,
        testing::{Machine, normal},
    },
    types::{
        Clock, GroupName, MessageType, QueueId, QueueOffset, TopicName,
        properties::{PropertiesBuilder, key},
    },
};

/// How long a taken message stays invisible here.
const LEASE: Duration = Duration::from_secs(30);
/// Deliveries of a message before it is dead-lettered.
const ATTEMPTS: u32 = 3;

fn topic() -> TopicName {
    TopicName::parse("orders").unwrap()
}
fn group() -> GroupName {
    GroupName::parse("billing").unwrap()
}
fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A broker with one topic and one group, and the machine that it runs on.
struct World {
    machine: Machine,
    broker: Broker,
}

impl World {
    fn new(queues: u32) -> Self {
        Self::on(Machine::new(), queues)
    }

    fn on(machine: Machine, queues: u32) -> Self {
        let broker = machine.start();
        let world = Self { machine, broker };
        world.make(topic(), group(), queues);
        world
    }

    fn make(&self, name: TopicName, group: GroupName, queues: u32) {
        let topic = Topic {
            name,
            message_type: Some(MessageType::Normal),
            read_queues: queues,
            write_queues: queues,
            readable: true,
            writable: true,
        };
        self.broker.create_topic(topic).unwrap();
        let group = Group {
            name: group,
            fifo: false,
            broadcast: false,
            retry_max_times: ATTEMPTS - 1,
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

    fn pass(&self, time: Duration) {
        self.machine.clock.advance(time);
    }

    async fn send(&self, bodies: &[&str]) {
        for body in bodies {
            self.broker.produce(&topic(), vec![normal(body)]).await.unwrap();
        }
    }

    async fn send_tagged(&self, body: &str, tag: &str) {
        let mut properties = PropertiesBuilder::default();
        properties.push(key::TAGS, tag).push(key::UNIQ_KEY, body);
        let draft = crate::broker::Draft { properties: properties.build(), ..normal(body) };
        self.broker.produce(&topic(), vec![draft]).await.unwrap();
    }

    async fn send_bytes(&self, len: usize) {
        let draft = crate::broker::Draft { body: Bytes::from(vec![b'x'; len]), ..normal("") };
        self.broker.produce(&topic(), vec![draft]).await.unwrap();
    }

    /// A poll that does not wait.
    fn poll(&self, max: usize) -> Take {
        let until = self.machine.clock.now();
        Take { topic: topic(), group: group(), filter: Filter::All, max, invisible: LEASE, until, attempt_id: None }
    }

    /// A poll that waits for as long as a test may take.
    fn long_poll(&self, max: usize) -> Take {
        Take { until: self.machine.clock.now().plus(Duration::from_secs(3600)), ..self.poll(max) }
    }

    async fn take(&self, max: usize) -> Vec<Delivery> {
        self.broker.take(self.poll(max)).await.unwrap()
    }

    /// Takes one message that must be there.
    async fn take_one(&self) -> Delivery {
        let mut taken = self.take(1).await;
        assert_eq!(taken.len(), 1, "nothing to take");
        taken.remove(0)
    }

    async fn ack(&self, delivery: &Delivery) -> Result<(), crate::broker::SettleError> {
        let receipts = std::slice::from_ref(&delivery.receipt);
        self.broker.ack(&topic(), &group(), receipts).await.unwrap().remove(0)
    }

    /// Sum over the queues: done from the beginning, in flight, waiting.
    fn progress(&self) -> (u64, u64, u64) {
        let all = self.broker.progress(&group());
        let ours = all.iter().filter(|p| p.topic == topic());
        ours.fold((0, 0, 0), |sum, p| (sum.0 + p.commit.get(), sum.1 + p.in_flight, sum.2 + p.waiting_retry))
    }

    /// Records in the settle topic.
    fn settled(&self) -> u64 {
        let store = self.broker.store();
        store.committed_blocking(store.end()).unwrap();
        let topic = TopicName::parse_any(crate::broker::metadata::SETTLE_TOPIC).unwrap();
        store.queue(&topic, QueueId(0)).max().get()
    }

    /// Starts a poll on this thread and lets it run until it is parked.
    async fn park(&self, take: Take) -> tokio::task::JoinHandle<Result<Vec<Delivery>, TakeError>> {
        let (broker, before) = (self.broker.clone(), self.broker.parked_polls());
        let task = tokio::spawn(async move { broker.take(take).await });
        for _ in 0..100 {
            if self.broker.parked_polls() > before {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(self.broker.parked_polls(), before + 1, "the poll did not park");
        // It is seated; now it has its last look and waits.
        tokio::task::yield_now().await;
        task
    }
}

fn bodies(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|d| std::str::from_utf8(&d.message.body).unwrap()).collect()
}

fn offsets(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|d| d.receipt.offset().get()).collect()
}

fn at(n: u64) -> QueueOffset {
    QueueOffset::new(n)
}
