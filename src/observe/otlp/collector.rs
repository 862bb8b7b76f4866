//! The way to a collector: one connection that is made anew when it breaks, a time for each message, tries again where that
//! helps, and a line in the log when it begins to fail and when that is over, but not more than one a minute.

use std::{error::Error as _, path::Path, sync::Arc, time::Duration};

use http::HeaderMap;
use prost::Message as _;
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
    observe::trace::cut,
    proto::opentelemetry::proto::collector::{
        metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
        trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    },
    types::{Clock, Deadline, random},
};

/// How often a message is tried, and how long after the first time at most; each pause is twice the one before. A random part of
/// up to a half is left out, so that many servers do not come back as one.
const TRIES_MAX: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);
/// All pauses of a message together.
const PAUSES_MAX: Duration = Duration::from_millis(3500);
/// How often the log has a line about a collector at most, however often it fails and comes back.
const LINE_EVERY: Duration = Duration::from_secs(60);
/// Bytes of an answer at most: it says how much was not taken, and why.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// The collector is asked for a sign of life this often, and given so long for it.
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
        let mut client = MetricsServiceClient::new(to).max_decoding_message_size(ANSWER_BYTES_MAX);
        let partly = client.export(request).await?.into_inner().partial_success;
        Ok(partly.map(|partly| (partly.rejected_data_points, partly.error_message)).unwrap_or_default())
    }
}

impl Export for ExportTraceServiceRequest {
    async fn send(request: Request<Self>, to: Channel) -> Result<(i64, String), Status> {
        let mut client = TraceServiceClient::new(to).max_decoding_message_size(ANSWER_BYTES_MAX);
        let partly = client.export(request).await?.into_inner().partial_success;
        Ok(partly.map(|partly| (partly.rejected_spans, partly.error_message)).unwrap_or_default())
    }
}

/// How a collector does with one signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Takes,
    /// It takes some of it.
    Rejects,
    Fails,
}

/// A collector of one signal.
pub struct Collector {
    channel: Channel,
    headers: HeaderMap,
    timeout: Duration,
    target: Target,
    /// `metrics` or `traces`.
    what: &'static str,
    clock: Arc<dyn Clock>,
    /// What the log says, and since when.
    told: Standing,
    told_at: Option<Deadline>,
}

impl Collector {
    /// Where a signal goes. Nothing is connected yet; call it on a runtime.
    pub fn new(
        what: &'static str,
        target: &Target,
        signal: &Signal,
        authorities: Option<&Path>,
        clock: Arc<dyn Clock>,
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
            .keep_alive_timeout(KEEPALIVE)
            // A connection that died in silence is found before the next message is lost on it.
            .keep_alive_while_idle(true);
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
        Ok(Self { channel, headers, timeout, target, what, clock, told: Standing::Takes, told_at: None })
    }

    /// Sends a message, and says whether it was taken. A failure that may pass is tried again, once more at most after `stop`,
    /// and not before the collector wants it: it takes `TRIES_MAX` timeouts and `PAUSES_MAX` at most.
    pub async fn send<M: Export>(&mut self, message: &M, stop: &CancellationToken) -> bool {
        let until = self.clock.now().plus(self.timeout * TRIES_MAX + PAUSES_MAX);
        let mut pause = PAUSE;
        for attempt in 1.. {
            let status = match self.try_once(message).await {
                Ok((rejected, why)) => {
                    self.taken(rejected, &why);
                    return true;
                }
                Err(status) => status,
            };
            let wanted = wanted_pause(&status);
            let next = wanted.unwrap_or_default().saturating_add(shortened(pause));
            let is_last = attempt == TRIES_MAX || next > until.remaining(self.clock.now());
            if is_last || !may_pass(&status) || stop.is_cancelled() {
                self.failed(&status);
                return false;
            }
            tokio::select! {
                () = sleep(next) => {}
                () = stop.cancelled() => if wanted.is_some() {
                    self.failed(&status);
                    return false;
                }
            }
            pause *= 2;
        }
        false
    }

    async fn try_once<M: Export>(&self, message: &M) -> Result<(i64, String), Status> {
        let mut request = Request::new(message.clone());
        *request.metadata_mut() = MetadataMap::from_headers(self.headers.clone());
        let late = |_| Status::deadline_exceeded(format!("no answer within {} ms", self.timeout.as_millis()));
        timeout(self.timeout, M::send(request, self.channel.clone())).await.map_err(late)?
    }

    /// Whether the log is to have a line about this: it says something else, and has not had a line for a while. What is not
    /// told now is told later, if it still is so then.
    fn is_news(&mut self, standing: Standing) -> bool {
        let now = self.clock.now();
        let is_early = self.told_at.is_some_and(|at| at.plus(LINE_EVERY) > now);
        if standing == self.told || is_early {
            return false;
        }
        (self.told, self.told_at) = (standing, Some(now));
        true
    }

    fn taken(&mut self, rejected: i64, why: &str) {
        let standing = if rejected > 0 { Standing::Rejects } else { Standing::Takes };
        if !self.is_news(standing) {
            return;
        }
        let (what, target) = (self.what, &self.target);
        if standing == Standing::Takes {
            tracing::info!(what, %target, "the collector takes them again");
        } else {
            let why = cut(why);
            tracing::warn!(what, %target, rejected, why, "the collector does not take all of them; told once until it does");
        }
    }

    fn failed(&mut self, status: &Status) {
        if !self.is_news(Standing::Fails) {
            return;
        }
        let (what, target, code) = (self.what, &self.target, status.code());
        let error = cut(&innermost(status));
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

/// The bottom of what went wrong: what is above it adds nothing for people.
fn innermost(status: &Status) -> String {
    let mut error = status.source();
    while let Some(source) = error.and_then(std::error::Error::source) {
        error = Some(source);
    }
    error.map_or_else(|| status.message().to_owned(), ToString::to_string)
}

/// Whether to try again, as OTLP has it; but not after OUT_OF_RANGE, which is also what an answer is that is too long.
fn may_pass(status: &Status) -> bool {
    match status.code() {
        Code::Cancelled | Code::DeadlineExceeded | Code::Aborted | Code::Unavailable | Code::DataLoss => true,
        // Only a collector that says when it has room again.
        Code::ResourceExhausted => wanted_pause(status).is_some(),
        _ => false,
    }
}

/// `google.rpc.Status`, as far as it is read.
#[derive(Clone, PartialEq, prost::Message)]
struct Details {
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

/// How long the collector wants to be left alone, if it says.
fn wanted_pause(status: &Status) -> Option<Duration> {
    let details = Details::decode(status.details()).ok()?.details;
    let info = details.iter().find(|any| any.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let pause = RetryInfo::decode(&*info.value).ok()?.retry_delay.unwrap_or_default();
    // What is negative is no time.
    Some(Duration::try_from(pause).unwrap_or_default())
}

/// Something from a half of it to all.
fn shortened(pause: Duration) -> Duration {
    pause - pause.mul_f64((random() as f64 / u64::MAX as f64) / 2.0)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

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
        types::{ManualClock, Timestamp},
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
        let clock = Arc::new(ManualClock::at(Timestamp::ZERO));
        Collector::new("traces", &target.expect("a target"), &signal, None, clock).expect("plaintext")
    }

    fn full_for(retry_delay: prost_types::Duration) -> Status {
        let info = RetryInfo { retry_delay: Some(retry_delay) }.encode_to_vec();
        let any = prost_types::Any { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value: info };
        Status::with_details(Code::ResourceExhausted, "full", Details { details: vec![any] }.encode_to_vec().into())
    }

    #[test]
    fn a_collector_says_when_it_wants_to_be_asked_again() {
        let pause = |seconds, nanos| wanted_pause(&full_for(prost_types::Duration { seconds, nanos }));
        assert_eq!(pause(2, 500_000_000), Some(Duration::from_millis(2500)));
        assert_eq!(pause(-2, 0), Some(Duration::ZERO));
        assert!(pause(i64::MAX, 0) > Some(Duration::from_secs(1 << 40)));
        assert_eq!(wanted_pause(&Status::unavailable("x")), None);
        let nonsense = Status::with_details(Code::ResourceExhausted, "x", "google.rpc.RetryInfo".into());
        assert_eq!(wanted_pause(&nonsense), None);
        for _ in 0..1000 {
            assert!((PAUSE / 2..=PAUSE).contains(&shortened(PAUSE)));
        }
    }

    #[tokio::test]
    async fn a_collector_that_comes_and_goes_costs_one_line_a_minute() {
        let clock = Arc::new(ManualClock::at(Timestamp::ZERO));
        let target = Target::parse("http://127.0.0.1:1").expect("an address").expect("a target");
        let signal = Config::default().traces.signal;
        let mut collector = Collector::new("traces", &target, &signal, None, clock.clone()).expect("plaintext");
        assert!(!collector.is_news(Standing::Takes));
        assert!(collector.is_news(Standing::Fails), "the first is told at once");
        let mut lines = 0;
        for second in 0..600 {
            clock.advance(Duration::from_secs(1));
            let standing = [Standing::Takes, Standing::Fails, Standing::Rejects][second % 3];
            lines += usize::from(collector.is_news(standing));
        }
        assert!((5..=10).contains(&lines), "{lines} in ten minutes");
        clock.advance(LINE_EVERY);
        collector.is_news(Standing::Takes);
        clock.advance(LINE_EVERY);
        assert!(collector.is_news(Standing::Fails));
        assert!(!collector.is_news(Standing::Takes), "it was told a moment ago");
        clock.advance(LINE_EVERY);
        assert!(collector.is_news(Standing::Takes), "it still is so");
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again_and_nothing_else_is() {
        let full = || Status::resource_exhausted("full");
        let says_when = || full_for(prost_types::Duration { seconds: 0, nanos: 1_000_000 });
        let too_long = || full_for(prost_types::Duration { seconds: 3600, nanos: 0 });
        for (answers, taken, left) in [
            (vec![Err(Status::unavailable("x")), Ok(())], true, 0),
            (vec![Err(says_when()), Ok(())], true, 0),
            (vec![Err(full()), Ok(())], false, 1),
            (vec![Err(too_long()), Ok(())], false, 1),
            (vec![Err(Status::out_of_range("x")), Ok(())], false, 1),
            (vec![Err(Status::unauthenticated("x")), Ok(())], false, 1),
            (vec![Err(Status::unimplemented("x")), Ok(())], false, 1),
        ] {
            let said = format!("{answers:?}");
            let script: Answers = Arc::new(Mutex::new(answers.into()));
            let mut collector = collector(&script).await;
            let request = ExportTraceServiceRequest::default();
            assert_eq!(collector.send(&request, &CancellationToken::new()).await, taken, "{said}");
            assert_eq!(script.lock().len(), left, "{said}");
            assert_eq!(collector.told, if taken { Standing::Takes } else { Standing::Fails });
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
