//! Background loops: redelivery and delayed messages on time, snapshots, and the front's own.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tokio::runtime::Handle;

use crate::{
    broker::Broker,
    drain::Drain,
    ops::{BEAT_INTERVAL, State},
    proxy::Proxy,
    types::Deadline,
};

/// How often it is looked whether delayed messages have waited for long: a look costs one read.
const CARRY_INTERVAL: Duration = Duration::from_secs(60);

/// How often it is looked who of the clients of broadcasting groups is gone: less than the least
/// `broadcastOffsetExpireSecond`.
const EXPIRE_INTERVAL: Duration = Duration::from_secs(30);

/// How often it is looked which lite topics and sets of clients nobody uses.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// Starts them all on one thread.
pub fn start(on: &Handle, drain: &Drain, broker: &Broker, proxy: &Proxy, state: &State) {
    drain.spawn(on, beat(state.clone(), drain.clone()));
    drain.spawn(on, vital("redelivery", revive(broker.clone(), drain.clone())));
    drain.spawn(on, vital("delayed messages", fire_timers(broker.clone(), drain.clone())));
    drain.spawn(on, vital("carrying delayed messages", carry_timers(broker.clone(), drain.clone())));
    drain.spawn(on, vital("dead letters", bury(broker.clone(), drain.clone())));
    drain.spawn(on, vital("clients that are gone", expire_members(broker.clone(), drain.clone())));
    drain.spawn(on, vital("idle lite topics", expire_lite(broker.clone(), drain.clone(), SWEEP_INTERVAL)));
    drain.spawn(on, vital("snapshots", snapshots(broker.clone(), drain.clone())));
    drain.spawn(on, vital("transaction checks", check_transactions(broker.clone(), proxy.clone(), drain.clone())));
    let (proxy, stop) = (proxy.clone(), drain.token());
    drain.spawn(on, vital("the front's background", async move { proxy.background(stop).await }));
}

/// Shows that this thread is at work; until its loops have ended.
async fn beat(state: State, drain: Drain) {
    state.beat();
    while tick(BEAT_INTERVAL, &drain).await {
        state.beat();
    }
    state.rest();
}

/// A loop that the server cannot do without: when it panics, the process leaves rather than serve on without it. What was
/// acknowledged is in the log.
async fn vital(name: &'static str, work: impl Future<Output = ()>) {
    if AssertUnwindSafe(work).catch_unwind().await.is_err() {
        tracing::error!(name, "a loop of the server panicked; leaving, so that a restart mends it");
        std::process::exit(1);
    }
}

/// Does the rounds of work that says itself when it is to be done next, or is called sooner: never at intervals.
async fn rounds<R, S>(broker: Broker, drain: Drain, round: impl Fn(Broker) -> R, sooner: impl Fn(Broker) -> S)
where
    R: Future<Output = Option<Deadline>>,
    S: Future<Output = ()>,
{
    loop {
        let next = round(broker.clone()).await;
        tokio::select! {
            () = drain.stopping() => return,
            () = sooner(broker.clone()) => {}
            () = until(&broker, next) => {}
        }
    }
}

/// Ends leases when they are over, never early.
async fn revive(broker: Broker, drain: Drain) {
    let sooner = |broker: Broker| async move { broker.revive_sooner().await };
    rounds(broker, drain, |broker| async move { broker.end_leases().await }, sooner).await;
}

/// Delivers each delayed message at its time.
async fn fire_timers(broker: Broker, drain: Drain) {
    let sooner = |broker: Broker| async move { broker.fire_timers_sooner().await };
    rounds(broker, drain, |broker| async move { broker.fire_timers().await }, sooner).await;
}

/// Asks producers about their half messages when they are due.
async fn check_transactions(broker: Broker, proxy: Proxy, drain: Drain) {
    let sooner = |broker: Broker| async move { broker.checks_sooner().await };
    let check = |_| {
        let proxy = proxy.clone();
        async move { proxy.check_transactions().await }
    };
    rounds(broker, drain, check, sooner).await;
}

/// Moves what had its attempts to the dead-letter topics; it waits for the disk, which redelivery must not.
async fn bury(broker: Broker, drain: Drain) {
    loop {
        tokio::select! {
            () = drain.stopping() => return,
            () = broker.doomed() => broker.bury().await,
        }
    }
}

/// Carries forward what waits for long.
async fn carry_timers(broker: Broker, drain: Drain) {
    while tick(CARRY_INTERVAL, &drain).await {
        match broker.carry_timers().await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "carried delayed messages forward in the log"),
            Err(error) => tracing::warn!(%error, "could not carry delayed messages forward; the log is kept meanwhile"),
        }
    }
}

/// Forgets clients of broadcasting groups that were gone for long.
async fn expire_members(broker: Broker, drain: Drain) {
    while tick(EXPIRE_INTERVAL, &drain).await {
        broker.expire_members().await;
    }
}

/// Ends lite topics and sets that nobody uses: apart from the front's background, since leases that are renewed there wait for
/// nobody.
async fn expire_lite(broker: Broker, drain: Drain, every: Duration) {
    while tick(every, &drain).await {
        broker.expire_lite().await;
    }
}

async fn until(broker: &Broker, next: Option<Deadline>) {
    match next {
        Some(next) => tokio::time::sleep(next.remaining(broker.clock().now())).await,
        None => std::future::pending().await,
    }
}

async fn snapshots(broker: Broker, drain: Drain) {
    while tick(broker.config().snapshot_interval, &drain).await {
        snapshot(&broker).await;
    }
}

/// Writes the snapshot of consumption on a thread that may wait for the disk.
pub async fn snapshot(broker: &Broker) {
    let broker = broker.clone();
    match tokio::task::spawn_blocking(move || broker.snapshot()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "no snapshot of consumption; a restart replays more of the log"),
        Err(error) => tracing::error!(%error, "the snapshot of consumption did not end"),
    }
}

/// Waits; `false` when the drain begins meanwhile.
async fn tick(interval: Duration, drain: &Drain) -> bool {
    tokio::select! {
        () = drain.stopping() => false,
        () = tokio::time::sleep(interval) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        broker::{LiteAction, LiteStart, LiteSync, Topic, testing::Machine},
        types::{ClientId, GroupName, MessageType, TopicName},
    };

    #[tokio::test]
    async fn lite_topics_that_nobody_uses_end_by_themselves() {
        let machine = Machine::new();
        let broker = machine.start();
        let (name, queues, yes) = (TopicName::parse("sessions").unwrap(), 1, true);
        let topic = Topic {
            name: name.clone(),
            message_type: Some(MessageType::Lite),
            read_queues: queues,
            write_queues: queues,
            readable: yes,
            writable: yes,
        };
        let (topic, _) = broker.create_topic(topic).unwrap();
        let (group, client) = (GroupName::parse("g").unwrap(), ClientId::parse("c").unwrap());
        let (action, names, start) = (LiteAction::Add, vec!["a".to_owned()], LiteStart::Last);
        broker.sync_lite(LiteSync { topic: name, group, client: client.clone(), action, names, start }).await.unwrap();
        broker.client_gone(&client);
        assert_eq!(broker.lite_topics_of(&topic), Some(1));
        machine.clock.advance(machine.config.lite_topic_idle);
        let drain = Drain::new();
        let every = Duration::from_millis(1);
        drain.spawn(&Handle::current(), expire_lite(broker.clone(), drain.clone(), every));
        let gone = async {
            while broker.lite_topics_of(&topic) != Some(0) {
                tokio::time::sleep(every).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
        assert!(drain.finish(Duration::from_secs(20)).await);
        broker.store().close();
    }
}
