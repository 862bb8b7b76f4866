//! The server of a stage: it may die and come back on the ports that clients know.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::harness;

/// A running server with a store below `dir`; killed when dropped.
pub struct Server {
    dir: PathBuf,
    settings: Vec<String>,
    /// `None` while it is dead.
    running: Option<harness::Server>,
    /// Where clients and operators find it, through all its lives.
    endpoint: String,
    admin: String,
    /// Standard error of the lives that ended.
    log: String,
}

impl Server {
    /// Starts one on free ports and waits until it is ready.
    pub fn start(dir: &Path, settings: Vec<String>) -> Self {
        let running = start(dir, &settings);
        let (endpoint, admin) = (running.endpoint(), running.admin());
        Self { dir: dir.to_owned(), settings, running: Some(running), endpoint, admin, log: String::new() }
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(running) = self.running.take() {
            self.log += &running.kill().log;
        }
    }

    /// Stops it as an operator does; exit code, and how long it took.
    #[track_caller]
    pub fn stop(&mut self) -> (Option<i32>, Duration) {
        let running = self.running.take().expect("a server that runs");
        let begin = Instant::now();
        let ended = running.stop();
        self.log += &ended.log;
        (ended.status.code(), begin.elapsed())
    }

    /// Starts it again, with what is in its store and on the ports that it had.
    pub fn start_again(&mut self) {
        for address in [&self.endpoint, &self.admin] {
            wait_until_free(port(address));
        }
        let mut settings = self.settings.clone();
        settings.push(format!("grpcServerPort={}", port(&self.endpoint)));
        settings.push(format!("adminServerPort={}", port(&self.admin)));
        self.running = Some(start(&self.dir, &settings));
    }

    /// Where operators find it.
    pub fn admin_address(&self) -> &str {
        &self.admin
    }

    /// Port of the RocketMQ API.
    pub fn port(&self) -> &str {
        port(&self.endpoint)
    }

    /// Runs `ferromq` with these arguments against the server; what it printed as JSON.
    #[track_caller]
    pub fn admin(&self, args: &[&str]) -> Value {
        let output = harness::run(&[args, &["--json", "--admin", &self.admin]].concat());
        assert!(output.status.success(), "ferromq {}: {}", args.join(" "), harness::stderr(&output));
        let text = harness::stdout(&output);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("ferromq {}: {e}: {text}", args.join(" ")))
    }

    /// Ends it; what all its lives logged.
    pub fn log(&mut self) -> &str {
        self.kill();
        &self.log
    }
}

/// Another test's connection may have been given the port in the meantime.
fn wait_until_free(port: &str) {
    let begin = Instant::now();
    while std::net::TcpListener::bind(format!("[::]:{port}")).is_err() && begin.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or_default()
}

fn start(dir: &Path, settings: &[String]) -> harness::Server {
    let args: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    harness::Server::start_with(dir, &args)
}
