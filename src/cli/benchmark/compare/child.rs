//! The processes that are measured, and what the kernel says about them.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use super::{super::args::Endpoint, Subject, disk::Disk};

/// From exec until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// From SIGTERM until it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// The grain of "first ack after exec".
const POLL: Duration = Duration::from_millis(1);
/// Clock ticks of `/proc/<pid>/stat` per second (`USER_HZ`), the same on every architecture that Linux still has but
/// Alpha and ia64.
const TICKS_PER_SECOND: f64 = 100.0;
/// Bytes shown of the output of a subject that did not start.
const OUTPUT_SHOWN: usize = 2000;

/// The directory that subjects run in, one at a time. Whatever ends this process ends the subject and removes the
/// directory, save SIGKILL.
pub struct Stage {
    dir: PathBuf,
    child: Arc<Mutex<Option<Child>>>,
}

impl Stage {
    /// Makes a directory of its own below `parent`.
    pub fn build(parent: &Path) -> anyhow::Result<Self> {
        let dir = parent.join(format!("ferromq-compare-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let stage = Self { dir, child: Arc::default() };
        end_on_signal(stage.dir.clone(), stage.child.clone())?;
        Ok(stage)
    }

    /// Measures the disk that the stores are on, while nothing else writes to it.
    pub fn disk(&self) -> std::io::Result<Disk> {
        Disk::measure(&self.dir)
    }

    /// Starts a subject with an empty store and waits until it listens.
    pub fn start(&self, subject: Subject, size: usize, settings: &[String]) -> anyhow::Result<Running<'_>> {
        let ports = self.dir.join("ports.json");
        let output = self.dir.join("output");
        self.clear()?;
        let log = File::create(&output)?;
        let mut command = Command::new(std::env::current_exe().context("finding this executable")?);
        command.args(arguments(subject, size, settings, &self.dir, &ports));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = Instant::now();
        // Locked, so that a signal does not come between the start and the note of it.
        let mut slot = self.child.lock();
        let pid = Pid::from_child(slot.insert(command.spawn().context("starting it")?));
        drop(slot);
        let mut running = Running {
            stage: self,
            pid,
            started,
            endpoint: Endpoint { host: "127.0.0.1".into(), port: 0 },
            admin: None,
        };
        let ports = self.wait_for_ports(&ports, started).map_err(|error| {
            let output = fs::read_to_string(&output).unwrap_or_default();
            error.context(format!("its output: {}", tail(&output, OUTPUT_SHOWN)))
        })?;
        let port = |name: &str| ports[name].as_u64().and_then(|port| u16::try_from(port).ok());
        running.endpoint.port = port("grpc").with_context(|| format!("its ports file names no grpc port: {ports}"))?;
        running.admin = port("admin");
        Ok(running)
    }

    fn wait_for_ports(&self, file: &Path, started: Instant) -> anyhow::Result<serde_json::Value> {
        loop {
            match fs::read(file) {
                Ok(json) => return serde_json::from_slice(&json).context("its ports file"),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e).context("its ports file"),
            }
            if let Some(status) = self.exited()? {
                bail!("it ended before it listened, {status}");
            }
            if started.elapsed() > START_TIMEOUT {
                bail!("it did not listen within {} s", START_TIMEOUT.as_secs());
            }
            thread::sleep(POLL);
        }
    }

    fn exited(&self) -> io::Result<Option<ExitStatus>> {
        self.child.lock().as_mut().map_or(Ok(None), Child::try_wait)
    }

    fn clear(&self) -> io::Result<()> {
        fs::remove_dir_all(&self.dir)?;
        fs::create_dir_all(&self.dir)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What is left over is a directory named after this program; nobody is harmed.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn arguments(subject: Subject, size: usize, settings: &[String], dir: &Path, ports: &Path) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    let own = |args: &[&str]| args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
    let flush = match subject {
        Subject::Yardstick => {
            let mut args = own(&["benchmark", "yardstick", "--listen", "127.0.0.1:0", "--ports-file"]);
            args.extend([text(ports), "--size".to_owned(), size.to_string()]);
            return args;
        }
        Subject::Async => "flushDiskType=ASYNC_FLUSH",
        Subject::Sync => "flushDiskType=SYNC_FLUSH",
    };
    let mut args = own(&["server", "--ports-file"]);
    args.extend([text(ports), "--store".to_owned(), text(&dir.join("store"))]);
    let fixed =
        [flush, "grpcBindAddress=127.0.0.1", "grpcServerPort=0", "adminServerPort=0", "metricsPromExporterPort=0"];
    for setting in fixed.iter().map(|s| (*s).to_owned()).chain(settings.iter().cloned()) {
        args.extend(["--set".to_owned(), setting]);
    }
    args
}

/// Catches the signals that end a program from when it returns: they end the subject first.
fn end_on_signal(dir: PathBuf, child: Arc<Mutex<Option<Child>>>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let caught = {
        let _entered = runtime.enter();
        [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?]
    };
    let wait_and_end = move || {
        let [mut interrupt, mut terminate, mut hangup] = caught;
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        // Locked until the end: nothing is started any more.
        let mut slot = child.lock();
        if let Some(child) = slot.as_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&dir);
        std::process::exit(130);
    };
    thread::Builder::new().name("signals".into()).spawn(wait_and_end)?;
    Ok(())
}

/// A subject that listens; ended when dropped.
pub struct Running<'a> {
    stage: &'a Stage,
    pid: Pid,
    /// When it was executed.
    pub started: Instant,
    pub endpoint: Endpoint,
    /// Port of its administration.
    pub admin: Option<u16>,
}

impl Running<'_> {
    /// CPU time that it has used, user and system.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let file = format!("/proc/{}/stat", self.pid);
        let stat = fs::read_to_string(&file).with_context(|| file.clone())?;
        cpu_ticks(&stat)
            .map(|ticks| Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND))
            .with_context(|| format!("{file} has no utime and stime"))
    }

    /// KiB of private memory (`RssAnon`).
    pub fn rss_anon_kib(&self) -> anyhow::Result<u64> {
        let file = format!("/proc/{}/status", self.pid);
        let status = fs::read_to_string(&file).with_context(|| file.clone())?;
        rss_anon(&status).with_context(|| format!("{file} has no RssAnon"))
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // Taken by the signal thread, if it is not here.
        let Some(mut child) = self.stage.child.lock().take() else { return };
        let _ = kill_process(self.pid, Signal::TERM);
        let asked = Instant::now();
        while matches!(child.try_wait(), Ok(None)) && asked.elapsed() < STOP_TIMEOUT {
            thread::sleep(POLL);
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// utime + stime, fields 14 and 15 of proc_pid_stat(5), counted behind the name, which may hold anything.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let (utime, stime): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(utime + stime)
}

fn rss_anon(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    value.split_whitespace().next()?.parse().ok()
}

fn tail(text: &str, max: usize) -> &str {
    let from = (text.len().saturating_sub(max)..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[from..].trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_and_memory_are_read_past_a_hostile_process_name() {
        let stat = "42 (a) R 1) S 1 2 3 4 5 6 7 8 9 10 1200 34 0 0 20 0 5 0 99";
        assert_eq!(cpu_ticks(stat), Some(1234));
        assert_eq!(cpu_ticks("42 (short) S 1 2"), None);
        assert_eq!(rss_anon("Name:\tx\nRssAnon:\t   5120 kB\nRssFile:\t 1 kB\n"), Some(5120));
        assert_eq!(rss_anon("Name:\tx\n"), None);
    }

    #[test]
    fn the_tail_of_an_output_starts_at_a_character() {
        assert_eq!(tail("abc", 10), "abc");
        assert_eq!(tail("ab\u{00e9}c", 2), "c");
        assert_eq!(tail("ab\u{00e9}c", 3), "\u{00e9}c");
    }

    #[test]
    fn this_process_has_memory_and_cpu_time() {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        assert!(cpu_ticks(&stat).is_some());
        assert!(rss_anon(&status).unwrap() > 0);
    }
}
