//! Sending dead letters again, on the real broker and store over the simulated disk.

use std::time::Duration;

use super::*;
use crate::{
    broker::{
        Delivery, Draft, Filter, Group, RetryPolicy, Take,
        testing::{Machine, draft, topic},
    },
    types::{Clock, MessageType, properties::PropertiesBuilder},
};

fn group(name: &str) -> GroupName {
    GroupName::parse(name).unwrap()
}

/// A broker with topic T (one queue), and group g, which gives each message one attempt.
struct World {
    machine: Machine,
    broker: Broker,
}

impl World {
    fn new() -> Self {
        let machine = Machine::new();
        let broker = machine.start();
        let settings = Topic {
            name: topic("T"),
            message_type: Some(MessageType::Mixed),
            read_queues: 1,
            write_queues: 1,
            readable: true,
            writable: true,
        };
        broker.create_topic(settings).unwrap();
        let once = Group {
            name: group("g"),
            fifo: false,
            broadcast: false,
            retry_max_times: 0,
            retry_policy: RetryPolicy::apache(),
            consume_enabled: true,
        };
        broker.create_group(once).unwrap();
        Self { machine, broker }
    }

    async fn send(&self, id: &str, message_group: Option<&str>) {
        let mut properties = PropertiesBuilder::default();
        properties.push(key::UNIQ_KEY, id).push(key::KEYS, "k").push(key::TAGS, "t").push("mine", "kept");
        if let Some(group) = message_group {
            properties.push(key::SHARDING_KEY, group);
        }
        let kind = if message_group.is_some() { MessageType::Fifo } else { MessageType::Normal };
        let draft = Draft { properties: properties.build(), ..draft(kind, message_group, id) };
        self.broker.produce(&topic("T"), vec![draft]).await.unwrap();
    }

    async fn take(&self, from: &str, of: &str) -> Vec<Delivery> {
        let until = self.machine.clock.now();
        let invisible = Duration::from_secs(10);
        let (topic, group) = (topic(from), group(of));
        self.broker
            .take(Take { topic, group, filter: Filter::All, max: 32, invisible, until, attempt_id: None })
            .await
            .unwrap()
    }

    /// Takes everything and lets it fail, so that it is dead.
    async fn fail_all(&self) {
        assert!(!self.take("T", "g").await.is_empty());
        self.machine.clock.advance(Duration::from_secs(11));
        self.broker.revive().await;
        self.committed();
    }

    /// What nobody waits for is on the device, and seen.
    fn committed(&self) {
        self.broker.store().committed_blocking(self.broker.store().end()).unwrap();
    }

    fn waiting(&self) -> Vec<u64> {
        let letters = self.broker.dead_letters(&group("g"), QueueOffset::ZERO, 100, false).unwrap().letters;
        letters.iter().map(|letter| letter.message.queue_offset.get()).collect()
    }

    async fn resend(&self, offset: u64, again: bool) -> Result<Resent, ResendError> {
        let (resent, end) = self.broker.resend_dead_letter(&group("g"), QueueOffset::new(offset), again)?;
        self.broker.resent(end).await?;
        Ok(resent)
    }

    fn crash(self, seed: u64) -> Self {
        let broker = self.machine.crash(self.broker, seed);
        Self { broker, machine: self.machine }
    }
}

#[tokio::test]
async fn a_dead_letter_goes_back_to_its_topic_as_it_was_sent_with_its_id() {
    let world = World::new();
    world.send("a", None).await;
    world.send("b", None).await;
    world.fail_all().await;
    assert_eq!(world.waiting(), [0, 1]);
    let resent = world.resend(0, false).await.unwrap();
    assert_eq!((&*resent.message_id, &resent.topic, resent.offset.get()), ("a", &topic("T"), 2));
    let received = world.take("T", "g").await;
    let [Delivery { message, attempt: 1, .. }] = &received[..] else { panic!("{received:?}") };
    assert_eq!((message.message_id(), message.tag(), &message.body[..]), (Some("a"), Some("t"), &b"a"[..]));
    let told: Vec<_> = message.properties.iter().map(|(name, _)| name).collect();
    assert!(!told.iter().any(|name| name.starts_with("DLQ_") || *name == "RETRY_TOPIC"), "{told:?}");
    assert_eq!(message.properties.get("mine"), Some("kept"));
    assert_eq!(world.waiting(), [1]);
}

#[tokio::test]
async fn a_dead_letter_is_sent_again_once_unless_that_is_asked_for_and_a_crash_keeps_it_so() {
    let mut world = World::new();
    world.send("a", None).await;
    world.fail_all().await;
    world.resend(0, false).await.unwrap();
    for seed in 0..20 {
        world = world.crash(seed);
        assert!(matches!(world.resend(0, false).await, Err(ResendError::Done(_))), "{seed}");
        assert!(world.waiting().is_empty());
    }
    let all = world.broker.dead_letters(&group("g"), QueueOffset::ZERO, 100, true).unwrap().letters;
    assert!(all[0].done && all[0].origin() == Some("T"));
    assert_eq!(world.resend(0, true).await.unwrap().offset.get(), 2);
}

#[tokio::test]
async fn a_crash_leaves_the_copy_and_that_the_letter_is_done_or_neither() {
    for seed in 0..60 {
        let world = World::new();
        world.send("a", None).await;
        world.fail_all().await;
        // Not waited for.
        world.broker.resend_dead_letter(&group("g"), QueueOffset::ZERO, false).unwrap();
        let world = world.crash(seed);
        let copies = crate::broker::testing::messages(&world.broker, &topic("T"), 0).len() - 1;
        assert_eq!(copies, usize::from(world.waiting().is_empty()), "{seed}");
    }
}

#[tokio::test]
async fn a_message_group_keeps_its_queue() {
    let world = World::new();
    let more = crate::broker::TopicChange { queues: Some(7), ..Default::default() };
    world.broker.update_topic(&topic("T"), more).unwrap();
    world.send("a", Some("customer-5")).await;
    let sent = crate::broker::testing::bodies(&world.broker, &topic("T")).len();
    assert_eq!(sent, 1);
    world.fail_all().await;
    let at = world.resend(0, false).await.unwrap();
    assert_eq!((at.queue, at.offset.get()), (crate::broker::produce::queue_of_group("customer-5", 7), 1));
}

#[tokio::test]
async fn what_cannot_be_sent_again_says_why() {
    let world = World::new();
    assert!(world.waiting().is_empty(), "there is no dead-letter topic yet");
    assert!(matches!(world.resend(0, false).await, Err(ResendError::NoLetter { .. })));
    world.send("a", None).await;
    world.fail_all().await;
    assert!(matches!(world.resend(1, false).await, Err(ResendError::NoLetter { .. })));
    let closed = crate::broker::TopicChange { writable: Some(false), ..Default::default() };
    world.broker.update_topic(&topic("T"), closed).unwrap();
    assert!(matches!(world.resend(0, false).await, Err(ResendError::NotWritable(_))));
    world.broker.delete_topic(&topic("T")).unwrap();
    assert!(matches!(world.resend(0, false).await, Err(ResendError::TopicNotFound(_))));
    let nobody = world.broker.dead_letters(&group("x"), QueueOffset::ZERO, 1, false);
    assert!(matches!(nobody, Err(ResendError::GroupNotFound(_))));
    assert_eq!(world.waiting(), [0], "it is still there");
}

#[tokio::test]
async fn a_list_goes_on_where_it_ended() {
    let world = World::new();
    for id in ["a", "b", "c"] {
        world.send(id, None).await;
    }
    world.fail_all().await;
    let some = world.broker.dead_letters(&group("g"), QueueOffset::ZERO, 2, false).unwrap();
    assert_eq!((some.letters.len(), some.next), (2, Some(QueueOffset::new(2))));
    let rest = world.broker.dead_letters(&group("g"), some.next.unwrap(), 2, false).unwrap();
    assert_eq!((rest.letters.len(), rest.next), (1, None));
}

#[tokio::test]
async fn the_progress_on_dead_letters_is_no_lag_of_the_group() {
    let world = World::new();
    world.send("a", None).await;
    world.fail_all().await;
    assert_eq!(world.waiting(), [0]);
    let lag = world.broker.lag(&group("g"), &[]).unwrap();
    assert_eq!((lag.len(), &lag[0].topic, lag[0].backlog.ready), (1, &topic("T"), 0));
}

/// Makes dead letters of group g at once, as their topic's next ones.
fn bury(world: &World, count: usize) {
    let dead = world.broker.ensure_dead_letter_topic(&group("g")).unwrap();
    for n in 0..count {
        let mut properties = PropertiesBuilder::default();
        properties.push(key::UNIQ_KEY, &n.to_string()).push(key::DLQ_ORIGIN_TOPIC, "T");
        let letter = NewMessage {
            topic: dead.name.clone(),
            queue: QueueId(0),
            flag: 0,
            sys_flag: Default::default(),
            born_at: world.machine.clock.wall(),
            born_host: ([127, 0, 0, 1], 1).into(),
            reconsume_times: 0,
            prepared_at: None,
            properties: properties.build(),
            body: bytes::Bytes::from_static(b"x"),
        };
        world.broker.append_to_topic(&dead.name, &[letter], Purpose::User).unwrap().unwrap();
    }
    world.committed();
}

/// What a list of all pages has, by offset, and how many pages those were.
fn listed(world: &World, max: usize, all: bool) -> (Vec<u64>, usize) {
    let (mut offsets, mut next, mut pages) = (Vec::new(), Some(QueueOffset::ZERO), 0);
    while let Some(from) = next {
        let page = world.broker.dead_letters(&group("g"), from, max, all).unwrap();
        offsets.extend(page.letters.iter().map(|letter| letter.message.queue_offset.get()));
        assert!(page.next.is_none_or(|next| next > from));
        (next, pages) = (page.next, pages + 1);
    }
    (offsets, pages)
}

#[tokio::test]
async fn dead_letters_beyond_the_first_read_are_listed_wherever_they_are_read_from() {
    let world = World::new();
    bury(&world, 1500);
    assert_eq!(listed(&world, 10_000, false), ((0..1500).collect(), 1));
    // Those before are in files then, and of those behind the newest are in memory too.
    let world = world.crash(1);
    bury(&world, 1400);
    assert_eq!(listed(&world, 10_000, false), ((0..2900).collect(), 1));
    assert_eq!(listed(&world, 1000, false), ((0..2900).collect(), 3));
    // More than one read has in a row are done.
    for offset in (100..1300).chain([2899]) {
        world.broker.resend_dead_letter(&group("g"), QueueOffset::new(offset), false).unwrap();
    }
    assert_eq!(listed(&world, 10_000, false), ((0..100).chain(1300..2899).collect(), 1));
    assert_eq!(listed(&world, 100, false).0, (0..100).chain(1300..2899).collect::<Vec<_>>());
    assert_eq!(listed(&world, 10_000, true), ((0..2900).collect(), 1));
}

#[tokio::test]
async fn looking_at_dead_letters_makes_no_progress_and_no_backlog() {
    let world = World::new();
    world.send("a", None).await;
    world.send("b", None).await;
    world.fail_all().await;
    assert_eq!(world.waiting(), [0, 1]);
    let topics = |world: &World| world.broker.progress(&group("g")).into_iter().map(|p| p.topic).collect::<Vec<_>>();
    assert_eq!(topics(&world), [topic("T")]);
    world.resend(0, false).await.unwrap();
    assert_eq!(topics(&world).len(), 2, "that is progress");
    let of =
        world.broker.backlogs(crate::types::Deadline::from_micros(u64::MAX)).all.into_iter().map(|b| b.of.unwrap().0);
    assert_eq!(of.collect::<Vec<_>>(), [topic("T")]);
}

#[tokio::test]
async fn a_dead_letter_in_a_consumers_hands_is_in_flight_no_more_when_an_operator_sent_it() {
    let world = World::new();
    world.send("a", None).await;
    world.fail_all().await;
    let dead = TopicName::dead_letter(&group("g"));
    let counted = || {
        let book = world.broker.inner.pop.books(&dead, &group("g")).remove(0);
        let pages = book.open();
        (pages.book.in_flight(), pages.counted)
    };
    let until = world.machine.clock.now();
    let (group, invisible) = (group("g"), Duration::from_secs(10));
    let take = Take { topic: dead.clone(), group, filter: Filter::All, max: 1, invisible, until, attempt_id: None };
    assert_eq!(world.broker.take(take).await.unwrap().len(), 1);
    assert_eq!(counted(), (1, 1));
    world.resend(0, false).await.unwrap();
    assert_eq!(counted(), (0, 0));
}

#[tokio::test]
async fn a_book_of_a_deleted_group_takes_no_record() {
    let world = World::new();
    world.send("a", None).await;
    world.fail_all().await;
    let book = world.broker.dead_letter_book(&group("g")).unwrap().unwrap();
    world.broker.delete_group(&group("g")).unwrap();
    let end = world.broker.store().end();
    let append = |unit: &[NewMessage]| Some(world.broker.store().append(unit, Purpose::User));
    assert!(world.broker.append_done_through(&book, QueueOffset::ZERO, vec![], append).unwrap().is_none());
    assert_eq!(world.broker.store().end(), end);
}
