use std::{
    ops::ControlFlow,
    sync::atomic::{AtomicU64, Ordering},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;

use super::*;
use crate::{
    store::{
        FlushPolicy, RealDisk, Sought,
        disk::Open,
        fresh_keys::{KEYS_MAX, with_room},
        index_file::{PENDING_MAX, Places},
        scan::scan,
        sim::CrashChoice,
        testing::{Bench, append, bodies, entries, keep, message, poll_once, queue, topic},
    },
    types::{Properties, SysFlag, SystemClock, properties::PropertiesBuilder},
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

/// Where the index says that a message with this key lies.
fn places(store: &Store, key: &str) -> Vec<PhysicalOffset> {
    let topic = topic("t");
    let (mut sought, mut all) = (Sought::any(&topic, key), Vec::new());
    loop {
        let Places { found, cut_at } = store.core.keyed(&sought, 64).expect("the index is read");
        all.extend(found);
        let Some(at) = cut_at else { return all };
        sought.below = at;
    }
}

#[test]
fn a_key_is_found_once_whether_it_was_handed_over_or_read_from_the_log() {
    for flush in [FlushPolicy::Sync, ASYNC] {
        let mut bench = Bench::new();
        bench.config.flush = flush;
        let store = bench.open();
        let mut all = Vec::new();
        let mut add = |store: &Store, units: usize, records: usize| {
            for _ in 0..units {
                let unit: Vec<_> = (0..records).map(|n| message("t", &format!("m{}", all.len() + n))).collect();
                let ticket = store.append(&unit, Purpose::User).expect("the log takes it");
                all.extend(ticket.appended.iter().map(|a| a.physical));
            }
            all.clone()
        };
        let check = |store: &Store, all: &[PhysicalOffset]| {
            for (n, place) in all.iter().enumerate() {
                assert_eq!(places(store, &format!("m{n}")), [*place], "m{n} with {flush:?}");
            }
        };
        // A few, which are handed over; then more than find room, over several files of the log; units that find none at
        // all; then a few again.
        for (units, records) in [(3, 1), (4, 3), (150, 1), (1, KEYS_MAX + 1), (30, 3), (3, 1)] {
            let new = add(&store, units, records);
            store.step_commit().expect("it is committed");
            check(&store, &new);
        }
        add(&store, 150, 1);
        store.step().expect("it is written");
        let before = add(&store, 5, 1);
        store.close();
        drop(store);
        check(&bench.open(), &before);
        bench.disk.remove_dir_all(std::path::Path::new("/store/index")).expect("it is removed");
        // What this run hands over does not stand for what it found.
        let store = bench.open();
        let new = add(&store, 2, 1);
        store.step_commit().expect("it is committed");
        check(&store, &new);
    }
}

#[test]
fn a_key_that_was_handed_over_is_neither_found_nor_written_before_its_record_is_committed() {
    let bench = Bench::new();
    let store = bench.open();
    let first = keep(&store, "t", "first").appended[0].physical;
    let second = append(&store, "t", "second").appended[0].physical;
    assert_eq!((places(&store, "first"), places(&store, "second")), (vec![first], vec![]));
    append(&store, "t", "third");
    store.core.tick(Derive::Now).expect("a round without a commit");
    assert_eq!((places(&store, "first"), places(&store, "second")), (vec![first], vec![]));
    bench.disk.fail_sync_once_then_lie();
    assert!(store.step_commit().is_err());
    assert_eq!((places(&store, "second"), places(&store, "third")), (vec![], vec![]), "and never if it cannot be");
    drop(store);
    bench.disk.crash_with(CrashChoice::DropAll);
    let store = bench.open();
    assert_eq!(places(&store, "first"), [first]);
    assert_eq!(keep(&store, "t", "fourth").appended[0].physical, second, "its place is another's");
    assert_eq!((places(&store, "second"), places(&store, "fourth")), (vec![], vec![second]));
}

#[test]
fn with_async_flush_keys_are_found_at_once_and_written_when_their_records_are_durable() {
    let mut bench = Bench::new();
    bench.config.flush = ASYNC;
    let store = bench.open();
    let first = append(&store, "t", "first");
    store.step_commit().expect("it is durable");
    let second = append(&store, "t", "second");
    assert_eq!(places(&store, "second"), [second.appended[0].physical]);
    store.core.tick(Derive::Now).expect("a round without a sync");
    assert_eq!(store.core.progress.lock().written.recover_from, first.end);
    let dir = std::path::Path::new("/store/index");
    let name = bench.disk.list(dir).expect("it is listed").pop().expect("there is a file");
    let file = bench.disk.open(&dir.join(name), Open::Read).expect("it opens");
    assert_eq!(file.read(36, 4).expect("it is read"), [0, 0, 0, 2][..], "the next entry is the second");
    assert_eq!(places(&store, "second"), [second.appended[0].physical]);
    drop(store);
    bench.disk.crash_with(CrashChoice::DropAll);
    let store = bench.open();
    assert_eq!((places(&store, "first").len(), places(&store, "second").len()), (1, 0));
}

/// A message with very many keys: `k0` and so many times `x`.
fn of_many_keys(count: usize) -> NewMessage {
    let mut properties = PropertiesBuilder::default();
    properties.push("KEYS", &format!("k0{}", " x".repeat(count)));
    NewMessage { properties: properties.build(), ..message("t", "") }
}

#[test]
fn more_keys_than_find_room_in_memory_wait_in_the_log_and_a_unit_may_have_as_many() {
    const MANY: usize = 16_000;
    let mut bench = Bench::new();
    bench.config.flush = ASYNC;
    (bench.config.segment_bytes, bench.config.index_slots, bench.config.index_entries) = (1 << 20, 1 << 10, 1 << 20);
    let store = bench.open();
    let k0 = |count: usize| places(&store, "k0").len() == count;
    let fit = PENDING_MAX / (MANY + 1);
    for _ in 0..fit {
        store.append(&[of_many_keys(MANY)], Purpose::User).expect("the log takes it");
    }
    assert!(k0(fit));
    // These are handed over until there is room for no more, and nothing may be written yet.
    let left = PENDING_MAX % (MANY + 1);
    let few: Vec<_> = (0..left + 50).map(|n| append(&store, "t", &format!("m{n}")).appended[0].physical).collect();
    let is_found = |n: usize| places(&store, &format!("m{n}")) == [few[n]];
    assert!(is_found(0) && is_found(left - 1) && !is_found(left));
    store.core.tick(Derive::Now).expect("nothing is durable");
    assert!(!is_found(left));
    store.step_commit().expect("it is durable");
    assert!((0..few.len()).all(is_found) && k0(fit));

    let unit: Vec<_> = (0..=fit).map(|_| of_many_keys(MANY)).collect();
    let ticket = store.append(&unit, Purpose::User).expect("the log takes it");
    assert!(!places(&store, "k0").contains(&ticket.appended[fit].physical), "there is no room for all of it");
    assert!(is_found(0));
    store.step().expect("it is written");
    assert!(k0(2 * fit + 1));
    assert_eq!(store.core.progress.lock().written.recover_from, ticket.end);
    drop(store);
    bench.disk.crash_with(CrashChoice::DropAll);
    assert_eq!(places(&bench.open(), "k0").len(), 2 * fit + 1);
}

#[test]
fn a_damaged_record_hides_the_keys_of_its_file_and_no_place_within_a_record_is_taken_for_the_next() {
    let bench = Bench::new();
    let store = bench.open();
    // More than are handed over, so that they are read; each longer than what is read at once.
    let bodies: Vec<String> = (0..50).map(|n| format!("{n} {}", "x".repeat(1500))).collect();
    let at = |n: usize, m: &str| keep(&store, m, &bodies[n]).appended[0].physical;
    let all: Vec<_> = (0..50).map(|n| at(n, "t")).collect();
    let file = 3 * bench.config.segment_bytes;
    let damaged = all.iter().position(|at| at.get() > file).expect("they fill four files") + 2;
    let behind = all.iter().position(|at| at.get() >= file + bench.config.segment_bytes).expect("and some more");
    assert!(damaged > KEYS_MAX && damaged + 2 < behind);
    let local = all[damaged].get() - file;
    bench.disk.flip_bit(format!("/store/commitlog/{file:020}"), local + 300, 1).expect("it flips");
    store.step().expect("a round");
    let found = places(&store, "long");
    assert_eq!(found.into_iter().rev().collect::<Vec<_>>(), [&all[..damaged], &all[behind..]].concat());
    assert_eq!(store.core.progress.lock().written.recover_from, store.end());
}

#[test]
fn of_a_transaction_that_was_rolled_back_and_of_odd_properties_as_many_keys_are_handed_over_as_are_read() {
    let odd = |properties: &'static [u8]| Properties::from_encoded(Bytes::from_static(properties));
    let rollback = SysFlag::default().with_transaction(SysFlag::TRANSACTION_ROLLBACK);
    let prepared = SysFlag::default().with_transaction(SysFlag::TRANSACTION_PREPARED);
    let unit: Vec<_> = [
        (SysFlag::default(), odd(b"KEYS\x01a b\x02KEYS\x01c  d\x02UNIQ_KEY\x01u\x02")),
        (rollback, odd(b"KEYS\x01a\x02UNIQ_KEY\x01v\x02")),
        (prepared, odd(b"KEYS\x01a\x02UNIQ_KEY\x01w\x02__CRC32#\x010123456789\x02")),
        (SysFlag::default(), odd(b"")),
        (SysFlag::default(), odd(b"KEYS\x01 \x02UNIQ_KEY\x01\x02\x02\x02KEYS")),
        (SysFlag::default(), odd(b"UNIQ_KEY\x01\xff\x02KEYS\x01\xe9\x94\xae a")),
    ]
    .into_iter()
    .map(|(sys_flag, properties)| NewMessage { sys_flag, properties, ..message("t", "") })
    .collect();
    let found = || {
        let bench = Bench::new();
        let store = bench.open();
        let ticket = store.append(&unit, Purpose::User).expect("the log takes it");
        store.step_commit().expect("it is committed");
        let of = |key: &str| -> Vec<usize> {
            let found = places(&store, key);
            let records = (0..unit.len()).filter(|n| found.contains(&ticket.appended[*n].physical));
            records.collect()
        };
        ["a", "b", "c", "d", "u", "v", "w", "", " ", "键"].map(of)
    };
    let handed: [Vec<usize>; 10] = found();
    assert_eq!(handed, with_room(0, found));
    let expected: [&[usize]; 10] = [&[2, 5], &[], &[0], &[0], &[0], &[], &[2], &[], &[], &[5]];
    assert_eq!(handed, expected);
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
        let range = first..first.plus(stop);
        let end = scan(&store.core.log.segments, range, PhysicalOffset::ZERO, |record| {
            found.push(record.at);
            ControlFlow::Continue(())
        });
        let end = end.expect("it is read");
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
