//! What is sent arrives, whole, once, and only where it is wanted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv6Addr, TcpListener},
};

use super::{
    driver::{ids, of},
    stage::{GROUP, Stage, TOPIC},
    transcript::Event,
};

/// Messages of one claim: more than one poll returns, and more than a topic has queues.
const COUNT: usize = 40;
/// How long a consumer looks for messages that must not come, beyond those that must: longer than its search for queues
/// takes when the first one came to nothing.
const LOOK_MS: u32 = 8000;

/// Arguments of a message with everything that a user can give it.
const FULL: &str = "--tag paid --key order-7 --key user-9 --prop colour=red --prop shape=round";

#[track_caller]
fn everything_arrived_once_and_whole(sent: &[Event], consumed: &[Event]) {
    let received = of(consumed, "received");
    assert_eq!(ids(sent, "sent"), ids(consumed, "received"), "sent and received");
    assert_eq!(received.len(), sent.iter().filter(|e| e.is("sent")).count(), "a message came twice");
    let bodies: BTreeMap<&str, &str> = of(sent, "sent").iter().map(|e| (e.id(), e.body())).collect();
    for message in received {
        assert_eq!(message.body(), bodies[message.id()]);
        assert_eq!(message.tag.as_deref(), Some("paid"));
        assert_eq!(message.keys.iter().map(String::as_str).collect::<BTreeSet<_>>(), ["order-7", "user-9"].into());
        assert_eq!(message.properties.get("colour").map(String::as_str), Some("red"));
        assert_eq!(message.properties.get("shape").map(String::as_str), Some("round"));
        assert_eq!(message.attempt(), 1);
        assert!(!message.corrupted, "the digest of {} does not fit", message.body());
    }
}

pub fn simple_consumer_receives_what_was_produced(stage: &mut Stage) {
    let sent = stage.run(&format!("produce --topic {TOPIC} --count {COUNT} --size 300 {FULL}"));
    let consumed = stage.run(&format!("simple --topic {TOPIC} --group {GROUP} --count {COUNT}"));
    everything_arrived_once_and_whole(&sent, &consumed);
    assert_eq!(ids(&sent, "sent"), ids(&consumed, "acked"));
    assert!(of(&consumed, "received").iter().all(|e| e.len == Some(300)), "a body changed its length");
    stage.settles(TOPIC, GROUP);
}

pub fn push_consumer_receives_what_was_produced(stage: &mut Stage) {
    let consumer = stage.start(&format!("push --topic {TOPIC} --group {GROUP} --count {COUNT}")).ready();
    let sent = stage.run(&format!("produce --topic {TOPIC} --count {COUNT} {FULL}"));
    everything_arrived_once_and_whole(&sent, &consumer.done());
    stage.settles(TOPIC, GROUP);
}

/// The route names the address that the client dialled, which is the only one that it is known to reach.
pub fn a_client_goes_on_with_the_address_that_it_dialled(stage: &mut Stage) {
    let mut hosts = vec!["localhost"];
    let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if has_ipv6 && stage.client().dials_ipv6() {
        hosts.push("[::1]");
    }
    for host in hosts {
        stage.dial(host);
        let sent = stage.run(&format!("produce --topic {TOPIC} --count {COUNT}"));
        let consumed = stage.run(&format!("simple --topic {TOPIC} --group {GROUP} --count {COUNT}"));
        assert_eq!(ids(&consumed, "acked"), ids(&sent, "sent"), "at {host}");
    }
}

/// The wanted messages come last, so that a consumer that has them has passed all others.
fn produce_of_several_tags(stage: &Stage) -> BTreeSet<String> {
    let produce = |more: &str| ids(&stage.run(&format!("produce --topic {TOPIC} --count 10 {more}")), "sent");
    produce("--tag refunded --prefix refunded");
    produce("--prefix untagged");
    let mut wanted = produce("--tag paid --prefix paid");
    wanted.extend(produce("--tag open --prefix open"));
    wanted
}

pub fn simple_consumer_receives_only_the_tags_it_asked_for(stage: &mut Stage) {
    let wanted = produce_of_several_tags(stage);
    let command = format!("simple --topic {TOPIC} --group {GROUP} --timeout-ms {LOOK_MS} --filter");
    let consumed = stage.start_with(&command, &["paid || open"]).done();
    assert_eq!(ids(&consumed, "received"), wanted);
}

pub fn push_consumer_receives_only_the_tags_it_asked_for(stage: &mut Stage) {
    let wanted = produce_of_several_tags(stage);
    let command = format!("push --topic {TOPIC} --group {GROUP} --timeout-ms {LOOK_MS} --filter");
    let consumer = stage.start_with(&command, &["paid || open"]);
    assert_eq!(ids(&consumer.done(), "received"), wanted);
}

/// The wanted messages come last, so that a consumer that has them has passed all others.
fn produce_of_several_prices(stage: &Stage) -> BTreeSet<String> {
    let produce = |more: &str| ids(&stage.run(&format!("produce --topic {TOPIC} --count 10 {more}")), "sent");
    produce("--tag paid --prop price=5 --prop region=eu --prefix cheap");
    produce("--tag paid --prop region=eu --prefix unpriced");
    produce("--tag open --prop price=50 --prop region=eu --prefix open");
    let mut wanted = produce("--tag paid --prop price=50 --prop region=eu --prefix dear");
    wanted.extend(produce("--tag paid --prop price=15 --prop region=us --prefix us"));
    wanted
}

const SQL: &str = "TAGS = 'paid' AND price BETWEEN 10 AND 100 AND region IN ('eu', 'us')";

pub fn simple_consumer_receives_only_what_its_sql_filter_wants(stage: &mut Stage) {
    let wanted = produce_of_several_prices(stage);
    let command = format!("simple --topic {TOPIC} --group {GROUP} --timeout-ms {LOOK_MS} --sql --filter");
    let consumed = stage.start_with(&command, &[SQL]).done();
    assert_eq!(ids(&consumed, "received"), wanted);
    stage.settles(TOPIC, GROUP);
}

pub fn push_consumer_receives_only_what_its_sql_filter_wants(stage: &mut Stage) {
    let wanted = produce_of_several_prices(stage);
    let command = format!("push --topic {TOPIC} --group {GROUP} --timeout-ms {LOOK_MS} --sql --filter");
    let consumer = stage.start_with(&command, &[SQL]);
    assert_eq!(ids(&consumer.done(), "received"), wanted);
    stage.settles(TOPIC, GROUP);
}

/// A filter that does not read is told when the consumer starts, or polls, and not found in what never comes.
pub fn an_sql_filter_that_does_not_read_is_refused(stage: &mut Stage) {
    stage.run(&format!("produce --topic {TOPIC}"));
    let command = format!("simple --topic {TOPIC} --group {GROUP} --timeout-ms {LOOK_MS} --sql --filter");
    let mut consumer = stage.start_with(&command, &["price >"]);
    assert_ne!(consumer.exit_code(), 0);
    let events = consumer.events();
    assert!(of(&events, "received").is_empty());
}
