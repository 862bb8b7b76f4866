//! Verbs on consumer groups.

use tonic::Status;

use crate::{
    broker::{Broker, Group, GroupChange, Progress, RetryPolicy},
    proto::admin as pb,
    types::{GroupName, QueueId, QueueOffset, TopicName},
};

use super::{convert, status};

fn name(text: &str) -> Result<GroupName, Status> {
    GroupName::parse(text).map_err(|e| Status::invalid_argument(format!("group {text:?}: {e}")))
}

pub fn create(broker: &Broker, request: pb::CreateGroupRequest) -> Result<pb::CreateGroupResponse, Status> {
    let retry_max_times = request.max_attempts.map(convert::retry_max_times).transpose()?;
    let retry_policy = request.retry_policy.map(convert::retry_policy).transpose()?;
    let group = Group {
        name: name(&request.name)?,
        fifo: request.fifo,
        broadcast: request.broadcast,
        retry_max_times: retry_max_times.unwrap_or(broker.config().retry_max_times),
        retry_policy: retry_policy.unwrap_or_else(RetryPolicy::apache),
        consume_enabled: true,
    };
    let (group, created) = broker.create_group(group).map_err(status::of_create)?;
    Ok(pb::CreateGroupResponse { group: Some(convert::group(&group)), created })
}

pub fn update(broker: &Broker, request: pb::UpdateGroupRequest) -> Result<pb::UpdateGroupResponse, Status> {
    let change = GroupChange {
        fifo: request.fifo,
        broadcast: request.broadcast,
        retry_max_times: request.max_attempts.map(convert::retry_max_times).transpose()?,
        retry_policy: request.retry_policy.map(convert::retry_policy).transpose()?,
        consume_enabled: request.consume_enabled,
    };
    let group = broker.update_group(&name(&request.name)?, change).map_err(status::of_change)?;
    Ok(pb::UpdateGroupResponse { group: Some(convert::group(&group)) })
}

pub fn delete(broker: &Broker, request: &pb::DeleteGroupRequest) -> Result<pb::DeleteGroupResponse, Status> {
    broker.delete_group(&name(&request.name)?).map_err(status::of_change)?;
    Ok(pb::DeleteGroupResponse {})
}

pub fn list(broker: &Broker) -> pb::ListGroupsResponse {
    pb::ListGroupsResponse { groups: broker.groups().iter().map(|g| convert::group(g)).collect() }
}

pub fn describe(broker: &Broker, request: &pb::DescribeGroupRequest) -> Result<pb::DescribeGroupResponse, Status> {
    let name = name(&request.name)?;
    let group = broker.group(name.as_str()).ok_or_else(|| status::no_group(&name))?;
    let queues = broker.progress(&name).into_iter().map(|progress| queue_progress(broker, progress));
    Ok(pb::DescribeGroupResponse { group: Some(convert::group(&group)), queues: queues.collect() })
}

/// A message as an operator names it.
fn message_of(topic: &str, queue: u32, offset: u64) -> Result<(TopicName, QueueId, QueueOffset), Status> {
    let topic = TopicName::parse_any(topic).map_err(|e| Status::invalid_argument(format!("topic {topic:?}: {e}")))?;
    if offset > QueueOffset::MAX.get() {
        return Err(Status::invalid_argument(format!("offset {offset} is larger than any")));
    }
    Ok((topic, QueueId(queue), QueueOffset::new(offset)))
}

pub async fn skip(broker: &Broker, request: &pb::SkipMessageRequest) -> Result<pb::SkipMessageResponse, Status> {
    let (topic, queue, offset) = message_of(&request.topic, request.queue_id, request.offset)?;
    let skipped = broker.skip(&name(&request.group)?, &topic, queue, offset).await;
    Ok(pb::SkipMessageResponse { skipped: skipped.map_err(status::of_operate)? })
}

pub async fn park(broker: &Broker, request: &pb::ParkMessageRequest) -> Result<pb::ParkMessageResponse, Status> {
    let (topic, queue, offset) = message_of(&request.topic, request.queue_id, request.offset)?;
    let parked = broker.park(&name(&request.group)?, &topic, queue, offset).await;
    Ok(pb::ParkMessageResponse { parked: parked.map_err(status::of_operate)? })
}

fn queue_progress(broker: &Broker, progress: Progress) -> pb::QueueProgress {
    let queue = broker.store().queue(&progress.topic, progress.queue);
    pb::QueueProgress {
        topic: progress.topic.to_string(),
        queue_id: progress.queue.0,
        min_offset: queue.min().get(),
        max_offset: queue.max().get(),
        commit_offset: progress.commit.get(),
        in_flight: progress.in_flight,
        waiting_retry: progress.waiting_retry,
        locked_groups: progress.locked.map_or(0, |locked| locked.lines),
        blocked: progress.locked.map_or(0, |locked| locked.blocked),
        oldest_blocking_offset: progress.locked.map(|locked| locked.oldest.get()),
        client_id: progress.client.as_ref().map(|(client, _)| client.to_string()),
        client_is_gone: progress.client.is_some_and(|(_, is_there)| !is_there),
    }
}
