//! What a client says of its set: SyncLiteSubscription.
//!
//! Saying it again changes nothing: a client repeats all of it every 30 s.

use std::{collections::HashSet, sync::Arc};

use super::{CHUNK, Index, LiteSet, Parent, index::Closed, sets::NotAdded};
use crate::{
    broker::{Broker, LiteError, TakeError, pop::Subscription},
    types::{ClientId, GroupName, LiteId, QueueOffset, Timestamp, TopicName},
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

/// How often a change is made anew when the set ended meanwhile.
const TRIES: usize = 3;

impl Broker {
    /// Changes a client's set. Where a group begins, if it says so, is as safe as the flush policy says when this returns.
    pub async fn sync_lite(&self, sync: LiteSync) -> Result<(), LiteError> {
        let (topic, group) = self.may_take(&sync.topic, &sync.group).await?;
        let parent = self.inner.lite.parent(&self.inner.store, &topic);
        let parent = parent.ok_or_else(|| TakeError::NotLite(topic.name.clone()))?;
        if group.broadcast {
            return Err(TakeError::LiteBroadcast { topic: topic.name.clone(), group: group.name.clone() }.into());
        }
        self.lite_catch_up(&parent).await?;
        let mut seen = HashSet::new();
        let ids: Vec<LiteId> = sync.names.iter().map(|name| LiteId::of(name)).filter(|id| seen.insert(*id)).collect();
        for _ in 0..TRIES {
            let set = self.lite_set(&sync.client, &topic.name, &group.name)?;
            let _one_after_the_other = set.changing.lock().await;
            let whole = match sync.action {
                LiteAction::Clear | LiteAction::Remove => {
                    let ids = if sync.action == LiteAction::Clear { set.ids() } else { ids };
                    let gone = self.inner.lite.sets.remove(&set, ids);
                    parent.let_go(&set, &gone, self.inner.clock.now());
                    return Ok(());
                }
                LiteAction::Add => false,
                LiteAction::Replace => true,
            };
            // What nobody of the group has done yet is kept for it from now on.
            let subscription = self.lite_subscription(&topic, &group.name)?;
            let new = self.open_for(&parent, &set, &ids, &sync.names, whole)?;
            if sync.start != LiteStart::Last {
                self.begin(&parent, &set, &subscription, &new, sync.start).await?;
            }
            if self.put_into(&parent, &set, &ids, whole)? {
                // In the set first: what a set has is not forgotten. All of them: what was noted of one may have been forgotten
                // with the group's progress, or could not be written.
                self.note_wanted(&subscription, &ids);
                if !new.is_empty() {
                    set.wake();
                }
                return Ok(());
            }
        }
        Err(LiteError::Gone)
    }

    /// Puts lite topics into a set; false when it has ended.
    pub(super) fn put_into(
        &self,
        parent: &Parent,
        set: &Arc<LiteSet>,
        ids: &[LiteId],
        whole: bool,
    ) -> Result<bool, LiteError> {
        let now = self.inner.clock.now();
        let new: Vec<LiteId> = ids.iter().copied().filter(|id| !set.contains(*id)).collect();
        // Before they are in the set: an arrival that does not find the set is one that its next poll sees.
        parent.want(set, &new);
        match self.inner.lite.sets.add(set, ids, whole, self.lite_quotas()) {
            Ok(gone) => {
                parent.let_go(set, &gone, now);
                Ok(true)
            }
            Err(why) => {
                parent.let_go(set, &new, now);
                match why {
                    NotAdded::Closed => Ok(false),
                    why => Err(self.refused(why)),
                }
            }
        }
    }

    /// Has it on record that the group wants these: until its clients say so again after a start, which takes them half a
    /// minute, their messages are kept for it where it has done nothing yet.
    fn note_wanted(&self, subscription: &Subscription, ids: &[LiteId]) {
        for ids in ids.chunks(CHUNK) {
            if let Err(error) = self.want_lanes(subscription, ids) {
                let (topic, group) = (&subscription.owner.topic, &subscription.owner.group);
                tracing::warn!(%topic, %group, %error, "could not record which lite topics a group wants");
                return;
            }
        }
    }

    fn lite_quotas(&self) -> (usize, usize) {
        (self.inner.config.lite_subscription_quota, self.inner.config.lite_subscriptions_max)
    }

    fn refused(&self, why: NotAdded) -> LiteError {
        let (quota, max) = self.lite_quotas();
        match why {
            NotAdded::Closed => LiteError::Gone,
            NotAdded::Quota(count) => {
                LiteError::SubscriptionQuota { count, max: quota, setting: "liteSubscriptionQuota" }
            }
            NotAdded::Total(count) => LiteError::SubscriptionQuota { count, max, setting: "liteSubscriptionsMax" },
        }
    }

    /// Makes the lite topics, unless there is no room for them in the set; those that are not in it yet.
    fn open_for(
        &self,
        parent: &Parent,
        set: &LiteSet,
        ids: &[LiteId],
        names: &[String],
        whole: bool,
    ) -> Result<Vec<LiteId>, LiteError> {
        let new: Vec<LiteId> = ids.iter().copied().filter(|id| !set.contains(*id)).collect();
        let (quota, max) = self.lite_quotas();
        let (had, total) = (set.count(), self.inner.lite.sets.total());
        let count = if whole { ids.len() } else { had + new.len() };
        if count > quota {
            return Err(self.refused(NotAdded::Quota(count)));
        }
        let total = (total + count).saturating_sub(had);
        if !new.is_empty() && total > max {
            return Err(self.refused(NotAdded::Total(total)));
        }
        let (now, max) = (self.inner.clock.now(), self.inner.config.lite_topics_max);
        for names in names.chunks(CHUNK) {
            let mut index = parent.known();
            for name in names {
                index.open(name, max, now).map_err(|why| match why {
                    Closed::Full => LiteError::TopicQuota { max },
                    Closed::Taken => LiteError::Taken(name.clone()),
                })?;
            }
        }
        Ok(new)
    }

    /// Lets the group begin there with what nobody else of it has.
    async fn begin(
        &self,
        parent: &Arc<Parent>,
        set: &LiteSet,
        subscription: &Subscription,
        new: &[LiteId],
        start: LiteStart,
    ) -> Result<(), LiteError> {
        let ours = |id: &LiteId| !parent.is_wanted(*id, Some(set.number), Some(&set.group));
        let ours: Vec<LiteId> = new.iter().copied().filter(ours).collect();
        let time = match start {
            LiteStart::Time(time) => {
                let queue = parent.queue.clone();
                self.read_off_the_runtime(move || queue.offset_at(time)).await??
            }
            _ => QueueOffset::ZERO,
        };
        let place = |index: &Index, id| match start {
            LiteStart::Last | LiteStart::Min => QueueOffset::ZERO,
            LiteStart::Max => index.seen(),
            LiteStart::Offset(offset) => offset.min(index.seen()),
            LiteStart::Tail(n) => index.tail(id, n),
            LiteStart::Time(_) => time,
        };
        let mut end = None;
        for ids in ours.chunks(CHUNK) {
            let places: Vec<(LiteId, QueueOffset)> = {
                let index = parent.known();
                ids.iter().map(|id| (*id, place(&index, *id))).collect()
            };
            end = Some(self.move_lanes(subscription, &places)?);
        }
        if let Some(end) = end {
            self.confirmed(end).await?;
        }
        Ok(())
    }
}
