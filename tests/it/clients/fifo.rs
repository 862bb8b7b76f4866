//! FIFO groups: the messages of a message group come one after the other, whoever consumes and whatever happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    driver::{Run, of},
    stage::{GROUP, Stage, TOPIC},
    transcript::Event,
};

/// Message groups, which begin their bodies too.
const LINES: [&str; 3] = ["a", "b", "c"];
/// Messages of each.
const COUNT: usize = 25;
/// Longer than the lease of a push consumer's message whose delivery was under way when the server died.
const ALL_COME_WITHIN: Duration = Duration::from_secs(120);

fn make(stage: &Stage, max_attempts: u32) {
    stage.server.admin(&["topic", "create", TOPIC, "--type", "fifo", "--queues", "4"]);
    let attempts = max_attempts.to_string();
    stage.server.admin(&["group", "create", GROUP, "--fifo", "--max-attempts", &attempts, "--retry-after", "1s"]);
}

/// Producers, one for each message group.
fn produce(stage: &Stage, rate: usize) -> Vec<Run> {
    let start = |line: &&str| {
        stage.start(&format!(
            "produce --topic {TOPIC} --count {COUNT} --message-group {line} --prefix {line} --rate {rate} --keep-going \
             --timeout-ms 50000"
        ))
    };
    let started: Vec<Run> = LINES.iter().map(start).collect();
    // Before the server dies: a client that cannot reach it when it starts gives up.
    started.into_iter().map(Run::ready).collect()
}

/// Number of the message in its message group.
fn number(event: &Event) -> usize {
    event.body()[1..].parse().expect("a body is a letter and a number")
}

/// What consumers said of each message group, by time: number, what, attempt.
fn by_line(consumers: &[Run]) -> BTreeMap<String, Vec<(u64, usize, u32)>> {
    let mut lines: BTreeMap<String, Vec<(u64, usize, u32)>> = BTreeMap::new();
    for consumer in consumers {
        for e in of(&consumer.events(), "received") {
            lines.entry(e.body()[..1].to_owned()).or_default().push((e.ts, number(e), e.attempt()));
        }
    }
    for line in lines.values_mut() {
        // Of one millisecond: the order in which they may have come.
        line.sort();
    }
    lines
}

/// Each message group came whole and in order: a message may repeat, but none comes after one that follows it.
#[track_caller]
fn each_line_is_in_order(consumers: &[Run]) {
    let lines = by_line(consumers);
    assert_eq!(lines.keys().map(String::as_str).collect::<Vec<_>>(), LINES);
    for (line, came) in lines {
        let numbers: Vec<usize> = came.iter().map(|(_, number, _)| *number).collect();
        assert!(numbers.is_sorted(), "message group {line} came out of order: {came:?}");
        assert_eq!(numbers.into_iter().collect::<BTreeSet<_>>(), (0..COUNT).collect(), "message group {line}");
    }
}

#[track_caller]
fn all_come(consumers: &[Run]) {
    let come = || {
        by_line(consumers)
            .values()
            .map(|line| line.iter().map(|(_, n, _)| n).collect::<BTreeSet<_>>().len())
            .sum::<usize>()
    };
    let all = || (come() >= LINES.len() * COUNT).then_some(());
    let came = super::process::poll(ALL_COME_WITHIN, all);
    assert!(came.is_some(), "{} of {} messages came", come(), LINES.len() * COUNT);
}

#[track_caller]
fn consumed_in_order(stage: &mut Stage, command: &str, deaths: usize) {
    make(stage, 3);
    let consumers: Vec<Run> = (0..2).map(|_| stage.start(command).ready()).collect();
    let producers = produce(stage, 10);
    for death in 1..=deaths {
        let some = death * LINES.len() * COUNT / (deaths + 2);
        let sent = || producers.iter().map(|p| of(&p.events(), "sent").len()).sum::<usize>();
        assert!(super::process::poll(super::driver::RUN_MAX, || (sent() >= some).then_some(())).is_some());
        stage.server.kill();
        stage.server.start_again();
    }
    producers.into_iter().for_each(|producer| {
        producer.done();
    });
    all_come(&consumers);
    stage.settles(TOPIC, GROUP);
    each_line_is_in_order(&consumers);
}

pub fn simple_consumers_of_a_fifo_group_get_each_message_group_in_order(stage: &mut Stage) {
    consumed_in_order(stage, &format!("simple --topic {TOPIC} --group {GROUP} --batch 8 --timeout-ms 90000"), 0);
}

pub fn a_message_that_failed_comes_again_before_what_follows_it(stage: &mut Stage) {
    let command = "--batch 8 --invisible-ms 1000 --timeout-ms 90000 --on-message ack-after-attempt:2";
    make(stage, 16);
    let consumer = stage.start(&format!("simple --topic {TOPIC} --group {GROUP} {command}")).ready();
    let line = LINES[0];
    stage.run(&format!("produce --topic {TOPIC} --count 5 --message-group {line} --prefix {line}"));
    let came = |events: &[Event]| of(events, "received").iter().map(|e| (number(e), e.attempt())).collect::<Vec<_>>();
    consumer.until("all were acked", |events| of(events, "acked").len() >= 5);
    let expected: Vec<(usize, u32)> = (0..5).flat_map(|n| [(n, 1), (n, 2)]).collect();
    assert_eq!(came(&consumer.events()), expected);
    stage.settles(TOPIC, GROUP);
}

pub fn order_survives_a_killed_server(stage: &mut Stage) {
    let command = "--batch 8 --invisible-ms 15000 --keep-going --timeout-ms 240000";
    let command = format!("simple --topic {TOPIC} --group {GROUP} {command}");
    consumed_in_order(stage, &command, 2);
}

pub fn push_consumers_of_a_fifo_group_get_each_message_group_in_order(stage: &mut Stage) {
    consumed_in_order(stage, &format!("push --topic {TOPIC} --group {GROUP} --timeout-ms 90000"), 0);
}

pub fn order_of_push_consumers_survives_a_killed_server(stage: &mut Stage) {
    consumed_in_order(stage, &format!("push --topic {TOPIC} --group {GROUP} --timeout-ms 240000"), 1);
}

/// Whether the client tries again by itself, refuses the message or dead-letters it, differs; the order does not.
pub fn what_a_listener_failed_is_over_before_what_follows_it_comes(stage: &mut Stage) {
    let command = format!("push --topic {TOPIC} --group {GROUP} --on-message fail-until:2 --timeout-ms 90000");
    consumed_in_order(stage, &command, 0);
}
