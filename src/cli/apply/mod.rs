//! `ferromq apply`: topics and groups as a document says, again and again the same.

mod document;
mod plan;

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep},
};
use tonic::transport::Channel;

use crate::{
    config::value::{self, Unit},
    proto::admin::{self as pb, admin_service_client::AdminServiceClient},
};

use self::{
    document::Document,
    plan::{Call, Plan, Present, Verb},
};
use super::{
    output,
    remote::{AdminArgs, refused},
};

/// How long `--wait` lets pass before it looks for the server again.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How often `--watch` reads the document again.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);
/// The exit code of `--diff` when there is a difference.
const DIFFERENT: u8 = 3;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
The document:
  topics:
    - name: orders            # type, queues, readable, writable
      type: fifo
      queues: 16
  groups:
    - name: billing           # fifo, broadcast, maxAttempts, retryAfter, consumeEnabled
      maxAttempts: 16
      retryAfter: [1s, 10s, 1m]
  owns:                       # what --prune may delete: names, or beginnings of names with a *
    topics: [\"orders-*\"]

What an entry does not name is left as it is; what the document does not name is left too, but for --prune.

Examples:
  ferromq apply -f topics.yaml --plan
  ferromq apply -f topics.yaml
  ferromq apply -f topics.yaml --prune --yes
  ferromq apply -f topics.yaml --diff || echo 'somebody changed something'

Exit codes: 0 done, 1 failed, 2 the command line was not understood, 3 --diff found a difference.")]
pub struct Args {
    /// The document; - is standard input.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    plan: bool,
    /// Show what differs, line by line, and do nothing; exit code 3 when something does.
    #[arg(long, conflicts_with = "plan")]
    diff: bool,
    /// Delete what the document owns and does not name. Needs --yes to delete anything.
    #[arg(long)]
    prune: bool,
    /// Delete without being asked again: topics go with their messages.
    #[arg(long)]
    yes: bool,
    /// Wait this long for a server that is not there yet.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_time)]
    wait: Duration,
    /// Go on: apply the document again when it changes, until SIGTERM or Ctrl-C.
    #[arg(long, conflicts_with_all = ["plan", "diff"])]
    watch: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    value::span(text, Unit::Seconds).ok_or_else(|| "it is not a time, like 30s or 2m".to_owned())
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        if self.watch { self.watch().await } else { self.once(&read(&self.file)?).await }
    }

    /// A first process of a container hears no signal that it did not ask for.
    async fn watch(&self) -> anyhow::Result<ExitCode> {
        let mut ends = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
        let mut state = Watched::default();
        loop {
            tokio::select! {
                () = self.look(&mut state) => {}
                _ = ends.0.recv() => return Ok(ExitCode::SUCCESS),
                _ = ends.1.recv() => return Ok(ExitCode::SUCCESS),
            }
            tokio::select! {
                () = sleep(WATCH_INTERVAL) => {}
                _ = ends.0.recv() => return Ok(ExitCode::SUCCESS),
                _ = ends.1.recv() => return Ok(ExitCode::SUCCESS),
            }
        }
    }

    /// Applies what is not applied yet. What fails is said once, and tried again.
    async fn look(&self, state: &mut Watched) {
        let tried = match read(&self.file) {
            Ok(text) if state.applied.as_ref() == Some(&text) => return,
            Ok(text) => self.once(&text).await.map(|_| text),
            Err(error) => Err(error),
        };
        match tried {
            Ok(text) => *state = Watched { applied: Some(text), complaint: String::new() },
            Err(error) => {
                let complaint = super::in_full(&error);
                if complaint != state.complaint {
                    eprintln!("ferromq: {complaint}; trying again every {} s", WATCH_INTERVAL.as_secs());
                    state.complaint = complaint;
                }
            }
        }
    }

    async fn once(&self, text: &str) -> anyhow::Result<ExitCode> {
        let document = Document::parse(text).with_context(|| self.file.display().to_string())?;
        if self.prune && document.owns_nothing() {
            bail!("--prune has nothing to go by: name what the document owns, under `owns`, or leave --prune out");
        }
        let mut client = self.connect().await?;
        let plan = Plan::between(&document, &present(&mut client).await?, self.prune);
        if !plan.impossible.is_empty() {
            bail!("nothing was changed: {}", plan.impossible.join("; "));
        }
        if self.plan || self.diff {
            self.show(&plan)?;
            let different = self.diff && !plan.steps.is_empty();
            return Ok(ExitCode::from(if different { DIFFERENT } else { 0 }));
        }
        self.may_delete(&plan)?;
        for step in &plan.steps {
            for call in &step.calls {
                make(&mut client, call.clone())
                    .await
                    .map_err(refused)
                    .with_context(|| format!("{} {}", step.what, step.name))?;
            }
        }
        self.tell(&plan)?;
        Ok(ExitCode::SUCCESS)
    }

    fn may_delete(&self, plan: &Plan) -> anyhow::Result<()> {
        let doomed: Vec<String> = plan.of(Verb::Delete).map(|step| format!("{} {}", step.what, step.name)).collect();
        if !doomed.is_empty() && !self.yes {
            bail!("nothing was changed: this would delete {}; add --yes to mean it", doomed.join(", "));
        }
        Ok(())
    }

    async fn connect(&self) -> anyhow::Result<AdminServiceClient<Channel>> {
        let end = Instant::now() + self.wait;
        loop {
            match self.admin.connect_to_change().await {
                Err(_) if Instant::now() < end => sleep(LOOK_AGAIN).await,
                other => return other,
            }
        }
    }

    /// What `--plan` and `--diff` print.
    fn show(&self, plan: &Plan) -> io::Result<()> {
        if self.admin.json {
            output::json(&plan::as_json(plan, false))
        } else if self.diff {
            output::text(&plan::as_diff(plan))
        } else {
            let counts = counts(plan, ["to create", "to change", "to delete"]);
            output::text(&format!("{}{counts}; nothing was changed\n", plan::as_text(plan)))
        }
    }

    fn tell(&self, plan: &Plan) -> io::Result<()> {
        if self.admin.json {
            output::json(&plan::as_json(plan, true))
        } else {
            output::text(&format!("{}{}\n", plan::as_text(plan), counts(plan, ["created", "changed", "deleted"])))
        }
    }
}

/// What `--watch` knows of its last look.
#[derive(Default)]
struct Watched {
    applied: Option<String>,
    complaint: String,
}

fn counts(plan: &Plan, words: [&str; 3]) -> String {
    let verbs = [Verb::Create, Verb::Change, Verb::Delete];
    let counts = verbs.iter().zip(words).map(|(verb, word)| format!("{} {word}", plan.of(*verb).count()));
    format!("{}, {} unchanged", counts.collect::<Vec<_>>().join(", "), plan.unchanged)
}

fn listen(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("listening for signals")
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let limit = document::BYTES_MAX + 1;
    let read = if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_string(&mut text)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text))
    };
    let path = path.display();
    read.with_context(|| format!("{path}: give the path of a document that this user may read"))?;
    if text.len() as u64 >= limit {
        return Err(anyhow!("{path} has more than {} bytes; is it the right file?", document::BYTES_MAX));
    }
    Ok(text)
}

async fn present(client: &mut AdminServiceClient<Channel>) -> anyhow::Result<Present> {
    let topics = client.list_topics(pb::ListTopicsRequest { include_system: false }).await.map_err(refused)?;
    let groups = client.list_groups(pb::ListGroupsRequest {}).await.map_err(refused)?;
    Ok(Present {
        topics: topics.into_inner().topics.into_iter().map(|topic| (topic.name.clone(), topic)).collect(),
        groups: groups.into_inner().groups.into_iter().map(|group| (group.name.clone(), group)).collect(),
    })
}

async fn make(client: &mut AdminServiceClient<Channel>, call: Call) -> Result<(), tonic::Status> {
    match call {
        Call::CreateTopic(request) => client.create_topic(request).await.map(drop),
        Call::UpdateTopic(request) => client.update_topic(request).await.map(drop),
        Call::DeleteTopic(request) => client.delete_topic(request).await.map(drop),
        Call::CreateGroup(request) => client.create_group(request).await.map(drop),
        Call::UpdateGroup(request) => client.update_group(request).await.map(drop),
        Call::DeleteGroup(request) => client.delete_group(request).await.map(drop),
    }
}
