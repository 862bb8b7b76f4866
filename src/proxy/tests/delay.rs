//! Sending for later, and taking back.

use std::time::Duration;

use crate::{
    broker::Topic,
    proto::v2::{self, Code},
    proxy::{
        convert,
        testing::{Client, Rig, code, message, resource, system},
    },
    types::{MessageType, TopicName},
};

fn make(rig: &Rig, name: &str, message_type: MessageType) {
    let name = TopicName::parse(name).unwrap();
    let (read_queues, write_queues) = (1, 1);
    let message_type = Some(message_type);
    rig.broker
        .create_topic(Topic { name, message_type, read_queues, write_queues, readable: true, writable: true })
        .unwrap();
}

/// A message for so much later.
fn timed(rig: &Rig, topic: &str, id: &str, delay: Duration) -> v2::Message {
    let mut timed = message(topic, id, id.to_owned());
    let due = rig.broker.clock().wall().plus(delay);
    timed.system_properties.as_mut().unwrap().delivery_timestamp = Some(convert::wire_timestamp(due));
    timed
}

async fn recall(client: &Client, topic: &str, recall_handle: &str) -> v2::RecallMessageResponse {
    let request = v2::RecallMessageRequest { topic: resource(topic), recall_handle: recall_handle.into() };
    client.api.clone().recall_message(client.request(request)).await.unwrap().into_inner()
}

async fn pass(rig: &Rig, time: Duration) {
    rig.machine.clock.advance(time);
    rig.broker.fire_timers().await;
}

#[tokio::test]
async fn a_message_for_later_has_a_recall_handle_and_says_when_it_was_meant_for() {
    let rig = Rig::start().await;
    make(&rig, "T", MessageType::Delay);
    let mut client = rig.client("c").await;
    let due = rig.broker.clock().wall().plus(Duration::from_millis(1234));
    let batch = vec![timed(&rig, "T", "later", Duration::from_millis(1234)), timed(&rig, "T", "now", Duration::ZERO)];
    let sent = client.send_all(batch).await;
    assert_eq!(code(&sent.status), Code::Ok);
    assert_eq!(sent.entries.iter().map(|e| e.recall_handle.is_empty()).collect::<Vec<_>>(), [false, true]);
    assert_eq!(client.receive("T", "g").await.bodies(), [b"now"]);
    pass(&rig, Duration::from_millis(1233)).await;
    assert_eq!(client.receive("T", "g").await.code(), Code::MessageNotFound);
    pass(&rig, Duration::from_millis(1)).await;
    let received = client.receive("T", "g").await;
    assert_eq!(received.bodies(), [b"later"]);
    let told = system(&received.messages[0]);
    assert_eq!(
        (told.message_type(), &told.delivery_timestamp),
        (v2::MessageType::Delay, &Some(convert::wire_timestamp(due)))
    );
    assert!(received.messages[0].user_properties.is_empty(), "{:?}", received.messages[0].user_properties);
}

#[tokio::test]
async fn a_recall_is_answered_with_the_message_id_and_refused_with_its_codes() {
    let rig = Rig::start().await;
    make(&rig, "T", MessageType::Delay);
    make(&rig, "mixed", MessageType::Mixed);
    make(&rig, "normal", MessageType::Normal);
    let mut client = rig.client("c").await;
    let hour = Duration::from_secs(3600);
    let sent = client.send_all(vec![timed(&rig, "T", "id-1", hour), timed(&rig, "T", "id-2", hour)]).await;
    let handle = sent.entries[0].recall_handle.as_str();
    let producer = client.clone();
    let of = async |topic: &str, handle: &str| code(&recall(&producer, topic, handle).await.status);
    assert_eq!(of("a/b", handle).await, Code::IllegalTopic);
    assert_eq!(of("none", handle).await, Code::TopicNotFound);
    assert_eq!(of("normal", handle).await, Code::MessagePropertyConflictWithType);
    assert_eq!(of("mixed", handle).await, Code::BadRequest);
    assert_eq!(of("T", "junk").await, Code::BadRequest);
    assert_eq!(of("T", "").await, Code::BadRequest);
    let recalled = recall(&client, "T", handle).await;
    assert_eq!((code(&recalled.status), recalled.message_id.as_str()), (Code::Ok, "id-1"));
    assert_eq!(of("T", handle).await, Code::BadRequest, "once is enough");
    pass(&rig, hour).await;
    assert_eq!(client.receive("T", "g").await.bodies(), [b"id-2"]);
    assert_eq!(of("T", &sent.entries[1].recall_handle).await, Code::BadRequest, "delivered already");
}

#[tokio::test]
async fn more_than_400_days_ahead_is_an_illegal_delivery_time() {
    let rig = Rig::start().await;
    make(&rig, "T", MessageType::Delay);
    let mut client = rig.client("c").await;
    let most = Duration::from_secs(400 * 86_400);
    assert_eq!(code(&client.send_all(vec![timed(&rig, "T", "most", most)]).await.status), Code::Ok);
    let more = timed(&rig, "T", "more", most + Duration::from_millis(1));
    assert_eq!(code(&client.send_all(vec![more]).await.status), Code::IllegalDeliveryTime);
}
