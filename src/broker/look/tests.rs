//! What operators see, on the real broker and store over the simulated disk.

use std::time::Duration;

use super::{Browse, Cursor, LookError};
use crate::{
    broker::{
        Broker, Draft, Filter, Take,
        testing::{Machine, normal, topic},
    },
    types::{
        Clock, GroupName, MessageType, PhysicalOffset, QueueId, QueueOffset, StoredMessage, Timestamp,
        properties::{PropertiesBuilder, key},
    },
};

fn group() -> GroupName {
    GroupName::parse("billing").unwrap()
}

struct World {
    machine: Machine,
    broker: Broker,
}

impl World {
    fn new(queues: u32) -> Self {
        let mut machine = Machine::new();
        machine.store.index = true;
        machine.config.default_queues = queues;
        let broker = machine.start();
        Self { machine, broker }
    }

    async fn send(&self, id: &str, keys: &str) {
        let mut properties = PropertiesBuilder::default();
        properties.push(key::UNIQ_KEY, id).push(key::KEYS, keys).push(key::TAGS, &id[..1]);
        let draft = Draft { properties: properties.build(), ..normal(id) };
        self.broker.produce(&topic("orders"), vec![draft]).await.unwrap();
    }

    fn browse(&self) -> Browse {
        Browse {
            topic: topic("orders"),
            queue: None,
            from: Timestamp::ZERO,
            to: Timestamp::from_millis(i64::MAX),
            filter: Filter::All,
            after: None,
            max: 100,
            bytes_max: 1 << 20,
            looked_at_max: 1000,
            until: self.machine.clock.now().plus(Duration::from_secs(1)),
        }
    }

    async fn take(&self, max: usize) -> Vec<crate::broker::Delivery> {
        let until = self.machine.clock.now();
        let invisible = Duration::from_secs(30);
        let take = Take {
            topic: topic("orders"),
            group: group(),
            filter: Filter::All,
            max,
            invisible,
            until,
            attempt_id: None,
        };
        self.broker.take(take).await.unwrap()
    }
}

fn ids(messages: &[StoredMessage]) -> Vec<&str> {
    messages.iter().map(|m| m.message_id().unwrap()).collect()
}

fn seconds(world: &World, n: u64) {
    world.machine.clock.advance(Duration::from_secs(n));
}

#[tokio::test]
async fn pages_together_have_every_message_once_in_the_order_of_their_times() {
    let world = World::new(4);
    let all: Vec<String> = (0..23).map(|n| format!("a{n:02}")).collect();
    for id in &all {
        world.send(id, "").await;
        seconds(&world, 1);
    }
    for max in [1, 5, 23, 100] {
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let page = world.broker.browse(&Browse { after, max, ..world.browse() }).unwrap();
            assert!(page.messages.len() <= max);
            seen.extend(ids(&page.messages).into_iter().map(String::from));
            let Some(next) = page.next else { break };
            // As it travels.
            after = Some(next.to_string().parse::<Cursor>().unwrap());
        }
        assert_eq!(seen, all, "pages of {max}");
    }
}

#[tokio::test]
async fn a_page_is_bounded_by_bytes_and_shows_at_least_one_message() {
    let world = World::new(1);
    world.send("a-long-one", "").await;
    world.send("b", "").await;
    let page = world.broker.browse(&Browse { bytes_max: 1, ..world.browse() }).unwrap();
    assert_eq!(ids(&page.messages), ["a-long-one"]);
    let rest = world.broker.browse(&Browse { after: page.next, ..world.browse() }).unwrap();
    assert_eq!((ids(&rest.messages), rest.next), (vec!["b"], None));
}

#[tokio::test]
async fn a_span_of_time_a_queue_and_a_tag_narrow_what_is_shown() {
    let world = World::new(2);
    let start = world.machine.clock.wall();
    for id in ["a1", "b2", "a3", "b4", "a5"] {
        world.send(id, "").await;
        seconds(&world, 10);
    }
    let shown = |browse: Browse| {
        let page = world.broker.browse(&browse).unwrap();
        ids(&page.messages).into_iter().map(String::from).collect::<Vec<_>>()
    };
    let at = |n| start.plus(Duration::from_secs(n));
    assert_eq!(shown(Browse { from: at(10), to: at(30), ..world.browse() }), ["b2", "a3", "b4"]);
    assert_eq!(shown(Browse { filter: Filter::tags("a").unwrap(), ..world.browse() }), ["a1", "a3", "a5"]);
    let both: Vec<_> = (0..2).map(|queue| shown(Browse { queue: Some(QueueId(queue)), ..world.browse() })).collect();
    assert_eq!(both.iter().map(Vec::len).sum::<usize>(), 5);
    let nowhere = world.broker.browse(&Browse { queue: Some(QueueId(2)), ..world.browse() });
    assert!(matches!(nowhere, Err(LookError::NoQueue { queues: 2, .. })));
    let unknown = world.broker.browse(&Browse { topic: topic("x"), ..world.browse() });
    assert!(matches!(unknown, Err(LookError::TopicNotFound(_))));
    let too_many = Some(Cursor::from_str_of_many());
    assert!(matches!(world.broker.browse(&Browse { after: too_many, ..world.browse() }), Err(LookError::Cursor(_))));
}

impl Cursor {
    fn from_str_of_many() -> Self {
        "1.0.0.0".parse().unwrap()
    }
}

#[test]
fn a_cursor_is_text_that_is_ours() {
    for text in [
        "",
        "1",
        "1.",
        "3.0",
        "1.x",
        "1.+1",
        "1.ffffffffffffffff",
        "1.0.",
        "1.-1",
        "2.",
        "2.0.0",
        "2.+1",
        "2.ffffffffffffffff",
    ] {
        assert!(text.parse::<Cursor>().is_err(), "{text}");
    }
}

#[tokio::test]
async fn messages_are_found_by_id_and_by_key_and_not_by_one_for_the_other() {
    let world = World::new(2);
    world.send("a1", "k1 k2").await;
    seconds(&world, 10);
    world.send("b2", "k2 a1").await;
    let by_id = |id: &str| world.broker.find_by_id(&topic("orders"), id).unwrap();
    assert_eq!(ids(&by_id("a1")), ["a1"]);
    assert!(by_id("k1").is_empty() && by_id("c").is_empty());
    let always = (Timestamp::ZERO, Timestamp::from_millis(i64::MAX));
    let by_key =
        |key: &str, (from, to)| world.broker.find_by_key(key, &Browse { from, to, ..world.browse() }).unwrap().messages;
    assert_eq!(ids(&by_key("k2", always)), ["b2", "a1"]);
    assert_eq!(ids(&by_key("a1", always)), ["b2"]);
    let early = (Timestamp::ZERO, world.machine.clock.wall().plus(Duration::ZERO));
    let before = (Timestamp::ZERO, Timestamp::from_millis(early.1.as_millis() - 1));
    assert_eq!((ids(&by_key("k2", early)).len(), ids(&by_key("k2", before))), (2, vec!["a1"]));
}

#[tokio::test]
async fn messages_with_a_key_are_found_however_many_newer_ones_are_not_wanted() {
    let world = World::new(2);
    let start = world.machine.clock.wall();
    for n in 0..100 {
        world.send(&format!("a{n:02}"), "k k").await;
        seconds(&world, 1);
    }
    // Its id is the key of all the others.
    world.send("k", "").await;
    let early = Browse { to: start.plus(Duration::from_secs(1)), ..world.browse() };
    assert_eq!(ids(&world.broker.find_by_key("k", &early).unwrap().messages), ["a01", "a00"]);
    for _ in 0..100 {
        world.send("other", "k").await;
    }
    assert_eq!(ids(&world.broker.find_by_id(&topic("orders"), "k").unwrap()), ["k"]);
    let tag = Browse { filter: Filter::tags("a").unwrap(), ..world.browse() };
    assert_eq!(world.broker.find_by_key("k", &tag).unwrap().messages.len(), 100);
    let of_queue = |queue| {
        let browse = Browse { queue: Some(QueueId(queue)), max: 1000, ..world.browse() };
        world.broker.find_by_key("k", &browse).map(|page| page.messages.len())
    };
    assert_eq!(of_queue(0).unwrap() + of_queue(1).unwrap(), 200);
    assert!(matches!(of_queue(2), Err(LookError::NoQueue { .. })));
}

#[tokio::test]
async fn pages_of_a_key_together_have_every_message_once_the_newest_first() {
    let world = World::new(2);
    let mut all: Vec<String> = (0..23).map(|n| format!("a{n:02}")).collect();
    for id in &all {
        world.send(id, "k x").await;
        world.send("b", "x").await;
    }
    all.reverse();
    for (max, looked_at_max, bytes_max) in
        [(1, 100, 1000), (5, 100, 1000), (23, 100, 1000), (100, 3, 1000), (100, 100, 7)]
    {
        let (mut after, mut seen) = (None, Vec::new());
        loop {
            let browse = Browse { after, max, looked_at_max, bytes_max, ..world.browse() };
            let page = world.broker.find_by_key("k", &browse).unwrap();
            assert!(page.messages.len() <= max && page.looked_at <= looked_at_max);
            seen.extend(ids(&page.messages).into_iter().map(String::from));
            let Some(next) = page.next else { break };
            // As it travels.
            after = Some(next.to_string().parse::<Cursor>().unwrap());
        }
        assert_eq!(seen, all, "pages of {max}, {looked_at_max} looked at, {bytes_max} bytes");
    }
    let of_queues = Some(Cursor::Queues(vec![QueueOffset::ZERO; 2]));
    let wrong = world.broker.find_by_key("k", &Browse { after: of_queues, ..world.browse() });
    assert!(matches!(wrong, Err(LookError::Cursor(_))));
    let of_a_key = Some(Cursor::Below(PhysicalOffset::ZERO));
    assert!(matches!(world.broker.browse(&Browse { after: of_a_key, ..world.browse() }), Err(LookError::Cursor(_))));
    let late = Browse { until: world.machine.clock.now(), ..world.browse() };
    let page = world.broker.find_by_key("k", &late).unwrap();
    assert!(page.looked_at == 1 && page.next.is_some(), "it ends in time, and goes on");
}

#[tokio::test]
async fn a_message_without_an_id_is_found_by_the_one_that_its_place_gives_it() {
    let world = World::new(1);
    world.broker.produce(&topic("orders"), vec![normal("first")]).await.unwrap();
    world.broker.produce(&topic("orders"), vec![normal("second")]).await.unwrap();
    let stored = &crate::broker::testing::messages(&world.broker, &topic("orders"), 0)[1];
    let id = |at: u64| format!("7F00000100001F91{at:016X}");
    let found = world.broker.find_by_id(&topic("orders"), &id(stored.physical.get())).unwrap();
    assert_eq!(found[0].body, "second");
    for nowhere in [stored.physical.get() + 1, 1 << 40, PhysicalOffset::MAX.get(), u64::MAX] {
        assert!(world.broker.find_by_id(&topic("orders"), &id(nowhere)).unwrap().is_empty(), "{nowhere:x}");
    }
}

#[tokio::test]
async fn without_an_index_nothing_is_found_and_the_answer_says_why() {
    let machine = Machine::new();
    let broker = machine.start();
    broker.produce(&topic("orders"), vec![normal("a")]).await.unwrap();
    let refused = broker.find_by_id(&topic("orders"), "a").unwrap_err();
    assert!(matches!(refused, LookError::NotIndexed) && refused.to_string().contains("messageIndexEnable"));
}

#[tokio::test]
async fn the_lag_of_a_group_is_exact_and_says_since_when() {
    let world = World::new(1);
    let start = world.machine.clock.wall();
    for id in ["a1", "a2", "a3", "a4"] {
        world.send(id, "").await;
        seconds(&world, 10);
    }
    let taken = world.take(2).await;
    world.broker.ack(&topic("orders"), &group(), &[taken[0].receipt.clone()]).await.unwrap();
    let lag = world.broker.lag(&group(), &[]).unwrap();
    let queue = &lag[0];
    assert_eq!((queue.commit, queue.max), (QueueOffset::new(1), QueueOffset::new(4)));
    assert_eq!((queue.backlog.in_flight, queue.backlog.ready), (1, 2));
    assert_eq!(queue.ready_since, Some(start.plus(Duration::from_secs(20))));
    assert_eq!(queue.consumed_to, Some(start));
    let span = &world.broker.time_span(&group(), &[topic("orders")]).unwrap()[0];
    let at = |n| Some(start.plus(Duration::from_secs(n)));
    assert_eq!((span.oldest, span.newest, span.next), (at(0), at(30), at(10)));
    let unknown = GroupName::parse("x").unwrap();
    assert!(matches!(world.broker.lag(&unknown, &[]), Err(LookError::GroupNotFound(_))));
    assert!(matches!(world.broker.lag(&group(), &[topic("x")]), Err(LookError::TopicNotFound(_))));
}

#[tokio::test]
async fn an_empty_queue_has_no_times() {
    let world = World::new(1);
    let named = crate::broker::Topic {
        name: topic("orders"),
        message_type: Some(MessageType::Normal),
        read_queues: 1,
        write_queues: 1,
        readable: true,
        writable: true,
    };
    world.broker.create_topic(named).unwrap();
    assert!(world.take(1).await.is_empty());
    let span = &world.broker.time_span(&group(), &[]).unwrap()[0];
    assert_eq!((span.oldest, span.newest, span.next), (None, None, None));
    let lag = &world.broker.lag(&group(), &[]).unwrap()[0];
    assert_eq!((lag.ready_since, lag.consumed_to, lag.backlog.ready), (None, None, 0));
}

#[tokio::test]
async fn a_page_ends_where_it_may_look_no_further_and_another_goes_on_there() {
    let world = World::new(2);
    for id in ["a1", "b2", "a3", "b4", "b5"] {
        world.send(id, "k").await;
        seconds(&world, 10);
    }
    let filter = Filter::tags("a").unwrap();
    let base = || Browse { filter: filter.clone(), looked_at_max: 2, ..world.browse() };
    let page = world.broker.browse(&base()).unwrap();
    assert_eq!((ids(&page.messages), page.looked_at), (vec!["a1"], 2));
    let rest = world.broker.browse(&Browse { after: page.next, ..base() }).unwrap();
    assert_eq!((ids(&rest.messages), rest.looked_at), (vec!["a3"], 2));
    let until = world.machine.clock.now();
    let late = world.broker.browse(&Browse { until, looked_at_max: 1000, ..base() }).unwrap();
    assert_eq!((late.looked_at, late.next.is_some()), (1, true));
}
