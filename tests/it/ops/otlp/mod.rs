//! Metrics and traces on their way to a collector: what arrives there, and what becomes of the server when nobody takes it.

mod collector;

use std::{
    collections::BTreeSet,
    net::TcpListener,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use ferromq::proto::{
    OTLP_DESCRIPTORS,
    opentelemetry::proto::trace::v1::{Span, status::StatusCode},
    v2::{self, messaging_service_client::MessagingServiceClient, receive_message_response::Content},
};
use prost::Message as _;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};
use tonic::{Request, transport::Channel};

use self::collector::{Collector, Heard, as_lines, attribute, metrics_of};
use super::http::{get, sample};
use crate::harness::{self, Server, directory, run, stderr, text};

/// What no export may have in it.
const MARKER: &str = "xSECRETx";
/// The line of the log about a collector that takes nothing.
const WARNING: &str = "the collector does not take them";

fn set(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().flat_map(|(key, value)| ["--set".to_owned(), format!("{key}={value}")]).collect()
}

fn start(dir: &Path, pairs: &[(&str, &str)]) -> Server {
    let args = set(pairs);
    Server::start_with(dir, &args.iter().map(String::as_str).collect::<Vec<_>>())
}

fn parent(trace: u8) -> String {
    format!("00-{}-{}-01", format!("{trace:02x}").repeat(16), format!("{trace:02x}").repeat(8))
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// A client that says of which trace its calls are.
struct Client {
    api: MessagingServiceClient<Channel>,
    parent: Option<String>,
}

impl Client {
    async fn connect(server: &Server) -> Self {
        let api = MessagingServiceClient::connect(format!("http://{}", server.endpoint())).await.expect("it listens");
        Self { api, parent: None }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("x-mq-client-id", "traced-client".parse().expect("ASCII"));
        if let Some(parent) = &self.parent {
            request.metadata_mut().insert("traceparent", parent.parse().expect("ASCII"));
        }
        request
    }

    async fn send(&mut self, topic: &str, made_in: Option<&str>) -> v2::Code {
        let message = v2::Message {
            topic: Some(v2::Resource { name: topic.into(), ..Default::default() }),
            user_properties: [("note".to_owned(), MARKER.to_owned())].into(),
            system_properties: Some(v2::SystemProperties {
                message_id: "01A4BB6D19F2C41A2B0A0B0C0D00000005".into(),
                message_type: v2::MessageType::Normal.into(),
                body_encoding: v2::Encoding::Identity.into(),
                keys: vec![MARKER.into()],
                tag: Some(MARKER.into()),
                trace_context: made_in.map(str::to_owned),
                ..Default::default()
            }),
            body: MARKER.into(),
        };
        let request = self.request(v2::SendMessageRequest { messages: vec![message] });
        let answer = self.api.send_message(request).await.expect("an answer").into_inner();
        answer.status.expect("a status").code()
    }

    async fn receive(&mut self, topic: &str, group: &str) -> usize {
        let resource = |name: &str| v2::Resource { name: name.into(), ..Default::default() };
        let request = self.request(v2::ReceiveMessageRequest {
            group: Some(resource(group)),
            message_queue: Some(v2::MessageQueue { topic: Some(resource(topic)), id: -1, ..Default::default() }),
            batch_size: 32,
            invisible_duration: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
            long_polling_timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
            ..Default::default()
        });
        let mut answers = self.api.receive_message(request).await.expect("an answer").into_inner();
        let mut messages = 0;
        while let Some(answer) = answers.message().await.expect("no error") {
            messages += usize::from(matches!(answer.content, Some(Content::Message(_))));
        }
        messages
    }
}

#[test]
fn metrics_arrive_with_the_names_labels_and_numbers_of_the_page() {
    let (dir, mut collector) = (directory(), Collector::start());
    let target = format!("http://{}", collector.at);
    let server = start(
        dir.path(),
        &[
            ("metricsExporterType", "OTLP_GRPC"),
            ("metricsGrpcExporterTarget", &target),
            ("metricGrpcExporterIntervalInMills", "1000"),
            ("metricsGrpcExporterHeader", "x-token:sesame"),
            ("metricsLabel", "region:eu"),
        ],
    );
    assert!(server.boot_text().contains(&format!("metrics to {target}")), "{}", server.boot_text());
    for body in ["a", "b", "c"] {
        assert!(server.client_command(&["produce", "orders", body]).status.success());
    }
    let consumed = server.client_command(&["consume", "orders", "--group", "billing", "--count", "2"]);
    assert!(consumed.status.success(), "{}", stderr(&consumed));
    let page = get(&server.ops(), "/metrics").body;
    // Taken after the page.
    collector.rest();
    let (request, metadata) = collector.metrics(|_| true);
    assert_eq!(metadata.get("x-token").expect("the header").to_str().expect("ASCII"), "sesame");
    let metrics = metrics_of(&request);
    let names: BTreeSet<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
    let of_page: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert_eq!(names, of_page);
    let lines: BTreeSet<String> = as_lines(metrics).into_iter().collect();
    let steady = ["rocketmq_messages_", "rocketmq_throughput_", "rocketmq_message_size", "rocketmq_send_to_dlq"];
    let is_steady = |line: &&str| {
        steady.iter().any(|name| line.starts_with(name))
            || line.starts_with("rocketmq_rpc_latency") && line.contains("\"send_message\"")
            || line.starts_with("ferromq_build_info")
    };
    let steady: Vec<&str> = page.lines().filter(is_steady).collect();
    assert!(steady.len() > 20 && steady.iter().all(|line| line.contains("region=\"eu\"")), "{steady:#?}");
    for line in steady {
        assert!(lines.contains(line), "{line} did not arrive; what did:\n{lines:#?}");
    }
    let resource = request.resource_metrics[0].resource.as_ref().expect("a resource");
    let about = |key: &str| attribute(&resource.attributes, key);
    assert_eq!(about("service.name").as_deref(), Some("ferromq"));
    assert_eq!(about("service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
    let host = about("host.name").expect("a host");
    assert_eq!(about("service.instance.id"), Some(format!("broker-a@{host}")));
    assert_eq!((about("cluster").as_deref(), about("node_id").as_deref()), (Some("DefaultCluster"), Some("broker-a")));
}

#[test]
fn calls_go_on_with_their_traces_and_tell_the_status_of_their_answers() {
    let (dir, mut collector) = (directory(), Collector::start());
    let target = format!("http://{}", collector.at);
    let server = start(
        dir.path(),
        &[
            ("tracesGrpcExporterTarget", &target),
            ("tracesGrpcExporterIntervalInMills", "100"),
            ("tracesSampleRatio", "0"),
        ],
    );
    block_on(async {
        let mut client = Client::connect(&server).await;
        assert_eq!(client.send("orders", None).await, v2::Code::Ok);
        client.parent = Some(parent(1));
        assert_eq!(client.send("orders", Some(&parent(0xa))).await, v2::Code::Ok);
        client.parent = Some(parent(2));
        assert_eq!(client.send("no such topic", None).await, v2::Code::IllegalTopic);
        client.parent = Some(parent(3));
        let mut received = 0;
        while received < 2 {
            received += client.receive("orders", "billing").await;
        }
    });
    let mut spans = collector.spans(3);
    // Polls may have taken one message each.
    spans.extend(collector.rest().into_iter().flat_map(|heard| match heard {
        Heard::Traces(request) => {
            request.resource_spans.into_iter().flat_map(|of| of.scope_spans).flat_map(|of| of.spans).collect()
        }
        Heard::Metrics(..) => Vec::new(),
    }));
    let of = |trace: u8| spans.iter().filter(move |span| span.trace_id == [trace; 16]).collect::<Vec<_>>();
    assert_eq!(of(1).len() + of(2).len() + of(3).len(), spans.len(), "only what its caller wants traced: {spans:#?}");
    let told = |span: &Span, key: &str| attribute(&span.attributes, key).unwrap_or_default();
    let [sent] = of(1)[..] else { panic!("{spans:#?}") };
    assert_eq!(
        (&sent.parent_span_id[..], &*sent.name),
        (&[1; 8][..], "apache.rocketmq.v2.MessagingService/SendMessage")
    );
    assert!(sent.end_time_unix_nano > sent.start_time_unix_nano);
    for (key, value) in [
        ("rpc.system", "grpc"),
        ("rpc.method", "SendMessage"),
        ("messaging.system", "rocketmq"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", "orders"),
        ("messaging.client.id", "traced-client"),
        ("messaging.message.id", "01A4BB6D19F2C41A2B0A0B0C0D00000005"),
        ("messaging.batch.message_count", "1"),
        ("rocketmq.status.code", "20000"),
        ("rocketmq.status.name", "OK"),
    ] {
        assert_eq!(told(sent, key), value, "{key} of {sent:#?}");
    }
    assert_eq!(sent.links[0].trace_id, [0xa; 16]);
    let [refused] = of(2)[..] else { panic!("{spans:#?}") };
    assert_eq!(
        (told(refused, "rocketmq.status.code"), told(refused, "error.type")),
        ("40002".into(), "ILLEGAL_TOPIC".into())
    );
    assert_eq!(refused.status.as_ref().expect("a status").code(), StatusCode::Unset);
    let received = of(3);
    assert!(received.iter().all(|span| told(span, "messaging.consumer.group.name") == "billing"));
    let links: Vec<_> = received.iter().flat_map(|span| &span.links).map(|link| &link.trace_id[..]).collect();
    assert_eq!(links, [[0xa; 16]], "the span of the send that left its context in the message");
    let counted =
        received.iter().filter_map(|span| told(span, "messaging.batch.message_count").parse::<u64>().ok()).sum::<u64>();
    assert_eq!(counted, 2);
}

#[test]
fn nothing_that_messages_carry_is_exported() {
    let (dir, mut collector) = (directory(), Collector::start());
    let target = format!("http://{}", collector.at);
    let server = start(
        dir.path(),
        &[
            ("metricsExporterType", "OTLP_GRPC"),
            ("metricsGrpcExporterTarget", &target),
            ("tracesGrpcExporterTarget", &target),
            ("tracesSampleRatio", "1"),
        ],
    );
    block_on(async {
        let mut client = Client::connect(&server).await;
        assert_eq!(client.send("orders", None).await, v2::Code::Ok);
        assert_eq!(client.receive("orders", "billing").await, 1);
    });
    assert_eq!(server.stop().status.code(), Some(0));
    let (mut traces, mut metrics) = (0, 0);
    for heard in collector.rest() {
        match heard {
            Heard::Metrics(..) => metrics += 1,
            Heard::Traces(_) => traces += 1,
        }
    }
    assert!(traces > 0 && metrics > 0, "{traces} messages of traces, {metrics} of metrics");
    let found = |what: &str| memchr::memmem::find(&collector.bytes, what.as_bytes()).is_some();
    assert!(found("orders") && found("traced-client"), "the search finds what is there");
    assert!(!found(MARKER), "a body, key, tag or property was exported");
}

#[test]
fn the_last_export_tells_what_happened_until_the_end() {
    let (dir, mut collector) = (directory(), Collector::start());
    let target = format!("http://{}", collector.at);
    let server = start(
        dir.path(),
        &[
            ("metricsExporterType", "OTLP_GRPC"),
            ("metricsGrpcExporterTarget", &target),
            ("metricGrpcExporterIntervalInMills", "3600000"),
            ("tracesGrpcExporterTarget", &target),
            ("tracesGrpcExporterIntervalInMills", "60000"),
            ("tracesSampleRatio", "1"),
        ],
    );
    assert!(server.client_command(&["produce", "orders", "x"]).status.success());
    assert_eq!(server.stop().status.code(), Some(0));
    let (mut lines, mut spans) = (Vec::new(), Vec::new());
    for heard in collector.rest() {
        match heard {
            Heard::Metrics(request, _) => lines.extend(as_lines(metrics_of(&request))),
            Heard::Traces(request) => spans.push(request),
        }
    }
    let told = |parts: &[&str]| sample(&lines.join("\n"), parts);
    assert_eq!(told(&["rocketmq_messages_in_total{", "topic=\"orders\""]), Some(1.0), "{lines:#?}");
    assert_eq!(told(&["ferromq_ready{"]), Some(0.0));
    assert!(spans.iter().any(|request| format!("{request:?}").contains("SendMessage")));
}

/// Waits until so many exports of both signals were given up.
fn wait_for_failures(server: &Server, count: f64) {
    let since = Instant::now();
    loop {
        let page = get(&server.ops(), "/metrics").body;
        let failed = |signal: &str| {
            let parts = ["ferromq_otlp_exports_total{", signal, "result=\"failure\""];
            sample(&page, &parts).is_some_and(|failed| failed >= count)
        };
        if failed("signal=\"metrics\"") && failed("signal=\"traces\"") {
            return;
        }
        assert!(since.elapsed() < Duration::from_secs(120), "{page}");
        assert!(server.client_command(&["produce", "t", "x"]).status.success());
    }
}

fn to(target: &str) -> [(&'static str, &str); 7] {
    [
        ("metricsExporterType", "OTLP_GRPC"),
        ("metricsGrpcExporterTarget", target),
        ("metricGrpcExporterIntervalInMills", "1000"),
        ("metricGrpcExporterTimeOutInMills", "500"),
        ("tracesGrpcExporterTarget", target),
        ("tracesGrpcExporterTimeOutInMills", "500"),
        ("tracesSampleRatio", "1"),
    ]
}

#[test]
fn a_server_whose_collector_is_not_there_serves_stops_and_says_it_once() {
    let closed = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let dir = directory();
    let server = start(dir.path(), &to(&format!("http://{closed}")));
    wait_for_failures(&server, 2.0);
    let since = Instant::now();
    let ended = server.stop();
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    let warnings: Vec<_> = ended.log.lines().filter(|line| line.contains(WARNING)).collect();
    assert_eq!(warnings.len(), 2, "one for each signal: {warnings:#?}");
    assert!(warnings.iter().all(|line| line.contains(&closed.to_string())), "{warnings:#?}");
}

#[test]
fn a_server_whose_collector_hangs_serves_and_stops_in_its_time() {
    // It takes connections, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let dir = directory();
    let server = start(dir.path(), &to(&format!("http://{}", silent.local_addr().expect("bound"))));
    wait_for_failures(&server, 1.0);
    let since = Instant::now();
    let ended = server.stop();
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
    assert_eq!(ended.log.lines().filter(|line| line.contains(WARNING)).count(), 2, "{}", ended.log);
    let again = start(dir.path(), &[]);
    assert!(again.client_command(&["consume", "t", "--group", "g", "--count", "1"]).status.success());
}

#[test]
fn a_collector_with_tls_is_believed_when_its_authority_is_named_and_not_otherwise() {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let dir = directory();
    let authority = harness::file(dir.path(), "ca.pem", &made.cert.pem());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a certificate and its key");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut collector = Collector::start_by(Some(TlsAcceptor::from(Arc::new(config))));
    let target = format!("https://{}", collector.at);
    let mut settings = to(&target).to_vec();
    settings.push(("otlpTrustedCertPath", text(&authority)));
    let server = start(dir.path(), &settings);
    collector.metrics(|_| true);
    drop(server);
    // Some other authority.
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let other = harness::file(dir.path(), "other.pem", &other.cert.pem());
    settings.pop();
    settings.push(("otlpTrustedCertPath", text(&other)));
    collector.rest();
    let server = start(dir.path(), &settings);
    wait_for_failures(&server, 1.0);
    let ended = server.stop();
    assert!(ended.log.contains("certificate") && ended.log.contains(WARNING), "{}", ended.log);
    assert!(collector.rest().is_empty());
    // No file at all.
    settings.pop();
    settings.push(("otlpTrustedCertPath", "/not/there.pem"));
    let store = dir.path().join("another");
    let args = set(&settings);
    let args =
        [&["server", "--store", text(&store)][..], &args.iter().map(String::as_str).collect::<Vec<_>>()].concat();
    let refused = run(&[
        &args[..],
        &["--set", "grpcServerPort=0", "--set", "adminServerPort=0", "--set", "metricsPromExporterPort=0"],
    ]
    .concat());
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    let said = stderr(&refused);
    assert!(said.contains("/not/there.pem") && said.contains("otlpTrustedCertPath"), "{said}");
}

/// The official types for Python read what arrives, and find nothing in it that they do not know.
#[test]
fn the_official_types_read_what_is_sent() {
    let (dir, mut collector) = (directory(), Collector::start());
    let target = format!("http://{}", collector.at);
    let server = start(dir.path(), &to(&target));
    assert!(server.client_command(&["produce", "orders", "x"]).status.success());
    let (metrics, _) = collector.metrics(|metrics| as_lines(metrics).iter().any(|line| line.contains("\"orders\"")));
    std::fs::write(dir.path().join("metrics.bin"), metrics.encode_to_vec()).expect("written");
    assert_eq!(server.stop().status.code(), Some(0));
    let traces = collector.rest().into_iter().find_map(|heard| match heard {
        Heard::Traces(request) => Some(request),
        Heard::Metrics(..) => None,
    });
    std::fs::write(dir.path().join("traces.bin"), traces.expect("traces").encode_to_vec()).expect("written");
    let read = match official(dir.path()) {
        Ok(read) => read,
        Err(why) => return harness::skipped(&format!("the official types need python3 with pip: {why}")),
    };
    assert_eq!(read["unknown"], serde_json::json!([]), "fields that the official types do not have");
    let scope = &read["metrics"]["resourceMetrics"][0]["scopeMetrics"][0];
    let named = |name: &str| scope["metrics"].as_array().expect("metrics").iter().find(|m| m["name"] == name).cloned();
    let sum = named("rocketmq_messages_in_total").expect("a counter")["sum"].clone();
    assert_eq!((&sum["isMonotonic"], &sum["dataPoints"][0]["asInt"]), (&true.into(), &"1".into()), "{sum}");
    assert_eq!(sum["aggregationTemporality"], "AGGREGATION_TEMPORALITY_CUMULATIVE");
    let sizes = named("rocketmq_message_size").expect("a histogram")["histogram"]["dataPoints"][0].clone();
    assert_eq!((&sizes["count"], &sizes["bucketCounts"][0]), (&"1".into(), &"1".into()), "{sizes}");
    let spans = &read["traces"]["resourceSpans"][0]["scopeSpans"][0]["spans"];
    assert!(spans.as_array().expect("spans").iter().all(|span| span["kind"] == "SPAN_KIND_SERVER"), "{spans}");
    let ours = prost_types::FileDescriptorSet::decode(OTLP_DESCRIPTORS).expect("a descriptor set");
    let methods: Vec<_> = (ours.file.iter())
        .flat_map(|file| file.service.iter().map(move |service| format!("/{}.{}", file.package(), service.name())))
        .map(|service| format!("{service}/Export"))
        .collect();
    assert_eq!(read["methods"], serde_json::json!(methods));
}

fn official(dir: &Path) -> Result<serde_json::Value, String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/ops/otlp");
    let wheels = dir.join("wheels");
    let output = |command: &mut Command| {
        let output = command.output().map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    };
    output(
        Command::new("python3")
            .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"])
            .args(["--only-binary", ":all:", "--dest"])
            .arg(&wheels)
            .arg("--requirement")
            .arg(here.join("requirements.txt")),
    )?;
    let read = output(Command::new("python3").arg("-B").arg(here.join("read.py")).args([&wheels, dir]))?;
    serde_json::from_slice(&read).map_err(|error| error.to_string())
}
