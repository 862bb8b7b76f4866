//! The table of topics.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};

use crate::{
    store::{AppendError, Purpose, Store, Ticket},
    types::{GroupName, MessageType, NewMessage, PhysicalOffset, QueueId, QueueOffset, TopicName},
};

use super::{
    super::{AdminError, Broker, OpenError},
    OWN_TOPICS, QUEUES_MAX, Saver, Topic, TopicChange,
    document::Document,
    gate::Lane,
    topics_file::{self, KIND, Kept, QueueStarts, Starts},
};

/// Deleted topics whose queue ends are kept at most. They go as retention moves on.
const STARTS_MAX: usize = 100_000;

/// A topic in the table. A changed topic gets a new entry with the same lane.
pub(in crate::broker) struct Entry {
    pub(in crate::broker) topic: Arc<Topic>,
    pub(in crate::broker) lane: Arc<Lane>,
    /// Where its queues begin, when a topic of this name was deleted.
    starts: Option<Arc<QueueStarts>>,
    kept: Kept,
    /// As the file has it: made once, since every change of any topic writes it.
    json: Box<str>,
}

/// The table and its file.
pub(super) struct Topics {
    table: RwLock<HashMap<TopicName, Arc<Entry>>>,
    /// Held by whoever changes the table.
    change: Mutex<File>,
}

/// What the file says, kept in step with the table; the server's own topics are in the table alone.
struct File {
    document: Document,
    entries: BTreeMap<TopicName, Arc<Entry>>,
    starts: Starts,
}

enum Change<'a> {
    Put(Entry),
    Remove(&'a TopicName, Starts),
}

/// Whether a new topic counts towards `topicsMax`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Limit {
    Counted,
    /// A dead letter must always find its topic; groups, and so these topics, are limited themselves.
    Exempt,
}

impl Topics {
    pub(super) fn load(store: &Store) -> Result<Self, OpenError> {
        let fault = |why| OpenError::State { file: KIND.file.into(), why };
        let (mut document, entries) = KIND.load(store)?;
        let mut starts = topics_file::take_starts(&mut document).map_err(fault)?;
        let log_start = store.start();
        starts.retain(|_, starts| !starts.is_over(log_start));
        let mut known = BTreeMap::new();
        for (name, value) in entries {
            let Ok(name) = TopicName::parse_any(&name) else {
                tracing::warn!(topic = name, "the topic has a name that is not served; its entry is kept as it is");
                document.foreign.insert(name, value);
                continue;
            };
            let (topic, kept) = topics_file::decode(&name, value)
                .map_err(|why| fault(format!("topic {name}: {why}; mend the entry")))?;
            let entry = Entry::new(topic, kept, starts.get(&name).cloned());
            known.insert(name, Arc::new(entry));
        }
        let mut table: HashMap<_, _> = known.iter().map(|(name, entry)| (name.clone(), entry.clone())).collect();
        for name in OWN_TOPICS {
            let own = Entry::new(own_topic(name), Kept::default(), None);
            table.insert(own.topic.name.clone(), Arc::new(own));
        }
        let file = File { document, entries: known, starts };
        let topics = Self { table: RwLock::new(table), change: Mutex::new(file) };
        topics.settle_queues(store);
        Ok(topics)
    }

    /// Recovery may have brought back what was deleted: hides it below the start of the queues that live, and removes the
    /// queues of topics that do not, as far as there are any.
    fn settle_queues(&self, store: &Store) {
        for (name, starts) in &self.change.lock().starts {
            if self.entry(name.as_str()).is_some() {
                begin_queues(store, name, starts);
            } else if store.has_messages(name)
                && let Err(error) = store.delete_topic(name)
            {
                tracing::warn!(topic = %name, %error, "removing the queues of a deleted topic");
            }
        }
    }

    pub(super) fn entry(&self, name: &str) -> Option<Arc<Entry>> {
        self.table.read().get(name).cloned()
    }

    /// Writes the file with the change, then makes the change visible.
    fn commit(&self, file: &mut File, change: Change<'_>, to: Saver<'_>) -> Result<(), AdminError> {
        let (name, entry, starts) = match change {
            Change::Put(entry) => (entry.topic.name.clone(), Some(Arc::new(entry)), None),
            Change::Remove(name, starts) => (name.clone(), None, Some(starts)),
        };
        let entry_before = file.swap(&name, entry.clone());
        let starts_before = starts.map(|starts| std::mem::replace(&mut file.starts, starts));
        if let Err(error) = file.save(to) {
            file.swap(&name, entry_before);
            file.starts = starts_before.unwrap_or_else(|| std::mem::take(&mut file.starts));
            return Err(error);
        }
        match entry {
            Some(entry) => self.table.write().insert(name, entry),
            None => self.table.write().remove(&name),
        };
        Ok(())
    }
}

impl File {
    fn swap(&mut self, name: &TopicName, entry: Option<Arc<Entry>>) -> Option<Arc<Entry>> {
        match entry {
            Some(entry) => self.entries.insert(name.clone(), entry),
            None => self.entries.remove(name),
        }
    }

    fn save(&mut self, to: Saver<'_>) -> Result<(), AdminError> {
        let entries = self.entries.iter().map(|(name, entry)| (name.as_str(), &*entry.json));
        KIND.save(&mut self.document, entries, &topics_file::starts_member(&self.starts), to)
    }
}

impl Entry {
    fn new(topic: Topic, kept: Kept, starts: Option<Arc<QueueStarts>>) -> Self {
        let json = topics_file::encode(&topic, &kept).to_string().into();
        Self { topic: Arc::new(topic), lane: Arc::default(), starts, kept, json }
    }
    /// Where in the log its records begin: what lies before is of a deleted topic of this name.
    pub(in crate::broker) fn began_at(&self) -> PhysicalOffset {
        self.starts.as_ref().map_or(PhysicalOffset::ZERO, |starts| starts.deleted_at())
    }
    /// The same topic with other settings.
    fn with(&self, topic: Topic) -> Self {
        Self { lane: self.lane.clone(), ..Self::new(topic, self.kept.clone(), self.starts.clone()) }
    }
}

/// Nobody reads or writes it by name.
fn own_topic(name: &'static str) -> Topic {
    Topic {
        name: TopicName::system(name),
        message_type: Some(MessageType::Normal),
        read_queues: 1,
        write_queues: 1,
        readable: false,
        writable: false,
    }
}

/// A topic that the server derives from a group's name.
fn derived_topic(name: TopicName) -> Topic {
    Topic {
        name,
        message_type: Some(MessageType::Normal),
        read_queues: 1,
        write_queues: 1,
        readable: true,
        writable: true,
    }
}

fn begin_queues(store: &Store, name: &TopicName, starts: &QueueStarts) {
    for (queue, start) in starts.iter().filter(|(_, start)| *start > QueueOffset::ZERO) {
        store.begin_queue(name, queue, start);
    }
}

fn refuse_system(name: &TopicName) -> Result<(), AdminError> {
    if name.is_system() { Err(AdminError::Reserved(format!("topic {name}"))) } else { Ok(()) }
}

fn check_queues(queues: u32) -> Result<(), AdminError> {
    if (1..=QUEUES_MAX).contains(&queues) {
        return Ok(());
    }
    Err(AdminError::Invalid(format!("{queues} queues are not possible; a topic has 1 to {QUEUES_MAX}")))
}

/// Whether nothing that one says contradicts the other; an open type says nothing.
fn agree(there: &Topic, wanted: &Topic) -> bool {
    let message_type = match (there.message_type, wanted.message_type) {
        (Some(a), Some(b)) if a != b => return false,
        _ => there.message_type,
    };
    *there == Topic { message_type, ..wanted.clone() }
}

fn describe(topic: &Topic) -> String {
    let kind = topic.message_type.map_or("no type yet", MessageType::as_str);
    let access = match (topic.readable, topic.writable) {
        (true, true) => "readable and writable",
        (true, false) => "readable",
        (false, true) => "writable",
        (false, false) => "closed",
    };
    format!("{} read and {} write queues, {kind}, {access}", topic.read_queues, topic.write_queues)
}

impl Broker {
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topic_entry(name).map(|entry| entry.topic.clone())
    }

    pub(in crate::broker) fn topic_entry(&self, name: &str) -> Option<Arc<Entry>> {
        self.inner.metadata.topics.entry(name)
    }

    /// Every topic, sorted by name; system topics too when asked.
    pub fn topics(&self, system: bool) -> Vec<Arc<Topic>> {
        let table = self.inner.metadata.topics.table.read();
        let topics = table.values().map(|entry| entry.topic.clone()).filter(|topic| system || !topic.name.is_system());
        let mut topics: Vec<_> = topics.collect();
        drop(table);
        topics.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        topics
    }

    /// The topic, or, where `autoCreateTopicEnable` lets it, a new one whose type the first message decides. `Ok(None)`
    /// when it does not exist and may not be made. May wait for the disk.
    pub fn topic_or_create(&self, name: &TopicName) -> Result<Option<Arc<Topic>>, AdminError> {
        if let Some(topic) = self.topic(name.as_str()) {
            return Ok(Some(topic));
        }
        if !self.inner.config.auto_create_topic {
            return Ok(None);
        }
        refuse_system(name)?;
        let queues = self.inner.config.default_queues.clamp(1, QUEUES_MAX);
        let topic = match derived_topic(name.clone()) {
            topic if name.is_derived() => topic,
            topic => Topic { message_type: None, read_queues: queues, write_queues: queues, ..topic },
        };
        self.find_or_insert(topic, Limit::Counted).map(|(topic, _)| Some(topic))
    }

    /// [`Broker::topic_or_create`] for async code.
    pub async fn topic_for(&self, name: &TopicName) -> Result<Option<Arc<Topic>>, AdminError> {
        if let Some(topic) = self.topic(name.as_str()) {
            return Ok(Some(topic));
        }
        if !self.inner.config.auto_create_topic {
            return Ok(None);
        }
        let name = name.clone();
        self.change_metadata(move |broker| broker.topic_or_create(&name)).await
    }

    /// A group's dead-letter topic, made when it does not exist: one queue, readable and writable. Not subject to
    /// `topicsMax`. May wait for the disk.
    pub(in crate::broker) fn ensure_dead_letter_topic(&self, group: &GroupName) -> Result<Arc<Topic>, AdminError> {
        self.find_or_insert(derived_topic(TopicName::dead_letter(group)), Limit::Exempt).map(|(topic, _)| topic)
    }

    /// The topic that a record at `since` named; `None` when that was deleted, whether or not there is one of its name again.
    pub(in crate::broker) fn topic_of(&self, since: PhysicalOffset, topic: &TopicName) -> Option<Arc<Entry>> {
        self.topic_entry(topic.as_str()).filter(|entry| since >= entry.began_at())
    }

    /// Appends a unit while `topic`, which some of its records are for, is certain to exist; `None` when it does not.
    /// Nothing else may append records of a topic that can be deleted.
    pub(in crate::broker) fn append_to_topic(
        &self,
        topic: &TopicName,
        unit: &[NewMessage],
        purpose: Purpose,
    ) -> Option<Result<Ticket, AppendError>> {
        self.append_to_topic_of(PhysicalOffset::MAX, topic, unit, purpose)
    }

    /// [`Broker::append_to_topic`] of what becomes of a record at `since` that named the topic: never to one that was made
    /// under its name since.
    pub(in crate::broker) fn append_to_topic_of(
        &self,
        since: PhysicalOffset,
        topic: &TopicName,
        unit: &[NewMessage],
        purpose: Purpose,
    ) -> Option<Result<Ticket, AppendError>> {
        // Once this topic is deleted its own gate stays shut.
        self.topic_of(since, topic)?.lane.gate.pass(|| self.inner.store.append(unit, purpose))
    }

    /// The first offset that a queue of this topic can have: 0, unless a topic of this name was deleted. What names an
    /// offset below it speaks of the deleted one.
    pub fn queue_start(&self, topic: &TopicName, queue: QueueId) -> QueueOffset {
        let entry = self.topic_entry(topic.as_str());
        entry.and_then(|e| e.starts.as_ref().map(|s| s.of(queue))).unwrap_or(QueueOffset::ZERO)
    }

    /// The topic and whether it was made just now. An equal one is returned as it is; one whose type is open gets the type
    /// asked for; a different one is a conflict. No type asked for agrees with every type. Waits for the disk.
    pub fn create_topic(&self, topic: Topic) -> Result<(Arc<Topic>, bool), AdminError> {
        refuse_system(&topic.name)?;
        check_queues(topic.read_queues)?;
        check_queues(topic.write_queues)?;
        let (mut there, created) = self.find_or_insert(topic.clone(), Limit::Counted)?;
        if let (None, Some(wanted)) = (there.message_type, topic.message_type)
            && agree(&there, &topic)
        {
            there = self.decide_type(&topic.name, wanted)?.topic.clone();
        }
        if created || agree(&there, &topic) {
            return Ok((there, created));
        }
        let (name, has) = (&there.name, describe(&there));
        Err(AdminError::Conflict(format!(
            "topic {name} exists with other settings ({has}); change it with `ferromq topic update {name}`"
        )))
    }

    /// Waits for the disk.
    pub fn update_topic(&self, name: &TopicName, change: TopicChange) -> Result<Arc<Topic>, AdminError> {
        refuse_system(name)?;
        self.edit_topic(name, |topic| {
            if let Some(queues) = change.queues {
                check_queues(queues)?;
                let has = topic.read_queues.max(topic.write_queues);
                if queues < has {
                    let why = format!("topic {name} has {has} queues; their number can grow, not shrink to {queues}");
                    return Err(AdminError::Invalid(why));
                }
                (topic.read_queues, topic.write_queues) = (queues, queues);
            }
            let wanted = change.message_type.or(topic.message_type);
            let decided = topic.message_type.is_some();
            if decided
                && wanted != topic.message_type
                && [wanted, topic.message_type].contains(&Some(MessageType::Lite))
            {
                let why = format!("topic {name}: the type LITE is for good; delete the topic and create it anew");
                return Err(AdminError::Invalid(why));
            }
            topic.message_type = wanted;
            topic.readable = change.readable.unwrap_or(topic.readable);
            topic.writable = change.writable.unwrap_or(topic.writable);
            Ok(())
        })
        .map(|entry| entry.topic.clone())
    }

    /// Gives a topic its type if it has none yet; the entry says which it has now. May wait for the disk.
    pub(in crate::broker) fn decide_type(
        &self,
        name: &TopicName,
        message_type: MessageType,
    ) -> Result<Arc<Entry>, AdminError> {
        self.edit_topic(name, |topic| {
            topic.message_type.get_or_insert(message_type);
            Ok(())
        })
    }

    /// Its messages, queues and every group's progress on it go too; see the room's door for how they stay away. A send
    /// that runs meanwhile is either refused or deleted too. Waits for the disk.
    pub fn delete_topic(&self, name: &TopicName) -> Result<(), AdminError> {
        refuse_system(name)?;
        let topics = &self.inner.metadata.topics;
        let mut file = topics.change.lock();
        let entry = topics.entry(name.as_str()).ok_or_else(|| AdminError::TopicNotFound(name.clone()))?;
        let closed = entry.lane.gate.close();
        let starts = self.starts_without(&entry, &file.starts)?;
        topics.commit(&mut file, Change::Remove(name, starts), self.saver())?;
        closed.for_good();
        self.topic_gone(name);
        tracing::info!(topic = %name, "topic deleted");
        Ok(())
    }

    /// The starts of all deleted topics, this one among them. Its gate is closed.
    fn starts_without(&self, entry: &Entry, starts: &Starts) -> Result<Starts, AdminError> {
        let (store, topic) = (&self.inner.store, &entry.topic);
        let end = store.end();
        // Behind this every message that has an offset is in its queue. Nor may the log end before it after a power cut: what
        // is there then belongs to the topic of before.
        store
            .committed_blocking(end)
            .and_then(|()| store.durable_blocking(end))
            .map_err(|e| AdminError::Metadata(e.to_string()))?;
        let log_start = store.start();
        let mut starts = starts.clone();
        starts.retain(|_, starts| !starts.is_over(log_start));
        if starts.len() >= STARTS_MAX {
            return Err(AdminError::Invalid(format!(
                "{STARTS_MAX} deleted topics still have messages in the log; wait until fileReservedTime has passed"
            )));
        }
        let before = |queue| entry.starts.as_ref().map_or(QueueOffset::ZERO, |s| s.of(queue));
        let queues = topic.read_queues.max(topic.write_queues).max(entry.starts.as_ref().map_or(0, |s| s.len()));
        let ends = (0..queues).map(QueueId).map(|queue| store.queue(&topic.name, queue).max().max(before(queue)));
        let ends = QueueStarts::new(end, ends);
        starts.remove(&topic.name);
        // A message that waits for its time, or for a decision, has no place in its topic yet, and must not get one in the
        // next of that name.
        if !ends.is_zero() || self.inner.timers.pending() > 0 || self.has_undecided() {
            starts.insert(topic.name.clone(), Arc::new(ends));
        }
        Ok(starts)
    }

    /// What follows a deletion that is safe. A crash before this is over is made good when the tables are loaded.
    ///
    /// The queues go first: a poll that still knows the topic may make a book meanwhile, and a book that outlives this must
    /// not be one of a queue that is gone.
    fn topic_gone(&self, name: &TopicName) {
        if let Err(error) = self.inner.store.delete_topic(name) {
            tracing::warn!(topic = %name, %error, "removing the queues of a deleted topic");
        }
        self.drop_transactions_of(name);
        self.inner.meters.forget_topic(name);
        // Before the books: one that is made meanwhile is forgotten with them, and so has no lite topics that are gone.
        self.inner.lite.forget_topic(name, self.inner.clock.now());
        self.await_again(name);
        self.keep_forgotten(self.inner.pop.forget_topic(name));
    }

    fn find_or_insert(&self, topic: Topic, limit: Limit) -> Result<(Arc<Topic>, bool), AdminError> {
        let started = self.inner.clock.now();
        let made = self.find_or_make(topic, limit);
        self.inner.meters.topic_made(&made, self.inner.clock.now().remaining(started));
        made
    }

    fn find_or_make(&self, topic: Topic, limit: Limit) -> Result<(Arc<Topic>, bool), AdminError> {
        let topics = &self.inner.metadata.topics;
        let mut file = topics.change.lock();
        if let Some(entry) = topics.entry(topic.name.as_str()) {
            return Ok((entry.topic.clone(), false));
        }
        let max = self.inner.config.topics_max;
        if limit == Limit::Counted && file.entries.len() >= max {
            return Err(AdminError::TooMany(max));
        }
        let starts = file.starts.get(&topic.name).cloned();
        if let Some(starts) = &starts {
            begin_queues(&self.inner.store, &topic.name, starts);
        }
        let entry = Entry::new(topic, Kept::default(), starts);
        let topic = entry.topic.clone();
        topics.commit(&mut file, Change::Put(entry), self.saver())?;
        drop(file);
        self.begin_awaited(&topic);
        tracing::info!(topic = %topic.name, queues = topic.write_queues, "topic created");
        Ok((topic, true))
    }

    /// Changes a topic's settings; writes nothing when they end up as they were.
    fn edit_topic(
        &self,
        name: &TopicName,
        edit: impl FnOnce(&mut Topic) -> Result<(), AdminError>,
    ) -> Result<Arc<Entry>, AdminError> {
        let topics = &self.inner.metadata.topics;
        let find = || topics.entry(name.as_str()).ok_or_else(|| AdminError::TopicNotFound(name.clone()));
        let mut file = topics.change.lock();
        let entry = find()?;
        let mut topic = Topic::clone(&entry.topic);
        edit(&mut topic)?;
        if topic == *entry.topic {
            return Ok(entry);
        }
        topics.commit(&mut file, Change::Put(entry.with(topic)), self.saver())?;
        let entry = find()?;
        tracing::info!(topic = %name, settings = describe(&entry.topic), "topic changed");
        Ok(entry)
    }
}
