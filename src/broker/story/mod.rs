//! A message's life, told from what is left of it: its copies in the log, the records of what was done with them, where
//! its groups are now, and, of deliveries, the newest that are remembered ([`ring`]).
//!
//! Records that were appended as one unit say so and lie one behind the other, so that what a record of "done" went with is
//! told by that: a copy in a dead-letter topic, the message that a timer or a half turned into, or nothing, which is an
//! acknowledgement, a recall or a rollback.

mod copies;
mod ring;
mod settles;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

pub use copies::{Copy, Kind};
pub use ring::{Seen, Sighted, Sighting};

pub(super) use ring::Sightings;

use self::settles::{Fate, Found, Place, Settled};
use super::{Broker, LookError, pop::Exception};
use crate::types::{ClientId, GroupName, QueueId, QueueOffset, Timestamp, TopicName};

/// How long a story looks, in all.
const TIME_MAX: Duration = Duration::from_secs(15);

/// All that is known of a message.
#[derive(Debug)]
pub struct Story {
    /// Where it is, or was, stored; the oldest first.
    pub copies: Vec<Copy>,
    /// What happened, the oldest first.
    pub events: Vec<Event>,
    /// Where its groups are with it now.
    pub standings: Vec<Standing>,
    /// What cannot be known any more.
    pub gaps: Vec<Gap>,
}

/// Something that cannot be known any more.
#[derive(Clone, Debug)]
pub enum Gap {
    /// Deliveries before this time are not all remembered.
    Deliveries(Timestamp),
    /// What was recorded at first was deleted with the oldest of the log.
    Deleted,
    /// What was recorded after this time was not looked at: there is too much of it.
    TooMuch(Timestamp),
    /// Not all copies were found.
    Copies(LookError),
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct Event {
    pub at: Timestamp,
    pub what: Happened,
    pub group: Option<GroupName>,
    pub topic: TopicName,
    pub queue: QueueId,
    pub offset: QueueOffset,
    /// Who did it and from where, as far as that is remembered.
    pub client: Option<(ClientId, SocketAddr)>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    Stored,
    /// Stored to be delivered then.
    Held {
        due: Timestamp,
    },
    /// Stored as the half of a transaction.
    Prepared,
    Delivered {
        attempt: u32,
        until: Timestamp,
    },
    /// The client did not read what it was given.
    Unread,
    Acked,
    /// A delivery failed, or its consumer wants the message again: it comes as this attempt, from `due` on.
    Failed {
        next_attempt: u32,
        due: Timestamp,
        delay: Duration,
    },
    /// Copied to the dead-letter topic, after this many failed deliveries as far as that is on record.
    DeadLettered {
        to: TopicName,
        failures: u32,
        attempts_max: u32,
    },
    /// Its consumer gave it up, which the dead-lettering above follows.
    GaveUp,
    /// A client of a broadcasting group, which has no dead letters, is done with it after so many deliveries that it did not
    /// acknowledge.
    Dropped {
        attempts: u32,
        attempts_max: u32,
    },
    /// A dead letter was sent again.
    Resent {
        to: TopicName,
    },
    /// Its time came.
    Fired {
        late: Duration,
    },
    /// It was carried forward in the log, or given another time.
    Moved {
        due: Timestamp,
    },
    /// It was taken back before its time.
    Recalled,
    /// A producer was asked what became of the transaction; how often by then.
    Checked {
        times: u32,
    },
    Committed,
    RolledBack,
    /// No producer decided.
    Undecided,
    /// The group went on from elsewhere.
    Reset {
        to: QueueOffset,
    },
    /// The progress of the group was forgotten.
    Forgotten,
}

/// Clients of one broadcasting group that a story tells of, at most.
const CLIENTS_MAX: usize = 64;

/// Where a group is with a message; a client of a broadcasting group is a member.
#[derive(Clone, Debug)]
pub struct Standing {
    pub group: GroupName,
    pub topic: TopicName,
    pub queue: QueueId,
    pub offset: QueueOffset,
    pub state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Done,
    InFlight {
        attempt: u32,
        until: Timestamp,
    },
    Waiting {
        attempt: u32,
        due: Timestamp,
    },
    /// On its way to the dead-letter topic.
    Doomed,
    /// Not delivered yet.
    Ahead,
}

impl Happened {
    /// Which of the things of one millisecond came first.
    fn turn(&self) -> u32 {
        match self {
            Self::Stored | Self::Held { .. } | Self::Prepared => 0,
            Self::Failed { next_attempt, .. } => next_attempt.saturating_mul(2),
            Self::Delivered { attempt, .. } => attempt.saturating_mul(2).saturating_add(1),
            _ => u32::MAX,
        }
    }
}

/// That a group's progress was forgotten is said where it had some: the log says it of the group, not of its messages.
fn forget_strangers(events: &mut Vec<Event>) {
    let is_forgotten = |event: &Event| event.what == Happened::Forgotten;
    let place = |event: &Event| {
        let group = event.group.as_ref().map(GroupName::whole);
        (group, event.topic.clone(), event.queue, event.offset)
    };
    let known: BTreeSet<_> = events.iter().filter(|event| !is_forgotten(event)).map(place).collect();
    events.retain(|event| !is_forgotten(event) || event.group.is_none() || known.contains(&place(event)));
}

impl Broker {
    /// Remembers what a client was seen to do.
    pub fn seen(&self, sighting: Sighting) {
        self.inner.sightings.add(sighting);
    }

    /// The life of the message with this id, of a topic or of any; `None` when nothing is known of it. Waits for the disk.
    pub fn explain(&self, topic: Option<&TopicName>, id: &str) -> Result<Option<Story>, LookError> {
        let until = self.inner.clock.now().plus(TIME_MAX);
        let (copies, missing) = self.copies(topic, id, until)?;
        let Some(first) = copies.first() else { return Ok(None) };
        let places: Vec<Place> = copies.iter().map(Copy::place).collect();
        let found = self.settled(&places, first.stored_at, until)?;
        let mut events: Vec<Event> = copies.iter().map(stored).collect();
        let mut failures: BTreeMap<(Option<GroupName>, usize), u32> = BTreeMap::new();
        for settled in &found.settled {
            let Some(of) = places.iter().position(|place| *place == settled.place) else { continue };
            let is_done = |before: &&Settled| {
                (&before.group, &before.place, &before.what) == (&settled.group, &settled.place, &Fate::Done)
                    && before.physical < settled.physical
            };
            if settled.what == Fate::Begins && !found.settled.iter().any(|before| is_done(&before)) {
                continue;
            }
            let failures = failures.entry((settled.group.clone(), of)).or_default();
            if let Fate::Again { attempt, .. } = settled.what {
                *failures = attempt.saturating_sub(1).max(*failures);
            }
            let event = self.settled_event(settled, &copies, of, *failures);
            match delivered_already(&mut events, &event) {
                // The lease was renewed.
                Some(before) => before.what = event.what,
                None => events.push(event),
            }
        }
        self.add_sightings(&mut events, &places);
        forget_strangers(&mut events);
        events.sort_by_key(|event| (event.at, event.what.turn()));
        let standings = copies.iter().filter(|copy| copy.kind.is_consumed()).flat_map(|copy| self.standings(copy));
        let standings = standings.collect();
        let mut gaps = self.gaps(first.stored_at, &found);
        gaps.extend(missing.map(Gap::Copies));
        Ok(Some(Story { copies, events, standings, gaps }))
    }

    fn settled_event(&self, settled: &Settled, copies: &[Copy], of: usize, failures: u32) -> Event {
        let copy = &copies[of];
        let with = companion(settled, copies);
        let what = match &settled.what {
            Fate::Done => self.done_means(copy, with, settled, failures),
            Fate::Again { attempt, .. } if copy.kind == Kind::Half => {
                Happened::Checked { times: attempt.saturating_sub(1) }
            }
            Fate::Again { attempt, visible_at, delay } => {
                Happened::Failed { next_attempt: *attempt, due: *visible_at, delay: *delay }
            }
            Fate::Delivered { attempt, until } => Happened::Delivered { attempt: *attempt, until: *until },
            Fate::Reset { to } => Happened::Reset { to: *to },
            Fate::Begins => Happened::Reset { to: QueueOffset::ZERO },
            Fate::Forgotten => Happened::Forgotten,
        };
        let group = settled.group.clone().filter(|group| !group.is_system());
        let (topic, queue, offset) = settled.place.clone();
        Event { at: settled.at, what, group, topic, queue, offset, client: None }
    }

    /// What it means that a copy is done, given the copy that was stored with that.
    fn done_means(&self, copy: &Copy, with: Option<&Copy>, settled: &Settled, failures: u32) -> Happened {
        match (&copy.kind, with.map(|with| (&with.kind, with))) {
            (Kind::Timer { .. }, Some((Kind::Timer { due }, _))) => Happened::Moved { due: *due },
            (Kind::Timer { due }, Some(_)) => Happened::Fired { late: settled.at.since(*due) },
            (Kind::Timer { .. }, None) => Happened::Recalled,
            (Kind::Half, Some((Kind::Undecided, _))) => Happened::Undecided,
            (Kind::Half, Some(_)) => Happened::Committed,
            (Kind::Half, None) => Happened::RolledBack,
            (Kind::DeadLetter, Some((_, with))) => Happened::Resent { to: with.topic.clone() },
            (_, Some((Kind::DeadLetter, with))) => {
                let attempts_max = settled.group.as_ref().map_or(0, |group| self.attempts_of(group));
                Happened::DeadLettered { to: with.topic.clone(), failures, attempts_max }
            }
            // Unless it was put off as the last attempt, and acknowledged then: who acknowledged may be remembered.
            _ => {
                let member = settled.group.as_ref().filter(|group| group.is_member());
                match member.map(|member| self.attempts_of(member)) {
                    Some(attempts_max @ 1..) if failures >= attempts_max => {
                        Happened::Dropped { attempts: failures, attempts_max }
                    }
                    _ => Happened::Acked,
                }
            }
        }
    }

    fn attempts_of(&self, group: &GroupName) -> u32 {
        self.group(group.as_str()).map_or(0, |group| group.max_attempts())
    }

    /// What is remembered of clients: deliveries, and who did what the log says was done.
    fn add_sightings(&self, events: &mut Vec<Event>, places: &[Place]) {
        let is_of = |sighting: &Sighting, place: &Place| {
            (sighting.topic == place.0).then(|| sighting.messages.at(place.1, place.2)).flatten()
        };
        let sightings = self.inner.sightings.find(|s| places.iter().any(|place| is_of(s, place).is_some()));
        let mut given_up = BTreeSet::new();
        for sighting in &sightings {
            for place in places {
                let Some((.., attempt)) = is_of(sighting, place) else { continue };
                let client = sighting.host.map(|host| (sighting.client.clone(), host));
                // The log may say it too, from a moment before the call was answered.
                let same = |what: &Happened| match (sighting.what, what) {
                    (Seen::Delivered { .. }, Happened::Delivered { attempt: a, .. }) => *a == attempt,
                    (Seen::Acked | Seen::Dropped, Happened::Acked | Happened::Dropped { .. }) => true,
                    (Seen::Changed { .. }, Happened::Failed { next_attempt, .. }) => *next_attempt == attempt + 1,
                    _ => false,
                };
                let said = (0..events.len()).rev().find(|index| {
                    let event = &events[*index];
                    !given_up.contains(index)
                        && event.group.as_ref() == Some(&sighting.group)
                        && event.client.is_none()
                        && (&event.topic, event.queue, event.offset) == (&place.0, place.1, place.2)
                        && event.at <= sighting.at
                        && same(&event.what)
                });
                if let Some(index) = said {
                    let event = &mut events[index];
                    match sighting.what {
                        Seen::Acked => event.what = Happened::Acked,
                        Seen::Dropped => {
                            let attempts_max = self.attempts_of(&sighting.group);
                            event.what = Happened::Dropped { attempts: attempt, attempts_max };
                            // An ack that came after it settled nothing.
                            given_up.insert(index);
                        }
                        _ => {}
                    }
                    event.client = client;
                    continue;
                }
                let what = match sighting.what {
                    Seen::Delivered { until } => Happened::Delivered { attempt, until },
                    Seen::Unread => Happened::Unread,
                    Seen::GaveUp => Happened::GaveUp,
                    Seen::Acked | Seen::Changed { .. } | Seen::Dropped => continue,
                };
                let (topic, queue, offset) = place.clone();
                let group = Some(sighting.group.clone());
                events.push(Event { at: sighting.at, what, group, topic, queue, offset, client });
            }
        }
    }

    /// Where the groups that consume a copy's topic are with it.
    fn standings(&self, copy: &Copy) -> Vec<Standing> {
        let of_group = |group: GroupName| {
            let books = self.inner.pop.books(&copy.topic, &group);
            let book = books.into_iter().find(|book| book.queue_id == copy.queue)?;
            let pages = book.open();
            let run = self.inner.pop.run();
            let state = match pages.book.exception(copy.offset) {
                _ if pages.book.is_done(copy.offset) => State::Done,
                Some(Exception::InFlight { until, attempt, .. }) => {
                    State::InFlight { attempt: *attempt, until: run.wall_of(*until) }
                }
                Some(Exception::Waiting { due, attempt, .. }) => {
                    State::Waiting { attempt: *attempt, due: run.wall_of(*due) }
                }
                Some(Exception::Doomed { .. } | Exception::Moving { .. }) => State::Doomed,
                None => State::Ahead,
            };
            drop(pages);
            let (topic, queue, offset) = copy.place();
            Some(Standing { group, topic, queue, offset, state })
        };
        let consumers = self.groups().into_iter().flat_map(|group| match group.broadcast {
            false => vec![group.name.clone()],
            true => self.inner.pop.members_of(&copy.topic, &group.name, CLIENTS_MAX),
        });
        consumers.filter_map(of_group).collect()
    }

    fn gaps(&self, stored_at: Timestamp, found: &Found) -> Vec<Gap> {
        let since = self.inner.sightings.complete_since();
        let forgotten = (stored_at < since).then_some(Gap::Deliveries(since));
        let deleted = found.gone_before.is_some().then_some(Gap::Deleted);
        forgotten.into_iter().chain(deleted).chain(found.ended_at.map(Gap::TooMuch)).collect()
    }
}

/// What was told of the delivery that this event speaks of too.
fn delivered_already<'a>(events: &'a mut [Event], event: &Event) -> Option<&'a mut Event> {
    let Happened::Delivered { attempt, .. } = event.what else { return None };
    let place = (&event.group, &event.topic, event.queue, event.offset);
    let ours = |e: &&mut Event| (&e.group, &e.topic, e.queue, e.offset) == place;
    let last = events.iter_mut().rev().find(ours)?;
    matches!(last.what, Happened::Delivered { attempt: a, .. } if a == attempt).then_some(last)
}

fn stored(copy: &Copy) -> Event {
    let what = match copy.kind {
        Kind::Timer { due } => Happened::Held { due },
        Kind::Half => Happened::Prepared,
        Kind::Message | Kind::Undecided | Kind::DeadLetter => Happened::Stored,
    };
    let (topic, queue, offset) = copy.place();
    Event { at: copy.stored_at, what, group: None, topic, queue, offset, client: None }
}

/// The copy that was appended as one unit with a record: such a unit is the copy, and the record behind it.
fn companion<'a>(settled: &Settled, copies: &'a [Copy]) -> Option<&'a Copy> {
    copies.iter().find(|copy| copy.goes_on_at == Some(settled.physical))
}
