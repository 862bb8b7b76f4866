//! /metrics, /livez, /readyz, and what is generated from the table of metrics.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Stdio,
    time::Duration,
};

use rustix::process::Signal;

use super::http::{get, request, sample};
use crate::harness::{Server, directory, ferromq, run, stderr, stdout};

#[test]
fn the_page_tells_what_was_sent_received_and_is_still_to_do() {
    let dir = directory();
    let server = Server::start_with(dir.path(), &["--set", "metricsLabel=region:eu"]);
    for body in ["a", "b", "c"] {
        assert!(server.client_command(&["produce", "orders", body]).status.success());
    }
    let consumed = server.client_command(&["consume", "orders", "--group", "billing", "--count", "2"]);
    assert!(consumed.status.success(), "{}", stderr(&consumed));
    let answer = get(&server.ops(), "/metrics");
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    let page = &answer.body;
    let orders = |name: &str| sample(page, &[name, "topic=\"orders\"", "region=\"eu\"", "cluster=\"DefaultCluster\""]);
    assert_eq!(orders("rocketmq_messages_in_total{"), Some(3.0));
    assert_eq!(orders("rocketmq_message_size_count{"), Some(3.0));
    assert!(orders("rocketmq_messages_out_total{").is_some_and(|out| out >= 2.0), "{page}");
    let lag = sample(page, &["rocketmq_consumer_lag_messages{", "consumer_group=\"billing\"", "is_retry=\"false\""]);
    assert_eq!(lag, Some(1.0), "{page}");
    let sends = ["rocketmq_rpc_latency_milliseconds_count{", "request_code=\"send_message\"", "response_code=\"ok\""];
    assert_eq!(sample(page, &sends), Some(3.0));
    let acks = ["rocketmq_rpc_latency_milliseconds_count{", "request_code=\"ack_message\"", "result=\"success\""];
    assert!(sample(page, &acks).is_some_and(|acks| acks > 0.0), "{page}");
    assert!(sample(page, &["ferromq_storage_sync_time_seconds_count{"]).is_some_and(|syncs| syncs >= 3.0));
    assert_eq!(sample(page, &["ferromq_ready{"]), Some(1.0));
}

#[test]
fn refusals_are_counted_by_their_code() {
    let dir = directory();
    let server = Server::start_with(dir.path(), &["--set", "autoCreateTopicEnable=false"]);
    assert!(!server.client_command(&["produce", "nothing", "x"]).status.success());
    let page = get(&server.ops(), "/metrics").body;
    let refused = ["rocketmq_rpc_latency_milliseconds_count{", "query_route", "response_code=\"topic_not_found\""];
    assert!(sample(&page, &refused).is_some_and(|count| count >= 1.0), "{page}");
}

#[test]
fn clients_that_are_connected_are_told_by_role_group_and_language() {
    let dir = directory();
    let server = Server::start(dir.path());
    let mut consumer = ferromq()
        .args(["consume", "t", "--group", "g", "--follow", "--endpoint", &server.endpoint()])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a consumer starts");
    assert!(server.client_command(&["produce", "t", "x"]).status.success());
    // What it prints shows that it is there.
    let mut byte = [0; 1];
    consumer.stdout.take().expect("piped").read_exact(&mut byte).expect("the message");
    let page = get(&server.ops(), "/metrics").body;
    consumer.kill().expect("killed");
    consumer.wait().expect("waited for");
    let parts =
        ["rocketmq_consumer_connections{", "consumer_group=\"g\"", "language=\"rust\"", "protocol_type=\"grpc\""];
    assert_eq!(sample(&page, &parts), Some(1.0), "{page}");
    assert!(sample(&page, &["ferromq_connections{"]).is_some_and(|open| open >= 1.0));
}

#[test]
fn names_come_without_units_for_older_dashboards() {
    let dir = directory();
    let server = Server::start_with(dir.path(), &["--set", "metricsUnitSuffixEnable=false"]);
    let page = get(&server.ops(), "/metrics").body;
    assert!(page.contains("\nferromq_storage_log{") && !page.contains("ferromq_storage_log_bytes{"), "{page}");
    // RocketMQ's own name has the unit in it.
    assert!(page.contains("\nrocketmq_storage_flush_behind_bytes{"), "{page}");
}

#[test]
fn the_port_of_operations_answers_probes_and_nothing_else() {
    let dir = directory();
    let server = Server::start(dir.path());
    let ready = get(&server.ops(), "/readyz");
    assert_eq!((ready.status, ready.body.trim()), (200, r#"{"ready":true,"reasons":[]}"#));
    assert_eq!(get(&server.ops(), "/livez").status, 200);
    assert_eq!(get(&server.ops(), "/secrets").status, 404);
    assert_eq!(request(&server.ops(), "POST", "/metrics").status, 405);
    let head = request(&server.ops(), "HEAD", "/metrics");
    assert_eq!((head.status, &*head.body), (200, ""));
}

#[test]
fn a_request_that_never_ends_or_is_too_long_is_cut() {
    let dir = directory();
    let server = Server::start(dir.path());
    let mut long = TcpStream::connect(server.ops()).expect("the port is open");
    // It may be cut while this is still being written.
    drop(write!(long, "GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(1 << 20)));
    let mut silent = TcpStream::connect(server.ops()).expect("the port is open");
    write!(silent, "GET /metr").expect("written");
    for tcp in [&mut long, &mut silent] {
        tcp.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
        let mut said = Vec::new();
        match tcp.read_to_end(&mut said) {
            Ok(_) => assert!(!String::from_utf8_lossy(&said).contains(" 200 ")),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "it was not cut"),
        }
    }
    assert_eq!(get(&server.ops(), "/livez").status, 200);
}

#[test]
fn a_scraper_that_comes_often_keeps_no_send_waiting_and_the_drain_is_seen() {
    let dir = directory();
    let server = Server::start(dir.path());
    std::thread::scope(|threads| {
        let scraper = threads.spawn(|| (0..20).map(|_| get(&server.ops(), "/metrics").status).collect::<Vec<_>>());
        for _ in 0..5 {
            assert!(server.client_command(&["produce", "t", "x"]).status.success());
        }
        assert_eq!(scraper.join().expect("no panic"), [200; 20]);
    });
    server.signal(Signal::TERM);
    let ended = server.ended();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
}

#[test]
fn the_port_stays_closed_when_it_is_switched_off() {
    let dir = directory();
    let output = run(&["config", "--json", "--set", "metricsExporterType=LOG"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("is not served; use PROM"), "{}", stderr(&output));
    let server = Server::start_with(dir.path(), &["--set", "metricsExporterType=DISABLE"]);
    assert!(!server.boot_text().contains("/readyz"), "{}", server.boot_text());
}

#[test]
fn the_dashboard_and_the_alert_rules_are_what_the_table_of_metrics_makes() {
    for (flag, name) in [("--dashboard", "dashboard.json"), ("--alerts", "alerts.yaml")] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("observability").join(name);
        let kept = std::fs::read_to_string(&path).expect("it is kept");
        let cure = format!("write it again: ferromq metrics {flag} > observability/{name}");
        assert!(stdout(&run(&["metrics", flag])) == kept, "{cure}");
    }
}

#[test]
fn every_metric_of_the_list_has_a_name_that_prometheus_takes() {
    let listed: serde_json::Value = serde_json::from_str(&stdout(&run(&["metrics", "--json"]))).expect("JSON");
    let listed = listed.as_array().expect("a list");
    assert!(listed.len() > 40);
    for metric in listed {
        let name = metric["name"].as_str().expect("a name");
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{name}");
    }
}
