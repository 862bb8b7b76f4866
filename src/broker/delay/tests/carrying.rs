//! What waits for long moves on with the log.

use super::*;

#[tokio::test]
async fn what_waits_for_long_does_not_hold_the_log() {
    let mut world = World::new();
    let due = world.wall().plus(100 * DAY);
    let original = world.try_send(at(due, "far")).await.unwrap();
    world.send_in(DAY, "near").await;
    assert_eq!(world.broker.carry_timers().await.unwrap(), 0, "nothing is old yet");
    let mut held_from = world.held_from();
    for round in 1..=4 {
        world.pass(2 * DAY).await;
        assert_eq!(world.broker.carry_timers().await.unwrap(), 1);
        assert!(world.held_from() > held_from, "the log is let go up to the carried record");
        held_from = world.held_from();
        assert_eq!(world.broker.pending_timers(), 1);
        world = if round % 2 == 0 { world.crash(round) } else { world.restart() };
        assert_eq!(world.broker.pending_timers(), 1);
        let found = world.broker.find_timers(None, "far").unwrap();
        assert_eq!((found.len(), found[0].due, u64::from(found[0].rolled)), (1, due, round));
    }
    world.pass(92 * DAY - ms(1)).await;
    assert_eq!(world.delivered(), ["near"]);
    world.pass(ms(1)).await;
    assert_eq!(world.delivered(), ["far", "near"]);
    let came = world.delivered_messages().into_iter().find(|m| m.message_id() == Some("far")).unwrap();
    assert_eq!(came.queue, original.queue);
    assert_eq!(came.born_at, Timestamp::from_millis(1_725_000_000_001));
    assert_eq!(came.properties.get(key::TIMER_ROLL_TIMES), None);
    world.broker.store().close();
}

#[tokio::test]
async fn what_is_due_soon_is_not_carried() {
    let world = World::new();
    world.send_in(2 * DAY + ms(1000), "soon").await;
    world.send_in(4 * DAY, "later").await;
    world.machine.clock.advance(2 * DAY);
    assert_eq!(world.broker.carry_timers().await.unwrap(), 1);
    world.pass(ms(1000)).await;
    assert_eq!(world.delivered(), ["soon"]);
    world.broker.store().close();
}

#[tokio::test]
async fn a_carried_message_does_not_come_early_after_a_step_of_the_clock() {
    let world = World::new();
    world.send_in(5 * DAY, "m").await;
    world.machine.clock.step_wall(world.wall().plus(2 * DAY));
    world.send_in(20 * DAY, "by the new clock").await;
    assert_eq!(world.broker.carry_timers().await.unwrap(), 1);
    world.pass(5 * DAY - ms(1)).await;
    assert_eq!(world.delivered(), [""; 0]);
    world.pass(ms(15)).await;
    assert_eq!(world.delivered(), ["m"]);
    world.broker.store().close();
}

#[tokio::test]
async fn a_message_of_a_deleted_topic_is_not_carried_into_the_next_of_that_name() {
    let world = World::new();
    world.send_in(10 * DAY, "of the first").await;
    world.broker.delete_topic(&orders()).unwrap();
    world.make(orders(), MessageType::Delay);
    world.machine.clock.advance(3 * DAY);
    assert_eq!(world.broker.carry_timers().await.unwrap(), 0);
    assert_eq!(world.broker.pending_timers(), 0, "it is dropped instead, and holds the log no longer");
    let world = world.restart();
    world.pass(10 * DAY).await;
    assert_eq!(world.delivered(), [""; 0]);
    world.broker.store().close();
}

#[tokio::test]
async fn neither_a_carried_nor_a_moved_timer_of_a_deleted_topic_comes_in_one_of_that_name() {
    let world = World::new();
    let sent = world.send_in(HOUR, "old").await;
    let timer = world.broker.find_timers(None, "old").unwrap().remove(0);
    let queue = world.broker.store().queue(&TopicName::system(super::super::TIMER_TOPIC), crate::types::QueueId(0));
    let entry = queue.entries(sent.offset, 1).unwrap()[0];
    let was = world.broker.store().message(entry.physical, entry.size).unwrap();
    world.broker.delete_topic(&orders()).unwrap();
    world.make(orders(), MessageType::Delay);
    // As one that had read the record before the topic went.
    let record = super::super::accept::again(&was, was.properties.clone());
    assert!(!world.broker.replace_timer(timer.offset, &was, record, timer.due, 0).unwrap());
    let moved = world.broker.reschedule_timers(None, "old", world.wall().plus(ms(1)));
    assert!(matches!(moved, Err(crate::broker::RecallError::NotPending { .. })), "{moved:?}");
    world.pass(2 * HOUR).await;
    assert_eq!(world.delivered(), [""; 0]);
    world.broker.store().close();
}
