//! One subject, once.

use std::{
    fmt,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, ensure};
use serde::Serialize;

use super::{
    super::{
        args::Load,
        client::Connection,
        consume::{self, Filling},
        drive::{Goal, Outcome},
        kind::{Kind, Wanted},
        produce::{self, Shape},
        tally::{Millis, Report},
    },
    Args, Subject,
    child::{Running, Stage},
};

const TOPIC: &str = "compare-send";
const RECEIVE_TOPIC: &str = "compare-receive";
const GROUP: &str = "compare";
/// Between the first message and the look at idle memory.
const IDLE: Duration = Duration::from_millis(500);
/// Receiving takes no longer.
const RECEIVE_LIMIT: Duration = Duration::from_secs(60);

/// What one run of a subject showed.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub subject: Subject,
    /// Milliseconds from exec to the first acknowledged message, with an empty store.
    pub first_ack_ms: f64,
    /// Private memory half a second later.
    pub idle_rss_anon_kib: u64,
    /// Sending one message a call.
    pub single: Phase,
    /// Sending a batch a call.
    pub batch: Phase,
    /// Receiving a batch a call, and acknowledging it with one more.
    pub receive: Phase,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    /// Microseconds of the server's CPU per message, the warm-up included.
    pub server_cpu_us_per_message: f64,
    #[serde(flatten)]
    pub report: Report,
}

/// Starts the subject, measures, ends it.
pub fn take(args: &Args, stage: &Stage, subject: Subject) -> anyhow::Result<Sample> {
    let running = stage.start(subject, args.size, &args.set)?;
    let load = |topic: &str| Load {
        endpoint: running.endpoint.clone(),
        topic: topic.to_owned(),
        connections: args.connections,
        in_flight: args.in_flight,
        threads: None,
        warmup: args.warmup,
        json: false,
    };
    let first_ack_ms = first_ack(&running, args.size).context("the first message")?;
    thread::sleep(IDLE);
    let idle_rss_anon_kib = running.rss_anon_kib()?;
    let send = |batch| {
        prepare(args)?;
        let shape = Shape { size: args.size, batch, kind: Kind::Normal, delay: Duration::ZERO };
        let plan = produce::plan(&load(TOPIC), &shape, Goal::Time(args.duration), None);
        measure(&running, args.size, || produce::load(plan, &shape))
    };
    let single = send(1).context("sending")?;
    let batch = send(args.batch).context("sending batches")?;
    let load = load(RECEIVE_TOPIC);
    // The yardstick gives as many as are asked for.
    if subject != Subject::Yardstick {
        consume::fill(&load, GROUP, &Filling::of(Wanted::All, args.size), args.receive)?;
    }
    prepare(args)?;
    let mut plan = consume::plan(&load, GROUP, Wanted::All, args.batch, args.receive);
    // Measured from the first poll on: it is over in a second or two.
    (plan.warmup, plan.limit) = (Duration::ZERO, RECEIVE_LIMIT);
    let receive = measure(&running, args.size, || {
        let outcome = consume::load(plan)?;
        let got = outcome.tally.messages();
        ensure!(got >= args.receive, "{got} of {} messages came within {RECEIVE_LIMIT:?}", args.receive);
        Ok(outcome)
    })
    .context("receiving")?;
    Ok(Sample { subject, first_ack_ms, idle_rss_anon_kib, single, batch, receive })
}

/// Runs what the user wants to be done before a measurement.
fn prepare(args: &Args) -> anyhow::Result<()> {
    let Some(command) = &args.prepare else { return Ok(()) };
    let status = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.context("running sh for --prepare")?;
    ensure!(status.success(), "--prepare {command:?} ended with {status}");
    Ok(())
}

/// Milliseconds from exec.
fn first_ack(running: &Running<'_>, size: usize) -> anyhow::Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(Connection::send_one(&running.endpoint, TOPIC, produce::body(size)))?;
    Ok(running.started.elapsed().as_secs_f64() * 1000.0)
}

pub fn measure(
    running: &Running<'_>,
    size: usize,
    load: impl FnOnce() -> anyhow::Result<Outcome>,
) -> anyhow::Result<Phase> {
    let before = running.cpu()?;
    let outcome = load()?;
    let used = running.cpu()?.saturating_sub(before);
    let report = outcome.tally.report(outcome.elapsed, size, outcome.unsent);
    ensure!(report.is_clean(), "{} calls failed, e.g. {}", report.failed_calls, report.errors.join("; "));
    let server_cpu_us_per_message = used.as_secs_f64() * 1e6 / outcome.tally.messages() as f64;
    Ok(Phase { server_cpu_us_per_message, report })
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<9}  single {:.0}/s (p99 {} ms)  batch {:.0}/s  receive {:.0}/s  first ack {:.0} ms  idle {} KiB",
            format!("{:?}", self.subject),
            self.single.report.messages_per_second,
            Millis(self.single.report.latency_us.p99),
            self.batch.report.messages_per_second,
            self.receive.report.messages_per_second,
            self.first_ack_ms,
            self.idle_rss_anon_kib,
        )
    }
}
