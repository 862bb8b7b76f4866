//! How long each RPC takes, by what was answered.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::RwLock;

use crate::{
    meter::{Distribution, Histogram},
    proto::v2::Code,
};

/// Bounds, microseconds: RocketMQ's of `rocketmq_rpc_latency`, and three below a millisecond.
const BOUNDS: &[u64] = &[100, 250, 500, 1_000, 3_000, 5_000, 7_000, 10_000, 100_000, 1_000_000, 2_000_000, 3_000_000];

/// The RPCs of the messaging API by the ends of their paths, and as RocketMQ spells a request code.
const RPCS: [(&str, &str); 18] = [
    ("SendMessage", "send_message"),
    ("ReceiveMessage", "receive_message"),
    ("AckMessage", "ack_message"),
    ("PullMessage", "pull_message"),
    ("ChangeInvisibleDuration", "change_invisible_duration"),
    ("Heartbeat", "heartbeat"),
    ("QueryRoute", "query_route"),
    ("QueryAssignment", "query_assignment"),
    ("ForwardMessageToDeadLetterQueue", "forward_message_to_dead_letter_queue"),
    ("UpdateOffset", "update_offset"),
    ("GetOffset", "get_offset"),
    ("QueryOffset", "query_offset"),
    ("EndTransaction", "end_transaction"),
    ("Telemetry", "telemetry"),
    ("NotifyClientTermination", "notify_client_termination"),
    ("RecallMessage", "recall_message"),
    ("SyncLiteSubscription", "sync_lite_subscription"),
    ("", "unknown"),
];

/// One of [`RPCS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rpc(usize);

impl Rpc {
    /// The RPC of a path's last part; a name that the API does not have is the last one's.
    pub fn of(path: &str) -> Self {
        let name = path.rsplit_once('/').map_or("", |(_, name)| name);
        Self(RPCS.iter().position(|(known, _)| *known == name).unwrap_or(RPCS.len() - 1))
    }

    /// As the API has it; empty for what it does not have.
    pub fn name(self) -> &'static str {
        RPCS[self.0].0
    }

    fn is_long_polling(self) -> bool {
        matches!(RPCS[self.0].0, "ReceiveMessage" | "PullMessage")
    }
}

/// How a call was answered, if not with OK; in the answer's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    /// In the API's own words.
    Api(Code),
    /// In gRPC's.
    Grpc(i32),
}

/// What a [`Meters`] says of one RPC and answer.
pub struct RpcCounts {
    pub request_code: &'static str,
    /// `ok`, a code of the API in lower case, or `grpc_` and the number of a gRPC status.
    pub response_code: String,
    pub is_long_polling: bool,
    pub is_ok: bool,
    /// Microseconds.
    pub latency: Distribution,
}

/// The meters of all RPCs.
pub struct Meters {
    ok: [Histogram; RPCS.len()],
    /// Bounded by the codes that there are.
    refused: RwLock<BTreeMap<(Rpc, Refused), Arc<Histogram>>>,
}

impl Meters {
    pub fn new() -> Self {
        Self { ok: std::array::from_fn(|_| Histogram::new(BOUNDS)), refused: RwLock::default() }
    }

    /// A call was answered.
    pub fn answered(&self, rpc: Rpc, refused: Option<Refused>, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        match refused {
            None => self.ok[rpc.0].add(took),
            Some(refused) => self.refused(rpc, refused).add(took),
        }
    }

    #[cold]
    fn refused(&self, rpc: Rpc, refused: Refused) -> Arc<Histogram> {
        if let Some(known) = self.refused.read().get(&(rpc, refused)) {
            return known.clone();
        }
        self.refused.write().entry((rpc, refused)).or_insert_with(|| Arc::new(Histogram::new(BOUNDS))).clone()
    }

    /// Every RPC that was called.
    pub fn counts(&self) -> Vec<RpcCounts> {
        let told = |rpc: Rpc, refused: Option<Refused>, latency| RpcCounts {
            request_code: RPCS[rpc.0].1,
            response_code: match refused {
                None => "ok".into(),
                Some(Refused::Api(code)) => code.as_str_name().to_ascii_lowercase(),
                Some(Refused::Grpc(code)) => format!("grpc_{code}"),
            },
            is_long_polling: rpc.is_long_polling(),
            is_ok: refused.is_none(),
            latency,
        };
        let ok = self.ok.iter().enumerate().map(|(n, meter)| told(Rpc(n), None, meter.get()));
        let mut counts: Vec<_> = ok.filter(|counts| counts.latency.count > 0).collect();
        let refused = self.refused.read();
        counts.extend(refused.iter().map(|((rpc, refused), meter)| told(*rpc, Some(*refused), meter.get())));
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart_by_what_was_answered() {
        let meters = Meters::new();
        let ms = Duration::from_millis;
        let send = Rpc::of("/apache.rocketmq.v2.MessagingService/SendMessage");
        meters.answered(send, None, ms(2));
        meters.answered(send, Some(Refused::Api(Code::TopicNotFound)), ms(1));
        meters.answered(Rpc::of("/x.y/Nonsense"), Some(Refused::Grpc(12)), ms(1));
        let told: Vec<_> =
            meters.counts().into_iter().map(|c| (c.request_code, c.response_code, c.latency.sum)).collect();
        let expected =
            [("send_message", "ok", 2000), ("send_message", "topic_not_found", 1000), ("unknown", "grpc_12", 1000)];
        assert_eq!(told, expected.map(|(rpc, code, sum)| (rpc, code.to_owned(), sum)));
    }
}
