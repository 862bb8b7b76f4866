//! Messages for later, on the real broker and store over the simulated disk.

mod accepting;
mod carrying;
mod crashing;
mod firing;
mod model;
mod recalling;

use std::time::Duration;

use crate::{
    broker::{
        Broker, Draft, ProduceError, Produced, Topic,
        testing::{Machine, bodies, draft, messages},
    },
    types::{
        Clock, MessageType, PhysicalOffset, StoredMessage, Timestamp, TopicName,
        properties::{PropertiesBuilder, key},
    },
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn orders() -> TopicName {
    TopicName::parse("orders").unwrap()
}

/// A message for a time; its body is its id.
fn at(due: Timestamp, body: &str) -> Draft {
    with(&[(key::TIMER_DELIVER_MS, &due.to_string())], body)
}

fn with(properties: &[(&str, &str)], body: &str) -> Draft {
    let mut all = PropertiesBuilder::default();
    all.push(key::UNIQ_KEY, body);
    properties.iter().for_each(|(name, value)| _ = all.push(name, value));
    Draft { properties: all.build(), ..draft(MessageType::Delay, None, body) }
}

/// A broker with one DELAY topic, and the machine that it runs on.
struct World {
    machine: Machine,
    broker: Broker,
}

impl World {
    fn new() -> Self {
        Self::on(Machine::new())
    }

    fn on(machine: Machine) -> Self {
        let broker = machine.start();
        let world = Self { machine, broker };
        world.make(orders(), MessageType::Delay);
        world
    }

    fn make(&self, name: TopicName, message_type: MessageType) {
        let (read_queues, write_queues) = (2, 2);
        let message_type = Some(message_type);
        let topic = Topic { name, message_type, read_queues, write_queues, readable: true, writable: true };
        self.broker.create_topic(topic).unwrap();
    }

    fn crash(self, seed: u64) -> Self {
        let broker = self.machine.crash(self.broker, seed);
        Self { broker, machine: self.machine }
    }

    fn restart(self) -> Self {
        let broker = self.machine.restart(self.broker);
        Self { broker, machine: self.machine }
    }

    /// Stopped in good order for a while.
    fn down(self, time: Duration) -> Self {
        self.broker.store().close();
        drop(self.broker);
        self.machine.clock.advance(time);
        Self { broker: self.machine.start(), machine: self.machine }
    }

    fn wall(&self) -> Timestamp {
        self.machine.clock.wall()
    }

    async fn try_send(&self, draft: Draft) -> Result<Produced, ProduceError> {
        self.broker.produce(&orders(), vec![draft]).await.map(|produced| produced[0])
    }

    async fn send_in(&self, delay: Duration, body: &str) -> Produced {
        self.try_send(at(self.wall().plus(delay), body)).await.unwrap()
    }

    /// Sends, and gives the handle.
    async fn send_for_recall(&self, delay: Duration, body: &str) -> String {
        let produced = self.send_in(delay, body).await;
        self.broker.recall_handle(&orders(), body, &produced).unwrap()
    }

    /// Lets time pass and does what is due then.
    async fn pass(&self, time: Duration) {
        self.machine.clock.advance(time);
        self.broker.fire_timers().await;
    }

    fn delivered(&self) -> Vec<String> {
        bodies(&self.broker, &orders())
    }

    fn delivered_messages(&self) -> Vec<StoredMessage> {
        (0..2).flat_map(|queue| messages(&self.broker, &orders(), queue)).collect()
    }

    /// How much of the log a snapshot lets go.
    fn held_from(&self) -> PhysicalOffset {
        let book = self.broker.timer_book();
        let commit = book.open().book.commit();
        let first = book.queue.entries(commit, 1).unwrap().first().map(|entry| entry.physical);
        first.unwrap_or(PhysicalOffset::MAX)
    }
}
