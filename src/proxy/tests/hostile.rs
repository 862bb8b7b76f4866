//! Clients that do not behave, and what others notice of them.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    broker::testing::Machine,
    proto::v2::{self, Code, receive_message_response::Content},
    proxy::testing::{Client, Rig, Telemetry, code, config, consumer_settings, eventually, message, system},
};

#[tokio::test]
async fn a_call_without_a_client_id_is_refused_in_its_own_words() {
    let rig = Rig::start().await;
    let mut api = rig.client("c").await.api;
    let sent = api.send_message(v2::SendMessageRequest::default()).await.unwrap().into_inner();
    assert_eq!(code(&sent.status), Code::ClientIdRequired);
    let mut polled = api.receive_message(v2::ReceiveMessageRequest::default()).await.unwrap().into_inner();
    let first = polled.message().await.unwrap().unwrap().content.unwrap();
    assert!(matches!(first, Content::Status(s) if s.code() == Code::ClientIdRequired));
    let last = polled.message().await.unwrap().unwrap().content.unwrap();
    assert!(matches!(last, Content::DeliveryTimestamp(_)));
    assert_eq!(polled.message().await.unwrap(), None);
    let commands = futures_util::stream::pending::<v2::TelemetryCommand>();
    let mut stream = api.telemetry(commands).await.unwrap().into_inner();
    let refused = stream.message().await.unwrap().unwrap();
    assert_eq!((code(&refused.status), refused.command), (Code::ClientIdRequired, None));
    assert_eq!(stream.message().await.unwrap(), None);
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_and_the_connection_goes_on() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    let send = |size: usize| vec![message("T", "id", vec![7; size])];
    let max = 4 << 20;
    assert_eq!(code(&client.send_all(send(max + 1)).await.status), Code::MessageBodyTooLarge);
    assert_eq!(code(&client.send_all(send(0)).await.status), Code::MessageBodyEmpty);
    client.send("T", "still there").await;
}

#[tokio::test]
async fn a_request_above_the_limit_is_cut_and_the_connection_goes_on() {
    let mut config = config();
    config.limits.inbound_bytes_max = 1 << 20;
    config.limits.control_bytes_max = 64 << 10;
    let rig = Rig::start_with(config).await;
    let mut client = rig.client("c").await;
    let sent = client.send_all(vec![message("T", "id", vec![7; 3 << 20])]).await;
    assert_eq!(code(&sent.status), Code::MessageBodyTooLarge);
    let acked = client.ack("T", "g", &vec!["x".repeat(100); 2000]).await;
    assert_eq!(code(&acked.status), Code::PayloadTooLarge);
    client.send("T", "still there").await;
    eventually("everything was given back", || rig.proxy.calls() == 0 && rig.proxy.bytes() == 0).await;
}

#[tokio::test]
async fn calls_above_the_limit_are_told_to_come_later() {
    let mut config = config();
    config.limits.calls_max = 2;
    let rig = Rig::start_with(config).await;
    let mut client = rig.client("c").await;
    client.send("T", "a").await;
    let streams = [Telemetry::open(&mut client).await, Telemetry::open(&mut client).await];
    let refused = client.send_all(vec![message("T", "id", "b")]).await;
    assert_eq!(code(&refused.status), Code::TooManyRequests);
    assert_eq!(client.receive("T", "g").await.code(), Code::TooManyRequests);
    drop(streams);
    eventually("the streams are gone", || rig.proxy.calls() == 0).await;
    client.send("T", "b").await;
}

#[tokio::test]
async fn bytes_above_the_limit_of_a_connection_do_not_disturb_another() {
    let mut config = config();
    config.limits.connection_bytes_max = 100 << 10;
    let rig = Rig::start_with(config).await;
    let (mut greedy, mut modest) = (rig.client("greedy").await, rig.client("modest").await);
    let sent = greedy.send_all(vec![message("T", "id", vec![7; 200 << 10])]).await;
    assert_eq!(code(&sent.status), Code::TooManyRequests);
    modest.send("T", "a").await;
    eventually("everything was given back", || rig.proxy.bytes() == 0).await;
    greedy.send("T", "b").await;
}

/// SendMessage with a body that no client of ours would make.
async fn send_raw(
    rig: &Rig,
    body: impl futures_util::Stream<Item = Result<http_body::Frame<bytes::Bytes>, std::convert::Infallible>>
    + Send
    + 'static,
) -> v2::SendMessageResponse {
    let body = tonic::body::Body::new(http_body_util::StreamBody::new(body));
    let path = format!("http://127.0.0.1:{}/apache.rocketmq.v2.MessagingService/SendMessage", rig.port);
    let request = http::Request::post(path).header("content-type", "application/grpc").header("x-mq-client-id", "raw");
    let channel = rig.channel().await;
    let mut channel =
        tower::util::ServiceExt::<http::Request<tonic::body::Body>>::ready_oneshot(channel).await.unwrap();
    let response = tower::Service::call(&mut channel, request.body(body).unwrap()).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    prost::Message::decode(&body[5..]).unwrap()
}

/// A request of one piece, with gRPC's prefix.
fn whole(
    request: Vec<u8>,
) -> impl futures_util::Stream<Item = Result<http_body::Frame<bytes::Bytes>, std::convert::Infallible>> + Send {
    let len = u32::try_from(request.len()).unwrap();
    let framed = [&[0], &len.to_be_bytes()[..], &request].concat();
    futures_util::stream::iter([Ok(http_body::Frame::data(framed.into()))])
}

/// Field 1 of any message, that holds `bytes`.
fn field_1(bytes: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    prost::encoding::bytes::encode(1, &bytes.to_vec(), &mut field);
    field
}

#[tokio::test]
async fn messages_of_nothing_are_refused_before_they_take_hundreds_of_times_their_bytes() {
    let mut config = config();
    config.limits.connection_bytes_max = 8 << 20;
    let rig = Rig::start_with(config).await;
    let mut client = rig.client("c").await;
    let refused = send_raw(&rig, whole(field_1(b"").repeat(100_000))).await;
    assert_eq!(code(&refused.status), Code::TooManyRequests, "{refused:?}");
    // A few of them are told what they lack.
    let faulty = send_raw(&rig, whole(field_1(b"").repeat(100))).await;
    assert_eq!(code(&faulty.status), Code::IllegalTopic);
    eventually("everything was given back", || rig.proxy.bytes() == 0).await;
    client.send("T", "still there").await;
}

#[tokio::test]
async fn a_message_with_a_large_body_has_little_beside_it() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    let mut many_keys = message("T", "id", vec![7; 3 << 20]);
    many_keys.system_properties.as_mut().unwrap().keys = vec![String::new(); 600_000];
    let refused = client.send_all(vec![many_keys]).await;
    assert_eq!(code(&refused.status), Code::MessagePropertiesTooLarge);
    assert!(refused.status.unwrap().message.contains("1048576 bytes beside its body"));
    client.send_all(vec![message("T", "id", vec![7; 3 << 20])]).await;
    client.send("T", "still there").await;
}

#[tokio::test]
async fn what_messages_have_any_number_of_is_counted() {
    let mut config = config();
    config.limits.connection_bytes_max = 8 << 20;
    let rig = Rig::start_with(config).await;
    let mut client = rig.client("c").await;
    let keys = |n| v2::SystemProperties { message_id: "id".into(), keys: vec![String::new(); n], ..Default::default() };
    let sent = |n| v2::Message { system_properties: Some(keys(n)), ..message("T", "id", "b") };
    let refused = client.send_all(vec![sent(200_000), sent(200_000)]).await;
    assert_eq!(code(&refused.status), Code::TooManyRequests);
    assert_eq!(code(&client.send_all(vec![sent(20_000)]).await.status), Code::Ok);
    eventually("everything was given back", || rig.proxy.bytes() == 0).await;
}

#[tokio::test]
async fn what_comes_behind_a_message_is_refused_at_once() {
    let rig = Rig::start().await;
    let _client = rig.client("c").await;
    let request = v2::SendMessageRequest { messages: vec![message("T", "id", "b")] };
    let more = futures_util::stream::iter([Ok(http_body::Frame::data(bytes::Bytes::from_static(&[0])))]);
    let never = futures_util::stream::pending();
    let answer = send_raw(&rig, whole(prost::Message::encode_to_vec(&request)).chain(more).chain(never)).await;
    assert_eq!(code(&answer.status), Code::BadRequest);
}

#[tokio::test]
async fn a_request_without_an_end_is_no_request() {
    let mut config = config();
    config.limits.upload_timeout = Duration::from_millis(300);
    let rig = Rig::start_with(config).await;
    let mut client = rig.client("c").await;
    client.send("T", "a").await;
    let request = v2::SendMessageRequest { messages: vec![message("T", "id", "b")] };
    let empty = futures_util::stream::iter([Ok(http_body::Frame::data(bytes::Bytes::new()))]);
    let never = futures_util::stream::pending();
    let answer = send_raw(&rig, whole(prost::Message::encode_to_vec(&request)).chain(empty).chain(never)).await;
    assert_eq!(code(&answer.status), Code::ProxyTimeout);
    assert_eq!(client.receive("T", "g").await.messages.len(), 1);
}

#[tokio::test]
async fn acks_are_let_in_for_longer_and_not_without_end() {
    let mut config = config();
    config.limits.connection_bytes_max = 100 << 10;
    let rig = Rig::start_with(config).await;
    let mut client = rig.client("c").await;
    client.send("T", "a").await;
    let handles = |kib: usize| vec!["x".repeat(1 << 10); kib];
    let let_in = client.ack("T", "g", &handles(150)).await;
    assert_ne!(code(&let_in.status), Code::TooManyRequests);
    let refused = client.ack("T", "g", &handles(250)).await;
    assert_eq!(code(&refused.status), Code::TooManyRequests);
    eventually("everything was given back", || rig.proxy.bytes() == 0).await;
}

#[tokio::test]
async fn a_request_in_pieces_is_one_request() {
    let rig = Rig::start().await;
    let _client = rig.client("c").await;
    let request = v2::SendMessageRequest { messages: vec![message("T", "id", vec![7; 100]), message("T", "id2", "b")] };
    let framed = {
        let bytes = prost::Message::encode_to_vec(&request);
        [&[0], &(bytes.len() as u32).to_be_bytes()[..], &bytes].concat()
    };
    for size in [1, 7, framed.len() - 1, framed.len()] {
        let pieces: Vec<_> = framed.chunks(size).map(bytes::Bytes::copy_from_slice).collect();
        let answer = send_raw(&rig, futures_util::stream::iter(pieces).map(|p| Ok(http_body::Frame::data(p)))).await;
        assert_eq!((code(&answer.status), answer.entries.len()), (Code::Ok, 2), "in pieces of {size}");
    }
}

#[tokio::test]
async fn a_request_that_does_not_arrive_is_given_up() {
    let mut config = config();
    config.limits.upload_timeout = Duration::from_secs(1);
    let rig = Rig::start_with(config).await;
    let mut client = rig.client("c").await;
    // A unary call whose body never ends: the headers, and then nothing.
    let answer = send_raw(&rig, futures_util::stream::pending()).await;
    assert_eq!(code(&answer.status), Code::ProxyTimeout);
    client.send("T", "undisturbed").await;
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let mut config = config();
    config.limits.handshake_timeout = Duration::from_millis(50);
    let rig = Rig::start_with(config).await;
    let mut silent = rig.tcp().await;
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
    let mut half = rig.tcp().await;
    half.write_all(&[0x16, 0x03, 0x01]).await.unwrap();
    let closed = half.read(&mut [0; 64]).await;
    assert!(matches!(closed, Ok(0) | Err(_)), "a handshake that stops is given up: {closed:?}");
    eventually("the connections are closed", || rig.proxy.connections() == 0).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_with_a_stream_is_not() {
    let mut config = config();
    config.limits.idle_timeout = Duration::from_secs(1);
    let rig = Rig::start_with(config).await;
    let mut busy = rig.client("busy").await;
    let mut stream = Telemetry::open(&mut busy).await;
    let mut idle = rig.tcp().await;
    idle.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").await.unwrap();
    let mut said = Vec::new();
    idle.read_to_end(&mut said).await.unwrap();
    assert!(!said.is_empty(), "it was served, and then closed");
    stream.tell(consumer_settings("g")).await;
    stream.told().await;
    busy.send("T", "a").await;
}

#[tokio::test]
async fn connections_above_the_limit_are_closed_at_once() {
    let mut config = config();
    config.limits.connections_max = 1;
    let rig = Rig::start_with(config).await;
    let mut first = rig.client("c").await;
    first.send("T", "a").await;
    assert_eq!(rig.tcp().await.read(&mut [0; 1]).await.unwrap_or(0), 0);
    first.send("T", "b").await;
}

#[tokio::test]
async fn what_is_not_http2_is_turned_away() {
    let rig = Rig::start().await;
    let mut stray = rig.tcp().await;
    stray.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stray.read_to_end(&mut answer).await;
    eventually("it is closed", || rig.proxy.connections() == 0).await;
}

#[tokio::test]
async fn methods_and_services_that_are_not_there_are_unimplemented() {
    let rig = Rig::start().await;
    let client = rig.client("c").await;
    let mut grpc = tonic::client::Grpc::new(rig.channel().await);
    for path in ["/apache.rocketmq.v2.MessagingService/NoSuch", "/no.such.Service/Method"] {
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<v2::HeartbeatRequest, v2::HeartbeatResponse>::default();
        let request = client.request(v2::HeartbeatRequest::default());
        let answer = grpc.unary(request, http::uri::PathAndQuery::from_static(path), codec).await;
        assert_eq!(answer.unwrap_err().code(), tonic::Code::Unimplemented, "{path}");
    }
}

#[tokio::test]
async fn health_is_the_stores_and_the_drains() {
    let rig = Rig::start().await;
    let mut health = HealthClient::new(rig.channel().await);
    let mut ask = async |service: &str| {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await;
        answer.map(|a| a.into_inner().status()).map_err(|e| e.code())
    };
    assert_eq!(ask("").await, Ok(ServingStatus::Serving));
    assert_eq!(ask("apache.rocketmq.v2.MessagingService").await, Ok(ServingStatus::Serving));
    assert_eq!(ask("no.such").await, Err(tonic::Code::NotFound));
    let mut watch = HealthClient::new(rig.channel().await);
    let mut watch = watch.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    rig.proxy.drain();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert_eq!(watch.message().await.unwrap(), None, "a watcher does not hold up the drain");
}

#[tokio::test]
async fn reflection_lists_what_is_served_in_both_versions() {
    use tonic_reflection::pb::{v1, v1alpha};
    let rig = Rig::start().await;
    let channel = rig.channel().await;
    let ask = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let ask = v1::ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let v1::server_reflection_response::MessageResponse::ListServicesResponse(list) = answer else { panic!() };
    let names: Vec<String> = list.service.into_iter().map(|s| s.name).collect();
    for name in ["apache.rocketmq.v2.MessagingService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|n| n == name), "{names:?}");
    }
    assert!(!names.iter().any(|n| n.contains("ferromq")), "administration has a port of its own");

    let symbol = "apache.rocketmq.v2.MessagingService".into();
    let ask = v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(symbol);
    let ask = v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    assert!(matches!(answer, v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_)));
}

#[tokio::test]
async fn a_compressed_request_is_read() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    client.api = client.api.send_compressed(tonic::codec::CompressionEncoding::Gzip);
    client.send("T", &"a".repeat(10_000)).await;
    assert_eq!(client.receive("T", "g").await.bodies(), ["a".repeat(10_000).as_bytes()]);
}

#[tokio::test]
async fn messages_that_a_client_never_read_come_at_once_and_cost_no_attempt() {
    let mut config = config();
    config.limits.stall_timeout = Duration::from_secs(1);
    let rig = Rig::start_with(config).await;
    let mut other = rig.client("other").await;
    for i in 0..8 {
        other.send_all(vec![message("T", &format!("{i}"), vec![b'a' + i; 900 << 10])]).await;
    }
    let mut lazy = rig.client("lazy").await;
    let mut request = lazy.request(Client::poll("T", "g", Duration::from_millis(20)));
    request.set_timeout(Duration::from_secs(20));
    let unread = lazy.api.receive_message(request).await.unwrap().into_inner();
    eventually("the answer waits", || rig.proxy.bytes() > 1 << 20).await;
    eventually("the connection is cut", || rig.proxy.connections() == 1 && rig.proxy.bytes() == 0).await;
    let again = other.receive("T", "g").await;
    assert!(again.messages.len() >= 4, "{} of 8", again.messages.len());
    assert!(again.messages.iter().all(|m| system(m).delivery_attempt == Some(1)));
    drop(unread);
}

#[tokio::test]
async fn parked_polls_are_not_taken_for_a_client_that_does_not_read() {
    let mut config = config();
    config.limits.stall_timeout = Duration::from_millis(10);
    config.polling.min = Duration::from_millis(200);
    let rig = Rig::start_with(config).await;
    assert_eq!(rig.client("c").await.receive("T", "g").await.code(), Code::MessageNotFound);
}

#[tokio::test]
async fn a_store_that_has_stopped_is_told_as_such() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    client.send("T", "a").await;
    rig.machine.disk.fail_log_sync_once_then_lie();
    let refused = client.send_all(vec![message("T", "id", "b")]).await;
    assert_eq!(code(&refused.status), Code::InternalServerError);
    let mut health = HealthClient::new(rig.channel().await);
    let state = health.check(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(state.status(), ServingStatus::NotServing);
}

#[tokio::test]
async fn a_disk_that_hangs_is_told_as_such_to_senders_and_to_consumers() {
    let mut machine = Machine::new();
    machine.config.sync_flush_timeout = Duration::from_millis(500);
    let rig = Rig::start_on(machine, config()).await;
    let mut client = rig.client("c").await;
    client.send("T", "a").await;
    client.send("T", "b").await;
    let held = client.receive("T", "g").await.handles();
    rig.machine.disk.stall_syncs();
    let sent = client.send_all(vec![message("T", "id", "late")]).await;
    let acked = client.ack("T", "g", &held[..1]).await;
    let changed = client.change("T", "g", &held[1], 10).await;
    rig.machine.disk.answer_syncs();
    assert_eq!(code(&sent.status), Code::MasterPersistenceTimeout);
    assert!(sent.status.unwrap().message.contains("may be kept and delivered"));
    assert_eq!((code(&acked.status), code(&acked.entries[0].status)), (Code::ProxyTimeout, Code::ProxyTimeout));
    assert_eq!(code(&changed.status), Code::ProxyTimeout);
    // What was told is so: repeating the ack is harmless, and the message is there.
    eventually("the disk has caught up", || rig.broker.store().watermarks().durable == rig.broker.store().end()).await;
    assert_eq!(code(&client.ack("T", "g", &held[..1]).await.status), Code::Ok);
    assert_eq!(client.receive("T", "g").await.bodies(), [b"late"]);
}
