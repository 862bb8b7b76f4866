//! Network addresses as operators write them and clients dial them.

use std::{fmt, net::IpAddr, str::FromStr};

use crate::proto::v2;

/// Characters of a host name at most (RFC 1035).
const HOST_LEN_MAX: usize = 253;
/// Addresses of one access point at most.
pub const ADDRESSES_MAX: usize = 16;

/// Where a client can dial: an IP address or a name, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    host: String,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("{0:?} is not host:port; write an address like 10.0.0.7:8081, [::1]:8081 or mq.example.com:8081")]
    Form(String),
    #[error("the endpoints name no scheme; IPv4, IPv6 and DOMAIN_NAME are known")]
    Scheme,
    #[error("the endpoints have {0} addresses, the most is {ADDRESSES_MAX}")]
    TooMany(usize),
    #[error("{0:?} is not a host")]
    Host(String),
    #[error("{0} is not a TCP port")]
    Port(i32),
}

impl HostPort {
    pub fn host(&self) -> &str {
        &self.host
    }
    pub fn port(&self) -> u16 {
        self.port
    }

    /// As the route tells it: one address, with the scheme that its text has.
    pub fn endpoints(&self) -> v2::Endpoints {
        let scheme = match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => v2::AddressScheme::IPv4,
            Ok(IpAddr::V6(_)) => v2::AddressScheme::IPv6,
            Err(_) => v2::AddressScheme::DomainName,
        };
        let address = v2::Address { host: self.host.clone(), port: i32::from(self.port) };
        v2::Endpoints { scheme: scheme as i32, addresses: vec![address] }
    }
}

impl From<std::net::SocketAddr> for HostPort {
    fn from(at: std::net::SocketAddr) -> Self {
        Self { host: at.ip().to_canonical().to_string(), port: at.port() }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let form = || AddressError::Form(text.chars().take(HOST_LEN_MAX).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
        let host = match host.strip_prefix('[') {
            Some(v6) => v6.strip_suffix(']').filter(|h| h.parse::<std::net::Ipv6Addr>().is_ok()),
            None => Some(host).filter(|h| !h.contains(':')),
        };
        let host = host.filter(|h| is_host(h)).ok_or_else(form)?;
        let port = port.parse().ok().filter(|p| *p != 0).ok_or_else(form)?;
        Ok(Self { host: host.into(), port })
    }
}

fn is_host(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'%');
    !text.is_empty() && text.len() <= HOST_LEN_MAX && text.bytes().all(legal)
}

/// The host of `[::1]:8081` with its brackets, as Java and Rust clients tell it.
fn is_bracketed_v6(text: &str) -> bool {
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    inner.is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok())
}

/// What the client dialled, as it is told back: unchanged, since some clients know their sessions by this text, but a
/// name alone, since several make some clients fail. `None` when it named no address.
pub fn dialled(endpoints: Option<&v2::Endpoints>) -> Result<Option<v2::Endpoints>, AddressError> {
    let Some(endpoints) = endpoints.filter(|e| !e.addresses.is_empty()) else { return Ok(None) };
    if endpoints.addresses.len() > ADDRESSES_MAX {
        return Err(AddressError::TooMany(endpoints.addresses.len()));
    }
    for address in &endpoints.addresses {
        if !is_host(&address.host) && !is_bracketed_v6(&address.host) {
            return Err(AddressError::Host(address.host.chars().take(HOST_LEN_MAX).collect()));
        }
        if !(1..=i32::from(u16::MAX)).contains(&address.port) {
            return Err(AddressError::Port(address.port));
        }
    }
    match endpoints.scheme() {
        v2::AddressScheme::Unspecified => Err(AddressError::Scheme),
        v2::AddressScheme::IPv4 | v2::AddressScheme::IPv6 => Ok(Some(endpoints.clone())),
        v2::AddressScheme::DomainName => {
            let mut one = endpoints.clone();
            one.addresses.truncate(1);
            Ok(Some(one))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(scheme: v2::AddressScheme, hosts: &[(&str, i32)]) -> v2::Endpoints {
        let addresses = hosts.iter().map(|(h, p)| v2::Address { host: (*h).into(), port: *p }).collect();
        v2::Endpoints { scheme: scheme as i32, addresses }
    }

    #[test]
    fn a_host_and_port_keeps_its_text_and_finds_its_scheme() {
        for (text, host, scheme) in [
            ("10.0.0.7:8081", "10.0.0.7", v2::AddressScheme::IPv4),
            ("[fe80::1]:8081", "fe80::1", v2::AddressScheme::IPv6),
            ("mq.example.com:8081", "mq.example.com", v2::AddressScheme::DomainName),
            ("localhost:8081", "localhost", v2::AddressScheme::DomainName),
        ] {
            let parsed: HostPort = text.parse().unwrap();
            assert_eq!(parsed.to_string(), text);
            assert_eq!(parsed.endpoints(), endpoints(scheme, &[(host, 8081)]));
        }
    }

    #[test]
    fn what_nobody_can_dial_is_not_an_address() {
        for text in ["", ":1", "host", "host:", "host:0", "host:65536", "::1:8081", "[::1:8081", "a b:1", "[x]:1"] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_dialled_address_comes_back_unchanged() {
        for given in [
            endpoints(v2::AddressScheme::IPv4, &[("127.0.0.1", 18081)]),
            endpoints(v2::AddressScheme::IPv4, &[("10.0.0.1", 1), ("10.0.0.2", 65535)]),
            endpoints(v2::AddressScheme::IPv6, &[("::1", 8081)]),
            endpoints(v2::AddressScheme::DomainName, &[("MQ.example.com", 443)]),
            endpoints(v2::AddressScheme::DomainName, &[("[::1]", 8081)]),
        ] {
            assert_eq!(dialled(Some(&given)), Ok(Some(given)));
        }
    }

    #[test]
    fn of_several_names_one_is_told() {
        let given = endpoints(v2::AddressScheme::DomainName, &[("a", 1), ("b", 2)]);
        let told = dialled(Some(&given)).unwrap().unwrap();
        assert_eq!(told, endpoints(v2::AddressScheme::DomainName, &[("a", 1)]));
    }

    #[test]
    fn malformed_access_points_are_told_apart_from_absent_ones() {
        assert_eq!(dialled(None), Ok(None));
        assert_eq!(dialled(Some(&v2::Endpoints::default())), Ok(None));
        let bad = |e| dialled(Some(&e)).unwrap_err();
        assert_eq!(bad(endpoints(v2::AddressScheme::Unspecified, &[("a", 1)])), AddressError::Scheme);
        assert_eq!(bad(endpoints(v2::AddressScheme::IPv4, &[("", 1)])), AddressError::Host(String::new()));
        for host in ["[a]", "[::1", "[]"] {
            assert_eq!(bad(endpoints(v2::AddressScheme::DomainName, &[(host, 1)])), AddressError::Host(host.into()));
        }
        assert_eq!(bad(endpoints(v2::AddressScheme::IPv4, &[("a", 0)])), AddressError::Port(0));
        assert_eq!(bad(endpoints(v2::AddressScheme::IPv4, &[("a", 65536)])), AddressError::Port(65536));
        assert_eq!(bad(endpoints(v2::AddressScheme::IPv4, &[("a", 1); 17])), AddressError::TooMany(17));
    }
}
