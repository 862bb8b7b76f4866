use crate::{
    store::{
        OpenError, RealDisk, Store,
        disk::{Disk as _, Open},
        record,
        segment::Segment,
        sim::CrashChoice,
        testing::{Bench, append, bodies, keep, message},
    },
    types::{PhysicalOffset, QueueOffset, Timestamp},
};
use std::{path::Path, sync::Arc};

const LOG: &str = "/store/commitlog/00000000000000000000";

#[test]
fn a_new_store_and_a_closed_one_report_nothing_to_mend() {
    let bench = Bench::new();
    let (store, report) = bench.try_open().expect("it opens");
    assert!(report.to_string().starts_with("new store"), "{report}");
    keep(&store, "t", "a");
    store.close();
    drop(store);
    let (_, report) = bench.try_open().expect("it opens");
    assert_eq!((report.is_clean, report.records, report.torn), (true, 0, None));
}

#[test]
fn a_crash_is_reported_with_what_was_read_and_cut() {
    let bench = Bench::new();
    let store = bench.open();
    keep(&store, "t", "a");
    append(&store, "t", &"b".repeat(2000));
    // The write reaches the device in part, the sync never comes.
    bench.disk.fail_after(1);
    assert!(store.step_commit().is_err());
    drop(store);
    bench.disk.crash_with(CrashChoice::TearLast);
    let (store, report) = bench.try_open().expect("it opens");
    assert_eq!((report.is_clean, report.records, report.rebuilt_entries), (false, 1, 1));
    assert!(report.torn.is_some_and(|torn| torn.at == report.end && torn.bytes > 500));
    assert_eq!(bodies(&store, "t"), ["a"]);
}

#[test]
fn a_directory_in_use_is_refused_and_the_process_is_named() {
    let bench = Bench::new();
    let _store = bench.open();
    let Err(OpenError::Locked { pid, .. }) = bench.try_open() else { panic!("it opens twice") };
    assert_eq!(pid, std::process::id().to_string());

    let dir = tempfile::tempdir().expect("a directory");
    let open = || {
        let config = crate::store::Config::at(dir.path());
        Store::open(config, Arc::new(RealDisk), Arc::new(crate::types::SystemClock::new()))
    };
    let (store, _) = open().expect("it opens");
    assert!(matches!(open(), Err(OpenError::Locked { .. })));
    store.close();
    open().expect("it opens after closing");
}

#[test]
fn damage_below_the_durable_mark_is_refused_with_place_and_cure_and_never_cut() {
    let mut bench = Bench::new();
    let store = bench.open();
    keep(&store, "t", "first");
    let damaged = keep(&store, "t", "damaged").appended[0].physical;
    keep(&store, "t", "behind");
    // A checkpoint that knows all of it, and queues that know none: the log is read.
    store.step().expect("it is written");
    drop(store);
    bench.disk.remove_dir_all(Path::new("/store/consumequeue")).expect("it is removed");
    bench.disk.flip_bit(LOG, damaged.get() + 90, 2).expect("it flips");

    let Err(refused @ OpenError::Damaged { .. }) = bench.try_open() else { panic!("it opens") };
    let text = refused.to_string();
    for part in [LOG, &damaged.to_string(), "checksum", "recoverDamagedLog=true"] {
        assert!(text.contains(part), "{text} should say {part}");
    }
    bench.disk.flip_bit(LOG, damaged.get() + 90, 2).expect("it flips back");
    let store = bench.open();
    assert_eq!(bodies(&store, "t"), ["first", "damaged", "behind"]);
    store.step().expect("it is written");
    drop(store);

    bench.disk.crash_with(CrashChoice::KeepAll);
    bench.disk.remove_dir_all(Path::new("/store/consumequeue")).expect("it is removed");
    bench.disk.flip_bit(LOG, damaged.get() + 90, 2).expect("it flips");
    bench.config.accept_damage = true;
    let store = bench.open();
    assert_eq!(bodies(&store, "t"), ["first"]);
    assert_eq!(keep(&store, "t", "new").appended[0].physical, damaged);
}

#[test]
fn a_log_whose_files_are_gone_is_refused() {
    let mut bench = Bench::new();
    let store = bench.open();
    keep(&store, "t", "a");
    store.close();
    drop(store);
    bench.disk.remove_dir_all(Path::new("/store/commitlog")).expect("it is removed");
    assert!(matches!(bench.try_open(), Err(OpenError::Damaged { .. })));
    bench.config.accept_damage = true;
    let store = bench.open();
    let ticket = keep(&store, "t", "b");
    assert_eq!(ticket.appended[0].physical, PhysicalOffset::new(16 << 10), "positions are never used again");
}

#[test]
fn files_of_another_length_are_refused_and_the_setting_is_named() {
    let mut bench = Bench::new();
    let store = bench.open();
    for _ in 0..20 {
        keep(&store, "t", &"x".repeat(1500));
    }
    store.close();
    drop(store);
    bench.config.segment_bytes = 32 << 10;
    let Err(refused) = bench.try_open() else { panic!("it opens") };
    assert!(refused.to_string().contains("mappedFileSizeCommitLog"), "{refused}");
}

#[test]
fn a_closed_store_has_the_files_that_apache_opens() {
    let bench = Bench::new();
    let store = bench.open();
    for n in 0..30 {
        keep(&store, "t", &format!("{n} {}", "x".repeat(1000)));
    }
    let end = store.end();
    store.close();
    let len = |path: &str| bench.disk.open(Path::new(path), Open::Read).expect("it is there").len().expect("a length");
    for name in bench.disk.list(Path::new("/store/commitlog")).expect("a directory") {
        assert_eq!(len(&format!("/store/commitlog/{name}")), 16 << 10);
    }
    for name in bench.disk.list(Path::new("/store/consumequeue/t/0")).expect("a directory") {
        assert_eq!(len(&format!("/store/consumequeue/t/0/{name}")), 16 * 20);
    }
    assert_eq!(len("/store/checkpoint"), 4096);
    assert!(!bench.disk.exists(Path::new("/store/abort")).expect("it is asked"));
    let path = Segment::path(Path::new("/store/commitlog"), PhysicalOffset::new(end.get() & !0x3fff));
    let mut tail = vec![1; (0x4000 - (end.get() & 0x3fff)) as usize];
    let last = bench.disk.open(&path, Open::Read).expect("it is there");
    last.read_into(end.get() & 0x3fff, &mut tail).expect("it is read");
    assert!(tail.iter().all(|b| *b == 0));
}

/// Writes records as Apache does, without the appended checksum.
fn apache_log(bench: &Bench, bodies: &[&str]) -> PhysicalOffset {
    bench.disk.create_dir_all(Path::new("/store/commitlog")).expect("it is made");
    let file = bench.disk.open(Path::new(LOG), Open::Create).expect("it is made");
    file.set_len(bench.config.segment_bytes).expect("it is long");
    let mut at = PhysicalOffset::ZERO;
    for (n, body) in bodies.iter().enumerate() {
        let mut bytes = Vec::new();
        let unplaced = record::encode(&mut bytes, &message("t", body), None, bench.config.store_host).expect("it fits");
        unplaced.place(&mut bytes, at, QueueOffset::new(n as u64), Timestamp::from_millis(7));
        let len = bytes.len() - 20;
        bytes.truncate(len);
        bytes[..4].copy_from_slice(&(len as u32).to_be_bytes());
        let properties = "TAGS\u{1}TagA\u{2}KEYS\u{1}\u{2}".len() + body.len();
        let properties_at = len - properties - 2;
        bytes[properties_at..properties_at + 2].copy_from_slice(&(properties as u16).to_be_bytes());
        file.write(at.get(), &bytes).expect("it is written");
        at = at.plus(len as u64);
    }
    file.sync().expect("it is synced");
    bench.disk.sync_dir(Path::new("/store/commitlog")).expect("it is synced");
    at
}

#[test]
fn a_log_of_apaches_is_opened_continued_and_kept_through_a_crash() {
    let bench = Bench::new();
    let end = apache_log(&bench, &["a", "b"]);
    let store = bench.open();
    assert_eq!(bodies(&store, "t"), ["a", "b"]);
    let ticket = keep(&store, "t", "c");
    assert_eq!((ticket.appended[0].physical, ticket.appended[0].queue_offset), (end, QueueOffset::new(2)));
    drop(store);
    bench.disk.crash(5);
    assert_eq!(bodies(&bench.open(), "t"), ["a", "b", "c"]);
}

#[test]
fn a_record_of_ours_that_lost_its_checksum_is_not_taken_for_one_of_apaches() {
    let bench = Bench::new();
    let store = bench.open();
    keep(&store, "t", "a");
    drop(store);
    let end = apache_log_behind(&bench);
    bench.disk.crash_with(CrashChoice::KeepAll);
    let (store, report) = bench.try_open().expect("it opens");
    assert_eq!(bodies(&store, "t"), ["a"]);
    assert!(report.end < end);
}

/// Puts a record without a checksum behind the log's end.
fn apache_log_behind(bench: &Bench) -> PhysicalOffset {
    let other = Bench::new();
    let store = other.open();
    let at = keep(&store, "t", "a").end;
    let mut bytes = Vec::new();
    let unplaced = record::encode(&mut bytes, &message("t", "b"), None, bench.config.store_host).expect("it fits");
    unplaced.place(&mut bytes, at, QueueOffset::new(1), Timestamp::from_millis(7));
    let len = bytes.len() - 20;
    bytes.truncate(len);
    bytes[..4].copy_from_slice(&(len as u32).to_be_bytes());
    let properties = "TAGS\u{1}TagA\u{2}KEYS\u{1}b\u{2}".len();
    bytes[len - properties - 2..len - properties].copy_from_slice(&(properties as u16).to_be_bytes());
    let file = bench.disk.open(Path::new(LOG), Open::Write).expect("it is there");
    file.write(at.get(), &bytes).expect("it is written");
    at.plus(len as u64)
}
