//! `ferromq group`.

mod lag;
mod reset;

use std::{process::ExitCode, time::Duration};

use serde_json::{Value, json};

use crate::{
    config::value::{self, Unit},
    proto::admin::{self as pb, retry_policy::Strategy},
};

use super::{
    output,
    remote::{AdminArgs, refused},
};

#[derive(clap::Subcommand, Debug)]
#[command(after_help = "\
Examples:
  ferromq group create billing --fifo --max-attempts 16
  ferromq group create caches --broadcast
  ferromq group update billing --retry-after 1s,10s,1m
  ferromq group describe billing
  ferromq group lag billing --json
  ferromq group connections billing
  ferromq group reset billing --topic orders --to 2026-01-31T08:00:00Z --dry-run
  ferromq group park billing --topic orders --queue 3 --offset 1042")]
pub enum Verb {
    /// Create a group; succeeds when the same one exists already.
    Create {
        /// Name of the group.
        name: String,
        /// Ordered consumption: each message group comes in order, one message at a time.
        #[arg(long)]
        fifo: bool,
        /// Broadcasting: each client gets every message that comes once it is there.
        #[arg(long)]
        broadcast: bool,
        /// Deliveries of one message before it goes to the dead-letter topic, the first included; 1 to 1000.
        #[arg(long, value_name = "N")]
        max_attempts: Option<u32>,
        /// Delay after each failed attempt, like 1s,10s,1m; the last one repeats.
        #[arg(long, value_name = "DELAYS", value_delimiter = ',', value_parser = parse_delay)]
        retry_after: Option<Vec<Duration>>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Change what is given, and leave the rest.
    #[command(group(clap::ArgGroup::new("change").required(true).multiple(true)
        .args(["fifo", "broadcast", "max_attempts", "retry_after", "consume_enabled"])))]
    Update {
        /// Name of the group.
        name: String,
        /// Ordered consumption: each message group comes in order, one message at a time.
        #[arg(long, value_name = "true|false")]
        fifo: Option<bool>,
        /// Broadcasting: each client gets every message that comes once it is there; the group's own progress rests meanwhile.
        #[arg(long, value_name = "true|false")]
        broadcast: Option<bool>,
        /// Deliveries of one message before it goes to the dead-letter topic, the first included; 1 to 1000.
        #[arg(long, value_name = "N")]
        max_attempts: Option<u32>,
        /// Delay after each failed attempt, like 1s,10s,1m; the last one repeats.
        #[arg(long, value_name = "DELAYS", value_delimiter = ',', value_parser = parse_delay)]
        retry_after: Option<Vec<Duration>>,
        /// Whether the group may consume.
        #[arg(long, value_name = "true|false")]
        consume_enabled: Option<bool>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Delete a group with its progress; its dead-letter topic stays.
    Delete {
        /// Name of the group.
        name: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// List groups.
    List {
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Go on from elsewhere: what is in flight is forgotten, and receipts from before are void.
    Reset(reset::Args),
    /// Show what a group has before it, topic by topic.
    Lag {
        /// The group.
        name: String,
        /// Of this topic alone.
        #[arg(long)]
        topic: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show the consumers of a group that are connected.
    Connections {
        /// The group.
        name: String,
        /// Those that subscribe to this topic.
        #[arg(long)]
        topic: Option<String>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show one group with its progress.
    Describe {
        /// Name of the group.
        name: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Count a message as consumed, so that what waits behind it in its message group is delivered.
    Skip {
        /// Name of the group.
        name: String,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Move a message to the group's dead-letter topic now, so that what waits behind it is delivered.
    Park {
        /// Name of the group.
        name: String,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// One message.
#[derive(clap::Args, Debug)]
pub struct Place {
    /// Topic of the message.
    #[arg(long)]
    topic: String,
    /// Queue of the message.
    #[arg(long, value_name = "ID")]
    queue: u32,
    /// Offset of the message, as `ferromq group describe` shows it.
    #[arg(long, value_name = "N")]
    offset: u64,
}

fn parse_delay(text: &str) -> Result<Duration, String> {
    value::span(text, Unit::Seconds).ok_or_else(|| "it is not a time, like 500ms, 10s or 2m".to_owned())
}

impl Verb {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Create { name, fifo, broadcast, max_attempts, retry_after, admin } => {
                let retry_policy = retry_after.map(customized);
                create(pb::CreateGroupRequest { name, fifo, max_attempts, retry_policy, broadcast }, &admin).await
            }
            Self::Update { name, fifo, broadcast, max_attempts, retry_after, consume_enabled, admin } => {
                let retry_policy = retry_after.map(customized);
                let change =
                    pb::UpdateGroupRequest { name, fifo, max_attempts, retry_policy, consume_enabled, broadcast };
                update(change, &admin).await
            }
            Self::Delete { name, admin } => delete(name, &admin).await,
            Self::Reset(args) => args.run().await,
            Self::Lag { name, topic, admin } => lag::lag(name, topic, &admin).await,
            Self::Connections { name, topic, admin } => lag::connections(name, topic, &admin).await,
            Self::List { admin } => list(&admin).await,
            Self::Describe { name, admin } => describe(name, &admin).await,
            Self::Skip { name, place, admin } => skip(name, place, &admin).await,
            Self::Park { name, place, admin } => park(name, place, &admin).await,
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) fn customized(delays: Vec<Duration>) -> pb::RetryPolicy {
    let next = delays.into_iter().map(|d| prost_types::Duration {
        seconds: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
        nanos: d.subsec_nanos() as i32,
    });
    pb::RetryPolicy { strategy: Some(Strategy::Customized(pb::CustomizedBackoff { next: next.collect() })) }
}

async fn create(request: pb::CreateGroupRequest, admin: &AdminArgs) -> anyhow::Result<()> {
    let answer = admin.connect_to_change().await?.create_group(request).await.map_err(refused)?.into_inner();
    let group = answer.group.unwrap_or_default();
    if admin.json {
        let mut document = as_json(&group);
        document["created"] = answer.created.into();
        output::json(&document)?;
    } else {
        let how = if answer.created { "created" } else { "exists already, with the same attributes" };
        output::line(&format!("group {} {how}", group.name))?;
    }
    Ok(())
}

async fn update(change: pb::UpdateGroupRequest, admin: &AdminArgs) -> anyhow::Result<()> {
    let answer = admin.connect_to_change().await?.update_group(change).await.map_err(refused)?.into_inner();
    let group = answer.group.unwrap_or_default();
    if admin.json {
        output::json(&as_json(&group))?
    } else {
        output::line(&format!("group {} updated", group.name))?
    }
    Ok(())
}

async fn delete(name: String, admin: &AdminArgs) -> anyhow::Result<()> {
    admin
        .connect_to_change()
        .await?
        .delete_group(pb::DeleteGroupRequest { name: name.clone() })
        .await
        .map_err(refused)?;
    if admin.json {
        output::json(&json!({ "name": name, "deleted": true }))?;
    } else {
        output::line(&format!("group {name} deleted"))?;
    }
    Ok(())
}

async fn list(admin: &AdminArgs) -> anyhow::Result<()> {
    let request = pb::ListGroupsRequest {};
    let groups = admin.connect().await?.list_groups(request).await.map_err(refused)?.into_inner().groups;
    if admin.json {
        output::json(&groups.iter().map(as_json).collect())?;
    } else {
        output::table(&HEAD, groups.iter().map(row).collect())?;
    }
    Ok(())
}

async fn describe(name: String, admin: &AdminArgs) -> anyhow::Result<()> {
    let request = pb::DescribeGroupRequest { name };
    let answer = admin.connect().await?.describe_group(request).await.map_err(refused)?.into_inner();
    let group = answer.group.unwrap_or_default();
    if admin.json {
        let mut document = as_json(&group);
        document["queues"] = answer.queues.iter().map(progress_json).collect();
        output::json(&document)?;
        return Ok(());
    }
    output::table(&HEAD, vec![row(&group)])?;
    output::line("")?;
    let plain = ["TOPIC", "QUEUE", "COMMIT", "MAX", "LAG", "IN FLIGHT", "WAITING RETRY"];
    let order = ["LOCKED GROUPS", "BLOCKED", "OLDEST BLOCKING"].into_iter().filter(|_| group.fifo);
    let whose = ["CLIENT", "THERE"].into_iter().filter(|_| group.broadcast);
    let head: Vec<&str> = plain.into_iter().chain(order).chain(whose).collect();
    output::table(&head, answer.queues.iter().map(|queue| progress_row(queue, &group)).collect())?;
    Ok(())
}

async fn skip(group: String, place: Place, admin: &AdminArgs) -> anyhow::Result<()> {
    let Place { topic, queue, offset } = place;
    let request = pb::SkipMessageRequest { group, topic: topic.clone(), queue_id: queue, offset };
    let skipped = admin.connect_to_change().await?.skip_message(request).await.map_err(refused)?.into_inner().skipped;
    say(admin, "skipped", skipped, &Place { topic, queue, offset })
}

async fn park(group: String, place: Place, admin: &AdminArgs) -> anyhow::Result<()> {
    let Place { topic, queue, offset } = place;
    let request = pb::ParkMessageRequest { group, topic: topic.clone(), queue_id: queue, offset };
    let parked = admin.connect_to_change().await?.park_message(request).await.map_err(refused)?.into_inner().parked;
    say(admin, "parked", parked, &Place { topic, queue, offset })
}

fn say(admin: &AdminArgs, what: &str, so: bool, place: &Place) -> anyhow::Result<()> {
    let Place { topic, queue, offset } = place;
    if admin.json {
        return Ok(output::json(&json!({ "topic": topic, "queue": queue, "offset": offset, what: so }))?);
    }
    let how = if so { what } else { "was done already" };
    Ok(output::line(&format!("message {offset} of queue {queue} of topic {topic} {how}"))?)
}

const HEAD: [&str; 6] = ["GROUP", "FIFO", "MAX ATTEMPTS", "RETRY AFTER", "CONSUME ENABLED", "BROADCAST"];

fn row(group: &pb::Group) -> Vec<String> {
    let policy = policy_text(group.retry_policy.as_ref());
    vec![
        group.name.clone(),
        group.fifo.to_string(),
        group.max_attempts.to_string(),
        policy,
        group.consume_enabled.to_string(),
        group.broadcast.to_string(),
    ]
}

fn as_json(group: &pb::Group) -> Value {
    json!({
        "name": group.name,
        "fifo": group.fifo,
        "broadcast": group.broadcast,
        "maxAttempts": group.max_attempts,
        "retryPolicy": policy_json(group.retry_policy.as_ref()),
        "consumeEnabled": group.consume_enabled,
    })
}

/// What the group has not done yet.
fn lag(queue: &pb::QueueProgress) -> u64 {
    queue.max_offset.saturating_sub(queue.commit_offset)
}

fn progress_row(queue: &pb::QueueProgress, group: &pb::Group) -> Vec<String> {
    let numbers = [queue.commit_offset, queue.max_offset, lag(queue), queue.in_flight, queue.waiting_retry];
    let mut row = vec![queue.topic.clone(), queue.queue_id.to_string()];
    row.extend(numbers.map(|n| n.to_string()));
    if group.fifo {
        let oldest = queue.oldest_blocking_offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string());
        row.extend([queue.locked_groups.to_string(), queue.blocked.to_string(), oldest]);
    }
    if group.broadcast {
        let there = if queue.client_is_gone { "no" } else { "yes" };
        row.extend([output::harmless(queue.client_id()), there.to_owned()]);
    }
    row
}

fn progress_json(queue: &pb::QueueProgress) -> Value {
    let mut progress = json!({
        "topic": queue.topic,
        "queue": queue.queue_id,
        "min": queue.min_offset,
        "max": queue.max_offset,
        "commit": queue.commit_offset,
        "lag": lag(queue),
        "inFlight": queue.in_flight,
        "waitingRetry": queue.waiting_retry,
    });
    if let Some(oldest) = queue.oldest_blocking_offset {
        progress["lockedGroups"] = queue.locked_groups.into();
        progress["blocked"] = queue.blocked.into();
        progress["oldestBlocking"] = oldest.into();
    }
    if let Some(client) = &queue.client_id {
        progress["client"] = client.as_str().into();
        progress["clientIsThere"] = (!queue.client_is_gone).into();
    }
    progress
}

fn millis(wire: Option<&prost_types::Duration>) -> i64 {
    wire.map_or(0, |d| d.seconds.saturating_mul(1000).saturating_add(i64::from(d.nanos / 1_000_000)))
}

fn policy_json(policy: Option<&pb::RetryPolicy>) -> Value {
    match policy.and_then(|p| p.strategy.as_ref()) {
        Some(Strategy::Customized(c)) => {
            json!({ "delaysMs": c.next.iter().map(|d| millis(Some(d))).collect::<Vec<_>>() })
        }
        Some(Strategy::Exponential(e)) => json!({
            "initialMs": millis(e.initial.as_ref()),
            "maxMs": millis(e.max.as_ref()),
            "multiplier": e.multiplier,
        }),
        None => Value::Null,
    }
}

pub(super) fn policy_text(policy: Option<&pb::RetryPolicy>) -> String {
    let text = |ms: i64| {
        let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s")];
        let whole = units.iter().find(|(unit, _)| ms != 0 && ms % unit == 0);
        whole.map_or_else(|| format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
    };
    match policy.and_then(|p| p.strategy.as_ref()) {
        Some(Strategy::Customized(c)) => {
            let delays: Vec<String> = c.next.iter().map(|d| text(millis(Some(d)))).collect();
            match delays.as_slice() {
                [first, .., last] if delays.len() > 4 => format!("{first}..{last} ({} steps)", delays.len()),
                _ => delays.join(","),
            }
        }
        Some(Strategy::Exponential(e)) => {
            let (initial, max) = (text(millis(e.initial.as_ref())), text(millis(e.max.as_ref())));
            format!("{initial} x{} up to {max}", e.multiplier)
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_policy_reads_well() {
        let seconds = |s: &[u64]| customized(s.iter().copied().map(Duration::from_secs).collect());
        assert_eq!(policy_text(Some(&seconds(&[1, 10]))), "1s,10s");
        assert_eq!(policy_text(Some(&seconds(&[1, 2, 3, 4, 60]))), "1s..1m (5 steps)");
        assert_eq!(policy_text(Some(&customized(vec![Duration::from_millis(1500)]))), "1500ms");
        assert_eq!(policy_text(None), "");
    }
}
