//! OTLP: metrics and traces on their way to a collector of OpenTelemetry, by gRPC.
//!
//! The types are generated from OpenTelemetry's protocol, like all others; what is sent are the samples of the one table of
//! metrics, and spans that [`crate::observe::trace`] queued. Who asks when is [`crate::ops`].
//!
//! - [`config`]: where to, how often, how much.
//! - [`metrics`], [`spans`]: what is said.
//! - [`collector`]: how it gets there, and what is done when it does not.

mod collector;
mod config;
mod metrics;
mod spans;

pub use collector::{Collector, ConnectError, Export};
pub use config::{Config, Headers, Signal, Target, Traces};
pub use metrics::Snapshot;
pub use spans::requests as requests_of_spans;

use crate::{
    meter::Counter,
    observe::metrics::Names,
    proto::opentelemetry::proto::{
        common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
        resource::v1::Resource,
    },
    types::Timestamp,
};

/// Bytes of one message to a collector, which takes 4 MiB unless it is told otherwise.
const MESSAGE_BYTES_MAX: usize = 2 << 20;

/// What became of what was exported.
#[derive(Default)]
pub struct Counts {
    pub metrics: Sent,
    pub traces: Sent,
    /// Spans that a collector took, that the queue had no room for, and that no collector took.
    pub sent: Counter,
    pub dropped: Counter,
    pub lost: Counter,
}

/// Messages of one signal.
#[derive(Default)]
pub struct Sent {
    pub taken: Counter,
    pub failed: Counter,
}

/// Who says it: the same for every signal.
#[derive(Clone, Debug)]
pub struct About {
    resource: Resource,
    scope: InstrumentationScope,
}

impl About {
    /// `names` has the cluster, the node, and what an operator added; `host` is what this machine is called. Brokers of one name
    /// on several hosts are several instances: their counters would otherwise be taken for one that jumps.
    pub fn new(names: &Names, host: Option<&str>) -> Self {
        let found = |name: &str| names.common.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let mut attributes = vec![text("service.name", "ferromq"), text("service.version", env!("CARGO_PKG_VERSION"))];
        attributes.extend(found("cluster").map(|cluster| text("service.namespace", cluster)));
        let instance = |node: String| host.map_or_else(|| node.clone(), |host| format!("{node}@{host}"));
        attributes.extend(found("node_id").map(|node| text("service.instance.id", instance(node))));
        attributes.extend(host.map(|host| text("host.name", host)));
        attributes.extend(names.common.iter().map(|(name, value)| text(name, value.as_str())));
        let scope = InstrumentationScope { name: "ferromq".into(), version: env!("CARGO_PKG_VERSION").into() };
        Self { resource: Resource { attributes }, scope }
    }
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn whole(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

/// Nanoseconds since 1970; 0 for what was before.
fn nanos(at: Timestamp) -> u64 {
    u64::try_from(at.as_millis()).unwrap_or(0).saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_of_one_name_on_two_hosts_are_two_instances() {
        let names = Names { with_units: true, common: vec![("node_id".into(), "broker-a".into())] };
        for (host, instance) in [(Some("h1"), "broker-a@h1"), (Some("h2"), "broker-a@h2"), (None, "broker-a")] {
            let attributes = About::new(&names, host).resource.attributes;
            assert!(attributes.contains(&text("service.instance.id", instance)), "{attributes:?}");
            assert_eq!(attributes.iter().any(|attribute| attribute.key == "host.name"), host.is_some());
        }
    }
}
