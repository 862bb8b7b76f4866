//! What holds over days, over many files and queues, and on disks that fill or fail.

use super::*;
use crate::{
    store::{background, disk::Space},
    types::QueueId,
};

const HOUR: Duration = Duration::from_secs(3600);

/// A store whose expired segments go at any hour, without an index.
fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.config.retention.delete_when = (0..24).collect();
    bench.config.index = false;
    bench
}

fn fill(store: &Store, name: &str, segments: u64) {
    let until = store.end().plus(segments * (16 << 10));
    while store.end() < until {
        keep(store, name, &"x".repeat(1000));
    }
}

#[test]
fn a_clock_that_was_once_far_ahead_stops_neither_expiry_nor_the_search_by_time() {
    let bench = bench();
    let store = bench.open();
    let began = bench.clock.wall();
    fill(&store, "t", 1);
    bench.clock.step_wall(Timestamp::from_millis(4_000_000_000_000));
    let ahead = keep(&store, "t", "ahead").appended[0];
    store.step().expect("a round");
    bench.clock.step_wall(began.plus(Duration::from_secs(1)));
    let held = keep(&store, "t", "held").appended[0];
    assert_eq!(held.stored_at, ahead.stored_at, "a clock may be wrong for a while: store times stand still");
    bench.clock.advance(HOUR);
    let honest = keep(&store, "t", "honest").appended[0];
    assert_eq!(honest.stored_at, bench.clock.wall());
    assert_eq!(honest.physical.get() % (16 << 10), 0, "within a segment store times never go back");
    bench.clock.advance(HOUR);
    let later = keep(&store, "t", "later").appended[0];
    let at = |store: &Store, time| queue(store, "t").offset_at(time).expect("it is found");
    let check = |store: &Store| {
        assert_eq!(at(store, began), QueueOffset::ZERO);
        assert_eq!(
            at(store, began.plus(Duration::from_secs(2))),
            ahead.queue_offset,
            "what the clock hid counts as late"
        );
        assert_eq!(at(store, honest.stored_at.plus(Duration::from_secs(1))), later.queue_offset);
        assert_eq!(at(store, ahead.stored_at), queue(store, "t").max());
    };
    check(&store);
    store.step().expect("a round");
    drop(store);
    bench.disk.crash(1);

    let store = bench.open();
    check(&store);
    assert_eq!(keep(&store, "t", "next").appended[0].stored_at, bench.clock.wall(), "also after a crash");
    store.hold_from(store.end());
    bench.clock.advance(73 * HOUR);
    store.step().expect("a round");
    assert_eq!(store.start(), honest.physical, "all but the last segment has expired");
}

#[test]
fn retention_reads_each_segments_beginning_once_and_only_one_record_of_it() {
    let bench = bench();
    let store = bench.open();
    fill(&store, "t", 20);
    store.hold_from(store.end());
    let before = bench.disk.bytes_read();
    store.step().expect("a round");
    let first = bench.disk.bytes_read() - before;
    assert!((1..22 * 1500).contains(&first), "{first} bytes for 20 segments with records of some 1100");
    store.step().expect("a round");
    assert_eq!(bench.disk.bytes_read() - before, first, "known by now");
}

#[test]
fn a_damaged_record_at_a_segments_beginning_does_not_stop_expiry() {
    let bench = bench();
    let store = bench.open();
    fill(&store, "t", 3);
    store.hold_from(store.end());
    for segment in [1, 2, 3] {
        bench.disk.flip_bit(format!("/store/commitlog/{:020}", segment << 14), 100, 1).expect("it flips");
    }
    bench.clock.advance(73 * HOUR);
    store.step().expect("a round");
    assert_eq!(store.start(), PhysicalOffset::new(3 << 14));
}

#[test]
fn a_segment_that_cannot_be_removed_stays_the_first_and_goes_later() {
    let bench = bench();
    let store = bench.open();
    fill(&store, "t", 3);
    store.hold_from(store.end());
    store.step().expect("a round");
    bench.clock.advance(73 * HOUR);
    bench.disk.fail_remove_once();
    store.step().expect("it is no reason to stop");
    assert_eq!(store.start(), PhysicalOffset::ZERO);
    assert_eq!(queue(&store, "t").min(), QueueOffset::ZERO);
    let first = entries(&queue(&store, "t"))[0];
    store.message(first.physical, first.size).expect("it is still served");
    store.step().expect("a round");
    assert_eq!(store.start(), PhysicalOffset::new(3 << 14));
    drop(store);
    bench.disk.crash(1);
    assert_eq!(bench.open().start(), PhysicalOffset::new(3 << 14));
}

#[test]
fn a_state_file_whose_name_may_be_lost_is_neither_kept_nor_refused_but_the_end() {
    let bench = bench();
    let store = bench.open();
    store.save_state("topics.json", b"old").expect("it is saved");
    bench.disk.fail_sync_dir_once();
    assert!(store.save_state("topics.json", b"new").is_err());
    // The new content is in place, a crash may bring the old one back: who says "not saved" now may be wrong.
    assert_eq!(store.load_state("topics.json").expect("it reads").as_deref(), Some(&b"new"[..]));
    assert!(matches!(store.health(), Health::Poisoned(_)));
}

/// A store on a disk that is full for users.
fn full() -> (Bench, Store) {
    let mut bench = bench();
    bench.config.retention.disk_warning_ratio = 100;
    let store = bench.open();
    bench.disk.set_capacity(bench.disk.used() + (64 << 10));
    for _ in 0..1000 {
        if store.append(&[message("t", &"x".repeat(1000))], Purpose::User).is_err() {
            return (bench, store);
        }
        store.step_commit().expect("it is committed");
    }
    panic!("the disk is never full");
}

#[test]
fn acknowledgements_pass_when_dead_letters_have_used_up_their_share_of_a_full_disk() {
    let (_bench, store) = full();
    let append = |purpose| {
        let result = store.append(&[message("s", &"x".repeat(100))], purpose);
        store.step_commit().expect("it is committed");
        result.map(|_| ())
    };
    let copies = (0..1000).take_while(|_| append(Purpose::Deferrable).is_ok()).count();
    assert!((1..1000).contains(&copies), "{copies}");
    let acks = (0..1000).take_while(|_| append(Purpose::Internal).is_ok()).count();
    assert!((5..1000).contains(&acks), "{acks}");
}

#[test]
fn sends_resume_one_round_after_there_is_room() {
    let (bench, store) = full();
    bench.disk.set_capacity(1 << 30);
    store.core.tick(background::Derive::WhenDue).expect("a round");
    append(&store, "t", "again");
    assert!(background::ROUND <= Duration::from_secs(10), "rounds come by themselves");
}

#[test]
fn a_full_disk_below_the_queues_alone_refuses_users_too() {
    let mut bench = bench();
    bench.config.commit_log = Some("/log".into());
    let (roomy, full) = (Space { total: 1000, free: 900 }, Space { total: 1000, free: 50 });
    for (log, root, refused) in [(roomy, full, true), (full, roomy, true), (roomy, roomy, false)] {
        bench.disk.set_elsewhere("/log", log);
        bench.disk.set_elsewhere("/store", root);
        let store = bench.open();
        store.step().expect("a round");
        assert_eq!(store.append(&[message("t", "x")], Purpose::User).is_err(), refused);
        store.close();
    }
}

#[test]
fn recovery_reads_the_last_segments_however_long_the_log_is() {
    let read_by_opening = |segments: u64| {
        let bench = bench();
        let store = bench.open();
        fill(&store, "t", segments);
        store.step().expect("a round");
        fill(&store, "t", 1);
        drop(store);
        bench.disk.crash(5);
        let before = bench.disk.bytes_read();
        let (store, report) = bench.try_open().expect("it opens");
        assert!(report.records > 5 && store.end() >= PhysicalOffset::new(segments << 14));
        bench.disk.bytes_read() - before
    };
    let (short, long) = (read_by_opening(3), read_by_opening(100));
    assert!(long <= short + (8 << 10), "{short} bytes for 4 segments, {long} for 101");
    assert!(long < 6 * (16 << 10), "{long} bytes");
}

#[test]
fn with_ten_thousand_queues_files_are_synced_at_a_bounded_rate() {
    const QUEUES: u32 = 10_000;
    const ROUNDS: u32 = 220;
    let mut bench = bench();
    bench.config.segment_bytes = 8 << 20;
    bench.config.consume_queue_entries = 1024;
    let store = bench.open();
    let before = bench.disk.syncs();
    for round in 0..ROUNDS {
        // Each queue gets a message every fourth round.
        for n in (round % 4 * (QUEUES / 4)..).take(QUEUES as usize / 4) {
            let mut message = message("t", "x");
            message.queue = QueueId(n);
            store.append(&[message], Purpose::User).expect("the log takes it");
        }
        store.step_commit().expect("it is committed");
        store.core.tick(background::Derive::WhenDue).expect("a round");
    }
    let syncs = bench.disk.syncs() - before;
    assert!(syncs > u64::from(QUEUES), "{syncs}: all queues were written");
    // One of the log, one of the checkpoint, one of the list in each round, and the queues' files.
    assert!(syncs / u64::from(ROUNDS) <= 100 + 4, "{syncs} in {ROUNDS} rounds");
    drop(store);
    bench.disk.crash(1);
    let store = bench.open();
    let (topic, each) = (topic("t"), u64::from(ROUNDS / 4));
    assert!((0..QUEUES).all(|n| store.queue(&topic, QueueId(n)).max() == QueueOffset::new(each)));
}
