//! Metrics and probes.

use std::net::{IpAddr, Ipv4Addr};

use super::{Key, Rule};

/// Labels of `metricsLabel` at most.
const LABELS_MAX: usize = 32;

pub static KEYS: &[Key] = &[
    Key {
        name: "metricsExporterType",
        aliases: &[],
        default: "PROM",
        doc: "PROM opens the port of operations: /metrics for Prometheus, /livez and /readyz for probes, KEDA's external \
              scaler over gRPC. DISABLE leaves it closed.",
        rule: Rule::Text {
            form: "PROM or DISABLE (OTLP_GRPC and LOG are not served)",
            set: |c, text| {
                // Apache takes names and numbers.
                c.ops.enabled = match text.to_ascii_uppercase().as_str() {
                    "PROM" | "2" => true,
                    "DISABLE" | "0" => false,
                    "OTLP_GRPC" | "1" | "LOG" | "3" => {
                        return Err("is not served; use PROM, which a collector can scrape".to_owned());
                    }
                    _ => return Err("is not PROM or DISABLE".to_owned()),
                };
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
                // Apache's default is the empty text, which is an address of the machine there.
                let ip = if text.is_empty() { Some(IpAddr::from(Ipv4Addr::UNSPECIFIED)) } else { text.parse().ok() };
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
];

/// Reads labels; unlike Apache, which passes over what it does not understand, it says what that is.
fn labels(text: &str) -> Result<Vec<(String, String)>, String> {
    let is_name = |name: &str| {
        let mut chars = name.chars();
        chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let own = ["cluster", "node_type", "node_id", "le"];
    let label = |part: &str| match part.split_once(':') {
        Some((name, value)) if is_name(name.trim()) && !own.contains(&name.trim()) => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err(format!("has {part:?}, which is no key:value with a key of letters, digits and _ that is not taken")),
    };
    let parts: Vec<_> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.len() > LABELS_MAX {
        return Err(format!("has {} labels, the most is {LABELS_MAX}", parts.len()));
    }
    parts.into_iter().map(label).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_and_a_slip_is_told() {
        let read = labels(" region : eu , rack:7,").expect("two labels");
        assert_eq!(read, [("region".into(), "eu".into()), ("rack".into(), "7".into())]);
        for text in ["region", "1x:y", "cluster:mine", "a b:c"] {
            assert!(labels(text).is_err(), "{text}");
        }
    }
}
