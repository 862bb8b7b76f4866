//! Messages for later: never early, once, and not at all when they are recalled.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    driver::{ids, of},
    stage::{GROUP, Stage, TOPIC},
    transcript::Event,
};

const COUNT: usize = 20;
/// Long enough for a consumer to look for the messages before they come.
const DELAY_MS: u32 = 6000;
/// How late a message may be on a machine that has much else to do, ms.
const LATE_MAX: u64 = 15_000;

/// When each message that waits is due, epoch ms.
#[track_caller]
fn due(stage: &Stage) -> BTreeMap<String, u64> {
    let listed = stage.server.admin(&["timer", "list", "--topic", TOPIC]);
    let timers = listed["timers"].as_array().expect("a list").iter();
    let time = |t: &serde_json::Value| {
        (t["messageId"].as_str().expect("an id").to_owned(), t["due"].as_u64().expect("a time"))
    };
    timers.map(time).collect()
}

#[track_caller]
fn everything_came_once_at_its_time(due: &BTreeMap<String, u64>, consumed: &[Event]) {
    let received = of(consumed, "received");
    assert_eq!(received.iter().map(|e| e.id().to_owned()).collect::<BTreeSet<_>>(), due.keys().cloned().collect());
    assert_eq!(received.len(), due.len(), "a message came twice");
    for message in received {
        let due = due[message.id()];
        assert!(message.ts >= due, "{} came {} ms early", message.body(), due - message.ts);
        assert!(message.ts < due + LATE_MAX, "{} came {} ms late", message.body(), message.ts - due);
    }
}

#[track_caller]
fn make_topic(stage: &Stage) {
    stage.server.admin(&["topic", "create", TOPIC, "--type", "delay", "--queues", "4"]);
}

pub fn a_delayed_message_comes_at_its_time_and_not_before(stage: &mut Stage) {
    make_topic(stage);
    let consumer = stage.start(&format!("simple --topic {TOPIC} --group {GROUP} --count {COUNT}")).ready();
    let sent = stage.run(&format!("produce --topic {TOPIC} --count {COUNT} --delay-ms {DELAY_MS}"));
    let due = due(stage);
    assert_eq!(due.keys().cloned().collect::<BTreeSet<_>>(), ids(&sent, "sent"), "all of them wait");
    everything_came_once_at_its_time(&due, &consumer.done());
    stage.settles(TOPIC, GROUP);
}

pub fn a_recalled_message_never_comes(stage: &mut Stage) {
    make_topic(stage);
    let gone = stage.run(&format!("produce --topic {TOPIC} --count 5 --delay-ms {DELAY_MS} --recall --prefix gone"));
    assert_eq!(ids(&gone, "recalled"), ids(&gone, "sent"));
    let kept = stage.run(&format!("produce --topic {TOPIC} --count 5 --delay-ms {DELAY_MS}"));
    assert_eq!(due(stage).into_keys().collect::<BTreeSet<_>>(), ids(&kept, "sent"));
    // What was kept was sent later with the same delay, so it comes last.
    let consumed = stage.run(&format!("simple --topic {TOPIC} --group {GROUP} --count 5"));
    assert_eq!(ids(&consumed, "received"), ids(&kept, "sent"));
    stage.settles(TOPIC, GROUP);
}

pub fn a_killed_server_delivers_what_waited_once_and_on_time(stage: &mut Stage) {
    make_topic(stage);
    let sent = stage.run(&format!("produce --topic {TOPIC} --count {COUNT} --delay-ms {DELAY_MS}"));
    let due = due(stage);
    assert_eq!(due.len(), COUNT, "all of them wait");
    stage.server.kill();
    stage.server.start_again();
    let consumed = stage.run(&format!("simple --topic {TOPIC} --group {GROUP} --count {COUNT}"));
    assert_eq!(ids(&consumed, "received"), ids(&sent, "sent"));
    everything_came_once_at_its_time(&due, &consumed);
    stage.settles(TOPIC, GROUP);
}
