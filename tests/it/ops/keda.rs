//! KEDA's external scaler, as KEDA calls it.

use std::collections::HashMap;

use ferromq::proto::keda::{GetMetricsRequest, ScaledObjectRef, external_scaler_client::ExternalScalerClient};
use tonic::Code;

use crate::harness::{Server, directory, stderr};

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
