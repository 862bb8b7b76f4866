//! What the broker counts, by topic and by group.
//!
//! A topic's meter hangs on its lane and a group's on its subscription's owner, so that counting a message looks nothing up
//! and allocates nothing. Topics and groups beyond `metricsOtelCardinalityLimit` share one meter each.

mod backlog;
#[cfg(test)]
mod tests;

use std::{
    array,
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::{
    meter::{Counter, Distribution, Family, Histogram},
    store::Ticket,
    types::{GroupName, MessageType, Timestamp, TopicName},
};

pub use self::backlog::{Backlog, Backlogs};
use super::{AdminError, Broker, metadata::TopicEntry, pop::Owner};

/// Bounds of `rocketmq_message_size`, bytes.
const SIZES: &[u64] = &[1 << 10, 4 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];
/// Bounds of `rocketmq_delay_message_latency`, seconds.
const DELAYS: &[u64] = &[60, 600, 3600, 12 * 3600, 24 * 3600, 3 * 24 * 3600];
/// Bounds of `rocketmq_finish_message_latency`, seconds.
const FINISHES: &[u64] = &[5, 60, 600, 3600, 12 * 3600, 24 * 3600];
/// Bounds of `rocketmq_topic_create_execution_time` and of the one of groups, milliseconds.
const CREATIONS: &[u64] = &[10, 100, 1000, 3000, 5000];
/// Types that are counted apart, as RocketMQ spells them.
const TYPES: [&str; 5] = ["normal", "fifo", "delay", "transaction", "priority"];

/// All that the broker counts.
pub(super) struct Meters {
    topics: Family<TopicName, TopicMeter>,
    groups: Family<(TopicName, GroupName), GroupMeter>,
    topics_made: Creations,
    groups_made: Creations,
}

/// How long it took to make things, or to fail at it; milliseconds.
pub(super) struct Creations {
    made: Histogram,
    failed: Histogram,
}

/// What [`Creations`] say: of those that were made, and of those that failed.
pub type CreationCounts = [Distribution; 2];

/// What happened to a topic.
#[derive(Default)]
pub struct TopicMeter {
    /// Bytes that each message took in the log, by type; those that the topic never had take no room.
    sizes: [OnceLock<Box<Histogram>>; TYPES.len()],
    delays: OnceLock<Box<Delays>>,
    decisions: OnceLock<Box<Decisions>>,
}

/// Of a topic that has messages for later.
struct Delays {
    /// For how much later they were sent, seconds.
    asked: Histogram,
    delivered: Counter,
}

/// Of a topic that has transactions.
struct Decisions {
    committed: Counter,
    rolled_back: Counter,
    /// From birth to decision, seconds.
    latency: Histogram,
}

/// What happened to a topic's messages in a group.
#[derive(Default)]
pub struct GroupMeter {
    /// First deliveries, and deliveries after those.
    first: Out,
    again: Out,
    /// Passed over by a filter; most groups have none.
    unwanted: OnceLock<Box<Out>>,
    dead: Counter,
    /// By clients of a broadcasting group.
    given_up: Counter,
}

#[derive(Default)]
struct Out {
    messages: Counter,
    bytes: Counter,
}

/// What a [`TopicMeter`] says.
pub struct TopicCounts {
    /// `None`: those that share a meter.
    pub topic: Option<TopicName>,
    /// Bytes in the log by RocketMQ's word for the type, for the types that there were.
    pub sizes: Vec<(&'static str, Distribution)>,
    /// Requested delays in seconds, and messages that came at their time.
    pub delays: Option<(Distribution, u64)>,
    /// Commits, rollbacks, and seconds from birth to either.
    pub decisions: Option<(u64, u64, Distribution)>,
}

/// What a [`GroupMeter`] says.
pub struct GroupCounts {
    /// `None`: those that share a meter.
    pub of: Option<(TopicName, GroupName)>,
    /// Messages and bytes delivered for the first time, and again.
    pub first: (u64, u64),
    pub again: (u64, u64),
    /// Messages and bytes that a filter kept back: they are done for the group and were never delivered.
    pub unwanted: (u64, u64),
    /// Messages that went to the dead-letter topic.
    pub dead: u64,
    /// Messages that a client of a broadcasting group is done with and did not acknowledge.
    pub given_up: u64,
}

impl Meters {
    pub fn new(series_max: usize) -> Self {
        Self {
            topics: Family::new(series_max, TopicMeter::default),
            groups: Family::new(series_max, GroupMeter::default),
            topics_made: Creations::new(),
            groups_made: Creations::new(),
        }
    }

    /// A topic was made, or was there, or could not be made; the wait for others who make one is a part of it.
    pub fn topic_made<T>(&self, made: &Result<(T, bool), AdminError>, took: Duration) {
        self.topics_made.count(made, took);
    }

    /// The same of a group.
    pub fn group_made<T>(&self, made: &Result<(T, bool), AdminError>, took: Duration) {
        self.groups_made.count(made, took);
    }

    /// The meter of a topic that is in the table.
    fn topic<'a>(&self, entry: &'a TopicEntry) -> &'a TopicMeter {
        let make = || self.topics.of(&entry.topic.name, TopicMeter::default);
        entry.lane.meter.get_or_init(make)
    }

    fn group<'a>(&self, owner: &'a Owner) -> &'a Arc<GroupMeter> {
        owner.meter.get_or_init(|| self.group_of(&owner.topic, &owner.group.whole()))
    }

    fn group_of(&self, topic: &TopicName, group: &GroupName) -> Arc<GroupMeter> {
        self.groups.of(&(topic.clone(), group.clone()), GroupMeter::default)
    }

    pub fn forget_topic(&self, name: &TopicName) {
        self.topics.forget(|topic| topic == name);
        self.groups.forget(|(topic, _)| topic == name);
    }

    pub fn forget_group(&self, name: &GroupName) {
        self.groups.forget(|(_, group)| group == name);
    }

    /// Messages of a call that have their places in the log.
    pub fn stored(&self, entry: &TopicEntry, types: impl Iterator<Item = MessageType>, ticket: &Ticket) {
        let meter = self.topic(entry);
        // A unit lies in one segment, record behind record.
        let ends = ticket.appended.iter().skip(1).map(|next| next.physical).chain([ticket.end]);
        for ((at, end), message_type) in ticket.appended.iter().zip(ends).zip(types) {
            let sizes = meter.sizes[place_of(message_type)].get_or_init(|| Box::new(Histogram::new(SIZES)));
            sizes.add(at.physical.until(end));
        }
    }

    /// A message is to come at `due`.
    pub fn delayed(&self, entry: &TopicEntry, due: Timestamp, now: Timestamp) {
        self.topic(entry).delays().asked.add(due.since(now).as_secs());
    }

    /// A message that was for later has gone to its topic.
    pub fn came_at_its_time(&self, entry: &TopicEntry) {
        self.topic(entry).delays().delivered.add(1);
    }

    /// A half message was decided about.
    pub fn decided(&self, entry: &TopicEntry, is_commit: bool, born_at: Timestamp, now: Timestamp) {
        let decisions = self.topic(entry).decisions();
        let which = if is_commit { &decisions.committed } else { &decisions.rolled_back };
        which.add(1);
        decisions.latency.add(now.since(born_at).as_secs());
    }

    /// A message is on its way to a consumer.
    pub fn delivered(&self, owner: &Owner, attempt: u32, bytes: u32) {
        let meter = self.group(owner);
        let out = if attempt > 1 { &meter.again } else { &meter.first };
        out.messages.add(1);
        out.bytes.add(u64::from(bytes));
    }

    /// Messages are passed over, since the group's filter does not want them.
    pub fn passed_over(&self, owner: &Owner, messages: u64, bytes: u64) {
        if messages > 0 {
            let unwanted = self.group(owner).unwanted.get_or_init(Box::default);
            unwanted.messages.add(messages);
            unwanted.bytes.add(bytes);
        }
    }

    /// Messages are on their way to a consumer that pulls.
    pub fn pulled(&self, topic: &TopicName, group: &GroupName, messages: usize, bytes: u64) {
        let meter = self.group_of(topic, group);
        meter.first.messages.add(messages as u64);
        meter.first.bytes.add(bytes);
    }

    /// A message went to the dead-letter topic.
    pub fn buried(&self, owner: &Owner) {
        self.group(owner).dead.add(1);
    }

    /// A client of a broadcasting group, which has no dead letters, had its last attempt at a message, or gave it up.
    pub fn given_up(&self, owner: &Owner) {
        self.group(owner).given_up.add(1);
    }
}

impl Creations {
    fn new() -> Self {
        Self { made: Histogram::new(CREATIONS), failed: Histogram::new(CREATIONS) }
    }

    fn count<T>(&self, made: &Result<(T, bool), AdminError>, took: Duration) {
        let which = match made {
            Ok((_, true)) => &self.made,
            Ok((_, false)) => return,
            Err(_) => &self.failed,
        };
        which.add(took.as_millis() as u64);
    }

    fn get(&self) -> CreationCounts {
        [self.made.get(), self.failed.get()]
    }
}

impl TopicMeter {
    fn delays(&self) -> &Delays {
        self.delays.get_or_init(|| Box::new(Delays { asked: Histogram::new(DELAYS), delivered: Counter::default() }))
    }

    fn decisions(&self) -> &Decisions {
        self.decisions.get_or_init(|| {
            let latency = Histogram::new(FINISHES);
            Box::new(Decisions { committed: Counter::default(), rolled_back: Counter::default(), latency })
        })
    }

    fn counts(&self, topic: Option<TopicName>) -> TopicCounts {
        let sizes =
            array::from_fn::<_, { TYPES.len() }, _>(|n| self.sizes[n].get().map(|sizes| (TYPES[n], sizes.get())));
        TopicCounts {
            topic,
            sizes: sizes.into_iter().flatten().collect(),
            delays: self.delays.get().map(|d| (d.asked.get(), d.delivered.get())),
            decisions: self.decisions.get().map(|d| (d.committed.get(), d.rolled_back.get(), d.latency.get())),
        }
    }
}

fn place_of(message_type: MessageType) -> usize {
    match message_type {
        MessageType::Fifo => 1,
        MessageType::Delay => 2,
        MessageType::Transaction => 3,
        MessageType::Priority => 4,
        // No message is of the others, as far as they are served.
        MessageType::Normal | MessageType::Mixed | MessageType::Lite => 0,
    }
}

impl Broker {
    /// What happened to each topic that was sent to in this run.
    pub fn topic_counts(&self) -> Vec<TopicCounts> {
        self.inner.meters.topics.all().into_iter().map(|(topic, meter)| meter.counts(topic)).collect()
    }

    /// What happened in each group to the messages of each topic, in this run.
    pub fn group_counts(&self) -> Vec<GroupCounts> {
        let out = |out: &Out| (out.messages.get(), out.bytes.get());
        let counts = |(of, meter): (_, Arc<GroupMeter>)| GroupCounts {
            of,
            first: out(&meter.first),
            again: out(&meter.again),
            unwanted: meter.unwanted.get().map_or((0, 0), |unwanted| out(unwanted)),
            dead: meter.dead.get(),
            given_up: meter.given_up.get(),
        };
        self.inner.meters.groups.all().into_iter().map(counts).collect()
    }

    /// How long it took to make topics and groups in this run.
    pub fn creation_counts(&self) -> (CreationCounts, CreationCounts) {
        (self.inner.meters.topics_made.get(), self.inner.meters.groups_made.get())
    }

    /// Half messages that nobody has decided about, by the topic that they are meant for.
    pub fn pending_transactions_by_topic(&self) -> Vec<(TopicName, u64)> {
        self.inner.transactions.pending_by_topic()
    }
}
