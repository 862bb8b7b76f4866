//! Sets: actions, quotas, where a group begins.

use super::*;
use crate::types::QueueOffset;

#[tokio::test]
async fn the_actions_add_remove_replace_and_clear_however_often_they_are_said() {
    let world = World::new();
    let set = || {
        let set = world.broker.lite_set(&client("c"), &parent(), &group()).unwrap();
        let has = |name: &&&str| set.contains(crate::types::LiteId::of(name));
        ["a", "b", "c"].iter().filter(has).copied().collect::<String>()
    };
    for (action, names, expected) in [
        (LiteAction::Add, &["a"][..], "a"),
        (LiteAction::Add, &["a", "b", "b"], "ab"),
        (LiteAction::Remove, &["a", "c"], "b"),
        (LiteAction::Replace, &["a", "c"], "ac"),
        (LiteAction::Replace, &[], ""),
        (LiteAction::Add, &["b"], "b"),
        (LiteAction::Clear, &[], ""),
    ] {
        for _ in 0..2 {
            world.sync("c", action, names, LiteStart::Last).await.unwrap();
            assert_eq!(set(), expected, "{action:?} {names:?}");
            assert_eq!(world.broker.inner.lite.sets.total(), expected.len());
        }
    }
    assert_eq!(world.lite_topics(), 3, "each came into being when it was first named");
    world.broker.store().close();
}

#[tokio::test]
async fn quotas_refuse_and_change_nothing() {
    let world = World::with(|config| {
        config.lite_subscription_quota = 2;
        config.lite_subscriptions_max = 3;
        config.lite_topics_max = 4;
    });
    let quota = |result| matches!(result, Err(LiteError::SubscriptionQuota { .. }));
    world.subscribe("c", &["a", "b"]).await;
    assert!(quota(world.sync("c", LiteAction::Add, &["c"], LiteStart::Last).await));
    assert!(quota(world.sync("c", LiteAction::Replace, &["a", "b", "c"], LiteStart::Last).await));
    world.sync("c", LiteAction::Replace, &["a", "b"], LiteStart::Last).await.unwrap();
    assert!(quota(world.sync("d", LiteAction::Add, &["a", "b"], LiteStart::Last).await), "of all clients");
    world.send(&["c0", "d0"]).await;
    assert!(matches!(world.send_to("e", "e0").await, Err(ProduceError::TooManyLiteTopics { max: 4 })));
    assert!(matches!(
        world.sync("d", LiteAction::Add, &["e"], LiteStart::Last).await,
        Err(LiteError::TopicQuota { max: 4 })
    ));
    world.send(&["a0"]).await;
    assert_eq!(world.consume("c").await, ["a0"]);
    world.broker.store().close();
}

#[tokio::test]
async fn changes_sent_side_by_side_keep_to_the_quota() {
    let world = World::with(|config| config.lite_subscription_quota = 3);
    // Each waits for the disk between its look at the quota and its end.
    let (one, other) = tokio::join!(
        world.sync("c", LiteAction::Add, &["a", "b"], LiteStart::Max),
        world.sync("c", LiteAction::Add, &["c", "d"], LiteStart::Max),
    );
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    assert_eq!(world.broker.inner.lite.sets.total(), 2);
    world.broker.store().close();
}

#[test]
fn a_client_beyond_the_most_is_refused_and_its_set_is_not_made() {
    let (sets, polls) = (crate::broker::lite::Sets::default(), LongPoll::new(1, 1));
    let line = polls.loose_line();
    let now = crate::types::Deadline::default();
    let of = |n: usize| {
        let client = client(&format!("c{n}"));
        sets.of(&client, &parent(), &group(), || line.clone(), now).is_some()
    };
    assert!((0..crate::broker::clients::CLIENTS_MAX).all(of));
    assert!(!of(usize::MAX));
    assert!(of(7), "those that are known stay");
}

#[tokio::test]
async fn undone_messages_have_a_bound() {
    let world = World::with(|config| config.lite_messages_max = 2);
    world.send(&["a0", "b0"]).await;
    assert!(matches!(world.send_to("a", "a1").await, Err(ProduceError::LiteFull { messages: 2, max: 2 })));
    world.broker.store().close();
}

#[tokio::test]
async fn consumed_messages_make_room_for_new_ones_and_take_no_memory_after_a_start() {
    let mut world = World::with(|config| config.lite_messages_max = 4);
    world.subscribe("c", &["a", "b"]).await;
    for round in 0..5 {
        world.send(&["a0", "b0", "a1", "b1"]).await;
        let full = world.send_to("a", "a2").await;
        assert!(matches!(full, Err(ProduceError::LiteFull { .. })), "round {round}: {full:?}");
        // Which of two lite topics comes first is nobody's promise.
        let mut came = world.consume("c").await;
        came.sort();
        assert_eq!(came, ["a0", "a1", "b0", "b1"]);
        world.machine.clock.advance(Duration::from_secs(2));
        if round == 2 {
            world = world.crash(5);
            assert!(world.known_messages() <= 5, "{}", world.known_messages());
            world.subscribe("c", &["a", "b"]).await;
            assert!(world.consume("c").await.is_empty());
            world.machine.clock.advance(Duration::from_secs(2));
        }
    }
    world.broker.store().close();
}

fn others() -> GroupName {
    GroupName::parse("others").unwrap()
}

/// Client d of another group wants lite topic a.
async fn another_group_wants_a(world: &World) {
    let (names, action, start) = (vec!["a".to_owned()], LiteAction::Add, LiteStart::Last);
    let sync = LiteSync { topic: parent(), group: others(), client: client("d"), action, names, start };
    world.broker.sync_lite(sync).await.unwrap();
}

#[tokio::test]
async fn what_a_group_wants_and_has_not_begun_with_is_kept_for_it_over_a_crash() {
    let world = World::with(|config| config.lite_messages_max = 2);
    another_group_wants_a(&world).await;
    world.subscribe("c", &["a"]).await;
    world.send(&["a0", "a1"]).await;
    assert_eq!(world.consume("c").await, ["a0", "a1"]);
    let world = world.crash(14);
    // Nobody has said yet what it wants.
    world.machine.clock.advance(Duration::from_secs(20));
    world.broker.expire_lite().await;
    let full = world.send_to("a", "a2").await;
    assert!(matches!(full, Err(ProduceError::LiteFull { .. })), "{full:?}");
    another_group_wants_a(&world).await;
    let topic = world.broker.topic("sessions").unwrap();
    let filter = world.broker.lite_filter(&topic, &others(), &client("d")).unwrap().unwrap();
    let taken = world.broker.take(Take { group: others(), filter, ..world.poll("d", 32) }).await.unwrap();
    assert_eq!(texts(&taken), ["a0"]);
    world.broker.store().close();
}

#[tokio::test]
async fn what_a_group_wanted_once_is_not_kept_for_it_for_ever() {
    let world = World::with(|config| config.lite_messages_max = 2);
    another_group_wants_a(&world).await;
    world.subscribe("c", &["a"]).await;
    world.send(&["a0", "a1"]).await;
    assert_eq!(world.consume("c").await, ["a0", "a1"]);
    let world = world.crash(15);
    world.machine.clock.advance(world.machine.config.client_timeout);
    world.broker.expire_lite().await;
    world.send(&["a2"]).await;
    world.broker.store().close();
}

#[tokio::test]
async fn what_a_group_has_not_done_is_kept_when_room_is_made() {
    let world = World::with(|config| config.lite_messages_max = 4);
    world.subscribe("c", &["a"]).await;
    let other = others();
    another_group_wants_a(&world).await;
    world.send(&["a0", "a1", "x0"]).await;
    assert_eq!(world.consume("c").await, ["a0", "a1"]);
    world.machine.clock.advance(Duration::from_secs(2));
    assert!(world.broker.produce(&parent(), vec![for_lite("a", "a2"), for_lite("a", "a3")]).await.is_err());
    let topic = world.broker.topic("sessions").unwrap();
    let mut came = Vec::new();
    for _ in 0..2 {
        let filter = world.broker.lite_filter(&topic, &other, &client("d")).unwrap().unwrap();
        let take = Take { group: other.clone(), filter, ..world.poll("d", 32) };
        let taken = world.broker.take(take).await.unwrap();
        came.extend(texts(&taken));
        let receipts: Vec<_> = taken.iter().map(|d| d.receipt.clone()).collect();
        world.broker.ack(&parent(), &other, &receipts).await.unwrap();
    }
    assert_eq!(came, ["a0", "a1"], "the group that was behind got all");
    world.machine.clock.advance(Duration::from_secs(2));
    world.send(&["a2", "a3"]).await;
    world.subscribe("c", &["x"]).await;
    assert_eq!(world.consume("c").await, ["a2", "x0", "a3"]);
    world.broker.store().close();
}

#[tokio::test]
async fn the_bounds_are_those_of_all_parents_together() {
    let world = World::with(|config| (config.lite_topics_max, config.lite_messages_max) = (3, 3));
    let second = TopicName::parse("second").unwrap();
    let topic = Topic { name: second.clone(), ..Topic::clone(&world.broker.topic("sessions").unwrap()) };
    world.broker.create_topic(topic).unwrap();
    world.send(&["a0", "b0"]).await;
    world.broker.produce(&second, vec![for_lite("a", "a0")]).await.unwrap();
    let many = world.broker.produce(&second, vec![for_lite("a", "a1")]).await;
    assert!(matches!(many, Err(ProduceError::LiteFull { messages: 3, max: 3 })), "{many:?}");
    let full = world.sync("c", LiteAction::Add, &["z"], LiteStart::Last).await;
    assert!(matches!(full, Err(LiteError::TopicQuota { max: 3 })), "{full:?}");
    world.broker.delete_topic(&second).unwrap();
    world.subscribe("c", &["z"]).await;
    world.send(&["z0"]).await;
    world.broker.store().close();
}

#[tokio::test]
async fn a_group_begins_where_its_first_client_says() {
    let sent_at = Duration::from_secs(10);
    for (start, expected) in [
        (LiteStart::Last, &["a0", "a1", "a2"][..]),
        (LiteStart::Min, &["a0", "a1", "a2"]),
        (LiteStart::Max, &[]),
        // Of the queue: x0 has 1.
        (LiteStart::Offset(QueueOffset::new(1)), &["a1", "a2"]),
        (LiteStart::Offset(QueueOffset::new(900)), &[]),
        (LiteStart::Tail(1), &["a2"]),
        (LiteStart::Tail(0), &[]),
        (LiteStart::Tail(9), &["a0", "a1", "a2"]),
        (LiteStart::Time(crate::types::Timestamp::from_millis(1_725_000_010_000)), &["a1", "a2"]),
    ] {
        let world = World::new();
        world.send(&["a0", "x0"]).await;
        world.machine.clock.advance(sent_at);
        world.send(&["a1", "a2"]).await;
        world.sync("c", LiteAction::Add, &["a"], start).await.unwrap();
        let world = world.crash(8);
        world.subscribe("c", &["a"]).await;
        assert_eq!(world.consume("c").await, expected, "{start:?}");
        world.send(&["a3"]).await;
        assert_eq!(world.consume("c").await, ["a3"], "{start:?}");
        world.broker.store().close();
    }
}

#[tokio::test]
async fn a_start_that_is_repeated_or_said_by_a_second_client_moves_nothing() {
    let world = World::new();
    world.send(&["a0", "a1"]).await;
    world.sync("c", LiteAction::Add, &["a"], LiteStart::Min).await.unwrap();
    let taken = world.take("c").await;
    world.sync("c", LiteAction::Add, &["a"], LiteStart::Max).await.unwrap();
    world.sync("d", LiteAction::Add, &["a"], LiteStart::Max).await.unwrap();
    world.ack(&taken[0].receipt).await.unwrap();
    assert_eq!(world.consume("d").await, ["a1"]);
    world.broker.store().close();
}

#[tokio::test]
async fn a_start_further_back_brings_everything_again_and_voids_what_was_in_flight() {
    let world = World::new();
    world.send(&["a0", "a1", "a2"]).await;
    world.subscribe("c", &["a"]).await;
    assert_eq!(world.take("c").await.len(), 1);
    let first = world.take("c").await;
    assert!(first.is_empty());
    world.later(LEASE).await;
    let taken = world.take("c").await;
    world.ack(&taken[0].receipt).await.unwrap();
    let second = world.take("c").await;
    assert_eq!(texts(&second), ["a1"]);
    world.sync("c", LiteAction::Clear, &[], LiteStart::Last).await.unwrap();
    world.sync("c", LiteAction::Add, &["a"], LiteStart::Min).await.unwrap();
    assert!(world.ack(&second[0].receipt).await.is_err());
    assert_eq!(world.consume("c").await, ["a0", "a1", "a2"]);
    world.broker.store().close();
}

#[tokio::test]
async fn a_topic_of_another_type_has_no_lite_topics() {
    let world = World::new();
    let plain = TopicName::parse("plain").unwrap();
    world.broker.topic_for(&plain).await.unwrap();
    world.broker.produce(&plain, vec![normal("n")]).await.unwrap();
    let (names, action, start) = (vec!["a".to_owned()], LiteAction::Add, LiteStart::Last);
    let sync = LiteSync { topic: plain.clone(), group: group(), client: client("c"), action, names, start };
    let refused = world.broker.sync_lite(sync).await;
    assert!(matches!(refused, Err(LiteError::Take(TakeError::NotLite(topic))) if topic == plain));
    let lite = world.broker.produce(&plain, vec![for_lite("a", "a0")]).await;
    assert!(matches!(lite, Err(ProduceError::TypeConflict { actual: MessageType::Lite, .. })));
    world.broker.store().close();
}

/// The attempt of a message that failed once before its group went back to it, after a crash.
async fn attempt_after_going_back() -> u32 {
    let world = World::new();
    world.send(&["a0", "a1"]).await;
    world.subscribe("c", &["a"]).await;
    world.take("c").await;
    world.later(LEASE).await;
    let again = world.take("c").await;
    assert_eq!(again[0].attempt, 2);
    world.ack(&again[0].receipt).await.unwrap();
    world.take("c").await;
    world.later(LEASE).await;
    world.sync("c", LiteAction::Clear, &[], LiteStart::Last).await.unwrap();
    world.sync("c", LiteAction::Add, &["a"], LiteStart::Min).await.unwrap();
    let world = world.crash(9);
    world.later(LEASE).await;
    world.subscribe("c", &["a"]).await;
    let first = world.take("c").await;
    assert_eq!((texts(&first), first[0].attempt), (vec!["a0".to_owned()], 1));
    world.ack(&first[0].receipt).await.unwrap();
    let second = world.take("c").await;
    assert_eq!(texts(&second), ["a1"]);
    world.broker.store().close();
    second[0].attempt
}

#[tokio::test]
async fn what_failed_before_the_group_went_back_does_not_count_after_a_crash() {
    assert_eq!(attempt_after_going_back().await, 1);
}

#[tokio::test]
async fn attempts_that_outlive_going_back_would_be_noticed() {
    let _planted = crate::broker::pop::faults::plant(crate::broker::pop::faults::Fault::AttemptsOutliveRewind);
    assert_eq!(attempt_after_going_back().await, 2);
}
