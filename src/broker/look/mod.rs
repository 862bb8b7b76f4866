//! Looking at messages and at how far groups are: for operators. Nothing here changes anything.
//!
//! - [`find`]: messages by id and key; [`browse`]: those of a span of time.
//! - [`lag`]: what groups have before them.
//!
//! All of it may wait for the disk.

mod browse;
mod find;
mod lag;
#[cfg(test)]
mod tests;

pub use browse::{Browse, Cursor, Page};
pub use lag::{QueueLag, QueueSpan};

use super::{Broker, Filter, Topic};
use crate::{
    store::ReadError,
    types::{GroupName, QueueId, TopicName},
};

/// Why something was not found or shown.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookError {
    #[error("topic {0} does not exist; `ferromq topic list` shows those that do")]
    TopicNotFound(TopicName),
    #[error("group {0} does not exist; `ferromq group list` shows those that do")]
    GroupNotFound(GroupName),
    #[error("queue {queue} does not exist: topic {topic} has {queues} readable queues, from 0 on")]
    NoQueue { topic: TopicName, queue: QueueId, queues: u32 },
    #[error("keys are not indexed, so nothing is found by id or key; messageIndexEnable=true indexes what comes")]
    NotIndexed,
    #[error("{topics} topics are too many to search for an id, the most is {max}; name its topic")]
    TooManyTopics { topics: usize, max: usize },
    #[error("searching {topics} topics for an id takes too long, {searched} were searched; name its topic")]
    TooSlow { searched: usize, topics: usize },
    #[error("the cursor is not one of topic {0}; begin without one")]
    Cursor(TopicName),
    #[error(transparent)]
    Read(#[from] ReadError),
}
