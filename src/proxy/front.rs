//! What every handler works with.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Broker, Group, Topic},
    observe::trace::Tracer,
    proto::v2::Code,
    types::{GroupName, TopicName},
};

use super::{
    asks::Asks, config::Config, layers::Load, meters::Meters, rates::Rates, renew::Renewals, sessions::Sessions,
    status::Refusal,
};

pub struct Front {
    pub config: Config,
    pub broker: Broker,
    pub sessions: Arc<Sessions>,
    pub asks: Asks,
    pub renewals: Renewals,
    pub load: Load,
    pub meters: Meters,
    /// Where calls are traced.
    pub tracer: Option<Tracer>,
    pub rates: Rates,
    /// Cancelled when no new work is taken.
    pub draining: CancellationToken,
}

impl Front {
    pub fn new(config: Config, broker: Broker, tracer: Option<Tracer>) -> Self {
        Self {
            sessions: Arc::new(Sessions::new(config.limits.sessions_max, config.limits.session_streams_max)),
            asks: Asks::default(),
            renewals: Renewals::new(config.renew.clone()),
            load: Load::default(),
            meters: Meters::new(),
            tracer,
            rates: Rates::default(),
            draining: CancellationToken::new(),
            broker,
            config,
        }
    }

    /// The topic, made if need be and allowed.
    pub async fn topic(&self, name: &TopicName) -> Result<Arc<Topic>, Refusal> {
        self.broker.topic_for(name).await?.ok_or_else(|| {
            let text = format!("topic {name} does not exist; create it with `ferromq topic create {name}`");
            Refusal::new(Code::TopicNotFound, text)
        })
    }

    /// The group, made if need be and allowed; `None` when it may not be made.
    pub async fn group(&self, name: &GroupName) -> Result<Option<Arc<Group>>, Refusal> {
        Ok(self.broker.group_for(name).await?)
    }
}
