//! What a store that Apache's broker wrote says about that broker's own work: which half messages are decided and which
//! timers are over, so that neither is asked about, or delivered, again; and what nobody here goes on with.
//!
//! - Halves: the offset of `CID_RMQ_SYS_TRANS` on the half topic, and the OP topic, whose records name the halves that are
//!   decided beyond it (`TransactionalMessageBridge.putOpMessage`: offsets with commas between them).
//! - Timers: `config/timercheck` (`TimerCheckpoint`): up to which time they were delivered, and up to which offset of the
//!   timer topic that is known. A timer that Apache rolled forward is over where a later record of it says so.
//! - Messages delayed by a level, and deliveries of Apache's POP without an answer, lie in topics that this server does not
//!   read. They are counted and named: only Apache's broker can still deliver them.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use crate::{
    broker::{
        delay::TIMER_GROUP,
        fastjson,
        metadata::{HALF_TOPIC, TIMER_TOPIC},
        offsets, transaction,
    },
    store::{Entry, Queue, ReadError, Store},
    types::{GroupName, QueueId, QueueOffset, StoredMessage, TopicName, properties::key},
};

use super::{Book, OpenError, restore::load_state};

/// Halves that are decided (`TransactionalMessageUtil.buildOpTopic`).
const OP_TOPIC: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
/// Messages that are delayed by a level, a queue for each.
const LEVELS_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
/// How far each level is delivered.
const LEVELS_FILE: &str = "delayOffset.json";
const TIMERS_FILE: &str = "timercheck";
const REVIVE_TOPICS: &str = "rmq_sys_REVIVE_LOG_";
/// Levels at most, so that a damaged file cannot make us look for long.
const LEVELS_MAX: u32 = 1024;
/// Entries that are read at once.
const CHUNK: usize = 1024;

/// An own topic's book.
pub type OwnBook = ((TopicName, GroupName), BTreeMap<QueueId, Book>);

/// The books of the half topic and of the timer topic. Waits for the disk.
pub fn own_books(store: &Store, consumer_offsets: &[u8]) -> Result<[OwnBook; 2], OpenError> {
    let offsets =
        offsets::decode_own(consumer_offsets).map_err(|why| OpenError::State { file: offsets::FILE.into(), why })?;
    tell_what_is_left(store, &offsets)?;
    let book = |topic, group, book| ((TopicName::system(topic), GroupName::system(group)), [(QueueId(0), book)].into());
    Ok([book(HALF_TOPIC, transaction::GROUP, halves(store, &offsets)?), book(TIMER_TOPIC, TIMER_GROUP, timers(store)?)])
}

fn halves(store: &Store, offsets: &offsets::Own) -> Result<Book, OpenError> {
    let half_topic = TopicName::system(HALF_TOPIC);
    let ends = store.queue(&half_topic, QueueId(0)).max();
    let of_apache = offsets.get(&format!("{HALF_TOPIC}@{}", transaction::GROUP)).and_then(|queues| queues.get(&0));
    let begin = of_apache.and_then(|offset| QueueOffset::from_wire(*offset)).unwrap_or(QueueOffset::ZERO).min(ends);
    let mut book = Book::starting_at(begin);
    each(&store.queue(&TopicName::system(OP_TOPIC), QueueId(0)), |entry| {
        let Some(record) = read(store, entry)? else { return Ok(()) };
        let text = String::from_utf8_lossy(&record.body);
        let decided = text.split(',').filter_map(|offset| QueueOffset::from_wire(offset.trim().parse().ok()?));
        decided.filter(|offset| *offset < ends).for_each(|offset| book.done(offset..offset.plus(1)));
        Ok(())
    })?;
    Ok(book)
}

fn timers(store: &Store) -> Result<Book, OpenError> {
    let queue = store.queue(&TopicName::system(TIMER_TOPIC), QueueId(0));
    let mut book = Book::starting_at(QueueOffset::ZERO);
    let Some(checkpoint) = load_state(store, TIMERS_FILE)? else { return Ok(book) };
    let number = |at: usize| checkpoint.get(at..at + 8)?.try_into().ok().map(i64::from_be_bytes);
    let (Some(delivered_until), Some(known_until)) = (number(0), number(16)) else { return Ok(book) };
    // Only what was rolled is remembered: what waits for more than two days.
    let mut rolled: HashMap<Timer, Vec<(QueueOffset, u32)>> = HashMap::new();
    each(&queue, |entry| {
        if let Some(message) = read(store, entry)?
            && let (Some(timer), times @ 1..) = (Timer::of(&message), times(&message))
        {
            rolled.entry(timer).or_default().push((entry.offset, times));
        }
        Ok(())
    })?;
    each(&queue, |entry| {
        let Some(message) = read(store, entry)? else { return Ok(()) };
        let due = message.properties.get(key::TIMER_OUT_MS).and_then(|due| due.parse::<i64>().ok());
        let is_known = entry.offset.to_wire() < known_until;
        let is_delivered = is_known && due.is_some_and(|due| due < delivered_until);
        let rolls = Timer::of(&message).and_then(|timer| rolled.get(&timer));
        let goes_on = |(at, more): &(QueueOffset, u32)| *at > entry.offset && *more > times(&message);
        if is_delivered || rolls.is_some_and(|rolls| rolls.iter().any(goes_on)) {
            book.done(entry.offset..entry.offset.plus(1));
        }
        Ok(())
    })?;
    Ok(book)
}

/// What stays the same of a timer when Apache's broker rolls it. An id alone is not enough: a producer may use it in
/// several topics, and again for another time.
#[derive(PartialEq, Eq, Hash)]
struct Timer {
    topic: String,
    id: String,
    due: String,
}

impl Timer {
    fn of(message: &StoredMessage) -> Option<Self> {
        let of = |key| message.properties.get(key).map(str::to_owned);
        Some(Self { topic: of(key::REAL_TOPIC)?, id: of(key::UNIQ_KEY)?, due: of(key::TIMER_OUT_MS)? })
    }
}

fn times(message: &StoredMessage) -> u32 {
    message.properties.get(key::TIMER_ROLL_TIMES).and_then(|times| times.parse().ok()).unwrap_or(0)
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Levels {
    offset_table: BTreeMap<String, i64>,
}

fn tell_what_is_left(store: &Store, offsets: &offsets::Own) -> Result<(), OpenError> {
    let cure = "stop, start Apache's broker on this store, let it deliver them, stop it cleanly and come back";
    let delayed = delayed_by_level(store)?;
    if delayed > 0 {
        tracing::error!(
            count = delayed,
            cure,
            "messages delayed by level are in Apache's own topic and never come here"
        );
    }
    let left = |topic: &TopicName, (queue, offset): (&u32, &i64)| {
        let done = QueueOffset::from_wire(*offset).unwrap_or(QueueOffset::ZERO);
        done.until(store.queue(topic, QueueId(*queue)).max())
    };
    let revive = offsets.iter().filter_map(|(names, queues)| {
        let topic = TopicName::parse_any(names.split_once('@')?.0).ok()?;
        let is_revive = topic.as_str().starts_with(REVIVE_TOPICS);
        is_revive.then(|| queues.iter().map(|queue| left(&topic, queue)).sum::<u64>())
    });
    let unanswered: u64 = revive.sum();
    if unanswered > 0 {
        tracing::error!(
            records = unanswered,
            cure,
            "deliveries of Apache's POP that had no answer are in its own topic; those messages may never come here"
        );
    }
    Ok(())
}

fn delayed_by_level(store: &Store) -> Result<u64, OpenError> {
    let topic = TopicName::system(LEVELS_TOPIC);
    if !store.has_messages(&topic) {
        return Ok(0);
    }
    let levels: Levels = match load_state(store, LEVELS_FILE)? {
        Some(bytes) => fastjson::parse(&bytes).map_err(|why| OpenError::State { file: LEVELS_FILE.into(), why })?,
        None => Levels::default(),
    };
    let left = |level: u32| {
        let queue = store.queue(&topic, QueueId(level - 1));
        let known = levels.offset_table.get(&level.to_string()).and_then(|offset| QueueOffset::from_wire(*offset));
        known.unwrap_or(QueueOffset::ZERO).max(queue.min()).until(queue.max())
    };
    Ok((1..=LEVELS_MAX).map(left).sum())
}

/// Looks at every entry of a queue.
fn each(queue: &Queue, mut look: impl FnMut(&Entry) -> Result<(), ReadError>) -> Result<(), ReadError> {
    let mut next = queue.min();
    loop {
        let entries = queue.entries(next, CHUNK)?;
        let Some(last) = entries.last() else { return Ok(()) };
        next = last.offset.plus(1);
        entries.iter().try_for_each(&mut look)?;
    }
}

/// `None` for a record that is gone or damaged.
fn read(store: &Store, entry: &Entry) -> Result<Option<StoredMessage>, ReadError> {
    match store.message(entry.physical, entry.size) {
        Ok(message) => Ok(Some(message)),
        Err(ReadError::Gone(_) | ReadError::Corrupt { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
