//! The receipt handle: the text by which a client names one delivery.
//!
//! `1-<run>-<queue>-<offset>-<attempt>-<nonce>-<until>-<seal>`, numbers in lower-case hexadecimal: at most 90 ASCII
//! characters, about 45 as a rule. `1` is the version, `until` the lease's end in wall-clock milliseconds as it was
//! when the handle was made, `seal` a checksum over the numbers and the names of topic and group, so that a handle
//! that was damaged, or meant for another group, is told from an old one. It is no signature.

use std::{fmt, str::FromStr};

use crate::types::{GroupName, QueueId, QueueOffset, Timestamp, TopicName};

use super::{SettleError, book::Issue};

/// Of the text's layout.
const VERSION: &str = "1";
/// Longest text that can be a handle: the version, seven separators, three numbers of 64 bits and four of 32.
const TEXT_LEN_MAX: usize = 1 + 7 + 3 * 16 + 4 * 8;

/// Names one delivery: which message, which attempt, which lease. Its text is the receipt handle that clients carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Receipt {
    pub(super) run: u64,
    pub(super) queue: QueueId,
    pub(super) offset: QueueOffset,
    pub(super) attempt: u32,
    pub(super) nonce: u32,
    pub(super) until: Timestamp,
    seal: u32,
}

/// What a receipt says; see [`Receipt`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Which run of the server gave it out.
    pub run: u64,
    pub queue: QueueId,
    pub offset: QueueOffset,
    pub attempt: u32,
    /// Tells the leases of one message in one run apart.
    pub nonce: u32,
    /// End of the lease as it was promised.
    pub until: Timestamp,
}

impl Receipt {
    pub fn queue(&self) -> QueueId {
        self.queue
    }
    pub fn offset(&self) -> QueueOffset {
        self.offset
    }
    /// 1 for the first delivery of the message.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    pub(super) fn issue(&self) -> Issue {
        Issue { run: self.run, nonce: self.nonce }
    }

    pub(super) fn seal(topic: &TopicName, group: &GroupName, terms: Terms) -> Self {
        let Terms { run, queue, offset, attempt, nonce, until } = terms;
        let mut receipt = Self { run, queue, offset, attempt, nonce, until, seal: 0 };
        receipt.seal = receipt.checksum(topic, group);
        receipt
    }

    /// Whether we made it, for this topic and group.
    pub(super) fn is_sealed_for(&self, topic: &TopicName, group: &GroupName) -> bool {
        self.seal == self.checksum(topic, group)
    }

    fn checksum(&self, topic: &TopicName, group: &GroupName) -> u32 {
        let mut hash = crc32fast::Hasher::new();
        for number in [
            self.run,
            u64::from(self.queue.0),
            self.offset.get(),
            u64::from(self.attempt) << 32 | u64::from(self.nonce),
            self.until.as_millis() as u64,
        ] {
            hash.update(&number.to_le_bytes());
        }
        hash.update(topic.as_str().as_bytes());
        // No name has a zero byte, so the two cannot run into each other.
        hash.update(&[0]);
        hash.update(group.as_str().as_bytes());
        hash.finalize()
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run, queue, offset, attempt, nonce, until, seal } = self;
        let (offset, until) = (offset.get(), until.as_millis());
        write!(f, "{VERSION}-{run:x}-{:x}-{offset:x}-{attempt:x}-{nonce:x}-{until:x}-{seal:x}", queue.0)
    }
}

impl FromStr for Receipt {
    type Err = SettleError;

    /// Anything that is not a handle, in exactly our spelling, is [`SettleError::Invalid`].
    fn from_str(text: &str) -> Result<Self, SettleError> {
        parse(text).ok_or(SettleError::Invalid)
    }
}

fn parse(text: &str) -> Option<Receipt> {
    if text.len() > TEXT_LEN_MAX {
        return None;
    }
    let mut parts = text.split('-');
    if parts.next()? != VERSION {
        return None;
    }
    let mut number = |max: u64| {
        let digits = parts.next()?;
        let ours = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        // One spelling for a number, so that equal receipts are equal texts.
        let canonical = digits == "0" || !digits.starts_with('0');
        u64::from_str_radix(digits, 16).ok().filter(|n| ours && canonical && *n <= max)
    };
    let (small, offset_max) = (u64::from(u32::MAX), QueueOffset::MAX.get());
    let receipt = Receipt {
        run: number(u64::MAX)?,
        queue: QueueId(number(small)? as u32),
        offset: QueueOffset::new(number(offset_max)?),
        attempt: number(small)? as u32,
        nonce: number(small)? as u32,
        until: Timestamp::from_millis(number(i64::MAX as u64)? as i64),
        seal: number(small)? as u32,
    };
    parts.next().is_none().then_some(receipt)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> (TopicName, GroupName) {
        (TopicName::parse("orders").expect("a name"), GroupName::parse("billing").expect("a name"))
    }

    fn terms() -> impl Strategy<Value = Terms> {
        (any::<u64>(), any::<u32>(), 0..=QueueOffset::MAX.get(), any::<u32>(), any::<u32>(), 0..=i64::MAX).prop_map(
            |(run, queue, offset, attempt, nonce, until)| Terms {
                run,
                queue: QueueId(queue),
                offset: QueueOffset::new(offset),
                attempt,
                nonce,
                until: Timestamp::from_millis(until),
            },
        )
    }

    proptest! {
        #[test]
        fn a_handle_is_read_back_and_is_plain_text(terms in terms()) {
            let (topic, group) = names();
            let receipt = Receipt::seal(&topic, &group, terms);
            let text = receipt.to_string();
            prop_assert!(text.len() <= TEXT_LEN_MAX && text.bytes().all(|b| b.is_ascii_graphic()));
            let back: Receipt = text.parse().expect("our own text");
            prop_assert!(back.is_sealed_for(&topic, &group));
            prop_assert_eq!(back, receipt);
        }

        #[test]
        fn a_damaged_handle_is_no_handle_of_ours(terms in terms(), at in any::<prop::sample::Index>(), bit in 0u8..7) {
            let (topic, group) = names();
            let text = Receipt::seal(&topic, &group, terms).to_string();
            let mut bytes = text.clone().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let damaged = String::from_utf8(bytes).expect("still ASCII");
            let taken = damaged.parse::<Receipt>().is_ok_and(|r| r.is_sealed_for(&topic, &group));
            prop_assert!(!taken, "{} was taken for {}", damaged, text);
        }

        #[test]
        fn any_text_is_refused_without_panic(text in "\\PC{0,100}|[0-9a-f-]{0,100}") {
            let _ = text.parse::<Receipt>();
        }
    }

    #[test]
    fn a_handle_of_another_group_or_topic_is_refused() {
        let (topic, group) = names();
        let terms = Terms {
            run: 7,
            queue: QueueId(1),
            offset: QueueOffset::new(2),
            attempt: 1,
            nonce: 9,
            until: Timestamp::from_millis(1_735_689_600_000),
        };
        let receipt = Receipt::seal(&topic, &group, terms);
        assert!(!receipt.is_sealed_for(&topic, &GroupName::parse("other").expect("a name")));
        assert!(!receipt.is_sealed_for(&TopicName::parse("other").expect("a name"), &group));
        assert!(receipt.to_string().len() < 46, "{receipt}");
    }

    #[test]
    fn a_handle_of_apache_and_odd_spellings_are_invalid() {
        for text in [
            "",
            "1",
            "120 1735689600000 60000 3 0 broker-a 2 121 88004321",
            "1-0-0-0-0-0-0",
            "1-+1-0-0-0-0-0-0",
            "1-00-0-0-0-0-0-0",
            "1-A-0-0-0-0-0-0",
            "1-0-0-0-0-0-0-0-",
            "2-0-0-0-0-0-0-0",
            "1-0-100000000-0-0-0-0-0",
        ] {
            assert!(matches!(text.parse::<Receipt>(), Err(SettleError::Invalid)), "{text}");
        }
        assert!("1-0-0-0-0-0-0-0".parse::<Receipt>().is_ok());
    }
}
