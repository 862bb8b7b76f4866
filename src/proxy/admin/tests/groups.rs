use std::time::Duration;

use super::World;
use crate::{
    proto::v2::{self, Code},
    proxy::testing::{code, resource},
    types::Clock,
};

fn of(group: &str, topics: &[&str]) -> v2::DescribeGroupAccumulationRequest {
    v2::DescribeGroupAccumulationRequest {
        group: resource(group),
        topics: topics.iter().filter_map(|topic| resource(topic)).collect(),
        ..Default::default()
    }
}

#[tokio::test]
async fn accumulation_tells_what_is_in_flight_from_what_is_ready_and_since_when() {
    let mut world = World::start().await;
    let start = world.rig.machine.clock.wall();
    world.send(&["a", "b", "c", "d"]).await;
    let mut consumer = world.rig.client("consumer").await;
    let mut poll = crate::proxy::testing::Client::poll("T", "g", Duration::from_millis(1));
    poll.batch_size = 2;
    let received = consumer.receive_by(poll).await;
    consumer.ack("T", "g", &received.handles()[..1]).await;
    let told = world.admin.describe_group_accumulation(of("g", &["T"])).await.unwrap().into_inner();
    assert_eq!(code(&told.status), Code::Ok);
    let total = told.accumulation.unwrap();
    assert_eq!((total.inflight_messages, total.ready_messages, total.accumulation), (1, 2, 3));
    assert_eq!(total.deliver_delay_time.as_ref().unwrap().seconds, 2, "c was stored two seconds ago");
    assert_eq!(total.last_consume_timestamp, start.as_millis(), "a was consumed");
    assert_eq!(told.topic_accumulation["T"], total);
    let twice = world.admin.describe_group_accumulation(of("g", &["T", "T"])).await.unwrap().into_inner();
    assert_eq!((twice.accumulation, twice.topic_accumulation.len()), (Some(total), 1), "a topic counts once");
    let none = world.admin.describe_group_accumulation(of("g", &[])).await.unwrap().into_inner();
    assert!(none.topic_accumulation.is_empty() && none.accumulation.is_some());
}

#[tokio::test]
async fn accumulation_of_what_is_not_there_is_refused_with_its_code() {
    let mut world = World::start().await;
    world.send(&["a"]).await;
    world.rig.client("consumer").await.receive("T", "g").await;
    let lite = v2::DescribeGroupAccumulationRequest { lite_topic: Some("l".into()), ..of("g", &[]) };
    let many = vec!["T"; 1025];
    for (request, expected) in [
        (of("x", &[]), Code::ConsumerGroupNotFound),
        (of("a b", &[]), Code::IllegalConsumerGroup),
        (of("g", &["x"]), Code::TopicNotFound),
        (of("g", &["a/b"]), Code::IllegalTopic),
        (of("g", &many), Code::BadRequest),
        (lite, Code::NotImplemented),
    ] {
        let refused = world.admin.describe_group_accumulation(request).await.unwrap().into_inner();
        assert_eq!(code(&refused.status), expected);
    }
}

#[tokio::test]
async fn a_time_span_is_that_of_the_oldest_the_newest_and_the_next_message() {
    let mut world = World::start().await;
    let start = world.rig.machine.clock.wall().as_millis();
    world.send(&["a", "b", "c"]).await;
    let mut consumer = world.rig.client("consumer").await;
    let received = consumer.receive("T", "g").await;
    consumer.ack("T", "g", &received.handles()[..1]).await;
    let of = |group: &str, topics: &[&str]| v2::QueryTimeSpanRequest {
        group: resource(group),
        topics: topics.iter().filter_map(|topic| resource(topic)).collect(),
        ..Default::default()
    };
    let told = world.admin.query_time_span(of("g", &[])).await.unwrap().into_inner();
    let [span] = &told.queue_time_span_list[..] else { panic!("{told:?}") };
    let times = (span.min_timestamp, span.max_timestamp, span.consume_timestamp, span.delay_time_ms);
    assert_eq!(times, (start, start + 2000, start + 1000, 2000));
    assert_eq!(span.message_queue.as_ref().unwrap().topic, resource("T"));
    for (request, expected) in [
        (of("x", &["T"]), Code::ConsumerGroupNotFound),
        (of("g", &["x"]), Code::TopicNotFound),
        (of("g", &[""]), Code::IllegalTopic),
    ] {
        let refused = world.admin.query_time_span(request).await.unwrap().into_inner();
        assert_eq!(code(&refused.status), expected);
    }
}

#[tokio::test]
async fn a_group_is_reset_to_a_time_at_once() {
    let mut world = World::start().await;
    let start = world.rig.machine.clock.wall().as_millis() / 1000;
    world.send(&["a", "b", "c"]).await;
    let mut consumer = world.rig.client("consumer").await;
    let received = consumer.receive("T", "g").await;
    consumer.ack("T", "g", &received.handles()).await;
    let of = |group: &str, topic: &str, seconds: Option<i64>| v2::ResetGroupOffsetRequest {
        group: resource(group),
        topic: resource(topic),
        reset_timestamp: seconds.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 }),
        ..Default::default()
    };
    let reset = world.admin.reset_group_offset(of("g", "T", Some(start + 1))).await.unwrap().into_inner();
    assert_eq!(code(&reset.status), Code::Ok);
    assert_eq!(consumer.receive("T", "g").await.bodies(), [b"b", b"c"]);
    for (request, expected) in [
        (of("g", "T", None), Code::BadRequest),
        (of("x", "T", Some(0)), Code::ConsumerGroupNotFound),
        (of("g", "x", Some(0)), Code::TopicNotFound),
        (of("", "T", Some(0)), Code::IllegalConsumerGroup),
    ] {
        let refused = world.admin.reset_group_offset(request).await.unwrap().into_inner();
        assert_eq!(code(&refused.status), expected);
    }
}
