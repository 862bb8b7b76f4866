//! A topic as `topics.json` has it (`TopicConfig`), and where the queues of deleted topics ended.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::types::{MessageType, PhysicalOffset, QueueId, QueueOffset, TopicName};

use super::{
    Topic,
    document::{Document, Kind, left_over},
};

pub(super) const KIND: Kind = Kind { file: "topics.json", table: "topicConfigTable" };

/// Our own member of the file; Apache's broker passes over it.
pub(super) const STARTS: &str = "ferromqQueueStarts";

/// Queues that a topic read from a file may have: more than may be made, since Apache has no limit.
const QUEUES_READ_MAX: u32 = 65_536;
/// What `TopicConfig` has where the file says nothing.
const QUEUES_DEFAULT: u32 = 16;

// `PermName`: the bits of `perm`. INHERIT (1) and PRIORITY (8) are kept as they are.
const READ: u32 = 4;
const WRITE: u32 = 2;

const MESSAGE_TYPE: &str = "message.type";
/// A topic that has no type yet.
const UNSPECIFIED: &str = "UNSPECIFIED";

/// What an entry has and [`Topic`] has not; written back as it was.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Kept {
    perm: u32,
    attributes: Map<String, Value>,
    members: Map<String, Value>,
}

/// Reads an entry; the error says what is wrong with it.
pub(super) fn decode(name: &TopicName, entry: Value) -> Result<(Topic, Kept), String> {
    let Value::Object(mut entry) = entry else { return Err("it is not an object".into()) };
    let perm = number(&mut entry, "perm", READ | WRITE, u32::MAX)?;
    let attributes = match entry.remove("attributes") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(attributes)) => attributes,
        Some(_) => return Err("attributes is not an object".into()),
    };
    let topic = Topic {
        name: name.clone(),
        message_type: message_type(attributes.get(MESSAGE_TYPE))?,
        read_queues: number(&mut entry, "readQueueNums", QUEUES_DEFAULT, QUEUES_READ_MAX)?,
        write_queues: number(&mut entry, "writeQueueNums", QUEUES_DEFAULT, QUEUES_READ_MAX)?,
        readable: perm & READ != 0,
        writable: perm & WRITE != 0,
    };
    let kept = Kept {
        perm: perm & !(READ | WRITE),
        attributes: left_over(attributes, &attributes_of(&topic)),
        members: left_over(entry, &members_of(&topic)),
    };
    Ok((topic, kept))
}

/// Writes an entry.
pub(super) fn encode(topic: &Topic, kept: &Kept) -> Value {
    let mut attributes = kept.attributes.clone();
    attributes.extend(attributes_of(topic));
    let perm = kept.perm | if topic.readable { READ } else { 0 } | if topic.writable { WRITE } else { 0 };
    let mut entry = members_of(topic);
    entry.extend(kept.members.clone());
    entry.insert("attributes".into(), attributes.into());
    entry.insert("perm".into(), perm.into());
    entry.insert("readQueueNums".into(), topic.read_queues.into());
    entry.insert("writeQueueNums".into(), topic.write_queues.into());
    entry.into()
}

fn number(entry: &mut Map<String, Value>, name: &str, default: u32, max: u32) -> Result<u32, String> {
    let Some(value) = entry.remove(name) else { return Ok(default) };
    let number = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= max);
    number.ok_or_else(|| format!("{name} is {value}, not a number from 0 to {max}"))
}

/// Apache: a topic without the attribute is NORMAL.
fn message_type(attribute: Option<&Value>) -> Result<Option<MessageType>, String> {
    match attribute {
        None => Ok(Some(MessageType::Normal)),
        Some(Value::String(text)) if text.eq_ignore_ascii_case(UNSPECIFIED) => Ok(None),
        Some(value) => match value.as_str().and_then(MessageType::parse) {
            Some(known) => Ok(Some(known)),
            None => Err(format!("{MESSAGE_TYPE} is {value}, which is no message type")),
        },
    }
}

fn attributes_of(topic: &Topic) -> Map<String, Value> {
    let text = topic.message_type.map_or(UNSPECIFIED, MessageType::as_str);
    Map::from_iter([(MESSAGE_TYPE.to_owned(), text.into())])
}

/// The members that a topic of ours has always the same.
fn members_of(topic: &Topic) -> Map<String, Value> {
    Map::from_iter([
        ("order".to_owned(), false.into()),
        ("topicFilterType".to_owned(), "SINGLE_TAG".into()),
        ("topicName".to_owned(), topic.name.as_str().into()),
        ("topicSysFlag".to_owned(), 0.into()),
    ])
}

/// Where the queues of a deleted topic ended, and so where those of a new one begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct QueueStarts {
    /// The log's end at the deletion: every record of the deleted topic lies before it.
    deleted_at: u64,
    /// By queue id.
    queues: Vec<u64>,
}

impl QueueStarts {
    pub(super) fn new(deleted_at: PhysicalOffset, queues: impl IntoIterator<Item = QueueOffset>) -> Self {
        Self { deleted_at: deleted_at.get(), queues: queues.into_iter().map(QueueOffset::get).collect() }
    }
    pub(super) fn deleted_at(&self) -> PhysicalOffset {
        PhysicalOffset::new(self.deleted_at)
    }
    /// True once no record of the deleted topic is left in a log that begins at `log_start`.
    pub(super) fn is_over(&self, log_start: PhysicalOffset) -> bool {
        self.deleted_at <= log_start.get()
    }
    /// True when nothing was ever stored in the topic.
    pub(super) fn is_zero(&self) -> bool {
        self.queues.iter().all(|offset| *offset == 0)
    }
    /// Queues that have a start.
    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.queues.len()).unwrap_or(u32::MAX)
    }
    pub(super) fn of(&self, queue: QueueId) -> QueueOffset {
        let start = usize::try_from(queue.0).ok().and_then(|q| self.queues.get(q));
        start.map_or(QueueOffset::ZERO, |offset| QueueOffset::new(*offset))
    }
    pub(super) fn iter(&self) -> impl Iterator<Item = (QueueId, QueueOffset)> + '_ {
        (0..self.len()).map(|queue| (QueueId(queue), self.of(QueueId(queue))))
    }
}

pub(super) type Starts = BTreeMap<TopicName, Arc<QueueStarts>>;

/// Takes the starts out of a document.
pub(super) fn take_starts(document: &mut Document) -> Result<Starts, String> {
    let Some(value) = document.rest.remove(STARTS) else { return Ok(Starts::new()) };
    let read: BTreeMap<String, QueueStarts> = serde_json::from_value(value).map_err(|e| format!("{STARTS}: {e}"))?;
    read.into_iter()
        .map(|(name, starts)| match TopicName::parse_any(&name) {
            Ok(_) if starts.len() > QUEUES_READ_MAX => Err(format!("{STARTS}: {name} has {} queues", starts.len())),
            Ok(_) if starts.queues.iter().any(|offset| *offset > QueueOffset::MAX.get()) => {
                Err(format!("{STARTS}: an offset of {name} is out of range"))
            }
            Ok(name) => Ok((name, Arc::new(starts))),
            Err(error) => Err(format!("{STARTS}: {error}")),
        })
        .collect()
}

/// The member that keeps them; nothing when there are none.
pub(super) fn starts_member(starts: &Starts) -> Vec<(&'static str, Value)> {
    if starts.is_empty() {
        return vec![];
    }
    let by_name: BTreeMap<&str, &QueueStarts> =
        starts.iter().map(|(name, starts)| (name.as_str(), &**starts)).collect();
    vec![(STARTS, json!(by_name))]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> TopicName {
        TopicName::parse_any(text).unwrap()
    }

    /// As a Java broker writes it.
    fn by_apache() -> Value {
        json!({
            "attributes": {"message.type": "FIFO", "queue.type": "SimpleCQ"},
            "order": true, "perm": 7, "readQueueNums": 4, "topicFilterType": "MULTI_TAG", "topicName": "T",
            "topicSysFlag": 2, "writeQueueNums": 8, "since": {"later": [1]},
        })
    }

    #[test]
    fn an_entry_of_apaches_loses_nothing_on_the_way_through() {
        let (topic, kept) = decode(&name("T"), by_apache()).unwrap();
        let expected = Topic {
            name: name("T"),
            message_type: Some(MessageType::Fifo),
            read_queues: 4,
            write_queues: 8,
            readable: true,
            writable: true,
        };
        assert_eq!(topic, expected);
        assert_eq!(encode(&topic, &kept), by_apache());
    }

    #[test]
    fn a_change_touches_only_what_it_changes() {
        let (topic, kept) = decode(&name("T"), by_apache()).unwrap();
        let changed = Topic { writable: false, message_type: Some(MessageType::Normal), read_queues: 8, ..topic };
        let mut expected = by_apache();
        expected["perm"] = 5.into();
        expected["readQueueNums"] = 8.into();
        expected["attributes"]["message.type"] = "NORMAL".into();
        assert_eq!(encode(&changed, &kept), expected);
    }

    #[test]
    fn a_plain_topic_keeps_nothing_beside_its_settings() {
        let plain = json!({
            "attributes": {"message.type": "NORMAL"}, "order": false, "perm": 6, "readQueueNums": 8,
            "topicFilterType": "SINGLE_TAG", "topicName": "T", "topicSysFlag": 0, "writeQueueNums": 8,
        });
        let (topic, kept) = decode(&name("T"), plain.clone()).unwrap();
        assert_eq!(kept, Kept::default());
        assert_eq!(encode(&topic, &kept), plain);
    }

    #[test]
    fn what_is_absent_has_apaches_default() {
        let (topic, _) = decode(&name("T"), json!({})).unwrap();
        assert_eq!((topic.read_queues, topic.write_queues, topic.readable, topic.writable), (16, 16, true, true));
        assert_eq!(topic.message_type, Some(MessageType::Normal));
    }

    #[test]
    fn a_topic_without_a_type_is_unspecified_in_the_file() {
        let (topic, kept) = decode(&name("T"), json!({"attributes": {"message.type": "unspecified"}})).unwrap();
        assert_eq!(topic.message_type, None);
        assert_eq!(encode(&topic, &kept)["attributes"]["message.type"], "UNSPECIFIED");
    }

    #[test]
    fn an_entry_that_makes_no_sense_is_refused() {
        for bad in [
            json!([]),
            json!({"perm": "6"}),
            json!({"perm": -1}),
            json!({"readQueueNums": 65_537}),
            json!({"writeQueueNums": 1.5}),
            json!({"attributes": 1}),
            json!({"attributes": {"message.type": "SOMETHING"}}),
        ] {
            assert!(decode(&name("T"), bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn starts_are_read_back_and_end_with_the_log_that_needs_them() {
        let starts = QueueStarts::new(PhysicalOffset::new(500), [7, 0, 9].map(QueueOffset::new));
        let all = Starts::from([(name("%DLQ%g"), Arc::new(starts.clone()))]);
        let mut document = Document::default();
        document.rest.extend(starts_member(&all).into_iter().map(|(member, value)| (member.to_owned(), value)));
        assert_eq!(take_starts(&mut document).unwrap(), all);
        assert!(document.rest.is_empty() && starts_member(&Starts::new()).is_empty());
        assert_eq!([0, 1, 2, 3].map(|q| starts.of(QueueId(q)).get()), [7, 0, 9, 0]);
        assert!(!starts.is_over(PhysicalOffset::new(499)) && starts.is_over(PhysicalOffset::new(500)));
    }

    #[test]
    fn starts_that_make_no_sense_are_refused() {
        for bad in [
            json!([]),
            json!({"T": {}}),
            json!({"a b": {"deletedAt": 1, "queues": []}}),
            json!({"T": {"deletedAt": 1, "queues": [u64::MAX]}}),
        ] {
            let mut document = Document::default();
            document.rest.insert(STARTS.into(), bad.clone());
            assert!(take_starts(&mut document).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            kind in 0usize..8, read_queues in 1u32..1025, write_queues in 1u32..1025, readable: bool, writable: bool
        ) {
            let message_type = MessageType::ALL.get(kind).copied();
            let topic = Topic { name: name("T"), message_type, read_queues, write_queues, readable, writable };
            let written = encode(&topic, &Kept::default());
            prop_assert_eq!(decode(&name("T"), written).unwrap(), (topic, Kept::default()));
        }
    }
}
