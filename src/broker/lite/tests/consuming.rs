//! What comes to whom, in which order, how often.

use futures_util::FutureExt;

use super::*;
use crate::broker::testing::bodies;

#[tokio::test]
async fn a_client_gets_its_lite_topics_one_message_of_each_at_a_time() {
    let world = World::new();
    world.subscribe("c", &["a", "b"]).await;
    world.send(&["a0", "x0", "a1", "b0", "x1", "a2"]).await;
    let first = world.take("c").await;
    assert_eq!(texts(&first), ["a0", "b0"]);
    assert!(world.taken("c").await.is_empty(), "the first ones are in flight");
    world.ack(&first[0].receipt).await.unwrap();
    assert_eq!(world.taken("c").await, ["a1"]);
    world.broker.store().close();
}

#[tokio::test]
async fn what_nobody_wants_holds_up_nobody_and_waits_for_who_comes() {
    let world = World::new();
    world.subscribe("c", &["a"]).await;
    world.send(&["x0", "a0", "x1", "a1"]).await;
    assert_eq!(world.consume("c").await, ["a0", "a1"]);
    let world = world.crash(1);
    world.subscribe("late", &["x"]).await;
    assert_eq!(world.consume("late").await, ["x0", "x1"]);
    world.broker.store().close();
}

#[tokio::test]
async fn each_group_is_where_it_is() {
    let world = World::new();
    world.subscribe("c", &["a"]).await;
    world.send(&["a0", "a1"]).await;
    assert_eq!(world.consume("c").await, ["a0", "a1"]);
    let other = GroupName::parse("others").unwrap();
    let names = vec!["a".to_owned()];
    let (action, start) = (LiteAction::Add, LiteStart::Last);
    let sync = LiteSync { topic: parent(), group: other.clone(), client: client("d"), action, names, start };
    world.broker.sync_lite(sync).await.unwrap();
    let topic = world.broker.topic("sessions").unwrap();
    let filter = world.broker.lite_filter(&topic, &other, &client("d")).unwrap().unwrap();
    let taken = world.broker.take(Take { group: other, filter, ..world.poll("d", 32) }).await.unwrap();
    assert_eq!(texts(&taken), ["a0"]);
    world.broker.store().close();
}

#[tokio::test]
async fn what_was_acked_does_not_come_again_after_a_crash_and_what_was_in_flight_does() {
    for snapshot in [false, true] {
        let world = World::new();
        world.subscribe("c", &["a", "b"]).await;
        world.send(&["a0", "b0", "a1"]).await;
        let taken = world.take("c").await;
        world.ack(&taken[0].receipt).await.unwrap();
        if snapshot {
            world.broker.snapshot().unwrap();
        }
        let world = world.crash(3);
        assert!(world.taken("c").await.is_empty(), "its set is not known any more");
        world.subscribe("c", &["a", "b"]).await;
        assert_eq!(world.consume("c").await, ["a1", "b0"]);
        world.broker.store().close();
    }
}

#[tokio::test]
async fn a_receipt_from_before_a_crash_moves_its_lite_topic_on() {
    let world = World::new();
    world.subscribe("c", &["a"]).await;
    world.send(&["x0", "a0", "a1"]).await;
    let taken = world.take("c").await;
    let world = world.crash(4);
    world.ack(&taken[0].receipt).await.unwrap();
    world.ack(&taken[0].receipt).await.unwrap();
    let world = world.crash(5);
    world.subscribe("c", &["a"]).await;
    assert_eq!(world.consume("c").await, ["a1"]);
    world.broker.store().close();
}

#[tokio::test]
async fn a_failed_message_locks_its_own_lite_topic_and_comes_again_first() {
    let world = World::new();
    world.subscribe("c", &["a", "b"]).await;
    world.send(&["a0", "a1", "b0", "b1"]).await;
    let taken = world.take("c").await;
    world.broker.change_invisible(&parent(), &group(), &taken[0].receipt, LEASE).await.unwrap();
    world.ack(&taken[1].receipt).await.unwrap();
    assert_eq!(world.taken("c").await, ["b1"]);
    world.later(LEASE).await;
    let again = world.take("c").await;
    assert_eq!((texts(&again), again[0].attempt), (vec!["a0".to_owned(), "b1".into()], 2));
    world.broker.store().close();
}

#[tokio::test]
async fn a_suspended_message_comes_again_as_the_same_attempt_however_often() {
    let mut world = World::new();
    world.subscribe("c", &["a"]).await;
    world.send(&["a0", "a1"]).await;
    for round in 0..2 * ATTEMPTS {
        let taken = world.take("c").await;
        assert_eq!((texts(&taken), taken[0].attempt), (vec!["a0".to_owned()], 1), "round {round}");
        world.broker.suspend(&parent(), &group(), &taken[0].receipt, LEASE).await.unwrap();
        if round % 2 == 1 {
            world.broker.snapshot().unwrap();
        }
        if round > 3 {
            world = world.crash(u64::from(round));
            world.subscribe("c", &["a"]).await;
        }
        assert!(world.taken("c").await.is_empty(), "it pauses, and what follows it waits");
        world.later(LEASE + Duration::from_millis(2)).await;
    }
    assert_eq!(world.consume("c").await, ["a0", "a1"]);
    world.broker.store().close();
}

#[tokio::test]
async fn the_receipt_of_a_suspended_message_acks_it() {
    let world = World::new();
    world.subscribe("c", &["a"]).await;
    world.send(&["a0", "a1"]).await;
    let taken = world.take("c").await;
    let receipt = world.broker.suspend(&parent(), &group(), &taken[0].receipt, LEASE).await.unwrap();
    assert!(world.ack(&taken[0].receipt).await.is_err(), "the old one is dead");
    world.ack(&receipt).await.unwrap();
    assert_eq!(world.consume("c").await, ["a1"]);
    world.broker.store().close();
}

#[tokio::test]
async fn after_its_attempts_a_message_is_dead_lettered_once_and_its_lite_topic_goes_on() {
    let world = World::new();
    world.subscribe("c", &["a"]).await;
    world.send(&["a0", "a1"]).await;
    for attempt in 1..=ATTEMPTS {
        let taken = world.take("c").await;
        assert_eq!((texts(&taken), taken[0].attempt), (vec!["a0".to_owned()], attempt));
        world.later(LEASE).await;
    }
    let world = world.crash(6);
    world.later(LEASE).await;
    world.subscribe("c", &["a"]).await;
    assert_eq!(world.consume("c").await, ["a1"]);
    let dead = TopicName::dead_letter(&group());
    assert_eq!(bodies(&world.broker, &dead), ["a0"]);
    world.broker.store().close();
}

#[tokio::test]
async fn a_message_given_up_twice_is_in_the_dead_letter_topic_once() {
    let world = World::new();
    world.subscribe("c", &["a"]).await;
    world.send(&["a0", "a1"]).await;
    let taken = world.take("c").await;
    for _ in 0..2 {
        world.broker.forward_to_dead_letter(&parent(), &group(), &taken[0].receipt).await.unwrap();
    }
    assert_eq!(bodies(&world.broker, &TopicName::dead_letter(&group())), ["a0"]);
    assert_eq!(world.consume("c").await, ["a1"]);
    world.broker.store().close();
}

#[tokio::test]
async fn an_operator_skips_what_comes_first_and_what_comes_later() {
    let world = World::new();
    world.subscribe("c", &["a"]).await;
    world.send(&["a0", "x0", "a1", "a2", "a3"]).await;
    for offset in [3, 0] {
        let at = crate::types::QueueOffset::new(offset);
        assert!(world.broker.skip(&group(), &parent(), QUEUE, at).await.unwrap());
        assert!(!world.broker.skip(&group(), &parent(), QUEUE, at).await.unwrap(), "it is done already");
    }
    let world = world.crash(7);
    world.subscribe("c", &["a"]).await;
    assert_eq!(world.consume("c").await, ["a1", "a3"]);
    world.broker.store().close();
}

#[tokio::test]
async fn a_repeated_poll_gets_the_same_messages_though_they_lock_their_lite_topics() {
    let world = World::new();
    world.subscribe("c", &["a"]).await;
    world.send(&["a0", "a1"]).await;
    let attempt_id = crate::broker::AttemptId::parse("poll-1");
    for _ in 0..2 {
        let take = Take { attempt_id: attempt_id.clone(), ..world.poll("c", 32) };
        let taken = world.broker.take(take).await.unwrap();
        assert_eq!((texts(&taken), taken[0].attempt), (vec!["a0".to_owned()], 1));
    }
    world.broker.store().close();
}

#[tokio::test]
async fn a_parked_poll_is_woken_by_what_is_in_its_set_and_by_nothing_else() {
    let world = World::new();
    world.subscribe("c", &["a"]).await;
    world.subscribe("d", &["b"]).await;
    let (mut of_c, of_d) = (world.park("c").await, world.park("d").await);
    world.send(&["x0", "b0"]).await;
    assert_eq!(texts(&of_d.await.unwrap().unwrap()), ["b0"]);
    assert!((&mut of_c).now_or_never().is_none());
    world.send(&["a0"]).await;
    let taken = of_c.await.unwrap().unwrap();
    assert_eq!(texts(&taken), ["a0"]);
    // What follows is let through by the ack.
    world.send(&["a1"]).await;
    let next = world.park("c").await;
    world.ack(&taken[0].receipt).await.unwrap();
    assert_eq!(texts(&next.await.unwrap().unwrap()), ["a1"]);
    world.broker.store().close();
}

#[tokio::test]
async fn a_parked_poll_is_woken_by_a_retry_that_falls_due_and_by_a_new_subscription() {
    let world = World::new();
    world.subscribe("c", &["a"]).await;
    world.send(&["a0", "b0"]).await;
    let taken = world.take("c").await;
    world.broker.change_invisible(&parent(), &group(), &taken[0].receipt, LEASE).await.unwrap();
    let poll = world.park("c").await;
    world.later(LEASE).await;
    assert_eq!(texts(&poll.await.unwrap().unwrap()), ["a0"]);
    let poll = world.park("c").await;
    world.subscribe("c", &["b"]).await;
    assert_eq!(texts(&poll.await.unwrap().unwrap()), ["b0"]);
    world.broker.store().close();
}

#[tokio::test]
async fn what_is_no_lite_message_does_not_enter_and_no_other_consumer_takes() {
    let mut machine = Machine::new();
    machine.config.check_message_type = false;
    let broker = machine.start();
    let world = World { machine, broker };
    world.make(2);
    assert!(matches!(
        world.broker.produce(&parent(), vec![normal("n")]).await,
        Err(ProduceError::TypeConflict { expected: MessageType::Lite, .. })
    ));
    let take = Take { filter: Filter::All, ..world.poll("c", 1) };
    assert!(matches!(world.broker.take(take).await, Err(TakeError::LiteOnly(_))));
    let plain = crate::broker::TopicChange { message_type: Some(MessageType::Normal), ..Default::default() };
    assert!(world.broker.update_topic(&parent(), plain).is_err(), "the type is for good");
    world.broker.store().close();
}

#[tokio::test]
async fn every_lite_topic_of_a_large_set_has_its_turn() {
    const COUNT: usize = 9000;
    let world = World::with(|config| config.lite_subscription_quota = COUNT);
    let names: Vec<String> = (0..COUNT).map(|n| format!("n{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.subscribe("c", &names).await;
    // The last ones alone have something at first, so a poll looks at nothing else.
    for name in &names[COUNT - 10..] {
        world.send_to(name, "m").await.unwrap();
    }
    assert_eq!(world.consume("c").await.len(), 10);
    for chunk in names.chunks(500) {
        let drafts = chunk.iter().map(|name| for_lite(name, name)).collect();
        world.broker.produce(&parent(), drafts).await.unwrap();
    }
    let mut came = std::collections::BTreeSet::new();
    while came.len() < COUNT {
        let taken = world.taken("c").await;
        assert!(!taken.is_empty(), "only {} came", came.len());
        came.extend(taken);
    }
    world.broker.store().close();
}

#[tokio::test]
async fn a_poll_that_found_no_room_is_woken_when_there_is_some() {
    let world = World::with(|config| config.in_flight_max = 1);
    world.subscribe("c", &["a"]).await;
    world.subscribe("d", &["b"]).await;
    world.send(&["a0", "b0"]).await;
    let taken = world.take("c").await;
    let poll = world.park("d").await;
    world.ack(&taken[0].receipt).await.unwrap();
    assert_eq!(texts(&poll.await.unwrap().unwrap()), ["b0"]);
    world.broker.store().close();
}

/// Clients c, d and e with lite topics a, b and z, a message in each.
async fn three(in_flight_max: usize) -> World {
    let world = World::with(|config| config.in_flight_max = in_flight_max);
    for (by, name) in [("c", "a"), ("d", "b"), ("e", "z")] {
        world.subscribe(by, &[name]).await;
    }
    world.send(&["a0", "b0", "z0"]).await;
    world
}

async fn woken(poll: tokio::task::JoinHandle<Result<Vec<Delivery>, TakeError>>) -> Vec<String> {
    let taken = tokio::time::timeout(Duration::from_secs(10), poll).await.expect("the poll sleeps on");
    texts(&taken.unwrap().unwrap())
}

#[tokio::test]
async fn a_due_attempt_wakes_its_poll_once_it_has_room_though_as_many_wait_as_may() {
    let world = three(2).await;
    let failed = world.take("c").await;
    world.broker.change_invisible(&parent(), &group(), &failed[0].receipt, Duration::ZERO).await.unwrap();
    assert_eq!(world.taken("d").await, ["b0"]);
    let long = Take { invisible: 9 * LEASE, ..world.poll("e", 1) };
    assert_eq!(texts(&world.broker.take(long).await.unwrap()), ["z0"]);
    let poll = world.park("c").await;
    // b0 joins a0 among what waits, and nobody polls for it.
    world.later(LEASE).await;
    assert_eq!(woken(poll).await, ["a0"]);
    world.broker.store().close();
}

#[tokio::test]
async fn room_is_for_a_poll_that_waits_and_not_for_a_client_that_does_not_poll() {
    let world = three(1).await;
    let taken = world.take("e").await;
    assert!(world.taken("c").await.is_empty());
    let poll = world.park("d").await;
    world.ack(&taken[0].receipt).await.unwrap();
    assert_eq!(woken(poll).await, ["b0"]);
    world.broker.store().close();
}

#[tokio::test]
async fn room_that_a_poll_was_woken_for_goes_to_another_when_its_client_is_gone() {
    let world = three(1).await;
    let taken = world.take("e").await;
    let until = world.machine.clock.now().plus(Duration::from_secs(3600));
    let mut first = Box::pin(world.broker.take(Take { until, ..world.poll("c", 1) }));
    assert!((&mut first).now_or_never().is_none());
    assert_eq!(world.broker.parked_polls(), 1);
    let second = world.park("d").await;
    world.ack(&taken[0].receipt).await.unwrap();
    drop(first);
    assert_eq!(woken(second).await, ["b0"]);
    world.broker.store().close();
}

#[tokio::test]
async fn every_client_that_shares_a_lite_topic_is_woken_and_one_of_them_gets_it() {
    let world = World::new();
    world.subscribe("c", &["a"]).await;
    world.subscribe("d", &["a"]).await;
    let (mut of_c, mut of_d) = (world.park("c").await, world.park("d").await);
    world.send(&["a0"]).await;
    let first = tokio::select! {
        taken = &mut of_c => taken,
        taken = &mut of_d => taken,
    };
    let first = first.unwrap().unwrap();
    assert_eq!(texts(&first), ["a0"]);
    world.send(&["a1"]).await;
    world.ack(&first[0].receipt).await.unwrap();
    let rest = if of_c.is_finished() { of_d } else { of_c };
    assert_eq!(texts(&rest.await.unwrap().unwrap()), ["a1"]);
    world.broker.store().close();
}

#[tokio::test]
async fn a_group_that_is_reset_finds_everything_again() {
    let world = World::new();
    world.subscribe("c", &["a"]).await;
    world.send(&["a0", "x0", "a1"]).await;
    assert_eq!(world.consume("c").await, ["a0", "a1"]);
    let poll = world.park("c").await;
    let to = crate::types::QueueOffset::new(1);
    world.broker.reset_offset(&parent(), &group(), QUEUE, to).await.unwrap();
    assert_eq!(texts(&poll.await.unwrap().unwrap()), ["a1"]);
    world.broker.store().close();
}

#[tokio::test]
async fn lag_counts_what_the_group_wants_and_has_not_done() {
    let world = World::new();
    world.subscribe("c", &["a", "b"]).await;
    world.send(&["a0", "x0", "a1", "b0", "x1"]).await;
    let lag = || {
        let backlog = world.broker.backlog(&parent(), &group(), crate::types::Deadline::from_micros(u64::MAX)).unwrap();
        let look: u64 =
            world.broker.lag(&group(), &[]).unwrap().iter().map(|l| l.backlog.ready + l.backlog.in_flight).sum();
        assert_eq!(look, backlog.lag);
        (backlog.lag, backlog.in_flight)
    };
    let taken = world.take("c").await;
    assert_eq!(lag(), (3, 2));
    world.ack(&taken[0].receipt).await.unwrap();
    assert_eq!(lag(), (2, 1));
    world.ack(&taken[1].receipt).await.unwrap();
    assert_eq!(world.consume("c").await, ["a1"]);
    assert_eq!(lag(), (0, 0));
    world.broker.store().close();
}

#[tokio::test]
async fn lag_is_whole_though_the_book_is_looked_at_in_parts() {
    let many = 2 * CHUNK + 5;
    let world = World::with(|config| config.lite_subscription_quota = many);
    let names: Vec<String> = (0..many).map(|n| format!("n{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.subscribe("c", &names).await;
    for round in 0..2 {
        for names in names.chunks(500) {
            world.broker.produce(&parent(), names.iter().map(|name| for_lite(name, "m")).collect()).await.unwrap();
        }
        if round == 0 {
            assert_eq!(world.consume("c").await.len(), many);
        }
    }
    let book = world.broker.inner.pop.books(&parent(), &group())[0].clone();
    assert_eq!(book.cursors().len(), many);
    let mut held = 0;
    while held < many {
        let taken = world.take("c").await.len();
        held += taken;
        assert!(taken > 0 && book.held().len() == held, "{held}");
    }
    let of = world.broker.inner.lite.known_parent(&parent()).unwrap();
    world.broker.client_gone(&client("c"));
    let lag = world.broker.lite_lag(&book, &of).unwrap();
    let first = Some(crate::types::QueueOffset::new(many as u64));
    assert_eq!((lag.lag, lag.undone, lag.unread), (many as u64, first, None));
    world.broker.store().close();
}

#[tokio::test]
async fn a_message_or_a_dead_letter_that_is_sent_again_goes_to_its_lite_topic() {
    let world = World::new();
    world.subscribe("c", &["a"]).await;
    world.send(&["a0"]).await;
    let taken = world.take("c").await;
    let message = taken[0].message.clone();
    world.broker.forward_to_dead_letter(&parent(), &group(), &taken[0].receipt).await.unwrap();
    world.broker.resend_dead_letter(&group(), crate::types::QueueOffset::ZERO, false).unwrap();
    let (_, end) = world.broker.resend(&message).unwrap();
    world.broker.resent(end).await.unwrap();
    assert_eq!(world.consume("c").await, ["a0", "a0"]);
    world.broker.store().close();
}
