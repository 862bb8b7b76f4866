//! The image without an engine: the root file system that the Dockerfile's last stage says, and the program in it as
//! the image's user, without capabilities, with everything read-only but its volume.
//!
//! `FERROMQ_IMAGE_BINARY` names the program to put in; without it, it is the one that the tests built, with the shared
//! libraries that a static one does not need. Needs root and a kernel that gives mount namespaces; skipped with a line
//! that says so where it may not.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    clients::process,
    harness::{self, directory, stderr, stdout, text},
};

const SOON: Duration = Duration::from_secs(60);

/// What the last stage of a Dockerfile says.
#[derive(Default, Debug)]
struct Image {
    /// Source, target, and whether the image's user owns it.
    copies: Vec<(String, String, bool)>,
    env: Vec<(String, String)>,
    user: String,
    volume: String,
    entrypoint: Vec<String>,
    health: Vec<String>,
}

impl Image {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Dockerfile");
        Self::parse(&fs::read_to_string(path).expect("the Dockerfile"))
    }

    /// Refuses every instruction that it does not know, so that no part of the image goes untested.
    fn parse(dockerfile: &str) -> Self {
        let stage = dockerfile.rsplit("\nFROM ").next().expect("a stage");
        let mut lines = stage.lines();
        assert_eq!(lines.next(), Some("scratch"), "the image starts from nothing");
        let mut image = Self::default();
        for line in lines.map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (instruction, rest) = line.split_once(' ').expect("an instruction and its words");
            let list = |text: &str| serde_json::from_str::<Vec<String>>(text).expect("a list");
            match instruction {
                "COPY" => {
                    let (flags, words): (Vec<&str>, Vec<&str>) = rest.split(' ').partition(|w| w.starts_with("--"));
                    let owned = flags.contains(&"--chown=65532:65532");
                    let [from, to] = words[..] else { panic!("{line}") };
                    image.copies.push((from.to_owned(), to.to_owned(), owned));
                }
                "ENV" => {
                    let (name, value) = rest.split_once('=').expect("NAME=VALUE");
                    image.env.push((name.to_owned(), value.to_owned()));
                }
                "USER" => image.user = rest.to_owned(),
                "VOLUME" => image.volume = rest.to_owned(),
                "ENTRYPOINT" => image.entrypoint = list(rest),
                "HEALTHCHECK" => image.health = list(rest.split_once("CMD ").expect("a command").1),
                "EXPOSE" => assert_eq!(rest, "8081"),
                "STOPSIGNAL" => assert_eq!(rest, "SIGTERM"),
                other => panic!("{other} is new; say here what it means"),
            }
        }
        image
    }

    /// Lays out the root file system.
    fn assemble(&self, root: &Path) {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (from, to, owned) in &self.copies {
            let to = root.join(to.trim_start_matches('/'));
            fs::create_dir_all(to.parent().expect("below the root")).expect("made");
            match from.as_str() {
                "/out/ferromq" => put_program(&to, root),
                "/out/store" => fs::create_dir_all(&to).expect("made"),
                file => drop(fs::copy(repository.join(file), &to).expect("copied")),
            }
            if *owned {
                chown(&to, Some(65532), Some(65532)).expect("root may");
            }
        }
        // What every engine brings.
        for mount in ["proc", "dev", "sys"] {
            fs::create_dir_all(root.join(mount)).expect("made");
        }
    }

    /// A process of the image. It becomes the program itself, so that its id and its signals are the program's.
    fn command(&self, root: &Path, words: &[String]) -> Command {
        // Bound on itself, the root can be read-only for this process alone.
        const ENTER: &str = "set -e; root=$1 volume=$2 user=$3; shift 3\n\
            mount --bind \"$root\" \"$root\"; mount --bind \"$root$volume\" \"$root$volume\"\n\
            mount -t proc proc \"$root/proc\"; mount -o remount,bind,ro \"$root\"\n\
            exec setpriv --no-new-privs chroot --userspec=\"$user\" \"$root\" \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", ENTER, "sh", text(root), &self.volume, &self.user]).args(words);
        command.env_clear().envs(self.env.iter().map(|(n, v)| (n, v)));
        // The shell's own tools; the program gets the image's.
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}

/// The program, with its libraries when it needs any.
fn put_program(to: &Path, root: &Path) {
    let program = std::env::var_os("FERROMQ_IMAGE_BINARY").map_or(env!("CARGO_BIN_EXE_ferromq").into(), PathBuf::from);
    fs::copy(&program, to).expect("copied");
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).expect("changed");
    let needs = Command::new("ldd").arg(&program).output().expect("ldd runs");
    // A static program makes it fail.
    for library in stdout(&needs).split_whitespace().filter(|word| word.starts_with('/')) {
        let place = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(place.parent().expect("below the root")).expect("made");
        fs::copy(library, place).expect("copied");
    }
}

/// Why no image can be entered here.
fn unable() -> Option<String> {
    let tried =
        Command::new("unshare").args(["--mount", "sh", "-c", "mount -t tmpfs none /mnt && setpriv --version"]).output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("no mount namespace here: {}", stderr(&output).trim())),
        Err(e) => Some(format!("no unshare here: {e}")),
    }
}

struct Container {
    child: Child,
    ports: PathBuf,
}

impl Drop for Container {
    fn drop(&mut self) {
        process::kill(&mut self.child);
    }
}

impl Container {
    fn start(image: &Image, root: &Path) -> Self {
        let ports = root.join(image.volume.trim_start_matches('/')).join("ports.json");
        let inside = format!("{}/ports.json", image.volume);
        let ops = "metricsPromExporterPort=0";
        let free = ["--set", "grpcServerPort=0", "--set", "adminServerPort=0", "--set", ops, "--ports-file", &inside];
        let words: Vec<String> = image.entrypoint.iter().cloned().chain(free.map(str::to_owned)).collect();
        let log = fs::File::create(root.with_extension("log")).expect("a log");
        let child = image
            .command(root, &words)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("cloned"))
            .stderr(log)
            .spawn()
            .expect("unshare starts");
        let mut container = Self { child, ports };
        let ready = process::poll(SOON, || (container.ports.exists() || container.ended()).then_some(()));
        let log = fs::read_to_string(root.with_extension("log")).unwrap_or_default();
        assert!(ready.is_some() && !container.ended(), "the server in the image was not ready:\n{log}");
        container
    }

    fn ended(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_some()
    }

    fn port(&self, name: &str) -> String {
        let ports: serde_json::Value = serde_json::from_slice(&fs::read(&self.ports).expect("read")).expect("JSON");
        format!("127.0.0.1:{}", ports[name])
    }
}

#[test]
fn the_image_runs_unprivileged_on_a_read_only_root() {
    if let Some(why) = unable() {
        // A machine whose kernel refuses is no fault of the image, in CI as elsewhere.
        return harness::refused_here(&why);
    }
    let image = Image::read();
    let dir = directory();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("changed");
    let root = dir.path().join("root");
    image.assemble(&root);
    let files_before = files(&root, &image.volume);
    let mut container = Container::start(&image, &root);

    let status = fs::read_to_string(format!("/proc/{}/status", container.child.id())).expect("it runs");
    let field =
        |name: &str| status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).expect("there").trim();
    assert_eq!(field("Uid"), "65532\t65532\t65532\t65532");
    assert_eq!(field("Groups"), "");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", container.child.id())).expect("it runs");
    let options: Vec<_> = mounts.lines().map(|l| l.split(' ').collect::<Vec<_>>()).map(|w| (w[4], w[5])).collect();
    let of = |at: &str| options.iter().rev().find(|(place, _)| *place == at).map(|(_, o)| o.split(',').next());
    assert_eq!(of("/"), Some(Some("ro")), "{mounts}");
    assert_eq!(of(&image.volume), Some(Some("rw")), "{mounts}");

    let endpoint = container.port("grpc");
    let sent = harness::run(&["produce", "TopicTest", "hello", "--endpoint", &endpoint]);
    assert!(sent.status.success(), "{}", stderr(&sent));
    let consume = ["consume", "TopicTest", "--group", "g", "--count", "1", "--require", "--endpoint", &endpoint];
    assert!(stdout(&harness::run(&consume)).contains("hello"));

    let health = |admin: &str| {
        let words: Vec<String> = image.health.iter().cloned().chain(["--admin".into(), admin.into()]).collect();
        image.command(&root, &words).output().expect("unshare runs").status.code()
    };
    let admin = container.port("admin");
    assert_eq!(health(&admin), Some(0));
    let pid = i32::try_from(container.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::TERM).expect("it is there");
    let ended = process::ended(&mut container.child, SOON).and_then(|s| s.code());
    let log = fs::read_to_string(root.with_extension("log")).expect("a log");
    assert_eq!(ended, Some(0), "{log}");
    assert_eq!(health(&admin), Some(1), "the health check of a server that is gone");
    assert_eq!(files(&root, &image.volume), files_before, "something was written beside the volume");
    assert!(root.join("var/lib/ferromq/commitlog").is_dir(), "the volume is the store");
}

/// Every file of the image but those of its volume.
fn files(root: &Path, volume: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(at) = waiting.pop() {
        for entry in fs::read_dir(&at).expect("read") {
            let path = entry.expect("read").path();
            if path == root.join(volume.trim_start_matches('/')) {
                continue;
            }
            if path.is_dir() { waiting.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

#[test]
fn the_image_is_one_program_and_no_shell() {
    let image = Image::read();
    let from: Vec<_> = image.copies.iter().map(|(from, ..)| from.as_str()).collect();
    assert_eq!(from, ["/out/ferromq", "/out/store", "LICENSE"]);
    assert_eq!((image.user.as_str(), image.volume.as_str()), ("65532:65532", "/var/lib/ferromq"));
    assert_eq!(image.entrypoint, ["/usr/local/bin/ferromq"]);
    // What the variables of the image set is what the chart relies on.
    let output = harness::ferromq().args(["config", "--json"]).envs(image.env.iter().map(|(n, v)| (n, v))).output();
    let settings: serde_json::Value = serde_json::from_str(&stdout(&output.expect("runs"))).expect("JSON");
    let value = |key: &str| {
        settings.as_array().expect("settings").iter().find(|s| s["key"] == key).expect("there")["value"].clone()
    };
    assert_eq!((value("storePathRootDir"), value("logFormat")), ("/var/lib/ferromq".into(), "json".into()));
}
