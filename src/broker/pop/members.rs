//! Broadcasting: every client of the group gets every message.
//!
//! Each client of a broadcasting group consumes as a *member* (see [`GroupName::member`]): in all that is said here of
//! groups it is a group of its own with the settings of the whole one, so its deliveries, attempts, receipts and records
//! are those of a group with one client. It begins at the end of the topic when its client has said that it subscribes, or
//! polls for the first time; of a topic that is made while it is there ([`awaited`](super::awaited)), at the beginning. What it had its attempts at is done, and no dead letter.
//!
//! Official clients have a new id in each process, so members are left behind. One is forgotten when its client was gone for
//! `broadcastOffsetExpireSecond` while the server ran, and those longest gone earlier, when there is no room for another.
//! Those that are gone and hold messages go when all groups together hold half of what they may (`popInflightTotalMax`):
//! what nobody will take must not keep others from taking.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, btree_map::Entry},
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use parking_lot::Mutex;

use crate::types::{ClientId, Deadline, GroupName, TopicName};

use super::{Broker, Config, Pages, Receipt, Subscription, TakeError, TooManyBooks, awaited::Awaited};

/// Of so many members one makes room at once when there are too many, the longest gone first: so that looking for them
/// costs each that comes only a little.
const FORGOTTEN_OF: usize = 64;
/// So often in the time after which a member is forgotten the snapshot is written for how long members were gone alone.
const SAVED_IN_TIMEOUT: u32 = 8;

/// How many members there are.
pub struct Members {
    by_group: Mutex<HashMap<(TopicName, GroupName), usize>>,
    total: AtomicUsize,
    group_max: usize,
    total_max: usize,
    /// Those that wait for a topic.
    pub awaited: Awaited,
    /// When the snapshot was last asked for, for how long they were gone: microseconds.
    saved: AtomicU64,
}

/// When a member was last used.
#[derive(Default)]
pub struct Used {
    /// Microseconds of the monotonic clock; when it was restored, if it was not used since.
    at: AtomicU64,
    /// For how long it had not been used then: microseconds.
    before: AtomicU64,
    /// How often: who decides that it is gone can tell that it came back meanwhile.
    times: AtomicU64,
}

impl Used {
    pub fn now(&self, now: Deadline) {
        self.before.store(0, Relaxed);
        self.at.store(now.as_micros(), Relaxed);
        // Who sees the number sees the time.
        self.times.fetch_add(1, Release);
    }

    pub fn times(&self) -> u64 {
        self.times.load(Acquire)
    }

    /// It was restored: this long it had not been used when the server stopped.
    pub fn was_idle(&self, idle: Duration, now: Deadline) {
        self.now(now);
        self.before.store(u64::try_from(idle.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// For how long it was not used while the server ran.
    pub fn idle(&self, now: Deadline) -> Duration {
        if self.times() == 0 {
            // It is being made.
            return Duration::ZERO;
        }
        let this_run = now.as_micros().saturating_sub(self.at.load(Relaxed));
        Duration::from_micros(this_run.saturating_add(self.before.load(Relaxed)))
    }
}

impl Members {
    pub fn new(config: &Config) -> Self {
        Self {
            by_group: Mutex::default(),
            total: AtomicUsize::new(0),
            group_max: config.broadcast_clients_max,
            total_max: config.broadcast_clients_total_max,
            awaited: Awaited::default(),
            saved: AtomicU64::new(0),
        }
    }

    /// Members of all groups, on each topic counted.
    pub fn total(&self) -> usize {
        self.total.load(Relaxed)
    }

    /// Counts one more; the caller has the lock of the table.
    pub fn add(&self, topic: &TopicName, member: &GroupName) -> Result<(), TooManyBooks> {
        let (clients, max) = (self.total(), self.total_max);
        if clients >= max {
            return Err(TooManyBooks::Clients { clients, max, setting: TOTAL_SETTING });
        }
        let (clients, max) = (self.count(topic, member), self.group_max);
        if clients >= max {
            return Err(TooManyBooks::Clients { clients, max, setting: "broadcastClientsMax" });
        }
        self.put_back(topic, member);
        Ok(())
    }

    fn count(&self, topic: &TopicName, member: &GroupName) -> usize {
        self.by_group.lock().get(&(topic.clone(), member.whole())).copied().unwrap_or(0)
    }

    /// Counts one that was restored, whatever the bounds.
    pub fn put_back(&self, topic: &TopicName, member: &GroupName) {
        *self.by_group.lock().entry((topic.clone(), member.whole())).or_default() += 1;
        self.total.fetch_add(1, Relaxed);
    }

    pub fn remove(&self, topic: &TopicName, member: &GroupName) {
        let key = (topic.clone(), member.whole());
        let mut by_group = self.by_group.lock();
        if let Some(count) = by_group.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                by_group.remove(&key);
            }
            self.total.fetch_sub(1, Relaxed);
        }
    }

    /// Whether how long they were gone should be saved again.
    fn save_is_due(&self, now: Deadline, every: Duration) -> bool {
        let saved = Deadline::from_micros(self.saved.load(Relaxed));
        let is_due = self.total() > 0 && now >= saved.plus(every);
        if is_due {
            self.saved.store(now.as_micros(), Relaxed);
        }
        is_due
    }
}

const TOTAL_SETTING: &str = "broadcastClientsTotalMax";

impl Broker {
    /// As whom a client of a group polls: as a member if the group is broadcasting, else as the group.
    pub fn consumes_as(&self, group: &GroupName, client: &ClientId) -> GroupName {
        match self.is_broadcast(group) {
            true => GroupName::member(group, client),
            false => group.clone(),
        }
    }

    /// As whom a client settles a delivery: as it polls, but for what the group delivered before it was broadcasting.
    pub fn settles_as(&self, topic: &TopicName, group: &GroupName, client: &ClientId, receipt: &Receipt) -> GroupName {
        match self.consumes_as(group, client) {
            member if member != *group && receipt.is_sealed_for(topic, group) => group.clone(),
            usual => usual,
        }
    }

    /// A client says that it subscribes to a topic: if the group is broadcasting, it begins there now, unless it has before.
    /// Where there is no such topic it begins with the first message of one that is made while the client is there.
    pub fn join(&self, topic: &TopicName, group: &GroupName, client: &ClientId) -> Result<(), TakeError> {
        let member = self.consumes_as(group, client);
        if !member.is_member() {
            return Ok(());
        }
        match self.topic(topic.as_str()) {
            Some(topic) => drop(self.subscription(&topic, &member)?),
            None => self.awaits(topic, &member),
        }
        Ok(())
    }

    /// Forgets members that were gone for too long, and those of groups that are not broadcasting any more. Away from the
    /// runtime, for there may be many.
    pub async fn expire_members(&self) {
        let members = self.inner.pop.subscriptions.members();
        if members.total() == 0 && members.awaited.is_empty() {
            return;
        }
        let broker = self.clone();
        if let Err(error) = self.behind_the_runtime(move || broker.expire_members_blocking()).await {
            tracing::error!(%error, "looking for clients that are gone did not end");
        }
    }

    fn expire_members_blocking(&self) {
        self.expire_awaited();
        let (pop, now) = (&self.inner.pop, self.inner.clock.now());
        let timeout = self.inner.config.broadcast_client_timeout;
        let all = pop.subscriptions.list(None).into_iter().filter(|subscription| subscription.owner.group.is_member());
        let mut count = 0;
        for member in all {
            if self.is_connected(&member) {
                member.used.now(now);
            }
            let times = member.used.times();
            let is_stray = !self.is_broadcast(&member.owner.group);
            let is_burden = || self.is_pressed() && !self.is_there(&member) && holds(&member);
            if is_stray || member.used.idle(now) >= timeout || is_burden() {
                count += usize::from(self.forget_member(&member, times));
            }
        }
        if count > 0 {
            tracing::info!(count, "forgot clients of broadcasting groups that were gone for long");
        }
        if pop.subscriptions.members().save_is_due(now, timeout / SAVED_IN_TIMEOUT) {
            pop.touch();
        }
    }

    fn is_pressed(&self) -> bool {
        self.inner.pop.schedule.held() >= self.inner.config.in_flight_total_max / 2
    }

    /// Makes room for a client among those of its group, or of all groups; false when all of them are there.
    pub(super) fn forget_gone_members(&self, full: &TooManyBooks, topic: &TopicName, member: &GroupName) -> bool {
        let (table, now) = (&self.inner.pop.subscriptions, self.inner.clock.now());
        let all = match full {
            TooManyBooks::Clients { setting: TOTAL_SETTING, .. } => {
                table.list(None).into_iter().filter(|subscription| subscription.owner.group.is_member()).collect()
            }
            _ => table.members_of(Some(topic), &member.whole()),
        };
        let most = (all.len() / FORGOTTEN_OF).max(1);
        let all = all.into_iter().map(|member| (member.used.times(), member));
        let mut gone: Vec<_> = all.filter(|(_, member)| !self.is_there(member)).collect();
        gone.sort_by_cached_key(|(_, member)| Reverse(member.used.idle(now)));
        gone.iter().take(most).filter(|(times, member)| self.forget_member(member, *times)).count() > 0
    }

    /// What it has in flight and has not done goes with it, unless it was used since it had been used so many `times`. Not
    /// waited for: what a crash brings back is forgotten again.
    pub(super) fn forget_member(&self, member: &Subscription, times: u64) -> bool {
        let owner = &member.owner;
        let Some(recorded) = self.inner.pop.forget_unused(member, times) else { return false };
        if let Err(error) = recorded {
            let (topic, client) = (&owner.topic, &owner.group);
            tracing::warn!(%topic, %client, %error, "a client that is gone comes back with a restart");
        }
        true
    }

    fn is_connected(&self, member: &Subscription) -> bool {
        let Some((group, client)) = member.owner.group.as_member() else { return false };
        self.is_consumer(client, group) || !member.owner.line.is_empty()
    }

    /// Whether the client of a member is there: it is connected, waits, or did something in the last
    /// `channelExpiredTimeout`.
    pub(super) fn is_there(&self, member: &Subscription) -> bool {
        let idle = member.used.idle(self.inner.clock.now());
        idle < self.inner.config.client_timeout || self.is_connected(member)
    }

    /// By whom a group's backlog is told, on one topic or on all: the group itself, or on each topic of a broadcasting group
    /// that client of those that are there that has the most before it. So a client that is gone alarms nobody.
    pub(in crate::broker) fn furthest_behind(
        &self,
        topic: Option<&TopicName>,
        group: &GroupName,
    ) -> Vec<Arc<Subscription>> {
        let table = &self.inner.pop.subscriptions;
        if !self.is_broadcast(group) {
            return match topic {
                Some(topic) => table.get(topic, group).into_iter().collect(),
                None => table.list(Some(group)),
            };
        }
        let mut furthest: BTreeMap<TopicName, (u64, Arc<Subscription>)> = BTreeMap::new();
        for member in table.members_of(topic, group) {
            self.further(furthest.entry(member.owner.topic.clone()), member);
        }
        furthest.into_values().map(|(_, member)| member).collect()
    }

    /// Puts a client there, if it is there and has more before it than who stands there.
    pub(in crate::broker) fn further<K: Ord>(
        &self,
        place: Entry<'_, K, (u64, Arc<Subscription>)>,
        member: Arc<Subscription>,
    ) {
        if !self.is_there(&member) {
            return;
        }
        let lag = undone(&member);
        match place {
            Entry::Vacant(place) => drop(place.insert((lag, member))),
            Entry::Occupied(mut most) if lag > most.get().0 => drop(most.insert((lag, member))),
            Entry::Occupied(_) => {}
        }
    }
}

/// Whether messages are in flight, or wait for an attempt.
fn holds(subscription: &Subscription) -> bool {
    let holds = |pages: &Pages| pages.book.in_flight() + pages.book.waiting() > 0;
    subscription.books().iter().any(|book| holds(&book.open()))
}

/// Messages that a subscription has not done.
fn undone(subscription: &Subscription) -> u64 {
    let books = subscription.books();
    books.iter().map(|book| book.open().book.undone(book.queue.min(), book.queue.max())).sum()
}
