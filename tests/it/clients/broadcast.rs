//! Of a broadcasting group every client gets every message.

use super::{
    driver::{Run, ids, of},
    stage::{GROUP, Stage, TOPIC},
    transcript::Event,
};

const COUNT: usize = 100;
/// Messages while the server dies, and how many a second.
const MORE: usize = 300;
const RATE: usize = 150;
/// The server dies when the producer has been told of so many.
const DIE_AT: usize = 100;

/// Two clients, which have said what they subscribe to before anything is sent.
#[track_caller]
fn two(stage: &Stage, command: &str) -> [Run; 2] {
    stage.server.admin(&["topic", "create", TOPIC]);
    stage.server.admin(&["group", "create", GROUP, "--broadcast"]);
    // What was sent before they came is not for them.
    stage.run(&format!("produce --topic {TOPIC} --count 5 --prefix before"));
    [stage.start(command), stage.start(command)].map(Run::ready)
}

#[track_caller]
fn both_get_all(stage: &Stage, kind: &str) {
    let consumers = two(stage, &format!("{kind} --topic {TOPIC} --group {GROUP} --count {COUNT}"));
    let sent = stage.run(&format!("produce --topic {TOPIC} --count {COUNT}"));
    for consumed in consumers.map(Run::done) {
        assert_eq!(ids(&consumed, "received"), ids(&sent, "sent"));
        assert_eq!(of(&consumed, "received").len(), COUNT, "a message came to a client twice");
    }
    stage.settles(TOPIC, GROUP);
    let described = stage.server.admin(&["group", "describe", GROUP]);
    let clients = described["queues"].as_array().expect("queues").iter().map(|queue| queue["client"].to_string());
    assert_eq!(clients.collect::<std::collections::BTreeSet<_>>().len(), 2, "{described}");
    let groups = stage.server.admin(&["group", "list"]);
    assert_eq!(groups.as_array().map(Vec::len), Some(1), "a client shows as a group: {groups}");
}

pub fn both_simple_consumers_of_a_broadcasting_group_get_every_message(stage: &mut Stage) {
    both_get_all(stage, "simple");
}

pub fn both_push_consumers_of_a_broadcasting_group_get_every_message(stage: &mut Stage) {
    both_get_all(stage, "push");
}

#[track_caller]
fn neither_loses_any(stage: &mut Stage, kind: &str) {
    let consumers = two(stage, &format!("{kind} --topic {TOPIC} --group {GROUP} --timeout-ms 120000"));
    let produce = format!("produce --topic {TOPIC} --count {MORE} --rate {RATE} --keep-going --timeout-ms 50000");
    let producer = stage.start(&produce);
    producer.until(&format!("{DIE_AT} are sent"), |events| of(events, "sent").len() >= DIE_AT);
    stage.server.kill();
    stage.server.start_again();
    let sent = producer.done();
    assert_eq!(of(&sent, "sent").len(), MORE, "the producer was told of all");
    for consumer in &consumers {
        let lost = |events: &[Event]| {
            let come = ids(events, "received");
            ids(&sent, "sent").into_iter().filter(|id| !come.contains(id)).collect::<Vec<_>>()
        };
        consumer.sees(|events| lost(events).is_empty());
        assert_eq!(lost(&consumer.events()), [] as [String; 0], "acknowledged to the producer and never received");
        let before = consumer.events().iter().any(|e| e.is("received") && e.body().starts_with("before"));
        assert!(!before, "a client got what was sent before it came");
    }
    stage.settles(TOPIC, GROUP);
}

pub fn a_killed_server_loses_nothing_for_either_client_of_a_broadcasting_group(stage: &mut Stage) {
    neither_loses_any(stage, "simple --keep-going");
}

pub fn a_killed_server_loses_nothing_for_either_push_client_of_a_broadcasting_group(stage: &mut Stage) {
    neither_loses_any(stage, "push");
}
