//! Where a group goes on.

use tonic::Status;

use crate::{
    broker::{Broker, Moved, Position},
    proto::admin::{self as pb, reset_group_offsets_request::To},
    types::{GroupName, QueueId, QueueOffset, Timestamp, TopicName},
};

use super::status;

/// A request that reads.
#[derive(Clone)]
pub struct Reset {
    topic: TopicName,
    group: GroupName,
    queue: Option<QueueId>,
    position: Position,
}

impl Reset {
    pub fn of(request: &pb::ResetGroupOffsetsRequest) -> Result<Self, Status> {
        let pb::ResetGroupOffsetsRequest { group, topic, queue_id, to, .. } = request;
        let illegal = |what: &str, name: &str, why| Status::invalid_argument(format!("{what} {name:?}: {why}"));
        let position = match to {
            Some(To::Begin(true)) => Position::Begin,
            Some(To::End(true)) => Position::End,
            Some(To::Offset(offset)) => Position::Offset(QueueOffset::new(*offset)),
            Some(To::Time(time)) => {
                let millis = time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos) / 1_000_000);
                Position::Time(Timestamp::from_millis(millis))
            }
            Some(To::Begin(false) | To::End(false)) | None => {
                return Err(Status::invalid_argument("say where to go on: begin, end, an offset or a time"));
            }
        };
        Ok(Self {
            topic: TopicName::parse(topic).map_err(|why| illegal("topic", topic, why))?,
            group: GroupName::parse(group).map_err(|why| illegal("group", group, why))?,
            queue: queue_id.map(QueueId),
            position,
        })
    }

    /// What it would do. Waits for the disk.
    pub fn plan(&self, broker: &Broker) -> Result<Vec<Moved>, Status> {
        broker.plan_reset(&self.topic, &self.group, self.queue, self.position).map_err(status::of_reset)
    }

    /// Does as planned.
    pub async fn carry_out(&self, broker: &Broker, plan: &[Moved]) -> Result<Vec<Moved>, Status> {
        let targets: Vec<_> = plan.iter().map(|moved| (moved.queue, moved.to)).collect();
        broker.reset_offsets(&self.topic, &self.group, &targets).await.map_err(status::of_reset)
    }
}

pub fn answer(moved: Vec<Moved>) -> pb::ResetGroupOffsetsResponse {
    let queue = |moved: Moved| pb::QueueReset {
        queue_id: moved.queue.0,
        from_offset: moved.from.get(),
        to_offset: moved.to.get(),
        in_flight: moved.in_flight,
        waiting_retry: moved.waiting_retry,
    };
    pb::ResetGroupOffsetsResponse { queues: moved.into_iter().map(queue).collect() }
}
