//! `ferromq benchmark kinds`: sending each message type, and receiving in order and through filters, beside normal messages,
//! in one interleaved run. Each measurement has a server of its own with an empty store.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use serde::Serialize;

use super::{
    args::{self, Load},
    compare::{
        Subject,
        child::{Running, Stage},
        medians::median,
        sample::{Phase, measure},
    },
    consume::{self, Filling},
    drive::Goal,
    kind::{Kind, Wanted},
    produce::{self, Shape},
};
use crate::proto::admin::{self as pb, admin_service_client::AdminServiceClient};

const TOPIC: &str = "kinds";
const GROUP: &str = "kinds";
/// Messages of a poll.
const BATCH: u64 = 32;
/// Receiving takes no longer.
const RECEIVE_LIMIT: Duration = Duration::from_secs(120);

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How often each is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Directory for the stores; on the disk to be measured, with a few GiB free. A subdirectory is made and removed
    #[arg(long, value_name = "DIR", default_value = ".")]
    store: PathBuf,
    /// Acknowledge on the device (SYNC_FLUSH) instead of once the kernel has it (ASYNC_FLUSH)
    #[arg(long)]
    sync: bool,
    /// Time of each measurement of sending
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = args::duration)]
    duration: Duration,
    /// Time before each that is not measured
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = args::duration)]
    warmup: Duration,
    /// Bytes of a body
    #[arg(long, short = 's', value_name = "BYTES", default_value = "1K", value_parser = args::bytes)]
    size: usize,
    /// Connections, each a client of its own
    #[arg(long, short = 'c', value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    connections: u32,
    /// Calls under way on each connection
    #[arg(long, short = 'i', value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    in_flight: u32,
    /// Messages that are there to be received
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(20..))]
    receive: u64,
    /// A setting for the server (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Report as JSON
    #[arg(long)]
    json: bool,
}

/// One measurement's name, what it is, and the name of the one that it is held up to.
type Measured = (&'static str, What, &'static str);

#[derive(Clone, Copy)]
enum What {
    Send(Kind),
    Receive { fifo: bool, wanted: Wanted },
}

const MEASURED: [Measured; 8] = [
    ("send normal", What::Send(Kind::Normal), "send normal"),
    ("send fifo", What::Send(Kind::Fifo), "send normal"),
    ("send delayed", What::Send(Kind::Delay), "send normal"),
    ("send and commit transactions", What::Send(Kind::Transaction), "send normal"),
    ("receive normal", What::Receive { fifo: false, wanted: Wanted::All }, "receive normal"),
    ("receive fifo", What::Receive { fifo: true, wanted: Wanted::All }, "receive normal"),
    ("look at, by tag, 1 in 10", What::Receive { fifo: false, wanted: Wanted::Tag }, "receive normal"),
    ("look at, by SQL, 1 in 10", What::Receive { fifo: false, wanted: Wanted::Sql }, "receive normal"),
];

/// Medians of one measurement. Of what is filtered, the messages are those that are looked at.
#[derive(Debug, Serialize)]
struct Row {
    name: &'static str,
    messages_per_second: f64,
    /// To the normal one's.
    ratio: f64,
    server_cpu_us_per_message: f64,
    latency_p99_us: f64,
}

#[derive(Serialize)]
struct Told<'a> {
    benchmark: &'static str,
    flush: &'static str,
    rounds: u32,
    size: usize,
    connections: u32,
    in_flight: u32,
    medians: &'a [Row],
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let stage = Stage::build(&args.store).with_context(|| format!("a store below {}", args.store.display()))?;
    let mut phases: Vec<Vec<(f64, Phase)>> = MEASURED.iter().map(|_| Vec::new()).collect();
    for round in 1..=args.rounds {
        for ((name, what, _), measured) in MEASURED.iter().zip(&mut phases) {
            let phase = take(args, &stage, *what).with_context(|| format!("round {round}, {name}"))?;
            if !args.json {
                eprintln!("round {round} of {}: {name}: {:.0}/s", args.rounds, phase.0);
            }
            measured.push(phase);
        }
    }
    let medians = rows(&phases);
    let flush = if args.sync { "SYNC_FLUSH" } else { "ASYNC_FLUSH" };
    if args.json {
        let Args { rounds, size, connections, in_flight, .. } = *args;
        let told = Told { benchmark: "kinds", flush, rounds, size, connections, in_flight, medians: &medians };
        println!("{}", serde_json::to_string_pretty(&told)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "medians of {}: {} B, {} x {} in flight, {flush}",
        args.rounds, args.size, args.connections, args.in_flight
    );
    println!("{:<30}{:>12}{:>10}{:>16}{:>12}", "", "messages/s", "ratio", "CPU us/message", "p99 us");
    for row in medians {
        println!(
            "{:<30}{:>12.0}{:>10.2}{:>16.1}{:>12.0}",
            row.name, row.messages_per_second, row.ratio, row.server_cpu_us_per_message, row.latency_p99_us
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn rows(phases: &[Vec<(f64, Phase)>]) -> Vec<Row> {
    let rate = |phases: &[(f64, Phase)]| median(phases.iter().map(|(rate, _)| *rate).collect());
    let rate_of = |name: &str| MEASURED.iter().position(|m| m.0 == name).map_or(f64::NAN, |at| rate(&phases[at]));
    let row = |(measured, phases): (&Measured, &Vec<(f64, Phase)>)| Row {
        name: measured.0,
        messages_per_second: rate(phases),
        ratio: rate(phases) / rate_of(measured.2),
        server_cpu_us_per_message: median(phases.iter().map(|(_, phase)| phase.server_cpu_us_per_message).collect()),
        latency_p99_us: median(phases.iter().map(|(_, phase)| phase.report.latency_us.p99 as f64).collect()),
    };
    MEASURED.iter().zip(phases).map(row).collect()
}

/// Messages per second, and what else was measured.
fn take(args: &Args, stage: &Stage, what: What) -> anyhow::Result<(f64, Phase)> {
    let subject = if args.sync { Subject::Sync } else { Subject::Async };
    let running = stage.start(subject, args.size, &args.set)?;
    let load = Load {
        endpoint: running.endpoint.clone(),
        topic: TOPIC.to_owned(),
        connections: args.connections,
        in_flight: args.in_flight,
        threads: None,
        warmup: args.warmup,
        json: false,
    };
    match what {
        What::Send(kind) => {
            // None falls due while it is measured.
            let shape = Shape { size: args.size, batch: 1, kind, delay: Duration::from_secs(3600) };
            let plan = produce::plan(&load, &shape, Goal::Time(args.duration), None);
            let phase = measure(&running, args.size, || produce::load(plan, &shape))?;
            Ok((phase.report.messages_per_second, phase))
        }
        What::Receive { fifo, wanted } => receive(args, &running, &load, fifo, wanted),
    }
}

fn receive(
    args: &Args,
    running: &Running<'_>,
    load: &Load,
    fifo: bool,
    wanted: Wanted,
) -> anyhow::Result<(f64, Phase)> {
    let mut filling = Filling::of(wanted, args.size);
    if fifo {
        filling.kind = Kind::Fifo;
        make_fifo_group(running).context("making a FIFO group")?;
    }
    consume::fill(load, GROUP, &filling, args.receive)?;
    let count = wanted.of(args.receive);
    let mut plan = consume::plan(load, GROUP, wanted, BATCH, count);
    // Measured from the first poll on: it is over in a second or two.
    (plan.warmup, plan.limit) = (Duration::ZERO, RECEIVE_LIMIT);
    let mut phase = measure(running, args.size, || {
        let outcome = consume::load(plan)?;
        let got = outcome.tally.messages();
        anyhow::ensure!(got >= count, "{got} of {count} messages came within {RECEIVE_LIMIT:?}");
        Ok(outcome)
    })?;
    // What the filter did not want was looked at too.
    let share = args.receive as f64 / count as f64;
    phase.server_cpu_us_per_message /= share;
    Ok((phase.report.messages_per_second * share, phase))
}

fn make_fifo_group(running: &Running<'_>) -> anyhow::Result<()> {
    let port = running.admin.context("the server has no administration port")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut admin = AdminServiceClient::connect(format!("http://127.0.0.1:{port}")).await?;
        let group = pb::CreateGroupRequest { name: GROUP.to_owned(), fifo: true, ..Default::default() };
        admin.create_group(group).await?;
        Ok(())
    })
}
