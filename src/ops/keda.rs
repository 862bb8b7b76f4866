//! KEDA's external scaler: consumers are scaled on how far their group is behind.
//!
//! A trigger says `topic` and `consumerGroup`; `lagThreshold` is how many messages one replica should have before it (10),
//! `activationLagThreshold` above how many there should be replicas at all (0).

use std::{collections::HashMap, pin::Pin, time::Duration};

use futures_util::stream;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::{
    proto::keda::{
        GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
        ScaledObjectRef, external_scaler_server::ExternalScaler,
    },
    types::{Deadline, GroupName, TopicName},
};

use super::state::State;

/// How often a stream looks whether something changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const LAG_THRESHOLD: u64 = 10;
/// Streams of one server at most; KEDA opens one for each trigger of type `external-push`.
const STREAMS_MAX: usize = 1024;

/// What a trigger asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Trigger {
    topic: TopicName,
    group: GroupName,
    threshold: u64,
    activation: u64,
}

impl Trigger {
    /// Reads a trigger's metadata. KEDA shows the errors at the ScaledObject.
    fn read(of: &ScaledObjectRef) -> Result<Self, Status> {
        let metadata = &of.scaler_metadata;
        let who = format!("trigger of {}/{}", of.namespace, of.name);
        let text = |key: &str| {
            let value = metadata.get(key).map(|value| value.trim()).filter(|value| !value.is_empty());
            value.ok_or_else(|| Status::invalid_argument(format!("{who}: metadata has no {key:?}; name it there")))
        };
        let wrong = |key: &str, why: String| Status::invalid_argument(format!("{who}: {key} {why}"));
        let topic = TopicName::parse(text("topic")?).map_err(|e| wrong("topic", e.to_string()))?;
        let group = GroupName::parse(text("consumerGroup")?).map_err(|e| wrong("consumerGroup", e.to_string()))?;
        let threshold = number(metadata, "lagThreshold", LAG_THRESHOLD, 1).map_err(|why| wrong("lagThreshold", why))?;
        let activation =
            number(metadata, "activationLagThreshold", 0, 0).map_err(|why| wrong("activationLagThreshold", why))?;
        Ok(Self { topic, group, threshold, activation })
    }

    /// Unique among the triggers of a ScaledObject that differ, and of the characters that a metric's name may have.
    fn metric_name(&self) -> String {
        format!("rocketmq-{}-{}", self.topic, self.group)
    }
}

fn number(metadata: &HashMap<String, String>, key: &str, default: u64, least: u64) -> Result<u64, String> {
    let Some(text) = metadata.get(key) else { return Ok(default) };
    let number = text.trim().parse::<u64>().ok().filter(|n| *n >= least && i64::try_from(*n).is_ok());
    number.ok_or_else(|| format!("is {text:?}, which is not a whole number from {least} on"))
}

/// The service; a cheap clone, with the same streams.
#[derive(Clone)]
pub struct Scaler {
    state: State,
    streams: std::sync::Arc<tokio::sync::Semaphore>,
}

impl Scaler {
    pub fn new(state: State) -> Self {
        Self { state, streams: std::sync::Arc::new(tokio::sync::Semaphore::new(STREAMS_MAX)) }
    }

    async fn lag(&self, trigger: &Trigger) -> Result<u64, Status> {
        lag(&self.state, trigger).await
    }
}

/// Messages of the topic that the group has not done. A group that has never consumed the topic has all of them before
/// it: else nobody would ever start its first consumer.
async fn lag(state: &State, trigger: &Trigger) -> Result<u64, Status> {
    let parts = state.parts().ok_or_else(|| Status::unavailable("the server is starting; ask again soon"))?;
    let trigger = trigger.clone();
    let look = move || {
        let broker = parts.broker;
        let topic = broker.topic(trigger.topic.as_str()).ok_or_else(|| {
            let name = &trigger.topic;
            Status::not_found(format!("topic {name} does not exist; create it with `ferromq topic create {name}`"))
        })?;
        if let Some(backlog) = broker.backlog(&trigger.topic, &trigger.group, Deadline::default()) {
            return Ok(backlog.lag);
        }
        let queues = (0..topic.read_queues).map(|id| broker.store().queue(&topic.name, crate::types::QueueId(id)));
        Ok(queues.map(|queue| queue.min().until(queue.max())).sum())
    };
    tokio::task::spawn_blocking(look).await.map_err(|_| Status::internal("the server is stopping"))?
}

#[tonic::async_trait]
impl ExternalScaler for Scaler {
    type StreamIsActiveStream = Pin<Box<dyn Stream<Item = Result<IsActiveResponse, Status>> + Send>>;

    async fn is_active(&self, request: Request<ScaledObjectRef>) -> Result<Response<IsActiveResponse>, Status> {
        let trigger = Trigger::read(request.get_ref())?;
        let result = self.lag(&trigger).await? > trigger.activation;
        Ok(Response::new(IsActiveResponse { result }))
    }

    /// Says it at once, and whenever it changes.
    async fn stream_is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        let trigger = Trigger::read(request.get_ref())?;
        let place = self.streams.clone().try_acquire_owned();
        let place = place.map_err(|_| Status::resource_exhausted(format!("{STREAMS_MAX} streams are open")))?;
        let start = (self.state.clone(), trigger, None::<bool>, place);
        let changes = stream::unfold(Some(start), |open| async move {
            let (state, trigger, said, place) = open?;
            loop {
                match lag(&state, &trigger).await {
                    Ok(lag) if said != Some(lag > trigger.activation) => {
                        let result = lag > trigger.activation;
                        return Some((Ok(IsActiveResponse { result }), Some((state, trigger, Some(result), place))));
                    }
                    Ok(_) => tokio::time::sleep(LOOK_INTERVAL).await,
                    Err(status) => return Some((Err(status), None)),
                }
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        let trigger = Trigger::read(request.get_ref())?;
        let spec = MetricSpec {
            metric_name: trigger.metric_name(),
            target_size: trigger.threshold as i64,
            target_size_float: trigger.threshold as f64,
        };
        Ok(Response::new(GetMetricSpecResponse { metric_specs: vec![spec] }))
    }

    async fn get_metrics(&self, request: Request<GetMetricsRequest>) -> Result<Response<GetMetricsResponse>, Status> {
        let request = request.into_inner();
        let object = request.scaled_object_ref.unwrap_or_default();
        let trigger = Trigger::read(&object)?;
        let lag = self.lag(&trigger).await?;
        let value = MetricValue {
            metric_name: request.metric_name,
            metric_value: i64::try_from(lag).unwrap_or(i64::MAX),
            metric_value_float: lag as f64,
        };
        Ok(Response::new(GetMetricsResponse { metric_values: vec![value] }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trigger(metadata: &[(&str, &str)]) -> Result<Trigger, Status> {
        let scaler_metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Trigger::read(&ScaledObjectRef { name: "workers".into(), namespace: "shop".into(), scaler_metadata })
    }

    #[test]
    fn a_trigger_says_what_it_scales_on() {
        let read = trigger(&[("topic", "orders"), ("consumerGroup", "billing"), ("lagThreshold", " 50 ")]).unwrap();
        assert_eq!((read.threshold, read.activation), (50, 0));
        assert_eq!(read.metric_name(), "rocketmq-orders-billing");
    }

    #[test]
    fn a_wrong_trigger_is_refused_with_what_is_wrong_where() {
        for (metadata, said) in [
            (&[("topic", "orders")][..], "no \"consumerGroup\""),
            (&[("consumerGroup", "g")], "no \"topic\""),
            (&[("topic", "or ders"), ("consumerGroup", "g")], "topic "),
            (&[("topic", "t"), ("consumerGroup", "g"), ("lagThreshold", "0")], "from 1 on"),
            (&[("topic", "t"), ("consumerGroup", "g"), ("activationLagThreshold", "many")], "\"many\""),
        ] {
            let refused = trigger(metadata).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains(said) && refused.message().contains("shop/workers"), "{refused}");
        }
    }
}
