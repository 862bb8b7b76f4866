//! Verbs on messages that wait for their time.

use prost_types::Timestamp as WireTime;
use tonic::Status;

use crate::{
    broker::{AppendError, Broker, Lateness, PendingTimer, RecallError, Unconfirmed},
    proto::admin as pb,
    types::{Timestamp, TopicName},
};

/// Timers of a list that asks for no number.
const LIST_DEFAULT: usize = 100;

pub fn list(broker: &Broker, request: &pb::ListTimersRequest) -> Result<pb::ListTimersResponse, Status> {
    let limit = if request.limit == 0 { LIST_DEFAULT } else { request.limit as usize };
    let topic = topic(&request.topic)?;
    if let Some(topic) = topic.as_ref().filter(|topic| broker.topic(topic.as_str()).is_none()) {
        return Err(refusal(RecallError::TopicNotFound(topic.clone())));
    }
    let timers = broker.list_timers(topic.as_ref(), limit).map_err(refusal)?;
    let lateness = Some(wire_lateness(broker.timer_lateness()));
    Ok(pb::ListTimersResponse { timers: wire(timers), pending: broker.pending_timers(), lateness })
}

pub fn find(broker: &Broker, request: &pb::FindTimerRequest) -> Result<pb::FindTimerResponse, Status> {
    let id = &request.message_id;
    let found = broker.find_timers(topic(&request.topic)?.as_ref(), id).map_err(refusal)?;
    if found.is_empty() {
        return Err(refusal(RecallError::NotPending { id: id.clone() }));
    }
    Ok(pb::FindTimerResponse { timers: wire(found) })
}

pub fn cancel(broker: &Broker, request: &pb::CancelTimerRequest) -> Result<pb::CancelTimerResponse, Status> {
    let cancelled = broker.cancel_timers(topic(&request.topic)?.as_ref(), &request.message_id);
    Ok(pb::CancelTimerResponse { timers: wire(cancelled.map_err(refusal)?) })
}

pub fn reschedule(
    broker: &Broker,
    request: &pb::RescheduleTimerRequest,
) -> Result<pb::RescheduleTimerResponse, Status> {
    let due = request.due.as_ref().ok_or_else(|| Status::invalid_argument("the request has no due time; give one"))?;
    let moved = broker.reschedule_timers(topic(&request.topic)?.as_ref(), &request.message_id, time(due));
    Ok(pb::RescheduleTimerResponse { timers: wire(moved.map_err(refusal)?) })
}

fn topic(text: &str) -> Result<Option<TopicName>, Status> {
    let name = || TopicName::parse(text).map_err(|e| Status::invalid_argument(format!("topic {text:?}: {e}")));
    (!text.is_empty()).then(name).transpose()
}

/// To the millisecond below; saturates.
fn time(wire: &WireTime) -> Timestamp {
    let millis = i64::from(wire.nanos).div_euclid(1_000_000);
    Timestamp::from_millis(wire.seconds.saturating_mul(1000).saturating_add(millis))
}

pub(super) fn wire_time(at: Timestamp) -> Option<WireTime> {
    let millis = at.as_millis();
    Some(WireTime { seconds: millis.div_euclid(1000), nanos: (millis.rem_euclid(1000) * 1_000_000) as i32 })
}

fn wire(timers: Vec<PendingTimer>) -> Vec<pb::Timer> {
    let timer = |timer: PendingTimer| pb::Timer {
        topic: timer.topic.to_string(),
        message_id: timer.message_id,
        due: wire_time(timer.due),
        stored: wire_time(timer.stored_at),
        born: wire_time(timer.born_at),
        tag: timer.tag,
        keys: timer.keys,
        body_bytes: timer.body_bytes as u64,
        rolled: timer.rolled,
        offset: timer.offset.get(),
    };
    timers.into_iter().map(timer).collect()
}

fn wire_lateness(lateness: Lateness) -> pb::TimerLateness {
    let class = |(at_most_ms, count)| pb::timer_lateness::Class { at_most_ms, count };
    pb::TimerLateness {
        classes: lateness.classes.into_iter().map(class).collect(),
        count: lateness.count,
        sum_ms: lateness.sum_ms,
        max_ms: lateness.max_ms,
    }
}

fn refusal(error: RecallError) -> Status {
    let text = match &error {
        RecallError::NotPending { .. } => format!("{error}; `ferromq timer list` shows what waits"),
        _ => error.to_string(),
    };
    match error {
        RecallError::NotPending { .. } | RecallError::Delivered { .. } | RecallError::TopicNotFound(_) => {
            Status::not_found(text)
        }
        RecallError::Time(_) | RecallError::Malformed | RecallError::OtherTopic { .. } => {
            Status::invalid_argument(text)
        }
        RecallError::NotDelay { .. } | RecallError::Off => Status::failed_precondition(text),
        RecallError::Busy | RecallError::Append(AppendError::Busy { .. }) => Status::resource_exhausted(text),
        RecallError::Unconfirmed(Unconfirmed::Late { .. }) => Status::deadline_exceeded(text),
        RecallError::Append(_) | RecallError::Unconfirmed(_) => Status::unavailable(text),
        RecallError::Read(_) => Status::internal(text),
    }
}
