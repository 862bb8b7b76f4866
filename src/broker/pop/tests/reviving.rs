use super::*;

#[tokio::test]
async fn an_expired_lease_is_the_next_attempt_and_never_early() {
    let world = World::new(1);
    world.send(&["a"]).await;
    assert_eq!(world.take_one().await.attempt, 1);
    let due = world.machine.clock.now().plus(LEASE);
    assert_eq!(world.broker.revive().await, Some(due));
    world.pass(LEASE - Duration::from_micros(1));
    assert_eq!(world.broker.revive().await, Some(due));
    assert_eq!(world.take(1).await.len(), 0);
    world.pass(Duration::from_micros(1));
    assert_eq!(world.broker.revive().await, None);
    assert_eq!((world.settled(), world.progress()), (1, (0, 0, 1)));
    assert_eq!(world.take_one().await.attempt, 2);
}

#[tokio::test]
async fn many_leases_end_in_few_records() {
    let world = World::new(1);
    world.broker.produce(&topic(), (0..1000).map(|n| normal(&n.to_string())).collect()).await.unwrap();
    let mut taken = 0;
    while taken < 1000 {
        taken += world.take(32).await.len();
    }
    world.pass(LEASE);
    world.broker.revive().await;
    assert_eq!((world.settled(), world.progress()), (2, (0, 0, 1000)));
    assert_eq!(offsets(&world.take(3).await), [0, 1, 2]);
}

#[tokio::test]
async fn a_parked_poll_gets_what_expires() {
    let world = World::new(1);
    world.send(&["a"]).await;
    world.take_one().await;
    let parked = world.park(world.long_poll(1)).await;
    world.pass(LEASE);
    world.broker.revive().await;
    assert_eq!(parked.await.unwrap().unwrap()[0].attempt, 2);
}

#[tokio::test]
async fn revive_is_asked_to_come_sooner_when_something_ends_before_its_promise() {
    let world = World::new(2);
    world.send(&["a", "b"]).await;
    world.take_one().await;
    assert_eq!(world.broker.revive().await, Some(world.machine.clock.now().plus(LEASE)));
    let short = Take { invisible: ms(500), ..world.poll(1) };
    assert_eq!(world.broker.take(short).await.unwrap().len(), 1);
    world.broker.revive_sooner().await;
    assert_eq!(world.broker.revive().await, Some(world.machine.clock.now().plus(ms(500))));
}

#[tokio::test]
async fn after_the_last_attempt_a_message_is_a_dead_letter() {
    let world = World::new(1);
    world.send(&["a", "b"]).await;
    let good = world.take(2).await.remove(1);
    world.ack(&good).await.unwrap();
    for attempt in 2..=ATTEMPTS {
        world.pass(LEASE);
        world.broker.revive().await;
        assert_eq!(world.take_one().await.attempt, attempt);
    }
    world.pass(LEASE);
    world.broker.revive().await;
    assert_eq!(world.take(1).await.len(), 0);
    assert_eq!(world.progress(), (2, 0, 0));
    let end = world.broker.store().end();
    world.broker.store().committed(end).await.unwrap();
    let dead = crate::broker::testing::bodies(&world.broker, &TopicName::dead_letter(&group()));
    assert_eq!(dead, ["a"]);
}

#[tokio::test]
async fn a_refused_last_attempt_is_a_dead_letter_once_its_invisible_time_is_over() {
    let world = World::new(1);
    world.send(&["a"]).await;
    let mut taken = world.take_one().await;
    for _ in 1..ATTEMPTS {
        world.broker.change_invisible(&topic(), &group(), &taken.receipt, Duration::ZERO).await.unwrap();
        taken = world.take_one().await;
    }
    let last = world.broker.change_invisible(&topic(), &group(), &taken.receipt, ms(5000)).await.unwrap();
    world.pass(ms(4999));
    world.broker.revive().await;
    assert_eq!(world.progress(), (0, 1, 0), "it can still be acked");
    assert_eq!(last.attempt(), ATTEMPTS);
    world.pass(ms(1));
    world.broker.revive().await;
    assert_eq!(world.progress(), (1, 0, 0));
}

#[tokio::test]
async fn fewer_attempts_count_for_what_waits_already_and_more_spare_it() {
    let world = World::new(2);
    world.send(&["a", "b"]).await;
    world.take(2).await;
    world.pass(LEASE);
    world.broker.revive().await;
    let attempts = |n: u32| crate::broker::GroupChange { retry_max_times: Some(n - 1), ..Default::default() };
    world.broker.update_group(&group(), attempts(1)).unwrap();
    assert_eq!(world.take(2).await.len(), 0, "both had their only attempt");
    world.broker.update_group(&group(), attempts(5)).unwrap();
    world.broker.revive().await;
    let taken = world.take(2).await;
    assert_eq!(taken.iter().map(|d| d.attempt).collect::<Vec<_>>(), [2, 2]);
}

#[tokio::test]
async fn a_message_that_cannot_be_dead_lettered_is_tried_again() {
    let world = World::new(1);
    world
        .broker
        .update_group(&group(), crate::broker::GroupChange { retry_max_times: Some(0), ..Default::default() })
        .unwrap();
    world.send(&["a"]).await;
    world.take_one().await;
    // The dead-letter topic cannot be made: its table cannot be saved.
    let config = world.machine.disk.clone();
    config.set_capacity(config.used());
    world.pass(LEASE);
    let next = world.broker.revive().await;
    assert_eq!(next, Some(world.machine.clock.now().plus(ms(1000))));
    assert_eq!(world.progress(), (0, 0, 1));
    config.set_capacity(u64::MAX);
    world.pass(ms(1000));
    world.broker.revive().await;
    assert_eq!(world.progress(), (1, 0, 0));
}

#[tokio::test]
async fn ending_leases_does_not_wait_for_dead_letters() {
    let world = World::new(1);
    let once = crate::broker::GroupChange { retry_max_times: Some(0), ..Default::default() };
    world.broker.update_group(&group(), once).unwrap();
    world.send(&["a", "b"]).await;
    world.take(2).await;
    world.pass(LEASE);
    assert_eq!(world.broker.end_leases().await, None);
    assert_eq!(world.progress(), (0, 0, 2), "they are on their way, which may be slow");
    world.broker.doomed().await;
    world.broker.bury().await;
    assert_eq!(world.progress(), (2, 0, 0));
}

#[tokio::test]
async fn what_is_doomed_waits_in_its_book_while_too_much_waits_to_be_moved() {
    use crate::broker::pop::bury::{Doomed, WAITING_MAX};
    let world = World::new(1);
    let once = crate::broker::GroupChange { retry_max_times: Some(0), ..Default::default() };
    world.broker.update_group(&group(), once).unwrap();
    world.send(&["a", "b"]).await;
    let done = world.take_one().await;
    world.ack(&done).await.unwrap();
    world.take_one().await;
    let pop = &world.broker.inner.pop;
    let book = pop.subscriptions.get(&topic(), &group()).unwrap().books()[0].clone();
    pop.burials.add(Doomed { book, offsets: vec![at(0); WAITING_MAX] });
    world.pass(LEASE);
    assert_eq!(world.broker.end_leases().await, Some(world.machine.clock.now().plus(ms(1000))));
    world.broker.bury().await;
    assert_eq!((world.progress(), pop.burials.room()), ((1, 0, 1), WAITING_MAX));
    world.pass(ms(1000));
    world.broker.revive().await;
    assert_eq!(world.progress(), (2, 0, 0));
}

#[tokio::test]
async fn books_of_a_deleted_group_are_left_alone() {
    let world = World::new(1);
    world.send(&["a"]).await;
    let taken = world.take_one().await;
    world.broker.delete_group(&group()).unwrap();
    world.pass(LEASE);
    let before = world.settled();
    assert_eq!(world.broker.revive().await, None);
    assert_eq!(world.settled(), before);
    assert!(world.broker.ack(&topic(), &group(), &[taken.receipt]).await.is_err());
}

/// A message that had its attempts and is on its way to the dead-letter topic.
async fn doom_one(world: &World) {
    let once = crate::broker::GroupChange { retry_max_times: Some(0), ..Default::default() };
    world.broker.update_group(&group(), once).unwrap();
    world.send(&["a"]).await;
    world.take_one().await;
    world.pass(LEASE);
    world.broker.end_leases().await;
    assert_eq!(world.progress(), (0, 0, 1));
}

#[tokio::test]
async fn a_burial_for_a_deleted_group_makes_no_dead_letter_topic() {
    let world = World::new(1);
    doom_one(&world).await;
    world.broker.delete_group(&group()).unwrap();
    world.broker.bury().await;
    assert!(world.broker.topic(TopicName::dead_letter(&group()).as_str()).is_none());
    world.broker.store().close();
}

#[tokio::test]
async fn clients_that_read_what_is_cold_do_not_keep_dead_letters_waiting() {
    let world = World::new(1);
    doom_one(&world).await;
    // All that clients may have at once waits for the device.
    let (release, hold) = std::sync::mpsc::channel::<()>();
    let hold = std::sync::Arc::new(parking_lot::Mutex::new(hold));
    let mut reads = Vec::new();
    for _ in 0..crate::broker::pop::COLD_READS_MAX {
        let (broker, hold) = (world.broker.clone(), hold.clone());
        let read = async move { broker.off_the_runtime(move || _ = hold.lock().recv()).await };
        reads.push(tokio::spawn(read));
    }
    tokio::task::yield_now().await;
    let buried = tokio::time::timeout(std::time::Duration::from_secs(20), world.broker.bury()).await;
    drop(release);
    for read in reads {
        read.await.unwrap().unwrap();
    }
    assert!(buried.is_ok(), "dead letters wait for clients");
    assert!(world.broker.topic(TopicName::dead_letter(&group()).as_str()).is_some());
    world.broker.store().close();
}

#[tokio::test]
async fn the_loops_leave_what_is_due_to_the_next_start_once_the_server_ends() {
    let world = World::new(1);
    doom_one(&world).await;
    world.broker.end_polls();
    world.broker.bury().await;
    let dead = TopicName::dead_letter(&group());
    assert!(world.broker.topic(dead.as_str()).is_none(), "it went on");
    let world = world.restart();
    for _ in 0..3 {
        // After a restart it is taken once more, if that was not on record.
        world.take(1).await;
        world.pass(ms(60_000));
        world.broker.revive().await;
    }
    assert!(world.broker.topic(dead.as_str()).is_some());
    world.broker.store().close();
}
