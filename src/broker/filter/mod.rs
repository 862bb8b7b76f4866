//! Which messages a consumer wants.
//!
//! - [`tags`]: decided by the consume queue's hashes first, so that most of what does not match is never read;
//! - [`sql`]: SQL92 over the properties of the message that was read.
//!
//! All consumers of a group should have the same filter on a topic, as in RocketMQ: what the filter of the one that looks
//! first does not want is done for the group.

pub mod sql;
pub mod tags;

use std::{sync::Arc, time::Duration};

pub use sql::{Sql, SqlError};
pub use tags::Tag;

use super::LiteSet;
use crate::types::{LiteId, StoredMessage};

/// Bytes of an expression at most. It bounds what one poll compares for each message that it walks over.
pub const EXPRESSION_LEN_MAX: usize = 4096;

/// Messages that are read, and turn out not to be wanted, before other tasks of the thread get a turn: about 50 us.
pub(super) const UNWANTED_MAX: usize = 32;
/// How long a look goes on though its poll is over, as long as the filter passes over everything: so a poll that does not
/// wait gets somewhere, too. What it has passed over is not looked at again.
pub(super) const LOOK_MIN: Duration = Duration::from_millis(50);

/// A parsed filter expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    All,
    /// One of these tags, by text; sorted by hash, then text; each once; not empty.
    Tags(Vec<Tag>),
    /// Those of whose properties this is true.
    Sql(Arc<Sql>),
    /// What is in the client's set of lite topics when it is looked at.
    Lite(Arc<LiteSet>),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("the tag expression {0:?} names no tag; use * for everything, or tags joined by ||")]
    NoTag(String),
    #[error("the SQL92 filter is empty; write a condition like \"price > 10 AND region = 'eu'\"")]
    NoCondition,
    #[error("the filter expression has {len} bytes, the most is {max}")]
    TooLong { len: usize, max: usize },
    #[error("the SQL92 filter does not read: {0}")]
    Sql(#[from] SqlError),
}

impl Filter {
    /// A tag expression: empty or `*` is everything, else tags joined by `||`. Blanks around a tag and empty parts do not
    /// count; case does.
    pub fn tags(expression: &str) -> Result<Self, FilterError> {
        check_len(expression)?;
        Ok(tags::parse(expression)?.map_or(Self::All, Self::Tags))
    }

    /// An SQL92 expression, see [`sql`].
    pub fn sql(expression: &str) -> Result<Self, FilterError> {
        check_len(expression)?;
        if expression.trim().is_empty() {
            return Err(FilterError::NoCondition);
        }
        Ok(Self::Sql(Arc::new(Sql::parse(expression)?)))
    }

    /// Whether an entry with this tag hash may match; the message decides later.
    pub fn may_match(&self, tags_code: i64) -> bool {
        match self {
            Self::All | Self::Sql(_) => true,
            Self::Tags(tags) => tags::may_match(tags, tags_code),
            Self::Lite(set) => set.contains(LiteId::from_code(tags_code)),
        }
    }

    pub fn is_lite(&self) -> bool {
        matches!(self, Self::Lite(_))
    }

    /// Whether the consumer wants this message. One without a tag is wanted only by who asked for no tag.
    pub fn matches(&self, message: &StoredMessage) -> bool {
        match self {
            // Chosen by its lite topic already.
            Self::All | Self::Lite(_) => true,
            Self::Tags(tags) => message.tag().is_some_and(|text| tags.iter().any(|tag| tag.text == text)),
            Self::Sql(sql) => sql.matches(&message.properties),
        }
    }
}

fn check_len(expression: &str) -> Result<(), FilterError> {
    let len = expression.len();
    if len > EXPRESSION_LEN_MAX {
        return Err(FilterError::TooLong { len, max: EXPRESSION_LEN_MAX });
    }
    Ok(())
}
