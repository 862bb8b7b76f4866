//! A message's properties: one map for the user's and the system's, in the spelling of the CommitLog
//! (`name 0x01 value 0x02 ...`, `MessageDecoder.messageProperties2String`).

use bytes::{BufMut, Bytes, BytesMut};

/// Between a name and its value.
pub const NAME_END: u8 = 1;
/// After a value.
pub const VALUE_END: u8 = 2;
/// Bytes of all properties at most: the record has a signed 16-bit length for them.
pub const PROPERTIES_LEN_MAX: usize = i16::MAX as usize;

/// The keys that the server gives a meaning (`MessageConst`).
pub mod key {
    pub const TAGS: &str = "TAGS";
    pub const KEYS: &str = "KEYS";
    pub const UNIQ_KEY: &str = "UNIQ_KEY";
    pub const TRAN_MSG: &str = "TRAN_MSG";
    /// Where a message goes that lies in a topic of the system meanwhile.
    pub const REAL_TOPIC: &str = "REAL_TOPIC";
    pub const REAL_QID: &str = "REAL_QID";
    pub const PGROUP: &str = "PGROUP";
    pub const SHARDING_KEY: &str = "__SHARDINGKEY";
    /// How urgent a message is; decimal, higher first.
    pub const PRIORITY: &str = "_SYS_MSG_PRIORITY_";
    /// The lite topic that a message of a LITE topic is for.
    pub const LITE_TOPIC: &str = "__LITE_TOPIC";
    pub const TRACE_CONTEXT: &str = "TRACE_CONTEXT";
    pub const BORN_HOST: &str = "__BORNHOST";
    pub const BORN_TIMESTAMP: &str = "BORN_TIMESTAMP";
    pub const DELAY: &str = "DELAY";
    pub const TIMER_DELIVER_MS: &str = "TIMER_DELIVER_MS";
    pub const TIMER_DELAY_SEC: &str = "TIMER_DELAY_SEC";
    pub const TIMER_DELAY_MS: &str = "TIMER_DELAY_MS";
    /// When a message in the timer topic is due, epoch ms.
    pub const TIMER_OUT_MS: &str = "TIMER_OUT_MS";
    /// How often it was carried forward.
    pub const TIMER_ROLL_TIMES: &str = "TIMER_ROLL_TIMES";
    /// Apache's order to drop a timer: `<topic>+<message id>`.
    pub const TIMER_DEL_UNIQKEY: &str = "TIMER_DEL_UNIQKEY";
    pub const CHECK_IMMUNITY_TIME_IN_SECONDS: &str = "CHECK_IMMUNITY_TIME_IN_SECONDS";
    pub const RECONSUME_TIME: &str = "RECONSUME_TIME";
    pub const RETRY_TOPIC: &str = "RETRY_TOPIC";
    pub const ORIGIN_MESSAGE_ID: &str = "ORIGIN_MESSAGE_ID";
    pub const DLQ_ORIGIN_TOPIC: &str = "DLQ_ORIGIN_TOPIC";
    pub const DLQ_ORIGIN_MESSAGE_ID: &str = "DLQ_ORIGIN_MESSAGE_ID";
    pub const CLUSTER: &str = "CLUSTER";
    /// The whole-record checksum, always the last property of a record that we write.
    pub const CRC32: &str = "__CRC32#";
    /// How many records of the same append follow this one: FerroMQ's own, so that a torn append is cut whole.
    pub const UNIT_REMAINING: &str = "__FERROMQ_UNIT";
    /// Before the name of a property that a user may set and that would mean something to the server: FerroMQ's own.
    /// RocketMQ takes a user's `__SHARDINGKEY` for a message group that the queue was not chosen by.
    pub const USERS: &str = "__FERROMQ_USER.";

    /// The keys that a user may not set and that are not shown as user properties (reference `grpc-v2` B.4).
    pub const RESERVED: [&str; 51] = [
        "KEYS",
        "TAGS",
        "WAIT",
        "DELAY",
        "RETRY_TOPIC",
        "REAL_TOPIC",
        "REAL_QID",
        "TRAN_MSG",
        "PGROUP",
        "MIN_OFFSET",
        "MAX_OFFSET",
        "BUYER_ID",
        "ORIGIN_MESSAGE_ID",
        "TRANSFER_FLAG",
        "CORRECTION_FLAG",
        "MQ2_FLAG",
        "RECONSUME_TIME",
        "MSG_REGION",
        "TRACE_ON",
        "UNIQ_KEY",
        "MAX_RECONSUME_TIMES",
        "CONSUME_START_TIME",
        "POP_CK",
        "POP_CK_OFFSET",
        "1ST_POP_TIME",
        "TRAN_PREPARED_QUEUE_OFFSET",
        "DUP_INFO",
        "EXTEND_UNIQ_INFO",
        "INSTANCE_ID",
        "CORRELATION_ID",
        "REPLY_TO_CLIENT",
        "TTL",
        "ARRIVE_TIME",
        "PUSH_REPLY_TIME",
        "CLUSTER",
        "MSG_TYPE",
        "INNER_MULTI_QUEUE_OFFSET",
        "TIMER_DELAY_MS",
        "TIMER_DELAY_SEC",
        "TIMER_DELIVER_MS",
        "TIMER_ENQUEUE_MS",
        "TIMER_DEQUEUE_MS",
        "TIMER_ROLL_TIMES",
        "TIMER_OUT_MS",
        "TIMER_DEL_UNIQKEY",
        "TIMER_DELAY_LEVEL",
        "__BORNHOST",
        "BORN_TIMESTAMP",
        "DLQ_ORIGIN_TOPIC",
        "DLQ_ORIGIN_MESSAGE_ID",
        "__CRC32#",
    ];

    /// True for [`RESERVED`] and for FerroMQ's own keys.
    pub fn is_reserved(key: &str) -> bool {
        // None begins with a small letter, as most keys of users do.
        let may_be = key.bytes().next().is_some_and(|first| !first.is_ascii_lowercase());
        may_be && (key == UNIT_REMAINING || key.starts_with(USERS) || RESERVED.contains(&key))
    }
}

/// Properties in their stored spelling; a cheap clone. Look-ups walk the bytes.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(Bytes);

impl Properties {
    /// Wraps stored bytes. Whatever does not parse in them is passed over by the readers below.
    pub fn from_encoded(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The stored bytes.
    pub fn encoded(&self) -> &Bytes {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Name and value pairs in stored order. Entries that are not UTF-8, have no name or no value are left out, as
    /// RocketMQ's reader does.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries().filter_map(|entry| {
            let at = memchr::memchr(NAME_END, entry)?;
            let (name, value) = (&entry[..at], &entry[at + 1..]);
            if name.is_empty() || value.is_empty() {
                return None;
            }
            Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
        })
    }

    fn entries(&self) -> impl Iterator<Item = &[u8]> {
        let ends = memchr::memchr_iter(VALUE_END, &self.0).chain([self.0.len()]);
        let mut from = 0;
        ends.map(move |end| &self.0[std::mem::replace(&mut from, end + 1).min(end)..end])
    }

    /// The value of a name; the last one when it is there more than once.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut rest = &self.0[..];
        // From the end: the last one counts, and what the server looks for, it often wrote last.
        while !rest.is_empty() {
            let from = memchr::memrchr(VALUE_END, &rest[..rest.len() - 1]).map_or(0, |end| end + 1);
            let entry = rest[from..].strip_suffix(&[VALUE_END]).unwrap_or(&rest[from..]);
            rest = &rest[..from];
            let value = entry.strip_prefix(name.as_bytes()).and_then(|value| value.strip_prefix(&[NAME_END]));
            if let Some(value) = value.filter(|value| !value.is_empty())
                && let Ok(value) = std::str::from_utf8(value)
            {
                return Some(value);
            }
        }
        None
    }

    /// A builder that starts with these entries, less the named ones.
    pub fn without(&self, names: &[&str]) -> PropertiesBuilder {
        let mut out = PropertiesBuilder::default();
        for (name, value) in self.iter().filter(|(n, _)| !names.contains(n)) {
            out.push(name, value);
        }
        out
    }
}

impl std::fmt::Debug for Properties {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Writes properties. Names and values must be free of 0x01 and 0x02; the fronts refuse control characters.
#[derive(Default)]
pub struct PropertiesBuilder(BytesMut);

impl PropertiesBuilder {
    pub fn with_capacity(bytes: usize) -> Self {
        Self(BytesMut::with_capacity(bytes))
    }
    /// Adds an entry; an empty value is left out, since no reader would see it.
    pub fn push(&mut self, name: &str, value: &str) -> &mut Self {
        debug_assert!(!name.bytes().chain(value.bytes()).any(|b| b == NAME_END || b == VALUE_END));
        if !value.is_empty() {
            self.0.reserve(name.len() + value.len() + 2);
            self.0.put_slice(name.as_bytes());
            self.0.put_u8(NAME_END);
            self.0.put_slice(value.as_bytes());
            self.0.put_u8(VALUE_END);
        }
        self
    }
    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn build(self) -> Properties {
        Properties(self.0.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_read_back_and_the_last_of_a_name_wins() {
        let mut b = PropertiesBuilder::default();
        b.push("a", "1").push("empty", "").push("a", "2").push("键", "值");
        let p = b.build();
        assert_eq!(p.get("a"), Some("2"));
        assert_eq!(p.get("empty"), None);
        assert_eq!(p.get("键"), Some("值"));
        assert_eq!(p.without(&["a"]).build().iter().collect::<Vec<_>>(), [("键", "值")]);
    }

    #[test]
    fn a_value_is_found_wherever_it_stands_and_never_a_part_of_a_name() {
        for (text, found) in [
            ("k\x01v\x02", Some("v")),
            ("k\x01v", Some("v")),
            ("xk\x01v\x02k\x01w\x02z\x01y\x02", Some("w")),
            ("k\x01a\x02k\x01\x02", Some("a")),
            ("kk\x01v\x02", None),
            ("k\x02v\x02", None),
            ("", None),
            ("\x02\x02", None),
            ("a\x01k\x01v\x02", None),
        ] {
            let properties = Properties::from_encoded(Bytes::from(text.as_bytes()));
            assert_eq!(properties.get("k"), found, "{text:?}");
            assert_eq!(properties.iter().filter(|(name, _)| *name == "k").last().map(|(_, value)| value), found);
        }
    }

    #[test]
    fn damaged_bytes_are_passed_over() {
        let p = Properties::from_encoded(Bytes::from_static(b"\x01v\x02n\x01\x02noseparator\x02a\x01b"));
        assert_eq!(p.iter().collect::<Vec<_>>(), [("a", "b")]);
    }
}
