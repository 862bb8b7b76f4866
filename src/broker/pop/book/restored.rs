//! What a book that comes back from disk must be told.

use super::{Book, Exception};
use crate::types::QueueOffset;

impl Book {
    /// Dooms what waits for an attempt that it will not get. What was restored does not know its group's limit.
    pub fn limit_attempts(&mut self, max_attempts: u32) {
        let over = |(offset, exception): (&QueueOffset, &Exception)| match *exception {
            Exception::Waiting { due, attempt, .. } if attempt > max_attempts => Some((*offset, attempt, due)),
            _ => None,
        };
        let over: Vec<_> = self.exceptions.iter().filter_map(over).collect();
        over.into_iter().for_each(|(offset, attempt, due)| self.retry(offset, attempt, due, max_attempts));
    }

    /// Forgets what lies at and behind the queue's end: it was lost with the tail of the log, and other messages will
    /// have these offsets. True when there was something.
    pub fn truncate(&mut self, end: QueueOffset) -> bool {
        let beyond = self.exceptions.split_off(&end);
        for (offset, exception) in &beyond {
            self.untime(*offset, exception);
        }
        self.lines = None;
        let cut_lanes = self.lanes.as_mut().is_some_and(|lanes| lanes.truncate(end));
        let cut =
            cut_lanes || !beyond.is_empty() || self.commit > end || self.done.end().is_some_and(|last| last > end);
        self.done.truncate(end);
        self.commit = self.commit.min(end);
        self.next = self.next.min(end);
        self.touched = self.touched.min(end);
        cut
    }
}
