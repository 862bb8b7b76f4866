//! PullMessage, UpdateOffset, GetOffset, QueryOffset.

use std::time::Duration;

use crate::proto::v2::{self, Code, QueryOffsetPolicy as Policy, pull_message_response::Content};

use crate::proxy::testing::{Client, Rig, code, resource, system};

fn queue(topic: &str, id: i32) -> Option<v2::MessageQueue> {
    Some(v2::MessageQueue { topic: resource(topic), id, ..Default::default() })
}

fn from(offset: i64) -> v2::PullMessageRequest {
    let message_queue = queue("T", 0);
    v2::PullMessageRequest { group: resource("g"), message_queue, offset, batch_size: 32, ..Default::default() }
}

/// What a pull brought.
#[derive(Debug)]
struct Pulled {
    code: Code,
    message: String,
    messages: Vec<v2::Message>,
    next: Option<i64>,
}

async fn pull(client: &mut Client, request: v2::PullMessageRequest) -> Pulled {
    let mut stream = client.api.pull_message(client.request(request)).await.unwrap().into_inner();
    let mut contents = Vec::new();
    while let Some(answer) = stream.message().await.unwrap() {
        contents.push(answer.content.expect("an answer has content"));
    }
    let mut contents = contents.into_iter();
    let Some(Content::Status(status)) = contents.next() else { panic!("the status comes first") };
    let (mut messages, mut next) = (Vec::new(), None);
    for content in contents {
        match content {
            Content::Message(message) if next.is_none() => messages.push(message),
            Content::NextOffset(offset) if next.is_none() => next = Some(offset),
            other => panic!("{other:?} after the next offset, or a second status"),
        }
    }
    Pulled { code: status.code(), message: status.message, messages, next }
}

async fn update(client: &mut Client, message_queue: Option<v2::MessageQueue>, offset: i64) -> Code {
    let request = v2::UpdateOffsetRequest { group: resource("g"), message_queue, offset };
    code(&client.api.update_offset(client.request(request)).await.unwrap().into_inner().status)
}

async fn get(client: &mut Client, message_queue: Option<v2::MessageQueue>) -> Result<i64, Code> {
    let request = v2::GetOffsetRequest { group: resource("g"), message_queue };
    let answer = client.api.get_offset(client.request(request)).await.unwrap().into_inner();
    if code(&answer.status) == Code::Ok { Ok(answer.offset) } else { Err(code(&answer.status)) }
}

async fn query(
    client: &mut Client,
    message_queue: Option<v2::MessageQueue>,
    policy: i32,
    millis: Option<i64>,
) -> Result<i64, Code> {
    let timestamp = millis.map(|ms| prost_types::Timestamp {
        seconds: ms.div_euclid(1000),
        nanos: (ms.rem_euclid(1000) * 1_000_000) as i32,
    });
    let request = v2::QueryOffsetRequest { message_queue, query_offset_policy: policy, timestamp };
    let answer = client.api.query_offset(client.request(request)).await.unwrap().into_inner();
    if code(&answer.status) == Code::Ok { Ok(answer.offset) } else { Err(code(&answer.status)) }
}

/// A topic of one queue.
async fn rig() -> (Rig, Client) {
    let mut machine = crate::broker::testing::Machine::new();
    machine.config.default_queues = 1;
    let rig = Rig::start_on(machine, crate::proxy::testing::config()).await;
    let client = rig.client("c").await;
    (rig, client)
}

#[tokio::test]
async fn a_pull_brings_messages_from_an_offset_on_and_the_next_one() {
    let (_rig, mut client) = rig().await;
    for body in ["a", "b", "c"] {
        client.send("T", body).await;
    }
    let pulled = pull(&mut client, from(1)).await;
    assert_eq!((pulled.code, pulled.next), (Code::Ok, Some(3)));
    let told: Vec<_> = pulled
        .messages
        .iter()
        .map(|m| (&*m.body, system(m).queue_offset(), system(m).receipt_handle.clone()))
        .collect();
    assert_eq!(told, [(&b"b"[..], 1, None), (&b"c"[..], 2, None)]);
    let one = pull(&mut client, v2::PullMessageRequest { batch_size: 1, ..from(0) }).await;
    assert_eq!((one.messages.len(), one.next), (1, Some(1)));
    assert_eq!(client.receive("T", "g").await.bodies().len(), 3, "a pull takes nothing");
}

#[tokio::test]
async fn a_pull_with_nothing_to_bring_says_so_and_where_to_go_on() {
    let (_rig, mut client) = rig().await;
    client.send("T", "a").await;
    let none = pull(&mut client, from(1)).await;
    assert_eq!((none.code, none.next, none.messages.len()), (Code::MessageNotFound, Some(1), 0));
    let filter =
        |text: &str, kind: v2::FilterType| Some(v2::FilterExpression { r#type: kind as i32, expression: text.into() });
    let filter_expression = filter("x IS NOT NULL", v2::FilterType::Sql);
    let passed = pull(&mut client, v2::PullMessageRequest { filter_expression, ..from(0) }).await;
    assert_eq!((passed.code, passed.next), (Code::MessageNotFound, Some(1)));
    let filter_expression = filter("x IS", v2::FilterType::Sql);
    let illegal = pull(&mut client, v2::PullMessageRequest { filter_expression, ..from(0) }).await;
    assert_eq!((illegal.code, illegal.next), (Code::IllegalFilterExpression, None));
}

#[tokio::test]
async fn a_pull_waits_as_long_as_it_asks_and_no_longer_than_for_a_message() {
    let (_rig, mut client) = rig().await;
    client.send("T", "a").await;
    let wait = |millis: i32| Some(prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 });
    let short = v2::PullMessageRequest { long_polling_timeout: wait(20), ..from(1) };
    assert_eq!(pull(&mut client, short).await.code, Code::MessageNotFound);
    let long = v2::PullMessageRequest {
        long_polling_timeout: Some(prost_types::Duration { seconds: 15, nanos: 0 }),
        ..from(1)
    };
    let mut other = client.clone();
    let (pulled, _) =
        tokio::join!(tokio::time::timeout(Duration::from_secs(10), pull(&mut client, long)), other.send("T", "b"));
    assert_eq!(pulled.expect("a message ends the wait").messages.len(), 1);
}

#[tokio::test]
async fn pulls_that_cannot_be_are_refused_with_their_codes() {
    let (_rig, mut client) = rig().await;
    client.send("T", "a").await;
    for (request, code, next) in [
        (from(2), Code::IllegalOffset, Some(1)),
        (from(-1), Code::IllegalOffset, None),
        (v2::PullMessageRequest { message_queue: queue("T", 1), ..from(0) }, Code::BadRequest, None),
        (v2::PullMessageRequest { message_queue: queue("T", -1), ..from(0) }, Code::BadRequest, None),
        (v2::PullMessageRequest { message_queue: queue("a/b", 0), ..from(0) }, Code::IllegalTopic, None),
        (v2::PullMessageRequest { message_queue: None, ..from(0) }, Code::IllegalTopic, None),
        (v2::PullMessageRequest { group: resource("a b"), ..from(0) }, Code::IllegalConsumerGroup, None),
    ] {
        let pulled = pull(&mut client, request.clone()).await;
        assert_eq!((pulled.code, pulled.next), (code, next), "{request:?}: {}", pulled.message);
    }
}

#[tokio::test]
async fn an_updated_offset_is_told_and_obeyed_by_polls() {
    let (rig, mut client) = rig().await;
    for body in ["a", "b", "c"] {
        client.send("T", body).await;
    }
    assert_eq!(get(&mut client, queue("T", 0)).await, Err(Code::OffsetNotFound));
    assert_eq!(update(&mut client, queue("T", 0), 2).await, Code::Ok);
    assert_eq!(get(&mut client, queue("T", 0)).await, Ok(2));
    let received = client.receive("T", "g").await;
    assert_eq!(received.bodies(), [b"c"]);
    assert_eq!(update(&mut client, queue("T", 0), 0).await, Code::Ok);
    let void = client.ack("T", "g", &received.handles()).await;
    assert_eq!(code(&void.status), Code::InvalidReceiptHandle);
    assert_eq!(client.receive("T", "g").await.bodies().len(), 3);
    let machine = rig.crash();
    let rig = Rig::start_on(machine, crate::proxy::testing::config()).await;
    assert_eq!(get(&mut rig.client("c").await, queue("T", 0)).await, Ok(0));
}

#[tokio::test]
async fn offsets_that_cannot_be_are_refused_with_their_codes() {
    let (_rig, mut client) = rig().await;
    client.send("T", "a").await;
    for (message_queue, offset, expected) in [
        (queue("T", 0), -1, Code::IllegalOffset),
        (queue("T", 0), 2, Code::IllegalOffset),
        (queue("T", 3), 0, Code::BadRequest),
        (queue("nowhere", 0), 0, Code::TopicNotFound),
        (None, 0, Code::IllegalTopic),
    ] {
        assert_eq!(update(&mut client, message_queue.clone(), offset).await, expected, "{message_queue:?}, {offset}");
    }
    assert_eq!(get(&mut client, queue("nowhere", 0)).await, Err(Code::TopicNotFound));
    assert_eq!(get(&mut client, queue("T", 3)).await, Err(Code::OffsetNotFound));
}

#[tokio::test]
async fn a_queue_tells_its_beginning_its_end_and_its_offset_at_a_time() {
    let (rig, mut client) = rig().await;
    client.send("T", "a").await;
    crate::proxy::testing::pass(&rig, Duration::from_secs(10)).await;
    let then = rig.broker.clock().wall().as_millis();
    client.send("T", "b").await;
    let (begin, end, time) = (Policy::Beginning as i32, Policy::End as i32, Policy::Timestamp as i32);
    for (policy, millis, expected) in [
        (begin, None, Ok(0)),
        (end, None, Ok(2)),
        (time, Some(then - 20_000), Ok(0)),
        (time, Some(then), Ok(1)),
        (time, Some(then + 20_000), Ok(2)),
        (time, None, Err(Code::BadRequest)),
        (7, None, Err(Code::BadRequest)),
    ] {
        assert_eq!(query(&mut client, queue("T", 0), policy, millis).await, expected, "{policy}, {millis:?}");
    }
    assert_eq!(query(&mut client, queue("T", 5), begin, None).await, Err(Code::OffsetNotFound));
    assert_eq!(query(&mut client, queue("nowhere", 0), begin, None).await, Err(Code::TopicNotFound));
}
