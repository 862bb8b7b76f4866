//! PRIORITY topics: the higher class first, and none waits for ever.

use std::collections::HashMap;

use super::{super::subscription::in_turn, *};
use crate::broker::{Draft, TopicChange};

fn urgent(body: &str, priority: u32) -> Draft {
    let mut properties = PropertiesBuilder::default();
    properties.push(key::PRIORITY, &priority.to_string());
    Draft { message_type: MessageType::Priority, properties: properties.build(), ..normal(body) }
}

impl World {
    fn by_priority(queues: u32) -> Self {
        let world = Self::new(queues);
        let change = TopicChange { message_type: Some(MessageType::Priority), ..TopicChange::default() };
        world.broker.update_topic(&topic(), change).unwrap();
        world
    }

    async fn send_urgent(&self, body: &str, priority: u32) {
        self.broker.produce(&topic(), vec![urgent(body, priority)]).await.unwrap();
    }
}

#[tokio::test]
async fn the_more_urgent_comes_first_and_the_older_of_one_class() {
    let world = World::by_priority(4);
    for (body, priority) in [("low", 0), ("mid", 2), ("mid, later", 2), ("high", 3), ("beyond", 9), ("one", 1)] {
        world.send_urgent(body, priority).await;
    }
    assert_eq!(bodies(&world.take(32).await), ["high", "beyond", "mid", "mid, later", "one", "low"]);
    world.broker.store().close();
}

#[tokio::test]
async fn what_comes_again_is_as_urgent_as_it_was() {
    let world = World::by_priority(4);
    world.send_urgent("high", 3).await;
    let failed = world.take_one().await;
    let receipt = &failed.receipt;
    world.broker.change_invisible(&topic(), &group(), receipt, ms(0)).await.unwrap();
    world.send_urgent("low", 0).await;
    let taken = world.take(32).await;
    assert_eq!(bodies(&taken), ["high", "low"]);
    assert_eq!((taken[0].attempt, taken[0].message.priority()), (2, Some(3)));
    world.broker.store().close();
}

#[tokio::test]
async fn the_least_urgent_does_not_starve_under_a_stream_of_urgent_ones() {
    let world = World::by_priority(4);
    world.send_urgent("old and low", 0).await;
    let mut polls = 0;
    loop {
        world.send_urgent("high", 3).await;
        world.send_urgent("high", 3).await;
        let taken = world.take_one().await;
        polls += 1;
        if bodies(&[taken]) == ["old and low"] {
            break;
        }
        assert!(polls <= 8 * 4, "it was passed over by {polls} polls");
    }
    assert!(polls > 4, "the more urgent ones came first as a rule");
    world.broker.store().close();
}

#[tokio::test]
async fn a_fifo_group_gets_the_more_urgent_first_too() {
    let world = World::by_priority(4);
    let change = crate::broker::GroupChange { fifo: Some(true), ..Default::default() };
    world.broker.update_group(&group(), change).unwrap();
    for (body, priority) in [("low", 0), ("mid", 2), ("high", 3)] {
        world.send_urgent(body, priority).await;
    }
    assert_eq!(bodies(&world.take(1).await), ["high"]);
    assert_eq!(bodies(&world.take(32).await), ["mid", "low"]);
    world.broker.store().close();
}

#[tokio::test]
async fn priorities_outlive_a_crash() {
    let world = World::by_priority(4);
    for (body, priority) in [("low", 0), ("high", 3), ("mid", 2)] {
        world.send_urgent(body, priority).await;
    }
    let world = world.crash(7);
    assert_eq!(bodies(&world.take(2).await), ["high", "mid"]);
    world.broker.store().close();
}

#[test]
fn a_walk_looks_at_every_queue_once_and_every_class_is_the_first_in_its_turn() {
    for queues in 1..9 {
        for by_priority in [false, true] {
            let mut first: HashMap<usize, usize> = HashMap::new();
            for turn in 0..8 * queues {
                let mut order: Vec<_> = in_turn(turn, queues, by_priority).collect();
                *first.entry(order[0]).or_default() += 1;
                if by_priority {
                    assert!(order[1..].is_sorted_by(|a, b| a > b), "{order:?}");
                }
                order.sort_unstable();
                assert_eq!(order, (0..queues).collect::<Vec<_>>());
            }
            assert_eq!(first.len(), queues, "{first:?}");
            if by_priority {
                assert!(first[&(queues - 1)] >= 7 * queues, "{first:?}");
            }
        }
    }
}
