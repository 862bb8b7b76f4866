use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::proxy::{config::Config, convert::wire_timestamp};

const NOW: Timestamp = Timestamp::from_millis(1_735_689_600_000);

fn check(messages: Vec<v2::Message>) -> Result<(TopicName, Vec<Named>), Refusal> {
    let config = Config::default();
    let peer = ([10, 0, 0, 7], 40_000).into();
    drafts(messages, &Rules { limits: &config.messages, body_max: 4 << 20, lite_name_max: 64, now: NOW, peer })
}

fn message() -> v2::Message {
    v2::Message {
        topic: Some(v2::Resource { resource_namespace: String::new(), name: "T".into() }),
        user_properties: HashMap::new(),
        system_properties: Some(v2::SystemProperties { message_id: "id-1".into(), ..Default::default() }),
        body: Bytes::from_static(b"body"),
    }
}

fn system(change: impl FnOnce(&mut v2::SystemProperties)) -> v2::Message {
    let mut m = message();
    change(m.system_properties.as_mut().unwrap());
    m
}

fn user(properties: &[(&str, &str)]) -> v2::Message {
    let mut m = message();
    m.user_properties = properties.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    m
}

fn body(size: usize) -> v2::Message {
    v2::Message { body: Bytes::from(vec![1; size]), ..message() }
}

fn code(m: v2::Message) -> Option<Code> {
    check(vec![m]).err().map(|r| r.code)
}

#[test]
fn each_fault_has_its_code() {
    let many: Vec<(String, String)> = (0..129).map(|i| (format!("k{i}"), "v".into())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(k, v)| (&**k, &**v)).collect();
    let long = "v".repeat(16 << 10);
    let cases = [
        (v2::Message { topic: None, ..message() }, Code::IllegalTopic),
        (body(0), Code::MessageBodyEmpty),
        (body((4 << 20) + 1), Code::MessageBodyTooLarge),
        (user(&many), Code::MessagePropertiesTooLarge),
        (user(&[("KEYS", "v")]), Code::IllegalMessagePropertyKey),
        (user(&[("__FERROMQ_USER.__SHARDINGKEY", "v")]), Code::IllegalMessagePropertyKey),
        (user(&[("__FERROMQ_UNIT", "v")]), Code::IllegalMessagePropertyKey),
        (user(&[("k\u{1}", "v")]), Code::IllegalMessagePropertyKey),
        (user(&[("k", "v\u{2}")]), Code::IllegalMessagePropertyKey),
        (user(&[("k", "v\u{9f}")]), Code::IllegalMessagePropertyKey),
        (system(|s| s.tag = Some(" ".into())), Code::IllegalMessageTag),
        (system(|s| s.tag = Some("a|b".into())), Code::IllegalMessageTag),
        (system(|s| s.tag = Some("a\n".into())), Code::IllegalMessageTag),
        (system(|s| s.keys = vec!["ok".into(), "\t".into()]), Code::IllegalMessageKey),
        (system(|s| s.keys = vec!["a\u{7f}".into()]), Code::IllegalMessageKey),
        (user(&[("k", &long)]), Code::MessagePropertiesTooLarge),
        (system(|s| s.message_id = " ".into()), Code::IllegalMessageId),
        (system(|s| s.message_id = "a\u{1}TAGS\u{1}b\u{2}".into()), Code::IllegalMessageId),
        (system(|s| s.trace_context = Some("a\u{2}b".into())), Code::BadRequest),
        (
            system(|s| {
                s.set_message_type(v2::MessageType::Transaction);
                s.orphaned_transaction_recovery_duration = Some(prost_types::Duration { seconds: 3601, nanos: 0 });
            }),
            Code::BadRequest,
        ),
        (
            system(|s| s.delivery_timestamp = Some(wire_timestamp(NOW.plus(Duration::from_millis(34_560_000_001))))),
            Code::IllegalDeliveryTime,
        ),
        (system(|s| s.message_group = Some(" ".into())), Code::IllegalMessageGroup),
        (system(|s| s.message_group = Some("g".repeat(64))), Code::IllegalMessageGroup),
        (system(|s| s.message_group = Some("g\u{85}".into())), Code::IllegalMessageGroup),
    ];
    for (m, expected) in cases {
        let label = format!("{:?} {:?}", m.user_properties.len(), m.system_properties);
        assert_eq!(code(m), Some(expected), "{label}");
    }
}

#[test]
fn what_lies_just_inside_the_limits_is_taken() {
    let full = "v".repeat((16 << 10) - 1);
    let cases = [
        body(1),
        body(4 << 20),
        user(&[("k", &full)]),
        user(&[("__SHARDINGKEY", "mine")]),
        system(|s| s.tag = Some(String::new())),
        system(|s| s.tag = Some("订单".into())),
        system(|s| s.keys = vec!["a b".into(), String::new()]),
        system(|s| s.message_group = Some("g".repeat(63))),
        system(|s| s.delivery_timestamp = Some(wire_timestamp(NOW.plus(Duration::from_secs(86_400))))),
        system(|s| s.delivery_timestamp = Some(wire_timestamp(Timestamp::ZERO))),
        system(|s| s.delivery_attempt = Some(i32::MIN)),
    ];
    for m in cases {
        assert_eq!(check(vec![m]).err(), None);
    }
}

#[test]
fn an_earlier_check_answers_before_a_later_one() {
    let mut m = user(&[("KEYS", "v")]);
    m.body = Bytes::new();
    m.system_properties = None;
    assert_eq!(code(m.clone()), Some(Code::MessageBodyEmpty));
    m.body = Bytes::from_static(b"b");
    assert_eq!(code(m.clone()), Some(Code::IllegalMessagePropertyKey));
    m.user_properties.clear();
    assert_eq!(code(m), Some(Code::IllegalMessageId));
}

#[test]
fn a_call_has_messages_and_they_have_one_topic() {
    let code = |messages| check(messages).err().map(|r| r.code);
    assert_eq!(code(vec![]), Some(Code::MessageCorrupted));
    let other = v2::Resource { resource_namespace: "other".into(), name: "T".into() };
    let other = v2::Message { topic: Some(other), ..message() };
    assert_eq!(code(vec![message(), other]), Some(Code::MessageCorrupted));
    let nowhere = v2::Message { topic: None, ..message() };
    assert_eq!(code(vec![message(), message(), nowhere]), Some(Code::MessageCorrupted));
    assert_eq!(code(vec![message(), message()]), None);
}

#[test]
fn the_type_is_told_by_what_the_message_has() {
    let due = Some(wire_timestamp(NOW));
    let cases = [
        (system(|s| s.set_message_type(v2::MessageType::Fifo)), MessageType::Normal),
        (system(|s| s.message_group = Some("g".into())), MessageType::Fifo),
        (
            system(|s| {
                s.message_group = Some("g".into());
                s.delivery_timestamp = due;
            }),
            MessageType::Delay,
        ),
        (
            system(|s| {
                s.set_message_type(v2::MessageType::Transaction);
                s.message_group = Some("g".into());
            }),
            MessageType::Transaction,
        ),
        (system(|s| s.lite_topic = Some("l".into())), MessageType::Lite),
        (system(|s| s.priority = Some(0)), MessageType::Priority),
        (message(), MessageType::Normal),
    ];
    for (m, expected) in cases {
        assert_eq!(check(vec![m]).unwrap().1[0].draft.message_type, expected);
    }
}

#[test]
fn a_priority_or_a_lite_topic_goes_with_nothing_else() {
    let conflict = Some(Code::MessagePropertyConflictWithType);
    type Set = fn(&mut v2::SystemProperties);
    let kinds: [Set; 2] = [|s| s.priority = Some(1), |s| s.lite_topic = Some("l".into())];
    let others: [Set; 3] = [
        |s| s.message_group = Some("g".into()),
        |s| s.delivery_timestamp = Some(wire_timestamp(NOW)),
        |s| s.set_message_type(v2::MessageType::Transaction),
    ];
    for kind in kinds {
        assert_eq!(code(system(kind)), None);
        for other in others {
            let both = |s: &mut v2::SystemProperties| {
                kind(s);
                other(s);
            };
            assert_eq!(code(system(both)), conflict);
        }
    }
    let both = |s: &mut v2::SystemProperties| {
        s.priority = Some(0);
        s.lite_topic = Some("l".into());
    };
    assert_eq!(code(system(both)), conflict);
    assert_eq!(code(system(|s| s.priority = Some(-1))), Some(Code::BadRequest));
}

#[test]
fn fields_become_the_properties_that_rocketmq_stores() {
    let mut m = system(|s| {
        s.tag = Some("A".into());
        s.keys = vec!["k1".into(), "k2".into()];
        s.message_group = Some("g".into());
        s.trace_context = Some("00-trace".into());
        s.born_timestamp = Some(wire_timestamp(NOW));
        s.born_host = "laptop".into();
        s.set_body_encoding(v2::Encoding::Gzip);
    });
    m.user_properties = HashMap::from([("colour".into(), "红".into()), ("__SHARDINGKEY".into(), "mine".into())]);
    let (_, named) = check(vec![m]).unwrap();
    let draft = &named[0].draft;
    let (_, urgent) = check(vec![system(|s| s.priority = Some(7))]).unwrap();
    assert_eq!(urgent[0].draft.properties.get("_SYS_MSG_PRIORITY_"), Some("7"));
    for (name, value) in [
        ("TAGS", "A"),
        ("KEYS", "k1 k2"),
        ("UNIQ_KEY", "id-1"),
        ("__SHARDINGKEY", "g"),
        ("TRACE_CONTEXT", "00-trace"),
        ("__BORNHOST", "laptop"),
        ("BORN_TIMESTAMP", "1735689600000"),
        ("PGROUP", "T"),
        ("colour", "红"),
    ] {
        assert_eq!(draft.properties.get(name), Some(value), "{name}");
    }
    assert_eq!(draft.sys_flag, SysFlag(SysFlag::COMPRESSED));
    assert_eq!(draft.born_at, NOW);
    assert_eq!(draft.message_group.as_deref(), Some("g"));
}

#[test]
fn transactions_are_refused_where_the_operator_says_so() {
    let mut config = Config::default();
    config.messages.refuse_transactions = true;
    let rules = Rules {
        limits: &config.messages,
        body_max: 100,
        lite_name_max: 64,
        now: NOW,
        peer: ([10, 0, 0, 7], 40_000).into(),
    };
    let half = || system(|s| s.set_message_type(v2::MessageType::Transaction));
    assert_eq!(drafts(vec![half()], &rules).err().unwrap().code, Code::Forbidden);
    assert!(drafts(vec![message()], &rules).is_ok());
    assert_eq!(code(half()), None);
}

#[test]
fn without_a_born_host_the_peer_stands_in() {
    for host in ["", " ", "a\u{1}b"] {
        let (_, named) = check(vec![system(|s| s.born_host = host.into())]).unwrap();
        assert_eq!(named[0].draft.properties.get("__BORNHOST"), Some("10.0.0.7:40000"));
        assert_eq!(named[0].draft.born_at, NOW);
    }
}

#[test]
fn the_body_is_not_copied() {
    let m = message();
    let at = m.body.as_ptr();
    let (_, named) = check(vec![m]).unwrap();
    assert_eq!(named[0].draft.body.as_ptr(), at);
}

proptest! {
    /// Whatever a client sends is refused, or stored so that each system property reads back as it was sent: no field
    /// can end a property early and smuggle in another.
    #[test]
    fn no_field_smuggles_in_a_property(
        name in "\\PC{0,8}|[\u{0}-\u{3}a]{0,4}",
        value in any::<String>(),
        tag in any::<Option<String>>(),
        id in any::<String>(),
        trace in any::<Option<String>>(),
        host in any::<String>(),
        group in any::<Option<String>>(),
    ) {
        let mut m = system(|s| {
            s.tag = tag.clone();
            s.message_id = id.clone();
            s.trace_context = trace.clone();
            s.born_host = host;
            s.message_group = group.clone();
        });
        m.user_properties.insert(name.clone(), value.clone());
        if let Ok((_, named)) = check(vec![m]) {
            let stored = &named[0].draft.properties;
            let given = |v: &Option<String>| v.clone().filter(|v| !v.is_empty());
            prop_assert_eq!(stored.get("UNIQ_KEY"), Some(&*id));
            prop_assert_eq!(stored.get("TAGS").map(String::from), given(&tag));
            if name != "TRACE_CONTEXT" {
                prop_assert_eq!(stored.get("TRACE_CONTEXT").map(String::from), given(&trace));
            }
            if !name.is_empty() && !value.is_empty() {
                prop_assert_eq!(stored.get(&name), Some(&*value));
            }
        }
    }
}
