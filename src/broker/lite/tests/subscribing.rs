//! Sets: actions, quotas, where a group begins.

use super::*;
use crate::types::QueueOffset;

#[tokio::test]
async fn the_actions_add_remove_replace_and_clear_however_often_they_are_said() {
    let world = World::new();
    let set = || {
        let set = world.broker.lite_set(&client("c"), &parent(), &group());
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
async fn stored_messages_have_a_bound() {
    let world = World::with(|config| config.lite_messages_max = 2);
    world.send(&["a0", "b0"]).await;
    assert!(matches!(world.send_to("a", "a1").await, Err(ProduceError::LiteFull { messages: 2, max: 2 })));
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
