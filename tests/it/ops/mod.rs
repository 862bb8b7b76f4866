//! How the server reaches its users (chart, container, archive), and what operators see of it.

mod alerts;
mod chart;
mod container;
mod dependencies;
mod dist;
mod doctor;
mod health;
mod http;
mod keda;
mod logs;
mod metrics;
mod otlp;
mod prometheus;
mod recipes;
mod spoiler;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{clients::process, harness};

/// The directory of what `tests/<name>/build.sh` brings; `None` where a toolchain is missing, which fails when `CI=true`.
fn built(name: &str, within: Duration) -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name).join("build.sh");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name(name);
    let said = process::run(Command::new("bash").arg(script).arg(out), within).expect("the script runs");
    match said.status.code() {
        Some(0) => said.stdout.lines().last().map(PathBuf::from),
        Some(3) if std::env::var("CI").as_deref() != Ok("true") => {
            harness::skipped(said.stderr.trim());
            None
        }
        _ => panic!("{}", said.stderr),
    }
}
