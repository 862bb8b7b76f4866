//! What the system topic [`SETTLE_TOPIC`](crate::broker::metadata::SETTLE_TOPIC) holds: one record for each thing that must survive a crash about consumption.
//!
//! A record is a message in queue 0 without properties. Its body, after the version byte, with numbers and texts as
//! [`codec`](super::codec) spells them:
//!
//! | kind | then |
//! |---|---|
//! | 1 done | topic, group, count of queues, for each: queue, count of ranges, for each: distance from the last range's end, length |
//! | 2 retry | topic, group, count, for each: queue, offset, next attempt, visible at (wall clock, ms), delay (ms) |
//! | 3 start | topic, group, count, for each: queue, offset |
//! | 4 forget topic | topic |
//! | 5 forget group | group |
//! | 6 reset | topic, group, count, for each: queue, offset, run and nonce of the last receipt that is void |
//! | 7 forget subscription | topic, group |
//! | 8 | as 2: how the end of a lease was written before there was 12 |
//! | 9 forget members | group |
//! | 10 lanes | topic, group, count, for each: queue, id of a lite topic, offset behind its message that is done now |
//! | 11 rewind | topic, group, count, for each: queue, id of a lite topic, offset from which on it is not done; then count of attempts that are void, for each: queue, offset |
//! | 12 leased | topic, group, count, for each: queue, offset, attempt, run and nonce of its receipt, end of the lease (wall clock, ms), length (ms) |
//!
//! The group of a record may be a member, `<group>@<client>`: one client of a broadcasting group.
//!
//! Replaying a record twice, or replaying it onto a book that already knows it and later ones, and then the later ones
//! again, gives the same book: done is final, the last retry or lease of an offset wins, a start counts only for a book that is
//! not there, and a reset leaves nothing of what was before it. Of a lite topic the last offset wins; a message that moved
//! it on, or that a rewind names, has no attempt on record any more.

use std::{ops::Range, time::Duration};

use bytes::Bytes;

use crate::types::{GroupName, LiteId, QueueId, QueueOffset, Timestamp, TopicName};

use super::{
    book::Issue,
    codec::{Malformed, Reader, Result, Writer},
};

/// Of the body's layout.
const VERSION: u8 = 1;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub topic: TopicName,
    pub group: GroupName,
    pub what: What,
}

/// What it says of its topic and group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// These are consumed; they never come again.
    Done(Vec<(QueueId, Vec<Range<QueueOffset>>)>),
    /// These deliveries failed, or are to come again.
    Retry(Vec<Retry>),
    /// Where a new group begins.
    Start(Vec<(QueueId, QueueOffset)>),
    /// The group goes on from elsewhere.
    Reset(Vec<Reset>),
    /// These were delivered, and nobody else gets them until the lease ends.
    Leased(Vec<Lease>),
    /// The messages just before these places in lite topics are done, and with them all that is before.
    Lanes(Vec<LaneAt>),
    /// The group goes on elsewhere in lite topics; these are their messages whose attempts are void.
    Rewind { lanes: Vec<LaneAt>, void: Vec<(QueueId, QueueOffset)> },
}

/// Where a group is in a lite topic: what is before is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneAt {
    pub queue: QueueId,
    pub id: LiteId,
    pub to: QueueOffset,
}

/// Where a group goes on in a queue; nothing from before it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    pub queue: QueueId,
    pub to: QueueOffset,
    /// The last receipt that is void.
    pub void: Issue,
}

/// When a message comes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    pub queue: QueueId,
    pub offset: QueueOffset,
    /// The attempt that comes.
    pub attempt: u32,
    /// By the wall clock, rounded up.
    pub visible_at: Timestamp,
    /// How long that was when it was written: a stepped clock cannot make the wait longer than this.
    pub delay: Duration,
}

/// A delivery, and how long it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub queue: QueueId,
    pub offset: QueueOffset,
    /// The attempt that it is.
    pub attempt: u32,
    /// Which receipt settles it, and no other.
    pub issue: Issue,
    /// By the wall clock, rounded up.
    pub ends_at: Timestamp,
    /// How long that was when it was written: a stepped clock cannot make the lease longer than this.
    pub left: Duration,
}

/// Anything that the topic can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Record(Record),
    ForgetTopic(TopicName),
    ForgetGroup(GroupName),
    /// Of this group on this topic alone.
    ForgetSubscription(TopicName, GroupName),
    /// Of the clients of this group, which is not broadcasting any more.
    ForgetMembers(GroupName),
}

impl Entry {
    /// The body.
    pub fn encode(&self) -> Bytes {
        let mut w = Writer(Vec::with_capacity(64));
        w.byte(VERSION);
        match self {
            Self::Record(record) => record.encode(&mut w),
            Self::ForgetTopic(topic) => {
                w.byte(4);
                w.text(topic.as_str());
            }
            Self::ForgetGroup(group) => {
                w.byte(5);
                w.text(group.as_str());
            }
            Self::ForgetSubscription(topic, group) => {
                w.byte(7);
                w.text(topic.as_str());
                w.text(group.as_str());
            }
            Self::ForgetMembers(group) => {
                w.byte(9);
                w.text(group.as_str());
            }
        }
        w.0.into()
    }

    /// Reads a body back.
    pub fn decode(body: &[u8]) -> Result<Self> {
        let mut r = Reader(body);
        if r.byte()? != VERSION {
            return Err(Malformed { what: "the version of a settle record" });
        }
        let entry = match r.byte()? {
            4 => Self::ForgetTopic(r.topic()?),
            5 => Self::ForgetGroup(r.group()?),
            7 => Self::ForgetSubscription(r.topic()?, r.group()?),
            9 => Self::ForgetMembers(r.group()?),
            kind => {
                let (topic, group) = (r.topic()?, r.group()?);
                Self::Record(Record { topic, group, what: What::decode(kind, &mut r)? })
            }
        };
        r.finish()?;
        Ok(entry)
    }
}

impl Record {
    fn encode(&self, w: &mut Writer) {
        w.byte(match &self.what {
            What::Done(_) => 1,
            What::Retry(_) => 2,
            What::Start(_) => 3,
            What::Reset(_) => 6,
            What::Lanes(_) => 10,
            What::Rewind { .. } => 11,
            What::Leased(_) => 12,
        });
        w.text(self.topic.as_str());
        w.text(self.group.as_str());
        match &self.what {
            What::Done(queues) => {
                w.number(queues.len() as u64);
                for (queue, ranges) in queues {
                    w.number(u64::from(queue.0));
                    w.ranges(ranges);
                }
            }
            What::Retry(retries) => {
                w.number(retries.len() as u64);
                for retry in retries {
                    w.number(u64::from(retry.queue.0));
                    w.number(retry.offset.get());
                    w.number(u64::from(retry.attempt));
                    w.time(retry.visible_at);
                    w.length(retry.delay);
                }
            }
            What::Leased(leases) => {
                w.number(leases.len() as u64);
                for lease in leases {
                    w.number(u64::from(lease.queue.0));
                    lease.encode(w);
                }
            }
            What::Start(starts) => {
                w.number(starts.len() as u64);
                for (queue, offset) in starts {
                    w.number(u64::from(queue.0));
                    w.number(offset.get());
                }
            }
            What::Reset(resets) => {
                w.number(resets.len() as u64);
                for reset in resets {
                    w.number(u64::from(reset.queue.0));
                    w.number(reset.to.get());
                    w.number(reset.void.run);
                    w.number(u64::from(reset.void.nonce));
                }
            }
            What::Lanes(lanes) => LaneAt::encode_all(lanes, w),
            What::Rewind { lanes, void } => {
                LaneAt::encode_all(lanes, w);
                w.number(void.len() as u64);
                for (queue, offset) in void {
                    w.number(u64::from(queue.0));
                    w.number(offset.get());
                }
            }
        }
    }
}

impl What {
    fn decode(kind: u8, r: &mut Reader<'_>) -> Result<Self> {
        let count = r.count()?;
        Ok(match kind {
            1 => Self::Done((0..count).map(|_| Ok((r.queue()?, r.ranges()?))).collect::<Result<_>>()?),
            2 | 8 => Self::Retry((0..count).map(|_| Retry::decode(r)).collect::<Result<_>>()?),
            3 => Self::Start((0..count).map(|_| Ok((r.queue()?, r.offset()?))).collect::<Result<_>>()?),
            6 => Self::Reset((0..count).map(|_| Reset::decode(r)).collect::<Result<_>>()?),
            10 => Self::Lanes((0..count).map(|_| LaneAt::decode(r)).collect::<Result<_>>()?),
            11 => {
                let lanes = (0..count).map(|_| LaneAt::decode(r)).collect::<Result<_>>()?;
                let void = (0..r.count()?).map(|_| Ok((r.queue()?, r.offset()?))).collect::<Result<_>>()?;
                Self::Rewind { lanes, void }
            }
            12 => Self::Leased(
                (0..count).map(|_| r.queue().and_then(|queue| Lease::decode(queue, r))).collect::<Result<_>>()?,
            ),
            _ => return Err(Malformed { what: "the kind of a settle record" }),
        })
    }
}

impl LaneAt {
    fn encode_all(lanes: &[Self], w: &mut Writer) {
        w.number(lanes.len() as u64);
        for lane in lanes {
            w.number(u64::from(lane.queue.0));
            w.number(lane.id.number());
            w.number(lane.to.get());
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self> {
        Ok(Self { queue: r.queue()?, id: LiteId::from_number(r.number()?), to: r.offset()? })
    }
}

impl Reset {
    fn decode(r: &mut Reader<'_>) -> Result<Self> {
        let (queue, to) = (r.queue()?, r.offset()?);
        Ok(Self { queue, to, void: Issue { run: r.number()?, nonce: r.small()? } })
    }
}

impl Retry {
    fn decode(r: &mut Reader<'_>) -> Result<Self> {
        Ok(Self {
            queue: r.queue()?,
            offset: r.offset()?,
            attempt: r.small()?,
            visible_at: r.time()?,
            delay: r.length()?,
        })
    }
}

impl Lease {
    /// All but the queue.
    pub fn encode(&self, w: &mut Writer) {
        w.number(self.offset.get());
        w.number(u64::from(self.attempt));
        w.number(self.issue.run);
        w.number(u64::from(self.issue.nonce));
        w.time(self.ends_at);
        w.length(self.left);
    }

    pub fn decode(queue: QueueId, r: &mut Reader<'_>) -> Result<Self> {
        let (offset, attempt) = (r.offset()?, r.small()?);
        let issue = Issue { run: r.number()?, nonce: r.small()? };
        Ok(Self { queue, offset, attempt, issue, ends_at: r.time()?, left: r.length()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::broker::offsets::QUEUES_MAX;

    fn ranges() -> impl Strategy<Value = Vec<Range<QueueOffset>>> {
        vec((1u64..1 << 40, 1u64..1 << 20), 1..6).prop_map(|steps| {
            let mut last = 0;
            let range = |(gap, len): (u64, u64)| {
                let start = last + gap;
                last = start + len;
                QueueOffset::new(start)..QueueOffset::new(last)
            };
            steps.into_iter().map(range).collect()
        })
    }

    fn what() -> impl Strategy<Value = What> {
        let place = || ((0..QUEUES_MAX).prop_map(QueueId), (0u64..1 << 62).prop_map(QueueOffset::new));
        let retry = || {
            (place(), any::<u32>(), 0i64..i64::MAX, any::<u64>()).prop_map(|((queue, offset), attempt, at, d)| Retry {
                queue,
                offset,
                attempt,
                visible_at: Timestamp::from_millis(at),
                delay: Duration::from_millis(d),
            })
        };
        let lane =
            || (place(), any::<u64>()).prop_map(|((queue, to), id)| LaneAt { queue, id: LiteId::from_number(id), to });
        prop_oneof![
            vec(((0..QUEUES_MAX).prop_map(QueueId), ranges()), 1..5).prop_map(What::Done),
            vec(retry(), 1..5).prop_map(What::Retry),
            vec((retry(), any::<u64>(), any::<u32>()), 1..5).prop_map(|leases| {
                let lease = |(Retry { queue, offset, attempt, visible_at, delay }, run, nonce)| {
                    let issue = Issue { run, nonce };
                    Lease { queue, offset, attempt, issue, ends_at: visible_at, left: delay }
                };
                What::Leased(leases.into_iter().map(lease).collect())
            }),
            vec(place(), 1..5).prop_map(What::Start),
            vec((place(), any::<u64>(), any::<u32>()), 1..5).prop_map(|resets| {
                let reset = |((queue, to), run, nonce)| Reset { queue, to, void: Issue { run, nonce } };
                What::Reset(resets.into_iter().map(reset).collect())
            }),
            vec(lane(), 1..5).prop_map(What::Lanes),
            (vec(lane(), 1..5), vec(place(), 0..5)).prop_map(|(lanes, void)| What::Rewind { lanes, void }),
        ]
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let topic = || "[A-Za-z0-9_%-]{1,127}".prop_map(|t| TopicName::parse_any(&t).expect("a name"));
        let group = || "G[A-Za-z0-9_-]{0,119}(@[!-~]{1,99})?".prop_map(|g| GroupName::parse_any(&g).expect("a name"));
        prop_oneof![
            (topic(), group(), what()).prop_map(|(topic, group, what)| Entry::Record(Record { topic, group, what })),
            topic().prop_map(Entry::ForgetTopic),
            group().prop_map(Entry::ForgetGroup),
            group().prop_map(Entry::ForgetMembers),
            (topic(), group()).prop_map(|(topic, group)| Entry::ForgetSubscription(topic, group)),
        ]
    }

    proptest! {
        #[test]
        fn a_record_is_read_back_as_it_was_written(entry in entry()) {
            prop_assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
        }

        #[test]
        fn damaged_bytes_never_panic(entry in entry(), at in any::<prop::sample::Index>(), byte: u8, cut: bool) {
            let mut body = entry.encode().to_vec();
            let at = at.index(body.len());
            body[at] = byte;
            if cut {
                body.truncate(at);
            }
            let _ = Entry::decode(&body);
        }

        #[test]
        fn any_bytes_never_panic(body in vec(any::<u8>(), 0..200)) {
            let _ = Entry::decode(&body);
        }
    }

    #[test]
    fn an_ack_costs_a_few_bytes_more_than_the_names() {
        let done = What::Done(vec![(QueueId(3), vec![QueueOffset::new(1_000_000)..QueueOffset::new(1_000_001)])]);
        let (topic, group) =
            (TopicName::parse("orders").expect("a name"), GroupName::parse("billing").expect("a name"));
        let body = Entry::Record(Record { topic, group, what: done }).encode();
        assert_eq!(body.len(), 2 + 1 + 6 + 1 + 7 + 1 + 1 + 1 + 3 + 1);
    }
}
