//! What is logged, how, and what never is.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{self, Server, directory, ferromq, stderr, stdout};

#[test]
fn a_log_that_is_no_terminal_is_json() {
    let dir = directory();
    let ended = Server::start(dir.path()).stop();
    assert!(ended.log.lines().count() > 1, "{}", ended.log);
    for line in ended.log.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

/// What a server prints on a terminal of its own, from its start to its end.
fn on_a_terminal(args: &[&str]) -> String {
    const TERMINAL: &str = "import pty, sys; pty.spawn(sys.argv[1:])";
    let dir = directory();
    let mut python = Command::new("python3");
    python.args(["-c", TERMINAL]).arg(ferromq().get_program()).args(args).arg("--store").arg(dir.path());
    python.args(["grpcServerPort", "adminServerPort", "metricsPromExporterPort"].map(|port| format!("--set={port}=0")));
    let mut terminal =
        python.env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("python runs");
    let mut screen = BufReader::new(terminal.stdout.take().expect("piped"));
    let mut text = String::new();
    while !text.contains(harness::READY) {
        assert_ne!(screen.read_line(&mut text).expect("text"), 0, "{text}");
    }
    // While it runs the file says who it is.
    let pid = fs::read_to_string(dir.path().join("abort")).expect("it is there");
    let pid = pid.trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::TERM).expect("it is there");
    screen.read_to_string(&mut text).expect("text");
    terminal.wait().expect("ends");
    text
}

#[test]
fn a_log_on_a_terminal_is_text_for_people_and_a_setting_decides_otherwise() {
    if Command::new("python3").args(["-c", "import pty"]).status().is_ok_and(|status| status.success()) {
        for (format, is_json) in [("auto", false), ("json", true)] {
            let screen = on_a_terminal(&["--set", &format!("logFormat={format}")]);
            let lines: Vec<&str> = screen.lines().filter(|line| line.contains("INFO")).collect();
            assert!(!lines.is_empty(), "nothing was logged: {screen}");
            for line in lines {
                assert_eq!(serde_json::from_str::<Value>(line.trim()).is_ok(), is_json, "{format}: {line}");
            }
        }
    } else {
        harness::skipped("no python3 here, which makes the terminal");
    }
    let dir = directory();
    let log = Server::start_with(dir.path(), &["--set", "logFormat=text"]).stop().log;
    assert!(log.lines().any(|line| line.contains(" INFO ") && !line.starts_with('{')), "{log}");
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
