//! Messages by their id and their keys, out of the index.

use super::{Broker, LookError};
use crate::{
    store::ReadError,
    types::{PhysicalOffset, StoredMessage, Timestamp, TopicName, properties::key},
};

/// Messages that one search finds at most.
pub const FOUND_MAX: usize = 64;
/// An id that the server made itself ends with where the message lies: 16 hexadecimal digits, behind the store's host and
/// port (`MessageDecoder.createMessageId`), which have 16 for IPv4 and 40 for IPv6.
const OFFSET_DIGITS: usize = 16;
const OFFSET_ID_LENS: [usize; 2] = [32, 56];

impl Broker {
    /// Messages of a topic with this id, newest first, at most 64: an id is its producer's choice, and a send that was
    /// repeated is stored twice. Of a message whose producer gave none, the id that consumers are told.
    pub fn find_by_id(&self, topic: &TopicName, id: &str) -> Result<Vec<StoredMessage>, LookError> {
        self.existing(topic)?;
        if let Some(message) = self.at_offset_id(topic, id)? {
            return Ok(vec![message]);
        }
        let mut found = self.with_key(topic, id)?;
        found.retain(|message| message.message_id() == Some(id));
        Ok(found)
    }

    /// Messages of a topic with this key, stored from `from` to `to`, newest first, at most 64.
    pub fn find_by_key(
        &self,
        topic: &TopicName,
        wanted: &str,
        (from, to): (Timestamp, Timestamp),
    ) -> Result<Vec<StoredMessage>, LookError> {
        self.existing(topic)?;
        let mut found = self.with_key(topic, wanted)?;
        let has = |message: &StoredMessage| {
            message.properties.get(key::KEYS).unwrap_or_default().split(' ').any(|key| key == wanted)
        };
        found.retain(|message| has(message) && (from..=to).contains(&message.stored_at));
        Ok(found)
    }

    pub(in crate::broker) fn with_key(&self, topic: &TopicName, key: &str) -> Result<Vec<StoredMessage>, LookError> {
        if !self.inner.store.is_indexed() {
            return Err(LookError::NotIndexed);
        }
        Ok(self.inner.store.find(topic, key, FOUND_MAX)?)
    }

    /// The message at the place that an id of the server's own making names.
    fn at_offset_id(&self, topic: &TopicName, id: &str) -> Result<Option<StoredMessage>, LookError> {
        let Some(at) = place_of(id) else { return Ok(None) };
        match self.inner.store.message_at(at) {
            // A place inside of a record does not read as one.
            Err(ReadError::Gone(_) | ReadError::Corrupt { .. }) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(message) => Ok(Some(message).filter(|m| m.topic == *topic && m.message_id().is_none())),
        }
    }
}

fn place_of(id: &str) -> Option<PhysicalOffset> {
    if !OFFSET_ID_LENS.contains(&id.len()) || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let place = u64::from_str_radix(&id[id.len() - OFFSET_DIGITS..], 16).ok()?;
    Some(PhysicalOffset::new(place)).filter(|at| *at <= PhysicalOffset::MAX)
}
