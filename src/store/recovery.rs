//! Opens the log: finds where it ends, cuts what a crash tore, and rebuilds what is derived.
//!
//! What the checkpoint vouches for is trusted; what lies behind was perhaps only in the page cache, so it is read with
//! all checksums from [`Checkpoint::recover_from`] on. The first bytes that are no whole unit are the log's end:
//!
//! 1. An end below the durable mark is damage, not a tear, and is refused unless the operator accepts the loss.
//!    A damaged record above that mark is cut like a tear. That whole records follow it proves nothing: of the sectors of
//!    one write any may survive a power cut, and a record does not say which sync it was waiting for.
//! 2. What lies behind the end is removed on the device, so that a later crash cannot bring it back.
//! 3. What was read behind the durable mark is written once more and synced. A sync that failed before the crash may
//!    have left pages that the kernel calls clean and the device never got; a reader would take them for kept.
//!
//! Each step leaves the directory such that doing all of them again gives the same.

use std::{
    io,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Config, Entry, OpenError, Report,
    checkpoint::{Checkpoint, CheckpointFile, Found},
    commit_log::CommitLog,
    consume_queue::{Loaded, Pushed, Queues},
    deletion,
    derived::{self, Start},
    disk::Disk,
    index_file::{Index, Shape},
    indexing::Indexing,
    record::Defect,
    report::Torn,
    scan::{End, Scanned, scan},
    segment::Segment,
    segments::{LoadError, Segments},
};
use crate::types::{Clock, PhysicalOffset, Timestamp, queue_code};

/// Bytes read or written at once.
const CHUNK: u64 = 1 << 20;
/// Bytes behind the log's end that are looked at to tell how much is cut. For the report only.
const LOOK_MAX: u64 = 4 << 20;

/// What recovery needs and what it has found so far.
pub(super) struct Recovery<'a> {
    pub(super) config: &'a Config,
    pub(super) disk: &'a Arc<dyn Disk>,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) checkpoint: Found,
    /// There is no abort marker.
    pub(super) is_clean: bool,
}

/// An opened log.
pub(super) struct Recovered {
    pub(super) log: CommitLog,
    pub(super) queues: Queues,
    pub(super) index: Option<Indexing>,
    pub(super) checkpoint: Checkpoint,
    pub(super) report: Report,
}

impl Recovery<'_> {
    pub(super) fn run(self) -> Result<Recovered, OpenError> {
        let started = self.clock.now();
        let dir = self.dir();
        self.disk.create_dir_all(&dir).map_err(|source| OpenError::Directory { path: dir.clone(), source })?;
        let segments = self.load()?;
        let known = self.known()?;
        let is_new = segments.first().is_none();
        let start = self.start(&segments, known)?;
        let (queues, loaded) = self.queues(&segments, known)?;
        let from = start.min(loaded.dispatch_from).max(segments.first().map_or(start, |s| s.base()));

        let mut stored_at = known.map_or(Timestamp::ZERO, |c| c.stored_at);
        let mut entries = 0;
        let apaches = known.map_or(PhysicalOffset::MAX, |c| c.apache_until);
        let end = scan(&segments, from..PhysicalOffset::MAX, apaches, |record| {
            // The last one's, which after a clock was set back is not the latest.
            stored_at = record.frame.stored_at;
            entries += self.dispatch(&queues, record);
            ControlFlow::Continue(())
        })
        .map_err(self.io("reading"))?;
        self.refuse_damage(&segments, known, &end)?;

        let (segment, torn) = self.settle(&segments, known, is_new, &end)?;
        // What is there before our first checkpoint, Apache wrote.
        let apache_until = known.map_or(end.at, |c| c.apache_until);
        let (index, indexed) = self.index(&segments, from.min(end.at), apache_until)?;
        let checkpoint = Checkpoint {
            durable: end.at,
            recover_from: from.min(end.at).min(indexed),
            apache_until,
            stored_at,
            derived_at: known.map_or(Timestamp::ZERO, |c| c.derived_at),
            time: known.and_then(|c| c.time),
            is_closed: false,
        };
        if known.is_some_and(|known| end.at < known.recover_from) {
            queues.truncate_to(end.at).map_err(unopened)?;
        }
        let report = Report {
            is_clean: self.is_clean,
            segments: segments.all().len(),
            from,
            end: end.at,
            records: end.records,
            rebuilt_entries: entries,
            remade: loaded.remade,
            torn,
            elapsed: self.clock.now().remaining(started),
        };
        let log = CommitLog::new(self.config, self.clock.clone(), segments, end.at, segment, stored_at);
        Ok(Recovered { log, queues, index, checkpoint, report })
    }

    fn dir(&self) -> PathBuf {
        self.config.commit_log.clone().unwrap_or_else(|| self.config.root.join("commitlog"))
    }

    fn io(&self, doing: &'static str) -> impl FnOnce(io::Error) -> OpenError {
        let path = self.dir();
        move |source| OpenError::Io { doing, path, source }
    }

    fn damaged(&self, why: String) -> OpenError {
        OpenError::Damaged { path: self.dir(), why }
    }

    fn load(&self) -> Result<Segments, OpenError> {
        let segments = Segments::new(self.disk.clone(), self.dir(), self.config.segment_bytes);
        match segments.load() {
            Ok(()) => Ok(segments),
            Err(LoadError::Io(source)) => Err(self.io("opening the files in")(source)),
            Err(LoadError::Length { path, len }) => Err(OpenError::Damaged {
                path,
                why: format!(
                    "it has {len} bytes, mappedFileSizeCommitLog says {}; set mappedFileSizeCommitLog to the length of \
                     the other files there, or restore this one",
                    self.config.segment_bytes
                ),
            }),
            Err(hole @ LoadError::Hole { .. }) => {
                Err(self.damaged(format!("{hole}; restore the files that are missing in between")))
            }
        }
    }

    fn known(&self) -> Result<Option<Checkpoint>, OpenError> {
        match self.checkpoint {
            Found::Nothing => Ok(None),
            Found::Ours(checkpoint) => Ok(Some(checkpoint)),
            Found::Broken => Err(OpenError::Damaged {
                path: CheckpointFile::path(&self.config.root),
                why: "both copies in it are damaged; restore it, or remove it to have the whole log read and what \
                      follows the first damage in it given up"
                    .into(),
            }),
        }
    }

    /// Where to read from, with a file there.
    fn start(&self, segments: &Segments, known: Option<Checkpoint>) -> Result<PhysicalOffset, OpenError> {
        let wanted = known.map_or(PhysicalOffset::ZERO, |c| c.recover_from);
        let Some(first) = segments.first() else {
            let durable = known.map_or(PhysicalOffset::ZERO, |c| c.durable);
            if durable > PhysicalOffset::ZERO && !self.config.accept_damage {
                return Err(self.damaged(format!(
                    "it has no files, and the log was durable up to {durable}; restore them, or open what is left with \
                     --set recoverDamagedLog=true"
                )));
            }
            // Positions are never used again.
            let base = PhysicalOffset::new(durable.get().next_multiple_of(self.config.segment_bytes));
            return segments.make(base).map(|s| s.base()).map_err(self.io("making a file in"));
        };
        let from = wanted.max(first.base());
        if segments.find(from).is_some() || segments.all().last().is_some_and(|last| last.end() == from) {
            return Ok(from);
        }
        if !self.config.accept_damage {
            return Err(self.damaged(format!(
                "its files end before {from}, where the last run stood; restore the missing ones, or open what is left \
                 with --set recoverDamagedLog=true"
            )));
        }
        Ok(first.base())
    }

    /// The consume queues, as far as the files have them.
    fn queues(&self, segments: &Segments, known: Option<Checkpoint>) -> Result<(Queues, Loaded), OpenError> {
        let start = Start {
            recover_from: known.map_or(PhysicalOffset::ZERO, |c| c.recover_from),
            log_min: segments.first().map_or(PhysicalOffset::ZERO, |s| s.base()),
            clean: self.is_clean,
        };
        Queues::open(self.disk.clone(), &self.config.root, self.config.consume_queue_entries, start).map_err(unopened)
    }

    /// The index, and how far its files have the log. It reads the rest when the store is open.
    fn index(
        &self,
        segments: &Segments,
        recover_from: PhysicalOffset,
        apache_until: PhysicalOffset,
    ) -> Result<(Option<Indexing>, PhysicalOffset), OpenError> {
        if !self.config.index {
            return Ok((None, PhysicalOffset::MAX));
        }
        let log_min = segments.first().map_or(PhysicalOffset::ZERO, |s| s.base());
        let start = Start { recover_from, log_min, clean: self.is_clean };
        let shape = Shape { slots: self.config.index_slots, entries: self.config.index_entries };
        let (index, loaded) = Index::open(self.disk.clone(), &self.config.root, shape, start).map_err(unopened)?;
        let from = loaded.insert_from.max(log_min);
        Ok((Some(Indexing::new(index, from, apache_until)), from))
    }

    /// Adds a record's queue entry, or forgets the topic that it says was deleted; how many entries were missing.
    fn dispatch(&self, queues: &Queues, Scanned { at, frame, bytes }: &Scanned) -> u64 {
        // Such a record is whole, and of a topic that this version cannot name: it stays in the log.
        let (Ok(topic), Ok(offset)) = (frame.topic_name(bytes), frame.queue_offset()) else { return 0 };
        if !frame.is_queued() {
            return 0;
        }
        if let Some(deleted) = deletion::read(&topic, frame.body_of(bytes)) {
            queues.of(&deleted).iter().for_each(|queue| queue.forget_before(*at));
        }
        let tags_code = queue_code(&topic, &frame.properties_of(bytes));
        let entry = Entry { offset, physical: *at, size: bytes.len() as u32, tags_code };
        u64::from(queues.queue(&topic, frame.queue).push(&entry) != Pushed::Known)
    }

    /// A log that ends where bytes were once durable is not torn but damaged.
    fn refuse_damage(&self, segments: &Segments, known: Option<Checkpoint>, end: &End) -> Result<(), OpenError> {
        if self.config.accept_damage {
            return Ok(());
        }
        let why = end.defect.as_ref().map_or_else(|| "the files end".to_owned(), Defect::to_string);
        match known {
            Some(known) if end.at < known.durable => Err(self.damaged(format!(
                "the record at {} is damaged ({why}), and the log was durable up to {}; restore {}, or open what lies \
                 before it with --set recoverDamagedLog=true",
                end.at,
                known.durable,
                Segment::path(&self.dir(), segments.find(end.at).map_or(end.at, |s| s.base())).display(),
            ))),
            // Apache makes the next file before it needs it, empty; a record in it means that this one was full.
            None if self.is_clean && self.goes_on_behind(segments, end)? => Err(self.damaged(format!(
                "the record at {} is damaged ({why}), and the log goes on in the next file; restore this one, or open \
                 what lies before the damage with --set recoverDamagedLog=true",
                end.at
            ))),
            _ => Ok(()),
        }
    }

    fn goes_on_behind(&self, segments: &Segments, end: &End) -> Result<bool, OpenError> {
        let Some(next) = segments.find(end.at).and_then(|s| segments.find(s.end())) else { return Ok(false) };
        let mut is_there = false;
        let found = scan(segments, next.base()..PhysicalOffset::MAX, PhysicalOffset::MAX, |_| {
            is_there = true;
            ControlFlow::Break(())
        });
        found.map(|_| is_there).map_err(self.io("reading"))
    }

    /// Makes the device agree with what was found: nothing behind the end, everything before it.
    fn settle(
        &self,
        segments: &Segments,
        known: Option<Checkpoint>,
        is_new: bool,
        end: &End,
    ) -> Result<(Arc<Segment>, Option<Torn>), OpenError> {
        let segment = match segments.find(end.at) {
            Some(segment) => segment,
            None => segments.make(end.at).map_err(self.io("making a file in"))?,
        };
        let torn_bytes = garbage(&segment, end.at).map_err(self.io("reading"))?;
        let is_as_left = self.is_clean && torn_bytes == 0 && known.is_some_and(|c| c.is_closed && c.durable == end.at);
        if !is_as_left && !is_new {
            // In this order: a crash in the middle of cutting may leave the file short, which only the last one may be.
            segments.remove_from(segment.end()).map_err(self.io("removing files behind the end of"))?;
            segment.cut(end.at).map_err(self.io("cutting the end of"))?;
            let vouched = match known {
                Some(known) => known.durable,
                None if self.is_clean => end.at,
                None => segment.base(),
            };
            let vouched = vouched.max(segments.first().map_or(vouched, |first| first.base()));
            rewrite(segments, vouched, end.at).map_err(self.io("syncing"))?;
        }
        let torn = (torn_bytes > 0).then(|| Torn {
            at: end.at,
            bytes: torn_bytes,
            why: end.defect.as_ref().map_or_else(String::new, Defect::to_string),
        });
        Ok((segments.ends_in(&segment, end.at), torn))
    }
}

/// Bytes behind the end up to the last one that is not zero, as far as is looked.
fn garbage(segment: &Segment, end: PhysicalOffset) -> io::Result<u64> {
    let mut bytes = vec![0; end.until(segment.end()).min(LOOK_MAX) as usize];
    segment.read_into(end, &mut bytes)?;
    const ZEROS: [u8; 4096] = [0; 4096];
    let block = bytes.chunks(ZEROS.len()).rposition(|block| block != &ZEROS[..block.len()]);
    let last = block.and_then(|i| {
        let at = i * ZEROS.len();
        bytes[at..].iter().take(ZEROS.len()).rposition(|b| *b != 0).map(|last| at + last)
    });
    Ok(last.map_or(0, |last| last as u64 + 1))
}

/// Writes a stretch of the log once more, and syncs it.
fn rewrite(segments: &Segments, from: PhysicalOffset, to: PhysicalOffset) -> io::Result<()> {
    let mut at = from;
    while at < to {
        let segment = segments.find(at).ok_or(io::ErrorKind::NotFound)?;
        let stop = to.min(segment.end());
        while at < stop {
            let mut chunk = vec![0; at.until(stop).min(CHUNK) as usize];
            segment.read_into(at, &mut chunk)?;
            segment.rewrite(at, &chunk)?;
            at = at.plus(chunk.len() as u64);
        }
        segment.sync()?;
    }
    Ok(())
}

/// A derived file that cannot be opened or mended.
fn unopened(error: derived::Error) -> OpenError {
    let path = error.path().map_or_else(PathBuf::new, Path::to_owned);
    OpenError::Io { doing: "opening", path, source: io::Error::other(error) }
}

#[cfg(test)]
mod tests;
