//! The gRPC front: listeners, TLS, limits, polls, leases.

use std::net::SocketAddr;

use crate::{
    config::Config,
    proxy::{
        Listener, TlsMode,
        config::{Tls, TlsFiles},
    },
};

use super::{Key, Rule, Unit};

/// Listeners at most; each has a socket of its own.
const LISTENERS_MAX: usize = 16;

/// The first listener, which the settings without a number are about.
fn main_listener(config: &mut Config) -> &mut Listener {
    if config.proxy.listeners.is_empty() {
        config.proxy.listeners = crate::proxy::Config::default().listeners;
    }
    &mut config.proxy.listeners[0]
}

fn tls_files(tls: &mut Tls) -> &mut TlsFiles {
    tls.files.get_or_insert_with(|| TlsFiles { certificate: "".into(), key: "".into() })
}

/// `host:port`, or `host:port=advertised:port`.
fn listener(text: &str) -> Result<Listener, String> {
    let (listen, advertised) = text.split_once('=').map_or((text, None), |(l, a)| (l.trim(), Some(a.trim())));
    let listen: SocketAddr =
        listen.parse().map_err(|_| format!("has {listen:?}, which is not an address like 10.0.0.7:9081"))?;
    let advertised = advertised.map(str::parse).transpose().map_err(|e| format!("is wrong: {e}"))?;
    Ok(Listener { listen, advertised })
}

pub static KEYS: &[Key] = &[
    Key {
        name: "grpcServerPort",
        aliases: &[],
        default: "8081",
        doc: "Port of the RocketMQ 5 API, plaintext and TLS; 0 takes a free one.",
        rule: Rule::Count { range: 0..=65535, set: |c, n| main_listener(c).listen.set_port(n as u16) },
    },
    Key {
        name: "grpcBindAddress",
        aliases: &[],
        default: "::",
        doc: "Address that the RocketMQ 5 API listens on; :: is every address, IPv4 too.",
        rule: Rule::Text {
            form: "an IP address",
            set: |c, text| {
                let ip = text.parse().map_err(|_| "is not an IP address, like 0.0.0.0 or ::")?;
                main_listener(c).listen.set_ip(ip);
                Ok(())
            },
        },
    },
    Key {
        name: "grpcAdvertisedAddress",
        aliases: &[],
        default: "",
        doc: "host:port that clients are told to dial; empty tells each client the address that it dialled.",
        rule: Rule::Text {
            form: "host:port, or empty",
            set: |c, text| {
                let advertised = (!text.is_empty()).then(|| text.parse()).transpose();
                main_listener(c).advertised = advertised.map_err(|e| format!("is wrong: {e}"))?;
                Ok(())
            },
        },
    },
    Key {
        name: "grpcExtraListeners",
        aliases: &[],
        default: "",
        doc: "More addresses to listen on, joined by semicolons; each with what its clients are told, as in \
              10.0.0.7:9081=mq.example.com:9081.",
        rule: Rule::Text {
            form: "listen:port or listen:port=advertised:port, joined by semicolons",
            set: |c, text| {
                main_listener(c);
                c.proxy.listeners.truncate(1);
                for part in text.split(';').map(str::trim).filter(|p| !p.is_empty()) {
                    c.proxy.listeners.push(listener(part)?);
                }
                if c.proxy.listeners.len() > LISTENERS_MAX {
                    return Err(format!("has too many listeners, the most is {}", LISTENERS_MAX - 1));
                }
                Ok(())
            },
        },
    },
    Key {
        name: "tlsServerMode",
        aliases: &["tls.server.mode"],
        default: "permissive",
        doc: "disabled: plaintext only. permissive: the first bytes of a connection decide. enforcing: TLS only.",
        rule: Rule::Choice {
            of: &["disabled", "permissive", "enforcing"],
            set: |c, v| {
                c.proxy.tls.mode = match v {
                    "disabled" => TlsMode::Disabled,
                    "enforcing" => TlsMode::Enforcing,
                    _ => TlsMode::Permissive,
                };
            },
        },
    },
    Key {
        name: "tlsTestModeEnable",
        aliases: &[],
        default: "true",
        doc: "Whether a self-signed certificate may be made at start when tlsCertPath is empty.",
        rule: Rule::Flag(|c, v| c.server.self_signed_certificate = v),
    },
    Key {
        name: "tlsCertPath",
        aliases: &[],
        default: "",
        doc: "Certificate chain (PEM); empty makes a self-signed one at start.",
        rule: Rule::Text {
            form: "a path, or empty",
            set: |c, text| {
                if !text.is_empty() {
                    tls_files(&mut c.proxy.tls).certificate = text.into();
                }
                Ok(())
            },
        },
    },
    Key {
        name: "tlsKeyPath",
        aliases: &[],
        default: "",
        doc: "Private key of the certificate (PEM).",
        rule: Rule::Text {
            form: "a path, or empty",
            set: |c, text| {
                if !text.is_empty() {
                    tls_files(&mut c.proxy.tls).key = text.into();
                }
                Ok(())
            },
        },
    },
    Key {
        name: "tlsCertWatchIntervalMs",
        aliases: &[],
        default: "1000",
        doc: "How often certificate and key are looked at; changed ones are used without a restart.",
        rule: Rule::Span { unit: Unit::Millis, range: 100..=86_400_000, set: |c, d| c.proxy.tls.watch_interval = d },
    },
    Key {
        name: "maxMessageSize",
        aliases: &[],
        default: "4MB",
        doc: "Bytes of a message's body at most.",
        rule: Rule::Size { range: 1..=128 << 20, set: |c, n| c.broker.max_message_bytes = n as usize },
    },
    Key {
        name: "grpcMaxInboundMessageSize",
        aliases: &[],
        default: "32MB",
        doc: "Bytes of one send request at most, which may carry several messages.",
        rule: Rule::Size { range: 64 << 10..=1 << 30, set: |c, n| c.proxy.limits.inbound_bytes_max = n as usize },
    },
    Key {
        name: "grpcMaxConnections",
        aliases: &[],
        default: "20000",
        doc: "Connections at most; further ones are closed at once.",
        rule: Rule::Count { range: 1..=1_000_000, set: |c, n| c.proxy.limits.connections_max = n as usize },
    },
    Key {
        name: "grpcMaxCallsPerConnection",
        aliases: &[],
        default: "1024",
        doc: "Calls under way on one connection at most, long polls included.",
        rule: Rule::Count { range: 1..=1_000_000, set: |c, n| c.proxy.limits.connection_calls_max = n as u32 },
    },
    Key {
        name: "grpcMaxCalls",
        aliases: &[],
        default: "131072",
        doc: "Calls under way in all at most, long polls included; further ones are told to come back.",
        rule: Rule::Count { range: 1..=10_000_000, set: |c, n| c.proxy.limits.calls_max = n as usize },
    },
    Key {
        name: "grpcMaxBytes",
        aliases: &[],
        default: "512MB",
        doc: "Bytes of requests and answers under way in all at most.",
        rule: Rule::Size { range: 1 << 20..=1 << 40, set: |c, n| c.proxy.limits.bytes_max = n as usize },
    },
    Key {
        name: "grpcClientIdleTimeMills",
        aliases: &[],
        default: "120000",
        doc: "A connection without calls for this long is closed.",
        rule: Rule::Span { unit: Unit::Millis, range: 1_000..=86_400_000, set: |c, d| c.proxy.limits.idle_timeout = d },
    },
    Key {
        name: "channelExpiredTimeout",
        aliases: &[],
        default: "120000",
        doc: "A client without heartbeat for this long is gone.",
        rule: Rule::Span { unit: Unit::Millis, range: 1_000..=86_400_000, set: |c, d| c.broker.client_timeout = d },
    },
    Key {
        name: "grpcClientConsumerMinLongPollingTimeoutMillis",
        aliases: &[],
        default: "5000",
        doc: "The shortest long poll.",
        rule: Rule::Span { unit: Unit::Millis, range: 0..=600_000, set: |c, d| c.proxy.polling.min = d },
    },
    Key {
        name: "grpcClientConsumerMaxLongPollingTimeoutMillis",
        aliases: &[],
        default: "20000",
        doc: "The longest long poll, and the one that push consumers are told.",
        rule: Rule::Span { unit: Unit::Millis, range: 1..=600_000, set: |c, d| c.proxy.polling.max = d },
    },
    Key {
        name: "longPollingReserveTimeInMillis",
        aliases: &[],
        default: "100",
        doc: "A long poll ends this long before the client's deadline.",
        rule: Rule::Span { unit: Unit::Millis, range: 0..=10_000, set: |c, d| c.proxy.polling.reserve = d },
    },
    Key {
        name: "grpcClientConsumerLongPollingBatchSize",
        aliases: &[],
        default: "32",
        doc: "Messages of one poll at most.",
        rule: Rule::Count { range: 1..=32, set: |c, n| c.proxy.polling.batch_max = n as u32 },
    },
    Key {
        name: "defaultInvisibleTimeMills",
        aliases: &[],
        default: "60000",
        doc: "Invisible time of a delivery that the server renews by itself.",
        rule: Rule::Span { unit: Unit::Millis, range: 1_000..=43_200_000, set: |c, d| c.proxy.leases.renewed = d },
    },
    Key {
        name: "minInvisibleTimeMillsForRecv",
        aliases: &[],
        default: "10000",
        doc: "The shortest invisible time that a consumer may ask for.",
        rule: Rule::Span { unit: Unit::Millis, range: 1..=43_200_000, set: |c, d| c.proxy.leases.min = d },
    },
    Key {
        name: "maxInvisibleTimeMills",
        aliases: &[],
        default: "43200000",
        doc: "The longest invisible time that a consumer may ask for.",
        rule: Rule::Span { unit: Unit::Millis, range: 1..=604_800_000, set: |c, d| c.proxy.leases.max = d },
    },
    Key {
        name: "enableMessageBodyEmptyCheck",
        aliases: &[],
        default: "true",
        doc: "Whether messages without a body are refused.",
        rule: Rule::Flag(|c, v| c.proxy.messages.refuse_empty_body = v),
    },
    Key {
        name: "rejectTransactionMessage",
        aliases: &[],
        default: "false",
        doc: "Whether transactional messages are refused.",
        rule: Rule::Flag(|c, v| c.proxy.messages.refuse_transactions = v),
    },
    Key {
        name: "enablePropertyFilter",
        aliases: &[],
        default: "true",
        doc: "Whether consumers may filter by SQL92 expressions, where those are served; RocketMQ's own default is false.",
        rule: Rule::Flag(|c, v| c.proxy.polling.filter_by_properties = v),
    },
    Key {
        name: "userPropertyMaxNum",
        aliases: &[],
        default: "128",
        doc: "User properties of a message at most.",
        rule: Rule::Count { range: 0..=10_000, set: |c, n| c.proxy.messages.user_properties_max = n as usize },
    },
    Key {
        name: "maxUserPropertySize",
        aliases: &[],
        default: "16KB",
        doc: "Bytes of a message's user properties, tag and keys together at most.",
        // All properties of a record have 32767 bytes at most, the system's own among them.
        rule: Rule::Size { range: 0..=28 << 10, set: |c, n| c.proxy.messages.user_properties_bytes_max = n as usize },
    },
    Key {
        name: "maxMessageGroupSize",
        aliases: &[],
        default: "64",
        doc: "A message group has fewer bytes than this.",
        rule: Rule::Count { range: 2..=1024, set: |c, n| c.proxy.messages.group_bytes_below = n as usize },
    },
    Key {
        name: "maxDelayTimeMills",
        aliases: &[],
        default: "34560000000",
        doc: "How far ahead the delivery time of a message may lie on this front; timerMaxDelaySec holds on all.",
        rule: Rule::Span { unit: Unit::Millis, range: 1..=34_560_000_000, set: |c, d| c.proxy.messages.delay_max = d },
    },
    Key {
        name: "grpcClientProducerMaxAttempts",
        aliases: &[],
        default: "3",
        doc: "How often producers are told to try a send.",
        rule: Rule::Count { range: 1..=100, set: |c, n| c.proxy.producer.max_attempts = n as u32 },
    },
    Key {
        name: "grpcClientProducerBackoffInitialMillis",
        aliases: &[],
        default: "10",
        doc: "What producers are told to wait before they repeat a send for the first time.",
        rule: Rule::Span { unit: Unit::Millis, range: 1..=60_000, set: |c, d| c.proxy.producer.initial = d },
    },
    Key {
        name: "grpcClientProducerBackoffMaxMillis",
        aliases: &[],
        default: "1000",
        doc: "The longest such wait.",
        rule: Rule::Span { unit: Unit::Millis, range: 1..=600_000, set: |c, d| c.proxy.producer.max = d },
    },
    Key {
        name: "grpcClientProducerBackoffMultiplier",
        aliases: &[],
        default: "2",
        doc: "How such waits grow.",
        rule: Rule::Count { range: 1..=100, set: |c, n| c.proxy.producer.multiplier = n as f32 },
    },
    Key {
        name: "enableProxyAutoRenew",
        aliases: &[],
        default: "true",
        doc: "Whether the server keeps deliveries to push consumers invisible while they are worked on.",
        rule: Rule::Flag(|c, v| c.proxy.renew.enabled = v),
    },
    Key {
        name: "renewSchedulePeriodMillis",
        aliases: &[],
        default: "5000",
        doc: "How often such deliveries are looked at.",
        rule: Rule::Span { unit: Unit::Millis, range: 100..=600_000, set: |c, d| c.proxy.renew.scan_interval = d },
    },
    Key {
        name: "renewAheadTimeMillis",
        aliases: &[],
        default: "10000",
        doc: "A delivery is renewed when less than this is left of its invisible time.",
        rule: Rule::Span { unit: Unit::Millis, range: 100..=600_000, set: |c, d| c.proxy.renew.ahead = d },
    },
    Key {
        name: "maxRenewRetryTimes",
        aliases: &[],
        default: "3",
        doc: "Failures in a row after which a delivery is left to come again.",
        rule: Rule::Count { range: 0..=1000, set: |c, n| c.proxy.renew.failures_max = n as u32 },
    },
    Key {
        name: "renewMaxTimeMillis",
        aliases: &[],
        default: "10800000",
        doc: "How long one delivery is renewed in all.",
        rule: Rule::Span { unit: Unit::Millis, range: 1_000..=604_800_000, set: |c, d| c.proxy.renew.total_max = d },
    },
    Key {
        name: "invisibleTimeMillisWhenClear",
        aliases: &[],
        default: "1000",
        doc: "What is left of a delivery's invisible time when its client goes away.",
        rule: Rule::Span { unit: Unit::Millis, range: 0..=600_000, set: |c, d| c.proxy.renew.when_gone = d },
    },
];
