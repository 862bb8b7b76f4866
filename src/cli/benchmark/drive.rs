//! Drives a load: connections dealt over threads, a fixed number of calls under way on each, paced or not.
//!
//! Each thread has a current-thread runtime, so a call never hops between threads. The calling thread is the pacer: it
//! sleeps until the next calls are due and lets them go.

use std::{
    cell::RefCell,
    future::Future,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{sync::Semaphore, task::LocalSet};
use tokio_util::sync::CancellationToken;

use super::{
    args::Endpoint,
    client::{Connection, Role},
    tally::Tally,
};

/// After a failed call, so that a server that refuses everything is not hammered.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);
/// The pacer sleeps no longer, so that it sees that the load is over.
const PACER_SLEEP_MAX: Duration = Duration::from_millis(20);
/// What was due in time is still sent so long after the end of an open loop.
const LATE_MAX: Duration = Duration::from_secs(1);

/// When a load is over.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// No call is due this long after the warm-up.
    Time(Duration),
    /// So many messages are asked for after the warm-up, and not one more: for sending.
    Ask(u64),
    /// So many messages came back, warm-up included: for receiving, where an answer may bring any number. What is under
    /// way then is given up.
    Get(u64),
}

/// A load.
#[derive(Clone, Debug)]
pub struct Plan {
    pub endpoint: Endpoint,
    pub topic: String,
    pub role: Role,
    pub connections: u32,
    /// On each connection.
    pub in_flight: u32,
    pub threads: u32,
    /// Messages of one call.
    pub batch: u64,
    pub warmup: Duration,
    pub goal: Goal,
    /// Messages per second over all connections, for an open loop.
    pub rate: Option<f64>,
    /// The load ends this long after its start, come what may.
    pub limit: Duration,
}

impl Plan {
    /// How long it is measured, where that is the goal.
    fn time(&self) -> Duration {
        match self.goal {
            Goal::Time(time) => time,
            Goal::Ask(_) | Goal::Get(_) => Duration::ZERO,
        }
    }
}

/// One call to make.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// When it was due: now, or in an open loop when the rate said.
    pub due: Instant,
    /// Messages to ask for.
    pub messages: u64,
    /// It belongs to the warm-up.
    warmup: bool,
}

/// What a call brought.
#[derive(Debug, Default)]
pub struct Done {
    pub messages: u64,
    /// Latencies to record instead of the call's own.
    pub latencies: Option<Vec<Duration>>,
}

/// What a load brought.
#[derive(Debug)]
pub struct Outcome {
    pub tally: Tally,
    /// Of the measured part.
    pub elapsed: Duration,
    /// Messages that were due and not sent.
    pub unsent: u64,
}

/// What all workers of a load share.
struct Course {
    plan: Plan,
    start: OnceLock<Instant>,
    /// Messages asked for, in a closed loop after the warm-up, or, where that is the goal, got.
    counted: AtomicU64,
    /// Open loop: calls let go, one semaphore per connection.
    released: Vec<Arc<Semaphore>>,
    /// Ends every worker, also in the middle of a call.
    over: CancellationToken,
}

/// Makes the load: `work` makes one call. Returns once every worker has ended.
///
/// `over`, when cancelled from outside, ends the load.
pub fn drive<W, F>(plan: Plan, over: CancellationToken, work: W) -> anyhow::Result<Outcome>
where
    W: Fn(Rc<Connection>, Slot) -> F + Clone + Send + 'static,
    F: Future<Output = anyhow::Result<Done>> + 'static,
{
    let released = (0..plan.connections).map(|_| Arc::new(Semaphore::new(0))).collect();
    let course = Arc::new(Course { plan, start: OnceLock::new(), counted: AtomicU64::new(0), released, over });
    let (ready_in, ready) = mpsc::channel();
    let mut threads = Vec::new();
    let mut go = Vec::new();
    for n in 0..course.plan.threads {
        let (go_in, go_out) = mpsc::channel();
        let (course, ready, work) = (course.clone(), ready_in.clone(), work.clone());
        let body = move || lane(&course, n, &ready, &go_out, work);
        threads.push(thread::Builder::new().name(format!("load-{n}")).spawn(body).context("starting a thread")?);
        go.push(go_in);
    }
    // Nobody starts before all are connected; an error drops the senders in `go`, which ends the threads.
    for _ in 0..course.plan.threads {
        ready.recv().context("a thread of the load ended early")??;
    }
    let start = *course.start.get_or_init(Instant::now);
    for lane in go {
        lane.send(()).context("a thread of the load ended early")?;
    }
    let due = pace(&course, start, &threads);
    let mut tally = Tally::new();
    for thread in threads {
        tally.merge(thread.join().map_err(|_| anyhow::anyhow!("a thread of the load panicked"))?);
    }
    let unsent = match course.plan.goal {
        Goal::Time(_) => due.saturating_sub(course.counted.load(Ordering::Relaxed)),
        Goal::Ask(_) | Goal::Get(_) => 0,
    };
    let elapsed = elapsed(&course.plan, start, &tally);
    Ok(Outcome { tally, elapsed, unsent })
}

/// The measured time: as planned, or, where calls count whenever they end, until the last one.
fn elapsed(plan: &Plan, start: Instant, tally: &Tally) -> Duration {
    let last = tally.last().map_or(Duration::ZERO, |last| last.saturating_duration_since(start + plan.warmup));
    match plan.goal {
        Goal::Time(time) if plan.rate.is_none() => time,
        Goal::Time(time) => last.max(time),
        Goal::Ask(_) | Goal::Get(_) => last,
    }
}

/// One thread: its connections and their workers.
fn lane<W, F>(
    course: &Arc<Course>,
    n: u32,
    ready: &mpsc::Sender<anyhow::Result<()>>,
    go: &mpsc::Receiver<()>,
    work: W,
) -> Tally
where
    W: Fn(Rc<Connection>, Slot) -> F + Clone + 'static,
    F: Future<Output = anyhow::Result<Done>> + 'static,
{
    let total = Rc::new(RefCell::new(Tally::new()));
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // The receiver waits for every thread.
            let _ = ready.send(Err(error.into()));
            return Tally::new();
        }
    };
    let local = LocalSet::new();
    let connected = local.block_on(&runtime, connect(&course.plan, n));
    let mut connections = Vec::new();
    let _ = ready.send(connected.map(|c| connections = c));
    if go.recv().is_err() {
        return Tally::new();
    }
    local.block_on(&runtime, async {
        let mut workers = Vec::new();
        for (id, connection) in &connections {
            let taken = Rc::new(RefCell::new(0));
            for _ in 0..course.plan.in_flight {
                let worker = Worker {
                    course: course.clone(),
                    connection: *id,
                    taken: taken.clone(),
                    tally: total.clone(),
                    work: work.clone(),
                };
                workers.push(tokio::task::spawn_local(worker.run(connection.clone())));
            }
        }
        for worker in workers {
            worker.await.expect("a worker does not panic");
        }
        for (_, connection) in &connections {
            connection.close().await;
        }
    });
    drop((connections, local));
    Rc::try_unwrap(total).map_or_else(|shared| shared.borrow().clone(), RefCell::into_inner)
}

async fn connect(plan: &Plan, thread: u32) -> anyhow::Result<Vec<(u32, Rc<Connection>)>> {
    let mut connections = Vec::new();
    for id in (thread..plan.connections).step_by(plan.threads as usize) {
        let connection = Connection::open(&plan.endpoint, &plan.topic, plan.role.clone()).await?;
        connections.push((id, Rc::new(connection)));
    }
    Ok(connections)
}

/// Makes one call after another on its connection.
struct Worker<W> {
    course: Arc<Course>,
    connection: u32,
    /// Calls of this connection that have started, all workers together.
    taken: Rc<RefCell<u64>>,
    tally: Rc<RefCell<Tally>>,
    work: W,
}

impl<W, F> Worker<W>
where
    W: Fn(Rc<Connection>, Slot) -> F,
    F: Future<Output = anyhow::Result<Done>>,
{
    async fn run(self, connection: Rc<Connection>) {
        let over = self.course.over.clone();
        // Dropping a call gives it up: the load is over, its outcome does not count.
        let () = over.run_until_cancelled(self.calls(connection)).await.unwrap_or(());
    }

    async fn calls(&self, connection: Rc<Connection>) {
        while let Some(slot) = self.next().await {
            match (self.work)(connection.clone(), slot).await {
                Ok(done) => self.record(slot, &done),
                Err(error) => {
                    self.tally.borrow_mut().fail(&error);
                    tokio::time::sleep(FAILURE_PAUSE).await;
                }
            }
        }
    }

    /// The next call, once it is due; `None` when the goal needs no more.
    async fn next(&self) -> Option<Slot> {
        let course = &*self.course;
        if course.plan.rate.is_none() {
            return course.admit_now(Instant::now());
        }
        course.released[self.connection as usize].acquire().await.ok()?.forget();
        let nth = self.taken.replace_with(|taken| *taken + 1);
        course.admit_due(nth * u64::from(course.plan.connections) + u64::from(self.connection), Instant::now())
    }

    fn record(&self, slot: Slot, done: &Done) {
        let end = Instant::now();
        let mut tally = self.tally.borrow_mut();
        if !self.course.is_measured(slot, end) {
            tally.pass(done.messages);
        } else if done.messages > 0 {
            tally.measure(done.messages, end);
            match &done.latencies {
                None => tally.latency(end.saturating_duration_since(slot.due)),
                Some(each) => each.iter().for_each(|latency| tally.latency(*latency)),
            }
        }
        drop(tally);
        self.course.got(done.messages);
    }
}

impl Course {
    fn start(&self) -> Instant {
        *self.start.get().expect("workers run after the start")
    }

    /// When the n-th call of an open loop is due.
    fn due(&self, n: u64) -> Instant {
        let rate = self.plan.rate.unwrap_or(f64::INFINITY);
        self.start() + Duration::from_secs_f64((n * self.plan.batch) as f64 / rate)
    }

    /// A call of a closed loop; `None` when none should start any more.
    fn admit_now(&self, now: Instant) -> Option<Slot> {
        let warm = self.start() + self.plan.warmup;
        let batch = self.plan.batch;
        let slot = Slot { due: now, messages: batch, warmup: now < warm };
        match self.plan.goal {
            Goal::Time(time) => (now < warm + time).then_some(slot),
            Goal::Ask(_) if slot.warmup => Some(slot),
            Goal::Ask(count) => {
                let before = self.counted.fetch_add(batch, Ordering::Relaxed);
                (before < count).then(|| Slot { messages: batch.min(count - before), ..slot })
            }
            Goal::Get(count) => (self.counted.load(Ordering::Relaxed) < count).then_some(slot),
        }
    }

    /// The n-th call of an open loop; `None` when it is not of the plan, or too late.
    fn admit_due(&self, n: u64, now: Instant) -> Option<Slot> {
        let plan = &self.plan;
        let calls = calls_planned(plan);
        let end = self.start() + plan.warmup + plan.time();
        if n >= calls.all || (matches!(plan.goal, Goal::Time(_)) && now >= end + LATE_MAX) {
            return None;
        }
        let after_warmup = n.checked_sub(calls.warmup);
        let messages = match (plan.goal, after_warmup) {
            (Goal::Ask(count), Some(n)) => plan.batch.min(count - n * plan.batch),
            _ => plan.batch,
        };
        self.counted.fetch_add(messages, Ordering::Relaxed);
        Some(Slot { due: self.due(n), messages, warmup: after_warmup.is_none() })
    }

    fn got(&self, messages: u64) {
        if let Goal::Get(count) = self.plan.goal
            && self.counted.fetch_add(messages, Ordering::Relaxed) + messages >= count
        {
            self.over.cancel();
        }
    }

    /// Whether a call counts. In a closed loop that runs for a time, what ends within it does. In an open loop, what is
    /// due within it does, however late it ends: to leave out the slow ones would flatter the server.
    fn is_measured(&self, slot: Slot, end: Instant) -> bool {
        let warm = self.start() + self.plan.warmup;
        match self.plan.goal {
            Goal::Time(time) if self.plan.rate.is_none() => end >= warm && end < warm + time,
            Goal::Time(_) | Goal::Ask(_) => !slot.warmup,
            Goal::Get(_) => end >= warm,
        }
    }
}

/// Lets calls go when they are due and ends the load at its limit. Returns the messages that were let go, 0 in a closed
/// loop.
fn pace(course: &Course, start: Instant, threads: &[thread::JoinHandle<Tally>]) -> u64 {
    let plan = &course.plan;
    let calls = calls_planned(plan).all;
    let mut released = 0;
    while released < calls && !is_over(course, start, threads) {
        let now = Instant::now();
        while released < calls && course.due(released) <= now {
            course.released[(released % u64::from(plan.connections)) as usize].add_permits(1);
            released += 1;
        }
        thread::sleep(course.due(released).saturating_duration_since(Instant::now()).min(PACER_SLEEP_MAX));
    }
    // Each worker gets one more turn, in which it finds that there is no such call.
    course.released.iter().for_each(|permits| permits.add_permits(plan.in_flight as usize));
    while !is_over(course, start, threads) {
        thread::sleep(PACER_SLEEP_MAX);
    }
    released * plan.batch
}

/// Calls of an open loop, from its start.
struct Calls {
    warmup: u64,
    all: u64,
}

/// None for a closed loop.
fn calls_planned(plan: &Plan) -> Calls {
    let Some(rate) = plan.rate else { return Calls { warmup: 0, all: 0 } };
    let within = |time: Duration| (time.as_secs_f64() * rate / plan.batch as f64).ceil() as u64;
    let warmup = within(plan.warmup);
    let all = match plan.goal {
        Goal::Time(time) => within(plan.warmup + time),
        Goal::Ask(count) => warmup + count.div_ceil(plan.batch),
        Goal::Get(_) => u64::MAX,
    };
    Calls { warmup, all }
}

fn is_over(course: &Course, start: Instant, threads: &[thread::JoinHandle<Tally>]) -> bool {
    if start.elapsed() >= course.plan.limit {
        course.over.cancel();
    }
    course.over.is_cancelled() || threads.iter().all(thread::JoinHandle::is_finished)
}

#[cfg(test)]
mod tests;
