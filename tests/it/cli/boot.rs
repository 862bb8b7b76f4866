//! Start and end of a server.

use std::{fs, os::unix::fs::PermissionsExt as _};

use ferromq::proto::v2::{self, messaging_service_client::MessagingServiceClient};
use rustix::process::Signal;

use crate::harness::{READY, Server, directory, ferromq, file, run, stderr, stdout, text};

#[test]
fn the_boot_text_names_what_listens_where_it_keeps_what_and_what_to_do_next() {
    let dir = directory();
    let server = Server::start(dir.path());
    let text = server.boot_text();
    let store = dir.path().join("store");
    for part in [
        format!("FerroMQ {}", env!("CARGO_PKG_VERSION")),
        format!("[::]{}, plaintext and TLS", &server.endpoint()["127.0.0.1".len()..]),
        server.admin(),
        store.display().to_string(),
        "recovery".to_owned(),
        "SYNC_FLUSH".to_owned(),
        "no file read".to_owned(),
        format!("ferromq produce TopicTest hello --endpoint {}", server.endpoint()),
    ] {
        assert!(text.contains(&part), "no {part:?} in\n{text}");
    }
    assert!(text.ends_with(&format!("{READY}\n")));
}

#[test]
fn sigterm_and_sigint_drain_and_exit_with_0() {
    let dir = directory();
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::start(dir.path());
        server.signal(signal);
        let ended = server.ended();
        assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
        assert!(ended.log.contains("stopping") && ended.log.contains("stopped"), "{}", ended.log);
    }
}

#[test]
fn a_taken_port_is_one_line_with_address_and_cure() {
    let dir = directory();
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = other.local_addr().expect("bound").port();
    let set = format!("grpcServerPort={port}");
    let output = run(&[
        "--store",
        text(&dir.path().join("s")),
        "--set",
        &set,
        "--set",
        "adminServerPort=0",
        "--set",
        "metricsPromExporterPort=0",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(&port.to_string()) && said.contains("--set grpcServerPort=PORT"), "{said}");
    assert!(!stdout(&output).contains(READY));
}

#[test]
fn a_directory_that_cannot_be_written_is_one_line_with_path_and_cure() {
    let dir = directory();
    // Root may write anywhere: a file in the way stops it as well.
    let in_the_way = file(dir.path(), "file", "");
    fs::set_permissions(&in_the_way, fs::Permissions::from_mode(0o400)).expect("changed");
    for store in [in_the_way.join("store"), in_the_way.clone()] {
        let ports = ["grpcServerPort=0", "adminServerPort=0", "metricsPromExporterPort=0"];
        let output = run(&[&["--store", text(&store)][..], &ports.map(|port| ["--set", port]).concat()].concat());
        assert_eq!(output.status.code(), Some(1));
        let said = stderr(&output);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(&format!("{} is no directory", store.display())), "{said}");
        assert!(said.contains("--store DIR"), "{said}");
    }
}

#[test]
fn a_second_server_on_the_same_store_is_refused() {
    let dir = directory();
    let server = Server::start(dir.path());
    let store = dir.path().join("store");
    let output = run(&[
        "--store",
        text(&store),
        "--set",
        "grpcServerPort=0",
        "--set",
        "adminServerPort=0",
        "--set",
        "metricsPromExporterPort=0",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains(&format!("in use by process {}", server.pid())), "{said}");
}

#[test]
fn a_key_nobody_knows_stops_the_start() {
    let output = run(&["--set", "autoCreateTopicEnabel=false"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("did you mean autoCreateTopicEnable?"), "{}", stderr(&output));
}

#[test]
fn a_ports_file_that_cannot_be_written_stops_the_start() {
    let dir = directory();
    let output = run(&[
        "--store",
        text(&dir.path().join("s")),
        "--set",
        "grpcServerPort=0",
        "--set",
        "adminServerPort=0",
        "--set",
        "metricsPromExporterPort=0",
        "--ports-file",
        "/nowhere/ports.json",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.lines().last().is_some_and(|l| l.contains("/nowhere/ports.json: No such file")), "{said}");
}

#[test]
fn what_was_acknowledged_is_there_after_kill_9() {
    let dir = directory();
    let server = Server::start(dir.path());
    let bodies: Vec<String> = (0..50).map(|n| format!("message-{n}")).collect();
    let mut args = vec!["produce", "kept"];
    args.extend(bodies.iter().map(String::as_str));
    let sent = server.client_command(&args);
    assert!(sent.status.success(), "{}", stderr(&sent));
    server.kill();
    let server = Server::start(dir.path());
    let received = server.client_command(&["consume", "kept", "--group", "g", "--count", "50", "--json"]);
    let mut found: Vec<String> = stdout(&received)
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["body"].to_string())
        .collect();
    found.sort();
    let mut expected: Vec<String> = bodies.iter().map(|b| format!("{b:?}")).collect();
    expected.sort();
    assert_eq!(found, expected);
    // What was acknowledged by the consumer stays so as well.
    server.kill();
    let server = Server::start(dir.path());
    let again = server.client_command(&["consume", "kept", "--group", "g"]);
    assert_eq!((stdout(&again).as_str(), again.status.code()), ("", Some(0)), "{}", stderr(&again));
}

#[test]
fn logs_are_json_when_asked_for() {
    let dir = directory();
    let server = Server::start_with(dir.path(), &["--set", "logFormat=json"]);
    let log = server.stop().log;
    assert!(log.lines().count() > 0);
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
}

#[test]
fn a_second_listener_tells_its_own_address() {
    let dir = directory();
    let server = Server::start_with(dir.path(), &["--set", "grpcExtraListeners=127.0.0.1:0=mq.example.com:9081"]);
    let line = server.boot_text().lines().find(|line| line.contains("mq.example.com:9081")).expect("it is told");
    assert!(line.ends_with("clients are told mq.example.com:9081"), "{line}");
    let port: u16 = line.split([':', ',']).nth(1).and_then(|port| port.parse().ok()).expect("the port that was taken");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let told = |endpoint: String| {
        runtime.block_on(async {
            let mut api = MessagingServiceClient::connect(format!("http://{endpoint}")).await.expect("it listens");
            let topic = v2::Resource { resource_namespace: String::new(), name: "t".into() };
            let mut ask = tonic::Request::new(v2::QueryRouteRequest { topic: Some(topic), endpoints: None });
            ask.metadata_mut().insert("x-mq-client-id", "test".parse().expect("ASCII"));
            let route = api.query_route(ask).await.expect("answered").into_inner();
            let endpoints = route.message_queues[0].broker.clone().and_then(|b| b.endpoints).expect("endpoints");
            format!("{}:{}", endpoints.addresses[0].host, endpoints.addresses[0].port)
        })
    };
    assert_eq!(told(format!("127.0.0.1:{port}")), "mq.example.com:9081");
    assert_eq!(told(server.endpoint()), server.endpoint());
}

/// What a server that warns and then cannot start says, to a terminal or to a pipe.
fn complaint(terminal: bool, no_color: bool) -> Option<String> {
    let dir = directory();
    let other = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = format!("grpcServerPort={}", other.local_addr().expect("bound").port());
    let store = dir.path().join("s");
    let args = [
        "--set",
        "namesrvAddr=x",
        "--set",
        &taken,
        "--set",
        "adminServerPort=0",
        "--set",
        "metricsPromExporterPort=0",
        "--store",
        text(&store),
    ];
    let mut command = ferromq();
    if terminal {
        command = std::process::Command::new("script");
        let line = format!("{} {}", env!("CARGO_BIN_EXE_ferromq"), args.join(" "));
        command.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm");
    } else {
        command.args(args);
    }
    command.env_remove("NO_COLOR");
    if no_color {
        command.env("NO_COLOR", "1");
    }
    let output = command.stdin(std::process::Stdio::null()).output().ok()?;
    let said = stdout(&output) + &stderr(&output);
    assert!(said.contains("namesrvAddr") && said.contains("cannot listen"), "{said}");
    Some(said)
}

#[test]
fn no_color_means_no_escapes_and_so_does_a_pipe() {
    const ESCAPE: char = '\u{1b}';
    for no_color in [true, false] {
        let said = complaint(false, no_color).expect("the built binary runs");
        assert!(!said.contains(ESCAPE), "{said:?}");
    }
    let Some(colored) = complaint(true, false) else {
        return crate::harness::skipped("`script` (util-linux), which makes a terminal");
    };
    assert!(colored.contains(ESCAPE), "a terminal gets no colors: {colored:?}");
    let said = complaint(true, true).expect("`script` is there");
    assert!(!said.contains(ESCAPE), "{said:?}");
}
