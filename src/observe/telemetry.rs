//! Logs: lines on standard error, never with the body, key or signature of a message.

use std::{io::IsTerminal as _, sync::OnceLock};

use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{Registry, filter::Targets, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};

/// Libraries that print what they carry when they are asked for everything: frames, headers, keys of TLS. A level for all
/// modules leaves them at `debug`; named, they get what they are named with.
const TALKATIVE: [&str; 6] = ["h2", "hyper", "hyper_util", "rustls", "tonic", "tower"];

/// Shape of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    Text,
    Json,
}

/// What is logged, and how to change that.
struct Levels {
    text: Mutex<String>,
    filter: reload::Handle<Targets, Registry>,
}

static LEVELS: OnceLock<Levels> = OnceLock::new();

/// Checks a `logLevel`: levels, and `module=level`, joined by commas. The error ends the sentence "logLevel=X ...".
pub fn check_level(text: &str) -> Result<(), String> {
    parse(text).map(|_| ())
}

/// Strict where the library is not: it takes a misspelled level for the name of a module.
fn parse(text: &str) -> Result<Targets, String> {
    let mut targets = Targets::new();
    // Those for all first, so that those for one module stand whatever the order.
    let (all, named): (Vec<_>, Vec<_>) = text.split(',').map(str::trim).partition(|part| !part.contains('='));
    for part in all.into_iter().chain(named) {
        let (module, level) = part.split_once('=').map_or((None, part), |(m, l)| (Some(m.trim()), l.trim()));
        let unknown = || format!("has {level:?}, which is none of off, error, warn, info, debug, trace");
        let level: LevelFilter = if level.is_empty() { Err(unknown()) } else { level.parse().map_err(|_| unknown()) }?;
        targets = match module {
            Some(module) => targets.with_target(module, level),
            None => {
                let quiet = level.min(LevelFilter::DEBUG);
                targets.with_targets(TALKATIVE.map(|module| (module, quiet))).with_default(level)
            }
        };
    }
    Ok(targets)
}

/// Starts logging for the whole process; the first call counts.
pub fn start(level: &str, format: Format, no_color: bool) {
    let targets = parse(level).unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    let (filter, handle) = reload::Layer::new(targets);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        Format::Auto => !terminal,
        Format::Text => false,
        Format::Json => true,
    };
    let started = if json {
        registry.with(lines.json()).try_init()
    } else {
        registry.with(lines.with_ansi(terminal && !no_color)).try_init()
    };
    // Only a second start in one process fails, and then the first is at work.
    if started.is_ok() {
        let _ = LEVELS.set(Levels { text: Mutex::new(level.to_owned()), filter: handle });
    }
}

/// Changes what is logged, from now on; see [`check_level`].
///
/// # Errors
/// The text is no level, or nothing is logged by this process.
pub fn set_level(text: &str) -> Result<(), String> {
    let targets = parse(text)?;
    let levels = LEVELS.get().ok_or_else(|| "cannot be set: this process does not log".to_owned())?;
    let mut said = levels.text.lock();
    levels.filter.reload(targets).map_err(|error| format!("cannot be set: {error}"))?;
    text.clone_into(&mut said);
    Ok(())
}

/// What is logged now, in the words of [`set_level`].
pub fn level() -> String {
    LEVELS.get().map(|levels| levels.text.lock().clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_misspelled_level_is_refused_rather_than_taken_for_a_module() {
        assert!(check_level("info").is_ok());
        assert!(check_level("warn, ferromq::store=debug").is_ok());
        for text in ["", "inof", "info,", "ferromq=loud"] {
            assert!(check_level(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_level_for_all_does_not_make_libraries_print_what_they_carry() {
        let all = parse("trace").expect("a level");
        assert!(all.would_enable("ferromq::store", &Level::TRACE));
        assert!(!all.would_enable("h2::codec", &Level::TRACE));
        assert!(parse("info,h2=trace").expect("levels").would_enable("h2::codec", &Level::TRACE));
        assert!(parse("h2=trace,info").expect("levels").would_enable("h2::codec", &Level::TRACE));
    }
}
