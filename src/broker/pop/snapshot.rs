//! The state of all books in one small file, so that a start replays only what was settled since.
//!
//! The file stands for all settle records before `settled`, and may already have the effect of later ones: replaying
//! those onto it changes nothing (see [`settle_record`](super::settle_record)). It is written only once everything that
//! it may speak of is on the device: it must not say that a message is done when the record of that, or the copy in the
//! dead-letter topic, can still be lost.
//!
//! Layout, numbers and texts as [`codec`](super::codec) spells them: `FMQPOP` and a version byte; run; settled; held from
//! (physical offset); count of subscriptions, for each: topic, group, of a member how long it was not used (ms), count of books, for each: queue, commit offset, done
//! ranges (count, then distance and length each), count of retries, for each: offset, next attempt, visible at (wall
//! clock, ms), delay (ms), and then, since version 2, run and nonce of the last receipt that a reset made void, and since
//! version 3 count of lite topics, for each: id, offset from which on it is not done, and since version 4 count of
//! leases that are on record, for each: offset, attempt, run and nonce of its receipt, end (wall clock, ms), length (ms);
//! at the end the CRC-32 of all that, 4 bytes, little-endian.

use std::{io, ops::Range, sync::atomic::Ordering, time::Duration};

use crate::{
    broker::offsets::{self, Offsets},
    store::Store,
    types::{Clock, Deadline, GroupName, LiteId, PhysicalOffset, QueueId, QueueOffset, Timestamp, TopicName},
};

use super::{
    Book, Broker, Pop, Subscription,
    book::{Exception, Issue, Logged},
    codec::{Malformed, Reader, Result, Writer},
    faults::{Fault, planted},
    settle_record::{Lease, Retry},
};

/// Name of the state file.
pub const FILE: &str = "ferromqPop.snapshot";
const MAGIC: &[u8; 6] = b"FMQPOP";
/// Of the file's layout.
const VERSION: u8 = 4;
const CRC_LEN: usize = 4;
/// Bytes up to which a snapshot is written whenever something changed.
const SMALL: usize = 1 << 20;
/// A larger one is written once so many of its bytes come to one record that a start would have to replay: both cost
/// about the same then. So a start replays at most a 64th of the snapshot's bytes in records, or one interval's.
const BYTES_PER_RECORD: u64 = 64;
/// It is also written once the log has grown by so many times its size, or it is so old: retention deletes nothing that
/// came after it.
const LOG_BYTES_PER_BYTE: u64 = 16;
const AGE_MAX: Duration = Duration::from_secs(600);

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The run that wrote it.
    pub run: u64,
    /// Offset in the settle queue from which on records must be replayed.
    pub settled: QueueOffset,
    /// Nothing before this in the log is needed to rebuild the books.
    pub held_from: PhysicalOffset,
    pub subscriptions: Vec<SubscriptionState>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionState {
    pub topic: TopicName,
    pub group: GroupName,
    /// Of a member: for how long it had not been used while the server ran.
    pub idle: Duration,
    pub books: Vec<BookState>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookState {
    pub queue: QueueId,
    pub commit: QueueOffset,
    pub done: Vec<Range<QueueOffset>>,
    pub retries: Vec<Retry>,
    pub void: Issue,
    /// Where the group is in lite topics.
    pub lanes: Vec<(LiteId, QueueOffset)>,
    /// Deliveries that a crash does not end.
    pub leases: Vec<Lease>,
}

/// What the last snapshot of this run said.
#[derive(Default)]
pub struct Last {
    settled: QueueOffset,
    /// Its size.
    pub bytes: usize,
    /// The log's end then, and when that was.
    end: PhysicalOffset,
    at: Deadline,
    /// How often one was written.
    count: u64,
}

impl Snapshot {
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer(MAGIC.to_vec());
        w.byte(VERSION);
        w.number(self.run);
        w.number(self.settled.get());
        w.number(self.held_from.get());
        w.number(self.subscriptions.len() as u64);
        for subscription in &self.subscriptions {
            w.text(subscription.topic.as_str());
            w.text(subscription.group.as_str());
            if subscription.group.is_member() {
                w.number(u64::try_from(subscription.idle.as_millis()).unwrap_or(u64::MAX));
            }
            w.number(subscription.books.len() as u64);
            subscription.books.iter().for_each(|book| book.encode(&mut w));
        }
        let crc = crc32fast::hash(&w.0);
        w.0.extend_from_slice(&crc.to_le_bytes());
        w.0
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let Some((content, crc)) = bytes.split_last_chunk::<CRC_LEN>() else {
            return Err(Malformed { what: "the end" });
        };
        if crc32fast::hash(content) != u32::from_le_bytes(*crc) {
            return Err(Malformed { what: "the checksum" });
        }
        let Some(content) = content.strip_prefix(MAGIC) else { return Err(Malformed { what: "the beginning" }) };
        let mut r = Reader(content);
        let version = r.byte()?;
        if !(1..=VERSION).contains(&version) {
            return Err(Malformed { what: "the version" });
        }
        let (run, settled) = (r.number()?, r.offset()?);
        let held_from = PhysicalOffset::new(r.number()?);
        let mut subscriptions = Vec::new();
        for _ in 0..r.count()? {
            let (topic, group) = (r.topic()?, r.group()?);
            let idle = Duration::from_millis(if group.is_member() { r.number()? } else { 0 });
            let books = (0..r.count()?).map(|_| BookState::decode(&mut r, version)).collect::<Result<_>>()?;
            subscriptions.push(SubscriptionState { topic, group, idle, books });
        }
        r.finish()?;
        Ok(Self { run, settled, held_from, subscriptions })
    }
}

impl Last {
    fn is_due(&self, settled: QueueOffset, end: PhysicalOffset, now: Deadline) -> bool {
        let bytes = self.bytes as u64;
        self.bytes <= SMALL
            || self.settled.until(settled) >= bytes / BYTES_PER_RECORD
            || self.end.until(end) >= bytes.saturating_mul(LOG_BYTES_PER_BYTE)
            || now >= self.at.plus(AGE_MAX)
    }
}

impl BookState {
    /// What must outlive the run. Deliveries that are not on record need not: what they were follows from what is written
    /// about them.
    fn of(queue: QueueId, book: &Book, run: u64, now: Deadline, wall: Timestamp) -> Self {
        // One more millisecond for the wall clock's whole ones, unless it is over already.
        let ends_at = |left: Duration| wall.plus(left).plus(Duration::from_millis(u64::from(!left.is_zero())));
        let (mut retries, mut leases) = (Vec::new(), Vec::new());
        for (offset, exception) in book.exceptions() {
            let (attempt, due) = match *exception {
                Exception::InFlight { attempt, logged: Logged::Nothing, .. } | Exception::Moving { attempt } => {
                    (attempt, now)
                }
                Exception::InFlight { attempt, until, logged: Logged::Lease | Logged::Before, .. } => {
                    let left = until.remaining(now);
                    let lease = |issue| Lease { queue, offset, attempt, issue, ends_at: ends_at(left), left };
                    leases.extend(book.issue(offset, run).map(lease));
                    continue;
                }
                Exception::InFlight { attempt, until, logged: Logged::Change, .. } => {
                    (attempt.saturating_add(1), until)
                }
                Exception::Waiting { due, attempt, .. } | Exception::Doomed { due, attempt, .. } => (attempt, due),
            };
            let delay = due.remaining(now);
            // A first attempt at once is what every message that is not written about gets.
            if attempt > 1 || !delay.is_zero() {
                retries.push(Retry { queue, offset, attempt, visible_at: ends_at(delay), delay });
            }
        }
        let commit = match planted(Fault::CommitAheadOfAcks) {
            true => book.exceptions().last().map_or(book.commit(), |(offset, _)| offset.plus(1)),
            false => book.commit(),
        };
        let (done, lanes) = (book.done_ranges().collect(), book.cursors().collect());
        Self { queue, commit, done, retries, void: book.void(), lanes, leases }
    }

    fn encode(&self, w: &mut Writer) {
        w.number(u64::from(self.queue.0));
        w.number(self.commit.get());
        w.ranges(&self.done);
        w.number(self.retries.len() as u64);
        for retry in &self.retries {
            w.number(retry.offset.get());
            w.number(u64::from(retry.attempt));
            w.time(retry.visible_at);
            w.length(retry.delay);
        }
        w.number(self.void.run);
        w.number(u64::from(self.void.nonce));
        w.number(self.lanes.len() as u64);
        for (id, at) in &self.lanes {
            w.number(id.number());
            w.number(at.get());
        }
        w.number(self.leases.len() as u64);
        self.leases.iter().for_each(|lease| lease.encode(w));
    }

    fn decode(r: &mut Reader<'_>, version: u8) -> Result<Self> {
        let (queue, commit, done) = (r.queue()?, r.offset()?, r.ranges()?);
        let count = r.count()?;
        let mut retries = Vec::with_capacity(count);
        for _ in 0..count {
            let (offset, attempt) = (r.offset()?, r.small()?);
            retries.push(Retry { queue, offset, attempt, visible_at: r.time()?, delay: r.length()? });
        }
        let void = if version < 2 { Issue::default() } else { Issue { run: r.number()?, nonce: r.small()? } };
        let count = if version < 3 { 0 } else { r.count()? };
        let lane = |_| Ok((LiteId::from_number(r.number()?), r.offset()?));
        let lanes = (0..count).map(lane).collect::<Result<_>>()?;
        let count = if version < 4 { 0 } else { r.count()? };
        let leases = (0..count).map(|_| Lease::decode(queue, r)).collect::<Result<_>>()?;
        Ok(Self { queue, commit, done, retries, void, lanes, leases })
    }
}

impl Pop {
    /// Writes the state of all books when enough has changed, and lets the store delete what it does not need any more.
    pub(super) fn snapshot(&self, store: &Store, clock: &dyn Clock) -> io::Result<()> {
        let mut last = self.snapshots.lock();
        // Read before the records are counted: what is not counted lies behind it.
        let end = store.watermarks().dispatched;
        let held_from = end.min(self.own_needs());
        let settled = self.log.queue.max();
        // The last one of this run has every record that there is.
        if last.count > 0 && settled == last.settled {
            store.hold_from(held_from);
        }
        let now = clock.now();
        if !last.is_due(settled, end, now) || !self.changed.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let written = self.write(store, clock, settled, held_from, &mut last);
        match &written {
            Ok(()) => {
                (last.end, last.at) = (end, now);
                store.hold_from(held_from);
            }
            Err(_) => self.changed.store(true, Ordering::Release),
        }
        written
    }

    fn write(
        &self,
        store: &Store,
        clock: &dyn Clock,
        settled: QueueOffset,
        held_from: PhysicalOffset,
        last: &mut Last,
    ) -> io::Result<()> {
        // Every record before `settled` was appended under the lock of the books it speaks of, so it is in them by now.
        let subscriptions = self.collect(clock);
        let snapshot = Snapshot { run: self.run.id, settled, held_from, subscriptions };
        store.durable_blocking(store.end()).map_err(io::Error::other)?;
        let bytes = snapshot.encode();
        store.save_state(FILE, &bytes)?;
        (last.settled, last.bytes) = (settled, bytes.len());
        last.count += 1;
        store.save_state(offsets::FILE, &offsets::encode(&snapshot.offsets(), last.count, clock.wall()))
    }

    fn collect(&self, clock: &dyn Clock) -> Vec<SubscriptionState> {
        let mut subscriptions = self.subscriptions.list(None);
        subscriptions.sort_by(|a, b| (&a.owner.topic, &a.owner.group).cmp(&(&b.owner.topic, &b.owner.group)));
        let state = |subscription: std::sync::Arc<Subscription>| {
            let books = subscription.books();
            let state = |book: &std::sync::Arc<super::QueueBook>| {
                let mut state = BookState::of(book.queue_id, &book.open().book, self.run.id, clock.now(), clock.wall());
                state.lanes.sort_unstable();
                state
            };
            let owner = &subscription.owner;
            let (topic, group) = (owner.topic.clone(), owner.group.clone());
            let idle = if group.is_member() { subscription.used.idle(clock.now()) } else { Duration::ZERO };
            SubscriptionState { topic, group, idle, books: books.iter().map(state).collect() }
        };
        subscriptions.into_iter().map(state).collect()
    }
}

impl Snapshot {
    /// The commit offsets, for the file that Apache's broker reads, whose broadcasting clients keep theirs.
    fn offsets(&self) -> Offsets {
        let names = |s: &SubscriptionState| (s.topic.clone(), s.group.clone());
        let commits = |s: &SubscriptionState| s.books.iter().map(|book| (book.queue, book.commit)).collect();
        self.subscriptions.iter().filter(|s| !s.group.is_member()).map(|s| (names(s), commits(s))).collect()
    }
}

impl Broker {
    /// Writes the snapshot of all books and `consumerOffset.json` when something changed; blocking, for a thread of its own.
    pub fn snapshot(&self) -> io::Result<()> {
        self.inner.pop.snapshot(&self.inner.store, self.inner.clock.as_ref())
    }
}
