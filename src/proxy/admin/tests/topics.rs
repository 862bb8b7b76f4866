use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::World;
use crate::{
    proto::v2::{self, Code},
    proxy::testing::{code, resource},
    types::Clock,
};

#[tokio::test]
async fn a_topics_status_is_its_type_and_its_queues() {
    let mut world = World::start().await;
    let of = |name: &str| v2::DescribeTopicStatusRequest { deployment_name: None, topic: resource(name) };
    let status = world.admin.describe_topic_status(of("T")).await.unwrap().into_inner();
    assert_eq!(code(&status.status), Code::Ok);
    assert_eq!((status.topic_message_type(), &*status.tags["message.type"]), (v2::MessageType::Unspecified, "MIXED"));
    assert_eq!((&*status.tags["readQueueNums"], &*status.tags["perm"]), ("1", "6"));
    for (name, expected) in [("x", Code::TopicNotFound), ("a/b", Code::IllegalTopic), ("", Code::IllegalTopic)] {
        let refused = world.admin.describe_topic_status(of(name)).await.unwrap().into_inner();
        assert_eq!(code(&refused.status), expected, "{name:?}");
    }
}

#[tokio::test]
async fn a_route_is_apaches_json_and_of_grpc_alone() {
    let mut world = World::start().await;
    let of = |topic: &str, protocol: &str| v2::GetTopicRouteRequest {
        topic: resource(topic),
        protocol_type: protocol.into(),
        ..Default::default()
    };
    let route = world.admin.get_topic_route(of("T", "grpc")).await.unwrap().into_inner();
    assert_eq!(code(&route.status), Code::Ok);
    let data: serde_json::Value = serde_json::from_str(&route.topic_route_data).unwrap();
    let address = world.rig.broker.config().store_host.to_string();
    assert_eq!(data["brokerDatas"][0]["brokerAddrs"]["0"], address);
    assert_eq!(data["queueDatas"][0]["readQueueNums"], 1);
    for (topic, protocol, expected) in [
        ("T", "remoting", Code::NotImplemented),
        ("T", "smoke", Code::BadRequest),
        ("x", "", Code::TopicNotFound),
        ("TBW102", "", Code::IllegalTopic),
    ] {
        let refused = world.admin.get_topic_route(of(topic, protocol)).await.unwrap().into_inner();
        assert_eq!(code(&refused.status), expected, "{topic} {protocol}");
    }
}

#[tokio::test]
async fn runtime_stats_count_messages_connections_and_clients() {
    let mut world = World::start().await;
    world.send(&["a", "b"]).await;
    let mut consumer = world.rig.client("consumer").await;
    assert_eq!(consumer.receive("T", "g").await.messages.len(), 2);
    assert_eq!(consumer.beat(v2::ClientType::SimpleConsumer, Some("g")).await, Code::Ok);
    let stats = world.admin.get_proxy_runtime_stats(v2::GetProxyRuntimeStatsRequest {}).await.unwrap().into_inner();
    let seconds = world.rig.machine.clock.now().as_micros() as f64 / 1e6;
    assert_eq!((stats.in_tps, stats.out_tps), (2.0 / seconds, 2.0 / seconds));
    assert_eq!((stats.consumers, stats.producers), (1, 0));
    // The producer has hung up, which may not be noticed yet.
    assert!((1..=2).contains(&stats.connections), "{}", stats.connections);
    assert_eq!((stats.version.as_str(), stats.proxy_name.is_empty()), (env!("CARGO_PKG_VERSION"), false));
}

#[tokio::test]
async fn a_log_level_that_is_none_is_refused() {
    let mut world = World::start().await;
    let refused = world.admin.change_log_level(v2::ChangeLogLevelRequest { level: 9 }).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    // What is in the log of a process is shown from outside; this one may have none.
    match world.admin.change_log_level(v2::ChangeLogLevelRequest { level: 4 }).await {
        Ok(changed) => assert!(changed.into_inner().remark.contains("ERROR")),
        Err(refused) => assert_eq!(refused.code(), tonic::Code::FailedPrecondition),
    }
}

#[tokio::test]
async fn reflection_and_health_know_both_services_of_administration() {
    let world = World::start().await;
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(world.channel.clone());
    let mut answers = reflection.server_reflection_info(futures_util::stream::iter([list])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(services) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = services.service.iter().map(|s| s.name.as_str()).collect();
    let mut health = HealthClient::new(world.channel.clone());
    for service in ["apache.rocketmq.v2.Admin", "ferromq.admin.v1.AdminService"] {
        assert!(names.contains(&service), "{names:?}");
        let state = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        assert_eq!(state.status, 1, "{service} serves");
    }
    assert!(health.check(HealthCheckRequest { service: "x".into() }).await.is_err());
}
