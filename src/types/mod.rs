//! The vocabulary of messaging: names, offsets, messages, properties, time.
//!
//! Nothing here does I/O, knows a protocol or knows another room. A value is checked when it is made and trusted
//! from then on.

pub mod id;
pub mod lite;
pub mod message;
pub mod offset;
pub mod properties;
mod random;
pub mod time;

pub use id::{BrokerName, ClientId, GroupName, MEMBER_MARK, NameError, QueueId, TopicName};
pub use lite::{LiteId, LiteNameError, check_lite_name};
pub use message::{
    MessageType, NewMessage, StoredMessage, SysFlag, TIMER_TOPIC, java_hash, java_hash_from, queue_code, queue_code_of,
    tags_code,
};
pub use offset::{PhysicalOffset, QueueOffset};
pub use properties::Properties;
pub use random::random;
pub use time::{Clock, Deadline, ManualClock, SystemClock, Timestamp};
