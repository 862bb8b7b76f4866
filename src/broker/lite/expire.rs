//! Lite topics and sets that nobody uses end.

use std::{sync::atomic::Ordering, time::Duration};

use super::Lite;
use crate::{
    broker::Broker,
    types::{ClientId, Deadline, TopicName},
};

/// How often idle lite topics are looked for: a look costs about 50 ns for each lite topic.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// Notices that wait to be handed to the front at most. One that is lost costs a client one refusal or nothing: its next
/// refresh makes the lite topic anew.
const DROPPED_MAX: usize = 100_000;

impl Lite {
    fn drop_name(&self, client: &ClientId, name: &str) {
        let mut dropped = self.dropped.lock();
        if dropped.len() < DROPPED_MAX {
            dropped.push_back((client.clone(), name.into()));
        }
    }

    /// A client is gone, and its sets with it.
    pub fn client_gone(&self, client: &ClientId, now: Deadline) {
        if self.any.load(Ordering::Relaxed) {
            self.sets.take_client(client).iter().for_each(|set| self.let_go(set, now));
        }
    }

    /// The topic was deleted, and its lite topics with it.
    pub fn forget_topic(&self, topic: &TopicName, now: Deadline) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        for set in self.sets.take_topic(topic) {
            if let Some(parent) = self.parents.read().get(topic) {
                let index = parent.index.lock();
                let names = super::Sets::ids(&set).into_iter().filter_map(|id| index.name(id).map(String::from));
                names.for_each(|name| self.drop_name(&set.client, &name));
            }
            self.let_go(&set, now);
        }
        self.parents.write().remove(topic);
    }
}

impl Broker {
    /// Ends sets that were not used for `channelExpiredTimeout`, and lite topics that had neither messages nor subscribers
    /// for `liteTopicIdleTime`; says which client is to be told that it does not have which lite topic any more.
    pub fn expire_lite(&self) -> Vec<(ClientId, String)> {
        let (lite, now) = (&self.inner.lite, self.inner.clock.now());
        if !lite.any.load(Ordering::Relaxed) {
            return Vec::new();
        }
        for set in lite.sets.take_unused(self.inner.config.client_timeout, now) {
            lite.let_go(&set, now);
        }
        let swept = Deadline::from_micros(lite.swept.load(Ordering::Relaxed));
        if swept.plus(SWEEP_INTERVAL) <= now {
            lite.swept.store(now.as_micros(), Ordering::Relaxed);
            self.sweep_lite(now);
        }
        lite.dropped.lock().drain(..).collect()
    }

    fn sweep_lite(&self, now: Deadline) {
        let (lite, idle) = (&self.inner.lite, self.inner.config.lite_topic_idle);
        // Just after the start nothing is known to be idle for so long; what retention has deleted is forgotten all the same.
        let idle = u64::try_from(idle.as_micros()).unwrap_or(u64::MAX);
        let idle_since = now.as_micros().checked_sub(idle).map(Deadline::from_micros);
        let parents: Vec<_> = lite.parents.read().iter().map(|(name, parent)| (name.clone(), parent.clone())).collect();
        for (topic, parent) in parents {
            let gone = match parent.index(now) {
                Ok(mut index) => index.expire(parent.queue.min(), idle_since),
                Err(error) => {
                    tracing::warn!(%topic, %error, "could not look for idle lite topics");
                    continue;
                }
            };
            self.forget_lanes(&topic, &gone);
            if !gone.is_empty() {
                tracing::debug!(%topic, count = gone.len(), "idle lite topics ended");
            }
        }
    }
}
