//! What Prometheus itself makes of a server: it scrapes one, evaluates the alert rules, and answers the dashboard.
//!
//! `prometheus` and `promtool` are Debian's. Without them the tests are skipped with a line that says so, or fail when
//! `CI=true`.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::harness::{self, Server, directory, ferromq, file, stderr, stdout, text};

/// How long Prometheus may take for anything, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Panels without data where no transaction waits and no group broadcasts.
const SILENT: [&str; 2] = ["rocketmq_half_messages", "ferromq_broadcast_given_up_total"];

/// Whether the program is there.
fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok_and(|said| said.status.success());
    if !there {
        harness::skipped(&format!("no {program} here; Debian's package prometheus has it"));
    }
    there
}

fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("observability").join(name)
}

#[test]
fn the_alert_rules_fire_when_they_should_and_not_before() {
    if !has("promtool") {
        return;
    }
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/prometheus/rules.yaml");
    let said = Command::new("promtool").args(["test", "rules"]).arg(&cases).output().expect("it runs");
    assert!(said.status.success(), "{}{}", stdout(&said), stderr(&said));
    let rules = std::fs::read_to_string(kept("alerts.yaml")).expect("it is kept");
    let cases = std::fs::read_to_string(cases).expect("they are there");
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(cases.contains(&format!("alertname=\"{alert}\"")), "no case makes {alert} fire");
    }
}

/// Prometheus, scraping a server every second; killed when dropped.
struct Prometheus {
    child: Child,
    at: String,
}

impl Prometheus {
    fn of(server: &Server, dir: &Path) -> Self {
        let settings = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{}]\n\
             scrape_configs: [{{job_name: mq, static_configs: [{{targets: ['{}']}}]}}]\n",
            text(&kept("alerts.yaml")),
            server.ops(),
        );
        let at = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").to_string();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", text(&file(dir, "prometheus.yml", &settings))))
            .arg(format!("--storage.tsdb.path={}", text(&dir.join("tsdb"))))
            .arg(format!("--web.listen-address={at}"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        Self { child, at }
    }

    /// What its API says; `Null` where it does not answer yet, or refuses.
    fn ask(&self, path: &str) -> Value {
        let Ok(mut tcp) = TcpStream::connect(&self.at) else { return Value::Null };
        tcp.set_read_timeout(Some(PATIENCE)).expect("a socket");
        // By HTTP/1.0 the answer comes in one piece, and its end is the connection's.
        write!(tcp, "GET /api/v1/{path} HTTP/1.0\r\n\r\n").expect("written");
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).expect("an answer");
        let body = answer.split_once("\r\n\r\n").expect("a head").1;
        serde_json::from_str::<Value>(body).map_or(Value::Null, |answer| answer["data"].clone())
    }

    /// The series that an expression gives; `None` where it is refused.
    fn series(&self, expression: &str) -> Option<usize> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        self.ask(&format!("query?query={encoded}"))["result"].as_array().map(Vec::len)
    }

    #[track_caller]
    fn wait_for(&self, expression: &str) {
        let since = Instant::now();
        while self.series(expression).is_none_or(|found| found == 0) {
            assert!(since.elapsed() < PATIENCE, "nothing came for {expression}; {}", self.ask("targets"));
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn rules(&self) -> Vec<Value> {
        let said = self.ask("rules");
        items(&said["groups"]).iter().flat_map(|group| items(&group["rules"])).cloned().collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[test]
fn prometheus_scrapes_a_server_evaluates_every_rule_and_has_data_for_the_dashboard() {
    if !has("prometheus") {
        return;
    }
    let dir = directory();
    let server = Server::start(dir.path());
    for args in [&["topic", "create", "later", "--type", "delay"][..], &["group", "create", "g", "--max-attempts", "1"]]
    {
        assert!(server.admin_command(args).status.success());
    }
    let prometheus = Prometheus::of(&server, dir.path());
    prometheus.wait_for("up == 1");
    let produce = |args: &[&str]| assert!(server.client_command(&[&["produce"], args].concat()).status.success());
    produce(&["later", "x", "--delay", "1s"]);
    for _ in 0..2 {
        produce(&["orders", "x", "--count", "2"]);
        let consumed = server.client_command(&["consume", "orders", "--group", "shop", "--count", "1"]);
        assert!(consumed.status.success(), "{}", stderr(&consumed));
        thread::sleep(Duration::from_secs(1));
    }
    prometheus.wait_for("rate(ferromq_timer_lateness_milliseconds_count[10s]) > 0");
    for expression in dashboard() {
        let found = prometheus.series(&expression);
        let silent = SILENT.iter().any(|name| expression.contains(name));
        assert!(found.is_some_and(|found| found > 0 || silent), "{found:?} series of {expression}");
    }
    let rules = prometheus.rules();
    assert!(rules.len() >= 10, "{rules:?}");
    for rule in &rules {
        // What lasts may be pending: the trend of this machine's disk.
        assert!(rule["health"] == "ok" && rule["state"] != "firing", "all is well, and yet: {rule}");
    }
    let targets = prometheus.ask("targets");
    assert_eq!(targets["activeTargets"][0]["lastError"], "", "{targets}");
    // It is in flight for 10 seconds, and a dead letter then.
    produce(&["poison", "x"]);
    let mut lost = ferromq();
    lost.args(["consume", "poison", "--group", "g", "--count", "1", "--no-ack", "--invisible", "10s"]);
    assert!(lost.args(["--endpoint", &server.endpoint()]).output().expect("it runs").status.success());
    prometheus.wait_for("ALERTS{alertstate=\"firing\", alertname=\"FerroMQDeadLetters\", topic=\"poison\"}");
    assert_eq!(prometheus.series("ALERTS{alertstate=\"firing\"}"), Some(1));
}

/// The dashboard's expressions, as Grafana sends them.
fn dashboard() -> Vec<String> {
    let dashboard = std::fs::read_to_string(kept("dashboard.json")).expect("it is kept");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let targets = items(&dashboard["panels"]).iter().flat_map(|panel| items(&panel["targets"]));
    let sent = |target: &Value| {
        let expression = target["expr"].as_str().expect("an expression").replace("$__rate_interval", "10s");
        expression.replace("$cluster", "DefaultCluster").replace("$node", "broker-a")
    };
    targets.map(sent).collect()
}
