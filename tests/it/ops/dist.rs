//! The release archive, and what `install.sh` makes of it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::{
    clients::process,
    harness::{self, directory, text},
};

const PATIENCE: Duration = Duration::from_secs(300);

fn run(command: &mut Command) -> process::Said {
    process::run(command, PATIENCE).expect("it runs")
}

#[track_caller]
fn done(command: &mut Command) -> String {
    let said = run(command);
    assert!(said.status.success(), "{command:?}: {}{}", said.stdout, said.stderr);
    said.stdout
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn has_python() -> bool {
    let has = Command::new("python3").arg("-V").output().is_ok_and(|o| o.status.success());
    if !has {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must have python3");
        harness::skipped("no python3 here, no archive can be made");
    }
    has
}

/// Makes the archive around the program that the tests built, and unpacks it.
fn unpacked(dir: &Path) -> PathBuf {
    let mut make = Command::new("bash");
    make.arg(repository("packaging/dist.sh")).args(["--binary", env!("CARGO_BIN_EXE_ferromq"), "--out", text(dir)]);
    let archive = done(&mut make).lines().last().expect("its path").to_owned();
    done(Command::new("sha256sum").args(["--check", "SHA256SUMS"]).current_dir(dir));
    done(Command::new("tar").args(["xzf", &archive, "-C", text(dir)]));
    dir.join(Path::new(&archive).file_name().expect("a file").to_str().expect("UTF-8").trim_end_matches(".tar.gz"))
}

#[test]
fn the_archive_says_what_the_program_is_made_of() {
    if !has_python() {
        return;
    }
    let dir = directory();
    let unpacked = unpacked(dir.path());
    let read = |name: &str| fs::read_to_string(unpacked.join(name)).expect("in the archive");
    let bill: Value = serde_json::from_str(&read("ferromq.cdx.json")).expect("JSON");
    assert_eq!((&bill["bomFormat"], &bill["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    assert_eq!(bill["metadata"]["component"]["version"], env!("CARGO_PKG_VERSION"));
    let components = bill["components"].as_array().expect("components");
    let names: BTreeSet<_> = components.iter().map(|c| c["name"].as_str().expect("a name")).collect();
    for linked in ["tokio", "tonic", "ring", "tikv-jemalloc-sys", "h2"] {
        assert!(names.contains(linked), "{linked} is linked and not on the bill");
    }
    for not_linked in ["ferromq", "proptest", "divan", "protox", "tempfile", "serde_derive"] {
        assert!(!names.contains(not_linked), "{not_linked} is on the bill and not linked");
    }
    let licences = read("THIRD-PARTY-LICENSES.txt");
    let lock = fs::read_to_string(repository("Cargo.lock")).expect("read");
    for component in components {
        let (name, version) = (component["name"].as_str().expect("text"), component["version"].as_str().expect("text"));
        assert!(licences.contains(&format!("{name} {version}")), "{name} {version} has no licence listed");
        assert!(component["licenses"][0]["expression"].is_string(), "{name}");
        let sum = component["hashes"][0]["content"].as_str().expect("a checksum");
        assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"")) && lock.contains(sum), "{name}");
    }
    assert!(licences.contains("Permission is hereby granted"), "licences come as text");
    let mut seen: BTreeSet<&str> = components.iter().map(|c| c["bom-ref"].as_str().expect("text")).collect();
    seen.insert(bill["metadata"]["component"]["bom-ref"].as_str().expect("text"));
    let refs = bill["dependencies"]
        .as_array()
        .expect("a list")
        .iter()
        .flat_map(|d| std::iter::once(&d["ref"]).chain(d["dependsOn"].as_array().expect("a list")));
    assert!(refs.map(|r| r.as_str().expect("text")).all(|r| seen.contains(r)), "an edge to nothing");
}

#[test]
fn the_same_input_makes_the_same_archive() {
    if !has_python() {
        return;
    }
    let sums = [directory(), directory()].map(|dir| {
        unpacked(dir.path());
        fs::read_to_string(dir.path().join("SHA256SUMS")).expect("sums")
    });
    assert_eq!(sums[0], sums[1]);
}

#[test]
fn install_puts_everything_in_its_place_and_keeps_settings() {
    if !has_python() {
        return;
    }
    let dir = directory();
    let unpacked = unpacked(dir.path());
    let root = dir.path().join("root");
    let install = |args: &[&str]| {
        let mut command = Command::new("sh");
        command.arg(unpacked.join("install.sh")).args(["--root", text(&root), "--prefix", "/opt/mq"]).args(args);
        run(&mut command)
    };
    let said = install(&[]);
    assert!(said.status.success(), "{}", said.stderr);
    let version = done(Command::new(root.join("opt/mq/bin/ferromq")).arg("--version"));
    assert_eq!(version.trim(), format!("ferromq {}", env!("CARGO_PKG_VERSION")));
    let unit = fs::read_to_string(root.join("etc/systemd/system/ferromq.service")).expect("a unit");
    assert!(unit.contains("ExecStart=/opt/mq/bin/ferromq server") && !unit.contains("@prefix@"));
    let settings = root.join("etc/ferromq/ferromq.conf");
    // The arguments of the unit, less the directory that the account would have.
    let config = ["config", "-c", text(&settings), "--store", "/var/lib/ferromq"];
    done(Command::new(root.join("opt/mq/bin/ferromq")).args(config));

    fs::write(&settings, "grpcServerPort=9\n").expect("written");
    assert!(install(&[]).status.success());
    assert_eq!(
        fs::read_to_string(&settings).expect("read"),
        "grpcServerPort=9\n",
        "settings of the operator's are kept"
    );
    assert!(root.join("etc/ferromq/ferromq.conf.new").is_file());

    fs::write(unpacked.join("bin/ferromq"), "something else").expect("written");
    assert!(!install(&[]).status.success(), "a program that is not the archive's was installed");
    assert!(install(&["--uninstall"]).status.success());
    assert!(!root.join("opt/mq/bin/ferromq").exists() && settings.exists());
}

#[test]
fn the_unit_gives_the_server_what_it_asks_for_and_time_to_end() {
    let unit = fs::read_to_string(repository("packaging/ferromq.service")).expect("read");
    let values = |key: &str| unit.lines().filter_map(|l| l.strip_prefix(key)?.strip_prefix('=')).collect::<Vec<_>>();
    assert_eq!(values("KillSignal"), ["SIGTERM"]);
    let stop: u64 = values("TimeoutStopSec")[0].trim_end_matches('s').parse().expect("seconds");
    assert!(stop > 30, "grpcShutdownTimeSeconds is 30 and the flush comes after it");
    for hardened in [
        "NoNewPrivileges",
        "ProtectHome",
        "PrivateTmp",
        "PrivateDevices",
        "ProtectKernelTunables",
        "LockPersonality",
        "MemoryDenyWriteExecute",
        "RestrictNamespaces",
        "DynamicUser",
    ] {
        assert_eq!(values(hardened), ["yes"], "{hardened}");
    }
    assert_eq!((values("ProtectSystem"), values("CapabilityBoundingSet")), (vec!["strict"], vec![""]));
    assert_eq!(values("StateDirectory"), ["ferromq"]);
}
