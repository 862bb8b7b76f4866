//! Asking producers that said nothing, and giving up.
//!
//! A half is due when its producer has had `transactionTimeOut`, or its own time, and from then on every
//! `transactionCheckInterval`. Only a check that reached a producer counts. After `transactionCheckMax` of them, and when
//! it is older than `fileReservedTime`, it goes to [`UNDECIDED_TOPIC`](super::UNDECIDED_TOPIC), where nobody consumes it.
//!
//! Differs from Apache, which counts rounds in which nobody could be asked: a producer that is down for eight minutes
//! loses its transactions there.

use std::time::Duration;

use crate::{
    store::{Purpose, ReadError},
    types::{Deadline, QueueOffset, StoredMessage, TopicName},
};

use super::{Broker, TransactionId, half, pending::Half};
use crate::broker::pop::Tried;

/// Halves that are looked after before others of the thread get a turn.
const ROUND_MAX: usize = 256;
/// Bytes of bodies after which a round ends: what it read is in memory until it is with the producers.
const ROUND_BYTES_MAX: usize = 8 << 20;
/// How long a half waits, at most, when nobody could be asked about it, or when it could not be given up.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// The same when all that could be asked have enough to do.
const AGAIN_SOON: Duration = Duration::from_secs(1);

/// A question that its producer has not taken for so many intervals is taken for lost, and another producer is asked.
const INTERVALS_UNTAKEN: u32 = 8;

/// Who can be asked about half messages of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Askable {
    /// Somebody.
    Now,
    /// Nobody who could take one more question at the moment.
    Soon,
    /// Nobody.
    Nobody,
}

/// A producer is to be asked about this half message.
#[derive(Clone, Debug)]
pub struct Check {
    /// As consumers would get it: in the topic and queue that it is meant for.
    pub message: StoredMessage,
    pub transaction: TransactionId,
}

/// What is to be done now.
#[derive(Debug)]
pub struct Round {
    pub checks: Vec<Check>,
    /// When to come again; `None`: when [`Broker::checks_sooner`] returns.
    pub next: Option<Deadline>,
}

/// What a round read.
#[derive(Default)]
struct Looked {
    checks: Vec<Check>,
    /// Not read, since there were [`ROUND_BYTES_MAX`] before.
    left: Vec<QueueOffset>,
}

#[derive(Clone, Copy)]
enum Fate {
    Ask,
    Wait,
    GiveUp,
    /// Its topic is gone.
    Drop,
}

impl Broker {
    /// The half messages whose producers are to be asked now; `askable` is asked once for each half of a topic. What has
    /// had its last check is given up. The server calls it in a loop, [`Broker::checks_sent`] with
    /// what a producer took, and [`Broker::checks_not_sent`] with what none could take.
    pub async fn due_checks(&self, mut askable: impl FnMut(&TopicName) -> Askable) -> Round {
        if self.is_ending() {
            return Round { checks: vec![], next: None };
        }
        let config = &self.inner.config;
        let interval = config.transaction_check_interval;
        let now = self.inner.clock.now();
        let judge = |half: &Half| {
            if self.topic_of(half.physical, &half.topic).is_none() {
                return (Fate::Drop, interval.min(AGAIN_AFTER));
            }
            if half.checks >= config.transaction_checks_max || half.until <= now {
                return (Fate::GiveUp, interval.min(AGAIN_AFTER));
            }
            if half.asking.is_some_and(|until| until > now) {
                return (Fate::Wait, interval);
            }
            match askable(&half.topic) {
                Askable::Now => (Fate::Ask, interval),
                Askable::Soon => (Fate::Wait, interval.min(AGAIN_SOON)),
                Askable::Nobody => (Fate::Wait, interval.min(AGAIN_AFTER)),
            }
        };
        let pending = &self.inner.transactions.pending;
        let due = pending.due(now, ROUND_MAX, judge);
        let mut is_all = due.len() < ROUND_MAX;
        let mut looked = Looked::default();
        if due.iter().any(|(_, fate)| !matches!(fate, Fate::Wait)) {
            let broker = self.clone();
            looked = self.behind_the_runtime(move || broker.look_after(&due)).await.unwrap_or_else(|error| {
                tracing::error!(%error, "reading half messages ended early; they are looked at again");
                Looked::default()
            });
        }
        is_all &= looked.left.is_empty();
        pending.put_off(looked.left, now);
        let promised = pending.promise();
        Round { checks: looked.checks, next: if is_all { promised } else { Some(now) } }
    }

    /// Waits for the disk.
    fn look_after(&self, due: &[(QueueOffset, Fate)]) -> Looked {
        let (mut give_up, mut dropped, mut looked) = (Vec::new(), Vec::new(), Looked::default());
        let mut bytes = 0;
        for &(offset, fate) in due {
            match fate {
                Fate::Ask if bytes >= ROUND_BYTES_MAX => looked.left.push(offset),
                Fate::Ask => {
                    let check = self.check(offset);
                    bytes += check.as_ref().map_or(0, |check| check.message.body.len());
                    looked.checks.extend(check);
                }
                Fate::GiveUp => give_up.push(offset),
                Fate::Drop => dropped.push(offset),
                Fate::Wait => {}
            }
        }
        self.give_up(&give_up);
        self.drop_halves(&dropped);
        looked
    }

    /// Nobody could take the questions about these after all: they are due again soon.
    pub fn checks_not_sent(&self, unsent: &[TransactionId]) {
        let again = self.inner.clock.now().plus(self.inner.config.transaction_check_interval.min(AGAIN_SOON));
        self.inner.transactions.pending.put_off(unsent.iter().map(|id| id.offset), again);
    }

    /// A question about this is going to wait for a producer: nobody else is asked until [`Broker::check_ended`] says what
    /// became of it.
    pub fn check_waits(&self, about: TransactionId) {
        let interval = self.inner.config.transaction_check_interval;
        let until = self.inner.clock.now().plus(interval.saturating_mul(INTERVALS_UNTAKEN));
        self.inner.transactions.pending.asks(about.offset, until);
    }

    /// The producer took the question, which counts then, or it was dropped. Of several about the same half, only the
    /// first that is taken counts.
    pub fn check_ended(&self, about: TransactionId, is_taken: bool) {
        match (self.inner.transactions.pending.asks_no_more(about.offset), is_taken) {
            (true, true) => self.checks_sent(&[about]),
            (true, false) => self.checks_not_sent(&[about]),
            (false, _) => {}
        }
    }

    /// Notes that producers were asked about these. Not waited for: a crash may ask once more.
    pub fn checks_sent(&self, sent: &[TransactionId]) {
        let pending = &self.inner.transactions.pending;
        let tried = |id: &TransactionId| {
            let (times, due) = pending.asked(id.offset)?;
            Some(Tried { offset: id.offset, times, due })
        };
        let tried: Vec<_> = sent.iter().filter_map(tried).collect();
        if let Err(error) = self.append_tried(self.half_book(), &tried) {
            tracing::warn!(count = tried.len(), %error, "could not record checks of half messages");
        }
    }

    /// Returns when `due_checks` should be called earlier than it said.
    pub async fn checks_sooner(&self) {
        self.inner.transactions.pending.sooner().await;
    }

    fn check(&self, offset: QueueOffset) -> Option<Check> {
        match self.read_undecided(offset) {
            Ok(read) => {
                let message = half::meant(read?)?;
                let message_id = message.message_id().unwrap_or_default();
                let transaction = TransactionId::new(offset, message.physical, &message.topic, message_id);
                Some(Check { message, transaction })
            }
            Err(error) => {
                tracing::error!(%offset, %error, "a half message cannot be read; it is looked at again");
                None
            }
        }
    }

    /// `None` when it is decided, or gone.
    fn read_undecided(&self, offset: QueueOffset) -> Result<Option<StoredMessage>, ReadError> {
        let book = self.half_book();
        if book.open().book.is_done(offset) {
            return Ok(None);
        }
        let entries = book.queue.entries(offset, 1)?;
        let Some(entry) = entries.first().filter(|entry| entry.offset == offset) else { return Ok(None) };
        self.inner.store.message(entry.physical, entry.size).map(Some)
    }

    /// Moves halves to where nobody waits for them. Waits for the disk.
    fn give_up(&self, offsets: &[QueueOffset]) {
        let mut moved = 0;
        let mut failure = None;
        for &offset in offsets {
            match self.give_up_one(offset) {
                Ok(done) => moved += usize::from(done),
                Err(error) => failure = Some(error),
            }
        }
        if moved > 0 {
            let to = super::UNDECIDED_TOPIC;
            tracing::warn!(count = moved, to, "gave up half messages that no producer decided about");
        }
        if let Some(error) = failure {
            tracing::warn!(error, "could not give up half messages, trying again");
        }
    }

    fn give_up_one(&self, offset: QueueOffset) -> Result<bool, String> {
        let (target, messages) = match self.read_undecided(offset) {
            Ok(Some(half)) => {
                let copy = half::undecided(&half);
                (Some((copy.topic.clone(), half.physical)), vec![copy])
            }
            Ok(None) => (None, vec![]),
            Err(error @ (ReadError::Gone(_) | ReadError::Corrupt { .. })) => {
                tracing::error!(%offset, %error, "a half message that nobody decided about cannot be read; it is dropped");
                (None, vec![])
            }
            Err(error) => return Err(error.to_string()),
        };
        let meant = target.as_ref().map(|(topic, since)| (topic, *since));
        let appended = self.append_done(self.half_book(), offset, meant, messages, Purpose::Internal);
        let is_done = appended.map_err(|error| error.to_string())?.is_some();
        self.inner.transactions.pending.end(offset, None);
        Ok(is_done)
    }
}
