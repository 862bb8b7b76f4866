//! Metrics and probes.

use std::net::{IpAddr, Ipv4Addr};

use super::{Key, Rule, Unit};
use crate::observe::{
    metrics::catalogue,
    otlp::{Headers, Target},
};

/// Labels of `metricsLabel` at most.
const LABELS_MAX: usize = 32;
/// Labels that every sample has, and that of a histogram's buckets.
const COMMON: [&str; 4] = ["cluster", "node_type", "node_id", "le"];

pub static KEYS: &[Key] = &[
    Key {
        name: "metricsExporterType",
        aliases: &[],
        default: "PROM",
        doc: "PROM opens the port of operations: /metrics for Prometheus, /livez and /readyz for probes, KEDA's external \
              scaler over gRPC. OTLP_GRPC does that too, and sends the same metrics to metricsGrpcExporterTarget. DISABLE \
              does neither.",
        rule: Rule::Text {
            form: "PROM, OTLP_GRPC or DISABLE (LOG is not served)",
            set: |c, text| {
                // Apache takes names and numbers.
                let (open, otlp) = match text.to_ascii_uppercase().as_str() {
                    "PROM" | "2" => (true, false),
                    "OTLP_GRPC" | "1" => (true, true),
                    "DISABLE" | "0" => (false, false),
                    "LOG" | "3" => {
                        return Err("is not served; use PROM, which a collector can scrape, or OTLP_GRPC".to_owned());
                    }
                    _ => return Err("is not PROM, OTLP_GRPC or DISABLE".to_owned()),
                };
                (c.ops.enabled, c.ops.otlp.metrics_enabled) = (open, otlp);
                Ok(())
            },
        },
    },
    Key {
        name: "metricsPromExporterPort",
        aliases: &[],
        default: "5557",
        doc: "Port of operations; 0 takes a free one.",
        rule: Rule::Count { range: 0..=65535, set: |c, n| c.ops.listen.set_port(n as u16) },
    },
    Key {
        name: "metricsPromExporterHost",
        aliases: &[],
        default: "127.0.0.1",
        doc: "Address that the port of operations listens on; 0.0.0.0 or :: for all. It asks nobody for a password, and \
              tells the names of topics and groups.",
        rule: Rule::Text {
            form: "an IP address",
            set: |c, text| {
                // Apache's default is the empty text, which is an address of the machine there. It opens nothing here.
                let ip = if text.is_empty() { Some(IpAddr::from(Ipv4Addr::LOCALHOST)) } else { text.parse().ok() };
                c.ops.listen.set_ip(ip.ok_or_else(|| "is not an IP address, like 0.0.0.0 or ::".to_owned())?);
                Ok(())
            },
        },
    },
    Key {
        name: "metricsLabel",
        aliases: &[],
        default: "",
        doc: "Labels that every sample gets: key:value, joined by commas.",
        rule: Rule::Text {
            form: "key:value, joined by commas",
            set: |c, text| {
                c.ops.names.common = labels(text)?;
                Ok(())
            },
        },
    },
    Key {
        name: "metricsUnitSuffixEnable",
        aliases: &[],
        default: "true",
        doc: "Names of metrics end in their unit, as newer versions of RocketMQ have them \
              (rocketmq_rpc_latency_milliseconds), or do not, for older dashboards.",
        rule: Rule::Flag(|c, on| c.ops.names.with_units = on),
    },
    Key {
        name: "metricsOtelCardinalityLimit",
        aliases: &[],
        default: "10000",
        doc: "Topics, and pairs of topic and group, that have series of their own at most; the others share one that is \
              called other.",
        rule: Rule::Count { range: 1..=1_000_000, set: |c, n| c.broker.series_max = n as usize },
    },
    Key {
        name: "metricsGrpcExporterTarget",
        aliases: &[],
        default: "",
        doc: "Where metrics go by OTLP over gRPC, with metricsExporterType=OTLP_GRPC: http://host:4317 in plaintext, \
              https://host:4317 by TLS. As in RocketMQ, host:port alone is TLS.",
        rule: Rule::Text {
            form: "an address like http://collector:4317",
            set: |c, text| {
                c.ops.otlp.metrics.target = Target::parse(text)?;
                Ok(())
            },
        },
    },
    Key {
        name: "metricsGrpcExporterHeader",
        aliases: &[],
        default: "",
        doc: "Headers of these requests, as for a password: key:value, joined by commas. `ferromq config` does not show them.",
        rule: Rule::Text {
            form: "key:value, joined by commas",
            set: |c, text| {
                c.ops.otlp.metrics.headers = Headers::parse(text)?;
                Ok(())
            },
        },
    },
    Key {
        name: "metricGrpcExporterTimeOutInMills",
        aliases: &[],
        default: "3000",
        doc: "How long the collector may take for one message. The end of the server waits as long for the last one, and 5 s \
              at most.",
        rule: Rule::Span { unit: Unit::Millis, range: 100..=60_000, set: |c, d| c.ops.otlp.metrics.timeout = d },
    },
    Key {
        name: "metricGrpcExporterIntervalInMills",
        aliases: &[],
        default: "60000",
        doc: "How often metrics are sent.",
        rule: Rule::Span { unit: Unit::Millis, range: 1000..=3_600_000, set: |c, d| c.ops.otlp.metrics.interval = d },
    },
    Key {
        name: "tracesGrpcExporterTarget",
        aliases: &[],
        default: "",
        doc: "Where traces go by OTLP over gRPC, written like metricsGrpcExporterTarget; empty: nothing is traced. Each \
              call of the messaging API that is sampled is a span, with the names of topic, group and client, the message id where it is about one message, and the caller's tracestate; \
              never a body, key, tag or property.",
        rule: Rule::Text {
            form: "an address like http://collector:4317",
            set: |c, text| {
                c.ops.otlp.traces.signal.target = Target::parse(text)?;
                Ok(())
            },
        },
    },
    Key {
        name: "tracesGrpcExporterHeader",
        aliases: &[],
        default: "",
        doc: "Headers of these requests, like metricsGrpcExporterHeader.",
        rule: Rule::Text {
            form: "key:value, joined by commas",
            set: |c, text| {
                c.ops.otlp.traces.signal.headers = Headers::parse(text)?;
                Ok(())
            },
        },
    },
    Key {
        name: "tracesGrpcExporterTimeOutInMills",
        aliases: &[],
        default: "3000",
        doc: "How long the collector may take for one message of spans.",
        rule: Rule::Span { unit: Unit::Millis, range: 100..=60_000, set: |c, d| c.ops.otlp.traces.signal.timeout = d },
    },
    Key {
        name: "tracesGrpcExporterIntervalInMills",
        aliases: &[],
        default: "5000",
        doc: "How long a span waits for others at most before it is sent.",
        rule: Rule::Span { unit: Unit::Millis, range: 100..=60_000, set: |c, d| c.ops.otlp.traces.signal.interval = d },
    },
    Key {
        name: "tracesSampleRatio",
        aliases: &[],
        default: "0.01",
        doc: "Which share of calls is traced. A call that comes with a traceparent is traced when that has the \
              flag sampled, and otherwise not, whatever the share: clients may have each of their calls traced, and \
              tracesQueueMax bounds what that costs.",
        rule: Rule::Text {
            form: "a number from 0 to 1, like 0.01",
            set: |c, text| {
                let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
                c.ops.otlp.traces.ratio = ratio.ok_or_else(|| "is not a number from 0 to 1, like 0.01".to_owned())?;
                Ok(())
            },
        },
    },
    Key {
        name: "tracesQueueMax",
        aliases: &[],
        default: "8192",
        doc: "Spans that wait for the collector at most, up to about 2 KB of memory each and 6 KB with links; further ones are \
              dropped, and counted (ferromq_otlp_spans_total).",
        rule: Rule::Count { range: 1..=1_000_000, set: |c, n| c.ops.otlp.traces.queue = n as usize },
    },
    Key {
        name: "otlpTrustedCertPath",
        aliases: &[],
        default: "",
        doc: "Certificates (PEM) that the collector's is checked against, for https://; empty: those that this system trusts.",
        rule: Rule::Text {
            form: "a path",
            set: |c, text| {
                c.ops.otlp.authorities = (!text.is_empty()).then(|| text.into());
                Ok(())
            },
        },
    },
];

/// Reads labels; unlike Apache, which passes over what it does not understand, it says what that is.
fn labels(text: &str) -> Result<Vec<(String, String)>, String> {
    let is_name = |name: &str| {
        let mut chars = name.chars();
        chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let label = |part: &str| match part.split_once(':') {
        Some((name, value)) if is_name(name.trim()) => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("has {part:?}, which is no key:value with a key of letters, digits and _")),
    };
    let parts: Vec<_> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.len() > LABELS_MAX {
        return Err(format!("has {} labels, the most is {LABELS_MAX}", parts.len()));
    }
    let labels: Vec<_> = parts.into_iter().map(label).collect::<Result<_, _>>()?;
    // Prometheus refuses a page on which a sample has a label twice.
    for (n, (name, _)) in labels.iter().enumerate() {
        if is_taken(name) {
            return Err(format!("has {name:?}, which metrics have already or Prometheus keeps for itself; rename it"));
        }
        if labels[..n].iter().any(|(earlier, _)| earlier == name) {
            return Err(format!("has {name:?} twice; name it once"));
        }
    }
    Ok(labels)
}

/// A label that some samples have anyway, or that no sample may have.
fn is_taken(name: &str) -> bool {
    let of_a_metric = catalogue::ALL.iter().any(|metric| metric.labels.contains(&name));
    of_a_metric || COMMON.contains(&name) || name.starts_with("__")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_and_a_slip_is_told() {
        let read = labels(" region : eu , rack:7,").expect("two labels");
        assert_eq!(read, [("region".into(), "eu".into()), ("rack".into(), "7".into())]);
        for text in ["region", "1x:y", "a b:c"] {
            assert!(labels(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_label_that_a_sample_would_have_twice_is_refused_by_name() {
        let twice = [("a:1,b:2, a :3", "a"), ("cluster:mine", "cluster"), ("le:1", "le"), ("topic:x", "topic")];
        for (text, name) in
            twice.into_iter().chain([("a:1,storage_type:x", "storage_type"), ("__name__:x", "__name__")])
        {
            let refused = labels(text).unwrap_err();
            assert!(refused.contains(&format!("{name:?}")), "{text}: {refused}");
        }
    }

    #[test]
    fn an_empty_address_opens_nothing_to_the_network() {
        let Some(Rule::Text { set, .. }) =
            KEYS.iter().find(|key| key.name == "metricsPromExporterHost").map(|key| &key.rule)
        else {
            panic!("it is a text")
        };
        let mut config = crate::config::Config::default();
        for (text, ip) in [("", "127.0.0.1"), ("0.0.0.0", "0.0.0.0"), ("", "127.0.0.1"), ("::", "::")] {
            set(&mut config, text).unwrap();
            assert_eq!(config.ops.listen.ip().to_string(), ip, "{text:?}");
        }
    }
}
