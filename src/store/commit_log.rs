//! Records over segments: gives every append its place under one short lock.

use std::{
    io,
    net::SocketAddr,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::{
    AppendError, Config, FlushPolicy, Poisoned, Purpose, Ticket,
    ahead::Ahead,
    background::Rounds,
    dispatch::Dispatcher,
    fresh_keys::FreshKeys,
    marks::{Intact, Marks},
    record::{self, FILLER_LEN},
    room::Room,
    segment::{Segment, is_full},
    segments::Segments,
    unit::{Dispatch, Unit},
};
use crate::meter::Histogram;
use crate::types::{Clock, Deadline, PhysicalOffset, Timestamp};

/// Bytes at the end of the region with blocks that only the server's own records may use once the disk takes no more:
/// some thousand acknowledgements. Half of them are out of reach for [`Purpose::Deferrable`].
const RESERVE: u64 = 1 << 20;

/// Bounds of the time that a sync takes, microseconds.
const SYNC_TIMES: &[u64] =
    &[50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000];

/// How long store times stand still at most while the clock shows less than the newest of them. A clock that was set
/// back for good is believed after that, and a new segment begins: within a segment store times never go back.
pub(super) const BEHIND_MAX: Duration = Duration::from_secs(3600);

/// Capacity of a run's buffer that is kept for the next batch.
const BUFFER_KEPT_MAX: usize = 8 << 20;

/// The log. `tail` is taken before any other lock of the store but those of the broker, and never across a sync.
pub(super) struct CommitLog {
    pub(super) segments: Segments,
    pub(super) marks: Marks,
    pub(super) room: Room,
    pub(super) ahead: Ahead,
    pub(super) dispatcher: Dispatcher,
    pub(super) fresh_keys: FreshKeys,
    pub(super) rounds: Rounds,
    pub(super) tail: Mutex<Tail>,
    /// There is something to commit, or the log closes.
    pub(super) work: Condvar,
    /// Held over a sync of what the appenders wrote.
    pub(super) flushing: Mutex<()>,
    /// Bytes taken out of the tail that are being committed.
    pub(super) committing: AtomicUsize,
    pub(super) policy: FlushPolicy,
    pub(super) clock: Arc<dyn Clock>,
    /// How long each sync took, in microseconds.
    pub(super) syncs: Histogram,
    store_host: SocketAddr,
    pending_max: usize,
    reserve: u64,
}

/// Where the log ends, and what has a place and is not written yet.
pub(super) struct Tail {
    pub(super) end: PhysicalOffset,
    pub(super) segment: Arc<Segment>,
    /// Of the last record.
    pub(super) stored_at: Timestamp,
    /// Since when the clock shows less than that.
    behind_since: Option<Deadline>,
    /// With SYNC_FLUSH.
    pub(super) batch: Batch,
    /// The thread that commits or flushes waits for work.
    pub(super) is_idle: bool,
    pub(super) is_closed: bool,
}

/// Appends that are committed together.
#[derive(Default)]
pub(super) struct Batch {
    /// One for each segment.
    pub(super) runs: Vec<Run>,
    pub(super) dispatches: Vec<Dispatch>,
    pub(super) bytes: usize,
    /// The log's end behind it.
    pub(super) end: PhysicalOffset,
    /// An empty buffer for the next run.
    spare: Vec<u8>,
}

/// Consecutive bytes of one segment.
pub(super) struct Run {
    pub(super) segment: Arc<Segment>,
    pub(super) at: PhysicalOffset,
    pub(super) bytes: Vec<u8>,
}

impl CommitLog {
    /// The log as recovery left it: `segment` is where it ends.
    pub(super) fn new(
        config: &Config,
        clock: Arc<dyn Clock>,
        segments: Segments,
        end: PhysicalOffset,
        segment: Arc<Segment>,
        stored_at: Timestamp,
    ) -> Self {
        let reserve = RESERVE.min(segments.segment_bytes() / 4);
        let ahead = Ahead::new(config.flush, segments.segment_bytes());
        Self {
            segments,
            marks: Marks::at(end),
            room: Room::new(config.retention.disk_warning_ratio),
            ahead,
            dispatcher: Dispatcher::default(),
            fresh_keys: FreshKeys::new(end),
            rounds: Rounds::default(),
            tail: Mutex::new(Tail {
                end,
                segment,
                stored_at,
                behind_since: None,
                batch: Batch::default(),
                is_idle: false,
                is_closed: false,
            }),
            work: Condvar::new(),
            flushing: Mutex::new(()),
            committing: AtomicUsize::new(0),
            policy: config.flush,
            clock,
            syncs: Histogram::new(SYNC_TIMES),
            store_host: config.store_host,
            pending_max: config.pending_bytes_max,
            reserve,
        }
    }

    pub(super) fn store_host(&self) -> SocketAddr {
        self.store_host
    }

    pub(super) fn reserve(&self) -> u64 {
        self.reserve
    }

    /// Gives a unit its place, or refuses it and changes nothing.
    pub(super) fn append(&self, mut unit: Unit, purpose: Purpose) -> Result<Ticket, AppendError> {
        self.room.admit(purpose)?;
        let mut tail = self.tail.lock();
        let _intact = Intact(&self.marks);
        self.admit(&tail, unit.len())?;
        let (stored_at, is_set_back) = self.store_time(&mut tail);
        let at = self.claim(&mut tail, unit.len(), purpose, is_set_back)?;
        let end = at.plus(unit.len());
        let appended = match self.policy {
            FlushPolicy::Sync => {
                let Tail { batch, segment, .. } = &mut *tail;
                let appended = unit.place(at, stored_at, |dispatch| batch.dispatches.push(dispatch));
                batch.push(segment, at, unit.bytes());
                appended
            }
            FlushPolicy::Async { .. } => {
                let mut dispatches = Vec::with_capacity(unit.count());
                let appended = unit.place(at, stored_at, |dispatch| dispatches.push(dispatch));
                self.put(&mut tail, at, unit.bytes())?;
                self.marks.written.advance(end);
                self.dispatcher.show(&dispatches);
                self.placed(&mut tail, at..end, stored_at, &unit);
                drop(tail);
                self.marks.dispatched.advance(end);
                self.dispatcher.announce(&dispatches);
                return Ok(Ticket { appended, end });
            }
        };
        self.placed(&mut tail, at..end, stored_at, &unit);
        Ok(Ticket { appended, end })
    }

    /// The store time of what is appended now, and whether it goes back because the clock was set back for good.
    fn store_time(&self, tail: &mut Tail) -> (Timestamp, bool) {
        let wall = self.clock.wall();
        if wall >= tail.stored_at {
            tail.behind_since = None;
            return (wall, false);
        }
        let now = self.clock.now();
        let since = *tail.behind_since.get_or_insert(now);
        if now.remaining(since) < BEHIND_MAX { (tail.stored_at, false) } else { (wall, true) }
    }

    /// Takes down that a unit has its place, and wakes whoever has work by it.
    fn placed(&self, tail: &mut Tail, range: Range<PhysicalOffset>, stored_at: Timestamp, unit: &Unit) {
        (tail.end, tail.stored_at) = (range.end, stored_at);
        if self.fresh_keys.add(range, stored_at, unit.keys()) {
            self.rounds.ask_index();
        }
        self.ahead.look(tail);
        if std::mem::take(&mut tail.is_idle) {
            self.work.notify_one();
        }
    }

    /// Whether the log takes `len` more bytes, as far as memory and its own state go.
    fn admit(&self, tail: &Tail, len: u64) -> Result<(), AppendError> {
        self.marks.alive()?;
        if tail.is_closed {
            return Err(AppendError::Closed);
        }
        let max = self.segments.segment_bytes() - FILLER_LEN;
        if len > max {
            return Err(AppendError::TooLarge { size: len, max });
        }
        let pending = tail.batch.bytes + self.committing.load(Ordering::Relaxed);
        if pending > 0 && pending as u64 + len > self.pending_max as u64 {
            return Err(AppendError::Busy { pending, max: self.pending_max });
        }
        Ok(())
    }

    /// The position for `len` bytes in one segment, with blocks under them; moves on to the next segment if need be, or if
    /// this one has records and a `fresh` one is asked for.
    fn claim(&self, tail: &mut Tail, len: u64, purpose: Purpose, fresh: bool) -> Result<PhysicalOffset, AppendError> {
        let at = tail.segment.local(tail.end);
        let remaining = tail.segment.len() - at;
        if len + FILLER_LEN <= remaining && (!fresh || at == 0) {
            self.back(&tail.segment, at + len, purpose)?;
            return Ok(tail.end);
        }
        // Both the filler and what comes behind it have their blocks before either is written.
        self.back(&tail.segment, at + FILLER_LEN, Purpose::Internal)?;
        let next = self.make(tail.segment.end())?;
        self.back(&next, len, purpose)?;
        let filler = record::filler(remaining);
        self.put(tail, tail.end, &filler)?;
        tail.end = next.base();
        tail.segment = next;
        Ok(tail.end)
    }

    /// Makes sure that the first `to` bytes of a segment have blocks, and what is kept behind them for more urgent records
    /// has too.
    fn back(&self, segment: &Segment, to: u64, purpose: Purpose) -> Result<(), AppendError> {
        let kept = match purpose {
            Purpose::User => self.reserve,
            Purpose::Deferrable => self.reserve / 2,
            Purpose::Internal => 0,
        };
        let wanted = to + kept;
        if wanted > segment.len() {
            let next = self.make(segment.end())?;
            self.take(&next, kept)?;
        }
        self.take(segment, wanted.min(segment.len()))
    }

    fn take(&self, segment: &Segment, to: u64) -> Result<(), AppendError> {
        if segment.backed() >= to {
            return Ok(());
        }
        self.ahead.came_too_late();
        segment.back(to).map_err(|e| self.no_room("taking room for the log", &e))
    }

    fn make(&self, base: PhysicalOffset) -> Result<Arc<Segment>, AppendError> {
        self.segments.make(base).map_err(|e| self.no_room("making the next file of the log", &e))
    }

    /// No blocks: a full disk is waited out, anything else ends the store.
    fn no_room(&self, doing: &str, error: &io::Error) -> AppendError {
        if is_full(error) {
            self.room.ran_out();
            return AppendError::Full { free: 0 };
        }
        AppendError::Poisoned(self.marks.poison(doing, error))
    }

    /// Puts bytes behind the tail: into the batch, or to the kernel.
    fn put(&self, tail: &mut Tail, at: PhysicalOffset, bytes: &[u8]) -> Result<(), Poisoned> {
        match self.policy {
            FlushPolicy::Sync => {
                tail.batch.push(&tail.segment, at, bytes);
                Ok(())
            }
            FlushPolicy::Async { .. } => {
                // On a full disk a page may ask for blocks beyond those that the record has.
                let is_mapped = !self.room.is_out();
                let segment = &tail.segment;
                let written = if is_mapped { segment.write_mapped(at, bytes) } else { segment.write(at, bytes) };
                written.map_err(|e| self.marks.poison("writing to the log", &e))
            }
        }
    }
}

impl Batch {
    fn push(&mut self, segment: &Arc<Segment>, at: PhysicalOffset, bytes: &[u8]) {
        match self.runs.last_mut() {
            Some(run) if Arc::ptr_eq(&run.segment, segment) => run.bytes.extend_from_slice(bytes),
            _ => {
                let mut buffer = std::mem::take(&mut self.spare);
                buffer.extend_from_slice(bytes);
                self.runs.push(Run { segment: segment.clone(), at, bytes: buffer });
            }
        }
        self.bytes += bytes.len();
        self.end = at.plus(bytes.len() as u64);
    }

    /// Empties it; the largest buffer stays for the next run.
    pub(super) fn clear(&mut self) {
        self.bytes = 0;
        self.dispatches.clear();
        for mut run in self.runs.drain(..) {
            run.bytes.clear();
            if (self.spare.capacity()..=BUFFER_KEPT_MAX).contains(&run.bytes.capacity()) {
                self.spare = run.bytes;
            }
        }
    }
}
