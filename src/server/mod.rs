//! THE COMPOSITION ROOT: opens store, broker and fronts, says what it did, and closes them in reverse order.
//!
//! ```text
//! start   sockets bound -> metrics and probes -> store opened (recovery) -> broker -> gRPC front -> administration -> listening -> "ready"
//! end     no new connections -> long polls ended -> calls answered -> background loops ended -> snapshot -> store closed
//! ```
//!
//! One thread, the control thread, accepts connections, serves administration and runs the background loops; the
//! connections themselves are dealt to the workers. The store brings threads of its own.

mod accept;
mod boot_text;
mod descriptors;
mod listen;
mod loops;
mod ports_file;

use std::{io, path::PathBuf, process, sync::Arc, time::Duration};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::{
    admin::{About, Admin},
    broker::{self, Broker},
    config::{Config, Loaded},
    drain::Drain,
    observe::trace::Tracer,
    ops::{self, State},
    proxy::{self, Proxy},
    runtime::Workers,
    store::{self, FlushPolicy, Health, Poisoned, RealDisk, Report, Store, disk::Disk},
    types::{Clock, SystemClock},
};

/// How long the end waits for background loops, which only have to finish what they are at.
const LOOPS_GRACE: Duration = Duration::from_secs(5);
/// How long a server whose store has stopped goes on answering: callers in flight are to learn that they failed.
const POISONED_GRACE: Duration = Duration::from_secs(1);

/// Why the server did not start, or did not end well. Each is one line with value, cause and cure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Listen(#[from] listen::Error),
    #[error("cannot open the store: {0}")]
    Store(#[from] store::OpenError),
    #[error("cannot open the broker: {0}")]
    Broker(#[from] broker::OpenError),
    #[error("cannot start exports by OTLP: {0}")]
    Export(#[from] ops::ExportError),
    #[error("cannot start the gRPC front: {0}")]
    Proxy(#[from] proxy::Error),
    #[error("cannot start threads: {0}; raise this process's limit of threads or memory")]
    Threads(io::Error),
    #[error("cannot write the ports to {path}: {source}; choose a file in a directory that this user may write")]
    PortsFile { path: PathBuf, source: io::Error },
    #[error("{0}; nothing was acknowledged since: see to the disk, then start again")]
    Poisoned(Poisoned),
}

/// Runs the server until a signal, or its disk, ends it.
pub fn run(loaded: Loaded, ports_file: Option<PathBuf>) -> Result<(), Error> {
    let control = Builder::new_current_thread().enable_all().thread_name("blocking").build().map_err(Error::Threads)?;
    let signals = {
        let _in_control = control.enter();
        signals().map_err(Error::Threads)?
    };
    if let Some(path) = &ports_file {
        ports_file::remove(path).map_err(|source| Error::PortsFile { path: path.clone(), source })?;
    }
    store::explain_lost_pages();
    let ended = run_on(control, Arc::new(RealDisk), loaded, signals, |ready| {
        // Before the text: who waits for that finds the file.
        if let Some(path) = ports_file.clone() {
            ports_file::write(&path, &ready.ports).map_err(|source| Error::PortsFile { path, source })?;
        }
        boot_text::print(&ready);
        Ok(())
    });
    if let Some(path) = &ports_file
        && let Err(error) = ports_file::remove(path)
    {
        tracing::warn!(path = %path.display(), %error, "the file of the ports is still there");
    }
    ended
}

/// What can be said once clients can connect.
struct Ready<'a> {
    loaded: &'a Loaded,
    report: &'a Report,
    ports: listen::Ports,
    workers: usize,
}

/// The same over any disk, ended by whoever holds the other end of `signals`.
fn run_on(
    control: Runtime,
    disk: Arc<dyn Disk>,
    mut loaded: Loaded,
    signals: mpsc::Receiver<&'static str>,
    announce: impl FnOnce(Ready<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let in_control = control.enter();
    descriptors::share_out(&mut loaded.config);
    // Before anything that takes long: a port that is taken is told at once. Nobody can connect until they listen.
    let mut sockets = listen::bind(&mut loaded.config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let state = State::new(clock.clone());
    let names = loaded.config.ops.names.clone();
    // Open until this function ends, so that start and end can be watched.
    let _operators = match sockets.listen_for_operators()? {
        Some(socket) => Some(ops::Listener::start(socket, state.clone(), names).map_err(Error::Threads)?),
        None => None,
    };
    let (exporter, tracer) = ops::Exporter::start(&loaded.config.ops.otlp, &loaded.config.ops.names, &state)?;
    let (store, report) = Store::open(loaded.config.store.clone(), disk, clock.clone())?;
    let served = compose(&control, &loaded, &store, clock, state, tracer).and_then(|server| {
        let served = control.block_on(server.serve(&loaded, sockets, &report, signals, announce));
        server.workers.stop();
        served
    });
    // The last export tells all that was answered, and goes on while the store is closed.
    if let Some(exporter) = &exporter {
        exporter.finish();
    }
    store.close();
    // The last flush may have been the one that failed.
    let served = served.and_then(|()| match store.health() {
        Health::Poisoned(why) => Err(Error::Poisoned(why)),
        Health::Ready | Health::Full { .. } => Ok(()),
    });
    drop(in_control);
    control.shutdown_timeout(LOOPS_GRACE);
    drop(exporter);
    if served.is_ok() {
        tracing::info!("stopped; the log is flushed and the checkpoint is written");
    }
    served
}

/// Everything that is open while the server runs.
struct Server {
    broker: Broker,
    proxy: Proxy,
    workers: Workers,
    state: State,
    control: Handle,
    /// Acceptors, connections, administration.
    fronts: Drain,
    /// Redelivery, snapshots, expiry: they outlive the fronts, which need them.
    loops: Drain,
}

fn compose(
    control: &Runtime,
    loaded: &Loaded,
    store: &Store,
    clock: Arc<dyn Clock>,
    state: State,
    tracer: Option<Tracer>,
) -> Result<Server, Error> {
    let Config { server, broker, proxy, .. } = &loaded.config;
    let broker = Broker::open(broker.clone(), store.clone(), clock)?;
    let proxy = Proxy::traced(proxy.clone(), broker.clone(), tracer)?;
    let workers = Workers::start(server.workers).map_err(Error::Threads)?;
    let control = control.handle().clone();
    Ok(Server { broker, proxy, workers, state, control, fronts: Drain::new(), loops: Drain::new() })
}

/// Why the server ends.
enum End {
    Signal(&'static str),
    Poisoned(Poisoned),
}

impl Server {
    async fn serve(
        &self,
        loaded: &Loaded,
        sockets: listen::Sockets,
        report: &Report,
        mut signals: mpsc::Receiver<&'static str>,
        announce: impl FnOnce(Ready<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        loops::start(&self.control, &self.loops, &self.broker, &self.proxy, &self.state);
        let ports = sockets.ports();
        self.open_fronts(loaded, sockets)?;
        self.state.up(self.broker.clone(), self.proxy.clone());
        announce(Ready { loaded, report, ports, workers: self.workers.count() })?;
        let end = tokio::select! {
            Some(name) = signals.recv() => End::Signal(name),
            why = self.broker.store().poisoned() => End::Poisoned(why),
        };
        tokio::select! {
            ended = self.drain(&loaded.config, end) => ended,
            Some(name) = signals.recv() => {
                tracing::warn!(signal = name, "leaving at once: calls in flight are not answered");
                process::exit(1);
            }
        }
    }

    fn open_fronts(&self, loaded: &Loaded, sockets: listen::Sockets) -> Result<(), Error> {
        let listen::Listening { grpc, admin } = sockets.listen()?;
        for socket in grpc {
            let door = accept::Door { proxy: self.proxy.clone(), drain: self.fronts.clone() };
            self.fronts.spawn(&self.control, accept::run(socket, door, self.workers.deal()));
        }
        let about = About {
            version: env!("CARGO_PKG_VERSION"),
            store_path: boot_text::absolute(&loaded.config.store.root),
            flush_disk_type: match loaded.config.store.flush {
                FlushPolicy::Sync => "SYNC_FLUSH",
                FlushPolicy::Async { .. } => "ASYNC_FLUSH",
            },
        };
        let service = Admin::new(self.broker.clone(), about, self.fronts.token()).into_service();
        let official = self.proxy.administration()?;
        self.fronts.spawn(&self.control, accept::administration(admin, service, official, self.fronts.token()));
        Ok(())
    }

    async fn drain(&self, config: &Config, end: End) -> Result<(), Error> {
        let (grace, ended) = match end {
            End::Signal(name) => {
                tracing::info!(signal = name, "stopping; once more to leave at once");
                (config.proxy.limits.closing_timeout, Ok(()))
            }
            End::Poisoned(why) => (POISONED_GRACE, Err(Error::Poisoned(why))),
        };
        // Ends the long polls too.
        self.proxy.drain();
        if !self.fronts.finish(grace).await {
            tracing::warn!(left = self.fronts.len(), "connections were cut: grpcShutdownTimeSeconds is over");
        }
        if !self.loops.finish(LOOPS_GRACE).await {
            tracing::warn!(left = self.loops.len(), "background loops did not end in time");
        }
        if ended.is_ok() {
            loops::snapshot(&self.broker).await;
        }
        ended
    }
}

/// The names of the signals that should end the server, as they come. Call it on a runtime, which listens from then on.
fn signals() -> io::Result<mpsc::Receiver<&'static str>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let (heard, signals) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            if heard.send(name).await.is_err() {
                return;
            }
        }
    });
    Ok(signals)
}

#[cfg(test)]
mod tests;
