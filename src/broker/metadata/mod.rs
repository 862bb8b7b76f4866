//! Topics and consumer groups, kept in `config/topics.json` and `config/subscriptionGroup.json` in Apache's shape.
//!
//! # Changes
//! A table is changed by one thread at a time: the whole new file is written first, atomically and durably, then the
//! change becomes visible. When the file cannot be written the change has not happened. Readers take a short read lock and
//! get an `Arc`. The functions here that change something wait for the disk; from async code call [`Broker::topic_for`] and
//! [`Broker::group_for`], or send them to a blocking thread.
//!
//! # A deleted topic stays deleted
//! Deleting a topic removes its queues, not its records: they lie in the log until their segments expire, and a
//! recovery that rebuilds queues from the log meets them again. If the queues of a topic made again under the same name
//! began at 0, those records would come back to life, and so would acknowledgements, receipts and positions that name
//! their offsets. So **a queue offset is never used twice**: `topics.json` keeps where the queues of a deleted topic ended,
//! in the same write that removes the topic, and a topic of that name begins there. Whatever names an offset below is
//! dead, whichever log, snapshot or client it comes from. The note is dropped once retention has deleted the
//! log up to the point of the deletion.
//!
//! The books of consumption go by a record in the log. It is waited for before a topic or group of the same name can be made;
//! books of what the tables do not know are forgotten when the broker opens.
//!
//! Before the ends are taken the topic's gate is closed, so that no append can pass them by: see [`gate::Gate`].
//!
//! # Locks, in the order they are taken
//! `change` of topics or of groups (held over the write of the file), a topic's gate, the table. The store is called under
//! the first two, never under the table's.

mod document;
mod gate;
mod groups;
mod groups_file;
mod retry;
mod topics;
mod topics_file;

use std::{collections::HashSet, sync::Arc};

use crate::{
    store::Store,
    types::{Clock, GroupName, MessageType, TopicName},
};

pub use retry::RetryPolicy;
pub(super) use topics::Entry as TopicEntry;

use super::{AdminError, Broker, OpenError};

/// Where acknowledgements and attempts are recorded: the server's own topic, in the same log as the messages.
pub(super) const SETTLE_TOPIC: &str = "rmq_sys_FERROMQ_SETTLE";
pub(super) use crate::types::TIMER_TOPIC;
/// Where half messages lie until they are committed or rolled back (Apache's `TopicValidator`).
pub(super) const HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
/// Where half messages end that nobody decided after all their checks (Apache's `TopicValidator`).
pub(super) const UNDECIDED_TOPIC: &str = "TRANS_CHECK_MAX_TIME_TOPIC";

/// The server's own topics: one queue each, in the table from the start and never in its file.
const OWN_TOPICS: [&str; 4] = [SETTLE_TOPIC, TIMER_TOPIC, HALF_TOPIC, UNDECIDED_TOPIC];

/// Queues of a topic at most; at least 1.
pub const QUEUES_MAX: u32 = 1024;

/// A topic's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    pub name: TopicName,
    /// `None` for a topic that was auto-created and has not been sent to: the first message decides. Apache's attribute
    /// `message.type`; there it is then `UNSPECIFIED`.
    pub message_type: Option<MessageType>,
    /// 1 to [`QUEUES_MAX`].
    pub read_queues: u32,
    /// 1 to [`QUEUES_MAX`].
    pub write_queues: u32,
    pub readable: bool,
    pub writable: bool,
}

/// A consumer group's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub name: GroupName,
    /// `consumeMessageOrderly`.
    pub fifo: bool,
    /// Each client gets every message. The attribute `ferromq.broadcast`: Apache's `consumeBroadcastEnable` says that its
    /// clients may ask for that, and is true of every group.
    pub broadcast: bool,
    /// `retryMaxTimes`; deliveries are at most one more. 0 to 999.
    pub retry_max_times: u32,
    pub retry_policy: RetryPolicy,
    /// `consumeEnable`.
    pub consume_enabled: bool,
}

impl Group {
    /// Deliveries of one message before it is dead-lettered, the first included.
    pub fn max_attempts(&self) -> u32 {
        self.retry_max_times.saturating_add(1)
    }
}

/// A change to a topic; `None` leaves a setting as it is.
#[derive(Clone, Debug, Default)]
pub struct TopicChange {
    pub message_type: Option<MessageType>,
    /// May grow, never shrink.
    pub queues: Option<u32>,
    pub readable: Option<bool>,
    pub writable: Option<bool>,
}

/// A change to a group; `None` leaves a setting as it is.
#[derive(Clone, Debug, Default)]
pub struct GroupChange {
    pub fifo: Option<bool>,
    pub broadcast: Option<bool>,
    pub retry_max_times: Option<u32>,
    pub retry_policy: Option<RetryPolicy>,
    pub consume_enabled: Option<bool>,
}

/// Both tables.
pub(super) struct Metadata {
    topics: topics::Topics,
    groups: groups::Groups,
    /// One change from async code at a time, so that many that wait for the disk hold one blocking thread, not all.
    turn: Arc<tokio::sync::Semaphore>,
}

impl Metadata {
    /// Reads both files and brings the store's queues in line with them.
    pub(super) fn load(store: &Store) -> Result<Self, OpenError> {
        Ok(Self {
            topics: topics::Topics::load(store)?,
            groups: groups::Groups::load(store)?,
            turn: Arc::new(tokio::sync::Semaphore::new(1)),
        })
    }
}

/// What changing a table needs: where it is written, and the time that goes into the file's version.
#[derive(Clone, Copy)]
struct Saver<'a> {
    store: &'a Store,
    clock: &'a Arc<dyn Clock>,
}

impl Broker {
    /// Forgets what was consumed of topics, and by groups, that a crash left out of the tables and not out of the books.
    pub(super) fn forget_strays(&self) {
        let (mut topics, mut groups) = (HashSet::new(), HashSet::new());
        for (topic, group) in self.inner.pop.owners() {
            if self.topic(topic.as_str()).is_none() && topics.insert(topic.clone()) {
                self.keep_forgotten(self.inner.pop.forget_topic(&topic));
            }
            if group.is_system() {
                continue;
            }
            match self.group(group.as_str()) {
                None if groups.insert(group.whole()) => {
                    self.keep_forgotten(self.inner.pop.forget_group(&group.whole()));
                }
                Some(found) if group.is_member() && !found.broadcast && groups.insert(group.whole()) => {
                    self.keep_forgotten(self.inner.pop.forget_members(&found.name));
                }
                _ => {}
            }
        }
    }

    /// Waits until the record that books are gone is safe. When it cannot be, they are forgotten at the next start.
    fn keep_forgotten(&self, recorded: Result<(), AdminError>) {
        let store = &self.inner.store;
        let kept = recorded.and_then(|()| {
            store.committed_blocking(store.end()).map_err(|error| AdminError::Metadata(error.to_string()))
        });
        if let Err(error) = kept {
            tracing::warn!(%error, "could not record that the progress of a deleted topic or group is forgotten");
        }
    }

    fn saver(&self) -> Saver<'_> {
        Saver { store: &self.inner.store, clock: &self.inner.clock }
    }

    /// Runs a change, which waits for the disk, away from the runtime's threads, and waits for it for `syncFlushTimeout` at most.
    /// Dropping the future may or may not undo it.
    pub(super) async fn change_metadata<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Self) -> Result<T, AdminError> + Send + 'static,
    ) -> Result<T, AdminError> {
        let within = self.inner.config.sync_flush_timeout;
        let broker = self.clone();
        let changed = async {
            // The turn lasts as long as the work, which goes on when this future is dropped.
            let turn = Arc::clone(&self.inner.metadata.turn).acquire_owned().await;
            let task = tokio::task::spawn_blocking(move || {
                let changed = change(&broker);
                drop(turn);
                changed
            });
            task.await.unwrap_or_else(|e| Err(AdminError::Metadata(format!("the change did not end: {e}"))))
        };
        tokio::time::timeout(within, changed).await.unwrap_or(Err(AdminError::Late { within }))
    }
}

#[cfg(test)]
mod tests;
