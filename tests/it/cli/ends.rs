//! How a server ends: by a signal, in a hurry, with clients that hold on, and by a disk that fails.

use std::{io::Write as _, net::TcpStream, process::Command, time::Duration};

use ferromq::proto::v2::{self, messaging_service_client::MessagingServiceClient, receive_message_response::Content};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::harness::{Server, directory, stderr, stdout};

/// More than any test waits, so that only what it names can end the server.
const GRACE: [&str; 2] = ["--set", "grpcShutdownTimeSeconds=3600"];

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

async fn channel(server: &Server) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.endpoint())).expect("a URI");
    endpoint.connect().await.expect("the server listens")
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-mq-client-id", "test".parse().expect("ASCII"));
    request
}

fn named(name: &str) -> Option<v2::Resource> {
    Some(v2::Resource { resource_namespace: String::new(), name: name.into() })
}

fn poll(seconds: i64) -> v2::ReceiveMessageRequest {
    v2::ReceiveMessageRequest {
        group: named("g"),
        message_queue: Some(v2::MessageQueue { topic: named("parked"), id: -1, ..Default::default() }),
        batch_size: 1,
        invisible_duration: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
        long_polling_timeout: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..Default::default()
    }
}

/// Receives until the answer ends; its status.
async fn received(mut client: MessagingServiceClient<Channel>, poll: v2::ReceiveMessageRequest) -> Option<v2::Code> {
    let mut answer = client.receive_message(request(poll)).await.ok()?.into_inner();
    let first = answer.message().await.ok()??.content?;
    match first {
        Content::Status(status) => Some(status.code()),
        Content::Message(_) | Content::DeliveryTimestamp(_) => None,
    }
}

/// A send whose body never comes whole. It is on its way when this returns.
async fn half_a_send(server: &Server) -> tokio::task::JoinHandle<()> {
    let mut grpc = tonic::client::Grpc::new(channel(server).await);
    grpc.ready().await.expect("connected");
    let (asked, is_asked) = tokio::sync::oneshot::channel();
    let first = futures_util::stream::once(async { v2::TelemetryCommand::default() });
    let then = futures_util::stream::once(async move {
        asked.send(()).ok();
        std::future::pending().await
    });
    let path = http::uri::PathAndQuery::from_static("/apache.rocketmq.v2.MessagingService/SendMessage");
    let codec = tonic_prost::ProstCodec::<v2::TelemetryCommand, v2::SendMessageResponse>::default();
    let body = request(futures_util::StreamExt::chain(first, then));
    let held = tokio::spawn(async move { drop(grpc.client_streaming(body, path, codec).await) });
    is_asked.await.expect("the call is made");
    held
}

#[test]
fn a_drain_ends_long_polls_instead_of_waiting_for_them() {
    let dir = directory();
    let polls = ["--set", "grpcClientConsumerMaxLongPollingTimeoutMillis=600000"];
    let short = ["--set", "grpcClientConsumerMinLongPollingTimeoutMillis=0"];
    let server = Server::start_with(dir.path(), &[GRACE, polls, short].concat());
    let runtime = runtime();
    let mut parked = None;
    runtime.block_on(async {
        let mut client = MessagingServiceClient::new(channel(&server).await);
        // Makes the topic and the group, so that the next poll parks as soon as it is read.
        assert_eq!(received(client.clone(), poll(0)).await, Some(v2::Code::MessageNotFound));
        let poll = parked.insert(tokio::spawn(received(client.clone(), poll(600))));
        tokio::task::yield_now().await;
        // Calls of a connection are begun in their order: behind these the poll is parked.
        for _ in 0..20 {
            client.query_route(request(v2::QueryRouteRequest { topic: named("parked"), endpoints: None })).await.ok();
        }
        assert!(!poll.is_finished());
    });
    let ended = server.stop();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert!(!ended.log.contains("were cut"), "{}", ended.log);
    assert_eq!(
        runtime.block_on(parked.expect("a poll")).expect("no panic"),
        Some(v2::Code::MessageNotFound),
        "{}",
        ended.log
    );
}

#[test]
fn half_dead_connections_do_not_hold_the_drain() {
    let dir = directory();
    let server = Server::start_with(dir.path(), &GRACE);
    let connect = || TcpStream::connect(server.endpoint()).expect("connects");
    let _says_nothing = connect();
    let mut half_a_preface = connect();
    half_a_preface.write_all(b"PRI * HT").expect("written");
    let mut half_a_handshake = connect();
    half_a_handshake.write_all(&[0x16, 0x03, 0x01]).expect("written");
    // Served behind them, so that they are with the workers by now.
    assert!(server.client_command(&["produce", "t", "x"]).status.success());
    let begin = std::time::Instant::now();
    let ended = server.stop();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    // After ten seconds a server gives up on who has said nothing, stopping or not.
    assert!(begin.elapsed() < Duration::from_secs(9), "the drain took {:?}", begin.elapsed());
}

#[test]
fn a_second_signal_ends_the_server_at_once_and_says_so() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = directory();
        let server = Server::start_with(dir.path(), &GRACE);
        let runtime = runtime();
        // A send that never comes whole holds the drain.
        let held = runtime.block_on(half_a_send(&server));
        // Another client's whole life shows that the server has the half one too.
        assert!(server.client_command(&["produce", "t", "x"]).status.success());
        let ended = server.signal_until_ended(signal);
        assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
        assert!(ended.log.contains("leaving at once"), "{}", ended.log);
        held.abort();
    }
}

/// A server on which writes above the limit of a file's size fail, as on a broken disk, and do not kill it.
fn on_a_disk_that_may_fail(dir: &std::path::Path) -> Server {
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_ferromq")]).env("NO_COLOR", "1");
    Server::start_by(shell, dir, &[])
}

fn let_writes_fail(server: &Server) {
    let pid = i32::try_from(server.pid()).ok().and_then(Pid::from_raw).expect("a process id");
    let none = Rlimit { current: Some(1), maximum: Some(1) };
    prlimit(Some(pid), Resource::Fsize, none).expect("the server is ours to limit");
}

#[test]
fn a_disk_that_fails_ends_the_server_with_1_and_the_reason_and_keeps_what_was_acknowledged() {
    let dir = directory();
    let server = on_a_disk_that_may_fail(dir.path());
    assert!(server.client_command(&["produce", "kept", "before"]).status.success());
    let runtime = runtime();
    let mut watch = runtime.block_on(async {
        let mut health = HealthClient::new(channel(&server).await);
        health.watch(HealthCheckRequest::default()).await.expect("watched").into_inner()
    });
    let mut state = || runtime.block_on(watch.message()).ok().flatten().map(|answer| answer.status());
    assert_eq!(state(), Some(ServingStatus::Serving));
    let_writes_fail(&server);
    let refused = server.client_command(&["produce", "kept", "after"]);
    assert!(!refused.status.success(), "acknowledged, though it was not written");
    assert_eq!(state(), Some(ServingStatus::NotServing));
    let ended = server.ended();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    let last = ended.log.lines().last().unwrap_or_default();
    assert!(last.starts_with("ferromq: ") && last.contains("File too large"), "{}", ended.log);
    assert!(last.contains("see to the disk, then start again"), "{last}");
    let server = Server::start(dir.path());
    let received = server.client_command(&["consume", "kept", "--group", "g"]);
    assert!(stdout(&received).contains("before"), "{}{}", stdout(&received), stderr(&received));
    assert!(!stdout(&received).contains("after"));
}

#[test]
fn a_file_that_is_lost_under_its_map_ends_the_server_with_1_and_the_reason() {
    let dir = directory();
    let server = Server::start(dir.path());
    assert!(server.client_command(&["produce", "kept", "before"]).status.success());
    // Reading maps the file.
    assert!(server.client_command(&["consume", "kept", "--group", "first"]).status.success());
    let first = dir.path().join("store/commitlog/00000000000000000000");
    std::fs::File::options().write(true).open(&first).expect("the log").set_len(0).expect("cut");
    assert!(!server.client_command(&["consume", "kept", "--group", "second"]).status.success());
    let ended = server.ended();
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    let last = ended.log.lines().last().unwrap_or_default();
    assert!(last.starts_with("ferromq: ") && last.contains("made it shorter"), "{}", ended.log);
}

#[test]
fn the_grace_of_a_shutdown_is_the_one_that_was_set() {
    let dir = directory();
    let server = Server::start_with(dir.path(), &["--set", "grpcShutdownTimeSeconds=0"]);
    let runtime = runtime();
    let held = runtime.block_on(half_a_send(&server));
    assert!(server.client_command(&["produce", "t", "x"]).status.success());
    let begin = std::time::Instant::now();
    let ended = server.stop();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    // A request may take 30 s to come.
    assert!(begin.elapsed() < Duration::from_secs(25), "the drain took {:?}", begin.elapsed());
    held.abort();
}
