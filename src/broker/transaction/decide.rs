//! What a producer says about its half message.

use crate::{
    store::{AppendError, Purpose, ReadError, Sought, Ticket},
    types::{NewMessage, PhysicalOffset, StoredMessage, TopicName, properties::key},
};

use super::{Broker, EndError, Fault, TransactionId, half, planted};

/// Messages with the same key that are looked at when a decision of long ago is looked for.
const SAME_KEY_MAX: usize = 1024;

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Commit,
    Rollback,
}

impl Broker {
    /// Ends a transaction; `Ok` is as safe as the flush policy says. Saying again what was decided is `Ok` and changes
    /// nothing.
    ///
    /// The id must be of this topic and message, and so must the half message that it names. `Ok` means that it is so;
    /// where the opposite was decided, or what was decided is not known any more, the answer says that.
    pub async fn end_transaction(
        &self,
        topic: &TopicName,
        message_id: &str,
        transaction_id: &str,
        decision: Decision,
    ) -> Result<(), EndError> {
        let id = TransactionId::parse(transaction_id).ok_or(EndError::Unknown)?;
        let meant = self.read_half(id).await?.and_then(half::meant).ok_or(EndError::Unknown)?;
        let is_bound = id.is_of(topic, message_id) && meant.topic == *topic && meant.message_id() == Some(message_id);
        if !is_bound && !planted(Fault::DecisionIsNotBound) {
            return Err(EndError::Unknown);
        }
        let appended = match decision {
            Decision::Commit => self.append_commit(id, half::committed(&meant), meant.physical),
            Decision::Rollback => self.append_done(self.half_book(), id.offset, None, vec![], Purpose::Internal),
        }?;
        if let Some(ticket) = appended {
            self.inner.transactions.pending.end(id.offset, Some(decision));
            if let Some(entry) = self.topic_entry(topic.as_str()) {
                let now = self.inner.clock.wall();
                self.inner.meters.decided(&entry, decision == Decision::Commit, meant.born_at, now);
            }
            return Ok(self.confirmed(ticket.end).await?);
        }
        if !self.half_book().open().book.is_done(id.offset) {
            return Err(EndError::TopicNotFound(meant.topic));
        }
        // What was decided may still be on its way to the disk.
        self.confirmed(self.inner.store.end()).await?;
        match self.decision_of(id, topic, message_id).await? {
            Some(was) if was == decision => Ok(()),
            Some(was) => Err(EndError::Decided(was)),
            None => Err(EndError::Unknown),
        }
    }

    /// `None` when it is done already, and when the topic of the half that lies at `since` is gone.
    fn append_commit(
        &self,
        id: TransactionId,
        message: NewMessage,
        since: PhysicalOffset,
    ) -> Result<Option<Ticket>, AppendError> {
        let (book, topic) = (self.half_book(), message.topic.clone());
        if planted(Fault::CommitInTwoSteps) {
            self.append_to_topic_of(since, &topic, &[message], Purpose::User).transpose()?;
            return self.append_done(book, id.offset, None, vec![], Purpose::Internal);
        }
        self.append_done(book, id.offset, Some((&topic, since)), vec![message], Purpose::User)
    }

    /// The half message that an id names, if it is still there.
    async fn read_half(&self, id: TransactionId) -> Result<Option<StoredMessage>, ReadError> {
        let broker = self.clone();
        let read = move || {
            let entries = broker.half_book().queue.entries(id.offset, 1)?;
            let entry = entries.first().filter(|entry| (entry.offset, entry.physical) == (id.offset, id.physical));
            entry.map(|entry| broker.inner.store.message(entry.physical, entry.size)).transpose()
        };
        // An id is a client's to say: the log ends somewhere.
        if id.physical < self.inner.store.end() && self.inner.store.is_cold(id.physical) {
            return self.off_the_runtime(read).await.map_err(|error| failed(id.physical, error))?;
        }
        read()
    }

    /// What was decided about a half that is done. Where that is not remembered, it was committed if its message is found
    /// by its key, and else rolled back, or given up, which is the same to its producer. `None` when keys are not indexed.
    async fn decision_of(
        &self,
        id: TransactionId,
        topic: &TopicName,
        message_id: &str,
    ) -> Result<Option<Decision>, ReadError> {
        if let Some(decision) = self.inner.transactions.pending.decided(id.offset) {
            return Ok(Some(decision));
        }
        if !self.inner.store.is_indexed() {
            return Ok(None);
        }
        let (store, topic, message_id) = (self.inner.store.clone(), topic.clone(), message_id.to_owned());
        let is_it = move |message: &StoredMessage| {
            message.prepared_at == Some(id.physical) && message.properties.get(key::TRAN_MSG) == Some("true")
        };
        let find = move || store.find(Sought::any(&topic, &message_id), 1, SAME_KEY_MAX, is_it);
        let found = self.off_the_runtime(find).await.map_err(|error| failed(id.physical, error))??;
        Ok(Some(if found.is_empty() { Decision::Rollback } else { Decision::Commit }))
    }
}

pub(super) fn failed(at: PhysicalOffset, error: std::io::Error) -> ReadError {
    ReadError::Io { at, error: std::sync::Arc::new(error) }
}
