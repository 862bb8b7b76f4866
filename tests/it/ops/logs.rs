//! What is logged, how, and what never is.

use serde_json::Value;

use crate::harness::{Server, directory, stderr, stdout};

#[test]
fn a_log_that_is_no_terminal_is_json() {
    let dir = directory();
    let ended = Server::start(dir.path()).stop();
    assert!(ended.log.lines().count() > 1, "{}", ended.log);
    for line in ended.log.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

#[test]
fn the_level_is_changed_while_the_server_runs() {
    let dir = directory();
    let server = Server::start(dir.path());
    assert_eq!(stdout(&server.admin_command(&["log-level"])).trim(), "info");
    assert!(server.client_command(&["produce", "t", "x"]).status.success());
    let set = server.admin_command(&["log-level", "warn,ferromq::proxy=debug"]);
    assert_eq!(stdout(&set).trim(), "warn,ferromq::proxy=debug", "{}", stderr(&set));
    assert!(server.client_command(&["produce", "t", "x"]).status.success());
    let refused = server.admin_command(&["log-level", "loud"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("none of off, error, warn"), "{}", stderr(&refused));
    let log = server.stop().log;
    let calls = |level: &str| log.lines().filter(|line| line.contains(level) && line.contains("answered")).count();
    assert!(calls("DEBUG") > 0, "{log}");
    assert!(!log.contains("stopping"), "what is below the level is still logged:\n{log}");
}

#[test]
fn no_body_key_or_property_is_ever_logged() {
    let dir = directory();
    let server = Server::start_with(dir.path(), &["--set", "logLevel=trace"]);
    let send = ["produce", "t", "SECRET-BODY", "--key", "SECRET-KEY", "--prop", "SECRET-NAME=SECRET-VALUE"];
    let sent = server.client_command(&send);
    assert!(sent.status.success(), "{}", stderr(&sent));
    let received = server.client_command(&["consume", "t", "--group", "g", "--count", "1"]);
    assert!(stdout(&received).contains("SECRET-BODY"), "{}", stderr(&received));
    let log = server.stop().log;
    assert!(log.contains("DEBUG") && log.contains("SendMessage"), "nothing was logged of the calls:\n{log}");
    for secret in ["SECRET", "U0VDUkVU", "5345435245542d"] {
        let line = log.lines().find(|line| line.to_ascii_uppercase().contains(&secret.to_ascii_uppercase()));
        assert_eq!(line, None);
    }
}
