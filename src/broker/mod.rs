//! RULES OF MESSAGING.
//!
//! Plain methods on typed values; every front calls them, and none of them knows a protocol, a connection or a file.
//!
//! - [`metadata`] - topics and consumer groups.
//! - [`produce`] - sending.
//! - [`delay`] - messages that wait for their time.
//! - [`pop`] - consumption; [`pull`] - reading from an offset on.
//! - [`filter`] - which messages a consumer wants.
//! - [`transaction`] - messages that their producers decide about later.
//! - [`lite`] - lite topics.
//! - [`clients`] - who is there.
//! - [`meters`] - what is counted, and how far groups are behind.
//! - [`look`] - what operators look at; [`story`] - the life of a message; [`resend`] - sending it again.
//!
//! Order of locks: a table being changed, then a topic's gate, then the log; see the rooms behind this door for their own.
//! None is held across an await.

mod aside;
mod clients;
pub mod config;
mod delay;
mod error;
mod fastjson;
pub mod filter;
mod lite;
mod long_poll;
mod look;
mod metadata;
mod meters;
mod offsets;
mod pop;
mod produce;
mod pull;
mod resend;
mod story;
#[cfg(test)]
pub(crate) mod testing;
mod transaction;

use std::sync::Arc;

pub use clients::Role;
pub use config::Config;
pub use delay::{DEFAULT_LEVELS, Lateness, PendingTimer, RecallError, parse_levels};
pub use error::{
    AdminError, EndError, LiteError, OffsetError, OperateError, ProduceError, PullError, SettleError, TakeError,
    Unconfirmed,
};
pub use filter::{Filter, FilterError};
pub use lite::{LiteAction, LiteSet, LiteStart, LiteSync};
pub use look::{Browse, Cursor, LookError, Page, QueueLag, QueueSpan};
pub use metadata::{Group, GroupChange, RetryPolicy, Topic, TopicChange};
pub use meters::{Backlog, Backlogs, GroupCounts, TopicCounts};
pub use pop::{AttemptId, Delivery, Locked, Moved, Position, Progress, Receipt, Take, TooManyBooks};
pub use produce::{Draft, Produced};
pub use pull::{Pull, Pulled};
pub use resend::{DeadLetter, DeadLetters, ResendError, Resent};
pub use story::{Copy, Event, Gap, Happened, Kind, Seen, Sighted, Sighting, Standing, State, Story};
pub use transaction::{Askable, Check, Decision, Round, TransactionId};

pub use crate::store::{AppendError, Health, Poisoned, ReadError};

use crate::{
    store::Store,
    types::{Clock, PhysicalOffset},
};

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
    lite: Arc<lite::Lite>,
    pop: pop::Pop,
    timers: delay::Timers,
    transactions: transaction::Transactions,
    meters: meters::Meters,
    sightings: story::Sightings,
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
        let lite = Arc::new(lite::Lite::default());
        let pop = pop::Pop::open(&config, &store, &clock, &lite)?;
        let timers = delay::Timers::new(clock.as_ref());
        let transactions = transaction::Transactions::new(&config);
        let meters = meters::Meters::new(config.series_max);
        let sightings = story::Sightings::since(clock.wall());
        let inner =
            Inner { config, store, clock, metadata, clients, lite, pop, timers, transactions, meters, sightings };
        let broker = Self { inner: Arc::new(inner) };
        broker.forget_strays();
        broker.limit_restored();
        broker.load_lite_topics()?;
        broker.load_timers()?;
        broker.restore_transactions()?;
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
    /// Waits until everything below `end` is as safe as the flush policy says, for `syncFlushTimeout` at most: a disk
    /// that hangs is no reason for a client to hear nothing.
    async fn confirmed(&self, end: PhysicalOffset) -> Result<(), Unconfirmed> {
        self.in_time(self.inner.store.committed(end)).await
    }
    /// Waits until the kernel has everything below `end`, for as long.
    async fn written(&self, end: PhysicalOffset) -> Result<(), Unconfirmed> {
        self.in_time(self.inner.store.written(end)).await
    }
    async fn in_time(&self, safe: impl Future<Output = Result<(), Poisoned>>) -> Result<(), Unconfirmed> {
        let within = self.inner.config.sync_flush_timeout;
        match tokio::time::timeout(within, safe).await {
            Ok(safe) => safe.map_err(Unconfirmed::Poisoned),
            Err(_) => Err(Unconfirmed::Late { within }),
        }
    }
    /// Ends every parked poll with nothing, and lets no new one park: for the drain. The loops' work ends with the batch
    /// that they are at: what is left is found in the log at the next start.
    pub fn end_polls(&self) {
        self.inner.pop.end_polls();
        self.inner.lite.wake_all();
    }
    fn is_ending(&self) -> bool {
        self.inner.pop.polls().has_ended()
    }
}
