//! `ferromq benchmark` against the built server.

use std::{fs, thread, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::{self, Server};

fn json(output: &std::process::Output) -> Value {
    let (out, err) = (harness::stdout(output), harness::stderr(output));
    assert!(output.status.success(), "{out}{err}");
    serde_json::from_str(&out).expect("JSON")
}

#[test]
fn produce_consume_and_e2e_measure_every_message() {
    let dir = harness::directory();
    let server = Server::start(dir.path());
    let produced = server.client_command(&["benchmark", "produce", "--count", "500", "--warmup", "0s", "--json"]);
    let produced = json(&produced);
    assert_eq!((&produced["messages"], &produced["failed_calls"]), (&500.into(), &0.into()), "{produced}");
    assert_eq!(produced["latency_us"]["count"], 500);

    let consume = ["benchmark", "consume", "--topic", "other", "--count", "640", "--warmup", "0s", "--json"];
    let consumed = json(&server.client_command(&consume));
    assert!(consumed["messages"].as_u64() >= Some(640), "{consumed}");

    let e2e = ["benchmark", "e2e", "--rate", "300", "--duration", "1s", "--warmup", "200ms", "--json"];
    let e2e = json(&server.client_command(&e2e));
    assert_eq!((&e2e["missing"], &e2e["produce"]["messages"]), (&0.into(), &300.into()), "{e2e}");
    // What the first two left in the topic is not of this run.
    assert!(e2e["messages"].as_u64() <= Some(360), "{e2e}");

    let delay = ["--topic", "later", "--type", "delay", "--delay", "3s"];
    let delay =
        [&["benchmark", "e2e", "--rate", "300", "--duration", "1s", "--warmup", "0s", "--json"][..], &delay].concat();
    let delay = json(&server.client_command(&delay));
    assert_eq!(
        (&delay["missing"], &delay["early"], &delay["messages"]),
        (&0.into(), &0.into(), &300.into()),
        "{delay}"
    );
    // Of when they were due to arrive, not of when they were sent.
    assert!(delay["latency_us"]["p50"].as_u64() < Some(2_500_000), "{delay}");
}

#[test]
fn a_benchmark_of_nobody_fails_and_names_the_address() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").to_string();
    let output = harness::run(&["benchmark", "produce", "--endpoint", &free]);
    assert_eq!(output.status.code(), Some(1));
    let said = harness::stderr(&output);
    assert!(said.contains(&free) && said.trim_end().lines().count() == 1, "{said}");
}

#[test]
fn compare_measures_all_three_and_removes_its_stores() {
    let dir = harness::directory();
    let quick = ["--rounds", "1", "--duration", "200ms", "--warmup", "100ms", "--receive", "3000", "--json"];
    let prepared = harness::directory();
    let prepare = format!("echo x >> {}", harness::text(&prepared.path().join("times")));
    let prepare = ["--prepare", &prepare];
    let args = [&["benchmark", "compare", "--store", harness::text(dir.path())][..], &quick, &prepare].concat();
    let told = json(&harness::run(&args));
    // Three subjects, each sending, sending batches and receiving.
    let times = fs::read_to_string(prepared.path().join("times")).expect("it was run");
    assert_eq!(times.lines().count(), 9);
    let subjects: Vec<_> = told["samples"].as_array().expect("samples").iter().map(|s| s["subject"].clone()).collect();
    assert_eq!(subjects, ["yardstick", "async", "sync"]);
    for sample in told["samples"].as_array().expect("samples") {
        for phase in ["single", "batch", "receive"] {
            assert!(sample[phase]["messages_per_second"].as_f64() > Some(0.0), "{phase} of {sample}");
        }
        assert!(sample["idle_rss_anon_kib"].as_u64() > Some(0) && sample["first_ack_ms"].as_f64() > Some(0.0));
    }
    for figure in ["kernel_mib_per_second", "device_mib_per_second"] {
        assert!(told["disk"][figure].as_f64() > Some(0.0), "{figure} of {}", told["disk"]);
    }
    assert_eq!(fs::read_dir(dir.path()).expect("the directory").count(), 0);
}

#[test]
fn kinds_measures_message_types_order_and_filters_beside_normal_messages() {
    let dir = harness::directory();
    let quick = ["--rounds", "1", "--duration", "200ms", "--warmup", "50ms", "--receive", "2000", "--json"];
    let args = [&["benchmark", "kinds", "--store", harness::text(dir.path())][..], &quick].concat();
    let told = json(&harness::run(&args));
    let rows = told["medians"].as_array().expect("rows");
    assert_eq!(rows.len(), 8, "{told}");
    for row in rows {
        assert!(row["messages_per_second"].as_f64() > Some(0.0) && row["ratio"].as_f64() > Some(0.0), "{row}");
    }
    assert_eq!(fs::read_dir(dir.path()).expect("the directory").count(), 0);
}

#[test]
fn a_compare_that_is_told_to_end_takes_its_server_along() {
    let dir = harness::directory();
    let mut compare = harness::ferromq()
        .args(["benchmark", "compare", "--duration", "60s", "--store", harness::text(dir.path())])
        .spawn()
        .expect("the built binary starts");
    let ports = dir.path().join(format!("ferromq-compare-{}", compare.id())).join("ports.json");
    let port = loop {
        assert!(compare.try_wait().expect("its state").is_none(), "it ended by itself");
        match fs::read(&ports) {
            Ok(json) => break serde_json::from_slice::<Value>(&json).expect("JSON")["grpc"].as_u64().expect("a port"),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    };
    let pid = i32::try_from(compare.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::TERM).expect("it is there");
    assert_eq!(compare.wait().expect("it ends").code(), Some(130));
    assert_eq!(fs::read_dir(dir.path()).expect("the directory").count(), 0);
    let address = format!("127.0.0.1:{port}");
    assert!(std::net::TcpStream::connect(&address).is_err(), "something still listens on {address}");
}
