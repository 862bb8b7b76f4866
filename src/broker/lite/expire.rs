//! Lite topics and sets that nobody uses end, and room is made when there is too much.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{CHUNK, Index, Lite, LiteSet, Parent};
use crate::{
    broker::{Broker, ReadError, pop::QueueBook},
    types::{ClientId, Deadline, GroupName, LiteId, QueueOffset, TopicName},
};

/// Notices that wait to be handed to the front at most. One that is lost costs a client one refusal or nothing: its next
/// refresh makes the lite topic anew.
const DROPPED_MAX: usize = 100_000;
/// Notices that are handed over at once.
const NOTICES: usize = 1000;
/// How often consumed messages are looked for at most when there are too many: a look costs about 100 ns for each lite
/// topic and group.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);

impl Lite {
    fn drop_names(&self, parent: &Parent, set: &LiteSet, ids: &[LiteId]) {
        for chunk in ids.chunks(CHUNK) {
            let index = parent.known();
            let names: Vec<String> = chunk.iter().filter_map(|id| index.name(*id).map(String::from)).collect();
            drop(index);
            let mut dropped = self.dropped.lock();
            let room = DROPPED_MAX.saturating_sub(dropped.len());
            dropped.extend(names.into_iter().take(room).map(|name| (set.client.clone(), name)));
        }
    }

    /// A client is gone, and its sets with it.
    pub fn client_gone(&self, client: &ClientId, now: Deadline) {
        if self.any.load(Ordering::Relaxed) {
            self.sets.take_client(client).iter().for_each(|set| drop(self.let_go(set, now)));
        }
    }

    /// The topic was deleted, and its lite topics with it.
    pub fn forget_topic(&self, topic: &TopicName, now: Deadline) {
        if self.any.load(Ordering::Relaxed) {
            self.end_sets(|set| set.topic == *topic, now);
            self.parents.write().remove(topic);
        }
    }

    /// The group was deleted: its clients have nothing any more.
    pub fn forget_group(&self, group: &GroupName, now: Deadline) {
        if self.any.load(Ordering::Relaxed) {
            self.end_sets(|set| set.group == *group, now);
        }
    }

    /// Ends sets, and has their clients told.
    fn end_sets(&self, which: impl Fn(&LiteSet) -> bool, now: Deadline) {
        for set in self.sets.take(which) {
            let ids = self.let_go(&set, now);
            if let Some(parent) = self.known_parent(&set.topic) {
                self.drop_names(&parent, &set, &ids);
            }
        }
    }

    fn all_parents(&self) -> Vec<(TopicName, Arc<Parent>)> {
        self.parents.read().iter().map(|(name, parent)| (name.clone(), Arc::clone(parent))).collect()
    }
}

impl Broker {
    /// Ends sets that were not used for `channelExpiredTimeout`, and lite topics that had neither messages nor subscribers
    /// for `liteTopicIdleTime`. Away from the runtime: it costs about 100 ns for each lite topic, and may wait for the disk.
    /// The server calls it in a loop of its own.
    pub async fn expire_lite(&self) {
        if !self.inner.lite.any.load(Ordering::Relaxed) {
            return;
        }
        let broker = self.clone();
        if let Err(error) = self.behind_the_runtime(move || broker.sweep_lite()).await {
            tracing::error!(%error, "looking for idle lite topics ended early");
        }
    }

    /// Which client is to be told that it does not have which lite topic any more, each once, a thousand at once.
    pub fn dropped_lite_topics(&self) -> Vec<(ClientId, String)> {
        let mut dropped = self.inner.lite.dropped.lock();
        let count = dropped.len().min(NOTICES);
        dropped.drain(..count).collect()
    }

    /// Waits for the disk. Ends with the part that it is at when the server ends.
    fn sweep_lite(&self) {
        let (lite, config, now) = (&self.inner.lite, &self.inner.config, self.inner.clock.now());
        for set in lite.sets.take_unused(config.client_timeout, now) {
            lite.let_go(&set, now);
        }
        // Just after the start nothing is known to be idle for so long; what retention has deleted is forgotten all the same.
        let idle = u64::try_from(config.lite_topic_idle.as_micros()).unwrap_or(u64::MAX);
        let idle_since = now.as_micros().checked_sub(idle).map(Deadline::from_micros);
        for (topic, parent) in lite.all_parents() {
            if self.is_ending() {
                return;
            }
            match self.sweep_parent(&topic, &parent, idle_since) {
                Ok(0) => {}
                Ok(count) => tracing::debug!(%topic, count, "idle lite topics ended"),
                Err(error) => tracing::warn!(%topic, %error, "could not look for idle lite topics"),
            }
        }
        if lite.totals.messages.load(Ordering::Relaxed) > config.lite_messages_max / 4 * 3 {
            self.make_lite_room();
        }
    }

    fn sweep_parent(
        &self,
        topic: &TopicName,
        parent: &Parent,
        idle_since: Option<Deadline>,
    ) -> Result<usize, ReadError> {
        parent.catch_up(self.inner.clock.now())?;
        let min = parent.queue.min();
        let (mut after, mut count) = (None, 0);
        loop {
            let ids = parent.known().ids(after, CHUNK);
            let Some(last) = ids.last().filter(|_| !self.is_ending()) else { break };
            after = Some(*last);
            let mut index = parent.known();
            let ends = |id: &LiteId| {
                let idle_since = idle_since.filter(|_| !parent.is_wanted(*id, None, None));
                index.expire(*id, min, idle_since)
            };
            let gone: Vec<_> = ids.into_iter().filter(ends).collect();
            let seen = index.seen();
            drop(index);
            count += gone.len();
            if !gone.is_empty() {
                self.forget_lanes(topic, &gone, min, seen);
            }
        }
        self.forget_lanes(topic, &[], min, min);
        self.sweep_cursors(topic, parent);
        Ok(count)
    }

    /// Forgets where groups are in lite topics that the index does not know: nothing of these is stored, and nobody has named
    /// them since the start. What comes to one of them later comes behind what was seen. And where groups are at the beginning
    /// that do not want it any more, as far as that is known: their clients have had time to say so since the start.
    pub(super) fn sweep_cursors(&self, topic: &TopicName, parent: &Parent) {
        let wants_known =
            self.inner.pop.run().began_at().plus(self.inner.config.client_timeout) <= self.inner.clock.now();
        for book in self.lite_books(topic) {
            let is_over = |index: &Index, (id, at): &(LiteId, QueueOffset)| match *at {
                QueueOffset::ZERO => wants_known && !parent.is_wanted(*id, None, Some(&book.owner.group)),
                _ => !index.knows(*id),
            };
            let mut after = None;
            loop {
                let cursors = book.open().book.cursors_after(after, CHUNK);
                let Some((last, _)) = cursors.last().filter(|_| !self.is_ending()) else { break };
                after = Some(*last);
                let index = parent.known();
                let over: Vec<_> = cursors.into_iter().filter(|cursor| is_over(&index, cursor)).collect();
                drop(index);
                if !over.is_empty() {
                    self.forget_cursors(&book, over);
                }
            }
        }
    }

    /// Whether it was just tried to make room, or is being tried.
    pub(super) fn made_lite_room(&self) -> bool {
        let recent = |at: Deadline| self.inner.clock.now() < at.plus(TRIM_INTERVAL);
        // Who cannot look need not wait: somebody is at it.
        self.inner.lite.trimmed.try_lock().is_none_or(|trimmed| trimmed.is_some_and(recent))
    }

    /// Makes room for messages, unless that was just tried.
    pub(super) fn make_lite_room(&self) {
        // Who waits here finds that somebody else has done it.
        let mut trimmed = self.inner.lite.trimmed.lock();
        let now = self.inner.clock.now();
        if trimmed.is_none_or(|at| at.plus(TRIM_INTERVAL) <= now) {
            self.trim_lite();
            *trimmed = Some(now);
        }
    }

    /// Forgets the messages that every group is past that has begun in their lite topic, or wants it. They stay stored, but
    /// no group can begin with them.
    pub(super) fn trim_lite(&self) {
        for (topic, parent) in self.inner.lite.all_parents() {
            let books = self.lite_books(&topic);
            // What waits for an attempt is needed where a group has done nothing yet, and nobody may have come back for it.
            let held_in = |book: &Arc<QueueBook>| book.held().into_iter().filter_map(|(_, id)| id).collect();
            let held: Vec<HashSet<LiteId>> = books.iter().map(held_in).collect();
            let mut after = None;
            loop {
                let ids = parent.known().ids(after, CHUNK);
                let Some(last) = ids.last() else { break };
                after = Some(*last);
                let mut floors: Vec<(LiteId, Option<QueueOffset>)> = ids.into_iter().map(|id| (id, None)).collect();
                for (book, held) in books.iter().zip(&held) {
                    let pages = book.open();
                    for (id, floor) in &mut floors {
                        let begun = pages.book.cursor(*id);
                        if begun.is_some() || held.contains(id) || parent.is_wanted(*id, None, Some(&book.owner.group))
                        {
                            let at = begun.unwrap_or_default();
                            *floor = Some(floor.map_or(at, |floor| floor.min(at)));
                        }
                    }
                }
                let mut index = parent.known();
                floors.into_iter().filter_map(|(id, floor)| Some((id, floor?))).for_each(|(id, to)| index.trim(id, to));
            }
        }
    }
}
