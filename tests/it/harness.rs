//! The built binary, started on free ports over a store of its own: what every test from outside needs.

use std::{
    fs,
    io::{BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to be ready, or to stop, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The last line of the boot text.
pub const READY: &str = "rocketmq-proxy startup successfully";

/// The program with an environment that sets nothing.
pub fn ferromq() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferromq"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FERROMQ_") {
            command.env_remove(name);
        }
    }
    command.env("NO_COLOR", "1");
    command
}

/// Runs it to its end.
pub fn run(args: &[&str]) -> Output {
    ferromq().args(args).stdin(Stdio::null()).output().expect("the built binary runs")
}

/// Standard output as text.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

/// Standard error as text.
pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// A running server; killed when dropped. Its store outlives it as long as the directory does.
pub struct Server {
    child: Child,
    ports: Ports,
    /// Everything that it printed until it was ready.
    boot: String,
    log: Option<JoinHandle<String>>,
    rest: Option<JoinHandle<String>>,
}

#[derive(serde::Deserialize)]
struct Ports {
    grpc: u16,
    admin: u16,
    /// Absent where the port is switched off.
    #[serde(default)]
    ops: u16,
}

/// What a server left when it ended.
pub struct Ended {
    pub status: ExitStatus,
    /// Standard error.
    pub log: String,
}

impl Server {
    /// Starts one over the store in `dir`, on free ports, and returns when it is ready.
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[])
    }

    /// The same, with more arguments.
    pub fn start_with(dir: &Path, args: &[&str]) -> Self {
        Self::start_by(ferromq(), dir, args)
    }

    /// The same, by a command that runs the program with the arguments that it is given.
    pub fn start_by(mut program: Command, dir: &Path, args: &[&str]) -> Self {
        let ports_file = dir.join("ports.json");
        // A file of an earlier run would tell its ports.
        drop(fs::remove_file(&ports_file));
        let mut child = program
            .args(["--set", "grpcServerPort=0", "--set", "adminServerPort=0"])
            .args(["--set", "metricsPromExporterPort=0", "--store"])
            .arg(dir.join("store"))
            .arg("--ports-file")
            .arg(&ports_file)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the built binary starts");
        let mut err = child.stderr.take().expect("piped");
        let log = thread::spawn(move || {
            let mut text = Vec::new();
            err.read_to_end(&mut text).expect("standard error is read");
            String::from_utf8_lossy(&text).into_owned()
        });
        let (ready, boot) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let rest = thread::spawn(move || read_boot_text(out, &ready));
        let Ok(boot) = boot.recv_timeout(PATIENCE) else {
            child.kill().expect("killed");
            panic!("the server was not ready; its log:\n{}", log.join().expect("read"));
        };
        let ports = fs::read(&ports_file).expect("the ports file is there once the server is ready");
        let ports = serde_json::from_slice(&ports).expect("JSON");
        Self { child, ports, boot, log: Some(log), rest: Some(rest) }
    }

    /// `127.0.0.1:port` of the RocketMQ API.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.ports.grpc)
    }

    /// `127.0.0.1:port` of administration.
    pub fn admin(&self) -> String {
        format!("127.0.0.1:{}", self.ports.admin)
    }

    /// `127.0.0.1:port` of metrics and probes.
    pub fn ops(&self) -> String {
        format!("127.0.0.1:{}", self.ports.ops)
    }

    /// What it printed until it was ready.
    pub fn boot_text(&self) -> &str {
        &self.boot
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs a command that talks to administration.
    pub fn admin_command(&self, args: &[&str]) -> Output {
        run(&[args, &["--admin", &self.admin()]].concat())
    }

    /// Runs a command that talks to the RocketMQ API.
    pub fn client_command(&self, args: &[&str]) -> Output {
        run(&[args, &["--endpoint", &self.endpoint()]].concat())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the server is there");
    }

    /// Sends a signal again and again until it has ended.
    pub fn signal_until_ended(mut self, signal: Signal) -> Ended {
        while self.child.try_wait().expect("waited for").is_none() {
            self.signal(signal);
            thread::sleep(Duration::from_millis(50));
        }
        self.ended()
    }

    /// Waits for its end.
    pub fn ended(mut self) -> Ended {
        let (send, ended) = mpsc::channel();
        let watch = self.log.take().expect("taken once");
        thread::spawn(move || drop(send.send(watch.join())));
        let Ok(log) = ended.recv_timeout(PATIENCE) else { panic!("the server did not end") };
        let status = self.child.wait().expect("waited for");
        Ended { status, log: log.expect("read") }
    }

    /// Stops it as an operator does.
    pub fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Stops it as a power cut does, but for the disk.
    pub fn kill(self) -> Ended {
        self.signal(Signal::KILL);
        self.ended()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        drop(self.child.kill());
        drop(self.child.wait());
        drop(self.rest.take().map(JoinHandle::join));
    }
}

fn read_boot_text(mut out: impl std::io::BufRead, ready: &mpsc::Sender<String>) -> String {
    let mut text = String::new();
    loop {
        match out.read_line(&mut text) {
            Ok(0) | Err(_) => return text,
            Ok(_) if text.trim_end().ends_with(READY) => break,
            Ok(_) => {}
        }
    }
    // Nobody hears it only when the test has ended.
    drop(ready.send(text));
    let mut rest = String::new();
    drop(out.read_to_string(&mut rest));
    rest
}

/// Says that a test was not made, past the capture of test output, which hides what passing tests print. Where `CI` is
/// true everything that tests need must be there, and it fails.
#[track_caller]
pub fn skipped(why: &str) {
    assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "CI must have what every test needs: {why}");
    said(&format!("SKIPPED: {why}"));
}

/// The same for what the machine itself refuses, which nobody can install.
pub fn refused_here(why: &str) {
    said(&format!("SKIPPED: {why}"));
}

/// Says something about a test past the capture of test output.
pub fn said(what: &str) {
    use std::io::Write as _;
    let test = thread::current().name().unwrap_or("a test").to_owned();
    // Nobody to tell when standard error is gone.
    drop(writeln!(std::io::stderr(), "{test}: {what}"));
}

/// A directory for a server, removed with the guard.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Writes a file below a directory and returns its path.
pub fn file(dir: &Path, name: &str, content: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, content).expect("written");
    path
}
