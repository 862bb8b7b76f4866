//! What a group has before it on a LITE topic.

use std::collections::{HashMap, HashSet};

use super::{CHUNK, Parent};
use crate::{
    broker::{Broker, ReadError, pop::QueueBook},
    types::{LiteId, QueueOffset},
};

/// Messages that are not done, of the lite topics that the group has begun with or that its clients want: what nobody of the
/// group wants is none of its business.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiteLag {
    pub lag: u64,
    /// The first of them in the queue.
    pub undone: Option<QueueOffset>,
    /// The first that is neither in flight nor waits for an attempt.
    pub unread: Option<QueueOffset>,
}

impl Broker {
    /// Waits for the disk; takes no lock for longer than a thousand lite topics need.
    pub(in crate::broker) fn lite_lag(&self, book: &QueueBook, parent: &Parent) -> Result<LiteLag, ReadError> {
        parent.catch_up(self.inner.clock.now())?;
        let held = book.held();
        let ids = held.iter().filter_map(|(_, id)| *id);
        let mut lanes: HashMap<LiteId, QueueOffset> = ids.map(|id| (id, QueueOffset::ZERO)).collect();
        lanes.extend(book.cursors());
        let held: HashSet<QueueOffset> = held.into_iter().map(|(offset, _)| offset).collect();
        for id in parent.wanted_by(&book.owner.group) {
            lanes.entry(id).or_default();
        }
        let (commit, min) = (book.open().book.commit(), book.queue.min());
        let lanes: Vec<_> = lanes.into_iter().collect();
        let mut found = LiteLag::default();
        for lanes in lanes.chunks(CHUNK) {
            let index = parent.known();
            for (id, cursor) in lanes {
                let (count, first) = index.from(*id, (*cursor).max(commit).max(min));
                let Some(first) = first else { continue };
                // One message of a lite topic is on its way at a time.
                let unread =
                    Some(first).filter(|first| !held.contains(first)).or_else(|| index.next(*id, first.plus(1)));
                found.lag += count;
                found.undone = Some(found.undone.map_or(first, |before| before.min(first)));
                found.unread = [found.unread, unread].into_iter().flatten().min();
            }
        }
        // What was done before its turn.
        found.lag = found.lag.saturating_sub(book.open().book.done_by_itself(min));
        Ok(found)
    }
}
