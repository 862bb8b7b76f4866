//! Messages that their producers decide about later.

use super::{
    driver::of,
    stage::{GROUP, Stage, TOPIC},
    transcript::Event,
};

/// A producer is asked soon: the defaults are the same rule with longer times.
const QUICK: [&str; 3] =
    ["minInvisibleTimeMillsForRecv=1000", "transactionTimeOut=1000", "transactionCheckInterval=1000"];

#[track_caller]
fn make_topic(stage: &Stage) {
    stage.server.admin(&["topic", "create", TOPIC, "--type", "transaction"]);
}

#[track_caller]
fn bodies(events: &[Event], kind: &str) -> Vec<String> {
    let mut bodies: Vec<_> = of(events, kind).iter().map(|e| e.body().to_owned()).collect();
    bodies.sort();
    bodies
}

#[track_caller]
fn exactly_these_come(stage: &Stage, expected: &[&str]) {
    let count = expected.len();
    let received = stage.run(&format!("simple --topic {TOPIC} --group {GROUP} --count {count}"));
    assert_eq!(bodies(&received, "received"), expected);
    stage.settles(TOPIC, GROUP);
}

pub fn what_is_committed_comes_and_what_is_rolled_back_does_not(stage: &mut Stage) {
    make_topic(stage);
    let rolled_back = stage.run(&format!("produce --topic {TOPIC} --count 3 --prefix r --transaction rollback"));
    let committed = stage.run(&format!("produce --topic {TOPIC} --count 3 --prefix c --transaction commit"));
    assert_eq!((of(&rolled_back, "ended").len(), of(&committed, "ended").len()), (3, 3));
    exactly_these_come(stage, &["c0", "c1", "c2"]);
}

/// The first producer is killed between its half messages and its decision.
pub fn another_producer_decides_for_one_that_is_dead(stage: &mut Stage) {
    stage.replace_server(&QUICK);
    make_topic(stage);
    let dead = stage.start(&format!("produce --topic {TOPIC} --count 2 --transaction leave --checks 99"));
    dead.until("both halves are sent", |events| of(events, "sent").len() == 2);
    drop(dead);
    let other = stage.start(&format!("produce --topic {TOPIC} --count 0 --checker commit --checks 2"));
    let checked = other.done();
    let mut asked = bodies(&checked, "checked");
    asked.dedup();
    assert_eq!(asked, ["m0", "m1"]);
    exactly_these_come(stage, &["m0", "m1"]);
}

/// It does not know; then it does.
pub fn a_producer_that_does_not_know_is_asked_again(stage: &mut Stage) {
    stage.replace_server(&QUICK);
    make_topic(stage);
    let unsure = stage.start(&format!("produce --topic {TOPIC} --transaction leave --checker unknown --checks 2"));
    let asked = unsure.done();
    assert_eq!(bodies(&asked, "checked")[..2], ["m0", "m0"]);
    stage.run(&format!("produce --topic {TOPIC} --count 0 --checker rollback --checks 1"));
    stage.run(&format!("produce --topic {TOPIC} --prefix c --transaction commit"));
    exactly_these_come(stage, &["c0"]);
}

/// The server is killed with SIGKILL while the producer is at work on what its half message is about.
pub fn a_server_killed_between_half_and_commit_commits(stage: &mut Stage) {
    make_topic(stage);
    let producer = stage.start(&format!(
        "produce --topic {TOPIC} --transaction commit --end-after-ms 8000 --keep-going --timeout-ms 50000"
    ));
    producer.until("the half is sent", |events| of(events, "sent").len() == 1);
    stage.server.kill();
    stage.server.start_again();
    assert_eq!(of(&producer.done(), "ended").len(), 1);
    exactly_these_come(stage, &["m0"]);
}

/// What the server asks after it was killed is about what it was sent before.
pub fn a_killed_server_asks_about_its_half_messages(stage: &mut Stage) {
    stage.replace_server(&QUICK);
    make_topic(stage);
    let dead = stage.start(&format!("produce --topic {TOPIC} --count 2 --transaction leave --checks 99"));
    dead.until("both halves are sent", |events| of(events, "sent").len() == 2);
    stage.server.kill();
    drop(dead);
    stage.server.start_again();
    stage.run(&format!("produce --topic {TOPIC} --count 0 --checker commit --checks 2"));
    exactly_these_come(stage, &["m0", "m1"]);
}
