//! `ferromq doctor`: each step that can be broken, and the cure that is told.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
};

use serde_json::Value;
use tonic_health::{ServingStatus, server::health_reporter};

use super::spoiler::Spoiler;
use crate::harness::{Server, directory, run, stderr, stdout};

/// What doctor says of an address.
fn examine(args: &[&str]) -> (Value, Option<i32>) {
    let output = run(&[&["doctor", "--json"], args].concat());
    let said = serde_json::from_str(&stdout(&output)).unwrap_or_else(|e| panic!("{e}: {}", stderr(&output)));
    (said, output.status.code())
}

/// Asserts that a step is the first broken one, and that its cure has these words.
fn broken(args: &[&str], step: &str, cure: &str) {
    let (said, code) = examine(args);
    assert_eq!((said["broken"].as_str(), code), (Some(step), Some(1)), "{said:#}");
    let steps = said["steps"].as_array().expect("steps");
    let at = steps.iter().position(|s| s["state"] == "broken").expect("one is broken");
    assert!(steps[at]["cure"].as_str().is_some_and(|text| text.contains(cure)), "{said:#}");
    assert!(steps[at + 1..].iter().all(|s| s["state"] == "skipped"), "{said:#}");
}

#[test]
fn doctor_goes_all_the_way_and_says_what_it_leaves_behind() {
    let dir = directory();
    let server = Server::start(dir.path());
    let (said, code) = examine(&[&server.endpoint()]);
    assert_eq!((said["ok"].as_bool(), code), (Some(true), Some(0)), "{said:#}");
    let steps: Vec<_> = said["steps"].as_array().expect("steps").iter().filter_map(|s| s["state"].as_str()).collect();
    assert_eq!(steps, ["ok"; 12], "{said:#}");
    assert_eq!(said["leaves"].as_array().map(Vec::len), Some(2), "{said:#}");
    // Over TLS too, and as text.
    let output = run(&["doctor", &server.endpoint(), "--insecure", "--topic", "orders"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    let text = stdout(&output);
    assert!(text.contains("a client gets through") && text.contains("the consumers of topic orders"), "{text}");
    let described = stdout(&server.admin_command(&["group", "describe", "ferromq-doctor", "--json"]));
    let described: Value = serde_json::from_str(&described).expect("JSON");
    assert!(!described.to_string().contains("\"inFlight\":1"), "it acknowledges what it takes: {described}");
}

#[test]
fn doctor_names_a_name_that_has_no_address() {
    broken(&["no-such-host.invalid:8081"], "name", "DNS");
}

#[test]
fn doctor_names_a_port_where_nothing_listens() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").to_string();
    broken(&[&free], "tcp", "nothing listens there");
}

#[test]
fn doctor_names_a_port_where_something_else_listens() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = other.local_addr().expect("bound").to_string();
    thread::spawn(move || {
        for tcp in other.incoming() {
            let Ok(mut tcp) = tcp else { return };
            let mut some = [0; 16];
            drop(tcp.read(&mut some).and_then(|_| tcp.write_all(b"220 mail.example.com ESMTP\r\n")));
        }
    });
    broken(&[&at], "protocol", "8081, not the NameServer's");
}

#[test]
fn doctor_tells_tls_from_plaintext_both_ways() {
    let dir = directory();
    let server = Server::start_with(dir.path(), &["--set", "tlsServerMode=enforcing"]);
    broken(&[&server.endpoint()], "protocol", "enableSsl(true)");
    drop(server);
    let server = Server::start_with(dir.path(), &["--set", "tlsServerMode=disabled"]);
    broken(&[&server.endpoint(), "--insecure"], "protocol", "enableSsl(false)");
}

#[test]
fn doctor_names_a_certificate_that_is_not_accepted() {
    let dir = directory();
    let server = Server::start(dir.path());
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).expect("a certificate");
    let ca = crate::harness::file(dir.path(), "other.pem", &other.cert.pem());
    broken(&[&server.endpoint(), "--ca", crate::harness::text(&ca)], "protocol", "tlsCertPath");
}

#[test]
fn doctor_names_a_server_that_is_not_ready() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let at = listener.local_addr().expect("bound").to_string();
    runtime.spawn(async move {
        let (reporter, health) = health_reporter();
        reporter.set_service_status("", ServingStatus::NotServing).await;
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        drop(tonic::transport::Server::builder().add_service(health).serve_with_incoming(incoming).await);
    });
    broken(&[&at], "ready", "/readyz");
}

#[test]
fn doctor_names_a_topic_that_is_not_there_and_one_of_another_type() {
    let dir = directory();
    let server = Server::start_with(dir.path(), &["--set", "autoCreateTopicEnable=false"]);
    broken(&[&server.endpoint(), "--topic", "orders"], "route", "ferromq topic create");
    assert!(server.admin_command(&["topic", "create", "orders", "--type", "fifo"]).status.success());
    broken(&[&server.endpoint(), "--topic", "orders"], "type", "--type");
    let (said, code) = examine(&[&server.endpoint(), "--topic", "orders", "--type", "fifo"]);
    assert_eq!((said["ok"].as_bool(), code), (Some(true), Some(0)), "{said:#}");
}

#[test]
fn doctor_names_an_advertised_address_that_cannot_be_dialled() {
    let dir = directory();
    let server = Server::start_with(dir.path(), &["--set", "grpcAdvertisedAddress=127.0.0.1:1"]);
    broken(&[&server.endpoint()], "advertised", "grpcAdvertisedAddress");
}

#[test]
fn doctor_names_a_group_that_may_not_consume() {
    let dir = directory();
    let server = Server::start(dir.path());
    assert!(server.admin_command(&["group", "create", "g"]).status.success());
    let off = server.admin_command(&["group", "update", "g", "--consume-enabled", "false"]);
    assert!(off.status.success(), "{}", stderr(&off));
    broken(&[&server.endpoint(), "--group", "g"], "receive", "switched off");
}

#[test]
fn doctor_names_settings_that_are_not_answered() {
    let dir = directory();
    let server = Server::start(dir.path());
    broken(&[&Spoiler::start(&server, "Telemetry").at], "settings", "proxies on the way");
}

#[test]
fn doctor_names_a_topic_that_cannot_be_written() {
    let dir = directory();
    let server = Server::start(dir.path());
    for args in [&["topic", "create", "orders"][..], &["topic", "update", "orders", "--writable", "false"]] {
        let done = server.admin_command(args);
        assert!(done.status.success(), "{}", stderr(&done));
    }
    broken(&[&server.endpoint(), "--topic", "orders"], "send", "cannot be read or written");
}

#[test]
fn doctor_names_a_send_and_an_ack_that_something_on_the_way_refuses() {
    let dir = directory();
    let server = Server::start(dir.path());
    for (call, step) in [("SendMessage", "send"), ("ReceiveMessage", "receive"), ("AckMessage", "ack")] {
        let spoiler = Spoiler::start(&server, call);
        broken(&[&spoiler.at], step, "proxies on the way");
    }
    // What is on the way and spoils nothing is no matter.
    let (said, code) = examine(&[&Spoiler::start(&server, "nothing").at]);
    assert_eq!((said["ok"].as_bool(), code), (Some(true), Some(0)), "{said:#}");
}
