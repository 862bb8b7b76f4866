//! SyncLiteSubscription: which lite topics of a parent topic a client wants.

use crate::{
    broker::{LiteAction, LiteStart, LiteSync, Role},
    proto::v2::{
        self, Code, LiteSubscriptionAction,
        offset_option::{OffsetType, Policy},
    },
    types::{QueueOffset, Timestamp, check_lite_name},
};

use super::{Call, Messaging, Outcome, Refusal, convert};
use crate::proxy::status;

impl Messaging {
    pub async fn sync_lite(
        &self,
        call: &Call,
        request: v2::SyncLiteSubscriptionRequest,
    ) -> Outcome<v2::SyncLiteSubscriptionResponse> {
        let (broker, action) = (&self.front.broker, action(request.action)?);
        let topic = convert::topic(request.topic.as_ref())?;
        let group = convert::group(request.group.as_ref())?;
        for name in &request.lite_topic_set {
            check_lite_name(name, broker.config().lite_name_max)?;
        }
        let start = start(request.offset_option)?;
        let (client, names) = (call.client.clone(), request.lite_topic_set);
        broker.sync_lite(LiteSync { topic, group: group.clone(), client, action, names, start }).await?;
        // It keeps the set alive, also of a client that the server does not know after a restart.
        let known = self.front.sessions.heard(&call.client).map(|told| told.role);
        broker.client_seen(&call.client, known.unwrap_or(Role::Consumer { group }));
        Ok(v2::SyncLiteSubscriptionResponse { status: Some(status::ok()) })
    }
}

fn action(number: i32) -> Outcome<LiteAction> {
    match LiteSubscriptionAction::try_from(number) {
        Ok(LiteSubscriptionAction::PartialAdd) => Ok(LiteAction::Add),
        Ok(LiteSubscriptionAction::PartialRemove) => Ok(LiteAction::Remove),
        Ok(LiteSubscriptionAction::CompleteAdd) => Ok(LiteAction::Replace),
        Ok(LiteSubscriptionAction::CompleteRemove) => Ok(LiteAction::Clear),
        Err(_) => Err(Refusal::new(Code::BadRequest, format_args!("the action {number} is not known"))),
    }
}

/// Where the group begins. What is not said is "where it was".
fn start(option: Option<v2::OffsetOption>) -> Outcome<LiteStart> {
    let negative =
        |what| Refusal::new(Code::IllegalOffset, format_args!("the {what} of the offset option is negative"));
    Ok(match option.and_then(|option| option.offset_type) {
        None => LiteStart::Last,
        Some(OffsetType::Policy(policy)) => match Policy::try_from(policy) {
            Ok(Policy::Last) => LiteStart::Last,
            Ok(Policy::Min) => LiteStart::Min,
            Ok(Policy::Max) => LiteStart::Max,
            Err(_) => {
                let text = format_args!("the policy {policy} of the offset option is not known").to_string();
                return Err(Refusal::new(Code::BadRequest, text));
            }
        },
        Some(OffsetType::Offset(offset)) => {
            LiteStart::Offset(QueueOffset::new(u64::try_from(offset).map_err(|_| negative("offset"))?))
        }
        Some(OffsetType::TailN(n)) => LiteStart::Tail(u64::try_from(n).map_err(|_| negative("tail_n"))?),
        Some(OffsetType::Timestamp(at)) => {
            u64::try_from(at).map_err(|_| negative("timestamp"))?;
            LiteStart::Time(Timestamp::from_millis(at))
        }
    })
}
