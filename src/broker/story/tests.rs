//! Lives of messages, told by a real broker and store over the simulated disk.

use super::*;
use crate::{
    broker::{
        Askable, Decision, Delivery, Draft, Filter, Group, Receipt, RetryPolicy, Take, Topic,
        testing::{Machine, draft, topic},
    },
    types::{
        Clock, MessageType,
        properties::{PropertiesBuilder, key},
    },
};

struct World {
    machine: Machine,
    broker: Broker,
}

fn group(name: &str) -> GroupName {
    GroupName::parse(name).unwrap()
}

fn client() -> (ClientId, SocketAddr) {
    (ClientId::parse("client@host").unwrap(), ([10, 0, 0, 7], 5000).into())
}

impl World {
    /// Topic T with one queue, and group g, which gives each message two attempts, 10 s apart.
    fn new() -> Self {
        let mut machine = Machine::new();
        machine.store.index = true;
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
        let group = Group {
            name: group("g"),
            fifo: false,
            broadcast: false,
            retry_max_times: 1,
            retry_policy: RetryPolicy::apache(),
            consume_enabled: true,
        };
        broker.create_group(group).unwrap();
        Self { machine, broker }
    }

    async fn send(&self, id: &str, kind: MessageType, due_in: Option<u64>) -> crate::broker::Produced {
        let mut properties = PropertiesBuilder::default();
        properties.push(key::UNIQ_KEY, id);
        if let Some(seconds) = due_in {
            let due = self.now().plus(Duration::from_secs(seconds));
            properties.push(key::TIMER_DELIVER_MS, &due.to_string());
        }
        if kind == MessageType::Transaction {
            properties.push(key::TRAN_MSG, "true");
        }
        let draft = Draft { properties: properties.build(), ..draft(kind, None, id) };
        self.broker.produce(&topic("T"), vec![draft]).await.unwrap().remove(0)
    }

    fn now(&self) -> Timestamp {
        self.machine.clock.wall()
    }

    async fn pass(&self, seconds: u64) {
        self.machine.clock.advance(Duration::from_secs(seconds));
        self.broker.revive().await;
        self.broker.fire_timers().await;
        self.committed();
    }

    /// What nobody waits for is on the device, and seen.
    fn committed(&self) {
        self.broker.store().committed_blocking(self.broker.store().end()).unwrap();
    }

    fn saw(&self, what: Seen, receipts: &[&Receipt]) {
        let messages = receipts.iter().map(|r| (r.queue(), r.offset(), r.attempt())).collect();
        let ((client, host), at) = (client(), self.now());
        let host = Some(host);
        self.broker.seen(Sighting { at, what, client, host, topic: topic("T"), group: group("g"), messages });
    }

    /// Takes for 10 s, as the front does it.
    async fn take(&self) -> Delivery {
        let (until, invisible) = (self.machine.clock.now(), Duration::from_secs(10));
        let (topic, group) = (topic("T"), group("g"));
        let take = Take { topic, group, filter: Filter::All, max: 1, invisible, until, attempt_id: None };
        let taken = self.broker.take(take).await.unwrap().remove(0);
        self.saw(Seen::Delivered { until: self.now().plus(invisible) }, &[&taken.receipt]);
        taken
    }

    async fn ack(&self, delivery: &Delivery) {
        let receipts = std::slice::from_ref(&delivery.receipt);
        self.broker.ack(&topic("T"), &group("g"), receipts).await.unwrap().remove(0).unwrap();
        self.saw(Seen::Acked, &[&delivery.receipt]);
    }

    fn story(&self, id: &str) -> Story {
        let anywhere = self.broker.explain(None, id).unwrap().expect("it is known");
        let of_topic = self.broker.explain(Some(&topic("T")), id).unwrap().expect("of its topic");
        assert_eq!(anywhere.copies, of_topic.copies);
        anywhere
    }

    fn crash(self, seed: u64) -> Self {
        let broker = self.machine.crash(self.broker, seed);
        Self { broker, machine: self.machine }
    }
}

fn happened(story: &Story) -> Vec<&Happened> {
    story.events.iter().map(|event| &event.what).collect()
}

#[tokio::test]
async fn a_message_that_failed_once_and_was_acked_is_told_with_who_and_until_when() {
    let world = World::new();
    world.send("a", MessageType::Normal, None).await;
    world.send("other", MessageType::Normal, None).await;
    let start = world.now();
    let at = |seconds| start.plus(Duration::from_secs(seconds));
    world.pass(1).await;
    world.take().await;
    world.pass(10).await;
    let again = loop {
        let taken = world.take().await;
        if taken.message.message_id() == Some("a") {
            break taken;
        }
        world.ack(&taken).await;
    };
    world.pass(1).await;
    world.ack(&again).await;
    let story = world.story("a");
    let expected = [
        &Happened::Stored,
        &Happened::Delivered { attempt: 1, until: at(11) },
        &Happened::Failed { next_attempt: 2, due: at(11), delay: Duration::ZERO },
        &Happened::Delivered { attempt: 2, until: at(21) },
        &Happened::Acked,
    ];
    assert_eq!(happened(&story), expected);
    assert_eq!(story.events[4].client, Some(client()), "the record of the log and who was seen are one");
    assert_eq!((story.events[4].at, story.events[4].group.clone()), (at(12), Some(group("g"))));
    assert_eq!(story.copies[0].kind, Kind::Message);
    assert_eq!(story.standings[0].state, State::Done);
    assert!(story.gaps.is_empty(), "{:?}", story.gaps);
}

#[tokio::test]
async fn what_a_fifo_group_got_is_told_after_a_restart_too_and_once() {
    let world = World::new();
    let change = crate::broker::GroupChange { fifo: Some(true), ..Default::default() };
    world.broker.update_group(&group("g"), change).unwrap();
    world.send("a", MessageType::Normal, None).await;
    let taken = world.take().await;
    let lease = Duration::from_secs(25);
    world.broker.renew(&topic("T"), &group("g"), &taken.receipt, lease).unwrap();
    // Nobody waits for the record of it.
    world.committed();
    let delivered = |story: &Story| match happened(story).as_slice() {
        [Happened::Stored, Happened::Delivered { attempt: 1, until }] => until.since(world.now()).as_secs(),
        other => panic!("{other:?}"),
    };
    let story = world.story("a");
    assert_eq!((delivered(&story), story.events[1].client.clone()), (25, Some(client())));
    let world = world.crash(1);
    let story = world.story("a");
    assert!(matches!(happened(&story)[1], Happened::Delivered { .. }), "{:?}", story.events);
    assert_eq!(story.events[1].client, None, "who got it is not in the log");
}

#[tokio::test]
async fn where_a_group_is_with_a_message_is_told_as_it_is_now() {
    let world = World::new();
    world.send("a", MessageType::Normal, None).await;
    assert!(world.story("a").standings.is_empty(), "no group has begun");
    let taken = world.take().await;
    let until = world.now().plus(Duration::from_secs(10));
    assert_eq!(world.story("a").standings[0].state, State::InFlight { attempt: 1, until });
    let delay = Duration::from_secs(60);
    world.broker.change_invisible(&topic("T"), &group("g"), &taken.receipt, delay).await.unwrap();
    world.saw(Seen::Changed { until: world.now().plus(delay) }, &[&taken.receipt]);
    let story = world.story("a");
    let changed = story.events.last().unwrap();
    assert!(matches!(changed.what, Happened::Failed { next_attempt: 2, delay: d, .. } if d == delay), "{changed:?}");
    assert_eq!(changed.client, Some(client()));
    world.send("b", MessageType::Normal, None).await;
    assert_eq!(world.story("b").standings[0].state, State::Ahead);
}

#[tokio::test]
async fn a_dead_letter_says_after_how_many_failures_and_that_it_was_sent_again() {
    let world = World::new();
    world.send("a", MessageType::Normal, None).await;
    for _ in 0..2 {
        world.take().await;
        world.pass(11).await;
    }
    let to = TopicName::dead_letter(&group("g"));
    let story = world.story("a");
    let dead = Happened::DeadLettered { to: to.clone(), failures: 2, attempts_max: 2 };
    assert!(happened(&story).contains(&&dead), "{:?}", story.events);
    assert_eq!(story.copies[1].kind, Kind::DeadLetter);
    world.pass(1).await;
    let (_, end) = world.broker.resend_dead_letter(&group("g"), QueueOffset::ZERO, false).unwrap();
    world.broker.resent(end).await.unwrap();
    let story = world.story("a");
    let resent = story.events.iter().find(|e| e.what == Happened::Resent { to: topic("T") }).expect("it is told");
    assert_eq!((&resent.topic, resent.offset), (&to, QueueOffset::ZERO));
    assert_eq!(story.copies.len(), 3);
}

#[tokio::test]
async fn an_ack_of_the_millisecond_in_which_another_group_dead_lettered_is_no_dead_letter() {
    let world = World::new();
    let other = Group { name: group("h"), ..(*world.broker.group("g").unwrap()).clone() };
    world.broker.create_group(other).unwrap();
    world.send("a", MessageType::Normal, None).await;
    let given_up = world.take().await;
    let take = Take {
        topic: topic("T"),
        group: group("h"),
        filter: Filter::All,
        max: 1,
        invisible: Duration::from_secs(10),
        until: world.machine.clock.now(),
        attempt_id: None,
    };
    let acked = world.broker.take(take).await.unwrap().remove(0);
    world.broker.forward_to_dead_letter(&topic("T"), &group("g"), &given_up.receipt).await.unwrap();
    world.broker.ack(&topic("T"), &group("h"), &[acked.receipt]).await.unwrap().remove(0).unwrap();
    // Sent again and acknowledged in the same millisecond: that is no dead letter's resending either.
    world.send("a", MessageType::Normal, None).await;
    let again = world.take().await;
    world.ack(&again).await;
    let story = world.story("a");
    let of = |name: &str| {
        let events = story.events.iter().filter(|event| event.group.as_ref().is_some_and(|g| g.as_str() == name));
        events.map(|event| event.what.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of("h"), [Happened::Acked], "{:?}", story.events);
    let to = TopicName::dead_letter(&group("g"));
    assert!(of("g").contains(&Happened::DeadLettered { to, failures: 0, attempts_max: 2 }), "{:?}", story.events);
    assert_eq!(of("g").iter().filter(|what| **what == Happened::Acked).count(), 1, "{:?}", story.events);
}

#[tokio::test]
async fn a_timer_recalled_in_the_millisecond_in_which_another_of_its_id_was_set_is_recalled_and_not_moved() {
    let world = World::new();
    world.send("a", MessageType::Delay, Some(30)).await;
    let first = world.broker.find_timers(None, "a").unwrap();
    world.send("a", MessageType::Delay, Some(60)).await;
    world.broker.cancel_timers(None, "a").unwrap();
    let story = world.story("a");
    assert_eq!((first.len(), story.copies.len()), (1, 2));
    let recalled = happened(&story).into_iter().filter(|what| **what == Happened::Recalled).count();
    assert_eq!(recalled, 2, "{:?}", story.events);
}

#[tokio::test]
async fn a_message_given_up_by_its_consumer_says_so() {
    let world = World::new();
    world.send("a", MessageType::Normal, None).await;
    let taken = world.take().await;
    world.broker.forward_to_dead_letter(&topic("T"), &group("g"), &taken.receipt).await.unwrap();
    world.saw(Seen::GaveUp, &[&taken.receipt]);
    let story = world.story("a");
    let dead = |what: &&Happened| matches!(what, Happened::DeadLettered { failures: 0, .. });
    assert!(happened(&story).iter().any(dead) && happened(&story).contains(&&Happened::GaveUp), "{:?}", story.events);
}

#[tokio::test]
async fn what_a_client_of_a_broadcasting_group_gave_up_is_told_from_what_it_acknowledged() {
    let mut world = World::new();
    let change = crate::broker::GroupChange { broadcast: Some(true), ..Default::default() };
    world.broker.update_group(&group("g"), change).unwrap();
    let names = ["acks", "fails", "gives-up", "acks-late"];
    let [acks, fails, gives_up, acks_late] = names.map(|name| {
        let id = ClientId::parse(name).unwrap();
        world.broker.join(&topic("T"), &group("g"), &id).unwrap();
        world.broker.consumes_as(&group("g"), &id)
    });
    world.send("a", MessageType::Normal, None).await;
    let (broker, clock) = (world.broker.clone(), world.machine.clock.clone());
    let take = async |by: &GroupName| {
        let (until, invisible) = (clock.now(), Duration::from_secs(10));
        let (topic, group) = (topic("T"), by.clone());
        let take = Take { topic, group, filter: Filter::All, max: 1, invisible, until, attempt_id: None };
        broker.take(take).await.unwrap().remove(0).receipt
    };
    let of_acks = take(&acks).await;
    broker.ack(&topic("T"), &acks, &[of_acks]).await.unwrap().remove(0).unwrap();
    let given_up = take(&gives_up).await;
    broker.forward_to_dead_letter(&topic("T"), &gives_up, &given_up).await.unwrap();
    for _ in 0..2 {
        take(&fails).await;
        world.pass(11).await;
    }
    // Put off as the last attempt, which is on record as a failure, and acknowledged after all.
    take(&acks_late).await;
    world.pass(11).await;
    let last = take(&acks_late).await;
    let last = broker.change_invisible(&topic("T"), &acks_late, &last, Duration::from_secs(60)).await.unwrap();
    broker.ack(&topic("T"), &acks_late, std::slice::from_ref(&last)).await.unwrap().remove(0).unwrap();
    let (at, (client, host)) = (world.now(), client());
    let messages = std::iter::once((last.queue(), last.offset(), last.attempt())).collect();
    let (what, host) = (Seen::Acked, Some(host));
    broker.seen(Sighting { at, what, client, host, topic: topic("T"), group: acks_late.clone(), messages });
    let ends = |story: &Story, of: &GroupName| {
        let of = story.events.iter().filter(|event| event.group.as_ref() == Some(of)).map(|event| event.what.clone());
        of.filter(|what| matches!(what, Happened::Acked | Happened::Dropped { .. })).collect::<Vec<_>>()
    };
    let dropped = |attempts| vec![Happened::Dropped { attempts, attempts_max: 2 }];
    let story = world.story("a");
    assert_eq!(ends(&story, &acks), [Happened::Acked]);
    assert_eq!(ends(&story, &acks_late), [Happened::Acked]);
    assert_eq!(ends(&story, &gives_up), dropped(1));
    assert_eq!(ends(&story, &fails), dropped(2));
    let counts = broker.group_counts();
    let named = counts.iter().filter(|counts| counts.of.is_some());
    assert_eq!(named.map(|counts| (counts.given_up, counts.dead)).collect::<Vec<_>>(), [(2, 0)]);
    drop(broker);
    world = world.crash(3);
    assert_eq!(ends(&world.story("a"), &fails), dropped(2), "by what the log says alone");
    assert_eq!(ends(&world.story("a"), &acks), [Happened::Acked]);
}

#[tokio::test]
async fn a_timer_tells_when_it_was_due_how_late_it_was_and_what_became_of_it() {
    let world = World::new();
    let due = world.now().plus(Duration::from_secs(30));
    for id in ["fired", "recalled"] {
        world.send(id, MessageType::Delay, Some(30)).await;
    }
    world.send("moved", MessageType::Delay, Some(30)).await;
    world.broker.cancel_timers(None, "recalled").unwrap();
    let later = world.now().plus(Duration::from_secs(90));
    world.broker.reschedule_timers(None, "moved", later).unwrap();
    world.pass(31).await;
    let late = Duration::from_secs(1);
    assert_eq!(
        happened(&world.story("fired")),
        [&Happened::Held { due }, &Happened::Stored, &Happened::Fired { late }]
    );
    assert_eq!(happened(&world.story("recalled")), [&Happened::Held { due }, &Happened::Recalled]);
    let moved = world.story("moved");
    assert_eq!(
        happened(&moved),
        [&Happened::Held { due }, &Happened::Held { due: later }, &Happened::Moved { due: later }]
    );
    assert_eq!(moved.copies.len(), 2);
}

#[tokio::test]
async fn a_transaction_tells_its_checks_and_its_decision() {
    let world = World::new();
    for (id, decision) in [("committed", Decision::Commit), ("rolled-back", Decision::Rollback)] {
        let produced = world.send(id, MessageType::Transaction, None).await;
        world.pass(1).await;
        let transaction = produced.transaction.unwrap().to_string();
        world.broker.end_transaction(&topic("T"), id, &transaction, decision).await.unwrap();
    }
    let committed = world.story("committed");
    assert_eq!(happened(&committed), [&Happened::Prepared, &Happened::Stored, &Happened::Committed]);
    assert_eq!(committed.copies[0].kind, Kind::Half);
    assert_eq!(happened(&world.story("rolled-back")), [&Happened::Prepared, &Happened::RolledBack]);

    world.send("asked", MessageType::Transaction, None).await;
    world.pass(7).await;
    let round = world.broker.due_checks(|_| Askable::Now).await;
    world.broker.checks_sent(&[round.checks[0].transaction]);
    world.committed();
    let asked = world.story("asked");
    assert_eq!(happened(&asked), [&Happened::Prepared, &Happened::Checked { times: 1 }]);
}

#[tokio::test]
async fn after_a_crash_the_log_still_tells_and_what_only_memory_knew_is_said_to_be_gone() {
    let world = World::new();
    world.send("a", MessageType::Normal, None).await;
    let taken = world.take().await;
    world.ack(&taken).await;
    world.machine.clock.advance(Duration::from_secs(1));
    let world = world.crash(7);
    let story = world.story("a");
    assert_eq!(happened(&story), [&Happened::Stored, &Happened::Acked]);
    assert!(story.events[1].client.is_none());
    assert!(matches!(story.gaps[..], [Gap::Deliveries(_)]), "{:?}", story.gaps);
}

#[tokio::test]
async fn that_a_group_is_forgotten_is_told_of_what_it_consumed_alone() {
    let world = World::new();
    world.send("a", MessageType::Normal, None).await;
    world.send("b", MessageType::Normal, None).await;
    let taken = world.take().await;
    world.ack(&taken).await;
    world.broker.delete_group(&group("g")).unwrap();
    world.committed();
    let forgotten = |id: &str| happened(&world.story(id)).contains(&&Happened::Forgotten);
    assert_eq!((forgotten("a"), forgotten("b")), (true, false));
}

#[tokio::test]
async fn a_reset_and_a_forgotten_subscription_are_told() {
    let world = World::new();
    world.send("a", MessageType::Normal, None).await;
    let taken = world.take().await;
    world.ack(&taken).await;
    world.broker.reset_offset(&topic("T"), &group("g"), QueueId(0), QueueOffset::ZERO).await.unwrap();
    world.broker.forget_subscription(&topic("T"), &group("g")).unwrap();
    world.committed();
    let story = world.story("a");
    let told = happened(&story);
    assert!(told.contains(&&Happened::Reset { to: QueueOffset::ZERO }), "{told:?}");
    assert!(told.contains(&&Happened::Forgotten), "{told:?}");
    assert!(story.standings.is_empty());
}

#[tokio::test]
async fn nothing_is_told_of_what_never_was() {
    let world = World::new();
    assert!(world.broker.explain(None, "x").unwrap().is_none());
    assert!(matches!(world.broker.explain(Some(&topic("x")), "x"), Err(LookError::TopicNotFound(_))));
}

#[tokio::test]
async fn a_search_of_every_topic_ends_in_time_and_says_so() {
    let world = World::new();
    world.send("a", MessageType::Normal, None).await;
    world.committed();
    let later = world.machine.clock.now().plus(Duration::from_secs(1));
    let (copies, missing) = world.broker.copies(None, "a", later).unwrap();
    assert!(copies.len() == 1 && missing.is_none());
    let late = world.broker.copies(None, "a", world.machine.clock.now());
    assert!(matches!(late, Err(LookError::TooSlow { searched: 0, topics: 4 })), "{late:?}");
}
