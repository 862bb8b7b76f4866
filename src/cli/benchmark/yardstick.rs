//! `ferromq benchmark yardstick`: the API on tonic's own server, keeping nothing.
//!
//! What a gRPC service of this shape costs before it does any work: the measure that FerroMQ is held against. It runs as
//! tonic does out of the box, on tokio's default runtime.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::SystemTime};

use anyhow::Context;
use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use tonic::{
    Request, Response, Status, Streaming,
    transport::server::{Server, TcpIncoming},
};

use crate::proto::v2::{
    self,
    messaging_service_server::{MessagingService, MessagingServiceServer},
    receive_message_response::Content,
    telemetry_command::Command,
};

use super::{args, produce};

/// Queues of every topic, as many as a new topic of FerroMQ has.
const QUEUES: i32 = 8;
/// Messages that one poll gets at most.
const BATCH_MAX: i32 = 32;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// File that gets the chosen port as JSON
    #[arg(long, value_name = "FILE")]
    ports_file: Option<PathBuf>,
    /// Bytes of the bodies that consumers get
    #[arg(long, value_name = "BYTES", default_value = "1K", value_parser = args::bytes)]
    size: usize,
}

/// Serves until the process is ended.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    runtime.block_on(async {
        let incoming = TcpIncoming::bind(args.listen).with_context(|| format!("listening on {}", args.listen))?;
        let address = incoming.local_addr()?;
        println!("yardstick listens on {address}");
        if let Some(file) = &args.ports_file {
            // Renamed, so that whoever waits for the file never reads half of it.
            let whole = file.with_extension("part");
            std::fs::write(&whole, format!("{{\"grpc\":{}}}\n", address.port()))?;
            std::fs::rename(&whole, file)?;
        }
        serve(incoming, args.size).await
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Serves until the future is dropped; consumers get bodies of `size` bytes.
pub async fn serve(incoming: TcpIncoming, size: usize) -> anyhow::Result<()> {
    let service = MessagingServiceServer::new(Discard { body: produce::body(size) });
    Ok(Server::builder().add_service(service).serve_with_incoming(incoming.with_nodelay(Some(true))).await?)
}

struct Discard {
    body: Bytes,
}

fn ok() -> Option<v2::Status> {
    Some(v2::Status { code: v2::Code::Ok.into(), message: "OK".into() })
}

type Answer<T> = Result<Response<T>, Status>;

fn absent<T>() -> Answer<T> {
    Err(Status::unimplemented("the yardstick does not serve this"))
}

impl Discard {
    fn message(&self, topic: Option<v2::Resource>, n: i32) -> v2::ReceiveMessageResponse {
        let now = SystemTime::now();
        let system_properties = v2::SystemProperties {
            message_id: format!("01000000000000000000000000{n:08x}"),
            body_encoding: v2::Encoding::Identity.into(),
            message_type: v2::MessageType::Normal.into(),
            born_timestamp: Some(now.into()),
            born_host: "127.0.0.1".into(),
            store_timestamp: Some(now.into()),
            store_host: "127.0.0.1".into(),
            receipt_handle: Some(format!("handle-of-about-the-usual-length-{n:032}")),
            queue_id: n % QUEUES,
            queue_offset: Some(i64::from(n)),
            delivery_attempt: Some(1),
            ..Default::default()
        };
        let message = v2::Message {
            topic,
            system_properties: Some(system_properties),
            body: self.body.clone(),
            ..Default::default()
        };
        v2::ReceiveMessageResponse { content: Some(Content::Message(message)) }
    }
}

#[tonic::async_trait]
impl MessagingService for Discard {
    async fn query_route(&self, request: Request<v2::QueryRouteRequest>) -> Answer<v2::QueryRouteResponse> {
        let v2::QueryRouteRequest { topic, endpoints } = request.into_inner();
        let broker = v2::Broker { name: "yardstick".into(), id: 0, endpoints };
        let queue = |id| v2::MessageQueue {
            topic: topic.clone(),
            id,
            permission: v2::Permission::ReadWrite.into(),
            broker: Some(broker.clone()),
            accept_message_types: vec![v2::MessageType::Normal.into()],
        };
        let message_queues = (0..QUEUES).map(queue).collect();
        Ok(Response::new(v2::QueryRouteResponse { status: ok(), message_queues }))
    }

    async fn heartbeat(&self, _: Request<v2::HeartbeatRequest>) -> Answer<v2::HeartbeatResponse> {
        Ok(Response::new(v2::HeartbeatResponse { status: ok() }))
    }

    async fn send_message(&self, request: Request<v2::SendMessageRequest>) -> Answer<v2::SendMessageResponse> {
        let entry = |message: v2::Message| {
            let message_id = message.system_properties.unwrap_or_default().message_id;
            v2::SendResultEntry { status: ok(), transaction_id: message_id.clone(), message_id, ..Default::default() }
        };
        let entries = request.into_inner().messages.into_iter().map(entry).collect();
        Ok(Response::new(v2::SendMessageResponse { status: ok(), entries }))
    }

    type ReceiveMessageStream = BoxStream<'static, Result<v2::ReceiveMessageResponse, Status>>;

    async fn receive_message(&self, request: Request<v2::ReceiveMessageRequest>) -> Answer<Self::ReceiveMessageStream> {
        let request = request.into_inner();
        let topic = request.message_queue.and_then(|queue| queue.topic);
        let messages = 0..request.batch_size.clamp(1, BATCH_MAX);
        let wrap = |content| v2::ReceiveMessageResponse { content: Some(content) };
        let mut answers = Vec::with_capacity(messages.len() + 2);
        answers.extend(ok().map(Content::Status).map(wrap));
        answers.extend(messages.map(|n| self.message(topic.clone(), n)));
        answers.push(wrap(Content::DeliveryTimestamp(SystemTime::now().into())));
        Ok(Response::new(stream::iter(answers.into_iter().map(Ok)).boxed()))
    }

    async fn ack_message(&self, request: Request<v2::AckMessageRequest>) -> Answer<v2::AckMessageResponse> {
        let entry = |entry: v2::AckMessageEntry| v2::AckMessageResultEntry {
            message_id: entry.message_id,
            receipt_handle: entry.receipt_handle,
            status: ok(),
        };
        let entries = request.into_inner().entries.into_iter().map(entry).collect();
        Ok(Response::new(v2::AckMessageResponse { status: ok(), entries }))
    }

    type TelemetryStream = BoxStream<'static, Result<v2::TelemetryCommand, Status>>;

    async fn telemetry(&self, request: Request<Streaming<v2::TelemetryCommand>>) -> Answer<Self::TelemetryStream> {
        let answers = request.into_inner().filter_map(async |command| match command {
            Ok(v2::TelemetryCommand { command: Some(Command::Settings(settings)), .. }) => {
                Some(Ok(v2::TelemetryCommand { status: ok(), command: Some(Command::Settings(settings)) }))
            }
            Ok(_) => None,
            Err(status) => Some(Err(status)),
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn notify_client_termination(
        &self,
        _: Request<v2::NotifyClientTerminationRequest>,
    ) -> Answer<v2::NotifyClientTerminationResponse> {
        Ok(Response::new(v2::NotifyClientTerminationResponse { status: ok() }))
    }

    async fn query_assignment(&self, _: Request<v2::QueryAssignmentRequest>) -> Answer<v2::QueryAssignmentResponse> {
        absent()
    }

    async fn forward_message_to_dead_letter_queue(
        &self,
        _: Request<v2::ForwardMessageToDeadLetterQueueRequest>,
    ) -> Answer<v2::ForwardMessageToDeadLetterQueueResponse> {
        absent()
    }

    type PullMessageStream = BoxStream<'static, Result<v2::PullMessageResponse, Status>>;

    async fn pull_message(&self, _: Request<v2::PullMessageRequest>) -> Answer<Self::PullMessageStream> {
        absent()
    }

    async fn update_offset(&self, _: Request<v2::UpdateOffsetRequest>) -> Answer<v2::UpdateOffsetResponse> {
        absent()
    }

    async fn get_offset(&self, _: Request<v2::GetOffsetRequest>) -> Answer<v2::GetOffsetResponse> {
        absent()
    }

    async fn query_offset(&self, _: Request<v2::QueryOffsetRequest>) -> Answer<v2::QueryOffsetResponse> {
        absent()
    }

    async fn end_transaction(&self, _: Request<v2::EndTransactionRequest>) -> Answer<v2::EndTransactionResponse> {
        absent()
    }

    async fn change_invisible_duration(
        &self,
        _: Request<v2::ChangeInvisibleDurationRequest>,
    ) -> Answer<v2::ChangeInvisibleDurationResponse> {
        absent()
    }

    async fn recall_message(&self, _: Request<v2::RecallMessageRequest>) -> Answer<v2::RecallMessageResponse> {
        absent()
    }

    async fn sync_lite_subscription(
        &self,
        _: Request<v2::SyncLiteSubscriptionRequest>,
    ) -> Answer<v2::SyncLiteSubscriptionResponse> {
        absent()
    }
}
