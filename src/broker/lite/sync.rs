//! What a client says of its set: SyncLiteSubscription.
//!
//! Saying it again changes nothing: a client repeats all of it every 30 s.

use std::{collections::HashSet, sync::Arc};

use super::{LiteSet, Parent, index::Closed, sets::Sets};
use crate::{
    broker::{Broker, Filter, LiteError, TakeError, Topic},
    store::ReadError,
    types::{ClientId, GroupName, LiteId, PhysicalOffset, QueueOffset, Timestamp, TopicName},
};

/// A change to a client's set.
#[derive(Clone, Debug)]
pub struct LiteSync {
    pub topic: TopicName,
    pub group: GroupName,
    pub client: ClientId,
    pub action: LiteAction,
    /// Names of lite topics, checked for their form.
    pub names: Vec<String>,
    /// Where the group begins with those that are new to the set, unless another client of the group has them.
    pub start: LiteStart,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiteAction {
    Add,
    Remove,
    /// The names are the whole set.
    Replace,
    /// Everything goes, whatever the names are.
    Clear,
}

/// A place in a lite topic. Offsets are those that deliveries show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiteStart {
    /// Where the group is; one that never was there begins with the first message that is stored.
    Last,
    Min,
    /// Behind the newest message.
    Max,
    Offset(QueueOffset),
    /// So many messages before the end.
    Tail(u64),
    /// The first message stored then or later.
    Time(Timestamp),
}

impl Broker {
    /// Changes a client's set. Where a group begins, if it says so, is as safe as the flush policy says when this returns.
    pub async fn sync_lite(&self, sync: LiteSync) -> Result<(), LiteError> {
        let (topic, group) = self.may_take(&sync.topic, &sync.group).await?;
        let parent = self.inner.lite.parent(&self.inner.store, &topic);
        let parent = parent.ok_or_else(|| TakeError::NotLite(topic.name.clone()))?;
        let set = self.lite_set(&sync.client, &topic.name, &group.name);
        let named: HashSet<LiteId> = sync.names.iter().map(|name| LiteId::of(name)).collect();
        match sync.action {
            LiteAction::Clear => self.drop_from(&parent, &set, Sets::ids(&set)),
            LiteAction::Remove => self.drop_from(&parent, &set, named),
            LiteAction::Add | LiteAction::Replace => {
                self.check_quota(&set, &named, sync.action)?;
                let new = self.open_for(&parent, &set, &sync.names)?;
                if sync.start != LiteStart::Last {
                    self.begin(&parent, &set, &topic, &new, sync.start).await?;
                }
                self.add_to(&parent, &set, &new);
                if sync.action == LiteAction::Replace {
                    let gone = Sets::ids(&set).into_iter().filter(|id| !named.contains(id));
                    self.drop_from(&parent, &set, gone);
                }
                if !new.is_empty() {
                    let subscription = self.lite_subscription(&topic, &group.name)?;
                    subscription.owner.line.wake_those(&Filter::Lite(Arc::clone(&set)));
                }
            }
        }
        Ok(())
    }

    fn check_quota(&self, set: &LiteSet, named: &HashSet<LiteId>, action: LiteAction) -> Result<(), LiteError> {
        let config = &self.inner.config;
        let new = named.iter().filter(|id| !set.contains(**id)).count();
        let count = if action == LiteAction::Replace { named.len() } else { set.count() + new };
        let max = config.lite_subscription_quota;
        if count > max {
            return Err(LiteError::SubscriptionQuota { count, max, setting: "liteSubscriptionQuota" });
        }
        let (count, max) = (self.inner.lite.sets.total() + new, config.lite_subscriptions_max);
        if new > 0 && count > max {
            return Err(LiteError::SubscriptionQuota { count, max, setting: "liteSubscriptionsMax" });
        }
        Ok(())
    }

    /// Makes the lite topics; those that are not in the set yet.
    fn open_for(&self, parent: &Parent, set: &LiteSet, names: &[String]) -> Result<Vec<LiteId>, LiteError> {
        let (now, max) = (self.inner.clock.now(), self.inner.config.lite_topics_max);
        let mut index = parent.index(now)?;
        let mut new = Vec::new();
        for name in names {
            let id = index.open(name, max, now).map_err(|why| match why {
                Closed::Full(_) => LiteError::TopicQuota { max },
                Closed::Taken => LiteError::Taken(name.clone()),
            })?;
            if !set.contains(id) && !new.contains(&id) {
                new.push(id);
            }
        }
        Ok(new)
    }

    fn add_to(&self, parent: &Parent, set: &LiteSet, new: &[LiteId]) {
        let mut index = parent.index.lock();
        for id in self.inner.lite.sets.add(set, new.iter().copied()) {
            index.subscribed(id);
        }
    }

    fn drop_from(&self, parent: &Parent, set: &LiteSet, ids: impl IntoIterator<Item = LiteId>) {
        let now = self.inner.clock.now();
        let mut index = parent.index.lock();
        for id in self.inner.lite.sets.remove(set, ids) {
            index.unsubscribed(id, now);
        }
    }

    /// Lets the group begin there with what nobody else of it has.
    async fn begin(
        &self,
        parent: &Parent,
        set: &LiteSet,
        topic: &Topic,
        new: &[LiteId],
        start: LiteStart,
    ) -> Result<(), LiteError> {
        let others = self.inner.lite.sets.others(set);
        let ours = new.iter().filter(|id| !others.iter().any(|other| other.contains(**id))).copied();
        let time = match start {
            LiteStart::Time(time) => {
                let queue = parent.queue.clone();
                let found = self.off_the_runtime(move || queue.offset_at(time)).await;
                found.map_err(|error| ReadError::Io { at: PhysicalOffset::ZERO, error: Arc::new(error) })??
            }
            _ => QueueOffset::ZERO,
        };
        let places: Vec<(LiteId, QueueOffset)> = {
            let index = parent.index(self.inner.clock.now())?;
            let place = |id| match start {
                LiteStart::Last | LiteStart::Min => QueueOffset::ZERO,
                LiteStart::Max => index.seen(),
                LiteStart::Offset(offset) => offset.min(index.seen()),
                LiteStart::Tail(n) => index.tail(id, n),
                LiteStart::Time(_) => time,
            };
            ours.map(|id| (id, place(id))).collect()
        };
        if !places.is_empty() {
            let subscription = self.lite_subscription(topic, &set.group)?;
            let end = self.move_lanes(&subscription, &places)?;
            self.confirmed(end).await?;
        }
        Ok(())
    }
}
