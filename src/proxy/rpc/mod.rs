//! The messaging API: one line for each RPC, one file for each family.

mod lite;
mod offset;
mod pull;
mod receive;
mod route;
mod send;
mod session;
mod settle;
mod telemetry;
mod transaction;

use std::sync::Arc;

use prost::Message;
use tonic::{Request, Response, Status};

use crate::{
    broker::{Receipt, Seen, Sighted, Sighting},
    proto::v2::{self, Code, messaging_service_server::MessagingService, receive_message_response},
    types::{GroupName, TopicName},
};

use super::{
    convert,
    front::Front,
    layers::{Call, Connection},
    meters::Refused,
    status::Refusal,
    trace::Described,
};

/// The handlers of one connection.
pub struct Messaging {
    pub front: Arc<Front>,
    pub connection: Arc<Connection>,
}

impl Messaging {
    /// Remembers what the client does with these deliveries, for operators.
    fn seen<'a>(
        &self,
        call: &Call,
        (topic, group): (&TopicName, &GroupName),
        what: Seen,
        receipts: impl Iterator<Item = &'a Receipt>,
    ) {
        let messages: Sighted = receipts.map(|r| (r.queue(), r.offset(), r.attempt())).collect();
        if !messages.is_empty() {
            let (at, host) = (self.front.broker.clock().wall(), Some(self.connection.peer));
            let (client, topic, group) = (call.client.clone(), topic.clone(), group.clone());
            self.front.broker.seen(Sighting { at, what, client, host, topic, group, messages });
        }
    }
}

type Result<T> = std::result::Result<Response<T>, Status>;
/// What a handler says.
pub(in crate::proxy) type Outcome<T> = std::result::Result<T, Refusal>;

/// An answer that can say no: every one of the API has a status.
pub(in crate::proxy) trait Answer: Default {
    fn status(&mut self) -> &mut Option<v2::Status>;
}

macro_rules! answers {
    ($($name:ident)*) => {$(
        impl $crate::proxy::rpc::Answer for v2::$name {
            fn status(&mut self) -> &mut Option<v2::Status> {
                &mut self.status
            }
        }
    )*};
}

pub(in crate::proxy) use answers;

answers! {
    QueryRouteResponse HeartbeatResponse SendMessageResponse QueryAssignmentResponse AckMessageResponse
    ForwardMessageToDeadLetterQueueResponse UpdateOffsetResponse GetOffsetResponse QueryOffsetResponse
    EndTransactionResponse NotifyClientTerminationResponse ChangeInvisibleDurationResponse RecallMessageResponse
    SyncLiteSubscriptionResponse
}

/// Errors travel in the answer's status.
pub(in crate::proxy) fn reply<T: Answer>(outcome: Outcome<T>) -> Result<T> {
    let refused = |refusal: Refusal| {
        let mut answer = T::default();
        *answer.status() = Some(refusal.into());
        answer
    };
    let mut answer = outcome.unwrap_or_else(refused);
    let code = answer.status().as_ref().map_or(Code::Ok, v2::Status::code);
    Ok(told(Response::new(answer), code))
}

/// Notes beside an answer what its status says, where that is not OK: those who count do not read answers.
fn told<T>(mut response: Response<T>, code: Code) -> Response<T> {
    if code != Code::Ok {
        response.extensions_mut().insert(Refused::Api(code));
    }
    response
}

/// The request and who makes it.
fn open<T: Message + Described>(request: Request<T>) -> std::result::Result<(Call, T), Status> {
    let (call, message) = caller(request)?;
    call.permit.note(|notes| message.describe(notes));
    if call.compressed {
        call.permit.charge_expanded(message.encoded_len())?;
    }
    Ok((call, message))
}

fn caller<T>(request: Request<T>) -> std::result::Result<(Call, T), Status> {
    let (_, mut extensions, message) = request.into_parts();
    let call = extensions.remove::<Call>().ok_or_else(|| Status::internal("a call without a context"))?;
    Ok((call, message))
}

#[tonic::async_trait]
impl MessagingService for Messaging {
    type ReceiveMessageStream = receive::Answer;
    type PullMessageStream = pull::Answer;
    type TelemetryStream = telemetry::Commands;

    async fn query_route(&self, r: Request<v2::QueryRouteRequest>) -> Result<v2::QueryRouteResponse> {
        let (call, request) = open(r)?;
        reply(self.route(&call, request).await)
    }
    async fn query_assignment(&self, r: Request<v2::QueryAssignmentRequest>) -> Result<v2::QueryAssignmentResponse> {
        let (call, request) = open(r)?;
        reply(self.assignment(&call, request).await)
    }
    async fn heartbeat(&self, r: Request<v2::HeartbeatRequest>) -> Result<v2::HeartbeatResponse> {
        let (call, request) = open(r)?;
        reply(self.beat(&call, &request))
    }
    async fn notify_client_termination(
        &self,
        r: Request<v2::NotifyClientTerminationRequest>,
    ) -> Result<v2::NotifyClientTerminationResponse> {
        let (call, request) = open(r)?;
        reply(self.terminate(&call, &request).await)
    }
    async fn telemetry(&self, r: Request<tonic::Streaming<v2::TelemetryCommand>>) -> Result<telemetry::Commands> {
        let (call, inbound) = caller(r)?;
        Ok(Response::new(telemetry::commands(self.front.clone(), call, self.connection.peer.ip(), inbound)))
    }
    async fn send_message(&self, r: Request<v2::SendMessageRequest>) -> Result<v2::SendMessageResponse> {
        // Counted as it was decoded.
        let (call, request) = caller(r)?;
        call.permit.note(|notes| request.describe(notes));
        reply(self.send(&call, request).await)
    }
    async fn receive_message(&self, r: Request<v2::ReceiveMessageRequest>) -> Result<receive::Answer> {
        let (call, request) = open(r)?;
        let answer = self.receive(&call, request).await;
        let code = answer.code();
        Ok(told(Response::new(answer), code))
    }
    async fn ack_message(&self, r: Request<v2::AckMessageRequest>) -> Result<v2::AckMessageResponse> {
        let (call, request) = open(r)?;
        reply(self.ack(&call, request).await)
    }
    async fn change_invisible_duration(
        &self,
        r: Request<v2::ChangeInvisibleDurationRequest>,
    ) -> Result<v2::ChangeInvisibleDurationResponse> {
        let (call, request) = open(r)?;
        reply(Ok(self.change_invisible(&call, request).await))
    }
    async fn forward_message_to_dead_letter_queue(
        &self,
        r: Request<v2::ForwardMessageToDeadLetterQueueRequest>,
    ) -> Result<v2::ForwardMessageToDeadLetterQueueResponse> {
        let (call, request) = open(r)?;
        reply(self.dead_letter(&call, request).await)
    }
    async fn pull_message(&self, r: Request<v2::PullMessageRequest>) -> Result<pull::Answer> {
        let (call, request) = open(r)?;
        let answer = self.pull(&call, request).await;
        let code = answer.code();
        Ok(told(Response::new(answer), code))
    }
    async fn update_offset(&self, r: Request<v2::UpdateOffsetRequest>) -> Result<v2::UpdateOffsetResponse> {
        let (call, request) = open(r)?;
        reply(self.set_offset(&call, &request).await)
    }
    async fn get_offset(&self, r: Request<v2::GetOffsetRequest>) -> Result<v2::GetOffsetResponse> {
        let (call, request) = open(r)?;
        reply(self.stored_offset(&call, &request))
    }
    async fn query_offset(&self, r: Request<v2::QueryOffsetRequest>) -> Result<v2::QueryOffsetResponse> {
        let (_, request) = open(r)?;
        reply(self.offset_of(&request).await)
    }
    async fn end_transaction(&self, r: Request<v2::EndTransactionRequest>) -> Result<v2::EndTransactionResponse> {
        let (_, request) = open(r)?;
        reply(self.end(request).await)
    }
    async fn recall_message(&self, r: Request<v2::RecallMessageRequest>) -> Result<v2::RecallMessageResponse> {
        let (_, request) = open(r)?;
        reply(self.recall(request).await)
    }
    async fn sync_lite_subscription(
        &self,
        r: Request<v2::SyncLiteSubscriptionRequest>,
    ) -> Result<v2::SyncLiteSubscriptionResponse> {
        let (call, request) = open(r)?;
        reply(self.sync_lite(&call, request).await)
    }
}

/// One answer of a receive stream.
fn received(content: receive_message_response::Content) -> v2::ReceiveMessageResponse {
    v2::ReceiveMessageResponse { content: Some(content) }
}
