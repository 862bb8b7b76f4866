//! `ferromq metrics`: what is told at /metrics, and what is generated from that.

use std::process::ExitCode;

use serde_json::json;

use crate::observe::metrics::{
    alerts,
    catalogue::{self, Kind},
    dashboard,
};

use super::output;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  ferromq metrics\n  ferromq metrics --dashboard > dashboard.json\n  \
                        ferromq metrics --alerts > alerts.yaml")]
pub struct Args {
    /// Print a dashboard for Grafana.
    #[arg(long, conflicts_with_all = ["alerts", "json"])]
    dashboard: bool,
    /// Print alert rules for Prometheus.
    #[arg(long, conflicts_with = "json")]
    alerts: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        if self.dashboard {
            output::text(&dashboard::render())?;
        } else if self.alerts {
            output::text(&alerts::render())?;
        } else if self.json {
            output::json(&catalogue::ALL.iter().map(as_json).collect())?;
        } else {
            output::table(&["METRIC", "KIND", "LABELS", "WHAT IT TELLS"], catalogue::ALL.iter().map(row).collect())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn kind(metric: &catalogue::Metric) -> &'static str {
    match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

fn row(metric: &catalogue::Metric) -> Vec<String> {
    vec![metric.full_name(), kind(metric).into(), metric.labels.join(", "), metric.help.into()]
}

fn as_json(metric: &catalogue::Metric) -> serde_json::Value {
    json!({"name": metric.full_name(), "kind": kind(metric), "labels": metric.labels, "help": metric.help})
}
