//! How far groups are behind, exactly: from the books, when somebody asks.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use crate::{
    store::{Queue, ReadError},
    types::{Deadline, GroupName, MessageType, QueueId, QueueOffset, Timestamp, TopicName},
};

use super::Broker;
use crate::broker::{
    lite::LiteLag,
    pop::{QueueBook, Subscription},
};

/// A group's backlog on a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// `None`: those beyond the bound of series, together.
    pub of: Option<(TopicName, GroupName)>,
    /// Messages that are not done: the sum of the other three.
    pub lag: u64,
    /// Never delivered.
    pub ready: u64,
    pub in_flight: u64,
    /// Wait for their next attempt, or for the dead-letter topic.
    pub waiting: u64,
    /// How long ago the oldest message was stored that is not done, and the oldest that was never delivered. Zero when
    /// there is none; `None` when there was no time to find out.
    pub lag_age: Option<Duration>,
    pub ready_age: Option<Duration>,
}

/// Every group's.
#[derive(Clone, Debug, Default)]
pub struct Backlogs {
    pub all: Vec<Backlog>,
    /// Ages that there was no time to find out.
    pub ages_missing: u64,
}

impl Backlog {
    fn add(&mut self, other: &Self) {
        self.lag += other.lag;
        self.ready += other.ready;
        self.in_flight += other.in_flight;
        self.waiting += other.waiting;
        let older = |a: Option<Duration>, b: Option<Duration>| Some(a?.max(b?));
        self.lag_age = older(self.lag_age, other.lag_age);
        self.ready_age = older(self.ready_age, other.ready_age);
    }
}

impl Broker {
    /// Those whose backlogs are told: of a broadcasting group on a topic one client, see `furthest_behind`.
    fn told(&self) -> Vec<Arc<Subscription>> {
        let mut told = Vec::new();
        let mut furthest = BTreeMap::new();
        for subscription in self.inner.pop.subscriptions() {
            let owner = &subscription.owner;
            if owner.group.is_member() {
                let key = (owner.topic.clone(), owner.group.whole());
                self.further(furthest.entry(key), subscription);
                continue;
            }
            let rests = || self.is_broadcast(&owner.group);
            if !owner.group.is_system() && owner.topic != TopicName::dead_letter(&owner.group) && !rests() {
                told.push(subscription);
            }
        }
        told.extend(furthest.into_values().map(|(_, member)| member));
        told
    }

    /// The backlog of every group on every topic that it consumes; its own dead letters are none, whether or not an operator
    /// sent some of them again. Opens one book at a time, for a few instructions. Ages
    /// are read from the log, which may wait for the disk; those that are not read by `ages_until` are left out.
    pub fn backlogs(&self, ages_until: Deadline) -> Backlogs {
        let mut found = Backlogs::default();
        let mut together: HashMap<Option<(TopicName, GroupName)>, Backlog> = HashMap::new();
        for subscription in self.told() {
            let owner = &subscription.owner;
            let is_other = self.inner.meters.groups.is_other(self.inner.meters.group(owner));
            let of = (!is_other).then(|| (owner.topic.clone(), owner.group.whole()));
            let backlog = self.backlog_of(&subscription, ages_until);
            found.ages_missing += u64::from(backlog.lag_age.is_none());
            let none = Backlog { of: of.clone(), ..Backlog::none() };
            together.entry(of).or_insert(none).add(&backlog);
        }
        found.all = together.into_values().collect();
        found.all.sort_by(|a, b| a.of.cmp(&b.of));
        found
    }

    /// A group's backlog on a topic; `None` when it has never consumed it. A broadcasting group without clients has none
    /// before it: those that come begin at the end.
    pub fn backlog(&self, topic: &TopicName, group: &GroupName, ages_until: Deadline) -> Option<Backlog> {
        let of = Some((topic.clone(), group.clone()));
        let Some(subscription) = self.furthest_behind(Some(topic), group).pop() else {
            return self.is_broadcast(group).then(|| Backlog { of, ..Backlog::none() });
        };
        Some(Backlog { of, ..self.backlog_of(&subscription, ages_until) })
    }

    fn backlog_of(&self, subscription: &Arc<Subscription>, ages_until: Deadline) -> Backlog {
        let mut sum = Backlog::none();
        for book in subscription.books().iter() {
            let looked = match book.lite() {
                Some(parent) => self.lite_lag(book, parent).map(|lag| look_at_lanes(book, lag)),
                None => Ok(look(book)),
            };
            let Ok((mut backlog, undone, unread)) = looked else { continue };
            let age = |at: Option<QueueOffset>| match at {
                None => Some(Duration::ZERO),
                Some(_) if self.inner.clock.now() >= ages_until => None,
                Some(at) => self.age(&book.queue, at).unwrap_or_default(),
            };
            backlog.lag_age = age(undone);
            // Mostly it is the same one.
            backlog.ready_age = if unread == undone { backlog.lag_age } else { age(unread) };
            sum.add(&backlog);
        }
        self.add_new_queues(subscription, ages_until, &mut sum);
        sum
    }

    /// Adds the queues that the topic got since the group last asked for messages: it has no book of them, and will read
    /// them from their first message.
    fn add_new_queues(&self, subscription: &Subscription, ages_until: Deadline, sum: &mut Backlog) {
        let (name, known) = (&subscription.owner.topic, subscription.books().len() as u32);
        let topic = self.topic(name.as_str()).filter(|topic| topic.message_type != Some(MessageType::Lite));
        let Some(topic) = topic else { return };
        for queue in (known..topic.read_queues).map(|id| self.inner.store.queue(name, QueueId(id))) {
            let (min, lag) = (queue.min(), queue.min().until(queue.max()));
            let age = match lag {
                0 => Some(Duration::ZERO),
                _ if self.inner.clock.now() >= ages_until => None,
                _ => self.age(&queue, min).unwrap_or_default(),
            };
            sum.add(&Backlog { lag, ready: lag, lag_age: age, ready_age: age, ..Backlog::none() });
        }
    }

    /// How old the first message at or behind an offset is; `None` when it cannot be told.
    fn age(&self, queue: &Queue, at: QueueOffset) -> Result<Option<Duration>, ReadError> {
        let Some(entry) = queue.entries(at, 1)?.first().copied() else { return Ok(Some(Duration::ZERO)) };
        let stored_at: Option<Timestamp> = self.inner.store.stored_at(entry.physical)?;
        Ok(stored_at.map(|at| self.inner.clock.wall().since(at)))
    }
}

impl Backlog {
    fn none() -> Self {
        Self { lag_age: Some(Duration::ZERO), ready_age: Some(Duration::ZERO), ..Self::default() }
    }
}

/// [`look`], of a LITE topic.
fn look_at_lanes(book: &QueueBook, lag: LiteLag) -> (Backlog, Option<QueueOffset>, Option<QueueOffset>) {
    let pages = book.open();
    let (in_flight, waiting) = (pages.book.in_flight() as u64, pages.book.waiting() as u64);
    let LiteLag { lag, undone, unread } = lag;
    let ready = lag.saturating_sub(in_flight + waiting);
    let unread = unread.filter(|_| ready > 0);
    (Backlog { lag, ready, in_flight, waiting, ..Backlog::default() }, undone, unread)
}

/// A queue's backlog without ages, its first offset that is not done, and its first that was never delivered.
fn look(book: &QueueBook) -> (Backlog, Option<QueueOffset>, Option<QueueOffset>) {
    let mut pages = book.open();
    // Under the lock: what is delivered meanwhile is delivered after this.
    let (min, max) = (book.queue.min(), book.queue.max());
    let (in_flight, waiting) = (pages.book.in_flight() as u64, pages.book.waiting() as u64);
    let lag = pages.book.undone(min, max);
    let ready = lag.saturating_sub(in_flight + waiting);
    let undone = (lag > 0).then(|| pages.book.undone_from(min));
    let unread = (ready > 0).then(|| pages.book.next().max(min));
    (Backlog { lag, ready, in_flight, waiting, ..Backlog::default() }, undone, unread)
}
