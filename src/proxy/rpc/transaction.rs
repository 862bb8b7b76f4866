//! EndTransaction: commit or roll back.

use crate::{
    broker::Decision,
    proto::v2::{self, Code, TransactionResolution},
};

use super::{Messaging, Outcome, Refusal, convert};
use crate::proxy::status;

impl Messaging {
    /// Whether the server asked first is not looked at: several clients do not say it (`source`), and who can name the
    /// transaction may decide about it.
    pub async fn end(&self, request: v2::EndTransactionRequest) -> Outcome<v2::EndTransactionResponse> {
        let topic = convert::topic(request.topic.as_ref())?;
        if request.transaction_id.trim().is_empty() {
            return Err(Refusal::new(Code::InvalidTransactionId, "the transaction id is blank"));
        }
        let decision = match TransactionResolution::try_from(request.resolution) {
            Ok(TransactionResolution::Commit) => Some(Decision::Commit),
            Ok(TransactionResolution::Rollback) => Some(Decision::Rollback),
            // Not yet known: the server asks again.
            Ok(TransactionResolution::Unspecified) => None,
            Err(_) => {
                let text = format!("resolution {} is not known; commit or roll back", request.resolution);
                return Err(Refusal::new(Code::BadRequest, text));
            }
        };
        if let Some(decision) = decision {
            let ids = (&*request.message_id, &*request.transaction_id);
            self.front.broker.end_transaction(&topic, ids.0, ids.1, decision).await?;
        }
        Ok(v2::EndTransactionResponse { status: Some(status::ok()) })
    }
}
