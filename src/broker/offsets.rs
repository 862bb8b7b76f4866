//! `config/consumerOffset.json` in Apache's shape: `{"offsetTable":{"<topic>@<group>":{"<queue>":<offset>}}}`.
//!
//! It is written for Apache's broker and for operators. It is read only from a store that Apache's broker wrote, to
//! begin where its consumers were.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::id::SYSTEM_GROUP_PREFIX;
use crate::types::{GroupName, QueueId, QueueOffset, Timestamp, TopicName};

use super::fastjson;

/// Name of the file.
pub const FILE: &str = "consumerOffset.json";

/// Commit offsets by topic and group, then queue.
pub type Offsets = BTreeMap<(TopicName, GroupName), BTreeMap<QueueId, QueueOffset>>;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    data_version: DataVersion,
    #[serde(default)]
    offset_table: BTreeMap<String, BTreeMap<String, i64>>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DataVersion {
    counter: i64,
    state_version: i64,
    timestamp: i64,
}

/// The file's text; `version` counts how often it was written.
pub fn encode(offsets: &Offsets, version: u64, now: Timestamp) -> Vec<u8> {
    let key = |(topic, group): &(TopicName, GroupName)| format!("{topic}@{group}");
    let queues = |queues: &BTreeMap<QueueId, QueueOffset>| -> BTreeMap<String, i64> {
        queues.iter().map(|(queue, offset)| (queue.to_string(), offset.to_wire())).collect()
    };
    let counter = i64::try_from(version).unwrap_or(i64::MAX);
    let document = Document {
        data_version: DataVersion { counter, state_version: 0, timestamp: now.as_millis() },
        offset_table: offsets.iter().map(|(names, offsets)| (key(names), queues(offsets))).collect(),
    };
    serde_json::to_vec_pretty(&document).expect("a map of text and numbers is JSON")
}

/// Offsets of Apache's own groups, by `<topic>@<group>` and queue, as they are written.
pub type Own = BTreeMap<String, BTreeMap<u32, i64>>;

/// Reads from the file what [`decode`] leaves out: where Apache's broker was in topics of its own.
pub fn decode_own(bytes: &[u8]) -> Result<Own, String> {
    let document: Document = fastjson::parse(bytes)?;
    let is_own = |key: &str| key.split_once('@').is_some_and(|(_, group)| group.starts_with(SYSTEM_GROUP_PREFIX));
    let queues = |queues: BTreeMap<String, i64>| {
        let known = queues.into_iter().filter_map(|(queue, offset)| Some((queue.parse().ok()?, offset)));
        known.filter(|(queue, _)| *queue < QUEUES_MAX).collect()
    };
    let own = document.offset_table.into_iter().filter(|(key, _)| is_own(key));
    Ok(own.map(|(key, offsets)| (key, queues(offsets))).collect())
}

/// Reads the file. Entries that no group of ours can have (Apache's own groups, say) are left out.
pub fn decode(bytes: &[u8]) -> Result<Offsets, String> {
    let document: Document = fastjson::parse(bytes)?;
    let mut offsets = Offsets::new();
    for (key, queues) in document.offset_table {
        let Some((topic, group)) = key.split_once('@') else { continue };
        let (Ok(topic), Ok(group)) = (TopicName::parse_any(topic), GroupName::parse(group)) else { continue };
        let queues = queues.into_iter().filter_map(|(queue, offset)| {
            let queue = queue.parse().ok().filter(|queue| *queue < QUEUES_MAX)?;
            Some((QueueId(queue), QueueOffset::from_wire(offset)?))
        });
        offsets.insert((topic, group), queues.collect());
    }
    Ok(offsets)
}

/// Queues of a topic at most: what a damaged file can make us allocate books for.
pub const QUEUES_MAX: u32 = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Offsets {
        let names = (TopicName::parse("orders").expect("a name"), GroupName::parse("billing").expect("a name"));
        [(names, [(QueueId(0), QueueOffset::new(12)), (QueueId(10), QueueOffset::new(5))].into())].into()
    }

    #[test]
    fn what_is_written_is_read_back_and_has_apaches_shape() {
        let bytes = encode(&sample(), 3, Timestamp::from_millis(1_700_000_000_000));
        assert_eq!(decode(&bytes), Ok(sample()));
        let json: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(json["offsetTable"]["orders@billing"]["10"], 5);
        assert_eq!(json["dataVersion"]["counter"], 3);
    }

    #[test]
    fn a_file_of_apaches_broker_is_read_though_its_keys_have_no_quotes() {
        let text = "{\n\t\"dataVersion\":{\"counter\":1,\"stateVersion\":0,\"timestamp\":1725000000000},\n\t\
            \"groupTopicMap\":{\"billing\":[\"orders\"]},\n\t\"offsetTable\":{\"orders@billing\":{0:12,10:5},\
            \"SCHEDULE_TOPIC_XXXX@CID_RMQ_SYS_TRANS\":{0:1},\"odd\":{0:1}}\n}";
        assert_eq!(decode(text.as_bytes()), Ok(sample()));
    }

    #[test]
    fn damage_is_named_and_odd_entries_are_left_out() {
        assert!(decode(b"{\"offsetTable\":").is_err());
        let odd = decode(br#"{"offsetTable":{"t@g":{"x":1,"0":-1,"4000000000":7,"3":7}}}"#).expect("JSON");
        assert_eq!(odd.values().flatten().collect::<Vec<_>>(), [(&QueueId(3), &QueueOffset::new(7))]);
    }
}
