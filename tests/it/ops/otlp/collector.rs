//! A collector of OpenTelemetry, as far as these tests need one: it keeps what it is sent.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use ferromq::proto::opentelemetry::proto::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::{Metric, metric::Data, number_data_point},
    trace::v1::Span,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status, metadata::MetadataMap};
use tower::Service as _;

/// How long what is awaited may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came in one call.
pub enum Heard {
    Metrics(ExportMetricsServiceRequest, MetadataMap),
    Traces(ExportTraceServiceRequest),
}

#[derive(Clone)]
struct Ears(Arc<Mutex<mpsc::Sender<Heard>>>);

impl Ears {
    fn hear(&self, heard: Heard) {
        // The test that heard enough is over.
        drop(self.0.lock().send(heard));
    }
}

#[tonic::async_trait]
impl MetricsService for Ears {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.hear(Heard::Metrics(request, metadata));
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl TraceService for Ears {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.hear(Heard::Traces(request.into_inner()));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

pub struct Collector {
    pub at: SocketAddr,
    heard: mpsc::Receiver<Heard>,
    /// Everything so far, as it was on the wire.
    pub bytes: Vec<u8>,
    _runtime: tokio::runtime::Runtime,
}

impl Collector {
    pub fn start() -> Self {
        Self::start_by(None)
    }

    pub fn start_by(tls: Option<TlsAcceptor>) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let at = listener.local_addr().expect("bound");
        let (say, heard) = mpsc::channel();
        let ears = Ears(Arc::new(Mutex::new(say)));
        runtime.spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (ears, tls) = (ears.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(tcp, ears).await,
                        // Who does not believe the certificate goes away.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(tcp).await {
                                serve(stream, ears).await;
                            }
                        }
                    }
                });
            }
        });
        Self { at, heard, bytes: Vec::new(), _runtime: runtime }
    }

    fn next(&mut self, within: Duration) -> Option<Heard> {
        let heard = self.heard.recv_timeout(within).ok()?;
        match &heard {
            Heard::Metrics(request, _) => self.bytes.extend(request.encode_to_vec()),
            Heard::Traces(request) => self.bytes.extend(request.encode_to_vec()),
        }
        Some(heard)
    }

    /// Waits for a snapshot of the metrics that is as wanted; all of them are in one message.
    pub fn metrics(&mut self, wanted: impl Fn(&[Metric]) -> bool) -> (ExportMetricsServiceRequest, MetadataMap) {
        let since = Instant::now();
        while let Some(heard) = self.next(PATIENCE.saturating_sub(since.elapsed())) {
            if let Heard::Metrics(request, metadata) = heard
                && wanted(metrics_of(&request))
            {
                return (request, metadata);
            }
        }
        panic!("the metrics did not come");
    }

    /// Waits for so many spans.
    pub fn spans(&mut self, count: usize) -> Vec<Span> {
        let (mut spans, since) = (Vec::new(), Instant::now());
        while spans.len() < count
            && let Some(heard) = self.next(PATIENCE.saturating_sub(since.elapsed()))
        {
            if let Heard::Traces(request) = heard {
                let all = request.resource_spans.into_iter().flat_map(|of| of.scope_spans).flat_map(|of| of.spans);
                spans.extend(all);
            }
        }
        assert!(spans.len() >= count, "{} spans of {count} came", spans.len());
        spans
    }

    /// Everything that has come until now.
    pub fn rest(&mut self) -> Vec<Heard> {
        std::iter::from_fn(|| self.next(Duration::ZERO)).collect()
    }
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, ears: Ears) {
    let routes = tonic::service::Routes::new(MetricsServiceServer::new(ears.clone()))
        .add_service(TraceServiceServer::new(ears))
        .prepare();
    let serve = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let mut routes = routes.clone();
        async move { Ok::<_, Infallible>(routes.call(request.map(tonic::body::Body::new)).await.expect("infallible")) }
    });
    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    // A connection that breaks is the server's business.
    drop(http.serve_connection(TokioIo::new(io), serve).await);
}

pub fn metrics_of(request: &ExportMetricsServiceRequest) -> &[Metric] {
    &request.resource_metrics[0].scope_metrics[0].metrics
}

/// An attribute as text.
pub fn attribute(of: &[KeyValue], key: &str) -> Option<String> {
    let found = of.iter().find(|attribute| attribute.key == key)?;
    Some(match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(n) => n.to_string(),
        Value::BoolValue(is) => is.to_string(),
        Value::DoubleValue(n) => n.to_string(),
    })
}

/// Metrics as the lines that the page has for them.
pub fn as_lines(metrics: &[Metric]) -> Vec<String> {
    let mut lines = Vec::new();
    for metric in metrics {
        let name = &metric.name;
        match metric.data.as_ref().expect("data") {
            Data::Gauge(gauge) => gauge.data_points.iter().for_each(|p| lines.push(number(name, p))),
            Data::Sum(sum) => {
                assert!(sum.is_monotonic && name.ends_with("_total"), "{name}");
                sum.data_points.iter().for_each(|p| lines.push(number(name, p)));
            }
            Data::Histogram(histogram) => {
                for point in &histogram.data_points {
                    let mut up_to = 0;
                    let bounds = point.explicit_bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
                    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1, "{name}");
                    for (bound, count) in bounds.zip(&point.bucket_counts) {
                        up_to += count;
                        lines.push(format!("{name}_bucket{{{}}} {up_to}", labels(&point.attributes, Some(&bound))));
                    }
                    let labels = labels(&point.attributes, None);
                    lines.push(format!("{name}_sum{{{labels}}} {}", point.sum.expect("a sum")));
                    lines.push(format!("{name}_count{{{labels}}} {}", point.count));
                }
            }
        }
    }
    lines
}

fn number(name: &str, point: &ferromq::proto::opentelemetry::proto::metrics::v1::NumberDataPoint) -> String {
    let value = match point.value.expect("a value") {
        number_data_point::Value::AsInt(n) => n.to_string(),
        number_data_point::Value::AsDouble(n) => n.to_string(),
    };
    format!("{name}{{{}}} {value}", labels(&point.attributes, None))
}

fn labels(attributes: &[KeyValue], bound: Option<&str>) -> String {
    let named = attributes.iter().map(|a| format!("{}=\"{}\"", a.key, attribute(attributes, &a.key).expect("a value")));
    named.chain(bound.map(|bound| format!("le=\"{bound}\""))).collect::<Vec<_>>().join(",")
}
