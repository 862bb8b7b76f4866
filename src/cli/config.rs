//! `ferromq config`.

use std::process::ExitCode;

use serde_json::json;

use crate::config::{Loaded, keys, sample};

use super::{output, server::Settings};

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  ferromq config -c broker.conf          what a server started like that would use
  ferromq config --sample toml > ferromq.toml")]
pub struct Args {
    #[command(flatten)]
    settings: Settings,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
    /// Print a commented file with every setting at its default, instead.
    #[arg(long, value_name = "FORMAT", conflicts_with_all = ["json", "files", "set", "store"])]
    sample: Option<sample::Format>,
}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if let Some(format) = self.sample {
            output::text(&sample::render(format))?;
            return Ok(ExitCode::SUCCESS);
        }
        let loaded = self.settings.load()?;
        for warning in &loaded.warnings {
            eprintln!("ferromq: {warning}");
        }
        if self.json {
            output::json(&as_json(&loaded))?
        } else {
            output::table(&["KEY", "VALUE", "ORIGIN"], rows(&loaded))?
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn rows(loaded: &Loaded) -> Vec<Vec<String>> {
    let row = |s: &crate::config::Setting| {
        vec![s.key.name.to_owned(), keys::shown(s.key.name, &s.value).into_owned(), s.origin.to_string()]
    };
    loaded.settings.iter().map(row).collect()
}

fn as_json(loaded: &Loaded) -> serde_json::Value {
    let setting = |s: &crate::config::Setting| {
        json!({
            "key": s.key.name,
            "value": keys::shown(s.key.name, &s.value),
            "default": s.key.default,
            "origin": s.origin.kind(),
            "source": s.origin.to_string(),
            "doc": s.key.doc,
        })
    };
    loaded.settings.iter().map(setting).collect()
}
