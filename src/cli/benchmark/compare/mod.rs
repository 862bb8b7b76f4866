//! `ferromq benchmark compare`: the server in both flush modes beside the yardstick, in one interleaved run.
//!
//! Each round starts each subject afresh with an empty store and has it to itself, so that neither a drift of the machine
//! nor another subject's leftovers favour one of them. What counts is the median over the rounds.

pub mod child;
pub mod disk;
pub mod medians;
pub mod sample;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use serde::Serialize;

use super::args;
use child::Stage;
use disk::Disk;
use medians::Medians;
use sample::Sample;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// How often each subject is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Directory for the stores; on the disk to be measured, with a few GiB free. A subdirectory is made and removed
    #[arg(long, value_name = "DIR", default_value = ".")]
    store: PathBuf,
    /// Time of each measurement of sending
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = args::duration)]
    duration: Duration,
    /// Time before each that is not measured
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = args::duration)]
    warmup: Duration,
    /// Bytes of a body
    #[arg(long, short = 's', value_name = "BYTES", default_value = "1K", value_parser = args::bytes)]
    size: usize,
    /// Connections to each server
    #[arg(long, short = 'c', value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    connections: u32,
    /// Calls under way on each connection
    #[arg(long, short = 'i', value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    in_flight: u32,
    /// Messages of the batches, and of a poll
    #[arg(long, short = 'b', value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=32))]
    batch: u64,
    /// Messages to receive
    #[arg(long, value_name = "N", default_value_t = 150_000, value_parser = clap::value_parser!(u64).range(1..))]
    receive: u64,
    /// Shell command to run before each measurement, for instance one that touches all free memory: a virtual machine may
    /// have given it back to its host
    #[arg(long, value_name = "COMMAND")]
    prepare: Option<String>,
    /// A setting for the server (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Report as JSON
    #[arg(long)]
    json: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// The bare service, "Y".
    Yardstick,
    /// FerroMQ with `ASYNC_FLUSH`.
    Async,
    /// FerroMQ with `SYNC_FLUSH`.
    Sync,
}

impl Subject {
    const ALL: [Self; 3] = [Self::Yardstick, Self::Async, Self::Sync];
}

#[derive(Serialize)]
struct Told<'a> {
    benchmark: &'static str,
    cores: usize,
    rounds: u32,
    size: usize,
    connections: u32,
    in_flight: u32,
    batch: u64,
    disk: Disk,
    medians: &'a Medians,
    samples: &'a [Sample],
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let stage = Stage::build(&args.store).with_context(|| format!("a store below {}", args.store.display()))?;
    let (mut samples, mut disks) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        for subject in Subject::ALL {
            let sample = sample::take(args, &stage, subject).with_context(|| format!("round {round}, {subject:?}"))?;
            if !args.json {
                eprintln!("round {round} of {}: {sample}", args.rounds);
            }
            samples.push(sample);
        }
        disks.push(stage.disk().with_context(|| format!("round {round}, writing a file"))?);
    }
    let (medians, disk) = (Medians::of(&samples), Disk::median(&disks));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let told = Told {
        benchmark: "compare",
        cores,
        rounds: args.rounds,
        size: args.size,
        connections: args.connections,
        in_flight: args.in_flight,
        batch: args.batch,
        disk,
        medians: &medians,
        samples: &samples,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&told)?);
    } else {
        println!(
            "medians of {}: {} B, {} connections x {} in flight, {cores} cores",
            args.rounds, args.size, args.connections, args.in_flight
        );
        print!("{medians}");
        println!("the disk, by itself: {disk}");
    }
    Ok(ExitCode::SUCCESS)
}
