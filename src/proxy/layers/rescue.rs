//! A panic in a handler is that call's answer, INTERNAL with a description; the connection and its other calls go on.

use std::{
    any::Any,
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
};

use tower::Service;

use super::ResponseBody;

pub struct Rescue<S> {
    inner: S,
}

impl<S> Rescue<S> {
    pub fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, B> Service<http::Request<B>> for Rescue<S>
where
    S: Service<http::Request<B>, Response = http::Response<ResponseBody>, Error = Infallible, Future: Unpin>,
{
    type Response = http::Response<ResponseBody>;
    type Error = Infallible;
    type Future = Rescued<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }
    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        // What a panic leaves half done is the call's own, and is dropped with it.
        match catch_unwind(AssertUnwindSafe(|| self.inner.call(request))) {
            Ok(future) => Rescued::Runs(future),
            Err(panic) => Rescued::Fell(Some(describe(&*panic))),
        }
    }
}

pub enum Rescued<F> {
    Runs(F),
    Fell(Option<String>),
}

impl<F> Future for Rescued<F>
where
    F: Future<Output = Result<http::Response<ResponseBody>, Infallible>> + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if let Self::Runs(inner) = &mut *self {
            match catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll(cx))) {
                Ok(polled) => return polled,
                Err(panic) => *self = Self::Fell(Some(describe(&*panic))),
            }
        }
        let Self::Fell(why) = &mut *self else { return Poll::Pending };
        let why = why.take().unwrap_or_default();
        tracing::error!(panic = why, "a call panicked; this is a fault of the server, please report it");
        let response = tonic::Status::internal(format!("the server failed on this call: {why}")).into_http();
        Poll::Ready(Ok(response.map(|b: tonic::body::Body| b.into())))
    }
}

fn describe(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "unknown reason".into())
}
