//! The transaction id: opaque to clients, and the name of one half message.

use std::fmt;

use crate::types::{PhysicalOffset, QueueOffset, TopicName};

/// Where the half message lies, in the log and in its queue, and a seal over the topic and the message id that it was
/// sent with. Positions may be given out again after a power cut with asynchronous flush; the seal tells such halves
/// apart. As text 40 hexadecimal digits: physical offset, queue offset, seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionId {
    pub(super) offset: QueueOffset,
    pub(super) physical: PhysicalOffset,
    seal: u32,
}

const LEN: usize = 40;

impl TransactionId {
    pub(super) fn new(offset: QueueOffset, physical: PhysicalOffset, topic: &TopicName, message_id: &str) -> Self {
        Self { offset, physical, seal: seal(topic, message_id) }
    }

    /// Some id.
    #[cfg(test)]
    pub fn of_test() -> Self {
        Self { offset: QueueOffset::ZERO, physical: PhysicalOffset::ZERO, seal: 0 }
    }

    /// Reads an id back; `None` for what is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() != LEN || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let number = |digits: &str| u64::from_str_radix(digits, 16).ok().filter(|n| *n <= QueueOffset::MAX.get());
        let (physical, rest) = text.split_at(16);
        let (offset, seal) = rest.split_at(16);
        Some(Self {
            offset: QueueOffset::new(number(offset)?),
            physical: PhysicalOffset::new(number(physical)?),
            seal: u32::from_str_radix(seal, 16).ok()?,
        })
    }

    /// Whether it can be the id of this message.
    pub(super) fn is_of(self, topic: &TopicName, message_id: &str) -> bool {
        self.seal == seal(topic, message_id)
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}{:016X}{:08X}", self.physical.get(), self.offset.get(), self.seal)
    }
}

fn seal(topic: &TopicName, message_id: &str) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(topic.as_str().as_bytes());
    crc.update(&[0]);
    crc.update(message_id.as_bytes());
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topic(name: &str) -> TopicName {
        TopicName::parse(name).unwrap()
    }

    proptest! {
        #[test]
        fn an_id_is_read_back(offset in 0..=QueueOffset::MAX.get(), physical in 0..=PhysicalOffset::MAX.get(), key: String) {
            let id = TransactionId::new(QueueOffset::new(offset), PhysicalOffset::new(physical), &topic("T"), &key);
            prop_assert_eq!(TransactionId::parse(&id.to_string()), Some(id));
            prop_assert!(id.is_of(&topic("T"), &key));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}") {
            let _ = TransactionId::parse(&text);
        }
    }

    #[test]
    fn an_id_is_of_one_message_alone() {
        let id = TransactionId::new(QueueOffset::new(3), PhysicalOffset::new(700), &topic("T"), "key");
        assert!(!id.is_of(&topic("T"), "other") && !id.is_of(&topic("U"), "key"));
    }

    #[test]
    fn positions_beyond_the_log_are_no_id() {
        assert_eq!(TransactionId::parse(&"F".repeat(LEN)), None);
        assert_eq!(TransactionId::parse(&"0".repeat(LEN - 1)), None);
        assert_eq!(TransactionId::parse(&"+".repeat(LEN)), None);
        assert_eq!(TransactionId::parse(&"é".repeat(LEN / 2)), None);
    }
}
