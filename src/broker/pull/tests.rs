use std::time::Duration;

use super::*;
use crate::{
    broker::{
        Draft, Group, RetryPolicy, TakeError,
        testing::{Machine, normal},
    },
    types::{Clock, MessageType, properties::PropertiesBuilder, properties::key},
};

struct World {
    machine: Machine,
    broker: Broker,
}

fn topic() -> TopicName {
    TopicName::parse("orders").unwrap()
}

impl World {
    fn new() -> Self {
        let machine = Machine::new();
        let broker = machine.start();
        let topic = Topic {
            name: topic(),
            message_type: Some(MessageType::Normal),
            read_queues: 1,
            write_queues: 1,
            readable: true,
            writable: true,
        };
        broker.create_topic(topic).unwrap();
        let name = GroupName::parse("billing").unwrap();
        let retry_policy = RetryPolicy::apache();
        broker
            .create_group(Group {
                name,
                fifo: false,
                broadcast: false,
                retry_max_times: 1,
                retry_policy,
                consume_enabled: true,
            })
            .unwrap();
        Self { machine, broker }
    }

    /// Bodies from 0 on; each third has the tag A, the others B, and each says its number as a property.
    async fn send(&self, count: usize) {
        let draft = |n: usize| {
            let mut properties = PropertiesBuilder::default();
            properties.push(key::TAGS, if n.is_multiple_of(3) { "A" } else { "B" }).push("n", &n.to_string());
            Draft { properties: properties.build(), ..normal(&n.to_string()) }
        };
        let drafts: Vec<_> = (0..count).map(draft).collect();
        for drafts in drafts.chunks(500) {
            self.broker.produce(&topic(), drafts.to_vec()).await.unwrap();
        }
    }

    fn from(&self, offset: u64) -> Pull {
        Pull {
            topic: topic(),
            group: GroupName::parse("billing").unwrap(),
            queue: QueueId(0),
            offset: QueueOffset::new(offset),
            filter: Filter::All,
            max: 32,
            until: self.machine.clock.now(),
        }
    }

    async fn pull(&self, pull: Pull) -> (Vec<String>, u64) {
        let Pulled { messages, next } = self.broker.pull(pull).await.unwrap();
        (messages.iter().map(|m| String::from_utf8(m.body.to_vec()).unwrap()).collect(), next.get())
    }

    async fn park(&self, pull: Pull) -> tokio::task::JoinHandle<Result<Pulled, PullError>> {
        let (broker, before) = (self.broker.clone(), self.broker.parked_polls());
        let until = self.machine.clock.now().plus(Duration::from_secs(3600));
        let task = tokio::spawn(async move { broker.pull(Pull { until, ..pull }).await });
        while self.broker.parked_polls() == before {
            tokio::task::yield_now().await;
        }
        tokio::task::yield_now().await;
        task
    }
}

#[tokio::test]
async fn a_pull_reads_on_and_takes_nothing() {
    let world = World::new();
    world.send(70).await;
    let numbers = |range: std::ops::Range<u64>| range.map(|n| n.to_string()).collect::<Vec<_>>();
    for _ in 0..2 {
        assert_eq!(world.pull(world.from(0)).await, (numbers(0..32), 32));
        assert_eq!(world.pull(world.from(32)).await, (numbers(32..64), 64));
        assert_eq!(world.pull(world.from(64)).await, (numbers(64..70), 70));
        assert_eq!(world.pull(Pull { max: 2, ..world.from(3) }).await, (numbers(3..5), 5));
        assert_eq!(world.pull(world.from(70)).await, (vec![], 70));
    }
    assert!(world.broker.progress(&world.from(0).group).is_empty(), "no book was opened");
}

#[tokio::test]
async fn filters_pass_over_what_is_not_wanted_and_the_next_offset_lies_behind_it() {
    let world = World::new();
    world.send(1000).await;
    let tags = Filter::tags("A").unwrap();
    assert_eq!(world.pull(Pull { filter: tags.clone(), max: 2, ..world.from(1) }).await.0, ["3", "6"]);
    let (last, next) = world.pull(Pull { filter: tags, ..world.from(997) }).await;
    assert_eq!((last, next), (vec!["999".to_owned()], 1000));
    let rare = Filter::sql("n = 900").unwrap();
    let (rare, next) = world.pull(Pull { filter: rare, ..world.from(0) }).await;
    assert_eq!(rare, ["900"]);
    assert!((901..=1000).contains(&next));
    let never = Filter::sql("n > 5000").unwrap();
    assert_eq!(world.pull(Pull { filter: never, ..world.from(0) }).await, (vec![], 1000));
}

#[tokio::test]
async fn an_offset_that_the_queue_does_not_have_is_refused_with_those_that_it_has() {
    let world = World::new();
    world.send(3).await;
    let refused = world.broker.pull(world.from(4)).await;
    let (zero, three) = (QueueOffset::ZERO, QueueOffset::new(3));
    assert!(
        matches!(refused, Err(PullError::OutOfRange { min, max, .. }) if (min, max) == (zero, three)),
        "{refused:?}"
    );
    world.broker.store().begin_queue(&topic(), QueueId(0), QueueOffset::new(10));
    world.send(1).await;
    assert!(matches!(world.broker.pull(world.from(2)).await, Err(PullError::OutOfRange { .. })));
    let no_queue = world.broker.pull(Pull { queue: QueueId(1), ..world.from(0) }).await;
    assert!(matches!(no_queue, Err(PullError::NoQueue { queues: 1, .. })), "{no_queue:?}");
    let nowhere = Pull { topic: TopicName::parse("nowhere").unwrap(), ..world.from(0) };
    assert!(matches!(world.broker.pull(nowhere).await, Err(PullError::Take(TakeError::TopicNotFound(_)))));
}

#[tokio::test]
async fn an_arrival_wakes_every_pull_of_the_queue_that_wants_it() {
    let world = World::new();
    let all = [world.park(world.from(0)).await, world.park(world.from(0)).await];
    let rare = world.park(Pull { filter: Filter::sql("n = 1").unwrap(), ..world.from(0) }).await;
    world.send(1).await;
    for pull in all {
        assert_eq!(pull.await.unwrap().unwrap().messages.len(), 1);
    }
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.broker.parked_polls(), 1, "what does not want it waits on");
    world.send(2).await;
    let rare = rare.await.unwrap().unwrap();
    assert_eq!((rare.messages.len(), rare.next), (1, QueueOffset::new(3)));
    assert_eq!(world.broker.parked_polls(), 0);
}

#[tokio::test]
async fn a_parked_pull_ends_with_the_server_and_with_its_topic() {
    let world = World::new();
    let pull = world.park(world.from(0)).await;
    world.broker.delete_topic(&topic()).unwrap();
    assert!(matches!(pull.await.unwrap(), Err(PullError::Take(TakeError::TopicNotFound(_)))));
    let world = World::new();
    let pull = world.park(world.from(0)).await;
    world.broker.end_polls();
    assert!(pull.await.unwrap().unwrap().messages.is_empty());
}

#[tokio::test]
async fn an_answer_is_bounded_in_bytes_but_never_empty_for_that() {
    let mut machine = Machine::new();
    machine.store.segment_bytes = 64 << 20;
    let world = World { broker: machine.start(), ..World::new() };
    let world = World { machine, broker: world.broker };
    let topic = Topic {
        name: topic(),
        message_type: Some(MessageType::Normal),
        read_queues: 1,
        write_queues: 1,
        readable: true,
        writable: true,
    };
    let name = topic.name.clone();
    world.broker.create_topic(topic).unwrap();
    for _ in 0..3 {
        let draft = Draft { body: bytes::Bytes::from(vec![b'x'; 3 << 20]), ..normal("") };
        world.broker.produce(&name, vec![draft]).await.unwrap();
    }
    assert_eq!(world.pull(world.from(0)).await.1, 2);
}
