//! `ferromq benchmark e2e`: from when a message was due to be sent until it arrived; of delayed messages, from when they were
//! due to arrive.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    args::{self, Load},
    consume,
    drive::{self, Done, Goal, Outcome, Plan},
    kind::{Kind, Wanted},
    produce::{self, Shape},
    tally::Report,
};

/// The user property that says which run a message is of and when it was due.
const NOTE: &str = "benchmark-due";
/// Messages that have not arrived this long after the last was sent count as missing.
const ARRIVAL_GRACE: Duration = Duration::from_secs(10);
const ARRIVAL_CHECK: Duration = Duration::from_millis(20);
/// Times of delivery are whole milliseconds.
const EARLY_BY: Duration = Duration::from_millis(1);
/// Delayed messages are waited for, so they must not be due later than this.
const DELAY_MAX: Duration = Duration::from_secs(600);

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    shape: Shape,
    /// Consumer group
    #[arg(long, default_value = "ferromq-benchmark-e2e")]
    group: String,
    /// How long to measure
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = args::duration)]
    duration: Duration,
    /// Messages per second over all connections
    #[arg(long, value_name = "N", default_value = "1000", value_parser = produce::rate)]
    rate: f64,
}

#[derive(Serialize)]
struct Told<'a> {
    benchmark: &'static str,
    endpoint: String,
    connections: u32,
    size: usize,
    batch: u64,
    rate: f64,
    /// Of sending alone.
    produce: &'a Report,
    /// Sent and not arrived.
    missing: u64,
    /// Arrived before they were due.
    early: u64,
    #[serde(flatten)]
    report: &'a Report,
}

/// What sender and receiver share.
#[derive(Clone)]
struct Run {
    /// Tells this run's messages from older ones in the topic.
    id: u32,
    origin: Instant,
    /// Latencies count for messages that were due this long after the origin.
    warm: Duration,
    arrived: Arc<AtomicU64>,
    early: Arc<AtomicU64>,
}

impl Run {
    fn note(&self, due: Instant) -> String {
        format!("{}:{}", self.id, due.saturating_duration_since(self.origin).as_nanos())
    }

    /// When a message of this run was due, from the origin.
    fn due(&self, note: &str) -> Option<Duration> {
        let (id, nanos) = note.split_once(':')?;
        (id.parse() == Ok(self.id)).then_some(())?;
        nanos.parse().ok().map(Duration::from_nanos)
    }
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let delay = if args.shape.kind == Kind::Delay { args.shape.delay } else { Duration::ZERO };
    anyhow::ensure!(
        delay <= DELAY_MAX,
        "messages that are due in {delay:?} are not waited for; give --delay up to {DELAY_MAX:?}, for example 2s"
    );
    let run = Run {
        id: std::process::id(),
        origin: Instant::now(),
        // The sender needs a moment to connect; it is not measured either.
        warm: args.load.warmup + delay,
        arrived: Arc::new(AtomicU64::new(0)),
        early: Arc::new(AtomicU64::new(0)),
    };
    let over = CancellationToken::new();
    let receiving = receive(args, run.clone(), delay, over.clone());
    let sent = send(args, run.clone(), delay);
    let missing = sent.as_ref().map_or(0, |sent| wait_for(sent.tally.messages(), &run.arrived, delay));
    over.cancel();
    let received = receiving.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
    let sent = sent?;
    tell(args, &sent, &received, missing, run.early.load(Ordering::Relaxed))
}

fn tell(args: &Args, sent: &Outcome, received: &Outcome, missing: u64, early: u64) -> anyhow::Result<ExitCode> {
    let produce = sent.tally.report(sent.elapsed, args.shape.size, sent.unsent);
    let report = received.tally.report(sent.elapsed, args.shape.size, 0);
    let told = Told {
        benchmark: "e2e",
        endpoint: args.load.endpoint.to_string(),
        connections: args.load.connections,
        size: args.shape.size,
        batch: args.shape.batch,
        rate: args.rate,
        produce: &produce,
        missing,
        early,
        report: &report,
    };
    if args.load.json {
        println!("{}", serde_json::to_string_pretty(&told)?);
    } else {
        println!("e2e over {}: {} B, {}", told.endpoint, told.size, produce::shown(&args.load, Some(args.rate)));
        println!("sent:    {produce}\narrived: {report}");
        if missing > 0 {
            println!("{missing} messages were sent and have not arrived");
        }
        if early > 0 {
            println!("{early} messages arrived before they were due");
        }
    }
    let clean = produce.is_clean() && report.is_clean() && missing == 0 && early == 0;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn send(args: &Args, run: Run, delay: Duration) -> anyhow::Result<Outcome> {
    let plan = produce::plan(&args.load, &args.shape, Goal::Time(args.duration), Some(args.rate));
    let (body, shape) = (produce::body(args.shape.size), args.shape);
    drive::drive(plan, CancellationToken::new(), move |connection, slot| {
        // What is delayed is so from when it is sent, whenever that was due.
        let due = if delay.is_zero() { slot.due } else { Instant::now() + delay };
        let (body, note) = (body.clone(), run.note(due));
        async move {
            connection.send(shape, slot.messages, &body, Some((NOTE, &note))).await?;
            Ok(Done { messages: slot.messages, latencies: None })
        }
    })
}

/// Receives in the background until told that it is over.
fn receive(
    args: &Args,
    run: Run,
    delay: Duration,
    over: CancellationToken,
) -> thread::JoinHandle<anyhow::Result<Outcome>> {
    let plan = Plan {
        // Polls that are parked cost nothing; two for each connection never leave the server without one.
        in_flight: 2,
        warmup: Duration::ZERO,
        limit: args.load.warmup + args.duration + delay + produce::GRACE + ARRIVAL_GRACE * 2,
        ..consume::plan(&args.load, &args.group, Wanted::All, 32, u64::MAX)
    };
    thread::spawn(move || {
        drive::drive(plan, over, move |connection, slot| {
            let run = run.clone();
            async move {
                let messages = connection.receive(u32::try_from(slot.messages)?).await?;
                let now = run.origin.elapsed();
                if messages.is_empty() {
                    return Ok(Done::default());
                }
                let notes = messages.iter().filter_map(|m| m.user_properties.get(NOTE));
                let due: Vec<_> = notes.filter_map(|note| run.due(note)).collect();
                connection.ack(messages).await?;
                run.arrived.fetch_add(due.len() as u64, Ordering::Relaxed);
                let early = due.iter().filter(|due| now + EARLY_BY < **due).count();
                run.early.fetch_add(early as u64, Ordering::Relaxed);
                let measured = due.into_iter().filter(|due| *due >= run.warm);
                let latencies: Vec<_> = measured.map(|due| now.saturating_sub(due)).collect();
                Ok(Done { messages: latencies.len() as u64, latencies: Some(latencies) })
            }
        })
    })
}

/// Waits for what was sent; returns how many have not arrived in time.
fn wait_for(sent: u64, arrived: &AtomicU64, delay: Duration) -> u64 {
    let deadline = Instant::now() + delay + ARRIVAL_GRACE;
    loop {
        let missing = sent.saturating_sub(arrived.load(Ordering::Relaxed));
        if missing == 0 || Instant::now() >= deadline {
            return missing;
        }
        thread::sleep(ARRIVAL_CHECK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_another_run_have_no_latency() {
        let origin = Instant::now();
        let run = |id| Run { id, origin, warm: Duration::ZERO, arrived: Arc::default(), early: Arc::default() };
        let note = run(7).note(origin + Duration::from_micros(1500));
        assert_eq!(run(7).due(&note), Some(Duration::from_micros(1500)));
        assert_eq!(run(8).due(&note), None);
        assert!(["", "7", "7:", "7:x", ":1"].iter().all(|note| run(7).due(note).is_none()));
    }
}
