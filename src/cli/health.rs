//! `ferromq health`.

use std::process::ExitCode;

use serde_json::json;

use crate::proto::admin as pb;

use super::{
    output,
    remote::{AdminArgs, refused},
};

#[derive(clap::Args, Debug)]
#[command(after_help = "Example: ferromq health --admin 127.0.0.1:8083 && echo ready")]
pub struct Args {
    #[command(flatten)]
    admin: AdminArgs,
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let request = pb::GetServerStatusRequest {};
        let status = self.admin.connect().await?.get_server_status(request).await.map_err(refused)?.into_inner();
        if self.admin.json {
            output::json(&as_json(&status))?
        } else {
            output::text(&as_text(&status))?
        }
        Ok(if status.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn as_text(status: &pb::GetServerStatusResponse) -> String {
    let state = if status.ready { "ready".to_owned() } else { format!("not ready: {}", status.reason) };
    format!(
        "{state}\nserver  FerroMQ {}, broker {}\nstore   {}, {}\nlog     {} bytes written, {} durable\n",
        status.version,
        status.broker_name,
        status.store_path,
        status.flush_disk_type,
        status.written_offset,
        status.durable_offset,
    )
}

fn as_json(status: &pb::GetServerStatusResponse) -> serde_json::Value {
    json!({
        "ready": status.ready,
        "reason": status.reason,
        "version": status.version,
        "brokerName": status.broker_name,
        "storePath": status.store_path,
        "flushDiskType": status.flush_disk_type,
        "writtenOffset": status.written_offset,
        "durableOffset": status.durable_offset,
    })
}
