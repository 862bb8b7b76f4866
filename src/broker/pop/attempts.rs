//! Polls that consumers of FIFO groups may repeat: a consumer that did not get an answer sends its attempt id again, and
//! must not wait for the leases that the lost answer began.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use parking_lot::Mutex;

use crate::types::{Deadline, GroupName, QueueOffset, TopicName};

use super::subscription::Owner;

/// Answers that are remembered at most, of all groups; the oldest make room. About 1 kB each, of 32 messages.
const REMEMBERED_MAX: usize = 16_384;
/// How long one is remembered. Clients repeat a poll at once when its deadline has passed.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);

/// Names a poll of a client; a client makes a new one for each poll, but for those that it repeats.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttemptId(String);

impl AttemptId {
    /// Bytes of an id at most; official clients send a UUID.
    pub const LEN_MAX: usize = 128;

    /// `None` when it is empty or longer than [`AttemptId::LEN_MAX`]: such a poll cannot be repeated.
    pub fn parse(text: &str) -> Option<Self> {
        (1..=Self::LEN_MAX).contains(&text.len()).then(|| Self(text.into()))
    }
}

/// One message of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Of a book: tells those of a group that was deleted and made again apart.
    pub book: u64,
    pub offset: QueueOffset,
    pub nonce: u32,
}

type Key = (TopicName, GroupName, AttemptId);

/// The answers that are remembered.
#[derive(Default)]
pub struct Attempts(Mutex<Table>);

#[derive(Default)]
struct Table {
    answers: HashMap<Key, (u64, Vec<Place>)>,
    /// By age: until when, which, and the number by which a newer answer to the same id is told.
    by_age: VecDeque<(Deadline, Key, u64)>,
    count: u64,
}

impl Attempts {
    /// What the poll with this id got; nothing when it is not known.
    pub fn find(&self, owner: &Owner, id: &AttemptId, now: Deadline) -> Vec<Place> {
        let mut table = self.0.lock();
        table.forget(now);
        let key = (owner.topic.clone(), owner.group.clone(), id.clone());
        table.answers.get(&key).map(|(_, places)| places.clone()).unwrap_or_default()
    }

    pub fn put(&self, owner: &Owner, id: &AttemptId, places: Vec<Place>, now: Deadline) {
        let mut table = self.0.lock();
        table.forget(now);
        table.count += 1;
        let (key, number) = ((owner.topic.clone(), owner.group.clone(), id.clone()), table.count);
        table.answers.insert(key.clone(), (number, places));
        table.by_age.push_back((now.plus(REMEMBERED_FOR), key, number));
    }
}

impl Table {
    fn forget(&mut self, now: Deadline) {
        while let Some((until, _, _)) = self.by_age.front()
            && (*until <= now || self.by_age.len() >= REMEMBERED_MAX)
            && let Some((_, key, number)) = self.by_age.pop_front()
        {
            if self.answers.get(&key).is_some_and(|(current, _)| *current == number) {
                self.answers.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::broker::long_poll::LongPoll;

    fn owner() -> Owner {
        let (topic, group) = (TopicName::parse("t").expect("a name"), GroupName::parse("g").expect("a name"));
        let line = Arc::new(LongPoll::new(1, 1)).line(&topic, &group);
        Owner { topic, group, line, lite: Default::default(), meter: Default::default() }
    }

    fn place(n: u64) -> Vec<Place> {
        vec![Place { book: 0, offset: QueueOffset::new(n), nonce: 0 }]
    }

    #[test]
    fn no_more_answers_are_remembered_than_the_bound_and_none_for_longer() {
        let (attempts, owner) = (Attempts::default(), owner());
        let id = |n: usize| AttemptId::parse(&n.to_string()).expect("an id");
        let now = Deadline::from_micros(0);
        for n in 0..REMEMBERED_MAX + 10 {
            attempts.put(&owner, &id(n), place(n as u64), now);
            // The same again and again takes the place of others, and is still one.
            attempts.put(&owner, &id(n), place(n as u64), now);
        }
        let table = attempts.0.lock();
        assert!(table.answers.len() <= table.by_age.len() && table.by_age.len() <= REMEMBERED_MAX);
        drop(table);
        let newest = id(REMEMBERED_MAX + 9);
        assert_eq!(attempts.find(&owner, &newest, now).len(), 1);
        assert_eq!(attempts.find(&owner, &id(0), now).len(), 0);
        assert_eq!(attempts.find(&owner, &newest, now.plus(REMEMBERED_FOR)).len(), 0);
        assert_eq!(attempts.0.lock().answers.len(), 0);
    }

    #[test]
    fn an_id_that_is_empty_or_too_long_is_none() {
        assert!(AttemptId::parse("").is_none());
        assert!(AttemptId::parse(&"x".repeat(AttemptId::LEN_MAX)).is_some());
        assert!(AttemptId::parse(&"x".repeat(AttemptId::LEN_MAX + 1)).is_none());
    }
}
