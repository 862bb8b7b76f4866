use super::*;
use crate::broker::{Receipt, SettleError};

#[tokio::test]
async fn an_acked_message_never_comes_again() {
    let world = World::new(1);
    world.send(&["a", "b"]).await;
    let taken = world.take(2).await;
    world.ack(&taken[1]).await.unwrap();
    world.pass(LEASE);
    world.broker.revive().await;
    let again = world.take(10).await;
    assert_eq!((bodies(&again), again[0].attempt), (vec!["a"], 2));
    world.ack(&again[0]).await.unwrap();
    assert_eq!(world.progress(), (2, 0, 0));
}

#[tokio::test]
async fn acking_twice_is_ok_while_the_handle_lives() {
    let world = World::new(1);
    world.send(&["a"]).await;
    let taken = world.take_one().await;
    world.ack(&taken).await.unwrap();
    world.ack(&taken).await.unwrap();
    assert_eq!(world.settled(), 1, "the second has nothing to record");
    world.pass(LEASE);
    assert!(matches!(world.ack(&taken).await, Err(SettleError::Expired)));
}

#[tokio::test]
async fn an_ack_after_the_lease_ended_is_refused_even_before_anybody_noticed() {
    let world = World::new(1);
    world.send(&["a"]).await;
    let taken = world.take_one().await;
    world.pass(LEASE);
    assert!(matches!(world.ack(&taken).await, Err(SettleError::Expired)));
    world.broker.revive().await;
    assert!(matches!(world.ack(&taken).await, Err(SettleError::Expired)));
    let again = world.take_one().await;
    assert!(matches!(world.ack(&taken).await, Err(SettleError::Expired)), "the newer delivery counts");
    world.ack(&again).await.unwrap();
}

#[tokio::test]
async fn a_stepped_wall_clock_ends_no_lease() {
    let world = World::new(1);
    world.send(&["a", "b"]).await;
    let taken = world.take(2).await;
    let later = world.machine.clock.wall().plus(Duration::from_secs(86_400));
    world.machine.clock.step_wall(later);
    world.ack(&taken[0]).await.unwrap();
    world.ack(&taken[0]).await.unwrap();
    world.broker.revive().await;
    assert_eq!(world.progress(), (1, 1, 0));
}

#[tokio::test]
async fn a_batch_ack_is_one_record_and_answers_each_in_order() {
    let world = World::new(2);
    world.send(&["a", "b", "c", "d"]).await;
    let taken = world.take(4).await;
    let forged: Receipt = {
        let text = taken[0].receipt.to_string();
        let (head, seal) = text.rsplit_once('-').unwrap();
        format!("{head}-{:x}", u32::from_str_radix(seal, 16).unwrap() ^ 1).parse().unwrap()
    };
    let mut receipts: Vec<_> = taken.iter().map(|d| d.receipt.clone()).collect();
    receipts.insert(1, forged);
    receipts.push(receipts[0].clone());
    let results = world.broker.ack(&topic(), &group(), &receipts).await.unwrap();
    let ok: Vec<_> = results.iter().map(Result::is_ok).collect();
    assert_eq!(ok, [true, false, true, true, true, true]);
    assert!(matches!(results[1], Err(SettleError::Invalid)));
    assert_eq!((world.settled(), world.progress()), (1, (4, 0, 0)));
    assert_eq!(world.broker.ack(&topic(), &group(), &[]).await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_message_without_a_lite_topic_cannot_be_suspended_for_ever() {
    let world = World::new(1);
    world.send(&["a"]).await;
    for attempt in 1..=ATTEMPTS {
        let taken = world.take_one().await;
        assert_eq!(taken.attempt, attempt);
        world.broker.suspend(&topic(), &group(), &taken.receipt, Duration::ZERO).await.unwrap();
    }
    world.broker.revive().await;
    assert_eq!(world.take(1).await.len(), 0, "it had its attempts");
}

#[tokio::test]
async fn a_changed_message_comes_again_as_the_next_attempt_and_not_early() {
    let world = World::new(1);
    world.send(&["a"]).await;
    let taken = world.take_one().await;
    let wait = ms(7000);
    let changed = world.broker.change_invisible(&topic(), &group(), &taken.receipt, wait).await.unwrap();
    assert!(matches!(world.ack(&taken).await, Err(SettleError::Expired)), "the old handle is dead");
    world.pass(wait - Duration::from_micros(1));
    world.broker.revive().await;
    assert_eq!(world.take(1).await.len(), 0);
    assert_eq!(world.settled(), 1);
    world.pass(Duration::from_micros(1));
    world.broker.revive().await;
    assert_eq!(world.settled(), 1, "the end of a changed lease is on record already");
    let again = world.take_one().await;
    assert_eq!(again.attempt, 2);
    let stale = world.broker.ack(&topic(), &group(), &[changed]).await.unwrap().remove(0);
    assert!(matches!(stale, Err(SettleError::Expired)));
}

#[tokio::test]
async fn the_new_handle_acks_and_changes_until_its_time() {
    let world = World::new(1);
    world.send(&["a"]).await;
    let taken = world.take_one().await;
    let first = world.broker.change_invisible(&topic(), &group(), &taken.receipt, LEASE * 3).await.unwrap();
    world.pass(LEASE * 2);
    let second = world.broker.change_invisible(&topic(), &group(), &first, LEASE).await.unwrap();
    assert_eq!(second.attempt(), 1);
    let dead = world.broker.change_invisible(&topic(), &group(), &first, LEASE).await;
    assert!(matches!(dead, Err(SettleError::Expired)));
    world.broker.ack(&topic(), &group(), &[second]).await.unwrap().remove(0).unwrap();
    assert_eq!(world.progress(), (1, 0, 0));
}

#[tokio::test]
async fn no_invisible_time_at_all_wakes_a_parked_poll_at_once() {
    let world = World::new(1);
    world.send(&["a"]).await;
    let taken = world.take_one().await;
    let parked = world.park(world.long_poll(1)).await;
    let dead = world.broker.change_invisible(&topic(), &group(), &taken.receipt, Duration::ZERO).await.unwrap();
    let again = parked.await.unwrap().unwrap();
    assert_eq!((bodies(&again), again[0].attempt), (vec!["a"], 2));
    let stale = world.broker.ack(&topic(), &group(), &[dead]).await.unwrap().remove(0);
    assert!(matches!(stale, Err(SettleError::Expired)));
}

#[tokio::test]
async fn a_renewed_lease_keeps_its_handle_and_writes_nothing() {
    let world = World::new(1);
    world.send(&["a"]).await;
    let taken = world.take_one().await;
    for _ in 0..5 {
        world.pass(LEASE / 2);
        world.broker.renew(&topic(), &group(), &taken.receipt, LEASE).unwrap();
        world.broker.revive().await;
    }
    assert_eq!((world.settled(), world.progress()), (0, (0, 1, 0)));
    world.ack(&taken).await.unwrap();
    assert!(world.broker.renew(&topic(), &group(), &taken.receipt, LEASE).is_err());
}

#[tokio::test]
async fn a_lease_can_be_renewed_to_end_earlier() {
    let world = World::new(1);
    world.send(&["a"]).await;
    let taken = world.take_one().await;
    assert_eq!(world.broker.revive().await, Some(world.machine.clock.now().plus(LEASE)));
    world.broker.renew(&topic(), &group(), &taken.receipt, ms(1000)).unwrap();
    assert_eq!(world.broker.revive().await, Some(world.machine.clock.now().plus(ms(1000))));
    world.pass(ms(1000));
    assert!(world.broker.renew(&topic(), &group(), &taken.receipt, LEASE).is_err(), "it has ended");
}

#[tokio::test]
async fn forwarding_copies_the_message_with_its_origin_and_settles_it() {
    let world = World::new(1);
    world.send_tagged("poison", "A").await;
    let taken = world.take_one().await;
    world.pass(LEASE);
    // Its lease is over; that does not matter here. Nor does asking twice.
    for _ in 0..2 {
        world.broker.forward_to_dead_letter(&topic(), &group(), &taken.receipt).await.unwrap();
    }
    assert_eq!(world.progress(), (1, 0, 0));
    let dead = crate::broker::testing::messages(&world.broker, &TopicName::dead_letter(&group()), 0);
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].body, taken.message.body);
    let property = |name| dead[0].properties.get(name);
    assert_eq!(property(key::TAGS), Some("A"));
    assert_eq!(property(key::UNIQ_KEY), Some("poison"));
    assert_eq!(property(key::DLQ_ORIGIN_TOPIC), Some("orders"));
    assert_eq!(property(key::DLQ_ORIGIN_MESSAGE_ID), Some("poison"));
    assert_eq!(property(key::RETRY_TOPIC), Some("orders"));
    assert_eq!(property(key::ORIGIN_MESSAGE_ID), Some("poison"));
}

#[tokio::test]
async fn a_dead_letter_can_be_consumed_like_any_message() {
    let world = World::new(1);
    world.send(&["a"]).await;
    let taken = world.take_one().await;
    world.broker.forward_to_dead_letter(&topic(), &group(), &taken.receipt).await.unwrap();
    let dead = TopicName::dead_letter(&group());
    let poll = Take { topic: dead.clone(), ..world.poll(1) };
    let letter = world.broker.take(poll).await.unwrap();
    assert_eq!((bodies(&letter), letter[0].attempt), (vec!["a"], 1));
    let acked = world.broker.ack(&dead, &group(), &[letter[0].receipt.clone()]).await.unwrap().remove(0);
    acked.unwrap();
}

#[tokio::test]
async fn settling_where_nothing_is_says_so() {
    let world = World::new(1);
    world.send(&["a"]).await;
    let receipt = world.take_one().await.receipt;
    let (nowhere, nobody) = (TopicName::parse("nowhere").unwrap(), GroupName::parse("nobody").unwrap());
    let receipts = [receipt];
    let no_topic = world.broker.ack(&nowhere, &group(), &receipts).await;
    assert!(matches!(no_topic, Err(SettleError::TopicNotFound(_))));
    let no_group = world.broker.change_invisible(&topic(), &nobody, &receipts[0], LEASE).await;
    assert!(matches!(no_group, Err(SettleError::GroupNotFound(_))));
}

#[tokio::test]
async fn nothing_is_acked_once_a_sync_has_failed() {
    let world = World::new(1);
    world.send(&["a"]).await;
    let taken = world.take_one().await;
    world.machine.disk.fail_log_sync_once_then_lie();
    let receipts = [taken.receipt.clone()];
    assert!(world.broker.ack(&topic(), &group(), &receipts).await.is_err());
    assert!(world.broker.ack(&topic(), &group(), &receipts).await.is_err(), "again is no better");
}

#[tokio::test]
async fn a_second_ack_waits_for_the_first_ones_record() {
    let world = World::new(1);
    world.send(&["a"]).await;
    let taken = world.take_one().await;
    let receipts = [taken.receipt.clone()];
    let topic = topic();
    let group = group();
    let mut first = Box::pin(world.broker.ack(&topic, &group, &receipts));
    // The first is booked and its record is on the way; its caller goes away.
    let _ = futures_util::FutureExt::now_or_never(&mut first);
    drop(first);
    world.broker.ack(&topic, &group, &receipts).await.unwrap().remove(0).unwrap();
    let world = World { broker: world.machine.crash(world.broker, 3), machine: world.machine };
    assert_eq!(world.take(1).await.len(), 0, "it was answered OK");
}
