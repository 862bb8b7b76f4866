//! What clients see of the front, over a socket.

mod bounds;
mod consume;
mod delay;
mod hostile;
mod http2;
mod lite;
mod offsets;
mod sessions;
mod transaction;

use crate::proto::v2::{self, Code};

use super::testing::{Rig, code, message, resource, system};

fn endpoints(scheme: v2::AddressScheme, host: &str, port: i32) -> v2::Endpoints {
    v2::Endpoints { scheme: scheme as i32, addresses: vec![v2::Address { host: host.into(), port }] }
}

fn told(route: &v2::QueryRouteResponse) -> v2::Endpoints {
    route.message_queues[0].broker.clone().unwrap().endpoints.unwrap()
}

#[tokio::test]
async fn a_route_makes_the_topic_and_tells_the_address_that_was_dialled() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    let dialled = endpoints(v2::AddressScheme::DomainName, "mq.example.com", 443);
    let route = client.route("T", Some(dialled.clone())).await;
    assert_eq!(code(&route.status), Code::Ok);
    assert_eq!(route.message_queues.len(), 4);
    assert_eq!(told(&route), dialled);
    let queue = &route.message_queues[0];
    assert_eq!(queue.topic, resource("T"));
    assert_eq!(queue.permission(), v2::Permission::ReadWrite);
    assert_eq!(queue.broker.as_ref().unwrap().id, 0);
}

#[tokio::test]
async fn a_client_that_does_not_say_what_it_dialled_is_told_from_its_authority() {
    let rig = Rig::start().await;
    let route = rig.client("c").await.route("T", None).await;
    assert_eq!(told(&route), endpoints(v2::AddressScheme::IPv4, "127.0.0.1", i32::from(rig.port)));
}

#[tokio::test]
async fn an_advertised_address_wins() {
    let mut config = super::testing::config();
    config.listeners[0].listen.set_port(0);
    config.listeners[0].advertised = Some("mq.example.com:8081".parse().unwrap());
    let rig = Rig::start_with(config).await;
    let route = rig.client("c").await.route("T", Some(endpoints(v2::AddressScheme::IPv4, "10.0.0.1", 1))).await;
    assert_eq!(told(&route), endpoints(v2::AddressScheme::DomainName, "mq.example.com", 8081));
}

#[tokio::test]
async fn routes_and_assignments_are_refused_in_their_own_words() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    assert_eq!(code(&client.route("a/b", None).await.status), Code::IllegalTopic);
    let unspecified = endpoints(v2::AddressScheme::Unspecified, "10.0.0.1", 1);
    assert_eq!(code(&client.route("T", Some(unspecified)).await.status), Code::IllegalAccessPoint);
    let assignment = v2::QueryAssignmentRequest { topic: resource("T"), group: resource("a b"), endpoints: None };
    let refused = client.api.query_assignment(client.request(assignment)).await.unwrap().into_inner();
    assert_eq!(code(&refused.status), Code::IllegalConsumerGroup);
}

#[tokio::test]
async fn a_topic_that_may_not_be_made_is_not_found() {
    let mut machine = crate::broker::testing::Machine::new();
    machine.config.auto_create_topic = false;
    let rig = Rig::start_on(machine, super::testing::config()).await;
    let mut client = rig.client("c").await;
    assert_eq!(code(&client.route("T", None).await.status), Code::TopicNotFound);
    assert_eq!(code(&client.send_all(vec![message("T", "id", "b")]).await.status), Code::TopicNotFound);
    assert_eq!(client.receive("T", "g").await.code(), Code::TopicNotFound);
}

#[tokio::test]
async fn every_client_of_a_group_is_assigned_the_same() {
    let rig = Rig::start().await;
    let mut assigned = Vec::new();
    for id in ["a", "b", "a"] {
        let mut client = rig.client(id).await;
        let dialled = Some(endpoints(v2::AddressScheme::IPv4, "127.0.0.1", 8081));
        let request = v2::QueryAssignmentRequest { topic: resource("T"), group: resource("g"), endpoints: dialled };
        let answer = client.api.query_assignment(client.request(request)).await.unwrap().into_inner();
        assert_eq!(code(&answer.status), Code::Ok);
        assigned.push(answer.assignments);
    }
    assert_eq!(assigned[0].len(), 1);
    assert_eq!(assigned[0][0].message_queue.as_ref().unwrap().id, -1);
    assert_eq!(assigned[0], assigned[1]);
    assert_eq!(assigned[0], assigned[2]);
}

#[tokio::test]
async fn each_message_of_a_call_has_its_entry() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    let sent = client.send_all(vec![message("T", "a", "1"), message("T", "b", "2"), message("T", "c", "3")]).await;
    assert_eq!(code(&sent.status), Code::Ok);
    let ids: Vec<&str> = sent.entries.iter().map(|e| &*e.message_id).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    for entry in &sent.entries {
        assert_eq!(code(&entry.status), Code::Ok);
        assert_eq!(entry.transaction_id, entry.message_id);
        assert_eq!(entry.recall_handle, "");
    }
}

#[tokio::test]
async fn a_refused_send_is_an_answer_and_stores_nothing() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    client.send("T", "first").await;
    let mut tagged = message("T", "id", "b");
    tagged.system_properties.as_mut().unwrap().tag = Some("a|b".into());
    let refused = client.send_all(vec![message("T", "id", "good"), tagged]).await;
    assert_eq!(code(&refused.status), Code::IllegalMessageTag);
    assert!(refused.entries.is_empty());
    assert_eq!(client.receive("T", "g").await.bodies(), [b"first"]);
}

#[tokio::test]
async fn what_was_sent_is_what_is_received() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    let mut sent = message("T", "01A4", "body");
    sent.user_properties = [("colour".into(), "红".into()), ("TRANSACTION_CHECK_TIMES".into(), "9".into())].into();
    {
        let system = sent.system_properties.as_mut().unwrap();
        system.tag = Some("A".into());
        system.keys = vec!["k1".into(), "k2".into()];
        system.trace_context = Some("00-ab".into());
        system.born_host = "laptop".into();
        system.born_timestamp = Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 });
        system.set_body_encoding(v2::Encoding::Gzip);
    }
    client.send_all(vec![sent.clone()]).await;
    let received = client.receive("T", "g").await;
    let got = &received.messages[0];
    assert_eq!((&got.topic, &got.body, &got.user_properties), (&sent.topic, &sent.body, &sent.user_properties));
    let (got, sent) = (system(got), system(&sent));
    assert_eq!(got.message_id, sent.message_id);
    assert_eq!((&got.tag, &got.keys), (&sent.tag, &sent.keys));
    assert_eq!((&got.trace_context, &got.born_host), (&sent.trace_context, &sent.born_host));
    assert_eq!(got.born_timestamp, sent.born_timestamp);
    assert_eq!(got.body_encoding, sent.body_encoding);
    assert_eq!(got.message_type(), v2::MessageType::Normal);
    assert_eq!((got.delivery_attempt, got.queue_offset), (Some(1), Some(0)));
    assert!(got.store_timestamp.is_some() && !got.receipt_handle().is_empty());
}

#[tokio::test]
async fn each_client_gets_a_digest_that_it_compares_rightly() {
    let rig = Rig::start().await;
    // Its CRC-32 begins with a zero digit, which is where the clients' spellings differ.
    let body = (0..1000).map(|i| format!("body {i}")).find(|b| crc32fast::hash(b.as_bytes()) < 0x1000_0000).unwrap();
    let crc = crc32fast::hash(body.as_bytes());
    let md5 = {
        use md5::Digest;
        md5::Md5::digest(body.as_bytes()).iter().map(|b| format!("{b:02X}")).collect::<String>()
    };
    rig.client("p").await.send("T", &body).await;
    for (language, kind, checksum) in [
        ("JAVA", v2::DigestType::Crc32, format!("{crc:X}")),
        ("PYTHON", v2::DigestType::Crc32, format!("{crc:08X}")),
        ("GO", v2::DigestType::Md5, md5.clone()),
        ("HTTP", v2::DigestType::Md5, md5.clone()),
        ("CPP", v2::DigestType::Md5, md5.clone()),
        ("DOTNET", v2::DigestType::Md5, md5.clone()),
        ("what comes next", v2::DigestType::Md5, md5),
    ] {
        let mut client = rig.client("c").await;
        client.language = language;
        let group = format!("g-{}", language.len() * 100 + language.as_bytes()[0] as usize);
        let received = client.receive("T", &group).await;
        let digest = system(&received.messages[0]).body_digest.clone().unwrap();
        assert_eq!((digest.r#type(), &digest.checksum), (kind, &checksum), "{language}");
    }
}

#[tokio::test]
async fn a_users_property_that_is_spelled_like_a_message_group_is_not_one() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    let mut sent = message("T", "id", "b");
    sent.user_properties = [("__SHARDINGKEY".into(), "mine".into()), ("TRACE_CONTEXT".into(), "00".into())].into();
    assert_eq!(code(&client.send_all(vec![sent.clone()]).await.status), Code::Ok);
    let got = client.receive("T", "g").await.messages.remove(0);
    assert_eq!(got.user_properties, sent.user_properties);
    let system = system(&got);
    assert_eq!((&system.message_group, &system.trace_context), (&None, &None));
    assert_eq!(system.message_type(), v2::MessageType::Normal);
}
