//! Lite topics over the wire.

use std::time::Duration;

use super::*;
use crate::proxy::testing::{Client, Telemetry, consumer_settings, pass};
use crate::types::{MessageType, TopicName};

const NAME: &str = "Sessions";

async fn rig() -> Rig {
    let rig = Rig::start().await;
    let topic = crate::broker::Topic {
        name: TopicName::parse(NAME).unwrap(),
        message_type: Some(MessageType::Lite),
        read_queues: 2,
        write_queues: 2,
        readable: true,
        writable: true,
    };
    rig.broker.create_topic(topic).unwrap();
    rig
}

fn for_lite(lite_topic: &str, body: &str) -> v2::Message {
    let mut message = message(NAME, &format!("id-{body}"), body.to_owned());
    let system = message.system_properties.as_mut().unwrap();
    system.set_message_type(v2::MessageType::Lite);
    system.lite_topic = Some(lite_topic.into());
    message
}

async fn sync(client: &Client, action: v2::LiteSubscriptionAction, names: &[&str]) -> Code {
    let request = v2::SyncLiteSubscriptionRequest {
        action: action as i32,
        topic: resource(NAME),
        group: resource("g"),
        lite_topic_set: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    };
    let answer = client.api.clone().sync_lite_subscription(client.request(request)).await.unwrap().into_inner();
    code(&answer.status)
}

#[tokio::test]
async fn a_lite_message_goes_to_who_subscribed_and_says_its_lite_topic() {
    use v2::LiteSubscriptionAction::{CompleteAdd, PartialRemove};
    let rig = rig().await;
    let (mut client, mut other) = (rig.client("c").await, rig.client("d").await);
    assert_eq!(sync(&client, CompleteAdd, &["s1", "s2"]).await, Code::Ok);
    assert_eq!(sync(&other, CompleteAdd, &["s3"]).await, Code::Ok);
    let sent = client.send_all(vec![for_lite("s1", "a"), for_lite("s3", "b")]).await;
    assert_eq!(code(&sent.status), Code::Ok);
    let received = client.receive(NAME, "g").await;
    assert_eq!(received.bodies(), [b"a"]);
    let system = system(&received.messages[0]);
    assert_eq!((system.lite_topic(), system.message_type()), ("s1", v2::MessageType::Lite));
    assert_eq!(other.receive(NAME, "g").await.bodies(), [b"b"]);
    assert_eq!(sync(&client, PartialRemove, &["s1"]).await, Code::Ok);
    client.send_all(vec![for_lite("s1", "c")]).await;
    assert_eq!(client.receive(NAME, "g").await.code(), Code::MessageNotFound);
}

#[tokio::test]
async fn what_is_wrong_with_a_lite_topic_has_its_code() {
    use v2::LiteSubscriptionAction::PartialAdd;
    let rig = rig().await;
    let mut client = rig.client("c").await;
    let long = "x".repeat(65);
    for name in [" ", "a\u{1}", &long] {
        assert_eq!(code(&client.send_all(vec![for_lite(name, "a")]).await.status), Code::IllegalLiteTopic);
        assert_eq!(sync(&client, PartialAdd, &[name]).await, Code::IllegalLiteTopic);
    }
    assert_eq!(code(&client.send_all(vec![for_lite("", "a")]).await.status), Code::IllegalLiteTopic);
    let plain = message(NAME, "id", "plain");
    assert_eq!(code(&client.send_all(vec![plain]).await.status), Code::MessagePropertyConflictWithType);
    let many: Vec<String> = (0..2001).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(sync(&client, PartialAdd, &many).await, Code::LiteSubscriptionQuotaExceeded);
    assert_eq!(sync(&client, PartialAdd, &many[..2000]).await, Code::Ok);
    let request =
        v2::SyncLiteSubscriptionRequest { topic: resource("Other"), group: resource("g"), ..Default::default() };
    client.send("Other", "plain").await;
    let answer = client.api.sync_lite_subscription(client.request(request)).await.unwrap().into_inner();
    assert_eq!(code(&answer.status), Code::BadRequest);
}

#[tokio::test]
async fn a_suspended_delivery_counts_no_attempt() {
    use v2::LiteSubscriptionAction::CompleteAdd;
    let rig = rig().await;
    let mut client = rig.client("c").await;
    sync(&client, CompleteAdd, &["s1"]).await;
    client.send_all(vec![for_lite("s1", "a")]).await;
    for (suspend, next) in [(true, 1), (true, 1), (false, 2)] {
        let received = client.receive(NAME, "g").await;
        let request = v2::ChangeInvisibleDurationRequest {
            topic: resource(NAME),
            group: resource("g"),
            receipt_handle: received.handles().remove(0),
            invisible_duration: Some(prost_types::Duration::default()),
            suspend: Some(suspend),
            ..Default::default()
        };
        let changed = client.api.change_invisible_duration(client.request(request)).await.unwrap().into_inner();
        assert_eq!(code(&changed.status), Code::Ok);
        let again = client.receive(NAME, "g").await;
        assert_eq!(system(&again.messages[0]).delivery_attempt(), next);
        let held: crate::broker::Receipt = again.handles().remove(0).parse().unwrap();
        let (topic, group) = (TopicName::parse(NAME).unwrap(), crate::types::GroupName::parse("g").unwrap());
        rig.broker.give_back(&topic, &group, &held);
    }
}

#[tokio::test]
async fn a_subscription_makes_no_parent_topic() {
    use v2::LiteSubscriptionAction::CompleteAdd;
    let rig = Rig::start().await;
    let client = rig.client("c").await;
    assert_eq!(sync(&client, CompleteAdd, &["s1"]).await, Code::TopicNotFound);
    assert!(rig.broker.topic(NAME).is_none());
}

#[tokio::test]
async fn a_consumer_that_is_none_of_lite_topics_is_refused_and_told_what_to_use() {
    use v2::{ClientType, LiteSubscriptionAction::CompleteAdd};
    let rig = rig().await;
    for (client_type, expected) in [
        (ClientType::PushConsumer, Code::BadRequest),
        (ClientType::SimpleConsumer, Code::BadRequest),
        (ClientType::LitePushConsumer, Code::MessageNotFound),
        (ClientType::LiteSimpleConsumer, Code::MessageNotFound),
    ] {
        let mut client = rig.client(client_type.as_str_name()).await;
        let mut stream = Telemetry::open(&mut client).await;
        let settings = v2::Settings { client_type: Some(client_type as i32), ..consumer_settings("g") };
        stream.tell(settings).await;
        stream.told().await;
        let refused = client.receive(NAME, "g").await;
        assert_eq!(refused.code(), expected, "{client_type:?}");
        // One that subscribes anyway is one.
        assert_eq!(sync(&client, CompleteAdd, &["s1"]).await, Code::Ok);
        assert_eq!(client.receive(NAME, "g").await.code(), Code::MessageNotFound);
    }
}

#[test]
fn leases_are_renewed_while_looking_for_idle_lite_topics_takes_long() {
    // With one thread for what may wait for the disk, which does.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().max_blocking_threads(1).build().unwrap().block_on(async {
        let rig = rig().await;
        let client = rig.client("c").await;
        assert_eq!(sync(&client, v2::LiteSubscriptionAction::CompleteAdd, &["s1"]).await, Code::Ok);
        pass(&rig, Duration::from_secs(60)).await;
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let slow = tokio::task::spawn_blocking(move || wait.recv());
        let round = tokio::time::timeout(Duration::from_secs(5), rig.proxy.tick()).await;
        drop(go);
        slow.await.unwrap().unwrap_err();
        assert!(round.is_ok(), "the round that renews leases waited");
    });
}
