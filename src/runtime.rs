//! Threads that serve connections: one single-threaded runtime each, so that a request never hops between threads.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// Threads of one runtime that may wait for a disk at most.
pub const BLOCKING_THREADS_MAX: usize = 32;
/// How long the end waits for such a thread.
const BLOCKING_GRACE: Duration = Duration::from_secs(2);

/// Deals connections to runtimes in turn; a cheap clone that shares the turn.
#[derive(Clone)]
pub struct Deal {
    handles: Arc<[Handle]>,
    turn: Arc<AtomicUsize>,
}

impl Deal {
    /// The runtime whose turn it is.
    pub fn next(&self) -> &Handle {
        &self.handles[self.turn.fetch_add(1, Ordering::Relaxed) % self.handles.len()]
    }
}

/// The runtimes that connections are dealt to.
pub struct Workers {
    deal: Deal,
    stop: CancellationToken,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads, or one for each core when that is 0.
    pub fn start(count: usize) -> io::Result<Self> {
        let count = if count == 0 { thread::available_parallelism()?.get() } else { count };
        let stop = CancellationToken::new();
        let mut handles = Vec::with_capacity(count);
        let mut threads = Vec::with_capacity(count);
        for n in 0..count {
            let runtime = Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING_THREADS_MAX)
                .thread_name(format!("grpc-{n}-blocking"))
                .build()?;
            handles.push(runtime.handle().clone());
            let stop = stop.clone();
            let serve = move || {
                runtime.block_on(stop.cancelled());
                runtime.shutdown_timeout(BLOCKING_GRACE);
            };
            threads.push(thread::Builder::new().name(format!("grpc-{n}")).spawn(serve)?);
        }
        let deal = Deal { handles: handles.into(), turn: Arc::default() };
        Ok(Self { deal, stop, threads })
    }

    /// Whose turn it is.
    pub fn deal(&self) -> Deal {
        self.deal.clone()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Drops what still runs and ends the threads.
    pub fn stop(self) {
        self.stop.cancel();
        for thread in self.threads {
            // A worker that panicked has said so already; the others are still to be waited for.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_dealt_in_turn() {
        let workers = Workers::start(3).expect("threads start");
        let name = || async { thread::current().name().map(str::to_owned) };
        let control = Builder::new_current_thread().build().expect("a runtime");
        let names: Vec<_> =
            (0..6).map(|_| control.block_on(workers.deal.next().spawn(name())).expect("runs")).collect();
        let expected = ["grpc-0", "grpc-1", "grpc-2", "grpc-0", "grpc-1", "grpc-2"].map(|n| Some(n.to_owned()));
        assert_eq!(names, expected);
        workers.stop();
    }

    #[test]
    fn stop_ends_threads_whose_tasks_hang() {
        let workers = Workers::start(1).expect("a thread starts");
        workers.deal.next().spawn(std::future::pending::<()>());
        workers.stop();
    }
}
