//! The document that `ferromq apply` reads: the topics and groups that shall be there, and what may be pruned.
//!
//! ```yaml
//! topics:
//!   - name: orders
//!     type: fifo
//!     queues: 16
//! groups:
//!   - name: billing
//!     maxAttempts: 16
//!     retryAfter: [1s, 10s, 1m]
//! owns:
//!   topics: ["orders-*"]
//! ```

use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

use config::{Config, File, FileFormat};
use serde::Deserialize;

use crate::{
    config::value::{self, Unit},
    types::{GroupName, MessageType, TopicName},
};

/// Bytes of a document at most.
pub const BYTES_MAX: u64 = 1 << 20;
/// Queues of a topic, as the server takes them.
const QUEUES: RangeInclusive<u32> = 1..=1024;
/// Deliveries of a message, the first included, as the server takes them.
const ATTEMPTS: RangeInclusive<u32> = 1..=1000;
/// Delays of a retry policy, as the server takes them.
const DELAYS: RangeInclusive<usize> = 1..=64;

/// Why a document was not understood. Every sentence names the entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Syntax(String),
    #[error("{what} {name:?}: {why}")]
    Entry { what: &'static str, name: String, why: String },
}

/// What shall be there. What an entry does not name is left as it is, or as the server makes it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Document {
    pub topics: Vec<Topic>,
    pub groups: Vec<Group>,
    /// Names, or beginnings of names that end in `*`, of topics that may be pruned.
    pub owned_topics: Vec<String>,
    /// The same of groups.
    pub owned_groups: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Topic {
    pub name: TopicName,
    pub kind: Option<MessageType>,
    pub queues: Option<u32>,
    pub readable: Option<bool>,
    pub writable: Option<bool>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Group {
    pub name: GroupName,
    pub fifo: Option<bool>,
    pub broadcast: Option<bool>,
    pub max_attempts: Option<u32>,
    pub retry_after: Option<Vec<Duration>>,
    pub consume_enabled: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a document with topics, groups and owns")]
struct Written {
    topics: Option<Vec<WrittenTopic>>,
    groups: Option<Vec<WrittenGroup>>,
    owns: Option<WrittenOwned>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a topic, like {name: orders, queues: 16}")]
struct WrittenTopic {
    name: String,
    r#type: Option<String>,
    queues: Option<u32>,
    readable: Option<bool>,
    writable: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", expecting = "a group, like {name: billing, maxAttempts: 16}")]
struct WrittenGroup {
    name: String,
    fifo: Option<bool>,
    broadcast: Option<bool>,
    max_attempts: Option<u32>,
    retry_after: Option<Vec<String>>,
    consume_enabled: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "what may be pruned, like {topics: [\"orders-*\"]}")]
struct WrittenOwned {
    topics: Option<Vec<String>>,
    groups: Option<Vec<String>>,
}

impl Document {
    /// Understands a text, or says what is wrong with which entry.
    pub fn parse(text: &str) -> Result<Self, Error> {
        // The parser's messages have several lines.
        let flat =
            |e: config::ConfigError| Error::Syntax(e.to_string().split_whitespace().collect::<Vec<_>>().join(" "));
        let tree = Config::builder().add_source(File::from_str(text, FileFormat::Yaml)).build().map_err(flat)?;
        let written: Written = tree.try_deserialize().map_err(flat)?;
        let owns = written.owns.unwrap_or_default();
        let document = Self {
            topics: written.topics.unwrap_or_default().into_iter().map(topic).collect::<Result<_, _>>()?,
            groups: written.groups.unwrap_or_default().into_iter().map(group).collect::<Result<_, _>>()?,
            owned_topics: owns.topics.unwrap_or_default(),
            owned_groups: owns.groups.unwrap_or_default(),
        };
        once("topic", document.topics.iter().map(|t| t.name.as_str()))?;
        once("group", document.groups.iter().map(|g| g.name.as_str()))?;
        document.owned_topics.iter().chain(&document.owned_groups).try_for_each(|name| pattern(name))?;
        Ok(document)
    }

    /// Whether nothing was told to be owned, so that there is nothing to prune.
    pub fn owns_nothing(&self) -> bool {
        self.owned_topics.is_empty() && self.owned_groups.is_empty()
    }
}

/// Whether one of the names, or beginnings of names, means this one. Names that the server derives from groups
/// (`%DLQ%billing`) are only meant by who writes the percent sign.
pub fn owned(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start) && (!name.starts_with('%') || start.starts_with('%')),
        None => name == pattern,
    })
}

fn topic(written: WrittenTopic) -> Result<Topic, Error> {
    let entry = |why| Error::Entry { what: "topic", name: written.name.clone(), why };
    let kinds = || MessageType::ALL.map(|t| t.as_str().to_lowercase()).join(", ");
    let kind =
        |text: &str| MessageType::parse(text).ok_or_else(|| entry(format!("type {text:?} is none of {}", kinds())));
    Ok(Topic {
        name: TopicName::parse(&written.name).map_err(|e| entry(e.to_string()))?,
        kind: written.r#type.as_deref().map(kind).transpose()?,
        queues: within("queues", written.queues, &QUEUES).map_err(entry)?,
        readable: written.readable,
        writable: written.writable,
    })
}

fn group(written: WrittenGroup) -> Result<Group, Error> {
    let entry = |why| Error::Entry { what: "group", name: written.name.clone(), why };
    let delay = |text: &String| {
        value::span(text, Unit::Seconds)
            .ok_or_else(|| entry(format!("retryAfter {text:?} is not a time, like 500ms, 10s or 2m")))
    };
    let delays = written.retry_after.as_ref().map(|all| all.iter().map(delay).collect::<Result<Vec<_>, _>>());
    let retry_after = delays.transpose()?;
    if let Some(wrong) = retry_after.as_ref().map(Vec::len).filter(|len| !DELAYS.contains(len)) {
        return Err(entry(format!("retryAfter has {wrong} delays, give {} to {}", DELAYS.start(), DELAYS.end())));
    }
    Ok(Group {
        name: GroupName::parse(&written.name).map_err(|e| entry(e.to_string()))?,
        fifo: written.fifo,
        broadcast: written.broadcast,
        max_attempts: within("maxAttempts", written.max_attempts, &ATTEMPTS).map_err(entry)?,
        retry_after,
        consume_enabled: written.consume_enabled,
    })
}

fn within(key: &str, value: Option<u32>, range: &RangeInclusive<u32>) -> Result<Option<u32>, String> {
    match value {
        Some(n) if !range.contains(&n) => Err(format!("{key} {n} is not from {} to {}", range.start(), range.end())),
        other => Ok(other),
    }
}

fn once<'a>(what: &'static str, names: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            let why = "it is there twice; join the two entries".to_owned();
            return Err(Error::Entry { what, name: name.to_owned(), why });
        }
    }
    Ok(())
}

/// A star anywhere but at the end would mean less than its writer thinks.
fn pattern(text: &str) -> Result<(), Error> {
    let start = text.strip_suffix('*').unwrap_or(text);
    if text.is_empty() || start.contains('*') {
        let why = "write a name, or the beginning of names and one * behind it".to_owned();
        return Err(Error::Entry { what: "owns", name: text.to_owned(), why });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WHOLE: &str = "\
topics:
  - name: orders
    type: FiFo
    queues: 16
    writable: false
  - name: clicks
groups:
  - name: billing
    fifo: true
    maxAttempts: 16
    retryAfter: [1s, 500ms, 2]
    consumeEnabled: true
owns:
  topics: ['orders-*', old]
";

    #[test]
    fn a_document_says_what_shall_be_there() {
        let document = Document::parse(WHOLE).expect("understood");
        let orders = &document.topics[0];
        assert_eq!((orders.name.as_str(), orders.kind, orders.queues), ("orders", Some(MessageType::Fifo), Some(16)));
        assert_eq!((orders.readable, orders.writable), (None, Some(false)));
        assert_eq!((document.topics[1].kind, document.topics[1].queues), (None, None));
        let billing = &document.groups[0];
        let delays = [1000, 500, 2000].map(Duration::from_millis).to_vec();
        assert_eq!((billing.max_attempts, billing.retry_after.clone()), (Some(16), Some(delays)));
        assert_eq!(document.owned_topics, ["orders-*", "old"]);
        assert!(document.owned_groups.is_empty() && !document.owns_nothing());
    }

    #[test]
    fn an_empty_document_asks_for_nothing() {
        for text in ["", "# nothing yet\n", "topics:\ngroups: []\n", "topics: []\nowns:\n"] {
            assert_eq!(Document::parse(text), Ok(Document::default()), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_entry() {
        for (text, told) in [
            ("topics: [{name: a, queue: 3}]", "queue"),
            ("topic: []", "topic"),
            ("topics: [{queues: 3}]", "name"),
            ("topics: [{name: a, queues: 0}]", "topic \"a\": queues 0 is not from 1 to 1024"),
            ("topics: [{name: a, queues: -1}]", "queues"),
            ("topics: [{name: a, queues: many}]", "queues"),
            ("topics: [{name: a, type: strange}]", "strange"),
            ("topics: [{name: a/b}]", "'/'"),
            ("topics: [{name: TBW102}]", "reserved"),
            ("topics: [{name: a}, {name: a}]", "twice"),
            ("groups: [{name: g, maxAttempts: 1001}]", "group \"g\": maxAttempts 1001"),
            ("groups: [{name: g, retryAfter: [soon]}]", "soon"),
            ("groups: [{name: g, retryAfter: []}]", "0 delays"),
            ("groups: [{name: g}, {name: g}]", "twice"),
            ("owns: {topics: ['a*b']}", "a*b"),
            ("owns: {groups: ['']}", "owns"),
            ("topics: [", "line 2"),
            ("topics: []\n---\ntopics: []\n", "document"),
        ] {
            let said = Document::parse(text).expect_err(text).to_string();
            assert!(said.contains(told) && said.lines().count() == 1, "{text}: {said}");
        }
    }

    #[test]
    fn a_star_owns_names_by_their_beginning_but_not_what_the_server_derives() {
        let patterns = ["orders-*".to_owned(), "old".to_owned()];
        for (name, is) in [("orders-1", true), ("orders-", true), ("orders", false), ("old", true), ("older", false)] {
            assert_eq!(owned(&patterns, name), is, "{name}");
        }
        assert!(owned(&["*".to_owned()], "anything"));
        assert!(!owned(&["*".to_owned()], "%DLQ%billing"));
        assert!(owned(&["%DLQ%*".to_owned()], "%DLQ%billing"));
        assert!(!owned(&[], "anything"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "(?s).{0,200}") {
            let _ = Document::parse(&text);
        }
    }
}
