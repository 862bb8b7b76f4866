//! Messages by their keys.

use std::ops::{ControlFlow, RangeInclusive};

use super::{ReadError, Store, index_file::Places, indexing::keys};
use crate::types::{PhysicalOffset, StoredMessage, Timestamp, TopicName, properties::key};

/// Whenever it was.
pub(super) const ANY_TIME: RangeInclusive<Timestamp> =
    Timestamp::from_millis(i64::MIN)..=Timestamp::from_millis(i64::MAX);
/// Places that are asked of the index at once.
const CHUNK: usize = 512;

/// What is looked for by key.
#[derive(Clone, Debug)]
pub struct Sought<'a> {
    pub topic: &'a TopicName,
    /// One of the `KEYS`, or the `UNIQ_KEY`.
    pub key: &'a str,
    pub stored: RangeInclusive<Timestamp>,
    /// Records that lie before this alone.
    pub below: PhysicalOffset,
}

impl<'a> Sought<'a> {
    /// Whenever and wherever it was stored.
    pub fn any(topic: &'a TopicName, key: &'a str) -> Self {
        Self { topic, key, stored: ANY_TIME, below: PhysicalOffset::MAX }
    }

    /// Whether a message is one of these.
    pub(super) fn is(&self, message: &StoredMessage) -> bool {
        let mut all = message.message_id().into_iter().chain(keys(message.properties.get(key::KEYS)));
        message.topic == *self.topic && self.stored.contains(&message.stored_at) && all.any(|key| key == self.key)
    }
}

impl Store {
    /// Walks over the places where what is sought may lie, the newest first, with the message where there is one, until it
    /// is told to stop; true when it came to the end. Now and then there is a place without a message, so that who walks can
    /// look at the time. It waits for the disk. There is nothing when keys are not indexed.
    pub fn walk_key(
        &self,
        mut sought: Sought<'_>,
        mut each: impl FnMut(PhysicalOffset, Option<StoredMessage>) -> ControlFlow<()>,
    ) -> Result<bool, ReadError> {
        loop {
            let Places { found, cut_at } = self.core.keyed(&sought, CHUNK)?;
            let is_end = cut_at.is_none() && found.len() < CHUNK;
            for at in &found {
                // A key that a message has twice is there twice.
                if *at < sought.below {
                    sought.below = *at;
                    if each(*at, self.core.keyed_at(&sought, *at)?).is_break() {
                        return Ok(false);
                    }
                }
            }
            if is_end {
                return Ok(true);
            }
            // What it stopped at may be the last that it found.
            if let Some(at) = cut_at.filter(|at| *at < sought.below) {
                sought.below = at;
                if each(at, None).is_break() {
                    return Ok(false);
                }
            }
        }
    }

    /// Messages that are sought and wanted, the newest first, at most `max`, of the newest `looked_at_max` that may be sought.
    /// It waits for the disk.
    pub fn find(
        &self,
        sought: Sought<'_>,
        max: usize,
        looked_at_max: usize,
        mut wanted: impl FnMut(&StoredMessage) -> bool,
    ) -> Result<Vec<StoredMessage>, ReadError> {
        let (mut found, mut looked_at) = (Vec::new(), 0);
        self.walk_key(sought, |_, message| {
            found.extend(message.filter(&mut wanted));
            looked_at += 1;
            match found.len() >= max || looked_at >= looked_at_max {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        Ok(found)
    }
}
