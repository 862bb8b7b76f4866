//! `ferromq config`.

use serde_json::Value;

use crate::harness::{directory, ferromq, file, run, stderr, stdout, text};

#[test]
fn every_setting_is_shown_with_its_origin() {
    let dir = directory();
    let conf = file(dir.path(), "broker.conf", "# mine\nfileReservedTime=48\n");
    let output = ferromq()
        .args(["config", "-c", text(&conf), "--set", "retryMaxTimes=3", "--json"])
        .env("FERROMQ_GRPC_SERVER_PORT", "9081")
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let settings: Vec<Value> = serde_json::from_str(&stdout(&output)).expect("JSON");
    let found = |key: &str| {
        let setting = settings.iter().find(|s| s["key"] == key).unwrap_or_else(|| panic!("no {key}"));
        [&setting["value"], &setting["origin"], &setting["source"]].map(|v| v.as_str().expect("text").to_owned())
    };
    let source = format!("{}:2", text(&conf));
    assert_eq!(found("fileReservedTime"), ["48", "file", &source]);
    assert_eq!(found("grpcServerPort"), ["9081", "environment", "environment FERROMQ_GRPC_SERVER_PORT"]);
    assert_eq!(found("retryMaxTimes"), ["3", "flag", "flag --set"]);
    assert_eq!(found("flushDiskType"), ["SYNC_FLUSH", "default", "default"]);
}

#[test]
fn the_table_for_people_aligns_and_tells_the_origin() {
    let output = run(&["config", "--set", "topicsMax=7"]);
    let text = stdout(&output);
    assert!(text.starts_with("KEY "), "{text}");
    let line = text.lines().find(|l| l.starts_with("topicsMax ")).expect("listed");
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["topicsMax", "7", "flag", "--set"]);
}

#[test]
fn faults_are_one_line_each_and_exit_with_1() {
    let output = run(&["config", "--set", "flushDiskTyp=SYNC_FLUSH", "--set", "fileReservedTime=soon"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).is_empty());
    let text = stderr(&output);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].contains("flushDiskTyp is not a setting; did you mean flushDiskType?"), "{text}");
    assert!(lines[1].contains("fileReservedTime=soon is not a time"), "{text}");
}

#[test]
fn what_apaches_file_has_and_this_server_has_not_is_said_once() {
    let dir = directory();
    let conf = file(dir.path(), "broker.conf", "namesrvAddr=127.0.0.1:9876\nsendMessageThreadPoolNums=8\n");
    let output = run(&["config", "-c", text(&conf)]);
    assert_eq!(output.status.code(), Some(0));
    let text = stderr(&output);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("namesrvAddr") && text.contains("sendMessageThreadPoolNums"), "{text}");
}

#[test]
fn a_sample_is_a_file_that_starts() {
    let dir = directory();
    for (format, name) in [("conf", "a.conf"), ("toml", "a.toml"), ("yaml", "a.yaml")] {
        let sample = file(dir.path(), name, &stdout(&run(&["config", "--sample", format])));
        let output = run(&["config", "-c", text(&sample)]);
        assert_eq!(output.status.code(), Some(0), "{format}: {}", stderr(&output));
    }
}
