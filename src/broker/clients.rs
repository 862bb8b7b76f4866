//! Live clients: who is there, since when silent.
//!
//! A client is live from its first word until it says goodbye or is silent for `channelExpiredTimeout`, measured on the
//! monotonic clock. The table serves counting and clean-up; a client that is not in it is served all the same.

use std::collections::{HashMap, hash_map::Entry};

use parking_lot::Mutex;

use crate::types::{ClientId, Deadline, GroupName, TopicName};

use super::Broker;

/// Live clients at most; beyond it new ones are served but not counted.
pub const CLIENTS_MAX: usize = 200_000;

/// Topics of one producer that are kept.
const TOPICS_MAX: usize = 1024;

/// What a client is to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    Producer { topics: Vec<TopicName> },
    Consumer { group: GroupName },
}

impl Role {
    fn group(&self) -> Option<&GroupName> {
        match self {
            Self::Producer { .. } => None,
            Self::Consumer { group } => Some(group),
        }
    }
}

/// The table of live clients.
pub(super) struct Clients {
    max: usize,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    clients: HashMap<ClientId, Client>,
    /// Live consumers of each group that has one.
    consumers: HashMap<GroupName, usize>,
}

struct Client {
    role: Role,
    seen: Deadline,
}

impl Default for Clients {
    fn default() -> Self {
        Self { max: CLIENTS_MAX, table: Mutex::default() }
    }
}

impl Clients {
    fn seen(&self, id: &ClientId, role: Role, now: Deadline) -> bool {
        let mut table = self.table.lock();
        let table = &mut *table;
        let full = table.clients.len() >= self.max;
        match table.clients.entry(id.clone()) {
            Entry::Occupied(mut known) => {
                let client = known.get_mut();
                client.seen = now;
                if client.role != role {
                    left(&mut table.consumers, &client.role);
                    joined(&mut table.consumers, &role);
                    client.role = role;
                }
                true
            }
            Entry::Vacant(_) if full => false,
            Entry::Vacant(new) => {
                joined(&mut table.consumers, &role);
                new.insert(Client { role, seen: now });
                true
            }
        }
    }

    fn gone(&self, id: &ClientId) -> bool {
        let mut table = self.table.lock();
        let gone = table.clients.remove(id);
        if let Some(client) = &gone {
            left(&mut table.consumers, &client.role);
        }
        gone.is_some()
    }

    fn expire(&self, timeout: std::time::Duration, now: Deadline) -> Vec<ClientId> {
        let mut table = self.table.lock();
        let Table { clients, consumers } = &mut *table;
        let expired = clients.extract_if(|_, client| client.seen.plus(timeout) <= now);
        expired.inspect(|(_, client)| left(consumers, &client.role)).map(|(id, _)| id).collect()
    }

    fn in_group(&self, group: &GroupName) -> Vec<ClientId> {
        let table = self.table.lock();
        let of = |client: &Client| client.role.group() == Some(group);
        table.clients.iter().filter(|(_, client)| of(client)).map(|(id, _)| id.clone()).collect()
    }

    fn is_in(&self, client: &str, group: &str) -> bool {
        let table = self.table.lock();
        table.clients.get(client).is_some_and(|client| client.role.group().is_some_and(|its| its.as_str() == group))
    }

    fn count(&self) -> (usize, usize) {
        let table = self.table.lock();
        let consumers = table.consumers.values().sum();
        (table.clients.len() - consumers, consumers)
    }

    fn consumers_of(&self, group: &GroupName) -> usize {
        self.table.lock().consumers.get(group).copied().unwrap_or(0)
    }
}

fn joined(consumers: &mut HashMap<GroupName, usize>, role: &Role) {
    if let Some(group) = role.group() {
        *consumers.entry(group.clone()).or_default() += 1;
    }
}

fn left(consumers: &mut HashMap<GroupName, usize>, role: &Role) {
    let Some(group) = role.group() else { return };
    if let Some(count) = consumers.get_mut(group) {
        *count -= 1;
        if *count == 0 {
            consumers.remove(group);
        }
    }
}

impl Broker {
    /// Registers a client, or renews it; it has one role, the last one named. False when the table is full, see
    /// [`CLIENTS_MAX`].
    pub fn client_seen(&self, id: &ClientId, mut role: Role) -> bool {
        if let Role::Producer { topics } = &mut role {
            topics.truncate(TOPICS_MAX);
        }
        self.inner.clients.seen(id, role, self.inner.clock.now())
    }
    /// Forgets a client; true when it was known.
    pub fn client_gone(&self, id: &ClientId) -> bool {
        self.inner.lite.client_gone(id, self.inner.clock.now());
        self.inner.clients.gone(id)
    }
    /// Forgets the clients that have been silent for `channelExpiredTimeout` and returns them.
    pub fn expire_clients(&self) -> Vec<ClientId> {
        let now = self.inner.clock.now();
        let expired = self.inner.clients.expire(self.inner.config.client_timeout, now);
        expired.iter().for_each(|id| self.inner.lite.client_gone(id, now));
        expired
    }
    /// Live consumers of a group, by name.
    pub fn consumers_in(&self, group: &GroupName) -> Vec<ClientId> {
        let mut consumers = self.inner.clients.in_group(group);
        consumers.sort_unstable();
        consumers
    }
    /// Whether a client is a live consumer of a group.
    pub fn is_consumer(&self, client: &str, group: &str) -> bool {
        self.inner.clients.is_in(client, group)
    }
    /// How many live producers and consumers there are.
    pub fn client_counts(&self) -> (usize, usize) {
        self.inner.clients.count()
    }
    /// Live consumers of a group.
    pub fn consumers_of(&self, group: &GroupName) -> usize {
        self.inner.clients.consumers_of(group)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(120);

    fn id(name: &str) -> ClientId {
        ClientId::parse(name).unwrap()
    }
    fn group(name: &str) -> GroupName {
        GroupName::parse(name).unwrap()
    }
    fn consumer(name: &str) -> Role {
        Role::Consumer { group: group(name) }
    }
    fn at(seconds: u64) -> Deadline {
        Deadline::default().plus(Duration::from_secs(seconds))
    }

    #[test]
    fn a_client_is_live_until_it_is_silent_for_the_timeout() {
        let clients = Clients::default();
        assert!(clients.seen(&id("a"), consumer("g"), at(0)));
        assert!(clients.seen(&id("b"), consumer("g"), at(0)));
        assert!(clients.seen(&id("a"), consumer("g"), at(60)));
        assert_eq!(clients.expire(TIMEOUT, at(119)), []);
        assert_eq!(clients.consumers_of(&group("g")), 2);
        assert_eq!(clients.expire(TIMEOUT, at(120)), [id("b")]);
        assert_eq!(clients.consumers_of(&group("g")), 1);
        assert_eq!(clients.expire(TIMEOUT, at(180)), [id("a")]);
        assert_eq!(clients.consumers_of(&group("g")), 0);
    }

    #[test]
    fn a_goodbye_is_heard_once() {
        let clients = Clients::default();
        clients.seen(&id("a"), consumer("g"), at(0));
        assert!(clients.gone(&id("a")));
        assert!(!clients.gone(&id("a")));
        assert_eq!(clients.consumers_of(&group("g")), 0);
    }

    #[test]
    fn a_client_that_changes_its_role_leaves_its_group() {
        let clients = Clients::default();
        clients.seen(&id("a"), consumer("g"), at(0));
        clients.seen(&id("a"), consumer("h"), at(1));
        assert_eq!((clients.consumers_of(&group("g")), clients.consumers_of(&group("h"))), (0, 1));
        clients.seen(&id("a"), Role::Producer { topics: vec![] }, at(2));
        assert_eq!(clients.consumers_of(&group("h")), 0);
        assert!(clients.table.lock().consumers.is_empty(), "groups without consumers take no room");
    }

    #[test]
    fn a_full_table_renews_whom_it_knows_and_takes_nobody_new() {
        let clients = Clients { max: 1, table: Mutex::default() };
        assert!(clients.seen(&id("a"), consumer("g"), at(0)));
        assert!(!clients.seen(&id("b"), consumer("g"), at(1)));
        assert!(clients.seen(&id("a"), consumer("g"), at(60)));
        assert_eq!(clients.expire(TIMEOUT, at(179)), []);
        clients.gone(&id("a"));
        assert!(clients.seen(&id("b"), consumer("g"), at(180)));
    }
}
