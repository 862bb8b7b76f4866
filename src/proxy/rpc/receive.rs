//! ReceiveMessage: a poll, and its answer message by message.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use tokio_stream::Stream;
use tonic::Status;

use crate::{
    broker::{AttemptId, Delivery, Filter, Role, Seen, Sighted, Sighting, Take, TakeError},
    proto::v2::{self, Code, receive_message_response::Content},
    types::{ClientId, Deadline, TopicName},
};

use super::{
    Call, Front, Messaging, Outcome, Refusal,
    convert::{self, delivery::DigestKind, poll},
    received,
};
use crate::proxy::{
    renew::{Delivered, Holder},
    status, trace,
};

impl Messaging {
    pub async fn receive(&self, call: &Call, request: v2::ReceiveMessageRequest) -> Answer {
        match self.take(call, request).await {
            Ok(taken) => taken,
            Err(refusal) => Answer::empty(self.front.clone(), refusal),
        }
    }

    async fn take(&self, call: &Call, request: v2::ReceiveMessageRequest) -> Outcome<Answer> {
        let config = &self.front.config;
        let length = self.wait(call, &request)?;
        let until = self.front.broker.clock().now().plus(length);
        let topic = convert::topic(request.message_queue.as_ref().and_then(|q| q.topic.as_ref()))?;
        let group = convert::group(request.group.as_ref())?;
        let renewed = request.auto_renew && config.renew.enabled;
        let invisible = poll::lease(&request, renewed, &config.leases)?;
        self.check_filter(&request)?;
        let filter = convert::filter(request.filter_expression.as_ref())?;
        // Some clients poll before, or without ever, having told what they are.
        let found = self.front.topic(&topic).await?;
        self.front.group(&group).await?;
        let filter = self.front.broker.lite_filter(&found, &group, &call.client)?.unwrap_or(filter);
        self.check_lite(&call.client, &filter, &topic)?;
        if renewed && !self.front.sessions.knows(&call.client) {
            self.front.broker.client_seen(&call.client, Role::Consumer { group: group.clone() });
        }
        let group = self.front.broker.consumes_as(&group, &call.client);
        let max = poll::batch(request.batch_size, &config.polling);
        let attempt_id = request.attempt_id.as_deref().and_then(AttemptId::parse);
        let take = Take { topic: topic.clone(), group: group.clone(), filter, max, invisible, until, attempt_id };
        // A poll may wait for long.
        drop(request);
        let deliveries = self.front.broker.take(take).await?;
        if deliveries.is_empty() {
            return Err(Refusal::new(Code::MessageNotFound, "no new message"));
        }
        self.front.rates.went_out(deliveries.len());
        call.permit.note(|notes| {
            notes.messages = Some(deliveries.len() as u64);
            deliveries.iter().for_each(|delivery| trace::link_to(notes, &delivery.message.properties));
        });
        call.permit.charge_answer(deliveries.iter().map(|d| d.message.body.len()).sum());
        let seen = Seen::Delivered { until: self.front.broker.clock().wall().plus(invisible) };
        self.seen(call, (&topic, &group), seen, deliveries.iter().map(|d| &d.receipt));
        let holder = Holder { client: call.client.clone(), group };
        if renewed {
            self.keep(&holder, &topic, &deliveries, invisible);
        }
        let (front, host) = (self.front.clone(), self.connection.peer);
        let unread = Unread { front, holder, host, topic, renewed, messages: deliveries.into_iter() };
        Ok(Answer::of(unread, DigestKind::for_client(call.language)))
    }

    /// A consumer that is none of lite topics would wait for ever for what has no subscribers.
    fn check_lite(&self, client: &ClientId, filter: &Filter, topic: &TopicName) -> Outcome<()> {
        let Filter::Lite(set) = filter else { return Ok(()) };
        let about = self.front.sessions.about(client).filter(|_| set.count() == 0);
        match about {
            Some((_, about)) if !about.is_lite() => Err(TakeError::LiteOnly(topic.clone()).into()),
            _ => Ok(()),
        }
    }

    /// SQL92 only where `enablePropertyFilter` has it.
    fn check_filter(&self, request: &v2::ReceiveMessageRequest) -> Outcome<()> {
        let by_properties = request.filter_expression.as_ref().is_some_and(|f| f.r#type() == v2::FilterType::Sql);
        if by_properties && !self.front.config.polling.filter_by_properties {
            let text = "filters by properties (SQL92) are off; set enablePropertyFilter to true, or filter by tags";
            return Err(Refusal::new(Code::IllegalFilterExpression, text));
        }
        Ok(())
    }

    /// How long to wait for a message.
    fn wait(&self, call: &Call, request: &v2::ReceiveMessageRequest) -> Outcome<Duration> {
        let bounds = &self.front.config.polling;
        let asked = request.long_polling_timeout.as_ref().and_then(convert::duration);
        let request_timeout = match asked {
            Some(_) => None,
            None => self.front.sessions.request_timeout(&call.client),
        };
        let wait = poll::Wait {
            asked,
            request_timeout: request_timeout.unwrap_or(bounds.request_timeout),
            remaining: call.timeout,
            version: call.version(),
        };
        wait.length(bounds)
    }

    fn keep(&self, holder: &Holder, topic: &TopicName, deliveries: &[Delivery], invisible: Duration) {
        let now: Deadline = self.front.broker.clock().now();
        let delivered = |d: &Delivery| Delivered {
            receipt: d.receipt.clone(),
            message_id: d.message.message_id().unwrap_or_default().into(),
        };
        let new = deliveries.iter().map(delivered).collect();
        self.front.renewals.keep(holder, topic, now, now.plus(invisible), new);
    }
}

/// The stream of one answer: status, messages, the time. It has no task and no channel of its own: the connection
/// pulls it, and a message is encoded when there is room for it.
pub struct Answer {
    status: Option<v2::Status>,
    messages: Option<(Unread, DigestKind)>,
    /// Taken with the last item.
    end: Option<Arc<Front>>,
}

impl Answer {
    fn empty(front: Arc<Front>, refusal: Refusal) -> Self {
        Self { status: Some(refusal.into()), messages: None, end: Some(front) }
    }
    fn of(unread: Unread, digest: DigestKind) -> Self {
        let end = Some(unread.front.clone());
        Self { status: Some(status::ok()), messages: Some((unread, digest)), end }
    }

    /// What its status says.
    pub fn code(&self) -> Code {
        self.status.as_ref().map_or(Code::Ok, v2::Status::code)
    }

    fn next(&mut self) -> Option<Content> {
        if let Some(status) = self.status.take() {
            return Some(Content::Status(status));
        }
        let now = self.end.as_ref()?.broker.clock().wall();
        if let Some((unread, digest)) = &mut self.messages
            && let Some(delivery) = unread.messages.next()
        {
            return Some(Content::Message(convert::delivery::message(delivery, *digest, now)));
        }
        self.end = None;
        Some(Content::DeliveryTimestamp(convert::wire_timestamp(now)))
    }
}

impl Stream for Answer {
    type Item = Result<v2::ReceiveMessageResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.next().map(|content| Ok(received(content))))
    }
}

/// Messages that are booked for a client and not yet on their way to it. What is left when the stream is dropped (the
/// client cancelled, or is gone) comes again at once, as the same attempt: nobody has seen it.
struct Unread {
    front: Arc<Front>,
    holder: Holder,
    host: SocketAddr,
    topic: TopicName,
    renewed: bool,
    messages: vec::IntoIter<Delivery>,
}

impl Drop for Unread {
    fn drop(&mut self) {
        let place = |d: &Delivery| (d.receipt.queue(), d.receipt.offset(), d.receipt.attempt());
        let messages: Sighted = self.messages.as_slice().iter().map(place).collect();
        if !messages.is_empty() {
            let broker = &self.front.broker;
            let (client, group) = (self.holder.client.clone(), self.holder.group.clone());
            let (at, topic, host) = (broker.clock().wall(), self.topic.clone(), Some(self.host));
            broker.seen(Sighting { at, what: Seen::Unread, client, host, topic, group, messages });
        }
        for Delivery { receipt, .. } in self.messages.by_ref() {
            if self.renewed {
                self.front.renewals.stop(&self.holder, &receipt);
            }
            self.front.broker.give_back(&self.topic, &self.holder.group, &receipt);
        }
    }
}
