//! `ferromq benchmark consume`: fill the topic, then receive and acknowledge.

use std::{process::ExitCode, time::Duration};

use anyhow::ensure;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    args::Load,
    client::Role,
    drive::{self, Done, Goal, Outcome, Plan},
    kind::{Kind, ONE_IN, Wanted},
    produce::{self, Shape},
    tally::Report,
};

/// Receiving ends after this at the latest.
const LIMIT: Duration = Duration::from_secs(600);
/// Messages of one call while the topic is filled.
const FILL_BATCH: u64 = 32;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    load: Load,
    /// Consumer group
    #[arg(long, default_value = "ferromq-benchmark")]
    group: String,
    /// Bytes of a body
    #[arg(long, short = 's', value_name = "BYTES", default_value = "1K", value_parser = super::args::bytes)]
    size: usize,
    /// Messages to send first and to receive, those of the warm-up included
    #[arg(long, value_name = "N", default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Receive what is there already, without sending first
    #[arg(long)]
    no_fill: bool,
    /// Messages asked for by one call, all acknowledged by one more
    #[arg(long, short = 'b', value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=32))]
    batch: u64,
    /// Which messages are wanted; of what is filtered, --count is what is sent
    #[arg(long, value_name = "WHICH", value_enum, default_value_t)]
    wanted: Wanted,
}

#[derive(Serialize)]
struct Told<'a> {
    benchmark: &'static str,
    endpoint: String,
    connections: u32,
    in_flight: u32,
    size: usize,
    batch: u64,
    wanted: Wanted,
    #[serde(flatten)]
    report: &'a Report,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let wanted = args.wanted;
    ensure!(
        wanted == Wanted::All || args.count >= 2 * ONE_IN,
        "one in {ONE_IN} of {} is nothing; raise --count",
        args.count
    );
    if !args.no_fill {
        fill(&args.load, &args.group, &Filling::of(wanted, args.size), args.count)?;
    }
    let count = wanted.of(args.count);
    let plan = plan(&args.load, &args.group, wanted, args.batch, count);
    let outcome = load(plan)?;
    let got = outcome.tally.messages();
    let report = outcome.tally.report(outcome.elapsed, args.size, 0);
    ensure!(
        got < count || report.messages > 0,
        "all {got} messages came within the warm-up; raise --count or lower --warmup"
    );
    let told = Told {
        benchmark: "consume",
        endpoint: args.load.endpoint.to_string(),
        connections: args.load.connections,
        in_flight: args.load.in_flight,
        size: args.size,
        batch: args.batch,
        wanted,
        report: &report,
    };
    if args.load.json {
        println!("{}", serde_json::to_string_pretty(&told)?);
    } else {
        println!("consume from {}: up to {} a call, {}", told.endpoint, told.batch, produce::shown(&args.load, None));
        println!("{report}");
    }
    if got < count {
        eprintln!("only {got} of {count} messages came within {} s", LIMIT.as_secs());
    }
    Ok(if report.is_clean() && got >= count { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a topic is filled with, for whom.
pub struct Filling {
    pub kind: Kind,
    pub wanted: Wanted,
    /// Bytes of a body.
    pub size: usize,
}

impl Filling {
    pub fn of(wanted: Wanted, size: usize) -> Self {
        let kind = if wanted == Wanted::All { Kind::Normal } else { Kind::Marked };
        Self { kind, wanted, size }
    }
}

/// Sends `count` messages, after the group has shown itself once: Apache gives a group that it first sees on a topic with
/// history the newest message only.
pub fn fill(load: &Load, group: &str, filling: &Filling, count: u64) -> anyhow::Result<()> {
    let mut first = load.clone();
    (first.connections, first.in_flight, first.warmup) = (1, 1, Duration::ZERO);
    let introduction = plan(&first, group, filling.wanted, 1, 1);
    let fill = Load { warmup: Duration::ZERO, ..load.clone() };
    let shape = Shape { size: filling.size, batch: FILL_BATCH, kind: filling.kind, delay: Duration::ZERO };
    // One more: the introduction takes one.
    let fill = produce::plan(&fill, &shape, Goal::Ask(count + 1), None);
    let introduced = std::thread::spawn(move || self::load(introduction));
    let filled = produce::load(fill, &shape)?;
    let introduced = introduced.join().map_err(|_| anyhow::anyhow!("the first poll panicked"))??;
    for outcome in [&filled, &introduced] {
        let report = outcome.tally.report(outcome.elapsed, filling.size, 0);
        ensure!(report.failed_calls == 0, "filling the topic: {}", report.errors.join("; "));
    }
    Ok(())
}

/// The plan of receiving `count` messages, up to `batch` a call.
pub fn plan(load: &Load, group: &str, wanted: Wanted, batch: u64, count: u64) -> Plan {
    Plan {
        endpoint: load.endpoint.clone(),
        topic: load.topic.clone(),
        role: Role::Consumer { group: group.to_owned(), wanted },
        connections: load.connections,
        in_flight: load.in_flight,
        threads: load.threads(),
        batch,
        warmup: load.warmup,
        goal: Goal::Get(count),
        rate: None,
        limit: LIMIT,
    }
}

/// Receives and acknowledges.
pub fn load(plan: Plan) -> anyhow::Result<Outcome> {
    let max = u32::try_from(plan.batch)?;
    drive::drive(plan, CancellationToken::new(), move |connection, _| async move {
        let messages = connection.receive(max).await?;
        let count = messages.len() as u64;
        if count > 0 {
            connection.ack(messages).await?;
        }
        Ok(Done { messages: count, latencies: None })
    })
}
