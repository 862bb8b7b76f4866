//! Child processes with an end: every wait is bounded, and nothing outlives its owner.

use std::{
    fs::File,
    io::{self, Read, Seek},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How often a process is asked whether it has ended.
const GLANCE: Duration = Duration::from_millis(10);

/// Waits for a condition of another process, which cannot wake us; `None` when the time is over.
pub fn poll<T>(within: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + within;
    loop {
        if let Some(seen) = look() {
            return Some(seen);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(GLANCE);
    }
}

/// The exit status, or `None` when the process still runs after `within`.
pub fn ended(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    poll(within, || child.try_wait().expect("a child of ours can be waited for"))
}

/// Ends a process with SIGKILL and waits until it is gone.
pub fn kill(child: &mut Child) {
    // It may have ended already.
    let _ = child.kill();
    let _ = child.wait();
}

/// What a command that ran to its end said.
pub struct Said {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end; killed, and an error, when that takes longer than `within`.
pub fn run(command: &mut Command, within: Duration) -> io::Result<Said> {
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let mut child = command.spawn()?;
    let Some(status) = ended(&mut child, within) else {
        kill(&mut child);
        return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{command:?} ran for more than {within:?}")));
    };
    Ok(Said { status, stdout: whole(&mut stdout)?, stderr: whole(&mut stderr)? })
}

fn whole(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last `lines` lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let skipped = text.lines().count().saturating_sub(lines);
    text.lines().skip(skipped).map(|line| format!("    {line}\n")).collect()
}
