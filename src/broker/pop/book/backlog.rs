//! What a group has before it on one queue, counted.

use std::ops::Range;

use crate::types::{Deadline, QueueOffset};

use super::{Book, Exception};

/// Messages of one queue that a group has not done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Delivered and not acknowledged: on their way, waiting for a retry that is not due, or for the dead-letter topic.
    pub in_flight: u64,
    /// Deliverable now; in order, what waits behind others of its message group too.
    pub ready: u64,
    /// The first of those.
    pub oldest_ready: Option<QueueOffset>,
}

impl Book {
    /// The backlog on a queue that has the messages from `min` to `end`. It looks at each exception once.
    pub fn backlog(&mut self, min: QueueOffset, end: QueueOffset, now: Deadline) -> Backlog {
        let fresh = Some(self.next().max(min)).filter(|next| *next < end);
        // Behind the commit offset when retention was faster.
        let from = self.commit.max(min).min(end);
        let done: u64 = self.done.iter().map(|range| range.start.max(from).until(range.end.min(end))).sum();
        let (in_flight, due) = self.on_their_way(from..end, now);
        let undone = from.until(end).saturating_sub(done);
        let oldest_ready = [due, fresh].into_iter().flatten().min();
        Backlog { in_flight, ready: undone.saturating_sub(in_flight), oldest_ready }
    }

    /// Of these messages, how many are on their way, and the first that is due again.
    pub fn on_their_way(&self, among: Range<QueueOffset>, now: Deadline) -> (u64, Option<QueueOffset>) {
        let (mut in_flight, mut due) = (0, None::<QueueOffset>);
        for (offset, exception) in self.exceptions.range(among) {
            match exception {
                Exception::Waiting { due: at, .. } if *at <= now => due = due.or(Some(*offset)),
                _ => in_flight += 1,
            }
        }
        (in_flight, due)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(n: u64) -> QueueOffset {
        QueueOffset::new(n)
    }

    #[test]
    fn a_backlog_is_what_is_neither_done_nor_on_its_way() {
        let mut book = Book::starting_at(at(2));
        let (now, later) = (Deadline::from_micros(5), Deadline::from_micros(50));
        assert_eq!(book.backlog(at(0), at(2), now), Backlog::default());
        assert_eq!(book.backlog(at(0), at(10), now), Backlog { in_flight: 0, ready: 8, oldest_ready: Some(at(2)) });
        for offset in 2..7 {
            book.deliver(at(offset), 1, later);
        }
        book.done(at(3)..at(5));
        book.retry(at(5), 2, now, 3);
        book.retry(at(6), 2, later, 3);
        // 2 is on its way, 5 is due, 6 waits, 7 to 9 were never delivered.
        assert_eq!(book.backlog(at(0), at(10), now), Backlog { in_flight: 2, ready: 4, oldest_ready: Some(at(5)) });
        let all_due = later.plus(Duration::from_micros(1));
        assert_eq!(book.backlog(at(0), at(10), all_due), Backlog { in_flight: 1, ready: 5, oldest_ready: Some(at(5)) });
    }

    #[test]
    fn what_retention_deleted_is_no_backlog() {
        let mut book = Book::starting_at(at(2));
        let (now, later) = (Deadline::from_micros(5), Deadline::from_micros(50));
        for offset in 2..7 {
            book.deliver(at(offset), 1, later);
        }
        book.done(at(3)..at(6));
        assert_eq!(book.backlog(at(4), at(10), now), Backlog { in_flight: 1, ready: 3, oldest_ready: Some(at(7)) });
        assert_eq!(book.backlog(at(8), at(10), now), Backlog { in_flight: 0, ready: 2, oldest_ready: Some(at(8)) });
        assert_eq!(book.backlog(at(10), at(10), now), Backlog::default());
        for min in 2..10 {
            let backlog = book.backlog(at(min), at(10), now);
            assert_eq!(backlog.in_flight + backlog.ready, book.undone(at(min), at(10)), "{min}");
        }
    }
}
