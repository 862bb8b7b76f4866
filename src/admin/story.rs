//! The life of a message, for the wire.

use tonic::Status;

use crate::{
    broker::{Broker, Copy, Event, Gap, Happened, Kind, Standing, State, Story},
    proto::admin::{self as pb, group_standing, life_event, stored_copy},
    types::{GroupName, Timestamp},
};

use super::{
    resend::{of_look, topic},
    timers::wire_time,
};

/// Waits for the disk.
pub fn explain(broker: &Broker, request: &pb::ExplainMessageRequest) -> Result<pb::ExplainMessageResponse, Status> {
    let id = &request.message_id;
    if id.trim().is_empty() {
        return Err(Status::invalid_argument("the message id is blank"));
    }
    let named = (!request.topic.is_empty()).then(|| topic(&request.topic)).transpose()?;
    let story = broker.explain(named.as_ref(), id).map_err(of_look)?;
    let unknown = || Status::not_found(format!("nothing is known of a message {id}; it may have expired"));
    let Story { copies, events, standings, gaps } = story.ok_or_else(unknown)?;
    Ok(pb::ExplainMessageResponse {
        copies: copies.into_iter().map(copy).collect(),
        events: events.into_iter().map(event).collect(),
        standings: standings.into_iter().map(standing).collect(),
        gaps: gaps.into_iter().map(gap).collect(),
    })
}

fn gap(gap: Gap) -> String {
    let time = |at: Timestamp| wire_time(at).map_or_else(|| at.to_string(), |at| at.to_string());
    match gap {
        Gap::Deliveries(before) => format!(
            "deliveries before {} are not all remembered: they are kept in memory, the newest alone, of one call the \
             first 64 messages, and not over a restart",
            time(before)
        ),
        Gap::Deleted => {
            "what was recorded of it at first was deleted with the oldest of the log (fileReservedTime)".into()
        }
        Gap::TooMuch(after) => {
            format!("what was recorded after {} was not looked at: there is too much of it", time(after))
        }
        Gap::Copies(missing) => missing.to_string(),
    }
}

fn copy(copy: Copy) -> pb::StoredCopy {
    let kind = match copy.kind {
        Kind::Message => stored_copy::Kind::Message,
        Kind::Timer { .. } => stored_copy::Kind::Timer,
        Kind::Half => stored_copy::Kind::Half,
        Kind::Undecided => stored_copy::Kind::Undecided,
        Kind::DeadLetter => stored_copy::Kind::DeadLetter,
    };
    pb::StoredCopy {
        kind: kind.into(),
        topic: copy.topic.to_string(),
        queue_id: copy.queue.0,
        offset: copy.offset.get(),
        physical_offset: copy.physical.get(),
        born: wire_time(copy.born_at),
        stored: wire_time(copy.stored_at),
        body_bytes: copy.body_bytes as u64,
    }
}

fn event(event: Event) -> pb::LifeEvent {
    use life_event::Kind as Life;
    let of_member = || event.group.as_ref().and_then(GroupName::client);
    let client = event.client.as_ref().map(|(client, _)| client.clone()).or_else(of_member);
    let mut out = pb::LifeEvent {
        at: wire_time(event.at),
        topic: event.topic.to_string(),
        queue_id: event.queue.0,
        offset: event.offset.get(),
        group: event.group.as_ref().map(|group| group.whole().to_string()),
        client_id: client.map(|client| client.to_string()),
        host: event.client.as_ref().map(|(_, host)| host.to_string()),
        ..Default::default()
    };
    let kind = match event.what {
        Happened::Stored => Life::Stored,
        Happened::Held { due } => {
            out.time = wire_time(due);
            Life::Held
        }
        Happened::Prepared => Life::Prepared,
        Happened::Delivered { attempt, until } => {
            (out.attempt, out.time) = (Some(attempt), wire_time(until));
            Life::Delivered
        }
        Happened::Unread => Life::Unread,
        Happened::Acked => Life::Done,
        Happened::Failed { next_attempt, due, .. } => {
            (out.attempt, out.time) = (Some(next_attempt), wire_time(due));
            Life::Failed
        }
        Happened::DeadLettered { to, failures, attempts_max } => {
            (out.to_topic, out.count) = (Some(to.to_string()), Some(failures));
            out.attempts_max = Some(attempts_max);
            Life::DeadLettered
        }
        Happened::GaveUp => Life::GivenUp,
        Happened::Dropped { attempts, attempts_max } => {
            (out.count, out.attempts_max) = (Some(attempts), Some(attempts_max));
            Life::Dropped
        }
        Happened::Resent { to } => {
            out.to_topic = Some(to.to_string());
            Life::Resent
        }
        Happened::Fired { late } => {
            let seconds = i64::try_from(late.as_secs()).unwrap_or(i64::MAX);
            out.late = Some(prost_types::Duration { seconds, nanos: late.subsec_nanos() as i32 });
            Life::Fired
        }
        Happened::Moved { due } => {
            out.time = wire_time(due);
            Life::Moved
        }
        Happened::Recalled => Life::Recalled,
        Happened::Checked { times } => {
            out.count = Some(times);
            Life::Checked
        }
        Happened::Committed => Life::Committed,
        Happened::RolledBack => Life::RolledBack,
        Happened::Undecided => Life::Undecided,
        Happened::Reset { to } => {
            out.to_offset = Some(to.get());
            Life::Reset
        }
        Happened::Forgotten => Life::Forgotten,
    };
    out.set_kind(kind);
    out
}

fn standing(standing: Standing) -> pb::GroupStanding {
    let (state, attempt, time) = match standing.state {
        State::Ahead => (group_standing::State::Ahead, 0, None),
        State::InFlight { attempt, until } => (group_standing::State::InFlight, attempt, wire_time(until)),
        State::Waiting { attempt, due } => (group_standing::State::Waiting, attempt, wire_time(due)),
        State::Doomed => (group_standing::State::Doomed, 0, None),
        State::Done => (group_standing::State::Done, 0, None),
    };
    pb::GroupStanding {
        group: standing.group.whole().to_string(),
        client_id: standing.group.client().map(|client| client.to_string()),
        topic: standing.topic.to_string(),
        queue_id: standing.queue.0,
        offset: standing.offset.get(),
        state: state.into(),
        attempt,
        time,
    }
}
