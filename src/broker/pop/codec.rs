//! The byte spelling that settle records and the snapshot share: numbers in LEB128 (seven bits a byte, low bits first,
//! 1 to 10 bytes), texts as a number of bytes and then UTF-8.

use std::{ops::Range, time::Duration};

use crate::{
    broker::offsets::QUEUES_MAX,
    types::{GroupName, QueueId, QueueOffset, Timestamp, TopicName},
};

/// Why bytes are not what they should be. What we wrote lies under a checksum, so this means another version wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is malformed")]
pub struct Malformed {
    pub what: &'static str,
}

pub type Result<T> = std::result::Result<T, Malformed>;

fn malformed<T>(what: &'static str) -> Result<T> {
    Err(Malformed { what })
}

/// Appends the spelling to a buffer.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
    pub fn number(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }
    /// By the wall clock, in milliseconds.
    pub fn time(&mut self, at: Timestamp) {
        self.number(u64::try_from(at.as_millis()).unwrap_or(0));
    }
    /// In milliseconds.
    pub fn length(&mut self, length: Duration) {
        self.number(u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
    }
    pub fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }
    /// Ascending ranges that do not touch, each as its distance from the end of the one before and its length.
    pub fn ranges(&mut self, ranges: &[Range<QueueOffset>]) {
        self.number(ranges.len() as u64);
        let mut last = QueueOffset::ZERO;
        for range in ranges {
            self.number(last.until(range.start));
            self.number(range.start.until(range.end));
            last = range.end;
        }
    }
}

/// Reads the spelling back; no input makes it panic or allocate more than the input's own size.
pub struct Reader<'a>(pub &'a [u8]);

impl Reader<'_> {
    pub fn byte(&mut self) -> Result<u8> {
        let Some((first, rest)) = self.0.split_first() else { return malformed("a byte") };
        self.0 = rest;
        Ok(*first)
    }

    pub fn number(&mut self) -> Result<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                return malformed("a number");
            }
            n |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(n);
            }
        }
        malformed("a number")
    }

    pub fn small(&mut self) -> Result<u32> {
        u32::try_from(self.number()?).or(malformed("a small number"))
    }

    /// How many items follow, each of at least one byte.
    pub fn count(&mut self) -> Result<usize> {
        match usize::try_from(self.number()?) {
            Ok(n) if n <= self.0.len() => Ok(n),
            _ => malformed("a count"),
        }
    }

    pub fn text(&mut self) -> Result<&str> {
        let len = self.count()?;
        let (text, rest) = self.0.split_at(len);
        self.0 = rest;
        std::str::from_utf8(text).or(malformed("a text"))
    }

    pub fn topic(&mut self) -> Result<TopicName> {
        TopicName::parse_any(self.text()?).or(malformed("a topic name"))
    }
    pub fn group(&mut self) -> Result<GroupName> {
        GroupName::parse_any(self.text()?).or(malformed("a group name"))
    }
    pub fn queue(&mut self) -> Result<QueueId> {
        let queue = self.small()?;
        if queue < QUEUES_MAX { Ok(QueueId(queue)) } else { malformed("a queue id") }
    }
    pub fn offset(&mut self) -> Result<QueueOffset> {
        offset(self.number()?)
    }
    pub fn time(&mut self) -> Result<Timestamp> {
        i64::try_from(self.number()?).map(Timestamp::from_millis).or(malformed("a time"))
    }
    pub fn length(&mut self) -> Result<Duration> {
        Ok(Duration::from_millis(self.number()?))
    }

    pub fn ranges(&mut self) -> Result<Vec<Range<QueueOffset>>> {
        let count = self.count()?;
        let mut ranges = Vec::with_capacity(count);
        let mut last = 0u64;
        for _ in 0..count {
            let start = last.checked_add(self.number()?).ok_or(Malformed { what: "a range" })?;
            let end = start.checked_add(self.number()?).ok_or(Malformed { what: "a range" })?;
            if end == start {
                return malformed("a range");
            }
            ranges.push(offset(start)?..offset(end)?);
            last = end;
        }
        Ok(ranges)
    }

    pub fn finish(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { malformed("what follows the end") }
    }
}

fn offset(n: u64) -> Result<QueueOffset> {
    if n <= QueueOffset::MAX.get() { Ok(QueueOffset::new(n)) } else { malformed("an offset") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_are_read_back() {
        let numbers = (0..64).flat_map(|bit| [1u64 << bit, (1u64 << bit) - 1]).chain([u64::MAX]);
        for n in numbers {
            let mut w = Writer::default();
            w.number(n);
            let mut r = Reader(&w.0);
            assert_eq!(r.number(), Ok(n));
            r.finish().expect("nothing left");
        }
    }

    #[test]
    fn a_number_beyond_64_bits_and_a_count_beyond_the_input_are_refused() {
        assert!(Reader(&[0xFF; 11]).number().is_err());
        assert!(Reader(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02]).number().is_err());
        assert!(Reader(&[5, b'a']).text().is_err());
    }
}
