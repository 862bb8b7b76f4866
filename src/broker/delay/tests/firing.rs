//! When messages come, and what they are then.

use super::*;
use crate::{
    broker::testing::{topic, wait_until},
    types::{QueueId, properties::key},
};

#[tokio::test]
async fn a_message_comes_at_its_time_and_not_a_millisecond_before() {
    let world = World::new();
    for (delay, body) in [(70_000, "c"), (1, "a"), (65_536, "b"), (100 * 86_400_000, "d")] {
        world.send_in(ms(delay), body).await;
    }
    let mut expected = Vec::new();
    for (wait, body) in [(1, "a"), (65_535, "b"), (4_464, "c"), (100 * 86_400_000 - 70_000, "d")] {
        world.pass(ms(wait - 1)).await;
        assert_eq!(world.delivered(), expected);
        world.pass(ms(1)).await;
        expected.push(body);
        assert_eq!(world.delivered(), expected);
    }
    assert_eq!(world.broker.pending_timers(), 0);
    let lateness = world.broker.timer_lateness();
    assert_eq!((lateness.count, lateness.max_ms), (4, 0));
    world.broker.store().close();
}

#[tokio::test]
async fn the_driver_is_told_when_to_come_and_when_to_come_sooner() {
    let world = World::new();
    assert_eq!(world.broker.fire_timers().await, None);
    world.send_in(HOUR, "later").await;
    world.broker.fire_timers_sooner().await;
    let next = world.broker.fire_timers().await.unwrap();
    assert_eq!(next.remaining(world.machine.clock.now()), HOUR);
    let told = |broker: Broker| async move {
        tokio::select! { biased; () = broker.fire_timers_sooner() => true, () = std::future::ready(()) => false }
    };
    world.send_in(2 * HOUR, "later still").await;
    assert!(!told(world.broker.clone()).await);
    world.send_in(ms(5), "soon").await;
    assert!(told(world.broker.clone()).await);
    let next = world.broker.fire_timers().await.unwrap();
    assert_eq!(next.remaining(world.machine.clock.now()), ms(5));
    world.broker.store().close();
}

#[tokio::test]
async fn a_message_keeps_what_it_is_and_loses_what_only_the_timer_needs() {
    let world = World::new();
    let due = world.wall().plus(HOUR);
    let ordered = Draft {
        message_group: Some("g".into()),
        ..with(
            &[
                (key::TIMER_DELIVER_MS, &due.to_string()),
                (key::SHARDING_KEY, "g"),
                (key::TAGS, "paid"),
                (key::KEYS, "k1 k2"),
                ("colour", "red"),
            ],
            "m",
        )
    };
    let sent = world.try_send(ordered.clone()).await.unwrap();
    world.pass(HOUR).await;
    let came = messages(&world.broker, &orders(), sent.queue.0).remove(0);
    assert_eq!((came.born_at, came.born_host, came.reconsume_times), (ordered.born_at, ordered.born_host, 0));
    assert_eq!((came.message_id(), came.tag(), came.message_group()), (Some("m"), Some("paid"), Some("g")));
    let mut names: Vec<_> = came.properties.iter().map(|(name, _)| name.to_owned()).collect();
    names.retain(|name| !name.starts_with("__FERROMQ"));
    names.sort();
    assert_eq!(names, ["KEYS", "TAGS", "TIMER_DELIVER_MS", "UNIQ_KEY", "__SHARDINGKEY", "colour"]);
    let queue = world.broker.store().queue(&orders(), QueueId(sent.queue.0));
    assert_eq!(queue.entries(came.queue_offset, 1).unwrap()[0].tags_code, crate::types::tags_code(Some("paid")));
    world.broker.store().close();
}

#[tokio::test]
async fn no_step_of_the_clock_within_a_run_moves_a_message() {
    let world = World::new();
    world.send_in(HOUR, "before").await;
    world.machine.clock.step_wall(world.wall().plus(30 * DAY));
    world.broker.fire_timers().await;
    assert_eq!(world.delivered(), [""; 0], "not early");
    // The clock that a message is accepted by is the clock that its time is meant by.
    world.send_in(2 * HOUR, "after").await;
    world.machine.clock.step_wall(Timestamp::from_millis(1_000_000_000_000));
    world.send_in(3 * HOUR, "back").await;
    for expected in [&["before"][..], &["after", "before"], &["after", "back", "before"]] {
        world.pass(HOUR - ms(1)).await;
        assert_eq!(world.delivered().len(), expected.len() - 1);
        world.pass(ms(1)).await;
        assert_eq!(world.delivered(), expected);
    }
    world.broker.store().close();
}

#[tokio::test]
async fn days_of_downtime_delay_nothing_that_was_due_meanwhile() {
    let world = World::new();
    world.send_in(DAY, "due meanwhile").await;
    world.send_in(5 * DAY, "due later").await;
    let world = world.down(4 * DAY);
    world.broker.fire_timers().await;
    assert_eq!(world.delivered(), ["due meanwhile"]);
    assert_eq!(world.broker.timer_lateness().max_ms, 3 * DAY.as_millis() as u64);
    world.pass(DAY - ms(1)).await;
    assert_eq!(world.delivered(), ["due meanwhile"]);
    world.pass(ms(1)).await;
    assert_eq!(world.delivered(), ["due later", "due meanwhile"]);
    world.broker.store().close();
}

#[tokio::test]
async fn a_clock_set_back_while_down_does_not_make_a_message_wait_longer_than_it_had_to() {
    let world = World::new();
    world.send_in(HOUR, "m").await;
    world.machine.clock.step_wall(Timestamp::from_millis(world.wall().as_millis() - 300 * DAY.as_millis() as i64));
    let world = world.restart();
    world.pass(HOUR - ms(1)).await;
    assert_eq!(world.delivered(), [""; 0]);
    world.pass(ms(1)).await;
    assert_eq!(world.delivered(), ["m"]);
    world.broker.store().close();
}

#[tokio::test]
async fn a_topic_that_is_deleted_takes_its_waiting_messages_with_it() {
    let world = World::new();
    world.send_in(HOUR, "of the first").await;
    world.broker.delete_topic(&orders()).unwrap();
    world.make(orders(), MessageType::Delay);
    world.send_in(HOUR, "of the second").await;
    let gone = topic("gone");
    world.make(gone.clone(), MessageType::Delay);
    world.broker.produce(&gone, vec![at(world.wall().plus(HOUR), "x")]).await.unwrap();
    world.broker.delete_topic(&gone).unwrap();
    let world = world.crash(1);
    world.pass(HOUR).await;
    assert_eq!(world.delivered(), ["of the second"]);
    assert_eq!(world.broker.topic("gone"), None);
    assert_eq!(world.broker.pending_timers(), 0);
    assert_eq!(world.held_from(), PhysicalOffset::MAX, "the log is not held for what is dropped");
    world.broker.store().close();
}

#[tokio::test]
async fn a_full_disk_holds_messages_up_and_loses_none() {
    let world = World::new();
    world.send_in(ms(10), "m").await;
    world.machine.disk.set_capacity(world.machine.disk.used());
    wait_until(|| matches!(world.broker.store().health(), crate::broker::Health::Full { .. })).await;
    world.machine.clock.advance(ms(10));
    let again = world.broker.fire_timers().await.unwrap();
    assert!(again > world.machine.clock.now(), "it does not spin");
    assert_eq!((world.delivered(), world.broker.pending_timers()), (vec![], 1));
    world.machine.disk.set_capacity(1 << 40);
    wait_until(|| matches!(world.broker.store().health(), crate::broker::Health::Ready)).await;
    world.broker.fire_timers().await;
    assert_eq!(world.delivered(), ["m"]);
    world.broker.store().close();
}

#[tokio::test]
async fn a_hundred_thousand_that_fell_due_while_down_come_at_once() {
    const COUNT: usize = 100_000;
    let mut machine = Machine::new();
    machine.store.segment_bytes = 64 << 20;
    let world = World::on(machine);
    for chunk in 0..COUNT / 500 {
        let due = world.wall().plus(ms(60_000 + (chunk as u64 * 7919) % 3_000_000));
        let batch = (0..500).map(|n| at(due, &format!("{chunk}-{n}"))).collect();
        world.broker.produce(&orders(), batch).await.unwrap();
    }
    let world = world.down(2 * DAY);
    assert_eq!(world.broker.pending_timers(), COUNT as u64);
    world.broker.fire_timers().await;
    let queues = (0..2).map(|queue| world.broker.store().queue(&orders(), QueueId(queue)).max().get());
    assert_eq!(queues.sum::<u64>(), COUNT as u64);
    world.broker.store().close();
}

#[tokio::test]
async fn a_deletion_of_a_topic_that_fails_drops_no_delayed_message() {
    let world = World::new();
    world.send_in(ms(5), "kept").await;
    let entry = world.broker.topic_entry(orders().as_str()).unwrap();
    let closed = entry.lane.gate.close();
    world.pass(ms(5)).await;
    assert_eq!(world.delivered(), Vec::<String>::new());
    drop(closed);
    world.pass(ms(1000)).await;
    assert_eq!(world.delivered(), ["kept"]);
    world.broker.store().close();
}

/// A send holds its topic's gate and tells the index; what ends a timer holds the book and passes a gate. A sweep that held
/// the index and waited for the book would close the circle.
#[tokio::test]
async fn a_sweep_that_waits_for_the_book_holds_up_no_send() {
    let world = World::new();
    let timers = &world.broker.inner.timers;
    let pages = world.broker.timer_book().open();
    let mut held = 0;
    std::thread::scope(|threads| {
        threads.spawn(|| world.broker.sweep_some());
        while timers.sweep.try_lock().is_some() {
            std::thread::yield_now();
        }
        for _ in 0..1000 {
            std::thread::yield_now();
            held += usize::from(timers.index.try_lock_for(Duration::from_secs(1)).is_none());
            if held > 0 {
                break;
            }
        }
        drop(pages);
    });
    assert_eq!(held, 0, "the sweep holds the index");
    world.broker.store().close();
}

#[tokio::test]
async fn what_is_due_when_the_server_ends_comes_at_the_next_start() {
    let world = World::new();
    world.send_in(HOUR, "a").await;
    world.machine.clock.advance(HOUR);
    world.broker.end_polls();
    assert_eq!(world.broker.fire_timers().await, None, "nothing calls it again");
    assert_eq!(world.delivered(), [""; 0]);
    let world = world.restart();
    world.pass(ms(0)).await;
    assert_eq!(world.delivered(), ["a"]);
    world.broker.store().close();
}

#[tokio::test]
async fn a_timer_that_the_device_does_not_give_back_keeps_no_server_down() {
    let world = World::new();
    let sent = world.send_in(HOUR, "a").await;
    world.send_in(HOUR, "b").await;
    let queue = world.broker.store().queue(&topic(super::super::TIMER_TOPIC), QueueId(0));
    let at = queue.entries(sent.offset, 1).unwrap()[0].physical.get();
    world.broker.store().close();
    let World { machine, broker } = world;
    drop(broker);
    // So that every record is asked for its time.
    machine.clock.step_wall(Timestamp::from_millis(1));
    let file = std::path::PathBuf::from("/store/commitlog/00000000000000000000");
    machine.disk.set_bad(Some((file, at + 100..at + 101)));
    let world = World { broker: machine.start(), machine };
    world.pass(2 * HOUR).await;
    world.machine.disk.set_bad(None);
    world.pass(ms(2000)).await;
    // A clock so far back leaves the times of the entries: what could not be read waits for its own.
    assert_eq!(world.delivered(), ["b"]);
    assert_eq!(world.broker.pending_timers(), 1);
    world.broker.store().close();
}

/// Starts another broker on the store as Apache's leaves it: what is ours is gone, and its own timers say how far they are.
fn taken_over(world: World, offsets: Option<&[u8]>, delivered_until: Timestamp, known_until: i64) -> World {
    use crate::store::disk::Disk as _;
    let World { machine, broker } = world;
    broker.store().close();
    drop(broker);
    for file in ["ferromqPop.snapshot", "ferromqPop.snapshot.bak", "consumerOffset.json", "consumerOffset.json.bak"] {
        let _ = machine.disk.remove_file(&std::path::Path::new("/store/config").join(file));
    }
    if let Some(offsets) = offsets {
        machine.write("config/consumerOffset.json", offsets);
    }
    let mut checkpoint = vec![0; 4096];
    checkpoint[..8].copy_from_slice(&delivered_until.as_millis().to_be_bytes());
    checkpoint[16..24].copy_from_slice(&known_until.to_be_bytes());
    machine.write("config/timercheck", &checkpoint);
    World { broker: machine.start(), machine }
}

/// Appends a timer anew as Apache's broker rolls it on.
fn roll(world: &World, sent: Produced) {
    let timers = topic(super::super::TIMER_TOPIC);
    let was = messages(&world.broker, &timers, 0).remove(sent.offset.get() as usize);
    let mut properties = was.properties.without(&[key::TIMER_ROLL_TIMES]);
    properties.push(key::TIMER_ROLL_TIMES, "1");
    let again = was.copy_to(timers, QueueId(0), properties.build());
    world.broker.store().append(&[again], crate::store::Purpose::User).unwrap();
}

#[tokio::test]
async fn what_apaches_timers_delivered_or_rolled_on_does_not_come_again() {
    // Also when the file of its consumers' offsets is not there.
    for offsets in [Some(&br#"{"offsetTable":{}}"#[..]), None] {
        let world = World::new();
        let begin = world.wall();
        world.send_in(HOUR, "delivered").await;
        let rolled = world.send_in(100 * HOUR, "rolled").await;
        world.send_in(100 * HOUR, "waits").await;
        roll(&world, rolled);
        world.send_in(HOUR, "not yet loaded").await;
        let world = taken_over(world, offsets, begin.plus(2 * HOUR), 4);
        assert_eq!(world.broker.pending_timers(), 3);
        world.pass(2 * HOUR).await;
        assert_eq!(world.delivered(), ["not yet loaded"]);
        world.pass(100 * HOUR).await;
        assert_eq!(world.delivered(), ["not yet loaded", "rolled", "waits"]);
        world.broker.store().close();
    }
}

#[tokio::test]
async fn a_timer_that_apaches_broker_rolled_on_takes_no_other_of_the_same_id_with_it() {
    let world = World::new();
    let begin = world.wall();
    let other = topic("other");
    world.make(other.clone(), MessageType::Delay);
    let in_100 = |body: &str| at(begin.plus(100 * HOUR), body);
    world.broker.produce(&other, vec![in_100("m")]).await.unwrap();
    let rolled = world.try_send(in_100("m")).await.unwrap();
    world.send_in(101 * HOUR, "m").await;
    roll(&world, rolled);
    // The producer sent it once more.
    world.try_send(in_100("m")).await.unwrap();
    let world = taken_over(world, None, begin, 5);
    assert_eq!(world.broker.pending_timers(), 4);
    world.pass(102 * HOUR).await;
    assert_eq!((bodies(&world.broker, &other), world.delivered()), (vec!["m".into()], vec!["m".into(); 3]));
    world.broker.store().close();
}

#[tokio::test]
async fn a_timer_of_apaches_broker_that_could_not_be_read_at_the_start_does_not_come_early() {
    let world = World::new();
    let sent = world.send_in(HOUR, "a").await;
    world.send_in(HOUR, "b").await;
    let at = world.broker.timer_book().queue.entries(sent.offset, 1).unwrap()[0].physical.get();
    world.broker.store().close();
    let World { machine, broker } = world;
    drop(broker);
    // Apache's entries have the code of the tag where ours have the time.
    let path = format!("consumequeue/{}/0/00000000000000000000", super::super::TIMER_TOPIC);
    let mut entries = machine.read(&path);
    entries[12..20].copy_from_slice(&0i64.to_be_bytes());
    crate::store::disk::Disk::remove_file(&machine.disk, &std::path::Path::new("/store").join(&path)).unwrap();
    machine.write(&path, &entries);
    let file = std::path::PathBuf::from("/store/commitlog/00000000000000000000");
    machine.disk.set_bad(Some((file, at + 100..at + 101)));
    let world = World { broker: machine.start(), machine };
    let entry = world.broker.timer_book().queue.entries(sent.offset, 1).unwrap()[0];
    assert_eq!((entry.tags_code, world.broker.pending_timers()), (0, 2));
    world.machine.disk.set_bad(None);
    world.pass(HOUR / 2).await;
    assert_eq!(world.delivered(), [""; 0]);
    world.pass(HOUR / 2 - ms(1)).await;
    assert_eq!(world.delivered(), [""; 0]);
    world.pass(ms(1)).await;
    assert_eq!(world.delivered(), ["a", "b"]);
    assert_eq!(world.broker.pending_timers(), 0);
    world.broker.store().close();
}
