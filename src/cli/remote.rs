//! Talking to a running server: the runtime, the connection, and its errors in one line.

use std::{future::Future, process::ExitCode, sync::OnceLock, time::Duration};

use anyhow::{Context as _, anyhow};
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::proto::{admin::admin_service_client::AdminServiceClient, v2::admin_client::AdminClient};

use super::tls;

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long it may take to tell something, and to change something, which waits for its disk.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Which address this process talks to: every command talks to one.
static DIALLED: OnceLock<String> = OnceLock::new();
/// Bytes of an answer at most: a list of 100,000 topics has 7 MB.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Which server administration goes to.
#[derive(clap::Args, Clone, Debug)]
pub struct AdminArgs {
    /// Administration address of the server.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8083")]
    pub admin: String,
    /// How long the server may take to answer, like 500ms or 10s; 3s when not given, 30s for changes.
    #[arg(long, value_name = "TIME", value_parser = super::times::parse_span)]
    pub timeout: Option<Duration>,
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
}

impl AdminArgs {
    /// Connects to the administration API, to look at something.
    pub async fn connect(&self) -> anyhow::Result<AdminServiceClient<Channel>> {
        self.connect_for(LOOK_TIMEOUT).await
    }

    /// The same, to change something.
    pub async fn connect_to_change(&self) -> anyhow::Result<AdminServiceClient<Channel>> {
        self.connect_for(CHANGE_TIMEOUT).await
    }

    async fn connect_for(&self, timeout: Duration) -> anyhow::Result<AdminServiceClient<Channel>> {
        let cure = "is the server running there? --admin HOST:PORT names another";
        let channel = connect(&self.admin, Some(self.timeout.unwrap_or(timeout)), cure).await?;
        Ok(AdminServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// Connects to RocketMQ's own Admin service, which is on the same port.
    pub async fn official(&self) -> anyhow::Result<AdminClient<Channel>> {
        let cure = "is the server running there? --admin HOST:PORT names another";
        let channel = connect(&self.admin, Some(self.timeout.unwrap_or(CHANGE_TIMEOUT)), cure).await?;
        Ok(AdminClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
    }
}

/// Connects in plaintext; `cure` is told when nobody is there.
pub async fn connect(address: &str, timeout: Option<Duration>, cure: &str) -> anyhow::Result<Channel> {
    connect_by(None, address, timeout, cure).await
}

/// The same by TLS where there is a connector.
pub async fn connect_by(
    tls: Option<TlsConnector>,
    address: &str,
    timeout: Option<Duration>,
    cure: &str,
) -> anyhow::Result<Channel> {
    let wrong = || format!("{address:?} is not HOST:PORT, like 127.0.0.1:8081");
    let uri: http::Uri = format!("http://{address}").parse().with_context(wrong)?;
    if uri.port().is_none() || uri.path() != "/" {
        return Err(anyhow!(wrong()));
    }
    // A second connection of one command is to the same server.
    let _ = DIALLED.set(address.to_owned());
    let mut endpoint = Endpoint::from(uri).connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
    if let Some(timeout) = timeout {
        endpoint = endpoint.timeout(timeout);
    }
    let connected = match tls {
        None => endpoint.connect().await,
        Some(tls) => endpoint.connect_with_connector(tower::service_fn(move |at| tls::connect(tls.clone(), at))).await,
    };
    connected.map_err(|e| anyhow!("cannot connect to {address}: {}; {cure}", innermost(&e)))
}

/// What went wrong at the bottom: the layers above it add nothing for people.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// A refusal of the server as an error: its message carries value, cause and cure.
pub fn refused(status: Status) -> anyhow::Error {
    anyhow!("{}", told(&status, "administration", "adminServerPort (--admin, 8083 unless set otherwise)"))
}

/// What a refusal says to whom wanted `what`, which is served at `meant`.
pub fn told(status: &Status, what: &str, meant: &str) -> String {
    let at = DIALLED.get().map_or("the server", String::as_str);
    let message = status.message();
    match status.code() {
        Code::Unimplemented => format!("{at} does not serve {what}, which is at {meant}: is it the other port?"),
        // What the transport says of its own clock.
        Code::Cancelled | Code::DeadlineExceeded if message.is_empty() || message == "Timeout expired" => {
            format!(
                "{at} did not answer in time; is it a server, and well? --timeout TIME waits longer for administration"
            )
        }
        code if message.is_empty() => format!("the server answered {code:?} without a reason"),
        _ => message.to_owned(),
    }
}

/// Runs a command that talks to a server.
pub fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting")?.block_on(command)
}
