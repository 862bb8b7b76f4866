//! Within a group each message goes to one consumer; every group gets all.

use std::collections::BTreeSet;

use super::{
    driver::{Run, ids, of},
    process,
    stage::{GROUP, Stage, TOPIC},
};

const COUNT: usize = 200;
/// Messages a second: slow enough for both consumers to be at work meanwhile.
const RATE: usize = 100;

/// Produces while both consume, and waits until they have acted on everything between them.
#[track_caller]
fn share(stage: &Stage, consumers: [Run; 2]) {
    let sent = stage.run(&format!("produce --topic {TOPIC} --count {COUNT} --rate {RATE}"));
    let received = |run: &Run| of(&run.events(), "received").iter().map(|e| e.id().to_owned()).collect::<Vec<_>>();
    let all_came = || (consumers.iter().map(|c| received(c).len()).sum::<usize>() >= COUNT).then_some(());
    process::poll(super::driver::RUN_MAX, all_came);
    stage.settles(TOPIC, GROUP);
    let [one, other] = consumers.each_ref().map(received);
    assert!(!one.is_empty() && !other.is_empty(), "all went to one of two: {} and {}", one.len(), other.len());
    let all: Vec<_> = one.into_iter().chain(other).collect();
    assert_eq!(all.iter().cloned().collect::<BTreeSet<_>>(), ids(&sent, "sent"));
    assert_eq!(all.len(), COUNT, "a message went to both");
}

pub fn two_consumers_of_a_group_share_its_messages(stage: &mut Stage) {
    let command = format!("simple --topic {TOPIC} --group {GROUP} --batch 4 --timeout-ms 60000");
    let consumers = [stage.start(&command), stage.start(&command)].map(Run::ready);
    share(stage, consumers);
}

pub fn two_push_consumers_of_a_group_share_its_messages(stage: &mut Stage) {
    let command = format!("push --topic {TOPIC} --group {GROUP} --timeout-ms 60000");
    let consumers = [stage.start(&command), stage.start(&command)].map(Run::ready);
    share(stage, consumers);
}

pub fn two_groups_both_receive_everything(stage: &mut Stage) {
    let consume = |group| stage.start(&format!("simple --topic {TOPIC} --group {group} --count {COUNT}"));
    let consumers = [consume(GROUP), consume("shipping")].map(Run::ready);
    let sent = stage.run(&format!("produce --topic {TOPIC} --count {COUNT}"));
    for consumed in consumers.map(Run::done) {
        assert_eq!(ids(&consumed, "received"), ids(&sent, "sent"));
        assert_eq!(of(&consumed, "received").len(), COUNT, "a message came twice");
    }
    stage.settles(TOPIC, GROUP);
    stage.settles(TOPIC, "shipping");
}
