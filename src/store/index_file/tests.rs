use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::*;
use crate::store::sim::{CrashChoice, SimDisk};

const SHAPE: Shape = Shape { slots: 50, entries: 40 };
const BEGIN: i64 = 1_756_729_815_123;

fn position(n: u64) -> PhysicalOffset {
    PhysicalOffset::new(n)
}

fn start(recover_from: u64) -> Start {
    Start { recover_from: position(recover_from), log_min: PhysicalOffset::ZERO, clean: false }
}

fn new_disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/s")).unwrap();
    disk
}

fn open(disk: &SimDisk, recover_from: u64) -> (Index, Loaded) {
    Index::open(Arc::new(disk.clone()), Path::new("/s"), SHAPE, start(recover_from)).unwrap()
}

fn time_at(physical: u64) -> Timestamp {
    Timestamp::from_millis(BEGIN + physical as i64)
}

fn hashed(key: &str, physical: u64) -> Hashed {
    Hashed { hash: key_hash("t", key), physical, stored_at: time_at(physical) }
}

fn insert(index: &Index, key: &str, physical: u64) {
    assert_eq!(index.insert(&[hashed(key, physical)]), 1);
}

fn find(index: &Index, key: &str) -> Vec<u64> {
    let (mut below, mut all) = (PhysicalOffset::MAX, Vec::new());
    loop {
        let places = index.query(("t", key), time_at(0)..=time_at(1 << 40), below, 1000).unwrap();
        all.extend(places.found.into_iter().map(PhysicalOffset::get));
        let Some(at) = places.cut_at else { return all };
        assert!(at < below, "it goes on");
        below = at;
    }
}

fn names(disk: &SimDisk) -> Vec<String> {
    disk.list(Path::new("/s/index")).unwrap()
}

fn bytes(disk: &SimDisk, name: &str) -> Vec<u8> {
    let file = disk.open(&Path::new("/s/index").join(name), Open::Read).unwrap();
    file.read(0, file.len().unwrap() as usize).unwrap().to_vec()
}

#[test]
fn files_have_apaches_layout() {
    let disk = new_disk();
    let shape = Shape { slots: 5000, entries: 100 };
    let (index, _) = Index::open(Arc::new(disk.clone()), Path::new("/s"), shape, start(0)).unwrap();
    for (physical, ms) in [(1000, 0), (2000, 2999)] {
        let stored_at = Timestamp::from_millis(BEGIN + ms);
        assert_eq!(index.insert(&[Hashed { hash: key_hash("TopicTest", "key1"), physical, stored_at }]), 1);
    }
    index.flush(position(5000)).unwrap();
    assert_eq!(names(&disk), ["20250901123015123"]);
    let file = bytes(&disk, "20250901123015123");
    assert_eq!(file.len(), 40 + 4 * 5000 + 20 * 100);
    let header =
        [&BEGIN.to_be_bytes()[..], &(BEGIN + 2999).to_be_bytes(), &1000u64.to_be_bytes(), &2000u64.to_be_bytes()];
    assert_eq!(file[..32], header.concat());
    assert_eq!(file[32..40], [0, 0, 0, 1, 0, 0, 0, 3]);
    let hash = 1_655_984_460u32;
    let slot = 40 + 4 * (hash as usize % 5000);
    assert_eq!(file[slot..slot + 4], [0, 0, 0, 2]);
    let entries = &file[40 + 4 * 5000..];
    assert_eq!(entries[..20], [0; 20]);
    let entry = [&hash.to_be_bytes()[..], &2000u64.to_be_bytes(), &[0, 0, 0, 2], &[0, 0, 0, 1]].concat();
    assert_eq!(entries[40..60], entry);
}

#[test]
fn keys_are_found_newest_first_before_and_after_they_are_written() {
    let disk = new_disk();
    let (index, _) = open(&disk, 0);
    for i in 0..10 {
        insert(&index, if i % 2 == 0 { "even" } else { "odd" }, i * 100);
    }
    let even = [800, 600, 400, 200, 0];
    assert_eq!(find(&index, "even"), even);
    index.flush(position(500)).unwrap();
    assert_eq!(find(&index, "even"), even);
    index.flush(position(1000)).unwrap();
    assert_eq!(find(&index, "even"), even);
    let query = |topic, below, max| index.query((topic, "even"), time_at(0)..=time_at(5000), below, max).unwrap().found;
    assert_eq!(query("t", PhysicalOffset::MAX, 2), [position(800), position(600)]);
    assert_eq!(query("t", position(600), 2), [position(400), position(200)]);
    assert_eq!(query("t", position(601), 1), [position(600)]);
    assert_eq!(find(&index, "none"), [0; 0]);
    assert_eq!(query("other", PhysicalOffset::MAX, 9), []);
}

#[test]
fn a_window_of_time_narrows_what_is_found() {
    let disk = new_disk();
    let (index, _) = open(&disk, 0);
    (0..10).for_each(|i| insert(&index, "k", i * 10_000));
    let any = PhysicalOffset::MAX;
    let query = |from, to| index.query(("t", "k"), time_at(from)..=time_at(to), any, 100).unwrap().found.len();
    assert_eq!(query(20_000, 50_000), 4);
    index.flush(position(50_000)).unwrap();
    assert_eq!(query(20_000, 50_000), 4);
    assert_eq!(query(200_000, 300_000), 0);
}

#[test]
fn full_files_are_followed_by_new_ones_and_all_are_searched() {
    let disk = new_disk();
    let (index, _) = open(&disk, 0);
    for i in 0..100 {
        insert(&index, &format!("k{}", i % 7), i * 100);
    }
    index.flush(position(10_000)).unwrap();
    assert_eq!(names(&disk).len(), 3, "39 entries in each");
    let expected: Vec<u64> = (0..100).rev().filter(|i| i % 7 == 3).map(|i| i * 100).collect();
    assert_eq!(find(&index, "k3"), expected);
    let end = index.sync().unwrap();
    let (index, loaded) = open(&disk, end.get());
    assert_eq!((loaded.files, loaded.insert_from), (3, end));
    assert_eq!(find(&index, "k3"), expected);
}

#[test]
fn records_that_are_there_are_passed_over() {
    let disk = new_disk();
    let (index, _) = open(&disk, 0);
    index.insert(&[hashed("a", 100), hashed("b", 100), hashed("a", 200)]);
    index.insert(&[hashed("a", 100), hashed("a", 200), hashed("c", 200), hashed("a", 300)]);
    assert_eq!((find(&index, "a"), find(&index, "b"), find(&index, "c")), (vec![300, 200, 100], vec![100], vec![]));
    index.flush(position(1000)).unwrap();
    let end = index.sync().unwrap();
    let (index, _) = open(&disk, end.get());
    index.insert(&[hashed("a", 200), hashed("a", 300), hashed("a", 400)]);
    assert_eq!(find(&index, "a"), [400, 300, 200, 100]);
}

#[test]
fn waiting_keys_are_bounded_and_a_record_has_all_of_its_keys_or_none() {
    let disk = new_disk();
    let shape = Shape { slots: 1 << 16, entries: 1 << 20 };
    let (index, _) = Index::open(Arc::new(disk), Path::new("/s"), shape, start(0)).unwrap();
    for i in 0..PENDING_MAX as u64 - 3 {
        insert(&index, "k", i + 1);
    }
    let (first, second) = (1 << 30, 1 << 31);
    let keys = [hashed("a", first), hashed("b", first), hashed("a", second), hashed("b", second)];
    assert_eq!(index.insert(&keys), 2);
    assert_eq!(index.insert(&keys[2..]), 0);
    index.flush(position(2)).unwrap();
    assert_eq!(index.insert(&keys[2..]), 2);
    assert_eq!(index.insert(&[hashed("c", second + 1)]), 0);
    assert_eq!(index.insert(&[]), 0);
    let known_and_new = [&keys[..], &[hashed("c", second + 1)]].concat();
    assert_eq!(index.insert(&known_and_new), 4, "what is there needs no room");
    assert_eq!(find(&index, "b"), [second, first]);
}

#[test]
fn files_go_with_their_records_but_the_newest_stays() {
    let disk = new_disk();
    let (index, _) = open(&disk, 0);
    (0..100).for_each(|i| insert(&index, "k", i * 100));
    index.flush(position(10_000)).unwrap();
    index.sync().unwrap();
    index.delete_before(position(3800)).unwrap();
    assert_eq!(names(&disk).len(), 3, "the first file's last record is at 3800");
    index.delete_before(position(3801)).unwrap();
    assert_eq!((names(&disk).len(), find(&index, "k").len()), (2, 61));
    index.delete_before(position(1 << 30)).unwrap();
    assert_eq!(names(&disk).len(), 1);
}

#[test]
fn a_full_disk_keeps_keys_in_memory_until_there_is_room() {
    let disk = new_disk();
    let (index, _) = open(&disk, 0);
    (0..60).for_each(|i| insert(&index, &format!("k{i}"), i * 100));
    disk.set_capacity(0);
    assert!(!index.flush(position(5500)).unwrap_err().is_fatal());
    assert_eq!(index.sync().unwrap(), PhysicalOffset::ZERO);
    assert_eq!(find(&index, "k7"), [700]);
    disk.set_capacity(1 << 20);
    index.flush(position(5500)).unwrap();
    assert_eq!(index.sync().unwrap(), position(5500));
    let (index, _) = open(&disk.crashed(CrashChoice::DropAll), 5500);
    (0..55).for_each(|i| assert_eq!(find(&index, &format!("k{i}")), [i * 100]));
}

#[test]
fn a_failed_sync_is_fatal_and_never_repeated() {
    let disk = new_disk();
    let (index, _) = open(&disk, 0);
    insert(&index, "k", 1);
    index.flush(position(10)).unwrap();
    disk.fail_sync_once_then_lie();
    assert!(matches!(index.sync(), Err(Error::Sync { .. })));
    assert!(matches!(index.sync(), Err(Error::Failed)));
    assert!(matches!(index.flush(position(20)), Err(Error::Failed)));
}

#[test]
fn a_missing_index_is_made_again_from_the_whole_log() {
    let disk = new_disk();
    let (index, _) = open(&disk, 0);
    insert(&index, "k", 100);
    index.flush(position(1000)).unwrap();
    index.sync().unwrap();
    disk.remove_dir_all(Path::new("/s/index")).unwrap();
    let (index, loaded) = open(&disk, 1000);
    assert_eq!((loaded.insert_from, loaded.files), (PhysicalOffset::ZERO, 0));
    index.flush(position(1000)).unwrap();
    assert_eq!(open(&disk, 1000).1.insert_from, position(1000), "not again and again");
}

#[test]
fn files_of_another_shape_are_left_alone() {
    let disk = new_disk();
    let (index, _) = open(&disk, 0);
    insert(&index, "k", 100);
    index.flush(position(1000)).unwrap();
    let end = index.sync().unwrap();
    let shape = Shape { slots: 60, entries: 40 };
    let (index, loaded) = Index::open(Arc::new(disk.clone()), Path::new("/s"), shape, start(end.get())).unwrap();
    assert!(loaded.unused[0].contains("maxHashSlotNum"), "{:?}", loaded.unused);
    insert(&index, "k", 2000);
    index.flush(position(3000)).unwrap();
    assert_eq!((find(&index, "k"), names(&disk).len()), (vec![2000], 2));
}

#[test]
fn the_newest_file_of_a_crashed_store_of_apaches_is_made_again() {
    let disk = new_disk();
    let (index, _) = open(&disk, 0);
    (0..60).for_each(|i| insert(&index, "k", i * 100));
    index.flush(position(6000)).unwrap();
    index.sync().unwrap();
    disk.remove_file(Path::new("/s/index.doubts")).unwrap();
    let (index, loaded) = open(&disk, 6000);
    assert_eq!((loaded.files, loaded.insert_from), (1, position(3900)));
    (39..60).for_each(|i| insert(&index, "k", i * 100));
    assert_eq!(find(&index, "k").len(), 60);
}

/// A damaged chain must not be followed for ever.
#[test]
fn a_chain_that_does_not_fall_ends() {
    let disk = new_disk();
    let (index, _) = open(&disk, 0);
    insert(&index, "k", 100);
    insert(&index, "k", 200);
    index.flush(position(1000)).unwrap();
    let path = Path::new("/s/index").join(&names(&disk)[0]);
    let file = disk.open(&path, Open::Write).unwrap();
    file.write(SHAPE.entry_at(1) + 16, &[0, 0, 0, 2]).unwrap();
    assert_eq!(find(&index, "k"), [200, 100]);
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// The keys of the record at `100 * i`: one or two.
fn keys_of(i: u64) -> Vec<String> {
    let mut keys = vec![format!("u{i}")];
    if i.is_multiple_of(3) {
        keys.push(format!("k{}", i % 5));
    }
    keys
}

fn insert_range(index: &Index, from: u64, to: u64) {
    for i in from / 100..to / 100 {
        let names = keys_of(i);
        let keys: Vec<Hashed> = names.iter().map(|name| hashed(name, i * 100)).collect();
        assert_eq!(index.insert(&keys), keys.len());
    }
}

fn check(index: &Index, end: u64, what: &str) {
    let mut expected: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for i in 0..end / 100 {
        keys_of(i).into_iter().for_each(|key| expected.entry(key).or_default().insert(0, i * 100));
    }
    for (key, places) in expected {
        assert_eq!(find(index, &key), places, "{what}, key {key}");
    }
}

#[test]
fn after_any_crash_every_key_is_found_once() {
    for seed in 0..200 {
        let disk = new_disk();
        let mut rng = Rng(seed);
        let (mut end, mut recover_from) = (0, 0);
        for life in 0..4 {
            disk.crash_at(disk.ops() + rng.below(80));
            let opened = Index::open(Arc::new(disk.clone()), Path::new("/s"), SHAPE, start(recover_from));
            if let Ok((index, loaded)) = opened {
                recover_from = loaded.insert_from.get();
                insert_range(&index, recover_from, end);
                // A query repairs; without one the first flush does.
                if rng.below(2) == 0
                    && index.query(("t", "u0"), time_at(0)..=time_at(0), PhysicalOffset::MAX, 1).is_ok()
                {
                    check(&index, end, &format!("seed {seed}, life {life}"));
                }
                for _ in 0..20 {
                    let below = recover_from + rng.below(end - recover_from + 1);
                    let went_well = match rng.below(10) {
                        0 => {
                            let room = if rng.below(2) == 0 { 1 << 40 } else { rng.below(3) * 4096 };
                            disk.set_capacity(disk.used() + room);
                            true
                        }
                        1..4 => {
                            let more = rng.below(25) * 100;
                            insert_range(&index, end, end + more);
                            end += more;
                            true
                        }
                        4..7 => index.flush(position(below)).is_ok() || !disk.is_off(),
                        _ => index
                            .sync()
                            .map(|at| {
                                if rng.below(3) > 0 {
                                    recover_from = at.get()
                                }
                            })
                            .is_ok(),
                    };
                    if !went_well {
                        break;
                    }
                }
            }
            disk.crash(rng.below(1 << 30));
            disk.set_capacity(1 << 40);
        }
        let (index, loaded) = open(&disk, recover_from);
        assert!(loaded.unused.is_empty(), "seed {seed}: {:?}", loaded.unused);
        insert_range(&index, loaded.insert_from.get(), end);
        check(&index, end, &format!("seed {seed}"));
        index.flush(position(end)).unwrap();
        check(&index, end, &format!("seed {seed}, written"));
    }
}

#[test]
fn a_long_row_of_one_slot_is_searched_in_pieces_to_its_end() {
    let disk = new_disk();
    let shape = Shape { slots: 1, entries: 200 };
    let (index, _) = Index::open(Arc::new(disk), Path::new("/s"), shape, start(0)).unwrap();
    // In three files and in memory; every third record has the key, and one other that shares its slot.
    for physical in 1..500 {
        insert(&index, if physical % 3 == 0 { "k" } else { "other" }, physical);
        insert(&index, &format!("u{physical}"), physical);
        if physical % 100 == 0 && physical < 450 {
            index.flush(position(physical)).unwrap();
        }
    }
    let all: Vec<u64> = (1..500).rev().filter(|n| n % 3 == 0).collect();
    assert_eq!(find(&index, "k"), all);
    let page = |below, max| index.query(("t", "k"), time_at(0)..=time_at(1 << 40), position(below), max).unwrap();
    let one = page(300, 1);
    assert_eq!(one, Places { found: vec![position(297)], cut_at: None }, "it begins where the last one ended");
    assert!(page(3, 1000).found.is_empty());
}
