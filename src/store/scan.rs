//! Walks the records of the log in order and finds where they end.

use std::{
    io,
    ops::{ControlFlow, Range},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    record::{Checksum, Defect, FILLER_LEN, Frame, Head},
    segment::Segment,
    segments::Segments,
};
use crate::types::{PhysicalOffset, Timestamp};

/// Bytes read at once.
const CHUNK: u64 = 1 << 20;

/// A record that was read and whose checksums are right.
pub(super) struct Scanned {
    pub(super) at: PhysicalOffset,
    pub(super) frame: Frame,
    pub(super) bytes: Bytes,
}

/// Where and why a walk ended.
#[derive(Debug, Default)]
pub(super) struct End {
    /// Behind the last whole unit.
    pub(super) at: PhysicalOffset,
    pub(super) records: u64,
    /// Why what lies there is no record; `None` where the log's files end.
    pub(super) defect: Option<Defect>,
}

/// Reads every record of a range, which must begin where a unit does, and hands over those of whole units; below
/// `apache_until` a record may lack our checksum. A unit that the range ends in is read to its end; where the log ends,
/// up to its last whole unit. When it is told to stop within a unit, the walk has ended before that unit.
///
/// # Errors
/// Only what reading says: bytes that are no record end the walk.
pub(super) fn scan(
    segments: &Segments,
    range: Range<PhysicalOffset>,
    apache_until: PhysicalOffset,
    mut each: impl FnMut(&Scanned) -> ControlFlow<()>,
) -> io::Result<End> {
    let mut end = End { at: range.start, ..End::default() };
    let mut unit: Vec<Scanned> = Vec::new();
    let mut at = range.start;
    while let Some(segment) = segments.find(at).filter(|_| at < range.end) {
        let mut window = Window::new(segment);
        let stop = loop {
            if at >= range.end && unit.is_empty() {
                break None;
            }
            match window.next(at, apache_until)? {
                Next::Record(frame, bytes) => {
                    let expected = unit.last().and_then(|last: &Scanned| last.frame.remaining).map(|n| n - 1);
                    if expected.is_some() && frame.remaining != expected {
                        break Some(Defect::Lengths(bytes.len() as u32));
                    }
                    let is_last = matches!(frame.remaining, None | Some(0));
                    let next = at.plus(bytes.len() as u64);
                    unit.push(Scanned { at, frame, bytes });
                    at = next;
                    if is_last {
                        if unit.iter().try_for_each(&mut each).is_break() {
                            return Ok(end);
                        }
                        end.records += unit.len() as u64;
                        unit.clear();
                        end.at = at;
                    }
                }
                Next::SegmentEnd(next) => {
                    at = next;
                    break None;
                }
                Next::Defect(defect) => break Some(defect),
            }
        };
        // A unit lies in one segment.
        if stop.is_some() || !unit.is_empty() {
            end.defect = stop.or(Some(Defect::Short(0)));
            return Ok(end);
        }
        end.at = at;
    }
    Ok(end)
}

/// Store time of a segment's first record; `None` when there is none, or it is damaged. Reads no more than that record.
pub(super) fn first_stored_at(segment: &Segment) -> io::Result<Option<Timestamp>> {
    let mut head = [0; 8];
    segment.read_into(segment.base(), &mut head)?;
    let Head::Record(size) = Head::read(head) else { return Ok(None) };
    if u64::from(size) + FILLER_LEN > segment.len() {
        return Ok(None);
    }
    let mut record = vec![0; size as usize];
    segment.read_into(segment.base(), &mut record)?;
    let frame = Frame::parse(&record)
        .and_then(|frame| frame.verify(&record, segment.base(), Checksum::IfPresent).map(|()| frame));
    Ok(frame.ok().map(|frame| frame.stored_at))
}

#[expect(clippy::large_enum_variant, reason = "nearly every one is a record")]
enum Next {
    Record(Frame, Bytes),
    /// The position behind the segment.
    SegmentEnd(PhysicalOffset),
    Defect(Defect),
}

/// A piece of a segment, read ahead.
struct Window {
    segment: Arc<Segment>,
    at: PhysicalOffset,
    bytes: Bytes,
}

impl Window {
    fn new(segment: Arc<Segment>) -> Self {
        Self { at: segment.base(), segment, bytes: Bytes::new() }
    }

    fn next(&mut self, at: PhysicalOffset, apache_until: PhysicalOffset) -> io::Result<Next> {
        let left = at.until(self.segment.end());
        if left < FILLER_LEN {
            return Ok(Next::SegmentEnd(self.segment.end()));
        }
        let head = self.bytes(at, FILLER_LEN)?;
        match Head::read([head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7]]) {
            Head::Filler => {
                let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
                let is_whole = u64::from(size) == left;
                Ok(if is_whole { Next::SegmentEnd(self.segment.end()) } else { Next::Defect(Defect::Lengths(size)) })
            }
            Head::Record(size) if u64::from(size) + FILLER_LEN <= left => {
                let record = self.bytes(at, u64::from(size))?;
                let rule = if at < apache_until { Checksum::IfPresent } else { Checksum::Required };
                let frame = Frame::parse(&record).and_then(|frame| frame.verify(&record, at, rule).map(|()| frame));
                Ok(frame.map_or_else(Next::Defect, |frame| Next::Record(frame, record)))
            }
            Head::Record(size) => Ok(Next::Defect(Defect::Lengths(size))),
            Head::Nothing => Ok(Next::Defect(Defect::Magic(u32::from_be_bytes([head[4], head[5], head[6], head[7]])))),
        }
    }

    fn bytes(&mut self, at: PhysicalOffset, len: u64) -> io::Result<Bytes> {
        let start = self.at.until(at) as usize;
        if at < self.at || start + len as usize > self.bytes.len() {
            let left = at.until(self.segment.end());
            let mut chunk = vec![0; CHUNK.max(len).min(left) as usize];
            self.segment.read_into(at, &mut chunk)?;
            (self.bytes, self.at) = (chunk.into(), at);
            return Ok(self.bytes.slice(..len as usize));
        }
        Ok(self.bytes.slice(start..start + len as usize))
    }
}
