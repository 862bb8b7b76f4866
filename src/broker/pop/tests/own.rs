//! What the broker consumes itself.

use crate::{
    broker::{
        metadata::TIMER_TOPIC,
        testing::{Machine, bodies, topic},
    },
    store::Purpose,
    types::{NewMessage, Properties, QueueId, QueueOffset, SysFlag, Timestamp, TopicName},
};

const GROUP: &str = "CID_RMQ_SYS_TEST";

fn message(topic: TopicName, body: &'static str) -> NewMessage {
    NewMessage {
        topic,
        queue: QueueId(0),
        flag: 0,
        sys_flag: SysFlag::default(),
        born_at: Timestamp::ZERO,
        born_host: ([127, 0, 0, 1], 1).into(),
        reconsume_times: 0,
        prepared_at: None,
        properties: Properties::default(),
        body: body.into(),
    }
}

#[tokio::test]
async fn an_own_record_turns_into_its_message_once_and_stays_done_after_a_crash() {
    let machine = Machine::new();
    let mut broker = machine.start();
    let target = topic("T");
    broker.topic_for(&target).await.unwrap();
    for body in ["a", "b"] {
        broker.store().append(&[message(TopicName::system(TIMER_TOPIC), body)], Purpose::User).unwrap();
    }
    let end = broker.store().end();
    broker.store().committed(end).await.unwrap();
    let (first, second) = (QueueOffset::ZERO, QueueOffset::new(1));
    let fire = |broker: &crate::broker::Broker, offset| {
        let book = broker.own_book(TIMER_TOPIC, GROUP);
        let done = broker.append_done(
            &book,
            offset,
            Some((&target, crate::types::PhysicalOffset::MAX)),
            vec![message(target.clone(), "fired")],
            Purpose::User,
        );
        done.unwrap().map(|ticket| ticket.end)
    };
    let end = fire(&broker, second).unwrap();
    assert_eq!(fire(&broker, second), None, "it is done");
    broker.store().committed(end).await.unwrap();
    for seed in 0..3 {
        broker = machine.crash(broker, seed);
        let book = broker.own_book(TIMER_TOPIC, GROUP);
        assert!(!book.open().book.is_done(first) && book.open().book.is_done(second));
        assert_eq!(fire(&broker, second), None);
    }
    assert_eq!(bodies(&broker, &target), ["fired"]);
    let start =
        broker.store().queue(&TopicName::system(TIMER_TOPIC), QueueId(0)).entries(first, 1).unwrap()[0].physical;
    assert_eq!(broker.inner.pop.own_needs(), start, "retention keeps what still waits");
    broker.store().close();
}
