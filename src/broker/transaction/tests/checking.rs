//! Asking producers, and giving up.

use std::time::Duration;

use super::*;
use crate::{broker::Askable, types::Clock};

const SECOND: Duration = Duration::from_secs(1);

/// One round in which producers can be asked about everything; the bodies of what they were asked about.
async fn round(broker: &Broker) -> Vec<String> {
    let round = broker.due_checks(|_| Askable::Now).await;
    let sent: Vec<_> = round.checks.iter().map(|check| check.transaction).collect();
    broker.checks_sent(&sent);
    round.checks.iter().map(|check| body(&check.message)).collect()
}

fn machine() -> Machine {
    let mut machine = Machine::new();
    machine.config.transaction_checks_max = 3;
    machine
}

#[tokio::test]
async fn a_producer_is_asked_after_the_timeout_then_at_intervals_and_at_last_it_is_given_up() {
    let machine = machine();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Transaction);
    let a = send(&broker, &name, "a").await;
    let first = broker.due_checks(|_| Askable::Now).await;
    assert!(first.checks.is_empty());
    assert_eq!(first.next, Some(machine.clock.now().plus(6 * SECOND)));
    machine.clock.advance(6 * SECOND);
    let asked = broker.due_checks(|_| Askable::Now).await;
    assert_eq!(asked.checks.len(), 1);
    let check = &asked.checks[0];
    assert_eq!((check.transaction.to_string(), &check.message.topic), (a.clone(), &name));
    assert_eq!(check.message.properties.get(key::REAL_TOPIC), None);
    broker.checks_sent(&[check.transaction]);
    for _ in 0..2 {
        machine.clock.advance(29 * SECOND);
        assert_eq!(round(&broker).await, [""; 0]);
        machine.clock.advance(SECOND);
        assert_eq!(round(&broker).await, ["a"]);
    }
    assert_eq!(undecided(&broker), [""; 0]);
    machine.clock.advance(30 * SECOND);
    assert_eq!(round(&broker).await, [""; 0]);
    broker.store().committed(broker.store().end()).await.unwrap();
    let given_up = messages(&broker, &TopicName::system(UNDECIDED_TOPIC), 0);
    assert_eq!(given_up.len(), 1);
    assert_eq!(given_up[0].properties.get(key::REAL_TOPIC), Some("T"), "an operator sees where it was meant to go");
    assert_eq!(broker.pending_transactions(), 0);
    let late = broker.end_transaction(&name, "a", &a, Decision::Commit).await;
    assert!(late.is_err(), "{late:?}");
    let broker = machine.crash(broker, 1);
    assert_eq!((bodies(&broker, &name), undecided(&broker)), (vec![], vec!["a".into()]));
    broker.store().close();
}

#[tokio::test]
async fn checks_are_counted_over_restarts_crashes_and_snapshots() {
    for (crash, snapshot) in [(false, true), (true, true), (true, false)] {
        let machine = machine();
        let mut broker = machine.start();
        let name = create(&broker, "T", MessageType::Transaction);
        send(&broker, &name, "a").await;
        machine.clock.advance(6 * SECOND);
        for _ in 0..3 {
            assert_eq!(round(&broker).await, ["a"]);
            broker.store().committed(broker.store().end()).await.unwrap();
            if snapshot {
                broker.snapshot().unwrap();
            }
            broker = if crash { machine.crash(broker, 5) } else { machine.restart(broker) };
            assert_eq!(round(&broker).await, [""; 0], "it is asked at intervals, restarts or not");
            machine.clock.advance(30 * SECOND + Duration::from_millis(2));
        }
        assert_eq!(round(&broker).await, [""; 0]);
        broker.store().committed(broker.store().end()).await.unwrap();
        assert_eq!(undecided(&broker), ["a"]);
        broker.store().close();
    }
}

#[tokio::test]
async fn time_before_a_restart_counts_and_a_stepped_clock_makes_nobody_wait_longer() {
    let machine = machine();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Transaction);
    send(&broker, &name, "a").await;
    machine.clock.advance(4 * SECOND);
    let broker = machine.restart(broker);
    machine.clock.advance(SECOND);
    assert_eq!(round(&broker).await, [""; 0]);
    machine.clock.advance(SECOND);
    assert_eq!(round(&broker).await, ["a"]);
    send(&broker, &name, "b").await;
    machine.clock.step_wall(crate::types::Timestamp::from_millis(1));
    let broker = machine.restart(broker);
    machine.clock.advance(31 * SECOND);
    let mut asked = round(&broker).await;
    asked.sort();
    assert_eq!(asked, ["a", "b"]);
    broker.store().close();
}

#[tokio::test]
async fn a_message_may_have_a_time_of_its_own() {
    let machine = machine();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Transaction);
    for (body, own) in [("quick", "1"), ("slow", "60"), ("malformed", "x"), ("default", "-1")] {
        let draft = half_with(body, &[(key::CHECK_IMMUNITY_TIME_IN_SECONDS, own)]);
        broker.produce(&name, vec![draft]).await.unwrap();
    }
    machine.clock.advance(SECOND);
    assert_eq!(round(&broker).await, ["quick"]);
    machine.clock.advance(5 * SECOND);
    assert_eq!(round(&broker).await, ["malformed", "default"]);
    machine.clock.advance(54 * SECOND);
    assert!(round(&broker).await.contains(&"slow".into()));
    broker.store().close();
}

#[tokio::test]
async fn a_check_that_reaches_nobody_does_not_count() {
    let machine = machine();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Transaction);
    let a = send(&broker, &name, "a").await;
    machine.clock.advance(6 * SECOND);
    for _ in 0..50 {
        let round = broker.due_checks(|topic| {
            assert_eq!(topic, &name);
            Askable::Nobody
        });
        let round = round.await;
        assert!(round.checks.is_empty());
        assert_eq!(round.next, Some(machine.clock.now().plus(5 * SECOND)));
        machine.clock.advance(5 * SECOND);
    }
    assert_eq!(round(&broker).await, ["a"]);
    broker.end_transaction(&name, "a", &a, Decision::Commit).await.unwrap();
    assert_eq!(bodies(&broker, &name), ["a"]);
    broker.store().close();
}

#[tokio::test]
async fn what_is_older_than_retention_is_given_up_though_nobody_was_asked() {
    let machine = machine();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Transaction);
    send(&broker, &name, "a").await;
    machine.clock.advance(Duration::from_secs(40 * 3600));
    broker.due_checks(|_| Askable::Nobody).await;
    let broker = machine.restart(broker);
    machine.clock.advance(Duration::from_secs(31 * 3600));
    broker.due_checks(|_| Askable::Nobody).await;
    assert_eq!(broker.pending_transactions(), 1);
    machine.clock.advance(Duration::from_secs(3600));
    broker.due_checks(|_| Askable::Nobody).await;
    broker.store().committed(broker.store().end()).await.unwrap();
    assert_eq!((broker.pending_transactions(), undecided(&broker)), (0, vec!["a".into()]));
    broker.store().close();
}

#[tokio::test]
async fn a_round_is_bounded_and_the_next_goes_on() {
    let machine = machine();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Transaction);
    let drafts: Vec<_> = (0..300).map(|i| half(&format!("m{i}"))).collect();
    broker.produce(&name, drafts).await.unwrap();
    machine.clock.advance(6 * SECOND);
    let first = broker.due_checks(|_| Askable::Now).await;
    assert_eq!((first.checks.len(), first.next), (256, Some(machine.clock.now())));
    let second = broker.due_checks(|_| Askable::Now).await;
    assert_eq!(second.checks.len(), 44);
    assert!(second.next > Some(machine.clock.now()));
    broker.store().close();
}

#[tokio::test]
async fn a_round_ends_at_its_bytes_and_the_next_goes_on_at_once() {
    let mut machine = machine();
    machine.store.segment_bytes = 16 << 20;
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Transaction);
    let mib = "x".repeat(1 << 20);
    for n in 0..20 {
        let mut draft = half(&format!("m{n}"));
        draft.body = mib.clone().into();
        broker.produce(&name, vec![draft]).await.unwrap();
    }
    machine.clock.advance(6 * SECOND);
    let mut seen = std::collections::BTreeSet::new();
    for expected in [8, 8, 4] {
        let round = broker.due_checks(|_| Askable::Now).await;
        assert_eq!(round.checks.len(), expected);
        assert_eq!(round.next == Some(machine.clock.now()), expected == 8);
        seen.extend(round.checks.iter().map(|check| check.transaction.to_string()));
    }
    assert_eq!(seen.len(), 20, "each is asked about once");
    broker.store().close();
}

#[tokio::test]
async fn a_half_that_the_device_does_not_give_back_keeps_no_server_down() {
    let machine = machine();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Transaction);
    let a = send(&broker, &name, "a").await;
    let b = send(&broker, &name, "b").await;
    let at = broker.store().queue(&TopicName::system(HALF_TOPIC), crate::types::QueueId(0));
    let at = at.entries(QueueOffset::ZERO, 1).unwrap()[0];
    broker.store().close();
    drop(broker);
    let file = std::path::PathBuf::from("/store/commitlog/00000000000000000000");
    let bytes = at.physical.get() + 100..at.physical.get() + 101;
    machine.disk.set_bad(Some((file, bytes)));
    let broker = machine.start();
    assert_eq!(broker.pending_transactions(), 1);
    broker.end_transaction(&name, "b", &b, Decision::Commit).await.unwrap();
    machine.disk.set_bad(None);
    broker.end_transaction(&name, "a", &a, Decision::Commit).await.unwrap();
    assert_eq!(bodies(&broker, &name), ["a", "b"], "what was kept can still be decided");
    broker.store().close();
}

#[tokio::test]
async fn what_nobody_could_take_after_all_is_due_again_within_a_second() {
    let machine = machine();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Transaction);
    send(&broker, &name, "a").await;
    machine.clock.advance(6 * SECOND);
    let asked = broker.due_checks(|_| Askable::Now).await;
    broker.checks_not_sent(&[asked.checks[0].transaction]);
    broker.checks_sooner().await;
    machine.clock.advance(SECOND);
    assert_eq!(round(&broker).await, ["a"]);
    broker.store().close();
}

#[tokio::test]
async fn a_half_whose_question_waits_is_asked_about_once_and_counts_once() {
    let machine = machine();
    let broker = machine.start();
    let name = create(&broker, "T", MessageType::Transaction);
    send(&broker, &name, "a").await;
    machine.clock.advance(6 * SECOND);
    let asked = broker.due_checks(|_| Askable::Now).await.checks.remove(0).transaction;
    broker.check_waits(asked);
    // Nobody reads it.
    for _ in 0..5 {
        machine.clock.advance(30 * SECOND);
        assert!(broker.due_checks(|_| Askable::Now).await.checks.is_empty());
    }
    // It was dropped: the next is asked soon.
    broker.check_ended(asked, false);
    machine.clock.advance(SECOND);
    assert_eq!(broker.due_checks(|_| Askable::Now).await.checks.len(), 1);
    // A producer that takes it at last counts, and once; another one was asked meanwhile.
    broker.check_waits(asked);
    machine.clock.advance(8 * 30 * SECOND);
    assert_eq!(broker.due_checks(|_| Askable::Now).await.checks.len(), 1);
    broker.check_waits(asked);
    broker.check_ended(asked, true);
    broker.check_ended(asked, true);
    // Two of three are left.
    for _ in 0..2 {
        machine.clock.advance(30 * SECOND);
        assert_eq!(round(&broker).await, ["a"]);
    }
    machine.clock.advance(30 * SECOND);
    assert_eq!((round(&broker).await, broker.pending_transactions()), (vec![], 0));
    broker.store().close();
}
