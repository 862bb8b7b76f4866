//! What Prometheus and Grafana make of the page of metrics, the alert rules and the dashboard.
//!
//! PromQL is checked by the parser and the linter of Prometheus' own editor, the page by the parser of its Python client. They
//! come by name and lie in `target/prometheus`. Where a toolchain is missing the tests are skipped with a line that says so,
//! or fail when `CI=true`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use serde_json::Value;

use super::{built, http::get};
use crate::harness::{Server, directory, run, stderr, stdout};

const BUILD_MAX: Duration = Duration::from_secs(600);
/// On every sample, beside the metric's own.
const COMMON: [&str; 3] = ["cluster", "node_type", "node_id"];

/// The directory with the parsers; `None` where they cannot be had.
fn tools() -> Option<&'static Path> {
    static TOOLS: OnceLock<Option<PathBuf>> = OnceLock::new();
    let tools = TOOLS.get_or_init(|| built("prometheus", BUILD_MAX));
    tools.as_deref()
}

/// What a tool says of its input, as JSON.
fn ask(mut tool: Command, input: &str) -> Value {
    let mut child =
        tool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the tool runs");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_str(&stdout(&output)).expect("JSON")
}

fn read(tools: &Path, what: &str, input: &str) -> Value {
    let mut python = Command::new(tools.join("venv/bin/python"));
    python.arg("-B").arg(tools.join("read.py")).arg(what);
    ask(python, input)
}

/// What the editor of Prometheus says of each expression.
fn check(tools: &Path, expressions: &[String]) -> Vec<Value> {
    let mut node = Command::new("node");
    node.arg(tools.join("check.js"));
    let checked = ask(node, &serde_json::to_string(expressions).expect("JSON"));
    checked.as_array().expect("a list").clone()
}

fn texts(list: &Value) -> BTreeSet<String> {
    list.as_array().expect("a list").iter().map(|text| text.as_str().expect("text").to_owned()).collect()
}

/// The labels of each series that there may be, by its name: a histogram has three.
fn series() -> BTreeMap<String, BTreeSet<String>> {
    let listed: Value = serde_json::from_str(&stdout(&run(&["metrics", "--json"]))).expect("JSON");
    let mut series = BTreeMap::new();
    for metric in listed.as_array().expect("a list") {
        let name = metric["name"].as_str().expect("a name");
        let mut labels = texts(&metric["labels"]);
        labels.extend(COMMON.map(str::to_owned));
        if metric["kind"] != "histogram" {
            series.insert(name.to_owned(), labels);
            continue;
        }
        for part in ["sum", "count"] {
            series.insert(format!("{name}_{part}"), labels.clone());
        }
        labels.insert("le".into());
        series.insert(format!("{name}_bucket"), labels);
    }
    series
}

/// What is wrong with an expression, as the editor and the table of metrics have it.
fn complaints(checked: &Value, series: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut wrong: Vec<String> = texts(&checked["complaints"]).into_iter().collect();
    let selectors = checked["selectors"].as_array().expect("a list");
    for selector in selectors {
        let name = selector["metric"].as_str().expect("a name");
        let Some(labels) = series.get(name) else {
            wrong.push(format!("there is no {name:?}"));
            continue;
        };
        let groupings = checked["groupings"].as_array().expect("a list").iter().flat_map(texts);
        let used = texts(&selector["labels"]).into_iter().chain(groupings);
        wrong.extend(used.filter(|label| !labels.contains(label)).map(|label| format!("{name} has no {label}")));
    }
    if selectors.is_empty() {
        wrong.push("it selects nothing".into());
    }
    wrong
}

fn kept(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("observability").join(name);
    fs::read_to_string(path).expect("it is kept")
}

#[test]
fn every_alert_rule_is_promql_of_metrics_and_labels_that_there_are() {
    let Some(tools) = tools() else { return };
    let rules = read(tools, "rules", &kept("alerts.yaml"));
    let rules: Vec<&Value> =
        rules["groups"].as_array().expect("groups").iter().flat_map(|g| items(&g["rules"])).collect();
    assert!(rules.len() >= 9, "{rules:?}");
    let expressions: Vec<String> =
        rules.iter().map(|r| r["expr"].as_str().expect("an expression").to_owned()).collect();
    let series = series();
    for (rule, checked) in rules.iter().zip(check(tools, &expressions)) {
        assert_eq!(complaints(&checked, &series), [""; 0], "{rule}");
        let known = ["alert", "expr", "for", "labels", "annotations"];
        assert!(rule.as_object().expect("a rule").keys().all(|key| known.contains(&key.as_str())), "{rule}");
        // What its texts name is there when it fires.
        let groups = items(&checked["groupings"]).first().map(texts);
        let metric = checked["selectors"][0]["metric"].as_str().expect("a name");
        let has = groups.unwrap_or_else(|| series[metric].clone());
        for text in ["summary", "description"] {
            let text = rule["annotations"][text].as_str().expect("text");
            for label in text.split("$labels.").skip(1) {
                let label: String = label.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                assert!(has.contains(&label), "{rule}: it has no {label} when it fires");
            }
        }
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[test]
fn every_panel_of_the_dashboard_asks_for_metrics_and_labels_that_there_are() {
    let Some(tools) = tools() else { return };
    let dashboard: Value = serde_json::from_str(&kept("dashboard.json")).expect("JSON");
    let targets = items(&dashboard["panels"]).iter().flat_map(|panel| items(&panel["targets"]));
    let targets: Vec<&Value> = targets.collect();
    assert!(targets.len() >= 20, "{targets:?}");
    // As Grafana puts it in.
    let expression = |t: &&Value| t["expr"].as_str().expect("an expression").replace("$__rate_interval", "1m");
    let expressions: Vec<String> = targets.iter().map(expression).collect();
    let series = series();
    for (target, checked) in targets.iter().zip(check(tools, &expressions)) {
        assert_eq!(complaints(&checked, &series), [""; 0], "{target}");
        let has: BTreeSet<String> = items(&checked["groupings"]).iter().flat_map(texts).collect();
        let legend = target["legendFormat"].as_str().expect("a legend");
        for label in legend.split("{{").skip(1).filter_map(|rest| rest.split_once("}}")) {
            assert!(has.contains(label.0), "{target}: the legend names what is not there");
        }
    }
}

#[test]
fn an_expression_that_prometheus_would_not_take_is_found() {
    let Some(tools) = tools() else { return };
    let series = series();
    let wrong = [
        ("sum(ferromq_ready", "does not parse"),
        ("rate(ferromq_ready)", "matrix"),
        ("ferromq_ready[5m] > 0", "scalar and instant vector"),
        ("ferromq_redy == 0", "no \"ferromq_redy\""),
        ("ferromq_ready{node=\"a\"}", "has no node"),
        ("sum by (le) (rate(ferromq_storage_sync_time_seconds_count[5m]))", "has no le"),
        ("1 + 1", "selects nothing"),
    ];
    let expressions: Vec<String> = wrong.iter().map(|(expression, _)| (*expression).to_owned()).collect();
    for ((expression, why), checked) in wrong.iter().zip(check(tools, &expressions)) {
        let complaints = complaints(&checked, &series);
        assert!(complaints.iter().any(|said| said.contains(why)), "{expression}: {complaints:?}");
    }
}

/// Bounds and counts of a histogram's buckets by its labels without `le`.
fn buckets(family: &Value) -> BTreeMap<String, Vec<(f64, f64)>> {
    let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let name = format!("{}_bucket", family["name"].as_str().expect("a name"));
    for sample in items(&family["samples"]).iter().filter(|sample| sample[0] == *name) {
        let mut labels = sample[1].as_object().expect("labels").clone();
        let le = labels.remove("le").expect("a bound");
        let bound = le.as_str().expect("text").replace("+Inf", "inf").parse().expect("a number");
        let key = serde_json::to_string(&labels).expect("JSON");
        buckets.entry(key).or_default().push((bound, sample[2].as_f64().expect("a number")));
    }
    buckets
}

#[test]
fn the_page_is_what_prometheus_reads_with_the_types_and_labels_of_the_table() {
    let Some(tools) = tools() else { return };
    let dir = directory();
    let server = Server::start(dir.path());
    for args in [&["produce", "orders", "a", "--tag", "x"][..], &["produce", "orders", "b", "--tag", "x"]] {
        assert!(server.client_command(args).status.success());
    }
    let consumed = server.client_command(&["consume", "orders", "--group", "g", "--count", "1"]);
    assert!(consumed.status.success(), "{}", stderr(&consumed));
    let page = read(tools, "page", &get(&server.ops(), "/metrics").body);
    let listed: Value = serde_json::from_str(&stdout(&run(&["metrics", "--json"]))).expect("JSON");
    let series = series();
    let families = items(&page);
    assert!(families.len() > 30, "{page}");
    for family in families {
        let name = family["name"].as_str().expect("a name");
        // Its parser takes the end off a counter's name.
        let is_it = |metric: &&Value| {
            metric["name"].as_str().is_some_and(|n| n.trim_end_matches("_total") == name.trim_end_matches("_total"))
        };
        let metric = items(&listed).iter().find(is_it).unwrap_or_else(|| panic!("{name} is not in the table"));
        assert_eq!((&family["type"], &family["help"]), (&metric["kind"], &metric["help"]), "{name}");
        let mut seen = BTreeSet::new();
        for sample in items(&family["samples"]) {
            let name = sample[0].as_str().expect("a name");
            let labels: BTreeSet<String> = sample[1].as_object().expect("labels").keys().cloned().collect();
            assert_eq!(Some(&labels), series.get(name), "labels of {name}");
            assert!(seen.insert((name, sample[1].to_string())), "{sample} is there twice");
            assert!(sample[2].as_f64().is_some_and(f64::is_finite), "{sample}");
        }
        for (labels, buckets) in buckets(family) {
            assert!(buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{name}{labels}: {buckets:?}");
            assert_eq!(buckets.last().map(|last| last.0), Some(f64::INFINITY), "{name}{labels}");
        }
    }
}
