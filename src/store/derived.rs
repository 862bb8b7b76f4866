//! What the files derived from the log share: exactness after a crash without scanning them.
//!
//! Consume queues and index files are written in rounds. Before the first byte of a round goes to a file, the file and how far it
//! is intact are listed, durably, in a [`Doubts`] file; the round ends when everything written is synced. After a crash
//! the listed files are cut to where they were intact, and all others are known to be whole. So no guess is made from
//! bytes that a torn sector may have left behind, and start-up reads nothing of what is not in doubt.
//!
//! A round begins at a position of the log: what lies below has been persisted by the rounds before. The checkpoint's
//! `recover_from` follows a round only when it has ended, so a list that begins below `recover_from` is over.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::types::PhysicalOffset;

use super::disk::{Disk, File, Open};

/// Why derived files could not be opened, written or synced.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is lost: what was not written stays in memory and the next flush tries again. A full disk ends here.
    #[error("{doing} {path}: {source}")]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    /// The kernel may have dropped the bytes: the store must stop.
    #[error("syncing {path}: {source}")]
    Sync { path: PathBuf, source: io::Error },
    /// An earlier sync failed; nothing was tried.
    #[error("a sync of a derived file has failed before")]
    Failed,
}

impl Error {
    pub(super) fn reading(path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::doing("reading", path)
    }

    pub(super) fn writing(path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::doing("writing", path)
    }

    pub(super) fn removing(path: &Path) -> impl FnOnce(io::Error) -> Self {
        Self::doing("removing", path)
    }

    fn doing(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }

    pub(super) fn syncing(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Sync { path: path.to_owned(), source }
    }

    /// The file or directory.
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Io { path, .. } | Self::Sync { path, .. } => Some(path),
            Self::Failed => None,
        }
    }

    /// True when there is no room on the disk, and nothing else is wrong.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if super::segment::is_full(source))
    }

    /// True when the store must stop.
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Self::Io { .. })
    }
}

/// What derived files are opened against.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The checkpoint's: entries of records at or behind it are dropped, the caller dispatches these again.
    pub recover_from: PhysicalOffset,
    /// The log's first position.
    pub log_min: PhysicalOffset,
    /// Whether the store was shut down cleanly.
    pub clean: bool,
}

/// `FQDT`, first in every section of a doubts file.
const MAGIC: u32 = 0x4651_4454;
/// Bytes of a section before its marks: magic, bytes of the marks, round, position.
const HEAD: usize = 4 + 4 + 8 + 8;
/// Bytes of the checksum (CRC-32 over everything before it in the section).
const TAIL: usize = 4;
/// Bytes of the longest list that is read back: some 1,800,000 queues written in one round.
const LEN_MAX: u64 = 256 << 20;
/// Bytes of a name in the list at most.
const NAME_LEN_MAX: usize = 255;

/// A file in doubt (`<topic>/<queue>`, or an index file's name) and the entries of it that are intact.
pub(super) type Mark = (String, u64);

/// What a crash left in doubt.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct InDoubt {
    /// Files by name, and how many entries of each are intact.
    pub marks: HashMap<String, u64>,
    /// Whether there is a list at all: a store of Apache's has none.
    pub listed: bool,
}

/// The list of files that the running round writes to.
///
/// Layout, big-endian: sections `magic u32, length of the marks u32, round u64, position u64, marks, crc u32`; a mark
/// is `length of the name u8, name, entries u64`. A list ends at the first section that is broken or of another round.
pub(super) struct Doubts {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Option<Arc<dyn File>>,
    /// Of the next section.
    round: u64,
    /// Where the next section goes; 0 when no round is open.
    at: u64,
    /// What this round has listed.
    listed: HashMap<String, u64>,
}

impl Doubts {
    /// Reads what a crash left, and keeps its round open, so that what recovery cuts can be added to it.
    pub fn load(disk: Arc<dyn Disk>, path: PathBuf, recover_from: PhysicalOffset) -> io::Result<(Self, InDoubt)> {
        let mut doubts = Self { disk, path, file: None, round: 1, at: 0, listed: HashMap::new() };
        if !doubts.disk.exists(&doubts.path)? {
            return Ok((doubts, InDoubt::default()));
        }
        let file = doubts.disk.open(&doubts.path, Open::Write)?;
        let len = file.len()?;
        if len > LEN_MAX {
            let why = format!("{}: {len} bytes are no list of ours", doubts.path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let mut bytes = vec![0; len as usize];
        file.read_into(0, &mut bytes)?;
        let since = doubts.take_in(&bytes);
        if since.is_none() && len > 0 {
            // Counting starts over, so nothing of a round with the same number may be left behind the head.
            file.set_len(0)?;
            file.sync()?;
        }
        doubts.file = Some(file);
        if since.is_none_or(|since| since < recover_from) {
            doubts.close();
        }
        let in_doubt = InDoubt { marks: doubts.listed.clone(), listed: true };
        Ok((doubts, in_doubt))
    }

    /// Takes in the sections of one round; returns where it began.
    fn take_in(&mut self, bytes: &[u8]) -> Option<PhysicalOffset> {
        let (mut since, mut rest) = (None, bytes);
        while let Some((section, behind)) = Section::parse(rest) {
            if since.is_some() && section.round != self.round {
                break;
            }
            since.get_or_insert(section.since);
            self.round = section.round;
            self.note(section.marks);
            rest = behind;
            self.at = (bytes.len() - rest.len()) as u64;
        }
        since
    }

    fn note(&mut self, marks: Vec<Mark>) {
        for (name, intact) in marks {
            let mark = self.listed.entry(name).or_insert(intact);
            *mark = intact.min(*mark);
        }
    }

    /// Lists files that are about to be written, unless the round has listed them already with as little or less that
    /// is intact. `since` is where the round begins; of a round, the first one counts.
    pub fn list(&mut self, since: PhysicalOffset, marks: impl IntoIterator<Item = Mark>) -> Result<(), Error> {
        let new: Vec<Mark> =
            marks.into_iter().filter(|(name, intact)| self.listed.get(name).is_none_or(|l| intact < l)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let section = Section { round: self.round, since, marks: new };
        let bytes = section.encode();
        let write = |doubts: &mut Self| -> io::Result<Arc<dyn File>> {
            let file = doubts.opened()?;
            file.write(doubts.at, &bytes)?;
            Ok(file)
        };
        let file = write(self).map_err(Error::writing(&self.path))?;
        file.sync().map_err(Error::syncing(&self.path))?;
        self.at += bytes.len() as u64;
        self.note(section.marks);
        Ok(())
    }

    fn opened(&mut self) -> io::Result<Arc<dyn File>> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let file = match self.disk.open(&self.path, Open::Create) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => self.disk.open(&self.path, Open::Write)?,
            other => other?,
        };
        self.disk.sync_dir(self.path.parent().unwrap_or(Path::new("/")))?;
        self.file = Some(file.clone());
        Ok(file)
    }

    /// Ends the round: everything listed is synced.
    pub fn close(&mut self) {
        if self.at > 0 {
            self.at = 0;
            self.round += 1;
            self.listed.clear();
        }
    }
}

struct Section {
    round: u64,
    since: PhysicalOffset,
    marks: Vec<Mark>,
}

impl Section {
    fn encode(&self) -> Vec<u8> {
        let mut marks = Vec::new();
        for (name, entries) in &self.marks {
            debug_assert!(name.len() <= NAME_LEN_MAX);
            marks.push(name.len() as u8);
            marks.extend_from_slice(name.as_bytes());
            marks.extend_from_slice(&entries.to_be_bytes());
        }
        let mut out = Vec::with_capacity(HEAD + marks.len() + TAIL);
        out.extend_from_slice(&MAGIC.to_be_bytes());
        out.extend_from_slice(&(marks.len() as u32).to_be_bytes());
        out.extend_from_slice(&self.round.to_be_bytes());
        out.extend_from_slice(&self.since.get().to_be_bytes());
        out.extend_from_slice(&marks);
        out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
        out
    }

    /// The section that `bytes` start with, and what follows it; `None` when there is none or it is broken.
    fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (round, rest) = rest.split_first_chunk::<8>()?;
        let (since, rest) = rest.split_first_chunk::<8>()?;
        let (mut list, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        let (crc, rest) = rest.split_first_chunk::<4>()?;
        let checked = &bytes[..HEAD + list.len()];
        if u32::from_be_bytes(*magic) != MAGIC || u32::from_be_bytes(*crc) != crc32fast::hash(checked) {
            return None;
        }
        let mut marks = Vec::new();
        while let Some((name_len, behind)) = list.split_first() {
            let (name, behind) = behind.split_at_checked(usize::from(*name_len))?;
            let (entries, behind) = behind.split_first_chunk::<8>()?;
            marks.push((std::str::from_utf8(name).ok()?.to_owned(), u64::from_be_bytes(*entries)));
            list = behind;
        }
        let since = PhysicalOffset::new(u64::from_be_bytes(*since));
        Some((Self { round: u64::from_be_bytes(*round), since, marks }, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sim::{CrashChoice, SimDisk};

    fn at(n: u64) -> PhysicalOffset {
        PhysicalOffset::new(n)
    }

    fn load(disk: &SimDisk, recover_from: u64) -> (Doubts, Vec<Mark>) {
        let (doubts, found) = Doubts::load(Arc::new(disk.clone()), "/d".into(), at(recover_from)).unwrap();
        let mut marks: Vec<Mark> = found.marks.into_iter().collect();
        marks.sort();
        (doubts, marks)
    }

    fn mark(name: &str, entries: u64) -> Mark {
        (name.to_owned(), entries)
    }

    #[test]
    fn an_open_round_is_in_doubt_and_an_ended_one_is_not() {
        let disk = SimDisk::new();
        let (mut doubts, none) = load(&disk, 0);
        assert!(none.is_empty());
        doubts.list(at(100), [mark("a", 1)]).unwrap();
        doubts.list(at(100), [mark("a", 7), mark("b", 20)]).unwrap();
        doubts.list(at(100), [mark("b", 2)]).unwrap();
        disk.crash_with(CrashChoice::DropAll);
        assert_eq!(load(&disk, 100).1, [mark("a", 1), mark("b", 2)]);
        assert_eq!(load(&disk, 50).1, [mark("a", 1), mark("b", 2)]);
        assert!(load(&disk, 101).1.is_empty(), "the checkpoint went on, so the round had ended");
    }

    #[test]
    fn a_new_round_replaces_the_old_one_and_its_leftovers() {
        let disk = SimDisk::new();
        let (mut doubts, _) = load(&disk, 0);
        doubts.list(at(0), [mark("a-long-name", 1)]).unwrap();
        doubts.list(at(0), [mark("leftover", 2)]).unwrap();
        doubts.close();
        doubts.list(at(0), [mark("other-names", 3)]).unwrap();
        assert_eq!(load(&disk, 0).1, [mark("other-names", 3)]);
    }

    #[test]
    fn rounds_go_on_counting_after_a_restart() {
        let disk = SimDisk::new();
        let (mut doubts, _) = load(&disk, 0);
        doubts.list(at(0), [mark("a-long-name", 1)]).unwrap();
        doubts.list(at(0), [mark("leftover", 2)]).unwrap();
        let (mut doubts, _) = load(&disk, 1);
        doubts.list(at(1), [mark("other-names", 3)]).unwrap();
        assert_eq!(load(&disk, 1).1, [mark("other-names", 3)]);
    }

    #[test]
    fn recovery_adds_to_the_round_that_it_found() {
        let disk = SimDisk::new();
        let (mut doubts, _) = load(&disk, 0);
        doubts.list(at(5), [mark("a", 9)]).unwrap();
        let (mut doubts, _) = load(&disk, 3);
        doubts.list(at(3), [mark("a", 7), mark("b", 1)]).unwrap();
        assert_eq!(load(&disk, 4).1, [mark("a", 7), mark("b", 1)]);
    }

    #[test]
    fn a_list_torn_by_the_power_failure_says_nothing_or_all() {
        for seed in 0..300 {
            let disk = SimDisk::new();
            let (mut doubts, _) = load(&disk, 0);
            doubts.list(at(0), [mark("old", 1)]).unwrap();
            doubts.close();
            let marks: Vec<Mark> = (0..100).map(|i| mark(&format!("new-{i:03}"), i)).collect();
            // The write goes, the sync does not: nothing may have been written to the files yet.
            disk.fail_after(1);
            assert!(doubts.list(at(9), marks.clone()).is_err());
            disk.crash(seed);
            let found = load(&disk, 0).1;
            assert!(found.is_empty() || found == marks || found == [mark("old", 1)], "{found:?}");
        }
    }
}
