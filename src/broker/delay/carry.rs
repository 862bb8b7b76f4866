//! What waits for long is carried forward: appended anew at the log's end, with all that it was, as one unit with the end of
//! the old record. Otherwise a message that is due in a year would keep a year's log from being deleted. Apache's timers roll
//! on for the same reason (`timerRollWindowSlot`).
//!
//! The oldest come first, since it is the oldest that holds the log. The walk ends at the first record that is young, so a
//! look costs little when there is nothing to do.

use std::{io, time::Duration};

use super::super::aside::meant_topic;
use super::{Broker, Timer, accept::again, undone};
use crate::{
    store::{AppendError, Entry, Purpose},
    types::{NewMessage, QueueOffset, StoredMessage, Timestamp, properties::key},
};

/// Records that are looked at between two waits for the disk.
const BATCH: usize = 256;
/// What is due this soon need not be carried: it holds the log no longer than that.
const SOON: Duration = Duration::from_secs(3600);

/// How far a walk has come.
enum Step {
    /// All before this is carried, done or due soon.
    Next(QueueOffset),
    Over,
}

impl Broker {
    /// Carries forward what has waited longer than `timerRollWindowSlot` since it was appended; how many. The server calls it
    /// now and then.
    pub async fn carry_timers(&self) -> io::Result<u64> {
        let mut from = QueueOffset::ZERO;
        let mut carried = 0;
        loop {
            let broker = self.clone();
            let (step, count) = self.behind_the_runtime(move || broker.carry_some(from)).await??;
            carried += count;
            // So the walk is never faster than the disk.
            self.inner.store.committed(self.inner.store.end()).await.map_err(io::Error::other)?;
            match step {
                Step::Next(next) if !self.is_ending() => from = next,
                Step::Next(_) | Step::Over => return Ok(carried),
            }
        }
    }

    fn carry_some(&self, from: QueueOffset) -> io::Result<(Step, u64)> {
        let book = self.timer_book();
        let from = book.open().book.undone_from(from);
        let entries = book.queue.entries(from, BATCH).map_err(io::Error::other)?;
        let Some(next) = entries.last().map(|last| last.offset.plus(1)) else { return Ok((Step::Over, 0)) };
        let wall = self.inner.clock.wall();
        let mut carried = 0;
        for entry in undone(book, entries) {
            let Some(message) = self.read_timer(&entry).map_err(io::Error::other)? else {
                tracing::error!(offset = %entry.offset, "a delayed message cannot be read and is lost");
                self.drop_ahead(entry.offset).map_err(io::Error::other)?;
                continue;
            };
            if wall.since(message.stored_at) < self.inner.config.timer_carry_after {
                return Ok((Step::Over, carried));
            }
            let due = Timestamp::from_millis(
                message.properties.get(key::TIMER_OUT_MS).and_then(|due| due.parse().ok()).unwrap_or(0),
            );
            if due.since(wall) > SOON {
                carried += u64::from(self.carry(&entry, &message, due)?);
            }
        }
        Ok((Step::Next(next), carried))
    }

    fn carry(&self, entry: &Entry, message: &StoredMessage, due: Timestamp) -> io::Result<bool> {
        let times = message.properties.get(key::TIMER_ROLL_TIMES).and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
        let mut properties = message.properties.without(&[key::TIMER_ROLL_TIMES]);
        properties.push(key::TIMER_ROLL_TIMES, &times.saturating_add(1).to_string());
        let point = self.inner.timers.skews.lock().point(due, entry.offset);
        let record = again(message, properties.build());
        if self.replace_timer(entry.offset, message, record, due, point).map_err(io::Error::other)? {
            return Ok(true);
        }
        let topic = meant_topic(message).and_then(|topic| self.topic_of(message.physical, &topic));
        if topic.is_none() {
            self.drop_ahead(entry.offset).map_err(io::Error::other)?;
        }
        Ok(false)
    }

    /// Appends a timer's record anew and ends the old one; false when that was done already, or when the topic that the old
    /// one is meant for is gone: the new one would seem to be meant for a topic made since.
    pub(super) fn replace_timer(
        &self,
        old: QueueOffset,
        was: &StoredMessage,
        record: NewMessage,
        due: Timestamp,
        point: u64,
    ) -> Result<bool, AppendError> {
        let timers = &self.inner.timers;
        let Some(topic) = meant_topic(was) else { return Ok(false) };
        let meant = Some((&topic, was.physical));
        let ticket = self.append_done(self.timer_book(), old, meant, vec![record], Purpose::User)?;
        let Some(at) = ticket.as_ref().and_then(|ticket| ticket.appended.first()) else { return Ok(false) };
        timers.stale.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        timers.insert(Timer { due, point, offset: at.queue_offset });
        Ok(true)
    }
}
