use std::{
    sync::atomic::{AtomicU64, Ordering},
    task::Poll,
    time::Duration,
};

use super::*;
use crate::{
    store::{
        FlushPolicy, RealDisk, Sought,
        scan::{Reading, scan},
        testing::{Bench, append, bodies, entries, keep, message, poll_once, queue, topic},
    },
    types::SystemClock,
};

mod lasting;

const ASYNC: FlushPolicy = FlushPolicy::Async { interval: Duration::from_millis(500) };

fn real(config: &Config) -> Store {
    Store::open(config.clone(), Arc::new(RealDisk), Arc::new(SystemClock::new())).expect("the store opens").0
}

#[test]
fn what_is_committed_is_read_and_still_there_after_opening_again() {
    for flush in [FlushPolicy::Sync, ASYNC] {
        let dir = tempfile::tempdir().expect("a directory");
        let config = Config { flush, segment_bytes: 64 << 10, ..Config::at(dir.path()) };
        let store = real(&config);
        let expected: Vec<String> = (0..500u32).map(|n| n.to_string().repeat(50)).collect();
        let ends: Vec<PhysicalOffset> = expected.iter().map(|body| append(&store, "t", body).end).collect();
        let end = ends[499];
        store.committed_blocking(end).expect("it is kept");
        assert_eq!(queue(&store, "t").max(), QueueOffset::new(500));
        assert_eq!(bodies(&store, "t"), expected);
        store.close();
        drop(store);

        let store = real(&config);
        assert_eq!(bodies(&store, "t"), expected);
        assert_eq!(append(&store, "t", "more").appended[0].queue_offset, QueueOffset::new(500));
    }
}

#[test]
fn appends_of_many_threads_get_dense_offsets_and_each_is_visible_once_committed() {
    for flush in [FlushPolicy::Sync, ASYNC] {
        let dir = tempfile::tempdir().expect("a directory");
        let store = real(&Config { flush, segment_bytes: 64 << 10, ..Config::at(dir.path()) });
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let store = &store;
                scope.spawn(move || {
                    for n in 0..100 {
                        let unit = [message("t", &format!("{thread} {n} a")), message("t", &format!("{thread} {n} b"))];
                        let ticket = store.append(&unit, Purpose::User).expect("the log takes it");
                        store.committed_blocking(ticket.end).expect("it is kept");
                        let last = ticket.appended[1];
                        assert!(queue(store, "t").max() > last.queue_offset);
                        assert_eq!(last.queue_offset, ticket.appended[0].queue_offset.plus(1));
                    }
                });
            }
        });
        let all = bodies(&store, "t");
        assert_eq!(all.len(), 1600);
        for thread in 0..8 {
            let prefix = format!("{thread} ");
            let mine: Vec<&String> = all.iter().filter(|body| body.starts_with(&prefix)).collect();
            let sent: Vec<String> = (0..100).flat_map(|n| ["a", "b"].map(|x| format!("{thread} {n} {x}"))).collect();
            assert!(mine.into_iter().eq(&sent), "the order of one sender is kept");
        }
        store.close();
    }
}

#[test]
fn nothing_is_visible_or_acknowledged_before_the_commit() {
    let bench = Bench::new();
    let store = bench.open();
    let ticket = append(&store, "t", "a");
    assert!(poll_once(store.committed(ticket.end)).is_pending());
    assert_eq!(queue(&store, "t").max(), QueueOffset::ZERO);
    let unsafe_read = store.message(ticket.appended[0].physical, 100);
    assert!(matches!(unsafe_read, Err(ReadError::Gone(_))));
    store.step_commit().expect("it is committed");
    assert!(matches!(poll_once(store.committed(ticket.end)), Poll::Ready(Ok(()))));
    assert_eq!(bodies(&store, "t"), ["a"]);
    let marks = store.watermarks();
    assert_eq!((marks.written, marks.durable, marks.dispatched), (ticket.end, ticket.end, ticket.end));
}

#[test]
fn arrivals_name_what_became_visible() {
    let bench = Bench::new();
    let store = bench.open();
    let sum = Arc::new(AtomicU64::new(0));
    let heard = sum.clone();
    store.on_arrival(Box::new(move |arrival| {
        assert_eq!((arrival.topic.as_str(), arrival.queue, arrival.tags_code), ("t", QueueId(0), 2_598_919));
        heard.fetch_add(1 + arrival.queue_offset.get() * 100, Ordering::SeqCst);
    }));
    append(&store, "t", "a");
    append(&store, "t", "b");
    assert_eq!(sum.load(Ordering::SeqCst), 0);
    store.step_commit().expect("it is committed");
    assert_eq!(sum.load(Ordering::SeqCst), 102);
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
    let bench = Bench::new();
    let store = bench.open();
    keep(&store, "t", "kept");
    let ticket = append(&store, "t", "lost");
    bench.disk.fail_log_sync_once_then_lie();
    assert!(store.step_commit().is_err());
    assert!(matches!(poll_once(store.committed(ticket.end)), Poll::Ready(Err(_))));
    let Health::Poisoned(reason) = store.health() else { panic!("{:?}", store.health()) };
    assert!(reason.to_string().contains("syncing the log"), "{reason}");
    assert!(poll_once(store.poisoned()).is_ready());
    let changes = bench.disk.ops();
    assert!(matches!(store.append(&[message("t", "x")], Purpose::Internal), Err(AppendError::Poisoned(_))));
    assert!(store.step_commit().is_err());
    assert!(store.step().is_err());
    store.close();
    assert_eq!(bench.disk.ops(), changes, "nothing is written or synced after the failure");
    assert_eq!(bodies(&store, "t"), ["kept"]);
}

#[test]
fn a_full_disk_refuses_users_keeps_room_for_the_server_and_recovers_by_itself() {
    let mut bench = Bench::new();
    bench.config.retention.disk_warning_ratio = 100;
    let store = bench.open();
    keep(&store, "t", "first");
    bench.disk.set_capacity(bench.disk.used() + (64 << 10));
    let body = "x".repeat(1000);
    let mut sent = 0;
    let refusal = loop {
        match store.append(&[message("t", &body)], Purpose::User) {
            Ok(_) => sent += 1,
            Err(refusal) => break refusal,
        }
        store.step_commit().expect("it is committed");
        assert!(sent < 1000, "the disk is full at some time");
    };
    assert!(matches!(refusal, AppendError::Full { .. }), "{refusal}");
    assert!(matches!(store.health(), Health::Full { .. }));
    let end = store.end();
    assert!(store.append(&[message("t", &body)], Purpose::User).is_err());
    assert_eq!(store.end(), end, "a refused append changes nothing");

    for n in 0..10 {
        store.append(&[message("settle", &n.to_string())], Purpose::Internal).expect("room was kept for it");
        store.step_commit().expect("it is committed");
    }
    assert_eq!(entries(&queue(&store, "t")).len(), sent + 1);
    store.step().expect("a full disk does not poison");

    bench.disk.set_capacity(1 << 30);
    store.step().expect("it finds the room");
    keep(&store, "t", "after");
    drop(store);
    bench.disk.crash(3);
    assert_eq!(bodies(&bench.open(), "t").len(), sent + 2);
}

#[test]
fn a_disk_above_the_warning_ratio_refuses_users_until_there_is_room() {
    let mut bench = Bench::new();
    bench.config.retention.disk_warning_ratio = 50;
    let store = bench.open();
    bench.disk.set_capacity(bench.disk.used() * 3 / 2);
    store.step().expect("it looks");
    assert!(matches!(store.append(&[message("t", "x")], Purpose::User), Err(AppendError::Full { .. })));
    store.append(&[message("t", "x")], Purpose::Internal).expect("the server itself goes on");
    bench.disk.set_capacity(1 << 30);
    store.step().expect("it looks");
    append(&store, "t", "y");
}

#[test]
fn a_store_on_a_full_disk_opens_and_serves() {
    let bench = Bench::new();
    let store = bench.open();
    keep(&store, "t", "a");
    store.close();
    drop(store);
    bench.disk.set_capacity(bench.disk.used());
    let store = bench.open();
    assert_eq!(bodies(&store, "t"), ["a"]);
}

#[test]
fn an_append_beyond_a_bound_is_refused_and_says_the_bound() {
    let mut bench = Bench::new();
    bench.config.pending_bytes_max = 3000;
    let store = bench.open();
    let large = message("t", &"x".repeat(20_000));
    let Err(AppendError::TooLarge { size, max }) = store.append(&[large], Purpose::User) else { panic!("it fits") };
    assert!(size > 20_000 && max == (16 << 10) - 8);
    append(&store, "t", &"x".repeat(2000));
    let Err(AppendError::Busy { max, .. }) = store.append(&[message("t", &"x".repeat(2000))], Purpose::User) else {
        panic!("it is not refused")
    };
    assert_eq!(max, 3000);
    store.step_commit().expect("it is committed");
    append(&store, "t", &"x".repeat(2000));
}

#[test]
fn store_times_never_go_back_though_the_clock_does() {
    let bench = Bench::new();
    let store = bench.open();
    let first = keep(&store, "t", "a").appended[0].stored_at;
    bench.clock.step_wall(Timestamp::from_millis(5));
    assert_eq!(keep(&store, "t", "b").appended[0].stored_at, first);
    store.close();
    drop(store);
    assert_eq!(keep(&bench.open(), "t", "c").appended[0].stored_at, first);
}

#[test]
fn an_offset_is_found_by_time() {
    let bench = Bench::new();
    let store = bench.open();
    let times: Vec<Timestamp> = (0..40)
        .map(|n: i32| {
            bench.clock.advance(Duration::from_secs(10));
            keep(&store, "t", &n.to_string()).appended[0].stored_at
        })
        .collect();
    let queue = queue(&store, "t");
    let at = |time| queue.offset_at(time).expect("it is found").get();
    assert_eq!(at(Timestamp::ZERO), 0);
    assert_eq!(at(times[17]), 17);
    assert_eq!(at(times[17].plus(Duration::from_secs(1))), 18);
    assert_eq!(at(times[39].plus(Duration::from_secs(1))), 40);
}

#[test]
fn messages_are_found_by_key_newest_first_also_after_a_crash() {
    let bench = Bench::new();
    let store = bench.open();
    for n in 0..200 {
        keep(&store, if n % 2 == 0 { "even" } else { "odd" }, &(n % 20).to_string());
    }
    let check = |store: &Store| {
        let find = |of: &str, max| store.find(Sought::any(&topic(of), "8"), max, 1000, |_| true);
        let found = find("even", 64).expect("the index is read");
        assert_eq!(found.len(), 10);
        assert!(found.iter().all(|m| m.body == "8" && m.topic.as_str() == "even"));
        assert!(found.windows(2).all(|pair| pair[0].physical > pair[1].physical));
        assert_eq!(find("even", 3).expect("the index is read").len(), 3);
        assert!(find("odd", 64).expect("the index is read").is_empty());
    };
    check(&store);
    store.step().expect("it is written");
    check(&store);
    drop(store);
    bench.disk.crash(7);
    check(&bench.open());
}

#[test]
fn a_search_goes_on_where_the_index_stopped_at_a_message_that_was_sought() {
    let bench = Bench::new();
    let store = bench.open();
    // More than the index looks at in one go, and each is one of them.
    for _ in 0..40 {
        keep(&store, "t", "k");
    }
    store.step().expect("it is written");
    let found = store.find(Sought::any(&topic("t"), "k"), 64, 1000, |_| true).expect("the index is read");
    assert_eq!(found.len(), 40);
}

#[test]
fn a_walk_of_the_log_that_is_to_end_within_a_unit_ends_behind_it() {
    let bench = Bench::new();
    let store = bench.open();
    let first = keep(&store, "t", "alone").end;
    let unit = ["a", "b", "c"].map(|body| message("t", body));
    let ticket = store.append(&unit, Purpose::User).expect("the log takes it");
    store.step_commit().expect("it is committed");
    keep(&store, "t", "behind");
    for stop in 1..=first.until(ticket.end) {
        let mut found = Vec::new();
        let reading = Reading::Checked { apache_until: PhysicalOffset::ZERO };
        let range = first..first.plus(stop);
        let end = scan(&store.core.log.segments, range, reading, |record| found.push(record.at)).expect("it is read");
        assert_eq!((end.at, end.defect), (ticket.end, None), "{stop} bytes");
        assert_eq!(found, [0, 1, 2].map(|n| ticket.appended[n].physical));
    }
}

#[test]
fn a_deleted_topic_stays_deleted_and_one_made_again_begins_at_0() {
    let bench = Bench::new();
    let store = bench.open();
    let mut messages = 0;
    let mut fill = |store: &Store, n: usize| {
        for _ in 0..n {
            messages += 1;
            keep(store, "t", &format!("m{messages}"));
        }
    };
    fill(&store, 50);
    store.step().expect("it is written");
    store.delete_topic(&topic("t")).expect("it is deleted");
    assert_eq!(queue(&store, "t").max(), QueueOffset::ZERO);
    keep(&store, "other", "o");
    drop(store);
    bench.disk.crash(1);

    let store = bench.open();
    assert_eq!(queue(&store, "t").max(), QueueOffset::ZERO);
    fill(&store, 3);
    assert_eq!(bodies(&store, "t"), ["m51", "m52", "m53"]);
    store.close();
    drop(store);

    // All that is derived is made again from the log, which still has the deleted messages.
    bench.disk.remove_dir_all(std::path::Path::new("/store/consumequeue")).expect("it is removed");
    let store = bench.open();
    assert_eq!(bodies(&store, "t"), ["m51", "m52", "m53"]);
    assert_eq!(bodies(&store, "other"), ["o"]);
}

#[test]
fn retention_deletes_old_segments_that_are_not_held_and_the_queues_begin_later() {
    let mut bench = Bench::new();
    bench.config.retention.delete_when = (0..24).collect();
    let store = bench.open();
    for n in 0..40 {
        keep(&store, "t", &format!("{n} {}", "x".repeat(1000)));
    }
    store.step().expect("it is written");
    bench.clock.advance(Duration::from_secs(73 * 3600));
    keep(&store, "t", "young");
    store.step().expect("a round");
    assert_eq!(store.start(), PhysicalOffset::ZERO, "nothing goes before the broker has said what it needs");

    let held = entries(&queue(&store, "t"))[20];
    store.hold_from(held.physical);
    store.step().expect("a round");
    let begin = store.start();
    assert!(begin > PhysicalOffset::ZERO && begin <= held.physical);
    let queue_of = queue(&store, "t");
    assert!(queue_of.min() > QueueOffset::ZERO && queue_of.min() <= held.offset);
    assert_eq!(entries(&queue_of)[0].offset, queue_of.min());
    assert!(matches!(store.message(PhysicalOffset::ZERO, 1000), Err(ReadError::Gone(_))));

    store.hold_from(store.end());
    store.step().expect("a round");
    assert!(bodies(&store, "t").contains(&"young".to_owned()), "the last segment stays");
    let left = bodies(&store, "t");
    drop(store);
    bench.disk.crash(4);
    let store = bench.open();
    assert_eq!(bodies(&store, "t"), left);
    assert_eq!(keep(&store, "t", "next").appended[0].queue_offset, QueueOffset::new(41));
}

#[test]
fn a_state_file_is_read_back_and_its_name_never_leaves_the_directory() {
    let bench = Bench::new();
    let store = bench.open();
    assert_eq!(store.load_state("topics.json").expect("it reads"), None);
    store.save_state("topics.json", b"{}").expect("it is saved");
    assert_eq!(store.load_state("topics.json").expect("it reads").as_deref(), Some(&b"{}"[..]));
    assert!(store.save_state("../checkpoint", b"x").is_err());
}

#[test]
fn a_message_that_a_queue_shows_is_never_gone() {
    // Showing a large unit takes a moment, in which the reader sees its beginning.
    const UNITS: u64 = 60;
    const COUNT: u64 = UNITS * 500;
    for flush in [FlushPolicy::Sync, ASYNC] {
        let (store, _) = Store::open(
            Config { flush, segment_bytes: 1 << 20, ..Config::at("/store") },
            Arc::new(crate::store::sim::SimDisk::new()),
            Arc::new(SystemClock::new()),
        )
        .expect("the store opens");
        let queue = queue(&store, "t");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let unit = vec![message("t", "body"); (COUNT / UNITS) as usize];
                for _ in 0..UNITS {
                    let ticket = store.append(&unit, Purpose::User).expect("it has room");
                    store.committed_blocking(ticket.end).expect("it is kept");
                }
            });
            let mut next = QueueOffset::ZERO;
            while next.get() < COUNT {
                for entry in queue.entries(next, 32).expect("entries") {
                    store.message(entry.physical, entry.size).expect("what is shown can be read");
                    next = QueueOffset::new(entry.offset.get() + 1);
                }
            }
        });
    }
}
