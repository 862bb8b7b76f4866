//! Logs: lines on standard error, never with the body, key or signature of a message.

use std::{io::IsTerminal as _, sync::OnceLock};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Registry, filter::Targets, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};

/// What lets the level of the process's log be changed, once there is a log.
static LEVEL: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Checks a `logLevel`: levels, and `module=level`, joined by commas. The error ends the sentence "logLevel=X ...".
pub fn check_level(text: &str) -> Result<(), String> {
    parse(text).map(|_| ())
}

/// Strict where the library is not: it takes a misspelled level for the name of a module.
fn parse(text: &str) -> Result<Targets, String> {
    let mut targets = Targets::new();
    for part in text.split(',').map(str::trim) {
        let (module, level) = part.split_once('=').map_or((None, part), |(m, l)| (Some(m.trim()), l.trim()));
        let unknown = || format!("has {level:?}, which is none of off, error, warn, info, debug, trace");
        let level: LevelFilter = if level.is_empty() { Err(unknown()) } else { level.parse().map_err(|_| unknown()) }?;
        targets = match module {
            Some(module) => targets.with_target(module, level),
            None => targets.with_default(level),
        };
    }
    Ok(targets)
}

/// Starts logging for the whole process; the first call counts.
pub fn start(level: &str, json: bool, no_color: bool) {
    let targets = parse(level).unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let (targets, level) = reload::Layer::new(targets);
    let registry = tracing_subscriber::registry().with(targets);
    let started = if json {
        registry.with(lines.json()).try_init()
    } else {
        let color = std::io::stderr().is_terminal() && !no_color;
        registry.with(lines.with_ansi(color)).try_init()
    };
    // Only a second start in one process fails, and then the first is at work.
    if started.is_ok() {
        // Nobody else has started.
        drop(LEVEL.set(level));
    }
}

/// Changes the level of the log while the process runs, in the spelling of `logLevel`. The error says why not.
pub fn change_level(level: &str) -> Result<(), String> {
    let targets = parse(level).map_err(|why| format!("the level {why}"))?;
    let handle = LEVEL.get().ok_or("this process writes no log, so that its level cannot be changed")?;
    handle.reload(targets).map_err(|error| format!("the level was not changed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelled_level_is_refused_rather_than_taken_for_a_module() {
        assert!(check_level("info").is_ok());
        assert!(check_level("warn, ferromq::store=debug").is_ok());
        for text in ["", "inof", "info,", "ferromq=loud"] {
            assert!(check_level(text).is_err(), "{text}");
        }
    }
}
