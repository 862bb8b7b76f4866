//! `ferromq benchmark produce`.

use std::{process::ExitCode, time::Duration};

use bytes::Bytes;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    args::{self, Load},
    client::Role,
    drive::{self, Done, Goal, Outcome, Plan},
    kind::Kind,
    tally::Report,
};

/// Time that calls have to end in once no new one starts.
pub const GRACE: Duration = Duration::from_secs(15);
/// A load that runs until it has sent so many messages ends after this at the latest.
const COUNT_LIMIT: Duration = Duration::from_secs(3600);

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    load: Load,
    #[command(flatten)]
    shape: Shape,
    /// How long to measure
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = args::duration)]
    duration: Duration,
    /// Send so many messages instead (those of the warm-up come on top)
    #[arg(long, value_name = "N", conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Messages per second over all connections; latency counts from when a message was due. As fast as the server
    /// answers when absent
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
}

/// What is sent.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Shape {
    /// Bytes of a body
    #[arg(long, short = 's', value_name = "BYTES", default_value = "1K", value_parser = args::bytes)]
    pub size: usize,
    /// Messages of one call
    #[arg(long, short = 'b', value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub batch: u64,
    /// What the messages are. A server that does not make topics by itself must have the topic, of that type
    #[arg(long = "type", value_name = "KIND", value_enum, default_value_t)]
    pub kind: Kind,
    /// Of messages of type delay: how long after they are sent they are due
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = args::duration)]
    pub delay: Duration,
}

/// Messages per second: above 0, up to a million.
pub fn rate(text: &str) -> anyhow::Result<f64> {
    let rate: f64 = text.parse()?;
    anyhow::ensure!(rate > 0.0 && rate <= 1e6, "{text} messages per second is no rate; give 0.1 to 1000000");
    Ok(rate)
}

#[derive(Serialize)]
struct Told<'a> {
    benchmark: &'static str,
    endpoint: String,
    connections: u32,
    in_flight: u32,
    size: usize,
    batch: u64,
    #[serde(rename = "type")]
    kind: Kind,
    rate: Option<f64>,
    #[serde(flatten)]
    report: &'a Report,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let goal = args.count.map_or(Goal::Time(args.duration), Goal::Ask);
    let plan = plan(&args.load, &args.shape, goal, args.rate);
    let outcome = load(plan, &args.shape)?;
    let report = outcome.tally.report(outcome.elapsed, args.shape.size, outcome.unsent);
    let told = Told {
        benchmark: "produce",
        endpoint: args.load.endpoint.to_string(),
        connections: args.load.connections,
        in_flight: args.load.in_flight,
        size: args.shape.size,
        batch: args.shape.batch,
        kind: args.shape.kind,
        rate: args.rate,
        report: &report,
    };
    if args.load.json {
        println!("{}", serde_json::to_string_pretty(&told)?);
    } else {
        println!("produce to {}: {} B x {}, {}", told.endpoint, told.size, told.batch, shown(&args.load, args.rate));
        println!("{report}");
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The load in words.
pub fn shown(load: &Load, rate: Option<f64>) -> String {
    let rate = rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("{rate} messages/s"));
    format!("{} connections x {} in flight, {rate}", load.connections, load.in_flight)
}

/// The plan of sending.
pub fn plan(load: &Load, shape: &Shape, goal: Goal, rate: Option<f64>) -> Plan {
    let limit = match goal {
        Goal::Time(time) => load.warmup + time + GRACE,
        Goal::Ask(_) | Goal::Get(_) => COUNT_LIMIT,
    };
    Plan {
        endpoint: load.endpoint.clone(),
        topic: load.topic.clone(),
        role: Role::Producer,
        connections: load.connections,
        in_flight: load.in_flight,
        threads: load.threads(),
        batch: shape.batch,
        warmup: load.warmup,
        goal,
        rate,
        limit,
    }
}

/// Sends messages of this shape.
pub fn load(plan: Plan, shape: &Shape) -> anyhow::Result<Outcome> {
    let (body, shape) = (body(shape.size), *shape);
    drive::drive(plan, CancellationToken::new(), move |connection, slot| {
        let body = body.clone();
        async move {
            connection.send(shape, slot.messages, &body, None).await?;
            Ok(Done { messages: slot.messages, latencies: None })
        }
    })
}

/// A body that does not compress to nothing.
pub fn body(size: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(size).collect()
}
