//! The table of books: a group on a topic is a [`Subscription`] with one [`QueueBook`] for each queue.
//!
//! Locks, outermost first: the table; a subscription's list of books; books, in order of queue; the schedule; a line of
//! parked polls. A book's lock is held while its record is appended (which does not wait for the disk), so that the order
//! of records in the log is the order of what they say in the book.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::{
    store::{Queue, Store},
    types::{Deadline, GroupName, MessageType, QueueId, QueueOffset, TopicName},
};

use super::{
    Book, Line, LongPoll, Topic, What,
    members::{Members, Used},
};
use crate::broker::{lite::Parent, meters::GroupMeter};

/// Whose books they are, and who waits for them.
pub struct Owner {
    pub topic: TopicName,
    pub group: GroupName,
    pub line: Arc<Line>,
    /// Of a LITE topic: its lite topics.
    pub lite: OnceLock<Arc<Parent>>,
    /// What happens to the topic's messages in the group.
    pub meter: OnceLock<Arc<GroupMeter>>,
}

/// A group on a topic.
pub struct Subscription {
    pub owner: Arc<Owner>,
    /// By queue id.
    books: RwLock<Arc<[Arc<QueueBook>]>>,
    /// Where the next take begins, so that no queue is always the last.
    turn: AtomicUsize,
    /// The topic is a PRIORITY topic.
    by_priority: AtomicBool,
    /// Of a member: when it was last used.
    pub used: Used,
}

/// The book of one queue and its lock. About 450 bytes when idle.
pub struct QueueBook {
    /// Tells books apart in the schedule.
    pub id: u64,
    pub queue: Queue,
    pub queue_id: QueueId,
    pub owner: Arc<Owner>,
    pages: Mutex<Pages>,
}

/// What a book's lock guards.
pub struct Pages {
    pub book: Book,
    /// Where the book stands in the schedule.
    pub scheduled: Option<Deadline>,
    /// Its messages that count among those of all books.
    pub counted: usize,
    /// The topic or group was deleted: nothing may be recorded any more.
    pub forgotten: bool,
}

impl QueueBook {
    pub fn open(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock()
    }
}

impl Subscription {
    /// The books, by queue id.
    pub fn books(&self) -> Arc<[Arc<QueueBook>]> {
        Arc::clone(&self.books.read())
    }

    /// What [`Subscription::next_turn`] says next, unless another poll is faster.
    pub fn turn(&self, queues: usize) -> impl Iterator<Item = usize> + use<> {
        in_turn(self.turn.load(Ordering::Relaxed), queues, self.by_priority.load(Ordering::Relaxed))
    }

    /// The order in which to look at the queues: another one each time.
    pub fn next_turn(&self, queues: usize) -> impl Iterator<Item = usize> + use<> {
        in_turn(self.turn.fetch_add(1, Ordering::Relaxed), queues, self.by_priority.load(Ordering::Relaxed))
    }

    /// Takes note of the topic's type, which may have changed, and of its lite topics.
    pub fn serves(&self, topic: &Topic, lite: impl FnOnce() -> Option<Arc<Parent>>) {
        if topic.message_type == Some(MessageType::Lite)
            && self.owner.lite.get().is_none()
            && let Some(parent) = lite()
        {
            self.owner.lite.get_or_init(|| parent);
        }
        self.by_priority.store(topic.message_type == Some(MessageType::Priority), Ordering::Relaxed);
    }
}

/// Of the walks over a PRIORITY topic one in so many begins with another class than the highest, each class in its turn:
/// whatever comes in above, a class of `n` is the first in one walk of `n` times this.
const FAIR_TURN: usize = 8;

/// The order in which a walk looks at `queues` queues in its turn: another one first each time; of a PRIORITY topic the
/// highest class first as a rule, and then downwards.
pub fn in_turn(turn: usize, queues: usize, by_priority: bool) -> impl Iterator<Item = usize> {
    let fair = turn % FAIR_TURN == FAIR_TURN - 1;
    let first = match by_priority {
        true if fair => (turn / FAIR_TURN) % queues.max(1),
        true => queues.saturating_sub(1),
        false => turn % queues.max(1),
    };
    let nth = move |n: usize| match (by_priority, n) {
        (false, n) => (first + n) % queues,
        (true, 0) => first,
        // The others, without the one that was first.
        (true, n) if queues - n > first => queues - n,
        (true, n) => queues - 1 - n,
    };
    (0..queues).map(nth)
}

type Table = HashMap<TopicName, HashMap<GroupName, Arc<Subscription>>>;

/// All subscriptions.
pub struct Subscriptions {
    table: RwLock<Table>,
    ids: AtomicU64,
    /// Books in the table; changed under its lock.
    books: AtomicUsize,
    books_max: usize,
    /// Of broadcasting groups.
    members: Members,
}

/// Subscriptions that are forgotten together.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    OfTopic(&'a TopicName),
    /// With its members, if it is broadcasting.
    OfGroup(&'a GroupName),
    /// The clients of a broadcasting group, and not what the group did when it was none.
    MembersOf(&'a GroupName),
    One(&'a TopicName, &'a GroupName),
}

impl Which<'_> {
    /// Whether those of a group are among them, on any topic.
    pub fn has(&self, group: &GroupName) -> bool {
        match self {
            Self::OfGroup(wanted) => group == *wanted || group.is_member_of(wanted),
            Self::MembersOf(wanted) => group.is_member_of(wanted),
            Self::OfTopic(_) | Self::One(..) => false,
        }
    }
}

/// No book was made: the server has as many as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooManyBooks {
    #[error("the server keeps {books} books, one for each queue and group, the most is {max}; raise popBooksMax")]
    Books { books: usize, max: usize },
    /// All of them are there, so that none can make room.
    #[error("{clients} clients of broadcasting groups are there, the most is {max}; stop some, or raise {setting}")]
    Clients { clients: usize, max: usize, setting: &'static str },
}

/// Where a group begins on a queue that it has no book of, and whether that must be written down: a choice that passes
/// over stored messages would otherwise pass over more of them when it is made again after a crash.
///
/// Apache's rule: a topic that still has its first message, which is at `first`, is read from there, of an older one only
/// the newest message on. Retry and dead-letter topics, and queues that a topic got later, are read from their first
/// message.
///
/// A client of a broadcasting group begins at the end, as Apache's broadcasting consumers do, whatever the topic; `awaited`:
/// it is there since before the topic was made.
fn start(owner: &Owner, queue: &Queue, first: QueueOffset, (new, awaited): (bool, bool)) -> (QueueOffset, bool) {
    let (topic, min, max) = (&owner.topic, queue.min(), queue.max());
    if owner.group.is_member() && new {
        return (if awaited { min } else { max }, true);
    }
    if min <= first || topic.is_derived() || !new {
        return (min, false);
    }
    let newest = QueueOffset::new(max.get().saturating_sub(1)).max(min);
    // Written down on an empty queue too: chosen again after a crash, it would pass over what came meanwhile.
    (newest, true)
}

impl Subscriptions {
    pub fn new(books_max: usize, members: Members) -> Self {
        Self { table: RwLock::default(), ids: AtomicU64::new(0), books: AtomicUsize::new(0), books_max, members }
    }

    /// How many clients of broadcasting groups there are.
    pub fn members(&self) -> &Members {
        &self.members
    }

    pub fn get(&self, topic: &TopicName, group: &GroupName) -> Option<Arc<Subscription>> {
        self.table.read().get(topic)?.get(group).cloned()
    }

    /// The same for its consumers: a member is used as of now, and who has found it unused before does not forget it.
    pub fn get_for_use(&self, topic: &TopicName, group: &GroupName, now: Deadline) -> Option<Arc<Subscription>> {
        let table = self.table.read();
        let found = table.get(topic)?.get(group)?;
        if group.is_member() {
            found.used.now(now);
        }
        Some(Arc::clone(found))
    }

    /// The subscription with at least `queues` books. What is new about it begins as [`start`] says; `record` is handed
    /// what of that must be written down, before anybody else can see it. `first` says where a queue of the topic begins.
    /// Books of the server's own groups are always made, and do not count.
    pub fn get_or_make(
        &self,
        store: &Store,
        polls: &LongPoll,
        (topic, group): (&TopicName, &GroupName),
        queues: u32,
        first: impl Fn(QueueId) -> QueueOffset,
        record: impl FnOnce(What),
    ) -> Result<Arc<Subscription>, TooManyBooks> {
        if let Some(known) = self.get(topic, group)
            && known.books.read().len() >= queues as usize
        {
            return Ok(known);
        }
        let mut table = self.table.write();
        let known = table.get(topic).and_then(|groups| groups.get(group));
        let new_group = known.is_none();
        if !group.is_system() {
            let new = (queues as usize).saturating_sub(known.map_or(0, |known| known.books.read().len()));
            let (books, max) = (self.books.load(Ordering::Relaxed), self.books_max);
            if new > max.saturating_sub(books) {
                return Err(TooManyBooks::Books { books, max });
            }
            if new_group && group.is_member() {
                self.members.add(topic, group)?;
            }
            self.books.store(books + new, Ordering::Relaxed);
        }
        let awaited = new_group && group.is_member() && self.members.awaited.remove(topic, group);
        let subscription = known.cloned().unwrap_or_else(|| self.empty(polls, topic, group));
        let mut books = subscription.books().to_vec();
        let mut starts = Vec::new();
        for id in (books.len() as u32..queues).map(QueueId) {
            let queue = store.queue(topic, id);
            let (at, matters) = start(&subscription.owner, &queue, first(id), (new_group, awaited));
            if matters {
                starts.push((id, at));
            }
            books.push(self.book(&subscription.owner, queue, id, Book::starting_at(at)));
        }
        if !starts.is_empty() {
            record(What::Start(starts));
        }
        *subscription.books.write() = books.into();
        table.entry(topic.clone()).or_default().insert(group.clone(), Arc::clone(&subscription));
        Ok(subscription)
    }

    /// Puts back what was restored; queues without a book begin at their first message.
    pub fn restore(
        &self,
        store: &Store,
        polls: &LongPoll,
        names: (&TopicName, &GroupName),
        books: Vec<(QueueId, Book)>,
        (idle, now): (Duration, Deadline),
    ) {
        let (topic, group) = names;
        let subscription = self.empty(polls, topic, group);
        subscription.used.was_idle(idle, now);
        if group.is_member() {
            self.members.put_back(topic, group);
        }
        let count = books.iter().map(|(id, _)| id.0 as usize + 1).max().unwrap_or(0);
        let mut restored: Vec<Option<Book>> = (0..count).map(|_| None).collect();
        for (id, book) in books {
            restored[id.0 as usize] = Some(book);
        }
        let place = |(id, book): (usize, Option<Book>)| {
            let id = QueueId(id as u32);
            let queue = store.queue(topic, id);
            let book = book.unwrap_or_else(|| Book::starting_at(queue.min()));
            self.book(&subscription.owner, queue, id, book)
        };
        let books: Vec<_> = restored.into_iter().enumerate().map(place).collect();
        if !group.is_system() {
            self.books.fetch_add(books.len(), Ordering::Relaxed);
        }
        *subscription.books.write() = books.into();
        self.table.write().entry(topic.clone()).or_default().insert(group.clone(), subscription);
    }

    fn empty(&self, polls: &LongPoll, topic: &TopicName, group: &GroupName) -> Arc<Subscription> {
        let line = polls.line(topic, group);
        let (lite, meter) = (OnceLock::new(), OnceLock::new());
        let owner = Owner { topic: topic.clone(), group: group.clone(), line, lite, meter };
        let books = RwLock::new(Vec::new().into());
        Arc::new(Subscription {
            owner: Arc::new(owner),
            books,
            turn: AtomicUsize::new(0),
            by_priority: AtomicBool::new(false),
            used: Used::default(),
        })
    }

    fn book(&self, owner: &Arc<Owner>, queue: Queue, queue_id: QueueId, book: Book) -> Arc<QueueBook> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let pages = Mutex::new(Pages { book, scheduled: None, counted: 0, forgotten: false });
        Arc::new(QueueBook { id, queue, queue_id, owner: Arc::clone(owner), pages })
    }

    /// The clients of a broadcasting group, on one topic or on all.
    pub fn members_of(&self, topic: Option<&TopicName>, group: &GroupName) -> Vec<Arc<Subscription>> {
        let table = self.table.read();
        let is_one = |subscription: &&Arc<Subscription>| subscription.owner.group.is_member_of(group);
        match topic {
            Some(topic) => table.get(topic).into_iter().flat_map(HashMap::values).filter(is_one).cloned().collect(),
            None => table.values().flat_map(HashMap::values).filter(is_one).cloned().collect(),
        }
    }

    /// Every subscription, or those of a group.
    pub fn list(&self, group: Option<&GroupName>) -> Vec<Arc<Subscription>> {
        let table = self.table.read();
        match group {
            Some(group) => table.values().filter_map(|groups| groups.get(group)).cloned().collect(),
            None => table.values().flat_map(HashMap::values).cloned().collect(),
        }
    }

    /// Every subscription of a topic.
    pub fn of_topic(&self, topic: &TopicName) -> Vec<Arc<Subscription>> {
        self.table.read().get(topic).map(|groups| groups.values().cloned().collect()).unwrap_or_default()
    }

    /// Takes subscriptions out of the table, has `shut` close their books so that nothing more is recorded about them, and
    /// then `record` write that down, before new ones can be made.
    pub fn forget<R>(&self, which: Which<'_>, shut: impl Fn(&mut Pages), record: impl FnOnce() -> R) -> R {
        let mut table = self.table.write();
        self.take_out(&mut table, which, shut);
        record()
    }

    /// [`Subscriptions::forget`] of a member, unless it was used since it had been used so many `times`: then `None`.
    pub fn forget_unused<R>(
        &self,
        member: &Subscription,
        times: u64,
        shut: impl Fn(&mut Pages),
        record: impl FnOnce() -> R,
    ) -> Option<R> {
        let Owner { topic, group, .. } = &*member.owner;
        let mut table = self.table.write();
        let known = table.get(topic)?.get(group)?;
        if !std::ptr::eq(&**known, member) || known.used.times() != times {
            return None;
        }
        self.take_out(&mut table, Which::One(topic, group), shut);
        Some(record())
    }

    fn take_out(&self, table: &mut Table, which: Which<'_>, shut: impl Fn(&mut Pages)) {
        let gone: Vec<_> = match which {
            Which::OfTopic(topic) => table.remove(topic).into_iter().flat_map(HashMap::into_values).collect(),
            Which::One(topic, group) => {
                let groups = table.get_mut(topic);
                let gone = groups.and_then(|groups| groups.remove(group)).into_iter().collect();
                if table.get(topic).is_some_and(HashMap::is_empty) {
                    table.remove(topic);
                }
                gone
            }
            Which::OfGroup(_) | Which::MembersOf(_) => {
                let mut gone = Vec::new();
                table.retain(|_, groups| {
                    gone.extend(groups.extract_if(|group, _| which.has(group)).map(|(_, subscription)| subscription));
                    !groups.is_empty()
                });
                gone
            }
        };
        for subscription in &gone {
            let owner = &subscription.owner;
            for book in subscription.books().iter() {
                shut(&mut book.open());
            }
            if !owner.group.is_system() {
                self.books.fetch_sub(subscription.books().len(), Ordering::Relaxed);
            }
            if owner.group.is_member() {
                self.members.remove(&owner.topic, &owner.group);
            }
        }
    }
}
