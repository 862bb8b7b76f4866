//! What an operator can set about exports. `config/` fills it from Apache's keys, and from ours for traces.

use std::{fmt, path::PathBuf, time::Duration};

use http::{HeaderName, HeaderValue, Uri, uri::Scheme};

/// The port that collectors listen on for gRPC.
const PORT: u16 = 4317;
/// Headers of a request at most, and bytes of them.
const HEADERS_MAX: usize = 32;
const HEADER_BYTES_MAX: usize = 8 << 10;
/// What HTTP/2 and gRPC say themselves.
const RESERVED: [&str; 8] =
    ["connection", "content-length", "content-type", "host", "te", "trailer", "transfer-encoding", "upgrade"];

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `metricsExporterType` is OTLP_GRPC.
    pub metrics_enabled: bool,
    pub metrics: Signal,
    pub traces: Traces,
    /// `otlpTrustedCertPath`: whom to believe instead of the system's authorities.
    pub authorities: Option<PathBuf>,
}

/// Where one signal goes, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    /// `None`: nowhere.
    pub target: Option<Target>,
    pub headers: Headers,
    /// Until a message is taken.
    pub timeout: Duration,
    pub interval: Duration,
}

/// What is traced.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    pub signal: Signal,
    /// The share of calls that are traced, of those whose caller does not say; 0 to 1.
    pub ratio: f64,
    /// Spans that wait at most.
    pub queue: usize,
}

impl Default for Config {
    fn default() -> Self {
        let signal = |interval| Signal {
            target: None,
            headers: Headers::default(),
            timeout: Duration::from_secs(3),
            interval: Duration::from_secs(interval),
        };
        Self {
            metrics_enabled: false,
            metrics: signal(60),
            traces: Traces { signal: signal(5), ratio: 0.01, queue: 8192 },
            authorities: None,
        }
    }
}

impl Config {
    /// Where metrics go, if they are sent anywhere: an address without `metricsExporterType` is not enough.
    pub fn metrics_target(&self) -> Option<&Target> {
        self.metrics.target.as_ref().filter(|_| self.metrics_enabled)
    }
}

/// A collector's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub tls: bool,
    /// An IPv6 address without its brackets.
    pub host: String,
    pub port: u16,
}

impl Target {
    /// Reads `http://host:port` or `https://host:port`. RocketMQ puts `https://` before what has no scheme. The empty text is
    /// no target. The error ends the sentence "KEY=VALUE ...".
    pub fn parse(given: &str) -> Result<Option<Self>, String> {
        if given.is_empty() {
            return Ok(None);
        }
        let wrong = |why: &str| format!("is no address of a collector: {why}; write it like http://collector:4317");
        let with_scheme = if given.contains("://") { given.to_owned() } else { format!("https://{given}") };
        let uri: Uri = with_scheme.parse().map_err(|error: http::uri::InvalidUri| wrong(&error.to_string()))?;
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            _ => return Err(wrong("only http:// (plaintext) and https:// (TLS) are known")),
        };
        let authority = uri.authority().map_or("", http::uri::Authority::as_str);
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        if host.is_empty() || authority.contains('@') {
            return Err(wrong("it has no host, or a user before it"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("gRPC has no path behind the port"));
        }
        // `uri.port()` is none too when there is a colon and no number behind it.
        let named = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest).contains(':');
        let port = match (uri.port_u16(), named) {
            (Some(port), _) if port > 0 => port,
            (None, false) => PORT,
            _ => return Err(wrong("the port is not a number from 1 to 65535")),
        };
        Ok(Some(Self { tls, host, port }))
    }

    /// `host:port`.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

/// What every request to a collector carries, which may be secret.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Headers(pub Vec<(HeaderName, HeaderValue)>);

impl Headers {
    /// Reads `key:value`, joined by commas. The error does not have the values in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
        if parts.len() > HEADERS_MAX || text.len() > HEADER_BYTES_MAX {
            return Err(format!("has more than {HEADERS_MAX} headers or {HEADER_BYTES_MAX} bytes"));
        }
        let header = |(n, part): (usize, &&str)| {
            let wrong = |why: String| format!("has a header {why}: it is number {}", n + 1);
            let (name, value) = part.split_once(':').ok_or_else(|| wrong("that is no key:value".to_owned()))?;
            let name = HeaderName::from_bytes(name.trim().as_bytes());
            let name = name.map_err(|_| wrong("whose key is not one of HTTP's".to_owned()))?;
            let taken = name.as_str();
            if RESERVED.contains(&taken) || taken.starts_with("grpc-") || taken.ends_with("-bin") {
                return Err(wrong(format!("{taken:?}, which is not free to be set")));
            }
            let value = HeaderValue::from_str(value.trim());
            let mut value = value.map_err(|_| wrong(format!("{taken:?} whose value has a strange character")))?;
            value.set_sensitive(true);
            Ok((name, value))
        };
        parts.iter().enumerate().map(header).collect::<Result<_, String>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_read_as_rocketmq_reads_it() {
        for (text, read) in [
            ("http://collector:4317", "http://collector:4317"),
            ("https://collector.example.com", "https://collector.example.com:4317"),
            ("collector:55680", "https://collector:55680"),
            ("httpd:4317", "https://httpd:4317"),
            ("http://127.0.0.1:4317/", "http://127.0.0.1:4317"),
            ("http://[::1]", "http://[::1]:4317"),
            ("http://[::1]:1", "http://[::1]:1"),
        ] {
            assert_eq!(Target::parse(text).expect(text).expect("a target").to_string(), read, "{text}");
        }
        assert_eq!(Target::parse(""), Ok(None));
    }

    #[test]
    fn a_malformed_target_is_told_with_what_is_wrong_and_how_to_write_it() {
        for text in [
            "ftp://collector:4317",
            "http://",
            "http://:4317",
            "http://collector:0",
            "http://collector:",
            "http://collector:70000",
            "http://collector:4317/v1/metrics",
            "http://collector:4317?x",
            "http://user:secret@collector:4317",
            "http://collector 4317",
            "://x",
        ] {
            let refused = Target::parse(text).expect_err(text);
            assert!(refused.contains("http://collector:4317") && !refused.contains('\n'), "{text}: {refused}");
        }
    }

    #[test]
    fn headers_are_read_and_a_slip_is_told_without_their_values() {
        let read = Headers::parse(" authorization : Bearer a:b , X-Scope:shop,").expect("two headers");
        let names: Vec<_> = read.0.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("text"))).collect();
        assert_eq!(names, [("authorization", "Bearer a:b"), ("x-scope", "shop")]);
        assert!(!format!("{read:?}").contains("Bearer"));
        for text in ["secret", "a b:secret", "te:secret", "grpc-timeout:secret", "x-bin:secret", "a:sec\u{7f}ret"] {
            let refused = Headers::parse(text).expect_err(text);
            assert!(!refused.contains("secret"), "{refused}");
        }
    }
}
