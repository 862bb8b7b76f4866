//! Consume queue files (`ConsumeQueue`, reference: Apache's `MappedFileQueue` naming).
//!
//! `consumequeue/<topic>/<queueId>/<20 digits>`: the name is the byte position of the file's first entry in the queue, every file has
//! the same length, and offset `o` lies at byte `20 * o`. An entry, big-endian:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 8 | physical offset in the log |
//! | 8 | 4 | size of the record |
//! | 12 | 8 | tags code |
//!
//! Behind the last entry there are zeros. Offsets that no message has are filled with entries of size
//! [`FILLER_SIZE`].

use std::{collections::HashMap, io, ops::Range, path::PathBuf, sync::Arc};

use parking_lot::Mutex;

use crate::{
    store::{
        derived::Error,
        disk::{Disk, File, Open},
    },
    types::{QueueId, TopicName},
};

/// Bytes of an entry.
pub(super) const UNIT: u64 = 20;
/// The size in an entry that stands for no message.
pub(super) const FILLER_SIZE: u32 = 0x7FFF_FFFF;
/// Files held open between uses, of all queues together.
const OPEN_FILES_MAX: usize = 256;

/// An entry without its offset, as the disk has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Unit {
    pub physical: u64,
    pub size: u32,
    pub tags_code: i64,
}

impl Unit {
    pub fn filler(physical: u64) -> Self {
        Self { physical, size: FILLER_SIZE, tags_code: 0 }
    }

    pub fn is_filler(&self) -> bool {
        self.size == FILLER_SIZE
    }

    /// Written entries have a size; Apache's check too.
    pub fn is_written(&self) -> bool {
        self.size > 0 && self.size <= FILLER_SIZE && self.physical <= i64::MAX as u64
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.physical.to_be_bytes());
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(&self.tags_code.to_be_bytes());
    }

    pub fn decode(bytes: &[u8; UNIT as usize]) -> Self {
        let [p0, p1, p2, p3, p4, p5, p6, p7, s0, s1, s2, s3, tags @ ..] = *bytes;
        Self {
            physical: u64::from_be_bytes([p0, p1, p2, p3, p4, p5, p6, p7]),
            size: u32::from_be_bytes([s0, s1, s2, s3]),
            tags_code: i64::from_be_bytes(tags),
        }
    }
}

/// A queue, for its files: a number that no other queue of this run has, and its directory's names.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub uid: u64,
    pub topic: &'a TopicName,
    pub queue: QueueId,
}

/// The files of all queues, a bounded number of them open.
pub(super) struct Files {
    pub disk: Arc<dyn Disk>,
    /// `<root>/consumequeue`.
    pub root: PathBuf,
    /// Entries of one file.
    pub per_file: u64,
    open: Mutex<OpenFiles>,
}

#[derive(Default)]
struct OpenFiles {
    /// By queue and number of the file (its first offset / entries of one file).
    files: HashMap<(u64, u64), (Arc<dyn File>, u64)>,
    /// Counts uses, to find the longest unused.
    tick: u64,
}

impl Files {
    pub fn new(disk: Arc<dyn Disk>, root: PathBuf, per_file: u64) -> Self {
        Self { disk, root, per_file, open: Mutex::default() }
    }

    pub fn topic_dir(&self, topic: &TopicName) -> PathBuf {
        self.root.join(topic.as_str())
    }

    pub fn dir(&self, topic: &TopicName, queue: QueueId) -> PathBuf {
        self.topic_dir(topic).join(queue.to_string())
    }

    pub fn path(&self, owner: Owner<'_>, number: u64) -> PathBuf {
        self.dir(owner.topic, owner.queue).join(format!("{:020}", number * self.file_len()))
    }

    /// Bytes of one file.
    pub fn file_len(&self) -> u64 {
        self.per_file * UNIT
    }

    /// The file, which must exist.
    pub fn open(&self, owner: Owner<'_>, number: u64) -> io::Result<Arc<dyn File>> {
        let mut open = self.open.lock();
        open.tick += 1;
        let tick = open.tick;
        if let Some((file, used)) = open.files.get_mut(&(owner.uid, number)) {
            *used = tick;
            return Ok(file.clone());
        }
        drop(open);
        let file = self.disk.open(&self.path(owner, number), Open::Write)?;
        self.keep_open(owner, number, file.clone());
        Ok(file)
    }

    /// The file, made if need be, and whether it was.
    pub fn open_or_create(&self, owner: Owner<'_>, number: u64) -> io::Result<(Arc<dyn File>, bool)> {
        match self.open(owner, number) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.disk.create_dir_all(&self.dir(owner.topic, owner.queue))?;
                let file = self.disk.open(&self.path(owner, number), Open::Create)?;
                self.keep_open(owner, number, file.clone());
                Ok((file, true))
            }
            other => Ok((other?, false)),
        }
    }

    fn keep_open(&self, owner: Owner<'_>, number: u64, file: Arc<dyn File>) {
        let mut open = self.open.lock();
        if open.files.len() >= OPEN_FILES_MAX {
            let oldest = open.files.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| *key);
            oldest.and_then(|key| open.files.remove(&key));
        }
        let tick = open.tick;
        open.files.insert((owner.uid, number), (file, tick));
    }

    /// Closes files of a queue that are about to be removed or cut.
    pub fn forget(&self, uid: u64, numbers: Range<u64>) {
        self.open.lock().files.retain(|(owner, number), _| *owner != uid || !numbers.contains(number));
    }

    #[cfg(test)]
    pub fn open_count(&self) -> usize {
        self.open.lock().files.len()
    }

    /// One entry, which must have been written to its file.
    pub fn unit(&self, owner: Owner<'_>, offset: u64) -> io::Result<Unit> {
        let file = self.open(owner, offset / self.per_file)?;
        read_unit(&*file, offset % self.per_file)
    }

    /// Entries from `from` on, at most `max`, none behind the end of its file.
    pub fn units(&self, owner: Owner<'_>, from: u64, max: u64) -> io::Result<Vec<Unit>> {
        let file = self.open(owner, from / self.per_file)?;
        let n = max.min(self.per_file - from % self.per_file);
        let mut bytes = vec![0; (n * UNIT) as usize];
        file.read_into(from % self.per_file * UNIT, &mut bytes)?;
        Ok(bytes.as_chunks().0.iter().map(Unit::decode).collect())
    }
}

impl Files {
    /// Zeroes, durably, everything from offset `cut` on. `numbers` are the files that there are, ascending. Where `cut`
    /// is the first file's beginning that file stays, empty: its name keeps the offset.
    pub fn cut(&self, owner: Owner<'_>, numbers: &[u64], cut: u64) -> Result<(), Error> {
        self.forget(owner.uid, 0..u64::MAX);
        let mut removed = false;
        for (i, number) in numbers.iter().enumerate().rev() {
            let (path, start) = (self.path(owner, *number), number * self.per_file);
            let keeps_offset = i == 0 && start == cut && cut > 0;
            if start >= cut && !keeps_offset {
                self.disk.remove_file(&path).map_err(Error::removing(&path))?;
                removed = true;
            } else if cut < start + self.per_file {
                let zero = || -> io::Result<Arc<dyn File>> {
                    let file = self.disk.open(&path, Open::Write)?;
                    file.set_len((cut - start) * UNIT)?;
                    file.set_len(self.file_len())?;
                    Ok(file)
                };
                let file = zero().map_err(Error::writing(&path))?;
                file.sync().map_err(Error::syncing(&path))?;
            }
        }
        if removed {
            let dir = self.dir(owner.topic, owner.queue);
            self.disk.sync_dir(&dir).map_err(Error::syncing(&dir))?;
        }
        Ok(())
    }

    /// Numbers of the files of a queue, ascending; `Err` with the name of a file that cannot be one of them.
    pub fn numbers(&self, topic: &TopicName, queue: QueueId) -> io::Result<Result<Vec<u64>, String>> {
        let mut numbers = Vec::new();
        for name in self.disk.list(&self.dir(topic, queue))? {
            if name.len() != 20 || !name.bytes().all(|b| b.is_ascii_digit()) {
                continue;
            }
            match name.parse::<u64>() {
                Ok(at) if at % self.file_len() == 0 => numbers.push(at / self.file_len()),
                _ => return Ok(Err(name)),
            }
        }
        numbers.sort_unstable();
        Ok(Ok(numbers))
    }
}

/// Entry `index` of a file.
pub(super) fn read_unit(file: &dyn File, index: u64) -> io::Result<Unit> {
    let mut bytes = [0; UNIT as usize];
    file.read_into(index * UNIT, &mut bytes)?;
    Ok(Unit::decode(&bytes))
}

/// The first number of a range that does not pass, where all that pass come first.
pub(super) fn partition_point<E>(range: Range<u64>, mut passes: impl FnMut(u64) -> Result<bool, E>) -> Result<u64, E> {
    let (mut low, mut high) = (range.start, range.end.max(range.start));
    while low < high {
        let middle = low + (high - low) / 2;
        if passes(middle)? { low = middle + 1 } else { high = middle }
    }
    Ok(low)
}
