//! `ferromq server`.

use std::{path::PathBuf, process::ExitCode};

use crate::{
    config::{self, Loaded, Sources, environment},
    observe::telemetry,
    server,
};

/// Where settings come from; shared with `ferromq config`.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Settings {
    /// Settings file: RocketMQ's .conf, .properties or rmq-proxy.json, or .toml, .yaml. Repeatable, later ones win.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// One setting. Repeatable; wins over files and over the environment (FERROMQ_<KEY>).
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Directory of everything that is kept (storePathRootDir).
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

impl Settings {
    /// Reads them all.
    pub fn load(self) -> Result<Loaded, config::Error> {
        config::load(&Sources {
            files: self.files,
            environment: environment::settings(),
            set: self.set,
            store: self.store,
        })
    }
}

#[derive(clap::Args, Clone, Debug, Default)]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
    /// Write the ports that were taken to this file, as JSON, once the server is ready.
    #[arg(long, value_name = "FILE")]
    ports_file: Option<PathBuf>,
}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let loaded = self.settings.load()?;
        let process = &loaded.config.server;
        telemetry::start(&process.log_level, process.log_format, environment::no_color());
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        server::run(loaded, self.ports_file)?;
        Ok(ExitCode::SUCCESS)
    }
}
