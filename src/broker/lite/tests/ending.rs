//! What nobody uses ends.

use super::*;

#[tokio::test]
async fn a_set_that_is_not_refreshed_ends_after_the_clients_timeout_and_no_message_with_it() {
    let world = World::new();
    world.subscribe("silent", &["a"]).await;
    world.subscribe("alive", &["b"]).await;
    for _ in 0..3 {
        world.machine.clock.advance(Duration::from_secs(50));
        world.sync("alive", LiteAction::Replace, &["b"], LiteStart::Last).await.unwrap();
        assert!(world.broker.expire_lite().is_empty());
    }
    world.send(&["a0", "b0"]).await;
    assert_eq!(world.broker.inner.lite.sets.total(), 1);
    assert!(world.taken("silent").await.is_empty());
    assert_eq!(world.consume("alive").await, ["b0"]);
    world.subscribe("another", &["a"]).await;
    assert_eq!(world.consume("another").await, ["a0"]);
    world.broker.store().close();
}

#[tokio::test]
async fn a_client_that_says_goodbye_has_no_set() {
    let world = World::new();
    world.subscribe("c", &["a"]).await;
    world.broker.client_gone(&client("c"));
    assert_eq!(world.broker.inner.lite.sets.total(), 0);
    world.broker.store().close();
}

#[tokio::test]
async fn an_idle_lite_topic_ends_and_makes_room_unless_it_has_messages_or_subscribers() {
    let world = World::with(|config| {
        config.lite_topic_idle = Duration::from_secs(600);
        config.lite_topics_max = 3;
    });
    world.subscribe("c", &["kept", "idle"]).await;
    world.sync("c", LiteAction::Remove, &["idle"], LiteStart::Last).await.unwrap();
    world.send(&["m0"]).await;
    assert!(world.send_to("new", "n").await.is_err());
    for _ in 0..12 {
        world.machine.clock.advance(Duration::from_secs(60));
        world.sync("c", LiteAction::Replace, &["kept"], LiteStart::Last).await.unwrap();
        world.broker.expire_lite();
    }
    assert_eq!(world.lite_topics(), 2);
    world.send_to("new", "n").await.unwrap();
    world.subscribe("d", &["m"]).await;
    assert_eq!(world.consume("d").await, ["m0"], "a message is never lost by that");
    world.broker.store().close();
}

#[tokio::test]
async fn what_retention_deletes_is_forgotten_and_what_follows_comes() {
    let mut machine = Machine::new();
    machine.store.flush = crate::store::FlushPolicy::Async { interval: Duration::from_secs(3600) };
    machine.store.threads = crate::store::Threads::Stepped;
    machine.store.retention.delete_when = (0..24).collect();
    let broker = machine.start();
    let world = World { machine, broker };
    world.make(2);
    world.subscribe("c", &["a"]).await;
    world.send(&["a0", "x0"]).await;
    assert_eq!(world.taken("c").await, ["a0"]);
    let filler = TopicName::parse("filler").unwrap();
    for _ in 0..4 {
        let draft = Draft { body: vec![b'x'; 500_000].into(), ..normal("") };
        world.broker.produce(&filler, vec![draft]).await.unwrap();
    }
    let store = world.broker.store().clone();
    store.step().unwrap();
    world.broker.snapshot().unwrap();
    world.machine.clock.advance(Duration::from_secs(73 * 3600));
    world.broker.revive().await;
    store.step().unwrap();
    assert_eq!(store.queue(&parent(), QUEUE).min().get(), 2, "retention has emptied it");
    world.broker.expire_lite();
    assert_eq!(world.lite_topics(), 1, "a had a subscriber until now, x had nothing any more");
    let waiting: u64 = world.broker.progress(&group()).iter().map(|p| p.waiting_retry + p.in_flight).sum();
    assert_eq!(waiting, 0, "no attempt of what is gone");
    world.subscribe("c", &["a", "x"]).await;
    world.send(&["a1"]).await;
    assert_eq!(world.consume("c").await, ["a1"]);
    store.close();
}

#[tokio::test]
async fn who_subscribed_is_told_when_the_parent_is_deleted_and_the_next_of_its_name_is_empty() {
    let world = World::new();
    world.subscribe("c", &["a", "b"]).await;
    world.send(&["a0", "b0"]).await;
    assert_eq!(world.take("c").await.len(), 2);
    world.broker.delete_topic(&parent()).unwrap();
    let mut told = world.broker.expire_lite();
    told.sort();
    assert_eq!(told, [(client("c"), "a".to_owned()), (client("c"), "b".into())]);
    assert!(world.broker.expire_lite().is_empty(), "once");
    world.make(2);
    assert_eq!(world.lite_topics(), 0);
    world.subscribe("c", &["a"]).await;
    world.send(&["a1"]).await;
    assert_eq!(world.consume("c").await, ["a1"]);
    let world = world.restart();
    world.subscribe("c", &["a"]).await;
    assert!(world.consume("c").await.is_empty());
    world.broker.store().close();
}
