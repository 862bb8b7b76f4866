//! FIFO groups: each message group in its order, whatever happens to one of its messages.

use futures_util::FutureExt;

use super::*;
use crate::{
    broker::{AttemptId, Draft, GroupChange, SettleError, pop::lines::BLOCKED_MAX, testing::wait_until},
    store::Threads,
};

fn of_group(body: &str, message_group: Option<&str>, tag: Option<&str>) -> Draft {
    let mut properties = PropertiesBuilder::default();
    for (name, value) in [(key::SHARDING_KEY, message_group), (key::TAGS, tag)] {
        value.map(|value| properties.push(name, value));
    }
    let message_group = message_group.map(String::from);
    Draft { properties: properties.build(), message_group, ..normal(body) }
}

/// The message group is the letter that the body begins with.
fn letter(body: &str) -> Draft {
    of_group(body, Some(&body[..1]), None)
}

impl World {
    fn in_order(queues: u32) -> Self {
        let world = Self::new(queues);
        world.set_fifo(true);
        world
    }

    fn set_fifo(&self, fifo: bool) {
        let change = GroupChange { fifo: Some(fifo), ..GroupChange::default() };
        self.broker.update_group(&group(), change).unwrap();
    }

    async fn send_letters(&self, bodies: &[&str]) {
        let drafts = bodies.iter().map(|body| letter(body)).collect();
        self.broker.produce(&topic(), drafts).await.unwrap();
    }

    async fn taken(&self, max: usize) -> Vec<String> {
        bodies(&self.take(max).await).into_iter().map(String::from).collect()
    }

    /// Ends what has run out, and waits until that is safe.
    async fn later(&self, time: Duration) {
        self.pass(time);
        self.broker.revive().await;
        self.broker.store().committed(self.broker.store().end()).await.unwrap();
    }

    /// Runs something to its end while the store commits what it waits for.
    async fn stepping<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = tokio::task::yield_now() => self.broker.store().step_commit().unwrap(),
            }
        }
    }

    fn locked(&self) -> Option<(u64, u64, u64)> {
        let progress = self.broker.progress(&group()).into_iter().find(|p| p.topic == topic()).unwrap();
        progress.locked.map(|locked| (locked.lines, locked.blocked, locked.oldest.get()))
    }
}

#[tokio::test]
async fn a_message_waits_until_the_one_before_it_in_its_group_is_done() {
    let world = World::in_order(1);
    world.send_letters(&["a0", "a1", "b0", "a2", "b1"]).await;
    let first = world.take(10).await;
    assert_eq!(bodies(&first), ["a0", "b0"], "one of each message group, also within a batch");
    assert!(world.take(10).await.is_empty());
    assert_eq!(world.locked(), Some((2, 3, 0)));
    world.ack(&first[0]).await.unwrap();
    let second = world.take(10).await;
    assert_eq!(bodies(&second), ["a1"]);
    world.ack(&first[1]).await.unwrap();
    world.ack(&second[0]).await.unwrap();
    assert_eq!(world.taken(10).await, ["a2", "b1"]);
}

#[tokio::test]
async fn messages_without_a_message_group_are_one_line() {
    let world = World::in_order(1);
    world.send(&["x", "y"]).await;
    world.send_letters(&["a0"]).await;
    let first = world.take(10).await;
    assert_eq!(bodies(&first), ["x", "a0"]);
    world.ack(&first[0]).await.unwrap();
    assert_eq!(world.taken(10).await, ["y"]);
}

#[tokio::test]
async fn an_ack_wakes_the_poll_that_waits_for_what_follows() {
    let world = World::in_order(1);
    world.send_letters(&["a0", "a1"]).await;
    let first = world.take_one().await;
    let parked = world.park(world.long_poll(10)).await;
    world.ack(&first).await.unwrap();
    assert_eq!(bodies(&parked.await.unwrap().unwrap()), ["a1"]);
}

#[tokio::test]
async fn a_message_that_failed_comes_again_before_what_follows_it() {
    let world = World::in_order(1);
    world.send_letters(&["a0", "a1"]).await;
    world.take_one().await;
    world.later(LEASE).await;
    let second = world.take(10).await;
    assert_eq!((bodies(&second), second[0].attempt), (vec!["a0"], 2));
    world.broker.change_invisible(&topic(), &group(), &second[0].receipt, ms(5000)).await.unwrap();
    world.later(ms(4999)).await;
    assert!(world.take(10).await.is_empty(), "what waits for its retry holds its message group");
    world.later(ms(1)).await;
    let third = world.take(10).await;
    assert_eq!((bodies(&third), third[0].attempt), (vec!["a0"], 3));
}

#[tokio::test]
async fn a_poison_message_holds_its_group_for_its_attempts_and_no_longer() {
    let world = World::in_order(1);
    world.send_letters(&["a0", "a1"]).await;
    for attempt in 1..=ATTEMPTS {
        let taken = world.take(10).await;
        assert_eq!((bodies(&taken), taken[0].attempt), (vec!["a0"], attempt));
        if attempt < ATTEMPTS {
            world.later(LEASE).await;
        }
    }
    let parked = world.park(world.long_poll(10)).await;
    world.later(LEASE).await;
    // Once more when its dead letter is safe.
    world.later(ms(20)).await;
    assert_eq!(bodies(&parked.await.unwrap().unwrap()), ["a1"], "its dead-lettering wakes the poll");
    assert_eq!(crate::broker::testing::bodies(&world.broker, &TopicName::dead_letter(&group())), ["a0"]);
}

#[tokio::test]
async fn what_a_consumer_had_when_the_server_died_is_not_overtaken() {
    let world = World::in_order(1);
    world.send_letters(&["a0", "a1"]).await;
    let first = world.take_one().await;
    let store = world.broker.store();
    assert_eq!(store.watermarks().written, store.end(), "what is delivered is on record before anybody has it");
    store.committed(store.end()).await.unwrap();
    let world = world.crash(1);
    assert!(world.take(10).await.is_empty(), "it may be in its consumer's hands");
    world.ack(&first).await.unwrap();
    assert_eq!(world.taken(10).await, ["a1"]);
}

#[tokio::test]
async fn what_a_consumer_had_when_the_server_died_comes_again_when_its_lease_ends() {
    let world = World::in_order(1);
    world.send_letters(&["a0", "a1"]).await;
    let first = world.take_one().await;
    world.pass(LEASE / 2);
    world.broker.renew(&topic(), &group(), &first.receipt, LEASE).unwrap();
    let world = world.restart();
    world.later(LEASE - ms(1)).await;
    assert!(world.take(10).await.is_empty());
    world.later(ms(2)).await;
    let second = world.take(10).await;
    assert_eq!((bodies(&second), second[0].attempt), (vec!["a0"], 2));
    assert!(matches!(world.ack(&first).await, Err(SettleError::Expired)));
}

#[tokio::test]
async fn a_consumer_that_works_on_for_long_settles_what_it_has_also_after_a_crash() {
    for with_snapshot in [false, true] {
        let world = World::in_order(1);
        world.send_letters(&["a0", "a1"]).await;
        let first = world.take_one().await;
        world.pass(LEASE / 2);
        world.broker.renew(&topic(), &group(), &first.receipt, LEASE).unwrap();
        if with_snapshot {
            world.broker.snapshot().unwrap();
        }
        let store = world.broker.store();
        store.committed(store.end()).await.unwrap();
        let world = world.crash(5);
        // Once more, with nothing but what the run between has saved.
        let world = world.restart();
        world.later(LEASE * 3 / 4).await;
        assert!(world.take(10).await.is_empty());
        world.ack(&first).await.expect("its lease was prolonged beyond what its receipt says");
        assert_eq!(world.taken(10).await, ["a1"]);
    }
}

#[tokio::test]
async fn what_was_delivered_on_a_full_disk_is_on_record_once_its_lease_is_prolonged() {
    let world = World::in_order(1);
    world.send_letters(&["a0", "a1"]).await;
    world.machine.disk.set_capacity(world.machine.disk.used());
    wait_until(|| matches!(world.broker.store().health(), crate::broker::Health::Full { .. })).await;
    let first = world.take_one().await;
    world.broker.renew(&topic(), &group(), &first.receipt, LEASE).expect("it lasts, on record or not");
    world.machine.disk.set_capacity(1 << 40);
    wait_until(|| matches!(world.broker.store().health(), crate::broker::Health::Ready)).await;
    world.broker.renew(&topic(), &group(), &first.receipt, LEASE).unwrap();
    let world = world.restart();
    assert!(world.take(10).await.is_empty(), "it may be in its consumer's hands");
    world.ack(&first).await.unwrap();
    assert_eq!(world.taken(10).await, ["a1"]);
}

#[tokio::test]
async fn a_receipt_of_the_same_attempt_does_not_settle_what_somebody_else_was_given() {
    let world = World::in_order(1);
    world.send_letters(&["a0", "a1"]).await;
    let first = world.take_one().await;
    world.broker.give_back(&topic(), &group(), &first.receipt);
    let world = world.restart();
    let second = world.take_one().await;
    assert_eq!((first.attempt, second.attempt), (1, 1));
    let world = world.restart();
    assert!(matches!(world.ack(&first).await, Err(SettleError::Expired)));
    assert!(world.take(10).await.is_empty(), "the line is held by the second");
    world.ack(&second).await.unwrap();
    assert_eq!(world.taken(10).await, ["a1"]);
}

#[tokio::test]
async fn what_an_earlier_run_delivered_holds_its_line_and_no_other() {
    let world = World::in_order(1);
    world.send_letters(&["a0", "b0", "a1"]).await;
    let first = world.take_one().await;
    assert_eq!(bodies(std::slice::from_ref(&first)), ["a0"]);
    let world = world.restart();
    assert_eq!(world.locked(), Some((1, 0, 0)));
    assert_eq!(world.taken(10).await, ["b0"]);
    assert_eq!(world.locked(), Some((2, 1, 0)));
}

#[tokio::test]
async fn what_reached_nobody_comes_at_once_also_after_a_restart() {
    let world = World::in_order(1);
    world.send_letters(&["a0", "a1"]).await;
    let first = world.take_one().await;
    world.broker.give_back(&topic(), &group(), &first.receipt);
    let world = world.restart();
    let second = world.take(10).await;
    assert_eq!((bodies(&second), second[0].attempt), (vec!["a0"], 1));
}

#[tokio::test]
async fn what_a_consumer_forwards_to_the_dead_letter_topic_lets_the_next_pass() {
    let world = World::in_order(1);
    world.send_letters(&["a0", "a1"]).await;
    let first = world.take_one().await;
    let parked = world.park(world.long_poll(10)).await;
    world.broker.forward_to_dead_letter(&topic(), &group(), &first.receipt).await.unwrap();
    assert_eq!(bodies(&parked.await.unwrap().unwrap()), ["a1"]);
}

#[tokio::test]
async fn what_waits_for_its_retry_holds_its_group_after_a_crash() {
    for with_snapshot in [false, true] {
        let world = World::in_order(1);
        world.send_letters(&["b0", "a0", "a1", "b1"]).await;
        let taken = world.take(10).await;
        world.ack(&taken[0]).await.unwrap();
        world.broker.change_invisible(&topic(), &group(), &taken[1].receipt, ms(10_000)).await.unwrap();
        if with_snapshot {
            world.broker.snapshot().unwrap();
        }
        let world = world.crash(7);
        assert_eq!(world.locked(), Some((1, 0, 1)), "known before anybody polls");
        assert_eq!(world.taken(10).await, ["b1"], "the line of a is locked");
        world.later(ms(10_002)).await;
        let again = world.take(10).await;
        assert_eq!((bodies(&again), again[0].attempt), (vec!["a0"], 2));
        world.ack(&again[0]).await.unwrap();
        assert_eq!(world.taken(10).await, ["a1"]);
    }
}

#[tokio::test]
async fn a_power_cut_may_forget_a_delivery_but_not_the_order() {
    let world = stepped();
    let step = async || world.broker.store().step_commit().unwrap();
    tokio::join!(world.send_letters(&["a0", "a1", "a2"]), step());
    let first = world.stepping(world.take_one()).await;
    world.stepping(world.ack(&first)).await.unwrap();
    let unlogged = world.broker.take(world.poll(1)).now_or_never();
    assert!(unlogged.is_none(), "nobody has it before the kernel has its record");
    let world = world.crash(3);
    let second = world.stepping(world.take(10)).await;
    assert_eq!((bodies(&second), second[0].attempt), (vec!["a1"], 1), "that delivery reached nobody");
    assert!(world.take(10).await.is_empty());
}

#[tokio::test]
async fn a_message_does_not_come_before_the_ack_of_the_one_before_it_is_safe() {
    let world = stepped();
    let step = async || world.broker.store().step_commit().unwrap();
    tokio::join!(world.send_letters(&["a0", "a1"]), step());
    let first = world.stepping(world.take_one()).await;
    assert!(world.ack(&first).now_or_never().is_none(), "nobody waits for it any more");
    assert!(world.take(10).await.is_empty(), "a power cut now would bring a0 after a1");
    step().await;
    assert_eq!(world.stepping(world.taken(10)).await, ["a1"]);
}

#[tokio::test]
async fn a_poll_hears_of_an_ack_that_became_safe_when_nobody_waited_for_it() {
    let world = stepped();
    let step = async || world.broker.store().step_commit().unwrap();
    tokio::join!(world.send_letters(&["a0", "a1"]), step());
    let first = world.stepping(world.take_one()).await;
    let parked = world.park(world.long_poll(10)).await;
    assert!(world.ack(&first).now_or_never().is_none());
    let due = world.broker.revive().await.expect("somebody looks again");
    step().await;
    world.pass(due.remaining(world.machine.clock.now()));
    world.broker.revive().await;
    assert_eq!(bodies(&world.stepping(parked).await.unwrap().unwrap()), ["a1"]);
}

#[tokio::test]
async fn what_an_earlier_run_delivered_and_is_held_on_locks_its_line_and_no_other() {
    let world = World::in_order(1);
    world.send_letters(&["a0", "a1", "b0"]).await;
    let first = world.take(1).await;
    let world = world.crash(4);
    world.broker.change_invisible(&topic(), &group(), &first[0].receipt, LEASE).await.unwrap();
    assert_eq!(world.taken(10).await, ["b0"]);
}

#[tokio::test]
async fn other_groups_pass_a_long_line_up_to_the_bound() {
    let world = World::in_order(1);
    let long: Vec<String> = (0..BLOCKED_MAX).map(|n| format!("a{n}")).collect();
    for chunk in long.chunks(250) {
        world.send_letters(&chunk.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    // One is in flight, so one of these finds room.
    world.send_letters(&["b0", "a-last", "c0"]).await;
    let taken = world.take(10).await;
    assert_eq!(bodies(&taken), ["a0", "b0"]);
    assert_eq!(world.locked(), Some((2, BLOCKED_MAX as u64, 0)));
    let parked = world.park(world.long_poll(10)).await;
    world.ack(&taken[0]).await.unwrap();
    assert_eq!(bodies(&parked.await.unwrap().unwrap()), ["a1", "c0"], "there is room to look further");
}

#[tokio::test]
async fn what_the_filter_does_not_want_holds_up_nothing() {
    let world = World::in_order(1);
    let drafts = [("a0", "no"), ("a1", "yes"), ("a2", "no"), ("a3", "yes")];
    let drafts = drafts.iter().map(|(body, tag)| of_group(body, Some("a"), Some(tag))).collect();
    world.broker.produce(&topic(), drafts).await.unwrap();
    let poll = || Take { filter: Filter::tags("yes").unwrap(), ..world.poll(10) };
    let first = world.broker.take(poll()).await.unwrap();
    assert_eq!(bodies(&first), ["a1"]);
    world.ack(&first[0]).await.unwrap();
    assert_eq!(bodies(&world.broker.take(poll()).await.unwrap()), ["a3"]);
}

#[tokio::test]
async fn a_message_whose_tag_only_has_the_same_hash_does_not_hold_its_group() {
    // "Aa" and "BB" have one hash in Java.
    let world = World::in_order(1);
    let drafts = [("a0", "BB"), ("a1", "Aa")].map(|(body, tag)| of_group(body, Some("a"), Some(tag)));
    world.broker.produce(&topic(), drafts.into()).await.unwrap();
    let poll = Take { filter: Filter::tags("Aa").unwrap(), ..world.poll(10) };
    assert_eq!(bodies(&world.broker.take(poll).await.unwrap()), ["a1"]);
}

#[tokio::test]
async fn a_group_that_becomes_fifo_waits_for_what_is_in_flight() {
    let world = World::new(1);
    world.send_letters(&["a0", "a1", "a2", "b0"]).await;
    let loose = world.take(3).await;
    assert_eq!(bodies(&loose), ["a0", "a1", "a2"]);
    world.set_fifo(true);
    assert!(world.take(10).await.is_empty());
    world.ack(&loose[1]).await.unwrap();
    world.ack(&loose[2]).await.unwrap();
    let parked = world.park(world.long_poll(10)).await;
    world.later(LEASE).await;
    let taken = parked.await.unwrap().unwrap();
    assert_eq!(bodies(&taken), ["a0", "b0"]);
    assert_eq!(taken[0].attempt, 2);
}

#[tokio::test]
async fn a_group_that_ceases_to_be_fifo_gets_what_was_blocked() {
    let world = World::in_order(1);
    world.send_letters(&["a0", "a1", "b0", "b1"]).await;
    let first = world.take(10).await;
    world.set_fifo(false);
    assert_eq!(world.taken(10).await, ["a1", "b1"]);
    world.set_fifo(true);
    for delivery in &first {
        world.ack(delivery).await.unwrap();
    }
    world.later(LEASE).await;
    assert_eq!(world.taken(10).await, ["a1", "b1"]);
}

#[tokio::test]
async fn what_nobody_saw_is_given_back_and_comes_first_as_the_same_attempt() {
    let world = World::in_order(1);
    world.send_letters(&["a0", "a1"]).await;
    let unseen = world.take_one().await;
    let parked = world.park(world.long_poll(10)).await;
    world.broker.give_back(&topic(), &group(), &unseen.receipt);
    let again = parked.await.unwrap().unwrap();
    assert_eq!((bodies(&again), again[0].attempt), (vec!["a0"], 1));
    world.broker.give_back(&topic(), &group(), &unseen.receipt);
    assert!(world.take(10).await.is_empty(), "an old receipt gives nothing back");
    world.ack(&again[0]).await.unwrap();
    assert_eq!(world.taken(10).await, ["a1"]);
}

#[tokio::test]
async fn a_repeated_attempt_id_gets_the_same_messages_with_receipts_that_hold() {
    let world = World::in_order(1);
    world.send_letters(&["a0", "b0", "c0", "a1"]).await;
    let poll = |id| Take { attempt_id: AttemptId::parse(id), ..world.poll(10) };
    let lost = world.broker.take(poll("one")).await.unwrap();
    world.ack(&lost[1]).await.unwrap();
    assert!(world.broker.take(poll("two")).await.unwrap().is_empty(), "another poll is another poll");
    world.pass(ms(20_000));
    let again = world.broker.take(poll("one")).await.unwrap();
    assert_eq!((bodies(&again), again[0].attempt), (vec!["a0", "c0"], 1), "what is done does not come");
    world.later(ms(20_000)).await;
    world.ack(&again[0]).await.unwrap();
    assert!(matches!(world.ack(&lost[2]).await, Err(SettleError::Expired)), "the first answer is void");
    world.broker.give_back(&topic(), &group(), &lost[2].receipt);
    assert_eq!(world.progress().1, 1, "and gives nothing back");
    assert_eq!(world.taken(10).await, ["a1"]);
}

#[tokio::test]
async fn a_repeated_attempt_id_gets_nothing_that_has_failed_since() {
    let world = World::in_order(1);
    world.send_letters(&["a0"]).await;
    let poll = || Take { attempt_id: AttemptId::parse("one"), ..world.poll(10) };
    assert_eq!(world.broker.take(poll()).await.unwrap()[0].attempt, 1);
    world.later(LEASE).await;
    assert_eq!(world.broker.take(poll()).await.unwrap()[0].attempt, 2, "as a new delivery");
    assert_eq!(world.broker.take(poll()).await.unwrap()[0].attempt, 2, "and that one can be repeated");
}

#[tokio::test]
async fn a_repeated_attempt_id_means_nothing_to_a_group_made_again() {
    let world = World::in_order(1);
    world.send_letters(&["a0"]).await;
    let poll = |id| Take { attempt_id: AttemptId::parse(id), ..world.poll(10) };
    world.broker.take(poll("one")).await.unwrap();
    world.broker.delete_group(&group()).unwrap();
    world.make(topic(), group(), 1);
    world.set_fifo(true);
    world.broker.take(poll("two")).await.unwrap();
    assert!(world.broker.take(poll("one")).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_skipped_message_is_done_and_wakes_who_waits_for_the_next() {
    let world = World::in_order(1);
    world.send_letters(&["a0", "a1", "a2"]).await;
    let first = world.take_one().await;
    let parked = world.park(world.long_poll(10)).await;
    let skip = async |offset| world.broker.skip(&group(), &topic(), QueueId(0), at(offset)).await;
    // One in the middle of the line, then the one that holds it.
    assert!(skip(1).await.unwrap());
    assert!(skip(0).await.unwrap());
    assert!(!skip(0).await.unwrap(), "it was done already");
    assert_eq!(bodies(&parked.await.unwrap().unwrap()), ["a2"]);
    world.ack(&first).await.unwrap();
    world.later(LEASE).await;
    assert!(skip(3).await.unwrap_err().to_string().contains("up to but not including 3"));
    let world = world.crash(5);
    assert_eq!(world.taken(10).await, ["a2"], "a skip is as safe as an ack");
}

#[tokio::test]
async fn a_parked_message_goes_to_the_dead_letter_topic_at_once() {
    let world = World::in_order(1);
    world.send_letters(&["a0", "a1"]).await;
    world.take_one().await;
    assert!(world.broker.park(&group(), &topic(), QueueId(0), at(0)).await.unwrap());
    assert!(!world.broker.park(&group(), &topic(), QueueId(0), at(0)).await.unwrap());
    assert_eq!(world.taken(10).await, ["a1"]);
    let world = world.crash(6);
    assert_eq!(crate::broker::testing::bodies(&world.broker, &TopicName::dead_letter(&group())), ["a0"]);
    let nowhere = world.broker.park(&group(), &topic(), QueueId(9), at(0)).await.unwrap_err();
    assert!(nowhere.to_string().contains("no queue 9"), "{nowhere}");
}

#[tokio::test]
async fn queues_are_ordered_each_for_itself_and_all_are_read() {
    let world = World::in_order(4);
    let letters: Vec<String> = ('a'..='p').map(|c| format!("{c}0")).collect();
    world.send_letters(&letters.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut all = Vec::new();
    loop {
        let some = world.taken(3).await;
        if some.is_empty() {
            break;
        }
        all.extend(some);
    }
    all.sort();
    assert_eq!(all, letters);
}

/// A store that makes safe what it is told to, and when.
fn stepped() -> World {
    let mut machine = Machine::new();
    machine.store.threads = Threads::Stepped;
    let world = World::on(machine, 1);
    world.set_fifo(true);
    world
}

#[tokio::test]
async fn what_was_settled_while_its_group_was_read_was_passed_over_before_that_was_safe() {
    let world = stepped();
    let step = async || world.broker.store().step_commit().unwrap();
    tokio::join!(world.send_letters(&["a0", "a1"]), step());
    let poll = world.poll(10);
    let found = world.broker.topic(topic().as_str()).unwrap();
    let subscription = world.broker.subscription(&found, &group()).unwrap();
    let books = subscription.books();
    let unseen = world.broker.unseen(&books[0], &poll.filter, 10).unwrap().unwrap();
    assert!(world.broker.skip(&group(), &topic(), QueueId(0), at(0)).now_or_never().is_none(), "it is not safe yet");
    world.broker.see(&books[0], unseen).await.unwrap();
    assert!(world.take(10).await.is_empty(), "a power cut now would bring a0 after a1");
    step().await;
    assert_eq!(world.stepping(world.taken(10)).await, ["a1"]);
}

#[tokio::test]
async fn a_poll_slept_on_when_what_was_done_beyond_all_that_was_seen_became_safe() {
    let world = stepped();
    let step = async || world.broker.store().step_commit().unwrap();
    tokio::join!(world.send_letters(&["a0", "b0"]), step());
    assert!(world.broker.skip(&group(), &topic(), QueueId(0), at(1)).now_or_never().is_none());
    // Nobody may look beyond until that is safe.
    let parked = world.park(world.long_poll(10)).await;
    let due = world.broker.revive().await.expect("somebody looks again");
    step().await;
    world.pass(due.remaining(world.machine.clock.now()));
    world.broker.revive().await;
    assert_eq!(bodies(&world.stepping(parked).await.unwrap().unwrap()), ["a0"]);
}

#[tokio::test]
async fn what_was_read_for_an_order_that_a_reset_ended_is_forgotten() {
    let world = World::in_order(1);
    world.send_letters(&["a0", "a1", "b0"]).await;
    world.broker.skip(&group(), &topic(), QueueId(0), at(1)).await.unwrap();
    let poll = world.poll(10);
    let found = world.broker.topic(topic().as_str()).unwrap();
    let subscription = world.broker.subscription(&found, &group()).unwrap();
    let books = subscription.books();
    let unseen = world.broker.unseen(&books[0], &poll.filter, 10).unwrap().unwrap();
    assert!(world.broker.unseen(&books[0], &poll.filter, 10).unwrap().is_none(), "one poll reads, the others wait");
    world.broker.reset_offset(&topic(), &group(), QueueId(0), at(0)).await.unwrap();
    assert_eq!(world.taken(1).await, ["a0"]);
    world.broker.see(&books[0], unseen).await.unwrap();
    world.broker.skip(&group(), &topic(), QueueId(0), at(0)).await.unwrap();
    assert_eq!(world.taken(10).await, ["a1", "b0"], "a1 was done before the reset, not since");
}

#[tokio::test]
async fn what_was_skipped_already_is_said_only_when_that_is_safe() {
    let world = stepped();
    let step = async || world.broker.store().step_commit().unwrap();
    tokio::join!(world.send_letters(&["a0"]), step());
    let skip = || world.broker.skip(&group(), &topic(), QueueId(0), at(0)).now_or_never();
    assert!(skip().is_none() && skip().is_none(), "the first skip is still on its way to the disk");
    step().await;
    assert!(!skip().unwrap().unwrap());
}
