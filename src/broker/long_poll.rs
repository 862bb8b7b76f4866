//! Parked polls, woken by what they wait for. No polling loop anywhere.
//!
//! A poll takes a [`Seat`] in the [`Line`] of its topic and group and only then has its last look: what arrives before
//! the look is seen by it, what arrives after finds the seat. An arrival wakes one poll of each group, the oldest whose
//! filter may want the message; a poll that was woken and has not looked yet will see later arrivals too, so they wake
//! nobody else. Whoever takes a full batch and leaves some wakes the next ([`Line::wake`]).
//!
//! Polls of a LITE topic wait in a line of their client's set ([`LongPoll::loose_line`]): who makes something of a lite topic
//! deliverable wakes the lines of the sets that have it.
//!
//! Pulls, which take nothing away from each other, have a line for each queue, and an arrival wakes all of it.
//!
//! A wake-up is never lost: a seat that is given up between being woken and having looked passes the wake-up on, also
//! when the look ended with an error.
//!
//! Locks: `topics`, then one line's; wakers run after both are let go.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
    },
    task::{Context, Poll, Waker},
};

use parking_lot::{Mutex, RwLock};

use crate::types::{GroupName, QueueId, TopicName};

use super::Filter;

#[cfg(test)]
mod tests;

/// Why a poll is woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A message with this tag hash arrived.
    Arrival { tags_code: i64 },
    /// Something else changed: a retry is due, there is more, there is room. Any filter may be concerned.
    Any,
}

/// Why no seat was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    pub parked: usize,
    pub max: usize,
    /// The setting that names the bound.
    pub setting: &'static str,
}

/// All parked polls.
pub struct LongPoll {
    room: Arc<Room>,
    topics: RwLock<HashMap<TopicName, HashMap<GroupName, Arc<Line>>>>,
    /// Of pulls.
    queues: RwLock<HashMap<TopicName, HashMap<QueueId, Arc<Line>>>>,
}

/// What all lines share.
struct Room {
    /// Seats taken.
    parked: AtomicUsize,
    ended: AtomicBool,
    parked_max: usize,
    line_max: usize,
}

/// The parked polls of one group on one topic, or the parked pulls of one queue.
pub struct Line {
    room: Arc<Room>,
    /// Seats taken, changed with the lock held: an arrival passes over a line without any, of which there are very many where
    /// clients of broadcasting groups are gone, and takes no lock.
    taken: AtomicUsize,
    seats: Mutex<Seats>,
}

#[derive(Default)]
struct Seats {
    /// By age: the first is the oldest. About 150 bytes each.
    waiting: BTreeMap<u64, Waiting>,
    next: u64,
    /// What concerns one concerns all: they are pulls.
    all: bool,
}

struct Waiting {
    filter: Filter,
    woken: Option<Cause>,
    /// The wake-up that it is looking for: not used up before the look has succeeded.
    looking: Option<Cause>,
    waker: Option<Waker>,
}

/// A poll's place in a line. Dropped, it is free, and a wake-up that it did not use goes to the next.
pub struct Seat {
    line: Arc<Line>,
    id: u64,
}

impl LongPoll {
    /// `parked_max` seats in all (`maxPopPollingSize`), `line_max` in one line (`popPollingSize`).
    pub fn new(parked_max: usize, line_max: usize) -> Self {
        let room = Room { parked: AtomicUsize::new(0), ended: AtomicBool::new(false), parked_max, line_max };
        Self { room: Arc::new(room), topics: RwLock::default(), queues: RwLock::default() }
    }

    /// The line of a group on a topic, made if need be. It stays until the topic or the group is forgotten.
    pub fn line(&self, topic: &TopicName, group: &GroupName) -> Arc<Line> {
        let mut topics = self.topics.write();
        let line = || self.new_line(false);
        Arc::clone(topics.entry(topic.clone()).or_default().entry(group.clone()).or_insert_with(line))
    }

    /// The line of pulls of a queue, made if need be. It stays until the topic is forgotten.
    pub fn queue_line(&self, topic: &TopicName, queue: QueueId) -> Arc<Line> {
        let mut queues = self.queues.write();
        let line = || self.new_line(true);
        Arc::clone(queues.entry(topic.clone()).or_default().entry(queue).or_insert_with(line))
    }

    /// A line of its own, for polls that wait for something of their own: who knows of it wakes it, also at the end.
    pub fn loose_line(&self) -> Arc<Line> {
        self.new_line(false)
    }

    fn new_line(&self, all: bool) -> Arc<Line> {
        let (room, seats) = (Arc::clone(&self.room), Mutex::new(Seats { all, ..Seats::default() }));
        Arc::new(Line { room, taken: AtomicUsize::new(0), seats })
    }

    /// Wakes one poll of each group, and the pulls of the queue. Called for each message, so it costs next to nothing while nobody waits.
    pub fn arrived(&self, topic: &TopicName, queue: QueueId, tags_code: i64) {
        // Pairs with the fence in `Line::sit`: either this sees the seat, or the poll's last look sees the message.
        fence(Ordering::SeqCst);
        if self.room.parked.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut wakers = Vec::new();
        if let Some(lines) = self.topics.read().get(topic) {
            for line in lines.values().filter(|line| !line.is_empty()) {
                line.seats.lock().wake(Cause::Arrival { tags_code }, &mut wakers);
            }
        }
        if let Some(line) = self.queues.read().get(topic).and_then(|lines| lines.get(&queue)) {
            line.seats.lock().wake(Cause::Arrival { tags_code }, &mut wakers);
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Lets go of the lines of a topic and sends their polls to look again.
    pub fn forget_topic(&self, topic: &TopicName) {
        let lines = self.topics.write().remove(topic).unwrap_or_default();
        lines.values().for_each(|line| line.wake_all());
        let lines = self.queues.write().remove(topic).unwrap_or_default();
        lines.values().for_each(|line| line.wake_all());
    }

    /// Lets go of the lines of these groups and sends their polls to look again.
    pub fn forget_groups(&self, are: impl Fn(&GroupName) -> bool) {
        let mut topics = self.topics.write();
        let lines = topics.values_mut().flat_map(|lines| lines.extract_if(|group, _| are(group)));
        let lines: Vec<_> = lines.map(|(_, line)| line).collect();
        drop(topics);
        lines.iter().for_each(|line| line.wake_all());
    }

    /// Sends the polls of a group to look again: what they need to know of it has changed.
    pub fn wake_group(&self, group: &GroupName) {
        let lines: Vec<_> = self.topics.read().values().filter_map(|lines| lines.get(group).cloned()).collect();
        lines.iter().for_each(|line| line.wake_all());
    }

    /// Lets go of the line of a group on a topic and sends its polls to look again.
    pub fn forget_line(&self, topic: &TopicName, group: &GroupName) {
        let line = self.topics.write().get_mut(topic).and_then(|lines| lines.remove(group));
        line.iter().for_each(|line| line.wake_all());
    }

    /// Ends every parked poll, and lets no new one park.
    pub fn end(&self) {
        self.room.ended.store(true, Ordering::SeqCst);
        let mut lines: Vec<_> = self.topics.read().values().flat_map(|lines| lines.values().cloned()).collect();
        lines.extend(self.queues.read().values().flat_map(|lines| lines.values().cloned()));
        lines.iter().for_each(|line| line.wake_all());
    }

    pub fn has_ended(&self) -> bool {
        self.room.ended.load(Ordering::SeqCst)
    }

    /// Seats taken.
    pub fn parked(&self) -> usize {
        self.room.parked.load(Ordering::Relaxed)
    }
}

impl Line {
    /// Takes a seat; from now on nothing that arrives is missed.
    pub fn sit(self: &Arc<Self>, filter: Filter) -> Result<Seat, Full> {
        let parked = self.room.parked.fetch_add(1, Ordering::SeqCst);
        let full = |parked, max, setting| {
            self.room.parked.fetch_sub(1, Ordering::SeqCst);
            Err(Full { parked, max, setting })
        };
        if parked >= self.room.parked_max {
            return full(parked, self.room.parked_max, "maxPopPollingSize");
        }
        let mut seats = self.seats.lock();
        let in_line = seats.waiting.len();
        if in_line >= self.room.line_max {
            drop(seats);
            return full(in_line, self.room.line_max, "popPollingSize");
        }
        let id = seats.next;
        seats.next += 1;
        // Whoever ends all polls may have been here already.
        let woken = self.room.ended.load(Ordering::SeqCst).then_some(Cause::Any);
        seats.waiting.insert(id, Waiting { filter, woken, looking: None, waker: None });
        self.taken.store(seats.waiting.len(), Ordering::Relaxed);
        drop(seats);
        fence(Ordering::SeqCst);
        Ok(Seat { line: Arc::clone(self), id })
    }

    /// Wakes the poll that can make most of it; nobody when a woken one is on its way.
    pub fn wake(&self, cause: Cause) {
        if self.room.parked.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut wakers = Vec::new();
        self.seats.lock().wake(cause, &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.taken.load(Ordering::Relaxed) == 0
    }

    /// Sends all of its polls to look.
    pub fn wake_all(&self) {
        let mut wakers = Vec::new();
        for waiting in self.seats.lock().waiting.values_mut() {
            waiting.wake(Cause::Any, &mut wakers);
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Seats {
    fn wake(&mut self, cause: Cause, wakers: &mut Vec<Waker>) {
        match cause {
            Cause::Arrival { tags_code } => {
                let most = if self.all { usize::MAX } else { 1 };
                let concerned = self.waiting.values_mut().filter(|w| w.filter.may_match(tags_code));
                concerned.take(most).for_each(|waiting| waiting.wake(cause, wakers));
            }
            // Which filter it concerns is not known: one poll of each. The polls of a group have one filter as a rule.
            Cause::Any => {
                let mut seen: Vec<&Filter> = Vec::new();
                for waiting in self.waiting.values_mut() {
                    let Waiting { filter, woken, waker, .. } = waiting;
                    if self.all || !seen.contains(&&*filter) {
                        seen.push(filter);
                        *woken = Some(Cause::Any);
                        wakers.extend(waker.take());
                    }
                }
            }
        }
    }
}

impl Waiting {
    fn wake(&mut self, cause: Cause, wakers: &mut Vec<Waker>) {
        self.woken = both(self.woken, Some(cause));
        wakers.extend(self.waker.take());
    }
}

/// Two different reasons before a poll has looked: whoever inherits them must assume anything.
fn both(a: Option<Cause>, b: Option<Cause>) -> Option<Cause> {
    match (a, b) {
        (Some(a), Some(b)) if a != b => Some(Cause::Any),
        (a, b) => a.or(b),
    }
}

impl Seat {
    pub fn is_in(&self, line: &Arc<Line>) -> bool {
        Arc::ptr_eq(&self.line, line)
    }

    /// Waits to be woken. May be dropped; the wake-up then stays with the seat.
    pub async fn woken(&self) {
        std::future::poll_fn(|cx| self.poll_woken(cx)).await;
    }

    fn poll_woken(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut seats = self.line.seats.lock();
        let Some(waiting) = seats.waiting.get_mut(&self.id) else { return Poll::Ready(()) };
        if waiting.woken.is_some() {
            return Poll::Ready(());
        }
        if !waiting.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            waiting.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Says that the poll is about to look: what happens from now on wakes it anew. The wake-up that it got is used up
    /// by [`Seat::looked`].
    pub fn about_to_look(&self) {
        if let Some(waiting) = self.line.seats.lock().waiting.get_mut(&self.id) {
            waiting.looking = both(waiting.looking, waiting.woken.take());
        }
        fence(Ordering::SeqCst);
    }

    /// Says that the look has succeeded, whatever it found.
    pub fn looked(&self) {
        if let Some(waiting) = self.line.seats.lock().waiting.get_mut(&self.id) {
            waiting.looking = None;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut wakers = Vec::new();
        let mut seats = self.line.seats.lock();
        let unused = seats.waiting.remove(&self.id).and_then(|w| both(w.looking, w.woken));
        self.line.taken.store(seats.waiting.len(), Ordering::Relaxed);
        if let Some(cause) = unused {
            seats.wake(cause, &mut wakers);
        }
        drop(seats);
        self.line.room.parked.fetch_sub(1, Ordering::SeqCst);
        wakers.into_iter().for_each(Waker::wake);
    }
}
