use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::{
    store::Store,
    types::{Deadline, ManualClock, Timestamp},
};

#[tokio::test]
async fn a_message_is_taken_once_while_its_lease_lasts() {
    let world = World::new(1);
    world.send(&["a", "b"]).await;
    let taken = world.take(10).await;
    assert_eq!(bodies(&taken), ["a", "b"]);
    assert_eq!((taken[1].attempt, taken[1].receipt.offset(), taken[1].receipt.queue()), (1, at(1), QueueId(0)));
    assert_eq!(world.take(10).await.len(), 0);
    assert_eq!(world.progress(), (0, 2, 0));
    assert_eq!(world.settled(), 0, "a delivery writes nothing");
}

#[tokio::test]
async fn a_batch_has_at_most_what_was_asked_for_and_32() {
    let world = World::new(2);
    for n in 0..80 {
        world.send(&[&n.to_string()]).await;
    }
    assert_eq!(world.take(5).await.len(), 5);
    assert_eq!(world.take(1000).await.len(), 32);
    assert_eq!(world.take(0).await.len(), 1);
    assert_eq!(world.take(32).await.len(), 32);
    assert_eq!(world.take(32).await.len(), 10);
}

#[tokio::test]
async fn takes_begin_at_another_queue_each_time() {
    let world = World::new(4);
    world.send(&["0", "1", "2", "3", "4", "5", "6", "7"]).await;
    let mut queues = Vec::new();
    for _ in 0..4 {
        queues.push(world.take_one().await.receipt.queue().0);
    }
    queues.sort_unstable();
    assert_eq!(queues, [0, 1, 2, 3]);
}

#[tokio::test]
async fn an_answer_is_bounded_in_bytes_but_one_message_always_fits() {
    let machine = Machine::new();
    let store = crate::store::Config { segment_bytes: 64 << 20, ..machine.store.clone() };
    let world = World::on(Machine { store, ..machine }, 1);
    for _ in 0..3 {
        world.send_bytes(3 << 20).await;
    }
    assert_eq!(offsets(&world.take(32).await), [0, 1]);
    assert_eq!(offsets(&world.take(32).await), [2]);
}

#[tokio::test]
async fn other_tags_are_passed_over_and_count_as_done_without_a_record() {
    let world = World::new(1);
    for (body, tag) in [("1", "B"), ("2", "A"), ("3", "B"), ("4", "A"), ("5", "B")] {
        world.send_tagged(body, tag).await;
    }
    let poll = Take { filter: Filter::tags("A").unwrap(), ..world.poll(10) };
    let taken = world.broker.take(poll).await.unwrap();
    assert_eq!(bodies(&taken), ["2", "4"]);
    assert_eq!((world.progress(), world.settled()), ((1, 2, 0), 0));
    for delivery in &taken {
        world.ack(delivery).await.unwrap();
    }
    assert_eq!(world.progress(), (5, 0, 0));
}

#[tokio::test]
async fn a_tag_with_the_same_hash_is_told_by_its_text() {
    let world = World::new(1);
    world.send_tagged("wrong", "BB").await; // Java hashes "Aa" and "BB" alike
    world.send_tagged("right", "Aa").await;
    let poll = Take { filter: Filter::tags("Aa").unwrap(), max: 1, ..world.poll(1) };
    assert_eq!(bodies(&world.broker.take(poll).await.unwrap()), ["right"]);
    assert_eq!(world.progress(), (1, 1, 0));
}

#[tokio::test]
async fn a_long_row_of_other_tags_is_passed_over_in_one_poll() {
    let world = World::new(1);
    let other = {
        let mut properties = PropertiesBuilder::default();
        properties.push(key::TAGS, "B");
        crate::broker::Draft { properties: properties.build(), ..normal("x") }
    };
    for _ in 0..20 {
        world.broker.produce(&topic(), vec![other.clone(); 500]).await.unwrap();
    }
    world.send_tagged("wanted", "A").await;
    let poll = Take { filter: Filter::tags("A").unwrap(), ..world.poll(10) };
    assert_eq!(bodies(&world.broker.take(poll).await.unwrap()), ["wanted"]);
    assert_eq!(world.progress(), (10_000, 1, 0));
}

/// Sends messages with a property `price`, from 0 on.
async fn send_priced(world: &World, count: usize) {
    let priced = |price: usize| {
        let mut properties = PropertiesBuilder::default();
        properties.push("price", &price.to_string());
        crate::broker::Draft { properties: properties.build(), ..normal(&price.to_string()) }
    };
    let drafts: Vec<_> = (0..count).map(priced).collect();
    for drafts in drafts.chunks(500) {
        world.broker.produce(&topic(), drafts.to_vec()).await.unwrap();
    }
}

#[tokio::test]
async fn an_sql_filter_delivers_what_it_wants_and_the_rest_is_done() {
    let world = World::new(1);
    send_priced(&world, 10).await;
    let filter = Filter::sql("price BETWEEN 3 AND 4 OR price > 8").unwrap();
    let poll = Take { filter, ..world.poll(10) };
    let taken = world.broker.take(poll).await.unwrap();
    assert_eq!(bodies(&taken), ["3", "4", "9"]);
    assert_eq!((world.progress(), world.settled()), ((3, 3, 0), 0));
    for delivery in &taken {
        world.ack(delivery).await.unwrap();
    }
    assert_eq!(world.progress(), (10, 0, 0));
}

#[tokio::test]
async fn a_filter_that_matches_rarely_gets_through_a_long_row_in_one_poll() {
    for max in [1, 32] {
        let world = World::new(1);
        send_priced(&world, 3001).await;
        let poll = Take { filter: Filter::sql("price = 3000").unwrap(), ..world.poll(max) };
        assert_eq!(bodies(&world.broker.take(poll).await.unwrap()), ["3000"]);
        assert_eq!(world.progress(), (3000, 1, 0));
    }
}

#[tokio::test]
async fn other_tasks_go_on_while_a_filter_passes_over_everything() {
    let world = World::new(1);
    send_priced(&world, 3200).await;
    let poll = Take { filter: Filter::sql("price < 0").unwrap(), ..world.poll(32) };
    let turns = std::cell::Cell::new(0);
    let other = async {
        loop {
            turns.set(turns.get() + 1);
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        taken = world.broker.take(poll) => assert_eq!(taken.unwrap().len(), 0),
        () = other => {}
    }
    assert!(turns.get() >= 3200 / 32, "only {} turns for others", turns.get());
    assert_eq!(world.progress(), (3200, 0, 0));
}

/// A clock that goes on by a millisecond whenever it is read.
struct Ticking(ManualClock);

impl Clock for Ticking {
    fn wall(&self) -> Timestamp {
        self.0.wall()
    }
    fn now(&self) -> Deadline {
        self.0.advance(ms(1));
        self.0.now()
    }
}

#[tokio::test]
async fn a_poll_is_over_in_time_though_its_filter_is_not_through_and_nothing_is_looked_at_twice() {
    let world = World::new(1);
    send_priced(&world, 20_000).await;
    let World { machine, broker } = world;
    broker.store().close();
    drop(broker);
    let clock = Arc::new(Ticking(ManualClock::at(machine.clock.wall())));
    let (store, _) = Store::open(machine.store.clone(), Arc::new(machine.disk.clone()), clock.clone()).unwrap();
    let broker = Broker::open(machine.config.clone(), store, clock.clone()).unwrap();
    let world = World { machine, broker };
    let poll = Take { filter: Filter::sql("price < 0").unwrap(), ..world.poll(32) };
    let mut before = 0;
    for _ in 0..2 {
        let until = clock.now().plus(ms(200));
        let taken = world.broker.take(Take { until, ..poll.clone() }).await.unwrap();
        let late = until.remaining(clock.now());
        assert!(taken.is_empty() && late.is_zero() && clock.now() < until.plus(ms(20)));
        let (done, in_flight, waiting) = world.progress();
        assert!(done > before && done < 20_000 && in_flight == 0 && waiting == 0, "{done}, {before}");
        before = done;
    }
}

#[tokio::test]
async fn groups_are_served_independently() {
    let world = World::new(1);
    let other = GroupName::parse("audit").unwrap();
    world.send(&["a"]).await;
    let first = world.take_one().await;
    world.ack(&first).await.unwrap();
    let poll = Take { group: other.clone(), ..world.poll(1) };
    let taken = world.broker.take(poll).await.unwrap();
    assert_eq!(bodies(&taken), ["a"]);
    let refused = world.broker.ack(&topic(), &group(), &[taken[0].receipt.clone()]).await.unwrap().remove(0);
    assert!(matches!(refused, Err(crate::broker::SettleError::Invalid)));
}

#[tokio::test]
async fn refusals_say_what_is_missing() {
    let world = World::new(1);
    let unknown = Take { topic: TopicName::parse("nowhere").unwrap(), ..world.poll(1) };
    assert!(matches!(world.broker.take(unknown).await, Err(TakeError::TopicNotFound(_))));
    let change = crate::broker::GroupChange { consume_enabled: Some(false), ..Default::default() };
    world.broker.update_group(&group(), change).unwrap();
    assert!(matches!(world.broker.take(world.poll(1)).await, Err(TakeError::GroupDisabled(_))));
    let change = crate::broker::TopicChange { readable: Some(false), ..Default::default() };
    world.broker.update_topic(&topic(), change).unwrap();
    assert!(matches!(world.broker.take(world.poll(1)).await, Err(TakeError::NotReadable(_))));
    let config = crate::broker::Config { auto_create_group: false, ..Machine::new().config };
    let strict = World::on(Machine { config, ..Machine::new() }, 1);
    let unknown = Take { group: GroupName::parse("nobody").unwrap(), ..strict.poll(1) };
    assert!(matches!(strict.broker.take(unknown).await, Err(TakeError::GroupNotFound(_))));
}

#[tokio::test]
async fn a_parked_poll_is_woken_by_an_arrival() {
    let world = World::new(4);
    let parked = world.park(world.long_poll(10)).await;
    world.send(&["a"]).await;
    assert_eq!(bodies(&parked.await.unwrap().unwrap()), ["a"]);
    assert_eq!(world.broker.parked_polls(), 0);
}

type Happening = Box<dyn FnOnce() + Send>;

/// A clock that lets something happen when it is read for the n-th time from now.
struct Meddling {
    clock: ManualClock,
    next: Mutex<Option<(u32, Happening)>>,
}

impl Clock for Meddling {
    fn wall(&self) -> Timestamp {
        self.clock.wall()
    }
    fn now(&self) -> Deadline {
        let mut next = self.next.lock();
        match next.take() {
            Some((1, happen)) => {
                drop(next);
                happen();
            }
            Some((n, happen)) => *next = Some((n - 1, happen)),
            None => {}
        }
        self.clock.now()
    }
}

#[tokio::test]
async fn a_message_that_arrives_between_the_look_and_the_wait_is_not_missed() {
    let machine = Machine::new();
    let clock = Arc::new(Meddling { clock: ManualClock::at(Timestamp::ZERO), next: Mutex::default() });
    let (store, _) = Store::open(machine.store.clone(), Arc::new(machine.disk.clone()), clock.clone()).unwrap();
    let broker = Broker::open(machine.config.clone(), store, clock.clone()).unwrap();
    let world = World { machine, broker };
    world.make(topic(), group(), 1);
    world.send(&["0"]).await;
    assert_eq!(world.take(1).await.len(), 1);
    for reads in 1..=6 {
        let sender = world.broker.clone();
        let send = move || {
            let sent = std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                runtime.block_on(sender.produce(&topic(), vec![normal("late")])).unwrap();
            });
            sent.join().unwrap();
        };
        *clock.next.lock() = Some((reads, Box::new(send)));
        let poll = Take { until: clock.clock.now().plus(ms(200)), ..world.poll(10) };
        let taken = world.broker.take(poll).await.unwrap();
        if clock.next.lock().take().is_some() {
            assert_eq!(taken.len(), 0, "the clock was not read so often, so nothing was sent");
            return assert!(reads > 3, "the message never came between look and wait");
        }
        assert_eq!(bodies(&taken), ["late"], "sent at reading {reads} of the clock");
    }
}

#[tokio::test]
async fn many_polls_share_what_arrives_and_none_starves() {
    let world = World::new(2);
    let mut parked = Vec::new();
    for _ in 0..8 {
        parked.push(world.park(world.long_poll(1)).await);
    }
    world.broker.produce(&topic(), (0..8).map(|n| normal(&n.to_string())).collect()).await.unwrap();
    let mut all = Vec::new();
    for poll in parked {
        all.extend(bodies(&poll.await.unwrap().unwrap()).iter().map(|body| (*body).to_string()));
    }
    all.sort();
    assert_eq!(all, ["0", "1", "2", "3", "4", "5", "6", "7"]);
}

#[tokio::test]
async fn a_poll_that_is_dropped_takes_nothing_and_passes_its_wake_up_on() {
    let world = World::new(1);
    let (first, second) = (world.park(world.long_poll(1)).await, world.park(world.long_poll(1)).await);
    // The store wakes the first from its own thread; before that can run here, its client goes away.
    world.send(&["a"]).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled() || world.progress().1 == 1);
    if world.broker.parked_polls() == 1 {
        assert_eq!(bodies(&second.await.unwrap().unwrap()), ["a"]);
    }
}

#[tokio::test]
async fn what_was_booked_and_not_read_comes_again_as_the_same_attempt() {
    let world = World::new(1);
    world.send(&["a", "b"]).await;
    let names = (world.broker.topic("orders").unwrap(), world.broker.group("billing").unwrap());
    let subscription = world.broker.subscription(&names.0, &group()).unwrap();
    let parked = {
        let batch = world.broker.walk(&subscription, &names.1, &world.poll(2)).unwrap();
        assert_eq!(world.progress(), (0, 2, 0));
        let parked = world.park(world.long_poll(2)).await;
        drop(batch);
        parked
    };
    let taken = parked.await.unwrap().unwrap();
    assert_eq!(taken.iter().map(|d| d.attempt).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(offsets(&taken), [0, 1]);
}

#[tokio::test]
async fn a_poll_ends_with_nothing_when_its_time_is_up() {
    let world = World::new(1);
    let poll = Take { until: world.machine.clock.now().plus(ms(20)), ..world.poll(1) };
    assert_eq!(world.broker.take(poll).await.unwrap().len(), 0);
    assert_eq!(world.broker.parked_polls(), 0);
}

#[tokio::test]
async fn polls_beyond_the_bound_are_refused_with_the_setting() {
    let config = crate::broker::Config { polls_per_group_max: 1, ..Machine::new().config };
    let world = World::on(Machine { config, ..Machine::new() }, 1);
    let parked = world.park(world.long_poll(1)).await;
    let refused = world.broker.take(world.long_poll(1)).await;
    assert!(matches!(refused, Err(TakeError::PollingFull { parked: 1, max: 1, setting: "popPollingSize" })));
    assert_eq!(world.take(1).await.len(), 0, "a poll that does not wait needs no seat");
    world.send(&["a"]).await;
    assert_eq!(parked.await.unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn the_drain_ends_parked_polls_and_parks_no_new_one() {
    let world = World::new(1);
    let parked = world.park(world.long_poll(1)).await;
    world.broker.end_polls();
    assert_eq!(parked.await.unwrap().unwrap().len(), 0);
    assert_eq!(world.broker.take(world.long_poll(1)).await.unwrap().len(), 0);
    world.send(&["a"]).await;
    assert_eq!(world.take(1).await.len(), 1, "what is there is still served");
}

#[tokio::test]
async fn a_poll_on_a_topic_that_is_deleted_ends() {
    let world = World::new(1);
    let parked = world.park(world.long_poll(1)).await;
    world.broker.delete_topic(&topic()).unwrap();
    assert!(matches!(parked.await.unwrap(), Err(TakeError::TopicNotFound(_))));
    assert_eq!(world.broker.progress(&group()), []);
}

#[tokio::test]
async fn too_much_in_flight_stops_new_deliveries_until_an_ack_makes_room() {
    let config = crate::broker::Config { in_flight_max: 2, ..Machine::new().config };
    let world = World::on(Machine { config, ..Machine::new() }, 1);
    world.send(&["a", "b", "c"]).await;
    let taken = world.take(10).await;
    assert_eq!(bodies(&taken), ["a", "b"]);
    assert_eq!(world.take(10).await.len(), 0);
    let parked = world.park(world.long_poll(10)).await;
    world.ack(&taken[0]).await.unwrap();
    assert_eq!(bodies(&parked.await.unwrap().unwrap()), ["c"]);
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_passed_over() {
    let world = World::new(1);
    world.send(&["aaaa", "bbbb", "cccc"]).await;
    let queue = world.broker.store().queue(&topic(), QueueId(0));
    let entry = queue.entries(at(1), 1).unwrap()[0];
    let middle = entry.physical.get() + u64::from(entry.size) / 2;
    world.machine.disk.flip_bit("/store/commitlog/00000000000000000000", middle, 3).unwrap();
    assert_eq!(bodies(&world.take(10).await), ["aaaa", "cccc"]);
    assert_eq!(world.progress(), (0, 2, 0));
    assert_eq!(world.take(10).await.len(), 0);
}

#[tokio::test]
async fn queues_that_a_topic_gets_later_are_read_from_their_first_message() {
    let world = World::new(1);
    world.send(&["a"]).await;
    assert_eq!(world.take(10).await.len(), 1);
    let change = crate::broker::TopicChange { queues: Some(3), ..Default::default() };
    world.broker.update_topic(&topic(), change).unwrap();
    world.send(&["b", "c", "d"]).await;
    let mut taken = world.take(10).await;
    taken.sort_by_key(|d| d.receipt.queue());
    assert_eq!(taken.len(), 3);
    assert_eq!(world.broker.progress(&group()).len(), 3);
}
