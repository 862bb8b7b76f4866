use proptest::prelude::*;

use super::*;
use crate::store::AppendError;

#[test]
fn message_groups_hash_as_in_rocketmqs_proxy() {
    let vectors = [
        ("a", 97, [0, 0, 0]),
        ("order-1", -1_207_111_310, [3, 3, 3]),
        ("order-2", -1_207_111_309, [2, 2, 11]),
        ("user-42", -147_182_656, [1, 1, 1]),
    ];
    for (group, hash, queues) in vectors {
        assert_eq!(java_hash(group), hash);
        assert_eq!([4, 8, 16].map(|n| queue_of_group(group, n).0), queues, "{group}");
    }
}

proptest! {
    #[test]
    fn a_group_has_a_queue_and_moves_only_to_a_new_one(group in ".{0,20}", queues in 1u32..1024) {
        let before = queue_of_group(&group, queues).0;
        prop_assert!(before < queues);
        let after = queue_of_group(&group, queues + 1).0;
        prop_assert!(after == before || after == queues);
    }
}

use crate::{
    broker::{
        Topic, TopicChange,
        testing::{Machine, bodies, draft, messages, normal, topic},
    },
    store::Health,
    types::{
        PhysicalOffset,
        properties::{PropertiesBuilder, key},
    },
};

fn create(broker: &Broker, name: &str, message_type: MessageType) -> TopicName {
    let name = topic(name);
    let settings = Topic {
        name: name.clone(),
        message_type: Some(message_type),
        read_queues: 4,
        write_queues: 4,
        readable: true,
        writable: true,
    };
    broker.create_topic(settings).unwrap();
    name
}

#[tokio::test]
async fn a_message_is_stored_as_it_was_handed_over() {
    let machine = Machine::new();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Normal);
    let mut properties = PropertiesBuilder::default();
    properties.push(key::TAGS, "TagA").push("colour", "blue");
    let sent =
        Draft { flag: 7, sys_flag: SysFlag(SysFlag::COMPRESSED), properties: properties.build(), ..normal("hello") };
    let produced = broker.produce(&name, vec![sent.clone()]).await.unwrap();
    let stored = messages(&broker, &name, produced[0].queue.0).remove(0);
    assert_eq!((&stored.topic, stored.queue, stored.queue_offset), (&name, produced[0].queue, produced[0].offset));
    assert_eq!((stored.flag, stored.born_at, stored.born_host), (7, sent.born_at, sent.born_host));
    assert!(stored.sys_flag.has(SysFlag::COMPRESSED));
    assert_eq!((stored.reconsume_times, stored.prepared_at), (0, None));
    assert_eq!(
        (stored.tag(), stored.properties.get("colour"), &stored.body[..]),
        (Some("TagA"), Some("blue"), &b"hello"[..])
    );
    assert_eq!(stored.properties.iter().count(), 2, "nothing is added");
    broker.store().close();
}

#[tokio::test]
async fn what_was_answered_ok_is_there_after_a_crash() {
    let machine = Machine::new();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Normal);
    for body in ["a", "b", "c"] {
        broker.produce(&name, vec![normal(body)]).await.unwrap();
    }
    let broker = machine.crash(broker, 1);
    assert_eq!(bodies(&broker, &name), ["a", "b", "c"]);
    broker.store().close();
}

#[tokio::test]
async fn messages_without_a_group_go_round_the_queues() {
    let machine = Machine::new();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Normal);
    let mut places = Vec::new();
    for _ in 0..6 {
        let produced = broker.produce(&name, vec![normal("x")]).await.unwrap();
        places.push((produced[0].queue.0, produced[0].offset.get()));
    }
    assert_eq!(places, [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (1, 1)]);
    let batch = broker.produce(&name, vec![normal("y"), normal("z")]).await.unwrap();
    assert_eq!(batch.iter().map(|p| (p.queue.0, p.offset.get())).collect::<Vec<_>>(), [(2, 1), (2, 2)]);
    broker.store().close();
}

#[tokio::test]
async fn a_message_group_keeps_its_queue_alone_and_in_a_batch() {
    let machine = Machine::new();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Fifo);
    let fifo = |group| draft(MessageType::Fifo, Some(group), group);
    let one = broker.produce(&name, vec![fifo("order-1")]).await.unwrap();
    let batch = broker.produce(&name, vec![fifo("order-2"), fifo("order-1"), fifo("user-42")]).await.unwrap();
    assert_eq!(one[0].queue, QueueId(3));
    assert_eq!(batch.iter().map(|p| p.queue.0).collect::<Vec<_>>(), [2, 3, 1]);
    assert!(batch[1].offset > one[0].offset);
    broker.store().close();
}

#[tokio::test]
async fn refusals_come_in_the_documented_order_and_store_nothing() {
    let mut machine = Machine::new();
    machine.config.max_message_bytes = 10;
    machine.config.auto_create_topic = false;
    let broker = machine.start();
    let open = create(&broker, "open", MessageType::Normal);
    let closed = create(&broker, "closed", MessageType::Normal);
    let delay = create(&broker, "delay", MessageType::Delay);
    let not_writable = TopicChange { writable: Some(false), ..TopicChange::default() };
    broker.update_topic(&closed, not_writable).unwrap();
    let before = broker.store().end();

    let big = || normal("12345678901");
    let fifo = || draft(MessageType::Fifo, Some("g"), "f");
    let refused = async |name: &TopicName, drafts| broker.produce(name, drafts).await.unwrap_err();
    let none = topic("none");
    assert!(matches!(refused(&none, vec![big()]).await, ProduceError::BodyTooLarge { size: 11, max: 10 }));
    assert!(matches!(refused(&open, vec![normal("ok"), big()]).await, ProduceError::BodyTooLarge { .. }));
    assert!(matches!(refused(&none, vec![fifo()]).await, ProduceError::TopicNotFound(t) if t == none));
    assert!(matches!(refused(&closed, vec![fifo()]).await, ProduceError::TypeConflict { .. }));
    assert!(matches!(refused(&closed, vec![normal("x")]).await, ProduceError::NotWritable(t) if t == closed));
    assert!(matches!(
        refused(&open, vec![normal("x"), fifo()]).await,
        ProduceError::TypeConflict { expected: MessageType::Normal, actual: MessageType::Fifo, .. }
    ));
    let delayed = draft(MessageType::Delay, None, "d");
    assert!(matches!(refused(&open, vec![delayed.clone()]).await, ProduceError::TypeConflict { .. }));
    assert!(matches!(refused(&delay, vec![delayed, normal("x")]).await, ProduceError::TypeConflict { .. }));
    let settle = topic("rmq_sys_FERROMQ_SETTLE");
    assert!(matches!(refused(&settle, vec![normal("x")]).await, ProduceError::NotWritable(_)));
    assert_eq!(broker.store().end(), before);
    assert_eq!(broker.produce(&none, vec![]).await.unwrap(), []);
    broker.store().close();
}

#[tokio::test]
async fn mixed_and_derived_topics_take_several_types() {
    let machine = Machine::new();
    let broker = machine.start();
    let mixed = create(&broker, "mixed", MessageType::Mixed);
    let dead = create(&broker, "%DLQ%g", MessageType::Normal);
    for name in [&mixed, &dead] {
        broker.produce(name, vec![normal("n"), draft(MessageType::Fifo, Some("g"), "f")]).await.unwrap();
        assert_eq!(bodies(&broker, name), ["f", "n"]);
    }
    let half = broker.produce(&dead, vec![draft(MessageType::Transaction, None, "t")]).await.unwrap();
    assert!(half[0].transaction.is_some());
    assert_eq!(bodies(&broker, &dead), ["f", "n"]);
    broker.store().close();
}

#[tokio::test]
async fn without_the_check_a_topic_takes_what_is_served() {
    let mut machine = Machine::new();
    machine.config.check_message_type = false;
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Normal);
    broker.produce(&name, vec![draft(MessageType::Fifo, Some("g"), "f")]).await.unwrap();
    let lite = broker.produce(&name, vec![draft(MessageType::Lite, None, "l")]).await;
    assert!(matches!(lite, Err(ProduceError::TypeConflict { .. })), "nobody would find it");
    broker.store().close();
}

#[tokio::test]
async fn the_first_message_makes_the_topic_and_decides_its_type() {
    let machine = Machine::new();
    let broker = machine.start();
    let name = topic("auto");
    let fifo = || draft(MessageType::Fifo, Some("g"), "f");
    broker.topic_for(&name).await.unwrap().unwrap();
    assert!(matches!(broker.produce(&name, vec![fifo(), normal("n")]).await, Err(ProduceError::TypeConflict { .. })));
    assert_eq!(broker.topic("auto").unwrap().message_type, None, "a refused call decides nothing");
    broker.produce(&name, vec![fifo()]).await.unwrap();
    assert!(matches!(broker.produce(&name, vec![normal("n")]).await, Err(ProduceError::TypeConflict { .. })));
    let broker = machine.crash(broker, 2);
    let made = broker.topic("auto").unwrap();
    assert_eq!((made.message_type, made.write_queues), (Some(MessageType::Fifo), 4));
    broker.store().close();
}

#[tokio::test]
async fn two_first_messages_of_different_types_do_not_both_enter() {
    let machine = Machine::new();
    let broker = machine.start();
    let name = topic("auto");
    let (a, b) = tokio::join!(
        broker.produce(&name, vec![normal("n")]),
        broker.produce(&name, vec![draft(MessageType::Fifo, Some("g"), "f")]),
    );
    assert_eq!(u8::from(a.is_ok()) + u8::from(b.is_ok()), 1, "{a:?} {b:?}");
    assert_eq!(bodies(&broker, &name).len(), 1);
    broker.store().close();
}

#[tokio::test]
async fn a_failed_sync_is_never_answered_ok() {
    let machine = Machine::new();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Normal);
    machine.disk.fail_log_sync_once_then_lie();
    for _ in 0..2 {
        let refused = broker.produce(&name, vec![normal("x")]).await;
        assert!(matches!(refused, Err(ProduceError::Append(AppendError::Poisoned(_)))), "{refused:?}");
    }
    assert!(matches!(broker.store().health(), Health::Poisoned(_)));
    broker.store().close();
}

#[tokio::test]
async fn a_send_that_the_disk_does_not_confirm_in_time_is_answered_and_kept() {
    let mut machine = Machine::new();
    machine.config.sync_flush_timeout = std::time::Duration::from_millis(20);
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Normal);
    machine.disk.stall_syncs();
    let late = broker.produce(&name, vec![normal("x")]).await;
    assert!(matches!(late, Err(ProduceError::Unconfirmed { .. })), "{late:?}");
    assert_eq!(bodies(&broker, &name), [""; 0], "nobody sees what is not on the device");
    machine.disk.answer_syncs();
    broker.store().committed(broker.store().end()).await.unwrap();
    assert_eq!(bodies(&broker, &name), ["x"]);
    broker.produce(&name, vec![normal("y")]).await.unwrap();
    broker.store().close();
}

#[tokio::test]
async fn a_full_disk_refuses_the_send_and_keeps_what_it_took() {
    let machine = Machine::new();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Normal);
    machine.disk.set_capacity(machine.disk.used());
    let body = "x".repeat(10_000);
    let mut kept = 0;
    let refused = loop {
        match broker.produce(&name, vec![normal(&body)]).await {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 1000, "the disk takes more than it has");
    };
    assert!(matches!(refused, ProduceError::Append(AppendError::Full { .. })), "{refused}");
    machine.disk.set_capacity(1 << 40);
    let broker = machine.crash(broker, 4);
    assert_eq!(bodies(&broker, &name).len(), kept);
    broker.store().close();
}

#[tokio::test]
async fn a_dropped_send_still_counts() {
    let machine = Machine::new();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Normal);
    let before: PhysicalOffset = broker.store().end();
    {
        let mut send = std::pin::pin!(broker.produce(&name, vec![normal("x")]));
        let waker = std::task::Waker::noop();
        let _ = send.as_mut().poll(&mut std::task::Context::from_waker(waker));
    }
    assert!(broker.store().end() > before);
    broker.store().committed(broker.store().end()).await.unwrap();
    assert_eq!(bodies(&broker, &name), ["x"]);
    broker.store().close();
}
