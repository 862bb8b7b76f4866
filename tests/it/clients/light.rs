//! PRIORITY topics, and lite topics: what only newer clients know.

use super::{
    driver::{Run, of},
    stage::{GROUP, Stage, TOPIC},
    transcript::Event,
};

/// Lite topics, which begin their bodies too; the consumer subscribes to the first two.
const LITE: [&str; 3] = ["a", "b", "x"];
/// Messages of each.
const COUNT: usize = 8;

fn bodies(events: &[Event]) -> Vec<String> {
    of(events, "received").iter().map(|e| e.body().to_owned()).collect()
}

pub fn the_more_urgent_of_what_waits_comes_first(stage: &mut Stage) {
    stage.server.admin(&["topic", "create", TOPIC, "--type", "priority", "--queues", "4"]);
    // Node.js takes a priority of 0 for none.
    for (prefix, priority) in [("low", 1), ("high", 3), ("mid", 2)] {
        stage.run(&format!("produce --topic {TOPIC} --count 2 --prefix {prefix} --priority {priority}"));
    }
    let came = stage.run(&format!("simple --topic {TOPIC} --group {GROUP} --batch 32 --count 6"));
    assert_eq!(bodies(&came), ["high0", "high1", "mid0", "mid1", "low0", "low1"]);
}

fn make(stage: &Stage) {
    stage.server.admin(&["topic", "create", TOPIC, "--type", "lite", "--queues", "1"]);
    stage.make_group(16, "1s");
}

fn produce(stage: &Stage) {
    for lite in LITE {
        stage.run(&format!(
            "produce --topic {TOPIC} --lite {lite} --count {COUNT} --prefix {lite} --keep-going --timeout-ms 50000"
        ));
    }
}

fn subscribed(run: Run) -> Run {
    run.until("both are subscribed", |events| of(events, "subscribed").len() == 2);
    run
}

/// Each lite topic came in order, whole, and nothing that was not subscribed to.
#[track_caller]
fn in_order(consumer: &Run) {
    let goal = 2 * COUNT;
    let distinct = |events: &[Event]| bodies(events).into_iter().collect::<std::collections::BTreeSet<_>>().len();
    consumer.until("all came", |events| distinct(events) >= goal);
    let mut came = bodies(&consumer.events());
    assert!(came.iter().all(|body| !body.starts_with('x')), "nobody subscribed to x: {came:?}");
    for lite in &LITE[..2] {
        let mut numbers: Vec<usize> = came
            .iter()
            .filter(|body| body.starts_with(lite))
            .map(|body| body[1..].parse().expect("a number"))
            .collect();
        assert!(numbers.is_sorted(), "{lite} came out of order: {numbers:?}");
        numbers.dedup();
        assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>(), "{lite}");
    }
    came.clear();
}

#[track_caller]
fn consumed(stage: &mut Stage, command: &str) {
    make(stage);
    let consumer = subscribed(stage.start(command));
    produce(stage);
    in_order(&consumer);
}

pub fn lite_simple_consumers_get_their_lite_topics_in_order(stage: &mut Stage) {
    consumed(stage, &format!("simple --topic {TOPIC} --group {GROUP} --lite a --lite b --timeout-ms 90000"));
}

pub fn lite_push_consumers_get_their_lite_topics_in_order(stage: &mut Stage) {
    consumed(stage, &format!("push --topic {TOPIC} --group {GROUP} --lite a --lite b --timeout-ms 90000"));
}

pub fn lite_topics_survive_a_killed_server(stage: &mut Stage) {
    make(stage);
    produce(stage);
    let half = format!("simple --topic {TOPIC} --group {GROUP} --lite a --lite b --count {COUNT}");
    let first = bodies(&stage.run(&half));
    stage.server.kill();
    stage.server.start_again();
    let rest = bodies(&stage.run(&half));
    let mut all: Vec<_> = first.into_iter().chain(rest).collect();
    // What the first consumer had received and not acked when it reached its goal comes again.
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 2 * COUNT, "{all:?}");
}

/// A server that was started again does not know what its clients want before they say so again, every 30 s.
#[track_caller]
fn outlives_its_server(stage: &mut Stage, command: &str) {
    make(stage);
    let consumer = subscribed(stage.start(command));
    stage.server.kill();
    stage.server.start_again();
    produce(stage);
    in_order(&consumer);
}

pub fn a_lite_simple_consumer_that_outlives_its_server_gets_what_came_meanwhile(stage: &mut Stage) {
    let lite = "--lite a --lite b --keep-going --timeout-ms 150000";
    outlives_its_server(stage, &format!("simple --topic {TOPIC} --group {GROUP} {lite}"));
}

pub fn a_lite_push_consumer_that_outlives_its_server_gets_what_came_meanwhile(stage: &mut Stage) {
    outlives_its_server(stage, &format!("push --topic {TOPIC} --group {GROUP} --lite a --lite b --timeout-ms 150000"));
}

pub fn a_lite_topic_that_a_listener_failed_pauses_and_goes_on(stage: &mut Stage) {
    let command = format!("push --topic {TOPIC} --group {GROUP} --lite a --lite b --on-message fail-until:2");
    make(stage);
    let consumer = subscribed(stage.start(&format!("{command} --timeout-ms 90000")));
    stage.run(&format!("produce --topic {TOPIC} --lite a --count 2 --prefix a"));
    consumer.until("a0 came again", |events| bodies(events).iter().filter(|body| *body == "a0").count() >= 2);
}

pub fn a_lite_subscription_above_the_quota_is_refused(stage: &mut Stage) {
    stage.replace_server(&["liteSubscriptionQuota=1"]);
    make(stage);
    let mut run = stage.start(&format!("simple --topic {TOPIC} --group {GROUP} --lite a --lite b"));
    assert_eq!(run.exit_code(), 1);
    let events = run.events();
    assert_eq!(of(&events, "subscribed").len(), 1);
    let error = of(&events, "error");
    assert_eq!(error.len(), 1, "{events:?}");
}
