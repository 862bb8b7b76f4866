//! A small RocketMQ 5 client on the generated stubs: what `ferromq produce` and `ferromq consume` speak.
//!
//! It works against any RocketMQ 5 proxy: it says who it is in every call's metadata, exchanges settings over
//! Telemetry before it does anything, and says goodbye.

use std::time::Duration;

use futures_util::stream;
use tokio::sync::mpsc;
use tonic::{
    Request, Streaming,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use crate::{
    proto::v2::{self, messaging_service_client::MessagingServiceClient},
    proxy::HostPort,
    types::{Clock as _, SystemClock, random},
};

use super::{remote, tls::TlsArgs};

/// Seconds. 2021-01-01T00:00:00Z, from which message ids count.
const MESSAGE_ID_EPOCH: i64 = 1_609_459_200;
/// Bytes of one answer at most: the largest body that a server may be set to take, and room beside it.
const ANSWER_BYTES_MAX: usize = 136 << 20;
/// How long a call may take that does not wait for messages.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// What is added to a poll's own time before the call is given up, as official clients do.
const POLL_GRACE: Duration = Duration::from_secs(3);

/// Why a call did not do what it was for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server understood and said no.
    #[error("{message} ({} {})", .code.as_str_name(), *.code as i32)]
    Refused { code: v2::Code, message: String },
    /// gRPC said no, and would again.
    #[error("the call was rejected: {0}")]
    Rejected(String),
    /// The call did not come through; it may the next time.
    #[error("the call failed: {0}")]
    Broken(String),
    #[error("{0:#}")]
    Connect(anyhow::Error),
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        use tonic::Code;
        let said = format!("{:?} {}", status.code(), status.message());
        match status.code() {
            Code::Unimplemented => {
                let meant = "grpcServerPort (--endpoint, 8081 unless set otherwise)";
                Self::Rejected(remote::told(&status, "messages", meant))
            }
            Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated => Self::Rejected(said),
            _ => Self::Broken(said),
        }
    }
}

/// The server of the RocketMQ API.
#[derive(clap::Args, Clone, Debug)]
pub struct EndpointArgs {
    /// Address of the RocketMQ 5 API, reached in plaintext unless told otherwise.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8081")]
    endpoint: HostPort,
    #[command(flatten)]
    tls: TlsArgs,
}

impl EndpointArgs {
    pub fn of(endpoint: HostPort, tls: TlsArgs) -> Self {
        Self { endpoint, tls }
    }

    /// Connects to it. Calls without a time of their own take `timeout` at most.
    pub async fn connect(&self, timeout: Option<Duration>) -> Result<Channel, Error> {
        let cure = "is the server running there? --endpoint HOST:PORT names another";
        let tls = self.tls.connector().map_err(Error::Connect)?;
        remote::connect_by(tls, &self.endpoint.to_string(), timeout, cure).await.map_err(Error::Connect)
    }

    async fn stub(&self) -> Result<Stub, Error> {
        let channel = self.connect(None).await?;
        let client_id = format!("ferromq@{}@{:016x}", std::process::id(), random())
            .parse()
            .map_err(|_| Error::Broken("the client id is not ASCII".into()))?;
        let stub = MessagingServiceClient::with_interceptor(channel, Identity { client_id });
        Ok(stub.max_decoding_message_size(ANSWER_BYTES_MAX))
    }
}

/// The queues of a topic, without being a client of it.
pub async fn ask_route(at: &EndpointArgs, topic: &str) -> Result<Vec<v2::MessageQueue>, Error> {
    route(&mut at.stub().await?, topic, &at.endpoint.endpoints()).await
}

/// Puts the client's name into every call.
#[derive(Clone)]
struct Identity {
    client_id: MetadataValue<Ascii>,
}

impl Interceptor for Identity {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, tonic::Status> {
        let fixed = MetadataValue::from_static;
        let metadata = request.metadata_mut();
        metadata.insert("x-mq-client-id", self.client_id.clone());
        metadata.insert("x-mq-language", fixed("RUST"));
        metadata.insert("x-mq-client-version", fixed(env!("CARGO_PKG_VERSION")));
        metadata.insert("x-mq-protocol", fixed("v2"));
        Ok(request)
    }
}

type Stub = MessagingServiceClient<InterceptedService<Channel, Identity>>;

/// A client with its settings exchanged.
pub struct Client {
    stub: Stub,
    /// Queues of the topic.
    queues: Vec<v2::MessageQueue>,
    /// The consumer's group, to say goodbye with.
    group: Option<v2::Resource>,
    client_type: v2::ClientType,
    clock_ahead: Option<i64>,
    /// Keeps the Telemetry stream open.
    _telemetry: (mpsc::Sender<v2::TelemetryCommand>, Streaming<v2::TelemetryCommand>),
}

/// What the client tells about itself.
pub enum Role {
    Producer {
        topic: String,
    },
    Consumer {
        group: String,
        topic: String,
        filter: v2::FilterExpression,
    },
    /// Of lite topics; `topic` is their parent.
    LiteConsumer {
        group: String,
        topic: String,
        filter: v2::FilterExpression,
    },
}

impl Role {
    fn topic(&self) -> &str {
        match self {
            Self::Producer { topic } | Self::Consumer { topic, .. } | Self::LiteConsumer { topic, .. } => topic,
        }
    }
}

/// A name as the API has it.
pub fn resource(name: &str) -> v2::Resource {
    v2::Resource { resource_namespace: String::new(), name: name.into() }
}

/// `Ok` when the status says so.
pub fn check(status: Option<v2::Status>) -> Result<(), Error> {
    let status = status.ok_or_else(|| Error::Broken("the answer has no status".into()))?;
    match status.code() {
        v2::Code::Ok => Ok(()),
        code => Err(Error::Refused { code, message: status.message }),
    }
}

impl Client {
    /// Connects and exchanges settings.
    pub async fn start(at: &EndpointArgs, role: Role) -> Result<Self, Error> {
        let mut stub = at.stub().await?;
        let endpoints = at.endpoint.endpoints();
        let queues = route(&mut stub, role.topic(), &endpoints).await?;
        let (client_type, group, settings) = settings(role, &endpoints);
        let telemetry = exchange_settings(&mut stub, settings).await?;
        Ok(Self { stub, queues, group, client_type, clock_ahead: None, _telemetry: telemetry })
    }

    /// A queue of the topic, to name in polls. Servers serve all queues whichever is named.
    pub fn queue(&self) -> Option<v2::MessageQueue> {
        self.queues.first().cloned()
    }

    /// How far the server's clock was ahead of this machine's at the last poll, ms.
    pub fn clock_ahead(&self) -> Option<i64> {
        self.clock_ahead
    }

    /// Sends one message and returns once the server has it. Several may be under way side by side.
    pub fn send(&self, message: v2::Message) -> impl Future<Output = Result<v2::SendResultEntry, Error>> + use<> {
        let mut stub = self.stub.clone();
        async move {
            let request = v2::SendMessageRequest { messages: vec![message] };
            let answer = stub.send_message(within(request, CALL_TIMEOUT)).await?.into_inner();
            check(answer.status)?;
            answer.entries.into_iter().next().ok_or_else(|| Error::Broken("the answer has no entry".into()))
        }
    }

    /// Commits what was sent in a transaction.
    pub fn commit(&self, topic: &str, half: &v2::SendResultEntry) -> impl Future<Output = Result<(), Error>> + use<> {
        let mut stub = self.stub.clone();
        let request = v2::EndTransactionRequest {
            topic: Some(resource(topic)),
            message_id: half.message_id.clone(),
            transaction_id: half.transaction_id.clone(),
            resolution: v2::TransactionResolution::Commit.into(),
            source: v2::TransactionSource::SourceClient.into(),
            trace_context: String::new(),
        };
        async move { check(stub.end_transaction(within(request, CALL_TIMEOUT)).await?.into_inner().status) }
    }

    /// Says which lite topics of a parent are wanted; due every 30 s.
    pub async fn subscribe_lite(&mut self, parent: &str, names: &[String]) -> Result<(), Error> {
        let request = v2::SyncLiteSubscriptionRequest {
            action: v2::LiteSubscriptionAction::CompleteAdd.into(),
            topic: Some(resource(parent)),
            group: self.group.clone(),
            lite_topic_set: names.to_vec(),
            version: None,
            offset_option: None,
        };
        check(self.stub.sync_lite_subscription(within(request, CALL_TIMEOUT)).await?.into_inner().status)
    }

    /// Polls once; empty when nothing came in time.
    pub async fn receive(
        &mut self,
        request: v2::ReceiveMessageRequest,
        wait: Duration,
    ) -> Result<Vec<v2::Message>, Error> {
        let mut answers = self.stub.receive_message(within(request, wait + POLL_GRACE)).await?.into_inner();
        let (mut status, mut messages) = (None, Vec::new());
        while let Some(answer) = answers.message().await? {
            match answer.content {
                Some(v2::receive_message_response::Content::Status(s)) => status = Some(s),
                Some(v2::receive_message_response::Content::Message(m)) => messages.push(m),
                Some(v2::receive_message_response::Content::DeliveryTimestamp(at)) => {
                    let theirs = at.seconds.saturating_mul(1000).saturating_add(i64::from(at.nanos / 1_000_000));
                    self.clock_ahead = Some(theirs.saturating_sub(now_millis()));
                }
                None => {}
            }
        }
        match check(status) {
            Err(Error::Refused { code: v2::Code::MessageNotFound, .. }) => Ok(Vec::new()),
            Err(e) => Err(e),
            Ok(()) => Ok(messages),
        }
    }

    /// Acknowledges deliveries of one topic.
    pub async fn ack(&mut self, topic: &str, entries: Vec<v2::AckMessageEntry>) -> Result<(), Error> {
        let request = v2::AckMessageRequest { group: self.group.clone(), topic: Some(resource(topic)), entries };
        let answer = self.stub.ack_message(within(request, CALL_TIMEOUT)).await?.into_inner();
        for entry in answer.entries {
            check(entry.status)?;
        }
        check(answer.status)
    }

    /// Says that the client is alive; due every 10 s or so.
    pub async fn heartbeat(&mut self) -> Result<(), Error> {
        let request = v2::HeartbeatRequest { group: self.group.clone(), client_type: self.client_type.into() };
        check(self.stub.heartbeat(within(request, CALL_TIMEOUT)).await?.into_inner().status)
    }

    /// Says goodbye, so that the server need not find out.
    pub async fn close(mut self) -> Result<(), Error> {
        let request = v2::NotifyClientTerminationRequest { group: self.group.clone() };
        check(self.stub.notify_client_termination(within(request, CALL_TIMEOUT)).await?.into_inner().status)
    }
}

/// The queues of a topic; makes the topic where the server lets it. Official clients ask this first of all.
async fn route(stub: &mut Stub, topic: &str, endpoints: &v2::Endpoints) -> Result<Vec<v2::MessageQueue>, Error> {
    let request = v2::QueryRouteRequest { topic: Some(resource(topic)), endpoints: Some(endpoints.clone()) };
    let answer = stub.query_route(within(request, CALL_TIMEOUT)).await?.into_inner();
    check(answer.status)?;
    Ok(answer.message_queues)
}

fn within<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

fn settings(role: Role, endpoints: &v2::Endpoints) -> (v2::ClientType, Option<v2::Resource>, v2::Settings) {
    let client_type = match role {
        Role::Producer { .. } => v2::ClientType::Producer,
        Role::Consumer { .. } => v2::ClientType::SimpleConsumer,
        Role::LiteConsumer { .. } => v2::ClientType::LiteSimpleConsumer,
    };
    let (group, pub_sub) = match role {
        Role::Producer { topic } => {
            let publishing = v2::Publishing { topics: vec![resource(&topic)], ..Default::default() };
            (None, v2::settings::PubSub::Publishing(publishing))
        }
        Role::Consumer { group, topic, filter } | Role::LiteConsumer { group, topic, filter } => {
            let group = Some(resource(&group));
            let entry = v2::SubscriptionEntry { topic: Some(resource(&topic)), expression: Some(filter) };
            let subscription =
                v2::Subscription { group: group.clone(), subscriptions: vec![entry], ..Default::default() };
            (group, v2::settings::PubSub::Subscription(subscription))
        }
    };
    let settings = v2::Settings {
        client_type: Some(client_type.into()),
        access_point: Some(endpoints.clone()),
        request_timeout: Some(wire_duration(CALL_TIMEOUT)),
        pub_sub: Some(pub_sub),
        user_agent: Some(v2::Ua {
            language: v2::Language::Rust.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            platform: std::env::consts::OS.into(),
            hostname: String::new(),
        }),
        ..Default::default()
    };
    (client_type, group, settings)
}

async fn exchange_settings(
    stub: &mut Stub,
    settings: v2::Settings,
) -> Result<(mpsc::Sender<v2::TelemetryCommand>, Streaming<v2::TelemetryCommand>), Error> {
    let (commands, queued) = mpsc::channel(1);
    let command =
        v2::TelemetryCommand { status: None, command: Some(v2::telemetry_command::Command::Settings(settings)) };
    commands.send(command).await.map_err(|_| Error::Broken("the Telemetry stream is closed".into()))?;
    let outbound = stream::unfold(queued, |mut queued| async { queued.recv().await.map(|c| (c, queued)) });
    let first = async {
        let mut inbound = stub.telemetry(outbound).await?.into_inner();
        while let Some(command) = inbound.message().await? {
            if matches!(command.command, Some(v2::telemetry_command::Command::Settings(_))) {
                check(command.status)?;
                return Ok(inbound);
            }
        }
        Err(Error::Broken("the server ended the Telemetry stream without settings".into()))
    };
    let inbound = tokio::time::timeout(CALL_TIMEOUT, first)
        .await
        .map_err(|_| Error::Broken("the server did not answer the settings".into()))??;
    Ok((commands, inbound))
}

/// A duration as the API has it.
pub fn wire_duration(d: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: i64::try_from(d.as_secs()).unwrap_or(i64::MAX), nanos: d.subsec_nanos() as i32 }
}

/// Makes message ids of version 1: 17 bytes in upper-case hex (`MessageIdCodec`).
pub struct MessageIds {
    machine: u64,
    counter: u32,
}

impl MessageIds {
    pub fn new() -> Self {
        Self { machine: random() & 0xFFFF_FFFF_FFFF, counter: 0 }
    }

    /// The next one: version, machine (random here), process, seconds since 2021, counter.
    pub fn next(&mut self) -> String {
        let seconds = (now_millis() / 1000 - MESSAGE_ID_EPOCH) as u32;
        let counter = self.counter;
        self.counter = counter.wrapping_add(1);
        format!("01{:012X}{:04X}{seconds:08X}{counter:08X}", self.machine, std::process::id() as u16)
    }
}

/// Wall-clock time, milliseconds since 1970.
pub fn now_millis() -> i64 {
    SystemClock::new().wall().as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids_have_the_official_layout_and_differ() {
        let mut ids = MessageIds::new();
        let (a, b) = (ids.next(), ids.next());
        assert_eq!(a.len(), 34);
        assert!(a.starts_with("01") && a.chars().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase()));
        assert!(a.ends_with("00000000") && b.ends_with("00000001"));
    }

    #[test]
    fn a_refusal_names_its_code() {
        let status = v2::Status { code: v2::Code::TopicNotFound.into(), message: "no topic T".into() };
        let said = check(Some(status)).expect_err("refused").to_string();
        assert_eq!(said, "no topic T (TOPIC_NOT_FOUND 40402)");
    }
}
