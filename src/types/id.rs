//! Names and ids. The rules are RocketMQ's (`GrpcValidator`, `TopicValidator`).

use std::{borrow::Borrow, fmt, sync::Arc};

/// Characters of a topic name at most, derived names included.
pub const TOPIC_LEN_MAX: usize = 127;
/// Characters of a group name at most.
pub const GROUP_LEN_MAX: usize = 120;
/// Starts the name of a group's retry topic (classic protocol).
pub const RETRY_PREFIX: &str = "%RETRY%";
/// Starts the name of a group's dead-letter topic.
pub const DLQ_PREFIX: &str = "%DLQ%";
/// Starts every system topic that RocketMQ added since version 5.
pub const SYSTEM_PREFIX: &str = "rmq_sys_";
/// Starts the names of groups that only the server uses.
pub const SYSTEM_GROUP_PREFIX: &str = "CID_RMQ_SYS_";
/// Stands between a broadcasting group and its client in the name of a member; no group's name has it.
pub const MEMBER_MARK: char = '@';

/// The system topics of RocketMQ that do not start with [`SYSTEM_PREFIX`].
const SYSTEM_TOPICS: [&str; 10] = [
    "TBW102",
    "SCHEDULE_TOPIC_XXXX",
    "BenchmarkTest",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRACE_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    "CHECKPOINT_TOPIC",
];

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the name is blank")]
    Blank,
    #[error("the name has {len} characters, the most is {max}")]
    TooLong { len: usize, max: usize },
    #[error("the name {name:?} has the character {bad:?}; letters, digits, '_', '-', '%' and '|' are allowed")]
    Character { name: String, bad: char },
    #[error("the name {0:?} is reserved for the system")]
    Reserved(String),
}

fn check(name: &str, max: usize) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(NameError::Blank);
    }
    if let Some(bad) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '%' | '|'))) {
        return Err(NameError::Character { name: name.chars().take(max).collect(), bad });
    }
    if name.len() > max {
        return Err(NameError::TooLong { len: name.len(), max });
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// The name of a topic: 1 to 127 characters of letters, digits, `_`, `-`, `%` and `|`. It is safe as a file name.
    TopicName
}
name! {
    /// The name of a consumer group: 1 to 120 characters, same alphabet.
    GroupName
}
name! {
    /// The name of a broker, as clients send it back; not checked beyond not being empty.
    BrokerName
}
name! {
    /// What a client calls itself (`x-mq-client-id`): opaque, not blank.
    ClientId
}

impl TopicName {
    /// A topic that a client may name: checks alphabet and length and refuses system topics. Retry and dead-letter
    /// topics are legal, so that a consumer can read a dead-letter topic.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        let topic = Self::parse_any(name)?;
        if topic.is_system() { Err(NameError::Reserved(name.into())) } else { Ok(topic) }
    }

    /// Any topic, system topics included: what the server itself names, or reads back from disk.
    pub fn parse_any(name: &str) -> Result<Self, NameError> {
        check(name, TOPIC_LEN_MAX)?;
        Ok(Self(name.into()))
    }

    /// The dead-letter topic of a group, `%DLQ%<group>`. Group names are short enough for it to be a name.
    pub fn dead_letter(group: &GroupName) -> Self {
        Self(format!("{DLQ_PREFIX}{group}").into())
    }

    /// A topic of the server's own, from a constant that is known to be a name.
    pub(crate) fn system(name: &'static str) -> Self {
        debug_assert!(check(name, TOPIC_LEN_MAX).is_ok());
        Self(name.into())
    }

    /// True for the topics that belong to RocketMQ itself.
    pub fn is_system(&self) -> bool {
        self.0.starts_with(SYSTEM_PREFIX) || SYSTEM_TOPICS.contains(&&*self.0)
    }

    /// True for `%RETRY%...` and `%DLQ%...`.
    pub fn is_derived(&self) -> bool {
        self.0.starts_with(RETRY_PREFIX) || self.0.starts_with(DLQ_PREFIX)
    }
}

impl GroupName {
    /// A group that a client may name.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        check(name, GROUP_LEN_MAX)?;
        let group = Self(name.into());
        if group.is_system() { Err(NameError::Reserved(name.into())) } else { Ok(group) }
    }

    /// Any group, the server's own and members included: what the server itself names, or reads back from disk.
    pub fn parse_any(name: &str) -> Result<Self, NameError> {
        match name.split_once(MEMBER_MARK) {
            None => check(name, GROUP_LEN_MAX)?,
            Some((group, client)) => {
                check(group, GROUP_LEN_MAX)?;
                ClientId::parse(client)?;
            }
        }
        Ok(Self(name.into()))
    }

    /// One client of a broadcasting group: what the server counts its progress under. No client can name it, since no
    /// group's name has the mark between the two.
    pub fn member(group: &GroupName, client: &ClientId) -> Self {
        Self(format!("{}{MEMBER_MARK}{client}", group.whole_str()).into())
    }

    /// The group and the client that a member is made of; `None` of an ordinary group.
    pub fn as_member(&self) -> Option<(&str, &str)> {
        self.0.split_once(MEMBER_MARK)
    }

    /// True for one client of a broadcasting group.
    pub fn is_member(&self) -> bool {
        self.as_member().is_some()
    }

    /// True for the clients of this broadcasting group.
    pub fn is_member_of(&self, group: &GroupName) -> bool {
        self.as_member().is_some_and(|(whole, _)| whole == group.as_str())
    }

    /// The client that a member is.
    pub fn client(&self) -> Option<ClientId> {
        self.as_member().map(|(_, client)| ClientId(client.into()))
    }

    /// The group that a member is of; itself when it is no member.
    pub fn whole(&self) -> GroupName {
        match self.as_member() {
            Some((group, _)) => Self(group.into()),
            None => self.clone(),
        }
    }

    fn whole_str(&self) -> &str {
        self.as_member().map_or(&self.0, |(group, _)| group)
    }

    /// A group of the server's own, from a constant that is known to be a name.
    pub(crate) fn system(name: &'static str) -> Self {
        debug_assert!(check(name, GROUP_LEN_MAX).is_ok() && name.starts_with(SYSTEM_GROUP_PREFIX));
        Self(name.into())
    }

    /// True for the groups that only the server itself uses.
    pub fn is_system(&self) -> bool {
        self.0.starts_with(SYSTEM_GROUP_PREFIX)
    }
}

impl BrokerName {
    /// Any text that is not blank.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        if name.trim().is_empty() { Err(NameError::Blank) } else { Ok(Self(name.into())) }
    }
}

impl ClientId {
    /// Any text that is not blank.
    pub fn parse(id: &str) -> Result<Self, NameError> {
        if id.trim().is_empty() { Err(NameError::Blank) } else { Ok(Self(id.into())) }
    }
}

/// The number of a queue within its topic, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueueId(pub u32);

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_rocketmqs_alphabet_and_length() {
        assert!(TopicName::parse("orders-1_%|A").is_ok());
        assert_eq!(TopicName::parse(" "), Err(NameError::Blank));
        assert!(matches!(TopicName::parse("a/b"), Err(NameError::Character { bad: '/', .. })));
        assert!(matches!(TopicName::parse(".."), Err(NameError::Character { bad: '.', .. })));
        assert!(TopicName::parse(&"a".repeat(127)).is_ok());
        assert_eq!(TopicName::parse(&"a".repeat(128)), Err(NameError::TooLong { len: 128, max: 127 }));
        assert!(GroupName::parse(&"g".repeat(121)).is_err());
    }

    #[test]
    fn system_names_are_reserved_and_derived_ones_are_not() {
        for name in ["TBW102", "rmq_sys_anything"] {
            assert_eq!(TopicName::parse(name), Err(NameError::Reserved(name.into())));
            assert!(TopicName::parse_any(name).is_ok());
        }
        assert!(TopicName::parse("%DLQ%group").is_ok());
        assert!(GroupName::parse("CID_RMQ_SYS_TRANS").is_err());
        assert!(GroupName::parse_any("CID_RMQ_SYS_TRANS").unwrap().is_system());
        assert!(!GroupName::parse("billing").unwrap().is_system());
    }

    #[test]
    fn a_member_is_read_back_and_no_client_can_name_one() {
        let (group, client) = (GroupName::parse("billing").unwrap(), ClientId::parse("host@12@0@3w5e!").unwrap());
        let member = GroupName::member(&group, &client);
        assert_eq!(member.as_str(), "billing@host@12@0@3w5e!");
        assert_eq!(GroupName::parse_any(member.as_str()), Ok(member.clone()));
        assert!(matches!(GroupName::parse(member.as_str()), Err(NameError::Character { bad: '@', .. })));
        assert_eq!((member.whole(), member.client()), (group.clone(), Some(client.clone())));
        assert!(member.is_member_of(&group) && !member.is_member_of(&GroupName::parse("bill").unwrap()));
        assert_eq!(GroupName::member(&member, &client), member, "a member has no members");
        assert_eq!((group.whole(), group.client(), group.is_member()), (group.clone(), None, false));
        assert!(GroupName::parse_any("billing@ ").is_err() && GroupName::parse_any("@client").is_err());
    }
}
