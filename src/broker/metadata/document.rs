//! One of Apache's config files: a table of objects by name, a `dataVersion`, and whatever else the file had.
//!
//! What we do not know is kept and written back: a file goes from Apache's broker to ours and back without losing a field.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{store::Store, types::Timestamp};

use super::{
    super::{AdminError, OpenError, fastjson},
    Saver,
};

/// Apache's `DataVersion`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct DataVersion {
    /// One more with every change.
    counter: i64,
    state_version: i64,
    /// Of the last change, milliseconds since 1970.
    timestamp: i64,
}

impl DataVersion {
    pub(super) fn next(self, now: Timestamp) -> Self {
        Self { counter: self.counter.wrapping_add(1), timestamp: now.as_millis(), ..self }
    }
}

/// The file without its table.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub version: DataVersion,
    /// Members that we do not model.
    pub rest: Map<String, Value>,
    /// Entries of the table whose names we cannot use.
    pub foreign: BTreeMap<String, Value>,
}

/// Which file, and which of its members is the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub file: &'static str,
    pub table: &'static str,
}

const VERSION: &str = "dataVersion";

impl Kind {
    /// The document and its table, still as JSON; both empty when there is no file.
    pub(super) fn load(self, store: &Store) -> Result<(Document, Map<String, Value>), OpenError> {
        let fault = |why: String| OpenError::State { file: self.file.into(), why };
        match store.load_state(self.file).map_err(|e| fault(e.to_string()))? {
            None => Ok(Default::default()),
            Some(bytes) => self.parse(&bytes).map_err(|why| {
                fault(format!("{why}; repair the file, or put its backup {}.bak in its place", self.file))
            }),
        }
    }

    /// Writes the file with one more version; the document has that version once the file is safe.
    pub(super) fn save<'a>(
        self,
        document: &mut Document,
        entries: impl Iterator<Item = (&'a str, &'a str)>,
        own: &[(&str, Value)],
        to: Saver<'_>,
    ) -> Result<(), AdminError> {
        let version = document.version.next(to.clock.wall());
        let bytes = self.encode(document, version, entries, own);
        to.store.save_state(self.file, &bytes).map_err(|e| AdminError::Metadata(format!("{}: {e}", self.file)))?;
        document.version = version;
        Ok(())
    }

    fn parse(self, bytes: &[u8]) -> Result<(Document, Map<String, Value>), String> {
        let mut rest: Map<String, Value> = fastjson::parse(bytes)?;
        let version = match rest.remove(VERSION) {
            None | Some(Value::Null) => DataVersion::default(),
            Some(value) => serde_json::from_value(value).map_err(|e| format!("{VERSION}: {e}"))?,
        };
        let table = match rest.remove(self.table) {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(table)) => table,
            Some(_) => return Err(format!("{} is not an object", self.table)),
        };
        Ok((Document { version, rest, foreign: BTreeMap::new() }, table))
    }

    /// The file's bytes: as `document` with this version, these entries (name and JSON) in this order, and members of our
    /// own. A line for each entry.
    fn encode<'a>(
        self,
        document: &Document,
        version: DataVersion,
        entries: impl Iterator<Item = (&'a str, &'a str)>,
        own: &[(&str, Value)],
    ) -> Vec<u8> {
        let own = own.iter().map(|(name, value)| (*name, value));
        let members: BTreeMap<&str, &Value> = document.rest.iter().map(|(n, v)| (n.as_str(), v)).chain(own).collect();
        let mut out = format!("{{\n\t\"{VERSION}\": {}", json!(version));
        for (name, value) in members {
            out += &format!(",\n\t{}: {value}", json!(name));
        }
        out += &format!(",\n\t\"{}\": {{", self.table);
        let mut lines = 0;
        let mut line = |name: &str, entry: &str| {
            out += if lines == 0 { "\n\t\t" } else { ",\n\t\t" };
            out += &json!(name).to_string();
            out += ": ";
            out += entry;
            lines += 1;
        };
        for (name, entry) in entries {
            line(name, entry);
        }
        for (name, entry) in &document.foreign {
            line(name, &entry.to_string());
        }
        out += "\n\t}\n}\n";
        out.into_bytes()
    }
}

/// The members of `original` that `ours` does not have with the same value: what writing `ours` alone would lose.
pub(super) fn left_over(original: Map<String, Value>, ours: &Map<String, Value>) -> Map<String, Value> {
    original.into_iter().filter(|(name, value)| ours.get(name) != Some(value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { file: "topics.json", table: "topicConfigTable" };

    #[test]
    fn what_is_not_ours_survives_a_rewrite() {
        let file = br#"{"dataVersion":{"counter":7,"stateVersion":3,"timestamp":1},"future":{"a":[1]},
            "topicConfigTable":{"T":{"x":1}}}"#;
        let (mut document, table) = KIND.parse(file).unwrap();
        document.foreign.insert("odd+name".into(), json!({"kept": true}));
        let table: Vec<_> = table.iter().map(|(name, value)| (name.as_str(), value.to_string())).collect();
        let entries = table.iter().map(|(name, json)| (*name, json.as_str()));
        let version = document.version.next(Timestamp::from_millis(99));
        let bytes = KIND.encode(&document, version, entries, &[("ours", json!(5))]);
        let written: Value = serde_json::from_slice(&bytes).unwrap();
        let expected = json!({
            "dataVersion": {"counter": 8, "stateVersion": 3, "timestamp": 99},
            "future": {"a": [1]},
            "ours": 5,
            "topicConfigTable": {"T": {"x": 1}, "odd+name": {"kept": true}},
        });
        assert_eq!(written, expected);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains("\n\t\t\"T\": {\"x\":1},\n"), "a line for each entry: {text}");
    }

    #[test]
    fn a_file_without_version_or_table_is_an_empty_one() {
        let (document, table) = KIND.parse(b"{}").unwrap();
        assert_eq!((document.version, table.len()), (DataVersion::default(), 0));
        let (_, table) = KIND.parse(br#"{"dataVersion":null,"topicConfigTable":null}"#).unwrap();
        assert!(table.is_empty());
    }

    #[test]
    fn a_file_of_another_shape_is_refused() {
        for bad in ["", "[]", r#"{"topicConfigTable":[]}"#, r#"{"dataVersion":{"counter":"x"}}"#, "{\"a\":"] {
            assert!(KIND.parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
