//! The drivers: built once, started, listened to, ended.

use std::{
    collections::BTreeSet,
    fmt,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use super::{
    process,
    transcript::{Event, Transcript},
};

/// Compiling the Rust client with all that it needs takes longest.
const BUILD_MAX: Duration = Duration::from_secs(900);
/// A driver that was told how long to run is late when it needs this much more: start, and 3 s to shut down.
pub const RUN_MAX: Duration = Duration::from_secs(60);

/// An official client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    Go,
    Java,
    Node,
    Python,
    Rust,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.folder())
    }
}

impl Client {
    fn folder(self) -> &'static str {
        match self {
            Self::Go => "go",
            Self::Java => "java",
            Self::Node => "node",
            Self::Python => "python",
            Self::Rust => "rust",
        }
    }
    /// Java and Go take any certificate; the others look for its issuer.
    pub fn trusts_any_certificate(self) -> bool {
        matches!(self, Self::Go | Self::Java)
    }
    /// Node.js and Rust keep gRPC's default of 4 MiB for a whole received message, properties and all.
    pub fn receives_at_most_4_mib_in_all(self) -> bool {
        matches!(self, Self::Node | Self::Rust)
    }
    /// Node.js and Python take the first colon for the one before the port.
    pub fn dials_ipv6(self) -> bool {
        !matches!(self, Self::Node | Self::Python)
    }
    /// Node.js takes the seconds of a back-off for milliseconds.
    pub fn waits_before_it_retries(self) -> bool {
        self != Self::Node
    }
}

/// Why there is no driver.
#[derive(Clone)]
pub enum Unbuilt {
    NoToolchain(String),
    Failed(String),
}

/// A built driver.
#[derive(Clone)]
pub struct Driver {
    pub client: Client,
    /// As a shell writes it.
    word: String,
}

/// Builds the driver of a client, the first time that it is asked for.
pub fn built(client: Client) -> Result<Driver, Unbuilt> {
    static BUILT: [OnceLock<Result<Driver, Unbuilt>>; 5] = [const { OnceLock::new() }; 5];
    BUILT[client as usize].get_or_init(|| build(client)).clone()
}

fn build(client: Client) -> Result<Driver, Unbuilt> {
    built_word(client.folder()).map(|word| Driver { client, word })
}

/// Builds what a folder of `tests/clients` has; the word that runs it.
pub fn built_word(folder: &str) -> Result<String, Unbuilt> {
    /// `build.sh` exits with it.
    const NO_TOOLCHAIN: i32 = 3;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/build.sh");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("clients").join(folder);
    let mut command = Command::new("bash");
    command.arg(script).arg(folder).arg(out);
    let said = process::run(&mut command, BUILD_MAX).map_err(|e| Unbuilt::Failed(e.to_string()))?;
    match (said.status.code(), said.stdout.lines().last()) {
        (Some(0), Some(word)) => Ok(word.to_owned()),
        (Some(NO_TOOLCHAIN), _) => Err(Unbuilt::NoToolchain(said.stderr.trim().to_owned())),
        _ => Err(Unbuilt::Failed(said.stderr)),
    }
}

impl Driver {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("bash");
        command.arg("-c").arg(format!("exec {} \"$@\"", self.word)).arg("driver").args(args);
        command
    }

    /// Version of the client as the client's package has it.
    pub fn version(&self) -> String {
        let said = process::run(&mut self.command(&["version"]), RUN_MAX).expect("the driver runs");
        let line: Event = serde_json::from_str(said.stdout.trim()).unwrap_or_else(|e| {
            panic!("the {} driver does not tell its version: {e}: {}{}", self.client, said.stdout, said.stderr)
        });
        line.version.unwrap_or_default()
    }

    /// Starts it; what it leaves behind goes into `dir`.
    pub fn start(&self, dir: &Path, number: usize, args: &[&str]) -> Run {
        let log = dir.join(format!("driver-{number}.stderr"));
        let stderr = File::create(&log).expect("the directory of a stage can be written");
        let mut command = self.command(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).env("FERROMQ_DRIVER_LOGS", dir);
        let mut child = command.spawn().expect("bash is there: it built the driver");
        let stdout = child.stdout.take().expect("piped");
        let transcript = Arc::new(Transcript::default());
        let listener = transcript.clone();
        // Ends with the driver, whose end closes the pipe.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                listener.add(line);
            }
            listener.close();
        });
        Run { what: format!("{} {}", self.client, args.join(" ")), child, transcript, log }
    }
}

/// A driver at work; killed when dropped.
pub struct Run {
    what: String,
    child: Child,
    transcript: Arc<Transcript>,
    log: PathBuf,
}

/// What is left of a driver when a claim fails.
pub struct Trace {
    pub what: String,
    pub transcript: Arc<Transcript>,
    pub log: PathBuf,
}

impl Run {
    pub fn trace(&self) -> Trace {
        Trace { what: self.what.clone(), transcript: self.transcript.clone(), log: self.log.clone() }
    }

    /// Waits until the client has started.
    #[track_caller]
    pub fn ready(self) -> Self {
        self.until("it has started", |events| events.iter().any(|e| e.is("ready")));
        self
    }

    /// Waits until `seen` is true of what the driver has said.
    #[track_caller]
    pub fn until(&self, wanted: &str, seen: impl Fn(&[Event]) -> bool) {
        assert!(self.sees(seen), "waited in vain until {wanted}: {}", self.what);
    }

    /// Whether `seen` becomes true of what the driver says.
    pub fn sees(&self, seen: impl Fn(&[Event]) -> bool) -> bool {
        self.transcript.wait(RUN_MAX, seen)
    }

    /// Waits until the driver has ended by itself; exit code.
    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        let status = process::ended(&mut self.child, RUN_MAX);
        let status = status.unwrap_or_else(|| panic!("still running after {RUN_MAX:?}: {}", self.what));
        // The pipe is read to its end, which may come a moment later.
        self.transcript.wait(RUN_MAX, |_| false);
        status.code().unwrap_or(-1)
    }

    /// Waits until the driver has reached its goal; what it said.
    #[track_caller]
    pub fn done(mut self) -> Vec<Event> {
        let code = self.exit_code();
        assert_eq!(code, 0, "exit code of {}", self.what);
        self.events()
    }

    pub fn events(&self) -> Vec<Event> {
        let events = self.transcript.events();
        assert!(!events.iter().any(|e| e.noise), "a line that is no event: {}", self.what);
        events
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        process::kill(&mut self.child);
    }
}

/// Events of one kind, in their order.
pub fn of<'a>(events: &'a [Event], kind: &str) -> Vec<&'a Event> {
    events.iter().filter(|e| e.is(kind)).collect()
}

/// Ids of the events of one kind.
pub fn ids(events: &[Event], kind: &str) -> BTreeSet<String> {
    events.iter().filter(|e| e.is(kind)).map(|e| e.id().to_owned()).collect()
}
