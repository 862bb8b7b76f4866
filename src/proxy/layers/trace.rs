//! A span for each call, at debug.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use tower::Service;
use tracing::Span;

pub struct Trace<S> {
    inner: S,
}

impl<S> Trace<S> {
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B, R> Service<http::Request<B>> for Trace<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>, Error = Infallible, Future: Unpin>,
{
    type Response = http::Response<R>;
    type Error = Infallible;
    type Future = Traced<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }
    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        // Neither headers nor bodies: they have what is not for a log.
        let span = tracing::debug_span!("call", path = request.uri().path());
        let inner = {
            let _in = span.enter();
            self.inner.call(request)
        };
        Traced { inner, span }
    }
}

pub struct Traced<F> {
    inner: F,
    span: Span,
}

impl<F, R> Future for Traced<F>
where
    F: Future<Output = Result<http::Response<R>, Infallible>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let _in = this.span.enter();
        let polled = Pin::new(&mut this.inner).poll(cx);
        if let Poll::Ready(Ok(response)) = &polled {
            tracing::debug!(grpc_status = ?response.headers().get("grpc-status"), "answered");
        }
        polled
    }
}
