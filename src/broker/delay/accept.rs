//! What time a message asks for, and its way into the timer topic and out of it.

use std::time::Duration;

use super::{Broker, ProduceError, TIMER_TOPIC, Timer, levels};
use crate::{
    broker::{Draft, aside},
    store::Ticket,
    types::{MessageType, NewMessage, Properties, QueueId, StoredMessage, Timestamp, TopicName, properties::key},
};

/// What only the timer topic's records carry, or asks for a time that has come.
const OF_THE_TIMER: [&str; 10] = [
    key::REAL_TOPIC,
    key::REAL_QID,
    key::TIMER_OUT_MS,
    key::TIMER_ROLL_TIMES,
    key::DELAY,
    key::TIMER_DELAY_SEC,
    key::TIMER_DELAY_MS,
    key::TIMER_DELIVER_MS,
    "TIMER_ENQUEUE_MS",
    "TIMER_DEQUEUE_MS",
];

/// The times of one call's messages; nothing at all when none of them is delayed.
pub(in crate::broker) struct Held<'a> {
    broker: &'a Broker,
    /// For each message the time, and the point of that, until which it is held.
    times: Vec<Option<(Timestamp, u64)>>,
    count: usize,
    appended: bool,
}

impl Broker {
    /// Which messages of a call wait for a time; counts them in until the call is given up.
    pub(in crate::broker) fn hold(&self, drafts: &[Draft]) -> Result<Held<'_>, ProduceError> {
        let mut held = Held { broker: self, times: Vec::new(), count: 0, appended: false };
        if drafts.iter().all(|draft| draft.message_type != MessageType::Delay) {
            return Ok(held);
        }
        let (wall, now) = (self.inner.clock.wall(), self.inner.clock.now());
        for draft in drafts {
            let due = self.due(draft, wall)?;
            held.times.push(due.map(|due| (due, self.inner.timers.axis.point(due, wall, now))));
        }
        let count = held.times.iter().flatten().count();
        let max = self.inner.config.timers_max;
        if !self.inner.timers.reserve(count, max) {
            return Err(ProduceError::TimersFull { max });
        }
        held.count = count;
        Ok(held)
    }

    /// The time that a message waits for; `None` when it has come.
    fn due(&self, draft: &Draft, wall: Timestamp) -> Result<Option<Timestamp>, ProduceError> {
        if draft.message_type != MessageType::Delay {
            return Ok(None);
        }
        let due = asked(&draft.properties, wall, &self.inner.config.delay_levels)?;
        let (ahead, max) = (due.since(wall), self.inner.config.timer_delay_max);
        if ahead > max {
            return Err(ProduceError::DelayTooLong { ahead, max });
        }
        Ok((!ahead.is_zero()).then_some(due))
    }
}

impl Held<'_> {
    /// Until when the message is held.
    pub(in crate::broker) fn until(&self, place: usize) -> Option<Timestamp> {
        self.times.get(place).copied().flatten().map(|(due, _)| due)
    }

    /// The timers are in the log.
    pub(in crate::broker) fn appended(&mut self, ticket: &Ticket) {
        self.appended = true;
        for (time, at) in self.times.iter().zip(&ticket.appended) {
            if let Some((due, point)) = *time {
                self.broker.inner.timers.insert(Timer { due, point, offset: at.queue_offset });
            }
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if !self.appended {
            self.broker.inner.timers.release(self.count);
        }
    }
}

/// The time that properties ask for, in Apache's order: a level before anything else (`HookUtils`).
fn asked(properties: &Properties, wall: Timestamp, levels: &[Duration]) -> Result<Timestamp, ProduceError> {
    let number = |key: &'static str| match properties.get(key) {
        Some(text) => text.parse::<i64>().map(Some).map_err(|_| ProduceError::NoTime { key, value: text.into() }),
        None => Ok(None),
    };
    if let Some(delay) = number(key::DELAY)?.and_then(|level| levels::delay(levels, level)) {
        return Ok(wall.plus(delay));
    }
    let after = |ms: i64| Timestamp::from_millis(wall.as_millis().saturating_add(ms));
    Ok(match (number(key::TIMER_DELAY_SEC)?, number(key::TIMER_DELAY_MS)?, number(key::TIMER_DELIVER_MS)?) {
        (Some(seconds), _, _) => after(seconds.saturating_mul(1000)),
        (None, Some(ms), _) => after(ms),
        (None, None, Some(at)) => Timestamp::from_millis(at),
        (None, None, None) => wall,
    })
}

/// The message as it waits in the timer topic.
pub(in crate::broker) fn put_aside(message: NewMessage, due: Timestamp) -> NewMessage {
    aside::put_aside(message, TIMER_TOPIC, &[(key::TIMER_OUT_MS, &due.to_string())])
}

/// A waiting message with other properties, for the timer topic again.
pub(super) fn again(stored: &StoredMessage, properties: Properties) -> NewMessage {
    stored.copy_to(TopicName::system(TIMER_TOPIC), QueueId(0), properties)
}

/// The message as its topic gets it, whose queue is among `queues`. It still says for when it was sent, as consumers are
/// shown, but not by which delay or level: a copy of it, like that in a dead-letter topic, must not be delayed again.
pub(super) fn released(stored: &StoredMessage, topic: TopicName, queues: u32) -> NewMessage {
    let of = |key| stored.properties.get(key);
    let queue = aside::meant_queue(stored).map_or(0, |queue| queue.0) % queues.max(1);
    let mut properties = stored.properties.without(&OF_THE_TIMER);
    if of(key::DELAY).is_none() {
        let due = of(key::TIMER_DELIVER_MS).or(of(key::TIMER_OUT_MS));
        properties.push(key::TIMER_DELIVER_MS, due.unwrap_or_default());
    }
    stored.copy_to(topic, QueueId(queue), properties.build())
}
