//! SendMessage, and RecallMessage, which takes back what was sent for later.

use crate::{broker::Produced, proto::v2, types::MessageType};

use super::{
    Call, Messaging, Outcome,
    convert::{self, draft},
};
use crate::proxy::status;

impl Messaging {
    pub async fn send(&self, call: &Call, request: v2::SendMessageRequest) -> Outcome<v2::SendMessageResponse> {
        let broker = &self.front.broker;
        let rules = draft::Rules {
            limits: &self.front.config.messages,
            body_max: broker.config().max_message_bytes,
            lite_name_max: broker.config().lite_name_max,
            now: broker.clock().wall(),
            peer: self.connection.peer,
        };
        let (topic, named) = draft::drafts(request.messages, &rules)?;
        let (ids, drafts): (Vec<_>, Vec<_>) = named.into_iter().map(|n| (n.message_id, n.draft)).unzip();
        let is_transaction = drafts.iter().any(|draft| draft.message_type == MessageType::Transaction);
        let produced = broker.produce(&topic, drafts).await?;
        self.front.rates.came_in(produced.len());
        if is_transaction {
            // Whom to ask when nothing is decided: not every client names its topics beforehand.
            self.front.sessions.published(&call.client, &topic);
        }
        let entry = |(id, at): (String, Produced)| {
            let recall_handle = broker.recall_handle(&topic, &id, &at).unwrap_or_default();
            draft::sent(id, &at, recall_handle)
        };
        let entries = ids.into_iter().zip(produced).map(entry).collect();
        Ok(v2::SendMessageResponse { status: Some(status::ok()), entries })
    }

    pub async fn recall(&self, request: v2::RecallMessageRequest) -> Outcome<v2::RecallMessageResponse> {
        let topic = convert::topic(request.topic.as_ref())?;
        let message_id = self.front.broker.recall(&topic, &request.recall_handle).await?;
        Ok(v2::RecallMessageResponse { status: Some(status::ok()), message_id })
    }
}
