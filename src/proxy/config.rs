//! What an operator can set about the gRPC front. `config.rs` of the crate fills it from Apache's keys, which each
//! field names where there is one.

use std::{
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::HostPort;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where to listen; at least one.
    pub listeners: Vec<Listener>,
    pub tls: Tls,
    pub limits: Limits,
    pub polling: Polling,
    pub leases: Leases,
    pub messages: Messages,
    pub producer: ProducerBackoff,
    pub renew: Renew,
}

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// `grpcServerPort` and the address to bind; `[::]` takes IPv4 and IPv6. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// What clients of this listener are told to dial; without it, the address that they dialled.
    pub advertised: Option<HostPort>,
}

/// `tls.server.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Plaintext only.
    Disabled,
    /// The first bytes decide.
    Permissive,
    /// TLS only.
    Enforcing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub mode: TlsMode,
    /// `tlsCertPath` and `tlsKeyPath`, PEM. Without them a self-signed certificate is made at start.
    pub files: Option<TlsFiles>,
    /// `tlsCertWatchIntervalMs`: how often the files are looked at. Polled, because a secret that is swapped by a
    /// symlink escapes file notification.
    pub watch_interval: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Bounds on what connections and calls may take. Above a bound a call is answered TOO_MANY_REQUESTS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all; further ones are closed at once.
    pub connections_max: usize,
    /// Calls under way on one connection (HTTP/2's concurrent streams; a client waits for a free one).
    pub connection_calls_max: u32,
    /// Calls under way in all, parked polls and Telemetry streams among them.
    pub calls_max: usize,
    /// `grpcMaxInboundMessageSize`: bytes of one SendMessage request. Apache takes 130 MiB; official clients send one
    /// message of at most `maxMessageSize` in a request, so 32 MiB leaves room for batches and keeps what a client can
    /// make the server hold small.
    pub inbound_bytes_max: usize,
    /// Bytes of one request of any other kind, and of one Telemetry command.
    pub control_bytes_max: usize,
    /// Bytes of requests and answers under way, on one connection and in all.
    pub connection_bytes_max: usize,
    pub bytes_max: usize,
    /// Clients that are remembered, with settings of this size at most.
    pub sessions_max: usize,
    pub settings_bytes_max: usize,
    /// Open Telemetry streams of one client id.
    pub session_streams_max: u32,
    /// Until the first bytes, and then the TLS handshake, are there.
    pub handshake_timeout: Duration,
    /// Until a request has arrived whole.
    pub upload_timeout: Duration,
    /// Without a byte of an answer being read by its client; its connection is then cut.
    pub stall_timeout: Duration,
    /// `grpcClientIdleTimeMills`: a connection without calls for this long is closed.
    pub idle_timeout: Duration,
    /// A connection is asked for a sign of life this often, and closed when none comes within the timeout.
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    /// `grpcShutdownTimeSeconds`: how long a connection that is being closed may go on answering, at the shutdown of the
    /// server too.
    pub closing_timeout: Duration,
}

/// Bounds of a long poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Polling {
    /// `grpcClientConsumerMinLongPollingTimeoutMillis` and `...Max...`; the latter is what push consumers are told.
    pub min: Duration,
    pub max: Duration,
    /// `grpcClientConsumerLongPollingBatchSize`: messages of one poll at most.
    pub batch_max: u32,
    /// `longPollingReserveTimeInMillis`: a poll ends this long before the client's deadline.
    pub reserve: Duration,
    /// A client's RPC timeout where its settings are not known.
    pub request_timeout: Duration,
    /// `enablePropertyFilter`: whether a poll may have an SQL92 expression.
    pub filter_by_properties: bool,
}

/// Bounds of an invisible duration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leases {
    /// `defaultInvisibleTimeMills`: the lease of a delivery that the server renews.
    pub renewed: Duration,
    /// `minInvisibleTimeMillsForRecv`.
    pub min: Duration,
    /// `maxInvisibleTimeMills`.
    pub max: Duration,
}

/// Bounds of a message's fields; the body's is the broker's `maxMessageSize`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Messages {
    /// `enableMessageBodyEmptyCheck`.
    pub refuse_empty_body: bool,
    /// `rejectTransactionMessage`.
    pub refuse_transactions: bool,
    /// `userPropertyMaxNum`.
    pub user_properties_max: usize,
    /// `maxUserPropertySize`: bytes of user properties, tag and keys together.
    pub user_properties_bytes_max: usize,
    /// `maxMessageGroupSize`: a message group has fewer bytes than this.
    pub group_bytes_below: usize,
    /// `maxDelayTimeMills`.
    pub delay_max: Duration,
    /// `maxTransactionRecoverySecond`.
    pub transaction_recovery_max: Duration,
}

/// What producers are told about repeating a send that was refused as too much.
#[derive(Clone, Debug, PartialEq)]
pub struct ProducerBackoff {
    /// `grpcClientProducerMaxAttempts`.
    pub max_attempts: u32,
    /// `grpcClientProducerBackoffInitialMillis`, `...MaxMillis`, `...Multiplier`.
    pub initial: Duration,
    pub max: Duration,
    pub multiplier: f32,
}

/// Renewal of leases on behalf of push consumers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renew {
    /// `enableProxyAutoRenew`.
    pub enabled: bool,
    /// `renewSchedulePeriodMillis`: how often leases are looked at.
    pub scan_interval: Duration,
    /// `renewAheadTimeMillis`: a lease is renewed when less than this is left.
    pub ahead: Duration,
    /// `maxRenewRetryTimes`: failures in a row after which a lease is left to end.
    pub failures_max: u32,
    /// `renewMaxTimeMillis`: how long one delivery is kept in all.
    pub total_max: Duration,
    /// `invisibleTimeMillisWhenClear`: what is left of a lease when its client goes away.
    pub when_gone: Duration,
    /// Leases kept in all; further deliveries are not renewed.
    pub held_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listeners: vec![Listener { listen: (Ipv6Addr::UNSPECIFIED, 8081).into(), advertised: None }],
            tls: Tls { mode: TlsMode::Permissive, files: None, watch_interval: Duration::from_secs(1) },
            limits: Limits::default(),
            polling: Polling {
                min: Duration::from_secs(5),
                max: Duration::from_secs(20),
                batch_max: 32,
                reserve: Duration::from_millis(100),
                request_timeout: Duration::from_secs(3),
                filter_by_properties: true,
            },
            leases: Leases {
                renewed: Duration::from_secs(60),
                min: Duration::from_secs(10),
                max: Duration::from_secs(12 * 3600),
            },
            messages: Messages {
                refuse_empty_body: true,
                refuse_transactions: false,
                user_properties_max: 128,
                user_properties_bytes_max: 16 << 10,
                group_bytes_below: 64,
                delay_max: Duration::from_secs(400 * 24 * 3600),
                transaction_recovery_max: Duration::from_secs(3600),
            },
            producer: ProducerBackoff {
                max_attempts: 3,
                initial: Duration::from_millis(10),
                max: Duration::from_secs(1),
                multiplier: 2.0,
            },
            renew: Renew {
                enabled: true,
                scan_interval: Duration::from_secs(5),
                ahead: Duration::from_secs(10),
                failures_max: 3,
                total_max: Duration::from_secs(3 * 3600),
                when_gone: Duration::from_secs(1),
                held_max: 1_000_000,
            },
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            connection_calls_max: 1024,
            calls_max: 131_072,
            inbound_bytes_max: 32 << 20,
            control_bytes_max: 1 << 20,
            connection_bytes_max: 64 << 20,
            bytes_max: 512 << 20,
            sessions_max: 50_000,
            settings_bytes_max: 64 << 10,
            session_streams_max: 16,
            handshake_timeout: Duration::from_secs(10),
            upload_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(120),
            keepalive_interval: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(20),
            closing_timeout: Duration::from_secs(30),
        }
    }
}
