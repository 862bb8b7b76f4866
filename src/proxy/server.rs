//! Sockets to calls: TLS or plaintext, HTTP/2, and the life of a connection.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::{body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic_health::pb::health_server::HealthServer;
use tower::Service;

use crate::{broker::Broker, observe::trace::Tracer, proto, proto::v2::TelemetryCommand, types::ClientId};

use super::{
    Clients, Config, Error, PushError, RpcCounts, TlsMode,
    config::{Limits, Listener},
    front::Front,
    health::{self, Health},
    layers::{self, Connection, Foreign, ResponseBody, Routes, Surroundings},
    rpc::Messaging,
    tls::{Reload, Tls},
};

/// HTTP/2 limits, each told to the client or kept against it (RFC 9113 section 6.5.2).
mod http2_limits {
    /// Bytes that a client may send ahead on one call and on one connection. A body of 4 MiB needs a few round trips;
    /// what has arrived and is not yet read is all that this bounds.
    pub const STREAM_WINDOW: u32 = 1 << 20;
    pub const CONNECTION_WINDOW: u32 = 4 << 20;
    /// Bytes of one frame: large enough that a body of 4 MiB is 64 frames.
    pub const FRAME: u32 = 64 << 10;
    /// Bytes of a call's metadata; official clients send below 1 KiB.
    pub const HEADER_LIST: u32 = 16 << 10;
    /// Bytes of answers that wait for the client on one call.
    pub const SEND_BUFFER: usize = 64 << 10;
    /// Calls that were reset by the client before they were begun, and by the server for the client's errors, until the
    /// connection is closed (CVE-2023-44487 and its kin).
    pub const RESETS_PENDING: usize = 128;
    pub const RESETS_LOCAL: usize = 1024;
}

/// A connection is looked at this often within the time after which it is closed.
const LOOKS: u32 = 4;

/// What is being closed without a call ever made on it is given this long: time for a first call that is on its way, and no
/// more for a client that never finished its greeting, for which HTTP/2 would wait on.
const UNSPOKEN_GRACE: Duration = Duration::from_secs(1);

/// How a connection is closed.
enum End {
    /// What is under way is answered.
    Drained,
    /// At once: its client does not read.
    Cut,
}

/// The gRPC front; a cheap clone.
#[derive(Clone)]
pub struct Proxy {
    inner: Arc<Inner>,
}

struct Inner {
    front: Arc<Front>,
    tls: Option<Tls>,
    foreign: Foreign,
    connections: AtomicUsize,
}

impl Proxy {
    pub fn new(config: Config, broker: Broker) -> Result<Self, Error> {
        Self::traced(config, broker, None)
    }

    /// The same, whose calls are traced.
    pub fn traced(config: Config, broker: Broker, tracer: Option<Tracer>) -> Result<Self, Error> {
        let tls = match config.tls.mode {
            TlsMode::Disabled => None,
            TlsMode::Permissive | TlsMode::Enforcing => Some(Tls::open(config.tls.files.as_ref())?),
        };
        let front = Arc::new(Front::new(config, broker, tracer));
        let foreign = foreign(&front)?;
        Ok(Self { inner: Arc::new(Inner { front, tls, foreign, connections: AtomicUsize::new(0) }) })
    }

    pub fn config(&self) -> &Config {
        &self.inner.front.config
    }

    pub(super) fn front(&self) -> &Arc<Front> {
        &self.inner.front
    }

    /// Serves one accepted connection until it ends; its calls run on the runtime that this future runs on. `local` is
    /// the address that it arrived at. `shutdown` lets what is under way be answered, and takes nothing new.
    pub async fn serve_connection(
        self,
        tcp: TcpStream,
        peer: SocketAddr,
        local: SocketAddr,
        shutdown: CancellationToken,
    ) {
        let Some(_place) = Place::take(&self.inner) else {
            tracing::warn!(%peer, max = self.config().limits.connections_max, "too many connections; closed a new one");
            return;
        };
        if let Err(error) = self.serve(tcp, peer, local, shutdown).await {
            tracing::debug!(%peer, %error, "the connection broke");
        }
    }

    async fn serve(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
        local: SocketAddr,
        shutdown: CancellationToken,
    ) -> io::Result<()> {
        tcp.set_nodelay(true)?;
        let wait = self.config().limits.handshake_timeout;
        let tls = match (&self.inner.tls, self.config().tls.mode) {
            (Some(tls), TlsMode::Permissive) => before(&shutdown, wait, begins_tls(&tcp)).await?.then_some(tls),
            (tls, _) => tls.as_ref(),
        };
        let connection = self.connection(peer, local);
        match tls {
            Some(tls) => {
                let stream = before(&shutdown, wait, tls.acceptor().accept(tcp)).await?;
                self.drive(stream, connection, shutdown).await
            }
            None => self.drive(tcp, connection, shutdown).await,
        }
    }

    fn connection(&self, peer: SocketAddr, local: SocketAddr) -> Arc<Connection> {
        let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
        let listener = listener_of(&self.config().listeners, canonical(local));
        let advertised = listener.and_then(|l| l.advertised.clone());
        Arc::new(Connection::new(canonical(peer), canonical(local), advertised))
    }

    /// Speaks HTTP/2 on an open stream of bytes.
    async fn drive(
        &self,
        io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        connection: Arc<Connection>,
        shutdown: CancellationToken,
    ) -> io::Result<()> {
        let front = &self.inner.front;
        let limits = &front.config.limits;
        let messaging = Messaging { front: front.clone(), connection: connection.clone() };
        let routes = Routes::new(messaging, self.inner.foreign.clone(), limits);
        let around = Arc::new(Surroundings { front: front.clone(), connection: connection.clone() });
        let calls = Calls(Mutex::new(layers::stack(around, routes)));
        let mut served = pin!(http2(limits).serve_connection(TokioIo::new(io), calls));
        let how = {
            let end = pin!(end(&connection, limits, &shutdown, &front.draining));
            tokio::select! {
                biased;
                result = served.as_mut() => return result.map_err(io::Error::other),
                how = end => how,
            }
        };
        if let End::Cut = how {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answers"));
        }
        served.as_mut().graceful_shutdown();
        let never_spoke = async {
            sleep(UNSPOKEN_GRACE).await;
            if connection.calls.load(Relaxed) > 0 {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            result = within(limits.closing_timeout, async { served.await.map_err(io::Error::other) }) => result,
            () = never_spoke => Err(io::Error::new(io::ErrorKind::TimedOut, "the client has said nothing")),
        }
    }

    /// Keeps leases, sessions and certificates up to date until the shutdown: one task of the server's. It counts
    /// clients that are silent too (`Broker::expire_clients`), which nobody else may then do.
    pub async fn background(&self, shutdown: CancellationToken) {
        let config = self.config();
        let mut scan = interval(config.renew.scan_interval.max(Duration::from_millis(1)));
        let mut watch = interval(config.tls.watch_interval.max(Duration::from_millis(1)));
        scan.set_missed_tick_behavior(MissedTickBehavior::Delay);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = scan.tick() => self.tick().await,
                _ = watch.tick() => self.reload_certificate().await,
            }
        }
    }

    /// One round of leases and sessions.
    pub async fn tick(&self) {
        let front = &self.inner.front;
        let silent = front.broker.expire_clients();
        front.sessions.silent(&silent);
        for client in &silent {
            front.renewals.release(client, &front.broker).await;
        }
        front.renewals.tick(front.broker.clock().now(), &front.broker).await;
        for (client, lite_topic) in front.broker.dropped_lite_topics() {
            // A client that is not there has nothing to forget.
            let _ = self.notify_unsubscribe_lite(&client, &lite_topic);
        }
    }

    async fn reload_certificate(&self) {
        let inner = self.inner.clone();
        let look = move || inner.tls.as_ref().map_or(Reload::Same, Tls::reload);
        match tokio::task::spawn_blocking(look).await {
            Ok(Reload::Changed) => tracing::info!("the TLS certificate has changed; new connections get the new one"),
            Ok(Reload::Broken(error)) => {
                tracing::warn!(%error, "the TLS certificate was not reloaded; the old one stays")
            }
            Ok(Reload::Same) | Err(_) => {}
        }
    }

    /// Takes no new work: ends parked polls and Telemetry streams, tells every connection to go away, turns health to
    /// not serving. Connections end once what is under way has been answered.
    pub fn drain(&self) {
        self.inner.front.draining.cancel();
        self.inner.front.broker.end_polls();
    }

    /// Gives a command to a client's newest Telemetry stream.
    pub fn push(&self, client: &ClientId, command: TelemetryCommand) -> Result<(), PushError> {
        self.inner.front.sessions.push(client, command)
    }

    /// Whether no new work is taken.
    pub fn is_draining(&self) -> bool {
        self.inner.front.draining.is_cancelled()
    }
    /// How long the calls of each RPC took, by answer.
    pub fn rpc_counts(&self) -> Vec<RpcCounts> {
        self.inner.front.meters.counts()
    }
    /// Clients that have told what they are, by language, version and, of consumers, group.
    pub fn clients(&self) -> Vec<Clients> {
        self.inner.front.sessions.census(self.inner.front.broker.config().series_max)
    }
    /// Open connections.
    pub fn connections(&self) -> usize {
        self.inner.connections.load(Relaxed)
    }
    /// Calls under way, parked polls and Telemetry streams among them.
    pub fn calls(&self) -> usize {
        self.inner.front.load.calls.load(Relaxed)
    }
    /// Bytes of requests and answers under way.
    pub fn bytes(&self) -> usize {
        self.inner.front.load.bytes.load(Relaxed)
    }
}

/// A connection's place among those that may be open.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(inner: &'a Inner) -> Option<Self> {
        let place = Self(&inner.connections);
        let before = inner.connections.fetch_add(1, Relaxed);
        (before < inner.front.config.limits.connections_max).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn foreign(front: &Arc<Front>) -> Result<Foreign, Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name("apache.rocketmq.v2.MessagingService")
            .with_service_name("grpc.health.v1.Health")
            .with_service_name("grpc.reflection.v1.ServerReflection")
            .with_service_name("grpc.reflection.v1alpha.ServerReflection")
    };
    Ok(Foreign::new(HealthServer::new(Health { front: front.clone(), services: health::OF_CLIENTS }))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .prepare())
}

fn http2(limits: &Limits) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(limits.connection_calls_max)
        .initial_stream_window_size(http2_limits::STREAM_WINDOW)
        .initial_connection_window_size(http2_limits::CONNECTION_WINDOW)
        .max_frame_size(http2_limits::FRAME)
        .max_header_list_size(http2_limits::HEADER_LIST)
        .max_send_buf_size(http2_limits::SEND_BUFFER)
        .max_pending_accept_reset_streams(http2_limits::RESETS_PENDING)
        .max_local_error_reset_streams(http2_limits::RESETS_LOCAL)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    builder
}

/// Whether the client begins a TLS handshake: record type 22, major version 3. HTTP/2 in plaintext begins with `PRI`.
async fn begins_tls(tcp: &TcpStream) -> io::Result<bool> {
    let mut first = [0; 2];
    match tcp.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        1 => Ok(first[0] == 0x16),
        _ => Ok(first == [0x16, 0x03]),
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// The same, given up at the shutdown too: who has not said anything yet is not waited for.
async fn before<T>(
    shutdown: &CancellationToken,
    limit: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let stops = || io::Error::new(io::ErrorKind::ConnectionAborted, "the server stops");
    shutdown.run_until_cancelled(within(limit, work)).await.ok_or_else(stops)?
}

/// Returns when the connection is to be closed.
async fn end(
    connection: &Connection,
    limits: &Limits,
    shutdown: &CancellationToken,
    draining: &CancellationToken,
) -> End {
    tokio::select! {
        () = shutdown.cancelled() => End::Drained,
        () = draining.cancelled() => End::Drained,
        () = idled(connection, limits.idle_timeout) => End::Drained,
        () = stalled(connection, limits.stall_timeout) => End::Cut,
    }
}

/// Returns when there has been no call for at least `limit`. An open Telemetry stream is a call. Pings are not, and
/// cost nothing.
async fn idled(connection: &Connection, limit: Duration) {
    let mut calls = 0;
    quiet(limit, || {
        let before = std::mem::replace(&mut calls, connection.calls.load(Relaxed));
        before == calls && connection.load.calls.load(Relaxed) == 0
    })
    .await;
}

/// Returns when answers have waited for their client for at least `limit` and it has taken nothing.
async fn stalled(connection: &Connection, limit: Duration) {
    let mut written = 0;
    quiet(limit, || {
        let before = std::mem::replace(&mut written, connection.written.load(Relaxed));
        before == written && connection.unwritten.load(Relaxed) > 0
    })
    .await;
}

/// Returns when `is_quiet` has been so at every look for at least `limit`, and less than a look longer.
async fn quiet(limit: Duration, mut is_quiet: impl FnMut() -> bool) {
    let mut looks = 0;
    while looks < LOOKS {
        sleep(limit / LOOKS).await;
        looks = if is_quiet() { looks + 1 } else { 0 };
    }
}

/// The stack as hyper calls it. Its lock is never waited for: one task drives the connection.
struct Calls<S>(Mutex<S>);

impl<S> hyper::service::Service<http::Request<Incoming>> for Calls<S>
where
    S: Service<http::Request<Incoming>, Response = http::Response<ResponseBody>, Error = Infallible>,
{
    type Response = http::Response<ResponseBody>;
    type Error = Infallible;
    type Future = S::Future;

    fn call(&self, request: http::Request<Incoming>) -> S::Future {
        // Every layer and service here is always ready.
        self.0.lock().call(request)
    }
}

/// The listener that a connection came in by: the one on that very address, else one on all addresses, else one whose port
/// the system chose.
fn listener_of(listeners: &[Listener], local: SocketAddr) -> Option<&Listener> {
    let exact = |l: &&Listener| (l.listen.ip().to_canonical(), l.listen.port()) == (local.ip(), local.port());
    let any = |l: &&Listener| l.listen.ip().is_unspecified() && l.listen.port() == local.port();
    let find = |is: &dyn Fn(&&Listener) -> bool| listeners.iter().find(|l| is(l));
    find(&exact).or_else(|| find(&any)).or_else(|| find(&|l| l.listen.port() == 0))
}

#[cfg(test)]
mod tests;
