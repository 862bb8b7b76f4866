//! `ferromq log-level`.

use std::process::ExitCode;

use crate::proto::admin as pb;

use super::{
    output,
    remote::{AdminArgs, refused},
};

#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  ferromq log-level                          what it is\n  ferromq log-level debug\n  \
                        ferromq log-level info,ferromq::store=trace\n\nIt holds until the server stops; logLevel sets it for good."
)]
pub struct Args {
    /// error, warn, info, debug or trace, also for each module; without it the level is shown.
    level: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let request = pb::SetLogLevelRequest { level: self.level.unwrap_or_default() };
        let answer = self.admin.connect_to_change().await?.set_log_level(request).await.map_err(refused)?.into_inner();
        if self.admin.json {
            output::json(&serde_json::json!({"level": answer.level}))?;
        } else {
            output::line(&answer.level)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
