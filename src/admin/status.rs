//! The broker's refusals as gRPC status codes; each message carries the cure.

use tonic::{Code, Status};

use crate::{
    broker::{AdminError, OffsetError, OperateError, SettleError, Unconfirmed},
    types::{GroupName, TopicName},
};

/// A refusal of "create".
pub fn of_create(error: AdminError) -> Status {
    of(error, Code::AlreadyExists)
}

/// A refusal of "update" or "delete".
pub fn of_change(error: AdminError) -> Status {
    of(error, Code::FailedPrecondition)
}

pub fn no_topic(name: &TopicName) -> Status {
    of_change(AdminError::TopicNotFound(name.clone()))
}

pub fn no_group(name: &GroupName) -> Status {
    of_change(AdminError::GroupNotFound(name.clone()))
}

/// A refusal to set a group's offsets.
pub fn of_reset(error: OffsetError) -> Status {
    let code = match &error {
        OffsetError::TopicNotFound(_) | OffsetError::GroupNotFound(_) | OffsetError::NoQueue { .. } => Code::NotFound,
        OffsetError::Beyond { .. } => Code::OutOfRange,
        OffsetError::NoClient { .. } => Code::FailedPrecondition,
        OffsetError::TooManyBooks(_) => Code::ResourceExhausted,
        OffsetError::Unconfirmed(Unconfirmed::Late { .. }) => Code::DeadlineExceeded,
        OffsetError::Append(_) | OffsetError::Read(_) | OffsetError::Unconfirmed(_) => Code::Unavailable,
    };
    Status::new(code, error.to_string())
}

/// A refusal of what an operator does to a message.
pub fn of_operate(error: OperateError) -> Status {
    let (code, cure) = match &error {
        OperateError::NoQueue { .. } => (Code::NotFound, "`ferromq topic describe` shows its queues"),
        OperateError::NoMessage { .. } => (Code::NotFound, "`ferromq group describe` shows what holds up others"),
        OperateError::Broadcast(_) => (Code::FailedPrecondition, "nothing was done"),
        OperateError::Settle(SettleError::TopicNotFound(_)) => {
            (Code::NotFound, "`ferromq topic list` shows what there is")
        }
        OperateError::Settle(SettleError::GroupNotFound(_)) => {
            (Code::NotFound, "`ferromq group list` shows what there is")
        }
        OperateError::Settle(SettleError::Invalid) => (Code::NotFound, "its message is not stored any more"),
        OperateError::Settle(SettleError::Unconfirmed(Unconfirmed::Late { .. })) => {
            (Code::DeadlineExceeded, "`ferromq group describe` shows what holds now")
        }
        OperateError::Settle(SettleError::TooManyBooks { .. }) => (Code::ResourceExhausted, "nothing was done"),
        OperateError::Settle(SettleError::Unconfirmed(_)) => {
            (Code::Unavailable, "whether it was done shows when the server has started again")
        }
        OperateError::Settle(_) => (Code::Unavailable, "the message is as it was; see to the store directory's disk"),
    };
    Status::new(code, format!("{error}; {cure}"))
}

fn of(error: AdminError, conflict: Code) -> Status {
    let (code, cure) = match error {
        AdminError::TopicNotFound(_) | AdminError::GroupNotFound(_) => (Code::NotFound, ""),
        AdminError::Conflict(_) => (conflict, ""),
        AdminError::Invalid(_) => (Code::InvalidArgument, ""),
        AdminError::TooMany(_) => (Code::ResourceExhausted, "delete some, or raise topicsMax or groupsMax"),
        AdminError::Reserved(_) => (Code::InvalidArgument, "choose another name"),
        AdminError::Metadata(_) => (Code::Unavailable, "nothing was changed; see to the store directory's disk"),
        AdminError::Late { .. } => (Code::Unavailable, "see to the store directory's disk"),
    };
    let message = if cure.is_empty() { error.to_string() } else { format!("{error}; {cure}") };
    Status::new(code, message)
}
