//! Broker error -> RocketMQ code. Every match is exhaustive: an error that is added does not compile until it has its
//! code here.
//!
//! Clients judge by the code alone. Send: TOO_MANY_REQUESTS is repeated after the back-off of their settings, other
//! codes at once up to their attempts. Ack, change and dead-letter: INVALID_RECEIPT_HANDLE ends it, whatever else is
//! repeated every second without end, so a condition that will not pass must have that code.

use crate::{
    broker::{
        AdminError, AppendError, EndError, FilterError, LiteError, OffsetError, ProduceError, PullError, ReadError,
        RecallError, SettleError, TakeError, Unconfirmed,
    },
    proto::v2::{self, Code},
    types::{LiteNameError, NameError},
};

use super::AddressError;

/// An answer that is not OK: a code and what to tell the client's user.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub code: Code,
    pub message: String,
}

impl Refusal {
    pub fn new(code: Code, message: impl ToString) -> Self {
        Self { code, message: message.to_string() }
    }
    pub fn topic(error: &NameError) -> Self {
        Self::new(Code::IllegalTopic, format_args!("topic: {error}"))
    }
    pub fn group(error: &NameError) -> Self {
        Self::new(Code::IllegalConsumerGroup, format_args!("consumer group: {error}"))
    }
    /// A call, or a part of one, that this server does not serve yet.
    pub fn not_implemented(what: &str) -> Self {
        Self::new(Code::NotImplemented, format_args!("{what} is not served yet"))
    }
}

impl From<Refusal> for v2::Status {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code as i32, message: refusal.message }
    }
}

/// The status of success.
pub fn ok() -> v2::Status {
    v2::Status { code: Code::Ok as i32, message: "OK".into() }
}

/// The status of a call whose parts have these statuses: theirs when all have the same code, else MULTIPLE_RESULTS.
pub fn of_all<'a>(mut parts: impl Iterator<Item = &'a v2::Status>) -> Option<v2::Status> {
    let first = parts.next()?;
    if parts.all(|s| s.code == first.code) {
        return Some(first.clone());
    }
    Some(v2::Status { code: Code::MultipleResults as i32, message: "the entries have different results".into() })
}

impl From<AddressError> for Refusal {
    fn from(error: AddressError) -> Self {
        Self::new(Code::IllegalAccessPoint, error)
    }
}

impl From<FilterError> for Refusal {
    fn from(error: FilterError) -> Self {
        Self::new(Code::IllegalFilterExpression, error)
    }
}

/// Appending for a send.
fn append_code(error: &AppendError) -> Code {
    match error {
        // Apache's SERVICE_NOT_AVAILABLE arrives at its clients as INTERNAL_SERVER_ERROR, which all of them repeat.
        AppendError::Full { .. } | AppendError::Poisoned(_) | AppendError::Closed => Code::InternalServerError,
        AppendError::Busy { .. } => Code::TooManyRequests,
        AppendError::TooLarge { .. } => Code::MessageBodyTooLarge,
        AppendError::PropertiesTooLarge { .. } => Code::MessagePropertiesTooLarge,
    }
}

fn read_code(error: &ReadError) -> Code {
    match error {
        ReadError::Gone(_)
        | ReadError::Corrupt { .. }
        | ReadError::Io { .. }
        | ReadError::Queue(_)
        | ReadError::Index(_) => Code::InternalServerError,
    }
}

/// The code that calls other than a send have for what took too long; clients repeat them, which is harmless.
fn unconfirmed_code(why: &Unconfirmed) -> Code {
    match why {
        Unconfirmed::Late { .. } => Code::ProxyTimeout,
        Unconfirmed::Poisoned(_) => Code::InternalServerError,
    }
}

impl From<ProduceError> for Refusal {
    fn from(error: ProduceError) -> Self {
        let code = match &error {
            ProduceError::TopicNotFound(_) => Code::TopicNotFound,
            ProduceError::NotWritable(_) => Code::Forbidden,
            ProduceError::TypeConflict { .. } => Code::MessagePropertyConflictWithType,
            ProduceError::TooManyLiteTopics { .. } => Code::LiteTopicQuotaExceeded,
            ProduceError::LiteTopicTaken(_) => Code::IllegalLiteTopic,
            ProduceError::LiteFull { .. } => Code::TooManyRequests,
            ProduceError::DelayTooLong { .. } | ProduceError::NoTime { .. } => Code::IllegalDeliveryTime,
            ProduceError::TimersFull { .. } => Code::TooManyRequests,
            ProduceError::BodyTooLarge { .. } => Code::MessageBodyTooLarge,
            ProduceError::TooManyTopics(_) | ProduceError::TooManyTransactions(_) => Code::TooManyRequests,
            ProduceError::Append(append) => append_code(append),
            ProduceError::Unconfirmed { .. } => Code::MasterPersistenceTimeout,
            ProduceError::Metadata(_) => Code::InternalServerError,
        };
        Self::new(code, error)
    }
}

impl From<RecallError> for Refusal {
    fn from(error: RecallError) -> Self {
        let code = match &error {
            RecallError::Off => Code::NotImplemented,
            RecallError::TopicNotFound(_) => Code::TopicNotFound,
            RecallError::NotDelay { .. } => Code::MessagePropertyConflictWithType,
            RecallError::Malformed
            | RecallError::OtherTopic { .. }
            | RecallError::Delivered { .. }
            | RecallError::NotPending { .. } => Code::BadRequest,
            RecallError::Busy => Code::TooManyRequests,
            RecallError::Time(_) => Code::IllegalDeliveryTime,
            RecallError::Append(append) => append_code(append),
            RecallError::Read(read) => read_code(read),
            RecallError::Unconfirmed(why) => unconfirmed_code(why),
        };
        Self::new(code, error)
    }
}

impl From<EndError> for Refusal {
    fn from(error: EndError) -> Self {
        let code = match &error {
            EndError::Unknown | EndError::Decided(_) => Code::InvalidTransactionId,
            EndError::TopicNotFound(_) => Code::TopicNotFound,
            EndError::Append(append) => append_code(append),
            EndError::Read(read) => read_code(read),
            EndError::Unconfirmed(why) => unconfirmed_code(why),
        };
        Self::new(code, error)
    }
}

impl From<TakeError> for Refusal {
    fn from(error: TakeError) -> Self {
        let code = match &error {
            TakeError::TopicNotFound(_) => Code::TopicNotFound,
            TakeError::GroupNotFound(_) => Code::ConsumerGroupNotFound,
            TakeError::NotReadable(_) | TakeError::GroupDisabled(_) => Code::Forbidden,
            TakeError::PollingFull { .. }
            | TakeError::TooManyGroups(_)
            | TakeError::TooManyBooks(_)
            | TakeError::TooManyLiteClients
            | TakeError::TooManyInFlight { .. } => Code::TooManyRequests,
            TakeError::LiteOnly(_) | TakeError::NotLite(_) => Code::BadRequest,
            TakeError::Read(read) => read_code(read),
            TakeError::Append(append) => append_code(append),
            TakeError::Unconfirmed(why) => unconfirmed_code(why),
            TakeError::Metadata(_) => Code::InternalServerError,
        };
        Self::new(code, error)
    }
}

impl From<LiteError> for Refusal {
    fn from(error: LiteError) -> Self {
        let code = match error {
            LiteError::Take(error) => return error.into(),
            LiteError::Settle(error) => return error.into(),
            LiteError::SubscriptionQuota { .. } => Code::LiteSubscriptionQuotaExceeded,
            LiteError::TopicQuota { .. } => Code::LiteTopicQuotaExceeded,
            LiteError::Taken(_) => Code::IllegalLiteTopic,
            LiteError::Gone => Code::TooManyRequests,
            LiteError::Unconfirmed(ref why) => unconfirmed_code(why),
        };
        Self::new(code, error)
    }
}

impl From<LiteNameError> for Refusal {
    fn from(error: LiteNameError) -> Self {
        Self::new(Code::IllegalLiteTopic, error)
    }
}

impl From<PullError> for Refusal {
    fn from(error: PullError) -> Self {
        let code = match error {
            PullError::Take(error) => return error.into(),
            PullError::NoQueue { .. } => Code::BadRequest,
            PullError::OutOfRange { .. } => Code::IllegalOffset,
        };
        Self::new(code, error)
    }
}

impl From<OffsetError> for Refusal {
    fn from(error: OffsetError) -> Self {
        let code = match &error {
            OffsetError::TopicNotFound(_) => Code::TopicNotFound,
            OffsetError::GroupNotFound(_) => Code::ConsumerGroupNotFound,
            OffsetError::NoQueue { .. } => Code::BadRequest,
            OffsetError::Beyond { .. } => Code::IllegalOffset,
            OffsetError::TooManyBooks(_) => Code::TooManyRequests,
            OffsetError::Append(append) => append_code(append),
            OffsetError::Read(read) => read_code(read),
            OffsetError::Unconfirmed(why) => unconfirmed_code(why),
        };
        Self::new(code, error)
    }
}

impl From<SettleError> for Refusal {
    fn from(error: SettleError) -> Self {
        let code = match &error {
            // Whose topic or group is gone, or whose message is, will not be settled by repeating.
            SettleError::Invalid
            | SettleError::Expired
            | SettleError::TopicNotFound(_)
            | SettleError::GroupNotFound(_)
            | SettleError::Read(ReadError::Gone(_) | ReadError::Corrupt { .. })
            | SettleError::Append(AppendError::TooLarge { .. } | AppendError::PropertiesTooLarge { .. }) => {
                Code::InvalidReceiptHandle
            }
            SettleError::TooManyBooks(_) | SettleError::Append(AppendError::Busy { .. }) => Code::TooManyRequests,
            SettleError::Append(AppendError::Full { .. } | AppendError::Poisoned(_) | AppendError::Closed)
            | SettleError::Read(ReadError::Io { .. } | ReadError::Queue(_) | ReadError::Index(_)) => {
                Code::InternalServerError
            }
            SettleError::Unconfirmed(why) => unconfirmed_code(why),
        };
        Self::new(code, error)
    }
}

impl From<AdminError> for Refusal {
    fn from(error: AdminError) -> Self {
        let code = match &error {
            AdminError::TopicNotFound(_) => Code::TopicNotFound,
            AdminError::GroupNotFound(_) => Code::ConsumerGroupNotFound,
            AdminError::Conflict(_) | AdminError::Invalid(_) => Code::BadRequest,
            AdminError::TooMany(_) => Code::TooManyRequests,
            AdminError::Reserved(_) => Code::Forbidden,
            AdminError::Metadata(_) => Code::InternalServerError,
        };
        Self::new(code, error)
    }
}

/// How a Telemetry stream ends when a command on it is refused: the client's faults are told apart from the server's.
pub fn telemetry(refusal: &Refusal) -> tonic::Status {
    let text = format!("process client telemetryCommand failed. {}", refusal.message);
    if (40_000..50_000).contains(&(refusal.code as i32)) {
        tonic::Status::invalid_argument(text)
    } else {
        tonic::Status::internal(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{broker::Poisoned, types::TopicName};

    fn topic() -> TopicName {
        TopicName::parse("T").unwrap()
    }

    #[test]
    fn what_repeating_cannot_settle_ends_the_clients_repetition() {
        for error in [
            SettleError::Invalid,
            SettleError::Expired,
            SettleError::TopicNotFound(topic()),
            SettleError::Read(ReadError::Gone(crate::types::PhysicalOffset::ZERO)),
        ] {
            assert_eq!(Refusal::from(error).code, Code::InvalidReceiptHandle);
        }
    }

    #[test]
    fn what_passes_by_itself_does_not_end_the_clients_repetition() {
        let errors = [
            SettleError::Append(AppendError::Busy { pending: 1, max: 1 }),
            SettleError::Append(AppendError::Full { free: 0 }),
            SettleError::Unconfirmed(Poisoned("x".into()).into()),
        ];
        for error in errors {
            assert_ne!(Refusal::from(error).code, Code::InvalidReceiptHandle);
        }
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let refusal = Refusal::from(ProduceError::TopicNotFound(topic()));
        assert_eq!(refusal.code, Code::TopicNotFound);
        assert!(refusal.message.contains("ferromq topic create T"), "{}", refusal.message);
    }

    #[test]
    fn a_call_has_its_parts_code_or_multiple_results() {
        let refused: v2::Status = Refusal::new(Code::InvalidReceiptHandle, "x").into();
        assert_eq!(of_all([].iter()), None);
        assert_eq!(of_all([ok(), ok()].iter()), Some(ok()));
        assert_eq!(of_all([refused.clone(), refused.clone()].iter()).unwrap().code, refused.code);
        assert_eq!(of_all([ok(), refused].iter()).unwrap().code, Code::MultipleResults as i32);
    }

    #[test]
    fn telemetry_tells_the_clients_fault_from_the_servers() {
        let end = |code| telemetry(&Refusal::new(code, "why")).code();
        assert_eq!(end(Code::IllegalTopic), tonic::Code::InvalidArgument);
        assert_eq!(end(Code::TooManyRequests), tonic::Code::InvalidArgument);
        assert_eq!(end(Code::InternalServerError), tonic::Code::Internal);
    }
}
