//! One client and one server: what a claim is made with.

use std::{cell::RefCell, fs, path::PathBuf, thread, time::Duration};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    driver::{Client, Driver, Run, Trace},
    process,
    server::Server,
    transcript::Event,
};

/// What the claims talk about.
pub const TOPIC: &str = "orders";
pub const GROUP: &str = "billing";
/// How long acks that are on their way, and what follows from them, may take.
const SETTLE_MAX: Duration = Duration::from_secs(20);
/// Lines of each log that a failed claim prints.
const TAIL: usize = 40;

/// Drops its drivers and its server; when a claim failed, prints what they said and keeps their files.
pub struct Stage {
    pub server: Server,
    driver: Driver,
    /// Where the drivers find the server.
    host: &'static str,
    /// Arguments that every driver gets, for TLS.
    security: Vec<String>,
    traces: RefCell<Vec<Trace>>,
    dir: Option<TempDir>,
}

impl Stage {
    pub fn set(driver: Driver) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        // Ten seconds are the shortest invisible time otherwise; the rule is the same with one.
        let settings = vec!["minInvisibleTimeMillsForRecv=1000".to_owned()];
        let server = Server::start(dir.path(), settings);
        Self { server, driver, host: "127.0.0.1", security: Vec::new(), traces: RefCell::default(), dir: Some(dir) }
    }

    pub fn client(&self) -> Client {
        self.driver.client
    }

    /// Where the server, and what is given to it, may keep files.
    pub fn dir(&self) -> PathBuf {
        self.dir.as_ref().expect("there until the stage is dropped").path().to_owned()
    }

    /// Ends the server and starts another one with these settings in its place, in the same directory.
    #[track_caller]
    pub fn replace_server(&mut self, settings: &[&str]) {
        self.server.kill();
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        self.server = Server::start(&self.dir(), settings);
    }

    /// What the drivers call the server from now on.
    pub fn dial(&mut self, host: &'static str) {
        self.host = host;
    }

    /// Arguments that every driver gets from now on.
    pub fn secure(&mut self, args: &[&str]) {
        self.security = args.iter().map(|&arg| arg.to_owned()).collect();
    }

    /// Starts a driver: `command`, then its arguments separated by spaces.
    pub fn start(&self, command: &str) -> Run {
        self.start_with(command, &[])
    }

    /// Starts the driver of any client.
    pub fn start_as(&self, driver: &Driver, command: &str) -> Run {
        self.start_driver(driver, command, &[])
    }

    /// Starts a driver with more arguments, which may hold any character.
    pub fn start_with(&self, command: &str, more: &[&str]) -> Run {
        self.start_driver(&self.driver, command, more)
    }

    fn start_driver(&self, driver: &Driver, command: &str, more: &[&str]) -> Run {
        let mut words: Vec<&str> = command.split_whitespace().collect();
        words.extend(more);
        let endpoint = format!("{}:{}", self.host, self.server.port());
        words.extend(["--endpoint", &endpoint]);
        words.extend(self.security.iter().map(String::as_str));
        let number = self.traces.borrow().len();
        let run = driver.start(&self.dir(), number, &words);
        self.traces.borrow_mut().push(run.trace());
        run
    }

    /// Runs a driver until it has reached its goal; what it said.
    #[track_caller]
    pub fn run(&self, command: &str) -> Vec<Event> {
        self.start(command).done()
    }

    /// Makes a group whose messages have this many attempts, with these delays between them.
    #[track_caller]
    pub fn make_group(&self, max_attempts: u32, retry_after: &str) {
        let attempts = max_attempts.to_string();
        let args = ["group", "create", GROUP, "--max-attempts", &attempts, "--retry-after", retry_after];
        self.server.admin(&args);
    }

    /// Waits until the group has nothing left of the topic: nothing to come, in flight or waiting for its retry.
    #[track_caller]
    pub fn settles(&self, topic: &str, group: &str) {
        let settled = process::poll(SETTLE_MAX, || self.left(topic, group).is_empty().then_some(()));
        assert!(settled.is_some(), "{group} has not done with {topic}: {:?}", self.left(topic, group));
    }

    /// Queues of the topic with which the group has not done, as `ferromq group describe` shows them.
    #[track_caller]
    fn left(&self, topic: &str, group: &str) -> Vec<Value> {
        let described = self.server.admin(&["group", "describe", group]);
        let queues = described["queues"].as_array().expect("a group has queues").iter().filter(|q| q["topic"] == topic);
        let (done, left): (Vec<_>, Vec<_>) = queues
            .cloned()
            .partition(|q| q["commit"] == q["max"] && ["lag", "inFlight", "waitingRetry"].iter().all(|n| q[n] == 0));
        // Without any queue the group has not even begun.
        if done.is_empty() && left.is_empty() { vec![described] } else { left }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        for Trace { what, transcript, log } in self.traces.get_mut() {
            eprintln!("--- {what}\n{}", process::tail(&transcript.text(), TAIL));
            // The whole of it stays beside the rest.
            let _ = fs::write(log.with_extension("events"), transcript.text());
            let stderr = fs::read_to_string(log).unwrap_or_default();
            if !stderr.is_empty() {
                eprintln!("--- its standard error\n{}", process::tail(&stderr, TAIL));
            }
        }
        eprintln!("--- the server\n{}", process::tail(self.server.log(), TAIL));
        if let Some(dir) = self.dir.take() {
            eprintln!("--- store and logs are kept in {}", dir.keep().display());
        }
    }
}
