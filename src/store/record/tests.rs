use proptest::prelude::*;

use super::*;
use crate::types::properties::PropertiesBuilder;

fn host(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn message() -> NewMessage {
    let mut properties = PropertiesBuilder::default();
    properties.push("TAGS", "TagA").push("KEYS", "key1").push("UNIQ_KEY", "AC11000100002A9F0000000000000001");
    NewMessage {
        topic: TopicName::parse("TopicTest").expect("a name"),
        queue: QueueId(2),
        flag: 0,
        sys_flag: SysFlag(0),
        born_at: Timestamp::from_millis(1_725_000_000_000),
        born_host: host("192.168.0.10:40000"),
        reconsume_times: 0,
        prepared_at: None,
        properties: properties.build(),
        body: Bytes::from_static(b"hello"),
    }
}

const AT: PhysicalOffset = PhysicalOffset::new(1 << 30);

fn encoded(message: &NewMessage, remaining: Option<usize>) -> Bytes {
    let mut out = b"before".to_vec();
    let unplaced = encode(&mut out, message, remaining, host("192.168.0.1:10911")).expect("it fits");
    unplaced.place(&mut out, AT, QueueOffset::new(7), Timestamp::from_millis(1_725_000_000_123));
    assert_eq!((unplaced.at, unplaced.len), (6, out.len() - 6));
    Bytes::from(out).slice(6..)
}

/// The record of the reference, which Apache's encoder writes without the appended checksum.
const APACHE: &str = "000000a7daa320a73610a6860000000200000000000000000000000700000000\
    4000000000000000000001 91a2032200c0a8000a00009c4000000191a203227b\
    c0a8000100002a9f00000000000000000000000000000005 68656c6c6f09546f\
    7069635465737400 3e54414753015461674102 4b455953016b65793102554e49\
    515f4b4559 0141433131303030313030303032413946303030303030303030303030303030 3102";

fn apache() -> Bytes {
    let digits: Vec<u8> = APACHE.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex"))
        .collect()
}

#[test]
fn a_record_has_apaches_bytes_and_the_appended_checksum() {
    let record = encoded(&message(), None);
    let mut expected = apache().to_vec();
    expected[3] = 187;
    let properties_len = expected.len() - 64;
    expected[properties_len..properties_len + 2].copy_from_slice(&82u16.to_be_bytes());
    expected.extend_from_slice(b"__CRC32#\x015220868261\x02");
    assert_eq!(record.escape_ascii().to_string(), expected.escape_ascii().to_string());
}

#[test]
fn apaches_record_is_read_where_apache_may_have_written() {
    let stored = decode(&apache(), AT, Checksum::IfPresent).expect("a record");
    assert_eq!(stored.topic.as_str(), "TopicTest");
    assert_eq!((stored.queue, stored.queue_offset, stored.physical), (QueueId(2), QueueOffset::new(7), AT));
    assert_eq!(stored.born_host, host("192.168.0.10:40000"));
    assert_eq!(stored.store_host, host("192.168.0.1:10911"));
    assert_eq!(stored.stored_at.as_millis(), 1_725_000_000_123);
    assert_eq!((stored.tag(), &stored.body[..]), (Some("TagA"), &b"hello"[..]));
    assert_eq!(decode(&apache(), AT, Checksum::Required).unwrap_err(), Defect::NoChecksum);
    assert_eq!(decode(&apache(), AT.plus(1), Checksum::IfPresent).unwrap_err(), Defect::Place(1 << 30));
}

#[test]
fn a_body_that_changed_is_refused_without_the_appended_checksum_too() {
    let mut record = apache().to_vec();
    record[88] ^= 1;
    assert_eq!(decode(&record.into(), AT, Checksum::IfPresent).unwrap_err(), Defect::BodyChecksum);
}

#[test]
fn a_topic_with_a_long_length_is_read() {
    let record = apache();
    let mut v2 = record[..93].to_vec();
    v2.extend_from_slice(&[0]);
    v2.extend_from_slice(&record[93..]);
    v2[3] += 1;
    v2[7] = 0xab;
    assert_eq!(decode(&v2.into(), AT, Checksum::IfPresent).expect("a record").topic.as_str(), "TopicTest");
}

#[test]
fn the_filler_is_apaches() {
    assert_eq!(filler(100), [0, 0, 0, 0x64, 0xcb, 0xd4, 0x31, 0x94]);
    assert_eq!(Head::read(filler(100)), Head::Filler);
    assert_eq!(Head::read([0; 8]), Head::Nothing);
}

#[test]
fn a_records_place_in_its_unit_is_kept_and_not_shown() {
    let record = encoded(&message(), Some(12));
    let frame = Frame::parse(&record).expect("a record");
    assert_eq!(frame.remaining, Some(12));
    let stored = decode(&record, AT, Checksum::Required).expect("a record");
    assert_eq!(stored.properties, message().properties);
    assert_eq!(Frame::parse(&encoded(&message(), None)).expect("a record").remaining, None);
}

#[test]
fn properties_that_only_the_log_may_set_are_dropped_from_a_message() {
    let mut message = message();
    message.properties =
        Properties::from_encoded(Bytes::from_static(b"a\x011\x02__CRC32#\x011234567890\x02__FERROMQ_UNIT\x013"));
    let record = encoded(&message, None);
    assert_eq!(Frame::parse(&record).expect("a record").remaining, None);
    let stored = decode(&record, AT, Checksum::Required).expect("a record");
    assert_eq!(stored.properties.encoded().as_ref(), b"a\x011\x02");
}

#[test]
fn a_half_message_at_the_logs_very_start_can_be_named_by_its_commit() {
    let mut message = message();
    message.prepared_at = Some(PhysicalOffset::ZERO);
    let read = |m: &NewMessage| decode(&encoded(m, None), AT, Checksum::Required).expect("a record").prepared_at;
    assert_eq!(read(&message), None);
    message.sys_flag = SysFlag(SysFlag::TRANSACTION_COMMIT);
    assert_eq!(read(&message), Some(PhysicalOffset::ZERO));
}

#[test]
fn properties_beyond_a_javas_short_are_refused_and_leave_no_trace() {
    let mut message = message();
    let fits = PROPERTIES_LEN_MAX - CHECKSUM_LEN - 3;
    for (value_len, is_kept) in [(fits, true), (fits + 1, false)] {
        message.properties = Properties::from_encoded([b"a\x01", "v".repeat(value_len).as_bytes()].concat().into());
        let mut out = b"before".to_vec();
        let result = encode(&mut out, &message, None, host("[::1]:1"));
        assert_eq!(result.is_ok(), is_kept);
        assert_eq!(out.len() > 6, is_kept);
    }
}

fn messages() -> impl Strategy<Value = NewMessage> {
    let hosts = prop_oneof![
        any::<([u8; 4], u16)>().prop_map(SocketAddr::from),
        any::<([u16; 8], u16)>().prop_map(SocketAddr::from).prop_filter("IPv6", |h| h.ip().to_canonical() == h.ip()),
    ];
    let properties = proptest::collection::vec(("[a-zA-Z_]{1,12}", "[^\x01\x02]{1,40}"), 0..6);
    (
        ("[a-zA-Z0-9_%|-]{1,127}", any::<u16>(), any::<i32>(), hosts, any::<u16>()),
        (properties, proptest::collection::vec(any::<u8>(), 0..40_000), any::<u32>()),
    )
        .prop_map(|((topic, queue, flag, born_host, times), (properties, body, born))| {
            let mut builder = PropertiesBuilder::default();
            for (name, value) in &properties {
                builder.push(name, value);
            }
            NewMessage {
                topic: TopicName::parse_any(&topic).expect("a name"),
                queue: QueueId(queue.into()),
                flag,
                born_host,
                born_at: Timestamp::from_millis(born.into()),
                reconsume_times: times.into(),
                properties: builder.build(),
                body: body.into(),
                ..message()
            }
        })
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(message in messages(), remaining in proptest::option::of(0usize..5000)) {
        let stored = decode(&encoded(&message, remaining), AT, Checksum::Required).expect("a record");
        prop_assert_eq!(&stored.topic, &message.topic);
        prop_assert_eq!(stored.queue, message.queue);
        prop_assert_eq!(stored.flag, message.flag);
        prop_assert_eq!(stored.born_at, message.born_at);
        prop_assert_eq!(stored.born_host, message.born_host);
        prop_assert_eq!(stored.reconsume_times, message.reconsume_times);
        prop_assert_eq!(&stored.properties, &message.properties);
        prop_assert_eq!(&stored.body, &message.body);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = bytes;
        if bytes.len() > 8 {
            let size = bytes.len() as u32;
            bytes[..4].copy_from_slice(&size.to_be_bytes());
            bytes[4..8].copy_from_slice(&MAGIC_V1.to_be_bytes());
        }
        let _ = decode(&bytes.into(), AT, Checksum::IfPresent);
    }

    #[test]
    fn a_record_with_any_byte_changed_is_refused(message in messages(), at: prop::sample::Index, by in 1u8..) {
        let record = encoded(&message, Some(1));
        let mut changed = record.to_vec();
        let at = at.index(changed.len());
        changed[at] ^= by;
        prop_assert!(decode(&changed.into(), AT, Checksum::Required).is_err(), "byte {}", at);
    }
}
