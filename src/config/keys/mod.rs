//! Every setting, once: its key, default, unit, range, meaning and place. Parsing, `ferromq config`, the samples and
//! the tests are all driven by this table.

mod broker;
mod ops;
mod proxy;
mod server;
mod store;

use std::{borrow::Cow, fmt, ops::RangeInclusive, time::Duration};

use super::{
    Config, environment,
    value::{self, Unit},
};

/// One setting.
pub struct Key {
    /// In Apache's spelling where Apache has it.
    pub name: &'static str,
    /// Other spellings that are read.
    pub aliases: &'static [&'static str],
    /// As a file would have it.
    pub default: &'static str,
    /// What it decides, for people.
    pub doc: &'static str,
    pub rule: Rule,
}

/// What a value must look like, and where it goes. The setters are called in the order of the table.
pub enum Rule {
    Flag(fn(&mut Config, bool)),
    Count {
        range: RangeInclusive<u64>,
        set: fn(&mut Config, u64),
    },
    /// Bytes.
    Size {
        range: RangeInclusive<u64>,
        set: fn(&mut Config, u64),
    },
    Span {
        unit: Unit,
        /// In the unit.
        range: RangeInclusive<u64>,
        set: fn(&mut Config, Duration),
    },
    Choice {
        of: &'static [&'static str],
        set: fn(&mut Config, &'static str),
    },
    Text {
        /// What it must look like, for people.
        form: &'static str,
        /// The error says what is wrong with the value.
        set: fn(&mut Config, &str) -> Result<(), String>,
    },
}

impl Rule {
    /// Checks a value and puts it in its place.
    pub fn apply(&self, config: &mut Config, text: &str) -> Result<(), String> {
        let unfit = || format!("is not {self}");
        match self {
            Self::Flag(set) => set(config, value::flag(text).ok_or_else(unfit)?),
            Self::Count { range, set } => {
                set(config, value::count(text).filter(|n| range.contains(n)).ok_or_else(unfit)?);
            }
            Self::Size { range, set } => {
                set(config, value::size(text).filter(|n| range.contains(n)).ok_or_else(unfit)?);
            }
            Self::Span { unit, range, set } => {
                let bounds = unit.times(*range.start())..=unit.times(*range.end());
                set(config, value::span(text, *unit).filter(|d| bounds.contains(d)).ok_or_else(unfit)?);
            }
            Self::Choice { of, set } => set(config, value::choice(text, of).ok_or_else(unfit)?),
            Self::Text { set, .. } => set(config, text.trim())?,
        }
        Ok(())
    }
}

/// What a value must be, as the end of "is not ...".
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(_) => f.write_str("true or false"),
            Self::Count { range, .. } => write!(f, "a number from {} to {}", range.start(), range.end()),
            Self::Size { range, .. } => {
                let (least, most) = (value::size_text(*range.start()), value::size_text(*range.end()));
                write!(f, "a number of bytes from {least} to {most}, like 128MB")
            }
            Self::Span { unit, range, .. } => {
                let unit = unit.suffix();
                write!(f, "a time from {}{unit} to {}{unit} (a bare number counts {unit})", range.start(), range.end())
            }
            Self::Choice { of, .. } => write!(f, "one of {}", of.join(", ")),
            Self::Text { form, .. } => f.write_str(form),
        }
    }
}

/// A part of the table, with the heading that samples give it.
pub struct Section {
    pub title: &'static str,
    pub keys: &'static [Key],
}

/// The whole table.
pub static SECTIONS: [Section; 5] = [
    Section { title: "Server", keys: server::KEYS },
    Section { title: "Storage", keys: store::KEYS },
    Section { title: "Messaging", keys: broker::KEYS },
    Section { title: "gRPC front", keys: proxy::KEYS },
    Section { title: "Metrics and probes", keys: ops::KEYS },
];

/// Every key in order.
pub fn all() -> impl Iterator<Item = &'static Key> {
    SECTIONS.iter().flat_map(|s| s.keys)
}

const HIDDEN: &str = "(hidden)";

/// What people are shown of a value: nothing of those that may be passwords, and of an address no user and no path.
pub fn shown<'a>(key: &str, value: &'a str) -> Cow<'a, str> {
    const SECRET: [&str; 3] = ["header", "password", "secret"];
    let folded = environment::folded(key);
    if !value.is_empty() && SECRET.iter().any(|word| folded.contains(word)) {
        return HIDDEN.into();
    }
    if !folded.ends_with("target") {
        return value.into();
    }
    let at = value.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = value.split_at(at);
    let (user, rest) = rest.rsplit_once('@').map_or((false, rest), |(_, host)| (true, host));
    // What lies behind the address may be a key too.
    let (address, behind) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let user = if user { format!("{HIDDEN}@") } else { String::new() };
    let behind = if behind.len() > 1 { format!("/{HIDDEN}") } else { behind.to_owned() };
    format!("{scheme}{user}{address}{behind}").into()
}

/// What people are shown of a text that should be a key: where somebody wrote `key:value` or `key value`, the key.
pub fn named(text: &str) -> &str {
    text.split([':', ' ', '\t']).next().unwrap_or_default()
}

/// The key of this exact name, or alias.
pub fn find(name: &str) -> Option<&'static Key> {
    all().find(|k| k.name == name || k.aliases.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_password_is_not_shown_however_its_key_is_spelled() {
        for key in ["metricsGrpcExporterHeader", "TRACES_GRPC_EXPORTER_HEADER", "tls.keyPassword", "mySecretKey"] {
            assert_eq!((&*shown(key, "sesame"), &*shown(key, "")), ("(hidden)", ""), "{key}");
        }
        assert_eq!(shown("brokerName", "a@b"), "a@b");
        let target = |value| shown("tracesGrpcExporterTarget", value).into_owned();
        assert_eq!(target("http://user:se@same@collector:1"), "http://(hidden)@collector:1");
        assert_eq!(target("user:sesame@collector"), "(hidden)@collector");
        assert_eq!(target("http://user:se/same@collector:1/x"), "http://(hidden)@collector:1/(hidden)");
        assert_eq!(target("https://collector:1?api-key=sesame"), "https://collector:1/(hidden)");
        assert_eq!(target("http://collector:1"), "http://collector:1");
        assert_eq!(target("http://collector:1/"), "http://collector:1/");
    }
}
