//! One record of the CommitLog: its layout, encoding, decoding and checksums.
//!
//! The layout is Apache RocketMQ's (`MessageExtEncoder`, `CommitLog.checkMessageAndReturnSize`), big-endian, nothing
//! aligned. `B` and `S` are 8 for an IPv4 host and 20 for an IPv6 one: the address and its port as four bytes.
//!
//! | at       | bytes    | field                                                                      |
//! |----------|----------|----------------------------------------------------------------------------|
//! | 0        | 4        | size of the whole record                                                   |
//! | 4        | 4        | magic: [`MAGIC_V1`], or [`MAGIC_V2`] where the topic's length takes 2 bytes |
//! | 8        | 4        | CRC-32 of the body, 31 bits                                                |
//! | 12       | 4        | queue id                                                                   |
//! | 16       | 4        | flag, opaque                                                               |
//! | 20       | 8        | queue offset, given by the log                                             |
//! | 28       | 8        | physical offset of this record, given by the log                           |
//! | 36       | 4        | system flag                                                                |
//! | 40       | 8        | born, ms                                                                   |
//! | 48       | B        | born host                                                                  |
//! | 48+B     | 8        | stored, ms, given by the log                                               |
//! | 56+B     | S        | store host                                                                 |
//! | 56+B+S   | 4        | failed attempts before                                                     |
//! | 60+B+S   | 8        | where the half message lies                                                |
//! | 68+B+S   | 4 + body | body                                                                       |
//! |          | 1 or 2 + | topic                                                                      |
//! |          | 2 +      | properties, at most 32767 bytes                                            |
//!
//! We write V1 and always end the properties with the whole-record checksum: `__CRC32#`, 0x01, the CRC-32 of all that
//! lies before this entry (31 bits, ten decimal digits, the lowest first), 0x02. A record of an append with several
//! carries [`key::UNIT_REMAINING`] before it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
};

use bytes::{Buf, BufMut, Bytes};
use crc32fast::Hasher;

use super::{
    AppendError,
    faults::{Fault, planted},
};
use crate::types::{
    NewMessage, PhysicalOffset, Properties, QueueId, QueueOffset, StoredMessage, SysFlag, Timestamp, TopicName,
    properties::{NAME_END, PROPERTIES_LEN_MAX, VALUE_END, key},
};

pub(super) const MAGIC_V1: u32 = 0xDAA3_20A7;
pub(super) const MAGIC_V2: u32 = 0xDAA3_20AB;
/// Says that the rest of the segment is empty.
pub(super) const MAGIC_BLANK: u32 = 0xCBD4_3194;
/// Bytes of the filler at a segment's end: the bytes that remain, and [`MAGIC_BLANK`].
pub(super) const FILLER_LEN: u64 = 8;
/// Bytes of the checksum entry that ends the properties.
const CHECKSUM_LEN: usize = key::CRC32.len() + 12;
/// Bytes of a unit entry at most: the key, 0x01, the digits of a count, 0x02.
const UNIT_ENTRY_LEN_MAX: usize = key::UNIT_REMAINING.len() + 22;
/// Apache masks every CRC to be a positive Java `int`.
const CRC_MASK: u32 = 0x7FFF_FFFF;
/// Bytes of the smallest record: IPv4 hosts, no body, one letter of topic, no properties.
const RECORD_LEN_MIN: usize = 92;

const QUEUE_OFFSET_AT: usize = 20;
const PHYSICAL_AT: usize = 28;
const BORN_HOST_AT: usize = 48;
/// Up to here a record changes when it is given its place: behind the store time with the longest born host.
const PLACED_LEN: usize = BORN_HOST_AT + 20 + 8;
/// From this size on, the part that no longer changes is summed before the log's lock is taken.
const SUM_AHEAD_LEN: usize = 16 << 10;

/// Why bytes are not a record.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Defect {
    #[error("it ends after {0} bytes")]
    Short(usize),
    #[error("the magic is {0:#010x}")]
    Magic(u32),
    #[error("its lengths do not add up to its size {0}")]
    Lengths(u32),
    #[error("the body's checksum does not match")]
    BodyChecksum,
    #[error("the record's checksum does not match")]
    Checksum,
    #[error("it has no checksum")]
    NoChecksum,
    #[error("it says that it lies at {0}")]
    Place(i64),
    #[error("its {0} cannot be")]
    Field(&'static str),
}

/// Whether a record may come without the whole-record checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Checksum {
    /// It is one of ours.
    Required,
    /// Apache may have written it: its body's checksum then does.
    IfPresent,
}

/// An encoded record that waits for its place.
#[derive(Clone, Debug)]
pub(super) struct Unplaced {
    /// Where it lies in its buffer.
    pub(super) at: usize,
    pub(super) len: usize,
    stored_at: usize,
    properties_at: usize,
    /// CRC of what lies behind [`PLACED_LEN`], for a long record.
    rest: Option<Hasher>,
}

/// Appends a record to `out`, with everything but its place. `remaining` is how many records of the same append follow,
/// for an append of several.
///
/// # Errors
/// [`AppendError::PropertiesTooLarge`]; `out` is then as it was.
pub(super) fn encode(
    out: &mut Vec<u8>,
    message: &NewMessage,
    remaining: Option<usize>,
    store_host: SocketAddr,
) -> Result<Unplaced, AppendError> {
    let at = out.len();
    let sys_flag = message.sys_flag.0 & !(SysFlag::BORN_HOST_V6 | SysFlag::STORE_HOST_V6)
        | v6_bit(message.born_host, SysFlag::BORN_HOST_V6)
        | v6_bit(store_host, SysFlag::STORE_HOST_V6);
    out.put_u32(0);
    out.put_u32(MAGIC_V1);
    out.put_u32(crc32fast::hash(&message.body) & CRC_MASK);
    out.put_u32(message.queue.0);
    out.put_i32(message.flag);
    out.put_u64(0);
    out.put_u64(0);
    out.put_i32(sys_flag);
    out.put_i64(message.born_at.as_millis());
    put_host(out, message.born_host);
    let stored_at = out.len() - at;
    out.put_i64(0);
    put_host(out, store_host);
    out.put_i32(i32::try_from(message.reconsume_times).unwrap_or(i32::MAX));
    out.put_i64(message.prepared_at.map_or(0, PhysicalOffset::to_wire));
    out.put_u32(message.body.len() as u32);
    out.put_slice(&message.body);
    out.put_u8(message.topic.as_str().len() as u8);
    out.put_slice(message.topic.as_str().as_bytes());
    let properties_at = out.len();
    out.put_u16(0);
    put_properties(out, &message.properties, remaining);

    let size = out.len() - properties_at - 2 + CHECKSUM_LEN;
    let Ok(size_wire) = i16::try_from(size) else {
        out.truncate(at);
        return Err(AppendError::PropertiesTooLarge { size, max: PROPERTIES_LEN_MAX });
    };
    out[properties_at..properties_at + 2].copy_from_slice(&size_wire.to_be_bytes());
    let len = out.len() - at + CHECKSUM_LEN;
    out[at..at + 4].copy_from_slice(&(len as u32).to_be_bytes());
    let rest = (len >= SUM_AHEAD_LEN && !planted(Fault::ChecksumSkipsProperties)).then(|| {
        let mut rest = Hasher::new();
        rest.update(&out[at + PLACED_LEN..]);
        rest
    });
    out.put_bytes(0, CHECKSUM_LEN);
    Ok(Unplaced { at, len, stored_at, properties_at: properties_at + 2 - at, rest })
}

impl Unplaced {
    /// Gives the record in `buffer` its place and time and sums it.
    pub(super) fn place(&self, buffer: &mut [u8], physical: PhysicalOffset, queue: QueueOffset, stored_at: Timestamp) {
        let record = &mut buffer[self.at..self.at + self.len];
        record[QUEUE_OFFSET_AT..][..8].copy_from_slice(&queue.to_wire().to_be_bytes());
        record[PHYSICAL_AT..][..8].copy_from_slice(&physical.to_wire().to_be_bytes());
        record[self.stored_at..][..8].copy_from_slice(&stored_at.as_millis().to_be_bytes());
        let sum = match &self.rest {
            Some(rest) => {
                let mut sum = Hasher::new();
                sum.update(&record[..PLACED_LEN]);
                sum.combine(rest);
                sum.finalize() & CRC_MASK
            }
            None => sum(record, self.properties_at),
        };
        put_checksum(&mut record[self.len - CHECKSUM_LEN..], sum);
    }
}

/// The properties, less what is ours to write, with a separator at their end, and the unit entry.
fn put_properties(out: &mut Vec<u8>, properties: &Properties, remaining: Option<usize>) {
    let at = out.len();
    let bytes = properties.encoded();
    // The search for '#' is quick, and no usual property has one behind these letters.
    let may_have = memchr::memchr_iter(b'#', bytes).any(|at| bytes[..=at].ends_with(key::CRC32.as_bytes()));
    if may_have && properties.iter().any(|(name, _)| name == key::CRC32) {
        out.put_slice(properties.without(&[key::CRC32]).build().encoded());
    } else {
        out.put_slice(bytes);
    }
    while let Some((entry, _)) = unit_entry(&out[at..]) {
        out.truncate(at + entry);
    }
    if out.len() > at && out.last() != Some(&VALUE_END) {
        out.put_u8(VALUE_END);
    }
    if let Some(remaining) = remaining {
        out.put_slice(key::UNIT_REMAINING.as_bytes());
        out.put_u8(NAME_END);
        out.put_slice(remaining.to_string().as_bytes());
        out.put_u8(VALUE_END);
    }
}

fn v6_bit(host: SocketAddr, bit: i32) -> i32 {
    if host.ip().to_canonical().is_ipv6() { bit } else { 0 }
}

/// An IPv4 address that came over an IPv6 socket is written as IPv4.
fn put_host(out: &mut Vec<u8>, host: SocketAddr) {
    match host.ip().to_canonical() {
        IpAddr::V4(ip) => out.put_slice(&ip.octets()),
        IpAddr::V6(ip) => out.put_slice(&ip.octets()),
    }
    out.put_u32(u32::from(host.port()));
}

fn put_checksum(entry: &mut [u8], mut sum: u32) {
    entry[..key::CRC32.len()].copy_from_slice(key::CRC32.as_bytes());
    entry[key::CRC32.len()] = NAME_END;
    for digit in &mut entry[key::CRC32.len() + 1..CHECKSUM_LEN - 1] {
        *digit = b'0' + (sum % 10) as u8;
        sum /= 10;
    }
    entry[CHECKSUM_LEN - 1] = VALUE_END;
}

/// The sum in a checksum entry; `None` when the bytes are none.
fn checksum_entry(entry: &[u8]) -> Option<u32> {
    let digits = entry.strip_prefix(key::CRC32.as_bytes())?.strip_prefix(&[NAME_END])?.strip_suffix(&[VALUE_END])?;
    if digits.len() != 10 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let sum = digits.iter().rev().fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    u32::try_from(sum).ok()
}

/// Where the unit entry starts that ends these properties, and what it says.
fn unit_entry(properties: &[u8]) -> Option<(usize, usize)> {
    let entries = properties.strip_suffix(&[VALUE_END])?;
    // No longer entry can be one.
    let from = entries.len().saturating_sub(UNIT_ENTRY_LEN_MAX);
    let at = match entries[from..].iter().rposition(|b| *b == VALUE_END) {
        Some(end) => from + end + 1,
        None if from == 0 => 0,
        None => return None,
    };
    let digits = entries[at..].strip_prefix(key::UNIT_REMAINING.as_bytes())?.strip_prefix(&[NAME_END])?;
    Some((at, std::str::from_utf8(digits).ok()?.parse().ok()?))
}

/// What the first eight bytes at a position say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Head {
    /// A record of that many bytes, if the rest bears it out.
    Record(u32),
    /// The segment ends here.
    Filler,
    /// Neither.
    Nothing,
}

impl Head {
    pub(super) fn read(bytes: [u8; 8]) -> Self {
        let size = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        match u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) {
            MAGIC_V1 | MAGIC_V2 if size as usize >= RECORD_LEN_MIN => Self::Record(size),
            MAGIC_BLANK => Self::Filler,
            _ => Self::Nothing,
        }
    }
}

/// The filler for a segment with `remaining` bytes.
pub(super) fn filler(remaining: u64) -> [u8; FILLER_LEN as usize] {
    let mut filler = [0; FILLER_LEN as usize];
    filler[..4].copy_from_slice(&(remaining as u32).to_be_bytes());
    filler[4..].copy_from_slice(&MAGIC_BLANK.to_be_bytes());
    filler
}

/// Bytes at a record's start in which its store time lies; no record is shorter.
pub(super) const TIMED_LEN: usize = PLACED_LEN;

/// When a record was stored, from its first bytes; `None` when they are no record's.
pub(super) fn stored_at(head: &[u8; TIMED_LEN]) -> Option<Timestamp> {
    let mut rest = &head[4..];
    let magic = rest.try_get_u32().ok()?;
    if magic != MAGIC_V1 && magic != MAGIC_V2 {
        return None;
    }
    let mut rest = &head[PHYSICAL_AT + 8..];
    let sys_flag = SysFlag(rest.try_get_i32().ok()?);
    let host_len = if sys_flag.has(SysFlag::BORN_HOST_V6) { 20 } else { 8 };
    (&head[BORN_HOST_AT + host_len..]).try_get_i64().ok().map(Timestamp::from_millis)
}

/// A record whose lengths and fields were read; see [`Frame::parse`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub(super) queue: QueueId,
    queue_offset: i64,
    physical: i64,
    pub(super) sys_flag: SysFlag,
    pub(super) stored_at: Timestamp,
    /// How many records of the same append follow, when it had several.
    pub(super) remaining: Option<usize>,
    pub(super) topic: Range<usize>,
    /// Without the unit entry and the checksum.
    pub(super) properties: Range<usize>,
    body_crc: u32,
    checksum: Option<u32>,
    flag: i32,
    born_at: Timestamp,
    born_host: SocketAddr,
    store_host: SocketAddr,
    reconsume_times: u32,
    prepared_at: i64,
    body: Range<usize>,
}

impl Frame {
    /// Reads the fields of a record that fills `record`. No checksum is looked at: see [`Self::verify`].
    pub(super) fn parse(record: &[u8]) -> Result<Self, Defect> {
        let short = |_| Defect::Short(record.len());
        let mut rest = record;
        let size = rest.try_get_u32().map_err(short)?;
        if size as usize != record.len() {
            return Err(Defect::Lengths(size));
        }
        let lengths = |_| Defect::Lengths(size);
        let magic = rest.try_get_u32().map_err(short)?;
        if magic != MAGIC_V1 && magic != MAGIC_V2 {
            return Err(Defect::Magic(magic));
        }
        let body_crc = rest.try_get_u32().map_err(lengths)?;
        let queue = rest.try_get_u32().map_err(lengths)?;
        let flag = rest.try_get_i32().map_err(lengths)?;
        let queue_offset = rest.try_get_i64().map_err(lengths)?;
        let physical = rest.try_get_i64().map_err(lengths)?;
        let sys_flag = SysFlag(rest.try_get_i32().map_err(lengths)?);
        let born_at = Timestamp::from_millis(rest.try_get_i64().map_err(lengths)?);
        let born_host = get_host(&mut rest, sys_flag.has(SysFlag::BORN_HOST_V6)).map_err(lengths)?;
        let stored_at = Timestamp::from_millis(rest.try_get_i64().map_err(lengths)?);
        let store_host = get_host(&mut rest, sys_flag.has(SysFlag::STORE_HOST_V6)).map_err(lengths)?;
        let reconsume_times = rest.try_get_i32().map_err(lengths)?;
        let prepared_at = rest.try_get_i64().map_err(lengths)?;
        let body_len = rest.try_get_u32().map_err(lengths)? as usize;
        let body = take(record, &mut rest, body_len).ok_or(Defect::Lengths(size))?;
        let topic_len = match magic {
            MAGIC_V1 => usize::from(rest.try_get_u8().map_err(lengths)?),
            _ => usize::from(rest.try_get_u16().map_err(lengths)?),
        };
        let topic = take(record, &mut rest, topic_len).ok_or(Defect::Lengths(size))?;
        let properties_len = usize::from(rest.try_get_u16().map_err(lengths)?);
        let mut properties = take(record, &mut rest, properties_len).ok_or(Defect::Lengths(size))?;
        if !rest.is_empty() {
            return Err(Defect::Lengths(size));
        }
        let checksum = properties_len
            .checked_sub(CHECKSUM_LEN)
            .and_then(|at| checksum_entry(&record[properties.start + at..properties.end]));
        let mut remaining = None;
        if checksum.is_some() {
            properties.end -= CHECKSUM_LEN;
            if let Some((at, n)) = unit_entry(&record[properties.clone()]) {
                properties.end = properties.start + at;
                remaining = Some(n);
            }
        }
        Ok(Self {
            queue: QueueId(queue),
            queue_offset,
            physical,
            sys_flag,
            stored_at,
            remaining,
            topic,
            properties,
            body_crc,
            checksum,
            flag,
            born_at,
            born_host,
            store_host,
            reconsume_times: u32::try_from(reconsume_times).unwrap_or(0),
            prepared_at,
            body,
        })
    }

    /// Compares the record's checksums and its place with what it says.
    pub(super) fn verify(&self, record: &[u8], at: PhysicalOffset, rule: Checksum) -> Result<(), Defect> {
        match self.checksum {
            Some(stated) if stated == sum(record, self.properties.start) => {}
            Some(_) => return Err(Defect::Checksum),
            None if rule == Checksum::Required => return Err(Defect::NoChecksum),
            // An empty body has the sum 0 in either spelling.
            None if crc32fast::hash(&record[self.body.clone()]) & CRC_MASK != self.body_crc => {
                return Err(Defect::BodyChecksum);
            }
            None => {}
        }
        if self.physical == at.to_wire() { Ok(()) } else { Err(Defect::Place(self.physical)) }
    }

    pub(super) fn queue_offset(&self) -> Result<QueueOffset, Defect> {
        QueueOffset::from_wire(self.queue_offset).ok_or(Defect::Field("queue offset"))
    }

    /// True when the record takes a place in its queue: prepared and rolled back transactions do not.
    pub(super) fn is_queued(&self) -> bool {
        is_queued(self.sys_flag)
    }

    pub(super) fn topic_name(&self, record: &[u8]) -> Result<TopicName, Defect> {
        TopicName::parse_any(self.topic_text(record)?).map_err(|_| Defect::Field("topic"))
    }

    /// The topic as it is written, whether or not a topic can be called so.
    pub(super) fn topic_text<'a>(&self, record: &'a [u8]) -> Result<&'a str, Defect> {
        std::str::from_utf8(&record[self.topic.clone()]).map_err(|_| Defect::Field("topic"))
    }

    pub(super) fn properties_of(&self, record: &Bytes) -> Properties {
        Properties::from_encoded(record.slice(self.properties.clone()))
    }

    pub(super) fn body_of<'a>(&self, record: &'a [u8]) -> &'a [u8] {
        &record[self.body.clone()]
    }

    /// The message, as slices of the record.
    pub(super) fn message(&self, record: &Bytes) -> Result<StoredMessage, Defect> {
        let is_commit = self.sys_flag.0 & SysFlag::TRANSACTION_MASK == SysFlag::TRANSACTION_COMMIT;
        Ok(StoredMessage {
            topic: self.topic_name(record)?,
            queue: self.queue,
            queue_offset: self.queue_offset()?,
            physical: PhysicalOffset::from_wire(self.physical).ok_or(Defect::Place(self.physical))?,
            flag: self.flag,
            sys_flag: self.sys_flag,
            born_at: self.born_at,
            born_host: self.born_host,
            stored_at: self.stored_at,
            store_host: self.store_host,
            reconsume_times: self.reconsume_times,
            prepared_at: PhysicalOffset::from_wire(self.prepared_at).filter(|at| is_commit || at.get() > 0),
            goes_on: self.remaining.is_some_and(|remaining| remaining > 0),
            properties: self.properties_of(record),
            body: record.slice(self.body.clone()),
        })
    }
}

/// See [`Frame::is_queued`].
pub(super) fn is_queued(sys_flag: SysFlag) -> bool {
    !matches!(sys_flag.0 & SysFlag::TRANSACTION_MASK, SysFlag::TRANSACTION_PREPARED | SysFlag::TRANSACTION_ROLLBACK)
}

/// Reads a record, checks it wholly, and gives the message.
pub(super) fn decode(record: &Bytes, at: PhysicalOffset, rule: Checksum) -> Result<StoredMessage, Defect> {
    let frame = Frame::parse(record)?;
    frame.verify(record, at, rule)?;
    frame.message(record)
}

/// The sum of a record that ends with a checksum entry: over all that lies before it.
fn sum(record: &[u8], properties_at: usize) -> u32 {
    let end = if planted(Fault::ChecksumSkipsProperties) { properties_at } else { record.len() - CHECKSUM_LEN };
    crc32fast::hash(&record[..end]) & CRC_MASK
}

/// Moves `rest`, a tail of `record`, on by `len` and says what was passed.
fn take(record: &[u8], rest: &mut &[u8], len: usize) -> Option<Range<usize>> {
    let start = record.len() - rest.len();
    *rest = rest.get(len..)?;
    Some(start..start + len)
}

fn get_host(rest: &mut &[u8], is_v6: bool) -> Result<SocketAddr, bytes::TryGetError> {
    let ip = if is_v6 {
        IpAddr::V6(Ipv6Addr::from_bits(rest.try_get_u128()?))
    } else {
        IpAddr::V4(Ipv4Addr::from_bits(rest.try_get_u32()?))
    };
    // Java keeps the port in an int; a port has 16 bits.
    Ok(SocketAddr::new(ip, rest.try_get_u32()? as u16))
}

#[cfg(test)]
mod tests;
