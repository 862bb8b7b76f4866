//! Status and route of a topic, and of this server.

use serde_json::json;

use crate::{
    broker::Topic,
    proto::v2::{self, Code},
    types::MessageType,
};

use super::{Administration, Outcome, Refusal, status};

/// Bits of a queue's permission (`PermName`).
const READ: u32 = 4;
const WRITE: u32 = 2;

impl Administration {
    /// A topic's type and queues. When it was made is not kept, and a topic has no note, so both are absent. Among the tags
    /// is `message.type` in Apache's spelling, which knows MIXED where the API's enum does not.
    pub(super) fn topic_status(
        &self,
        request: &v2::DescribeTopicStatusRequest,
    ) -> Outcome<v2::DescribeTopicStatusResponse> {
        let topic = self.found(request.topic.as_ref())?;
        let tags = [
            ("message.type", topic.message_type.map_or("UNSPECIFIED", MessageType::as_str).to_owned()),
            ("readQueueNums", topic.read_queues.to_string()),
            ("writeQueueNums", topic.write_queues.to_string()),
            ("perm", perm(&topic).to_string()),
        ];
        Ok(v2::DescribeTopicStatusResponse {
            status: Some(status::ok()),
            topic_message_type: wire_type(topic.message_type) as i32,
            description: None,
            create_timestamp: None,
            tags: tags.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        })
    }

    /// Apache's `TopicRouteData`. Only gRPC is served, and every network type is told the same address: what the first
    /// listener advertises, else `brokerIP1` and its port.
    pub(super) fn route(&self, request: &v2::GetTopicRouteRequest) -> Outcome<v2::GetTopicRouteResponse> {
        match request.protocol_type.to_ascii_lowercase().as_str() {
            "" | "grpc" => {}
            "remoting" => return Err(Refusal::not_implemented("the route of the protocol remoting")),
            other => {
                let text = format!("protocol_type {other:?} is neither grpc nor remoting");
                return Err(Refusal::new(Code::BadRequest, text));
            }
        }
        let topic = self.found(request.topic.as_ref())?;
        let config = self.broker().config();
        let advertised = self.front().config.listeners.first().and_then(|listener| listener.advertised.as_ref());
        let address = advertised.map_or_else(|| config.store_host.to_string(), ToString::to_string);
        let name = config.broker_name.as_str();
        let data = json!({
            "brokerDatas": [{ "brokerAddrs": { "0": address }, "brokerName": name, "enableActingMaster": false }],
            "filterServerTable": {},
            "queueDatas": [{
                "brokerName": name,
                "perm": perm(&topic),
                "readQueueNums": topic.read_queues,
                "writeQueueNums": topic.write_queues,
                "topicSysFlag": 0,
            }],
        });
        Ok(v2::GetTopicRouteResponse { status: Some(status::ok()), topic_route_data: data.to_string() })
    }

    pub(super) fn runtime_stats(&self) -> v2::GetProxyRuntimeStatsResponse {
        let broker = self.broker();
        let (in_tps, out_tps) = self.front().rates.per_second(broker.clock().now());
        let (producers, consumers) = broker.client_counts();
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        v2::GetProxyRuntimeStatsResponse {
            status: Some(status::ok()),
            proxy_name: broker.config().broker_name.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            in_tps,
            out_tps,
            connections: number(self.proxy.connections()),
            producers: number(producers),
            consumers: number(consumers),
        }
    }

    fn found(&self, wire: Option<&v2::Resource>) -> Outcome<std::sync::Arc<Topic>> {
        let name = self.topic(wire)?;
        let gone = || Refusal::new(Code::TopicNotFound, format_args!("topic {name} has just been deleted"));
        self.broker().topic(name.as_str()).ok_or_else(gone)
    }
}

fn perm(topic: &Topic) -> u32 {
    u32::from(topic.readable) * READ + u32::from(topic.writable) * WRITE
}

/// The API has no word for a topic that takes several types.
fn wire_type(kind: Option<MessageType>) -> v2::MessageType {
    match kind {
        Some(MessageType::Normal) => v2::MessageType::Normal,
        Some(MessageType::Fifo) => v2::MessageType::Fifo,
        Some(MessageType::Delay) => v2::MessageType::Delay,
        Some(MessageType::Transaction) => v2::MessageType::Transaction,
        Some(MessageType::Lite) => v2::MessageType::Lite,
        Some(MessageType::Priority) => v2::MessageType::Priority,
        Some(MessageType::Mixed) | None => v2::MessageType::Unspecified,
    }
}
