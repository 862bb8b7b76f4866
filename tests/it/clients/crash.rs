//! A server that dies under load: what was acknowledged is there afterwards, and what was acked stays acked.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    driver::{Run, ids, of},
    stage::{GROUP, Stage, TOPIC},
    transcript::Event,
};

const COUNT: usize = 600;
/// Messages a second.
const RATE: usize = 150;
/// How long a server that is told to stop may take while clients are at work.
const STOP_MAX: Duration = Duration::from_secs(10);
/// The server dies when the producer has been told of so many.
const DIE_AT: [usize; 2] = [150, 350];

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis()).expect("not for long")
}

#[derive(Clone, Copy)]
enum Death {
    /// With SIGKILL, at once.
    Killed,
    /// With SIGTERM, when it has finished what it was at.
    Stopped,
}

impl Death {
    #[track_caller]
    fn comes_to(self, stage: &mut Stage) {
        match self {
            Self::Killed => stage.server.kill(),
            Self::Stopped => {
                let (code, took) = stage.server.stop();
                assert_eq!(code, Some(0), "exit code of a server that was told to stop");
                assert!(took < STOP_MAX, "the server took {took:?} to stop");
            }
        }
    }
}

/// Produces, with the consumer at work, over two deaths of the server; what the producer said, and when the server died.
#[track_caller]
fn produce_over_deaths(stage: &mut Stage, death: Death) -> (Vec<Event>, Vec<RangeInclusive<u64>>) {
    let producer =
        stage.start(&format!("produce --topic {TOPIC} --count {COUNT} --rate {RATE} --keep-going --timeout-ms 50000"));
    let mut deaths = Vec::new();
    for count in DIE_AT {
        producer.until(&format!("{count} are sent"), |events| of(events, "sent").len() >= count);
        let began = now_ms();
        death.comes_to(stage);
        deaths.push(began..=now_ms());
        stage.server.start_again();
    }
    (producer.done(), deaths)
}

#[track_caller]
fn everything_sent_arrives(consumer: &Run, sent: &[Event]) {
    let all = of(sent, "sent");
    assert_eq!(all.len(), COUNT, "the producer was told of all");
    // What was sent but not acknowledged may come as well.
    let lost = |events: &[Event]| {
        let come = ids(events, "received");
        all.iter().filter(|e| !come.contains(e.id())).map(|e| (e.body().to_owned(), e.ts)).collect::<Vec<_>>()
    };
    consumer.sees(|events| lost(events).is_empty());
    assert_eq!(lost(&consumer.events()), [], "acknowledged to the producer and never received");
}

/// Ids that are stored once: a send that the server's death fell into may have been repeated by the client with the
/// same id. The producer sends one after the other, so a send began after the line of the one before it.
fn stored_once(sent: &[Event], deaths: &[RangeInclusive<u64>]) -> BTreeSet<String> {
    let mut began = 0;
    let mut once = BTreeSet::new();
    for e in of(sent, "sent") {
        if deaths.iter().all(|death| *death.end() < began || e.ts < *death.start()) {
            once.insert(e.id().to_owned());
        }
        began = e.ts;
    }
    once
}

pub fn a_killed_server_loses_nothing_acknowledged(stage: &mut Stage) {
    nothing_acknowledged_is_lost(stage, Death::Killed);
}

pub fn a_killed_server_loses_nothing_acknowledged_with_async_flush(stage: &mut Stage) {
    stage.replace_server(&["flushDiskType=ASYNC_FLUSH"]);
    nothing_acknowledged_is_lost(stage, Death::Killed);
}

pub fn a_stopped_server_finishes_and_loses_nothing_acknowledged(stage: &mut Stage) {
    nothing_acknowledged_is_lost(stage, Death::Stopped);
}

#[track_caller]
fn nothing_acknowledged_is_lost(stage: &mut Stage, death: Death) {
    let consumer =
        stage.start(&format!("simple --topic {TOPIC} --group {GROUP} --keep-going --timeout-ms 120000")).ready();
    let (sent, deaths) = produce_over_deaths(stage, death);
    everything_sent_arrives(&consumer, &sent);
    stage.settles(TOPIC, GROUP);

    let once = stored_once(&sent, &deaths);
    assert!(once.len() >= COUNT - 10, "a death falls into few sends: {}", once.len());
    let mut acked: BTreeMap<String, u64> = BTreeMap::new();
    for e in consumer.events() {
        if e.is("acked") {
            acked.insert(e.id().to_owned(), e.ts);
        } else if e.is("received") && once.contains(e.id()) {
            let before = acked.get(e.id());
            assert_eq!(before, None, "{} came again at {} (deaths at {deaths:?})", e.body(), e.ts);
        }
    }
}

pub fn a_push_consumer_goes_on_after_the_server_was_killed(stage: &mut Stage) {
    let consumer = stage.start(&format!("push --topic {TOPIC} --group {GROUP} --timeout-ms 120000")).ready();
    let (sent, _) = produce_over_deaths(stage, Death::Killed);
    everything_sent_arrives(&consumer, &sent);
    stage.settles(TOPIC, GROUP);
}
