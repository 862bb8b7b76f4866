use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::{
    files::FILLER_SIZE,
    queue::{Pushed, RECENT_MAX},
    *,
};
use crate::{
    store::{
        Entry,
        derived::Start,
        disk::Open,
        sim::{CrashChoice, SimDisk},
    },
    types::{QueueOffset, Timestamp},
};

const PER_FILE: u64 = 50;

fn physical(n: u64) -> PhysicalOffset {
    PhysicalOffset::new(n)
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).unwrap()
}

fn start(recover_from: u64) -> Start {
    Start { recover_from: physical(recover_from), log_min: PhysicalOffset::ZERO, clean: false }
}

fn open(disk: &SimDisk, start: Start) -> (Queues, Loaded) {
    Queues::open(Arc::new(disk.clone()), Path::new("/s"), PER_FILE, start).unwrap()
}

fn new_disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/s")).unwrap();
    disk
}

/// The entry that these tests give the record at `at`: 100 bytes per record.
fn entry(offset: u64, at: u64) -> Entry {
    Entry { offset: QueueOffset::new(offset), physical: physical(at), size: 100, tags_code: -(at as i64) }
}

fn all_entries(queue: &QueueState) -> Vec<Entry> {
    let mut out: Vec<Entry> = Vec::new();
    loop {
        let from = out.last().map_or(queue.min(), |e| e.offset.plus(1));
        let more = queue.entries(from, 7).unwrap();
        if more.is_empty() {
            return out;
        }
        out.extend(more);
    }
}

/// Pushes `n` entries, the record of offset `o` at `100 * o`.
fn push_dense(queue: &QueueState, n: u64) {
    let from = queue.max().get();
    for offset in from..from + n {
        assert_eq!(queue.push(&entry(offset, offset * 100)), Pushed::Added);
    }
}

fn file_bytes(disk: &SimDisk, path: &str) -> Vec<u8> {
    let file = disk.open(Path::new(path), Open::Read).unwrap();
    file.read(0, file.len().unwrap() as usize).unwrap().to_vec()
}

#[test]
fn files_have_apaches_layout() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    let queue = queues.queue(&topic("TopicTest"), QueueId(2));
    for offset in 0..PER_FILE {
        queue.push(&entry(offset, offset * 100));
    }
    let unit =
        Entry { offset: QueueOffset::new(PER_FILE), physical: physical(1 << 30), size: 167, tags_code: 2_598_919 };
    queue.push(&unit);
    queues.flush(physical(u64::MAX)).unwrap();
    let dir = Path::new("/s/consumequeue/TopicTest/2");
    use crate::store::disk::Disk;
    assert_eq!(disk.list(dir).unwrap(), ["00000000000000000000", "00000000000000001000"]);
    let second = file_bytes(&disk, "/s/consumequeue/TopicTest/2/00000000000000001000");
    assert_eq!(second.len() as u64, PER_FILE * 20);
    let expected = [0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0xa7, 0, 0, 0, 0, 0, 0x27, 0xa8, 7];
    assert_eq!(second[..20], expected);
    assert!(second[20..].iter().all(|b| *b == 0));
}

#[test]
fn entries_come_from_memory_and_files_alike() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    let queue = queues.queue(&topic("t"), QueueId(0));
    push_dense(&queue, 3000);
    let expected: Vec<Entry> = (0..3000).map(|o| entry(o, o * 100)).collect();
    assert_eq!(all_entries(&queue), expected);
    queues.flush(physical(250_000)).unwrap();
    assert!(queue.tail.lock().recent.len() <= RECENT_MAX);
    assert_eq!(all_entries(&queue), expected);
    assert_eq!(queue.entries(QueueOffset::new(2999), 10).unwrap(), expected[2999..]);
    assert_eq!(queue.entries(QueueOffset::new(3000), 10).unwrap(), []);
    assert_eq!(queue.entries(QueueOffset::ZERO, 0).unwrap(), []);
}

#[test]
fn reading_near_the_tail_needs_no_file() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    let queue = queues.queue(&topic("t"), QueueId(0));
    push_dense(&queue, 2000);
    queues.flush(physical(u64::MAX)).unwrap();
    disk.fail_after(0);
    let file = disk.open(Path::new("/s/x"), Open::Create);
    assert!(file.is_err() && disk.is_off());
    assert_eq!(queue.entries(QueueOffset::new(2000 - RECENT_MAX as u64), 32).unwrap().len(), 32);
    assert!(queue.entries(QueueOffset::ZERO, 32).is_err());
}

#[test]
fn only_entries_of_durable_records_reach_the_files() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    let queue = queues.queue(&topic("t"), QueueId(0));
    push_dense(&queue, 20);
    queues.flush(physical(500)).unwrap();
    assert_eq!(queues.sync().unwrap(), physical(500));
    let bytes = file_bytes(&disk, "/s/consumequeue/t/0/00000000000000000000");
    assert!(bytes[4 * 20..5 * 20].iter().any(|b| *b != 0));
    assert!(bytes[5 * 20..].iter().all(|b| *b == 0));
    assert_eq!(queue.max(), QueueOffset::new(20));
}

#[test]
fn a_flush_visits_only_queues_with_something_to_write() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    for id in 0..100 {
        push_dense(&queues.queue(&topic("t"), QueueId(id)), 1);
    }
    assert_eq!(queues.shared.dirty.lock().len(), 100);
    queues.flush(physical(100)).unwrap();
    queues.sync().unwrap();
    assert_eq!(queues.shared.dirty.lock().len(), 0);
    let ops = disk.ops();
    queues.flush(physical(200)).unwrap();
    queues.sync().unwrap();
    assert_eq!(disk.ops(), ops);
    assert_eq!(queues.queue(&topic("t"), QueueId(7)).push(&entry(1, 250)), Pushed::Added);
    queues.flush(physical(200)).unwrap();
    assert_eq!((disk.ops(), queues.shared.dirty.lock().len()), (ops, 1));
}

#[test]
fn pushing_what_is_there_changes_nothing() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    let queue = queues.queue(&topic("t"), QueueId(0));
    push_dense(&queue, 10);
    for offset in 0..10 {
        assert_eq!(queue.push(&entry(offset, offset * 100)), Pushed::Known);
    }
    assert_eq!((queue.max().get(), queue.next().get(), all_entries(&queue).len()), (10, 10, 10));
}

#[test]
fn assigned_offsets_run_ahead_of_visible_ones() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    let queue = queues.queue(&topic("t"), QueueId(0));
    assert_eq!((queue.assign().get(), queue.assign().get()), (0, 1));
    assert_eq!((queue.max().get(), queue.next().get()), (0, 2));
    queue.push(&entry(0, 0));
    assert_eq!((queue.max().get(), queue.next().get()), (1, 2));
}

#[test]
fn a_queue_that_does_not_begin_at_0_is_filled_in_front() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    let queue = queues.queue(&topic("t"), QueueId(0));
    assert_eq!(queue.push(&entry(PER_FILE + 3, 900)), Pushed::Restarted);
    queue.push(&entry(PER_FILE + 4, 1000));
    queues.flush(physical(5000)).unwrap();
    let end = queues.sync().unwrap();
    let bytes = file_bytes(&disk, "/s/consumequeue/t/0/00000000000000001000");
    let filler = [&[0; 8][..], &FILLER_SIZE.to_be_bytes(), &[0; 8]].concat();
    assert_eq!(bytes[..60], filler.repeat(3));
    drop(queues);
    let (queues, loaded) = open(&disk, start(end.get()));
    let queue = queues.existing(&topic("t"), QueueId(0)).unwrap();
    assert_eq!((queue.min().get(), queue.max().get(), loaded.queues), (PER_FILE + 3, PER_FILE + 5, 1));
    assert_eq!(all_entries(&queue), [entry(PER_FILE + 3, 900), entry(PER_FILE + 4, 1000)]);
}

#[test]
fn readers_pass_over_a_gap() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    let queue = queues.queue(&topic("t"), QueueId(0));
    queue.push(&entry(0, 0));
    assert_eq!(queue.push(&entry(20, 100)), Pushed::AfterGap(19));
    queue.push(&entry(21, 200));
    let expected = [entry(0, 0), entry(20, 100), entry(21, 200)];
    assert_eq!(all_entries(&queue), expected);
    let time = |at: PhysicalOffset, _| Ok::<_, io::Error>(Some(Timestamp::from_millis(at.get() as i64)));
    let found = queue.offset_at(Timestamp::from_millis(50), time).unwrap();
    assert_eq!(queue.entries(found, 1).unwrap(), [entry(20, 100)]);
    queues.flush(physical(1000)).unwrap();
    let end = queues.sync().unwrap();
    let (queues, _) = open(&disk, start(end.get()));
    assert_eq!(all_entries(&queues.existing(&topic("t"), QueueId(0)).unwrap()), expected);
}

#[test]
fn a_gap_wider_than_a_file_begins_the_queue_anew() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    let queue = queues.queue(&topic("t"), QueueId(0));
    queue.push(&entry(0, 0));
    assert_eq!(queue.push(&entry(1 << 60, 100)), Pushed::Restarted);
    assert_eq!(all_entries(&queue), [entry(1 << 60, 100)]);
}

/// The log has records of a topic that was deleted, then those of its successor; a rebuild from the log pushes both.
#[test]
fn a_topic_made_again_is_not_hidden_by_its_predecessors_offsets() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    let queue = queues.queue(&topic("t"), QueueId(0));
    push_dense(&queue, 200);
    queues.flush(physical(20_000)).unwrap();
    queues.sync().unwrap();
    for offset in 0..3 {
        queue.push(&entry(offset, 20_000 + offset * 100));
    }
    let expected: Vec<Entry> = (0..3).map(|o| entry(o, 20_000 + o * 100)).collect();
    assert_eq!(all_entries(&queue), expected);
    assert_eq!(queue.next().get(), 3);
    queues.flush(physical(30_000)).unwrap();
    let end = queues.sync().unwrap();
    let (queues, _) = open(&disk, start(end.get()));
    assert_eq!(all_entries(&queues.existing(&topic("t"), QueueId(0)).unwrap()), expected);
}

#[test]
fn a_truncated_log_takes_its_entries_with_it_for_good() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    let (queue, other) = (queues.queue(&topic("t"), QueueId(0)), queues.queue(&topic("t"), QueueId(1)));
    push_dense(&queue, 3 * PER_FILE);
    push_dense(&other, 5);
    queues.flush(physical(10_000)).unwrap();
    assert_eq!(queues.truncate_to(physical(7000)).unwrap(), 1);
    assert_eq!((queue.max().get(), queue.next().get(), other.max().get()), (70, 70, 5));
    assert_eq!(all_entries(&queue).len(), 70);
    push_dense(&queue, 1);
    queues.flush(physical(7100)).unwrap();
    queues.sync().unwrap();
    let after = disk.crashed(CrashChoice::DropAll);
    let (queues, _) = open(&after, start(7100));
    assert_eq!(all_entries(&queues.existing(&topic("t"), QueueId(0)).unwrap()).len(), 71);
    let bytes = file_bytes(&after, "/s/consumequeue/t/0/00000000000000001000");
    assert!(bytes[21 * 20..].iter().all(|b| *b == 0));
}

#[test]
fn retention_moves_the_beginning_and_removes_whole_files_but_the_last() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    let queue = queues.queue(&topic("t"), QueueId(0));
    push_dense(&queue, 3 * PER_FILE);
    queues.flush(physical(1 << 20)).unwrap();
    let end = queues.sync().unwrap();
    queues.set_min_by(physical(7450)).unwrap();
    assert_eq!(queue.min().get(), 75);
    use crate::store::disk::Disk;
    let list = || disk.list(Path::new("/s/consumequeue/t/0")).unwrap();
    assert_eq!(list(), ["00000000000000001000", "00000000000000002000"]);
    queues.set_min_by(physical(1 << 20)).unwrap();
    assert_eq!((queue.min(), queue.max().get()), (queue.max(), 3 * PER_FILE));
    assert_eq!(list(), ["00000000000000002000"]);
    assert_eq!(queue.entries(QueueOffset::ZERO, 9).unwrap(), []);
    let (queues, _) = open(&disk, Start { log_min: end, ..start(end.get()) });
    let queue = queues.existing(&topic("t"), QueueId(0)).unwrap();
    assert_eq!((queue.min().get(), queue.max().get(), queue.next().get()), (150, 150, 150));
    assert_eq!(queue.push(&entry(150, 1 << 21)), Pushed::Added);
}

#[test]
fn a_deleted_topic_is_gone_and_its_successor_begins_at_0() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    let queue = queues.queue(&topic("t"), QueueId(0));
    push_dense(&queue, 2 * PER_FILE);
    queues.flush(physical(1 << 20)).unwrap();
    push_dense(&queue, 1);
    queues.delete(&topic("t")).unwrap();
    assert_eq!(queue.entries(QueueOffset::new(2 * PER_FILE), 9).unwrap().len(), 1, "still in memory");
    assert!(queues.existing(&topic("t"), QueueId(0)).is_none());
    let again = queues.queue(&topic("t"), QueueId(0));
    assert_eq!(again.assign(), QueueOffset::ZERO);
    again.push(&entry(0, 1 << 21));
    queues.flush(physical(1 << 22)).unwrap();
    let end = queues.sync().unwrap();
    let (queues, _) = open(&disk.crashed(CrashChoice::DropAll), start(end.get()));
    assert_eq!(all_entries(&queues.existing(&topic("t"), QueueId(0)).unwrap()), [entry(0, 1 << 21)]);
}

#[test]
fn time_look_up_finds_the_first_offset_not_before() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    let queue = queues.queue(&topic("t"), QueueId(0));
    push_dense(&queue, 2000);
    queues.flush(physical(150_000)).unwrap();
    // Records 10 at a time in the same millisecond.
    let time = |at: PhysicalOffset, _| Ok::<_, io::Error>(Some(Timestamp::from_millis(at.get() as i64 / 1000)));
    for (at, offset) in [(-1, 0), (0, 0), (1, 10), (77, 770), (199, 1990), (200, 2000)] {
        assert_eq!(queue.offset_at(Timestamp::from_millis(at), time).unwrap().get(), offset);
    }
    let gone = |at: PhysicalOffset, _| Ok::<_, io::Error>((at.get() >= 500).then(|| Timestamp::from_millis(9)));
    assert_eq!(queue.offset_at(Timestamp::ZERO, gone).unwrap().get(), 5);
}

#[test]
fn a_full_disk_keeps_entries_in_memory_until_there_is_room() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    let queue = queues.queue(&topic("t"), QueueId(0));
    push_dense(&queue, 10);
    disk.set_capacity(0);
    let refused = queues.flush(physical(500)).unwrap_err();
    assert!(!refused.is_fatal(), "{refused}");
    assert_eq!(queues.sync().unwrap(), PhysicalOffset::ZERO);
    assert_eq!(all_entries(&queue).len(), 10);
    disk.set_capacity(1 << 30);
    queues.flush(physical(500)).unwrap();
    assert_eq!(queues.sync().unwrap(), physical(500));
}

#[test]
fn a_failed_sync_is_fatal_and_never_repeated() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    push_dense(&queues.queue(&topic("t"), QueueId(0)), 10);
    queues.flush(physical(500)).unwrap();
    disk.fail_sync_once_then_lie();
    assert!(matches!(queues.sync(), Err(Error::Sync { .. })));
    assert!(matches!(queues.sync(), Err(Error::Failed)));
    assert!(matches!(queues.flush(physical(900)), Err(Error::Failed)));
}

#[test]
fn ten_thousand_queues_are_small_and_hold_few_files_open() {
    assert!(size_of::<QueueState>() <= 256, "{} bytes", size_of::<QueueState>());
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    for id in 0..600 {
        push_dense(&queues.queue(&topic("t"), QueueId(id)), 3);
    }
    queues.flush(physical(1000)).unwrap();
    assert!(queues.shared.files.open_count() <= 256);
    assert!(queues.io.lock().unsynced.len() <= UNSYNCED_MAX);
    let end = queues.sync().unwrap();
    let (queues, loaded) = open(&disk, start(end.get()));
    assert_eq!((loaded.queues, queues.shared.files.open_count()), (600, 0));
}

#[test]
fn missing_files_are_made_again_from_the_whole_log() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    push_dense(&queues.queue(&topic("t"), QueueId(0)), 3 * PER_FILE);
    push_dense(&queues.queue(&topic("t"), QueueId(1)), 3);
    queues.flush(physical(1 << 20)).unwrap();
    let end = queues.sync().unwrap();
    drop(queues);
    use crate::store::disk::Disk;
    let hole = disk.crashed(CrashChoice::KeepAll);
    hole.remove_file(Path::new("/s/consumequeue/t/0/00000000000000001000")).unwrap();
    let (queues, loaded) = open(&hole, start(end.get()));
    assert_eq!((loaded.dispatch_from, loaded.remade.len()), (PhysicalOffset::ZERO, 1));
    let queue = queues.existing(&topic("t"), QueueId(0)).unwrap();
    assert_eq!((queue.max(), all_entries(&queue).len()), (QueueOffset::ZERO, 0));
    assert_eq!(open(&hole, start(end.get())).1.remade.len(), 1, "not forgotten by starting again");
    queues.flush(physical(1 << 20)).unwrap();
    assert_eq!(open(&hole, start(0)).1.remade.len(), 0);
    disk.remove_dir_all(Path::new("/s/consumequeue")).unwrap();
    assert_eq!(open(&disk, start(end.get())).1.dispatch_from, PhysicalOffset::ZERO);
}

#[test]
fn files_of_another_size_are_made_again() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    push_dense(&queues.queue(&topic("t"), QueueId(0)), 2 * PER_FILE);
    queues.flush(physical(1 << 20)).unwrap();
    let end = queues.sync().unwrap();
    let (_, loaded) = Queues::open(Arc::new(disk), Path::new("/s"), PER_FILE + 1, start(end.get())).unwrap();
    assert_eq!(loaded.dispatch_from, PhysicalOffset::ZERO);
    assert!(loaded.remade[0].contains("mappedFileSizeConsumeQueue"), "{:?}", loaded.remade);
}

/// Apache's broker leaves no list of doubts: its files are read entry by entry after a crash.
#[test]
fn a_crashed_store_of_apaches_is_scanned() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    push_dense(&queues.queue(&topic("t"), QueueId(0)), 2 * PER_FILE + 20);
    queues.flush(physical(1 << 20)).unwrap();
    let end = queues.sync().unwrap();
    drop(queues);
    use crate::store::disk::Disk;
    disk.remove_file(Path::new("/s/consumequeue.doubts")).unwrap();
    let file = disk.open(Path::new("/s/consumequeue/t/0/00000000000000001000"), Open::Write).unwrap();
    file.write(7 * 20, &[0; 20]).unwrap();
    let (queues, _) = open(&disk, start(end.get()));
    let queue = queues.existing(&topic("t"), QueueId(0)).unwrap();
    assert_eq!((queue.max().get(), all_entries(&queue).len() as u64), (PER_FILE + 7, PER_FILE + 7));
    assert_eq!(disk.list(Path::new("/s/consumequeue/t/0")).unwrap().len(), 2);
}

#[test]
fn a_file_made_by_a_refused_write_does_not_come_back_empty() {
    let disk = new_disk();
    let (queues, _) = open(&disk, start(0));
    let queue = queues.queue(&topic("t"), QueueId(0));
    push_dense(&queue, PER_FILE);
    queues.flush(physical(5000)).unwrap();
    queues.sync().unwrap();
    push_dense(&queue, 1);
    disk.set_capacity(disk.used());
    assert!(queues.flush(physical(6000)).is_err());
    // Nothing to write below this, so the round ends with an empty second file.
    queues.flush(physical(5000)).unwrap();
    let end = queues.sync().unwrap();
    let (_, loaded) = open(&disk.crashed(CrashChoice::DropAll), start(end.get()));
    assert!(loaded.remade.is_empty(), "{loaded:?}");
}

#[test]
fn files_removed_by_retention_leave_no_hole_after_a_crash() {
    let history = |disk: &SimDisk| {
        let (queues, _) = open(disk, start(0));
        push_dense(&queues.queue(&topic("t"), QueueId(0)), 6 * PER_FILE);
        queues.flush(physical(1 << 20)).unwrap();
        queues.sync().unwrap();
        queues
    };
    let dry = new_disk();
    let queues = history(&dry);
    let begin = dry.ops();
    queues.set_min_by(physical(25_000)).unwrap();
    for op in begin..dry.ops() {
        for seed in 0..20 {
            let disk = new_disk();
            let queues = history(&disk);
            disk.crash_at(op);
            assert!(queues.set_min_by(physical(25_000)).is_err());
            disk.crash(seed);
            let log_min = physical(25_000);
            let (queues, loaded) = open(&disk, Start { log_min, ..start(1 << 20) });
            assert!(loaded.remade.is_empty(), "{loaded:?}");
            assert_eq!(all_entries(&queues.existing(&topic("t"), QueueId(0)).unwrap()).len(), 50);
        }
    }
}

/// The first power failure leaves a round in doubt that began behind the checkpoint, so recovery cuts further than the
/// round's list says; the second one meets that.
#[test]
fn a_crash_while_recovery_cuts_loses_nothing() {
    let history = || {
        let disk = new_disk();
        let (queues, _) = open(&disk, start(0));
        let queue = queues.queue(&topic("t"), QueueId(0));
        push_dense(&queue, 120);
        for below in [9000, 10_500, 12_000] {
            queues.flush(physical(below)).unwrap();
            if below < 12_000 {
                queues.sync().unwrap();
            }
        }
        disk.crash_with(CrashChoice::KeepAll);
        disk
    };
    let dry = history();
    let begin = dry.ops();
    open(&dry, start(9000));
    assert!(dry.ops() > begin);
    for op in begin..dry.ops() {
        for choice in CrashChoice::FIXED.into_iter().chain((0..20).map(CrashChoice::Random)) {
            let disk = history();
            disk.crash_at(op);
            assert!(Queues::open(Arc::new(disk.clone()), Path::new("/s"), PER_FILE, start(9000)).is_err());
            disk.crash_with(choice);
            let (queues, loaded) = open(&disk, start(9000));
            assert!(loaded.remade.is_empty(), "op {op}, {choice:?}: {loaded:?}");
            let queue = queues.existing(&topic("t"), QueueId(0)).unwrap();
            let expected: Vec<Entry> = (0..90).map(|o| entry(o, o * 100)).collect();
            assert_eq!(all_entries(&queue), expected, "op {op}, {choice:?}");
        }
    }
}

/// A log, as far as consume queues see it: which record belongs to which queue.
#[derive(Default, Clone)]
struct Model {
    /// Queue and queue offset of the record at `100 * i`.
    log: Vec<(u32, u64)>,
    next: BTreeMap<u32, u64>,
}

impl Model {
    fn append(&mut self, queue: u32) {
        let next = self.next.entry(queue).or_default();
        self.log.push((queue, *next));
        *next += 1;
    }

    fn end(&self) -> u64 {
        self.log.len() as u64 * 100
    }

    /// Pushes the records in `[from, to)`.
    fn push(&self, queues: &Queues, from: u64, to: u64) {
        for at in (from / 100)..(to / 100) {
            let (queue, offset) = self.log[at as usize];
            queues.queue(&topic("t"), QueueId(queue)).push(&entry(offset, at * 100));
        }
    }

    fn check(&self, queues: &Queues, log_min: u64) {
        let mut expected: BTreeMap<u32, Vec<Entry>> = BTreeMap::new();
        for (i, (queue, offset)) in self.log.iter().enumerate() {
            let (at, entries) = (i as u64 * 100, expected.entry(*queue).or_default());
            entries.extend((at >= log_min).then(|| entry(*offset, at)));
        }
        for (id, entries) in expected {
            let queue = queues.queue(&topic("t"), QueueId(id));
            assert_eq!(queue.next().get(), self.next[&id], "queue {id}");
            let found = all_entries(&queue);
            let differ = found.iter().zip(&entries).position(|(a, b)| a != b);
            let (have, want) = (found.len(), entries.len());
            assert!(found == entries, "queue {id}: {have} of {want} entries, the first wrong one is {differ:?}");
        }
    }
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// One history: what the log and the checkpoint say, while the queues' disk fails.
struct History {
    disk: SimDisk,
    rng: Rng,
    model: Model,
    recover_from: u64,
    /// Retention has taken what lies below.
    log_min: u64,
}

impl History {
    fn start(&self) -> Start {
        Start { log_min: physical(self.log_min), ..start(self.recover_from) }
    }

    /// Opens and catches up with the log, as recovery does.
    fn recover(&mut self) -> Result<Queues, Error> {
        let (queues, loaded) = Queues::open(Arc::new(self.disk.clone()), Path::new("/s"), PER_FILE, self.start())?;
        assert!(loaded.remade.is_empty(), "{loaded:?}");
        assert!(loaded.queues == 0 || loaded.dispatch_from.get() == self.recover_from);
        self.recover_from = loaded.dispatch_from.get();
        self.model.push(&queues, self.recover_from, self.model.end());
        self.model.check(&queues, self.log_min);
        Ok(queues)
    }

    /// Runs for some steps or until the power fails. The log itself never fails here.
    fn run(&mut self, queues: &Queues, steps: u64) {
        for _ in 0..steps {
            let result = self.step(queues);
            if self.disk.is_off() {
                return;
            }
            assert!(result.is_ok() || result.is_err_and(|e| !e.is_fatal()));
        }
    }

    fn step(&mut self, queues: &Queues) -> Result<(), Error> {
        match self.rng.below(18) {
            0..8 => {
                let from = self.model.end();
                for _ in 0..self.rng.below(40) {
                    // Few queues get most, so that files fill up; many get a little.
                    let queue = if self.rng.below(2) == 0 { 0 } else { self.rng.below(6) as u32 };
                    self.model.append(queue);
                }
                self.model.push(queues, from, self.model.end());
            }
            8..12 => {
                let open = self.model.end() - self.recover_from;
                let below = self.recover_from + self.rng.below(open + 1) / 100 * 100;
                queues.flush(physical(below))?;
            }
            12..16 => {
                let persisted = queues.sync()?;
                // The checkpoint is written some time later, or not at all.
                if self.rng.below(3) > 0 {
                    self.recover_from = persisted.get();
                }
            }
            16 => {
                self.log_min += self.rng.below(self.recover_from - self.log_min + 1) / 100 * 100;
                queues.set_min_by(physical(self.log_min))?;
                self.model.check(queues, self.log_min);
            }
            _ => {
                let room = if self.rng.below(2) == 0 { 1 << 40 } else { self.rng.below(3) * 4096 };
                self.disk.set_capacity(self.disk.used() + room);
            }
        }
        Ok(())
    }
}

#[test]
fn after_any_crash_the_queues_are_exactly_the_log() {
    for seed in 0..400 {
        let disk = new_disk();
        let mut h = History { disk, rng: Rng(seed), model: Model::default(), recover_from: 0, log_min: 0 };
        for _life in 0..4 {
            h.disk.crash_at(h.disk.ops() + h.rng.below(120));
            if let Ok(queues) = h.recover() {
                h.run(&queues, 35);
            }
            let choice = h.rng.below(1 << 30);
            h.disk.crash(choice);
            h.disk.set_capacity(1 << 40);
        }
        if let Err(error) = h.recover() {
            panic!("seed {seed}: {error}");
        }
    }
}

#[test]
fn a_crash_while_a_topic_is_deleted_harms_no_other() {
    let history = |disk: &SimDisk| -> Result<(), Error> {
        let (queues, _) = Queues::open(Arc::new(disk.clone()), Path::new("/s"), PER_FILE, start(0))?;
        for id in 0..2 {
            push_dense(&queues.queue(&topic("gone"), QueueId(id)), 3 * PER_FILE);
        }
        push_dense(&queues.queue(&topic("stays"), QueueId(0)), 70);
        queues.flush(physical(20_000))?;
        queues.sync()?;
        queues.delete(&topic("gone"))?;
        let again = queues.queue(&topic("gone"), QueueId(1));
        again.push(&entry(0, 20_000));
        queues.flush(physical(20_100))?;
        queues.sync().map(|_| ())
    };
    let dry = new_disk();
    history(&dry).unwrap();
    let synced = 20_000;
    for op in new_disk().ops()..dry.ops() {
        for choice in CrashChoice::FIXED.into_iter().chain((0..5).map(CrashChoice::Random)) {
            let disk = new_disk();
            disk.crash_at(op);
            assert!(history(&disk).is_err());
            disk.crash_with(choice);
            let (queues, loaded) = open(&disk, start(0));
            assert!(loaded.remade.is_empty(), "op {op}, {choice:?}: {loaded:?}");
            let stays = queues.queue(&topic("stays"), QueueId(0));
            for offset in 0..70 {
                stays.push(&entry(offset, offset * 100));
            }
            assert_eq!(all_entries(&stays).len(), 70, "op {op}, {choice:?}");
            let again = queues.queue(&topic("gone"), QueueId(1));
            again.push(&entry(0, synced));
            assert_eq!(all_entries(&again), [entry(0, synced)], "op {op}, {choice:?}");
        }
    }
}

#[test]
fn every_crash_point_of_a_short_history_is_survived() {
    let history = |disk: &SimDisk, model: &mut Model| -> u64 {
        let mut recover_from = 0;
        let Ok((queues, _)) = Queues::open(Arc::new(disk.clone()), Path::new("/s"), PER_FILE, start(0)) else {
            return 0;
        };
        for round in 0..4 {
            let from = model.end();
            (0..45).for_each(|i| model.append(i % 2 * (i % 3)));
            model.push(&queues, from, model.end());
            if queues.flush(physical(model.end() - 500)).is_err() {
                break;
            }
            match queues.sync() {
                Ok(persisted) if round != 2 => recover_from = persisted.get(),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        recover_from
    };
    let dry = new_disk();
    history(&dry, &mut Model::default());
    for op in new_disk().ops()..dry.ops() {
        for choice in CrashChoice::FIXED {
            let (disk, mut model) = (new_disk(), Model::default());
            disk.crash_at(op);
            let recover_from = history(&disk, &mut model);
            disk.crash_with(choice);
            let (queues, loaded) = open(&disk, start(recover_from));
            model.push(&queues, loaded.dispatch_from.get(), model.end());
            model.check(&queues, 0);
        }
    }
}
