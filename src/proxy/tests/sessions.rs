//! Telemetry, heartbeats, goodbyes, and a server that was restarted.

use std::time::Duration;

use crate::{
    proto::v2::{self, Code, settings::PubSub, telemetry_command::Command},
    proxy::{
        PushError,
        testing::{Client, Rig, Telemetry, code, config, consumer_settings, eventually, producer_settings, resource},
    },
    types::ClientId,
};

#[tokio::test]
async fn settings_are_answered_each_time() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    let mut stream = Telemetry::open(&mut client).await;
    for _ in 0..3 {
        stream.tell(producer_settings(&["T"])).await;
        let told = stream.told().await;
        let Some(PubSub::Publishing(publishing)) = told.pub_sub else { panic!() };
        assert_eq!(publishing.max_body_size, 4 << 20);
    }
}

#[tokio::test]
async fn the_stream_opens_before_the_client_has_said_anything() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    // Would not return before the response headers are there.
    Telemetry::open(&mut client).await;
}

#[tokio::test]
async fn a_group_that_nobody_made_is_made() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    let mut stream = Telemetry::open(&mut client).await;
    stream.tell(consumer_settings("fresh")).await;
    assert_eq!(stream.told().await.backoff_policy.unwrap().max_attempts, 17);
    assert!(rig.broker.group("fresh").is_some());
}

#[tokio::test]
async fn a_consumer_starts_though_its_group_may_not_be_made() {
    let mut machine = crate::broker::testing::Machine::new();
    machine.config.auto_create_group = false;
    let rig = Rig::start_on(machine, config()).await;
    let mut client = rig.client("c").await;
    let mut stream = Telemetry::open(&mut client).await;
    stream.tell(consumer_settings("unknown")).await;
    assert!(stream.told().await.backoff_policy.unwrap().strategy.is_some());
    assert!(rig.broker.group("unknown").is_none());
}

#[tokio::test]
async fn bad_settings_end_the_stream_as_the_clients_fault() {
    let rig = Rig::start().await;
    for settings in [producer_settings(&["a/b"]), consumer_settings(" "), v2::Settings::default()] {
        let mut client = rig.client("c").await;
        let mut stream = Telemetry::open(&mut client).await;
        stream.tell(settings).await;
        let end = stream.down.message().await.unwrap_err();
        assert_eq!(end.code(), tonic::Code::InvalidArgument);
        assert!(end.message().starts_with("process client telemetryCommand failed. "), "{end}");
    }
}

#[tokio::test]
async fn the_client_that_waits_through_the_end_of_a_stream_is_told_the_refusal() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    client.language = "HTTP";
    let mut stream = Telemetry::open(&mut client).await;
    stream.tell(consumer_settings("CID_RMQ_SYS_x")).await;
    let told = stream.down.message().await.unwrap().unwrap();
    assert_eq!(code(&told.status), Code::IllegalConsumerGroup);
    assert_eq!(told.command, None);
    assert_eq!(stream.down.message().await.unwrap_err().code(), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn settings_are_repeated_for_the_client_that_misses_quick_answers() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    client.language = "HTTP";
    let mut stream = Telemetry::open(&mut client).await;
    stream.tell(producer_settings(&["T"])).await;
    let first = stream.told().await;
    assert_eq!(stream.told().await, first);
}

#[tokio::test]
async fn a_command_reaches_the_newest_stream() {
    let rig = Rig::start().await;
    let id = ClientId::parse("c").unwrap();
    let mut client = rig.client("c").await;
    assert_eq!(rig.proxy.push(&id, v2::TelemetryCommand::default()), Err(PushError::NoStream));
    let mut old = Telemetry::open(&mut client).await;
    old.tell(producer_settings(&[])).await;
    old.told().await;
    let mut new = Telemetry::open(&mut client).await;
    new.tell(producer_settings(&[])).await;
    new.told().await;
    old.up = None;
    assert_eq!(old.down.message().await.unwrap(), None, "half-closing completes the stream");
    let command = Some(Command::ReconnectEndpointsCommand(v2::ReconnectEndpointsCommand { nonce: "n".into() }));
    let command = v2::TelemetryCommand { status: None, command };
    rig.proxy.push(&id, command.clone()).unwrap();
    assert_eq!(new.down.message().await.unwrap(), Some(command));
}

#[tokio::test]
async fn a_heartbeat_is_answered_for_those_who_told_and_those_who_did_not() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    assert_eq!(client.beat(v2::ClientType::PushConsumer, Some("g")).await, Code::Ok);
    assert_eq!(client.beat(v2::ClientType::Producer, None).await, Code::Ok);
    assert_eq!(client.beat(v2::ClientType::Unspecified, None).await, Code::UnrecognizedClientType);
    assert_eq!(client.beat(v2::ClientType::SimpleConsumer, Some("a b")).await, Code::IllegalConsumerGroup);
    let mut stream = Telemetry::open(&mut client).await;
    stream.tell(consumer_settings("g")).await;
    stream.told().await;
    assert_eq!(client.beat(v2::ClientType::PushConsumer, Some("g")).await, Code::Ok);
    assert_eq!(rig.broker.consumers_of(&crate::types::GroupName::parse("g").unwrap()), 1);
}

#[tokio::test]
async fn a_goodbye_is_answered_once() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    assert_eq!(client.terminate(None).await, Code::UnrecognizedClientType);
    let mut stream = Telemetry::open(&mut client).await;
    stream.tell(producer_settings(&["T"])).await;
    stream.told().await;
    assert_eq!(client.terminate(Some("")).await, Code::Ok, "Go sends an empty group");
    assert_eq!(client.terminate(None).await, Code::UnrecognizedClientType);
}

#[tokio::test]
async fn clients_go_on_after_the_server_was_restarted_though_it_has_forgotten_them() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    for body in ["a", "b"] {
        client.send("T", body).await;
    }
    let poll = v2::ReceiveMessageRequest {
        auto_renew: true,
        batch_size: 1,
        ..Client::poll("T", "g", Duration::from_millis(20))
    };
    let held = client.receive_by(poll.clone()).await;
    assert_eq!(held.messages.len(), 1);
    let rig = Rig::start_on(rig.crash(), config()).await;
    let mut client = rig.client("c").await;
    assert_eq!(client.beat(v2::ClientType::PushConsumer, Some("g")).await, Code::Ok);
    let acked = client.ack("T", "g", &held.handles()).await;
    assert_eq!(code(&acked.status), Code::Ok, "a handle from before the crash is honoured");
    let rest = client.receive_by(v2::ReceiveMessageRequest { batch_size: 32, ..poll }).await;
    assert_eq!(rest.messages.len(), 1);
    assert_ne!(rest.bodies(), held.bodies());
    assert_eq!(code(&client.change("T", "g", &rest.handles()[0], 10).await.status), Code::Ok);
}

#[tokio::test]
async fn a_drain_answers_what_is_under_way_and_closes() {
    let mut config = config();
    config.polling.max = Duration::from_secs(600);
    let rig = Rig::start_with(config).await;
    let mut client = rig.client("c").await;
    client.route("T", None).await;
    let mut stream = Telemetry::open(&mut client).await;
    stream.tell(producer_settings(&["T"])).await;
    stream.told().await;
    // Parked for far longer than the test waits.
    let poll = v2::ReceiveMessageRequest {
        long_polling_timeout: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
        ..Client::poll("T", "g", Duration::ZERO)
    };
    let mut consumer = client.clone();
    consumer.timeout = Duration::from_secs(900);
    let parked = tokio::spawn(async move { consumer.receive_by(poll).await });
    eventually("the poll is parked", || rig.broker.parked_polls() == 1).await;
    rig.proxy.drain();
    let parked = tokio::time::timeout(Duration::from_secs(30), parked).await.expect("the drain ends the poll");
    assert_eq!(parked.unwrap().code(), Code::MessageNotFound);
    assert_eq!(stream.down.message().await.unwrap(), None, "the stream ends in good order");
    eventually("the connections are closed", || rig.proxy.connections() == 0).await;
}

#[tokio::test]
async fn who_subscribed_to_a_topic_before_it_was_made_gets_its_first_message() {
    let mut machine = crate::broker::testing::Machine::new();
    machine.config.auto_create_topic = false;
    let rig = Rig::start_on(machine, config()).await;
    let name = crate::types::GroupName::parse("all").unwrap();
    let group = crate::broker::Group {
        name,
        fifo: false,
        broadcast: true,
        retry_max_times: 16,
        retry_policy: crate::broker::RetryPolicy::apache(),
        consume_enabled: true,
    };
    rig.broker.create_group(group).unwrap();
    let mut client = rig.client("c").await;
    let mut stream = Telemetry::open(&mut client).await;
    let entry = v2::SubscriptionEntry { topic: resource("later"), ..Default::default() };
    let subscription = v2::Subscription { group: resource("all"), subscriptions: vec![entry], ..Default::default() };
    stream.tell(v2::Settings { pub_sub: Some(PubSub::Subscription(subscription)), ..Default::default() }).await;
    stream.told().await;
    let topic = crate::broker::Topic {
        name: crate::types::TopicName::parse("later").unwrap(),
        message_type: None,
        read_queues: 1,
        write_queues: 1,
        readable: true,
        writable: true,
    };
    rig.broker.create_topic(topic).unwrap();
    client.send("later", "first").await;
    assert_eq!(client.receive("later", "all").await.handles().len(), 1);
}
