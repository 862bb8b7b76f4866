//! The table of consumer groups.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};

use crate::{
    store::Store,
    types::{GroupName, MEMBER_MARK},
};

use super::{
    super::{AdminError, Broker, OpenError},
    Group, GroupChange, RetryPolicy, Saver,
    document::Document,
    groups_file::{self, KIND, Kept},
};

/// `retryMaxTimes` of a group that is made here, at most.
pub const RETRY_MAX_TIMES_MAX: u32 = 999;

struct Entry {
    group: Arc<Group>,
    kept: Kept,
    /// As the file has it: made once, since every change of any group writes it.
    json: Box<str>,
}

/// The table and its file.
pub(super) struct Groups {
    table: RwLock<HashMap<GroupName, Arc<Entry>>>,
    /// Held by whoever changes the table.
    change: Mutex<File>,
}

/// What the file says, kept in step with the table.
struct File {
    document: Document,
    entries: BTreeMap<GroupName, Arc<Entry>>,
}

enum Change<'a> {
    Put(Entry),
    Remove(&'a GroupName),
}

impl Groups {
    pub(super) fn load(store: &Store) -> Result<Self, OpenError> {
        let (mut document, entries) = KIND.load(store)?;
        let mut known = BTreeMap::new();
        for (name, value) in entries {
            let Ok(name) = GroupName::parse(&name) else {
                // Among them the groups that Apache's broker makes for itself.
                tracing::debug!(group = name, "the group has a name that is not served; its entry is kept as it is");
                document.foreign.insert(name, value);
                continue;
            };
            let (group, kept) = groups_file::decode(&name, value).map_err(|why| OpenError::State {
                file: KIND.file.into(),
                why: format!("group {name}: {why}; mend the entry"),
            })?;
            known.insert(name, Arc::new(Entry::new(group, kept)));
        }
        let table = known.iter().map(|(name, entry)| (name.clone(), entry.clone())).collect();
        Ok(Self { table: RwLock::new(table), change: Mutex::new(File { document, entries: known }) })
    }

    fn entry(&self, name: &str) -> Option<Arc<Entry>> {
        self.table.read().get(name).cloned()
    }

    /// Writes the file with the change, then makes the change visible.
    fn commit(&self, file: &mut File, change: Change<'_>, to: Saver<'_>) -> Result<(), AdminError> {
        let (name, entry) = match change {
            Change::Put(entry) => (entry.group.name.clone(), Some(Arc::new(entry))),
            Change::Remove(name) => (name.clone(), None),
        };
        let before = file.swap(&name, entry.clone());
        if let Err(error) = file.save(to) {
            file.swap(&name, before);
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
    fn swap(&mut self, name: &GroupName, entry: Option<Arc<Entry>>) -> Option<Arc<Entry>> {
        match entry {
            Some(entry) => self.entries.insert(name.clone(), entry),
            None => self.entries.remove(name),
        }
    }

    fn save(&mut self, to: Saver<'_>) -> Result<(), AdminError> {
        let entries = self.entries.iter().map(|(name, entry)| (name.as_str(), &*entry.json));
        KIND.save(&mut self.document, entries, &[], to)
    }
}

impl Entry {
    fn new(group: Group, kept: Kept) -> Self {
        let json = groups_file::encode(&group, &kept).to_string().into();
        Self { group: Arc::new(group), kept, json }
    }
}

fn check(group: &Group) -> Result<(), AdminError> {
    if group.retry_max_times > RETRY_MAX_TIMES_MAX {
        let (times, max) = (group.retry_max_times, RETRY_MAX_TIMES_MAX);
        return Err(AdminError::Invalid(format!("retryMaxTimes {times} is not possible; it is 0 to {max}")));
    }
    group.retry_policy.check().map_err(AdminError::Invalid)
}

fn describe(group: &Group) -> String {
    let order = if group.fifo { "FIFO" } else { "not FIFO" };
    let model = if group.broadcast { "broadcasting" } else { "not broadcasting" };
    let consumption = if group.consume_enabled { "enabled" } else { "disabled" };
    let (times, policy) = (group.retry_max_times, &group.retry_policy);
    format!("{order}, {model}, retryMaxTimes {times}, {policy}, consumption {consumption}")
}

impl Broker {
    /// The group of this name; of a member, the group that it is of.
    pub fn group(&self, name: &str) -> Option<Arc<Group>> {
        let whole = name.split_once(MEMBER_MARK).map_or(name, |(whole, _)| whole);
        self.inner.metadata.groups.entry(whole).map(|entry| entry.group.clone())
    }

    /// Every group, sorted by name.
    pub fn groups(&self) -> Vec<Arc<Group>> {
        let table = self.inner.metadata.groups.table.read();
        let mut groups: Vec<_> = table.values().map(|entry| entry.group.clone()).collect();
        drop(table);
        groups.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        groups
    }

    /// The group, or, where `autoCreateSubscriptionGroup` lets it, a new one with defaults; `Ok(None)` when it may not be
    /// made. May wait for the disk.
    pub fn group_or_create(&self, name: &GroupName) -> Result<Option<Arc<Group>>, AdminError> {
        if let Some(group) = self.group(name.as_str()) {
            return Ok(Some(group));
        }
        if !self.inner.config.auto_create_group {
            return Ok(None);
        }
        let group = Group {
            name: name.clone(),
            fifo: false,
            broadcast: false,
            retry_max_times: self.inner.config.retry_max_times.min(RETRY_MAX_TIMES_MAX),
            retry_policy: RetryPolicy::apache(),
            consume_enabled: true,
        };
        self.find_or_insert_group(group).map(|(group, _)| Some(group))
    }

    /// [`Broker::group_or_create`] for async code.
    pub async fn group_for(&self, name: &GroupName) -> Result<Option<Arc<Group>>, AdminError> {
        if let Some(group) = self.group(name.as_str()) {
            return Ok(Some(group));
        }
        if !self.inner.config.auto_create_group {
            return Ok(None);
        }
        let name = name.clone();
        self.change_metadata(move |broker| broker.group_or_create(&name)).await
    }

    /// The group and whether it was made just now. An equal one is returned as it is, a different one is a conflict. Waits
    /// for the disk.
    pub fn create_group(&self, group: Group) -> Result<(Arc<Group>, bool), AdminError> {
        check(&group)?;
        let (there, created) = self.find_or_insert_group(group.clone())?;
        if created || *there == group {
            return Ok((there, created));
        }
        let (name, has) = (&there.name, describe(&there));
        Err(AdminError::Conflict(format!(
            "group {name} exists with other settings ({has}); change it with `ferromq group update {name}`"
        )))
    }

    /// Waits for the disk.
    pub fn update_group(&self, name: &GroupName, change: GroupChange) -> Result<Arc<Group>, AdminError> {
        let groups = &self.inner.metadata.groups;
        let mut file = groups.change.lock();
        let entry = groups.entry(name.as_str()).ok_or_else(|| AdminError::GroupNotFound(name.clone()))?;
        let has = &entry.group;
        let group = Group {
            name: name.clone(),
            fifo: change.fifo.unwrap_or(has.fifo),
            broadcast: change.broadcast.unwrap_or(has.broadcast),
            retry_max_times: change.retry_max_times.unwrap_or(has.retry_max_times),
            retry_policy: change.retry_policy.unwrap_or_else(|| has.retry_policy.clone()),
            consume_enabled: change.consume_enabled.unwrap_or(has.consume_enabled),
        };
        if group == **has {
            return Ok(has.clone());
        }
        check(&group)?;
        let changed = Entry::new(group, entry.kept.clone());
        let group = changed.group.clone();
        groups.commit(&mut file, Change::Put(changed), self.saver())?;
        if group.broadcast != has.broadcast {
            self.model_changed(&group);
        }
        tracing::info!(group = %name, settings = describe(&group), "group changed");
        Ok(group)
    }

    /// Its progress goes too; its dead-letter topic stays. Waits for the disk.
    pub fn delete_group(&self, name: &GroupName) -> Result<(), AdminError> {
        let groups = &self.inner.metadata.groups;
        let mut file = groups.change.lock();
        if groups.entry(name.as_str()).is_none() {
            return Err(AdminError::GroupNotFound(name.clone()));
        }
        groups.commit(&mut file, Change::Remove(name), self.saver())?;
        self.group_gone(name);
        tracing::info!(group = %name, "group deleted");
        Ok(())
    }

    /// What follows a change of the model that is safe: the progress of the clients goes with broadcasting, the group's own
    /// rests while it lasts. A crash before this is over is made good when the broker opens.
    fn model_changed(&self, group: &Group) {
        if !group.broadcast {
            self.keep_forgotten(self.inner.pop.forget_members(&group.name));
        }
        self.inner.pop.polls().wake_group(&group.name);
    }

    /// What follows a deletion that is safe. A crash before this is over is made good when the broker opens.
    fn group_gone(&self, name: &GroupName) {
        self.inner.meters.forget_group(name);
        self.keep_forgotten(self.inner.pop.forget_group(name));
        self.inner.lite.forget_group(name, self.inner.clock.now());
    }

    fn find_or_insert_group(&self, group: Group) -> Result<(Arc<Group>, bool), AdminError> {
        let started = self.inner.clock.now();
        let made = self.find_or_make_group(group);
        self.inner.meters.group_made(&made, self.inner.clock.now().remaining(started));
        made
    }

    fn find_or_make_group(&self, group: Group) -> Result<(Arc<Group>, bool), AdminError> {
        let groups = &self.inner.metadata.groups;
        let mut file = groups.change.lock();
        if let Some(entry) = groups.entry(group.name.as_str()) {
            return Ok((entry.group.clone(), false));
        }
        let max = self.inner.config.groups_max;
        if file.entries.len() >= max {
            return Err(AdminError::TooMany(max));
        }
        let entry = Entry::new(group, Kept::default());
        let group = entry.group.clone();
        groups.commit(&mut file, Change::Put(entry), self.saver())?;
        tracing::info!(group = %group.name, "group created");
        Ok((group, true))
    }
}
