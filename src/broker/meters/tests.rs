use std::time::Duration;

use super::*;
use crate::{
    broker::{
        Decision, Delivery, Filter, Take, TopicChange,
        testing::{Machine, draft, messages, normal, topic},
    },
    types::{Deadline, QueueId},
};

fn group(name: &str) -> GroupName {
    GroupName::parse(name).unwrap()
}

async fn take(broker: &Broker, of: &str, by: &str, max: usize) -> Vec<Delivery> {
    let take = Take {
        topic: topic(of),
        group: group(by),
        filter: Filter::All,
        max,
        invisible: Duration::from_secs(30),
        until: Deadline::default(),
        attempt_id: None,
    };
    broker.take(take).await.unwrap()
}

async fn ack(broker: &Broker, of: &str, by: &str, deliveries: &[Delivery]) {
    let receipts: Vec<_> = deliveries.iter().map(|d| d.receipt.clone()).collect();
    for result in broker.ack(&topic(of), &group(by), &receipts).await.unwrap() {
        result.unwrap();
    }
}

/// A group's backlog by name, with the ages in seconds.
fn backlog(broker: &Broker, of: &str, by: &str) -> (u64, u64, u64, u64, Option<u64>, Option<u64>) {
    let b = broker.backlog(&topic(of), &group(by), Deadline::from_micros(u64::MAX)).unwrap();
    (b.lag, b.ready, b.in_flight, b.waiting, b.lag_age.map(|a| a.as_secs()), b.ready_age.map(|a| a.as_secs()))
}

fn counts_of(broker: &Broker, of: &str) -> TopicCounts {
    broker.topic_counts().into_iter().find(|c| c.topic == Some(topic(of))).unwrap()
}

#[tokio::test]
async fn a_backlog_is_exact_at_every_step_of_consumption() {
    let machine = Machine::new();
    let broker = machine.start();
    for n in 0..10 {
        broker.produce(&topic("T"), vec![normal(&n.to_string())]).await.unwrap();
    }
    machine.clock.advance(Duration::from_secs(5));
    let first = take(&broker, "T", "g", 4).await;
    assert_eq!(first.len(), 4);
    assert_eq!(backlog(&broker, "T", "g"), (10, 6, 4, 0, Some(5), Some(5)));
    // Not from the front: what is done lies between what is not.
    ack(&broker, "T", "g", &first[1..3]).await;
    assert_eq!(backlog(&broker, "T", "g"), (8, 6, 2, 0, Some(5), Some(5)));
    machine.clock.advance(Duration::from_secs(31));
    broker.end_leases().await;
    assert_eq!(backlog(&broker, "T", "g"), (8, 6, 0, 2, Some(36), Some(36)));
    let rest = take(&broker, "T", "g", 32).await;
    ack(&broker, "T", "g", &rest).await;
    machine.clock.advance(Duration::from_secs(120));
    broker.end_leases().await;
    let rest = take(&broker, "T", "g", 32).await;
    ack(&broker, "T", "g", &rest).await;
    assert_eq!(backlog(&broker, "T", "g"), (0, 0, 0, 0, Some(0), Some(0)));
    // After a restart the books say the same, and forgotten deliveries are ready again.
    broker.produce(&topic("T"), vec![normal("x"), normal("y")]).await.unwrap();
    assert_eq!(take(&broker, "T", "g", 1).await.len(), 1);
    let broker = machine.restart(broker);
    assert_eq!(backlog(&broker, "T", "g"), (2, 2, 0, 0, Some(0), Some(0)));
}

#[tokio::test]
async fn messages_in_a_queue_that_the_topic_got_later_count_before_anybody_asks_for_them() {
    let machine = Machine::new();
    let broker = machine.start();
    let t = topic("T");
    broker.produce(&t, vec![normal("old")]).await.unwrap();
    let first = take(&broker, "T", "g", 1).await;
    ack(&broker, "T", "g", &first).await;
    let queues = broker.topic("T").unwrap().read_queues;
    let grow = TopicChange { queues: Some(queues + 1), ..TopicChange::default() };
    broker.update_topic(&t, grow).unwrap();
    let old = (0..queues).flat_map(|queue| messages(&broker, &t, queue)).next().unwrap();
    let new = old.copy_to(t.clone(), QueueId(queues), old.properties.clone());
    let ticket = broker.store().append(&[new.clone(), new], crate::store::Purpose::User).unwrap();
    broker.store().committed(ticket.end).await.unwrap();
    machine.clock.advance(Duration::from_secs(5));
    assert_eq!(backlog(&broker, "T", "g"), (2, 2, 0, 0, Some(5), Some(5)));
    let hurried = broker.backlogs(Deadline::default());
    assert_eq!((hurried.ages_missing, hurried.all[0].lag, hurried.all[0].lag_age), (1, 2, None));
    assert_eq!(take(&broker, "T", "g", 1).await.len(), 1);
    assert_eq!(backlog(&broker, "T", "g"), (2, 1, 1, 0, Some(5), Some(5)), "counted once, now by its book");
}

#[tokio::test]
async fn ages_that_there_is_no_time_for_are_left_out_and_counted() {
    let machine = Machine::new();
    let broker = machine.start();
    broker.produce(&topic("T"), vec![normal("x")]).await.unwrap();
    take(&broker, "T", "g", 1).await;
    let hurried = broker.backlogs(Deadline::default());
    assert_eq!((hurried.ages_missing, hurried.all[0].lag, hurried.all[0].lag_age), (1, 1, None));
    let calm = broker.backlogs(Deadline::from_micros(u64::MAX));
    assert_eq!((calm.ages_missing, calm.all[0].lag_age), (0, Some(Duration::ZERO)));
}

#[tokio::test]
async fn messages_are_counted_by_type_with_what_they_take_in_the_log() {
    let machine = Machine::new();
    let broker = machine.start();
    let before = broker.store().end();
    broker.produce(&topic("T"), vec![normal("a"), normal("bb")]).await.unwrap();
    let stored = before.until(broker.store().end());
    broker.produce(&topic("F"), vec![draft(MessageType::Fifo, Some("one"), "c")]).await.unwrap();
    let counts = counts_of(&broker, "T");
    let (kind, sizes) = &counts.sizes[0];
    assert_eq!((*kind, sizes.count, sizes.sum), ("normal", 2, stored));
    assert_eq!(counts_of(&broker, "F").sizes[0].0, "fifo");
    // A refused message is none.
    broker.produce(&topic("T"), vec![draft(MessageType::Fifo, Some("one"), "c")]).await.unwrap_err();
    assert_eq!(counts_of(&broker, "T").sizes[0].1.count, 2);
}

#[tokio::test]
async fn deliveries_are_counted_apart_from_repeated_ones_and_dead_letters() {
    let mut machine = Machine::new();
    machine.config.retry_max_times = 1;
    let broker = machine.start();
    broker.produce(&topic("T"), vec![normal("x")]).await.unwrap();
    for _ in 0..2 {
        assert_eq!(take(&broker, "T", "g", 1).await.len(), 1);
        machine.clock.advance(Duration::from_secs(3600));
        broker.end_leases().await;
    }
    broker.end_leases().await;
    broker.bury().await;
    let counts = broker.group_counts().into_iter().find(|c| c.of == Some((topic("T"), group("g")))).unwrap();
    assert_eq!((counts.first.0, counts.again.0, counts.dead), (1, 1, 1));
    assert_eq!(counts.first.1, counts.again.1);
    assert!(counts.first.1 > 100, "bytes of the record");
    broker.delete_group(&group("g")).unwrap();
    assert!(broker.group_counts().iter().all(|c| c.of.is_none()), "a group that is gone is not told any more");
}

#[tokio::test]
async fn topics_and_groups_beyond_the_bound_are_counted_together() {
    let mut machine = Machine::new();
    machine.config.series_max = 2;
    let broker = machine.start();
    for name in ["A", "B", "C", "D"] {
        broker.produce(&topic(name), vec![normal("x")]).await.unwrap();
        take(&broker, name, "g", 1).await;
    }
    let messages = |counts: &TopicCounts| counts.sizes.iter().map(|(_, sizes)| sizes.count).sum::<u64>();
    let mut told: Vec<_> = broker.topic_counts().iter().map(|c| (c.topic.is_none(), messages(c))).collect();
    told.sort_unstable();
    assert_eq!(told, [(false, 1), (false, 1), (true, 2)]);
    let lags: Vec<_> = broker.backlogs(Deadline::default()).all.into_iter().map(|b| (b.of.is_none(), b.lag)).collect();
    assert_eq!(lags, [(true, 2), (false, 1), (false, 1)]);
}

#[tokio::test]
async fn decisions_and_halves_that_wait_are_told_by_the_topic_they_are_meant_for() {
    let machine = Machine::new();
    let broker = machine.start();
    let half = |id: &str| {
        let mut half = draft(MessageType::Transaction, None, "x");
        let mut properties = crate::types::properties::PropertiesBuilder::default();
        properties.push(crate::types::properties::key::UNIQ_KEY, id);
        half.properties = properties.build();
        half.born_at = broker.clock().wall();
        half
    };
    let mut ids = Vec::new();
    for id in ["1", "2", "3"] {
        let produced = broker.produce(&topic("T"), vec![half(id)]).await.unwrap();
        ids.push(produced[0].transaction.unwrap().to_string());
    }
    assert_eq!(broker.pending_transactions_by_topic(), [(topic("T"), 3)]);
    machine.clock.advance(Duration::from_secs(4));
    broker.end_transaction(&topic("T"), "1", &ids[0], Decision::Commit).await.unwrap();
    broker.end_transaction(&topic("T"), "2", &ids[1], Decision::Rollback).await.unwrap();
    broker.end_transaction(&topic("T"), "2", &ids[1], Decision::Rollback).await.unwrap();
    let (committed, rolled_back, latency) = counts_of(&broker, "T").decisions.unwrap();
    assert_eq!((committed, rolled_back, latency.count, latency.sum), (1, 1, 2, 8));
    assert_eq!(broker.pending_transactions_by_topic(), [(topic("T"), 1)]);
}

#[tokio::test]
async fn a_sync_is_timed_and_the_oldest_record_is_told() {
    let machine = Machine::new();
    let broker = machine.start();
    let before = broker.store().syncs().count;
    broker.produce(&topic("T"), vec![normal("x")]).await.unwrap();
    let produced_at = broker.clock().wall();
    machine.clock.advance(Duration::from_secs(60));
    broker.produce(&topic("T"), vec![normal("y")]).await.unwrap();
    assert!(broker.store().syncs().count >= before + 2);
    assert_eq!(broker.store().oldest_stored_at().unwrap(), Some(produced_at));
}
