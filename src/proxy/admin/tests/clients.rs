use super::World;
use crate::{
    proto::v2::{self, Code, telemetry_command::Command},
    proxy::testing::{Client, Telemetry, code, consumer_settings, resource},
};

/// A consumer of group g that subscribes to T by a tag, with an open stream.
async fn consumer(world: &World, id: &'static str, tag: &str) -> (Client, Telemetry) {
    let mut client = world.rig.client(id).await;
    let mut stream = Telemetry::open(&mut client).await;
    let mut settings = consumer_settings("g");
    let Some(v2::settings::PubSub::Subscription(subscription)) = &mut settings.pub_sub else { panic!("a consumer") };
    let expression = Some(v2::FilterExpression { r#type: v2::FilterType::Tag as i32, expression: tag.into() });
    subscription.subscriptions = vec![v2::SubscriptionEntry { topic: resource("T"), expression }];
    settings.client_type = Some(v2::ClientType::PushConsumer as i32);
    settings.user_agent = Some(v2::Ua {
        language: v2::Language::Java as i32,
        version: "5.2.0".into(),
        platform: "Linux".into(),
        hostname: "host-of-it".into(),
    });
    stream.tell(settings).await;
    stream.told().await;
    (client, stream)
}

fn list(topic: Option<&str>, group: Option<&str>) -> v2::ListSubscriptionRequest {
    v2::ListSubscriptionRequest {
        topic: topic.and_then(resource),
        group: group.and_then(resource),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_subscription_is_online_while_a_consumer_is_there_and_consistent_while_all_agree() {
    let mut world = World::start().await;
    let (mut one, stream) = consumer(&world, "one", "a").await;
    let mut admin = world.admin.clone();
    let mut told = async |request| admin.list_subscription(request).await.unwrap().into_inner();
    let listed = told(list(Some("T"), None)).await;
    let [row] = &listed.subscription_info[..] else { panic!("{listed:?}") };
    assert_eq!((&row.group, &row.topic, row.online), (&resource("g"), &resource("T"), true));
    assert_eq!(row.expression.as_ref().unwrap().expression, "a");
    assert!(row.subscription_consistency && row.last_update_timestamp.is_some());
    assert_eq!(row.message_model(), v2::MessageModel::Clustering);

    let (_two, _stream) = consumer(&world, "two", "b").await;
    assert!(!told(list(None, Some("g"))).await.subscription_info[0].subscription_consistency);
    let request = v2::DescribeSubscriptionRequest { group: resource("g"), ..Default::default() };
    let each = world.admin.describe_subscription(request).await.unwrap().into_inner();
    let of = |n: usize| {
        let row = &each.client_subscription_info[n];
        let expression = row.subscription_info.as_ref().unwrap().expression.as_ref().unwrap();
        (row.client_info.as_ref().unwrap().client_id.as_str(), expression.expression.as_str())
    };
    assert_eq!((of(0), of(1), each.client_subscription_info.len()), (("one", "a"), ("two", "b"), 2));

    drop(stream);
    one.terminate(Some("g")).await;
    let left = world.admin.list_subscription(list(Some("T"), Some("g"))).await.unwrap().into_inner();
    assert_eq!(left.subscription_info[0].expression.as_ref().unwrap().expression, "b");
}

#[tokio::test]
async fn a_group_that_is_away_keeps_its_row_until_it_is_deleted() {
    let mut world = World::start().await;
    world.send(&["a"]).await;
    world.rig.client("poller").await.receive("T", "g").await;
    let listed = world.admin.list_subscription(list(None, Some("g"))).await.unwrap().into_inner();
    let [row] = &listed.subscription_info[..] else { panic!("{listed:?}") };
    assert!(!row.online && row.expression.is_none());
    for request in [list(Some("T"), None), list(Some("T"), Some("g"))] {
        assert_eq!(world.admin.list_subscription(request).await.unwrap().into_inner(), listed);
    }
    world.make_topic("U", 1);
    let other = world.admin.list_subscription(list(Some("U"), None)).await.unwrap().into_inner();
    assert!(other.subscription_info.is_empty());

    let of = |group: &str, topic: &str| v2::DeleteSubscriptionRequest {
        group: resource(group),
        topic: resource(topic),
        ..Default::default()
    };
    let (mut client, stream) = consumer(&world, "one", "*").await;
    let mut delete = async |request| code(&world.admin.delete_subscription(request).await.unwrap().into_inner().status);
    assert_eq!(delete(of("g", "T")).await, Code::PreconditionFailed, "a consumer is there");
    drop(stream);
    client.terminate(Some("g")).await;
    assert_eq!(delete(of("g", "T")).await, Code::Ok);
    assert_eq!(delete(of("g", "T")).await, Code::NotFound, "it is gone");
    assert_eq!(delete(of("x", "T")).await, Code::ConsumerGroupNotFound);
    assert_eq!(delete(of("g", "x")).await, Code::TopicNotFound);
    let listed = world.admin.list_subscription(list(None, Some("g"))).await.unwrap().into_inner();
    assert!(listed.subscription_info.is_empty());
    // It begins anew: the message that was in flight comes at once.
    assert_eq!(client.receive("T", "g").await.bodies(), [b"a"]);
}

#[tokio::test]
async fn subscriptions_of_nothing_and_of_what_is_not_there_are_refused() {
    let mut world = World::start().await;
    for (topic, group, expected) in [
        (None, None, Code::BadRequest),
        (Some(""), Some(""), Code::BadRequest),
        (Some("x"), None, Code::TopicNotFound),
        (Some("a/b"), None, Code::IllegalTopic),
        (None, Some("x"), Code::ConsumerGroupNotFound),
        (None, Some("a b"), Code::IllegalConsumerGroup),
    ] {
        let refused = world.admin.list_subscription(list(topic, group)).await.unwrap().into_inner();
        assert_eq!(code(&refused.status), expected, "{topic:?} {group:?}");
        let v2::ListSubscriptionRequest { deployment_name, topic, group } = list(topic, group);
        let request = v2::DescribeSubscriptionRequest { deployment_name, topic, group };
        let refused = world.admin.describe_subscription(request).await.unwrap().into_inner();
        assert_eq!(code(&refused.status), expected);
    }
}

#[tokio::test]
async fn connections_are_those_that_told_their_settings_and_those_that_only_beat() {
    let mut world = World::start().await;
    let (_one, _stream) = consumer(&world, "one", "*").await;
    let mut silent = world.rig.client("silent").await;
    assert_eq!(silent.beat(v2::ClientType::PushConsumer, Some("g")).await, Code::Ok);
    let of = |group: &str, topic: Option<&str>| v2::ListConsumerConnectionRequest {
        group: resource(group),
        topic: topic.and_then(resource),
        ..Default::default()
    };
    let all = world.admin.list_consumer_connection(of("g", None)).await.unwrap().into_inner().client_info;
    let one = v2::ClientInfo {
        client_id: "one".into(),
        version: "5.2.0".into(),
        language: "JAVA".into(),
        hostname: "host-of-it".into(),
        egress_ip: "127.0.0.1".into(),
        message_model: v2::MessageModel::Clustering as i32,
    };
    assert_eq!(all[0], one);
    assert_eq!((all[1].client_id.as_str(), all.len()), ("silent", 2));
    let of_topic = world.admin.list_consumer_connection(of("g", Some("T"))).await.unwrap().into_inner().client_info;
    assert_eq!(of_topic, [one]);
    for (request, expected) in [
        (of("x", None), Code::ConsumerGroupNotFound),
        (of("g", Some("x")), Code::TopicNotFound),
        (v2::ListConsumerConnectionRequest { lite_topic: Some("l".into()), ..of("g", None) }, Code::NotImplemented),
    ] {
        let refused = world.admin.list_consumer_connection(request).await.unwrap().into_inner();
        assert_eq!(code(&refused.status), expected);
    }
}

#[tokio::test]
async fn running_info_is_what_the_server_knows_of_a_consumer() {
    let mut world = World::start().await;
    world.send(&["a"]).await;
    let (mut one, _stream) = consumer(&world, "one", "*").await;
    let received = one.receive("T", "g").await;
    one.ack("T", "g", &received.handles()).await;
    let of = |group: &str, client: &str| v2::GetConsumerRunningInfoRequest {
        group: resource(group),
        client_id: client.into(),
        ..Default::default()
    };
    let told = world.admin.get_consumer_running_info(of("g", "one")).await.unwrap().into_inner();
    let info = told.consumer_running_info.unwrap();
    assert_eq!((&*info.properties["clientType"], &*info.properties["version"]), ("PUSH_CONSUMER", "5.2.0"));
    assert_eq!(info.subscriptions["T"].expression, "*");
    assert_eq!(info.message_queue_table[0].process_queue_info.as_ref().unwrap().commit_offset, 1);
    for (request, expected) in [
        (of("g", "nobody"), Code::NotFound),
        (of("g", " "), Code::ClientIdRequired),
        (of("x", "one"), Code::ConsumerGroupNotFound),
    ] {
        let refused = world.admin.get_consumer_running_info(request).await.unwrap().into_inner();
        assert_eq!(code(&refused.status), expected);
    }
}

/// Answers the next question of a client.
async fn answer(mut stream: Telemetry, with: impl Fn(Command) -> v2::TelemetryCommand) -> Telemetry {
    let asked = stream.down.message().await.unwrap().expect("the stream goes on").command.unwrap();
    stream.up.as_ref().unwrap().send(with(asked)).await.unwrap();
    stream
}

#[tokio::test]
async fn thread_stacks_are_asked_of_the_client_and_its_refusal_comes_back() {
    let mut world = World::start().await;
    let (_one, stream) = consumer(&world, "one", "*").await;
    let of = |group: &str, client: &str| v2::PrintThreadStackTraceRequest {
        group: resource(group),
        client_id: client.into(),
        ..Default::default()
    };
    let stack = |asked: Command, status: Option<v2::Status>| {
        let Command::PrintThreadStackTraceCommand(print) = asked else { panic!("{asked:?}") };
        let told = v2::ThreadStackTrace { nonce: print.nonce, thread_stack_trace: Some("at main".into()) };
        v2::TelemetryCommand { status, command: Some(Command::ThreadStackTrace(told)) }
    };
    let asked = world.admin.print_thread_stack_trace(of("g", "one"));
    let (told, stream) = tokio::join!(asked, answer(stream, |asked| stack(asked, None)));
    assert_eq!(told.unwrap().into_inner().thread_stack_trace.as_deref(), Some("at main"));

    let no = v2::Status { code: Code::Unsupported as i32, message: "not here".into() };
    let asked = world.admin.print_thread_stack_trace(of("", "one"));
    let (told, _stream) = tokio::join!(asked, answer(stream, |asked| stack(asked, Some(no.clone()))));
    let refused = told.unwrap().into_inner().status.unwrap();
    assert!(refused.code() == Code::Unsupported && refused.message.contains("not here"), "{refused:?}");

    for (request, expected) in [(of("other", "one"), Code::NotFound), (of("g", "nobody"), Code::NotFound)] {
        let refused = world.admin.print_thread_stack_trace(request).await.unwrap().into_inner();
        assert_eq!(code(&refused.status), expected);
    }
}

#[tokio::test]
async fn a_client_without_a_stream_cannot_be_asked() {
    let mut world = World::start().await;
    let (_one, stream) = consumer(&world, "one", "*").await;
    drop(stream);
    let sessions = &world.rig.proxy.front().sessions;
    let client = crate::types::ClientId::parse("one").unwrap();
    crate::proxy::testing::eventually("the stream's end", || sessions.language(&client).is_none()).await;
    let request = v2::PrintThreadStackTraceRequest { client_id: "one".into(), ..Default::default() };
    let refused = world.admin.print_thread_stack_trace(request).await.unwrap().into_inner().status.unwrap();
    assert!(refused.code() == Code::NotFound && refused.message.contains("stream"), "{refused:?}");
}

#[tokio::test]
async fn a_message_is_verified_by_the_consumer_that_is_named() {
    let mut world = World::start().await;
    world.send(&["a"]).await;
    let (_one, stream) = consumer(&world, "one", "*").await;
    let of = |topic: &str, client: &str, id: &str| v2::VerifyMessageRequest {
        group: resource("g"),
        topic: resource(topic),
        client_id: client.into(),
        message_id: id.into(),
        ..Default::default()
    };
    let result = |asked: Command, verdict: Code| {
        let Command::VerifyMessageCommand(verify) = asked else { panic!("{asked:?}") };
        assert_eq!(verify.message.unwrap().body, "a");
        let told = v2::VerifyMessageResult { nonce: verify.nonce };
        let status = Some(v2::Status { code: verdict as i32, message: String::new() });
        v2::TelemetryCommand { status, command: Some(Command::VerifyMessageResult(told)) }
    };
    let asked = world.admin.verify_message(of("T", "one", "a"));
    let (told, stream) = tokio::join!(asked, answer(stream, |asked| result(asked, Code::Ok)));
    assert_eq!(code(&told.unwrap().into_inner().status), Code::Ok);
    let asked = world.admin.verify_message(of("T", "one", "a"));
    let (told, _stream) = tokio::join!(asked, answer(stream, |asked| result(asked, Code::FailedToConsumeMessage)));
    assert_eq!(code(&told.unwrap().into_inner().status), Code::FailedToConsumeMessage);
    for (request, expected) in [
        (of("T", "one", "x"), Code::MessageNotFound),
        (of("T", "one", " "), Code::IllegalMessageId),
        (of("T", "nobody", "a"), Code::NotFound),
        (of("x", "one", "a"), Code::TopicNotFound),
    ] {
        let refused = world.admin.verify_message(request).await.unwrap().into_inner();
        assert_eq!(code(&refused.status), expected);
    }
}
