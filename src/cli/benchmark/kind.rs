//! What the messages of a load are, and which of them a consumer wants.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::proto::v2;

/// Message groups that FIFO messages are of, in turn.
const MESSAGE_GROUPS: u64 = 1000;
/// Of [`Kind::Marked`] messages, one in so many is wanted by a filter.
pub const ONE_IN: u64 = 10;
/// The property that [`Kind::Marked`] messages have.
const MARK: &str = "tenth";

/// What is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    #[default]
    Normal,
    /// Of a thousand message groups in turn
    Fifo,
    /// Due a while after they are sent, see --delay
    Delay,
    /// Sent and then committed, with one more call
    Transaction,
    /// Normal, with a tag and a property "tenth", which are 0 to 9 in turn
    Marked,
}

impl Kind {
    /// Makes a message the `n`th of its kind, due after `delay` if that is what it is about.
    pub fn mark(self, message: &mut v2::Message, n: u64, delay: Duration) {
        let Some(system) = &mut message.system_properties else { return };
        let kind = match self {
            Self::Normal => v2::MessageType::Normal,
            Self::Fifo => {
                system.message_group = Some(format!("group-{}", n % MESSAGE_GROUPS));
                v2::MessageType::Fifo
            }
            Self::Delay => {
                let born = system.born_timestamp.and_then(|born| SystemTime::try_from(born).ok());
                system.delivery_timestamp = born.and_then(|born| born.checked_add(delay)).map(Into::into);
                v2::MessageType::Delay
            }
            Self::Transaction => v2::MessageType::Transaction,
            Self::Marked => {
                let tenth = (n % ONE_IN).to_string();
                system.tag = Some(tenth.clone());
                message.user_properties.insert(MARK.to_owned(), tenth);
                v2::MessageType::Normal
            }
        };
        system.message_type = kind.into();
    }
}

/// What is wanted of [`Kind::Marked`] messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    #[default]
    All,
    /// One in ten, by its tag
    Tag,
    /// One in ten, by an SQL92 condition
    Sql,
}

impl Wanted {
    pub fn expression(self) -> v2::FilterExpression {
        let (kind, expression) = match self {
            Self::All => (v2::FilterType::Tag, "*".to_owned()),
            Self::Tag => (v2::FilterType::Tag, "0".to_owned()),
            Self::Sql => (v2::FilterType::Sql, format!("{MARK} = 0")),
        };
        v2::FilterExpression { r#type: kind.into(), expression }
    }

    /// How many of so many messages surely come. Each connection counts for itself and begins with one that is wanted; one
    /// is taken when the group introduces itself.
    pub fn of(self, count: u64) -> u64 {
        match self {
            Self::All => count,
            Self::Tag | Self::Sql => (count / ONE_IN).saturating_sub(1).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_what_makes_it_one() {
        let marked = |kind: Kind, n| {
            let system = v2::SystemProperties {
                born_timestamp: Some(prost_types::Timestamp { seconds: 5, nanos: 0 }),
                ..v2::SystemProperties::default()
            };
            let mut message = v2::Message { system_properties: Some(system), ..v2::Message::default() };
            kind.mark(&mut message, n, Duration::from_millis(3_600_250));
            (message.system_properties.unwrap(), message.user_properties)
        };
        assert_eq!(marked(Kind::Fifo, 1007).0.message_group.as_deref(), Some("group-7"));
        let due = marked(Kind::Delay, 0).0.delivery_timestamp.unwrap();
        assert_eq!((due.seconds, due.nanos), (3605, 250_000_000));
        assert_eq!(marked(Kind::Transaction, 0).0.message_type(), v2::MessageType::Transaction);
        let (system, user) = marked(Kind::Marked, 23);
        assert_eq!((system.tag.as_deref(), user[MARK].as_str()), (Some("3"), "3"));
        assert_eq!([Wanted::All, Wanted::Tag, Wanted::Sql].map(|wanted| wanted.of(1000)), [1000, 99, 99]);
    }
}
