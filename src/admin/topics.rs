//! Verbs on topics.

use tonic::Status;

use crate::{
    broker::{Broker, Topic, TopicChange},
    proto::admin as pb,
    types::{MessageType, QueueId, TopicName},
};

use super::{convert, status};

fn name(text: &str) -> Result<TopicName, Status> {
    TopicName::parse(text).map_err(|e| Status::invalid_argument(format!("topic {text:?}: {e}")))
}

pub fn create(broker: &Broker, request: pb::CreateTopicRequest) -> Result<pb::CreateTopicResponse, Status> {
    let queues = request.queues.unwrap_or(broker.config().default_queues);
    let topic = Topic {
        name: name(&request.name)?,
        message_type: Some(convert::message_type(request.r#type)?.unwrap_or(MessageType::Normal)),
        read_queues: queues,
        write_queues: queues,
        readable: true,
        writable: true,
    };
    let (topic, created) = broker.create_topic(topic).map_err(status::of_create)?;
    Ok(pb::CreateTopicResponse { topic: Some(convert::topic(&topic)), created })
}

pub fn update(broker: &Broker, request: pb::UpdateTopicRequest) -> Result<pb::UpdateTopicResponse, Status> {
    let change = TopicChange {
        message_type: request.r#type.map(convert::message_type).transpose()?.flatten(),
        queues: request.queues,
        readable: request.readable,
        writable: request.writable,
    };
    let topic = broker.update_topic(&name(&request.name)?, change).map_err(status::of_change)?;
    Ok(pb::UpdateTopicResponse { topic: Some(convert::topic(&topic)) })
}

pub fn delete(broker: &Broker, request: &pb::DeleteTopicRequest) -> Result<pb::DeleteTopicResponse, Status> {
    broker.delete_topic(&name(&request.name)?).map_err(status::of_change)?;
    Ok(pb::DeleteTopicResponse {})
}

pub fn list(broker: &Broker, request: &pb::ListTopicsRequest) -> pb::ListTopicsResponse {
    let topics = broker.topics(request.include_system);
    pb::ListTopicsResponse { topics: topics.iter().map(|t| convert::topic(t)).collect() }
}

/// Waits for the disk.
pub fn describe(broker: &Broker, request: &pb::DescribeTopicRequest) -> Result<pb::DescribeTopicResponse, Status> {
    let name = TopicName::parse_any(&request.name)
        .map_err(|e| Status::invalid_argument(format!("topic {:?}: {e}", request.name)))?;
    let topic = broker.topic(name.as_str()).ok_or_else(|| status::no_topic(&name))?;
    let queues = (0..topic.read_queues.max(topic.write_queues)).map(|id| {
        let queue = broker.store().queue(&name, QueueId(id));
        pb::QueueStatus { queue_id: id, min_offset: queue.min().get(), max_offset: queue.max().get() }
    });
    let lite_topics = broker.lite_topics_of(&topic).map(|count| count as u64);
    Ok(pb::DescribeTopicResponse { topic: Some(convert::topic(&topic)), queues: queues.collect(), lite_topics })
}
