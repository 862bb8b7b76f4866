use super::*;
use crate::broker::{OffsetError, Position, SettleError};

async fn reset(world: &World, to: u64) -> crate::broker::Moved {
    world.broker.reset_offset(&topic(), &group(), QueueId(0), at(to)).await.unwrap()
}

fn offset(world: &World) -> Option<u64> {
    world.broker.group_offset(&topic(), &group(), QueueId(0)).unwrap().map(|offset| offset.get())
}

#[tokio::test]
async fn a_group_goes_on_where_it_was_reset_to_and_forgets_what_was_so() {
    let world = World::new(1);
    world.send(&["a", "b", "c", "d"]).await;
    assert_eq!(offset(&world), None, "it has not begun");
    let taken = world.take(3).await;
    world.ack(&taken[0]).await.unwrap();
    world.ack(&taken[2]).await.unwrap();
    world.broker.change_invisible(&topic(), &group(), &taken[1].receipt, ms(0)).await.unwrap();
    assert_eq!(world.take_one().await.attempt, 2);
    let moved = reset(&world, 0).await;
    assert_eq!((moved.from, moved.to, moved.in_flight, moved.waiting_retry), (at(1), at(0), 1, 0));
    assert_eq!((offset(&world), world.progress()), (Some(0), (0, 0, 0)));
    let again = world.take(10).await;
    assert_eq!(bodies(&again), ["a", "b", "c", "d"]);
    assert!(again.iter().all(|delivery| delivery.attempt == 1));
    reset(&world, 3).await;
    assert_eq!(bodies(&world.take(10).await), ["d"]);
    reset(&world, 4).await;
    assert_eq!((world.take(10).await.len(), world.progress()), (0, (4, 0, 0)));
}

#[tokio::test]
async fn a_reset_survives_a_crash_wherever_the_snapshot_was_taken() {
    for (before, after) in [(false, false), (true, false), (false, true), (true, true)] {
        let world = World::new(1);
        world.send(&["a", "b", "c", "d"]).await;
        let taken = world.take(3).await;
        world.ack(&taken[0]).await.unwrap();
        world.ack(&taken[1]).await.unwrap();
        if before {
            world.broker.snapshot().unwrap();
        }
        reset(&world, 1).await;
        if after {
            world.broker.snapshot().unwrap();
        }
        let next = world.take_one().await;
        world.ack(&next).await.unwrap();
        let world = world.crash(5);
        assert_eq!((offset(&world), bodies(&world.take(10).await)), (Some(2), vec!["c", "d"]), "{before} {after}");
    }
}

/// The snapshot has the effect of records that are replayed onto it.
#[tokio::test]
async fn a_reset_that_the_snapshot_knows_already_may_be_replayed() {
    let world = World::new(1);
    world.send(&["a", "b", "c"]).await;
    for delivery in &world.take(3).await {
        world.ack(delivery).await.unwrap();
    }
    world.broker.snapshot().unwrap();
    let path = format!("config/{}", crate::broker::pop::snapshot::FILE);
    let early = crate::broker::pop::snapshot::Snapshot::decode(&world.machine.read(&path)).unwrap();
    reset(&world, 1).await;
    let next = world.take_one().await;
    world.ack(&next).await.unwrap();
    world.broker.snapshot().unwrap();
    let late = crate::broker::pop::snapshot::Snapshot::decode(&world.machine.read(&path)).unwrap();
    // As if the books had been collected while it was written: later than it says.
    let mixed = crate::broker::pop::snapshot::Snapshot { settled: early.settled, ..late };
    world.broker.store().save_state(crate::broker::pop::snapshot::FILE, &mixed.encode()).unwrap();
    let world = world.crash(6);
    assert_eq!((offset(&world), bodies(&world.take(10).await)), (Some(2), vec!["c"]));
}

#[tokio::test]
async fn a_receipt_from_before_a_reset_settles_nothing_even_after_a_crash() {
    for crashes in 0..3 {
        for with_snapshot in [false, true] {
            let mut world = World::new(1);
            world.send(&["a"]).await;
            if crashes == 2 {
                world = world.crash(7);
            }
            let old = world.take_one().await;
            reset(&world, 0).await;
            if with_snapshot {
                world.broker.snapshot().unwrap();
            }
            if crashes > 0 {
                world = world.crash(8);
            }
            let refused = |settled| assert!(matches!(settled, Err(SettleError::Expired)), "{crashes}: {settled:?}");
            refused(world.ack(&old).await);
            let changed = world.broker.change_invisible(&topic(), &group(), &old.receipt, LEASE).await;
            refused(changed.map(drop));
            refused(world.broker.forward_to_dead_letter(&topic(), &group(), &old.receipt).await);
            refused(world.broker.renew(&topic(), &group(), &old.receipt, LEASE));
            let new = world.take_one().await;
            refused(world.ack(&old).await);
            assert_eq!(new.attempt, 1);
            let world = world.crash(9);
            world.ack(&new).await.unwrap();
            assert_eq!(world.progress(), (1, 0, 0));
        }
    }
}

#[tokio::test]
async fn a_delivery_that_was_being_read_when_its_group_was_reset_changes_nothing() {
    let world = World::new(1);
    world.send(&["a", "b"]).await;
    let subscription = world.broker.subscription(&world.broker.topic("orders").unwrap(), &group()).unwrap();
    let group_now = world.broker.group("billing").unwrap();
    let batch = world.broker.walk(&subscription, &group_now, &world.poll(2)).unwrap();
    reset(&world, 1).await;
    drop(batch);
    assert_eq!(world.progress(), (1, 0, 0));
    assert_eq!(bodies(&world.take(10).await), ["b"]);
}

#[tokio::test]
async fn a_message_on_its_way_to_the_dead_letter_topic_comes_again_after_a_reset() {
    let world = World::new(1);
    let change = crate::broker::GroupChange { retry_max_times: Some(0), ..Default::default() };
    world.broker.update_group(&group(), change).unwrap();
    world.send(&["a"]).await;
    world.take_one().await;
    world.pass(LEASE);
    let subscription = world.broker.subscription(&world.broker.topic("orders").unwrap(), &group()).unwrap();
    let book = subscription.books()[0].clone();
    let now = world.machine.clock.now();
    {
        let mut pages = book.open();
        pages.book.expire(now, 1, 10);
        assert_eq!(pages.book.doomed(now, 1, 10), [(at(0), 2)]);
    }
    reset(&world, 0).await;
    let moved = world.broker.dead_letter(&book, at(0), |book| book.is_moving(at(0)));
    assert!(matches!(moved, Err(SettleError::Expired)), "{moved:?}");
    assert_eq!(bodies(&world.take(10).await), ["a"]);
    assert_eq!(crate::broker::testing::bodies(&world.broker, &TopicName::dead_letter(&group())), [""; 0]);
}

#[tokio::test]
async fn a_parked_poll_gets_what_a_reset_brings_back() {
    let world = World::new(1);
    world.send(&["a"]).await;
    let taken = world.take_one().await;
    world.ack(&taken).await.unwrap();
    let parked = world.park(world.long_poll(1)).await;
    reset(&world, 0).await;
    assert_eq!(bodies(&parked.await.unwrap().unwrap()), ["a"]);
}

#[tokio::test]
async fn a_plan_says_what_a_reset_does_and_does_nothing() {
    let world = World::new(2);
    world.send(&["a", "b"]).await;
    world.pass(ms(1000));
    let noon = world.machine.clock.wall();
    world.send(&["c", "d"]).await;
    let plan = |queue, to| {
        let moved = world.broker.plan_reset(&topic(), &group(), queue, to).unwrap();
        moved.iter().map(|m| (m.queue.0, m.from.get(), m.to.get(), m.in_flight)).collect::<Vec<_>>()
    };
    assert_eq!(plan(None, Position::End), [(0, 0, 2, 0), (1, 0, 2, 0)]);
    assert_eq!(offset(&world), None, "a plan begins nothing");
    let taken = world.take(3).await;
    world.ack(&taken[0]).await.unwrap();
    assert_eq!(plan(None, Position::Time(noon)).iter().map(|m| m.2).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(plan(Some(QueueId(1)), Position::Begin).iter().map(|m| (m.0, m.2)).collect::<Vec<_>>(), [(1, 0)]);
    assert_eq!(plan(Some(QueueId(1)), Position::Offset(at(1)))[0].2, 1);
    assert_eq!(world.progress(), (1, 2, 0));
    let targets = [(QueueId(0), at(1)), (QueueId(1), at(3))];
    let refused = world.broker.reset_offsets(&topic(), &group(), &targets).await;
    assert!(matches!(refused, Err(OffsetError::Beyond { queue: QueueId(1), .. })), "{refused:?}");
    assert_eq!(world.progress(), (1, 2, 0), "all queues or none");
}

#[tokio::test]
async fn what_does_not_exist_is_not_reset() {
    let world = World::new(1);
    let (nowhere, nobody) = (TopicName::parse("nowhere").unwrap(), GroupName::parse("nobody").unwrap());
    let broker = &world.broker;
    let error = broker.reset_offset(&nowhere, &group(), QueueId(0), at(0)).await;
    assert!(matches!(error, Err(OffsetError::TopicNotFound(_))));
    let error = broker.reset_offset(&topic(), &nobody, QueueId(0), at(0)).await;
    assert!(matches!(error, Err(OffsetError::GroupNotFound(_))));
    let error = broker.reset_offset(&topic(), &group(), QueueId(1), at(0)).await;
    assert!(matches!(error, Err(OffsetError::NoQueue { queues: 1, .. })));
    let error = broker.reset_offset(&topic(), &group(), QueueId(0), at(1)).await;
    assert!(matches!(error, Err(OffsetError::Beyond { .. })));
}
