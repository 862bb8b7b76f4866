//! The file `checkpoint`: how far things were safe when it was last written.
//!
//! Apache's layout (`StoreCheckpoint`), 4096 bytes, big-endian: longs `@0` store time of the last durable record, `@8`
//! of the last one in a durable consume queue, `@16` of the last one in a durable index file, `@24` replicated offset
//! (0), `@32` confirmed offset. Apache passes over the rest, where two copies of our own lie, `@512` and `@1024`, in
//! sectors of their own and written in turn, so that a torn write leaves the other:
//!
//! | at | bytes | field                                                   |
//! |----|-------|---------------------------------------------------------|
//! | 0  | 8     | [`MAGIC`]                                               |
//! | 8  | 8     | number of the write; the higher one counts              |
//! | 16 | 8     | durable: the log was synced up to here                  |
//! | 24 | 8     | recover from: what is derived is durable up to here     |
//! | 32 | 8     | Apache until: records below may lack our checksum       |
//! | 40 | 24    | the three store times, as in Apache's part              |
//! | 64 | 24    | [`SavedTime`]: trusted and wall clock, ms steady        |
//! | 88 | 4     | 1 when the store was closed, else 0                     |
//! | 92 | 4     | CRC-32 of the 92 bytes before                           |

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, BufMut};

use super::{
    disk::{Disk, File, Open},
    retention::SavedTime,
};
use crate::types::{PhysicalOffset, Timestamp};

const LEN: usize = 4096;
const MAGIC: u64 = u64::from_be_bytes(*b"FERROMQ1");
const COPIES_AT: [usize; 2] = [512, 1024];
const COPY_LEN: usize = 96;
const APACHE_LEN: usize = 40;
/// Stands for no saved time.
const NO_TIME: SavedTime = SavedTime { trusted: Timestamp::ZERO, wall: Timestamp::ZERO, steady: Duration::ZERO };

/// What the file says. Never more than is so: each position was synced before it was written here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Checkpoint {
    pub(super) durable: PhysicalOffset,
    /// The start of a unit, not beyond `durable`. Consume queues and index hold everything below it.
    pub(super) recover_from: PhysicalOffset,
    pub(super) apache_until: PhysicalOffset,
    /// Of the last record below `durable`.
    pub(super) stored_at: Timestamp,
    /// Of the last record below `recover_from`.
    pub(super) derived_at: Timestamp,
    /// What retention judges ages by; `None` when nothing was saved.
    pub(super) time: Option<SavedTime>,
    pub(super) is_closed: bool,
}

/// What was found at opening.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// No file, or one of Apache's.
    Nothing,
    Ours(Checkpoint),
    /// Ours, and neither copy is whole.
    Broken,
}

/// The open file.
pub(super) struct CheckpointFile {
    file: Arc<dyn File>,
    writes: u64,
}

impl CheckpointFile {
    pub(super) fn path(root: &Path) -> PathBuf {
        root.join("checkpoint")
    }

    /// Opens the file, made if need be, and reads it. A new one lasts once it was written and its directory synced.
    pub(super) fn open(disk: &dyn Disk, root: &Path) -> io::Result<(Self, Found)> {
        let path = Self::path(root);
        let file = match disk.open(&path, Open::Create) {
            Ok(file) => {
                file.set_len(LEN as u64)?;
                return Ok((Self { file, writes: 0 }, Found::Nothing));
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => disk.open(&path, Open::Write)?,
            Err(e) => return Err(e),
        };
        if file.len()? != LEN as u64 {
            file.set_len(LEN as u64)?;
        }
        let mut bytes = [0; LEN];
        file.read_into(0, &mut bytes)?;
        let copies = COPIES_AT.map(|at| read_copy(&bytes[at..at + COPY_LEN]));
        let newest = copies.into_iter().flatten().max_by_key(|(writes, _)| *writes);
        let found = match newest {
            Some((_, checkpoint)) => Found::Ours(checkpoint),
            // A first write may be torn: nothing was promised before it.
            None if COPIES_AT.iter().all(|at| bytes[*at..][..8] == MAGIC.to_be_bytes()) => Found::Broken,
            None => Found::Nothing,
        };
        Ok((Self { file, writes: newest.map_or(0, |(writes, _)| writes) }, found))
    }

    /// Writes and syncs it. Once it failed it must not be called again.
    pub(super) fn write(&mut self, checkpoint: &Checkpoint) -> io::Result<()> {
        // Nothing was promised before the first write, so both copies may be torn; after it both are there.
        if self.writes == 0 {
            self.put(checkpoint)?;
        }
        self.put(checkpoint)?;
        self.file.sync()
    }

    fn put(&mut self, checkpoint: &Checkpoint) -> io::Result<()> {
        self.writes += 1;
        let times = [checkpoint.stored_at, checkpoint.derived_at, checkpoint.derived_at].map(Timestamp::as_millis);
        let mut copy = Vec::with_capacity(COPY_LEN);
        copy.put_u64(MAGIC);
        copy.put_u64(self.writes);
        copy.put_i64(checkpoint.durable.to_wire());
        copy.put_i64(checkpoint.recover_from.to_wire());
        copy.put_i64(checkpoint.apache_until.to_wire());
        times.iter().for_each(|time| copy.put_i64(*time));
        let time = checkpoint.time.unwrap_or(NO_TIME);
        copy.put_i64(time.trusted.as_millis());
        copy.put_i64(time.wall.as_millis());
        copy.put_u64(u64::try_from(time.steady.as_millis()).unwrap_or(u64::MAX));
        copy.put_u32(u32::from(checkpoint.is_closed));
        copy.put_u32(crc32fast::hash(&copy));
        debug_assert_eq!(copy.len(), COPY_LEN);
        self.file.write(COPIES_AT[(self.writes % 2) as usize] as u64, &copy)?;

        let mut apache = Vec::with_capacity(APACHE_LEN);
        times.iter().for_each(|time| apache.put_i64(*time));
        apache.put_i64(0);
        apache.put_i64(checkpoint.durable.to_wire());
        self.file.write(0, &apache)
    }
}

fn read_copy(copy: &[u8]) -> Option<(u64, Checkpoint)> {
    let (mut fields, mut crc) = copy.split_at(COPY_LEN - 4);
    if crc.get_u32() != crc32fast::hash(fields) || fields.get_u64() != MAGIC {
        return None;
    }
    let writes = fields.get_u64();
    let durable = PhysicalOffset::from_wire(fields.get_i64())?;
    let recover_from = PhysicalOffset::from_wire(fields.get_i64())?;
    let apache_until = PhysicalOffset::from_wire(fields.get_i64())?;
    let stored_at = Timestamp::from_millis(fields.get_i64());
    let derived_at = Timestamp::from_millis(fields.get_i64());
    let _index_at = fields.get_i64();
    let time = SavedTime {
        trusted: Timestamp::from_millis(fields.get_i64()),
        wall: Timestamp::from_millis(fields.get_i64()),
        steady: Duration::from_millis(fields.get_u64()),
    };
    let time = (time != NO_TIME).then_some(time);
    let is_closed = fields.get_u32() == 1;
    Some((writes, Checkpoint { durable, recover_from, apache_until, stored_at, derived_at, time, is_closed }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sim::SimDisk;

    fn checkpoint(n: u64) -> Checkpoint {
        Checkpoint {
            durable: PhysicalOffset::new(n * 100),
            recover_from: PhysicalOffset::new(n * 50),
            apache_until: PhysicalOffset::new(7),
            stored_at: Timestamp::from_millis(n as i64 + 1000),
            derived_at: Timestamp::from_millis(n as i64 + 500),
            time: (n > 1).then_some(SavedTime {
                trusted: Timestamp::from_millis(n as i64 + 1900),
                wall: Timestamp::from_millis(n as i64 + 2000),
                steady: Duration::from_millis(n * 10),
            }),
            is_closed: n % 2 == 1,
        }
    }

    fn open(disk: &SimDisk) -> (CheckpointFile, Found) {
        let opened = CheckpointFile::open(disk, Path::new("/")).expect("it opens");
        disk.sync_dir(Path::new("/")).expect("it is synced");
        opened
    }

    #[test]
    fn what_was_written_last_is_read_and_apaches_part_says_the_same() {
        let disk = SimDisk::new();
        let (mut file, found) = open(&disk);
        assert_eq!(found, Found::Nothing);
        for n in 1..=3 {
            file.write(&checkpoint(n)).expect("it is written");
            assert_eq!(open(&disk).1, Found::Ours(checkpoint(n)));
        }
        let mut apache = [0; 40];
        file.file.read_into(0, &mut apache).expect("it reads");
        let longs: Vec<i64> = apache.chunks(8).map(|long| i64::from_be_bytes(long.try_into().expect("8"))).collect();
        assert_eq!(longs, [1003, 503, 503, 0, 300]);
        assert_eq!(file.file.len().expect("a length"), 4096);
    }

    #[test]
    fn a_torn_write_leaves_the_one_before_or_is_there_wholly() {
        for seed in 0..500 {
            let disk = SimDisk::new();
            let (mut file, _) = open(&disk);
            let whole = seed % 5 + 1;
            (1..=whole).for_each(|n| file.write(&checkpoint(n)).expect("it is written"));
            disk.fail_after(seed % 3);
            assert!(file.write(&checkpoint(whole + 1)).is_err());
            disk.crash(seed);
            let found = open(&disk).1;
            assert!([checkpoint(whole), checkpoint(whole + 1)].map(Found::Ours).contains(&found), "{found:?}");
        }
    }

    #[test]
    fn a_flipped_bit_costs_one_copy_and_two_are_noticed() {
        let disk = SimDisk::new();
        let (mut file, _) = open(&disk);
        (1..=2).for_each(|n| file.write(&checkpoint(n)).expect("it is written"));
        disk.flip_bit("/checkpoint", 1024 + 30, 3).expect("it flips");
        assert_eq!(open(&disk).1, Found::Ours(checkpoint(1)));
        disk.flip_bit("/checkpoint", 512 + 30, 3).expect("it flips");
        assert_eq!(open(&disk).1, Found::Broken);
    }

    #[test]
    fn a_checkpoint_of_apaches_is_nothing_of_ours() {
        let disk = SimDisk::new();
        let file = disk.open(Path::new("/checkpoint"), Open::Create).expect("it opens");
        file.write(0, &[0x11; 24]).expect("it is written");
        assert_eq!(open(&disk).1, Found::Nothing);
        assert_eq!(file.len().expect("a length"), 4096);
    }
}
