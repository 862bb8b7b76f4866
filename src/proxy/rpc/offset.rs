//! UpdateOffset, GetOffset, QueryOffset: where a group goes on in a queue, and where a queue begins and ends. RocketMQ's
//! proxy has them in its API and does not serve them.

use crate::{
    broker::{OffsetError, Position},
    proto::v2::{self, Code, QueryOffsetPolicy as Policy},
};

use super::{Call, Messaging, Outcome, Refusal, convert};
use crate::proxy::status;

impl Messaging {
    /// Sets the offset at which a group goes on, for those who pull and those who poll.
    /// A client of a broadcasting group sets its own.
    pub async fn set_offset(
        &self,
        call: &Call,
        request: &v2::UpdateOffsetRequest,
    ) -> Outcome<v2::UpdateOffsetResponse> {
        let (topic, queue) = convert::queue(request.message_queue.as_ref())?;
        let group = convert::group(request.group.as_ref())?;
        let to = convert::offset(request.offset)?;
        self.front.group(&group).await?;
        let group = self.front.broker.consumes_as(&group, &call.client);
        self.front.broker.reset_offset(&topic, &group, queue, to).await?;
        Ok(v2::UpdateOffsetResponse { status: Some(status::ok()) })
    }

    pub fn stored_offset(&self, call: &Call, request: &v2::GetOffsetRequest) -> Outcome<v2::GetOffsetResponse> {
        let (topic, queue) = convert::queue(request.message_queue.as_ref())?;
        let group = convert::group(request.group.as_ref())?;
        let consumer = self.front.broker.consumes_as(&group, &call.client);
        let Some(offset) = self.front.broker.group_offset(&topic, &consumer, queue).map_err(unknown)? else {
            let text = format!("group {group} has no offset in queue {queue} of topic {topic}: it has not begun there");
            return Err(Refusal::new(Code::OffsetNotFound, text));
        };
        Ok(v2::GetOffsetResponse { status: Some(status::ok()), offset: offset.to_wire() })
    }

    pub async fn offset_of(&self, request: &v2::QueryOffsetRequest) -> Outcome<v2::QueryOffsetResponse> {
        let (topic, queue) = convert::queue(request.message_queue.as_ref())?;
        let position = match (Policy::try_from(request.query_offset_policy), &request.timestamp) {
            (Ok(Policy::Beginning), _) => Position::Begin,
            (Ok(Policy::End), _) => Position::End,
            (Ok(Policy::Timestamp), Some(time)) => Position::Time(convert::timestamp(time)),
            (Ok(Policy::Timestamp), None) => {
                return Err(Refusal::new(Code::BadRequest, "an offset by time needs the timestamp"));
            }
            (Err(_), _) => {
                let text = format!("query offset policy {} is not known", request.query_offset_policy);
                return Err(Refusal::new(Code::BadRequest, text));
            }
        };
        let offset = self.front.broker.queue_offset(&topic, queue, position).await.map_err(unknown)?;
        Ok(v2::QueryOffsetResponse { status: Some(status::ok()), offset: offset.to_wire() })
    }
}

/// A queue that does not exist has no offset.
fn unknown(error: OffsetError) -> Refusal {
    match error {
        OffsetError::NoQueue { .. } => Refusal::new(Code::OffsetNotFound, error),
        other => other.into(),
    }
}
