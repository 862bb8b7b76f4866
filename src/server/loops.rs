//! Background loops: redelivery on time, snapshots, and the front's own.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tokio::runtime::Handle;

use crate::{broker::Broker, drain::Drain, proxy::Proxy, types::Deadline};

/// Starts them all on one thread.
pub fn start(on: &Handle, drain: &Drain, broker: &Broker, proxy: &Proxy) {
    drain.spawn(on, vital("redelivery", revive(broker.clone(), drain.clone())));
    drain.spawn(on, vital("snapshots", snapshots(broker.clone(), drain.clone())));
    drain.spawn(on, vital("transaction checks", check_transactions(broker.clone(), proxy.clone(), drain.clone())));
    let (proxy, stop) = (proxy.clone(), drain.token());
    drain.spawn(on, vital("the front's background", async move { proxy.background(stop).await }));
}

/// A loop that the server cannot do without: when it panics, the process leaves rather than serve on without it. What was
/// acknowledged is in the log.
async fn vital(name: &'static str, work: impl Future<Output = ()>) {
    if AssertUnwindSafe(work).catch_unwind().await.is_err() {
        tracing::error!(name, "a loop of the server panicked; leaving, so that a restart mends it");
        std::process::exit(1);
    }
}

/// Ends leases when they are over: never early, and not at intervals but at the next one's end.
async fn revive(broker: Broker, drain: Drain) {
    loop {
        let next = broker.revive().await;
        tokio::select! {
            () = drain.stopping() => return,
            () = broker.revive_sooner() => {}
            () = until(&broker, next) => {}
        }
    }
}

/// Asks producers about their half messages when they are due.
async fn check_transactions(broker: Broker, proxy: Proxy, drain: Drain) {
    loop {
        let next = proxy.check_transactions().await;
        tokio::select! {
            () = drain.stopping() => return,
            () = broker.checks_sooner() => {}
            () = until(&broker, next) => {}
        }
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
