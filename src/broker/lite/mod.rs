//! Lite topics: light topics with names of their own inside a parent topic of type LITE.
//!
//! - [`index`]: which messages are of which lite topic; [`sets`]: which lite topics each client wants.
//! - [`sync`]: what a client says of its set; [`expire`]: lite topics and sets that nobody uses end.
//! - [`pop::lanes`](super::pop): how far each group is in each lite topic, and their order.
//!
//! All messages of a parent's lite topics lie in its first queue. A lite topic comes into being when it is first sent or
//! subscribed to, and costs no file. It ends when it has had neither messages nor use for `liteTopicIdleTime`; messages
//! of a lite topic that nobody wants stay until they expire, and hold up nobody.
//!
//! Locks: a book, then an index; the sets' own are innermost.

mod expire;
mod index;
mod sets;
mod sync;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, MutexGuard, RwLock};

pub use sets::LiteSet;
pub use sync::{LiteAction, LiteStart, LiteSync};

pub(super) use index::Index;

use self::{index::Closed, sets::Sets};
use super::{Broker, Draft, Filter, ProduceError, ReadError, Topic};
use crate::{
    store::{Queue, Store},
    types::{ClientId, Deadline, GroupName, MessageType, QueueId, TopicName, properties::key},
};

/// The queue in which the messages of all lite topics lie.
pub(super) const QUEUE: QueueId = QueueId(0);

/// All that the broker knows about lite topics.
#[derive(Default)]
pub(super) struct Lite {
    parents: RwLock<HashMap<TopicName, Arc<Parent>>>,
    /// There is a parent; most brokers have none.
    any: AtomicBool,
    sets: Sets,
    /// What clients are to be told that they do not have any more.
    dropped: Mutex<VecDeque<(ClientId, String)>>,
    /// When idle lite topics were last looked for, in microseconds.
    swept: AtomicU64,
}

/// A topic that has lite topics.
pub(super) struct Parent {
    pub queue: Queue,
    index: Mutex<Index>,
}

impl Parent {
    /// The index, as the queue is now.
    pub fn index(&self, now: Deadline) -> Result<MutexGuard<'_, Index>, ReadError> {
        let mut index = self.index.lock();
        index.catch_up(&self.queue, now)?;
        Ok(index)
    }
}

impl Lite {
    /// The parent, if the topic is one.
    pub fn parent(&self, store: &Store, topic: &Topic) -> Option<Arc<Parent>> {
        if topic.message_type != Some(MessageType::Lite) {
            return None;
        }
        if let Some(parent) = self.parents.read().get(&topic.name) {
            return Some(Arc::clone(parent));
        }
        let new = || Arc::new(Parent { queue: store.queue(&topic.name, QUEUE), index: Mutex::default() });
        self.any.store(true, Ordering::Relaxed);
        Some(Arc::clone(self.parents.write().entry(topic.name.clone()).or_insert_with(new)))
    }

    fn let_go(&self, set: &LiteSet, now: Deadline) {
        let ids = self.sets.remove(set, Sets::ids(set));
        if let Some(parent) = self.parents.read().get(&set.topic) {
            let mut index = parent.index.lock();
            ids.into_iter().for_each(|id| index.unsubscribed(id, now));
        }
    }
}

impl Broker {
    /// Reads the index of every parent, so that nobody has to wait for that later, and has the restored books know whose
    /// their messages are.
    pub(super) fn load_lite_topics(&self) -> Result<(), ReadError> {
        for topic in self.topics(false) {
            if let Some(parent) = self.inner.lite.parent(&self.inner.store, &topic) {
                drop(parent.index(self.inner.clock.now())?);
                self.open_restored_lanes(&topic, &parent)?;
            }
        }
        Ok(())
    }

    /// How many lite topics a topic has; `None` when it is not of type LITE.
    pub fn lite_topics_of(&self, topic: &Topic) -> Option<usize> {
        let parent = self.inner.lite.parent(&self.inner.store, topic)?;
        parent.index(self.inner.clock.now()).ok().map(|index| index.len())
    }

    /// What a client wants of a topic of type LITE: what is in its set, now and later. `None` for other topics.
    pub fn lite_filter(&self, topic: &Topic, group: &GroupName, client: &ClientId) -> Option<Filter> {
        (topic.message_type == Some(MessageType::Lite)).then(|| Filter::Lite(self.lite_set(client, &topic.name, group)))
    }

    fn lite_set(&self, client: &ClientId, topic: &TopicName, group: &GroupName) -> Arc<LiteSet> {
        let now = self.inner.clock.now();
        let (set, gone) = self.inner.lite.sets.of(client, topic, group, now);
        if let Some(gone) = gone {
            self.inner.lite.let_go(&gone, now);
        }
        set
    }

    /// Makes the lite topics that these messages are for.
    pub(super) fn open_lite_topics(&self, topic: &Topic, drafts: &[Draft]) -> Result<(), ProduceError> {
        let Some(parent) = self.inner.lite.parent(&self.inner.store, topic) else { return Ok(()) };
        let (config, now) = (&self.inner.config, self.inner.clock.now());
        let mut index = parent.index(now).map_err(|error| ProduceError::Metadata(error.to_string()))?;
        let (messages, max) = (index.messages(), config.lite_messages_max);
        if messages.saturating_add(drafts.len()) > max {
            return Err(ProduceError::LiteFull { messages, max });
        }
        for name in drafts.iter().filter_map(|draft| draft.properties.get(key::LITE_TOPIC)) {
            index.open(name, config.lite_topics_max, now).map_err(|why| match why {
                Closed::Full(_) => ProduceError::TooManyLiteTopics { max: config.lite_topics_max },
                Closed::Taken => ProduceError::LiteTopicTaken(name.into()),
            })?;
        }
        Ok(())
    }
}
