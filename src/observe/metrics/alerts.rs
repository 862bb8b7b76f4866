//! Alert rules for Prometheus, generated from the catalogue.

use std::fmt::Write as _;

use super::catalogue::{Id, metric};

struct Rule {
    name: &'static str,
    expr: String,
    wait: &'static str,
    severity: &'static str,
    summary: &'static str,
    cure: &'static str,
}

const fn rule(
    name: &'static str,
    expr: String,
    wait: &'static str,
    severity: &'static str,
    summary: &'static str,
    cure: &'static str,
) -> Rule {
    Rule { name, expr, wait, severity, summary, cure }
}

fn name(id: Id) -> String {
    metric(id).full_name()
}

/// What is wrong with a server.
fn of_servers() -> Vec<Rule> {
    vec![
        rule(
            "FerroMQNotReady",
            format!("{} == 0", name(Id::Ready)),
            "5m",
            "critical",
            "{{ $labels.node_id }} is not ready",
            "/readyz on the same port says why.",
        ),
        rule(
            "FerroMQStorePoisoned",
            format!("{} == 1", name(Id::StorePoisoned)),
            "0m",
            "critical",
            "A write or sync of {{ $labels.node_id }} failed; it acknowledges nothing and leaves",
            "See to the disk, then start the server again.",
        ),
        rule(
            "FerroMQDiskFull",
            format!("{} == 1", name(Id::StoreFull)),
            "1m",
            "critical",
            "{{ $labels.node_id }} refuses messages, since its disk is full",
            "Make room, enlarge the volume, or shorten fileReservedTime.",
        ),
        rule(
            "FerroMQDiskFillsUp",
            // Prediction alone takes a batch that was just stored, or the first minutes of a scrape, for the next day.
            format!(
                "predict_linear({free}[6h], 24 * 3600) < 0 and {free} / ({free} + {beside} {used}) < 0.4",
                free = name(Id::StorageFree),
                beside = "ignoring (storage_type, storage_medium)",
                used = name(Id::StorageSize),
            ),
            "30m",
            "warning",
            "The disk of {{ $labels.node_id }} will be full within a day",
            "Enlarge the volume, or shorten fileReservedTime.",
        ),
    ]
}

/// What is wrong with what goes through it.
fn of_traffic() -> Vec<Rule> {
    let p99 = |id, more: &str| {
        format!("histogram_quantile(0.99, sum by (le, node_id) (rate({}_bucket{more}[5m])))", name(id))
    };
    vec![
        rule(
            "FerroMQGroupFallsBehind",
            format!("sum by (node_id, topic, consumer_group) ({}) > 300000", name(Id::ConsumerLagLatency)),
            "10m",
            "warning",
            "{{ $labels.consumer_group }} is more than five minutes behind on {{ $labels.topic }}",
            "Start more consumers, or see what holds them; `ferromq group describe` shows each queue.",
        ),
        rule(
            "FerroMQDeadLetters",
            format!("sum by (node_id, topic, consumer_group) (increase({}[10m])) > 0", name(Id::SendToDlq)),
            "0m",
            "warning",
            "Messages of {{ $labels.topic }} had all their attempts in {{ $labels.consumer_group }}",
            "Look at the topic %DLQ%{{ $labels.consumer_group }}.",
        ),
        rule(
            "FerroMQBroadcastGivenUp",
            format!("sum by (node_id, topic, consumer_group) (increase({}[10m])) > 0", name(Id::GivenUp)),
            "0m",
            "warning",
            "Clients of the broadcasting group {{ $labels.consumer_group }} gave up messages of {{ $labels.topic }}",
            "The log of the server names each message and client; `ferromq message explain` tells its life.",
        ),
        rule(
            "FerroMQSyncsAreSlow",
            format!("{} > 0.5", p99(Id::SyncTime, "")),
            "10m",
            "warning",
            "One of a hundred syncs of {{ $labels.node_id }} takes more than half a second",
            "The disk is busy or fails: look at its own statistics.",
        ),
        rule(
            "FerroMQSendsAreSlow",
            format!("{} > 1000", p99(Id::RpcLatency, "{request_code=\"send_message\",result=\"success\"}")),
            "10m",
            "warning",
            "One of a hundred sends to {{ $labels.node_id }} takes more than a second",
            "Compare with the time of a sync and the CPU of the server.",
        ),
        rule(
            "FerroMQTimersAreLate",
            format!("{} > 5000", p99(Id::TimerLateness, "")),
            "10m",
            "warning",
            "Messages for later of {{ $labels.node_id }} come more than five seconds late",
            "The disk or the CPU of the server does not keep up.",
        ),
    ]
}

/// The rules as a file that Prometheus loads.
pub fn render() -> String {
    let mut out = String::from("groups:\n  - name: ferromq\n    rules:\n");
    for Rule { name, expr, wait, severity, summary, cure } in of_servers().into_iter().chain(of_traffic()) {
        let _ = write!(
            out,
            "      - alert: {name}\n        expr: {}\n        for: {wait}\n        labels:\n          severity: {severity}\n        \
             annotations:\n          summary: {}\n          description: {}\n",
            quoted(&expr),
            quoted(summary),
            quoted(cure),
        );
    }
    out
}

/// A string of YAML: single quotes, which take everything but themselves as it is.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
