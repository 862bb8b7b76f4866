//! The listener: HTTP/1.1 for probes and Prometheus, HTTP/2 without TLS for KEDA, told apart by their first bytes.

use std::{
    convert::Infallible,
    io, net,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Handle},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tower::Service as _;

use crate::{
    drain::Drain,
    observe::metrics::{Names, Page},
    proto::keda::external_scaler_server::ExternalScalerServer,
};

use super::{collect, keda::Scaler, state::State};

/// Connections at once; further ones are closed.
const CONNECTIONS_MAX: usize = 128;
/// Of these, connections of HTTP/2, which may stay: the others are always there for probes and Prometheus.
const HTTP2_MAX: usize = 64;
/// How long a connection of HTTP/2 may be without a call; at most twice that. KEDA comes back.
const IDLE_MAX: Duration = Duration::from_secs(10 * 60);
/// Until a connection has sent its first bytes, and a request its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection of HTTP/1.1 may take in all: it serves one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Calls of one HTTP/2 connection at once, and bytes of one request.
const CALLS_MAX: u32 = 256;
const CALL_BYTES_MAX: usize = 64 << 10;
/// How long a scrape waits for the one before it.
const SCRAPE_WAIT: Duration = Duration::from_secs(10);
/// A peer over HTTP/2 is asked for a sign of life this often.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the end waits for answers under way.
const GRACE: Duration = Duration::from_secs(1);

/// The open port, served by a thread of its own.
pub struct Listener {
    drain: Drain,
    thread: Option<thread::JoinHandle<()>>,
}

/// What every connection shares.
struct Shared {
    state: State,
    names: Names,
    /// One page at a time: two would tell the same and cost twice.
    scrape: Semaphore,
    /// Places of connections of HTTP/2.
    http2: Semaphore,
    /// Of all connections, so that its bound is the server's.
    scaler: Scaler,
}

/// The calls of a connection.
#[derive(Default)]
struct Calls {
    begun: AtomicU64,
    open: AtomicU64,
}

/// A call, until the last byte of its answer.
struct Call(Arc<Calls>);

impl Listener {
    /// Serves a socket that listens.
    pub fn start(socket: net::TcpListener, state: State, names: Names) -> io::Result<Self> {
        let runtime =
            Builder::new_current_thread().enable_all().max_blocking_threads(4).thread_name("ops-blocking").build()?;
        let listener = {
            let _in_runtime = runtime.enter();
            TcpListener::from_std(socket)?
        };
        let drain = Drain::new();
        let scaler = Scaler::new(state.clone());
        let (scrape, http2) = (Semaphore::new(1), Semaphore::new(HTTP2_MAX));
        let shared = Arc::new(Shared { state, names, scrape, http2, scaler });
        let tasks = drain.clone();
        let serve = move || {
            runtime.block_on(async {
                accept(listener, shared, tasks.clone()).await;
                tasks.finish(GRACE).await;
            });
            runtime.shutdown_timeout(GRACE);
        };
        let thread = thread::Builder::new().name("ops".into()).spawn(serve)?;
        Ok(Self { drain, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.drain.token().cancel();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            drop(thread.join());
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, drain: Drain) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = drain.stopping() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, _)) => {
                let Ok(place) = places.clone().try_acquire_owned() else { continue };
                drain.spawn(&Handle::current(), connection(tcp, shared.clone(), drain.clone(), place));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the port of operations could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(tcp: TcpStream, shared: Arc<Shared>, drain: Drain, _place: OwnedSemaphorePermit) {
    // Only an optimization.
    let _ = tcp.set_nodelay(true);
    let served = async {
        if timeout(HEAD_TIMEOUT, begins_http2(&tcp)).await?? {
            let _place = shared.http2.try_acquire().map_err(|_| io::Error::other("too many connections of HTTP/2"))?;
            calls(tcp, &shared, &drain).await
        } else {
            timeout(REQUEST_TIMEOUT, one_request(tcp, shared)).await?
        }
    };
    tokio::select! {
        served = served => if let Err(error) = served { tracing::debug!(%error, "a connection of operations broke") },
        () = async { drain.stopping().await; tokio::time::sleep(GRACE).await } => {}
    }
}

/// HTTP/2 begins with `PRI `, which is no method of HTTP/1.1.
async fn begins_http2(tcp: &TcpStream) -> io::Result<bool> {
    let mut first = [0; 2];
    match tcp.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        1 => Ok(false),
        _ => Ok(&first == b"PR"),
    }
}

async fn one_request(tcp: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    let serve = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(&request, &shared).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).keep_alive(false).max_buf_size(HEAD_BYTES_MAX);
    http.serve_connection(TokioIo::new(tcp), serve).await.map_err(io::Error::other)
}

async fn calls(tcp: TcpStream, shared: &Shared, drain: &Drain) -> io::Result<()> {
    let scaler = ExternalScalerServer::new(shared.scaler.clone()).max_decoding_message_size(CALL_BYTES_MAX);
    let routes = tonic::service::Routes::new(scaler).prepare();
    let under_way = Arc::new(Calls::default());
    let of_connection = under_way.clone();
    let serve = service_fn(move |request: Request<Incoming>| {
        let (mut routes, call) = (routes.clone(), Call::begin(&of_connection));
        async move {
            let answer = routes.call(request.map(tonic::body::Body::new)).await?;
            Ok::<_, Infallible>(answer.map(|body| {
                body.map_frame(move |frame| {
                    let _open = &call;
                    frame
                })
            }))
        }
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(CALLS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX as u32)
        .keep_alive_interval(KEEPALIVE);
    let mut served = std::pin::pin!(http.serve_connection(TokioIo::new(tcp), serve));
    tokio::select! {
        result = served.as_mut() => return result.map_err(io::Error::other),
        () = drain.stopping() => {}
        () = under_way.none_for(IDLE_MAX) => {}
    }
    served.as_mut().graceful_shutdown();
    served.await.map_err(io::Error::other)
}

impl Calls {
    /// Returns when there was no call for so long.
    async fn none_for(&self, time: Duration) {
        loop {
            let begun = self.begun.load(Relaxed);
            tokio::time::sleep(time).await;
            if self.open.load(Relaxed) == 0 && self.begun.load(Relaxed) == begun {
                return;
            }
        }
    }
}

impl Call {
    fn begin(of: &Arc<Calls>) -> Self {
        of.begun.fetch_add(1, Relaxed);
        of.open.fetch_add(1, Relaxed);
        Self(Arc::clone(of))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

async fn answer(request: &Request<Incoming>, shared: &Arc<Shared>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    }
    match request.uri().path() {
        "/metrics" => metrics(shared).await,
        "/readyz" => told("ready", &shared.state.ready()),
        "/livez" => told("live", &shared.state.live()),
        "/" => text(StatusCode::OK, "FerroMQ: /metrics /readyz /livez, and KEDA's external scaler over gRPC\n"),
        _ => text(StatusCode::NOT_FOUND, "there is /metrics, /readyz and /livez\n"),
    }
}

async fn metrics(shared: &Arc<Shared>) -> Response<Full<Bytes>> {
    let Ok(Ok(_turn)) = timeout(SCRAPE_WAIT, shared.scrape.acquire()).await else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "another scrape takes long\n");
    };
    let asked = shared.clone();
    match tokio::task::spawn_blocking(move || collect::page(&asked.state, &asked.names)).await {
        Ok(page) => with_type(StatusCode::OK, Page::CONTENT_TYPE, page),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the page could not be put together; see the server's log\n"),
    }
}

fn told(what: &str, condition: &super::Condition) -> Response<Full<Bytes>> {
    let status = if condition.is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    with_type(status, "application/json", format!("{}\n", condition.json(what)))
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", text.to_owned())
}

fn with_type(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::types::{ManualClock, Timestamp};

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

    #[test]
    fn connections_of_http2_that_stay_leave_room_for_probes() {
        let socket = net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let state = State::new(Arc::new(ManualClock::at(Timestamp::from_millis(1))));
        let _listener = Listener::start(socket, state, Names::default()).unwrap();
        let open = |first: &[u8]| {
            let mut tcp = net::TcpStream::connect(address).unwrap();
            tcp.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            tcp.write_all(first).unwrap();
            tcp
        };
        let mut staying: Vec<_> = (0..HTTP2_MAX).map(|_| open(PREFACE)).collect();
        for tcp in &mut staying {
            assert_eq!(tcp.read(&mut [0]).unwrap(), 1, "it is answered");
        }
        for _ in 0..CONNECTIONS_MAX - HTTP2_MAX {
            // Closed, or reset since the server did not read what came.
            assert!(!matches!(open(PREFACE).read(&mut [0]), Ok(1)), "there is no place for it");
        }
        let mut answer = String::new();
        open(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    #[test]
    fn a_connection_without_calls_ends_and_one_with_an_open_call_stays() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (calls, short) = (Arc::new(Calls::default()), Duration::from_millis(1));
            let call = Call::begin(&calls);
            assert!(timeout(20 * short, calls.none_for(short)).await.is_err());
            drop(call);
            calls.none_for(short).await;
        });
    }
}
