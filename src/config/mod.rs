//! CONFIGURATION: each room's own config, filled from one table of keys.
//!
//! Later sources win: built-in defaults, files in the order given, environment (`FERROMQ_<KEY>`), flags. Where each
//! value came from is kept. Nothing unknown or malformed is let through, and all faults are told at once.

mod apache;
pub mod environment;
mod file;
pub mod keys;
pub mod sample;
mod suggest;
pub mod value;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

pub use file::FileError;
pub use keys::Key;

use crate::{broker, observe::telemetry::Format, ops, proxy, store};

/// What every room is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub server: Server,
    pub store: store::Config,
    pub broker: broker::Config,
    pub proxy: proxy::Config,
    pub ops: ops::Config,
}

/// Settings of the process itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    pub admin_listen: SocketAddr,
    /// Threads that serve connections; 0 is one for each core.
    pub workers: usize,
    /// Levels by module; see `observe::telemetry`.
    pub log_level: String,
    pub log_format: Format,
    /// Whether TLS may come with a certificate that nobody gave.
    pub self_signed_certificate: bool,
}

impl Default for Config {
    fn default() -> Self {
        let mut config = Self {
            server: Server {
                admin_listen: (Ipv4Addr::LOCALHOST, 8083).into(),
                workers: 0,
                log_level: "info".into(),
                log_format: Format::Auto,
                self_signed_certificate: true,
            },
            store: store::Config::at("./store"),
            broker: broker::Config::default(),
            proxy: proxy::Config::default(),
            ops: ops::Config::default(),
        };
        config.settle_store_host();
        config.settle_names();
        let limits = &mut config.proxy.limits;
        // One connection may send one request of the largest size while it receives another.
        limits.connection_bytes_max = limits.connection_bytes_max.max(2 * limits.inbound_bytes_max);
        config
    }
}

impl Config {
    /// Every sample says whose it is, before what `metricsLabel` adds.
    fn settle_names(&mut self) {
        let own = [
            ("cluster", self.broker.cluster_name.clone()),
            ("node_type", "broker".to_owned()),
            ("node_id", self.broker.broker_name.to_string()),
        ];
        let common = &mut self.ops.names.common;
        common.splice(0..0, own.map(|(name, value)| (name.to_owned(), value)));
    }

    /// Records name one host: `brokerIP1`, with the port of the first listener.
    pub fn settle_store_host(&mut self) {
        if let Some(main) = self.proxy.listeners.first() {
            self.broker.store_host.set_port(main.listen.port());
        }
        self.store.store_host = self.broker.store_host;
    }
}

/// Where settings are looked for, besides the defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `-c`, in order.
    pub files: Vec<PathBuf>,
    /// Variables that start with `FERROMQ_`.
    pub environment: Vec<(String, String)>,
    /// `--set`: `KEY=VALUE`.
    pub set: Vec<String>,
    /// `--store`.
    pub store: Option<PathBuf>,
}

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    Default,
    File {
        path: PathBuf,
        line: Option<usize>,
    },
    /// The variable's name.
    Environment(String),
    /// The flag's name.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

impl Origin {
    /// The kind alone: `default`, `file`, `environment` or `flag`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File { .. } => "file",
            Self::Environment(_) => "environment",
            Self::Flag(_) => "flag",
        }
    }
}

/// An effective setting.
pub struct Setting {
    pub key: &'static Key,
    pub value: String,
    pub origin: Origin,
}

/// What is wrong with one given value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    pub origin: Origin,
    pub key: String,
    /// `None` where it may be anything, a password too: the key is not known, or what is before it is no key.
    pub value: Option<String>,
    /// The cause and the cure.
    pub why: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, key, value, why } = self;
        match value {
            Some(value) => write!(f, "{origin}: {key}={} {why}", keys::shown(key, value)),
            None => write!(f, "{origin}: {key} {why}"),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] FileError),
    /// Not empty; one line each.
    #[error("{}", .0.iter().map(Fault::to_string).collect::<Vec<_>>().join("\n"))]
    Faults(Vec<Fault>),
}

/// The configuration, and how it came about.
pub struct Loaded {
    pub config: Config,
    /// In the order of the table.
    pub settings: Vec<Setting>,
    /// One line each; worth telling, not worth stopping.
    pub warnings: Vec<String>,
    pub files: Vec<PathBuf>,
}

/// Reads every source and lays them over each other.
pub fn load(sources: &Sources) -> Result<Loaded, Error> {
    let mut layers = Layers::default();
    for path in &sources.files {
        for given in file::read(path)? {
            layers.give(Origin::File { path: path.clone(), line: given.line }, &given.key, given.value);
        }
    }
    for (name, value) in &sources.environment {
        layers.give_variable(name, value);
    }
    for text in &sources.set {
        layers.give_flag(text);
    }
    if let Some(dir) = &sources.store {
        let dir = dir.to_string_lossy().into_owned();
        layers.give(Origin::Flag("--store"), "storePathRootDir", dir);
    }
    layers.settle(sources.files.clone())
}

/// Values as they are given, the latest for each key, and what was wrong with them.
#[derive(Default)]
struct Layers {
    given: BTreeMap<&'static str, (String, Origin)>,
    faults: Vec<Fault>,
    no_effect: BTreeSet<String>,
    not_served: BTreeSet<String>,
}

impl Layers {
    fn give(&mut self, origin: Origin, key: &str, value: String) {
        if let Some(known) = keys::find(key) {
            // A value that another overrides is checked too: it is wrong wherever it stands.
            if let Err(why) = known.rule.apply(&mut Config::default(), &value) {
                self.faults.push(Fault { origin, key: key.into(), value: Some(value), why });
            } else {
                self.given.insert(known.name, (value, origin));
            }
            return;
        }
        match apache::look_up(key, &value) {
            Some(apache::Known::NoEffect) => drop(self.no_effect.insert(key.into())),
            Some(apache::Known::NotServed) => drop(self.not_served.insert(key.into())),
            Some(apache::Known::Refused(why)) => {
                let why = format!("asks too much: {why}");
                self.faults.push(Fault { origin, key: key.into(), value: Some(value), why });
            }
            None => {
                let key = keys::named(key);
                let near = suggest::nearest(key, keys::all().map(|k| k.name));
                let cure = near.map_or_else(
                    || "`ferromq config` lists every setting".to_owned(),
                    |near| format!("did you mean {near}?"),
                );
                let why = format!("is not a setting; {cure}");
                self.faults.push(Fault { origin, key: key.into(), value: None, why });
            }
        }
    }

    fn give_variable(&mut self, name: &str, value: &str) {
        let spelled = &name[environment::PREFIX.len()..];
        let folded = environment::folded(spelled);
        let known = keys::all()
            .flat_map(|k| std::iter::once(&k.name).chain(k.aliases))
            .find(|n| environment::folded(n) == folded);
        let key = known.map_or(spelled, |n| n);
        self.give(Origin::Environment(name.into()), key, value.into());
    }

    fn give_flag(&mut self, text: &str) {
        let origin = Origin::Flag("--set");
        match text.split_once('=') {
            Some((key, value)) => self.give(origin, key.trim(), value.trim().into()),
            None => {
                let why = "has no value; write --set KEY=VALUE".to_owned();
                self.faults.push(Fault { origin, key: keys::named(text.trim()).into(), value: None, why });
            }
        }
    }

    fn settle(mut self, files: Vec<PathBuf>) -> Result<Loaded, Error> {
        let mut config = Config::default();
        let mut settings = Vec::new();
        for key in keys::all() {
            let (value, origin) =
                self.given.remove(key.name).unwrap_or_else(|| (key.default.to_owned(), Origin::Default));
            match key.rule.apply(&mut config, &value) {
                Ok(()) => settings.push(Setting { key, value, origin }),
                Err(why) => self.faults.push(Fault { origin, key: key.name.into(), value: Some(value), why }),
            }
        }
        let mut crossed = cross_check(&config, &settings);
        // A target that is wrong is not one that is missing.
        if self.faults.iter().any(|fault| fault.key == "metricsGrpcExporterTarget") {
            crossed.retain(|fault| fault.key != "metricsExporterType");
        }
        self.faults.extend(crossed);
        if !self.faults.is_empty() {
            return Err(Error::Faults(self.faults));
        }
        config.settle_store_host();
        config.settle_names();
        let mut warnings = warnings(&self.not_served, &self.no_effect);
        let otlp = &config.ops.otlp;
        if otlp.metrics.target.is_some() && !otlp.metrics_enabled {
            let why =
                "metricsGrpcExporterTarget has no effect; to send metrics there, set metricsExporterType=OTLP_GRPC";
            warnings.push(why.to_owned());
        }
        Ok(Loaded { config, settings, warnings, files })
    }
}

fn warnings(not_served: &BTreeSet<String>, no_effect: &BTreeSet<String>) -> Vec<String> {
    let line = |why: &str, keys: &BTreeSet<String>| {
        let keys = keys.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        (!keys.is_empty()).then(|| format!("{why}: {keys}"))
    };
    [
        line("passed over, their part of RocketMQ is not served yet", not_served),
        line("passed over, they have no effect here", no_effect),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What no single value shows: all faults, not the first.
fn cross_check(config: &Config, settings: &[Setting]) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |key: &str, why: String| {
        if let Some(s) = settings.iter().find(|s| s.key.name == key) {
            let value = Some(s.value.clone());
            faults.push(Fault { origin: s.origin.clone(), key: key.into(), value, why });
        }
    };
    let retention = &config.store.retention;
    if retention.disk_max_used_ratio >= retention.disk_warning_ratio {
        let most = retention.disk_warning_ratio;
        fault("diskMaxUsedSpaceRatio", format!("is not below diskSpaceWarningLevelRatio ({most}); lower it"));
    }
    // A record holds the body and up to 32 KiB of properties, and lies in one segment.
    let least = config.broker.max_message_bytes as u64 + (64 << 10);
    if config.store.segment_bytes < least {
        fault(
            "mappedFileSizeCommitLog",
            format!("is too small for a message of maxMessageSize; give at least {least}, or lower maxMessageSize"),
        );
    }
    if config.store.pending_bytes_max < config.broker.max_message_bytes {
        fault("pendingBytesMax", "is less than maxMessageSize; raise it".to_owned());
    }
    if config.broker.polls_per_group_max > config.broker.polls_max {
        fault("popPollingSize", "is more than maxPopPollingSize; lower it".to_owned());
    }
    let admin = config.server.admin_listen.port();
    if admin != 0 && config.proxy.listeners.iter().any(|l| l.listen.port() == admin) {
        fault("adminServerPort", "is a port of the RocketMQ API too; choose another".to_owned());
    }
    let operations = config.ops.listen.port();
    let taken = |l: &proxy::Listener| l.listen.port() == operations;
    if config.ops.enabled && operations != 0 && (operations == admin || config.proxy.listeners.iter().any(taken)) {
        fault("metricsPromExporterPort", "is the port of another part too; choose another".to_owned());
    }
    if config.ops.otlp.metrics_enabled && config.ops.otlp.metrics.target.is_none() {
        fault("metricsExporterType", "wants metricsGrpcExporterTarget; give it, like http://collector:4317".to_owned());
    }
    if config.proxy.limits.inbound_bytes_max < config.broker.max_message_bytes + (64 << 10) {
        fault("grpcMaxInboundMessageSize", "has no room for a message of maxMessageSize; raise it".to_owned());
    }
    // One connection may hold as much as is left, and a compressed request counts as sent and as expanded.
    let least = config.proxy.limits.inbound_bytes_max.saturating_mul(4);
    if config.proxy.limits.bytes_max < least {
        fault(
            "grpcMaxBytes",
            format!("has no room for a request of grpcMaxInboundMessageSize; give at least four times that, {least}"),
        );
    }
    if config.proxy.polling.min > config.proxy.polling.max {
        let most = "grpcClientConsumerMaxLongPollingTimeoutMillis";
        fault("grpcClientConsumerMinLongPollingTimeoutMillis", format!("is more than {most}; lower it"));
    }
    if config.proxy.leases.min > config.proxy.leases.max {
        fault("minInvisibleTimeMillsForRecv", "is more than maxInvisibleTimeMills; lower it".to_owned());
    }
    check_tls(config, &mut fault);
    faults
}

fn check_tls(config: &Config, fault: &mut impl FnMut(&str, String)) {
    let off = config.proxy.tls.mode == proxy::TlsMode::Disabled;
    match &config.proxy.tls.files {
        Some(files) if files.certificate.as_os_str().is_empty() => {
            fault("tlsKeyPath", "has no tlsCertPath beside it; give both".to_owned());
        }
        Some(files) if files.key.as_os_str().is_empty() => {
            fault("tlsCertPath", "has no tlsKeyPath beside it; give both".to_owned());
        }
        None if !off && !config.server.self_signed_certificate => {
            fault(
                "tlsTestModeEnable",
                "wants tlsCertPath and tlsKeyPath; give both, or tlsServerMode=disabled".to_owned(),
            );
        }
        Some(_) | None => {}
    }
}

#[cfg(test)]
mod tests;
