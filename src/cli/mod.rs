//! THE COMMAND LINE: one file for each family of subcommands.
//!
//! Exit codes are a contract: 0 done, 1 failed, 2 not understood, 3 (`apply --diff` alone) not as the document says. What was asked for goes to standard output, the rest
//! to standard error; an error is one line that says what, with which value, why, and what mends it.

mod apply;
pub mod benchmark;
mod client;
mod config;
mod consume;
mod dlq;
mod doctor;
mod group;
mod health;
mod log_level;
mod message;
mod metrics;
mod output;
mod produce;
mod remote;
mod server;
mod timer;
mod times;
mod tls;
mod topic;

use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  ferromq                                         run a server, data in ./store, topics made by themselves
  ferromq -c conf/production.conf --store /var/lib/ferromq
  ferromq --set flushDiskType=ASYNC_FLUSH --set grpcServerPort=0 --ports-file ports.json
  ferromq topic create orders --type fifo --queues 16
  ferromq apply -f topics.yaml --diff             what a document of topics and groups would change
  ferromq produce orders 'hello' --tag paid
  ferromq consume orders --group billing --follow
  ferromq doctor mq.example.com:8081              why does my client not get through?
  ferromq message explain 01A4BB6D19F2C41A...     who got it, and what became of it
  ferromq config --json                           every setting in effect, and where it came from

Exit codes: 0 done, 1 failed, 2 the command line was not understood.";

/// A RocketMQ 5 compatible messaging server: one binary, one command.
#[derive(Parser, Debug)]
#[command(name = "ferromq", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    server: server::Args,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the server (what `ferromq` alone does).
    Server(server::Args),
    /// Show every setting in effect, with where it came from.
    Config(config::Args),
    /// Create, change, delete and look at topics.
    #[command(subcommand)]
    Topic(topic::Verb),
    /// Create, change, delete and look at consumer groups.
    #[command(subcommand)]
    Group(group::Verb),
    /// Make topics and consumer groups as a document says.
    Apply(apply::Args),
    /// Look at, take back and move messages that wait for their delivery time.
    #[command(subcommand)]
    Timer(timer::Verb),
    /// Look at stored messages, tell their lives, send them again.
    #[command(subcommand)]
    Message(message::Verb),
    /// Look at dead letters, and send them again.
    #[command(subcommand)]
    Dlq(dlq::Verb),
    /// Send messages.
    Produce(produce::Args),
    /// Receive messages and print them.
    Consume(consume::Args),
    Benchmark(benchmark::Args),
    /// Ask whether a server is ready: exit code 0 when it is, 1 when not.
    Health(health::Args),
    /// Do what a client does, step by step, and name the first that fails with its cure.
    Doctor(doctor::Args),
    /// List what /metrics tells; print a dashboard or alert rules made from it.
    Metrics(metrics::Args),
    /// Show or change what a running server logs.
    LogLevel(log_level::Args),
    /// Print a completion script for a shell.
    Completions(Completions),
}

#[derive(Args, Debug)]
#[command(after_help = "Example: ferromq completions bash > /etc/bash_completion.d/ferromq")]
struct Completions {
    /// Shell that the script is for.
    shell: clap_complete::Shell,
}

/// Understands the arguments and does what they ask.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(asked) => {
            // Help and version are errors to clap, for which it knows the exit code too.
            let code = u8::try_from(asked.exit_code()).unwrap_or(2);
            return if asked.print().is_ok() { ExitCode::from(code) } else { ExitCode::FAILURE };
        }
    };
    let command = cli.command.unwrap_or(Command::Server(cli.server));
    match run(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ferromq: {}", in_full(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, less those that it quotes already.
fn in_full(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(|cause| cause.to_string()) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Server(args) => args.run(),
        Command::Config(args) => args.run(),
        Command::Topic(verb) => remote::block_on(verb.run()),
        Command::Group(verb) => remote::block_on(verb.run()),
        Command::Apply(args) => remote::block_on(args.run()),
        Command::Timer(verb) => remote::block_on(verb.run()),
        Command::Message(verb) => remote::block_on(verb.run()),
        Command::Dlq(verb) => remote::block_on(verb.run()),
        Command::Produce(args) => remote::block_on(args.run()),
        Command::Consume(args) => remote::block_on(args.run()),
        Command::Benchmark(args) => benchmark::run(args),
        Command::Health(args) => remote::block_on(args.run()),
        Command::Doctor(args) => remote::block_on(args.run()),
        Command::Metrics(args) => args.run(),
        Command::LogLevel(args) => remote::block_on(args.run()),
        Command::Completions(Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "ferromq", &mut script);
            output::text(&String::from_utf8_lossy(&script))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_of_commands_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_of_every_command_says_what_it_is() {
        fn look(command: &clap::Command, path: &str, silent: &mut Vec<String>) {
            let all = command.get_arguments().filter(|arg| arg.get_help().is_none() && !arg.is_hide_set());
            silent.extend(all.map(|arg| format!("{path} {}", arg.get_id())));
            command.get_subcommands().for_each(|sub| look(sub, &format!("{path} {}", sub.get_name()), silent));
        }
        let mut silent = Vec::new();
        look(&Cli::command(), "ferromq", &mut silent);
        assert!(silent.is_empty(), "no help for {silent:#?}");
    }

    #[test]
    fn ferromq_alone_is_the_server_with_its_flags() {
        let cli = Cli::try_parse_from(["ferromq", "--store", "/tmp/x", "--set", "a=b"]).expect("understood");
        assert!(cli.command.is_none());
        let cli = Cli::try_parse_from(["ferromq", "server", "-c", "a.conf", "-c", "b.json"]).expect("understood");
        assert!(matches!(cli.command, Some(Command::Server(_))));
    }

    #[test]
    fn a_cause_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot write: {source}; make room")]
        struct Quotes {
            source: std::io::Error,
        }
        let error = anyhow::Error::from(Quotes { source: std::io::Error::other("full") }).context("starting");
        assert_eq!(in_full(&error), "starting: cannot write: full; make room");
    }

    #[test]
    fn types_are_understood_in_any_case() {
        for kind in ["normal", "NORMAL", "Fifo"] {
            Cli::try_parse_from(["ferromq", "topic", "create", "T", "--type", kind]).expect("understood");
        }
        let wrong = Cli::try_parse_from(["ferromq", "topic", "create", "T", "--type", "strange"]);
        assert_eq!(wrong.expect_err("refused").exit_code(), 2);
    }
}
