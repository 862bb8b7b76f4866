//! The recall handle: the text by which a producer names a message that still waits for its time.
//!
//! Apache's (`RecallMessageHandle.HandleV1`): URL-safe base64, padded, of `v1 <topic> <broker> <time> <message id>`, where
//! the time is that of the timer plus 1. Ours goes on with ` @<offset>`, the timer's place in hexadecimal, so that no scan is
//! needed to find it; for clients the text is opaque, and a handle without it is read too.

use crate::types::{BrokerName, QueueOffset, Timestamp, TopicName};

/// Bytes of the text at most: topic, broker and message id have bounds of their own on the way in.
const TEXT_LEN_MAX: usize = 64 << 10;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What a handle says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecallHandle {
    pub topic: TopicName,
    pub due: Timestamp,
    pub message_id: String,
    /// Where the timer lay when the handle was made.
    pub offset: Option<QueueOffset>,
}

impl RecallHandle {
    pub fn encode(&self, broker: &BrokerName) -> String {
        let Self { topic, due, message_id, offset } = self;
        let mut text = format!("v1 {topic} {broker} {} {message_id}", due.as_millis().saturating_add(1));
        if let Some(offset) = offset {
            text.push_str(&format!(" @{:x}", offset.get()));
        }
        base64(text.as_bytes())
    }

    /// Reads a handle; `None` for what is none, or one of another broker's.
    pub fn decode(text: &str, broker: &BrokerName) -> Option<Self> {
        let plain = String::from_utf8(from_base64(text)?).ok()?;
        let (topic, rest) = plain.strip_prefix("v1 ")?.split_once(' ')?;
        let rest = rest.strip_prefix(broker.to_string().as_str())?.strip_prefix(' ')?;
        let (due, id) = rest.split_once(' ')?;
        let offset_of = |text: &str| text.strip_prefix('@').and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let (message_id, offset) = match id.rsplit_once(' ').and_then(|(id, last)| Some((id, offset_of(last)?))) {
            Some((id, offset)) if offset <= QueueOffset::MAX.get() => (id, Some(QueueOffset::new(offset))),
            _ => (id, None),
        };
        let due = Timestamp::from_millis(due.parse::<i64>().ok()?.checked_sub(1)?);
        let topic = TopicName::parse_any(topic).ok()?;
        Some(Self { topic, due, message_id: message_id.to_owned(), offset })
    }
}

/// RFC 4648, section 5, padded.
fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |g, b| g << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for n in 0..4 {
            let digit = ALPHABET[(group >> (18 - 6 * n) & 63) as usize];
            out.push(if n <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() || text.len() > TEXT_LEN_MAX || !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.trim_end_matches('=');
    if text.len() - digits.len() > 2 {
        return None;
    }
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    for chunk in digits.as_bytes().chunks(4) {
        let mut group = 0u32;
        for byte in chunk {
            group = group << 6 | ALPHABET.iter().position(|digit| digit == byte)? as u32;
        }
        group <<= 6 * (4 - chunk.len());
        out.extend_from_slice(&group.to_be_bytes()[1..chunk.len()]);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn broker() -> BrokerName {
        BrokerName::parse("broker-a").unwrap()
    }

    #[test]
    fn apaches_handle_is_read_and_written() {
        let text = "djEgVCBicm9rZXItYSAxNzM1Njg5NjAwMDAxIDAxQTRCQjZEMTlGMkM0MUEyQjBBMEIwQzBEMDAwMDAwMDU=";
        let handle = RecallHandle {
            topic: TopicName::parse("T").unwrap(),
            due: Timestamp::from_millis(1_735_689_600_000),
            message_id: "01A4BB6D19F2C41A2B0A0B0C0D00000005".into(),
            offset: None,
        };
        assert_eq!(RecallHandle::decode(text, &broker()), Some(handle.clone()));
        assert_eq!(handle.encode(&broker()), text);
    }

    #[test]
    fn what_is_no_handle_of_ours_is_refused() {
        let broker = broker();
        let plain = |text: &str| RecallHandle::decode(&base64(text.as_bytes()), &broker);
        assert!(plain("v1 T broker-a 1735689600001 id").is_some());
        for text in [
            "",
            "v1",
            "v2 T broker-a 1735689600001 id",
            "v1 T broker-b 1735689600001 id",
            "v1 T broker-ab 1735689600001 id",
            "v1 a/b broker-a 1735689600001 id",
            "v1 T broker-a soon id",
            "v1 T broker-a -9223372036854775808 id",
            "v1 T broker-a 1735689600001",
        ] {
            assert_eq!(plain(text), None, "{text}");
        }
        for text in ["x", "====", "AB=C", "AAA*", "A===", &"A".repeat(TEXT_LEN_MAX + 4)] {
            assert_eq!(RecallHandle::decode(text, &broker), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_handle_is_read_back_as_it_was_written(
            topic in "[A-Za-z0-9_-]{1,100}", name in "[a-z][a-z ]{0,20}[a-z]", due in 0i64..1 << 45,
            message_id in "[ -~é]{0,60}[!-~]", offset in 0u64..1 << 60,
        ) {
            let broker = BrokerName::parse(&name).unwrap();
            let topic = TopicName::parse_any(&topic).unwrap();
            let offset = Some(QueueOffset::new(offset));
            let handle = RecallHandle { topic, due: Timestamp::from_millis(due), message_id, offset };
            prop_assert_eq!(RecallHandle::decode(&handle.encode(&broker), &broker), Some(handle));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}", bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            RecallHandle::decode(&text, &broker());
            RecallHandle::decode(&base64(&bytes), &broker());
        }
    }
}
