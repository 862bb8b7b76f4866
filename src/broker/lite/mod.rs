//! Lite topics: light topics with names of their own inside a parent topic of type LITE.
//!
//! - [`index`]: which messages are of which lite topic; [`sets`]: which lite topics each client wants.
//! - [`sync`]: what a client says of its set; [`expire`]: lite topics and sets that nobody uses end;
//!   [`lag`]: what a group has before it.
//! - [`pop::lanes`](super::pop): how far each group is in each lite topic, and their order.
//!
//! All messages of a parent's lite topics lie in its first queue. A lite topic comes into being when it is first sent or
//! subscribed to, and costs no file. It ends when it has had neither messages nor use for `liteTopicIdleTime`; messages
//! of a lite topic that nobody wants stay until they expire, and hold up nobody.
//!
//! Locks, outermost first: a book; an index; who wants what of a parent; a set; a line of parked polls. None is held while
//! the disk is waited for, and work that grows with the number of lite topics or clients is done a part at a time.

mod expire;
mod index;
mod lag;
mod sets;
mod sync;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::{Mutex, MutexGuard, RwLock};

pub use sets::LiteSet;
pub use sync::{LiteAction, LiteStart, LiteSync};

pub(super) use index::Index;
pub(super) use lag::LiteLag;
pub(super) use sets::Sets;

use self::index::{Closed, Totals};
use super::{Broker, Draft, Filter, ProduceError, ReadError, TakeError, Topic, long_poll::LongPoll};
use crate::{
    store::{Queue, Store},
    types::{
        ClientId, Deadline, GroupName, LiteId, MessageType, PhysicalOffset, QueueId, QueueOffset, TopicName,
        properties::key,
    },
};

/// The queue in which the messages of all lite topics lie.
pub(super) const QUEUE: QueueId = QueueId(0);
/// Lite topics that are worked on under one lock.
pub(super) const CHUNK: usize = 1024;
/// Entries of a queue that are read at once.
const ENTRIES: usize = 4096;
/// So many entries at a queue's end are in memory as a rule; who has to read more waits for the disk elsewhere.
pub(super) const NEAR: u64 = 1024;

/// All that the broker knows about lite topics.
#[derive(Default)]
pub(super) struct Lite {
    parents: RwLock<HashMap<TopicName, Arc<Parent>>>,
    /// There is a parent; most brokers have none.
    any: AtomicBool,
    sets: Sets,
    totals: Arc<Totals>,
    /// What clients are to be told that they do not have any more.
    dropped: Mutex<VecDeque<(ClientId, String)>>,
    /// When consumed messages were last looked for, to make room.
    trimmed: Mutex<Option<Deadline>>,
}

/// A topic that has lite topics.
pub(super) struct Parent {
    pub queue: Queue,
    index: Mutex<Index>,
    /// The sets that have a lite topic, by the sets' numbers. About 36 bytes for each.
    wanted: RwLock<BTreeMap<(LiteId, u64), Arc<LiteSet>>>,
}

impl Parent {
    fn new(queue: Queue, totals: &Arc<Totals>) -> Arc<Self> {
        let index = Mutex::new(Index::new(Arc::clone(totals)));
        Arc::new(Self { queue, index, wanted: RwLock::default() })
    }

    /// The index as far as it is known.
    pub fn known(&self) -> MutexGuard<'_, Index> {
        self.index.lock()
    }

    /// Has the index know what the queue has now. Waits for the disk when much came since.
    pub fn catch_up(&self, now: Deadline) -> Result<(), ReadError> {
        let max = self.queue.max();
        while self.take_in_some(now)? < max {}
        Ok(())
    }

    /// Takes in one read's entries: how far the queue is known then.
    fn take_in_some(&self, now: Deadline) -> Result<QueueOffset, ReadError> {
        let from = self.known().seen().max(self.queue.min());
        let entries = self.queue.entries(from, ENTRIES)?;
        if entries.is_empty() {
            return Ok(QueueOffset::MAX);
        }
        let mut index = self.known();
        let is_new = index.seen() <= from;
        index.take_in(from, &entries, now);
        if is_new && !self.wanted.read().is_empty() {
            // Who asks now need not wait for the store to say that they arrived; who is parked is woken when it does. Before
            // the index is let go of: who finds nothing to catch up with finds these.
            let ids: Vec<_> = entries.iter().map(|entry| LiteId::from_code(entry.tags_code)).collect();
            self.queue(None, &ids);
        }
        Ok(index.seen())
    }

    /// Entries that the index does not know.
    fn lag(&self) -> u64 {
        self.known().seen().until(self.queue.max())
    }

    /// Whether a client has it in its set; another one than that of this number, and of this group, if they are said.
    pub fn is_wanted(&self, id: LiteId, but: Option<u64>, group: Option<&GroupName>) -> bool {
        let wanted = self.wanted.read();
        let mut sets = wanted.range((id, 0)..=(id, u64::MAX)).map(|(_, set)| set);
        sets.any(|set| but != Some(set.number) && group.is_none_or(|group| *group == set.group))
    }

    fn want(&self, set: &Arc<LiteSet>, ids: &[LiteId]) {
        for chunk in ids.chunks(CHUNK) {
            let mut wanted = self.wanted.write();
            chunk.iter().for_each(|id| drop(wanted.insert((*id, set.number), Arc::clone(set))));
        }
    }

    fn let_go(&self, set: &LiteSet, ids: &[LiteId], now: Deadline) {
        for chunk in ids.chunks(CHUNK) {
            let mut wanted = self.wanted.write();
            chunk.iter().for_each(|id| drop(wanted.remove(&(*id, set.number))));
            drop(wanted);
            let mut index = self.known();
            chunk.iter().for_each(|id| index.touch(*id, now));
        }
    }

    /// Tells the sets that have these lite topics, of one group or of all, that there may be something in them, and wakes a
    /// poll of each.
    pub fn tell(&self, group: Option<&GroupName>, ids: &[LiteId]) {
        self.queue(group, ids).values().for_each(|set| set.wake());
    }

    /// [`Parent::tell`] without the waking; the sets that have some of them.
    fn queue(&self, group: Option<&GroupName>, ids: &[LiteId]) -> BTreeMap<u64, Arc<LiteSet>> {
        let mut told: BTreeMap<u64, Arc<LiteSet>> = BTreeMap::new();
        for chunk in ids.chunks(CHUNK) {
            let wanted = self.wanted.read();
            for id in chunk {
                let sets = wanted.range((*id, 0)..=(*id, u64::MAX)).map(|(_, set)| set);
                for set in sets.filter(|set| group.is_none_or(|group| *group == set.group)) {
                    set.queue(*id);
                    told.entry(set.number).or_insert_with(|| Arc::clone(set));
                }
            }
        }
        told
    }

    /// The lite topics that clients of a group have in their sets.
    pub fn wanted_by(&self, group: &GroupName) -> Vec<LiteId> {
        let (mut found, mut from) = (Vec::new(), (LiteId::default(), 0));
        loop {
            let wanted = self.wanted.read();
            let mut count = 0;
            for ((id, number), set) in wanted.range(from..).take(CHUNK) {
                if set.group == *group && found.last() != Some(id) {
                    found.push(*id);
                }
                count += 1;
                from = (*id, number + 1);
            }
            if count < CHUNK {
                return found;
            }
        }
    }
}

impl Lite {
    /// The parent, if the topic is one.
    pub fn parent(&self, store: &Store, topic: &Topic) -> Option<Arc<Parent>> {
        if topic.message_type != Some(MessageType::Lite) {
            return None;
        }
        if let Some(parent) = self.parents.read().get(&topic.name).filter(|parent| !parent.queue.is_deleted()) {
            return Some(Arc::clone(parent));
        }
        self.any.store(true, Ordering::Relaxed);
        let mut parents = self.parents.write();
        // One that a call made which still knew the topic of before is of no use.
        parents.retain(|name, parent| *name != topic.name || !parent.queue.is_deleted());
        let new = || Parent::new(store.queue(&topic.name, QUEUE), &self.totals);
        Some(Arc::clone(parents.entry(topic.name.clone()).or_insert_with(new)))
    }

    fn known_parent(&self, topic: &TopicName) -> Option<Arc<Parent>> {
        self.parents.read().get(topic).cloned()
    }

    /// A message arrived; called by the store, so it reads nothing.
    pub fn arrived(&self, topic: &TopicName, queue: QueueId, tags_code: i64) {
        if self.any.load(Ordering::Relaxed)
            && queue == QUEUE
            && let Some(parent) = self.known_parent(topic)
        {
            parent.tell(None, &[LiteId::from_code(tags_code)]);
        }
    }

    /// Ends a set; what was in it.
    fn let_go(&self, set: &LiteSet, now: Deadline) -> Vec<LiteId> {
        let ids = self.sets.close(set);
        if let Some(parent) = self.known_parent(&set.topic) {
            parent.let_go(set, &ids, now);
        }
        ids
    }

    /// Has every set of a group on a topic look at all that is in it: the group begins anew.
    pub fn begins_anew(&self, topic: &TopicName, group: &GroupName) {
        if self.any.load(Ordering::Relaxed) {
            let ours = self.sets.all().into_iter().filter(|set| set.topic == *topic && set.group == *group);
            ours.for_each(|set| {
                set.queue_all();
                set.wake();
            });
        }
    }

    /// Has every parked poll look again, for the end.
    pub fn wake_all(&self) {
        self.sets.all().iter().for_each(|set| set.line.wake_all());
    }
}

impl Broker {
    /// Reads the index of every parent, so that nobody has to wait for that later, and has the restored books know whose
    /// messages are theirs.
    pub(super) fn load_lite_topics(&self) -> Result<(), ReadError> {
        let (now, max) = (self.inner.clock.now(), self.inner.config.lite_messages_max);
        let messages = || self.inner.lite.totals.messages.load(Ordering::Relaxed);
        let mut trim_at = max;
        for topic in self.topics(false) {
            let Some(parent) = self.inner.lite.parent(&self.inner.store, &topic) else { continue };
            self.open_restored_lanes(&topic, &parent)?;
            loop {
                let seen = parent.take_in_some(now)?;
                if messages() > trim_at {
                    self.trim_lite();
                    // A look costs as much as reading so many.
                    trim_at = messages().max(max) + max / 4;
                }
                if seen >= parent.queue.max() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// How many lite topics a topic has; `None` when it is not of type LITE. Waits for the disk.
    pub fn lite_topics_of(&self, topic: &Topic) -> Option<usize> {
        let parent = self.inner.lite.parent(&self.inner.store, topic)?;
        parent.catch_up(self.inner.clock.now()).ok()?;
        let count = parent.known().len();
        Some(count)
    }

    /// What a client wants of a topic of type LITE: what is in its set, now and later. `None` for other topics.
    pub fn lite_filter(
        &self,
        topic: &Topic,
        group: &GroupName,
        client: &ClientId,
    ) -> Result<Option<Filter>, TakeError> {
        match topic.message_type {
            Some(MessageType::Lite) => Ok(Some(Filter::Lite(self.lite_set(client, &topic.name, group)?))),
            _ => Ok(None),
        }
    }

    fn lite_set(&self, client: &ClientId, topic: &TopicName, group: &GroupName) -> Result<Arc<LiteSet>, TakeError> {
        let (lite, now) = (&self.inner.lite, self.inner.clock.now());
        let line = || LongPoll::loose_line(self.inner.pop.polls());
        let Some((set, gone)) = lite.sets.of(client, topic, group, line, now) else {
            return Err(TakeError::TooManyLiteClients);
        };
        if let Some(gone) = gone {
            lite.let_go(&gone, now);
        }
        Ok(set)
    }

    /// Has the index know what the queue has, without keeping a thread of the runtime waiting for the disk.
    pub(super) async fn lite_catch_up(&self, parent: &Arc<Parent>) -> Result<(), ReadError> {
        let now = self.inner.clock.now();
        if parent.lag() <= NEAR {
            return parent.catch_up(now);
        }
        let of = Arc::clone(parent);
        self.read_off_the_runtime(move || of.catch_up(now)).await?
    }

    /// [`Broker::off_the_runtime`], when its failure is one of reading.
    pub(super) async fn read_off_the_runtime<R: Send + 'static>(
        &self,
        read: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, ReadError> {
        let failed = |error| ReadError::Io { at: PhysicalOffset::ZERO, error: Arc::new(error) };
        self.off_the_runtime(read).await.map_err(failed)
    }

    /// Makes the lite topics that these messages are for.
    pub(super) async fn open_lite_topics(&self, topic: &Topic, drafts: &[Draft]) -> Result<(), ProduceError> {
        let Some(parent) = self.inner.lite.parent(&self.inner.store, topic) else { return Ok(()) };
        let failed = |error: ReadError| ProduceError::Metadata(error.to_string());
        self.lite_catch_up(&parent).await.map_err(failed)?;
        if self.check_lite_room(drafts.len()).is_err() && !self.made_lite_room() {
            let broker = self.clone();
            self.read_off_the_runtime(move || broker.make_lite_room()).await.map_err(failed)?;
        }
        let names = drafts.iter().filter_map(|draft| draft.properties.get(key::LITE_TOPIC));
        self.open_lite_names(&parent, names, drafts.len())
    }

    /// Has what was sent count among what is known at once. What cannot be read now is read by the next who asks.
    pub(super) async fn count_lite(&self, topic: &Topic) {
        if let Some(parent) = self.inner.lite.parent(&self.inner.store, topic)
            && let Err(error) = self.lite_catch_up(&parent).await
        {
            tracing::debug!(topic = %topic.name, %error, "could not read which lite topics messages are of");
        }
    }

    /// [`Broker::open_lite_topics`] for one message, on a thread that may wait for the disk.
    pub(super) fn open_lite_topic(&self, topic: &Topic, name: Option<&str>) -> Result<(), ProduceError> {
        let Some(parent) = self.inner.lite.parent(&self.inner.store, topic) else { return Ok(()) };
        let Some(name) = name else {
            let (expected, actual) = (MessageType::Lite, MessageType::Normal);
            return Err(ProduceError::TypeConflict { topic: topic.name.clone(), expected, actual });
        };
        parent.catch_up(self.inner.clock.now()).map_err(|error| ProduceError::Metadata(error.to_string()))?;
        if self.check_lite_room(1).is_err() {
            self.make_lite_room();
        }
        self.open_lite_names(&parent, std::iter::once(name), 1)
    }

    fn open_lite_names<'a>(
        &self,
        parent: &Parent,
        names: impl Iterator<Item = &'a str>,
        messages: usize,
    ) -> Result<(), ProduceError> {
        self.check_lite_room(messages)?;
        let (max, now) = (self.inner.config.lite_topics_max, self.inner.clock.now());
        let mut index = parent.known();
        for name in names {
            index.open(name, max, now).map_err(|why| match why {
                Closed::Full => ProduceError::TooManyLiteTopics { max },
                Closed::Taken => ProduceError::LiteTopicTaken(name.into()),
            })?;
        }
        Ok(())
    }

    fn check_lite_room(&self, more: usize) -> Result<(), ProduceError> {
        let max = self.inner.config.lite_messages_max;
        let messages = self.inner.lite.totals.messages.load(Ordering::Relaxed);
        if messages.saturating_add(more) > max { Err(ProduceError::LiteFull { messages, max }) } else { Ok(()) }
    }
}
