//! ADMINISTRATION: the operator's verbs on topics, groups, timers and messages, over FerroMQ's own gRPC service.
//!
//! Unlike the RocketMQ API, business errors are gRPC status codes here. Calls that write tables wait for a disk, so
//! they run on threads that may block.

mod convert;
mod groups;
mod resend;
mod reset;
mod status;
mod story;
mod timers;
mod topics;

use std::{path::PathBuf, sync::Arc};

pub use convert::topic_type;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    broker::Broker,
    observe::telemetry,
    proto::admin::{self as pb, admin_service_server},
    store::Health,
};

/// Bytes of a request at most; the largest honest one is a retry policy.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// What does not change while the server runs.
#[derive(Clone, Debug)]
pub struct About {
    pub version: &'static str,
    pub store_path: PathBuf,
    /// As `flushDiskType` spells it.
    pub flush_disk_type: &'static str,
}

/// The service; a cheap clone.
#[derive(Clone)]
pub struct Admin {
    broker: Broker,
    about: Arc<About>,
    stopping: CancellationToken,
}

impl Admin {
    /// `stopping` is the signal after which the server is not ready any more.
    pub fn new(broker: Broker, about: About, stopping: CancellationToken) -> Self {
        Self { broker, about: Arc::new(about), stopping }
    }

    /// As a tonic service, with its limits.
    pub fn into_service(self) -> admin_service_server::AdminServiceServer<Self> {
        admin_service_server::AdminServiceServer::new(self).max_decoding_message_size(REQUEST_BYTES_MAX)
    }

    /// Runs a verb where it may wait for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        verb: impl FnOnce(&Broker) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let broker = self.broker.clone();
        tokio::task::spawn_blocking(move || verb(&broker))
            .await
            .map_err(|e| Status::internal(format!("the call did not end: {e}; see the server's log")))?
    }

    fn server_status(&self) -> pb::GetServerStatusResponse {
        let store = self.broker.store();
        let marks = store.watermarks();
        let reason = match store.health() {
            Health::Poisoned(why) => why.to_string(),
            Health::Full { free } => {
                format!("the disk is full ({free} bytes left); free room or shorten fileReservedTime")
            }
            Health::Ready if self.stopping.is_cancelled() => "the server is shutting down".to_owned(),
            Health::Ready => String::new(),
        };
        pb::GetServerStatusResponse {
            version: self.about.version.into(),
            broker_name: self.broker.config().broker_name.to_string(),
            ready: reason.is_empty(),
            reason,
            store_path: self.about.store_path.display().to_string(),
            flush_disk_type: self.about.flush_disk_type.into(),
            durable_offset: marks.durable.get(),
            written_offset: marks.written.get(),
        }
    }
}

#[tonic::async_trait]
impl admin_service_server::AdminService for Admin {
    async fn create_topic(
        &self,
        request: Request<pb::CreateTopicRequest>,
    ) -> Result<Response<pb::CreateTopicResponse>, Status> {
        let request = request.into_inner();
        self.blocking(|broker| topics::create(broker, request)).await.map(Response::new)
    }

    async fn update_topic(
        &self,
        request: Request<pb::UpdateTopicRequest>,
    ) -> Result<Response<pb::UpdateTopicResponse>, Status> {
        let request = request.into_inner();
        self.blocking(|broker| topics::update(broker, request)).await.map(Response::new)
    }

    async fn delete_topic(
        &self,
        request: Request<pb::DeleteTopicRequest>,
    ) -> Result<Response<pb::DeleteTopicResponse>, Status> {
        let request = request.into_inner();
        self.blocking(move |broker| topics::delete(broker, &request)).await.map(Response::new)
    }

    async fn list_topics(
        &self,
        request: Request<pb::ListTopicsRequest>,
    ) -> Result<Response<pb::ListTopicsResponse>, Status> {
        self.blocking(move |broker| Ok(topics::list(broker, request.get_ref()))).await.map(Response::new)
    }

    async fn describe_topic(
        &self,
        request: Request<pb::DescribeTopicRequest>,
    ) -> Result<Response<pb::DescribeTopicResponse>, Status> {
        self.blocking(move |broker| topics::describe(broker, request.get_ref())).await.map(Response::new)
    }

    async fn create_group(
        &self,
        request: Request<pb::CreateGroupRequest>,
    ) -> Result<Response<pb::CreateGroupResponse>, Status> {
        let request = request.into_inner();
        self.blocking(|broker| groups::create(broker, request)).await.map(Response::new)
    }

    async fn update_group(
        &self,
        request: Request<pb::UpdateGroupRequest>,
    ) -> Result<Response<pb::UpdateGroupResponse>, Status> {
        let request = request.into_inner();
        self.blocking(|broker| groups::update(broker, request)).await.map(Response::new)
    }

    async fn delete_group(
        &self,
        request: Request<pb::DeleteGroupRequest>,
    ) -> Result<Response<pb::DeleteGroupResponse>, Status> {
        let request = request.into_inner();
        self.blocking(move |broker| groups::delete(broker, &request)).await.map(Response::new)
    }

    async fn list_groups(&self, _: Request<pb::ListGroupsRequest>) -> Result<Response<pb::ListGroupsResponse>, Status> {
        self.blocking(|broker| Ok(groups::list(broker))).await.map(Response::new)
    }

    async fn describe_group(
        &self,
        request: Request<pb::DescribeGroupRequest>,
    ) -> Result<Response<pb::DescribeGroupResponse>, Status> {
        self.blocking(move |broker| groups::describe(broker, request.get_ref())).await.map(Response::new)
    }

    async fn reset_group_offsets(
        &self,
        request: Request<pb::ResetGroupOffsetsRequest>,
    ) -> Result<Response<pb::ResetGroupOffsetsResponse>, Status> {
        let reset = reset::Reset::of(request.get_ref())?;
        let planned = reset.clone();
        let mut moved = self.blocking(move |broker| planned.plan(broker)).await?;
        if !request.get_ref().dry_run {
            moved = reset.carry_out(&self.broker, &moved).await?;
        }
        Ok(Response::new(reset::answer(moved)))
    }

    async fn skip_message(
        &self,
        request: Request<pb::SkipMessageRequest>,
    ) -> Result<Response<pb::SkipMessageResponse>, Status> {
        groups::skip(&self.broker, request.get_ref()).await.map(Response::new)
    }

    async fn park_message(
        &self,
        request: Request<pb::ParkMessageRequest>,
    ) -> Result<Response<pb::ParkMessageResponse>, Status> {
        groups::park(&self.broker, request.get_ref()).await.map(Response::new)
    }

    async fn set_log_level(
        &self,
        request: Request<pb::SetLogLevelRequest>,
    ) -> Result<Response<pb::SetLogLevelResponse>, Status> {
        let level = request.into_inner().level;
        if !level.is_empty() {
            let refused = |why| Status::invalid_argument(format!("level {level:?} {why}"));
            telemetry::set_level(&level).map_err(refused)?;
            tracing::info!(level, "the log's level was changed");
        }
        Ok(Response::new(pb::SetLogLevelResponse { level: telemetry::level() }))
    }

    async fn get_server_status(
        &self,
        _: Request<pb::GetServerStatusRequest>,
    ) -> Result<Response<pb::GetServerStatusResponse>, Status> {
        Ok(Response::new(self.server_status()))
    }

    async fn list_timers(
        &self,
        request: Request<pb::ListTimersRequest>,
    ) -> Result<Response<pb::ListTimersResponse>, Status> {
        let request = request.into_inner();
        self.blocking(move |broker| timers::list(broker, &request)).await.map(Response::new)
    }

    async fn find_timer(
        &self,
        request: Request<pb::FindTimerRequest>,
    ) -> Result<Response<pb::FindTimerResponse>, Status> {
        let request = request.into_inner();
        self.blocking(move |broker| timers::find(broker, &request)).await.map(Response::new)
    }

    async fn cancel_timer(
        &self,
        request: Request<pb::CancelTimerRequest>,
    ) -> Result<Response<pb::CancelTimerResponse>, Status> {
        let request = request.into_inner();
        self.blocking(move |broker| timers::cancel(broker, &request)).await.map(Response::new)
    }

    async fn reschedule_timer(
        &self,
        request: Request<pb::RescheduleTimerRequest>,
    ) -> Result<Response<pb::RescheduleTimerResponse>, Status> {
        let request = request.into_inner();
        self.blocking(move |broker| timers::reschedule(broker, &request)).await.map(Response::new)
    }

    async fn resend_message(
        &self,
        request: Request<pb::ResendMessageRequest>,
    ) -> Result<Response<pb::ResendMessageResponse>, Status> {
        resend::message(&self.broker, request.into_inner()).await.map(Response::new)
    }

    async fn list_dead_letters(
        &self,
        request: Request<pb::ListDeadLettersRequest>,
    ) -> Result<Response<pb::ListDeadLettersResponse>, Status> {
        let request = request.into_inner();
        self.blocking(move |broker| resend::list(broker, &request)).await.map(Response::new)
    }

    async fn resend_dead_letters(
        &self,
        request: Request<pb::ResendDeadLettersRequest>,
    ) -> Result<Response<pb::ResendDeadLettersResponse>, Status> {
        resend::dead_letters(&self.broker, request.into_inner()).await.map(Response::new)
    }

    async fn explain_message(
        &self,
        request: Request<pb::ExplainMessageRequest>,
    ) -> Result<Response<pb::ExplainMessageResponse>, Status> {
        let request = request.into_inner();
        self.blocking(move |broker| story::explain(broker, &request)).await.map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::{admin_service_server::AdminService, *};
    use crate::broker::testing::{Machine, topic};

    #[test]
    fn a_topic_is_described_where_it_may_wait_for_the_disk() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().max_blocking_threads(1).build().unwrap().block_on(async {
            let broker = Machine::new().start();
            let name = "sessions".to_owned();
            let kind = Some(crate::types::MessageType::Lite);
            let made = broker.topic_or_create(&topic(&name)).unwrap().unwrap();
            broker
                .update_topic(&made.name, crate::broker::TopicChange { message_type: kind, ..Default::default() })
                .unwrap();
            let about = About { version: "1", store_path: "/store".into(), flush_disk_type: "SYNC_FLUSH" };
            let admin = Admin::new(broker, about, CancellationToken::new());
            let (go, wait) = std::sync::mpsc::channel::<()>();
            let slow = tokio::task::spawn_blocking(move || wait.recv());
            let mut described = admin.describe_topic(Request::new(pb::DescribeTopicRequest { name }));
            assert!((&mut described).now_or_never().is_none(), "it was read on this thread");
            drop(go);
            slow.await.unwrap().unwrap_err();
            assert_eq!(described.await.unwrap().into_inner().lite_topics, Some(0));
        });
    }
}
