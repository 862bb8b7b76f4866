//! Leases that the server keeps alive for push consumers (`auto_renew`).
//!
//! The client sees one receipt handle; the broker moves the end of its lease, so what is kept here is only which leases
//! to move, and when. A crash of the server forgets it together with the deliveries; those of FIFO groups, which are on
//! record, last as long as they were last prolonged.
//!
//! The table is cut into shards by client and group. A shard's lock is held for map work alone, never while the broker
//! is called.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    broker::{Broker, Receipt, RetryPolicy, SettleError},
    types::{ClientId, Deadline, GroupName, TopicName},
};

use super::config::Renew;

const SHARDS: usize = 32;

/// Leases that are moved before others on the thread have their turn.
const AT_ONCE: usize = 128;

/// What the n-th renewal of a lease adds; the last repeats (RocketMQ's `RenewStrategyPolicy`).
const STEPS: [Duration; 6] = [
    Duration::from_secs(60),
    Duration::from_secs(3 * 60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(10 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(60 * 60),
];

/// Whose leases.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Holder {
    pub client: ClientId,
    pub group: GroupName,
}

/// One delivery to be kept.
pub struct Delivered {
    pub receipt: Receipt,
    pub message_id: String,
}

/// The kept leases.
pub struct Renewals {
    config: Renew,
    hasher: RandomState,
    shards: [Shard; SHARDS],
    /// Leases in all shards.
    held: AtomicUsize,
}

type Shard = Mutex<HashMap<Holder, HashMap<Receipt, Lease>>>;

/// A lease that is about to end, as it was when it was looked at.
struct Due {
    holder: Holder,
    receipt: Receipt,
    lease: Lease,
}

#[derive(Clone)]
struct Lease {
    topic: TopicName,
    message_id: String,
    taken: Deadline,
    ends: Deadline,
    renewals: u32,
    failures: u32,
}

impl Renewals {
    pub fn new(config: Renew) -> Self {
        Self { config, hasher: RandomState::new(), shards: Default::default(), held: AtomicUsize::new(0) }
    }

    fn shard(&self, holder: &Holder) -> &Shard {
        &self.shards[self.hasher.hash_one(holder) as usize % SHARDS]
    }

    /// Keeps these deliveries, taken now with leases that end then. Above the bound they are not kept, and their leases
    /// end by themselves.
    pub fn keep(&self, holder: &Holder, topic: &TopicName, taken: Deadline, ends: Deadline, new: Vec<Delivered>) {
        if self.held.load(Relaxed) + new.len() > self.config.held_max {
            tracing::warn!(held_max = self.config.held_max, "too many leases to renew; deliveries go without");
            return;
        }
        let mut shard = self.shard(holder).lock();
        let leases = shard.entry(holder.clone()).or_default();
        for Delivered { receipt, message_id } in new {
            let lease = Lease { topic: topic.clone(), message_id, taken, ends, renewals: 0, failures: 0 };
            if leases.insert(receipt, lease).is_none() {
                self.held.fetch_add(1, Relaxed);
            }
        }
    }

    /// Stops keeping a delivery: it was settled.
    pub fn stop(&self, holder: &Holder, receipt: &Receipt) {
        let mut shard = self.shard(holder).lock();
        let Some(leases) = shard.get_mut(holder) else { return };
        if leases.remove(receipt).is_some() {
            self.held.fetch_sub(1, Relaxed);
        }
        if leases.is_empty() {
            shard.remove(holder);
        }
    }

    /// The kept delivery of a message, for a client that names only that.
    pub fn find(&self, holder: &Holder, message_id: &str) -> Option<Receipt> {
        let shard = self.shard(holder).lock();
        let leases = shard.get(holder)?;
        leases.iter().find(|(_, lease)| lease.message_id == message_id).map(|(receipt, _)| receipt.clone())
    }

    /// The client went away: what it holds comes again soon.
    pub async fn release(&self, client: &ClientId, broker: &Broker) {
        let mut moved = 0;
        for shard in &self.shards {
            for (holder, leases) in self.take(shard, client) {
                for (receipt, lease) in leases {
                    // A lease that cannot be cut ends by itself.
                    let _ = broker.renew(&lease.topic, &holder.group, &receipt, self.config.when_gone);
                    turn(&mut moved).await;
                }
            }
        }
    }

    fn take(&self, shard: &Shard, client: &ClientId) -> Vec<(Holder, HashMap<Receipt, Lease>)> {
        let gone: Vec<_> = shard.lock().extract_if(|holder, _| holder.client == *client).collect();
        self.held.fetch_sub(gone.iter().map(|(_, leases)| leases.len()).sum(), Relaxed);
        gone
    }

    /// Renews what is about to end.
    pub async fn tick(&self, now: Deadline, broker: &Broker) {
        let mut moved = 0;
        for shard in &self.shards {
            for due in self.due(shard, now) {
                self.renew(due, now, broker);
                turn(&mut moved).await;
            }
        }
    }

    fn due(&self, shard: &Shard, now: Deadline) -> Vec<Due> {
        let shard = shard.lock();
        let mut due = Vec::new();
        for (holder, leases) in &*shard {
            let ending = leases.iter().filter(|(_, l)| l.ends.remaining(now) <= self.config.ahead);
            due.extend(ending.map(|(receipt, lease)| Due {
                holder: holder.clone(),
                receipt: receipt.clone(),
                lease: lease.clone(),
            }));
        }
        due
    }

    fn renew(&self, due: Due, now: Deadline, broker: &Broker) {
        let Due { holder, receipt, lease } = due;
        if now.remaining(lease.taken) > self.config.total_max {
            let policy =
                broker.group(holder.group.as_str()).map_or_else(RetryPolicy::apache, |g| g.retry_policy.clone());
            // Whoever works on it this long gets the group's back-off, and then the next attempt is made.
            let _ = broker.renew(&lease.topic, &holder.group, &receipt, last_lease(&policy, receipt.attempt()));
            self.stop(&holder, &receipt);
            return;
        }
        let step = STEPS[(lease.renewals as usize).min(STEPS.len() - 1)];
        let renewed = broker.renew(&lease.topic, &holder.group, &receipt, step);
        if renewed.as_ref().is_err_and(|error| is_lost(error) || lease.failures + 1 >= self.config.failures_max) {
            return self.stop(&holder, &receipt);
        }
        let mut shard = self.shard(&holder).lock();
        match shard.get_mut(&holder).and_then(|leases| leases.get_mut(&receipt)) {
            Some(kept) if renewed.is_ok() => {
                *kept = Lease { ends: now.plus(step), renewals: lease.renewals + 1, failures: 0, ..lease };
            }
            Some(kept) => kept.failures = lease.failures + 1,
            None => {
                // Settled or given up in between; a lease that was given up must not have been lengthened.
                drop(shard);
                let _ = broker.renew(&lease.topic, &holder.group, &receipt, self.config.when_gone);
            }
        }
    }

    #[cfg(test)]
    fn held(&self) -> usize {
        self.held.load(Relaxed)
    }
}

/// Lets others on the thread have their turn, once in [`AT_ONCE`] leases.
async fn turn(moved: &mut usize) {
    *moved += 1;
    if moved.is_multiple_of(AT_ONCE) {
        tokio::task::yield_now().await;
    }
}

/// Whether there is nothing left to renew.
fn is_lost(error: &SettleError) -> bool {
    match error {
        SettleError::Invalid | SettleError::Expired | SettleError::TopicNotFound(_) | SettleError::GroupNotFound(_) => {
            true
        }
        SettleError::TooManyBooks(_) | SettleError::Append(_) | SettleError::Read(_) | SettleError::Unconfirmed(_) => {
            false
        }
    }
}

/// The last lease of a delivery that was kept for as long as one may be. RocketMQ takes the third entry of a customized
/// list for a first attempt, and so on.
fn last_lease(policy: &RetryPolicy, attempt: u32) -> Duration {
    match policy {
        RetryPolicy::Customized(_) => policy.delay(attempt.saturating_add(2)),
        RetryPolicy::Exponential { .. } => policy.delay(attempt),
    }
}

#[cfg(test)]
mod tests;
