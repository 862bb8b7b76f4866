//! Exports to a collector, on a thread of their own: nobody who serves clients waits for it, and the server neither waits for
//! a collector at its start nor longer at its end than it takes to send one message.

use std::{io, thread, time::Duration};

use futures_util::FutureExt as _;
use tokio::{
    runtime::{Builder, Handle},
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::{
    drain::Drain,
    observe::{
        metrics::Names,
        otlp::{self, About, Collector, Snapshot, requests_of_spans},
        trace::{Span, Tracer},
    },
    proxy,
};

use super::{collect, state::State};

/// Spans of one round at most.
const BATCH_MAX: usize = 512;
/// What the end waits for the last exports at most, whatever their timeout is.
const LAST_MAX: Duration = Duration::from_secs(5);
/// How long the end then waits for what cannot be interrupted: a snapshot, the look-up of a name.
const GRACE: Duration = Duration::from_secs(1);

/// Why exports did not begin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Collector(#[from] otlp::ConnectError),
    #[error("cannot start the thread of exports: {0}; raise this process's limit of threads or memory")]
    Thread(#[from] io::Error),
}

/// The exports of a server; they end when this is dropped.
pub struct Exporter {
    drain: Drain,
    thread: Option<thread::JoinHandle<()>>,
}

/// One snapshot after the other.
struct Metrics {
    collector: Collector,
    interval: Duration,
    about: About,
    names: Names,
    state: State,
}

/// One batch of spans after the other.
struct Traces {
    collector: Collector,
    interval: Duration,
    about: About,
    state: State,
    spans: mpsc::Receiver<Span>,
}

impl Exporter {
    /// Begins what is configured, and gives what traces calls where that is wanted. Nothing is waited for.
    pub fn start(config: &otlp::Config, names: &Names, state: &State) -> Result<(Option<Self>, Option<Tracer>), Error> {
        let traces = &config.traces;
        let metrics_target = config.metrics_target();
        if metrics_target.is_none() && traces.signal.target.is_none() {
            return Ok((None, None));
        }
        let runtime =
            Builder::new_current_thread().enable_all().max_blocking_threads(4).thread_name("otlp-blocking").build()?;
        let drain = Drain::new();
        let about = About::new(names, proxy::host_name().as_deref());
        let ca = config.authorities.as_deref();
        let in_runtime = runtime.enter();
        if let Some(target) = metrics_target {
            let (signal, about) = (&config.metrics, about.clone());
            let collector = Collector::new("metrics", target, signal, ca, state.shared_clock())?;
            let (names, state) = (names.clone(), state.clone());
            let metrics = Metrics { collector, interval: signal.interval, about, names, state };
            begin(runtime.handle(), &drain, signal.timeout, metrics.run(drain.clone()));
        }
        let mut tracer = None;
        if let Some(target) = &traces.signal.target {
            let signal = &traces.signal;
            let collector = Collector::new("traces", target, signal, ca, state.shared_clock())?;
            let counts = state.exports().clone();
            let (begins, spans) = Tracer::new(traces.ratio, traces.queue, counts, state.shared_clock());
            tracer = Some(begins);
            let traces = Traces { collector, interval: signal.interval, about, state: state.clone(), spans };
            begin(runtime.handle(), &drain, signal.timeout, traces.run(drain.clone()));
        }
        drop(in_runtime);
        let tasks = drain.clone();
        let run = move || {
            runtime.block_on(async {
                tasks.stopping().await;
                tasks.finish(LAST_MAX + GRACE).await;
            });
            runtime.shutdown_timeout(GRACE);
        };
        let thread = thread::Builder::new().name("otlp".into()).spawn(run)?;
        Ok((Some(Self { drain, thread: Some(thread) }), tracer))
    }

    /// Lets the last exports begin: what happened has happened.
    pub fn finish(&self) {
        self.drain.token().cancel();
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.finish();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            drop(thread.join());
        }
    }
}

/// Runs exports until their end, which may take as long as one message may.
fn begin(on: &Handle, drain: &Drain, timeout: Duration, exports: impl Future<Output = ()> + Send + 'static) {
    let stop = drain.token();
    drain.spawn(on, async move {
        let over = async {
            stop.cancelled().await;
            sleep(timeout.min(LAST_MAX)).await;
        };
        tokio::select! {
            ended = std::panic::AssertUnwindSafe(exports).catch_unwind() => if ended.is_err() {
                tracing::error!("exports to the collector panicked and have ended; this is a fault of the server, please report it");
            },
            () = over => tracing::warn!("the last export was cut short: the collector did not answer in time"),
        }
    });
}

impl Metrics {
    async fn run(mut self, drain: Drain) {
        let mut due = interval(self.interval);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first is due at once, and there is nothing to tell yet.
        due.tick().await;
        loop {
            tokio::select! {
                () = drain.stopping() => break,
                _ = due.tick() => self.export(&drain).await,
            }
        }
        self.export(&drain).await;
    }

    /// Sends one snapshot, message by message as they are made; what fails ends it, and the next one tells the same and more.
    async fn export(&mut self, drain: &Drain) {
        let (state, names, about) = (self.state.clone(), self.names.clone(), self.about.clone());
        let (made, mut messages) = mpsc::channel(1);
        let made = tokio::task::spawn_blocking(move || {
            let (start, now) = (state.started_at(), state.clock().wall());
            let mut snapshot = Snapshot::new(about, &names, start, now, |message| made.blocking_send(message).is_ok());
            collect::tell(&state, &mut snapshot);
            snapshot.finish();
        });
        let stop = drain.token();
        while let Some(message) = messages.recv().await {
            let taken = self.collector.send(&message, &stop).await;
            let counts = &self.state.exports().metrics;
            if taken { &counts.taken } else { &counts.failed }.add(1);
            if !taken {
                break;
            }
        }
        drop(messages);
        if made.await.is_err() {
            tracing::error!(
                "a snapshot of the metrics could not be made; this is a fault of the server, please report it"
            );
        }
    }
}

impl Traces {
    async fn run(mut self, drain: Drain) {
        loop {
            let mut batch = Vec::new();
            let is_over = tokio::select! {
                () = drain.stopping() => true,
                () = self.gather(&mut batch) => false,
            };
            if is_over {
                // Everything that is there, as long as there is time.
                while batch.len() < BATCH_MAX
                    && let Ok(span) = self.spans.try_recv()
                {
                    batch.push(span);
                }
            }
            if is_over && batch.is_empty() {
                return;
            }
            self.export(batch, &drain).await;
        }
    }

    /// Waits until a batch is full, or the interval is over.
    async fn gather(&mut self, batch: &mut Vec<Span>) {
        let fill = async {
            while batch.len() < BATCH_MAX {
                if self.spans.recv_many(batch, BATCH_MAX - batch.len()).await == 0 {
                    // Nobody traces any more; the end is near.
                    return std::future::pending().await;
                }
            }
        };
        // Full or not.
        let _ = timeout(self.interval, fill).await;
    }

    async fn export(&mut self, batch: Vec<Span>, drain: &Drain) {
        let counts = self.state.exports().clone();
        for (message, spans) in requests_of_spans(&self.about, batch) {
            let taken = self.collector.send(&message, &drain.token()).await;
            if taken { &counts.traces.taken } else { &counts.traces.failed }.add(1);
            if taken { &counts.sent } else { &counts.lost }.add(spans);
        }
    }
}
