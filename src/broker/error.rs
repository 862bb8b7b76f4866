//! What the broker can refuse: one enum for each verb, each variant with the data that a front needs to word it.

use std::time::Duration;

use crate::{
    broker::Decision,
    store::{AppendError, Poisoned, ReadError},
    types::{GroupName, MessageType, QueueId, QueueOffset, TopicName},
};

use super::{long_poll::Full, pop::TooManyBooks};

/// Why what has its place in the log may not be called safe.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unconfirmed {
    /// The disk did not answer in time. It may do so later: what was asked for holds for as long as this server runs, and
    /// whether a crash would undo it is not known.
    #[error(
        "it is written, but the disk did not confirm it within {} ms (syncFlushTimeout): a crash may undo it; repeat it",
        within.as_millis()
    )]
    Late { within: Duration },
    #[error(transparent)]
    Poisoned(#[from] Poisoned),
}

/// What makes a message one of this type.
fn what_makes(kind: MessageType) -> &'static str {
    match kind {
        MessageType::Normal => {
            "a normal one has no message group, delivery time, priority or lite topic, and no transaction"
        }
        MessageType::Fifo => "a FIFO one has a message group",
        MessageType::Delay => "a delayed one has a delivery time",
        MessageType::Transaction => "a transactional one is sent in a transaction",
        MessageType::Mixed => "a mixed topic takes normal, FIFO, delayed and transactional ones",
        MessageType::Lite => "a lite one names its lite topic",
        MessageType::Priority => "a message of such a topic has a priority",
    }
}

/// Why a message was not stored, or is not known to be.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProduceError {
    #[error("topic {0} does not exist; create it with `ferromq topic create {0}`")]
    TopicNotFound(TopicName),
    #[error("topic {0} has no writable queue; `ferromq topic update {0} --writable true` opens it")]
    NotWritable(TopicName),
    #[error(
        "topic {topic} takes {} messages, this one is {}; {}; or use a topic of its type (`ferromq topic create NAME \
         --type {}`)",
        expected.as_str(), actual.as_str(), what_makes(*expected), actual.as_str().to_lowercase()
    )]
    TypeConflict { topic: TopicName, expected: MessageType, actual: MessageType },
    #[error(
        "the server has {max} lite topics, which is the most; idle ones end once their messages have expired; or raise \
         liteTopicsMax"
    )]
    TooManyLiteTopics { max: usize },
    #[error("the lite topic {0:?} has the same id as another one of its topic; choose another name")]
    LiteTopicTaken(String),
    #[error(
        "{messages} messages of lite topics wait for a group that has not consumed them, which is the most; they expire \
         with fileReservedTime; or raise liteMessagesMax"
    )]
    LiteFull { messages: usize, max: usize },
    #[error("the body has {size} bytes, maxMessageSize is {max}")]
    BodyTooLarge { size: usize, max: usize },
    #[error("the delivery time is {} ms ahead, the most is {} ms; raise timerMaxDelaySec and maxDelayTimeMills, to 400 days at most", .ahead.as_millis(), .max.as_millis())]
    DelayTooLong { ahead: Duration, max: Duration },
    #[error("the property {key} is {value:?}, which is no number")]
    NoTime { key: &'static str, value: String },
    #[error("{max} messages wait for their time, which is the limit; wait, or raise timerPendingMax")]
    TimersFull { max: usize },
    #[error("the server has {0} topics, which is its limit; delete some or raise topicsMax")]
    TooManyTopics(usize),
    #[error(
        "{0} transactions wait for their producers' decision, which is the limit; commit or roll back some, or raise \
         transactionPendingMax"
    )]
    TooManyTransactions(usize),
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The messages are in the log, and consumers may get them.
    #[error(
        "the message is written, but the disk did not confirm it within {} ms (syncFlushTimeout): it may be kept and \
         delivered all the same; sending it again may store it twice",
        within.as_millis()
    )]
    Unconfirmed { within: Duration },
    /// Metadata could not be written.
    #[error("saving the topic table: {0}")]
    Metadata(String),
}

/// Why a transaction was not ended as asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EndError {
    /// The id is not one of ours, or not of this topic and message, or it is over for so long that nothing is known of it.
    #[error("no transaction of this topic and message with this id is known; name it as the answer to SendMessage did")]
    Unknown,
    #[error("the transaction {}", match .0 {
        Decision::Commit => "was committed",
        Decision::Rollback => "is over: it was rolled back, or given up after its last check",
    })]
    Decided(Decision),
    #[error("topic {0} does not exist any more, so its transactions cannot be committed")]
    TopicNotFound(TopicName),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Unconfirmed(#[from] Unconfirmed),
}

/// Why a poll got nothing but a refusal.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TakeError {
    #[error("topic {0} does not exist; create it with `ferromq topic create {0}`")]
    TopicNotFound(TopicName),
    #[error("group {0} does not exist; create it with `ferromq group create {0}`")]
    GroupNotFound(GroupName),
    #[error("topic {0} has no readable queue; `ferromq topic update {0} --readable true` opens it")]
    NotReadable(TopicName),
    #[error("group {0} may not consume; `ferromq group update {0} --consume-enabled true` lets it")]
    GroupDisabled(GroupName),
    #[error("{parked} polls are parked, the most is {max}; raise {setting}")]
    PollingFull { parked: usize, max: usize, setting: &'static str },
    #[error("the server has {0} groups, which is its limit; delete some or raise groupsMax")]
    TooManyGroups(usize),
    #[error("too many clients of lite topics are known; wait until some are gone")]
    TooManyLiteClients,
    #[error(transparent)]
    TooManyBooks(#[from] TooManyBooks),
    #[error(
        "{held} messages of all groups are in flight or wait for an attempt, the most is {max}; acknowledge some, or \
         raise popInflightTotalMax"
    )]
    TooManyInFlight { held: usize, max: usize },
    #[error(
        "topic {0} is of type LITE, whose messages go to lite consumers alone: use the client's LitePushConsumer or \
         LiteSimpleConsumer, and subscribe to lite topics of it"
    )]
    LiteOnly(TopicName),
    #[error(
        "topic {topic} is of type LITE, and group {group} is broadcasting; consume lite topics as a group that is not, one for \
         each consumer that must get all"
    )]
    LiteBroadcast { topic: TopicName, group: GroupName },
    #[error(
        "topic {0} is not of type LITE, so it has no lite topics; `ferromq topic create NAME --type lite` makes one"
    )]
    NotLite(TopicName),
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What a FIFO group gets is written down first.
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Unconfirmed(#[from] Unconfirmed),
    #[error("saving the group table: {0}")]
    Metadata(String),
}

/// Why a client's set of lite topics was not changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LiteError {
    #[error(transparent)]
    Take(#[from] TakeError),
    #[error("the client would subscribe to {count} lite topics, the most is {max}; raise {setting}")]
    SubscriptionQuota { count: usize, max: usize, setting: &'static str },
    #[error(
        "the server has {max} lite topics, which is the most; idle ones end once their messages have expired; or raise \
         liteTopicsMax"
    )]
    TopicQuota { max: usize },
    #[error("the lite topic {0:?} has the same id as another one of its topic; choose another name")]
    Taken(String),
    #[error("the client's subscriptions ended while they changed; subscribe again")]
    Gone,
    #[error(transparent)]
    Settle(#[from] SettleError),
    #[error(transparent)]
    Unconfirmed(#[from] Unconfirmed),
}

impl From<TooManyBooks> for LiteError {
    fn from(full: TooManyBooks) -> Self {
        Self::Take(full.into())
    }
}

impl From<ReadError> for LiteError {
    fn from(error: ReadError) -> Self {
        Self::Take(error.into())
    }
}

impl From<Full> for TakeError {
    fn from(full: Full) -> Self {
        Self::PollingFull { parked: full.parked, max: full.max, setting: full.setting }
    }
}

/// Why a pull got nothing but a refusal.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Take(#[from] TakeError),
    #[error("queue {queue} does not exist: topic {topic} has {queues} readable queues, from 0 on")]
    NoQueue { topic: TopicName, queue: QueueId, queues: u32 },
    #[error("offset {offset} is not among those of the queue, {min} to {max}; go on from one of these")]
    OutOfRange { offset: QueueOffset, min: QueueOffset, max: QueueOffset },
}

/// Why a group's offset, or one of a queue, was not told or set.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OffsetError {
    #[error("topic {0} does not exist; `ferromq topic list` shows those that do")]
    TopicNotFound(TopicName),
    #[error("group {0} does not exist; `ferromq group list` shows those that do")]
    GroupNotFound(GroupName),
    #[error("queue {queue} does not exist: topic {topic} has {queues} readable queues, from 0 on")]
    NoQueue { topic: TopicName, queue: QueueId, queues: u32 },
    #[error(
        "group {group} is broadcasting, and none of its clients consumes topic {topic}; those that come begin at the end"
    )]
    NoClient { topic: TopicName, group: GroupName },
    #[error("offset {offset} is beyond the end of queue {queue}, which is {max}")]
    Beyond { queue: QueueId, offset: QueueOffset, max: QueueOffset },
    #[error(transparent)]
    TooManyBooks(#[from] TooManyBooks),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Unconfirmed(#[from] Unconfirmed),
}

/// Why a delivery could not be settled (acked, changed, dead-lettered).
#[derive(Clone, Debug, thiserror::Error)]
pub enum SettleError {
    /// The handle is not one of ours, or not of this group and topic.
    #[error("the receipt handle is not valid here")]
    Invalid,
    /// Its lease has ended, or a newer delivery or handle took its place.
    #[error("the receipt handle is expired")]
    Expired,
    #[error("topic {0} does not exist")]
    TopicNotFound(TopicName),
    #[error("group {0} does not exist")]
    GroupNotFound(GroupName),
    #[error(transparent)]
    TooManyBooks(#[from] TooManyBooks),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Unconfirmed(#[from] Unconfirmed),
}

impl From<Unconfirmed> for ProduceError {
    fn from(why: Unconfirmed) -> Self {
        match why {
            Unconfirmed::Late { within } => Self::Unconfirmed { within },
            Unconfirmed::Poisoned(why) => Self::Append(why.into()),
        }
    }
}

/// Why an operator could not settle a message.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OperateError {
    #[error("topic {topic} has {queues} queues, from 0 on, so there is no queue {queue}")]
    NoQueue { topic: TopicName, queue: QueueId, queues: usize },
    #[error("queue {queue} of topic {topic} has no message {offset}; it has {min} up to but not including {max}")]
    NoMessage { topic: TopicName, queue: QueueId, offset: QueueOffset, min: QueueOffset, max: QueueOffset },
    /// Each of its clients is somewhere else.
    #[error(
        "group {0} is broadcasting, so no message holds up all of its clients; `ferromq group reset {0}` moves them all"
    )]
    Broadcast(GroupName),
    #[error(transparent)]
    Settle(#[from] SettleError),
}

/// Why a topic or group was not made, changed or deleted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AdminError {
    #[error("topic {0} does not exist; `ferromq topic list` shows those that do")]
    TopicNotFound(TopicName),
    #[error("group {0} does not exist; `ferromq group list` shows those that do")]
    GroupNotFound(GroupName),
    /// `0` says what exists and how it differs.
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Invalid(String),
    #[error("the server has {0}, which is its limit; delete some, or raise topicsMax or groupsMax")]
    TooMany(usize),
    #[error("{0} belongs to the system and cannot be made, changed or deleted; choose another name")]
    Reserved(String),
    /// The table could not be written, so nothing has changed.
    #[error("nothing was changed, since the table could not be saved: {0}")]
    Metadata(String),
    /// The disk did not answer in time. It may do so later.
    #[error(
        "the disk did not take the change within {} ms (syncFlushTimeout); it may still be made, so look before you repeat it",
        within.as_millis()
    )]
    Late { within: Duration },
}
