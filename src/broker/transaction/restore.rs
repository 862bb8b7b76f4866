//! Which halves wait: after a start, of a message just stored, and when their topic is gone.

use std::time::Duration;

use crate::{
    store::{AppendError, Appended, ReadError},
    types::{NewMessage, PhysicalOffset, Properties, QueueOffset, Timestamp, TopicName, properties::key},
};

use super::{Broker, Fault, OpenError, Places, TransactionId, half, pending::Half, planted};
use crate::broker::pop::Undone;

/// Entries of the half topic that are looked at together.
const CHUNK: usize = 1024;

impl Broker {
    /// Puts the halves back that an earlier run left undecided. Waits for the disk.
    pub(in crate::broker) fn restore_transactions(&self) -> Result<(), OpenError> {
        let book = self.half_book();
        let mut from = QueueOffset::ZERO;
        let mut dropped = Vec::new();
        loop {
            let (undone, next) = self.own_undone(book, from, CHUNK)?;
            dropped.extend(undone.iter().filter(|found| !self.restore_half(found)).map(|found| found.offset));
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        self.drop_halves(&dropped);
        Ok(())
    }

    /// False when nobody can decide about it any more. What the device does not give back now is kept: its producer can still
    /// decide, and is asked about it after the next start.
    fn restore_half(&self, found: &Undone) -> bool {
        let offset = found.offset;
        let message = match self.inner.store.message(found.physical, found.size) {
            Ok(message) => message,
            Err(error @ (ReadError::Gone(_) | ReadError::Corrupt { .. })) => {
                tracing::error!(%offset, %error, "a half message cannot be read; it is dropped");
                return false;
            }
            Err(error) => {
                tracing::error!(%offset, %error, "a half message cannot be read now; nobody is asked about it in this run");
                return true;
            }
        };
        let Some(meant) = half::meant(message) else {
            tracing::error!(%offset, "a half message does not say where it is meant to go; it is dropped");
            return false;
        };
        if self.topic_of(found.physical, &meant.topic).is_none() {
            tracing::info!(topic = %meant.topic, %offset, "dropped a half message: its topic was deleted");
            return false;
        }
        let mut half = self.half_of(meant.topic, found.physical, &meant.properties, Some(meant.stored_at));
        half.checks = found.tried;
        half.due = found.due.unwrap_or(half.due);
        self.inner.transactions.pending.restore(offset, half);
        true
    }

    fn half_of(
        &self,
        topic: TopicName,
        physical: PhysicalOffset,
        properties: &Properties,
        stored_at: Option<Timestamp>,
    ) -> Half {
        let (config, clock) = (&self.inner.config, &self.inner.clock);
        let age = stored_at.map_or(Duration::ZERO, |at| clock.wall().since(at));
        let now = clock.now();
        let reserved = self.inner.store.reserved();
        let timeout = half::own_timeout(properties).unwrap_or(config.transaction_timeout).min(reserved);
        let due = now.plus(timeout.saturating_sub(age));
        Half { topic, physical, checks: 0, due, asking: None, until: now.plus(reserved.saturating_sub(age)) }
    }

    /// Notes a half that was just stored, and gives it its id. Call it behind the gate of the topic that it is meant for.
    pub(in crate::broker) fn half_stored(
        &self,
        places: &mut Places<'_>,
        at: &Appended,
        topic: &TopicName,
        half: &NewMessage,
    ) -> TransactionId {
        let pending = self.half_of(topic.clone(), at.physical, &half.properties, None);
        places.take(at.queue_offset, pending);
        let message_id = half.properties.get(key::UNIQ_KEY).unwrap_or_default();
        TransactionId::new(at.queue_offset, at.physical, topic, message_id)
    }

    /// Drops what is meant for a topic that was deleted. Its gate is closed, so nothing comes after.
    pub(in crate::broker) fn drop_transactions_of(&self, topic: &TopicName) {
        let halves = self.inner.transactions.pending.of_topic(topic);
        self.drop_halves(&halves);
    }

    /// What cannot be recorded is dropped when it is due, or at the next start; nobody can commit it meanwhile.
    pub(super) fn drop_halves(&self, halves: &[QueueOffset]) {
        let dropped = match planted(Fault::DropIsRefused) {
            true => Err(AppendError::Busy { pending: 0, max: 0 }),
            false => self.append_dropped(self.half_book(), halves),
        };
        if let Err(error) = dropped {
            tracing::warn!(count = halves.len(), %error, "could not record that half messages are dropped, trying again");
            return;
        }
        halves.iter().for_each(|offset| self.inner.transactions.pending.end(*offset, None));
    }
}
