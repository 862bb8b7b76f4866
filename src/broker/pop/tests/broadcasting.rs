use super::*;
use crate::{
    broker::{GroupChange, OffsetError, OperateError, Position, Role, SettleError, TooManyBooks},
    types::{ClientId, Deadline},
};

fn client(name: &str) -> ClientId {
    ClientId::parse(name).unwrap()
}

fn broadcast(on: bool) -> GroupChange {
    GroupChange { broadcast: Some(on), ..Default::default() }
}

fn of_clients(max: usize) -> Machine {
    let mut machine = Machine::new();
    machine.config.broadcast_clients_max = max;
    machine
}

impl World {
    fn broadcasting(queues: u32) -> Self {
        Self::broadcasting_on(Machine::new(), queues)
    }

    fn broadcasting_on(machine: Machine, queues: u32) -> Self {
        let world = Self::on(machine, queues);
        world.broker.update_group(&group(), broadcast(true)).unwrap();
        world
    }

    fn member(&self, name: &str) -> GroupName {
        self.broker.consumes_as(&group(), &client(name))
    }

    fn join(&self, name: &str) {
        self.broker.join(&topic(), &group(), &client(name)).unwrap();
    }

    fn poll_as(&self, name: &str, max: usize) -> Take {
        Take { group: self.member(name), ..self.poll(max) }
    }

    async fn take_as(&self, name: &str, max: usize) -> Vec<Delivery> {
        self.broker.take(self.poll_as(name, max)).await.unwrap()
    }

    async fn ack_as(&self, name: &str, delivery: &Delivery) -> Result<(), SettleError> {
        let receipts = std::slice::from_ref(&delivery.receipt);
        let group = self.broker.settles_as(&topic(), &group(), &client(name), &delivery.receipt);
        self.broker.ack(&topic(), &group, receipts).await.unwrap().remove(0)
    }

    async fn consume_as(&self, name: &str) -> Vec<String> {
        let taken = self.take_as(name, 32).await;
        for delivery in &taken {
            self.ack_as(name, delivery).await.unwrap();
        }
        let mut bodies: Vec<_> = super::bodies(&taken).into_iter().map(String::from).collect();
        bodies.sort_unstable();
        bodies
    }

    /// Waits until all that was recorded so far survives a crash.
    async fn safe(&self) {
        let store = self.broker.store();
        store.committed(store.end()).await.unwrap();
    }

    fn clients(&self) -> Vec<String> {
        let mut clients: Vec<_> = self.broker.progress(&group()).into_iter().filter_map(|p| p.client).collect();
        clients.dedup();
        clients.into_iter().map(|(client, _)| client.to_string()).collect()
    }

    fn backlog(&self) -> u64 {
        self.broker.backlog(&topic(), &group(), Deadline::default()).unwrap().lag
    }
}

#[tokio::test]
async fn every_client_gets_every_message_that_comes_once_it_is_there() {
    let world = World::broadcasting(4);
    world.send(&["before"]).await;
    world.join("a");
    world.send(&["1"]).await;
    world.join("b");
    world.send(&["2", "3"]).await;
    assert_eq!(world.consume_as("a").await, ["1", "2", "3"]);
    assert_eq!(world.consume_as("b").await, ["2", "3"]);
    assert_eq!(world.consume_as("c").await.len(), 0, "its first poll is when it comes");
    world.join("a");
    world.send(&["4"]).await;
    for name in ["a", "b", "c"] {
        assert_eq!(world.consume_as(name).await, ["4"], "{name}");
    }
}

#[tokio::test]
async fn an_arrival_wakes_the_polls_of_all_clients() {
    let world = World::broadcasting(1);
    let until = world.machine.clock.now().plus(Duration::from_secs(3600));
    let a = world.park(Take { until, ..world.poll_as("a", 1) }).await;
    let b = world.park(Take { until, ..world.poll_as("b", 1) }).await;
    world.send(&["1"]).await;
    for poll in [a, b] {
        assert_eq!(bodies(&poll.await.unwrap().unwrap()), ["1"]);
    }
}

/// A topic of one queue, with the name of the world's.
fn make_topic(world: &World) {
    let (read_queues, write_queues, readable, writable) = (1, 1, true, true);
    let message_type = Some(MessageType::Normal);
    let topic = Topic { name: topic(), message_type, read_queues, write_queues, readable, writable };
    world.broker.create_topic(topic).unwrap();
}

#[tokio::test]
async fn who_is_there_when_a_topic_is_deleted_and_made_again_gets_its_first_message() {
    for crash in [false, true] {
        let world = World::broadcasting(1);
        world.join("gone");
        world.pass(world.machine.config.client_timeout);
        world.join("a");
        world.join("b");
        world.send(&["1"]).await;
        assert_eq!(world.consume_as("a").await, ["1"]);
        world.broker.delete_topic(&topic()).unwrap();
        make_topic(&world);
        world.send(&["2"]).await;
        let world = if crash { world.crash(13) } else { world };
        for name in ["a", "b"] {
            assert_eq!(world.consume_as(name).await, ["2"], "{name} after a crash: {crash}");
        }
        assert_eq!(world.consume_as("gone").await.len(), 0, "it was not there");
        assert_eq!(world.consume_as("new").await.len(), 0);
    }
}

#[tokio::test]
async fn who_waits_for_a_topic_gets_its_first_message_unless_it_leaves_before() {
    let world = World::broadcasting(1);
    world.broker.delete_topic(&topic()).unwrap();
    for name in ["leaves", "waits"] {
        world.join(name);
        world.broker.client_seen(&client(name), Role::Consumer { group: group() });
    }
    world.broker.client_gone(&client("leaves"));
    world.pass(world.machine.config.client_timeout);
    world.broker.expire_members().await;
    make_topic(&world);
    world.send(&["1"]).await;
    assert_eq!(world.consume_as("waits").await, ["1"]);
    assert_eq!(world.consume_as("leaves").await.len(), 0);
}

#[tokio::test]
async fn what_one_client_fails_comes_again_to_it_alone() {
    let world = World::broadcasting(1);
    world.join("a");
    world.join("b");
    world.send(&["1", "2"]).await;
    let of_a = world.take_as("a", 1).await.remove(0);
    assert_eq!(world.consume_as("b").await, ["1", "2"]);
    let other = world.ack_as("b", &of_a).await;
    assert!(matches!(other, Err(SettleError::Invalid)), "a receipt is that of its client: {other:?}");
    world.broker.change_invisible(&topic(), &world.member("a"), &of_a.receipt, Duration::ZERO).await.unwrap();
    let again = world.take_as("a", 10).await;
    assert_eq!((bodies(&again), again[0].attempt), (vec!["1", "2"], 2));
    world.pass(LEASE);
    world.broker.revive().await;
    assert_eq!(world.take_as("b", 10).await.len(), 0);
    assert_eq!(world.take_as("a", 10).await.iter().map(|d| d.attempt).collect::<Vec<_>>(), [3, 2]);
}

#[tokio::test]
async fn a_crash_loses_nothing_for_any_client() {
    for (seed, with_snapshot) in [(1, false), (2, true), (3, false)] {
        let world = World::broadcasting(2);
        world.join("a");
        world.join("b");
        world.join("idle");
        world.send(&["1", "2"]).await;
        assert_eq!(world.consume_as("a").await, ["1", "2"]);
        assert_eq!(world.take_as("b", 1).await.len(), 1);
        if with_snapshot {
            world.broker.snapshot().unwrap();
        }
        world.send(&["3"]).await;
        let world = world.crash(seed);
        assert_eq!(world.consume_as("a").await, ["3"]);
        assert_eq!(world.consume_as("b").await, ["1", "2", "3"]);
        assert_eq!(world.consume_as("idle").await, ["1", "2", "3"], "where it began is on record");
        assert_eq!(world.consume_as("late").await.len(), 0);
    }
}

#[tokio::test]
async fn a_receipt_of_before_a_crash_is_that_of_its_client() {
    let world = World::broadcasting(1);
    world.join("a");
    world.join("b");
    world.send(&["1"]).await;
    let taken = world.take_as("a", 1).await.remove(0);
    let world = world.crash(4);
    assert!(matches!(world.ack_as("b", &taken).await, Err(SettleError::Invalid)));
    world.ack_as("a", &taken).await.unwrap();
    assert_eq!((world.consume_as("a").await.len(), world.consume_as("b").await.len()), (0, 1));
}

#[tokio::test]
async fn a_client_that_was_gone_for_long_is_forgotten_for_good() {
    let world = World::broadcasting(1);
    world.join("a");
    world.join("b");
    let half = world.machine.config.broadcast_client_timeout / 2;
    world.pass(half);
    world.consume_as("b").await;
    world.send(&["1"]).await;
    world.pass(half);
    world.broker.expire_members().await;
    assert_eq!(world.clients(), ["b"]);
    assert_eq!(world.consume_as("b").await, ["1"]);
    world.safe().await;
    let world = world.crash(5);
    assert_eq!(world.clients(), ["b"]);
    assert_eq!(world.consume_as("a").await.len(), 0, "it begins at the end");
}

#[tokio::test]
async fn a_client_that_comes_back_while_it_is_being_forgotten_is_kept() {
    let world = World::broadcasting(1);
    world.join("a");
    world.send(&["1"]).await;
    world.pass(world.machine.config.broadcast_client_timeout);
    let member = world.broker.inner.pop.subscriptions.get(&topic(), &world.member("a")).unwrap();
    let found_gone = member.used.times();
    assert_eq!(world.consume_as("a").await, ["1"]);
    world.send(&["2"]).await;
    assert!(!world.broker.forget_member(&member, found_gone));
    assert_eq!(world.consume_as("a").await, ["2"]);
    assert!(world.broker.forget_member(&member, member.used.times()));
    assert!(!world.broker.forget_member(&member, member.used.times()), "it is another one now, or none");
}

#[tokio::test]
async fn a_restart_does_not_make_a_client_young_again() {
    let world = World::broadcasting(1);
    world.join("a");
    // What is replayed is news of the client.
    world.safe().await;
    let timeout = world.machine.config.broadcast_client_timeout;
    world.pass(timeout / 2);
    world.broker.expire_members().await;
    world.broker.snapshot().unwrap();
    let world = world.restart();
    world.pass(timeout / 4);
    world.broker.expire_members().await;
    assert_eq!(world.clients(), ["a"]);
    world.broker.snapshot().unwrap();
    let world = world.crash(6);
    world.pass(timeout / 4);
    world.broker.expire_members().await;
    assert_eq!(world.clients().len(), 0);
}

#[tokio::test]
async fn time_in_which_the_server_is_down_does_not_count() {
    let world = World::broadcasting(1);
    world.join("a");
    world.send(&["1"]).await;
    world.broker.snapshot().unwrap();
    world.broker.store().close();
    world.pass(world.machine.config.broadcast_client_timeout * 3);
    let world = world.restart();
    world.broker.expire_members().await;
    assert_eq!(world.consume_as("a").await, ["1"]);
}

#[tokio::test]
async fn a_client_that_gives_signs_of_life_is_not_forgotten() {
    let world = World::broadcasting(1);
    world.join("heard");
    world.join("waits");
    let timeout = world.machine.config.broadcast_client_timeout;
    let until = world.machine.clock.now().plus(timeout * 9);
    let poll = world.park(Take { until, ..world.poll_as("waits", 1) }).await;
    for _ in 0..3 {
        world.pass(timeout);
        world.broker.client_seen(&client("heard"), Role::Consumer { group: group() });
        world.broker.expire_members().await;
    }
    assert_eq!(world.clients(), ["heard", "waits"]);
    world.send(&["1"]).await;
    assert_eq!(bodies(&poll.await.unwrap().unwrap()), ["1"]);
    assert_eq!(world.consume_as("heard").await, ["1"]);
}

#[tokio::test]
async fn those_longest_gone_make_room_and_who_is_there_does_not() {
    let world = World::broadcasting_on(of_clients(2), 1);
    let gone = world.machine.config.client_timeout;
    world.join("a");
    world.pass(gone);
    world.join("b");
    world.pass(gone / 2);
    world.join("c");
    assert_eq!(world.clients(), ["b", "c"]);
    let refused = world.broker.join(&topic(), &group(), &client("d"));
    let error = refused.unwrap_err();
    let full = TooManyBooks::Clients { clients: 2, max: 2, setting: "broadcastClientsMax" };
    assert!(matches!(&error, TakeError::TooManyBooks(said) if *said == full), "{error}");
    assert!(error.to_string().contains("raise broadcastClientsMax"), "{error}");
    let world = world.restart();
    assert!(world.broker.join(&topic(), &group(), &client("d")).is_err(), "those restored count");
    world.pass(gone);
    world.join("d");
    assert_eq!(world.clients().len(), 2);
}

#[tokio::test]
async fn what_a_client_held_that_is_gone_keeps_nobody_from_taking() {
    let mut machine = Machine::new();
    machine.config.in_flight_total_max = 4;
    let world = World::broadcasting_on(machine, 1);
    world.join("holds");
    world.join("idle");
    world.send(&["1", "2", "3"]).await;
    assert_eq!(world.take_as("holds", 2).await.len(), 2);
    world.broker.expire_members().await;
    assert_eq!(world.clients(), ["holds", "idle"], "it is there");
    world.pass(world.machine.config.client_timeout);
    world.broker.revive().await;
    world.broker.expire_members().await;
    assert_eq!(world.clients(), ["idle"]);
    assert_eq!(world.consume_as("idle").await, ["1", "2", "3"]);
}

#[tokio::test]
async fn clients_of_all_groups_together_have_a_bound() {
    let mut machine = Machine::new();
    machine.config.broadcast_clients_total_max = 2;
    let world = World::broadcasting_on(machine, 1);
    let other = GroupName::parse("other").unwrap();
    world.make(TopicName::parse("t2").unwrap(), other.clone(), 1);
    world.broker.update_group(&other, broadcast(true)).unwrap();
    world.join("a");
    world.broker.join(&topic(), &other, &client("b")).unwrap();
    let error = world.broker.join(&topic(), &group(), &client("c")).unwrap_err();
    assert!(error.to_string().contains("raise broadcastClientsTotalMax"), "{error}");
    world.pass(world.machine.config.client_timeout);
    world.join("c");
    world.broker.delete_group(&other).unwrap();
    world.join("d");
}

#[tokio::test]
async fn what_a_client_had_its_attempts_at_is_done_for_it_and_no_dead_letter() {
    let world = World::broadcasting(1);
    world.join("a");
    world.join("b");
    world.send(&["1"]).await;
    for _ in 0..ATTEMPTS {
        assert_eq!(world.take_as("a", 1).await.len(), 1);
        world.pass(LEASE);
        world.broker.revive().await;
    }
    assert_eq!(world.take_as("a", 1).await.len(), 0);
    assert!(world.broker.topic("%DLQ%billing").is_none());
    let of_b = world.take_as("b", 1).await.remove(0);
    world.broker.forward_to_dead_letter(&topic(), &world.member("b"), &of_b.receipt).await.unwrap();
    assert!(world.broker.topic("%DLQ%billing").is_none());
    world.safe().await;
    let world = world.crash(7);
    assert_eq!((world.take_as("a", 1).await.len(), world.take_as("b", 1).await.len()), (0, 0));
    assert_eq!(world.backlog(), 0);
}

#[tokio::test]
async fn what_the_group_did_itself_rests_while_it_is_broadcasting() {
    let world = World::new(1);
    world.send(&["1", "2", "3"]).await;
    let taken = world.take(2).await;
    world.ack(&taken[0]).await.unwrap();
    world.broker.update_group(&group(), broadcast(true)).unwrap();
    world.ack_as("a", &taken[1]).await.unwrap();
    world.join("a");
    world.send(&["4"]).await;
    assert_eq!(world.consume_as("a").await, ["4"]);
    assert_eq!(world.backlog(), 0, "nobody has the rest before it");
    let world = world.crash(8);
    world.broker.update_group(&group(), broadcast(false)).unwrap();
    assert_eq!(bodies(&world.take(10).await), ["3", "4"]);
}

#[tokio::test]
async fn the_progress_of_clients_goes_when_the_group_stops_broadcasting() {
    let world = World::broadcasting(1);
    world.join("a");
    world.send(&["1"]).await;
    let taken = world.take_as("a", 1).await.remove(0);
    world.broker.update_group(&group(), broadcast(false)).unwrap();
    let member = GroupName::member(&group(), &client("a"));
    let late = world.broker.ack(&topic(), &member, std::slice::from_ref(&taken.receipt)).await.unwrap().remove(0);
    assert!(matches!(late, Err(SettleError::Invalid)));
    let world = world.crash(9);
    world.broker.update_group(&group(), broadcast(true)).unwrap();
    assert_eq!(world.clients().len(), 0);
    assert_eq!(world.consume_as("a").await.len(), 0, "it begins anew");
}

#[tokio::test]
async fn a_poll_ends_when_its_group_becomes_broadcasting_or_ceases_to_be() {
    let world = World::new(1);
    for (on, take) in [(true, world.long_poll(1)), (false, Take { group: world.member("a"), ..world.long_poll(1) })] {
        let take = if on { take } else { Take { group: GroupName::member(&group(), &client("a")), ..take } };
        let poll = world.park(take).await;
        world.broker.update_group(&group(), broadcast(on)).unwrap();
        assert_eq!(poll.await.unwrap().unwrap().len(), 0);
    }
}

#[tokio::test]
async fn a_deleted_group_takes_its_clients_with_it() {
    let world = World::broadcasting(1);
    world.join("a");
    world.send(&["1"]).await;
    world.broker.delete_group(&group()).unwrap();
    let world = world.crash(10);
    world.make(TopicName::parse("t2").unwrap(), group(), 1);
    world.broker.update_group(&group(), broadcast(true)).unwrap();
    assert_eq!(world.clients().len(), 0);
    assert_eq!(world.consume_as("a").await.len(), 0);
}

#[tokio::test]
async fn no_client_shows_as_a_group() {
    let world = World::broadcasting(1);
    world.join("a");
    world.join("b");
    world.send(&["1"]).await;
    world.consume_as("a").await;
    world.consume_as("b").await;
    let names = vec![(topic(), group())];
    for (of_topic, of_group) in
        [(None, None), (Some(topic()), None), (None, Some(group())), (Some(topic()), Some(group()))]
    {
        assert_eq!(world.broker.subscribed(of_topic.as_ref(), of_group.as_ref()), names);
    }
    let counted = world.broker.group_counts();
    let named: Vec<_> = counted.iter().filter(|counts| counts.of.is_some()).collect();
    let [counts] = named.as_slice() else { panic!("{} series for the group", named.len()) };
    assert_eq!((counts.of.as_ref(), counts.first.0), (Some(&names[0]), 2));
    let backlogs = world.broker.backlogs(Deadline::default()).all;
    assert_eq!(backlogs.iter().map(|b| b.of.clone()).collect::<Vec<_>>(), [Some(names[0].clone())]);
    assert_eq!(world.broker.groups().iter().map(|g| g.name.clone()).collect::<Vec<_>>(), [group()]);
    world.broker.snapshot().unwrap();
    let offsets = String::from_utf8(world.machine.read("config/consumerOffset.json")).unwrap();
    assert!(!offsets.contains("billing"), "Apache's broadcasting clients keep theirs: {offsets}");
}

#[tokio::test]
async fn the_backlog_is_that_of_the_client_furthest_behind_of_those_that_are_there() {
    let world = World::broadcasting(2);
    world.join("a");
    world.join("b");
    world.join("gone");
    world.send(&["1", "2", "3"]).await;
    world.pass(world.machine.config.client_timeout);
    // An operator who moves all of them makes none of them a client that is there.
    world.broker.reset_offset(&topic(), &group(), QueueId(0), at(0)).await.unwrap();
    world.consume_as("a").await;
    let of_b = world.take_as("b", 1).await.remove(0);
    world.ack_as("b", &of_b).await.unwrap();
    assert_eq!(world.backlog(), 2);
    let lags = world.broker.lag(&group(), &[]).unwrap();
    assert_eq!(lags.iter().map(|lag| lag.backlog.ready + lag.backlog.in_flight).sum::<u64>(), 2);
    assert_eq!(world.broker.backlogs(Deadline::default()).all[0].lag, 2);
    let there: Vec<_> = world.broker.progress(&group()).into_iter().filter_map(|p| p.client).map(|c| c.1).collect();
    assert_eq!(there, [true, true, true, true, false, false]);
    world.pass(world.machine.config.client_timeout);
    assert_eq!(world.backlog(), 0, "without a client nobody is behind");
}

#[tokio::test]
async fn a_reset_moves_all_clients() {
    let world = World::broadcasting(1);
    let none = world.broker.plan_reset(&topic(), &group(), None, Position::Begin);
    assert!(matches!(none, Err(OffsetError::NoClient { .. })), "{none:?}");
    world.send(&["1"]).await;
    world.join("a");
    world.join("b");
    world.send(&["2"]).await;
    let held = world.take_as("a", 1).await.remove(0);
    world.consume_as("b").await;
    let plan = world.broker.plan_reset(&topic(), &group(), None, Position::Begin).unwrap();
    assert_eq!((plan[0].from, plan[0].to, plan[0].in_flight), (at(1), at(0), 1));
    let moved = world.broker.reset_offsets(&topic(), &group(), &[(QueueId(0), at(0))]).await.unwrap();
    assert_eq!(moved, plan);
    assert!(matches!(world.ack_as("a", &held).await, Err(SettleError::Expired)));
    let world = world.crash(11);
    for name in ["a", "b"] {
        assert_eq!(world.consume_as(name).await, ["1", "2"], "{name}");
    }
    // A client moves itself alone.
    world.broker.reset_offset(&topic(), &world.member("a"), QueueId(0), at(1)).await.unwrap();
    assert_eq!((world.consume_as("a").await, world.consume_as("b").await.len()), (vec!["2".to_owned()], 0));
}

#[tokio::test]
async fn every_client_of_a_broadcasting_fifo_group_gets_each_message_group_in_order() {
    let world = World::broadcasting(1);
    world.broker.update_group(&group(), GroupChange { fifo: Some(true), ..Default::default() }).unwrap();
    world.join("a");
    world.join("b");
    world.send(&["1", "2"]).await;
    let first = world.take_as("a", 10).await;
    assert_eq!(bodies(&first), ["1"]);
    for body in ["1", "2"] {
        assert_eq!(world.consume_as("b").await, [body], "the other client holds nothing up");
    }
    assert_eq!(world.take_as("a", 10).await.len(), 0);
    // What had its attempts lets what follows go on.
    for _ in 1..ATTEMPTS {
        world.pass(LEASE);
        world.broker.revive().await;
        assert_eq!(bodies(&world.take_as("a", 10).await), ["1"]);
    }
    world.pass(LEASE);
    world.broker.revive().await;
    world.safe().await;
    world.broker.revive().await;
    assert_eq!(bodies(&world.take_as("a", 10).await), ["2"]);
}

#[tokio::test]
async fn an_operator_moves_no_single_message_of_a_broadcasting_group() {
    let world = World::broadcasting(1);
    world.join("a");
    world.send(&["1"]).await;
    let skipped = world.broker.skip(&group(), &topic(), QueueId(0), at(0)).await;
    assert!(matches!(skipped, Err(OperateError::Broadcast(_))), "{skipped:?}");
    let parked = world.broker.park(&group(), &topic(), QueueId(0), at(0)).await;
    assert!(matches!(parked, Err(OperateError::Broadcast(_))), "{parked:?}");
}

#[tokio::test]
async fn a_queue_that_the_topic_gets_later_is_read_from_its_first_message() {
    let world = World::broadcasting(1);
    world.join("a");
    let change = crate::broker::TopicChange { queues: Some(4), ..Default::default() };
    world.broker.update_topic(&topic(), change).unwrap();
    world.send(&["1", "2", "3", "4"]).await;
    let world = world.crash(12);
    assert_eq!(world.consume_as("a").await, ["1", "2", "3", "4"]);
}
