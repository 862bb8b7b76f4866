//! The halves that wait for their decision. Memory follows them: about 200 bytes each.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::types::{Deadline, PhysicalOffset, QueueOffset, TopicName};

use super::Decision;

/// Decisions that are remembered, so that a late or repeated one can be answered without looking for it.
const DECIDED_MAX: usize = 65_536;

/// A half that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Half {
    /// Where it is meant to go.
    pub topic: TopicName,
    pub physical: PhysicalOffset,
    /// How often a producer was asked.
    pub checks: u32,
    /// When one is asked next.
    pub due: Deadline,
    /// A question about it waits for its producer; when it is taken for lost.
    pub asking: Option<Deadline>,
    /// Until when it may wait at all.
    pub until: Deadline,
}

pub(super) struct Pending {
    max: usize,
    table: Mutex<Table>,
    sooner: Notify,
}

#[derive(Default)]
struct Table {
    halves: BTreeMap<QueueOffset, Half>,
    by_due: BTreeSet<(Deadline, QueueOffset)>,
    by_topic: HashMap<TopicName, u64>,
    /// Places that are promised and not yet taken.
    reserved: usize,
    /// When the next round is promised to be; `None`: not before something is due. During a round: the beginning of
    /// time, since it will see whatever comes meanwhile.
    promised: Option<Deadline>,
    decided: BTreeMap<QueueOffset, Decision>,
}

/// Promised places; what is not taken goes back.
pub(in crate::broker) struct Places<'a> {
    pending: &'a Pending,
    left: usize,
}

impl Pending {
    pub fn new(max: usize) -> Self {
        Self { max, table: Mutex::default(), sooner: Notify::new() }
    }

    pub fn len(&self) -> usize {
        self.table.lock().halves.len()
    }

    /// How many are meant for each topic.
    pub fn by_topic(&self) -> Vec<(TopicName, u64)> {
        self.table.lock().by_topic.iter().map(|(topic, count)| (topic.clone(), *count)).collect()
    }

    /// Promises so many places, or says how many there are.
    pub fn reserve(&self, count: usize) -> Result<Places<'_>, usize> {
        if count > 0 {
            let mut table = self.table.lock();
            if table.halves.len() + table.reserved + count > self.max {
                return Err(self.max);
            }
            table.reserved += count;
        }
        Ok(Places { pending: self, left: count })
    }

    /// Puts in what a start found; it has its place whatever the limit is now.
    pub fn restore(&self, offset: QueueOffset, half: Half) {
        self.table.lock().put(offset, half);
    }

    /// Takes a half out, and remembers the decision if there was one.
    pub fn end(&self, offset: QueueOffset, decision: Option<Decision>) {
        let mut table = self.table.lock();
        table.take(offset);
        if let Some(decision) = decision {
            table.decided.insert(offset, decision);
            if table.decided.len() > DECIDED_MAX {
                table.decided.pop_first();
            }
        }
    }

    /// The decision, as far as it is remembered.
    pub fn decided(&self, offset: QueueOffset) -> Option<Decision> {
        self.table.lock().decided.get(&offset).copied()
    }

    /// Every half that is meant for a topic.
    pub fn of_topic(&self, topic: &TopicName) -> Vec<QueueOffset> {
        let table = self.table.lock();
        table.halves.iter().filter(|(_, half)| half.topic == *topic).map(|(offset, _)| *offset).collect()
    }

    /// The halves that are due, at most `limit`, and what `judge` says of each; with that it says when the half is due
    /// again. Begins a round.
    pub fn due<F>(
        &self,
        now: Deadline,
        limit: usize,
        mut judge: impl FnMut(&Half) -> (F, Duration),
    ) -> Vec<(QueueOffset, F)> {
        let mut table = self.table.lock();
        table.promised = Some(Deadline::default());
        let mut due = Vec::new();
        while due.len() < limit
            && let Some(&(at, offset)) = table.by_due.first().filter(|(at, _)| *at <= now)
        {
            let Some(mut half) = table.halves.get(&offset).cloned() else {
                table.by_due.remove(&(at, offset));
                continue;
            };
            let (fate, again) = judge(&half);
            due.push((offset, fate));
            // A round must come to its end.
            half.due = now.plus(again.max(Duration::from_millis(1)));
            table.put(offset, half);
        }
        due
    }

    /// Gives another time to what a round took and could not do.
    pub fn put_off(&self, offsets: impl IntoIterator<Item = QueueOffset>, until: Deadline) {
        let mut table = self.table.lock();
        let mut any = false;
        for offset in offsets {
            if let Some(mut half) = table.halves.get(&offset).cloned() {
                half.due = until;
                table.put(offset, half);
                any = true;
            }
        }
        if any && table.promised.is_none_or(|promised| until < promised) {
            self.sooner.notify_one();
        }
    }

    /// Notes that a question waits for its producer, and until when no other is to be asked.
    pub fn asks(&self, offset: QueueOffset, until: Deadline) {
        if let Some(half) = self.table.lock().halves.get_mut(&offset) {
            half.asking = Some(until);
        }
    }

    /// Notes that no question waits any more; true when one did.
    pub fn asks_no_more(&self, offset: QueueOffset) -> bool {
        self.table.lock().halves.get_mut(&offset).is_some_and(|half| half.asking.take().is_some())
    }

    /// Notes that a producer was asked; how often that is, and when one is asked again. `None` when it is decided.
    pub fn asked(&self, offset: QueueOffset) -> Option<(u32, Deadline)> {
        let mut table = self.table.lock();
        let half = table.halves.get_mut(&offset)?;
        half.checks = half.checks.saturating_add(1);
        Some((half.checks, half.due))
    }

    /// Ends a round: promises another when the next half is due.
    pub fn promise(&self) -> Option<Deadline> {
        let mut table = self.table.lock();
        table.promised = table.by_due.first().map(|(at, _)| *at);
        table.promised
    }

    /// Returns once a half is due before the promise.
    pub async fn sooner(&self) {
        self.sooner.notified().await;
    }
}

impl Places<'_> {
    /// Takes one of the places.
    pub(super) fn take(&mut self, offset: QueueOffset, half: Half) {
        let mut table = self.pending.table.lock();
        if self.left > 0 {
            self.left -= 1;
            table.reserved -= 1;
        }
        let sooner = table.promised.is_none_or(|promised| half.due < promised);
        table.put(offset, half);
        drop(table);
        if sooner {
            self.pending.sooner.notify_one();
        }
    }
}

impl Drop for Places<'_> {
    fn drop(&mut self) {
        if self.left > 0 {
            self.pending.table.lock().reserved -= self.left;
        }
    }
}

impl Table {
    fn put(&mut self, offset: QueueOffset, half: Half) {
        self.take(offset);
        self.by_due.insert((half.due, offset));
        match self.by_topic.get_mut(&half.topic) {
            Some(count) => *count += 1,
            None => drop(self.by_topic.insert(half.topic.clone(), 1)),
        }
        self.halves.insert(offset, half);
    }

    fn take(&mut self, offset: QueueOffset) {
        if let Some(half) = self.halves.remove(&offset) {
            self.by_due.remove(&(half.due, offset));
            if let Some(count) = self.by_topic.get_mut(&half.topic) {
                *count -= 1;
                if *count == 0 {
                    self.by_topic.remove(&half.topic);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half(due: u64) -> Half {
        let topic = TopicName::parse("T").unwrap();
        let at = Deadline::from_micros;
        Half { topic, physical: PhysicalOffset::ZERO, checks: 0, due: at(due), asking: None, until: at(1_000_000) }
    }
    fn at(n: u64) -> QueueOffset {
        QueueOffset::new(n)
    }

    #[test]
    fn places_are_promised_up_to_the_limit_and_come_back_when_they_are_not_taken() {
        let pending = Pending::new(2);
        let mut places = pending.reserve(2).unwrap();
        assert_eq!(pending.reserve(1).err(), Some(2));
        places.take(at(0), half(5));
        drop(places);
        assert_eq!((pending.len(), pending.reserve(2).err()), (1, Some(2)));
        assert!(pending.reserve(1).is_ok());
        pending.end(at(0), Some(Decision::Commit));
        assert!(pending.reserve(2).is_ok());
        assert_eq!(pending.decided(at(0)), Some(Decision::Commit));
    }

    #[test]
    fn halves_come_when_they_are_due_and_once_in_a_round() {
        let pending = Pending::new(10);
        let mut places = pending.reserve(3).unwrap();
        for (offset, due) in [(0, 30), (1, 10), (2, 20)] {
            places.take(at(offset), half(due));
        }
        let now = Deadline::from_micros(20);
        let again = |_: &Half| ((), Duration::from_millis(100));
        let due: Vec<_> = pending.due(now, 10, again).into_iter().map(|(offset, _)| offset).collect();
        assert_eq!(due, [at(1), at(2)]);
        assert_eq!(pending.promise(), Some(Deadline::from_micros(30)));
        assert_eq!(pending.asked(at(1)), Some((1, now.plus(Duration::from_millis(100)))));
        pending.end(at(1), None);
        assert_eq!(pending.asked(at(1)), None);
        // Even if it should be due at once, a round ends.
        assert_eq!(pending.due(now.plus(Duration::from_micros(10)), 10, |_| ((), Duration::ZERO)).len(), 1);
        assert!(pending.promise() > Some(now));
    }

    #[tokio::test]
    async fn a_half_that_is_due_before_the_promise_brings_the_round_forward() {
        let pending = Pending::new(10);
        pending.reserve(1).unwrap().take(at(0), half(50));
        pending.sooner().await;
        pending.promise();
        pending.reserve(1).unwrap().take(at(1), half(60));
        assert!(tokio::time::timeout(Duration::from_millis(5), pending.sooner()).await.is_err());
        pending.reserve(1).unwrap().take(at(2), half(40));
        pending.sooner().await;
    }
}
