//! What a new user reads first: what runs where, what is promised, what to do next.

use std::{
    fmt::Write as _,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::{
    config::{Config, Loaded, environment::program},
    proxy::{Listener, TlsMode},
    store::FlushPolicy,
};

use super::Ready;

/// Prints it to standard output, where scripts look for its last line.
pub fn print(ready: &Ready<'_>) {
    let text = text(ready.loaded, &ready.report.to_string(), ready.workers);
    let mut out = std::io::stdout().lock();
    // A server whose output nobody reads is a server all the same.
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

fn text(loaded: &Loaded, report: &str, workers: usize) -> String {
    let config = &loaded.config;
    let mut out = format!("FerroMQ {}, {workers} worker threads\n", env!("CARGO_PKG_VERSION"));
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "  {name:<9} {text}");
    };
    for listener in &config.proxy.listeners {
        line("clients", clients(listener, config));
    }
    line("admin", format!("{} (ferromq topic, ferromq group)", config.server.admin_listen));
    if config.ops.enabled {
        line("ops", format!("{} (/metrics, /readyz, /livez, KEDA)", config.ops.listen));
    }
    let otlp = &config.ops.otlp;
    for (what, target) in [("metrics", otlp.metrics_target()), ("traces", otlp.traces.signal.target.as_ref())] {
        if let Some(target) = target {
            line("otlp", format!("{what} to {target}"));
        }
    }
    line("store", absolute(&config.store.root).display().to_string());
    for found in report.lines() {
        line("recovery", found.trim().to_owned());
    }
    line("flush", flush(config.store.flush));
    line("settings", settings(loaded));
    line("next", next(config));
    // RocketMQ's own words: scripts wait for them.
    out.push_str("rocketmq-proxy startup successfully\n");
    out
}

/// A path as the user can find it again.
pub fn absolute(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // Without the dots of "./store".
    absolute.components().collect()
}

fn clients(listener: &Listener, config: &Config) -> String {
    let tls = match (config.proxy.tls.mode, &config.proxy.tls.files) {
        (TlsMode::Disabled, _) => "plaintext".to_owned(),
        (TlsMode::Permissive, None) => "plaintext and TLS (self-signed certificate)".to_owned(),
        (TlsMode::Enforcing, None) => "TLS only (self-signed certificate)".to_owned(),
        (TlsMode::Permissive, Some(files)) => format!("plaintext and TLS ({})", files.certificate.display()),
        (TlsMode::Enforcing, Some(files)) => format!("TLS only ({})", files.certificate.display()),
    };
    let told = match &listener.advertised {
        Some(address) => format!("clients are told {address}"),
        None => "each client is told the address that it dialled".to_owned(),
    };
    format!("{}, {tls}; {told}", listener.listen)
}

fn flush(policy: FlushPolicy) -> String {
    match policy {
        FlushPolicy::Sync => "SYNC_FLUSH: acknowledged is on the device; a power cut loses nothing acknowledged".into(),
        FlushPolicy::Async { interval } => format!(
            "ASYNC_FLUSH: a power cut loses up to {} ms of acknowledged messages, a crash of the process none",
            interval.as_millis()
        ),
    }
}

fn settings(loaded: &Loaded) -> String {
    let files: Vec<String> = loaded.files.iter().map(|f| f.display().to_string()).collect();
    let from = if files.is_empty() { "built-in defaults, no file read".to_owned() } else { files.join(", ") };
    let count = |kind: &str| loaded.settings.iter().filter(|s| s.origin.kind() == kind).count();
    let mut text = from;
    for (kind, name) in [("environment", "from the environment"), ("flag", "from flags")] {
        if count(kind) > 0 {
            let _ = write!(text, "; {} {name}", count(kind));
        }
    }
    text + " (ferromq config, given the same flags, shows all)"
}

fn next(config: &Config) -> String {
    let port = config.proxy.listeners.first().map_or(0, |l| l.listen.port());
    let endpoint =
        if port == 8081 { String::new() } else { format!(" --endpoint {}", SocketAddr::from(([127, 0, 0, 1], port))) };
    let tls = match (config.proxy.tls.mode, &config.proxy.tls.files) {
        (TlsMode::Disabled | TlsMode::Permissive, _) => "",
        (TlsMode::Enforcing, None) => " --insecure",
        (TlsMode::Enforcing, Some(_)) => " --tls",
    };
    let (ferromq, to) = (program(), endpoint + tls);
    let admin = match config.server.admin_listen {
        admin if admin.port() == 8083 => String::new(),
        admin => format!(" --admin {}", SocketAddr::from(([127, 0, 0, 1], admin.port()))),
    };
    // Where they do not make themselves.
    let made = |is_auto: bool, what: &str| if is_auto { String::new() } else { format!("{ferromq} {what}{admin} && ") };
    let topic = made(config.broker.auto_create_topic, "topic create TopicTest");
    let group = made(config.broker.auto_create_group, "group create test");
    format!("{topic}{group}{ferromq} produce TopicTest hello{to} && {ferromq} consume TopicTest --group test{to}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Sources};

    fn boot(set: &[&str]) -> String {
        let set = set.iter().map(|&s| s.to_owned()).collect();
        let loaded = config::load(&Sources { set, ..Sources::default() }).expect("valid settings");
        text(&loaded, "2 segments\nnothing cut", 2)
    }

    #[test]
    fn the_boot_text_says_what_a_new_user_needs() {
        let text = boot(&[]);
        for part in [
            env!("CARGO_PKG_VERSION"),
            "[::]:8081, plaintext and TLS",
            "the address that it dialled",
            "127.0.0.1:8083",
            "recovery  2 segments",
            "recovery  nothing cut",
            "SYNC_FLUSH: ",
            "no file read",
            " produce TopicTest",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(text.ends_with("\nrocketmq-proxy startup successfully\n"));
        assert!(!text.contains("/./"));
    }

    #[test]
    fn where_nothing_makes_itself_the_first_commands_make_it() {
        let text = boot(&["autoCreateTopicEnable=false", "autoCreateSubscriptionGroup=false", "adminServerPort=9"]);
        let made = ["topic create TopicTest --admin 127.0.0.1:9 && ", "group create test --admin 127.0.0.1:9 && "];
        assert!(made.iter().all(|command| text.contains(command)), "{text}");
    }

    #[test]
    fn where_tls_is_a_must_the_first_commands_speak_it() {
        let text = boot(&["tlsServerMode=enforcing"]);
        assert!(text.contains("produce TopicTest hello --insecure && "), "{text}");
        assert!(text.contains("--group test --insecure\n"), "{text}");
    }

    #[test]
    fn the_boot_text_states_the_loss_window_and_what_clients_are_told() {
        let text = boot(&[
            "flushDiskType=ASYNC_FLUSH",
            "flushIntervalCommitLog=250",
            "grpcServerPort=9999",
            "grpcAdvertisedAddress=mq.example.com:443",
        ]);
        for part in [
            "a power cut loses up to 250 ms",
            "clients are told mq.example.com:443",
            "; 4 from flags",
            "hello --endpoint 127.0.0.1:9999",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }
}
