use super::*;
use crate::store::sim::SimDisk;

const LEN: u64 = 1 << 20;

fn segment(disk: &SimDisk) -> Segment {
    let dir = Path::new("/log");
    disk.create_dir_all(dir).unwrap();
    Segment::create(disk, dir, PhysicalOffset::ZERO, LEN).unwrap()
}

fn at(n: u64) -> PhysicalOffset {
    PhysicalOffset::new(n)
}

fn content(segment: &Segment, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    segment.read_into(at(0), &mut bytes).unwrap();
    bytes
}

#[test]
fn zeros_do_not_overwrite_what_was_written_faster() {
    let segment = segment(&SimDisk::new());
    segment.back(LEN).unwrap();
    segment.zero(8 << 10).unwrap();
    segment.write(at(0), &[7; 40 << 10]).unwrap();
    segment.zero(LEN).unwrap();
    let content = content(&segment, LEN);
    assert!(content[..40 << 10].iter().all(|b| *b == 7));
    assert!(content[40 << 10..].iter().all(|b| *b == 0));
}

#[test]
fn a_writer_and_a_thread_that_zeroes_ahead_of_it_do_not_harm_each_other() {
    let segment = segment(&SimDisk::new());
    segment.back(LEN).unwrap();
    let record = [7; 1000];
    let records = LEN / record.len() as u64;
    std::thread::scope(|scope| {
        scope.spawn(|| (0..LEN).step_by(5000).for_each(|to| segment.zero(to).unwrap()));
        (0..records).for_each(|n| segment.write(at(n * record.len() as u64), &record).unwrap());
    });
    assert!(content(&segment, records * record.len() as u64).iter().all(|b| *b == 7));
}

#[test]
fn what_has_blocks_can_be_written_on_a_full_disk_and_no_more_than_that() {
    for can_allocate in [true, false] {
        let disk = SimDisk::new();
        if !can_allocate {
            disk.refuse_allocations();
        }
        let segment = segment(&disk);
        segment.back(64 << 10).unwrap();
        disk.set_capacity(disk.used());
        assert!(is_full(&segment.back((64 << 10) + 1).unwrap_err()), "{can_allocate}");
        segment.write(at(0), &[7; 64 << 10]).unwrap();
        assert_eq!(segment.backed(), 64 << 10);
    }
}

#[test]
fn a_nearly_full_disk_gives_what_was_asked_for_if_not_the_stretch_behind_it() {
    for can_allocate in [true, false] {
        let disk = SimDisk::new();
        if !can_allocate {
            disk.refuse_allocations();
        }
        let segment = segment(&disk);
        disk.set_capacity(disk.used() + (8 << 10));
        segment.back(8 << 10).unwrap();
        assert_eq!(segment.backed(), 8 << 10, "{can_allocate}");
    }
}

#[test]
fn without_allocation_blocks_come_from_zeros() {
    let disk = SimDisk::new();
    disk.refuse_allocations();
    let segment = segment(&disk);
    segment.back(10).unwrap();
    assert!(segment.backed() >= 10);
    assert_eq!(segment.written(), segment.backed());
    assert_eq!(disk.used(), segment.backed());
}
