//! A dashboard for Grafana, generated from the catalogue.

use serde_json::{Value, json};

use super::catalogue::{Id, Kind, metric};

/// A panel: its title, Grafana's unit of its axis, and queries with their legends.
struct Panel {
    title: &'static str,
    unit: &'static str,
    queries: Vec<(String, &'static str)>,
}

/// How a query picks the servers.
const PICK: &str = "cluster=~\"$cluster\",node_id=~\"$node\"";

fn gauge(id: Id, by: &str) -> String {
    format!("sum by ({by}) ({}{{{PICK}}})", metric(id).full_name())
}

fn rate(id: Id, by: &str) -> String {
    debug_assert_eq!(metric(id).kind, Kind::Counter);
    format!("sum by ({by}) (rate({}{{{PICK}}}[$__rate_interval]))", metric(id).full_name())
}

fn quantile(q: &str, id: Id, more: &str, by: &str) -> String {
    debug_assert_eq!(metric(id).kind, Kind::Histogram);
    let name = metric(id).full_name();
    format!("histogram_quantile({q}, sum by (le{by}) (rate({name}_bucket{{{PICK}{more}}}[$__rate_interval])))")
}

const fn panel(title: &'static str, unit: &'static str, queries: Vec<(String, &'static str)>) -> Panel {
    Panel { title, unit, queries }
}

/// What goes through the servers, and who waits for it.
fn of_traffic() -> Vec<Panel> {
    vec![
        panel("Ready", "none", vec![(gauge(Id::Ready, "node_id"), "{{node_id}}")]),
        panel("Messages in", "mps", vec![(rate(Id::MessagesIn, "topic"), "{{topic}}")]),
        panel(
            "Messages out",
            "mps",
            vec![(rate(Id::MessagesOut, "topic, consumer_group"), "{{topic}} {{consumer_group}}")],
        ),
        panel(
            "Bytes in and out",
            "Bps",
            vec![
                (rate(Id::ThroughputIn, "node_id"), "in {{node_id}}"),
                (rate(Id::ThroughputOut, "node_id"), "out {{node_id}}"),
            ],
        ),
        panel("Lag", "short", vec![(gauge(Id::ConsumerLag, "topic, consumer_group"), "{{topic}} {{consumer_group}}")]),
        panel(
            "Age of the oldest message that is not done",
            "ms",
            vec![(gauge(Id::ConsumerLagLatency, "topic, consumer_group"), "{{topic}} {{consumer_group}}")],
        ),
        panel(
            "In flight and ready",
            "short",
            vec![
                (gauge(Id::ConsumerInflight, "consumer_group"), "in flight {{consumer_group}}"),
                (gauge(Id::ConsumerReady, "consumer_group"), "ready {{consumer_group}}"),
            ],
        ),
        panel(
            "Dead letters, and what clients of broadcasting groups gave up",
            "mps",
            vec![
                (rate(Id::SendToDlq, "topic, consumer_group"), "{{topic}} {{consumer_group}}"),
                (rate(Id::GivenUp, "topic, consumer_group"), "given up {{topic}} {{consumer_group}}"),
            ],
        ),
    ]
}

/// How the servers are.
fn of_servers() -> Vec<Panel> {
    let rpc = |q, code: &str| quantile(q, Id::RpcLatency, &format!(",request_code=\"{code}\",result=\"success\""), "");
    vec![
        panel(
            "Latency of sends and acks",
            "ms",
            vec![
                (rpc("0.5", "send_message"), "send 50 %"),
                (rpc("0.99", "send_message"), "send 99 %"),
                (rpc("0.99", "ack_message"), "ack 99 %"),
            ],
        ),
        panel(
            "Time of a sync",
            "s",
            vec![(quantile("0.5", Id::SyncTime, "", ""), "50 %"), (quantile("0.99", Id::SyncTime, "", ""), "99 %")],
        ),
        panel(
            "Disk",
            "bytes",
            vec![
                (gauge(Id::StorageFree, "node_id"), "free {{node_id}}"),
                (gauge(Id::StorageLog, "node_id"), "log {{node_id}}"),
            ],
        ),
        panel("Not yet on the device", "bytes", vec![(gauge(Id::FlushBehind, "node_id"), "{{node_id}}")]),
        panel("Messages for later", "short", vec![(gauge(Id::TimingMessages, "node_id"), "{{node_id}}")]),
        panel("Lateness of messages for later", "ms", vec![(quantile("0.99", Id::TimerLateness, "", ""), "99 %")]),
        panel("Undecided transactions", "short", vec![(gauge(Id::HalfMessages, "topic"), "{{topic}}")]),
        panel(
            "Connections and calls",
            "short",
            vec![
                (gauge(Id::Connections, "node_id"), "connections {{node_id}}"),
                (gauge(Id::Calls, "node_id"), "calls {{node_id}}"),
                (gauge(Id::ParkedPolls, "node_id"), "parked polls {{node_id}}"),
            ],
        ),
    ]
}

/// The dashboard as Grafana imports it.
pub fn render() -> String {
    let source = json!({"type": "prometheus", "uid": "${datasource}"});
    let panel = |(n, panel): (usize, Panel)| {
        let target = |(i, (expr, legend)): (usize, (String, &str))| json!({"refId": char::from(b'A' + i as u8).to_string(), "datasource": source, "expr": expr, "legendFormat": legend});
        json!({
            "id": n + 1,
            "type": "timeseries",
            "title": panel.title,
            "datasource": source,
            "gridPos": {"h": 8, "w": 12, "x": 12 * (n % 2), "y": 8 * (n / 2)},
            "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
            "targets": panel.queries.into_iter().enumerate().map(target).collect::<Vec<_>>(),
        })
    };
    let variable = |name: &str, label: &str| {
        let query = format!("label_values({}, {label})", metric(Id::Ready).full_name());
        json!({"name": name, "type": "query", "datasource": source, "query": query, "refresh": 2,
               "includeAll": true, "multi": true, "current": {"text": "All", "value": "$__all"}})
    };
    let dashboard: Value = json!({
        "uid": "ferromq",
        "title": "FerroMQ",
        "schemaVersion": 39,
        "editable": true,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus"},
            variable("cluster", "cluster"),
            variable("node", "node_id"),
        ]},
        "panels": of_traffic().into_iter().chain(of_servers()).enumerate().map(panel).collect::<Vec<_>>(),
    });
    format!("{dashboard:#}\n")
}
