//! Lite topics: light topics with names of their own inside a parent topic of type LITE.

use md5::{Digest, Md5};

/// What the server knows a lite topic by, within its parent: the first eight bytes of the MD5 of its name. It stands in the
/// consume queue entry of each of its messages, where other topics have the tag's hash, so that a lite topic's messages
/// are known without reading them.
///
/// Two names with one id would share their order and their subscribers; the server refuses the second name while it
/// knows the first. Of 100,000 names two meet with a probability of 3 in 10,000,000,000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LiteId(u64);

impl LiteId {
    pub fn of(name: &str) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 16]>::from(Md5::digest(name));
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }

    /// As a consume queue entry has it.
    pub fn from_code(code: i64) -> Self {
        Self(code as u64)
    }

    pub fn code(self) -> i64 {
        self.0 as i64
    }

    /// As a record has it.
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }

    pub fn number(self) -> u64 {
        self.0
    }
}

/// Why a text is not the name of a lite topic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LiteNameError {
    #[error("the name of the lite topic is blank")]
    Blank,
    #[error("the name of the lite topic has {len} characters, maxLiteTopicSize is {max}")]
    TooLong { len: usize, max: usize },
    #[error("the name of the lite topic {0:?} has a control character")]
    Control(String),
}

/// Checks the name of a lite topic, which may have any characters but control characters, `max` at most.
pub fn check_lite_name(name: &str, max: usize) -> Result<(), LiteNameError> {
    let len = name.chars().count();
    if name.trim().is_empty() {
        Err(LiteNameError::Blank)
    } else if len > max {
        Err(LiteNameError::TooLong { len, max })
    } else if name.chars().any(char::is_control) {
        Err(LiteNameError::Control(name.into()))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_the_same_in_every_version_since_it_lies_on_disk() {
        assert_eq!(LiteId::of("").number(), 0xD41D_8CD9_8F00_B204);
        assert_eq!(LiteId::of("hello").number(), 0x5D41_402A_BC4B_2A76);
        let id = LiteId::of("订单");
        assert_eq!((LiteId::from_code(id.code()), LiteId::from_number(id.number())), (id, id));
    }

    #[test]
    fn names_are_free_but_not_blank_too_long_or_with_control_characters() {
        assert_eq!(check_lite_name("session/订单 1", 64), Ok(()));
        assert_eq!(check_lite_name(" ", 64), Err(LiteNameError::Blank));
        assert_eq!(check_lite_name("订订订", 2), Err(LiteNameError::TooLong { len: 3, max: 2 }));
        assert!(matches!(check_lite_name("a\u{1}", 64), Err(LiteNameError::Control(_))));
    }
}
