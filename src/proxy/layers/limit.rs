//! Bounds on calls and bytes under way. A call over one is answered TOO_MANY_REQUESTS (or too large) in its own body,
//! so that its client backs off; a transport error would make it rebuild its channels.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::codegen::StdError;
use tower::Service;

use crate::{
    observe::trace::{Notes, OpenSpan, Outcome},
    proto::v2::Code,
    types::Deadline,
};

use super::{Load, Method, ResponseBody, Surroundings, refuse, send, too_many};
use crate::proxy::{
    meters::{Refused, Rpc},
    status::Refusal,
    trace,
};

/// Bytes of a request, or of all of a stream, to health or reflection; what they ask has a name or two.
const FOREIGN_BYTES_MAX: usize = 64 << 10;

/// Bytes of them that are let in whatever is under way.
const PROBE_BYTES: usize = 1 << 10;

pub struct Limit<S> {
    inner: S,
    around: Arc<Surroundings>,
}

impl<S> Limit<S> {
    pub fn new(inner: S, around: Arc<Surroundings>) -> Self {
        Self { inner, around }
    }
}

impl<S, B> Service<http::Request<B>> for Limit<S>
where
    S: Service<
            http::Request<Metered<B>>,
            Response = http::Response<tonic::body::Body>,
            Error = Infallible,
            Future: Unpin,
        >,
    B: HttpBody<Data = Bytes> + Unpin,
{
    type Response = http::Response<ResponseBody>;
    type Error = Infallible;
    type Future = Limited<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }
    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let method = Method::of(request.uri().path());
        let front = &self.around.front;
        let timed = (method != Method::Foreign).then(|| (Rpc::of(request.uri().path()), front.broker.clock().now()));
        let span = match (&front.tracer, timed) {
            (Some(tracer), Some((rpc, since))) => tracer.begin(request.headers(), since, || trace::method(rpc.name())),
            _ => None,
        };
        let permit = Arc::new(Permit::new(self.around.clone(), method, span));
        if let Some(refusal) = permit.refusal_at_start() {
            return Limited { inner: None, refusal: Some(refusal), permit, timed };
        }
        let body_permit = permit.clone();
        let request = request.map(|body| Metered::new(body, body_permit));
        Limited { inner: Some(self.inner.call(request)), refusal: None, permit, timed }
    }
}

/// One call's share of the load, given back when the call and its answer are gone.
pub struct Permit {
    around: Arc<Surroundings>,
    method: Method,
    bytes: AtomicUsize,
    /// Of these, bytes of messages that it answers.
    answer: AtomicUsize,
    /// Why its request was cut short: a [`Cut`], 0 for not.
    cut: AtomicU8,
    /// Of a call that is traced.
    span: Option<Box<OpenSpan>>,
}

#[derive(Clone, Copy)]
#[repr(u8)]
enum Cut {
    /// It is larger than a request may be.
    Size = 1,
    /// With it, too much is under way.
    Load = 2,
    /// It does not come.
    Time = 3,
    /// A message of it has more beside its body than any may have.
    Properties = 4,
    /// There is something behind its message.
    Beyond = 5,
}

impl Permit {
    fn new(around: Arc<Surroundings>, method: Method, span: Option<OpenSpan>) -> Self {
        around.front.load.calls.fetch_add(1, Relaxed);
        around.connection.load.calls.fetch_add(1, Relaxed);
        around.connection.calls.fetch_add(1, Relaxed);
        let (bytes, answer, cut) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicU8::new(0));
        Self { around, method, bytes, answer, cut, span: span.map(Box::new) }
    }

    /// Notes what the call is about, if it is traced.
    pub fn note(&self, what: impl FnOnce(&mut Notes)) {
        if let Some(span) = &self.span {
            span.note(what);
        }
    }

    fn loads(&self) -> [&Load; 2] {
        [&self.around.front.load, &self.around.connection.load]
    }

    /// Counts bytes that this call holds from now until its end.
    pub fn charge(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Relaxed);
        for load in self.loads() {
            load.bytes.fetch_add(bytes, Relaxed);
        }
    }

    /// Counts bytes of messages that this call answers, from now until they are on the socket.
    pub fn charge_answer(&self, bytes: usize) {
        self.charge(bytes);
        self.answer.fetch_add(bytes, Relaxed);
        self.around.connection.unwritten.fetch_add(bytes, Relaxed);
    }

    /// A message has more beside its body than any may have.
    pub fn refuse_properties(&self) -> tonic::Status {
        self.cut(Cut::Properties)
    }

    /// Counts what a request has grown to. `Err` when there is no room for it: whatever the handler answers
    /// then, the client is told that.
    pub fn charge_expanded(&self, bytes: usize) -> Result<(), tonic::Status> {
        if bytes == 0 {
            return Ok(());
        }
        self.charge(bytes);
        if self.over_bytes() {
            return Err(self.cut(Cut::Load));
        }
        Ok(())
    }

    fn cut(&self, cut: Cut) -> tonic::Status {
        self.cut.store(cut as u8, Relaxed);
        tonic::Status::resource_exhausted("the request was cut short")
    }

    /// A piece of the answer that keeps the call under way until HTTP/2 lets go of it: a client that does not read lets
    /// it wait in buffers that nobody else counts.
    pub fn until_written(self: &Arc<Self>, piece: Bytes) -> Bytes {
        if !matches!(self.method, Method::Receive | Method::Pull) {
            return piece;
        }
        Bytes::from_owner(Piece { bytes: piece, permit: self.clone() })
    }

    /// A connection may hold as much as nobody holds: one alone half of all, n greedy ones as much as is left for the next
    /// who comes. So no number of them can take it all, and whoever holds little is served. What is small and makes room
    /// (acks above all) is let in until all is twice as much.
    fn over_bytes(&self) -> bool {
        let is_let_in = match self.method {
            // The messages of its streams are bounded one by one.
            Method::Telemetry => true,
            // Who asks for health is told, however busy it is here.
            Method::Foreign => self.counted() <= PROBE_BYTES,
            _ => false,
        };
        if is_let_in {
            return false;
        }
        let limits = self.around.limits();
        let [all, of_connection] = self.loads().map(|load| load.bytes.load(Relaxed));
        let free = limits.bytes_max.saturating_mul(self.times()).saturating_sub(all);
        of_connection > limits.connection_bytes_max.saturating_mul(self.times()).min(free)
    }

    fn times(&self) -> usize {
        if matches!(self.method, Method::Send | Method::Receive | Method::Pull) { 1 } else { 2 }
    }

    /// Bytes that this call is counted with.
    pub fn counted(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    fn refusal_at_start(&self) -> Option<Refusal> {
        let limits = self.around.limits();
        let calls = self.around.front.load.calls.load(Relaxed);
        if calls > limits.calls_max {
            return Some(too_many(format!("{calls} calls are under way, the most is {}", limits.calls_max)));
        }
        self.over_bytes().then(|| self.refusal(Cut::Load))
    }

    fn request_max(&self) -> usize {
        match self.method {
            Method::Send => self.around.limits().inbound_bytes_max,
            // Its size is bounded message by message.
            Method::Telemetry => usize::MAX,
            Method::Receive | Method::Pull | Method::Other => self.around.limits().control_bytes_max,
            Method::Foreign => FOREIGN_BYTES_MAX.min(self.around.limits().control_bytes_max),
        }
    }

    /// Counts a piece of the request; says when there must be no more of it.
    fn arrived(&self, bytes: usize) -> Result<(), Cut> {
        if self.method == Method::Telemetry {
            return Ok(());
        }
        self.charge(bytes);
        if self.bytes.load(Relaxed) > self.request_max() {
            return Err(Cut::Size);
        }
        if self.over_bytes() { Err(Cut::Load) } else { Ok(()) }
    }

    fn refusal(&self, cut: Cut) -> Refusal {
        let limits = self.around.limits();
        match cut {
            Cut::Size if self.method == Method::Send => {
                let text =
                    format!("the request has more than {} bytes (grpcMaxInboundMessageSize)", self.request_max());
                Refusal::new(Code::MessageBodyTooLarge, text)
            }
            Cut::Size => {
                let text = format!("the request has more than {} bytes", self.request_max());
                Refusal::new(Code::PayloadTooLarge, text)
            }
            Cut::Load => too_many(format!(
                "this connection has more bytes of requests and answers under way than {}, or than its share of {}",
                limits.connection_bytes_max.saturating_mul(self.times()),
                limits.bytes_max.saturating_mul(self.times()),
            )),
            Cut::Beyond => Refusal::new(Code::BadRequest, "the request has more than one message"),
            Cut::Properties => {
                let text = format!("a message has more than {} bytes beside its body", send::BESIDE_BODY_MAX);
                Refusal::new(Code::MessagePropertiesTooLarge, text)
            }
            // Clients take REQUEST_TIMEOUT for something that they do not know, and this one for what to try again.
            Cut::Time => {
                let text = format!("the request did not arrive within {} s", limits.upload_timeout.as_secs());
                Refusal::new(Code::ProxyTimeout, text)
            }
        }
    }

    /// The decoder has limits of its own, which it tells in gRPC's words: a length that is announced above the limit
    /// before a byte of it has come, and what grows above it when it is decompressed. No handler uses these words.
    fn decoding_refusal<B>(&self, response: &http::Response<B>) -> Option<Refusal> {
        let status = response.headers().get("grpc-status").filter(|_| self.method != Method::Foreign)?;
        let too_large = [tonic::Code::OutOfRange, tonic::Code::ResourceExhausted];
        too_large.contains(&tonic::Code::from_bytes(status.as_bytes())).then(|| self.refusal(Cut::Size))
    }

    fn cut_refusal(&self) -> Option<Refusal> {
        let cut = match self.cut.load(Relaxed) {
            0 => return None,
            1 => Cut::Size,
            2 => Cut::Load,
            3 => Cut::Time,
            4 => Cut::Properties,
            _ => Cut::Beyond,
        };
        Some(self.refusal(cut))
    }
}

/// See [`Permit::until_written`].
struct Piece {
    bytes: Bytes,
    permit: Arc<Permit>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.permit.around.connection.written.fetch_add(1, Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.around.connection.unwritten.fetch_sub(*self.answer.get_mut(), Relaxed);
        let bytes = *self.bytes.get_mut();
        for load in self.loads() {
            load.calls.fetch_sub(1, Relaxed);
            load.bytes.fetch_sub(bytes, Relaxed);
        }
    }
}

/// How much of a request has come, and with it where its one message ends.
#[derive(Default)]
struct Extent {
    /// A flag and the length, in gRPC's prefix.
    prefix: [u8; 5],
    come: u64,
}

impl Extent {
    /// False when a piece lies behind the message, at least in part.
    fn holds(&mut self, piece: &[u8]) -> bool {
        let begun = self.come.min(self.prefix.len() as u64) as usize;
        let missing = &mut self.prefix[begun..];
        let some = missing.len().min(piece.len());
        missing[..some].copy_from_slice(&piece[..some]);
        self.come += piece.len() as u64;
        let [_, len @ ..] = self.prefix;
        let whole = self.prefix.len() as u64 + u64::from(u32::from_be_bytes(len));
        self.come <= whole
    }
}

/// A request's body: counted, and cut short where it goes over a bound or does not come.
pub struct Metered<B> {
    inner: B,
    permit: Arc<Permit>,
    extent: Extent,
    /// The newest piece, handed on once there is another or the end: so a request is decoded when it has ended, and none
    /// that never ends is held as more than its bytes.
    held: Option<Bytes>,
    ended: bool,
    /// Set going when the body is first waited for, which most are not.
    upload: Option<Pin<Box<Sleep>>>,
}

impl<B> Metered<B> {
    fn new(inner: B, permit: Arc<Permit>) -> Self {
        Self { inner, permit, extent: Extent::default(), held: None, ended: false, upload: None }
    }

    pub fn permit(&self) -> &Arc<Permit> {
        &self.permit
    }

    fn cut(&self, cut: Cut) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        Poll::Ready(Some(Err(self.permit.cut(cut).into())))
    }
}

impl<B> HttpBody for Metered<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        let is_stream = matches!(this.permit.method, Method::Telemetry | Method::Foreign);
        while !this.ended {
            return match Pin::new(&mut this.inner).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match this.permit.arrived(frame.data_ref().map_or(0, Bytes::len)) {
                    Err(cut) => this.cut(cut),
                    Ok(()) if is_stream => Poll::Ready(Some(Ok(frame))),
                    Ok(()) => {
                        // What clients tell behind a request is not looked at.
                        let Ok(piece) = frame.into_data() else { continue };
                        if piece.is_empty() {
                            continue;
                        }
                        if !this.extent.holds(&piece) {
                            return this.cut(Cut::Beyond);
                        }
                        let Some(earlier) = this.held.replace(piece) else { continue };
                        Poll::Ready(Some(Ok(Frame::data(earlier))))
                    }
                },
                Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
                Poll::Ready(None) => {
                    this.ended = true;
                    break;
                }
                Poll::Pending if this.permit.method == Method::Telemetry => Poll::Pending,
                Poll::Pending => {
                    let timeout = this.permit.around.limits().upload_timeout;
                    let upload = this.upload.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
                    match upload.as_mut().poll(cx) {
                        Poll::Ready(()) => this.cut(Cut::Time),
                        Poll::Pending => Poll::Pending,
                    }
                }
            };
        }
        Poll::Ready(this.held.take().map(|piece| Ok(Frame::data(piece))))
    }
    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.inner.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        // The inner one does not count what is held.
        SizeHint::default()
    }
}

/// How a handler said no, if it did.
fn said_no<B>(response: &http::Response<B>) -> Option<Refused> {
    if let Some(status) = response.headers().get("grpc-status") {
        let code = tonic::Code::from_bytes(status.as_bytes());
        return (code != tonic::Code::Ok).then_some(Refused::Grpc(code as i32));
    }
    response.extensions().get().copied()
}

pub struct Limited<F> {
    /// `None` for a call that was refused at its start.
    inner: Option<F>,
    refusal: Option<Refusal>,
    permit: Arc<Permit>,
    /// Which RPC of the messaging API it is, and since when.
    timed: Option<(Rpc, Deadline)>,
}

impl<F> Limited<F> {
    /// Counts the answer, and ends the call's span.
    fn answered(&self, refused: Option<Refused>) {
        if let Some(span) = &self.permit.span {
            span.answered(trace::outcome(refused));
        }
        if let Some((rpc, since)) = self.timed {
            let front = &self.permit.around.front;
            front.meters.answered(rpc, refused, front.broker.clock().now().remaining(since));
        }
    }
}

/// Ends the span of a call whose handler panics as it is answered, from outside: with INTERNAL.
struct Fallen<'a>(Option<&'a OpenSpan>);

impl Drop for Fallen<'_> {
    fn drop(&mut self) {
        if let Some(span) = self.0
            && std::thread::panicking()
        {
            span.answered(Outcome::Grpc(tonic::Code::Internal as i32));
        }
    }
}

impl<F> Future for Limited<F>
where
    F: Future<Output = Result<http::Response<tonic::body::Body>, Infallible>> + Unpin,
{
    type Output = Result<http::Response<ResponseBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut response = None;
        if let Some(inner) = &mut this.inner {
            let _told = Fallen(this.permit.span.as_deref());
            let Poll::Ready(Ok(answered)) = Pin::new(inner).poll(cx) else { return Poll::Pending };
            response = Some(answered);
        }
        let refused = this.refusal.take().or_else(|| this.permit.cut_refusal());
        let refusal = refused.or_else(|| response.as_ref().and_then(|r| this.permit.decoding_refusal(r)));
        this.answered(match (&refusal, &response) {
            (Some(refusal), _) => Some(Refused::Api(refusal.code)),
            (None, Some(response)) => said_no(response),
            (None, None) => return Poll::Pending,
        });
        let now = || this.permit.around.front.broker.clock().wall();
        let response = match (refusal, response) {
            (Some(refusal), _) => refuse(this.permit.method, refusal, now()),
            (None, Some(response)) => response,
            (None, None) => return Poll::Pending,
        };
        let permit = this.permit.clone();
        Poll::Ready(Ok(response.map(|inner| ResponseBody::of(inner, permit))))
    }
}
