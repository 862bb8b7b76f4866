//! AckMessage, ChangeInvisibleDuration, ForwardMessageToDeadLetterQueue: what becomes of a delivery.

use crate::{
    broker::{Receipt, Seen, SettleError},
    proto::v2::{self, Code},
    types::{GroupName, TopicName},
};

use super::{
    Call, Messaging, Outcome, Refusal,
    convert::{self, poll},
};
use crate::proxy::{renew::Holder, status};

/// Messages that one AckMessage may acknowledge; clients that gather acknowledgements send a few dozen at once.
const ENTRIES_MAX: usize = 1024;

impl Messaging {
    pub async fn ack(&self, call: &Call, request: v2::AckMessageRequest) -> Outcome<v2::AckMessageResponse> {
        let topic = convert::topic(request.topic.as_ref())?;
        let group = convert::group(request.group.as_ref())?;
        if request.entries.is_empty() {
            return Err(Refusal::new(Code::InternalServerError, "ack message result is empty"));
        }
        if request.entries.len() > ENTRIES_MAX {
            let text = format!(
                "{} messages in one acknowledgement, the most is {ENTRIES_MAX}; acknowledge them in parts",
                request.entries.len()
            );
            return Err(Refusal::new(Code::BadRequest, text));
        }
        let statuses = self.ack_each(call, &topic, group, &request.entries).await;
        let status = status::of_all(statuses.iter());
        let entry = |(sent, status): (v2::AckMessageEntry, v2::Status)| v2::AckMessageResultEntry {
            message_id: sent.message_id,
            receipt_handle: sent.receipt_handle,
            status: Some(status),
        };
        let entries = request.entries.into_iter().zip(statuses).map(entry).collect();
        Ok(v2::AckMessageResponse { status, entries })
    }

    /// One status for each entry, in their order.
    async fn ack_each(
        &self,
        call: &Call,
        topic: &TopicName,
        group: GroupName,
        entries: &[v2::AckMessageEntry],
    ) -> Vec<v2::Status> {
        let broker = &self.front.broker;
        let mut statuses: Vec<Outcome<()>> = Vec::with_capacity(entries.len());
        // By who settles them, with their places: mostly they are one's.
        let mut parts: Vec<(GroupName, Vec<(usize, Receipt)>)> = Vec::new();
        for (place, entry) in entries.iter().enumerate() {
            match entry.receipt_handle.parse::<Receipt>() {
                Ok(receipt) => {
                    let whose = broker.settles_as(topic, &group, &call.client, &receipt);
                    let at = parts.iter().position(|(name, _)| *name == whose).unwrap_or(parts.len());
                    if at == parts.len() {
                        parts.push((whose, Vec::new()));
                    }
                    parts[at].1.push((place, receipt));
                    statuses.push(Ok(()));
                }
                Err(error) => statuses.push(Err(error.into())),
            }
        }
        for (group, receipts) in parts {
            let (places, receipts): (Vec<usize>, Vec<Receipt>) = receipts.into_iter().unzip();
            let acked = self.ack_part(call, topic, group, &receipts).await;
            places.into_iter().zip(acked).for_each(|(place, status)| statuses[place] = status);
        }
        statuses.into_iter().map(|s| s.map_or_else(|refusal: Refusal| refusal.into(), |()| status::ok())).collect()
    }

    /// All of them are acked as one, and each has its own result.
    async fn ack_part(
        &self,
        call: &Call,
        topic: &TopicName,
        group: GroupName,
        receipts: &[Receipt],
    ) -> Vec<Outcome<()>> {
        let results = self.front.broker.ack(topic, &group, receipts).await;
        if let Ok(each) = &results {
            let acked = receipts.iter().zip(each).filter(|(_, result)| result.is_ok()).map(|(receipt, _)| receipt);
            self.seen(call, (topic, &group), Seen::Acked, acked);
        }
        let holder = Holder { client: call.client.clone(), group };
        // A refusal of the call is each entry's result, so that clients which look at entries alone see it.
        let each = results.unwrap_or_else(|error| vec![Err(error); receipts.len()]);
        receipts.iter().zip(each).map(|(receipt, result)| self.settled(&holder, receipt, result)).collect()
    }

    /// Ends the renewal of what is settled, or can no longer be; what may still be settled by repeating is kept alive.
    fn settled<T>(&self, holder: &Holder, receipt: &Receipt, result: Result<T, SettleError>) -> Outcome<T> {
        let outcome = result.map_err(Refusal::from);
        if outcome.as_ref().err().is_none_or(|refusal| refusal.code == Code::InvalidReceiptHandle) {
            self.front.renewals.stop(holder, receipt);
        }
        outcome
    }

    /// Some clients take the handle of the answer without looking at its status: a refusal gives back the one they have.
    pub async fn change_invisible(
        &self,
        call: &Call,
        request: v2::ChangeInvisibleDurationRequest,
    ) -> v2::ChangeInvisibleDurationResponse {
        match self.change(call, &request).await {
            Ok(receipt) => {
                v2::ChangeInvisibleDurationResponse { status: Some(status::ok()), receipt_handle: receipt.to_string() }
            }
            Err(refusal) => v2::ChangeInvisibleDurationResponse {
                status: Some(refusal.into()),
                receipt_handle: request.receipt_handle,
            },
        }
    }

    async fn change(&self, call: &Call, request: &v2::ChangeInvisibleDurationRequest) -> Outcome<Receipt> {
        let topic = convert::topic(request.topic.as_ref())?;
        let group = convert::group(request.group.as_ref())?;
        let invisible = poll::changed_lease(request.invisible_duration.as_ref(), &self.front.config.leases)?;
        let receipt: Receipt = request.receipt_handle.parse()?;
        let group = self.front.broker.settles_as(&topic, &group, &call.client, &receipt);
        let holder = Holder { client: call.client.clone(), group };
        let broker = &self.front.broker;
        let result = match request.suspend() {
            true => broker.suspend(&topic, &holder.group, &receipt, invisible).await,
            false => broker.change_invisible(&topic, &holder.group, &receipt, invisible).await,
        };
        if result.is_ok() {
            let until = self.front.broker.clock().wall().plus(invisible);
            self.seen(call, (&topic, &holder.group), Seen::Changed { until }, std::iter::once(&receipt));
        }
        self.settled(&holder, &receipt, result)
    }

    pub async fn dead_letter(
        &self,
        call: &Call,
        request: v2::ForwardMessageToDeadLetterQueueRequest,
    ) -> Outcome<v2::ForwardMessageToDeadLetterQueueResponse> {
        let topic = convert::topic(request.topic.as_ref())?;
        let group = convert::group(request.group.as_ref())?;
        let broker = &self.front.broker;
        let receipt: Receipt = match &*request.receipt_handle {
            // C++ names the message alone.
            "" => self.kept(call, &group, &request.message_id).ok_or(SettleError::Invalid)?,
            handle => handle.parse()?,
        };
        let group = broker.settles_as(&topic, &group, &call.client, &receipt);
        let holder = Holder { client: call.client.clone(), group };
        let result = broker.forward_to_dead_letter(&topic, &holder.group, &receipt).await;
        if result.is_ok() {
            self.seen(call, (&topic, &holder.group), Seen::GaveUp, std::iter::once(&receipt));
        }
        self.settled(&holder, &receipt, result)?;
        Ok(v2::ForwardMessageToDeadLetterQueueResponse { status: Some(status::ok()) })
    }

    /// The delivery of a message that is kept for the client, as it polls or as the whole group once did.
    fn kept(&self, call: &Call, group: &GroupName, message_id: &str) -> Option<Receipt> {
        let names = [self.front.broker.consumes_as(group, &call.client), group.clone()];
        let holders = names.into_iter().map(|group| Holder { client: call.client.clone(), group });
        holders.into_iter().find_map(|holder| self.front.renewals.find(&holder, message_id))
    }
}
