//! A message as its half, and back (`TransactionalMessageBridge.parseHalfMessageInner`).

use std::time::Duration;

use crate::types::{NewMessage, Properties, QueueId, StoredMessage, SysFlag, TopicName, properties::key};

use super::{Fault, HALF_TOPIC, UNDECIDED_TOPIC, planted};

/// The message as it is stored until it is decided about.
pub(in crate::broker) fn as_half(message: NewMessage) -> NewMessage {
    if planted(Fault::HalfIsVisible) {
        return message;
    }
    let mut properties = message.properties.without(&[key::REAL_TOPIC, key::REAL_QID]);
    properties.push(key::REAL_TOPIC, message.topic.as_str());
    properties.push(key::REAL_QID, &message.queue.to_string());
    NewMessage {
        topic: TopicName::system(HALF_TOPIC),
        queue: QueueId(0),
        sys_flag: message.sys_flag.with_transaction(0),
        properties: properties.build(),
        ..message
    }
}

/// A stored half as the message that it stands for: where that goes, and what it has. `None` when it does not say.
pub(super) fn meant(half: StoredMessage) -> Option<StoredMessage> {
    let topic = TopicName::parse_any(half.properties.get(key::REAL_TOPIC)?).ok()?;
    let queue = QueueId(half.properties.get(key::REAL_QID)?.parse().ok()?);
    let properties = half.properties.without(&[key::REAL_TOPIC, key::REAL_QID]).build();
    Some(StoredMessage { topic, queue, properties, ..half })
}

/// The message that consumers get, from what [`meant`] says.
pub(super) fn committed(message: StoredMessage) -> NewMessage {
    let prepared_at = Some(message.physical);
    let sys_flag = message.sys_flag.with_transaction(SysFlag::TRANSACTION_COMMIT);
    NewMessage { sys_flag, prepared_at, ..copy(message) }
}

/// A half that nobody decided about, for operators: it keeps where it was meant to go.
pub(super) fn undecided(half: StoredMessage) -> NewMessage {
    NewMessage { topic: TopicName::system(UNDECIDED_TOPIC), queue: QueueId(0), ..copy(half) }
}

fn copy(message: StoredMessage) -> NewMessage {
    NewMessage {
        topic: message.topic,
        queue: message.queue,
        flag: message.flag,
        sys_flag: message.sys_flag,
        born_at: message.born_at,
        born_host: message.born_host,
        reconsume_times: message.reconsume_times,
        prepared_at: None,
        properties: message.properties,
        body: message.body,
    }
}

/// How long its producer has before it is asked, where the message says so itself.
pub(super) fn own_timeout(properties: &Properties) -> Option<Duration> {
    properties.get(key::CHECK_IMMUNITY_TIME_IN_SECONDS)?.parse().ok().map(Duration::from_secs)
}
