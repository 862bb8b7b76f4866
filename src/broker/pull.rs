//! Reading from an offset on. A pull takes nothing: it books no delivery, and what a group has done is for its consumer to
//! say ([`Broker::reset_offset`]).

use std::sync::Arc;

use crate::{
    store::{Queue, ReadError, Store},
    types::{Deadline, GroupName, PhysicalOffset, QueueId, QueueOffset, StoredMessage, TopicName},
};

use super::{
    Broker, Filter, PullError, Topic,
    filter::{LOOK_MIN, UNWANTED_MAX},
    long_poll::Seat,
};

/// Messages that one pull answers at most.
const BATCH_MAX: usize = 32;
/// Bytes of log records that one pull answers, unless the first message alone is larger.
const BATCH_BYTES_MAX: u64 = 8 << 20;
/// Entries that are looked at before other tasks of the thread get a turn.
const ENTRIES_PER_TURN: usize = 256;
/// Entries before a queue's end that are in memory.
const NEAR: u64 = 64;

/// One pull.
#[derive(Clone, Debug)]
pub struct Pull {
    pub topic: TopicName,
    pub group: GroupName,
    pub queue: QueueId,
    /// The first offset wanted.
    pub offset: QueueOffset,
    pub filter: Filter,
    /// Messages at most, 1 to 32.
    pub max: usize,
    /// Until when it waits for something to answer; not at all when it has passed.
    pub until: Deadline,
}

/// What a pull brought.
#[derive(Clone, Debug)]
pub struct Pulled {
    pub messages: Vec<StoredMessage>,
    /// Where the next pull goes on: behind what was answered, and what the filter passed over.
    pub next: QueueOffset,
}

/// One turn of reading.
struct Turn {
    store: Store,
    queue: Queue,
    filter: Filter,
    from: QueueOffset,
    max: usize,
}

/// What a turn saw.
struct Seen {
    pulled: Pulled,
    /// The queue's end was reached.
    at_end: bool,
}

impl Broker {
    /// Reads messages from an offset on; parks until something arrives or the pull ends. Empty when nothing that the filter
    /// wants came in time.
    pub async fn pull(&self, pull: Pull) -> Result<Pulled, PullError> {
        let polls = self.inner.pop.polls();
        let mut seat: Option<Seat> = None;
        let mut at = pull.offset;
        loop {
            let (topic, _) = self.may_take(&pull.topic, &pull.group).await?;
            let queue = self.pulled_queue(&topic, &pull)?;
            let (min, max) = (queue.min(), queue.max());
            if pull.offset > max || (at == pull.offset && at < min) {
                return Err(PullError::OutOfRange { offset: pull.offset, min, max });
            }
            let pulled = self.look_from(at.max(min), &queue, &pull).await?;
            if let Some(seat) = &seat {
                seat.looked();
            }
            at = pulled.next;
            let is_over = polls.has_ended() || pull.until <= self.inner.clock.now();
            if is_over || !pulled.messages.is_empty() {
                self.count_pulled(&pull, &pulled);
                return Ok(pulled);
            }
            let line = polls.queue_line(&pull.topic, pull.queue);
            match seat.take().filter(|seat| seat.is_in(&line)) {
                Some(seated) => {
                    if !self.woken_in_time(&seated, pull.until).await {
                        return Ok(pulled);
                    }
                    seated.about_to_look();
                    seat = Some(seated);
                }
                // Seated first, the next round is the last look before it waits.
                None => seat = Some(line.sit(pull.filter.clone()).map_err(super::TakeError::from)?),
            }
        }
    }

    fn count_pulled(&self, pull: &Pull, pulled: &Pulled) {
        if !pulled.messages.is_empty() {
            let bytes = pulled.messages.iter().map(|message| message.body.len() as u64).sum();
            self.inner.meters.pulled(&pull.topic, &pull.group, pulled.messages.len(), bytes);
        }
    }

    fn pulled_queue(&self, topic: &Topic, pull: &Pull) -> Result<Queue, PullError> {
        if pull.queue.0 >= topic.read_queues {
            let queues = topic.read_queues;
            return Err(PullError::NoQueue { topic: topic.name.clone(), queue: pull.queue, queues });
        }
        Ok(self.inner.store.queue(&topic.name, pull.queue))
    }

    /// Looks until it sees something, the queue's end, or the end of the pull.
    async fn look_from(&self, from: QueueOffset, queue: &Queue, pull: &Pull) -> Result<Pulled, PullError> {
        let mut from = from;
        let mut ends = None;
        loop {
            let Seen { pulled, at_end } = self.turn(from, queue, pull).await?;
            if at_end || !pulled.messages.is_empty() {
                return Ok(pulled);
            }
            from = pulled.next;
            let now = self.inner.clock.now();
            let over = now >= *ends.get_or_insert(pull.until.max(now.plus(LOOK_MIN)));
            if over || self.inner.pop.polls().has_ended() {
                return Ok(pulled);
            }
            tokio::task::yield_now().await;
        }
    }

    /// A turn near the end of the queue is done here; any other may have to wait for the disk.
    async fn turn(&self, from: QueueOffset, queue: &Queue, pull: &Pull) -> Result<Seen, PullError> {
        let (store, max) = (self.inner.store.clone(), pull.max.clamp(1, BATCH_MAX));
        let turn = Turn { store, queue: queue.clone(), filter: pull.filter.clone(), from, max };
        let seen = if turn.is_in_memory() {
            turn.run()
        } else {
            let at = PhysicalOffset::ZERO;
            let failed = |error| ReadError::Io { at, error: Arc::new(error) };
            self.off_the_runtime(move || turn.run()).await.map_err(failed).and_then(|seen| seen)
        };
        Ok(seen.map_err(super::TakeError::from)?)
    }
}

impl Turn {
    fn is_in_memory(&self) -> bool {
        let end = self.queue.max();
        if self.from >= end {
            return true;
        }
        // What comes behind the first one lies further on in the log, too.
        self.from.until(end) <= NEAR
            && self.queue.entries(self.from, 1).is_ok_and(|e| e.first().is_none_or(|e| !self.store.is_cold(e.physical)))
    }

    fn run(&self) -> Result<Seen, ReadError> {
        let entries = self.queue.entries(self.from, ENTRIES_PER_TURN)?;
        let at_end = entries.is_empty();
        let mut pulled = Pulled { messages: Vec::new(), next: self.from };
        let (mut bytes_left, mut reads_left) = (BATCH_BYTES_MAX, UNWANTED_MAX);
        for entry in entries {
            if self.filter.may_match(entry.tags_code) {
                let size = u64::from(entry.size);
                let is_first = pulled.messages.is_empty();
                if pulled.messages.len() == self.max || reads_left == 0 || (size > bytes_left && !is_first) {
                    break;
                }
                reads_left -= 1;
                match self.store.message(entry.physical, entry.size) {
                    Ok(message) if self.filter.matches(&message) => {
                        bytes_left = bytes_left.saturating_sub(size);
                        pulled.messages.push(message);
                    }
                    Ok(_) => {}
                    Err(error) if !is_lost(&error, &self.store) => {
                        if is_first {
                            return Err(error);
                        }
                        break;
                    }
                    Err(error) => {
                        let (topic, queue, offset) = (self.queue.topic(), self.queue.id(), entry.offset);
                        tracing::error!(%topic, %queue, %offset, %error, "passing over a message that cannot be read");
                    }
                }
            }
            pulled.next = entry.offset.plus(1);
        }
        Ok(Seen { pulled, at_end })
    }
}

/// Whether reading again cannot bring it.
fn is_lost(error: &ReadError, store: &Store) -> bool {
    match error {
        ReadError::Corrupt { .. } => true,
        // Only what lies before the log's start was deleted.
        ReadError::Gone(at) => *at < store.start(),
        ReadError::Io { .. } | ReadError::Queue(_) | ReadError::Index(_) => false,
    }
}

#[cfg(test)]
mod tests;
