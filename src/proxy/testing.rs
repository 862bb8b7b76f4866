//! A front on a real broker over a simulated disk, reached by the generated client over a loopback socket.

use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use crate::{
    broker::{Broker, testing::Machine},
    proto::v2::{self, messaging_service_client::MessagingServiceClient, receive_message_response::Content},
};

use super::{Config, Proxy};

/// A running server.
pub struct Rig {
    pub machine: Machine,
    pub broker: Broker,
    pub proxy: Proxy,
    pub port: u16,
    pub shutdown: CancellationToken,
}

/// Polls are short, so that an empty one is over soon.
pub fn config() -> Config {
    let mut config = Config::default();
    config.polling.min = Duration::from_millis(20);
    config
}

impl Rig {
    pub async fn start() -> Self {
        Self::start_with(config()).await
    }

    pub async fn start_with(config: Config) -> Self {
        Self::start_on(Machine::new(), config).await
    }

    pub async fn start_on(machine: Machine, config: Config) -> Self {
        let broker = machine.start();
        let proxy = Proxy::new(config, broker.clone()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shutdown = CancellationToken::new();
        tokio::spawn(accept(listener, proxy.clone(), shutdown.clone()));
        Self { machine, broker, proxy, port, shutdown }
    }

    /// The machine, without what ran on it.
    pub fn crash(self) -> Machine {
        self.shutdown.cancel();
        self.machine.disk.crash(1);
        self.broker.store().close();
        self.machine
    }

    pub async fn tcp(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port)).unwrap();
        endpoint.connect().await.unwrap()
    }

    pub async fn client(&self, id: &'static str) -> Client {
        let api = MessagingServiceClient::new(self.channel().await).max_decoding_message_size(64 << 20);
        Client { api, id, language: "JAVA", timeout: Duration::from_secs(20) }
    }
}

async fn accept(listener: TcpListener, proxy: Proxy, shutdown: CancellationToken) {
    while let Some(Ok((tcp, peer))) = shutdown.run_until_cancelled(listener.accept()).await {
        let local = tcp.local_addr().unwrap();
        tokio::spawn(proxy.clone().serve_connection(tcp, peer, local, shutdown.clone()));
    }
}

/// One client's calls.
#[derive(Clone)]
pub struct Client {
    pub api: MessagingServiceClient<Channel>,
    pub id: &'static str,
    pub language: &'static str,
    pub timeout: Duration,
}

pub fn resource(name: &str) -> Option<v2::Resource> {
    Some(v2::Resource { resource_namespace: String::new(), name: name.into() })
}

pub fn message(topic: &str, id: &str, body: impl Into<Bytes>) -> v2::Message {
    v2::Message {
        topic: resource(topic),
        system_properties: Some(v2::SystemProperties { message_id: id.into(), ..Default::default() }),
        body: body.into(),
        ..Default::default()
    }
}

/// What a poll brought.
#[derive(Debug)]
pub struct Received {
    pub status: v2::Status,
    pub messages: Vec<v2::Message>,
}

impl Received {
    pub fn code(&self) -> v2::Code {
        self.status.code()
    }
    pub fn handles(&self) -> Vec<String> {
        self.messages.iter().map(|m| system(m).receipt_handle().to_owned()).collect()
    }
    pub fn bodies(&self) -> Vec<&[u8]> {
        self.messages.iter().map(|m| &*m.body).collect()
    }
}

pub fn system(message: &v2::Message) -> &v2::SystemProperties {
    message.system_properties.as_ref().unwrap()
}

pub fn code(status: &Option<v2::Status>) -> v2::Code {
    status.as_ref().unwrap().code()
}

impl Client {
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("x-mq-client-id", MetadataValue::from_static(self.id));
        request.metadata_mut().insert("x-mq-language", MetadataValue::from_static(self.language));
        request.metadata_mut().insert("x-mq-client-version", MetadataValue::from_static("5.2.0"));
        request
    }

    pub async fn send_all(&mut self, messages: Vec<v2::Message>) -> v2::SendMessageResponse {
        let request = self.request(v2::SendMessageRequest { messages });
        self.api.send_message(request).await.unwrap().into_inner()
    }

    pub async fn send(&mut self, topic: &str, body: &str) -> v2::SendResultEntry {
        let sent = self.send_all(vec![message(topic, &format!("id-{body}"), body.to_owned())]).await;
        assert_eq!(code(&sent.status), v2::Code::Ok, "{:?}", sent.status);
        sent.entries[0].clone()
    }

    pub fn poll(topic: &str, group: &str, wait: Duration) -> v2::ReceiveMessageRequest {
        v2::ReceiveMessageRequest {
            group: resource(group),
            message_queue: Some(v2::MessageQueue { topic: resource(topic), id: -1, ..Default::default() }),
            batch_size: 32,
            invisible_duration: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
            long_polling_timeout: Some(prost_types::Duration { seconds: 0, nanos: wait.as_nanos() as i32 }),
            ..Default::default()
        }
    }

    pub async fn receive(&mut self, topic: &str, group: &str) -> Received {
        self.receive_by(Self::poll(topic, group, Duration::from_millis(20))).await
    }

    pub async fn receive_by(&mut self, poll: v2::ReceiveMessageRequest) -> Received {
        let mut request = self.request(poll);
        request.set_timeout(self.timeout);
        let mut stream = self.api.receive_message(request).await.unwrap().into_inner();
        let mut contents = Vec::new();
        while let Some(answer) = stream.message().await.unwrap() {
            contents.push(answer.content.expect("an answer has content"));
        }
        let Some(Content::DeliveryTimestamp(_)) = contents.pop() else { panic!("the time comes last") };
        let mut contents = contents.into_iter();
        let Some(Content::Status(status)) = contents.next() else { panic!("the status comes first") };
        let messages = contents.map(|c| match c {
            Content::Message(m) => m,
            other => panic!("{other:?} among the messages"),
        });
        Received { status, messages: messages.collect() }
    }

    pub async fn ack(&mut self, topic: &str, group: &str, handles: &[String]) -> v2::AckMessageResponse {
        let entry = |h: &String| v2::AckMessageEntry { receipt_handle: h.clone(), ..Default::default() };
        let entries = handles.iter().map(entry).collect();
        let request = v2::AckMessageRequest { group: resource(group), topic: resource(topic), entries };
        self.api.ack_message(self.request(request)).await.unwrap().into_inner()
    }

    pub async fn change(
        &mut self,
        topic: &str,
        group: &str,
        handle: &str,
        seconds: i64,
    ) -> v2::ChangeInvisibleDurationResponse {
        let request = v2::ChangeInvisibleDurationRequest {
            group: resource(group),
            topic: resource(topic),
            receipt_handle: handle.into(),
            invisible_duration: Some(prost_types::Duration { seconds, nanos: 0 }),
            ..Default::default()
        };
        self.api.change_invisible_duration(self.request(request)).await.unwrap().into_inner()
    }

    pub async fn dead_letter(&mut self, topic: &str, group: &str, handle: &str, id: &str) -> v2::Code {
        let request = v2::ForwardMessageToDeadLetterQueueRequest {
            group: resource(group),
            topic: resource(topic),
            receipt_handle: handle.into(),
            message_id: id.into(),
            ..Default::default()
        };
        let answer = self.api.forward_message_to_dead_letter_queue(self.request(request)).await.unwrap();
        code(&answer.into_inner().status)
    }

    pub async fn beat(&mut self, client_type: v2::ClientType, group: Option<&str>) -> v2::Code {
        let request = v2::HeartbeatRequest { group: group.and_then(resource), client_type: client_type as i32 };
        code(&self.api.heartbeat(self.request(request)).await.unwrap().into_inner().status)
    }

    pub async fn terminate(&mut self, group: Option<&str>) -> v2::Code {
        let request = v2::NotifyClientTerminationRequest { group: group.and_then(resource) };
        code(&self.api.notify_client_termination(self.request(request)).await.unwrap().into_inner().status)
    }

    pub async fn route(&mut self, topic: &str, endpoints: Option<v2::Endpoints>) -> v2::QueryRouteResponse {
        let request = v2::QueryRouteRequest { topic: resource(topic), endpoints };
        self.api.query_route(self.request(request)).await.unwrap().into_inner()
    }
}

/// A Telemetry stream as its client has it.
pub struct Telemetry {
    pub up: Option<tokio::sync::mpsc::Sender<v2::TelemetryCommand>>,
    pub down: tonic::Streaming<v2::TelemetryCommand>,
}

impl Telemetry {
    pub async fn open(client: &mut Client) -> Self {
        let (up, inbound) = tokio::sync::mpsc::channel(4);
        let inbound = futures_util::stream::unfold(inbound, |mut inbound| async move {
            inbound.recv().await.map(|command| (command, inbound))
        });
        let down = client.api.telemetry(client.request(inbound)).await.unwrap().into_inner();
        Self { up: Some(up), down }
    }

    pub async fn tell(&mut self, settings: v2::Settings) {
        let command = Some(v2::telemetry_command::Command::Settings(settings));
        self.up.as_ref().unwrap().send(v2::TelemetryCommand { status: None, command }).await.unwrap();
    }

    /// The settings that come next.
    pub async fn told(&mut self) -> v2::Settings {
        let command = self.down.message().await.unwrap().expect("the stream goes on");
        assert_eq!(code(&command.status), v2::Code::Ok);
        match command.command {
            Some(v2::telemetry_command::Command::Settings(settings)) => settings,
            other => panic!("{other:?} instead of settings"),
        }
    }
}

pub fn producer_settings(topics: &[&str]) -> v2::Settings {
    let topics = topics.iter().filter_map(|t| resource(t)).collect();
    let publishing = v2::Publishing { topics, ..Default::default() };
    v2::Settings { pub_sub: Some(v2::settings::PubSub::Publishing(publishing)), ..Default::default() }
}

pub fn consumer_settings(group: &str) -> v2::Settings {
    let subscription = v2::Subscription { group: resource(group), ..Default::default() };
    v2::Settings { pub_sub: Some(v2::settings::PubSub::Subscription(subscription)), ..Default::default() }
}

/// Lets other tasks run until `done`; panics when that does not come.
pub async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("never came: {what}");
}

/// The machine's clock moves, and the broker notices.
pub async fn pass(rig: &Rig, time: Duration) {
    rig.machine.clock.advance(time);
    rig.broker.revive().await;
}
