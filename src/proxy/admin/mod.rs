//! RocketMQ's own Admin service (`admin.proto`), complete. No open server has it and no official client calls it, so what
//! its fields mean is settled here:
//!
//! - [`topics`]: status and route of a topic.
//! - [`groups`]: backlog, times and offsets of a group.
//! - [`clients`]: who is subscribed and connected; questions to clients.
//! - [`messages`]: finding, sending and verifying messages.
//!
//! As in the messaging API errors travel in the answer's status with the same codes; `deployment_name` is passed over.
//! ChangeLogLevel alone has no status, and says no by a gRPC error.

mod clients;
mod groups;
mod messages;
#[cfg(test)]
mod tests;
mod topics;

use std::{collections::BTreeSet, sync::Arc};

use tonic::{Request, Response, Status, service::Routes};
use tonic_health::pb::health_server::HealthServer;

use crate::{
    broker::{Broker, LookError},
    observe::telemetry,
    proto::{
        self,
        v2::{self, Code, admin_server},
    },
    types::{GroupName, TopicName},
};

use super::{
    Error, Proxy, convert,
    front::Front,
    health::{self, Health},
    rpc::{Outcome, answers, reply},
    status::{self, Refusal},
};

/// Topics that one request may name.
const TOPICS_MAX: usize = 1024;

answers! {
    DescribeTopicStatusResponse ListSubscriptionResponse DescribeSubscriptionResponse DeleteSubscriptionResponse
    DescribeGroupAccumulationResponse ListConsumerConnectionResponse ResetGroupOffsetResponse ListMessageResponse
    PrintThreadStackTraceResponse VerifyMessageResponse AdminSendMessageResponse GetConsumerRunningInfoResponse
    GetTopicRouteResponse QueryTimeSpanResponse GetProxyRuntimeStatsResponse
}

type Result<T> = std::result::Result<Response<T>, Status>;

/// The handlers; a cheap clone.
#[derive(Clone)]
struct Administration {
    proxy: Proxy,
    ids: Arc<messages::MessageIds>,
}

impl Proxy {
    /// RocketMQ's Admin service with reflection and health: what the port of administration serves beside FerroMQ's own.
    pub fn administration(&self) -> std::result::Result<Routes, Error> {
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .with_service_name("apache.rocketmq.v2.Admin")
                .with_service_name("ferromq.admin.v1.AdminService")
                .with_service_name("grpc.health.v1.Health")
                .with_service_name("grpc.reflection.v1.ServerReflection")
                .with_service_name("grpc.reflection.v1alpha.ServerReflection")
        };
        let health = Health { front: self.front().clone(), services: health::OF_ADMINISTRATION };
        let handlers = Administration { proxy: self.clone(), ids: Arc::new(messages::MessageIds::new()) };
        let inbound_max = self.config().limits.inbound_bytes_max;
        Ok(Routes::new(admin_server::AdminServer::new(handlers).max_decoding_message_size(inbound_max))
            .add_service(HealthServer::new(health))
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?))
    }
}

impl Administration {
    fn front(&self) -> &Arc<Front> {
        self.proxy.front()
    }

    fn broker(&self) -> &Broker {
        &self.front().broker
    }

    /// Runs what may wait for the disk where it may.
    async fn blocking<T: Send + 'static, E: Into<Refusal> + Send + 'static>(
        &self,
        look: impl FnOnce(&Broker) -> std::result::Result<T, E> + Send + 'static,
    ) -> Outcome<T> {
        self.elsewhere(move |own| look(own.broker()).map_err(Into::into)).await
    }

    /// Runs what takes the longer the more clients there are where nobody waits for it.
    async fn elsewhere<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Self) -> Outcome<T> + Send + 'static,
    ) -> Outcome<T> {
        let own = self.clone();
        match tokio::task::spawn_blocking(move || look(&own)).await {
            Ok(result) => result,
            Err(_) => {
                let text = "the server is stopping, or failed on this call; its log says more";
                Err(Refusal::new(Code::InternalServerError, text))
            }
        }
    }

    /// A group that exists.
    fn group(&self, wire: Option<&v2::Resource>) -> Outcome<GroupName> {
        let group = convert::group(wire)?;
        match self.broker().group(group.as_str()) {
            Some(_) => Ok(group),
            None => Err(LookError::GroupNotFound(group).into()),
        }
    }

    /// A topic that exists.
    fn topic(&self, wire: Option<&v2::Resource>) -> Outcome<TopicName> {
        let topic = convert::topic(wire)?;
        match self.broker().topic(topic.as_str()) {
            Some(_) => Ok(topic),
            None => Err(LookError::TopicNotFound(topic).into()),
        }
    }
}

/// The topics that a request names, each once.
fn topics(wire: &[v2::Resource]) -> Outcome<Vec<TopicName>> {
    if wire.len() > TOPICS_MAX {
        let text = format!("{} topics, the most is {TOPICS_MAX}; ask for them in parts", wire.len());
        return Err(Refusal::new(Code::BadRequest, text));
    }
    let named = wire.iter().map(|topic| convert::topic(Some(topic))).collect::<Outcome<BTreeSet<_>>>()?;
    Ok(named.into_iter().collect())
}

fn resource(name: &str) -> Option<v2::Resource> {
    Some(v2::Resource { resource_namespace: String::new(), name: name.into() })
}

#[tonic::async_trait]
impl admin_server::Admin for Administration {
    async fn change_log_level(&self, r: Request<v2::ChangeLogLevelRequest>) -> Result<v2::ChangeLogLevelResponse> {
        let number = r.get_ref().level;
        let level = v2::change_log_level_request::Level::try_from(number).map_err(|_| {
            Status::invalid_argument(format!("log level {number} is not known; TRACE is 0, ERROR is 4"))
        })?;
        telemetry::set_level(level.as_str_name()).map_err(Status::failed_precondition)?;
        let remark = format!("the log level is {} until the server is started again", level.as_str_name());
        Ok(Response::new(v2::ChangeLogLevelResponse { remark }))
    }
    async fn describe_topic_status(
        &self,
        r: Request<v2::DescribeTopicStatusRequest>,
    ) -> Result<v2::DescribeTopicStatusResponse> {
        reply(self.topic_status(r.get_ref()))
    }
    async fn list_subscription(&self, r: Request<v2::ListSubscriptionRequest>) -> Result<v2::ListSubscriptionResponse> {
        reply(self.subscriptions(r.get_ref()).await)
    }
    async fn describe_subscription(
        &self,
        r: Request<v2::DescribeSubscriptionRequest>,
    ) -> Result<v2::DescribeSubscriptionResponse> {
        reply(self.elsewhere(move |own| own.subscription_clients(r.get_ref())).await)
    }
    async fn delete_subscription(
        &self,
        r: Request<v2::DeleteSubscriptionRequest>,
    ) -> Result<v2::DeleteSubscriptionResponse> {
        reply(self.forget_subscription(r.get_ref()).await)
    }
    async fn describe_group_accumulation(
        &self,
        r: Request<v2::DescribeGroupAccumulationRequest>,
    ) -> Result<v2::DescribeGroupAccumulationResponse> {
        reply(self.accumulation(r.get_ref()).await)
    }
    async fn list_consumer_connection(
        &self,
        r: Request<v2::ListConsumerConnectionRequest>,
    ) -> Result<v2::ListConsumerConnectionResponse> {
        reply(self.elsewhere(move |own| own.connections(r.get_ref())).await)
    }
    async fn reset_group_offset(
        &self,
        r: Request<v2::ResetGroupOffsetRequest>,
    ) -> Result<v2::ResetGroupOffsetResponse> {
        reply(self.reset(r.get_ref()).await)
    }
    async fn query_message(&self, r: Request<v2::ListMessageRequest>) -> Result<v2::ListMessageResponse> {
        reply(self.messages(r.into_inner()).await)
    }
    async fn print_thread_stack_trace(
        &self,
        r: Request<v2::PrintThreadStackTraceRequest>,
    ) -> Result<v2::PrintThreadStackTraceResponse> {
        reply(self.thread_stacks(r.get_ref()).await)
    }
    async fn verify_message(&self, r: Request<v2::VerifyMessageRequest>) -> Result<v2::VerifyMessageResponse> {
        reply(self.verify(r.into_inner()).await)
    }
    async fn admin_send_message(
        &self,
        r: Request<v2::AdminSendMessageRequest>,
    ) -> Result<v2::AdminSendMessageResponse> {
        let peer = r.remote_addr();
        reply(self.send(r.into_inner(), peer).await)
    }
    async fn get_consumer_running_info(
        &self,
        r: Request<v2::GetConsumerRunningInfoRequest>,
    ) -> Result<v2::GetConsumerRunningInfoResponse> {
        reply(self.elsewhere(move |own| own.running_info(r.get_ref())).await)
    }
    async fn get_topic_route(&self, r: Request<v2::GetTopicRouteRequest>) -> Result<v2::GetTopicRouteResponse> {
        reply(self.route(r.get_ref()))
    }
    async fn query_time_span(&self, r: Request<v2::QueryTimeSpanRequest>) -> Result<v2::QueryTimeSpanResponse> {
        reply(self.time_span(r.get_ref()).await)
    }
    async fn get_proxy_runtime_stats(
        &self,
        _: Request<v2::GetProxyRuntimeStatsRequest>,
    ) -> Result<v2::GetProxyRuntimeStatsResponse> {
        reply(Ok(self.runtime_stats()))
    }
}
