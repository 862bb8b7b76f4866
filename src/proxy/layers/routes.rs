//! Path -> service. The messaging API is told by hand, one comparison, since a general router costs each call more.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Body as HttpBody;
use tonic::{codec::CompressionEncoding, codegen::StdError, server::Grpc};
use tower::Service;

use crate::proto::v2::messaging_service_server::MessagingServiceServer;

use super::{
    Method,
    limit::Metered,
    send::{SendCodec, SendMessage},
};
use crate::proxy::{config::Limits, rpc::Messaging};

/// Everything that is not the messaging API: health, reflection, and UNIMPLEMENTED for the rest.
pub type Foreign = tonic::service::Routes;

/// The services of one connection.
pub struct Routes {
    messaging: Arc<Messaging>,
    send_bytes_max: usize,
    /// Its handlers, but for SendMessage's.
    control: MessagingServiceServer<Messaging>,
    /// And for Telemetry, whose streams stay open: a message that never ends is held for as long.
    telemetry: MessagingServiceServer<Messaging>,
    foreign: Foreign,
}

impl Routes {
    pub fn new(messaging: Messaging, foreign: Foreign, limits: &Limits) -> Self {
        let messaging = Arc::new(messaging);
        let server = MessagingServiceServer::from_arc(messaging.clone()).accept_compressed(CompressionEncoding::Gzip);
        Self {
            messaging,
            send_bytes_max: limits.inbound_bytes_max,
            control: server.clone().max_decoding_message_size(limits.control_bytes_max),
            // Settings that are somewhat too large are refused in words.
            telemetry: server.max_decoding_message_size(2 * limits.settings_bytes_max),
            foreign,
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<tonic::body::Body>, Infallible>> + Send>>;

impl<B> Service<http::Request<Metered<B>>> for Routes
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<StdError>,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: http::Request<Metered<B>>) -> Self::Future {
        match Method::of(request.uri().path()) {
            Method::Send => {
                let mut grpc = Grpc::new(SendCodec(request.body().permit().clone()))
                    .max_decoding_message_size(self.send_bytes_max)
                    .accept_compressed(CompressionEncoding::Gzip);
                let handler = SendMessage(self.messaging.clone());
                Box::pin(async move { Ok(grpc.unary(handler, request).await) })
            }
            Method::Telemetry => self.telemetry.call(request),
            Method::Receive | Method::Pull | Method::Other => self.control.call(request),
            Method::Foreign => Box::pin(self.foreign.call(request.map(tonic::body::Body::new))),
        }
    }
}
