//! One connection to the server: a RocketMQ 5 client as small as the API allows.

use std::{
    cell::Cell,
    collections::HashMap,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::task::AbortHandle;
use tonic::{
    Extensions, Request,
    metadata::{MetadataMap, MetadataValue},
    transport::Channel,
};

use crate::{
    proto::v2::{
        self, messaging_service_client::MessagingServiceClient, receive_message_response::Content, settings::PubSub,
        telemetry_command::Command,
    },
    types::random,
};

use super::{
    args::Endpoint,
    kind::{Kind, Wanted},
    produce::Shape,
};

/// Connecting, and each call of the handshake, takes no longer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Servers forget clients after 120 s of silence (`channelExpiredTimeout`).
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(20);
/// How long a poll waits on the server; the least that RocketMQ grants.
const POLL_TIMEOUT: Duration = Duration::from_secs(5);
/// What a client allows beyond the poll.
const POLL_GRACE: Duration = Duration::from_secs(3);
/// How long a received message stays invisible.
const INVISIBLE: Duration = Duration::from_secs(60);
/// An answer that does not come within this counts as an error.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes. Large enough that flow control never paces a measurement.
const HTTP2_WINDOW: u32 = 8 << 20;

/// What the client is to the server.
#[derive(Clone, Debug)]
pub enum Role {
    Producer,
    Consumer { group: String, wanted: Wanted },
}

/// One client on one connection; lives on one thread.
pub struct Connection {
    client: MessagingServiceClient<Channel>,
    metadata: MetadataMap,
    topic: v2::Resource,
    role: Role,
    client_id: String,
    queues: Vec<v2::MessageQueue>,
    calls: Cell<u64>,
    sent: Cell<u64>,
    /// Heartbeats and the reader of the Telemetry stream; they end with the connection.
    tasks: [AbortHandle; 2],
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Connection {
    /// Dials, asks for the route (which makes the topic where the server does so), and settles settings, as every client
    /// does before its first message.
    ///
    /// All traffic stays on the connection to `endpoint`, whatever address the route names.
    /// Runs on a `LocalSet`.
    pub async fn open(endpoint: &Endpoint, topic: &str, role: Role) -> anyhow::Result<Self> {
        let channel = dial(endpoint).await?;
        let mut client = MessagingServiceClient::new(channel);
        let client_id = format!("benchmark@{}@{:016x}", std::process::id(), random());
        let metadata = metadata(&client_id)?;
        let topic = resource(topic);
        let queues = route(&mut client, &metadata, &topic, endpoint).await?;
        let telemetry =
            tokio::time::timeout(HANDSHAKE_TIMEOUT, settle(&mut client, &metadata, endpoint, &topic, &role))
                .await
                .context("no answer to the settings sent over Telemetry")??;
        let heartbeat = tokio::task::spawn_local(heartbeats(client.clone(), metadata.clone(), role.clone()));
        let tasks = [telemetry, heartbeat.abort_handle()];
        Ok(Self { client, metadata, topic, role, client_id, queues, calls: Cell::new(0), sent: Cell::new(0), tasks })
    }

    /// Opens what the first message needs and nothing more: for the time to the first acknowledgement.
    pub async fn send_one(endpoint: &Endpoint, topic: &str, body: Bytes) -> anyhow::Result<()> {
        let mut client = MessagingServiceClient::new(dial(endpoint).await?);
        let metadata = metadata("benchmark-first")?;
        let topic = resource(topic);
        route(&mut client, &metadata, &topic, endpoint).await?;
        let messages = vec![message(&topic, "first-00000001".to_owned(), &body, None)];
        let request = request(&metadata, CALL_TIMEOUT, v2::SendMessageRequest { messages });
        let answer = client.send_message(request).await?.into_inner();
        ok("SendMessage", answer.status.as_ref())
    }

    /// Sends `count` messages in one call. `note` goes along as a user property. Transactions are committed, each with a
    /// call of its own.
    pub async fn send(&self, shape: Shape, count: u64, body: &Bytes, note: Option<(&str, &str)>) -> anyhow::Result<()> {
        let call = self.calls.replace(self.calls.get() + 1);
        let first = self.sent.replace(self.sent.get() + count);
        let made = |n| {
            let mut message = message(&self.topic, format!("{}#{call:x}.{n:x}", self.client_id), body, note);
            shape.kind.mark(&mut message, first + n, shape.delay);
            message
        };
        let messages: Vec<_> = (0..count).map(made).collect();
        let request = request(&self.metadata, CALL_TIMEOUT, v2::SendMessageRequest { messages });
        let answer = self.client.clone().send_message(request).await?.into_inner();
        ok("SendMessage", answer.status.as_ref())?;
        let stored = answer.entries.iter().filter(|e| is_ok(e.status.as_ref())).count() as u64;
        // Apache answers a batch, which it stores as one unit, with a single entry.
        ensure!(stored == count || answer.entries.len() == 1, "SendMessage: {stored} of {count} messages were stored");
        if shape.kind == Kind::Transaction {
            for entry in answer.entries {
                self.commit(entry).await?;
            }
        }
        Ok(())
    }

    async fn commit(&self, half: v2::SendResultEntry) -> anyhow::Result<()> {
        let message = v2::EndTransactionRequest {
            topic: Some(self.topic.clone()),
            message_id: half.message_id,
            transaction_id: half.transaction_id,
            resolution: v2::TransactionResolution::Commit.into(),
            source: v2::TransactionSource::SourceClient.into(),
            trace_context: String::new(),
        };
        let request = request(&self.metadata, CALL_TIMEOUT, message);
        let answer = self.client.clone().end_transaction(request).await?.into_inner();
        ok("EndTransaction", answer.status.as_ref())
    }

    /// Receives up to `max` messages; empty when the poll ended without any.
    pub async fn receive(&self, max: u32) -> anyhow::Result<Vec<v2::Message>> {
        let call = self.calls.replace(self.calls.get() + 1);
        let queue = &self.queues[(call % self.queues.len() as u64) as usize];
        let message = v2::ReceiveMessageRequest {
            group: self.group(),
            message_queue: Some(queue.clone()),
            filter_expression: Some(self.wanted().expression()),
            batch_size: i32::try_from(max)?,
            invisible_duration: Some(span(INVISIBLE)),
            auto_renew: false,
            long_polling_timeout: Some(span(POLL_TIMEOUT)),
            attempt_id: None,
        };
        let request = request(&self.metadata, POLL_TIMEOUT + POLL_GRACE, message);
        let mut answers = self.client.clone().receive_message(request).await?.into_inner();
        let mut messages = Vec::with_capacity(max as usize);
        while let Some(answer) = answers.message().await? {
            match answer.content {
                Some(Content::Message(message)) => messages.push(message),
                Some(Content::Status(status)) if status.code() != v2::Code::MessageNotFound => {
                    ok("ReceiveMessage", Some(&status))?;
                }
                _ => {}
            }
        }
        Ok(messages)
    }

    /// Acknowledges them in one call.
    pub async fn ack(&self, messages: Vec<v2::Message>) -> anyhow::Result<()> {
        let entries = messages.into_iter().filter_map(|m| m.system_properties).map(|p| v2::AckMessageEntry {
            message_id: p.message_id,
            receipt_handle: p.receipt_handle.unwrap_or_default(),
            lite_topic: None,
        });
        let message =
            v2::AckMessageRequest { group: self.group(), topic: Some(self.topic.clone()), entries: entries.collect() };
        let request = request(&self.metadata, CALL_TIMEOUT, message);
        let answer = self.client.clone().ack_message(request).await?.into_inner();
        ok("AckMessage", answer.status.as_ref())
    }

    /// Takes leave, so that the server forgets the client at once.
    pub async fn close(&self) {
        let message = v2::NotifyClientTerminationRequest { group: self.group() };
        let request = request(&self.metadata, HANDSHAKE_TIMEOUT, message);
        // A server that is gone already needs no farewell.
        let _ = self.client.clone().notify_client_termination(request).await;
    }

    fn group(&self) -> Option<v2::Resource> {
        match &self.role {
            Role::Producer => None,
            Role::Consumer { group, .. } => Some(resource(group)),
        }
    }

    fn wanted(&self) -> Wanted {
        match self.role {
            Role::Producer => Wanted::All,
            Role::Consumer { wanted, .. } => wanted,
        }
    }
}

async fn dial(endpoint: &Endpoint) -> anyhow::Result<Channel> {
    tonic::transport::Endpoint::from_shared(format!("http://{endpoint}"))?
        .connect_timeout(HANDSHAKE_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(HTTP2_WINDOW)
        .initial_connection_window_size(HTTP2_WINDOW)
        .connect()
        .await
        .with_context(|| format!("cannot connect to {endpoint}; start a server there or name another --endpoint"))
}

async fn route(
    client: &mut MessagingServiceClient<Channel>,
    metadata: &MetadataMap,
    topic: &v2::Resource,
    endpoint: &Endpoint,
) -> anyhow::Result<Vec<v2::MessageQueue>> {
    let message = v2::QueryRouteRequest { topic: Some(topic.clone()), endpoints: Some(endpoint.to_wire()) };
    let answer = client.query_route(request(metadata, HANDSHAKE_TIMEOUT, message)).await?.into_inner();
    if answer.status.as_ref().is_some_and(|s| s.code() == v2::Code::TopicNotFound) {
        bail!("topic {0} does not exist; create it with `ferromq topic create {0}`", topic.name);
    }
    ok("QueryRoute", answer.status.as_ref())?;
    ensure!(!answer.message_queues.is_empty(), "the route of topic {} has no queue", topic.name);
    Ok(answer.message_queues)
}

/// Sends the settings, waits for the server's, and keeps the stream open from then on.
async fn settle(
    client: &mut MessagingServiceClient<Channel>,
    metadata: &MetadataMap,
    endpoint: &Endpoint,
    topic: &v2::Resource,
    role: &Role,
) -> anyhow::Result<AbortHandle> {
    let settings =
        v2::TelemetryCommand { status: None, command: Some(Command::Settings(settings(endpoint, topic, role))) };
    let outgoing = stream::iter([settings]).chain(stream::pending());
    let request = Request::from_parts(metadata.clone(), Extensions::default(), outgoing);
    let mut incoming = client.telemetry(request).await?.into_inner();
    let answer = incoming.message().await?.context("the server ended the Telemetry stream")?;
    ok("Telemetry", answer.status.as_ref())?;
    let rest = tokio::task::spawn_local(async move { while let Ok(Some(_)) = incoming.message().await {} });
    Ok(rest.abort_handle())
}

fn settings(endpoint: &Endpoint, topic: &v2::Resource, role: &Role) -> v2::Settings {
    let (client_type, pub_sub) = match role {
        Role::Producer => {
            let publishing = v2::Publishing { topics: vec![topic.clone()], ..Default::default() };
            (v2::ClientType::Producer, PubSub::Publishing(publishing))
        }
        Role::Consumer { group, wanted } => {
            let expression = Some(wanted.expression());
            let entry = v2::SubscriptionEntry { topic: Some(topic.clone()), expression };
            let subscription = v2::Subscription {
                group: Some(resource(group)),
                subscriptions: vec![entry],
                long_polling_timeout: Some(span(POLL_TIMEOUT)),
                ..Default::default()
            };
            (v2::ClientType::SimpleConsumer, PubSub::Subscription(subscription))
        }
    };
    v2::Settings {
        client_type: Some(client_type.into()),
        access_point: Some(endpoint.to_wire()),
        request_timeout: Some(span(Duration::from_secs(3))),
        pub_sub: Some(pub_sub),
        user_agent: Some(v2::Ua {
            language: v2::Language::Rust.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

async fn heartbeats(mut client: MessagingServiceClient<Channel>, metadata: MetadataMap, role: Role) {
    loop {
        tokio::time::sleep(HEARTBEAT_INTERVAL).await;
        let (group, client_type) = match &role {
            Role::Producer => (None, v2::ClientType::Producer),
            Role::Consumer { group, .. } => (Some(resource(group)), v2::ClientType::SimpleConsumer),
        };
        let message = v2::HeartbeatRequest { group, client_type: client_type.into() };
        // A lost heartbeat shows in the calls that are measured.
        let _ = client.heartbeat(request(&metadata, HANDSHAKE_TIMEOUT, message)).await;
    }
}

/// What every call carries; made once.
fn metadata(client_id: &str) -> anyhow::Result<MetadataMap> {
    let mut map = MetadataMap::new();
    map.insert("x-mq-client-id", MetadataValue::try_from(client_id)?);
    map.insert("x-mq-language", MetadataValue::from_static("RUST"));
    map.insert("x-mq-client-version", MetadataValue::from_static("5.0.3"));
    map.insert("x-mq-protocol", MetadataValue::from_static("v2"));
    Ok(map)
}

fn request<T>(metadata: &MetadataMap, timeout: Duration, message: T) -> Request<T> {
    let mut request = Request::from_parts(metadata.clone(), Extensions::default(), message);
    request.set_timeout(timeout);
    request
}

fn message(topic: &v2::Resource, message_id: String, body: &Bytes, note: Option<(&str, &str)>) -> v2::Message {
    v2::Message {
        topic: Some(topic.clone()),
        user_properties: note
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into_iter()
            .collect::<HashMap<_, _>>(),
        system_properties: Some(v2::SystemProperties {
            message_id,
            body_encoding: v2::Encoding::Identity.into(),
            message_type: v2::MessageType::Normal.into(),
            born_timestamp: Some(SystemTime::now().into()),
            born_host: "benchmark".into(),
            ..Default::default()
        }),
        body: body.clone(),
    }
}

fn resource(name: &str) -> v2::Resource {
    v2::Resource { resource_namespace: String::new(), name: name.to_owned() }
}

/// A time of a few seconds as the wire has it.
fn span(time: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: time.as_secs().cast_signed(), nanos: time.subsec_nanos().cast_signed() }
}

fn is_ok(status: Option<&v2::Status>) -> bool {
    status.is_some_and(|s| s.code() == v2::Code::Ok)
}

fn ok(rpc: &str, status: Option<&v2::Status>) -> anyhow::Result<()> {
    match status {
        Some(status) if status.code() == v2::Code::Ok => Ok(()),
        Some(status) => bail!("{rpc}: {} {}: {}", status.code, status.code().as_str_name(), status.message),
        None => bail!("{rpc}: the answer has no status"),
    }
}
