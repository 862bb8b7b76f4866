//! What every benchmark can be told.

use std::{fmt, str::FromStr, time::Duration};

use anyhow::{Context, bail, ensure};

use crate::proto::v2;

/// Where the load goes and how much of it is under way.
#[derive(Clone, Debug, clap::Args)]
pub struct Load {
    /// Address of the gRPC API, plaintext
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8081")]
    pub endpoint: Endpoint,
    /// Topic; a server that does not make topics by itself must have it
    #[arg(long, default_value = "ferromq-benchmark")]
    pub topic: String,
    /// Connections, each a client of its own
    #[arg(long, short = 'c', value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub connections: u32,
    /// Calls under way on each connection at most
    #[arg(long, short = 'i', value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub in_flight: u32,
    /// Threads of the load generator; as many as cores when absent
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: Option<u32>,
    /// Time at the start that is not measured
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub warmup: Duration,
    /// Report as JSON
    #[arg(long)]
    pub json: bool,
}

impl Load {
    /// Threads to run: at most one per connection.
    pub fn threads(&self) -> u32 {
        let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        self.threads.unwrap_or(cores).clamp(1, self.connections)
    }
}

/// A `host:port` to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// A name or an address, IPv6 without brackets.
    pub host: String,
    pub port: u16,
}

impl FromStr for Endpoint {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bare = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let (host, port) = bare.rsplit_once(':').context("it has no port; write HOST:PORT, e.g. 127.0.0.1:8081")?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        ensure!(!host.is_empty(), "it has no host; write HOST:PORT, e.g. 127.0.0.1:8081");
        let port = port.parse().with_context(|| format!("{port:?} is not a port; give 1 to 65535"))?;
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Endpoint {
    /// As a client states the access point that it was given.
    pub fn to_wire(&self) -> v2::Endpoints {
        let scheme = match self.host.parse() {
            Ok(std::net::IpAddr::V4(_)) => v2::AddressScheme::IPv4,
            Ok(std::net::IpAddr::V6(_)) => v2::AddressScheme::IPv6,
            Err(_) => v2::AddressScheme::DomainName,
        };
        v2::Endpoints {
            scheme: scheme.into(),
            addresses: vec![v2::Address { host: self.host.clone(), port: self.port.into() }],
        }
    }
}

/// A length of time: a number and `ms`, `s`, `m` or `h`.
pub fn duration(text: &str) -> anyhow::Result<Duration> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds_per_unit = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => bail!("{text:?} is not a time; write a number and ms, s, m or h, e.g. 10s"),
    };
    let number: f64 = number.parse().with_context(|| format!("{number:?} is not a number; write e.g. 10s"))?;
    Duration::try_from_secs_f64(number * seconds_per_unit).with_context(|| format!("{text:?} is too long"))
}

/// A number of bytes: plain, or with `K` or `M` (of 1024).
pub fn bytes(text: &str) -> anyhow::Result<usize> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let scale = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" | "KIB" => 1 << 10,
        "M" | "MB" | "MIB" => 1 << 20,
        _ => bail!("{text:?} is not a size; write bytes, or a number and K or M, e.g. 1K"),
    };
    let number: usize = number.parse().with_context(|| format!("{text:?} is not a size; write e.g. 1024 or 1K"))?;
    let bytes = number.checked_mul(scale).with_context(|| format!("{text:?} is too large"))?;
    ensure!(bytes > 0, "a body has at least 1 byte");
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_names_and_both_kinds_of_address() {
        for (text, shown, scheme) in [
            ("127.0.0.1:8081", "127.0.0.1:8081", v2::AddressScheme::IPv4),
            ("[::1]:8081", "[::1]:8081", v2::AddressScheme::IPv6),
            ("http://mq.example:80/", "mq.example:80", v2::AddressScheme::DomainName),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(endpoint.to_wire().scheme(), scheme);
        }
        for bad in ["localhost", ":8081", "a:b", "a:70000"] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn times_and_sizes_need_a_known_unit() {
        assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(duration("1.5m").unwrap(), Duration::from_secs(90));
        assert!(["10", "s", "-1s", "1d", "99999999999999999999h"].iter().all(|t| duration(t).is_err()));
        assert_eq!(bytes("1K").unwrap(), 1024);
        assert_eq!(bytes("4MiB").unwrap(), 4 << 20);
        assert!(["0", "", "1G", "-1", "99999999999999999M"].iter().all(|t| bytes(t).is_err()));
    }
}
