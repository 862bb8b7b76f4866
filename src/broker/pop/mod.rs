//! POP consumption: the server hands each message to one consumer of a group for a while, and hands it out again until
//! one says that it is done.
//!
//! - [`book`]: what is so about each message of a queue for a group; plain data.
//! - [`subscription`]: the table of books and the order of locks; [`schedule`]: which book needs looking after when.
//! - [`take`]: choose, book, read, or park until there is something ([`long_poll`](super::long_poll)); [`batch`]: what is
//!   booked meanwhile.
//! - [`reset`]: a group goes on from elsewhere.
//! - [`settle`]: ack, change of the invisible time, renewal; [`dead_letter`]: the way out after the last attempt.
//! - [`revive`]: leases that run out; [`bury`]: what had its attempts moves to the dead-letter topic.
//! - [`lines`], [`in_order`]: the order of message groups, for FIFO groups; [`attempts`]: polls that are repeated.
//! - [`lanes`]: LITE topics, where each lite topic is consumed in its own order by who wants it.
//! - [`members`]: the clients of broadcasting groups, each with books of its own; [`awaited`]: topics that they wait for.
//! - [`operate`]: what an operator does to a message that locks its line.
//! - [`own`]: what the broker itself consumes of its own topics.
//! - [`apache`]: what a store of Apache's says of its broker's own work.
//! - [`settle_record`], [`log`](self::log): what is written of all this; [`snapshot`], [`restore`]: how it comes back.
//!
//! What is kept where: a delivery writes nothing, but to a FIFO group ([`leases`]). Done, failed and held deliveries are
//! records in the log, under the same sync as everything else. A crash forgets deliveries that are not on record and that
//! nobody settled, so those messages come again, as the same attempt; a receipt from before the crash is honoured until they
//! do.
//!
//! Within a run all leases and invisible times are monotonic. On disk they are wall-clock times with the original length
//! beside them, so that a stepped clock can shorten a wait across a restart but never make it longer.

mod apache;
mod attempts;
mod awaited;
mod batch;
mod book;
mod bury;
mod codec;
mod dead_letter;
mod elsewhere;
pub(super) mod faults;
mod in_order;
mod lanes;
mod leases;
mod lines;
mod log;
mod members;
mod operate;
mod own;
mod ranges;
mod receipt;
mod reset;
mod restore;
mod revive;
mod schedule;
mod settle;
mod settle_record;
mod snapshot;
mod subscription;
mod take;
#[cfg(test)]
mod tests;

use std::{
    hash::RandomState,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

pub use attempts::AttemptId;
pub(super) use book::Backlog;
pub use lines::Locked;
pub use receipt::Receipt;
pub use reset::{Moved, Position};

pub(super) use self::book::Exception;
pub(super) use self::own::{Tried, Undone};
pub(super) use self::settle_record::{Entry, LaneAt, Record, Retry, What};
pub use self::subscription::TooManyBooks;
pub(super) use self::subscription::{Owner, QueueBook, Subscription};
use self::{
    attempts::Attempts,
    book::Book,
    bury::Burials,
    log::{Run, SettleLog},
    members::Members,
    schedule::Schedule,
    subscription::{Pages, Subscriptions, Which},
};

use super::{
    AdminError, Broker, Config, Filter, Group, OffsetError, OpenError, SettleError, TakeError, Topic,
    delay::TIMER_GROUP,
    lite::Lite,
    long_poll::{Line, LongPoll},
    metadata::{HALF_TOPIC, TIMER_TOPIC},
    transaction,
};
use crate::{
    store::{Queue, Store},
    types::{ClientId, Clock, Deadline, GroupName, MessageType, QueueId, QueueOffset, StoredMessage, TopicName},
};

/// Reads that may have to wait for the device, at once. More would only queue at the device, on threads of their own.
pub const COLD_READS_MAX: usize = 16;

/// Queues of clients of one broadcasting group whose progress is told at once.
const CLIENT_QUEUES_MAX: usize = 10_000;

/// A poll.
#[derive(Clone, Debug)]
pub struct Take {
    pub topic: TopicName,
    pub group: GroupName,
    pub filter: Filter,
    /// Messages at most, 1 to 32.
    pub max: usize,
    /// How long each stays invisible.
    pub invisible: Duration,
    /// Until when the poll waits for something to deliver; not at all when it has passed.
    pub until: Deadline,
    /// By which a consumer of a FIFO group says that this is the poll whose answer it did not get.
    pub attempt_id: Option<AttemptId>,
}

/// A message on its way to a consumer.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub message: StoredMessage,
    pub receipt: Receipt,
    /// 1 for the first.
    pub attempt: u32,
}

/// Progress of a group on one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub topic: TopicName,
    pub queue: QueueId,
    pub commit: QueueOffset,
    pub in_flight: u64,
    pub waiting_retry: u64,
    /// Of a FIFO group.
    pub locked: Option<Locked>,
    /// Of a broadcasting group: the client that it is the progress of, and whether that is there.
    pub client: Option<(ClientId, bool)>,
}

/// All that the broker knows about consumption.
pub(super) struct Pop {
    polls: Arc<LongPoll>,
    subscriptions: Subscriptions,
    schedule: Schedule,
    burials: Burials,
    log: SettleLog,
    run: Run,
    cold_reads: Arc<Semaphore>,
    snapshots: Mutex<snapshot::Last>,
    /// Something is so that the last snapshot does not say.
    changed: AtomicBool,
    attempts: Attempts,
    /// Makes lines of message groups.
    hasher: RandomState,
}

impl Pop {
    /// Loads the last snapshot, replays what was settled since, and starts to listen for arrivals. Once the groups are
    /// known, [`Broker::limit_restored`] must follow.
    pub(super) fn open(
        config: &Config,
        store: &Store,
        clock: &Arc<dyn Clock>,
        lite: &Arc<Lite>,
    ) -> Result<Self, OpenError> {
        let polls = Arc::new(LongPoll::new(config.polls_max, config.polls_per_group_max));
        let log = SettleLog::new(store, clock, config.store_host);
        let restored = restore::Restored::load(store, clock.as_ref(), &log.queue)?;
        let run = Run::begin(restored.next_run(clock.wall()), clock.as_ref());
        let pop = Self {
            polls,
            subscriptions: Subscriptions::new(config.books_max, Members::new(config)),
            schedule: Schedule::default(),
            burials: Burials::default(),
            log,
            run,
            cold_reads: Arc::new(Semaphore::new(COLD_READS_MAX)),
            snapshots: Mutex::default(),
            changed: AtomicBool::new(true),
            attempts: Attempts::default(),
            hasher: RandomState::new(),
        };
        let must_be_saved = restored.lost_its_tail;
        restored.install(&pop, store);
        // Before retention is told what may go: what waits is needed though nothing of it was ever done.
        pop.own_book(store, TIMER_TOPIC, TIMER_GROUP);
        pop.own_book(store, HALF_TOPIC, transaction::GROUP);
        if let Err(error) = pop.snapshot(store, clock.as_ref()) {
            if must_be_saved {
                let why = format!("{error}; it names messages that the log has lost, so it must be rewritten first");
                return Err(OpenError::State { file: snapshot::FILE.into(), why });
            }
            tracing::warn!(%error, "could not save consumption state; it is replayed from the log at the next start");
        }
        let (listener, lite) = (Arc::clone(&pop.polls), Arc::clone(lite));
        store.on_arrival(Box::new(move |arrival| {
            listener.arrived(arrival.topic, arrival.queue, arrival.tags_code);
            lite.arrived(arrival.topic, arrival.queue, arrival.tags_code);
        }));
        Ok(pop)
    }

    pub(super) fn polls(&self) -> &Arc<LongPoll> {
        &self.polls
    }

    fn touch(&self) {
        if !self.changed.load(Ordering::Relaxed) {
            self.changed.store(true, Ordering::Release);
        }
    }

    /// Ends parked polls for good.
    pub(super) fn end_polls(&self) {
        self.polls.end();
    }

    /// Forgets every group's progress on a topic, durably once the log is. Call it when the topic is out of its table, so
    /// that no poll begins anew meanwhile.
    pub(super) fn forget_topic(&self, topic: &TopicName) -> Result<(), AdminError> {
        // Before anybody can make a subscription anew: it would get a line that no arrival finds.
        self.forget(Which::OfTopic(topic), Entry::ForgetTopic(topic.clone()))
    }

    /// Forgets the progress of a group and of its members on every topic, as [`Pop::forget_topic`].
    pub(super) fn forget_group(&self, group: &GroupName) -> Result<(), AdminError> {
        self.forget(Which::OfGroup(group), Entry::ForgetGroup(group.clone()))
    }

    /// Forgets the progress of the clients of a group that is not broadcasting any more, as [`Pop::forget_topic`].
    pub(super) fn forget_members(&self, group: &GroupName) -> Result<(), AdminError> {
        self.forget(Which::MembersOf(group), Entry::ForgetMembers(group.clone()))
    }

    /// Forgets a group's progress on one topic, as [`Pop::forget_topic`].
    fn forget_subscription(&self, topic: &TopicName, group: &GroupName) -> Result<(), AdminError> {
        self.forget(Which::One(topic, group), Entry::ForgetSubscription(topic.clone(), group.clone()))
    }

    /// The same of a member, unless it was used since it had been used so many `times`: then `None`.
    fn forget_unused(&self, member: &Subscription, times: u64) -> Option<Result<(), AdminError>> {
        let Owner { topic, group, .. } = &*member.owner;
        let shut = |pages: &mut Pages| self.shut(pages);
        self.subscriptions.forget_unused(member, times, shut, || {
            self.polls.forget_line(topic, group);
            self.record(&Entry::ForgetSubscription(topic.clone(), group.clone()))
        })
    }

    fn forget(&self, which: Which<'_>, entry: Entry) -> Result<(), AdminError> {
        let shut = |pages: &mut Pages| self.shut(pages);
        self.subscriptions.forget(which, shut, || {
            match which {
                Which::OfTopic(topic) => self.polls.forget_topic(topic),
                Which::One(topic, group) => self.polls.forget_line(topic, group),
                Which::OfGroup(_) | Which::MembersOf(_) => self.polls.forget_groups(|group| which.has(group)),
            }
            self.record(&entry)
        })
    }

    fn shut(&self, pages: &mut Pages) {
        pages.forgotten = true;
        self.schedule.count(pages);
    }

    /// Every group on every topic that it consumes.
    pub(super) fn subscriptions(&self) -> Vec<Arc<Subscription>> {
        self.subscriptions.list(None)
    }

    /// The queue of all settle records.
    pub(super) fn settle_queue(&self) -> &Queue {
        &self.log.queue
    }

    pub(super) fn run(&self) -> Run {
        self.run
    }

    /// The books of a group on a topic, by queue; none when it has not begun.
    pub(super) fn books(&self, topic: &TopicName, group: &GroupName) -> Vec<Arc<QueueBook>> {
        self.subscriptions.get(topic, group).map(|subscription| subscription.books().to_vec()).unwrap_or_default()
    }

    /// The clients of a broadcasting group on a topic, at most so many.
    pub(super) fn members_of(&self, topic: &TopicName, group: &GroupName, max: usize) -> Vec<GroupName> {
        let members = self.subscriptions.members_of(Some(topic), group);
        members.into_iter().take(max).map(|member| member.owner.group.clone()).collect()
    }

    /// Every topic and group that there are books of, together.
    pub(super) fn owners(&self) -> Vec<(TopicName, GroupName)> {
        let owner = |s: Arc<Subscription>| (s.owner.topic.clone(), s.owner.group.clone());
        self.subscriptions.list(None).into_iter().map(owner).collect()
    }

    fn record(&self, entry: &Entry) -> Result<(), AdminError> {
        self.touch();
        match self.log.append_entry(entry) {
            Ok(_) => Ok(()),
            Err(error) => Err(AdminError::Metadata(format!("recording that its progress is forgotten: {error}"))),
        }
    }
}

impl Broker {
    /// The subscription of a group on a topic, made if need be.
    fn subscription(&self, topic: &Topic, group: &GroupName) -> Result<Arc<Subscription>, TooManyBooks> {
        if group.is_member() {
            // First, so that one that is known is not forgotten meanwhile.
            self.inner.pop.subscriptions.get_for_use(&topic.name, group, self.inner.clock.now());
        }
        let made = match self.made_subscription(topic, group) {
            Err(full @ TooManyBooks::Clients { .. }) if self.forget_gone_members(&full, &topic.name, group) => {
                self.made_subscription(topic, group)
            }
            made => made,
        }?;
        if group.is_member() {
            made.used.now(self.inner.clock.now());
        }
        Ok(made)
    }

    fn made_subscription(&self, topic: &Topic, group: &GroupName) -> Result<Arc<Subscription>, TooManyBooks> {
        let pop = &self.inner.pop;
        let names = (&topic.name, group);
        let parent = || self.inner.lite.parent(&self.inner.store, topic);
        // A group that is new to a lite topic begins with the first message of it that is stored.
        let is_lite = topic.message_type == Some(MessageType::Lite);
        let first = |queue| if is_lite { QueueOffset::MAX } else { self.queue_start(&topic.name, queue) };
        let record = |starts| {
            pop.touch();
            // Without the record the choice is kept by the next snapshot, or, after a crash before it, made again.
            if let Err(error) = pop.log.append_names(&topic.name, group, starts) {
                tracing::warn!(topic = %topic.name, %group, %error, "could not record where a new group starts");
            }
        };
        let made =
            pop.subscriptions.get_or_make(&self.inner.store, &pop.polls, names, topic.read_queues, first, record)?;
        made.serves(topic, parent);
        Ok(made)
    }

    /// The books of a group on a topic, by queue, made if need be.
    pub(in crate::broker) fn books_on(
        &self,
        topic: &Topic,
        group: &GroupName,
    ) -> Result<Arc<[Arc<QueueBook>]>, TooManyBooks> {
        Ok(self.subscription(topic, group)?.books())
    }

    /// Deliveries of one message to a group before it is dead-lettered.
    fn max_attempts(&self, group: &GroupName) -> u32 {
        let default = self.inner.config.retry_max_times.saturating_add(1);
        self.group(group.as_str()).map_or(default, |group| group.max_attempts())
    }

    /// The topic and the group of a poll, if it may have both; the group is made if it may be.
    pub(super) async fn may_take(
        &self,
        topic: &TopicName,
        group: &GroupName,
    ) -> Result<(Arc<Topic>, Arc<Group>), TakeError> {
        let topic = self.topic(topic.as_str()).ok_or_else(|| TakeError::TopicNotFound(topic.clone()))?;
        if !topic.readable || topic.read_queues == 0 {
            return Err(TakeError::NotReadable(topic.name.clone()));
        }
        let group = match self.group(group.as_str()) {
            Some(group) => group,
            None => self.made_group(&group.whole()).await?,
        };
        if !group.consume_enabled {
            return Err(TakeError::GroupDisabled(group.name.clone()));
        }
        Ok((topic, group))
    }

    #[cold]
    async fn made_group(&self, name: &GroupName) -> Result<Arc<Group>, TakeError> {
        match self.group_for(name).await {
            Ok(Some(group)) => Ok(group),
            Ok(None) => Err(TakeError::GroupNotFound(name.clone())),
            Err(AdminError::TooMany(limit)) => Err(TakeError::TooManyGroups(limit)),
            Err(error) => Err(TakeError::Metadata(error.to_string())),
        }
    }

    fn is_fifo(&self, group: &GroupName) -> bool {
        self.group(group.as_str()).is_some_and(|group| group.fifo)
    }

    /// Whether each client of the group, or of a member's group, gets every message.
    pub(super) fn is_broadcast(&self, group: &GroupName) -> bool {
        self.group(group.as_str()).is_some_and(|group| group.broadcast)
    }

    /// Forgets a group's progress on a topic, and that of its members, durably: they begin anew there when they come again.
    /// `Ok(false)` when there was none. Waits for the disk.
    pub fn forget_subscription(&self, topic: &TopicName, group: &GroupName) -> Result<bool, AdminError> {
        let (pop, store) = (&self.inner.pop, &self.inner.store);
        let members = pop.subscriptions.members_of(Some(topic), group);
        let all: Vec<_> = pop.subscriptions.get(topic, group).into_iter().chain(members).collect();
        if all.is_empty() {
            return Ok(false);
        }
        for subscription in all {
            pop.forget_subscription(topic, &subscription.owner.group)?;
        }
        self.inner.lite.begins_anew(topic, group);
        let failed = |error: crate::store::Poisoned| AdminError::Metadata(error.to_string());
        store.committed_blocking(store.end()).map_err(failed)?;
        Ok(true)
    }

    /// Every book of a group, with its topic; of a broadcasting group those of [`Broker::furthest_behind`].
    pub(in crate::broker) fn books_of(&self, group: &GroupName) -> Vec<(TopicName, Arc<QueueBook>)> {
        let of =
            |s: &Arc<Subscription>| s.books().iter().map(|b| (s.owner.topic.clone(), b.clone())).collect::<Vec<_>>();
        self.furthest_behind(None, group).iter().flat_map(of).collect()
    }

    /// Which groups consume which topics: those of a topic, of a group, or both, or all. Opens no book.
    pub fn subscribed(&self, topic: Option<&TopicName>, group: Option<&GroupName>) -> Vec<(TopicName, GroupName)> {
        let table = &self.inner.pop.subscriptions;
        let mut found = match (topic, group) {
            (Some(topic), Some(group)) => table.get(topic, group).into_iter().collect(),
            (Some(topic), None) => table.of_topic(topic),
            (None, group) => table.list(group),
        };
        found.extend(group.map(|group| table.members_of(topic, group)).unwrap_or_default());
        let owners = found.iter().map(|subscription| &subscription.owner).filter(|owner| !owner.group.is_system());
        let mut names: Vec<_> = owners.map(|owner| (owner.topic.clone(), owner.group.whole())).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Polls that are parked right now.
    pub fn parked_polls(&self) -> usize {
        self.inner.pop.polls.parked()
    }

    /// A group's progress on every queue that it has a book of, by topic, client and queue: a broadcasting group's is that of
    /// its clients, in the first 10,000 queues of clients or a few more.
    pub fn progress(&self, group: &GroupName) -> Vec<Progress> {
        let mut all = Vec::new();
        let found = self.group(group.as_str());
        let (fifo, broadcast) = found.map_or((false, false), |group| (group.fifo, group.broadcast));
        let mut subscriptions = match broadcast {
            true => self.inner.pop.subscriptions.members_of(None, group),
            false => self.inner.pop.subscriptions.list(Some(group)),
        };
        subscriptions.sort_by(|a, b| (&a.owner.topic, &a.owner.group).cmp(&(&b.owner.topic, &b.owner.group)));
        for subscription in subscriptions {
            if broadcast && all.len() >= CLIENT_QUEUES_MAX {
                break;
            }
            let client = subscription.owner.group.client();
            let is_there = broadcast && self.is_there(&subscription);
            for book in subscription.books().iter() {
                let pages = book.open();
                all.push(Progress {
                    topic: subscription.owner.topic.clone(),
                    queue: book.queue_id,
                    commit: pages.book.commit(),
                    in_flight: pages.book.in_flight() as u64,
                    waiting_retry: pages.book.waiting() as u64,
                    locked: pages.book.locked().filter(|_| fifo),
                    client: client.clone().map(|client| (client, is_there)),
                });
            }
        }
        all.sort_by(|a, b| (&a.topic, &a.client, a.queue).cmp(&(&b.topic, &b.client, b.queue)));
        all
    }
}
