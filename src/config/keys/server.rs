//! The process: administration port, threads, shutdown, log.

use std::net::IpAddr;

use super::{Key, Rule, Unit};
use crate::observe::telemetry::Format;

pub static KEYS: &[Key] = &[
    Key {
        name: "adminServerPort",
        aliases: &[],
        default: "8083",
        doc: "Port of the administration API that `ferromq topic` and `ferromq group` call; 0 takes a free one.",
        rule: Rule::Count { range: 0..=65535, set: |c, n| c.server.admin_listen.set_port(n as u16) },
    },
    Key {
        name: "adminBindAddress",
        aliases: &[],
        default: "127.0.0.1",
        doc: "Address that the administration API listens on. It asks nobody for a password: keep it on loopback or \
              behind a firewall.",
        rule: Rule::Text {
            form: "an IP address",
            set: |c, text| {
                let ip: IpAddr = text.parse().map_err(|_| "is not an IP address, like 127.0.0.1 or ::1".to_owned())?;
                c.server.admin_listen.set_ip(ip);
                Ok(())
            },
        },
    },
    Key {
        name: "grpcWorkerLoopNum",
        aliases: &[],
        default: "0",
        doc: "Threads that serve connections; 0 takes one for each core.",
        rule: Rule::Count { range: 0..=1024, set: |c, n| c.server.workers = n as usize },
    },
    Key {
        name: "grpcShutdownTimeSeconds",
        aliases: &[],
        default: "30",
        doc: "How long a shutdown, or the closing of one connection, waits for calls that are being answered.",
        rule: Rule::Span { unit: Unit::Seconds, range: 0..=3600, set: |c, d| c.proxy.limits.closing_timeout = d },
    },
    Key {
        name: "logLevel",
        aliases: &[],
        default: "info",
        doc: "What is logged: error, warn, info, debug or trace, also for each module \
              (`info,ferromq::store=debug`).",
        rule: Rule::Text {
            form: "a level, or levels by module",
            set: |c, text| {
                crate::observe::telemetry::check_level(text)?;
                text.clone_into(&mut c.server.log_level);
                Ok(())
            },
        },
    },
    Key {
        name: "logFormat",
        aliases: &[],
        default: "auto",
        doc: "Shape of log lines on standard error: text for people, json for machines; auto is text on a terminal and \
              json elsewhere.",
        rule: Rule::Choice {
            of: &["auto", "text", "json"],
            set: |c, v| {
                c.server.log_format = match v {
                    "text" => Format::Text,
                    "json" => Format::Json,
                    _ => Format::Auto,
                };
            },
        },
    },
];
