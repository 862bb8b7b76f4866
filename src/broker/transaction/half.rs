//! A message as its half, and back (`TransactionalMessageBridge.parseHalfMessageInner`).

use std::time::Duration;

use crate::types::{NewMessage, Properties, QueueId, StoredMessage, SysFlag, TopicName, properties::key};

use super::super::aside::{meant_queue, meant_topic, put_aside};
use super::{Fault, HALF_TOPIC, UNDECIDED_TOPIC, planted};

/// The message as it is stored until it is decided about.
pub(in crate::broker) fn as_half(message: NewMessage) -> NewMessage {
    if planted(Fault::HalfIsVisible) {
        return message;
    }
    let sys_flag = message.sys_flag.with_transaction(0);
    put_aside(NewMessage { sys_flag, ..message }, HALF_TOPIC, &[])
}

/// A stored half as the message that it stands for: where that goes, and what it has. `None` when it does not say.
pub(super) fn meant(half: StoredMessage) -> Option<StoredMessage> {
    let (topic, queue) = (meant_topic(&half)?, meant_queue(&half)?);
    let properties = half.properties.without(&[key::REAL_TOPIC, key::REAL_QID]).build();
    Some(StoredMessage { topic, queue, properties, ..half })
}

/// The message that consumers get, from what [`meant`] says.
pub(super) fn committed(message: &StoredMessage) -> NewMessage {
    let prepared_at = Some(message.physical);
    let sys_flag = message.sys_flag.with_transaction(SysFlag::TRANSACTION_COMMIT);
    let copy = message.copy_to(message.topic.clone(), message.queue, message.properties.clone());
    NewMessage { sys_flag, prepared_at, ..copy }
}

/// A half that nobody decided about, for operators: it keeps where it was meant to go.
pub(super) fn undecided(half: &StoredMessage) -> NewMessage {
    half.copy_to(TopicName::system(UNDECIDED_TOPIC), QueueId(0), half.properties.clone())
}

/// How long its producer has before it is asked, where the message says so itself.
pub(super) fn own_timeout(properties: &Properties) -> Option<Duration> {
    properties.get(key::CHECK_IMMUNITY_TIME_IN_SECONDS)?.parse().ok().map(Duration::from_secs)
}
