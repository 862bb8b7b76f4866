//! Topics that clients of broadcasting groups wait for: deleted, or never made, when they said that they subscribe to them.
//!
//! Such a client gets the topic's first message on, as soon as there is one: it is there before any of them. It has a line,
//! which is on record, from just after the topic was made; a crash in between forgets it. Who is waited for is in memory
//! alone: after a start clients say again what they subscribe to.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::{
        AtomicUsize,
        Ordering::{Relaxed, SeqCst},
        fence,
    },
};

use parking_lot::Mutex;

use crate::types::{Deadline, GroupName, TopicName};

use super::{Broker, Subscription, Topic};

/// Clients that wait for topics, and when they were last there.
#[derive(Default)]
pub struct Awaited {
    topics: Mutex<HashMap<TopicName, BTreeMap<GroupName, Deadline>>>,
    count: AtomicUsize,
}

impl Awaited {
    /// Notes that a member waits for a topic, unless `max` do so: one that is left out begins at the end.
    fn add(&self, topic: &TopicName, member: &GroupName, now: Deadline, max: usize) {
        let mut topics = self.topics.lock();
        if self.count.load(Relaxed) < max
            && topics.entry(topic.clone()).or_default().insert(member.clone(), now).is_none()
        {
            self.count.fetch_add(1, Relaxed);
        }
    }

    /// Whether the member waited for the topic; it does no more.
    pub fn remove(&self, topic: &TopicName, member: &GroupName) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut topics = self.topics.lock();
        let Some(members) = topics.get_mut(topic) else { return false };
        let waited = members.remove(member).is_some();
        if members.is_empty() {
            topics.remove(topic);
        }
        self.count.fetch_sub(usize::from(waited), Relaxed);
        waited
    }

    fn of(&self, topic: &TopicName) -> Vec<GroupName> {
        let topics = self.topics.lock();
        topics.get(topic).map(|members| members.keys().cloned().collect()).unwrap_or_default()
    }

    fn all(&self) -> Vec<(TopicName, GroupName, Deadline)> {
        let topics = self.topics.lock();
        let of = |(topic, members): (&TopicName, &BTreeMap<GroupName, Deadline>)| {
            members.iter().map(|(member, seen)| (topic.clone(), member.clone(), *seen)).collect::<Vec<_>>()
        };
        topics.iter().flat_map(of).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.count.load(Relaxed) == 0
    }
}

impl Broker {
    fn awaited(&self) -> &Awaited {
        &self.inner.pop.subscriptions.members().awaited
    }

    /// A client subscribes to a topic that is not there.
    pub(super) fn awaits(&self, topic: &TopicName, member: &GroupName) {
        let (now, max) = (self.inner.clock.now(), self.inner.config.broadcast_clients_total_max);
        self.awaited().add(topic, member, now, max);
        // Either this sees the topic, or who makes it sees the member.
        fence(SeqCst);
        // It may have been made meanwhile, by somebody who did not see this.
        if let Some(topic) = self.topic(topic.as_str()) {
            self.begin_awaited(&topic);
        }
    }

    /// A topic is being deleted: its clients of broadcasting groups that are there wait for the next of its name. To be called
    /// before their lines are forgotten.
    pub(in crate::broker) fn await_again(&self, topic: &TopicName) {
        let subscriptions = self.inner.pop.subscriptions.of_topic(topic).into_iter();
        let there = |member: &Subscription| member.owner.group.is_member() && self.is_there(member);
        subscriptions.filter(|member| there(member)).for_each(|member| self.awaits(topic, &member.owner.group));
    }

    /// A topic was made: who waited for it begins with its first message.
    pub(in crate::broker) fn begin_awaited(&self, topic: &Topic) {
        fence(SeqCst);
        if self.awaited().is_empty() {
            return;
        }
        let mut full = None;
        for member in self.awaited().of(&topic.name) {
            // Those of a group lie one behind the other.
            if full.as_ref() == Some(&member.whole()) {
                continue;
            }
            let begun = if self.is_broadcast(&member) { self.subscription(topic, &member).map(drop) } else { Ok(()) };
            match begun {
                Ok(()) => _ = self.awaited().remove(&topic.name, &member),
                Err(error) => {
                    let (topic, group) = (&topic.name, member.whole());
                    tracing::warn!(%topic, %group, %error, "clients that waited for the topic begin when they poll");
                    full = Some(group);
                }
            }
        }
    }

    /// Forgets who waited for topics and was gone for `channelExpiredTimeout`, or whose group is not broadcasting any more.
    pub(super) fn expire_awaited(&self) {
        let (now, timeout) = (self.inner.clock.now(), self.inner.config.client_timeout);
        for (topic, member, seen) in self.awaited().all() {
            let is_there = member.as_member().is_some_and(|(group, client)| self.is_consumer(client, group));
            if !self.is_broadcast(&member) || (!is_there && seen.plus(timeout) <= now) {
                self.awaited().remove(&topic, &member);
            } else if is_there
                && let Some(seen) = self.awaited().topics.lock().get_mut(&topic).and_then(|m| m.get_mut(&member))
            {
                *seen = now;
            }
        }
    }
}
