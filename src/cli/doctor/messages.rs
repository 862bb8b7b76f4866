//! What a client does once it is connected: route, settings, one message there and back.

use std::time::Duration;

use crate::{
    cli::client::{self, Client, EndpointArgs, Error, MessageIds, Role, resource},
    proto::v2,
};

use super::{Broken, Kind, Outcome, Said};

/// How long one poll waits, and how many there are at most: the server may have to pass over a long backlog.
const WAIT: Duration = Duration::from_secs(5);
const POLLS_MAX: usize = 6;
/// How long the message stays invisible when its ack fails.
const INVISIBLE: Duration = Duration::from_secs(10);
/// From so much on a clock is worth a warning: times of delayed messages are then off by as much.
const SKEW_MAX: Duration = Duration::from_secs(5);

/// What there is to do about a refusal.
fn cure(code: v2::Code) -> &'static str {
    use v2::Code::{
        ClientIdRequired, ConsumerGroupNotFound, Forbidden, IllegalConsumerGroup, IllegalTopic, InternalServerError,
        MessagePropertyConflictWithType, TooManyRequests, TopicNotFound, Unauthorized,
    };
    match code {
        TopicNotFound => {
            "this server makes no topics by itself: create it (`ferromq topic create NAME`), or name one that exists with \
             --topic, and a group with --group"
        }
        ConsumerGroupNotFound => {
            "this server makes no groups by itself: create it (`ferromq group create NAME`), or name one that exists with \
             --group"
        }
        MessagePropertyConflictWithType => "send what the topic takes (--type), or use a topic of another type",
        IllegalTopic | IllegalConsumerGroup => "choose a name of letters, digits, _ and -",
        Forbidden => {
            "the topic cannot be read or written, or the group is switched off: `ferromq topic describe` shows it"
        }
        TooManyRequests => "the server is at a bound, which the message names: raise it, or send less",
        Unauthorized | ClientIdRequired => "the server wants to know who calls; this cannot be tried here",
        InternalServerError => "the server's log and /readyz say what is wrong with it",
        _ => "the message says what is wrong",
    }
}

fn broken(error: Error) -> Broken {
    match error {
        Error::Refused { code, .. } => Broken::new(error.to_string(), cure(code)),
        Error::Rejected(_) => {
            Broken::new(error.to_string(), "is this the gRPC front of RocketMQ 5? Another gRPC server may listen there")
        }
        Error::Broken(_) | Error::Connect(_) => {
            Broken::new(error.to_string(), "the connection broke: see proxies on the way, and the server's log")
        }
    }
}

/// The queues of the topic.
pub async fn route(at: &EndpointArgs, topic: &str) -> Outcome<Vec<v2::MessageQueue>> {
    let queues = client::ask_route(at, topic).await.map_err(broken)?;
    if queues.is_empty() {
        return Err(Broken::new(
            format!("topic {topic} has no queue"),
            "give it some: `ferromq topic update --queues`",
        ));
    }
    let said = format!("topic {topic} has {} queues", queues.len());
    Ok((queues, Said::Fine(said)))
}

/// Whether the topic takes messages of the type, as clients look before they send.
pub fn type_fits(queues: &[v2::MessageQueue], topic: &str, kind: Kind) -> Outcome<()> {
    let wanted = match kind {
        Kind::Normal => v2::MessageType::Normal,
        Kind::Fifo => v2::MessageType::Fifo,
    };
    let taken: Vec<v2::MessageType> =
        queues.first().into_iter().flat_map(|q| &q.accept_message_types).filter_map(|t| (*t).try_into().ok()).collect();
    let names = taken.iter().map(v2::MessageType::as_str_name).collect::<Vec<_>>().join(", ");
    if taken.is_empty() || taken.contains(&wanted) {
        let names = if names.is_empty() { "messages of all types".to_owned() } else { names };
        return Ok(((), Said::Fine(format!("topic {topic} takes {names}"))));
    }
    Err(Broken::new(
        format!("topic {topic} takes {names}, not {}", wanted.as_str_name()),
        "send what it takes (--type here; in a client a message group makes a message FIFO), or use a topic of another type",
    ))
}

/// One message, there and back.
pub struct Trial<'a> {
    pub topic: &'a str,
    pub group: &'a str,
    pub kind: Kind,
    pub tag: String,
}

impl Trial<'_> {
    /// A producer and a consumer with their settings exchanged.
    pub async fn start(&self, at: &EndpointArgs) -> Outcome<(Client, Client)> {
        let producer = Role::Producer { topic: self.topic.into() };
        let consumer = Role::Consumer { group: self.group.into(), topic: self.topic.into(), filter: self.filter() };
        let producer = Client::start(at, producer).await.map_err(broken)?;
        let consumer = Client::start(at, consumer).await.map_err(broken)?;
        Ok(((producer, consumer), Said::Fine("the server answered the settings of a producer and a consumer".into())))
    }

    fn filter(&self) -> v2::FilterExpression {
        v2::FilterExpression { r#type: v2::FilterType::Tag.into(), expression: self.tag.clone() }
    }

    /// Sends it; its id.
    pub async fn send(&self, producer: &Client) -> Outcome<String> {
        let message_id = MessageIds::new().next();
        let (kind, group) = match self.kind {
            Kind::Normal => (v2::MessageType::Normal, None),
            Kind::Fifo => (v2::MessageType::Fifo, Some(self.tag.clone())),
        };
        let now = client::now_millis();
        let born = prost_types::Timestamp { seconds: now / 1000, nanos: (now % 1000) as i32 * 1_000_000 };
        let message = v2::Message {
            topic: Some(resource(self.topic)),
            system_properties: Some(v2::SystemProperties {
                message_id: message_id.clone(),
                tag: Some(self.tag.clone()),
                body_encoding: v2::Encoding::Identity.into(),
                message_type: kind.into(),
                message_group: group,
                born_timestamp: Some(born),
                ..Default::default()
            }),
            body: "ferromq doctor".into(),
            ..Default::default()
        };
        producer.send(message).await.map_err(broken)?;
        let said = format!("the server has message {message_id}");
        Ok((message_id, Said::Fine(said)))
    }

    /// Receives it; its receipt.
    pub async fn receive(&self, consumer: &mut Client, message_id: &str) -> Outcome<v2::AckMessageEntry> {
        for _ in 0..POLLS_MAX {
            let request = v2::ReceiveMessageRequest {
                group: Some(resource(self.group)),
                message_queue: consumer.queue(),
                filter_expression: Some(self.filter()),
                batch_size: 1,
                invisible_duration: Some(client::wire_duration(INVISIBLE)),
                auto_renew: false,
                long_polling_timeout: Some(client::wire_duration(WAIT)),
                attempt_id: None,
            };
            for message in consumer.receive(request, WAIT).await.map_err(broken)? {
                let system = message.system_properties.unwrap_or_default();
                if system.message_id == message_id {
                    let receipt_handle = system.receipt_handle.unwrap_or_default();
                    let entry =
                        v2::AckMessageEntry { message_id: system.message_id, receipt_handle, ..Default::default() };
                    return Ok((entry, Said::Fine("the message came back".into())));
                }
            }
        }
        let waited = WAIT.as_secs() * POLLS_MAX as u64;
        Err(Broken::new(
            format!("the message did not come back within {waited} s"),
            format!("`ferromq group describe {}` shows how far the group is, and what holds its queues", self.group),
        ))
    }

    pub async fn ack(&self, consumer: &mut Client, entry: v2::AckMessageEntry) -> Outcome<()> {
        consumer.ack(self.topic, vec![entry]).await.map_err(broken)?;
        Ok(((), Said::Fine("the server took the acknowledgement".into())))
    }
}

/// How far the server's clock is from this machine's.
pub fn clock(consumer: &Client) -> Outcome<()> {
    Ok(((), said_of_clock(consumer.clock_ahead())))
}

/// Milliseconds that the server is ahead.
fn said_of_clock(ahead: Option<i64>) -> Said {
    let Some(ahead) = ahead else { return Said::Fine("the server does not tell its time".into()) };
    let apart = Duration::from_millis(ahead.unsigned_abs());
    let said = match ahead {
        ..0 => format!("the server's clock is {:.1} s behind", apart.as_secs_f64()),
        0.. => format!("the server's clock is {:.1} s ahead", apart.as_secs_f64()),
    };
    if apart <= SKEW_MAX {
        return Said::Fine(said);
    }
    Said::Careful(
        said,
        "let both machines take their time by NTP: delivery times that clients compute are off by as much".into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_is_told_with_its_direction() {
        assert!(matches!(said_of_clock(Some(-4000)), Said::Fine(said) if said.contains("4.0 s behind")));
        assert!(
            matches!(said_of_clock(Some(60_000)), Said::Careful(said, cure) if said.contains("60.0 s ahead") && cure.contains("NTP"))
        );
    }

    #[test]
    fn a_type_that_the_topic_does_not_take_is_told_before_anything_is_sent() {
        let fifo = v2::MessageQueue { accept_message_types: vec![v2::MessageType::Fifo.into()], ..Default::default() };
        let Err(refused) = type_fits(std::slice::from_ref(&fifo), "orders", Kind::Normal) else { panic!("it fits") };
        assert!(refused.said.contains("takes FIFO, not NORMAL") && refused.cure.contains("--type"), "{refused:?}");
        assert!(type_fits(&[fifo], "orders", Kind::Fifo).is_ok());
    }
}
