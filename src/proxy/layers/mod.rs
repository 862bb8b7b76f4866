//! What every call goes through, outermost first; [`stack`] has the order and the reason of each place.
//!
//! A layer costs every call, so none of them boxes a future, and together they stay well under a microsecond.

mod context;
mod limit;
mod rescue;
mod routes;
mod send;
mod trace;

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    },
    task::Poll,
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use prost::Message;
use tower::{Service, ServiceBuilder};

use crate::{
    proto::v2::{self, Code},
    types::Timestamp,
};

use super::{addresses::HostPort, config::Limits, front::Front, status::Refusal};

pub use context::{Call, Language};
pub use limit::Permit;
pub use routes::{Foreign, Routes};

/// One client's connection, as its calls see it.
#[derive(Debug)]
pub struct Connection {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// What the listener's configuration tells clients to dial.
    pub advertised: Option<HostPort>,
    /// Calls and bytes under way.
    pub load: Load,
    /// Calls ever begun.
    pub calls: AtomicU64,
    /// Bytes of messages in answers that are not wholly written to the socket.
    pub unwritten: AtomicUsize,
    /// Pieces of such answers ever written to the socket.
    pub written: AtomicU64,
}

impl Connection {
    pub fn new(peer: SocketAddr, local: SocketAddr, advertised: Option<HostPort>) -> Self {
        Self {
            peer,
            local,
            advertised,
            load: Load::default(),
            calls: AtomicU64::new(0),
            unwritten: AtomicUsize::new(0),
            written: AtomicU64::new(0),
        }
    }
}

/// Calls and bytes under way, of a connection or of all.
#[derive(Debug, Default)]
pub struct Load {
    pub calls: AtomicUsize,
    pub bytes: AtomicUsize,
}

/// Everything that the layers of one connection share.
pub struct Surroundings {
    pub front: Arc<Front>,
    pub connection: Arc<Connection>,
}

impl Surroundings {
    fn limits(&self) -> &Limits {
        &self.front.config.limits
    }
}

/// The stack of one connection.
pub fn stack<B>(
    around: Arc<Surroundings>,
    routes: Routes,
) -> impl Service<
    http::Request<B>,
    Response = http::Response<ResponseBody>,
    Error = Infallible,
    Future: Future<Output = Result<http::Response<ResponseBody>, Infallible>> + Send,
> + Send
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<tonic::codegen::StdError> + Send + 'static,
{
    ServiceBuilder::new()
        // Outermost, so that its span covers all that the others say.
        .layer_fn(trace::Trace::new)
        // Around all that can panic: one call's panic is that call's answer.
        .layer_fn(rescue::Rescue::new)
        // Before anything is spent on a call: refuse what is too much, count what is not.
        .layer_fn(|inner| limit::Limit::new(inner, around.clone()))
        // Who calls, from where, until when: handlers and everything below know it.
        .layer_fn(|inner| context::Context::new(inner, around.clone()))
        // The place of authentication and authorization: behind the context, which has the identity to check, and
        // before the routes, so that no handler runs for whom it may not.
        .service(routes)
}

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Send,
    Receive,
    Pull,
    Telemetry,
    /// Another method of the messaging API.
    Other,
    /// Another service: health, reflection, or one that is not here.
    Foreign,
}

impl Method {
    const SERVICE: &str = "/apache.rocketmq.v2.MessagingService/";

    pub fn of(path: &str) -> Self {
        match path.strip_prefix(Self::SERVICE) {
            Some("SendMessage") => Self::Send,
            Some("ReceiveMessage") => Self::Receive,
            Some("PullMessage") => Self::Pull,
            Some("Telemetry") => Self::Telemetry,
            Some(_) => Self::Other,
            None => Self::Foreign,
        }
    }
}

/// The answer to a call that a layer refuses, in the API's own words: every answer of the messaging API has its status
/// in field 1.
fn refuse(method: Method, refusal: Refusal, now: Timestamp) -> http::Response<tonic::body::Body> {
    if method == Method::Foreign {
        return tonic::Status::resource_exhausted(refusal.message).into_http();
    }
    let mut body = grpc_frame(&v2::HeartbeatResponse { status: Some(refusal.into()) });
    if method == Method::Receive {
        let end = v2::receive_message_response::Content::DeliveryTimestamp(super::convert::wire_timestamp(now));
        body.extend(grpc_frame(&v2::ReceiveMessageResponse { content: Some(end) }));
    }
    let mut response = http::Response::new(tonic::body::Body::new(Whole { body: Some(body.into()), trailers: true }));
    response.headers_mut().insert(http::header::CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
    response
}

fn too_many(what: String) -> Refusal {
    Refusal::new(Code::TooManyRequests, what)
}

/// A message with gRPC's prefix: not compressed, its length.
fn grpc_frame(message: &impl Message) -> Vec<u8> {
    let mut out = vec![0; 5];
    message.encode(&mut out).expect("a Vec grows");
    let len = (out.len() - 5) as u32;
    out[1..5].copy_from_slice(&len.to_be_bytes());
    out
}

/// A short answer and gRPC OK.
struct Whole {
    body: Option<Bytes>,
    trailers: bool,
}

impl HttpBody for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(body) = self.body.take() {
            return Poll::Ready(Some(Ok(Frame::data(body))));
        }
        if !std::mem::take(&mut self.trailers) {
            return Poll::Ready(None);
        }
        let ok = http::HeaderValue::from_static("0");
        Poll::Ready(Some(Ok(Frame::trailers(
            [(http::HeaderName::from_static("grpc-status"), ok)].into_iter().collect(),
        ))))
    }
}

/// Bytes of an answer that are handed on at once, and counted as written one by one: a slow client that takes a large
/// message is told from one that takes nothing by these.
const PIECE_MAX: usize = 64 << 10;

/// The body of an answer; while it or a piece of it lives, its call is under way.
pub struct ResponseBody {
    inner: tonic::body::Body,
    /// What was polled and is not handed on yet.
    rest: Bytes,
    permit: Option<Arc<Permit>>,
}

impl ResponseBody {
    fn of(inner: tonic::body::Body, permit: Arc<Permit>) -> Self {
        Self { inner, rest: Bytes::new(), permit: Some(permit) }
    }
}

impl From<tonic::body::Body> for ResponseBody {
    fn from(inner: tonic::body::Body) -> Self {
        Self { inner, rest: Bytes::new(), permit: None }
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let this = &mut *self;
        let Some(permit) = &this.permit else { return Pin::new(&mut this.inner).poll_frame(cx) };
        if this.rest.is_empty() {
            match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                polled => return polled,
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE_MAX));
        Poll::Ready(Some(Ok(Frame::data(permit.until_written(piece)))))
    }
    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        let inner = self.inner.size_hint();
        let rest = self.rest.len() as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

#[cfg(test)]
mod tests;
