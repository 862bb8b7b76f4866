//! What time a message asks for.

use super::*;
use crate::broker::{metadata::TIMER_TOPIC, testing::topic};

fn waiting(world: &World) -> Vec<StoredMessage> {
    messages(&world.broker, &TopicName::system(TIMER_TOPIC), 0)
}

#[tokio::test]
async fn a_message_for_later_is_stored_once_as_apache_stores_it() {
    let world = World::new();
    let due = world.wall().plus(HOUR);
    let produced = world.try_send(at(due, "m")).await.unwrap();
    assert_eq!(produced.held_until, Some(due));
    assert_eq!(world.delivered(), [""; 0]);
    let stored = waiting(&world);
    assert_eq!(stored.len(), 1);
    let of = |key| stored[0].properties.get(key).map(str::to_owned);
    assert_eq!(of(key::REAL_TOPIC).as_deref(), Some("orders"));
    assert_eq!(of(key::REAL_QID), Some(produced.queue.to_string()));
    assert_eq!(of(key::TIMER_OUT_MS), Some(due.to_string()));
    let entry = world.broker.timer_book().queue.entries(produced.offset, 1).unwrap()[0];
    assert_eq!(entry.tags_code, due.as_millis(), "the consume queue says when");
    world.broker.store().close();
}

#[tokio::test]
async fn what_is_due_now_or_was_is_stored_directly() {
    let world = World::new();
    for (ago, body) in [(Duration::ZERO, "now"), (HOUR, "past")] {
        let due = Timestamp::from_millis(world.wall().as_millis() - ago.as_millis() as i64);
        let produced = world.try_send(at(due, body)).await.unwrap();
        assert_eq!(produced.held_until, None);
        assert_eq!(world.broker.recall_handle(&orders(), body, &produced), None);
    }
    assert_eq!(world.delivered(), ["now", "past"]);
    assert_eq!(world.broker.pending_timers(), 0);
    world.broker.store().close();
}

#[tokio::test]
async fn a_millisecond_to_400_days_is_taken_and_more_is_refused() {
    let world = World::new();
    let most = 400 * DAY;
    world.send_in(ms(1), "short").await;
    world.send_in(most, "long").await;
    let refused = world.try_send(at(world.wall().plus(most + ms(1)), "longer")).await;
    assert!(matches!(refused, Err(ProduceError::DelayTooLong { max, .. }) if max == most), "{refused:?}");
    assert!(matches!(
        world.try_send(with(&[(key::TIMER_DELIVER_MS, "soon")], "x")).await,
        Err(ProduceError::NoTime { .. })
    ));
    assert_eq!(world.broker.pending_timers(), 2, "what is refused is not counted");
    world.pass(ms(1)).await;
    assert_eq!(world.delivered(), ["short"]);
    world.broker.store().close();
}

#[tokio::test]
async fn no_more_wait_than_the_setting_lets() {
    let mut machine = Machine::new();
    machine.config.timers_max = 2;
    let world = World::on(machine);
    world.send_in(HOUR, "a").await;
    let two = vec![at(world.wall().plus(HOUR), "b"), at(world.wall().plus(HOUR), "c")];
    assert!(matches!(world.broker.produce(&orders(), two).await, Err(ProduceError::TimersFull { max: 2 })));
    world.send_in(HOUR, "b").await;
    assert!(matches!(world.try_send(at(world.wall().plus(ms(1)), "c")).await, Err(ProduceError::TimersFull { .. })));
    world.try_send(at(world.wall(), "at once")).await.unwrap();
    world.pass(HOUR).await;
    world.send_in(HOUR, "c").await;
    let world = world.restart();
    world.send_in(HOUR, "d").await;
    assert!(matches!(world.try_send(at(world.wall().plus(HOUR), "e")).await, Err(ProduceError::TimersFull { .. })));
    world.broker.store().close();
}

#[tokio::test]
async fn levels_of_rocketmq_4_run_on_the_same_timer_and_come_before_other_times() {
    let world = World::new();
    let hour = world.wall().plus(HOUR).to_string();
    world.try_send(with(&[(key::DELAY, "1"), (key::TIMER_DELIVER_MS, &hour)], "level 1")).await.unwrap();
    world.try_send(with(&[(key::DELAY, "99")], "the last level")).await.unwrap();
    world.try_send(with(&[(key::TIMER_DELAY_SEC, "2"), (key::TIMER_DELAY_MS, "1")], "2 s")).await.unwrap();
    world.try_send(with(&[(key::TIMER_DELAY_MS, "1500")], "1.5 s")).await.unwrap();
    world.try_send(with(&[(key::DELAY, "0")], "no level")).await.unwrap();
    let mut came = Vec::new();
    for (time, expected) in
        [(0, "no level"), (1000, "level 1"), (500, "1.5 s"), (500, "2 s"), (7_198_000, "the last level")]
    {
        world.pass(ms(time)).await;
        came.push(expected);
        came.sort_unstable();
        assert_eq!(world.delivered(), came);
    }
    let level = world.delivered_messages().into_iter().find(|m| m.message_id() == Some("level 1")).unwrap();
    assert_eq!(level.properties.get(key::DELAY), None, "a copy of it would be delayed again");
    world.broker.store().close();
}

#[tokio::test]
async fn a_mixed_topic_takes_messages_for_later_beside_others() {
    let world = World::new();
    let mixed = topic("mixed");
    world.make(mixed.clone(), MessageType::Mixed);
    let batch = vec![draft(MessageType::Normal, None, "n"), at(world.wall().plus(HOUR), "d")];
    let produced = world.broker.produce(&mixed, batch).await.unwrap();
    assert_eq!(produced[0].held_until, None);
    assert!(produced[1].held_until.is_some());
    assert_eq!(bodies(&world.broker, &mixed), ["n"]);
    world.pass(HOUR).await;
    assert_eq!(bodies(&world.broker, &mixed), ["d", "n"]);
    world.broker.store().close();
}

#[tokio::test]
async fn a_normal_topic_refuses_messages_for_later() {
    let world = World::new();
    let plain = topic("plain");
    world.make(plain.clone(), MessageType::Normal);
    let refused = world.broker.produce(&plain, vec![at(world.wall().plus(HOUR), "d")]).await;
    assert!(matches!(refused, Err(ProduceError::TypeConflict { .. })));
    world.broker.store().close();
}
