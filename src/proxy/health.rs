//! `grpc.health.v1`: serving while the store takes and keeps messages, and until the drain.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::stream;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server};

use crate::broker;

use super::front::Front;

/// How often a watcher's state is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// The services that can be asked for on a port; the empty name is the server itself.
pub const OF_CLIENTS: &[&str] = &["", "apache.rocketmq.v2.MessagingService"];
pub const OF_ADMINISTRATION: &[&str] = &["", "apache.rocketmq.v2.Admin", "ferromq.admin.v1.AdminService"];

pub struct Health {
    pub front: Arc<Front>,
    pub services: &'static [&'static str],
}

/// A disk that is full refuses sends only; consumption goes on and makes room, so the server still serves.
fn serving(front: &Front) -> ServingStatus {
    if front.draining.is_cancelled() {
        return ServingStatus::NotServing;
    }
    match front.broker.store().health() {
        broker::Health::Ready | broker::Health::Full { .. } => ServingStatus::Serving,
        broker::Health::Poisoned(_) => ServingStatus::NotServing,
    }
}

fn state(front: &Front) -> HealthCheckResponse {
    HealthCheckResponse { status: serving(front) as i32 }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = &request.get_ref().service;
        if !self.services.contains(&&**service) {
            return Err(Status::not_found(format!("service {service:?} is not here")));
        }
        Ok(Response::new(state(&self.front)))
    }

    /// Says the state and each change of it; the last one is that of the drain.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        if !self.services.contains(&&*request.get_ref().service) {
            let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown as i32 };
            return Ok(Response::new(Box::pin(tokio_stream::once(Ok(unknown)))));
        }
        let start = (self.front.clone(), None);
        let changes = stream::unfold(start, |(front, last)| async move {
            while last == Some(serving(&front)) {
                if front.draining.is_cancelled() {
                    return None;
                }
                tokio::select! {
                    () = tokio::time::sleep(WATCH_INTERVAL) => {}
                    () = front.draining.cancelled() => {}
                }
            }
            let now = serving(&front);
            Some((Ok(HealthCheckResponse { status: now as i32 }), (front, Some(now))))
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
