//! Opening the consume queues: finding the end of each, cutting what a crash left in doubt.

use std::{cell::RefCell, io, path::Path, sync::Arc};

use super::{
    QueueState, Queues,
    files::{Files, Owner, UNIT, Unit, partition_point},
};
use crate::{
    store::{
        derived::{Error, InDoubt, Start},
        disk::{File, Open},
    },
    types::{PhysicalOffset, QueueId, TopicName},
};

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Loaded {
    pub queues: usize,
    /// From where the caller has to push the log's records: `recover_from`, or the log's beginning when entries before
    /// it are missing. In that case its checkpoint must say so, durably, before the first flush.
    pub dispatch_from: PhysicalOffset,
    /// Queues that were in doubt or had entries dropped.
    pub cut: usize,
    /// Queues whose files were damaged and are made again from the log, each with the reason.
    pub remade: Vec<String>,
}

/// How the end of a queue that is not in doubt is found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Everything behind it is zero.
    Zeros,
    /// After a crash of Apache's broker: entry by entry, as that broker does.
    Scan,
}

/// Entries that are read at once: 4080 bytes.
const STRETCH: u64 = 204;
/// Files at the end of a queue that [`End::Scan`] reads.
const SCAN_FILES_MAX: usize = 3;

enum Outcome {
    Whole(Found),
    Damaged(String),
}

/// What one queue's files hold. Nothing has been changed yet.
struct Found {
    /// All files that there are, those that go included.
    numbers: Vec<u64>,
    /// `None`: there is no queue, and the files go.
    bounds: Option<Bounds>,
    /// The offset from which on the files have to be zeroed.
    cut: Option<u64>,
}

struct Bounds {
    min: u64,
    max: u64,
    first_file: u64,
    first_physical: Option<u64>,
    last_physical: Option<u64>,
}

impl Queues {
    pub(super) fn load(&self, start: Start, doubt: &InDoubt) -> Result<Loaded, Error> {
        let files = &self.shared.files;
        let end = if start.clean || doubt.listed { End::Zeros } else { End::Scan };
        let mut loaded = Loaded { dispatch_from: start.recover_from, ..Loaded::default() };
        let mut cuts = Vec::new();
        for (topic, queue) in find(files).map_err(Error::reading(&files.root))? {
            let state = QueueState::new(topic, queue, self.shared.clone());
            let reader = Reader { files, owner: state.owner(), start, end };
            let dir = files.dir(state.topic(), queue);
            let mark = doubt.marks.get(&state.name()).copied();
            match reader.load(mark).map_err(Error::reading(&dir))? {
                Outcome::Whole(Found { numbers, bounds, cut }) => {
                    cuts.extend(cut.map(|cut| (state.clone(), numbers, cut)));
                    let Some(b) = bounds else { continue };
                    state.loaded(b.min, b.max, b.first_file, b.first_physical, b.last_physical);
                    loaded.queues += 1;
                    self.table.write().entry(state.topic().clone()).or_default().insert(queue, state);
                }
                Outcome::Damaged(why) => {
                    loaded.remade.push(format!("{}: {why}", state.name()));
                    state.files_are_void();
                    self.table.write().entry(state.topic().clone()).or_default().insert(queue, state);
                }
            }
        }
        loaded.cut = cuts.len();
        self.cut(&mut self.io.lock(), start.recover_from, &cuts)?;
        if loaded.queues == 0 || !loaded.remade.is_empty() {
            loaded.dispatch_from = start.log_min.min(start.recover_from);
        }
        Ok(loaded)
    }
}

/// Every directory that is a queue's.
fn find(files: &Files) -> io::Result<Vec<(TopicName, QueueId)>> {
    let list = |path: &Path| match files.disk.list(path) {
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => Ok(Vec::new()),
        other => other,
    };
    let mut found = Vec::new();
    for name in list(&files.root)? {
        let Ok(topic) = TopicName::parse_any(&name) else { continue };
        for id in list(&files.topic_dir(&topic))? {
            if let Ok(number) = id.parse::<u32>()
                && number.to_string() == id
            {
                found.push((topic.clone(), QueueId(number)));
            }
        }
    }
    Ok(found)
}

struct Reader<'a> {
    files: &'a Files,
    owner: Owner<'a>,
    start: Start,
    end: End,
}

impl Reader<'_> {
    fn load(&self, mark: Option<u64>) -> io::Result<Outcome> {
        let numbers = match self.files.numbers(self.owner.topic, self.owner.queue)? {
            Ok(numbers) => numbers,
            Err(name) => {
                let len = self.files.file_len();
                return Ok(Outcome::Damaged(format!("{name} does not fit to mappedFileSizeConsumeQueue={len}")));
            }
        };
        let opened = match self.open(&numbers, mark)? {
            Ok(opened) => opened,
            Err(why) => return Ok(Outcome::Damaged(why)),
        };
        if opened.files.is_empty() {
            let cut = (!numbers.is_empty()).then_some(mark.unwrap_or(0));
            return Ok(Outcome::Whole(Found { numbers, bounds: None, cut }));
        }
        let tail = match mark {
            Some(mark) if mark > opened.end() => {
                return Ok(Outcome::Damaged(format!("its files do not reach offset {mark}")));
            }
            Some(mark) => mark,
            None => opened.tail(self.end)?,
        };
        let bounds = opened.bounds(tail, self.start)?;
        // Behind an end found by scanning there may be anything.
        let cut = (mark.is_some() || bounds.max < tail || self.end == End::Scan).then_some(bounds.max);
        Ok(Outcome::Whole(Found { numbers, bounds: Some(bounds), cut }))
    }

    /// Opens the files that are not wholly in doubt; checks that they follow each other and have the right length.
    fn open(&self, numbers: &[u64], mark: Option<u64>) -> io::Result<Result<Opened, String>> {
        let (per_file, want) = (self.files.per_file, self.files.file_len());
        let mut opened = Opened { per_file, first: 0, files: Vec::new(), seen: RefCell::default() };
        for (i, number) in numbers.iter().enumerate() {
            let begin = number * per_file;
            if mark.is_some_and(|mark| begin > mark || (begin == mark && (i > 0 || mark == 0))) {
                break;
            }
            let path = self.files.path(self.owner, *number);
            let file = self.files.disk.open(&path, Open::Write)?;
            let len = file.len()?;
            if len == 0 && i + 1 == numbers.len() && self.end == End::Scan {
                break;
            }
            // A cut that met a power failure may have left the file short, behind what is intact.
            let least = mark.filter(|mark| *mark < begin + per_file).map_or(want, |mark| (mark - begin) * UNIT);
            if len > want || len < least {
                return Ok(Err(format!("{} has {len} bytes, mappedFileSizeConsumeQueue is {want}", path.display())));
            }
            if i == 0 {
                opened.first = *number;
            } else if *number != numbers[i - 1] + 1 {
                return Ok(Err(format!("there is no file before {}", path.display())));
            }
            opened.files.push((file, len / UNIT));
        }
        Ok(Ok(opened))
    }
}

/// The files of one queue while it is looked through.
struct Opened {
    per_file: u64,
    /// Number of the first.
    first: u64,
    /// With the entries that each is long enough for; one in doubt may be cut short.
    files: Vec<(Arc<dyn File>, u64)>,
    /// The stretch of entries that was read last: its first offset and their bytes.
    seen: RefCell<(u64, Vec<u8>)>,
}

impl Opened {
    fn end(&self) -> u64 {
        (self.first + self.files.len() as u64) * self.per_file
    }

    fn unit(&self, offset: u64) -> io::Result<Unit> {
        let mut seen = self.seen.borrow_mut();
        let inside = offset % self.per_file;
        let first = offset - inside % STRETCH;
        if seen.0 != first || seen.1.is_empty() {
            let (file, entries) = &self.files[(offset / self.per_file - self.first) as usize];
            let n = STRETCH.min(entries.saturating_sub(first % self.per_file));
            let mut bytes = std::mem::take(&mut seen.1);
            bytes.resize((n * UNIT) as usize, 0);
            file.read_into(first % self.per_file * UNIT, &mut bytes)?;
            *seen = (first, bytes);
        }
        let unit = seen.1.as_chunks().0.get((offset - first) as usize);
        unit.map(Unit::decode).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// One behind the last entry.
    fn tail(&self, end: End) -> io::Result<u64> {
        match end {
            End::Zeros => {
                let (begin, end) = (self.end() - self.per_file, self.end());
                // Most queues of many are short.
                let near = begin + STRETCH.min(self.per_file);
                let is_short = !self.unit(near - 1)?.is_written();
                let range = if is_short { begin..near - 1 } else { near..end };
                partition_point(range, |offset| Ok(self.unit(offset)?.is_written()))
            }
            End::Scan => self.scan(),
        }
    }

    /// The first entry near the end that is not written, or whose record lies before its predecessor's.
    fn scan(&self) -> io::Result<u64> {
        let skip = self.files.len().saturating_sub(SCAN_FILES_MAX);
        let mut offset = self.first * self.per_file + skip as u64 * self.per_file;
        let mut last = 0;
        let mut bytes = vec![0; (self.per_file.min(4096) * UNIT) as usize];
        for (file, _) in &self.files[skip..] {
            let mut at = 0;
            while at < self.per_file * UNIT {
                let n = bytes.len().min((self.per_file * UNIT - at) as usize);
                file.read_into(at, &mut bytes[..n])?;
                for unit in bytes[..n].as_chunks().0.iter().map(Unit::decode) {
                    if !unit.is_written() || unit.physical < last {
                        return Ok(offset);
                    }
                    last = unit.physical;
                    offset += 1;
                }
                at += n as u64;
            }
        }
        Ok(offset)
    }

    /// What of the entries before `tail` counts.
    fn bounds(&self, tail: u64, start: Start) -> io::Result<Bounds> {
        let (recover_from, log_min) = (start.recover_from.get(), start.log_min.get());
        let begin = self.first * self.per_file;
        let max = if tail == begin || self.unit(tail - 1)?.physical < recover_from {
            tail
        } else {
            partition_point(begin..tail, |offset| Ok::<bool, io::Error>(self.unit(offset)?.physical < recover_from))?
        };
        let is_past = |unit: &Unit| unit.physical < log_min || (unit.is_filler() && unit.physical == 0);
        let min = if max == begin || !is_past(&self.unit(begin)?) {
            begin
        } else {
            partition_point(begin..max, |offset| Ok::<bool, io::Error>(is_past(&self.unit(offset)?)))?
        };
        let first_physical = if min < max { Some(self.unit(min)?.physical) } else { None };
        let last = if max > begin { Some(self.unit(max - 1)?) } else { None };
        let last_physical = last.filter(|unit| unit.physical > 0 || !unit.is_filler()).map(|unit| unit.physical);
        Ok(Bounds { min, max, first_file: self.first, first_physical, last_physical })
    }
}
