//! Heartbeat and NotifyClientTermination: who is there.

use crate::{
    broker::Role,
    proto::v2::{self, ClientType, Code},
};

use super::{Call, Messaging, Outcome, Refusal, convert};
use crate::proxy::status;

impl Messaging {
    pub fn beat(&self, call: &Call, request: &v2::HeartbeatRequest) -> Outcome<v2::HeartbeatResponse> {
        let role = match self.front.sessions.heard(&call.client) {
            Some(told) => told.role,
            // The server was restarted, and the client does not know: what it says here is enough to go on.
            None => role(request)?,
        };
        if let (Role::Consumer { .. }, Some(group)) = (&role, &request.group) {
            convert::group(Some(group))?;
        }
        self.front.broker.client_seen(&call.client, role);
        Ok(v2::HeartbeatResponse { status: Some(status::ok()) })
    }

    pub async fn terminate(
        &self,
        call: &Call,
        request: &v2::NotifyClientTerminationRequest,
    ) -> Outcome<v2::NotifyClientTerminationResponse> {
        // Producers name no group, or an empty one.
        if let Some(group) = request.group.as_ref().filter(|g| !g.name.is_empty()) {
            convert::group(Some(group))?;
        }
        let told = self.front.sessions.goodbye(&call.client);
        let seen = self.front.broker.client_gone(&call.client);
        self.front.renewals.release(&call.client, &self.front.broker).await;
        if !told && !seen {
            let text = "cannot find client settings for this client";
            return Err(Refusal::new(Code::UnrecognizedClientType, text));
        }
        Ok(v2::NotifyClientTerminationResponse { status: Some(status::ok()) })
    }
}

/// What a client is that has not told its settings.
fn role(request: &v2::HeartbeatRequest) -> Outcome<Role> {
    match ClientType::try_from(request.client_type) {
        Ok(ClientType::Producer) => Ok(Role::Producer { topics: Vec::new() }),
        Ok(
            ClientType::PushConsumer
            | ClientType::SimpleConsumer
            | ClientType::LitePushConsumer
            | ClientType::LiteSimpleConsumer,
        ) => Ok(Role::Consumer { group: convert::group(request.group.as_ref())? }),
        Ok(ClientType::Unspecified | ClientType::PullConsumer) | Err(_) => {
            let text = format!("client type {} is not served", request.client_type);
            Err(Refusal::new(Code::UnrecognizedClientType, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_without_settings_is_what_its_heartbeat_says() {
        let beat = |client_type: ClientType, group: Option<&str>| {
            let group = group.map(|g| v2::Resource { name: g.into(), ..Default::default() });
            role(&v2::HeartbeatRequest { group, client_type: client_type as i32 }).map_err(|r| r.code)
        };
        assert_eq!(beat(ClientType::Producer, None), Ok(Role::Producer { topics: vec![] }));
        let group = crate::types::GroupName::parse("g").unwrap();
        for consumer in [ClientType::PushConsumer, ClientType::LitePushConsumer, ClientType::LiteSimpleConsumer] {
            assert_eq!(beat(consumer, Some("g")), Ok(Role::Consumer { group: group.clone() }));
        }
        assert_eq!(beat(ClientType::SimpleConsumer, None), Err(Code::IllegalConsumerGroup));
        assert_eq!(beat(ClientType::PullConsumer, Some("g")), Err(Code::UnrecognizedClientType));
        assert_eq!(beat(ClientType::Unspecified, None), Err(Code::UnrecognizedClientType));
    }
}
