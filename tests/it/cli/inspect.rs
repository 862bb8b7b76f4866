//! `ferromq message`, `ferromq dlq`, `ferromq group lag` and `connections`: what operators look at, over both services of
//! administration.

use std::{io::Write as _, net::TcpStream, process::Stdio, time::Duration};

use ferromq::proto::v2::{ChangeLogLevelRequest, admin_client::AdminClient, change_log_level_request::Level};
use serde_json::{Value, json};

use crate::harness::{Server, directory, ferromq, stderr, stdout};

/// What a command that must succeed prints: one object a line.
fn lines(server: &Server, args: &[&str]) -> Vec<Value> {
    let output = server.admin_command(&[args, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    stdout(&output).lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

/// The one line of a command that must fail.
fn refusal(server: &Server, args: &[&str]) -> String {
    let output = server.admin_command(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stdout(&output));
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    stderr(&output)
}

/// The same as a table for people.
fn shown(server: &Server, args: &[&str]) -> String {
    let output = server.admin_command(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

/// Sends bodies to a topic; their ids.
fn produce(server: &Server, args: &[&str]) -> Vec<String> {
    let output = server.client_command(&[&["produce"], args, &["--json"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let id = |line: &str| {
        let sent: Value = serde_json::from_str(line).expect("JSON");
        sent["messageId"].as_str().expect("an id").to_owned()
    };
    stdout(&output).lines().map(id).collect()
}

fn consume(server: &Server, args: &[&str]) -> String {
    let output = server.client_command(&[&["consume"], args].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    stdout(&output)
}

fn of<'a>(found: &'a [Value], field: &str) -> Vec<&'a str> {
    found.iter().map(|m| m[field].as_str().expect("text")).collect()
}

/// A server with topic `t` of one queue.
fn start(dir: &tempfile::TempDir) -> Server {
    let server = Server::start(dir.path());
    assert!(server.admin_command(&["topic", "create", "t", "--queues", "1"]).status.success());
    server
}

#[test]
fn messages_are_got_found_browsed_and_sent_again() {
    let dir = directory();
    let server = start(&dir);
    let ids = produce(&server, &["t", "a", "b", "--tag", "red", "--key", "k"]);
    produce(&server, &["t", "c", "--tag", "blue"]);

    let got = lines(&server, &["message", "get", &ids[1], "--topic", "t"]);
    assert_eq!((got.len(), &got[0]["body"], &got[0]["offset"]), (1, &json!("b"), &json!(1)));
    assert_eq!(of(&lines(&server, &["message", "find", "k", "--topic", "t"]), "body"), ["b", "a"]);
    assert_eq!(of(&lines(&server, &["message", "browse", "t"]), "body"), ["a", "b", "c"]);
    assert_eq!(of(&lines(&server, &["message", "browse", "t", "--tags", "blue || x"]), "body"), ["c"]);
    assert_eq!(of(&lines(&server, &["message", "browse", "t", "--limit", "2", "--from", "1h"]), "body"), ["a", "b"]);
    assert!(lines(&server, &["message", "browse", "t", "--to", "2001-01-01T00:00:00Z"]).is_empty());
    let table = shown(&server, &["message", "browse", "t"]);
    assert!(table.lines().next().is_some_and(|l| l.contains(&ids[0]) && l.ends_with("] a")), "{table}");

    let again = lines(&server, &["message", "resend", &ids[0], "--topic", "t"]);
    assert_eq!((&again[0]["messageId"], &again[0]["offset"]), (&json!(ids[0]), &json!(3)));
    assert_eq!(lines(&server, &["message", "get", &ids[0], "--topic", "t"]).len(), 2, "both have the id");
    assert_eq!(consume(&server, &["t", "--group", "g", "--count", "4"]).lines().count(), 4);

    let none = refusal(&server, &["message", "get", "x", "--topic", "t"]);
    assert!(none.contains("no message x") && none.contains("MESSAGE_NOT_FOUND 40401"), "{none}");
    assert!(refusal(&server, &["message", "resend", "x", "--topic", "t"]).contains("no message x"));
    assert!(refusal(&server, &["message", "browse", "nowhere"]).contains("topic nowhere does not exist"));
    assert!(refusal(&server, &["message", "browse", "t", "--queue", "1"]).contains("queue 1 does not exist"));
}

#[test]
fn a_dead_letter_is_listed_told_and_sent_again_and_stays_so_after_kill_9() {
    let dir = directory();
    let server = start(&dir);
    let ids = produce(&server, &["t", "poison", "fine"]);
    consume(&server, &["t", "--group", "g", "--count", "1", "--no-ack"]);
    let park = ["group", "park", "g", "--topic", "t", "--queue", "0", "--offset", "0"];
    assert!(server.admin_command(&park).status.success());

    let letters = lines(&server, &["dlq", "list", "g"]);
    assert_eq!(
        (of(&letters, "messageId"), &letters[0]["topic"], &letters[0]["body"]),
        (vec![&*ids[0]], &json!("t"), &json!("poison"))
    );
    assert!(shown(&server, &["dlq", "list", "g"]).contains("poison"));
    let sent = lines(&server, &["dlq", "resend", "g", "--everything"]);
    assert_eq!((&sent[0]["messageId"], &sent[0]["deadLetter"]), (&json!(ids[0]), &json!(0)));
    server.kill();
    let server = Server::start(dir.path());
    assert!(lines(&server, &["dlq", "list", "g"]).is_empty());
    assert_eq!(lines(&server, &["dlq", "list", "g", "--all"])[0]["done"], json!(true));
    let twice = refusal(&server, &["dlq", "resend", "g", "0"]);
    assert!(twice.contains("sent again already") && twice.contains("--again"), "{twice}");
    assert!(lines(&server, &["dlq", "resend", "g", "--everything"]).is_empty());
    assert_eq!(lines(&server, &["dlq", "resend", "g", "0", "--again"]).len(), 1);

    let story = lines(&server, &["message", "explain", &ids[0]]);
    let events: Vec<_> = story.iter().filter_map(|line| line["event"]["what"].as_str()).collect();
    assert_eq!(events.iter().filter(|what| **what == "STORED").count(), 4, "{events:?}");
    for what in ["DEAD_LETTERED", "RESENT"] {
        assert!(events.contains(&what), "{events:?}");
    }
    assert!(story.iter().any(|line| line["gap"].as_str().is_some_and(|gap| gap.contains("kept in memory"))));
    assert!(refusal(&server, &["dlq", "list", "nobody"]).contains("group nobody does not exist"));
}

#[test]
fn the_story_of_a_message_names_the_client_that_got_it_and_acknowledged_it() {
    let dir = directory();
    let server = start(&dir);
    let id = &produce(&server, &["t", "a"])[0];
    consume(&server, &["t", "--group", "g", "--count", "1"]);
    let story = lines(&server, &["message", "explain", id, "--topic", "t"]);
    let events: Vec<&Value> = story.iter().map(|line| &line["event"]).filter(|event| !event.is_null()).collect();
    let told: Vec<_> = events.iter().map(|event| event["what"].as_str().expect("text")).collect();
    assert_eq!(told, ["STORED", "DELIVERED", "DONE"]);
    for event in &events[1..] {
        assert!(event["client"].as_str().is_some_and(|client| client.starts_with("ferromq@")), "{event}");
        assert!(event["host"].as_str().is_some_and(|host| host.starts_with("127.0.0.1:")), "{event}");
        assert_eq!(event["group"], "g");
    }
    assert_eq!((&events[1]["attempt"], &story[0]["copy"]["kind"]), (&json!(1), &json!("MESSAGE")));
    assert!(story.iter().any(|line| line["group"]["state"] == "DONE"), "{story:?}");
    let text = shown(&server, &["message", "explain", id]);
    assert!(text.contains("delivered, attempt 1") && text.contains("acknowledged"), "{text}");
    let nothing = refusal(&server, &["message", "explain", "x"]);
    assert!(nothing.contains("nothing is known of a message x"), "{nothing}");
}

#[test]
fn lag_and_connections_are_told_for_people_and_for_pipes() {
    let dir = directory();
    let server = start(&dir);
    produce(&server, &["t", "a", "b", "c"]);
    consume(&server, &["t", "--group", "g", "--count", "1"]);
    consume(&server, &["t", "--group", "g", "--count", "1", "--no-ack"]);
    let lag = lines(&server, &["group", "lag", "g"]);
    assert_eq!((lag.len(), &lag[0]["topic"]), (1, &json!("t")));
    assert_eq!((&lag[0]["ready"], &lag[0]["inFlight"], &lag[0]["lag"]), (&json!(1), &json!(1), &json!(2)));
    assert!(shown(&server, &["group", "lag", "g", "--topic", "t"]).contains("OLDEST READY"));
    assert!(refusal(&server, &["group", "lag", "nobody"]).contains("group nobody does not exist"));

    assert!(lines(&server, &["group", "connections", "g"]).is_empty(), "they said goodbye");
    let mut follower = ferromq()
        .args(["consume", "t", "--group", "g", "--follow", "--endpoint", &server.endpoint()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("the built binary starts");
    let there = (0..600).find_map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        lines(&server, &["group", "connections", "g", "--topic", "t"]).pop()
    });
    follower.kill().expect("killed");
    follower.wait().expect("waited for");
    let there = there.expect("the follower is seen");
    assert_eq!((&there["language"], &there["address"]), (&json!("RUST"), &json!("127.0.0.1")));
}

#[test]
fn the_log_level_is_changed_while_the_server_runs() {
    let dir = directory();
    let server = Server::start_with(dir.path(), &["--set", "logLevel=error"]);
    let break_a_connection = || {
        let mut garbage = TcpStream::connect(server.endpoint()).expect("connected");
        garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
        // Once it is closed, it was told of.
        drop(std::io::copy(&mut garbage, &mut std::io::sink()));
    };
    break_a_connection();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let remark = runtime.block_on(async {
        let mut admin = AdminClient::connect(format!("http://{}", server.admin())).await.expect("connected");
        let request = ChangeLogLevelRequest { level: Level::Debug.into() };
        admin.change_log_level(request).await.expect("changed").into_inner().remark
    });
    assert!(remark.contains("DEBUG"), "{remark}");
    break_a_connection();
    let log = server.stop().log;
    assert!(log.lines().any(|line| line.contains("the connection broke")), "{log}");
}
