//! Commit, rollback, and what else may be said about a half message.

use super::*;
use crate::types::{QueueId, SysFlag};

#[tokio::test]
async fn a_half_message_is_seen_by_nobody_until_it_is_committed() {
    let machine = Machine::new();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Transaction);
    let draft = half_with("a", &[(key::TAGS, "TagA"), ("colour", "blue")]);
    let produced = broker.produce(&name, vec![draft]).await.unwrap()[0];
    assert_eq!(bodies(&broker, &name), [""; 0]);
    assert_eq!(broker.pending_transactions(), 1);
    let half = messages(&broker, &TopicName::system(HALF_TOPIC), 0).remove(0);
    assert_eq!(half.sys_flag.0 & SysFlag::TRANSACTION_MASK, 0, "as Apache stores it");

    broker.end_transaction(&name, "a", &id(&produced), Decision::Commit).await.unwrap();
    let message = visible(&broker, &name).remove(0);
    assert_eq!((body(&message), message.queue), ("a".into(), produced.queue));
    assert_eq!(message.sys_flag.0 & SysFlag::TRANSACTION_MASK, SysFlag::TRANSACTION_COMMIT);
    assert_eq!(message.prepared_at, Some(half.physical));
    assert_eq!((message.born_at, message.born_host, message.flag), (half.born_at, half.born_host, half.flag));
    let properties: Vec<_> = message.properties.iter().collect();
    assert_eq!(
        properties,
        [(key::UNIQ_KEY, "a"), (key::TRAN_MSG, "true"), (key::TAGS, "TagA"), ("colour", "blue")],
        "the message's own, and no more"
    );
    assert_eq!(broker.pending_transactions(), 0);
    broker.store().close();
}

#[tokio::test]
async fn what_was_decided_stays_so_after_crashes() {
    let machine = Machine::new();
    let mut broker = machine.start();
    let name = create(&broker, "T", MessageType::Transaction);
    let mut ids = Vec::new();
    for body in ["commit", "roll back", "open"] {
        ids.push(send(&broker, &name, body).await);
    }
    broker.end_transaction(&name, "commit", &ids[0], Decision::Commit).await.unwrap();
    broker.end_transaction(&name, "roll back", &ids[1], Decision::Rollback).await.unwrap();
    for seed in 0..3 {
        broker = machine.crash(broker, seed);
        assert_eq!((bodies(&broker, &name), broker.pending_transactions()), (vec!["commit".into()], 1));
    }
    broker.end_transaction(&name, "open", &ids[2], Decision::Commit).await.unwrap();
    assert_eq!(bodies(&broker, &name), ["commit", "open"]);
    broker.store().close();
}

#[tokio::test]
async fn a_decision_that_is_repeated_is_ok_and_changes_nothing_and_the_opposite_is_refused() {
    let mut machine = Machine::new();
    (machine.store.index, machine.store.index_slots, machine.store.index_entries) = (true, 100, 1000);
    let mut broker = machine.start();
    let name = create(&broker, "T", MessageType::Transaction);
    let (a, b) = (send(&broker, &name, "a").await, send(&broker, &name, "b").await);
    broker.end_transaction(&name, "a", &a, Decision::Commit).await.unwrap();
    broker.end_transaction(&name, "b", &b, Decision::Rollback).await.unwrap();
    // In this run it is remembered; later it is found by the key.
    for seed in 0..2 {
        broker.end_transaction(&name, "a", &a, Decision::Commit).await.unwrap();
        broker.end_transaction(&name, "b", &b, Decision::Rollback).await.unwrap();
        let refused = broker.end_transaction(&name, "a", &a, Decision::Rollback).await;
        assert!(matches!(refused, Err(EndError::Decided(Decision::Commit))), "{refused:?}");
        let refused = broker.end_transaction(&name, "b", &b, Decision::Commit).await;
        assert!(matches!(refused, Err(EndError::Decided(Decision::Rollback))), "{refused:?}");
        assert_eq!(bodies(&broker, &name), ["a"]);
        broker = machine.crash(broker, seed);
    }
    broker.store().close();
}

#[tokio::test]
async fn without_an_index_nobody_is_told_what_is_not_known() {
    let machine = Machine::new();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Transaction);
    let a = send(&broker, &name, "a").await;
    broker.end_transaction(&name, "a", &a, Decision::Commit).await.unwrap();
    let broker = machine.restart(broker);
    for decision in [Decision::Commit, Decision::Rollback] {
        assert!(matches!(broker.end_transaction(&name, "a", &a, decision).await, Err(EndError::Unknown)));
    }
    broker.store().close();
}

#[tokio::test]
async fn a_decision_is_bound_to_its_own_half_message() {
    let machine = Machine::new();
    let broker = machine.start();
    let (name, other) =
        (create(&broker, "T", MessageType::Transaction), create(&broker, "U", MessageType::Transaction));
    let (a, b) = (send(&broker, &name, "a").await, send(&broker, &name, "b").await);
    let moved = format!("{}{}", &b[..32], &a[32..]);
    for (topic, message, transaction) in [
        (&name, "a", &*b),
        (&name, "b", &*a),
        (&other, "a", &*a),
        (&name, "a", &*moved),
        (&name, "b", &*moved),
        (&name, "a", "a"),
        (&name, "a", ""),
        (&name, "", &*a),
        (&name, "a", &*format!("{}{}", "7FFFFFFFFFFFFFFF".repeat(2), &a[32..])),
    ] {
        for decision in [Decision::Commit, Decision::Rollback] {
            let answer = broker.end_transaction(topic, message, transaction, decision).await;
            assert!(matches!(answer, Err(EndError::Unknown)), "{topic} {message} {transaction}: {answer:?}");
        }
    }
    assert_eq!((broker.pending_transactions(), bodies(&broker, &name)), (2, vec![]));
    broker.store().close();
}

/// The power goes after each operation of the disk in turn, until the commit comes through.
#[tokio::test]
async fn a_crash_in_a_commit_leaves_the_message_or_the_half_and_never_both_or_neither() {
    let (mut held, mut came_through) = (0, 0);
    for after in 1..12 {
        let machine = Machine::new();
        let broker = machine.start();
        let name = create(&broker, "T", MessageType::Transaction);
        let a = send(&broker, &name, "a").await;
        machine.disk.crash_at(machine.disk.ops() + after);
        let answer = broker.end_transaction(&name, "a", &a, Decision::Commit).await;
        machine.disk.crash_at(u64::MAX);
        let broker = machine.crash(broker, after);
        let state = (bodies(&broker, &name).len(), broker.pending_transactions());
        assert!(state == (1, 0) || state == (0, 1) && answer.is_err(), "{after}: {state:?} after {answer:?}");
        if state == (0, 1) {
            held += 1;
            broker.end_transaction(&name, "a", &a, Decision::Commit).await.unwrap();
        } else {
            came_through += 1;
        }
        assert_eq!(bodies(&broker, &name), ["a"]);
        broker.store().close();
    }
    assert!(held > 0 && came_through > 0, "{held} {came_through}");
}

#[tokio::test]
async fn a_half_message_keeps_the_queue_of_its_group() {
    let machine = Machine::new();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Transaction);
    let keyed = Draft { message_group: Some("order-1".into()), ..half("a") };
    let produced = broker.produce(&name, vec![keyed]).await.unwrap()[0];
    assert_eq!(produced.queue, QueueId(3));
    broker.end_transaction(&name, "a", &id(&produced), Decision::Commit).await.unwrap();
    assert_eq!(visible(&broker, &name)[0].queue, QueueId(3));
    broker.store().close();
}

#[tokio::test]
async fn a_mixed_topic_takes_halves_among_others_and_each_of_a_batch_is_decided_alone() {
    let machine = Machine::new();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Mixed);
    let drafts = vec![half("a"), crate::broker::testing::normal("n"), half("b")];
    let produced = broker.produce(&name, drafts).await.unwrap();
    assert_eq!(produced.iter().map(|p| p.transaction.is_some()).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(bodies(&broker, &name), ["n"]);
    broker.end_transaction(&name, "b", &id(&produced[2]), Decision::Commit).await.unwrap();
    broker.end_transaction(&name, "a", &id(&produced[0]), Decision::Rollback).await.unwrap();
    assert_eq!(bodies(&broker, &name), ["b", "n"]);
    let plain = create(&broker, "N", MessageType::Normal);
    let refused = broker.produce(&plain, vec![half("c")]).await;
    assert!(matches!(refused, Err(crate::broker::ProduceError::TypeConflict { .. })));
    broker.store().close();
}

#[tokio::test]
async fn pending_transactions_are_bounded() {
    let mut machine = Machine::new();
    machine.config.transactions_max = 2;
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Mixed);
    let a = send(&broker, &name, "a").await;
    let refused = broker.produce(&name, vec![half("b"), half("c")]).await;
    assert!(matches!(refused, Err(crate::broker::ProduceError::TooManyTransactions(2))), "{refused:?}");
    send(&broker, &name, "b").await;
    assert!(broker.produce(&name, vec![half("c")]).await.is_err());
    broker.produce(&name, vec![crate::broker::testing::normal("n")]).await.unwrap();
    broker.end_transaction(&name, "a", &a, Decision::Rollback).await.unwrap();
    send(&broker, &name, "c").await;
    broker.store().close();
}

#[tokio::test]
async fn the_halves_of_a_deleted_topic_die_with_it() {
    for crash in [false, true] {
        let machine = Machine::new();
        let mut broker = machine.start();
        let name = create(&broker, "T", MessageType::Transaction);
        let a = send(&broker, &name, "a").await;
        broker.delete_topic(&name).unwrap();
        if crash {
            broker = machine.crash(broker, 7);
        }
        assert_eq!(broker.pending_transactions(), 0);
        create(&broker, "T", MessageType::Transaction);
        let answer = broker.end_transaction(&name, "a", &a, Decision::Commit).await;
        assert!(matches!(answer, Err(EndError::Unknown)), "{answer:?}");
        assert_eq!(bodies(&broker, &name), [""; 0]);
        broker.store().close();
    }
}

#[tokio::test]
async fn retention_keeps_what_still_waits_for_its_decision() {
    let machine = Machine::new();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Transaction);
    let (a, b) = (send(&broker, &name, "a").await, send(&broker, &name, "b").await);
    let halves = messages(&broker, &TopicName::system(HALF_TOPIC), 0);
    broker.end_transaction(&name, "a", &a, Decision::Commit).await.unwrap();
    assert_eq!(broker.half_book().open().book.commit(), QueueOffset::new(1));
    let needed = broker.half_book().queue.entries(QueueOffset::new(1), 1).unwrap()[0].physical;
    assert_eq!(needed, halves[1].physical);
    broker.end_transaction(&name, "b", &b, Decision::Rollback).await.unwrap();
    assert_eq!(broker.half_book().open().book.commit(), QueueOffset::new(2));
    broker.store().close();
}

#[tokio::test]
async fn a_half_that_could_not_be_dropped_with_its_topic_reaches_no_topic_of_that_name() {
    let machine = Machine::new();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Transaction);
    let a = send(&broker, &name, "a").await;
    let refused = super::super::faults::plant(super::super::Fault::DropIsRefused);
    broker.delete_topic(&name).unwrap();
    drop(refused);
    create(&broker, "T", MessageType::Transaction);
    let ended = broker.end_transaction(&name, "a", &a, Decision::Commit).await;
    assert!(matches!(ended, Err(EndError::TopicNotFound(_))), "{ended:?}");
    assert_eq!(bodies(&broker, &name), [""; 0]);
    machine.clock.advance(std::time::Duration::from_secs(6));
    let round = broker.due_checks(|_| crate::broker::Askable::Now).await;
    assert_eq!((round.checks.len(), broker.pending_transactions()), (0, 0), "it is dropped when it is due");
    broker.store().close();
}

/// A store as Apache's broker leaves it: what is ours is gone, and what is its own is there.
fn as_apaches(machine: &Machine, broker: Broker, offsets: Option<&str>) {
    use crate::store::disk::Disk as _;
    broker.store().close();
    drop(broker);
    for file in ["ferromqPop.snapshot", "ferromqPop.snapshot.bak", "consumerOffset.json", "consumerOffset.json.bak"] {
        let _ = machine.disk.remove_file(&std::path::Path::new("/store/config").join(file));
    }
    if let Some(offsets) = offsets {
        machine.write("config/consumerOffset.json", offsets.as_bytes());
    }
}

#[tokio::test]
async fn halves_that_apaches_broker_decided_are_asked_about_no_more() {
    let machine = Machine::new();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Transaction);
    for body in ["before", "checked", "decided", "open", "decided too"] {
        send(&broker, &name, body).await;
    }
    let half = messages(&broker, &TopicName::system(HALF_TOPIC), 0).remove(0);
    for decided in ["2,4,", "1"] {
        let op = crate::types::NewMessage {
            body: decided.as_bytes().to_vec().into(),
            ..half.copy_to(TopicName::system("RMQ_SYS_TRANS_OP_HALF_TOPIC"), QueueId(0), Default::default())
        };
        broker.store().append(&[op], crate::store::Purpose::User).unwrap();
    }
    broker.store().committed(broker.store().end()).await.unwrap();
    // Without the file nobody knows of the first, which is in no record of decisions.
    as_apaches(&machine, broker, None);
    let broker = machine.start();
    assert_eq!(broker.pending_transactions(), 2);
    let offsets = r#"{"offsetTable":{"RMQ_SYS_TRANS_HALF_TOPIC@CID_RMQ_SYS_TRANS":{0:1}}}"#;
    as_apaches(&machine, broker, Some(offsets));
    let broker = machine.start();
    assert_eq!(broker.pending_transactions(), 1);
    machine.clock.advance(std::time::Duration::from_secs(60));
    let round = broker.due_checks(|_| crate::broker::Askable::Now).await;
    assert_eq!(round.checks.iter().map(|check| body(&check.message)).collect::<Vec<_>>(), ["open"]);
    broker.store().close();
}
