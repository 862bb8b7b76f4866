//! The rules of transactions over a real store on a simulated disk.

mod checking;
mod deciding;
mod model;

use crate::{
    broker::{
        Broker, Decision, Draft, EndError, Produced, Topic,
        testing::{Machine, draft, messages, topic},
    },
    types::{
        MessageType, QueueOffset, StoredMessage, TopicName,
        properties::{PropertiesBuilder, key},
    },
};

use super::{HALF_TOPIC, UNDECIDED_TOPIC};

fn create(broker: &Broker, name: &str, message_type: MessageType) -> TopicName {
    let name = topic(name);
    let (read_queues, write_queues) = (4, 4);
    let (readable, writable) = (true, true);
    let message_type = Some(message_type);
    broker
        .create_topic(Topic { name: name.clone(), message_type, read_queues, write_queues, readable, writable })
        .unwrap();
    name
}

/// A transactional message whose id is its body, as a front hands it over.
fn half(body: &str) -> Draft {
    half_with(body, &[])
}

fn half_with(body: &str, more: &[(&str, &str)]) -> Draft {
    let mut properties = PropertiesBuilder::default();
    properties.push(key::UNIQ_KEY, body).push(key::TRAN_MSG, "true");
    for (name, value) in more {
        properties.push(name, value);
    }
    Draft { properties: properties.build(), ..draft(MessageType::Transaction, None, body) }
}

async fn send(broker: &Broker, topic: &TopicName, body: &str) -> String {
    id(&broker.produce(topic, vec![half(body)]).await.unwrap()[0])
}

fn id(produced: &Produced) -> String {
    produced.transaction.unwrap().to_string()
}

fn visible(broker: &Broker, topic: &TopicName) -> Vec<StoredMessage> {
    (0..4).flat_map(|queue| messages(broker, topic, queue)).collect()
}

fn bodies(broker: &Broker, topic: &TopicName) -> Vec<String> {
    let mut bodies: Vec<_> = visible(broker, topic).iter().map(body).collect();
    bodies.sort();
    bodies
}

fn body(message: &StoredMessage) -> String {
    String::from_utf8(message.body.to_vec()).unwrap()
}

fn undecided(broker: &Broker) -> Vec<String> {
    bodies(broker, &TopicName::system(UNDECIDED_TOPIC))
}
