//! `ferromq produce` and `ferromq consume`.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{Server, directory, ferromq, file, stderr, stdout, text};

fn received(server: &Server, args: &[&str]) -> Vec<Value> {
    let output = server.client_command(&[&["consume"], args, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    stdout(&output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn bodies(messages: &[Value]) -> Vec<&str> {
    let mut bodies: Vec<_> = messages.iter().map(|m| m["body"].as_str().expect("text")).collect();
    bodies.sort_unstable();
    bodies
}

#[test]
fn a_message_arrives_with_all_that_was_sent_with_it() {
    let dir = directory();
    let server = Server::start(dir.path());
    let args = ["produce", "t", "héllo", "--tag", "red", "--key", "k1", "--key", "k2", "--prop", "a=1", "--json"];
    let sent = server.client_command(&args);
    assert!(sent.status.success(), "{}", stderr(&sent));
    let sent: Value = serde_json::from_str(&stdout(&sent)).expect("JSON");
    let messages = received(&server, &["t", "--group", "g", "--count", "1"]);
    let [message] = messages.as_slice() else { panic!("{messages:?}") };
    for (field, expected) in [
        ("topic", json!("t")),
        ("messageId", sent["messageId"].clone()),
        ("offset", sent["offset"].clone()),
        ("attempt", json!(1)),
        ("tag", json!("red")),
        ("keys", json!(["k1", "k2"])),
        ("properties", json!({ "a": "1" })),
        ("body", json!("héllo")),
    ] {
        assert_eq!(message[field], expected, "{field}");
    }
    assert!(message["storedMs"].as_i64() > Some(0) && message["bornMs"].as_i64() > Some(0), "{message}");
}

#[test]
fn each_line_of_standard_input_is_a_message() {
    let dir = directory();
    let server = Server::start(dir.path());
    let mut producer = ferromq()
        .args(["produce", "lines", "--endpoint", &server.endpoint()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    producer.stdin.take().expect("piped").write_all(b"one\ntwo\r\nthree").expect("written");
    let output = producer.wait_with_output().expect("ends");
    assert_eq!(stdout(&output).lines().count(), 3);
    assert_eq!(bodies(&received(&server, &["lines", "--group", "g", "--count", "3"])), ["one", "three", "two"]);
}

#[test]
fn count_repeats_every_body() {
    let dir = directory();
    let server = Server::start(dir.path());
    let sent = server.client_command(&["produce", "t", "a", "b", "--count", "20"]);
    assert_eq!(stdout(&sent).lines().count(), 40, "{}", stderr(&sent));
    let messages = received(&server, &["t", "--group", "g", "--count", "40"]);
    let found = bodies(&messages);
    assert_eq!((found[0], found[19], found[20], found[39]), ("a", "a", "b", "b"));
}

#[test]
fn a_filter_lets_only_its_tags_through() {
    let dir = directory();
    let server = Server::start(dir.path());
    for tag in ["red", "green", "blue"] {
        assert!(server.client_command(&["produce", "t", tag, "--tag", tag]).status.success());
    }
    let some = received(&server, &["t", "--group", "some", "--filter", "red || blue", "--count", "2"]);
    assert_eq!(bodies(&some), ["blue", "red"]);
    let all = received(&server, &["t", "--group", "all", "--count", "3"]);
    assert_eq!(bodies(&all), ["blue", "green", "red"]);
}

#[test]
fn messages_of_one_group_keep_their_order() {
    let dir = directory();
    let server = Server::start(dir.path());
    assert!(server.admin_command(&["topic", "create", "f", "--type", "fifo"]).status.success());
    let sent = server.client_command(&["produce", "f", "1", "2", "3", "4", "--message-group", "customer", "--json"]);
    assert!(sent.status.success(), "{}", stderr(&sent));
    let offsets: Vec<_> =
        stdout(&sent).lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON")["offset"].clone()).collect();
    assert_eq!(offsets, [0, 1, 2, 3], "one queue, in the order of the arguments");
}

#[test]
fn messages_of_every_type_are_sent_and_received() {
    let dir = directory();
    let server = Server::start(dir.path());
    let sent_as: [(&str, &[&str]); 4] = [
        ("priority", &["--priority", "7"]),
        ("lite", &["--lite-topic", "room"]),
        ("transaction", &["--transaction"]),
        ("delay", &["--delay", "1s"]),
    ];
    for (kind, flags) in sent_as {
        assert!(server.admin_command(&["topic", "create", kind, "--type", kind]).status.success());
        let plain = server.client_command(&["produce", kind, "x"]);
        let cure = stderr(&plain);
        let takes = format!("takes {} messages, this one is NORMAL; ", kind.to_uppercase());
        assert!(cure.contains(&takes) && cure.contains("or use a topic of its type"), "{cure}");
        let sent = server.client_command(&[&["produce", kind, "x"], flags].concat());
        assert!(sent.status.success(), "{}", stderr(&sent));
        let lite: &[&str] = if kind == "lite" { flags } else { &[] };
        let found = received(&server, &[&[kind, "--group", kind, "--count", "1", "--follow"], lite].concat());
        assert_eq!(bodies(&found), ["x"]);
        assert_eq!(found[0]["liteTopic"], if kind == "lite" { json!("room") } else { Value::Null });
        assert_eq!(found[0]["priority"], if kind == "priority" { json!(7) } else { Value::Null });
    }
    let two = server.client_command(&["produce", "lite", "x", "--lite-topic", "room", "--priority", "1"]);
    assert_eq!(two.status.code(), Some(2), "a message has one type");
}

#[test]
fn a_refusal_names_the_code_and_exits_with_1() {
    let dir = directory();
    let server = Server::start(dir.path());
    for (args, code) in [
        (&["produce", "a.b", "x"][..], "ILLEGAL_TOPIC 40002"),
        (&["produce", "t", "x", "--tag", "a|b"], "ILLEGAL_MESSAGE_TAG 40004"),
        (&["produce", "t", ""], "MESSAGE_BODY_EMPTY 41302"),
    ] {
        let output = server.client_command(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let said = stderr(&output);
        assert!(said.contains(code) && said.lines().count() == 1, "{args:?}: {said}");
    }
}

#[test]
fn follow_waits_for_messages_and_ends_at_ctrl_c() {
    let dir = directory();
    let server = Server::start(dir.path());
    let mut consumer = ferromq()
        .args(["consume", "t", "--group", "g", "--follow", "--endpoint", &server.endpoint()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(consumer.stdout.take().expect("piped")).lines();
    for body in ["first", "second"] {
        assert!(server.client_command(&["produce", "t", body]).status.success());
        let line = lines.next().expect("a line").expect("read");
        assert!(line.ends_with(&format!("] {body}")), "{line}");
    }
    let pid = i32::try_from(consumer.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::INT).expect("there");
    assert_eq!(consumer.wait().expect("ends").code(), Some(0));
}

#[test]
fn messages_travel_over_tls_and_a_certificate_that_nobody_vouches_for_is_refused() {
    let dir = directory();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate for this machine");
    let certificate = file(dir.path(), "certificate.pem", &made.cert.pem());
    let key = file(dir.path(), "key.pem", &made.signing_key.serialize_pem());
    let files = [format!("tlsCertPath={}", text(&certificate)), format!("tlsKeyPath={}", text(&key))];
    let server =
        Server::start_with(dir.path(), &["--set", "tlsServerMode=enforcing", "--set", &files[0], "--set", &files[1]]);
    let send = |how: &[&str]| server.client_command(&[&["produce", "t", "x"], how].concat());
    for how in [&["--ca", text(&certificate)][..], &["--insecure"]] {
        let sent = send(how);
        assert!(sent.status.success(), "{how:?}: {}", stderr(&sent));
    }
    let received = server.client_command(&["consume", "t", "--group", "g", "--count", "2", "--insecure"]);
    assert!(received.status.success(), "{}", stderr(&received));
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate for this machine");
    let other = file(dir.path(), "other.pem", &other.cert.pem());
    for how in [&["--ca", text(&other)][..], &[]] {
        let refused = send(how);
        assert_eq!(refused.status.code(), Some(1), "{how:?}");
        assert_eq!(stderr(&refused).lines().count(), 1, "{}", stderr(&refused));
    }
}
