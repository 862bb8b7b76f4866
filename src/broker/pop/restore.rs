//! How consumption state comes back at a start: the last snapshot, and the settle records since.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use crate::{
    broker::{
        metadata::SETTLE_TOPIC,
        offsets::{self, Offsets},
    },
    store::{Queue, ReadError, Store},
    types::{Clock, Deadline, GroupName, PhysicalOffset, QueueId, QueueOffset, Timestamp, TopicName},
};

use super::{
    Book, Broker, OpenError, Pop,
    faults::{Fault, planted},
    settle_record::{Entry, LaneAt, Lease, Record, Reset, Retry, What},
    snapshot::{self, Snapshot},
    subscription::Which,
};

/// Entries of the settle queue that are read at once.
const REPLAY_CHUNK: usize = 1024;
/// What stands for a file of offsets that is not there.
const NO_OFFSETS: &[u8] = b"{}";
/// How many attempts a group has is not known yet; [`Broker::limit_restored`] finds out.
const ANY_ATTEMPTS: u32 = u32::MAX;

type Books = BTreeMap<QueueId, Book>;

/// Books on their way back.
pub struct Restored {
    books: BTreeMap<(TopicName, GroupName), Books>,
    /// How long members had not been used, of which nothing later is known.
    idle: HashMap<(TopicName, GroupName), Duration>,
    last_run: u64,
    /// The snapshot named messages that the log has lost (a power cut with asynchronous flush).
    pub lost_its_tail: bool,
    now: Deadline,
    wall: Timestamp,
}

impl Restored {
    pub fn load(store: &Store, clock: &dyn Clock, settle: &Queue) -> Result<Self, OpenError> {
        let mut restored = Self {
            books: BTreeMap::new(),
            idle: HashMap::new(),
            last_run: 0,
            lost_its_tail: false,
            now: clock.now(),
            wall: clock.wall(),
        };
        let from = match load_state(store, snapshot::FILE)? {
            Some(bytes) => {
                let snapshot = Snapshot::decode(&bytes).map_err(|why| {
                    let cure =
                        "put back a copy of it; without it, remove it: what was acknowledged long ago comes again";
                    OpenError::State { file: snapshot::FILE.into(), why: format!("{why}; {cure}") }
                })?;
                restored.apply_snapshot(snapshot, store)
            }
            None => {
                restored.apply_offsets(store)?;
                store.hold_from(PhysicalOffset::ZERO);
                QueueOffset::ZERO
            }
        };
        restored.lost_its_tail |= from > settle.max();
        restored.replay(store, settle, from)?;
        restored.forget_what_is_lost(store);
        Ok(restored)
    }

    /// A number for this run that no earlier one had, even if the last one could not be saved.
    pub fn next_run(&self, wall: Timestamp) -> u64 {
        self.last_run.saturating_add(1).max(u64::try_from(wall.as_millis()).unwrap_or(0))
    }

    fn apply_snapshot(&mut self, snapshot: Snapshot, store: &Store) -> QueueOffset {
        store.hold_from(snapshot.held_from);
        self.last_run = snapshot.run;
        for subscription in snapshot.subscriptions {
            let mut books = Books::new();
            for state in subscription.books {
                let mut book = Book::starting_at(state.commit).with_void(state.void);
                state.done.into_iter().for_each(|range| book.done(range));
                state.retries.iter().for_each(|retry| self.apply_retry(&mut book, retry));
                state.lanes.into_iter().for_each(|(id, at)| book.set_cursor(id, at));
                state.leases.iter().for_each(|lease| self.apply_lease(&mut book, lease));
                books.insert(state.queue, book);
            }
            let names = (subscription.topic, subscription.group);
            if !subscription.idle.is_zero() {
                self.idle.insert(names.clone(), subscription.idle);
            }
            self.books.insert(names, books);
        }
        snapshot.settled
    }

    /// A store that Apache's broker wrote: its consumers go on where they were, and so does its own work, which is on
    /// record elsewhere too.
    fn apply_offsets(&mut self, store: &Store) -> Result<(), OpenError> {
        let bytes = load_state(store, offsets::FILE)?.unwrap_or_else(|| NO_OFFSETS.to_vec());
        let offsets: Offsets =
            offsets::decode(&bytes).map_err(|why| OpenError::State { file: offsets::FILE.into(), why })?;
        for (names, queues) in offsets {
            let books = queues.into_iter().map(|(queue, commit)| (queue, Book::starting_at(commit))).collect();
            self.books.insert(names, books);
        }
        self.books.extend(super::apache::own_books(store, &bytes)?);
        Ok(())
    }

    fn replay(&mut self, store: &Store, settle: &Queue, from: QueueOffset) -> Result<(), OpenError> {
        let mut next = from;
        loop {
            let entries = settle.entries(next, REPLAY_CHUNK)?;
            let Some(last) = entries.last() else { return Ok(()) };
            next = last.offset.plus(1);
            for entry in entries {
                let message = store.message(entry.physical, entry.size)?;
                let settled = Entry::decode(&message.body).map_err(|why| OpenError::State {
                    file: format!("the settle record at offset {} of {}", entry.offset, SETTLE_TOPIC),
                    why: format!("{why}; it was written by a newer FerroMQ, start that one"),
                })?;
                self.apply(settled);
            }
        }
    }

    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::ForgetTopic(topic) => self.books.retain(|(t, _), _| *t != topic),
            Entry::ForgetGroup(group) => self.forget(Which::OfGroup(&group)),
            Entry::ForgetMembers(group) => self.forget(Which::MembersOf(&group)),
            Entry::ForgetSubscription(topic, group) => drop(self.books.remove(&(topic, group))),
            Entry::Record(Record { topic, group, what }) => {
                if group.is_member() {
                    self.idle.remove(&(topic.clone(), group.clone()));
                }
                let mut books = std::mem::take(self.books.entry((topic.clone(), group.clone())).or_default());
                self.apply_record(&mut books, what);
                self.books.insert((topic, group), books);
            }
        }
    }

    fn forget(&mut self, which: Which<'_>) {
        self.books.retain(|(_, group), _| !which.has(group));
    }

    fn apply_record(&mut self, books: &mut Books, what: What) {
        match what {
            What::Done(queues) => {
                for (queue, ranges) in queues {
                    let book = known_or_new(books, queue);
                    ranges.into_iter().for_each(|range| book.done(range));
                }
            }
            What::Retry(retries) => {
                for retry in retries {
                    self.apply_retry(known_or_new(books, retry.queue), &retry);
                }
            }
            What::Leased(leases) => {
                for lease in leases {
                    self.last_run = self.last_run.max(lease.issue.run);
                    self.apply_lease(known_or_new(books, lease.queue), &lease);
                }
            }
            What::Start(starts) => {
                for (queue, at) in starts {
                    books.entry(queue).or_insert_with(|| Book::starting_at(at));
                }
            }
            What::Lanes(lanes) => {
                for LaneAt { queue, id, to } in lanes.into_iter().filter(|_| !planted(Fault::LanesNotReplayed)) {
                    let book = known_or_new(books, queue);
                    book.set_cursor(id, to);
                    book.forget_attempts(QueueOffset::new(to.get().saturating_sub(1)));
                }
            }
            What::Rewind { lanes, void } => {
                for LaneAt { queue, id, to } in lanes {
                    known_or_new(books, queue).set_cursor(id, to);
                }
                let void = void.into_iter().filter(|_| !planted(Fault::AttemptsOutliveRewind));
                void.for_each(|(queue, offset)| known_or_new(books, queue).forget_attempts(offset));
            }
            What::Reset(resets) => {
                for Reset { queue, to, void } in resets {
                    self.last_run = self.last_run.max(void.run);
                    known_or_new(books, queue).reset(to, void, PhysicalOffset::ZERO);
                }
            }
        }
    }

    fn apply_retry(&self, book: &mut Book, retry: &Retry) {
        book.retry(retry.offset, retry.attempt, self.then(retry.visible_at, retry.delay), ANY_ATTEMPTS);
    }

    fn apply_lease(&self, book: &mut Book, lease: &Lease) {
        let until = self.then(lease.ends_at, lease.left);
        book.hold_over(lease.offset, lease.attempt, until, lease.issue);
    }

    /// When a wait is over that ends then by the wall clock, and was so long when that was written.
    fn then(&self, at: Timestamp, length: Duration) -> Deadline {
        self.now.plus(at.since(self.wall).min(length.saturating_add(Duration::from_millis(1))))
    }

    fn forget_what_is_lost(&mut self, store: &Store) {
        for ((topic, _), books) in &mut self.books {
            for (queue, book) in books {
                let queue = store.queue(topic, *queue);
                self.lost_its_tail |= book.truncate(queue.max());
                book.done(QueueOffset::ZERO..queue.min());
            }
        }
    }

    /// Puts the books into the table.
    pub fn install(mut self, pop: &Pop, store: &Store) {
        for (names, books) in self.books {
            let idle = self.idle.remove(&names).unwrap_or_default();
            let books = books.into_iter().collect();
            pop.subscriptions.restore(store, &pop.polls, (&names.0, &names.1), books, (idle, self.now));
        }
    }
}

impl Broker {
    /// Applies the groups' limits to what was restored, and puts the books into the schedule.
    pub(in crate::broker) fn limit_restored(&self) {
        let now = self.inner.clock.now();
        for subscription in self.inner.pop.subscriptions.list(None) {
            if subscription.owner.group.is_system() {
                continue;
            }
            let max_attempts = self.max_attempts(&subscription.owner.group);
            for book in subscription.books().iter() {
                let mut pages = book.open();
                pages.book.limit_attempts(max_attempts);
                self.inner.pop.schedule.bring_forward(book, &mut pages, now);
            }
        }
    }
}

/// A queue without a start on record begins at its first message.
fn known_or_new(books: &mut Books, queue: QueueId) -> &mut Book {
    books.entry(queue).or_insert_with(|| Book::starting_at(QueueOffset::ZERO))
}

/// A state file; `None` when there is none.
pub(super) fn load_state(store: &Store, file: &str) -> Result<Option<Vec<u8>>, OpenError> {
    let failed = |error| {
        let at = PhysicalOffset::ZERO;
        OpenError::Read(ReadError::Io { at, error: Arc::new(error) })
    };
    store.load_state(file).map_err(failed)
}
