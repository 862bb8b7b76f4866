//! `ferromq dlq`.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::proto::admin as pb;

use super::{
    message::show_resent,
    output,
    remote::{AdminArgs, refused},
};

/// Dead letters of one call.
const PAGE: u32 = 500;
/// Characters of a body in a table.
const BODY_CHARS: usize = 60;

#[derive(clap::Subcommand, Debug)]
#[command(after_help = "\
Examples:
  ferromq dlq list billing
  ferromq dlq list billing --all --json | jq -r .body
  ferromq dlq resend billing 3 5
  ferromq dlq resend billing --everything")]
pub enum Verb {
    /// List the dead letters of a group that wait to be looked after.
    List {
        /// Whose dead letters.
        group: String,
        /// Those that were sent again, or consumed, too.
        #[arg(long)]
        all: bool,
        /// How many at most.
        #[arg(long, default_value_t = 100)]
        limit: u32,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Send dead letters to the topics that they came from, with their ids. Every group of the topic gets them.
    #[command(group(clap::ArgGroup::new("which").required(true).args(["offsets", "everything"])))]
    Resend {
        /// Whose dead letters.
        group: String,
        /// Which ones: offsets in the dead-letter topic, as `ferromq dlq list` shows them.
        #[arg(value_name = "OFFSET")]
        offsets: Vec<u64>,
        /// All that were not sent again yet.
        #[arg(long)]
        everything: bool,
        /// Those that were sent again already, too.
        #[arg(long, requires = "offsets")]
        again: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

impl Verb {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::List { group, all, limit, admin } => {
                list(group, all, limit, &admin).await.map(|()| ExitCode::SUCCESS)
            }
            Self::Resend { group, offsets, again, everything: false, admin } => {
                let mut service = admin.connect_to_change().await?;
                let mut all_sent = true;
                for some in offsets.chunks(PAGE as usize) {
                    let group = group.clone();
                    let request = pb::ResendDeadLettersRequest { group, offsets: some.to_vec(), again, go_on: true };
                    let answer = service.resend_dead_letters(request).await.map_err(refused)?.into_inner();
                    all_sent &= show(&answer, admin.json)?;
                }
                Ok(exit_code(all_sent))
            }
            Self::Resend { group, admin, .. } => everything(group, &admin).await.map(exit_code),
        }
    }
}

fn exit_code(all_sent: bool) -> ExitCode {
    if all_sent { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Says which letters were sent, and which were not and why; whether all were.
fn show(answer: &pb::ResendDeadLettersResponse, json: bool) -> std::io::Result<bool> {
    answer.resent.iter().try_for_each(|resent| show_resent(resent, json))?;
    for letter in &answer.refused {
        eprintln!("ferromq: dead letter {} was not sent: {}", letter.offset, output::harmless(&letter.reason));
    }
    Ok(answer.refused.is_empty())
}

async fn list(group: String, all: bool, limit: u32, admin: &AdminArgs) -> anyhow::Result<()> {
    let (mut service, mut from, mut left) = (admin.connect_to_change().await?, Some(0), limit);
    let mut rows = Vec::new();
    while let Some(at) = from.filter(|_| left > 0) {
        let request = pb::ListDeadLettersRequest { group: group.clone(), from: at, limit: left.min(PAGE), all };
        let page = service.list_dead_letters(request).await.map_err(refused)?.into_inner();
        left = left.saturating_sub(page.letters.len() as u32);
        from = page.next;
        match admin.json {
            true => page.letters.iter().try_for_each(|letter| output::line(&as_json(letter).to_string()))?,
            false => rows.extend(page.letters.iter().map(row)),
        }
    }
    if !admin.json {
        output::table(&["OFFSET", "DEAD SINCE", "TOPIC", "MESSAGE ID", "TAG", "STATE", "BODY"], rows)?;
    }
    Ok(())
}

/// What became a dead letter meanwhile is sent as well; what was sent is not listed any more. Whether all were sent.
async fn everything(group: String, admin: &AdminArgs) -> anyhow::Result<bool> {
    let (mut service, mut from, mut all_sent) = (admin.connect_to_change().await?, Some(0), true);
    while let Some(at) = from {
        let request = pb::ListDeadLettersRequest { group: group.clone(), from: at, limit: PAGE, all: false };
        let page = service.list_dead_letters(request).await.map_err(refused)?.into_inner();
        from = page.next;
        let offsets: Vec<u64> = page.letters.iter().map(|letter| letter.offset).collect();
        let request = pb::ResendDeadLettersRequest { group: group.clone(), offsets, again: false, go_on: true };
        let answer = service.resend_dead_letters(request).await.map_err(refused)?.into_inner();
        all_sent &= show(&answer, admin.json)?;
    }
    Ok(all_sent)
}

fn row(letter: &pb::DeadLetter) -> Vec<String> {
    let body = match std::str::from_utf8(&letter.body) {
        Ok(text) => output::harmless(&text.chars().take(BODY_CHARS).collect::<String>()).replace('\n', "\\n"),
        Err(_) => format!("<{} bytes that are not text>", letter.body.len()),
    };
    vec![
        letter.offset.to_string(),
        letter.dead.map(|at| at.to_string()).unwrap_or_default(),
        letter.topic.clone(),
        output::harmless(&letter.message_id),
        output::harmless(letter.tag.as_deref().unwrap_or("-")),
        if letter.done { "done" } else { "waits" }.to_owned(),
        body,
    ]
}

fn as_json(letter: &pb::DeadLetter) -> Value {
    let millis = |t: &prost_types::Timestamp| t.seconds.saturating_mul(1000) + i64::from(t.nanos / 1_000_000);
    let mut document = json!({
        "offset": letter.offset,
        "messageId": letter.message_id,
        "topic": letter.topic,
        "tag": letter.tag,
        "keys": letter.keys,
        "bornMs": letter.born.as_ref().map(millis),
        "deadMs": letter.dead.as_ref().map(millis),
        "done": letter.done,
    });
    match std::str::from_utf8(&letter.body) {
        Ok(text) => document["body"] = text.into(),
        Err(_) => document["bodyBase64"] = output::base64(&letter.body).into(),
    }
    document
}
