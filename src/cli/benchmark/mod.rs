//! `ferromq benchmark`: load for any server that speaks RocketMQ 5's gRPC API, and how FerroMQ does beside a bare gRPC
//! service.
//!
//! Closed loop: every connection keeps a fixed number of calls under way, so the rate is what the server can do.
//! Open loop (`--rate`): calls are due at fixed times whatever the server does, and latency counts from the time a call
//! was due. A server that stalls is charged with everything that had to wait (no coordinated omission).

mod args;
mod client;
mod compare;
mod consume;
mod drive;
mod e2e;
mod kind;
mod kinds;
mod produce;
mod tally;
mod yardstick;

use std::process::ExitCode;

/// Put load on a RocketMQ 5 server and measure it
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// Send messages as fast as the server takes them, or at a rate
    Produce(produce::Args),
    /// Fill a topic, then receive it and acknowledge in batches
    Consume(consume::Args),
    /// Send at a rate and receive: time from when a message was due to be sent until it arrived
    E2e(e2e::Args),
    /// Serve the API with a bare gRPC service that keeps nothing
    #[command(hide = true)]
    Yardstick(yardstick::Args),
    /// Measure FerroMQ in both flush modes beside the bare service, on this machine
    Compare(compare::Args),
    /// Measure the message types and filters beside normal messages, on this machine
    Kinds(kinds::Args),
}

/// Runs one benchmark and prints its report. The exit code says whether every call was answered OK, and nothing about
/// speed.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Produce(args) => produce::run(&args),
        Command::Consume(args) => consume::run(&args),
        Command::E2e(args) => e2e::run(&args),
        Command::Yardstick(args) => yardstick::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Kinds(args) => kinds::run(&args),
    }
}
