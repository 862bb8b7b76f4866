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
        world.broker.expire_lite().await;
        assert_eq!(world.broker.dropped_lite_topics(), []);
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
        world.broker.expire_lite().await;
    }
    assert_eq!(world.lite_topics(), 2);
    world.send_to("new", "n").await.unwrap();
    world.subscribe("d", &["m"]).await;
    assert_eq!(world.consume("d").await, ["m0"], "a message is never lost by that");
    world.broker.store().close();
}

#[tokio::test]
async fn what_retention_deletes_is_forgotten_and_what_follows_comes() {
    let world = retaining(2);
    world.subscribe("c", &["a"]).await;
    world.send(&["a0", "x0"]).await;
    assert_eq!(world.taken("c").await, ["a0"]);
    retain(&world).await;
    world.broker.revive().await;
    assert_eq!(min(&world), 2, "retention has emptied it");
    world.broker.expire_lite().await;
    assert_eq!(world.lite_topics(), 1, "a had a subscriber until now, x had nothing any more");
    let waiting: u64 = world.broker.progress(&group()).iter().map(|p| p.waiting_retry + p.in_flight).sum();
    assert_eq!(waiting, 0, "no attempt of what is gone");
    world.subscribe("c", &["a", "x"]).await;
    world.send(&["a1"]).await;
    assert_eq!(world.consume("c").await, ["a1"]);
    world.broker.store().close();
}

#[tokio::test]
async fn where_a_group_was_in_a_lite_topic_without_messages_does_not_stay_after_a_start() {
    let world = retaining(2);
    world.subscribe("c", &["a", "b"]).await;
    world.send(&["a0"]).await;
    assert_eq!(world.consume("c").await, ["a0"]);
    retain(&world).await;
    world.send(&["b0"]).await;
    assert_eq!(world.consume("c").await, ["b0"]);
    let world = world.restart();
    let begun = || world.broker.inner.pop.books(&parent(), &group())[0].cursors().len();
    assert_eq!(begun(), 2);
    world.broker.expire_lite().await;
    assert_eq!(begun(), 1, "b has a message yet");
    world.subscribe("c", &["a", "b"]).await;
    world.send(&["a1", "b1"]).await;
    assert_eq!(world.consume("c").await, ["a1", "b1"]);
    world.broker.store().close();
}

#[tokio::test]
async fn the_ack_of_what_retention_took_meanwhile_lets_its_lite_topic_go_on() {
    for swept in [false, true] {
        let world = retaining(2);
        world.subscribe("c", &["a"]).await;
        world.send(&["a0"]).await;
        let long = Take { invisible: Duration::from_secs(100 * 3600), ..world.poll("c", 1) };
        let taken = world.broker.take(long).await.unwrap();
        retain(&world).await;
        world.send(&["a1", "a2"]).await;
        if swept {
            world.broker.expire_lite().await;
            world.subscribe("c", &["a"]).await;
        }
        let _ = world.ack(&taken[0].receipt).await;
        assert_eq!(world.consume("c").await, ["a1", "a2"], "swept: {swept}");
        let world = world.restart();
        world.subscribe("c", &["a"]).await;
        assert!(world.consume("c").await.is_empty(), "swept: {swept}");
        world.broker.store().close();
    }
}

#[tokio::test]
async fn what_follows_a_message_that_expired_unread_is_done_for_good() {
    let world = retaining(2);
    world.send(&["a0"]).await;
    retain(&world).await;
    world.send(&["a1", "a2"]).await;
    assert_eq!(min(&world), 1);
    // a0 was never swept from the index.
    world.subscribe("c", &["a"]).await;
    let taken = world.take("c").await;
    assert_eq!(texts(&taken), ["a1"]);
    world.ack(&taken[0].receipt).await.unwrap();
    assert_eq!(world.consume("c").await, ["a2"]);
    let world = world.restart();
    world.subscribe("c", &["a"]).await;
    assert!(world.consume("c").await.is_empty());
    world.broker.store().close();
}

#[tokio::test]
async fn a_poll_parked_behind_what_retention_takes_is_woken() {
    let world = retaining(2);
    world.subscribe("c", &["a"]).await;
    world.send(&["a0"]).await;
    let long = Take { invisible: Duration::from_secs(100 * 3600), ..world.poll("c", 1) };
    assert_eq!(world.broker.take(long).await.unwrap().len(), 1);
    fill(&world).await;
    world.send(&["a1"]).await;
    let poll = world.park("c").await;
    expire(&world);
    assert_eq!(min(&world), 1);
    // Its client is there; the sweep finds that a0 is gone though it is in flight.
    world.subscribe("c", &["a"]).await;
    world.broker.expire_lite().await;
    assert_eq!(texts(&poll.await.unwrap().unwrap()), ["a1"]);
    world.broker.store().close();
}

#[tokio::test]
async fn who_subscribed_is_told_when_the_group_is_deleted_and_nothing_of_it_stays() {
    let world = World::new();
    world.subscribe("c", &["a"]).await;
    world.broker.delete_group(&group()).unwrap();
    assert_eq!(world.broker.inner.lite.sets.total(), 0);
    assert_eq!(world.broker.dropped_lite_topics(), [(client("c"), "a".to_owned())]);
    world.broker.store().close();
}

#[tokio::test]
async fn a_set_that_ends_while_it_changes_keeps_nothing() {
    let world = World::new();
    let topic = world.broker.topic("sessions").unwrap();
    let of = world.broker.inner.lite.parent(&world.broker.inner.store, &topic).unwrap();
    let set = world.broker.lite_set(&client("c"), &parent(), &group()).unwrap();
    world.broker.client_gone(&client("c"));
    let id = crate::types::LiteId::of("a");
    assert!(!world.broker.put_into(&of, &set, &[id], false).unwrap(), "it has ended");
    assert_eq!((world.broker.inner.lite.sets.total(), of.is_wanted(id, None, None)), (0, false));
    // Whoever changes it begins anew with another one.
    world.subscribe("c", &["a"]).await;
    assert_eq!(world.broker.inner.lite.sets.total(), 1);
    world.broker.store().close();
}

#[tokio::test]
async fn who_subscribed_is_told_when_the_parent_is_deleted_and_the_next_of_its_name_is_empty() {
    let world = World::new();
    world.subscribe("c", &["a", "b"]).await;
    world.send(&["a0", "b0"]).await;
    assert_eq!(world.take("c").await.len(), 2);
    world.broker.delete_topic(&parent()).unwrap();
    let mut told = world.broker.dropped_lite_topics();
    told.sort();
    assert_eq!(told, [(client("c"), "a".to_owned()), (client("c"), "b".into())]);
    assert_eq!(world.broker.dropped_lite_topics(), [], "once");
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
