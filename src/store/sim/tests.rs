use std::{path::Path, sync::Arc};

use super::*;

const DIR: &str = "/s/log";

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk
}

fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

fn create(disk: &SimDisk, name: &str) -> Arc<dyn File> {
    disk.open(&path(name), Open::Create).unwrap()
}

/// A file whose name and bytes are on the device.
fn kept(disk: &SimDisk, name: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = create(disk, name);
    file.write(0, bytes).unwrap();
    file.sync().unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    file
}

fn contents(disk: &SimDisk, name: &str) -> Vec<u8> {
    let file = disk.open(&path(name), Open::Read).unwrap();
    file.read(0, file.len().unwrap() as usize).unwrap().to_vec()
}

fn names(disk: &SimDisk) -> Vec<String> {
    disk.list(Path::new(DIR)).unwrap()
}

#[test]
fn reads_see_what_was_written_and_a_crash_keeps_what_was_synced() {
    let disk = disk();
    let file = kept(&disk, "a", b"old");
    file.write(0, b"new bytes").unwrap();
    assert_eq!(contents(&disk, "a"), b"new bytes");
    assert_eq!(contents(&disk.crashed(CrashChoice::DropAll), "a"), b"old");
    assert_eq!(contents(&disk.crashed(CrashChoice::KeepAll), "a"), b"new bytes");
    file.sync().unwrap();
    assert_eq!(contents(&disk.crashed(CrashChoice::DropAll), "a"), b"new bytes");
}

#[test]
fn handles_from_before_a_crash_are_dead() {
    let disk = disk();
    let file = kept(&disk, "a", b"x");
    disk.crash(1);
    assert!(file.read(0, 1).is_err());
    assert!(file.write(0, b"y").is_err());
    assert!(file.sync().is_err());
    assert_eq!(contents(&disk, "a"), b"x");
}

#[test]
fn unsynced_sectors_are_kept_or_dropped_each_by_itself() {
    let disk = disk();
    let file = kept(&disk, "a", &[1; 64 * 512]);
    file.write(0, &[2; 64 * 512]).unwrap();
    let mut mixed = 0;
    for seed in 0..32 {
        let after = contents(&disk.crashed(CrashChoice::Random(seed)), "a");
        assert_eq!(after, contents(&disk.crashed(CrashChoice::Random(seed)), "a"), "a seed repeats");
        let kept = after.iter().filter(|b| **b == 2).count();
        mixed += usize::from(kept > 0 && kept < after.len());
    }
    assert!(mixed > 16, "{mixed} of 32 crashes were mixed");
}

#[test]
fn some_crashes_tear_within_a_sector() {
    let disk = disk();
    let file = kept(&disk, "a", &[1; 512]);
    file.write(0, &[2; 512]).unwrap();
    let torn = |seed| {
        let after = contents(&disk.crashed(CrashChoice::Random(seed)), "a");
        after.windows(2).any(|w| w[0] != w[1])
    };
    assert!((0..200).any(torn));
    assert!(!(0..200).all(torn));
}

#[test]
fn a_sector_may_come_back_as_any_of_its_unsynced_contents() {
    let disk = disk();
    let file = kept(&disk, "a", b"0");
    file.write(0, b"1").unwrap();
    file.write(0, b"2").unwrap();
    let mut seen: Vec<Vec<u8>> = (0..100).map(|s| contents(&disk.crashed(CrashChoice::Random(s)), "a")).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, [b"0", b"1", b"2"]);
}

#[test]
fn the_last_write_tears_in_its_middle() {
    let disk = disk();
    let file = kept(&disk, "a", &[1; 2048]);
    file.write(0, &[2; 512]).unwrap();
    file.write(300, &[3; 1000]).unwrap();
    let after = contents(&disk.crashed(CrashChoice::TearLast), "a");
    assert!(after[..300].iter().all(|b| *b == 2));
    assert!(after[300..800].iter().all(|b| *b == 3));
    assert!(after[800..].iter().all(|b| *b == 1));
    let only_last = contents(&disk.crashed(CrashChoice::KeepLast), "a");
    assert_eq!((only_last[600], only_last[1400]), (3, 1));
}

#[test]
fn a_length_is_old_or_new_and_new_bytes_without_it_are_gone() {
    let disk = disk();
    let file = kept(&disk, "a", b"abc");
    file.write(3, &[7; 1000]).unwrap();
    let lens: Vec<usize> = (0..100).map(|s| contents(&disk.crashed(CrashChoice::Random(s)), "a").len()).collect();
    assert!(lens.contains(&3) && lens.contains(&1003));
    assert_eq!(contents(&disk.crashed(CrashChoice::BytesLost), "a"), [b"abc".as_slice(), &[0; 1000]].concat());
}

#[test]
fn truncation_is_not_durable_until_synced() {
    let disk = disk();
    let file = kept(&disk, "a", &[9; 10_000]);
    file.set_len(100).unwrap();
    file.set_len(10_000).unwrap();
    assert_eq!(contents(&disk, "a")[100..], [0; 9900]);
    assert_eq!(contents(&disk.crashed(CrashChoice::DropAll), "a"), [9; 10_000]);
    file.sync().unwrap();
    assert_eq!(contents(&disk.crashed(CrashChoice::DropAll), "a")[100..], [0; 9900]);
}

#[test]
fn a_created_name_is_lost_without_a_sync_of_its_directory() {
    let disk = disk();
    let file = create(&disk, "a");
    file.write(0, b"x").unwrap();
    file.sync().unwrap();
    assert!(names(&disk.crashed(CrashChoice::NamesLost)).is_empty());
    assert_eq!(contents(&disk.crashed(CrashChoice::KeepAll), "a"), b"x");
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert_eq!(names(&disk.crashed(CrashChoice::NamesLost)), ["a"]);
}

#[test]
fn a_removed_name_may_come_back_until_its_directory_is_synced() {
    let disk = disk();
    kept(&disk, "a", b"x");
    disk.remove_file(&path("a")).unwrap();
    assert_eq!(contents(&disk.crashed(CrashChoice::DropAll), "a"), b"x");
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert!(names(&disk.crashed(CrashChoice::DropAll)).is_empty());
}

#[test]
fn a_rename_is_old_or_new_and_never_neither() {
    let disk = disk();
    kept(&disk, "a", b"old");
    create(&disk, "a.tmp").write(0, b"new").unwrap();
    let file = disk.open(&path("a.tmp"), Open::Write).unwrap();
    file.sync().unwrap();
    disk.rename(&path("a.tmp"), &path("a")).unwrap();
    let mut seen: Vec<Vec<u8>> = (0..100).map(|s| contents(&disk.crashed(CrashChoice::Random(s)), "a")).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen, [b"new", b"old"]);
    disk.sync_dir(Path::new(DIR)).unwrap();
    let after = disk.crashed(CrashChoice::DropAll);
    assert_eq!((contents(&after, "a"), names(&after)), (b"new".to_vec(), vec!["a".to_owned()]));
}

#[test]
fn the_chosen_change_meets_the_power_failure_and_all_later_ones_fail() {
    let disk = disk();
    let file = kept(&disk, "a", b"0");
    let op = disk.ops();
    disk.crash_at(op + 1);
    file.write(0, b"1").unwrap();
    assert!(file.sync().is_err());
    assert_eq!(disk.ops(), op + 2);
    assert!(disk.is_off());
    assert!(file.write(0, b"2").is_err());
    assert!(file.read(0, 1).is_err());
    assert!(disk.open(&path("a"), Open::Read).is_err());
    assert!(disk.list(Path::new(DIR)).is_err());
    disk.crash_with(CrashChoice::DropAll);
    assert_eq!(contents(&disk, "a"), b"0");
}

#[test]
fn the_write_that_meets_the_power_failure_may_be_on_the_device() {
    let disk = disk();
    let file = kept(&disk, "a", b"0");
    disk.fail_after(0);
    assert!(file.write(0, b"1").is_err());
    assert_eq!(contents(&disk.crashed(CrashChoice::KeepAll), "a"), b"1");
    assert_eq!(contents(&disk.crashed(CrashChoice::DropAll), "a"), b"0");
}

#[test]
fn a_failed_sync_loses_the_bytes_and_the_next_ones_lie() {
    let disk = disk();
    let file = kept(&disk, "a", &[0; 2048]);
    file.write(0, b"lost").unwrap();
    disk.fail_sync_once_then_lie();
    assert!(file.sync().is_err());
    assert_eq!(contents(&disk, "a")[..4], *b"lost");
    file.write(1024, b"kept").unwrap();
    file.sync().unwrap();
    let after = contents(&disk.crashed(CrashChoice::KeepAll), "a");
    assert_eq!((&after[..4], &after[1024..1028]), ([0; 4].as_slice(), b"kept".as_slice()));
}

#[test]
fn a_full_disk_refuses_new_blocks_and_takes_overwrites() {
    let disk = disk();
    let file = kept(&disk, "a", &[1; 4096]);
    disk.set_capacity(2 * 4096);
    file.set_len(1 << 30).unwrap();
    file.write(4096, &[2; 4096]).unwrap();
    let full = file.write(8192, b"x").unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    file.write(0, &[3; 8192]).unwrap();
    assert_eq!(disk.space(Path::new("/")).unwrap(), Space { total: 8192, free: 0 });
    let other = create(&disk, "b");
    assert!(other.write(0, b"x").is_err());
    drop(file);
    disk.remove_file(&path("a")).unwrap();
    other.write(0, b"x").unwrap();
}

#[test]
fn a_sparse_gibibyte_costs_only_its_blocks() {
    let disk = disk();
    let file = kept(&disk, "a", b"");
    file.set_len(1 << 30).unwrap();
    file.write((1 << 30) - 5, b"tail!").unwrap();
    file.write(1 << 20, &vec![0; 1 << 20]).unwrap();
    file.sync().unwrap();
    assert_eq!(file.read((1 << 30) - 6, 6).unwrap(), b"\0tail!"[..]);
    assert_eq!(disk.used(), (1 << 20) + 4096);
    assert!(file.read((1 << 30) - 1, 2).is_err());
}

#[test]
fn a_flipped_bit_survives_a_crash() {
    let disk = disk();
    kept(&disk, "a", &[0, 0]);
    disk.flip_bit(path("a"), 1, 3).unwrap();
    assert_eq!(contents(&disk, "a"), [0, 8]);
    assert_eq!(contents(&disk.crashed(CrashChoice::DropAll), "a"), [0, 8]);
    assert!(disk.flip_bit(path("a"), 2, 0).is_err());
}

#[test]
fn a_lock_excludes_until_it_is_dropped_or_the_power_fails() {
    let disk = disk();
    let held = disk.lock(&path("lock")).unwrap();
    assert_eq!(disk.lock(&path("lock")).err().unwrap().kind(), io::ErrorKind::WouldBlock);
    drop(held);
    let held = disk.lock(&path("lock")).unwrap();
    disk.crash(3);
    let again = disk.lock(&path("lock")).unwrap();
    drop(held);
    assert!(disk.lock(&path("lock")).is_err(), "a dead lock must not release a living one");
    drop(again);
}

#[test]
fn an_open_file_outlives_its_name() {
    let disk = disk();
    let file = kept(&disk, "a", b"x");
    disk.remove_file(&path("a")).unwrap();
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert_eq!(file.read(0, 1).unwrap(), b"x"[..]);
}

#[test]
fn a_removed_tree_is_gone_after_its_parents_sync_at_the_latest() {
    let disk = disk();
    disk.create_dir_all(&path("t/0")).unwrap();
    disk.open(&path("t/0/f"), Open::Create).unwrap().write(0, b"x").unwrap();
    disk.remove_dir_all(&path("t")).unwrap();
    assert!(!disk.exists(&path("t")).unwrap());
    assert_eq!(names(&disk.crashed(CrashChoice::DropAll)), ["t"]);
    disk.sync_dir(Path::new(DIR)).unwrap();
    for seed in 0..20 {
        assert!(names(&disk.crashed(CrashChoice::Random(seed))).is_empty());
    }
}

#[test]
fn a_made_directory_is_durable_at_once() {
    let disk = disk();
    disk.create_dir_all(&path("a/b/c")).unwrap();
    assert!(disk.crashed(CrashChoice::DropAll).exists(&path("a/b/c")).unwrap());
    assert!(disk.open(&path("no/such"), Open::Create).is_err());
    assert!(disk.open(&path("../x"), Open::Create).is_err());
}
