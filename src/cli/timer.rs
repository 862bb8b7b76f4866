//! `ferromq timer`.

use std::{process::ExitCode, time::Duration};

use anyhow::Context as _;
use prost_types::Timestamp as WireTime;
use serde_json::{Value, json};

use crate::{
    proto::admin as pb,
    types::{Clock as _, SystemClock},
};

use super::{
    output,
    remote::{AdminArgs, refused},
    times::{millis, parse_span, parse_time, shown, wire_time},
};

#[derive(clap::Subcommand, Debug)]
#[command(after_help = "\
Examples:
  ferromq timer list --topic reminders --limit 20
  ferromq timer find 01A4BB6D19F2C41A2B0A0B0C0D00000005 --json
  ferromq timer cancel 01A4BB6D19F2C41A2B0A0B0C0D00000005
  ferromq timer reschedule 01A4BB6D19F2C41A2B0A0B0C0D00000005 --in 90m
  ferromq timer reschedule 01A4BB6D19F2C41A2B0A0B0C0D00000005 --at 2026-01-31T08:00:00Z")]
pub enum Verb {
    /// List messages that wait for their delivery time, the earliest first.
    List {
        /// Of this topic alone.
        #[arg(long)]
        topic: Option<String>,
        /// How many at most, up to 1000.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show what waits under a message id.
    Find {
        #[command(flatten)]
        message: Message,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Take a message back: it is never delivered.
    Cancel {
        #[command(flatten)]
        message: Message,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Give a message another delivery time.
    #[command(group(clap::ArgGroup::new("when").required(true).args(["after", "at"])))]
    Reschedule {
        #[command(flatten)]
        message: Message,
        /// From now on, like 500ms, 30s, 5m, 2h or 1d.
        #[arg(long = "in", value_name = "TIME", value_parser = parse_span)]
        after: Option<Duration>,
        /// At a time like 2026-01-31T08:00:00Z, or milliseconds since 1970; what is past is delivered at once.
        #[arg(long, value_name = "TIME", value_parser = parse_time, allow_hyphen_values = true)]
        at: Option<WireTime>,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// Which message.
#[derive(clap::Args, Debug)]
pub struct Message {
    /// Id of the message, as its producer was told.
    #[arg(value_name = "MESSAGE_ID")]
    message_id: String,
    /// In this topic alone.
    #[arg(long)]
    topic: Option<String>,
}

impl Verb {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::List { topic, limit, admin } => list(topic, limit, &admin).await,
            Self::Find { message, admin } => {
                let Message { message_id, topic } = message;
                let request = pb::FindTimerRequest { message_id, topic: topic.unwrap_or_default() };
                let answer = admin.connect().await?.find_timer(request).await.map_err(refused)?;
                show(&answer.into_inner().timers, None, &admin)
            }
            Self::Cancel { message, admin } => {
                let Message { message_id, topic } = message;
                let request = pb::CancelTimerRequest { message_id, topic: topic.unwrap_or_default() };
                let answer = admin.connect_to_change().await?.cancel_timer(request).await.map_err(refused)?;
                show(&answer.into_inner().timers, Some("cancelled"), &admin)
            }
            Self::Reschedule { message, after, at, admin } => reschedule(message, after, at, &admin).await,
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(topic: Option<String>, limit: u32, admin: &AdminArgs) -> anyhow::Result<()> {
    let request = pb::ListTimersRequest { topic: topic.unwrap_or_default(), limit };
    let answer = admin.connect().await?.list_timers(request).await.map_err(refused)?.into_inner();
    let late = answer.lateness.unwrap_or_default();
    if admin.json {
        let class = |c: &pb::timer_lateness::Class| json!({ "atMostMs": c.at_most_ms, "count": c.count });
        let classes: Value = late.classes.iter().map(class).collect();
        output::json(&json!({
            "pending": answer.pending,
            "lateness": { "count": late.count, "sumMs": late.sum_ms, "maxMs": late.max_ms, "classes": classes },
            "timers": answer.timers.iter().map(as_json).collect::<Value>(),
        }))?;
        return Ok(());
    }
    table(&answer.timers)?;
    output::line("")?;
    output::line(&format!("{} waiting; {} delivered, at most {} ms late", answer.pending, late.count, late.max_ms))?;
    Ok(())
}

async fn reschedule(
    message: Message,
    after: Option<Duration>,
    at: Option<WireTime>,
    admin: &AdminArgs,
) -> anyhow::Result<()> {
    let due = match (after, at) {
        (Some(after), _) => wire_time(SystemClock::new().wall().plus(after).as_millis()),
        (None, at) => at.context("no time was given; --in or --at gives one")?,
    };
    let Message { message_id, topic } = message;
    let request = pb::RescheduleTimerRequest { message_id, topic: topic.unwrap_or_default(), due: Some(due) };
    let answer = admin.connect_to_change().await?.reschedule_timer(request).await.map_err(refused)?;
    show(&answer.into_inner().timers, Some("rescheduled"), admin)
}

fn show(timers: &[pb::Timer], done: Option<&str>, admin: &AdminArgs) -> anyhow::Result<()> {
    if admin.json {
        output::json(&timers.iter().map(as_json).collect())?;
    } else if let Some(done) = done {
        for timer in timers {
            let (topic, id, due) = (&timer.topic, &timer.message_id, shown(timer.due.as_ref()));
            output::line(&format!("message {} of {topic}, due {due}, {done}", output::harmless(id)))?;
        }
    } else {
        table(timers)?;
    }
    Ok(())
}

fn table(timers: &[pb::Timer]) -> std::io::Result<()> {
    let now = SystemClock::new().wall().as_millis();
    let row = |timer: &pb::Timer| {
        let due = millis(timer.due.as_ref());
        vec![
            shown(timer.due.as_ref()),
            left(due.saturating_sub(now)),
            timer.topic.clone(),
            output::harmless(&timer.message_id),
            output::harmless(timer.tag.as_deref().unwrap_or("-")),
            timer.body_bytes.to_string(),
        ]
    };
    output::table(&["DUE", "IN", "TOPIC", "MESSAGE ID", "TAG", "BYTES"], timers.iter().map(row).collect())
}

/// How long that is, in the largest unit that leaves two digits or so.
fn left(ms: i64) -> String {
    match ms {
        ..=0 => "due".to_owned(),
        1..10_000 => format!("{ms}ms"),
        10_000..600_000 => format!("{}s", ms / 1000),
        600_000..36_000_000 => format!("{}m", ms / 60_000),
        36_000_000..864_000_000 => format!("{}h", ms / 3_600_000),
        _ => format!("{}d", ms / 86_400_000),
    }
}

fn as_json(timer: &pb::Timer) -> Value {
    json!({
        "topic": timer.topic,
        "messageId": timer.message_id,
        "due": millis(timer.due.as_ref()),
        "stored": millis(timer.stored.as_ref()),
        "born": millis(timer.born.as_ref()),
        "tag": timer.tag,
        "keys": timer.keys,
        "bodyBytes": timer.body_bytes,
        "rolled": timer.rolled,
        "offset": timer.offset,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_in_one_unit() {
        let told = [-1, 0, 9_999, 10_000, 600_000, 36_000_000, 864_000_000].map(left);
        assert_eq!(told, ["due", "due", "9999ms", "10s", "10m", "10h", "10d"]);
    }
}
