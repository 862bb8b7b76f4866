//! Layout of an index file (`IndexFile`, `IndexHeader`), big-endian.
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 40 | header: begin and end timestamp, begin and end physical offset (8 each), used slots, next entry (4 each) |
//! | 40 | 4 per slot | number of the newest entry of the slot, 0 when there is none |
//! | behind | 20 per entry | key hash 4, physical offset 8, seconds since the begin timestamp 4, entry before it in the slot 4 |
//!
//! Entries count from 1. The file's name is the time of its making, `yyyyMMddHHmmssSSS`.

use crate::types::{PhysicalOffset, Timestamp, java_hash_from};

pub(super) const HEADER: u64 = 40;
pub(super) const SLOT: u64 = 4;
pub(super) const ENTRY: u64 = 20;
/// Digits of a file's name.
const NAME_LEN: usize = 17;

/// How many slots and entries a file has (`maxHashSlotNum`, `maxIndexNum`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store) struct Shape {
    pub slots: u32,
    pub entries: u32,
}

impl Shape {
    pub fn file_len(self) -> u64 {
        self.entry_at(self.entries)
    }

    pub fn slot_at(self, slot: u32) -> u64 {
        HEADER + SLOT * u64::from(slot)
    }

    pub fn entry_at(self, number: u32) -> u64 {
        HEADER + SLOT * u64::from(self.slots) + ENTRY * u64::from(number)
    }

    pub fn slot_of(self, hash: u32) -> u32 {
        hash % self.slots
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub begin_time: i64,
    pub end_time: i64,
    pub begin: u64,
    pub end: u64,
    pub slots_used: u32,
    /// Number of the next entry; 1 in an empty file.
    pub next: u32,
}

impl Header {
    pub const EMPTY: Self = Self { begin_time: 0, end_time: 0, begin: 0, end: 0, slots_used: 0, next: 1 };

    pub fn encode(&self) -> [u8; HEADER as usize] {
        let mut out = [0; HEADER as usize];
        out[..8].copy_from_slice(&self.begin_time.to_be_bytes());
        out[8..16].copy_from_slice(&self.end_time.to_be_bytes());
        out[16..24].copy_from_slice(&self.begin.to_be_bytes());
        out[24..32].copy_from_slice(&self.end.to_be_bytes());
        out[32..36].copy_from_slice(&self.slots_used.to_be_bytes());
        out[36..].copy_from_slice(&self.next.to_be_bytes());
        out
    }

    pub fn decode(bytes: &[u8; HEADER as usize]) -> Self {
        let [long0, long1, long2, long3, ints] = bytes.as_chunks::<8>().0 else {
            unreachable!("40 bytes are 5 times 8")
        };
        let [u0, u1, u2, u3, n0, n1, n2, n3] = *ints;
        let next = i32::from_be_bytes([n0, n1, n2, n3]);
        Self {
            begin_time: i64::from_be_bytes(*long0),
            end_time: i64::from_be_bytes(*long1),
            begin: u64::from_be_bytes(*long2),
            end: u64::from_be_bytes(*long3),
            slots_used: u32::from_be_bytes([u0, u1, u2, u3]),
            // Apache takes 0 and less for an empty file.
            next: next.max(1) as u32,
        }
    }

    /// Seconds of a store time since the file's begin, as entries have it.
    pub fn time_diff(&self, stored_at: Timestamp) -> u32 {
        if self.begin_time <= 0 {
            return 0;
        }
        let seconds = stored_at.as_millis().saturating_sub(self.begin_time) / 1000;
        seconds.clamp(0, i64::from(i32::MAX)) as u32
    }

    /// The last millisecond that an entry's seconds may stand for.
    pub fn latest(&self, time_diff: u32) -> i64 {
        self.begin_time.saturating_add(i64::from(time_diff) * 1000 + 999)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub hash: u32,
    pub physical: u64,
    pub time_diff: u32,
    /// The entry before it in its slot; 0 for the first.
    pub before: u32,
}

impl Entry {
    pub fn at(&self) -> PhysicalOffset {
        PhysicalOffset::new(self.physical)
    }

    pub fn encode(&self) -> [u8; ENTRY as usize] {
        let mut out = [0; ENTRY as usize];
        out[..4].copy_from_slice(&self.hash.to_be_bytes());
        out[4..12].copy_from_slice(&self.physical.to_be_bytes());
        out[12..16].copy_from_slice(&self.time_diff.to_be_bytes());
        out[16..].copy_from_slice(&self.before.to_be_bytes());
        out
    }

    pub fn decode(bytes: &[u8; ENTRY as usize]) -> Self {
        let [h0, h1, h2, h3, p0, p1, p2, p3, p4, p5, p6, p7, t0, t1, t2, t3, before @ ..] = *bytes;
        Self {
            hash: u32::from_be_bytes([h0, h1, h2, h3]),
            physical: u64::from_be_bytes([p0, p1, p2, p3, p4, p5, p6, p7]),
            time_diff: u32::from_be_bytes([t0, t1, t2, t3]),
            before: u32::from_be_bytes(before),
        }
    }
}

/// The hash of a key: Java's of `topic#key`, without its sign.
pub fn key_hash(topic: &str, key: &str) -> u32 {
    let hash = [topic, "#", key].into_iter().fold(0, java_hash_from);
    hash.checked_abs().unwrap_or(0) as u32
}

/// The name of a file made at a time (UTC), behind `last`.
pub(super) fn file_name(time: Timestamp, last: Option<&str>) -> String {
    let (days, ms) = (time.as_millis().div_euclid(86_400_000), time.as_millis().rem_euclid(86_400_000));
    let (year, month, day) = date(days.clamp(0, 2_932_896));
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    let date = (year * 100 + month) * 100 + day;
    let number = (((date * 100 + hour) * 100 + minute) * 100 + second) * 1000 + ms % 1000;
    let behind = last.and_then(|name| name.parse::<i64>().ok()).map_or(0, |n| n + 1);
    format!("{:017}", number.max(behind))
}

/// Whether a directory entry is an index file's name.
pub(super) fn is_file_name(name: &str) -> bool {
    name.len() == NAME_LEN && name.bytes().all(|b| b.is_ascii_digit())
}

/// Year, month and day of a day since 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_vector_hashes_to_its_slot() {
        let shape = Shape { slots: 5_000_000, entries: 20_000_000 };
        let hash = key_hash("TopicTest", "key1");
        assert_eq!((hash, shape.slot_of(hash)), (1_655_984_460, 984_460));
        assert_eq!(shape.file_len(), 420_000_040);
    }

    #[test]
    fn a_hash_without_an_absolute_value_is_0() {
        assert_eq!(java_hash_from(0, "t#qolygtg"), i32::MIN);
        assert_eq!(key_hash("t", "qolygtg"), 0);
    }

    #[test]
    fn header_and_entry_round_trip() {
        let header = Header { begin_time: 1, end_time: -2, begin: 3, end: 4, slots_used: 5, next: 6 };
        assert_eq!(Header::decode(&header.encode()), header);
        assert_eq!(Header::decode(&[0; 40]), Header::EMPTY);
        let entry = Entry { hash: 1, physical: 1 << 40, time_diff: 3, before: 4 };
        assert_eq!(Entry::decode(&entry.encode()), entry);
        assert_eq!(entry.encode()[4..12], [0, 0, 1, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn names_are_times_and_always_rise() {
        let name = |ms, last| file_name(Timestamp::from_millis(ms), last);
        assert_eq!(name(1_756_729_815_123, None), "20250901123015123");
        assert_eq!(name(951_782_400_000, None), "20000229000000000");
        assert_eq!(name(0, Some("20250901123015123")), "20250901123015124");
        assert_eq!(name(-5, None).len(), 17);
        assert_eq!(name(i64::MAX, None).len(), 17);
        assert!(is_file_name("20250901123015123") && !is_file_name("2025090112301512x") && !is_file_name("1"));
    }

    #[test]
    fn times_are_whole_seconds_since_the_files_begin() {
        let header = Header { begin_time: 10_000, ..Header::EMPTY };
        let diff = |ms| header.time_diff(Timestamp::from_millis(ms));
        assert_eq!([diff(9000), diff(10_999), diff(11_000), diff(i64::MAX)], [0, 0, 1, i32::MAX as u32]);
        assert_eq!(Header::EMPTY.time_diff(Timestamp::from_millis(5000)), 0);
    }
}
