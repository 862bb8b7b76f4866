//! What the server is at, as probes are told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::RwLock;
use serde_json::{Value, json};

use crate::{
    broker::{Broker, Health},
    observe::otlp::Counts,
    proxy::Proxy,
    types::{Clock, Deadline, Timestamp},
};

/// The control thread says so often that it is alive, and is taken for dead when it has not for so long: accepting
/// connections, ending leases and delivering messages for later all depend on it.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(1);
const SILENT_MAX: Duration = Duration::from_secs(60);

/// What the server is at; a cheap clone.
#[derive(Clone)]
pub struct State {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Arc<dyn Clock>,
    started_at: Timestamp,
    /// The last sign of life of the control thread; 0 while it need not give any.
    beat: AtomicU64,
    /// Nothing while the store is being opened.
    parts: RwLock<Option<Parts>>,
    exports: Arc<Counts>,
}

/// What can be asked once it is open.
#[derive(Clone)]
pub struct Parts {
    pub broker: Broker,
    pub proxy: Proxy,
}

/// An answer to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub is_good: bool,
    /// Why not; or what is worth knowing though it is.
    pub reasons: Vec<String>,
}

impl Condition {
    fn good() -> Self {
        Self { is_good: true, reasons: Vec::new() }
    }
    fn bad(reason: String) -> Self {
        Self { is_good: false, reasons: vec![reason] }
    }
    /// As an answer.
    pub fn json(&self, name: &str) -> Value {
        json!({name: self.is_good, "reasons": self.reasons})
    }
}

impl State {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let (started_at, beat, parts) = (clock.wall(), AtomicU64::new(0), RwLock::default());
        Self { inner: Arc::new(Inner { clock, started_at, beat, parts, exports: Arc::default() }) }
    }

    /// The store is open and clients can connect. From now on the control thread must give signs of life.
    pub fn up(&self, broker: Broker, proxy: Proxy) {
        self.beat();
        *self.inner.parts.write() = Some(Parts { broker, proxy });
    }

    /// A sign of life of the control thread.
    pub fn beat(&self) {
        self.inner.beat.store(self.inner.clock.now().as_micros().max(1), Relaxed);
    }

    /// The control thread has ended well.
    pub fn rest(&self) {
        self.inner.beat.store(0, Relaxed);
    }

    pub fn parts(&self) -> Option<Parts> {
        self.inner.parts.read().clone()
    }

    pub fn clock(&self) -> &dyn Clock {
        &*self.inner.clock
    }

    /// What was sent to collectors.
    pub fn exports(&self) -> &Arc<Counts> {
        &self.inner.exports
    }

    pub(super) fn shared_clock(&self) -> Arc<dyn Clock> {
        self.inner.clock.clone()
    }

    pub fn started_at(&self) -> Timestamp {
        self.inner.started_at
    }

    /// Whether clients should come. A full disk refuses sends alone: consumption goes on and makes room, so it is said and
    /// does not take the server away from its consumers.
    pub fn ready(&self) -> Condition {
        let Some(Parts { broker, proxy }) = self.parts() else {
            return Condition::bad("starting: the store is being opened and recovered".into());
        };
        let full = |free| {
            format!("the disk is full ({free} bytes left): sends are refused; free room or shorten fileReservedTime")
        };
        match broker.store().health() {
            Health::Poisoned(why) => Condition::bad(format!("{why}: see to the disk, then start again")),
            _ if proxy.is_draining() => Condition::bad("stopping: no new work is taken".into()),
            Health::Full { free } => Condition { is_good: true, reasons: vec![full(free)] },
            Health::Ready => Condition::good(),
        }
    }

    /// Whether the process is worth keeping. Starting and recovering are life, however long they take.
    pub fn live(&self) -> Condition {
        let beat = self.inner.beat.load(Relaxed);
        let silent = Duration::from_micros(self.inner.clock.now().as_micros().saturating_sub(beat));
        if beat == 0 || silent < SILENT_MAX {
            return Condition::good();
        }
        Condition::bad(format!("the control thread has given no sign of life for {} s", silent.as_secs()))
    }

    /// Until when the ages of backlogs are read.
    pub fn in_a_while(&self, while_: Duration) -> Deadline {
        self.inner.clock.now().plus(while_)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{broker::testing::Machine, proxy, types::ManualClock};

    fn open(machine: &Machine) -> (Broker, Proxy) {
        let broker = machine.start();
        let proxy = Proxy::new(proxy::Config::default(), broker.clone()).expect("a front");
        (broker, proxy)
    }

    #[test]
    fn a_server_is_alive_but_not_ready_while_it_recovers() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1)));
        let state = State::new(clock.clone());
        clock.advance(Duration::from_secs(3600));
        assert!(state.live().is_good);
        let ready = state.ready();
        assert!(!ready.is_good && ready.reasons[0].contains("recovered"), "{ready:?}");
    }

    #[test]
    fn readiness_ends_with_the_drain_and_says_so() {
        let machine = Machine::new();
        let (broker, proxy) = open(&machine);
        let state = State::new(machine.clock.clone());
        state.up(broker, proxy.clone());
        assert_eq!(state.ready(), Condition::good());
        proxy.drain();
        assert!(state.ready().reasons[0].contains("stopping"));
        assert!(state.live().is_good);
    }

    #[tokio::test]
    async fn a_poisoned_store_is_not_ready_and_says_why() {
        let machine = Machine::new();
        let (broker, proxy) = open(&machine);
        let state = State::new(machine.clock.clone());
        state.up(broker.clone(), proxy);
        let topic = crate::broker::testing::topic("T");
        let message = || vec![crate::broker::testing::normal("x")];
        // The topic is there, so that it is the log whose sync fails.
        broker.produce(&topic, message()).await.expect("stored");
        machine.disk.fail_log_sync_once_then_lie();
        broker.produce(&topic, message()).await.expect_err("nothing is acknowledged");
        let ready = state.ready();
        assert!(!ready.is_good && ready.reasons[0].contains("see to the disk"), "{ready:?}");
    }

    #[test]
    fn a_control_thread_that_hangs_is_told_by_liveness() {
        let machine = Machine::new();
        let (broker, proxy) = open(&machine);
        let state = State::new(machine.clock.clone());
        state.up(broker, proxy);
        machine.clock.advance(Duration::from_secs(59));
        assert!(state.live().is_good);
        machine.clock.advance(Duration::from_secs(2));
        assert!(!state.live().is_good);
        state.beat();
        assert!(state.live().is_good);
    }
}
