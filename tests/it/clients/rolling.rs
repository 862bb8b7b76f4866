//! A server that is told to stop and started again, a hundred times, while official clients are at work: nothing is lost,
//! nobody gets stuck, and no client has to be restarted.

use std::{collections::BTreeMap, time::Duration};

use super::{
    driver::{Client, Run, ids, of},
    driver_or_skip,
    stage::{Stage, TOPIC},
};
use crate::harness;

const RESTARTS: usize = 100;
/// Messages a second, of each producer.
const RATE: usize = 25;
/// Sends that each producer is told of between two restarts, and messages that each consumer gets.
const BETWEEN: usize = 3;
/// How long a server that is told to stop may take while clients are at work.
const STOP_MAX: Duration = Duration::from_secs(10);
/// Those whose consumers are given messages.
const CLIENTS: [Client; 4] = [Client::Java, Client::Go, Client::Python, Client::Node];

/// One client's producer and consumer, the same processes from the first restart to the last.
struct Pair {
    client: Client,
    producer: Run,
    consumer: Run,
}

impl Pair {
    fn of(stage: &Stage, client: Client) -> Option<Self> {
        let driver = driver_or_skip(client)?;
        let consume = format!("push --topic {TOPIC} --group group-{client} --timeout-ms 1200000");
        let consumer = stage.start_as(&driver, &consume).ready();
        let produce = format!(
            "produce --topic {TOPIC} --count 1000000 --rate {RATE} --prefix {client}- --keep-going --timeout-ms 1200000"
        );
        let producer = stage.start_as(&driver, &produce).ready();
        Some(Self { client, producer, consumer })
    }

    fn done(&self) -> [usize; 2] {
        [of(&self.producer.events(), "sent").len(), of(&self.consumer.events(), "received").len()]
    }

    #[track_caller]
    fn goes_on(&self, from: [usize; 2], restart: usize) {
        let more = |kind: &'static str, from| move |events: &[_]| of(events, kind).len() >= from + BETWEEN;
        self.producer.until(&format!("it sends after restart {restart}"), more("sent", from[0]));
        self.consumer.until(&format!("it receives after restart {restart}"), more("received", from[1]));
    }

    /// Errors that the application saw, by what it did and what it was told.
    fn errors(&self) -> BTreeMap<String, usize> {
        let mut errors = BTreeMap::new();
        for error in of(&self.producer.events(), "error").into_iter().chain(of(&self.consumer.events(), "error")) {
            *errors.entry(error.cause()).or_default() += 1;
        }
        errors
    }
}

#[test]
fn a_hundred_restarts_under_load_lose_nothing_and_no_client_has_to_be_restarted() {
    let Some(driver) = driver_or_skip(CLIENTS[0]) else { return };
    let mut stage = Stage::set(driver);
    let pairs: Vec<Pair> = CLIENTS.iter().filter_map(|client| Pair::of(&stage, *client)).collect();
    let mut before: Vec<_> = pairs.iter().map(Pair::done).collect();
    for restart in 0..RESTARTS {
        pairs.iter().zip(&before).for_each(|(pair, before)| pair.goes_on(*before, restart));
        let (code, took) = stage.server.stop();
        assert_eq!(code, Some(0), "exit code of a server that was told to stop, restart {restart}");
        assert!(took < STOP_MAX, "the server took {took:?} to stop, restart {restart}");
        before = pairs.iter().map(Pair::done).collect();
        stage.server.start_again();
    }
    pairs.iter().zip(&before).for_each(|(pair, before)| pair.goes_on(*before, RESTARTS));

    // What was acknowledged by now; the producers go on.
    let sent: Vec<_> = pairs.iter().flat_map(|pair| ids(&pair.producer.events(), "sent")).collect();
    for Pair { client, consumer, .. } in &pairs {
        let lost = |events: &[_]| {
            let come = ids(events, "received");
            sent.iter().filter(|id| !come.contains(*id)).cloned().collect::<Vec<_>>()
        };
        consumer.sees(|events| lost(events).is_empty());
        assert_eq!(lost(&consumer.events()), [""; 0], "acknowledged, and never came to the {client} consumer");
    }
    for pair in &pairs {
        let [sent, received] = pair.done();
        harness::said(&format!(
            "{} over {RESTARTS} restarts: {sent} sent, {received} received, errors seen: {:?}",
            pair.client,
            pair.errors()
        ));
    }
}
