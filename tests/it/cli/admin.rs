//! `ferromq topic`, `ferromq group`, `ferromq health`.

use serde_json::{Value, json};

use crate::harness::{Server, directory, stderr, stdout};

/// Runs a command that must succeed and prints JSON.
fn json_of(server: &Server, args: &[&str]) -> Value {
    let output = server.admin_command(&[args, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    serde_json::from_str(&stdout(&output)).expect("JSON")
}

/// Runs a command that must fail, and returns the one line that it says.
fn refusal(server: &Server, args: &[&str]) -> String {
    let output = server.admin_command(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stdout(&output));
    let said = stderr(&output);
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

#[test]
fn a_topic_lives_from_create_to_delete() {
    let dir = directory();
    let server = Server::start(dir.path());
    let create = ["topic", "create", "orders", "--type", "FiFo", "--queues", "4"];
    let made = json_of(&server, &create);
    let topic = json!({
        "name": "orders", "type": "FIFO", "readQueues": 4, "writeQueues": 4, "readable": true, "writable": true
    });
    let with_created = |created: bool| {
        let mut expected = topic.clone();
        expected["created"] = created.into();
        expected
    };
    assert_eq!(made, with_created(true));
    assert_eq!(json_of(&server, &create), with_created(false), "the same again succeeds");
    let conflict = refusal(&server, &["topic", "create", "orders", "--type", "normal", "--queues", "4"]);
    assert!(conflict.contains("orders") && conflict.contains("ferromq topic update"), "{conflict}");

    let changed = json_of(&server, &["topic", "update", "orders", "--queues", "6", "--writable", "false"]);
    assert_eq!(
        (&changed["readQueues"], &changed["writable"], &changed["type"]),
        (&json!(6), &json!(false), &json!("FIFO"))
    );
    let shrunk = refusal(&server, &["topic", "update", "orders", "--queues", "2"]);
    assert!(shrunk.contains('6'), "{shrunk}");

    let described = json_of(&server, &["topic", "describe", "orders"]);
    assert_eq!(described["queues"].as_array().map(Vec::len), Some(6));
    assert_eq!(described["queues"][5], json!({ "id": 5, "min": 0, "max": 0 }));

    let names: Vec<_> =
        json_of(&server, &["topic", "list"]).as_array().expect("a list").iter().map(|t| t["name"].clone()).collect();
    assert_eq!(names, ["orders"]);
    let all = json_of(&server, &["topic", "list", "--system"]);
    assert!(all.as_array().expect("a list").len() > 1, "{all}");

    assert_eq!(json_of(&server, &["topic", "delete", "orders"]), json!({ "name": "orders", "deleted": true }));
    for args in [
        &["topic", "delete", "orders"][..],
        &["topic", "describe", "orders"],
        &["topic", "update", "orders", "--queues", "9"],
    ] {
        let said = refusal(&server, args);
        assert!(said.contains("topic orders does not exist") && said.contains("ferromq topic list"), "{said}");
    }
}

#[test]
fn a_group_lives_from_create_to_delete() {
    let dir = directory();
    let server = Server::start(dir.path());
    let create = ["group", "create", "billing", "--fifo", "--max-attempts", "16", "--retry-after", "1s,10s,2m"];
    let made = json_of(&server, &create);
    assert_eq!(
        made,
        json!({
            "name": "billing", "fifo": true, "broadcast": false, "maxAttempts": 16, "retryPolicy": { "delaysMs": [1000, 10000, 120_000] },
            "consumeEnabled": true, "created": true
        })
    );
    assert_eq!(json_of(&server, &create)["created"], json!(false));
    let conflict = refusal(&server, &["group", "create", "billing"]);
    assert!(conflict.contains("billing"), "{conflict}");

    let changed =
        json_of(&server, &["group", "update", "billing", "--max-attempts", "3", "--consume-enabled", "false"]);
    assert_eq!(
        (&changed["maxAttempts"], &changed["consumeEnabled"], &changed["fifo"]),
        (&json!(3), &json!(false), &json!(true))
    );
    assert!(refusal(&server, &["group", "update", "billing", "--max-attempts", "0"]).contains("from 1 to 1000"));

    let listed = json_of(&server, &["group", "list"]);
    assert_eq!(listed.as_array().expect("a list").len(), 1);
    assert_eq!(json_of(&server, &["group", "delete", "billing"]), json!({ "name": "billing", "deleted": true }));
    assert!(refusal(&server, &["group", "describe", "billing"]).contains("ferromq group list"));
}

#[test]
fn a_group_shows_its_progress() {
    let dir = directory();
    let server = Server::start(dir.path());
    assert!(server.admin_command(&["topic", "create", "t", "--queues", "1"]).status.success());
    assert!(server.client_command(&["produce", "t", "a", "b", "c"]).status.success());
    let received = server.client_command(&["consume", "t", "--group", "g", "--count", "2"]);
    assert_eq!(stdout(&received).lines().count(), 2, "{}", stderr(&received));
    let unsettled = server.client_command(&["consume", "t", "--group", "g", "--count", "1", "--no-ack"]);
    assert_eq!(stdout(&unsettled).lines().count(), 1, "{}", stderr(&unsettled));
    let queue = &json_of(&server, &["group", "describe", "g"])["queues"][0];
    let expected = json!({
        "topic": "t", "queue": 0, "min": 0, "max": 3, "commit": 2, "lag": 1, "inFlight": 1, "waitingRetry": 0
    });
    assert_eq!(queue, &expected);
}

#[test]
fn a_group_is_reset_as_the_dry_run_said() {
    let dir = directory();
    let server = Server::start(dir.path());
    assert!(server.admin_command(&["topic", "create", "t", "--queues", "1"]).status.success());
    assert!(server.client_command(&["produce", "t", "a", "b", "c"]).status.success());
    let received = server.client_command(&["consume", "t", "--group", "g", "--count", "3"]);
    assert_eq!(stdout(&received).lines().count(), 3, "{}", stderr(&received));
    let reset = ["group", "reset", "g", "--topic", "t", "--to", "1"];
    let told = |dry_run: bool| {
        let queue = json!({ "queue": 0, "from": 3, "to": 1, "inFlight": 0, "waitingRetry": 0 });
        json!({ "group": "g", "topic": "t", "dryRun": dry_run, "queues": [queue] })
    };
    assert_eq!(json_of(&server, &[&reset[..], &["--dry-run"]].concat()), told(true));
    assert_eq!(json_of(&server, &["group", "describe", "g"])["queues"][0]["commit"], json!(3));
    assert_eq!(json_of(&server, &reset), told(false));
    server.kill();
    let server = Server::start(dir.path());
    assert_eq!(json_of(&server, &["group", "describe", "g"])["queues"][0]["commit"], json!(1));
    let again = server.client_command(&["consume", "t", "--group", "g", "--count", "2"]);
    assert_eq!(stdout(&again).lines().collect::<Vec<_>>(), ["[0@1] b", "[0@2] c"], "{}", stderr(&again));
    let to = |position: &str| {
        let document = json_of(&server, &["group", "reset", "g", "--topic", "t", "--to", position, "--dry-run"]);
        document["queues"][0]["to"].clone()
    };
    assert_eq!((to("begin"), to("end")), (json!(0), json!(3)));
    assert_eq!((to("2001-01-01T00:00:00Z"), to("2999-01-01T00:00:00Z")), (json!(0), json!(3)));
    let beyond = refusal(&server, &["group", "reset", "g", "--topic", "t", "--to", "4"]);
    assert!(beyond.contains("beyond the end of queue 0, which is 3"), "{beyond}");
    let nowhere = refusal(&server, &["group", "reset", "g", "--topic", "x", "--to", "end"]);
    assert!(nowhere.contains("topic x does not exist"), "{nowhere}");
    let no_queue = refusal(&server, &["group", "reset", "g", "--topic", "t", "--queue", "1", "--to", "end"]);
    assert!(no_queue.contains("queue 1 does not exist"), "{no_queue}");
}

#[test]
fn messages_are_consumed_by_an_sql_condition_and_one_that_does_not_read_is_refused() {
    let dir = directory();
    let server = Server::start(dir.path());
    assert!(server.admin_command(&["topic", "create", "t", "--queues", "1"]).status.success());
    assert!(server.client_command(&["produce", "t", "a", "--tag", "paid"]).status.success());
    assert!(server.client_command(&["produce", "t", "b"]).status.success());
    let consume = |condition| server.client_command(&["consume", "t", "--group", "g", "--sql", condition]);
    assert_eq!(stdout(&consume("TAGS IS NULL")).lines().collect::<Vec<_>>(), ["[0@1] b"]);
    let refused = consume("price >");
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("column 8: expected a property"), "{}", stderr(&refused));
}

#[test]
fn what_holds_up_a_message_group_is_shown_and_can_be_skipped_or_parked() {
    let dir = directory();
    let server = Server::start(dir.path());
    json_of(&server, &["topic", "create", "t", "--type", "fifo", "--queues", "1"]);
    json_of(&server, &["group", "create", "g", "--fifo"]);
    assert!(server.client_command(&["produce", "t", "a", "b", "c", "--message-group", "m"]).status.success());
    let consume = ["consume", "t", "--group", "g", "--count", "1"];
    let unsettled = server.client_command(&[&consume[..], &["--no-ack"]].concat());
    assert_eq!(stdout(&unsettled).lines().count(), 1, "{}", stderr(&unsettled));
    let queue = || json_of(&server, &["group", "describe", "g"])["queues"][0].clone();
    let locked = |queue: &Value| [&queue["lockedGroups"], &queue["oldestBlocking"]].map(Value::as_u64);
    assert_eq!(locked(&queue()), [Some(1), Some(0)]);
    let text = server.admin_command(&["group", "describe", "g"]);
    assert!(stdout(&text).contains("OLDEST BLOCKING"), "{}", stdout(&text));

    let place = |offset| ["--topic", "t", "--queue", "0", "--offset", offset];
    let operate = |verb, offset| [&["group", verb, "g"][..], &place(offset)].concat();
    assert_eq!(json_of(&server, &operate("park", "0"))["parked"], json!(true));
    assert_eq!(json_of(&server, &operate("park", "0"))["parked"], json!(false), "once is enough");
    assert_eq!(json_of(&server, &operate("skip", "1"))["skipped"], json!(true));
    let received = server.client_command(&consume);
    assert!(stdout(&received).contains('c'), "{}", stdout(&received));
    assert_eq!((&queue()["commit"], locked(&queue())), (&json!(3), [None, None]));
    assert!(refusal(&server, &operate("skip", "7")).contains("has no message 7"));
    let dead = server.client_command(&["consume", "%DLQ%g", "--group", "undertaker", "--count", "1"]);
    assert!(stdout(&dead).contains('a'), "{}", stdout(&dead));
}

#[test]
fn names_that_are_not_names_are_refused_with_the_reason() {
    let dir = directory();
    let server = Server::start(dir.path());
    for (name, why) in [("a/b", "'/'"), ("..", "'.'"), ("TBW102", "reserved"), ("rmq_sys_x", "reserved")] {
        let said = refusal(&server, &["topic", "create", name]);
        assert!(said.contains(name) && said.contains(why), "{said}");
    }
    assert!(refusal(&server, &["group", "create", "CID_RMQ_SYS_x"]).contains("reserved"));
    assert!(refusal(&server, &["topic", "create", "t", "--queues", "0"]).contains("1024"));
}

#[test]
fn what_was_made_is_there_after_kill_9() {
    let dir = directory();
    let server = Server::start(dir.path());
    json_of(&server, &["topic", "create", "orders", "--type", "fifo"]);
    json_of(&server, &["group", "create", "billing", "--max-attempts", "5"]);
    server.kill();
    let server = Server::start(dir.path());
    assert_eq!(json_of(&server, &["topic", "describe", "orders"])["type"], json!("FIFO"));
    assert_eq!(json_of(&server, &["group", "describe", "billing"])["maxAttempts"], json!(5));
}

#[test]
fn a_message_that_waits_is_shown_moved_and_cancelled() {
    let dir = directory();
    let server = Server::start(dir.path());
    json_of(&server, &["topic", "create", "reminders", "--type", "delay", "--queues", "1"]);
    let produced = server.client_command(&["produce", "reminders", "a", "b", "--delay", "30d", "--tag", "x", "--json"]);
    assert_eq!(produced.status.code(), Some(0), "{}", stderr(&produced));
    let sent: Vec<Value> = stdout(&produced).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(sent[0]["recallHandle"].as_str().is_some_and(|handle| !handle.is_empty()), "{sent:?}");
    let id = |n: usize| sent[n]["messageId"].as_str().expect("an id").to_owned();

    let list = json_of(&server, &["timer", "list"]);
    assert_eq!((&list["pending"], list["timers"].as_array().map(Vec::len)), (&json!(2), Some(2)));
    let found = json_of(&server, &["timer", "find", &id(1)]);
    assert_eq!(
        (&found[0]["topic"], &found[0]["tag"], &found[0]["bodyBytes"]),
        (&json!("reminders"), &json!("x"), &json!(1))
    );
    let cancelled = json_of(&server, &["timer", "cancel", &id(0), "--topic", "reminders"]);
    assert_eq!(cancelled[0]["messageId"], json!(id(0)));
    let again = refusal(&server, &["timer", "cancel", &id(0)]);
    assert!(again.contains(&id(0)) && again.contains("ferromq timer list"), "{again}");

    let far = refusal(&server, &["timer", "reschedule", &id(1), "--in", "401d"]);
    assert!(far.contains("timerMaxDelaySec"), "{far}");
    json_of(&server, &["timer", "reschedule", &id(1), "--in", "1ms"]);
    let consumed = server.client_command(&["consume", "reminders", "--group", "g", "--count", "1", "--json"]);
    assert!(stdout(&consumed).contains(&id(1)), "{}{}", stdout(&consumed), stderr(&consumed));
    let list = json_of(&server, &["timer", "list"]);
    assert_eq!((&list["pending"], &list["lateness"]["count"]), (&json!(0), &json!(1)));
}

#[test]
fn health_says_ready_with_exit_code_0() {
    let dir = directory();
    let server = Server::start(dir.path());
    let output = server.admin_command(&["health"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).starts_with("ready\n"), "{}", stdout(&output));
    let status = json_of(&server, &["health"]);
    assert_eq!((&status["ready"], &status["flushDiskType"]), (&json!(true), &json!("SYNC_FLUSH")));
    assert_eq!(status["storePath"].as_str(), dir.path().join("store").to_str());
}
