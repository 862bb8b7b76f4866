//! How far a group is, and where it goes on.

use std::collections::HashMap;

use crate::{
    broker::{Broker, LookError, Position, QueueLag, QueueSpan},
    proto::v2::{self, Code, describe_group_accumulation_response::GroupAccumulation},
    types::{QueueId, Timestamp, TopicName},
};

use super::{Administration, Outcome, Refusal, convert, resource, status, topics};

impl Administration {
    /// The backlog of a group: in flight is what was delivered and is neither acknowledged nor deliverable again (so what
    /// waits for a retry is in flight), ready is what polls would get now, a filter and the order of message groups apart.
    pub(super) async fn accumulation(
        &self,
        request: &v2::DescribeGroupAccumulationRequest,
    ) -> Outcome<v2::DescribeGroupAccumulationResponse> {
        no_lite(request.lite_topic.as_deref())?;
        let (group, topics) = (convert::group(request.group.as_ref())?, topics(&request.topics)?);
        let sums = move |broker: &Broker| {
            let lags = broker.lag(&group, &topics)?;
            let mut total = Sum::default();
            let mut by_topic: HashMap<&TopicName, Sum> = topics.iter().map(|topic| (topic, Sum::default())).collect();
            for lag in &lags {
                total.add(lag);
                by_topic.entry(&lag.topic).and_modify(|sum| sum.add(lag));
            }
            let now = broker.clock().wall();
            let by_topic = by_topic.into_iter().map(|(topic, sum)| (topic.to_string(), sum.told(now)));
            Ok::<_, LookError>((total.told(now), by_topic.collect()))
        };
        let (accumulation, topic_accumulation) = self.blocking(sums).await?;
        Ok(v2::DescribeGroupAccumulationResponse {
            status: Some(status::ok()),
            accumulation: Some(accumulation),
            topic_accumulation,
            lite_topic_accumulation: HashMap::new(),
        })
    }

    pub(super) async fn time_span(&self, request: &v2::QueryTimeSpanRequest) -> Outcome<v2::QueryTimeSpanResponse> {
        let (group, topics) = (convert::group(request.group.as_ref())?, topics(&request.topics)?);
        let spans = self.blocking(move |broker| broker.time_span(&group, &topics)).await?;
        let now = self.broker().clock().wall();
        let span = |span: QueueSpan| {
            let ms = |at: Option<Timestamp>| at.map_or(0, Timestamp::as_millis);
            v2::query_time_span_response::QueueTimeSpan {
                message_queue: Some(self.queue(&span.topic, span.queue)),
                min_timestamp: ms(span.oldest),
                max_timestamp: ms(span.newest),
                consume_timestamp: ms(span.next),
                delay_time_ms: span.next.map_or(0, |next| millis(now.since(next))),
            }
        };
        let queue_time_span_list = spans.into_iter().map(span).collect();
        Ok(v2::QueryTimeSpanResponse { status: Some(status::ok()), queue_time_span_list })
    }

    /// Lets a group go on, on every queue of the topic, from the first message that was stored then or later.
    pub(super) async fn reset(&self, request: &v2::ResetGroupOffsetRequest) -> Outcome<v2::ResetGroupOffsetResponse> {
        let (group, topic) = (self.group(request.group.as_ref())?, self.topic(request.topic.as_ref())?);
        let to = request.reset_timestamp.as_ref().map(convert::timestamp).ok_or_else(|| {
            Refusal::new(Code::BadRequest, "the request has no reset_timestamp; say from when on the group goes on")
        })?;
        let (of_topic, of_group) = (topic.clone(), group.clone());
        let plan = move |broker: &Broker| broker.plan_reset(&of_topic, &of_group, None, Position::Time(to));
        let plan = self.blocking(plan).await?;
        let targets: Vec<_> = plan.iter().map(|moved| (moved.queue, moved.to)).collect();
        self.broker().reset_offsets(&topic, &group, &targets).await?;
        Ok(v2::ResetGroupOffsetResponse { status: Some(status::ok()) })
    }

    /// A queue as operators see it, who need no endpoints.
    pub(super) fn queue(&self, topic: &TopicName, queue: QueueId) -> v2::MessageQueue {
        let broker = v2::Broker { name: self.broker().config().broker_name.to_string(), id: 0, endpoints: None };
        let permission = match self.broker().topic(topic.as_str()).map(|topic| (topic.readable, topic.writable)) {
            Some((true, true)) => v2::Permission::ReadWrite,
            Some((true, false)) => v2::Permission::Read,
            Some((false, true)) => v2::Permission::Write,
            Some((false, false)) | None => v2::Permission::None,
        };
        v2::MessageQueue {
            topic: resource(topic.as_str()),
            id: i32::try_from(queue.0).unwrap_or(i32::MAX),
            permission: permission as i32,
            broker: Some(broker),
            accept_message_types: Vec::new(),
        }
    }
}

/// Lite topics are refused where they are named.
pub(super) fn no_lite(name: Option<&str>) -> Outcome<()> {
    match name {
        None | Some("") => Ok(()),
        Some(_) => Err(Refusal::not_implemented("looking at lite topics")),
    }
}

/// Lags of queues together.
#[derive(Default)]
struct Sum {
    in_flight: u64,
    ready: u64,
    ready_since: Option<Timestamp>,
    consumed_to: Option<Timestamp>,
}

impl Sum {
    fn add(&mut self, lag: &QueueLag) {
        self.in_flight += lag.backlog.in_flight;
        self.ready += lag.backlog.ready;
        self.ready_since = [self.ready_since, lag.ready_since].into_iter().flatten().min();
        self.consumed_to = self.consumed_to.max(lag.consumed_to);
    }

    fn told(&self, now: Timestamp) -> GroupAccumulation {
        let delay = self.ready_since.map(|since| now.since(since)).unwrap_or_default();
        GroupAccumulation {
            accumulation: (self.in_flight + self.ready) as i64,
            inflight_messages: self.in_flight as i64,
            ready_messages: self.ready as i64,
            deliver_delay_time: Some(convert::wire_duration(delay)),
            last_consume_timestamp: self.consumed_to.map_or(0, Timestamp::as_millis),
        }
    }
}

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl From<LookError> for Refusal {
    fn from(error: LookError) -> Self {
        let code = match &error {
            LookError::TopicNotFound(_) => Code::TopicNotFound,
            LookError::GroupNotFound(_) => Code::ConsumerGroupNotFound,
            LookError::NoQueue { .. } | LookError::Cursor(_) | LookError::TooManyTopics { .. } => Code::BadRequest,
            LookError::NotIndexed => Code::PreconditionFailed,
            LookError::TooSlow { .. } => Code::ProxyTimeout,
            LookError::Read(_) => Code::InternalServerError,
        };
        Self::new(code, error)
    }
}
