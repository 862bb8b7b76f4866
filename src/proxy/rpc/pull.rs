//! PullMessage: messages from an offset on, and where to go on. RocketMQ's proxy has it in its API and does not serve it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    vec,
};

use tokio_stream::Stream;
use tonic::Status;

use crate::{
    broker::{Pull, PullError, Pulled},
    proto::v2::{self, Code, pull_message_response::Content},
    types::{QueueOffset, StoredMessage},
};

use super::{
    Call, Front, Messaging, Refusal,
    convert::{self, delivery::DigestKind, poll},
};
use crate::proxy::{status, trace};

impl Messaging {
    pub async fn pull(&self, call: &Call, request: v2::PullMessageRequest) -> Answer {
        let (front, digest) = (self.front.clone(), DigestKind::for_client(call.language));
        let (status, messages, next) = match self.pulled(call, request).await {
            Ok(Pulled { messages, next }) if messages.is_empty() => {
                (Refusal::new(Code::MessageNotFound, "no new message").into(), messages, Some(next))
            }
            Ok(Pulled { messages, next }) => (status::ok(), messages, Some(next)),
            Err((refusal, next)) => (refusal.into(), Vec::new(), next),
        };
        Answer { status: Some(status), messages: messages.into_iter(), next, digest, front }
    }

    /// A refusal goes with the offset to go on from, where there is one.
    async fn pulled(
        &self,
        call: &Call,
        request: v2::PullMessageRequest,
    ) -> Result<Pulled, (Refusal, Option<QueueOffset>)> {
        let pull = self.checked(call, &request).await.map_err(|refusal| (refusal, None))?;
        // A pull may wait for long.
        drop(request);
        let pulled = self.front.broker.pull(pull).await.map_err(|error| {
            let next = match &error {
                PullError::OutOfRange { offset, min, max } => Some((*offset).clamp(*min, *max)),
                PullError::Take(_) | PullError::NoQueue { .. } => None,
            };
            (error.into(), next)
        })?;
        call.permit.note(|notes| {
            notes.messages = Some(pulled.messages.len() as u64);
            pulled.messages.iter().for_each(|message| trace::link_to(notes, &message.properties));
        });
        call.permit.charge_answer(pulled.messages.iter().map(|message| message.body.len()).sum());
        Ok(pulled)
    }

    async fn checked(&self, call: &Call, request: &v2::PullMessageRequest) -> Result<Pull, Refusal> {
        let polling = &self.front.config.polling;
        let length = poll::pull_length(request.long_polling_timeout.as_ref(), call.timeout, polling);
        let until = self.front.broker.clock().now().plus(length);
        let (topic, queue) = convert::queue(request.message_queue.as_ref())?;
        let group = convert::group(request.group.as_ref())?;
        let filter = convert::filter(request.filter_expression.as_ref())?;
        let offset = convert::offset(request.offset)?;
        self.front.topic(&topic).await?;
        self.front.group(&group).await?;
        let max = poll::batch(request.batch_size, polling);
        Ok(Pull { topic, group, queue, offset, filter, max, until })
    }
}

/// The stream of one answer: status, messages, the next offset.
pub struct Answer {
    status: Option<v2::Status>,
    messages: vec::IntoIter<StoredMessage>,
    next: Option<QueueOffset>,
    digest: DigestKind,
    front: Arc<Front>,
}

impl Answer {
    /// What its status says.
    pub fn code(&self) -> Code {
        self.status.as_ref().map_or(Code::Ok, v2::Status::code)
    }

    fn next(&mut self) -> Option<Content> {
        if let Some(status) = self.status.take() {
            return Some(Content::Status(status));
        }
        if let Some(message) = self.messages.next() {
            let now = self.front.broker.clock().wall();
            return Some(Content::Message(convert::delivery::undelivered(message, self.digest, now)));
        }
        self.next.take().map(|next| Content::NextOffset(next.to_wire()))
    }
}

impl Stream for Answer {
    type Item = Result<v2::PullMessageResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.next().map(|content| Ok(v2::PullMessageResponse { content: Some(content) })))
    }
}
