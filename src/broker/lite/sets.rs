//! Which lite topics each client wants: its sets, one for each group and parent topic.
//!
//! They are in memory alone. Clients repeat their sets every 30 s, so after a restart each is whole again by then, and what
//! comes meanwhile waits. That a group wants a lite topic in which it has done nothing yet is on record, so that nothing of it
//! is forgotten meanwhile.
//!
//! A set also knows which of its lite topics may have something ([`LiteSet::queue`]): whoever makes that so says it to all
//! sets that have the lite topic, and wakes one poll of each. So a poll looks at what may have something and at nothing
//! else, the oldest first.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::super::{
    clients::CLIENTS_MAX,
    long_poll::{Cause, Line},
};
use crate::types::{ClientId, Deadline, GroupName, LiteId, TopicName};

/// Sets of one client at most: groups and parent topics that it consumes, each pair counted. Beyond it the one that was
/// not used for longest makes room.
const SETS_MAX: usize = 16;
/// Clients that are looked at under one lock.
const CHUNK: usize = 1024;

/// The lite topics of one parent that a client of a group wants. About 70 bytes for each.
pub struct LiteSet {
    /// Tells it from all others, later ones are higher.
    pub number: u64,
    pub client: ClientId,
    pub topic: TopicName,
    pub group: GroupName,
    /// Its parked polls.
    pub line: Arc<Line>,
    /// Held by who changes the set: a client may send its changes side by side.
    pub changing: tokio::sync::Mutex<()>,
    inner: Mutex<Inner>,
    /// When the client last spoke of it or polled, in microseconds.
    used: AtomicU64,
}

#[derive(Default)]
struct Inner {
    /// And their places among those that may have something; 0 when it is not among them.
    ids: BTreeMap<LiteId, u64>,
    /// Those that may have something, by place.
    queued: BTreeMap<u64, LiteId>,
    place: u64,
    /// It is nobody's any more, and nothing comes into it.
    closed: bool,
}

/// Why lite topics were not added to a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdded {
    /// The client is gone.
    Closed,
    /// The set would have so many.
    Quota(usize),
    /// All sets would have so many.
    Total(usize),
}

/// A set is itself and no other, whatever is in it.
impl PartialEq for LiteSet {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for LiteSet {}

impl fmt::Debug for LiteSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiteSet").field("client", &self.client).field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl LiteSet {
    pub fn contains(&self, id: LiteId) -> bool {
        self.inner.lock().ids.contains_key(&id)
    }

    pub fn count(&self) -> usize {
        self.inner.lock().ids.len()
    }

    /// What is in it.
    pub fn ids(&self) -> Vec<LiteId> {
        self.inner.lock().ids.keys().copied().collect()
    }

    pub fn is_closed(&self) -> bool {
        self.inner.lock().closed
    }

    /// Says that a lite topic may have something. Nothing happens when it is not in the set.
    pub fn queue(&self, id: LiteId) {
        self.inner.lock().queue(id);
    }

    /// Says that of all of them.
    pub fn queue_all(&self) {
        let inner = &mut *self.inner.lock();
        inner.ids.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| inner.queue(id));
    }

    /// Takes the one that was said of first.
    pub fn next(&self) -> Option<LiteId> {
        let inner = &mut *self.inner.lock();
        let (_, id) = inner.queued.pop_first()?;
        inner.ids.insert(id, 0);
        Some(id)
    }

    /// How many may have something.
    pub fn queued(&self) -> usize {
        self.inner.lock().queued.len()
    }

    /// Whether a poll of it is parked.
    pub fn has_poll(&self) -> bool {
        !self.line.is_empty()
    }

    /// Has one of its parked polls look.
    pub fn wake(&self) {
        self.line.wake(Cause::Any);
    }

    fn use_at(&self, now: Deadline) {
        self.used.store(now.as_micros(), Ordering::Relaxed);
    }

    fn last_used(&self) -> Deadline {
        Deadline::from_micros(self.used.load(Ordering::Relaxed))
    }
}

impl Inner {
    fn queue(&mut self, id: LiteId) {
        if let Some(place) = self.ids.get_mut(&id).filter(|place| **place == 0) {
            self.place += 1;
            *place = self.place;
            self.queued.insert(self.place, id);
        }
    }
}

/// All sets.
#[derive(Default)]
pub struct Sets {
    clients: Mutex<BTreeMap<ClientId, Vec<Arc<LiteSet>>>>,
    /// Lite topics in all of them.
    total: AtomicUsize,
    numbers: AtomicU64,
}

impl Sets {
    /// The client's set, made if need be, with a line that `line` makes; and the one that it made room for, whose lite topics
    /// the caller lets go of. `None` with too many clients.
    pub fn of(
        &self,
        client: &ClientId,
        topic: &TopicName,
        group: &GroupName,
        line: impl FnOnce() -> Arc<Line>,
        now: Deadline,
    ) -> Option<(Arc<LiteSet>, Option<Arc<LiteSet>>)> {
        let mut clients = self.clients.lock();
        let known = clients.get(client).map(Vec::as_slice).unwrap_or_default();
        if let Some(known) = known.iter().find(|set| set.topic == *topic && set.group == *group) {
            known.use_at(now);
            return Some((Arc::clone(known), None));
        }
        if known.is_empty() && clients.len() >= CLIENTS_MAX {
            return None;
        }
        let set = Arc::new(LiteSet {
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            client: client.clone(),
            topic: topic.clone(),
            group: group.clone(),
            line: line(),
            changing: tokio::sync::Mutex::default(),
            inner: Mutex::default(),
            used: AtomicU64::new(now.as_micros()),
        });
        let sets = clients.entry(client.clone()).or_default();
        let oldest = (0..sets.len()).min_by_key(|at| sets[*at].last_used());
        let gone = oldest.filter(|_| sets.len() >= SETS_MAX).map(|at| sets.swap_remove(at));
        sets.push(Arc::clone(&set));
        Some((set, gone))
    }

    /// Lite topics in all sets.
    pub fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// Adds lite topics to a set, each as one that may have something, all or none of them; `quota` in the set and `max` in
    /// all sets at most. `whole`: what is in the set and not among them goes; that.
    pub fn add(
        &self,
        set: &LiteSet,
        ids: &[LiteId],
        whole: bool,
        (quota, max): (usize, usize),
    ) -> Result<Vec<LiteId>, NotAdded> {
        let inner = &mut *set.inner.lock();
        if inner.closed {
            return Err(NotAdded::Closed);
        }
        let before = inner.ids.len();
        let new = ids.iter().filter(|id| !inner.ids.contains_key(id)).count();
        let count = if whole { ids.len() } else { before + new };
        if count > quota {
            return Err(NotAdded::Quota(count));
        }
        let total = |total: usize| Some((total + count).saturating_sub(before)).filter(|n| new == 0 || *n <= max);
        if let Err(total) = self.total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, total) {
            return Err(NotAdded::Total((total + count).saturating_sub(before)));
        }
        let mut gone = Vec::new();
        if whole {
            let named: std::collections::HashSet<_> = ids.iter().copied().collect();
            gone.extend(inner.ids.keys().filter(|id| !named.contains(id)).copied());
            gone.iter().for_each(|id| inner.remove(*id));
        }
        for id in ids {
            inner.ids.entry(*id).or_insert(0);
            inner.queue(*id);
        }
        Ok(gone)
    }

    /// Removes lite topics from a set; those that were in it.
    pub fn remove(&self, set: &LiteSet, ids: impl IntoIterator<Item = LiteId>) -> Vec<LiteId> {
        let inner = &mut *set.inner.lock();
        let gone: Vec<_> = ids.into_iter().filter(|id| inner.ids.contains_key(id)).collect();
        let before = inner.ids.len();
        gone.iter().for_each(|id| inner.remove(*id));
        self.total.fetch_sub(before - inner.ids.len(), Ordering::Relaxed);
        gone
    }

    /// Empties a set for good, and has its polls see that; what was in it.
    pub fn close(&self, set: &LiteSet) -> Vec<LiteId> {
        let inner = std::mem::replace(&mut *set.inner.lock(), Inner { closed: true, ..Inner::default() });
        self.total.fetch_sub(inner.ids.len(), Ordering::Relaxed);
        set.line.wake_all();
        inner.ids.into_keys().collect()
    }

    /// Takes out the sets of a client.
    pub fn take_client(&self, client: &ClientId) -> Vec<Arc<LiteSet>> {
        self.clients.lock().remove(client).unwrap_or_default()
    }

    /// Takes out what was not used for so long.
    pub fn take_unused(&self, timeout: Duration, now: Deadline) -> Vec<Arc<LiteSet>> {
        self.take(|set| set.last_used().plus(timeout) <= now)
    }

    /// Takes out the sets that `which` says, a few under one lock.
    pub fn take(&self, which: impl Fn(&LiteSet) -> bool) -> Vec<Arc<LiteSet>> {
        let (mut taken, mut empty) = (Vec::new(), Vec::new());
        let mut from = Bound::Unbounded;
        loop {
            let mut clients = self.clients.lock();
            let mut last = None;
            for (client, sets) in clients.range_mut((from, Bound::Unbounded)).take(CHUNK) {
                taken.extend(sets.extract_if(.., |set| which(set)));
                if sets.is_empty() {
                    empty.push(client.clone());
                }
                last = Some(client.clone());
            }
            empty.drain(..).for_each(|client| drop(clients.remove(&client)));
            match last {
                Some(last) => from = Bound::Excluded(last),
                None => return taken,
            }
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<LiteSet>> {
        let (mut all, mut from) = (Vec::new(), Bound::Unbounded);
        loop {
            let clients = self.clients.lock();
            let mut last = None;
            for (client, sets) in clients.range((from, Bound::Unbounded)).take(CHUNK) {
                all.extend(sets.iter().cloned());
                last = Some(client.clone());
            }
            match last {
                Some(last) => from = Bound::Excluded(last),
                None => return all,
            }
        }
    }
}

impl Inner {
    fn remove(&mut self, id: LiteId) {
        if let Some(place) = self.ids.remove(&id) {
            self.queued.remove(&place);
        }
    }
}
