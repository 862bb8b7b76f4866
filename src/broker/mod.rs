//! RULES OF MESSAGING.
//!
//! Plain methods on typed values; every front calls them, and none of them knows a protocol, a connection or a file.
//!
//! - [`metadata`] - topics and consumer groups.
//! - [`produce`] - sending.
//! - [`pop`] - consumption.
//! - [`filter`] - which messages a consumer wants.
//! - [`clients`] - who is there.
//!
//! Order of locks: a table being changed, then a topic's gate, then the log; see the rooms behind this door for their own.
//! None is held across an await.

mod clients;
pub mod config;
mod error;
mod fastjson;
pub mod filter;
mod long_poll;
mod metadata;
mod offsets;
mod pop;
mod produce;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;

pub use clients::Role;
pub use config::Config;
pub use error::{AdminError, OperateError, ProduceError, SettleError, TakeError};
pub use filter::{Filter, FilterError};
pub use metadata::{Group, GroupChange, RetryPolicy, Topic, TopicChange};
pub use pop::{AttemptId, Delivery, Locked, Progress, Receipt, Take};
pub use produce::{Draft, Produced};

pub use crate::store::{AppendError, Health, Poisoned, ReadError};
use crate::{store::Store, types::Clock};

/// The broker; a cheap clone.
#[derive(Clone)]
pub struct Broker {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    store: Store,
    clock: Arc<dyn Clock>,
    metadata: metadata::Metadata,
    clients: clients::Clients,
    pop: pop::Pop,
}

/// Why the broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{file}: {why}")]
    State { file: String, why: String },
    #[error(transparent)]
    Read(#[from] crate::store::ReadError),
}

impl Broker {
    /// Loads topics, groups and books, and replays what the log says since the last snapshot.
    pub fn open(config: Config, store: Store, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let metadata = metadata::Metadata::load(&store)?;
        let clients = clients::Clients::default();
        let pop = pop::Pop::open(&config, &store, &clock)?;
        let broker = Self { inner: Arc::new(Inner { config, store, clock, metadata, clients, pop }) };
        broker.forget_strays();
        broker.limit_restored();
        Ok(broker)
    }
    pub fn config(&self) -> &Config {
        &self.inner.config
    }
    pub fn store(&self) -> &Store {
        &self.inner.store
    }
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.inner.clock
    }
    /// Ends every parked poll with nothing, and lets no new one park: for the drain.
    pub fn end_polls(&self) {
        self.inner.pop.end_polls();
    }
}
