//! Which lite topics each client wants: its sets, one for each group and parent topic.
//!
//! They are in memory alone. Clients repeat their sets every 30 s, so after a restart each is whole again by then, and what
//! comes meanwhile waits.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};

use super::super::clients::CLIENTS_MAX;
use crate::types::{ClientId, Deadline, GroupName, LiteId, TopicName};

/// Sets of one client at most: groups and parent topics that it consumes, each pair counted. Beyond it the one that was
/// not used for longest makes room.
const SETS_MAX: usize = 16;

/// The lite topics of one parent that a client of a group wants. About 24 bytes for each.
#[derive(Debug)]
pub struct LiteSet {
    pub client: ClientId,
    pub topic: TopicName,
    pub group: GroupName,
    ids: RwLock<BTreeSet<LiteId>>,
    /// When the client last spoke of it or polled, in microseconds.
    used: AtomicU64,
}

/// A set is itself and no other, whatever is in it.
impl PartialEq for LiteSet {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}
impl Eq for LiteSet {}

impl LiteSet {
    pub fn contains(&self, id: LiteId) -> bool {
        self.ids.read().contains(&id)
    }

    pub fn count(&self) -> usize {
        self.ids.read().len()
    }

    /// Those of its lite topics that are in `ready`, `from` on and then round.
    pub fn among(&self, ready: &BTreeSet<LiteId>, from: LiteId) -> Vec<LiteId> {
        let ids = self.ids.read();
        let (few, many) = if ids.len() <= ready.len() { (&*ids, ready) } else { (ready, &*ids) };
        few.range(from..).chain(few.range(..from)).filter(|id| many.contains(id)).copied().collect()
    }

    fn use_at(&self, now: Deadline) {
        self.used.store(now.as_micros(), Ordering::Relaxed);
    }
}

/// All sets.
#[derive(Debug, Default)]
pub struct Sets {
    clients: Mutex<HashMap<ClientId, Vec<Arc<LiteSet>>>>,
    /// Lite topics in all of them.
    total: AtomicUsize,
}

impl Sets {
    /// The client's set, made if need be; and the one that it made room for, whose lite topics the caller lets go of. With
    /// too many clients the set is kept for nobody.
    pub fn of(
        &self,
        client: &ClientId,
        topic: &TopicName,
        group: &GroupName,
        now: Deadline,
    ) -> (Arc<LiteSet>, Option<Arc<LiteSet>>) {
        let mut clients = self.clients.lock();
        let known = clients.get(client).map(Vec::as_slice).unwrap_or_default();
        if let Some(known) = known.iter().find(|set| set.topic == *topic && set.group == *group) {
            known.use_at(now);
            return (Arc::clone(known), None);
        }
        let set = Arc::new(LiteSet {
            client: client.clone(),
            topic: topic.clone(),
            group: group.clone(),
            ids: RwLock::default(),
            used: AtomicU64::new(now.as_micros()),
        });
        if known.is_empty() && clients.len() >= CLIENTS_MAX {
            return (set, None);
        }
        let sets = clients.entry(client.clone()).or_default();
        let oldest = (0..sets.len()).min_by_key(|at| sets[*at].used.load(Ordering::Relaxed));
        let gone = oldest.filter(|_| sets.len() >= SETS_MAX).map(|at| sets.swap_remove(at));
        sets.push(Arc::clone(&set));
        (set, gone)
    }

    /// Lite topics in all sets.
    pub fn total(&self) -> usize {
        self.total.load(Ordering::Relaxed)
    }

    /// Adds lite topics to a set; those that were not in it.
    pub fn add(&self, set: &LiteSet, ids: impl IntoIterator<Item = LiteId>) -> Vec<LiteId> {
        let mut has = set.ids.write();
        let new: Vec<_> = ids.into_iter().filter(|id| has.insert(*id)).collect();
        self.total.fetch_add(new.len(), Ordering::Relaxed);
        new
    }

    /// Removes lite topics from a set; those that were in it.
    pub fn remove(&self, set: &LiteSet, ids: impl IntoIterator<Item = LiteId>) -> Vec<LiteId> {
        let mut has = set.ids.write();
        let gone: Vec<_> = ids.into_iter().filter(|id| has.remove(id)).collect();
        self.total.fetch_sub(gone.len(), Ordering::Relaxed);
        gone
    }

    /// What a set has.
    pub fn ids(set: &LiteSet) -> Vec<LiteId> {
        set.ids.read().iter().copied().collect()
    }

    /// The sets of a group's other clients.
    pub fn others(&self, of: &LiteSet) -> Vec<Arc<LiteSet>> {
        let clients = self.clients.lock();
        let other = |set: &&Arc<LiteSet>| set.topic == of.topic && set.group == of.group && ***set != *of;
        clients.values().flatten().filter(other).cloned().collect()
    }

    /// Takes out the sets of a client.
    pub fn take_client(&self, client: &ClientId) -> Vec<Arc<LiteSet>> {
        self.clients.lock().remove(client).unwrap_or_default()
    }

    /// Takes out what was not used for so long.
    pub fn take_unused(&self, timeout: Duration, now: Deadline) -> Vec<Arc<LiteSet>> {
        let mut unused = Vec::new();
        self.clients.lock().retain(|_, sets| {
            sets.retain(|set| {
                let stays = Deadline::from_micros(set.used.load(Ordering::Relaxed)).plus(timeout) > now;
                if !stays {
                    unused.push(Arc::clone(set));
                }
                stays
            });
            !sets.is_empty()
        });
        unused
    }

    /// Takes out the sets of a parent topic.
    pub fn take_topic(&self, topic: &TopicName) -> Vec<Arc<LiteSet>> {
        let mut gone = Vec::new();
        self.clients.lock().retain(|_, sets| {
            gone.extend(sets.extract_if(.., |set| set.topic == *topic));
            !sets.is_empty()
        });
        gone
    }
}
