//! Bounds, and what much of everything costs.

use std::path::Path;

use super::*;
use crate::{
    broker::{SettleError, pop::book::Book},
    store::disk::Disk,
    types::Deadline,
};

#[tokio::test]
async fn a_receipt_that_nobody_gave_out_makes_no_books() {
    let world = World::new(8);
    let receipt: crate::broker::Receipt = "1-1-0-0-1-1-1-1".parse().unwrap();
    let acked = world.broker.ack(&topic(), &group(), std::slice::from_ref(&receipt)).await;
    assert!(acked.is_ok_and(|results| matches!(results[..], [Err(SettleError::Invalid)])));
    let changed = world.broker.change_invisible(&topic(), &group(), &receipt, LEASE).await;
    assert!(matches!(changed, Err(SettleError::Invalid)));
    let buried = world.broker.forward_to_dead_letter(&topic(), &group(), &receipt).await;
    assert!(matches!(buried, Err(SettleError::Invalid)));
    assert_eq!(world.broker.progress(&group()), []);
}

#[tokio::test]
async fn books_are_bounded_and_a_deletion_makes_room() {
    let mut machine = Machine::new();
    machine.config.books_max = 4;
    let world = World::on(machine, 4);
    let other = GroupName::parse("audit").unwrap();
    world.make(TopicName::parse("t").unwrap(), other.clone(), 1);
    world.take(1).await;
    let refused = world.broker.take(Take { group: other.clone(), ..world.poll(1) }).await;
    assert!(
        matches!(refused, Err(TakeError::TooManyBooks(crate::broker::TooManyBooks::Books { books: 4, max: 4 }))),
        "{refused:?}"
    );
    world.take(1).await;
    world.broker.delete_group(&group()).unwrap();
    world.broker.take(Take { group: other, ..world.poll(1) }).await.unwrap();
}

#[tokio::test]
async fn all_groups_together_hold_a_bounded_number_of_messages_and_what_is_due_again_is_served() {
    let mut machine = Machine::new();
    machine.config.in_flight_total_max = 2;
    let world = World::on(machine, 1);
    let other = GroupName::parse("audit").unwrap();
    world.make(TopicName::parse("t").unwrap(), other.clone(), 1);
    world.send(&["a", "b", "c"]).await;
    let first = world.take_one().await;
    let audit = Take { group: other.clone(), ..world.poll(1) };
    assert_eq!(world.broker.take(audit.clone()).await.unwrap().len(), 1);
    for poll in [world.poll(1), audit.clone()] {
        let refused = world.broker.take(poll).await;
        assert!(matches!(refused, Err(TakeError::TooManyInFlight { held: 2, max: 2 })), "{refused:?}");
    }
    world.ack(&first).await.unwrap();
    assert_eq!(world.take_one().await.receipt.offset(), at(1));
    world.pass(LEASE);
    world.broker.revive().await;
    assert_eq!(world.take_one().await.attempt, 2, "it takes no room that it had not");
    world.broker.delete_group(&other).unwrap();
    assert_eq!(world.take_one().await.receipt.offset(), at(2), "what a deleted group held is free");
    let world = world.crash(1);
    assert_eq!(world.take(3).await.len(), 2, "after a start what waits for an attempt counts");
}

#[test]
fn a_book_with_a_million_in_flight_settles_and_expires_them_and_is_empty_then() {
    const COUNT: u64 = 1_000_000;
    let mut book = Book::starting_at(at(0));
    let end = Deadline::default().plus(LEASE);
    (0..COUNT).for_each(|n| {
        book.deliver(at(n), 1, end);
    });
    assert_eq!((book.in_flight() as u64, book.next()), (COUNT, at(COUNT)));
    (0..COUNT).step_by(2).for_each(|n| book.done(at(n)..at(n + 1)));
    assert_eq!((book.exceptions().count() as u64, book.done_ranges().count() as u64), (COUNT / 2, COUNT / 2 - 1));
    let mut expired = 0;
    loop {
        match book.expire(end, 16, 512).len() {
            0 => break,
            n => expired += n as u64,
        }
    }
    assert_eq!((expired, book.waiting() as u64, book.in_flight()), (COUNT / 2, COUNT / 2, 0));
    (1..COUNT).step_by(2).for_each(|n| book.done(at(n)..at(n + 1)));
    assert_eq!((book.commit(), book.exceptions().count(), book.done_ranges().count()), (at(COUNT), 0, 0));
}

#[tokio::test]
async fn ten_thousand_queues_make_no_files_of_their_own_and_one_small_snapshot() {
    let world = World::new(1000);
    for n in 0..10 {
        let name = TopicName::parse(&format!("t{n}")).unwrap();
        world.make(name.clone(), group(), 1000);
        assert_eq!(world.broker.take(Take { topic: name, ..world.poll(1) }).await.unwrap().len(), 0);
    }
    assert_eq!(world.broker.progress(&group()).len(), 10_000);
    let before = world.machine.disk.ops();
    world.broker.inner.pop.touch();
    world.broker.snapshot().unwrap();
    let changes = world.machine.disk.ops() - before;
    assert!(changes < 40, "{changes} changes on the disk");
    let queues = world.machine.disk.list(Path::new("/store/consumequeue")).unwrap();
    assert!(!queues.iter().any(|name| name.starts_with('t')), "{queues:?}");
    let bytes = world.machine.read(&format!("config/{}", crate::broker::pop::snapshot::FILE)).len();
    assert!(bytes < 100_000, "{bytes} bytes");
    let world = world.crash(1);
    assert_eq!(world.broker.progress(&group()).len(), 10_000);
}
