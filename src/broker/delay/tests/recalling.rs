//! Messages that are taken back or moved.

use super::*;
use crate::broker::{RecallError, testing::topic};

async fn recall(world: &World, handle: &str) -> Result<String, RecallError> {
    world.broker.recall(&orders(), handle).await
}

#[tokio::test]
async fn a_recalled_message_never_comes() {
    let world = World::new();
    let handle = world.send_for_recall(HOUR, "recalled").await;
    world.send_in(HOUR, "kept").await;
    assert_eq!(recall(&world, &handle).await.unwrap(), "recalled");
    assert!(matches!(recall(&world, &handle).await, Err(RecallError::NotPending { .. })), "once is enough");
    assert_eq!(world.broker.pending_timers(), 1);
    let world = world.crash(7);
    assert_eq!(world.broker.pending_timers(), 1, "the recall is as safe as a message");
    world.pass(HOUR).await;
    assert_eq!(world.delivered(), ["kept"]);
    assert!(matches!(recall(&world, &handle).await, Err(RecallError::Delivered { .. })));
    world.broker.store().close();
}

#[tokio::test]
async fn what_cannot_be_recalled_says_why() {
    let world = World::new();
    let handle = world.send_for_recall(HOUR, "m").await;
    let (normal, other) = (topic("normal"), topic("other"));
    world.make(normal.clone(), MessageType::Normal);
    world.make(other.clone(), MessageType::Mixed);
    let refused = async |name: &TopicName, handle: &str| world.broker.recall(name, handle).await.unwrap_err();
    assert!(matches!(refused(&topic("none"), &handle).await, RecallError::TopicNotFound(_)));
    assert!(matches!(refused(&normal, &handle).await, RecallError::NotDelay { .. }));
    assert!(matches!(refused(&other, &handle).await, RecallError::OtherTopic { .. }));
    assert!(matches!(refused(&orders(), "").await, RecallError::Malformed));
    assert!(matches!(refused(&orders(), "bm90IGEgaGFuZGxl").await, RecallError::Malformed));
    let due = world.wall().plus(HOUR);
    let unknown = crate::broker::delay::RecallHandle { topic: orders(), due, message_id: "x".into(), offset: None };
    let unknown = unknown.encode(&world.machine.config.broker_name);
    assert!(matches!(refused(&orders(), &unknown).await, RecallError::NotPending { .. }));
    assert_eq!(world.broker.pending_timers(), 1);
    world.broker.store().close();

    let mut machine = Machine::new();
    machine.config.recall_enabled = false;
    let world = World::on(machine);
    assert!(matches!(recall(&world, &handle).await, Err(RecallError::Off)));
    world.broker.store().close();
}

/// How a message is found: by the handle's hint, without it by the index of keys, and without that by its time.
#[tokio::test]
async fn a_message_is_found_with_and_without_the_index_of_keys_and_after_it_was_carried() {
    for index in [false, true] {
        let mut machine = Machine::new();
        machine.store.index = index;
        let mut world = World::on(machine);
        let handle = world.send_for_recall(10 * DAY, "m").await;
        for n in 0..20 {
            world.send_in(10 * DAY, &format!("same time {n}")).await;
        }
        world.machine.clock.advance(3 * DAY);
        assert_eq!(world.broker.carry_timers().await.unwrap(), 21);
        world = world.restart();
        assert_eq!(world.broker.find_timers(None, "m").unwrap()[0].rolled, 1);
        assert_eq!(recall(&world, &handle).await.unwrap(), "m", "index: {index}");
        assert_eq!(world.broker.pending_timers(), 20);
        world.broker.store().close();
    }
}

#[tokio::test]
async fn a_send_that_was_repeated_is_recalled_whole() {
    let mut machine = Machine::new();
    machine.store.index = true;
    let world = World::on(machine);
    world.send_in(HOUR, "m").await;
    let handle = world.send_for_recall(HOUR, "m").await;
    recall(&world, &handle).await.unwrap();
    world.pass(HOUR).await;
    assert_eq!(world.delivered(), [""; 0]);
    world.broker.store().close();
}

#[tokio::test]
async fn a_message_is_recalled_after_the_clock_was_stepped() {
    let world = World::new();
    let handle = world.send_for_recall(HOUR, "m").await;
    world.machine.clock.step_wall(world.wall().plus(2 * HOUR));
    let second = world.send_for_recall(HOUR, "n").await;
    // Its time by the wall clock has come, itself it has not.
    assert_eq!(recall(&world, &handle).await.unwrap(), "m");
    assert_eq!(recall(&world, &second).await.unwrap(), "n");
    world.broker.store().close();
}

/// Whoever is first wins: recalled or delivered, never both, never neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recall_that_races_with_the_delivery_has_one_outcome() {
    const COUNT: usize = 300;
    let world = World::new();
    let mut handles = Vec::new();
    for n in 0..COUNT {
        handles.push(world.send_for_recall(HOUR, &format!("m{n}")).await);
    }
    world.machine.clock.advance(HOUR);
    let broker = world.broker.clone();
    let recalls = tokio::spawn(async move {
        let mut recalled = Vec::new();
        for handle in handles.iter().rev() {
            match broker.recall(&orders(), handle).await {
                Ok(id) => recalled.push(id),
                Err(RecallError::Delivered { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
        recalled
    });
    tokio::task::yield_now().await;
    world.broker.fire_timers().await;
    let mut all = recalls.await.unwrap();
    all.extend(world.delivered());
    all.sort();
    let mut expected: Vec<_> = (0..COUNT).map(|n| format!("m{n}")).collect();
    expected.sort();
    assert_eq!(all, expected);
    assert_eq!(world.broker.pending_timers(), 0);
    world.broker.store().close();
}

#[tokio::test]
async fn an_operator_sees_cancels_and_moves_what_waits() {
    let world = World::new();
    let other = topic("other");
    world.make(other.clone(), MessageType::Delay);
    for (hours, body) in [(30, "c"), (1, "a"), (2, "b")] {
        world.send_in(hours * HOUR, body).await;
    }
    world.broker.produce(&other, vec![at(world.wall().plus(HOUR), "o")]).await.unwrap();
    let ids = |topic: Option<&TopicName>, limit| -> Vec<String> {
        world.broker.list_timers(topic, limit).unwrap().into_iter().map(|timer| timer.message_id).collect()
    };
    assert_eq!(ids(Some(&orders()), 10), ["a", "b", "c"]);
    assert_eq!(ids(None, 10).len(), 4);
    assert_eq!(ids(Some(&orders()), 2), ["a", "b"]);
    assert_eq!(world.broker.find_timers(Some(&other), "a").unwrap(), []);

    assert_eq!(world.broker.cancel_timers(None, "a").unwrap().len(), 1);
    assert!(matches!(world.broker.cancel_timers(None, "a"), Err(RecallError::NotPending { .. })));
    let due = world.wall().plus(ms(1500));
    assert_eq!(world.broker.reschedule_timers(Some(&orders()), "c", due).unwrap()[0].due, due);
    world.broker.reschedule_timers(None, "b", world.wall().plus(40 * DAY)).unwrap();
    let too_far = world.wall().plus(401 * DAY);
    assert!(matches!(world.broker.reschedule_timers(None, "b", too_far), Err(RecallError::Time(_))));
    assert_eq!(ids(Some(&orders()), 10), ["c", "b"]);
    let world = world.crash(3);
    world.pass(ms(1499)).await;
    assert_eq!(world.delivered(), [""; 0]);
    world.pass(ms(1)).await;
    assert_eq!(world.delivered(), ["c"]);
    let came = world.delivered_messages().remove(0);
    assert_eq!(came.properties.get(key::TIMER_DELIVER_MS), Some(due.to_string().as_str()));
    world.broker.reschedule_timers(None, "b", Timestamp::ZERO).unwrap();
    world.broker.fire_timers().await;
    assert_eq!(world.delivered(), ["b", "c"]);
    world.broker.store().close();
}

#[tokio::test]
async fn recalled_timers_do_not_stay_in_memory() {
    let world = World::new();
    for chunk in 0..8 {
        let ids: Vec<_> = (0..500).map(|n| format!("{chunk}-{n}")).collect();
        let drafts = ids.iter().map(|id| at(world.wall().plus(30 * DAY), id)).collect();
        let produced = world.broker.produce(&orders(), drafts).await.unwrap();
        for (id, produced) in ids.iter().zip(&produced).skip(20) {
            let handle = world.broker.recall_handle(&orders(), id, produced).unwrap();
            recall(&world, &handle).await.unwrap();
        }
    }
    assert_eq!(world.broker.inner.timers.index.lock().len(), 4000);
    world.broker.fire_timers().await;
    assert_eq!(world.broker.inner.timers.index.lock().len(), 160);
    world.pass(30 * DAY).await;
    assert_eq!(world.delivered().len(), 160);
    world.broker.store().close();
}

#[tokio::test]
async fn a_list_looks_at_no_more_than_it_shows_and_no_forged_handle_has_the_log_searched() {
    let mut machine = Machine::new();
    machine.store.index = true;
    let world = World::on(machine);
    for n in 0..500 {
        world.send_in(HOUR, &format!("m{n}")).await;
    }
    let read = |world: &World| world.machine.disk.bytes_read();
    let before = read(&world);
    assert_eq!(world.broker.list_timers(None, 2).unwrap().len(), 2);
    assert_eq!(world.broker.list_timers(None, 0).unwrap().len(), 0);
    let of_list = read(&world) - before;
    let before = read(&world);
    let forged = super::super::RecallHandle {
        topic: orders(),
        due: world.wall().plus(HOUR),
        message_id: "never".into(),
        offset: None,
    };
    let handle = forged.encode(&world.broker.config().broker_name);
    assert!(world.broker.recall(&orders(), &handle).await.is_err());
    // Following the log for the index is the first look's alone.
    let before = before.max(read(&world));
    assert!(world.broker.recall(&orders(), &handle).await.is_err());
    let of_forged = read(&world) - before;
    assert!(of_list < 4096 && of_forged < 4096, "{of_list} and {of_forged} bytes");
    world.broker.store().close();
}

#[tokio::test]
async fn recalls_of_unknown_messages_hold_no_reads_up_and_only_a_few_wait() {
    let world = World::new();
    let known = world.send_for_recall(HOUR, "m").await;
    let due = world.wall().plus(HOUR);
    let unknown = crate::broker::delay::RecallHandle { topic: orders(), due, message_id: "x".into(), offset: None };
    let unknown = unknown.encode(&world.machine.config.broker_name);
    let timers = &world.broker.inner.timers;
    // Somebody looks, and it takes long.
    let turn = timers.looking.acquire().await.unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    let max = crate::broker::delay::recall::LOOKERS_MAX;
    for _ in 0..max {
        let (broker, unknown) = (world.broker.clone(), unknown.clone());
        waiting.spawn(async move { broker.recall(&orders(), &unknown).await });
    }
    while timers.lookers.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(recall(&world, &unknown).await, Err(RecallError::Busy)));
    // All places of reads are free: so many can go on side by side.
    let places = crate::broker::pop::COLD_READS_MAX;
    let together = std::sync::Arc::new(std::sync::Barrier::new(places));
    let read = |_| {
        let together = together.clone();
        world.broker.off_the_runtime(move || _ = together.wait())
    };
    let all_read = futures_util::future::join_all((0..places).map(read));
    let all_read = tokio::time::timeout(Duration::from_secs(30), all_read).await;
    assert!(all_read.is_ok(), "recalls that wait hold places of reads");
    assert_eq!(recall(&world, &known).await.unwrap(), "m", "one that is known by its place");
    drop(turn);
    while let Some(recalled) = waiting.join_next().await {
        assert!(matches!(recalled.unwrap(), Err(RecallError::NotPending { .. })));
    }
    assert_eq!(timers.lookers.available_permits(), max);
    world.broker.store().close();
}
