//! ReceiveMessage: a delivery's way onto the wire.

use std::net::IpAddr;

use bytes::Bytes;
use md5::{Digest as _, Md5};

use crate::{
    broker::Delivery,
    proto::v2,
    types::{StoredMessage, SysFlag, Timestamp, properties::key},
};

use super::{super::layers::Language, wire_timestamp};

/// Which digest of the body a client is given.
///
/// A client needs one of a kind that it knows, and all but Rust's compare it with the body. MD5 is what every one of
/// them compares rightly; it costs the server 1.7 us a KiB. CRC-32 costs a fiftieth of that, but the clients disagree
/// about its text, so it goes only to those that are known:
///
/// | client | CRC-32 as |
/// |---|---|
/// | Java, all versions | upper-case hexadecimal, no leading zeros |
/// | Python, all versions | upper-case hexadecimal, eight digits |
/// | Rust | not compared |
/// | Go | lower case up to 5.1.3, upper case since: MD5 |
/// | Node.js | compared wrongly: MD5 |
/// | C++ | a mismatch ends the process: MD5 |
/// | C#, unknown | MD5 |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestKind {
    Md5,
    Crc32,
    Crc32Padded,
}

impl DigestKind {
    pub fn for_client(language: Language) -> Self {
        match language {
            Language::Java | Language::Rust => Self::Crc32,
            Language::Python => Self::Crc32Padded,
            Language::Go | Language::NodeJs | Language::Cpp | Language::DotNet | Language::Other => Self::Md5,
        }
    }

    fn of(self, body: &Bytes) -> v2::Digest {
        let (kind, checksum) = match self {
            Self::Md5 => (v2::DigestType::Md5, upper_hex(&Md5::digest(body))),
            Self::Crc32 => (v2::DigestType::Crc32, format!("{:X}", crc32fast::hash(body))),
            Self::Crc32Padded => (v2::DigestType::Crc32, format!("{:08X}", crc32fast::hash(body))),
        };
        v2::Digest { r#type: kind as i32, checksum }
    }
}

fn upper_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|d| char::from(DIGITS[usize::from(d)])).collect()
}

/// The message as its consumer gets it.
pub fn message(delivery: Delivery, digest: DigestKind, now: Timestamp) -> v2::Message {
    let Delivery { message: stored, receipt, attempt } = delivery;
    let mut message = undelivered(stored, digest, now);
    if let Some(system) = &mut message.system_properties {
        system.receipt_handle = Some(receipt.to_string());
        system.delivery_attempt = Some(i32::try_from(attempt).unwrap_or(i32::MAX));
    }
    message
}

/// The message as it goes to a client that it is not delivered to: it has neither a receipt nor an attempt.
pub fn undelivered(stored: StoredMessage, digest: DigestKind, now: Timestamp) -> v2::Message {
    let mut user_properties = std::collections::HashMap::new();
    let mut system = v2::SystemProperties {
        body_digest: Some(digest.of(&stored.body)),
        body_encoding: encoding(stored.sys_flag) as i32,
        born_timestamp: Some(wire_timestamp(stored.born_at)),
        store_timestamp: Some(wire_timestamp(stored.stored_at)),
        store_host: stored.store_host.to_string(),
        queue_id: i32::try_from(stored.queue.0).unwrap_or(i32::MAX),
        queue_offset: Some(stored.queue_offset.to_wire()),
        ..Default::default()
    };
    let mut kind = Kind::default();
    let (mut origin_topic, mut origin_id) = (None, None);
    for (name, value) in stored.properties.iter() {
        match name {
            key::TAGS => system.tag = Some(value.into()),
            key::KEYS => system.keys = value.split(' ').filter(|k| !k.is_empty()).map(String::from).collect(),
            key::UNIQ_KEY => value.clone_into(&mut system.message_id),
            key::BORN_HOST => value.clone_into(&mut system.born_host),
            key::SHARDING_KEY => system.message_group = Some(value.into()),
            key::PRIORITY => system.priority = value.parse().ok(),
            key::LITE_TOPIC => system.lite_topic = Some(value.into()),
            key::TRACE_CONTEXT => system.trace_context = Some(value.into()),
            key::TRAN_MSG => kind.transaction = value == "true",
            key::DELAY => kind.timed = true,
            key::TIMER_DELIVER_MS => {
                kind.timed = true;
                system.delivery_timestamp = value.parse().ok().map(Timestamp::from_millis).map(wire_timestamp);
            }
            key::TIMER_DELAY_SEC => {
                kind.timed = true;
                let after = value.parse().ok().map(std::time::Duration::from_secs);
                system.delivery_timestamp = after.map(|d| wire_timestamp(now.plus(d)));
            }
            key::DLQ_ORIGIN_TOPIC => origin_topic = Some(value),
            key::DLQ_ORIGIN_MESSAGE_ID => origin_id = Some(value),
            _ => {
                if let Some(name) = name.strip_prefix(key::USERS).or_else(|| (!key::is_reserved(name)).then_some(name))
                {
                    user_properties.insert(name.into(), value.into());
                }
            }
        }
    }
    system.message_type = kind.message_type(&system) as i32;
    if system.message_id.is_empty() {
        system.message_id = offset_id(&stored);
    }
    if system.born_host.is_empty() {
        system.born_host = stored.born_host.to_string();
    }
    if let (Some(topic), Some(id)) = (origin_topic, origin_id) {
        system.dead_letter_queue = Some(v2::DeadLetterQueue { topic: topic.into(), message_id: id.into() });
    }
    v2::Message {
        topic: Some(v2::Resource { resource_namespace: String::new(), name: stored.topic.as_str().into() }),
        user_properties,
        system_properties: Some(system),
        body: stored.body,
    }
}

/// What the properties say about the message's type.
#[derive(Default)]
struct Kind {
    transaction: bool,
    timed: bool,
}

impl Kind {
    fn message_type(&self, system: &v2::SystemProperties) -> v2::MessageType {
        match self {
            _ if self.transaction => v2::MessageType::Transaction,
            _ if self.timed => v2::MessageType::Delay,
            _ if system.message_group.is_some() => v2::MessageType::Fifo,
            _ if system.lite_topic.is_some() => v2::MessageType::Lite,
            _ if system.priority.is_some() => v2::MessageType::Priority,
            _ => v2::MessageType::Normal,
        }
    }
}

fn encoding(flag: SysFlag) -> v2::Encoding {
    if flag.has(SysFlag::COMPRESSED) { v2::Encoding::Gzip } else { v2::Encoding::Identity }
}

/// RocketMQ's id of a message that has none of its producer's: store host, port and physical offset, in hexadecimal
/// (`MessageDecoder.createMessageId`).
fn offset_id(stored: &StoredMessage) -> String {
    let mut bytes = Vec::with_capacity(28);
    match stored.store_host.ip() {
        IpAddr::V4(ip) => bytes.extend(ip.octets()),
        IpAddr::V6(ip) => bytes.extend(ip.octets()),
    }
    bytes.extend(u32::from(stored.store_host.port()).to_be_bytes());
    bytes.extend(stored.physical.get().to_be_bytes());
    upper_hex(&bytes)
}

#[cfg(test)]
mod tests;
