use super::*;
use crate::{
    broker::{
        OpenError, SettleError,
        pop::{book::Issue, snapshot},
    },
    store::disk::Disk,
};

#[tokio::test]
async fn what_was_acked_stays_acked_and_what_was_in_flight_comes_again() {
    for with_snapshot in [false, true] {
        let world = World::new(1);
        world.send(&["a", "b", "c", "d"]).await;
        let taken = world.take(3).await;
        world.ack(&taken[0]).await.unwrap();
        if with_snapshot {
            world.broker.snapshot().unwrap();
        }
        world.ack(&taken[2]).await.unwrap();
        let world = world.crash(1);
        let again = world.take(10).await;
        assert_eq!(bodies(&again), ["b", "d"]);
        assert_eq!(again[0].attempt, 1, "a crash forgets deliveries");
        assert_eq!(world.progress(), (1, 2, 0));
    }
}

#[tokio::test]
async fn attempts_survive() {
    for with_snapshot in [false, true] {
        let world = World::new(1);
        world.send(&["a", "b"]).await;
        world.take(2).await;
        world.pass(LEASE);
        world.broker.revive().await;
        let second = world.take_one().await;
        assert_eq!((second.attempt, second.receipt.offset()), (2, at(0)));
        let end = world.broker.store().end();
        world.broker.store().committed(end).await.unwrap();
        if with_snapshot {
            world.broker.snapshot().unwrap();
        }
        let world = world.crash(2);
        let again = world.take(10).await;
        assert_eq!(again.iter().map(|d| d.attempt).collect::<Vec<_>>(), [2, 2]);
    }
}

#[tokio::test]
async fn a_changed_message_keeps_its_time() {
    for with_snapshot in [false, true] {
        let world = World::new(1);
        world.send(&["a"]).await;
        let taken = world.take_one().await;
        world.broker.change_invisible(&topic(), &group(), &taken.receipt, ms(10_000)).await.unwrap();
        world.pass(ms(4000));
        if with_snapshot {
            world.broker.snapshot().unwrap();
        }
        let world = world.crash(3);
        world.pass(ms(5999));
        world.broker.revive().await;
        assert_eq!(world.take(1).await.len(), 0);
        world.pass(ms(2));
        world.broker.revive().await;
        assert_eq!(world.take_one().await.attempt, 2);
    }
}

#[tokio::test]
async fn what_had_its_attempts_before_the_crash_is_dead_lettered_though_nobody_polls() {
    let world = World::new(1);
    world
        .broker
        .update_group(&group(), crate::broker::GroupChange { retry_max_times: Some(0), ..Default::default() })
        .unwrap();
    world.send(&["a"]).await;
    let taken = world.take_one().await;
    world.broker.change_invisible(&topic(), &group(), &taken.receipt, ms(5000)).await.unwrap();
    let world = world.crash(12);
    let due = world.broker.revive().await.expect("something is due");
    world.pass(due.remaining(world.machine.clock.now()));
    world.broker.revive().await;
    assert_eq!(world.progress(), (1, 0, 0));
}

#[tokio::test]
async fn a_clock_that_was_set_back_cannot_park_a_message_for_ever() {
    let world = World::new(1);
    world.send(&["a"]).await;
    let taken = world.take_one().await;
    world.broker.change_invisible(&topic(), &group(), &taken.receipt, ms(10_000)).await.unwrap();
    world.machine.clock.step_wall(crate::types::Timestamp::from_millis(1000));
    let world = world.crash(4);
    let due = world.broker.revive().await.unwrap();
    assert!(due <= world.machine.clock.now().plus(ms(10_001)), "{due:?}");
}

#[tokio::test]
async fn a_receipt_of_before_the_crash_is_honoured_until_the_message_is_delivered_again() {
    let world = World::new(1);
    world.send(&["a", "b"]).await;
    let taken = world.take(2).await;
    let world = world.crash(5);
    world.ack(&taken[0]).await.unwrap();
    world.ack(&taken[0]).await.unwrap();
    let again = world.take(10).await;
    assert_eq!(bodies(&again), ["b"]);
    assert!(matches!(world.ack(&taken[1]).await, Err(SettleError::Expired)));
    world.ack(&again[0]).await.unwrap();
}

#[tokio::test]
async fn a_receipt_of_before_the_crash_can_still_change_its_message() {
    let world = World::new(1);
    world.send(&["a"]).await;
    let taken = world.take_one().await;
    let world = world.crash(6);
    assert!(world.broker.renew(&topic(), &group(), &taken.receipt, LEASE).is_err());
    let changed = world.broker.change_invisible(&topic(), &group(), &taken.receipt, LEASE).await.unwrap();
    assert_eq!(world.take(1).await.len(), 0, "it is invisible");
    world.broker.ack(&topic(), &group(), &[changed]).await.unwrap().remove(0).unwrap();
    assert_eq!(world.progress(), (1, 0, 0));
}

#[tokio::test]
async fn a_receipt_of_before_the_crash_expires_by_the_wall_clock() {
    let world = World::new(1);
    world.send(&["a"]).await;
    let taken = world.take_one().await;
    let world = world.crash(7);
    world.pass(LEASE);
    assert!(matches!(world.ack(&taken).await, Err(SettleError::Expired)));
}

#[tokio::test]
async fn runs_have_different_numbers_though_the_clock_stands_still() {
    let mut world = World::new(1);
    world.send(&["a"]).await;
    let mut runs = Vec::new();
    for seed in 0..4 {
        runs.push(world.broker.inner.pop.run.id);
        world = world.crash(seed);
    }
    assert!(runs.windows(2).all(|w| w[0] < w[1]), "{runs:?}");
}

#[tokio::test]
async fn a_snapshot_makes_the_replay_short_and_writes_apaches_offsets() {
    let world = World::new(1);
    world.send(&["a", "b", "c"]).await;
    for delivery in world.take(2).await {
        world.ack(&delivery).await.unwrap();
    }
    world.broker.snapshot().unwrap();
    let read = |world: &World, file: &str| world.machine.read(&format!("config/{file}"));
    let snapshot = snapshot::Snapshot::decode(&read(&world, snapshot::FILE)).unwrap();
    assert_eq!(snapshot.settled, at(2));
    assert!(snapshot.held_from.get() > 0);
    let offsets = crate::broker::offsets::decode(&read(&world, "consumerOffset.json")).unwrap();
    assert_eq!(offsets[&(topic(), group())][&QueueId(0)], at(2));
    let before = world.machine.disk.ops();
    world.broker.snapshot().unwrap();
    assert_eq!(world.machine.disk.ops(), before, "nothing changed");
    let world = world.restart();
    assert_eq!(bodies(&world.take(10).await), ["c"]);
}

#[tokio::test]
async fn a_damaged_snapshot_stops_the_start_with_the_cure() {
    let world = World::new(1);
    world.broker.snapshot().unwrap();
    let World { machine, broker } = world;
    broker.store().close();
    drop(broker);
    machine.disk.flip_bit(format!("/store/config/{}", snapshot::FILE), 9, 1).unwrap();
    let Err(OpenError::State { file, why }) = machine.try_start() else { panic!("it started") };
    assert_eq!(file, snapshot::FILE);
    assert!(why.contains("remove it"), "{why}");
}

#[tokio::test]
async fn consumers_of_apaches_broker_go_on_where_they_were() {
    let world = World::new(1);
    world.send(&["a", "b", "c"]).await;
    let World { machine, broker } = world;
    broker.store().close();
    drop(broker);
    // As Apache's broker would have left it: its offsets, and nothing of ours.
    for file in [snapshot::FILE, "consumerOffset.json"] {
        machine.disk.remove_file(&std::path::Path::new("/store/config").join(file)).unwrap();
    }
    machine.write("config/consumerOffset.json", br#"{"offsetTable":{"orders@billing":{0:2}}}"#);
    let world = World { broker: machine.start(), machine };
    assert_eq!(bodies(&world.take(10).await), ["c"]);
}

#[tokio::test]
async fn a_new_group_on_an_old_topic_begins_at_its_newest_message_and_a_crash_does_not_choose_anew() {
    for with_snapshot in [false, true] {
        let world = World::new(1);
        world.send(&["a", "b", "c", "d"]).await;
        // As if retention had deleted the first two.
        world.broker.store().begin_queue(&topic(), QueueId(0), at(2));
        assert_eq!(bodies(&world.take(10).await), ["d"]);
        world.send(&["e", "f"]).await;
        if with_snapshot {
            world.broker.snapshot().unwrap();
        }
        let world = world.crash(11);
        assert_eq!(bodies(&world.take(10).await), ["d", "e", "f"]);
    }
}

#[tokio::test]
async fn a_large_snapshot_is_not_written_again_for_a_few_acks() {
    let world = World::new(1);
    world.send(&["a", "b", "c"]).await;
    let taken = world.take(3).await;
    let written = |world: &World| {
        world.broker.snapshot().unwrap();
        snapshot::Snapshot::decode(&world.machine.read(&format!("config/{}", snapshot::FILE))).unwrap().settled
    };
    world.ack(&taken[0]).await.unwrap();
    assert_eq!(written(&world), at(1));
    world.broker.inner.pop.snapshots.lock().bytes = 128 << 20;
    world.ack(&taken[1]).await.unwrap();
    assert_eq!(written(&world), at(1), "replaying one record is cheaper than writing 128 MiB");
    world.broker.inner.pop.snapshots.lock().bytes = 1000;
    assert_eq!(written(&world), at(2));
}

#[tokio::test]
async fn a_large_snapshot_is_written_again_once_the_log_has_grown_or_it_is_old_so_that_retention_goes_on() {
    let world = World::new(1);
    world.send(&["a", "b", "c"]).await;
    let taken = world.take(3).await;
    let held = |world: &World| {
        world.broker.snapshot().unwrap();
        snapshot::Snapshot::decode(&world.machine.read(&format!("config/{}", snapshot::FILE))).unwrap().held_from
    };
    let first = held(&world);
    let large = || world.broker.inner.pop.snapshots.lock().bytes = (1 << 20) + 1;
    large();
    world.ack(&taken[0]).await.unwrap();
    assert_eq!(held(&world), first);
    for _ in 0..34 {
        world.send_bytes(500_000).await;
    }
    let second = held(&world);
    assert!(second.get() > first.get() + (16 << 20), "the log has grown by 16 times its size");
    large();
    world.ack(&taken[1]).await.unwrap();
    world.pass(Duration::from_secs(599));
    assert_eq!(held(&world), second);
    world.pass(Duration::from_secs(1));
    assert!(held(&world) > second, "it is ten minutes old");
}

#[tokio::test]
async fn a_receipt_of_a_message_that_the_log_lost_settles_nothing_that_came_in_its_place() {
    let mut machine = Machine::new();
    machine.store.flush = crate::store::FlushPolicy::Async { interval: Duration::from_secs(3600) };
    let world = World::on(machine, 1);
    world.send(&["lost"]).await;
    let lost = world.take_one().await;
    world.machine.disk.crash_with(crate::store::sim::CrashChoice::DropAll);
    let world = world.crash(1);
    world.send(&["new"]).await;
    let acked = world.broker.ack(&topic(), &group(), std::slice::from_ref(&lost.receipt)).await;
    assert!(acked.is_ok_and(|results| matches!(results[..], [Err(SettleError::Invalid)])));
    assert_eq!(bodies(&world.take(10).await), ["new"]);
}

#[tokio::test]
async fn a_new_group_on_an_emptied_queue_passes_over_nothing_that_came_before_a_crash() {
    let mut machine = Machine::new();
    machine.store.flush = crate::store::FlushPolicy::Async { interval: Duration::from_secs(3600) };
    machine.store.threads = crate::store::Threads::Stepped;
    machine.store.retention.delete_when = (0..24).collect();
    let world = World::on(machine, 1);
    let filler = TopicName::parse("filler").unwrap();
    world.make(filler.clone(), GroupName::parse("other").unwrap(), 1);
    world.send(&["a", "b"]).await;
    for _ in 0..4 {
        let draft = crate::broker::Draft { body: Bytes::from(vec![b'x'; 500_000]), ..normal("") };
        world.broker.produce(&filler, vec![draft]).await.unwrap();
    }
    let store = world.broker.store().clone();
    store.step().unwrap();
    world.broker.snapshot().unwrap();
    world.pass(Duration::from_secs(73 * 3600));
    store.step().unwrap();
    let queue = store.queue(&topic(), QueueId(0));
    assert_eq!((queue.min(), queue.max()), (at(2), at(2)), "retention has emptied it");
    assert_eq!(world.take(1).await.len(), 0);
    world.send(&["c", "d"]).await;
    store.step_commit().unwrap();
    drop((store, queue));
    let world = world.crash(2);
    assert_eq!(bodies(&world.take(10).await), ["c", "d"]);
}

#[tokio::test]
async fn a_subscription_made_while_its_topic_is_forgotten_sits_where_arrivals_find_it() {
    let world = World::new(1);
    let (broker, made) = (world.broker.clone(), world.broker.topic("orders").unwrap());
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                broker.subscription(&made, &group()).unwrap();
            }
        });
        for _ in 0..2000 {
            broker.inner.pop.forget_topic(&topic()).unwrap();
            let line = broker.subscription(&made, &group()).unwrap().owner.line.clone();
            let found = broker.inner.pop.polls.line(&topic(), &group());
            let is_found = std::sync::Arc::ptr_eq(&line, &found);
            over.fetch_or(!is_found, std::sync::atomic::Ordering::Relaxed);
            assert!(is_found, "no arrival wakes whoever sits there");
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[tokio::test]
async fn a_forgotten_group_begins_anew_even_after_a_crash() {
    for with_snapshot in [false, true] {
        let world = World::new(1);
        world.send(&["a", "b"]).await;
        let taken = world.take_one().await;
        world.ack(&taken).await.unwrap();
        if with_snapshot {
            world.broker.snapshot().unwrap();
        }
        world.broker.delete_group(&group()).unwrap();
        world.send(&["c"]).await;
        let world = world.crash(8);
        assert_eq!(bodies(&world.take(10).await), ["a", "b", "c"], "auto-created again, on a young topic");
        assert!(matches!(world.ack(&taken).await, Err(SettleError::Expired)));
    }
}

#[tokio::test]
async fn a_dead_letter_is_moved_once_whatever_the_crash_keeps() {
    for seed in 0..20 {
        let world = World::new(1);
        world
            .broker
            .update_group(&group(), crate::broker::GroupChange { retry_max_times: Some(0), ..Default::default() })
            .unwrap();
        world.send(&["a"]).await;
        world.take_one().await;
        world.pass(LEASE);
        world.broker.revive().await;
        let world = world.crash(seed);
        // The move may be lost with its record; then the message comes again, is over its attempts, or is moved again.
        world.take(1).await;
        world.pass(LEASE);
        world.broker.revive().await;
        let end = world.broker.store().end();
        world.broker.store().committed(end).await.unwrap();
        let dead = crate::broker::testing::bodies(&world.broker, &TopicName::dead_letter(&group()));
        assert_eq!((dead, world.progress()), (vec!["a".to_string()], (1, 0, 0)), "seed {seed}");
    }
}

#[tokio::test]
async fn a_snapshot_never_says_done_of_what_can_still_be_lost() {
    let world = World::new(1);
    let once = crate::broker::GroupChange { retry_max_times: Some(0), ..Default::default() };
    world.broker.update_group(&group(), once).unwrap();
    world.send(&["a", "b"]).await;
    let taken = world.take(2).await;
    world.broker.forward_to_dead_letter(&topic(), &group(), &taken[0].receipt).await.unwrap();
    // The copy of the second and the record that it is done never reach the device, and the disk goes on as if nothing
    // had happened.
    world.machine.disk.fail_log_sync_once_then_lie();
    assert!(world.broker.forward_to_dead_letter(&topic(), &group(), &taken[1].receipt).await.is_err());
    assert!(world.broker.snapshot().is_err());
    world.machine.disk.crash_with(crate::store::sim::CrashChoice::DropAll);
    let world = world.crash(1);
    let again = world.take(10).await;
    let dead = crate::broker::testing::bodies(&world.broker, &TopicName::dead_letter(&group()));
    assert_eq!((bodies(&again), dead), (vec!["b"], vec!["a".to_string()]));
}

#[tokio::test]
async fn a_snapshot_of_a_lost_log_is_not_believed() {
    let world = World::new(1);
    world.send(&["a"]).await;
    let taken = world.take_one().await;
    world.ack(&taken).await.unwrap();
    // As after a power cut with asynchronous flush: the snapshot was synced, the log behind it was not.
    let lost = snapshot::Snapshot {
        run: 1,
        settled: at(100),
        subscriptions: vec![snapshot::SubscriptionState {
            topic: topic(),
            group: group(),
            idle: Duration::ZERO,
            books: vec![snapshot::BookState {
                queue: QueueId(0),
                commit: at(50),
                done: vec![],
                retries: vec![],
                void: Issue::default(),
                lanes: vec![],
                leases: vec![],
            }],
        }],
        ..Default::default()
    };
    world.broker.store().save_state(snapshot::FILE, &lost.encode()).unwrap();
    let world = world.crash(9);
    world.send(&["b"]).await;
    let taken = world.take(10).await;
    assert_eq!(bodies(&taken), ["b"]);
    world.ack(&taken[0]).await.unwrap();
    let world = world.crash(10);
    assert_eq!(world.take(10).await.len(), 0, "records behind the believed end were replayed");
}

proptest::proptest! {
    #[test]
    fn a_snapshot_is_read_back_as_it_was_written_and_any_bytes_never_panic(
        numbers in proptest::collection::vec(0u64..1 << 50, 8),
        bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
    ) {
        let n = |i: usize| numbers[i];
        let retry = crate::broker::pop::settle_record::Retry {
            queue: QueueId(7),
            offset: at(n(0)),
            attempt: n(1) as u32,
            visible_at: crate::types::Timestamp::from_millis(n(2) as i64),
            delay: ms(n(3)),
        };
        let issue = Issue { run: n(3), nonce: n(2) as u32 };
        let ends_at = crate::types::Timestamp::from_millis(n(4) as i64);
        let lease = crate::broker::pop::settle_record::Lease {
            queue: QueueId(7),
            offset: at(n(1)),
            attempt: n(0) as u32,
            issue,
            ends_at,
            left: ms(n(5)),
        };
        let done = vec![at(n(4))..at(n(4) + 1 + n(5))];
        let book = snapshot::BookState { queue: QueueId(7), commit: at(n(6)), done, retries: vec![retry], void: Issue { run: n(6), nonce: n(3) as u32 }, lanes: vec![(crate::types::LiteId::from_number(n(2)), at(n(3)))], leases: vec![lease] };
        let subscription = snapshot::SubscriptionState { topic: topic(), group: group(), idle: Duration::ZERO, books: vec![book] };
        let held_from = crate::types::PhysicalOffset::new(n(7));
        let written = snapshot::Snapshot { run: n(0), settled: at(n(1)), held_from, subscriptions: vec![subscription] };
        proptest::prop_assert_eq!(snapshot::Snapshot::decode(&written.encode()), Ok(written));
        let _ = snapshot::Snapshot::decode(&bytes);
    }
}
