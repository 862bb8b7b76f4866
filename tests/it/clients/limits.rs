//! What is too large or badly named is refused, with the code that says why.

use super::{
    driver::{Client, Run, of},
    stage::{GROUP, Stage, TOPIC},
    transcript::Event,
};

const MIB: usize = 1 << 20;
/// What a client that cannot receive 4 MiB in all needs for everything but the body.
const ENVELOPE: usize = 16 << 10;

pub fn a_body_of_4_mib_less_one_is_accepted_and_a_larger_one_refused(stage: &mut Stage) {
    let largest = 4 * MIB - 1;
    let produce = |topic: &str, size: usize| stage.start(&format!("produce --topic {topic} --size {size}"));
    assert_eq!(of(&produce("largest", largest).done(), "sent").len(), 1);

    let (topic, size) = match stage.client().receives_at_most_4_mib_in_all() {
        true => ("large", 4 * MIB - ENVELOPE),
        false => ("largest", largest),
    };
    if topic == "large" {
        produce(topic, size).done();
    }
    let consumed = stage.run(&format!("simple --topic {topic} --group {GROUP} --count 1"));
    let message = of(&consumed, "received")[0];
    assert_eq!((message.len, message.corrupted), (Some(size), false));

    let mut refused = produce("largest", 4 * MIB + 1);
    assert_eq!(refused.exit_code(), 1, "a body of 4 MiB and a byte was not refused");
    let code = refusal(&refused).code;
    // The other clients were told the limit and do not even ask.
    let expected = (stage.client() == Client::Rust).then_some(41301);
    assert_eq!(code, expected, "code of a body that is too large");
}

/// How a driver was refused: at its start or by an error of a call.
#[track_caller]
fn refusal(run: &Run) -> Event {
    let events = run.events();
    let refused = events.iter().find(|e| e.is("start-error") || e.is("error"));
    refused.cloned().expect("a driver that failed says how")
}

pub fn a_bad_topic_tag_key_and_group_are_refused_with_their_codes(stage: &mut Stage) {
    // Names and characters that the clients themselves let pass.
    let produce = |topic: &str, more: &[&str]| stage.start_with(&format!("produce --topic {topic} --count 1"), more);
    let consume =
        |group: &str| stage.start(&format!("simple --topic {TOPIC} --group {group} --start-timeout-ms 10000"));
    let long = "g".repeat(64);
    let refused = [
        ("topic", topic_code(stage.client()), produce("rmq_sys_orders", &[])),
        ("tag", Some(40004), produce(TOPIC, &["--tag", "a\u{1}b"])),
        ("key", Some(40005), produce(TOPIC, &["--key", "a\u{1}b"])),
        ("message group", Some(40006), produce(TOPIC, &["--message-group", &long])),
        ("property", Some(40007), produce(TOPIC, &["--prop", "a\u{1}b=c"])),
        ("consumer group", group_code(stage.client()), consume("CID_RMQ_SYS_billing")),
    ];
    for (what, code, mut run) in refused {
        assert_ne!(run.exit_code(), 0, "a bad {what} was taken");
        let refusal = refusal(&run);
        assert_eq!(refusal.code, code, "code of a bad {what}: {:?}", refusal.message);
    }
}

/// Python says that it has no route, and not why.
fn topic_code(client: Client) -> Option<i32> {
    (client != Client::Python).then_some(40002)
}

/// The group is refused when the client tells its settings, by the end of that stream, which has no code for those that
/// start with it. Node.js is told the code as well; Python and Rust start all the same and learn it when they receive.
fn group_code(client: Client) -> Option<i32> {
    matches!(client, Client::Node | Client::Python | Client::Rust).then_some(40003)
}
