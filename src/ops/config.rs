//! What an operator can set about the port of operations. `config/` fills it from Apache's keys.

use std::net::{Ipv4Addr, SocketAddr};

use crate::observe::{metrics::Names, otlp};

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `metricsExporterType`: whether the port is open at all.
    pub enabled: bool,
    /// `metricsPromExporterHost` and `metricsPromExporterPort`.
    pub listen: SocketAddr,
    /// `metricsLabel` and `metricsUnitSuffixEnable`.
    pub names: Names,
    /// What goes to a collector.
    pub otlp: otlp::Config,
}

impl Default for Config {
    fn default() -> Self {
        let names = Names { with_units: true, common: Vec::new() };
        Self { enabled: true, listen: (Ipv4Addr::LOCALHOST, 5557).into(), names, otlp: otlp::Config::default() }
    }
}
