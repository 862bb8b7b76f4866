//! `ferromq apply`.

use std::{
    io::Write as _,
    path::Path,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    clients::process,
    harness::{Server, directory, ferromq, file, run, stderr, stdout, text},
};

const DOCUMENT: &str = "\
topics:
  - {name: orders, type: fifo, queues: 4}
  - {name: archive, writable: false}
groups:
  - {name: billing, fifo: true, maxAttempts: 5, retryAfter: [1s, 10s, 2m]}
  - {name: paused, consumeEnabled: false}
";

fn apply(server: &Server, document: &Path, args: &[&str]) -> Output {
    server.admin_command(&[&["apply", "-f", text(document)], args].concat())
}

#[track_caller]
fn done(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    stdout(output)
}

#[track_caller]
fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", stdout(output));
    let said = stderr(output);
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

fn described(server: &Server, what: &str, name: &str) -> Value {
    serde_json::from_str(&done(&server.admin_command(&[what, "describe", name, "--json"]))).expect("JSON")
}

fn names(server: &Server, what: &str) -> Vec<String> {
    let listed: Value = serde_json::from_str(&done(&server.admin_command(&[what, "list", "--json"]))).expect("JSON");
    listed.as_array().expect("a list").iter().map(|t| t["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn a_document_is_applied_once_and_then_is_there() {
    let dir = directory();
    let server = Server::start(dir.path());
    let document = file(dir.path(), "topics.yaml", DOCUMENT);
    let plan = done(&apply(&server, &document, &["--plan"]));
    assert!(plan.ends_with("4 to create, 0 to change, 0 to delete, 0 unchanged; nothing was changed\n"), "{plan}");
    assert!(names(&server, "topic").is_empty(), "a plan changes nothing");
    let said = done(&apply(&server, &document, &[]));
    assert_eq!(
        said,
        "+ topic orders  type FIFO, queues 4\n+ topic archive  writable false\n\
         + group billing  fifo true, maxAttempts 5, retryAfter 1s,10s,2m\n+ group paused  consumeEnabled false\n\
         4 created, 0 changed, 0 deleted, 0 unchanged\n"
    );
    let (orders, archive) = (described(&server, "topic", "orders"), described(&server, "topic", "archive"));
    assert_eq!(
        (&orders["type"], &orders["writeQueues"], &orders["writable"]),
        (&json!("FIFO"), &json!(4), &json!(true))
    );
    assert_eq!((&archive["writable"], &archive["readable"]), (&json!(false), &json!(true)));
    let (billing, paused) = (described(&server, "group", "billing"), described(&server, "group", "paused"));
    assert_eq!((&billing["fifo"], &billing["maxAttempts"]), (&json!(true), &json!(5)));
    assert_eq!(billing["retryPolicy"]["delaysMs"], json!([1000, 10000, 120_000]));
    assert_eq!(paused["consumeEnabled"], false);

    assert_eq!(done(&apply(&server, &document, &[])), "0 created, 0 changed, 0 deleted, 4 unchanged\n");
    assert_eq!(done(&apply(&server, &document, &["--diff"])), "");
}

#[test]
fn a_difference_is_shown_with_exit_code_3_and_then_mended() {
    let dir = directory();
    let server = Server::start(dir.path());
    let document = file(dir.path(), "topics.yaml", DOCUMENT);
    done(&apply(&server, &document, &[]));
    done(&server.admin_command(&["group", "update", "billing", "--max-attempts", "9"]));
    done(&server.admin_command(&["topic", "update", "archive", "--writable", "true", "--queues", "20"]));
    let diff = apply(&server, &document, &["--diff"]);
    assert_eq!(diff.status.code(), Some(3), "{}", stderr(&diff));
    assert_eq!(
        stdout(&diff),
        "--- topic archive (server)\n+++ topic archive (document)\n-writable: true\n+writable: false\n\
         --- group billing (server)\n+++ group billing (document)\n-maxAttempts: 9\n+maxAttempts: 5\n"
    );
    let applied: Value = serde_json::from_str(&done(&apply(&server, &document, &["--json"]))).expect("JSON");
    let steps = json!([
        { "verb": "change", "what": "topic", "name": "archive",
          "fields": [{ "name": "writable", "from": true, "to": false }] },
        { "verb": "change", "what": "group", "name": "billing",
          "fields": [{ "name": "maxAttempts", "from": 9, "to": 5 }] },
    ]);
    assert_eq!(applied, json!({ "steps": steps, "unchanged": 2, "applied": true }));
    // What the document does not name stays as the operator made it.
    assert_eq!(described(&server, "topic", "archive")["writeQueues"], 20);
    assert_eq!(done(&apply(&server, &document, &["--diff"])), "");
}

#[test]
fn prune_deletes_what_is_owned_and_only_when_told_twice() {
    let dir = directory();
    let server = Server::start(dir.path());
    for name in ["orders-1", "orders-2", "clicks"] {
        done(&server.admin_command(&["topic", "create", name]));
    }
    done(&server.admin_command(&["group", "create", "orders-old"]));
    let document = file(
        dir.path(),
        "topics.yaml",
        "topics: [{name: orders-1}]\nowns: {topics: ['orders-*'], groups: ['orders-*']}\n",
    );
    done(&apply(&server, &document, &[]));
    let said = refusal(&apply(&server, &document, &["--prune"]));
    assert!(said.contains("topic orders-2") && said.contains("group orders-old") && said.contains("--yes"), "{said}");
    assert_eq!(names(&server, "topic"), ["clicks", "orders-1", "orders-2"], "nothing went yet");
    let said = done(&apply(&server, &document, &["--prune", "--yes"]));
    assert_eq!(said, "- group orders-old\n- topic orders-2\n0 created, 0 changed, 2 deleted, 1 unchanged\n");
    assert_eq!(names(&server, "topic"), ["clicks", "orders-1"]);
    assert!(names(&server, "group").is_empty());

    let owns_nothing = file(dir.path(), "nothing.yaml", "topics: [{name: orders-1}]\n");
    assert!(refusal(&apply(&server, &owns_nothing, &["--prune", "--yes"])).contains("owns"));
}

#[test]
fn a_document_with_something_impossible_changes_nothing() {
    let dir = directory();
    let server = Server::start(dir.path());
    done(&server.admin_command(&["topic", "create", "wide", "--queues", "8"]));
    for (document, told) in [
        ("topics: [{name: new}, {name: wide, queues: 4}]", "topic wide has 8 queues"),
        ("topics: [{name: new}, {name: a/b}]", "a/b"),
        ("topics: [{name: new, queue: 3}]", "queue"),
        ("topics: [{name: new}, {name: new}]", "twice"),
    ] {
        let document = file(dir.path(), "wrong.yaml", document);
        let said = refusal(&apply(&server, &document, &[]));
        assert!(said.contains(told), "{said}");
        assert_eq!(names(&server, "topic"), ["wide"], "{said}");
    }
    assert!(refusal(&apply(&server, &dir.path().join("none.yaml"), &[])).contains("none.yaml"));
    assert_eq!(run(&["apply"]).status.code(), Some(2));
}

#[test]
fn standard_input_is_a_document_too() {
    let dir = directory();
    let server = Server::start(dir.path());
    let mut child = ferromq()
        .args(["apply", "-f", "-", "--admin", &server.admin()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    child.stdin.take().expect("piped").write_all(b"topics: [{name: piped}]").expect("written");
    done(&child.wait_with_output().expect("ends"));
    assert_eq!(names(&server, "topic"), ["piped"]);
}

#[test]
fn a_server_that_is_not_there_is_waited_for_as_long_as_was_said() {
    let dir = directory();
    let nobody =
        std::net::TcpListener::bind("127.0.0.1:0").expect("bound").local_addr().expect("an address").to_string();
    let document = file(dir.path(), "topics.yaml", DOCUMENT);
    let started = Instant::now();
    let said = refusal(&run(&["apply", "-f", text(&document), "--wait", "1s", "--admin", &nobody]));
    assert!(said.contains(&nobody) && started.elapsed() >= Duration::from_secs(1), "{said}");
}

#[test]
fn watching_applies_what_changes_and_ends_with_sigterm() {
    /// Well above the five seconds between two looks.
    const SOON: Duration = Duration::from_secs(60);
    let dir = directory();
    let server = Server::start(dir.path());
    let document = file(dir.path(), "topics.yaml", "topics: [{name: first}]");
    let mut watcher = ferromq()
        .args(["apply", "-f", text(&document), "--watch", "--admin", &server.admin()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let appears = |name: &str| process::poll(SOON, || names(&server, "topic").contains(&name.to_owned()).then_some(()));
    assert!(appears("first").is_some());
    file(dir.path(), "topics.yaml", "topics: [{name: first}, {name: second}]");
    assert!(appears("second").is_some(), "a change was not applied");
    let pid = i32::try_from(watcher.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::TERM).expect("it is there");
    let status = process::ended(&mut watcher, SOON);
    process::kill(&mut watcher);
    assert_eq!(status.and_then(|s| s.code()), Some(0));
}
