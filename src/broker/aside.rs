//! Messages that lie in a topic of the server's own until something happens (a time, a decision). Which topic and queue they
//! are meant for is in their properties, as in Apache (`REAL_TOPIC`, `REAL_QID`).

use crate::types::{NewMessage, QueueId, StoredMessage, TopicName, properties::key};

/// The message as it waits in a topic of the server's own, with `more` about what it waits for.
pub(super) fn put_aside(message: NewMessage, own: &'static str, more: &[(&str, &str)]) -> NewMessage {
    let mut replaced = vec![key::REAL_TOPIC, key::REAL_QID];
    replaced.extend(more.iter().map(|(name, _)| *name));
    let mut properties = message.properties.without(&replaced);
    properties.push(key::REAL_TOPIC, message.topic.as_str()).push(key::REAL_QID, &message.queue.to_string());
    more.iter().for_each(|(name, value)| _ = properties.push(name, value));
    NewMessage { topic: TopicName::system(own), queue: QueueId(0), properties: properties.build(), ..message }
}

/// The topic that a waiting message is meant for; `None` when it does not say.
pub(super) fn meant_topic(waiting: &StoredMessage) -> Option<TopicName> {
    TopicName::parse_any(waiting.properties.get(key::REAL_TOPIC)?).ok()
}

/// The queue that a waiting message is meant for; `None` when it does not say.
pub(super) fn meant_queue(waiting: &StoredMessage) -> Option<QueueId> {
    Some(QueueId(waiting.properties.get(key::REAL_QID)?.parse().ok()?))
}
