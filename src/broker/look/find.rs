//! Messages by their id and their keys, out of the index.

use std::ops::ControlFlow;

use super::{Broker, Browse, Cursor, LookError, Page};
use crate::{
    store::{ReadError, Sought},
    types::{PhysicalOffset, StoredMessage, TopicName, properties::key},
};

/// Messages of one id that are found, and messages with it as an id or a key that are looked at for them.
const FOUND_MAX: usize = 64;
const LOOKED_AT_MAX: usize = 20_000;
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
        self.require_index()?;
        let has = |message: &StoredMessage| message.message_id() == Some(id);
        Ok(self.inner.store.find(Sought::any(topic, id), FOUND_MAX, LOOKED_AT_MAX, has)?)
    }

    /// A page of a topic's messages with this key, newest first; what else they are is in `browse`.
    pub fn find_by_key(&self, wanted: &str, browse: &Browse) -> Result<Page, LookError> {
        let topic = self.existing(&browse.topic)?;
        browse.queues_of(&topic)?;
        self.require_index()?;
        let below = match &browse.after {
            None => PhysicalOffset::MAX,
            Some(Cursor::Below(at)) => *at,
            Some(Cursor::Queues(_)) => return Err(LookError::Cursor(browse.topic.clone())),
        };
        let sought = Sought { topic: &browse.topic, key: wanted, stored: browse.from..=browse.to, below };
        let is_it = |message: &StoredMessage| {
            let mut keys = message.properties.get(key::KEYS).unwrap_or_default().split(' ');
            let in_queue = browse.queue.is_none_or(|queue| message.queue == queue);
            in_queue && keys.any(|key| key == wanted) && browse.filter.matches(message)
        };
        let mut page = Page { messages: Vec::new(), next: None, looked_at: 0 };
        let (mut bytes, mut next) = (0, below);
        let is_end = self.inner.store.walk_key(sought, |at, message| {
            if page.messages.len() >= browse.max || page.looked_at >= browse.looked_at_max {
                return ControlFlow::Break(());
            }
            if let Some(message) = message.filter(&is_it) {
                bytes += message.body.len();
                if !page.messages.is_empty() && bytes > browse.bytes_max {
                    return ControlFlow::Break(());
                }
                page.messages.push(message);
            }
            (page.looked_at, next) = (page.looked_at + 1, at);
            if self.inner.clock.now() >= browse.until { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        page.next = (!is_end).then_some(Cursor::Below(next));
        Ok(page)
    }

    fn require_index(&self) -> Result<(), LookError> {
        if self.inner.store.is_indexed() { Ok(()) } else { Err(LookError::NotIndexed) }
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
