//! What probes see of a server that starts.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use super::http::get;
use crate::harness::{Server, directory, stderr};

/// Bytes of a body, and how many there are: some of the log to read.
const BODY: usize = 64 << 10;
const COUNT: &str = "400";

/// How often a start is probed until a probe came while it recovered.
const STARTS: usize = 20;

/// What a probe saw: the status of `/livez`, and status and body of `/readyz`.
type Seen = (u16, u16, String);

#[test]
fn a_server_that_recovers_is_alive_and_not_ready_and_says_what_it_is_at() {
    let dir = directory();
    let server = Server::start(dir.path());
    let sent = server.client_command(&["produce", "t", &"x".repeat(BODY), "--count", COUNT]);
    assert!(sent.status.success(), "{}", stderr(&sent));
    server.kill();
    let mut all = Vec::new();
    for _ in 0..STARTS {
        let seen = probe_a_start(dir.path());
        assert!(seen.iter().all(|(live, ..)| *live == 200), "a probe would have it restarted: {seen:?}");
        if seen.iter().any(|(_, status, body)| *status == 503 && body.contains("opened and recovered")) {
            return;
        }
        all.extend(seen);
    }
    panic!("no probe saw it recover: {all:?}");
}

fn probe_a_start(dir: &Path) -> Vec<Seen> {
    // Without what was derived of it, the whole log is read. Both are written a moment later, and may not be there yet.
    let store = dir.join("store");
    drop(fs::remove_file(store.join("checkpoint")));
    drop(fs::remove_dir_all(store.join("consumequeue")));
    let at = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let is_up = AtomicBool::new(false);
    thread::scope(|threads| {
        let prober = threads.spawn(|| {
            let mut seen = Vec::new();
            while !is_up.load(Relaxed) {
                if TcpStream::connect(at).is_ok() {
                    let live = get(&at.to_string(), "/livez").status;
                    let ready = get(&at.to_string(), "/readyz");
                    seen.push((live, ready.status, ready.body));
                }
                thread::sleep(Duration::from_millis(2));
            }
            seen
        });
        let port = format!("metricsPromExporterPort={}", at.port());
        let server = Server::start_with(dir, &["--set", &port]);
        is_up.store(true, Relaxed);
        assert_eq!(get(&server.ops(), "/readyz").status, 200);
        // Before the server is gone: a probe may be under way.
        let seen = prober.join().expect("no panic");
        server.kill();
        seen
    })
}
