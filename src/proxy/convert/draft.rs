//! SendMessage: the checks of a message's form, and its way into a draft for the broker.

use std::net::SocketAddr;

use crate::{
    broker::{Draft, Produced},
    proto::v2::{self, Code},
    types::{
        MessageType, SysFlag, Timestamp, TopicName, check_lite_name,
        properties::{PropertiesBuilder, key},
    },
};

use super::{super::config::Messages, super::status::Refusal, duration, timestamp, topic};

/// What the checks of one call are made against.
pub struct Rules<'a> {
    pub limits: &'a Messages,
    /// `maxMessageSize`.
    pub body_max: usize,
    /// `maxLiteTopicSize`.
    pub lite_name_max: usize,
    pub now: Timestamp,
    pub peer: SocketAddr,
}

/// The messages of one call, checked: the first fault refuses the whole call.
pub fn drafts(messages: Vec<v2::Message>, rules: &Rules<'_>) -> Result<(TopicName, Vec<Named>), Refusal> {
    let Some(first) = messages.first() else {
        return Err(Refusal::new(Code::MessageCorrupted, "the request has no message"));
    };
    let topic = topic(first.topic.as_ref())?;
    if messages.iter().skip(1).any(|m| !is_same(m.topic.as_ref(), first.topic.as_ref())) {
        return Err(Refusal::new(Code::MessageCorrupted, "the messages of one request must have one topic"));
    }
    let drafts = messages.into_iter().map(|m| draft(&topic, m, rules)).collect::<Result<_, _>>()?;
    Ok((topic, drafts))
}

/// Whether both name the same. Lengths first: nearly every namespace is empty, an empty `String` points nowhere, and glibc's
/// AVX-512 `memcmp` asks the processor to read nothing there, which takes it 150 ns.
fn is_same(one: Option<&v2::Resource>, other: Option<&v2::Resource>) -> bool {
    let equal = |one: &str, other: &str| one.len() == other.len() && (one.is_empty() || one == other);
    match (one, other) {
        (Some(one), Some(other)) => {
            equal(&one.resource_namespace, &other.resource_namespace) && equal(&one.name, &other.name)
        }
        (None, None) => true,
        _ => false,
    }
}

/// A draft and the id that its answer carries.
pub struct Named {
    pub draft: Draft,
    pub message_id: String,
}

fn draft(topic: &TopicName, message: v2::Message, rules: &Rules<'_>) -> Result<Named, Refusal> {
    let system = message.system_properties.unwrap_or_default();
    check_body(message.body.len(), rules)?;
    check_properties(&message.user_properties, &system, rules.limits)?;
    check_system(&system, rules)?;

    let message_type = type_of(&system);
    let mut sys_flag = SysFlag::default();
    if system.body_encoding() == v2::Encoding::Gzip {
        sys_flag = sys_flag.with(SysFlag::COMPRESSED);
    }
    if message_type == MessageType::Transaction {
        sys_flag = sys_flag.with(SysFlag::TRANSACTION_PREPARED);
    }
    let born_at = system.born_timestamp.as_ref().map_or(rules.now, timestamp);
    let mut properties = PropertiesBuilder::with_capacity(256);
    // Of two entries with one name the later counts, so the system's go last.
    for (name, value) in &message.user_properties {
        match &**name {
            key::SHARDING_KEY | key::TRACE_CONTEXT | key::PRIORITY | key::LITE_TOPIC => {
                properties.push(&format!("{}{name}", key::USERS), value)
            }
            _ => properties.push(name, value),
        };
    }
    push_system(&mut properties, topic, &system, message_type, born_at, rules.peer);
    let draft = Draft {
        message_type,
        sys_flag,
        flag: 0,
        born_at,
        born_host: rules.peer,
        message_group: system.message_group.filter(|g| !g.is_empty()),
        properties: properties.build(),
        body: message.body,
    };
    Ok(Named { draft, message_id: system.message_id })
}

fn check_body(size: usize, rules: &Rules<'_>) -> Result<(), Refusal> {
    if size == 0 && rules.limits.refuse_empty_body {
        return Err(Refusal::new(Code::MessageBodyEmpty, "the body is empty"));
    }
    if size > rules.body_max {
        let text = format!("the body has {size} bytes, maxMessageSize is {}", rules.body_max);
        return Err(Refusal::new(Code::MessageBodyTooLarge, text));
    }
    Ok(())
}

fn check_properties(
    user: &std::collections::HashMap<String, String>,
    system: &v2::SystemProperties,
    limits: &Messages,
) -> Result<(), Refusal> {
    let illegal = |what: String| Refusal::new(Code::IllegalMessagePropertyKey, what);
    if user.len() > limits.user_properties_max {
        let text = format!("{} user properties, userPropertyMaxNum is {}", user.len(), limits.user_properties_max);
        return Err(Refusal::new(Code::MessagePropertiesTooLarge, text));
    }
    for (name, value) in user {
        if key::is_reserved(name) {
            return Err(illegal(format!("the property key {name:?} is reserved for the system")));
        }
        if has_control(name) || has_control(value) {
            return Err(illegal(format!("the property {name:?} has a control character in its key or value")));
        }
    }
    let tag = system.tag.as_deref().unwrap_or_default();
    if is_blank(tag) || tag.contains('|') || has_control(tag) {
        let text = format!("the tag {tag:?} is blank, or has a '|' or a control character");
        return Err(Refusal::new(Code::IllegalMessageTag, text));
    }
    if let Some(key) = system.keys.iter().find(|k| is_blank(k) || has_control(k)) {
        let text = format!("the key {key:?} is blank or has a control character");
        return Err(Refusal::new(Code::IllegalMessageKey, text));
    }
    let size = user.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>()
        + tag.len()
        + system.keys.iter().map(String::len).sum::<usize>();
    if size > limits.user_properties_bytes_max {
        let text = format!(
            "user properties, tag and keys have {size} bytes, maxUserPropertySize is {}",
            limits.user_properties_bytes_max
        );
        return Err(Refusal::new(Code::MessagePropertiesTooLarge, text));
    }
    Ok(())
}

fn check_system(system: &v2::SystemProperties, rules: &Rules<'_>) -> Result<(), Refusal> {
    // A control character would be read as the end of the stored property.
    if system.message_id.trim().is_empty() || has_control(&system.message_id) {
        return Err(Refusal::new(Code::IllegalMessageId, "the message id is blank or has a control character"));
    }
    if system.trace_context.as_deref().is_some_and(has_control) {
        return Err(Refusal::new(Code::BadRequest, "the trace context has a control character"));
    }
    if system.message_type() == v2::MessageType::Transaction {
        if rules.limits.refuse_transactions {
            let text = "transactional messages are refused here; set rejectTransactionMessage to false to take them";
            return Err(Refusal::new(Code::Forbidden, text));
        }
        let recovery = system.orphaned_transaction_recovery_duration.as_ref().and_then(duration);
        let max = rules.limits.transaction_recovery_max;
        if system.delivery_timestamp.is_some() {
            let text = "a message has either a delivery time or a transaction, not both";
            return Err(Refusal::new(Code::MessagePropertyConflictWithType, text));
        }
        if recovery.is_some_and(|d| d > max) {
            let text = format!("orphaned_transaction_recovery_duration is above {} s", max.as_secs());
            return Err(Refusal::new(Code::BadRequest, text));
        }
    }
    if let Some(due) = system.delivery_timestamp.as_ref().map(timestamp) {
        let max = rules.limits.delay_max;
        let ahead = due.since(rules.now);
        if ahead > max {
            let (ahead, max) = (ahead.as_millis(), max.as_millis());
            let cure = "raise timerMaxDelaySec and maxDelayTimeMills, to 400 days at most";
            let text = format!("the delivery time is {ahead} ms ahead, the most is {max} ms; {cure}");
            return Err(Refusal::new(Code::IllegalDeliveryTime, text));
        }
    }
    check_one_of_a_kind(system)?;
    if let Some(name) = system.lite_topic.as_deref().filter(|name| !name.is_empty()) {
        check_lite_name(name, rules.lite_name_max)?;
    } else if system.message_type() == v2::MessageType::Lite {
        return Err(Refusal::new(Code::IllegalLiteTopic, "the message is of type LITE and names no lite topic"));
    }
    if system.priority.is_some_and(|priority| priority < 0) {
        return Err(Refusal::new(Code::BadRequest, "the priority is negative; 0 is the lowest"));
    }
    let group = system.message_group.as_deref().unwrap_or_default();
    let below = rules.limits.group_bytes_below;
    if is_blank(group) || group.len() >= below || has_control(group) {
        let text = format!("the message group is blank, has {below} bytes or more, or has a control character");
        return Err(Refusal::new(Code::IllegalMessageGroup, text));
    }
    Ok(())
}

/// A priority and a lite topic each exclude whatever else makes a type of its own.
fn check_one_of_a_kind(system: &v2::SystemProperties) -> Result<(), Refusal> {
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let (priority, lite) = (system.priority.is_some(), given(&system.lite_topic));
    let others = [
        (system.message_type() == v2::MessageType::Transaction, "a transaction"),
        (system.delivery_timestamp.is_some(), "a delivery time"),
        (given(&system.message_group), "a message group"),
        (priority && lite, "a lite topic"),
    ];
    let kind = if priority { "a priority" } else { "a lite topic" };
    match others.iter().find(|(has, _)| *has && (priority || lite)) {
        Some((_, other)) => {
            let text = format!("a message has either {kind} or {other}, not both");
            Err(Refusal::new(Code::MessagePropertyConflictWithType, text))
        }
        None => Ok(()),
    }
}

/// The type is told by what the message has, not by what it says it is; only a half message cannot be told otherwise.
fn type_of(system: &v2::SystemProperties) -> MessageType {
    if system.message_type() == v2::MessageType::Transaction {
        MessageType::Transaction
    } else if system.delivery_timestamp.is_some() {
        MessageType::Delay
    } else if system.message_group.as_deref().is_some_and(|g| !g.is_empty()) {
        MessageType::Fifo
    } else if system.lite_topic.as_deref().is_some_and(|t| !t.is_empty()) {
        MessageType::Lite
    } else if system.priority.is_some() {
        MessageType::Priority
    } else {
        MessageType::Normal
    }
}

fn push_system(
    out: &mut PropertiesBuilder,
    topic: &TopicName,
    system: &v2::SystemProperties,
    message_type: MessageType,
    born_at: Timestamp,
    peer: SocketAddr,
) {
    out.push(key::UNIQ_KEY, &system.message_id);
    out.push(key::TAGS, system.tag.as_deref().unwrap_or_default());
    match &*system.keys {
        [one] => out.push(key::KEYS, one),
        keys => out.push(key::KEYS, &keys.join(" ")),
    };
    out.push(key::SHARDING_KEY, system.message_group.as_deref().unwrap_or_default());
    out.push(key::TRACE_CONTEXT, system.trace_context.as_deref().unwrap_or_default());
    if message_type == MessageType::Transaction {
        out.push(key::TRAN_MSG, "true");
        if let Some(recovery) = system.orphaned_transaction_recovery_duration.as_ref().and_then(duration) {
            out.push(key::CHECK_IMMUNITY_TIME_IN_SECONDS, &recovery.as_secs().to_string());
        }
    }
    if let Some(due) = system.delivery_timestamp.as_ref().map(timestamp) {
        out.push(key::TIMER_DELIVER_MS, &due.to_string());
    }
    out.push(key::LITE_TOPIC, system.lite_topic.as_deref().unwrap_or_default());
    if let Some(priority) = system.priority {
        out.push(key::PRIORITY, &priority.to_string());
    }
    // Told by the client for people to read; the record has the peer's own address.
    if system.born_host.trim().is_empty() || has_control(&system.born_host) {
        out.push(key::BORN_HOST, &peer.to_string());
    } else {
        out.push(key::BORN_HOST, &system.born_host);
    }
    out.push(key::BORN_TIMESTAMP, &born_at.to_string());
    // Producers of this API have no group; their topic stands in for it.
    out.push(key::PGROUP, topic.as_str());
}

/// Not empty, but white space alone.
fn is_blank(text: &str) -> bool {
    !text.is_empty() && text.trim().is_empty()
}

fn has_control(text: &str) -> bool {
    // Most text is plain ASCII, which is told many bytes at a time.
    !text.bytes().all(|b| (0x20..0x7f).contains(&b)) && text.chars().any(char::is_control)
}

/// The answer to one stored message.
///
/// Apache's transaction id is the message id for every message; ours names the half message where there is one.
pub fn sent(message_id: String, produced: &Produced, recall_handle: String) -> v2::SendResultEntry {
    let transaction = produced.transaction.map(|id| id.to_string());
    v2::SendResultEntry {
        status: Some(super::super::status::ok()),
        transaction_id: transaction.unwrap_or_else(|| message_id.clone()),
        message_id,
        offset: produced.offset.to_wire(),
        recall_handle,
    }
}

#[cfg(test)]
mod tests;
