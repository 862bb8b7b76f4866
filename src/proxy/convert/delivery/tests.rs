use std::time::Duration;

use super::*;
use crate::types::{PhysicalOffset, QueueId, QueueOffset, TopicName, properties::PropertiesBuilder};

const NOW: Timestamp = Timestamp::from_millis(1_735_689_600_123);

fn stored(properties: &[(&str, &str)]) -> StoredMessage {
    let mut built = PropertiesBuilder::default();
    for (name, value) in properties {
        built.push(name, value);
    }
    StoredMessage {
        topic: TopicName::parse("T").unwrap(),
        queue: QueueId(3),
        queue_offset: QueueOffset::new(7),
        physical: PhysicalOffset::new(0x1234),
        flag: 0,
        sys_flag: SysFlag::default(),
        born_at: NOW,
        born_host: ([10, 0, 0, 7], 40_000).into(),
        stored_at: NOW,
        store_host: ([192, 168, 1, 2], 8081).into(),
        reconsume_times: 0,
        prepared_at: None,
        goes_on: false,
        properties: built.build(),
        body: Bytes::from_static(b"body"),
    }
}

fn delivered(stored: StoredMessage) -> v2::Message {
    let receipt = "1-1-3-7-2-1-1-1".parse().unwrap();
    message(Delivery { message: stored, receipt, attempt: 2 }, DigestKind::Md5, NOW)
}

fn system(properties: &[(&str, &str)]) -> v2::SystemProperties {
    delivered(stored(properties)).system_properties.unwrap()
}

#[test]
fn a_message_has_what_every_client_reads_though_its_producer_said_nothing() {
    let bare = system(&[]);
    assert_eq!(bare.message_id, "C0A8010200001F910000000000001234");
    assert_eq!(bare.born_host, "10.0.0.7:40000");
    assert_eq!(bare.body_encoding(), v2::Encoding::Identity);
    assert_eq!(bare.body_digest.as_ref().unwrap().checksum, "841A2D689AD86BD1611447453C22C6FC");
    assert_eq!(bare.born_timestamp, Some(prost_types::Timestamp { seconds: 1_735_689_600, nanos: 123_000_000 }));
    assert_eq!(bare.receipt_handle(), "1-1-3-7-2-1-1-1");
    assert_eq!((bare.queue_id, bare.queue_offset(), bare.delivery_attempt()), (3, 7, 2));
    assert_eq!(bare.store_host, "192.168.1.2:8081");
}

#[test]
fn the_type_is_what_the_properties_say() {
    use v2::MessageType as Type;
    for (properties, expected) in [
        (&[][..], Type::Normal),
        (&[("__SHARDINGKEY", "g")][..], Type::Fifo),
        (&[("__SHARDINGKEY", "g"), ("TIMER_DELIVER_MS", "5")][..], Type::Delay),
        (&[("DELAY", "3")][..], Type::Delay),
        (&[("TIMER_DELAY_SEC", "5")][..], Type::Delay),
        (&[("TRAN_MSG", "true"), ("DELAY", "3")][..], Type::Transaction),
        (&[("TRAN_MSG", "false")][..], Type::Normal),
        (&[("_SYS_MSG_PRIORITY_", "3")][..], Type::Priority),
        (&[("__LITE_TOPIC", "l")][..], Type::Lite),
    ] {
        assert_eq!(system(properties).message_type(), expected, "{properties:?}");
    }
}

#[test]
fn priority_and_lite_topic_are_told_and_are_not_the_users() {
    let properties =
        [("_SYS_MSG_PRIORITY_", "3"), ("__LITE_TOPIC", "l"), ("__FERROMQ_USER._SYS_MSG_PRIORITY_", "mine")];
    let message = delivered(stored(&properties));
    assert_eq!(message.user_properties, [("_SYS_MSG_PRIORITY_".to_owned(), "mine".to_owned())].into());
    let system = message.system_properties.unwrap();
    assert_eq!((system.priority, system.lite_topic.as_deref()), (Some(3), Some("l")));
}

#[test]
fn due_times_are_told() {
    let due = |name, value| system(&[(name, value)]).delivery_timestamp.map(|t| crate::proxy::convert::timestamp(&t));
    assert_eq!(due("TIMER_DELIVER_MS", "1735689600001"), Some(Timestamp::from_millis(1_735_689_600_001)));
    assert_eq!(due("TIMER_DELAY_SEC", "5"), Some(NOW.plus(Duration::from_secs(5))));
    assert_eq!(due("TIMER_DELIVER_MS", "soon"), None);
}

#[test]
fn reserved_properties_are_not_the_users() {
    let message = delivered(stored(&[
        ("KEYS", "a  b"),
        ("PGROUP", "T"),
        ("BORN_TIMESTAMP", "1"),
        ("__CRC32#", "1"),
        ("__FERROMQ_UNIT", "1"),
        ("CLUSTER", "c"),
        ("__SHARDINGKEY", "g"),
        ("mine", "1"),
        ("REDIRECT", "2"),
    ]));
    let mut names: Vec<_> = message.user_properties.into_keys().collect();
    names.sort();
    assert_eq!(names, ["REDIRECT", "mine"]);
    let system = message.system_properties.unwrap();
    assert_eq!(system.keys, ["a", "b"]);
    assert_eq!(system.message_group.as_deref(), Some("g"));
}

#[test]
fn an_origin_is_told_when_it_is_whole() {
    let origin = [("DLQ_ORIGIN_TOPIC", "T"), ("DLQ_ORIGIN_MESSAGE_ID", "id")];
    let told = system(&origin).dead_letter_queue.unwrap();
    assert_eq!((&*told.topic, &*told.message_id), ("T", "id"));
    assert_eq!(system(&origin[..1]).dead_letter_queue, None);
}

#[test]
fn the_body_is_not_copied() {
    let stored = stored(&[]);
    let at = stored.body.as_ptr();
    assert_eq!(delivered(stored).body.as_ptr(), at);
}
