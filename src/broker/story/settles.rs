//! What the log says of messages: the records of what was done with them.

use std::time::Duration;

use super::{Broker, LookError};
use crate::{
    broker::pop::{Entry, LaneAt, Record, Retry, What},
    store::ReadError,
    types::{Deadline, GroupName, LiteId, PhysicalOffset, QueueId, QueueOffset, Timestamp, TopicName},
};

/// Records that a story looks at, at most.
const RECORDS_MAX: usize = 2_000_000;
/// Entries that are read at once.
const CHUNK: usize = 1024;

/// A message's place.
pub type Place = (TopicName, QueueId, QueueOffset);

/// What a record says of one message.
#[derive(Clone, Debug)]
pub struct Settled {
    pub at: Timestamp,
    pub physical: PhysicalOffset,
    /// Whose progress it is about; nobody's in particular when the topic was deleted.
    pub group: Option<GroupName>,
    pub place: Place,
    pub what: Fate,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Done,
    /// It comes again as this attempt.
    Again {
        attempt: u32,
        visible_at: Timestamp,
        delay: Duration,
    },
    /// It was delivered to a FIFO group.
    Delivered {
        attempt: u32,
        until: Timestamp,
    },
    /// The group goes on from elsewhere: before the message, so that it comes again, or behind it.
    Reset {
        to: QueueOffset,
    },
    /// The group is at the beginning: a lite topic is wanted, or goes back if something was done in it before.
    Begins,
    /// The progress was forgotten with its group, subscription or topic.
    Forgotten,
}

/// What was found, and what was not looked at.
#[derive(Debug, Default)]
pub struct Found {
    pub settled: Vec<Settled>,
    /// What was recorded before was deleted with the log.
    pub gone_before: Option<Timestamp>,
    /// What was recorded from here on was not looked at.
    pub ended_at: Option<Timestamp>,
}

impl Broker {
    /// What the log says of the messages at these places since the earliest of them was stored. Waits for the disk.
    pub(super) fn settled(&self, places: &[Place], since: Timestamp, until: Deadline) -> Result<Found, LookError> {
        let queue = self.inner.pop.settle_queue();
        let places: Vec<_> = places.iter().map(|place| (place.clone(), self.lite_id_at(place))).collect();
        let mut next = queue.offset_at(since)?;
        let mut found = Found::default();
        let clock = &self.inner.clock;
        let mut looked_at = 0;
        if next == queue.min() && next > QueueOffset::ZERO {
            found.gone_before = Some(since);
        }
        loop {
            let entries = queue.entries(next, CHUNK)?;
            let Some(last) = entries.last() else { return Ok(found) };
            next = last.offset.plus(1);
            looked_at += entries.len();
            let mut at = since;
            for entry in &entries {
                let message = match self.inner.store.message(entry.physical, entry.size) {
                    Err(ReadError::Gone(_)) => {
                        found.gone_before = Some(since);
                        continue;
                    }
                    other => other?,
                };
                at = message.stored_at;
                // A start of the server has read all of them.
                if let Ok(entry) = Entry::decode(&message.body) {
                    found.settled.extend(said(entry, &places).into_iter().map(|(group, place, what)| Settled {
                        at,
                        physical: message.physical,
                        group,
                        place,
                        what,
                    }));
                }
            }
            if looked_at >= RECORDS_MAX || clock.now() >= until {
                found.ended_at = Some(at);
                return Ok(found);
            }
        }
    }
}

impl Broker {
    /// Of what lite topic a message is, if its topic has some.
    fn lite_id_at(&self, (topic, queue, offset): &Place) -> LiteId {
        let entries = self.inner.store.queue(topic, *queue).entries(*offset, 1);
        let entry = entries.ok().and_then(|entries| entries.first().copied()).filter(|entry| entry.offset == *offset);
        entry.map_or(LiteId::default(), |entry| LiteId::from_code(entry.tags_code))
    }
}

/// What a record says of these places; in a LITE topic each is of a lite topic.
fn said(entry: Entry, places: &[(Place, LiteId)]) -> Vec<(Option<GroupName>, Place, Fate)> {
    let ours = |topic: &TopicName| places.iter().filter(|(place, _)| place.0 == *topic).cloned().collect::<Vec<_>>();
    let of_topic = |topic: &TopicName| ours(topic).into_iter().map(|(place, _)| place).collect::<Vec<_>>();
    let Record { topic, group, what } = match entry {
        Entry::Record(record) => record,
        Entry::ForgetTopic(topic) => {
            return of_topic(&topic).into_iter().map(|place| (None, place, Fate::Forgotten)).collect();
        }
        Entry::ForgetGroup(group) | Entry::ForgetMembers(group) => {
            return places.iter().map(|(place, _)| (Some(group.clone()), place.clone(), Fate::Forgotten)).collect();
        }
        Entry::ForgetSubscription(topic, group) => {
            let forgotten = |place| (Some(group.clone()), place, Fate::Forgotten);
            return of_topic(&topic).into_iter().map(forgotten).collect();
        }
    };
    let fate = |place: &Place, id| fate(&what, (place.1, place.2), id);
    ours(&topic)
        .into_iter()
        .filter_map(|(place, id)| fate(&place, id).map(|what| (Some(group.clone()), place, what)))
        .collect()
}

fn fate(what: &What, (queue, offset): (QueueId, QueueOffset), id: LiteId) -> Option<Fate> {
    let of = |retries: &[Retry]| retries.iter().find(|r| (r.queue, r.offset) == (queue, offset)).copied();
    match what {
        What::Done(queues) => {
            let mut ranges = queues.iter().filter(|(id, _)| *id == queue).flat_map(|(_, ranges)| ranges);
            ranges.any(|range| range.contains(&offset)).then_some(Fate::Done)
        }
        What::Retry(retries) => {
            let Retry { attempt, visible_at, delay, .. } = of(retries)?;
            Some(Fate::Again { attempt, visible_at, delay })
        }
        What::Leased(leases) => {
            let lease = leases.iter().find(|lease| (lease.queue, lease.offset) == (queue, offset))?;
            Some(Fate::Delivered { attempt: lease.attempt, until: lease.ends_at })
        }
        What::Reset(resets) => {
            resets.iter().find(|reset| reset.queue == queue).map(|reset| Fate::Reset { to: reset.to })
        }
        What::Lanes(lanes) => {
            let is_it = |lane: &LaneAt| (lane.queue, lane.id, lane.to) == (queue, id, offset.plus(1));
            lanes.iter().any(is_it).then_some(Fate::Done)
        }
        What::Rewind { lanes, void } => {
            let lane = lanes.iter().find(|lane| (lane.queue, lane.id) == (queue, id))?;
            let begins = lane.to == QueueOffset::ZERO && void.is_empty();
            Some(if begins { Fate::Begins } else { Fate::Reset { to: lane.to } })
        }
        What::Start(starts) => {
            let start = starts.iter().find(|(id, at)| *id == queue && *at > offset)?;
            Some(Fate::Reset { to: start.1 })
        }
    }
}
