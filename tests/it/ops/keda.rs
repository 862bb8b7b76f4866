//! KEDA's external scaler, as KEDA calls it.

use std::{collections::HashMap, fs, path::Path};

use ferromq::proto::keda::{GetMetricsRequest, ScaledObjectRef, external_scaler_client::ExternalScalerClient};
use tonic::{Code, transport::Channel};

use super::chart;
use crate::harness::{Server, directory, stderr, stdout};

fn trigger(metadata: &[(&str, &str)]) -> ScaledObjectRef {
    let scaler_metadata: HashMap<_, _> = metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    ScaledObjectRef { name: "workers".into(), namespace: "shop".into(), scaler_metadata }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

#[test]
fn a_workload_is_scaled_on_the_lag_of_its_group() {
    let dir = directory();
    let server = Server::start(dir.path());
    let send = |body: &str| assert!(server.client_command(&["produce", "orders", body]).status.success());
    let created = server.admin_command(&["topic", "create", "orders"]);
    assert!(created.status.success(), "{}", stderr(&created));
    let orders = trigger(&[("topic", "orders"), ("consumerGroup", "billing"), ("lagThreshold", "5")]);
    block_on(async {
        let mut keda = ExternalScalerClient::connect(format!("http://{}", server.ops())).await.expect("it listens");
        let mut active = keda.stream_is_active(orders.clone()).await.expect("a stream").into_inner();
        assert!(!active.message().await.expect("no error").expect("it says so at once").result);
        assert!(!keda.is_active(orders.clone()).await.expect("answered").into_inner().result);
        // A group that nobody has started yet has all of the topic before it.
        send("a");
        send("b");
        assert!(active.message().await.expect("no error").expect("it says what changed").result);
        assert!(keda.is_active(orders.clone()).await.expect("answered").into_inner().result);
        let spec = keda.get_metric_spec(orders.clone()).await.expect("answered").into_inner().metric_specs.remove(0);
        assert_eq!((spec.target_size, spec.target_size_float), (5, 5.0));
        let value = async |keda: &mut ExternalScalerClient<_>| {
            let request =
                GetMetricsRequest { scaled_object_ref: Some(orders.clone()), metric_name: spec.metric_name.clone() };
            let value = keda.get_metrics(request).await.expect("answered").into_inner().metric_values.remove(0);
            assert_eq!(value.metric_name, spec.metric_name);
            (value.metric_value, value.metric_value_float)
        };
        assert_eq!(value(&mut keda).await, (2, 2.0));
        let consumed = server.client_command(&["consume", "orders", "--group", "billing", "--count", "2"]);
        assert!(consumed.status.success(), "{}", stderr(&consumed));
        assert_eq!(value(&mut keda).await, (0, 0.0));
        assert!(!active.message().await.expect("no error").expect("it says what changed").result);
    });
}

#[test]
fn a_trigger_that_cannot_be_served_is_told_why() {
    let dir = directory();
    let server = Server::start(dir.path());
    block_on(async {
        let mut keda = ExternalScalerClient::connect(format!("http://{}", server.ops())).await.expect("it listens");
        let missing = keda.is_active(trigger(&[("topic", "orders")])).await.expect_err("no group");
        assert_eq!(missing.code(), Code::InvalidArgument);
        assert!(missing.message().contains("consumerGroup"), "{missing}");
        let strange = trigger(&[("topic", "orders"), ("consumerGroup", "g")]);
        let strange = keda.is_active(strange).await.expect_err("no such topic");
        assert_eq!(strange.code(), Code::NotFound);
        assert!(strange.message().contains("ferromq topic create orders"), "{strange}");
    });
}

/// What KEDA is told for a trigger.
fn value(server: &Server, of: &ScaledObjectRef) -> i64 {
    block_on(async {
        let mut keda = connect(server).await;
        let request = GetMetricsRequest { scaled_object_ref: Some(of.clone()), metric_name: "m".into() };
        let value = keda.get_metrics(request).await.expect("answered").into_inner().metric_values.remove(0);
        assert_eq!((value.metric_name.as_str(), value.metric_value as f64), ("m", value.metric_value_float));
        let active = keda.is_active(of.clone()).await.expect("answered").into_inner().result;
        assert_eq!(active, value.metric_value > 0, "whether anybody should run at all");
        value.metric_value
    })
}

async fn connect(server: &Server) -> ExternalScalerClient<Channel> {
    ExternalScalerClient::connect(format!("http://{}", server.ops())).await.expect("it listens")
}

#[test]
fn the_value_is_exact_for_every_kind_of_group_and_the_same_after_a_crash() {
    let dir = directory();
    let server = Server::start(dir.path());
    let does = |server: &Server, args: &[&str]| {
        let output = server.admin_command(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    };
    let client = |server: &Server, args: &[&str]| {
        let output = server.client_command(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    };
    does(&server, &["topic", "create", "steps", "--type", "fifo", "--queues", "1"]);
    does(&server, &["topic", "create", "news"]);
    does(&server, &["group", "create", "ordered", "--fifo"]);
    does(&server, &["group", "create", "caches", "--broadcast"]);
    client(&server, &["produce", "steps", "1", "2", "3", "--message-group", "a"]);
    client(&server, &["produce", "news", "1", "2", "3"]);
    let of = |topic, group| trigger(&[("topic", topic), ("consumerGroup", group)]);
    let (ordered, fresh) = (of("steps", "ordered"), of("news", "nobody"));
    client(&server, &["consume", "steps", "--group", "ordered", "--count", "1"]);
    let values =
        |server: &Server| [value(server, &ordered), value(server, &fresh), value(server, &of("news", "caches"))];
    // Clients of a broadcasting group begin at the end, so that none has anything before it.
    assert_eq!(values(&server), [2, 3, 0]);
    server.kill();
    let server = Server::start(dir.path());
    assert_eq!(values(&server), [2, 3, 0]);
    // What is in flight is not done either.
    client(&server, &["consume", "steps", "--group", "ordered", "--count", "1", "--no-ack"]);
    assert_eq!(value(&server, &ordered), 2);
}

#[test]
fn streams_end_with_the_server_and_say_why_when_their_topic_goes() {
    let dir = directory();
    let server = Server::start(dir.path());
    let topics = |args: &[&str]| assert!(server.admin_command(args).status.success(), "{args:?}");
    topics(&["topic", "create", "orders"]);
    topics(&["topic", "create", "news"]);
    block_on(async {
        let mut keda = connect(&server).await;
        let mut stream = async |topic| {
            let of = trigger(&[("topic", topic), ("consumerGroup", "g")]);
            let mut stream = keda.stream_is_active(of).await.expect("a stream").into_inner();
            assert!(!stream.message().await.expect("no error").expect("it says so at once").result);
            stream
        };
        let (mut orders, mut news) = (stream("orders").await, stream("news").await);
        topics(&["topic", "delete", "news"]);
        assert_eq!(news.message().await.expect_err("the topic is gone").code(), Code::NotFound);
        server.signal(rustix::process::Signal::TERM);
        // However it ends, it ends: KEDA comes again.
        drop(orders.message().await);
    });
    assert_eq!(server.ended().status.code(), Some(0));
}

#[test]
fn the_scaled_object_of_the_documentation_is_one_and_its_trigger_is_understood() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("observability/scaledobject.yaml");
    let text = fs::read_to_string(path).expect("it is kept");
    let Some(tools) = chart::tools() else { return };
    let objects = chart::valid(&tools, &text).unwrap_or_else(|complaints| panic!("{complaints}"));
    let planted = text.replace("lagThreshold: \"50\"", "lagThreshold: 50");
    assert!(planted != text && chart::valid(&tools, &planted).is_err(), "a number in metadata is refused by a cluster");
    let metadata = objects[0]["spec"]["triggers"][0]["metadata"].as_object().expect("a map");
    let metadata: Vec<(&str, &str)> = metadata.iter().map(|(k, v)| (k.as_str(), v.as_str().expect("text"))).collect();
    let dir = directory();
    let server = Server::start(dir.path());
    let created = server.admin_command(&["topic", "create", "orders"]);
    assert!(created.status.success(), "{}{}", stdout(&created), stderr(&created));
    let spec = block_on(async {
        let mut keda = connect(&server).await;
        let spec = keda.get_metric_spec(trigger(&metadata)).await.expect("answered");
        assert!(!keda.is_active(trigger(&metadata)).await.expect("answered").into_inner().result);
        spec.into_inner().metric_specs.remove(0)
    });
    assert_eq!(spec.target_size, 50);
}
