//! `ferromq doctor`: what a client does, step by step, until one fails.

mod connect;
mod messages;
mod report;

use std::{process::ExitCode, time::Duration};

use crate::{proxy::HostPort, types::random};

use self::report::{Broken, Report, Said};
use super::{
    client::{self, EndpointArgs},
    output,
    tls::TlsArgs,
};

/// How long a connection, or one answer on it, may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The topic and group that are made for this where topics are made by themselves.
const OWN: &str = "ferromq-doctor";

/// The steps, in order.
const STEPS: [&str; 12] =
    ["name", "tcp", "protocol", "ready", "route", "type", "advertised", "settings", "send", "receive", "ack", "clock"];

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  ferromq doctor mq.example.com:8081
  ferromq doctor mq.example.com:8081 --tls --topic orders --json

It sends one message and receives and acknowledges that one alone, by a tag of its own. What it leaves behind it says: in
a topic of yours the message is delivered to your consumers too. Exit code 0: a client gets through; 1: it does not.")]
pub struct Args {
    /// The address that clients are given.
    #[arg(value_name = "HOST:PORT", default_value = "127.0.0.1:8081")]
    endpoint: HostPort,
    #[command(flatten)]
    tls: TlsArgs,
    /// The topic to try.
    #[arg(long, default_value = OWN)]
    topic: String,
    /// The consumer group to try.
    #[arg(long, default_value = OWN)]
    group: String,
    /// Send a message of this type.
    #[arg(long = "type", value_enum, default_value = "normal", ignore_case = true)]
    kind: Kind,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// Types that can be tried without leaving anything to be decided or waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Kind {
    Normal,
    Fifo,
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        // What is wrong with the arguments is not the server's.
        self.tls.connector()?;
        let mut report = Report::new(self.endpoint.to_string());
        let is_through = self.examine(&mut report).await.is_ok();
        report.skip_rest(&STEPS);
        if self.json {
            output::json(&report.json(is_through))?;
        } else {
            output::text(&report.text(is_through))?;
        }
        Ok(if is_through { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Goes through the steps; `Err` at the first that is broken, which the report then has.
    async fn examine(&self, report: &mut Report) -> Result<(), ()> {
        let addresses = report.note("name", connect::resolve(&self.endpoint).await)?;
        let address = report.note("tcp", connect::dial_one_of(&addresses, &self.endpoint).await)?;
        report.note("protocol", connect::protocol(address, &self.endpoint, &self.tls).await)?;
        let at = EndpointArgs::of(self.endpoint.clone(), self.tls.clone());
        report.note("ready", connect::ready(&at).await)?;
        let queues = report.note("route", messages::route(&at, &self.topic).await)?;
        report.note("type", messages::type_fits(&queues, &self.topic, self.kind))?;
        report.note("advertised", connect::advertised(&queues, &self.endpoint).await)?;
        self.exchange(&at, report).await
    }

    async fn exchange(&self, at: &EndpointArgs, report: &mut Report) -> Result<(), ()> {
        let tag = format!("doctor-{:016x}", random());
        let trial = messages::Trial { topic: &self.topic, group: &self.group, kind: self.kind, tag };
        let (producer, mut consumer) = report.note("settings", trial.start(at).await)?;
        let message_id = report.note("send", trial.send(&producer).await)?;
        report.leaves(format!("one message with the tag {} in topic {}", trial.tag, self.topic));
        if self.topic != OWN {
            report.leaves(format!("what the consumers of topic {} do with that message", self.topic));
        }
        report.leaves(format!("progress of group {} on topic {}", self.group, self.topic));
        let receipt = report.note("receive", trial.receive(&mut consumer, &message_id).await)?;
        report.note("ack", trial.ack(&mut consumer, receipt).await)?;
        report.note("clock", messages::clock(&consumer))?;
        // What is tried has been shown; a goodbye that fails changes nothing about it.
        let _ = tokio::join!(producer.close(), consumer.close());
        Ok(())
    }
}

/// What a step found, for the next ones, and what to say about it.
type Outcome<T> = Result<(T, Said), Broken>;
