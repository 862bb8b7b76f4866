//! The way to a collector: one connection that is made anew when it breaks, a time for each message, tries again where that
//! helps, and one line in the log when it begins to fail and one when it is over.

use std::{error::Error as _, path::Path, time::Duration};

use http::HeaderMap;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

use super::config::{Signal, Target};
use crate::{
    dial::{self, AuthoritiesError},
    proto::opentelemetry::proto::collector::{
        metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
        trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    },
};

/// How often a message is tried, and how long after the first time; each pause is twice the one before.
const TRIES_MAX: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);
/// While a message is on its way, the collector is asked for a sign of life this often, and given so long for it.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Why exports cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "cannot speak TLS to {target}: {source}; name a PEM file with its authority in otlpTrustedCertPath, or use http://"
    )]
    Authorities { target: Target, source: AuthoritiesError },
    #[error("cannot speak TLS to {target}: {source}; use http://")]
    Tls { target: Target, source: tokio_rustls::rustls::Error },
    #[error("cannot connect to {target}: {source}; write it like http://collector:4317")]
    Address { target: Target, source: http::uri::InvalidUri },
}

/// What can be sent.
pub trait Export: Clone + Send + Sync {
    /// Sends it, and says how much of it was not taken, and why.
    fn send(request: Request<Self>, to: Channel) -> impl Future<Output = Result<(i64, String), Status>> + Send;
}

impl Export for ExportMetricsServiceRequest {
    async fn send(request: Request<Self>, to: Channel) -> Result<(i64, String), Status> {
        let partly = MetricsServiceClient::new(to).export(request).await?.into_inner().partial_success;
        Ok(partly.map(|partly| (partly.rejected_data_points, partly.error_message)).unwrap_or_default())
    }
}

impl Export for ExportTraceServiceRequest {
    async fn send(request: Request<Self>, to: Channel) -> Result<(i64, String), Status> {
        let partly = TraceServiceClient::new(to).export(request).await?.into_inner().partial_success;
        Ok(partly.map(|partly| (partly.rejected_spans, partly.error_message)).unwrap_or_default())
    }
}

/// A collector of one signal.
pub struct Collector {
    channel: Channel,
    headers: HeaderMap,
    timeout: Duration,
    target: Target,
    /// `metrics` or `traces`.
    what: &'static str,
    /// What was said last.
    is_failing: bool,
    is_rejecting: bool,
}

impl Collector {
    /// Where a signal goes. Nothing is connected yet; call it on a runtime.
    pub fn new(
        what: &'static str,
        target: &Target,
        signal: &Signal,
        authorities: Option<&Path>,
    ) -> Result<Self, ConnectError> {
        let address = |source| ConnectError::Address { target: target.clone(), source };
        // What connects speaks TLS itself, so that the channel is not told.
        let at: http::Uri = format!("http://{}", target.authority()).parse().map_err(address)?;
        let origin: http::Uri = target.to_string().parse().map_err(address)?;
        let endpoint = Endpoint::from(at)
            .origin(origin)
            .connect_timeout(signal.timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE);
        let named = endpoint.clone().user_agent(concat!("ferromq/", env!("CARGO_PKG_VERSION")));
        let endpoint = named.unwrap_or(endpoint);
        let channel = if target.tls {
            let roots = dial::authorities(authorities);
            let roots = roots.map_err(|source| ConnectError::Authorities { target: target.clone(), source })?;
            let tls = dial::connector(roots);
            let tls = tls.map_err(|source| ConnectError::Tls { target: target.clone(), source })?;
            endpoint.connect_with_connector_lazy(tower::service_fn(move |at| dial::connect(tls.clone(), at)))
        } else {
            endpoint.connect_lazy()
        };
        let headers = signal.headers.0.iter().cloned().collect();
        let (timeout, target) = (signal.timeout, target.clone());
        Ok(Self { channel, headers, timeout, target, what, is_failing: false, is_rejecting: false })
    }

    /// Sends a message, and says whether it was taken. A failure that may pass is tried again, once more at most after `stop`:
    /// it takes `TRIES_MAX` timeouts and 3.5 s of pauses at most.
    pub async fn send<M: Export>(&mut self, message: &M, stop: &CancellationToken) -> bool {
        let mut pause = PAUSE;
        for attempt in 1.. {
            match self.try_once(message).await {
                Ok((rejected, why)) => {
                    self.taken(rejected, &why);
                    return true;
                }
                Err(status) if attempt == TRIES_MAX || !may_pass(&status) || stop.is_cancelled() => {
                    self.failed(&status);
                    return false;
                }
                Err(_) => {
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = stop.cancelled() => {}
                    }
                    pause *= 2;
                }
            }
        }
        false
    }

    async fn try_once<M: Export>(&self, message: &M) -> Result<(i64, String), Status> {
        let mut request = Request::new(message.clone());
        *request.metadata_mut() = MetadataMap::from_headers(self.headers.clone());
        let late = |_| Status::deadline_exceeded(format!("no answer within {} ms", self.timeout.as_millis()));
        timeout(self.timeout, M::send(request, self.channel.clone())).await.map_err(late)?
    }

    fn taken(&mut self, rejected: i64, why: &str) {
        let (what, target) = (self.what, &self.target);
        if std::mem::take(&mut self.is_failing) {
            tracing::info!(what, %target, "the collector takes them again");
        }
        let is_rejecting = rejected > 0;
        if is_rejecting && !self.is_rejecting {
            tracing::warn!(what, %target, rejected, why, "the collector does not take all of them; told once until it does");
        }
        self.is_rejecting = is_rejecting;
    }

    fn failed(&mut self, status: &Status) {
        let (what, target, code) = (self.what, &self.target, status.code());
        if !std::mem::replace(&mut self.is_failing, true) {
            let error = innermost(status);
            tracing::warn!(
                what,
                %target,
                ?code,
                error,
                "the collector does not take them; see whether it is there and speaks gRPC. The server goes on, and this is told \
                 once until it takes them again"
            );
        }
    }
}

/// The bottom of what went wrong: what is above it adds nothing for people.
fn innermost(status: &Status) -> String {
    let mut error = status.source();
    while let Some(source) = error.and_then(std::error::Error::source) {
        error = Some(source);
    }
    error.map_or_else(|| status.message().to_owned(), ToString::to_string)
}

/// Whether to try again, as OTLP has it.
fn may_pass(status: &Status) -> bool {
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        // Only a collector that says when it has room again.
        Code::ResourceExhausted => memchr::memmem::find(status.details(), b"google.rpc.RetryInfo").is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, sync::Arc};

    use parking_lot::Mutex;
    use tokio::net::TcpListener;
    use tonic::{Response, transport::Server};

    use super::*;
    use crate::{
        observe::otlp::config::Config,
        proto::opentelemetry::proto::collector::trace::v1::{
            ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    };

    type Answers = Arc<Mutex<VecDeque<Result<(), Status>>>>;

    /// Answers as it was told, and what is beyond that with a refusal.
    struct Scripted(Answers);

    #[tonic::async_trait]
    impl TraceService for Scripted {
        async fn export(
            &self,
            _: Request<ExportTraceServiceRequest>,
        ) -> Result<Response<ExportTraceServiceResponse>, Status> {
            let answer = self.0.lock().pop_front().unwrap_or_else(|| Err(Status::invalid_argument("asked too often")));
            answer.map(|()| Response::new(ExportTraceServiceResponse::default()))
        }
    }

    async fn collector(answers: &Answers) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let target = Target::parse(&format!("http://{}", listener.local_addr().expect("bound"))).expect("an address");
        let service = TraceServiceServer::new(Scripted(answers.clone()));
        let incoming = futures_util::stream::unfold(listener, |listener| async {
            Some((listener.accept().await.map(|(tcp, _)| tcp), listener))
        });
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        let signal = Config::default().traces.signal;
        Collector::new("traces", &target.expect("a target"), &signal, None).expect("plaintext")
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again_and_nothing_else_is() {
        let full = || Status::resource_exhausted("full");
        let says_when =
            || Status::with_details(Code::ResourceExhausted, "full", "type.googleapis.com/google.rpc.RetryInfo".into());
        for (answers, taken, left) in [
            (vec![Err(Status::unavailable("x")), Ok(())], true, 0),
            (vec![Err(says_when()), Ok(())], true, 0),
            (vec![Err(full()), Ok(())], false, 1),
            (vec![Err(Status::unauthenticated("x")), Ok(())], false, 1),
            (vec![Err(Status::unimplemented("x")), Ok(())], false, 1),
        ] {
            let said = format!("{answers:?}");
            let script: Answers = Arc::new(Mutex::new(answers.into()));
            let mut collector = collector(&script).await;
            let request = ExportTraceServiceRequest::default();
            assert_eq!(collector.send(&request, &CancellationToken::new()).await, taken, "{said}");
            assert_eq!(script.lock().len(), left, "{said}");
            assert_eq!(collector.is_failing, !taken);
        }
    }

    #[tokio::test]
    async fn after_the_stop_a_failure_is_final() {
        let script: Answers = Arc::new(Mutex::new(vec![Err(Status::unavailable("x")), Ok(())].into()));
        let mut collector = collector(&script).await;
        let stop = CancellationToken::new();
        stop.cancel();
        assert!(!collector.send(&ExportTraceServiceRequest::default(), &stop).await);
        assert_eq!(script.lock().len(), 1);
    }
}
