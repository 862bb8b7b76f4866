//! `ferromq message explain`.

use prost_types::Timestamp as WireTime;
use serde_json::{Map, Value, json};

use crate::{
    cli::{
        output,
        remote::{AdminArgs, refused},
    },
    proto::admin::{self as pb, group_standing::State, life_event::Kind},
};

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  ferromq message explain 01A4BB6D19F2C41A2B0A0B0C0D00000005
  ferromq message explain 01A4BB6D19F2C41A2B0A0B0C0D00000005 --topic orders --json | jq -r 'select(.event) | .event.what'")]
pub struct Args {
    /// Its id, as the producer was told it.
    message_id: String,
    /// Of this topic alone, which is quicker where there are many.
    #[arg(long)]
    topic: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

impl Args {
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { message_id, topic, admin } = self;
        let request = pb::ExplainMessageRequest { message_id, topic: topic.unwrap_or_default() };
        let story = admin.connect_to_change().await?.explain_message(request).await.map_err(refused)?.into_inner();
        if admin.json {
            lines(&story)?
        } else {
            text(&story)?
        }
        Ok(())
    }
}

/// One object a line: each copy, each event, each group, each gap.
fn lines(story: &pb::ExplainMessageResponse) -> std::io::Result<()> {
    let copies = story.copies.iter().map(|copy| json!({ "copy": copy_json(copy) }));
    let events = story.events.iter().map(|event| json!({ "event": event_json(event) }));
    let standings = story.standings.iter().map(|standing| json!({ "group": standing_json(standing) }));
    let gaps = story.gaps.iter().map(|gap| json!({ "gap": gap }));
    copies.chain(events).chain(standings).chain(gaps).try_for_each(|line| output::line(&line.to_string()))
}

fn text(story: &pb::ExplainMessageResponse) -> std::io::Result<()> {
    let copy = |copy: &pb::StoredCopy| {
        let kind = copy.kind().as_str_name().to_ascii_lowercase().replace('_', " ");
        let numbers = [copy.physical_offset, copy.body_bytes].map(|n| n.to_string());
        [vec![kind, place(&copy.topic, copy.queue_id, copy.offset), time(copy.stored.as_ref())], numbers.to_vec()]
            .concat()
    };
    output::table(&["COPY", "WHERE", "STORED", "LOG OFFSET", "BYTES"], story.copies.iter().map(copy).collect())?;
    output::line("")?;
    let event = |event: &pb::LifeEvent| {
        let who = match (&event.client_id, &event.host) {
            (Some(client), Some(host)) => output::harmless(&format!("{client} ({host})")),
            _ => "-".to_owned(),
        };
        let place = place(&event.topic, event.queue_id, event.offset);
        let group = event.group.clone().unwrap_or_else(|| "-".to_owned());
        vec![time(event.at.as_ref()), told(event), group, place, who]
    };
    output::table(&["AT", "WHAT", "GROUP", "WHERE", "CLIENT"], story.events.iter().map(event).collect())?;
    if !story.standings.is_empty() {
        output::line("")?;
        let standing = |standing: &pb::GroupStanding| {
            let place = place(&standing.topic, standing.queue_id, standing.offset);
            let who = standing.client_id.as_deref().map(output::harmless);
            let who = who.map_or_else(|| standing.group.clone(), |client| format!("{} ({client})", standing.group));
            vec![who, place, state(standing)]
        };
        output::table(&["GROUP", "WHERE", "NOW"], story.standings.iter().map(standing).collect())?;
    }
    for gap in &story.gaps {
        output::line(&format!("\nNot known: {gap}"))?;
    }
    Ok(())
}

fn place(topic: &str, queue: u32, offset: u64) -> String {
    format!("{topic} {queue}@{offset}")
}

fn time(at: Option<&WireTime>) -> String {
    at.map_or_else(|| "-".to_owned(), ToString::to_string)
}

/// What happened, in words.
fn told(event: &pb::LifeEvent) -> String {
    let (at, attempt, count) = (time(event.time.as_ref()), event.attempt(), event.count());
    match event.kind() {
        Kind::Unspecified => "something that this version does not know".into(),
        Kind::Stored => "stored".into(),
        Kind::Held => format!("stored, to be delivered at {at}"),
        Kind::Prepared => "stored as the half of a transaction".into(),
        Kind::Delivered => format!("delivered, attempt {attempt}, invisible until {at}"),
        Kind::Unread => "not read by the client; it comes again soon".into(),
        Kind::Done if event.host.is_some() => "acknowledged".into(),
        // Of a broadcasting group; who did it is not remembered.
        Kind::Done if event.client_id.is_some() => "done: acknowledged, or given up with attempts left".into(),
        Kind::Done => "done: acknowledged, or skipped by an operator".into(),
        Kind::Failed => format!("failed or put off; attempt {attempt} is due at {at}"),
        Kind::DeadLettered => {
            let why = match count {
                0 => "given up before an attempt had failed, or parked by an operator".to_owned(),
                n if n >= event.attempts_max() => format!("all {n} attempts failed"),
                n => format!("given up after {n} failed attempts"),
            };
            format!("dead-lettered to {}: {why}", event.to_topic())
        }
        Kind::GivenUp => "given up by its consumer".into(),
        Kind::Dropped => {
            let max = event.attempts_max();
            format!("given up after {count} of {max} attempts; a broadcasting group has no dead letters")
        }
        Kind::Resent => format!("sent to {} again", event.to_topic()),
        Kind::Fired => {
            let late = event.late.unwrap_or_default();
            format!("its time came; delivered {} ms late", late.seconds * 1000 + i64::from(late.nanos / 1_000_000))
        }
        Kind::Moved => format!("carried forward in the log, or given another time; due at {at}"),
        Kind::Recalled => "recalled".into(),
        Kind::Checked => format!("a producer was asked what became of it, time {count}"),
        Kind::Committed => "committed".into(),
        Kind::RolledBack => "rolled back".into(),
        Kind::Undecided => "given up: no producer decided".into(),
        Kind::Reset => format!("the group went on from offset {}", event.to_offset()),
        Kind::Forgotten => "the group's progress was forgotten".into(),
    }
}

fn state(standing: &pb::GroupStanding) -> String {
    let (at, attempt) = (time(standing.time.as_ref()), standing.attempt);
    match standing.state() {
        State::Unspecified => "not known to this version".into(),
        State::Ahead => "not delivered yet".into(),
        State::InFlight => format!("in flight, attempt {attempt}, until {at}"),
        State::Waiting => format!("waits for attempt {attempt}, due at {at}"),
        State::Doomed => "on its way to the dead letters".into(),
        State::Done => "done".into(),
    }
}

fn copy_json(copy: &pb::StoredCopy) -> Value {
    json!({
        "kind": copy.kind().as_str_name(),
        "topic": copy.topic,
        "queue": copy.queue_id,
        "offset": copy.offset,
        "physicalOffset": copy.physical_offset,
        "bornMs": millis(copy.born.as_ref()),
        "storedMs": millis(copy.stored.as_ref()),
        "bodyBytes": copy.body_bytes,
    })
}

/// What is not told of an event is left out.
fn event_json(event: &pb::LifeEvent) -> Value {
    let all = json!({
        "what": event.kind().as_str_name(),
        "atMs": millis(event.at.as_ref()),
        "topic": event.topic,
        "queue": event.queue_id,
        "offset": event.offset,
        "group": event.group,
        "client": event.client_id,
        "host": event.host,
        "attempt": event.attempt,
        "timeMs": millis(event.time.as_ref()),
        "toTopic": event.to_topic,
        "toOffset": event.to_offset,
        "count": event.count,
        "attemptsMax": event.attempts_max,
        "lateMs": event.late.as_ref().map(|late| late.seconds * 1000 + i64::from(late.nanos / 1_000_000)),
    });
    let Value::Object(all) = all else { return all };
    all.into_iter().filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>().into()
}

fn standing_json(standing: &pb::GroupStanding) -> Value {
    json!({
        "name": standing.group,
        "client": standing.client_id,
        "topic": standing.topic,
        "queue": standing.queue_id,
        "offset": standing.offset,
        "state": standing.state().as_str_name(),
        "attempt": Some(standing.attempt).filter(|attempt| *attempt > 0),
        "timeMs": millis(standing.time.as_ref()),
    })
}

fn millis(time: Option<&WireTime>) -> Option<i64> {
    time.map(|t| t.seconds.saturating_mul(1000).saturating_add(i64::from(t.nanos / 1_000_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_and_state_is_told_in_words() {
        let all = (0..32).filter_map(|n| Kind::try_from(n).ok());
        for kind in all {
            let told = told(&pb::LifeEvent { kind: kind.into(), ..Default::default() });
            assert!(!told.is_empty() && !told.contains('_'), "{kind:?}: {told}");
        }
        for state_of in (0..16).filter_map(|n| State::try_from(n).ok()) {
            let told = state(&pb::GroupStanding { state: state_of.into(), ..Default::default() });
            assert!(!told.is_empty(), "{state_of:?}");
        }
    }

    #[test]
    fn a_dead_letter_says_why() {
        let dead = |count, attempts_max| {
            let kind = Kind::DeadLettered.into();
            let (count, attempts_max) = (Some(count), Some(attempts_max));
            let event = pb::LifeEvent { kind, count, attempts_max, to_topic: Some("D".into()), ..Default::default() };
            told(&event)
        };
        assert!(dead(3, 3).contains("all 3 attempts failed"));
        assert!(dead(1, 3).contains("given up after 1"));
        assert!(dead(0, 3).contains("given up before"));
    }
}
