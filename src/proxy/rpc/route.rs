//! QueryRoute and QueryAssignment: where a topic's queues are, and what to poll.

use crate::{
    proto::v2::{self, Code},
    types::BrokerName,
};

use super::{Call, Messaging, Outcome, Refusal, convert};
use crate::proxy::{
    addresses::{HostPort, dialled},
    status,
};

/// The id of a broker that takes writes; the only one that is told, since clients send to any they see.
const MASTER: i32 = 0;

impl Messaging {
    pub async fn route(&self, call: &Call, request: v2::QueryRouteRequest) -> Outcome<v2::QueryRouteResponse> {
        let name = convert::topic(request.topic.as_ref())?;
        let place = self.place(call, request.topic, request.endpoints.as_ref())?;
        let topic = self.front.topic(&name).await?;
        Ok(v2::QueryRouteResponse { status: Some(status::ok()), message_queues: place.route(&topic) })
    }

    pub async fn assignment(
        &self,
        call: &Call,
        request: v2::QueryAssignmentRequest,
    ) -> Outcome<v2::QueryAssignmentResponse> {
        let name = convert::topic(request.topic.as_ref())?;
        let group = convert::group(request.group.as_ref())?;
        let place = self.place(call, request.topic, request.endpoints.as_ref())?;
        let topic = self.front.topic(&name).await?;
        let fifo = self.front.broker.group(group.as_str()).is_some_and(|g| g.fifo);
        let assignments = place.assignments(&topic, fifo);
        if assignments.is_empty() {
            let text = format!("no readable queue; `ferromq topic update {name} --readable true` opens it");
            return Err(Refusal::new(Code::Forbidden, text));
        }
        Ok(v2::QueryAssignmentResponse { status: Some(status::ok()), assignments })
    }

    fn place(
        &self,
        call: &Call,
        topic: Option<v2::Resource>,
        endpoints: Option<&v2::Endpoints>,
    ) -> Outcome<convert::queues::Place> {
        let asked = dialled(endpoints)?;
        let name: &BrokerName = &self.front.broker.config().broker_name;
        let broker = v2::Broker { name: name.as_str().into(), id: MASTER, endpoints: Some(self.told(call, asked)) };
        Ok(convert::queues::Place { topic: topic.unwrap_or_default(), broker })
    }

    /// The address that this client is told to dial: what the operator says, else what the client says that it dialled
    /// (which survives any port mapping in between), else where the connection arrived.
    fn told(&self, call: &Call, dialled: Option<v2::Endpoints>) -> v2::Endpoints {
        if let Some(advertised) = &self.connection.advertised {
            return advertised.endpoints();
        }
        let authority = || call.authority.as_ref()?.as_str().parse::<HostPort>().ok();
        dialled.unwrap_or_else(|| authority().unwrap_or_else(|| self.connection.local.into()).endpoints())
    }
}
