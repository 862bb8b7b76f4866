//! `ferromq group reset`.

use serde_json::{Value, json};

use crate::{
    cli::{
        output,
        remote::{AdminArgs, refused},
        times,
    },
    proto::admin::{self as pb, reset_group_offsets_request::To},
};

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  ferromq group reset billing --topic orders --to begin                  everything again
  ferromq group reset billing --topic orders --to end --dry-run          what would be passed over
  ferromq group reset billing --topic orders --queue 3 --to 1200
  ferromq group reset billing --topic orders --to 2026-01-31T08:00:00+01:00

A broadcasting group's clients are moved one after the other, with a record for each. When the server dies in between, the
command fails, and after the start some are at the new place and some where they were; nothing is in between. Run it again:
whom it has moved it moves to the same place.")]
pub struct Args {
    /// Consumer group.
    group: String,
    /// Topic whose queues it is about.
    #[arg(long)]
    topic: String,
    /// Only this queue.
    #[arg(long, value_name = "N")]
    queue: Option<u32>,
    /// Where to go on: begin, end, an offset, or a time like 2026-01-31T08:00:00Z.
    #[arg(long, value_name = "POSITION", value_parser = parse_position)]
    to: To,
    /// Say what it would do, and do nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

fn parse_position(text: &str) -> Result<To, String> {
    match text {
        "begin" => return Ok(To::Begin(true)),
        "end" => return Ok(To::End(true)),
        _ => {}
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map(To::Offset).map_err(|_| "no queue has so large an offset".to_owned());
    }
    times::parse_instant(text)
        .map(To::Time)
        .ok_or_else(|| "it is not begin, end, an offset or a time like 2026-01-31T08:00:00Z".to_owned())
}

impl Args {
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { group, topic, queue, to, dry_run, admin } = self;
        let request = pb::ResetGroupOffsetsRequest {
            group: group.clone(),
            topic: topic.clone(),
            queue_id: queue,
            to: Some(to),
            dry_run,
        };
        let queues =
            admin.connect_to_change().await?.reset_group_offsets(request).await.map_err(refused)?.into_inner().queues;
        if admin.json {
            let queues: Value = queues.iter().map(as_json).collect();
            output::json(&json!({ "group": group, "topic": topic, "dryRun": dry_run, "queues": queues }))?;
            return Ok(());
        }
        output::table(&["QUEUE", "FROM", "TO", "IN FLIGHT", "WAITING RETRY"], queues.iter().map(row).collect())?;
        output::line(&total(&queues))?;
        let done = if dry_run { "nothing was changed; leave out --dry-run to do it" } else { "done" };
        output::line(done)?;
        Ok(())
    }
}

/// What it means for the messages of all queues.
fn total(queues: &[pb::QueueReset]) -> String {
    let sum = |of: fn(&pb::QueueReset) -> u64| queues.iter().map(of).fold(0, u64::saturating_add);
    let passed = sum(|queue| queue.to_offset.saturating_sub(queue.from_offset));
    let again = sum(|queue| queue.from_offset.saturating_sub(queue.to_offset));
    let forgotten = sum(|queue| queue.in_flight.saturating_add(queue.waiting_retry));
    format!("in all {again} offsets come again, {passed} are passed over; {forgotten} deliveries are forgotten")
}

fn row(queue: &pb::QueueReset) -> Vec<String> {
    let numbers = [queue.from_offset, queue.to_offset, queue.in_flight, queue.waiting_retry];
    std::iter::once(queue.queue_id.to_string()).chain(numbers.map(|n| n.to_string())).collect()
}

fn as_json(queue: &pb::QueueReset) -> Value {
    json!({
        "queue": queue.queue_id,
        "from": queue.from_offset,
        "to": queue.to_offset,
        "inFlight": queue.in_flight,
        "waitingRetry": queue.waiting_retry,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_of_all_queues_and_both_directions() {
        let queue =
            |from_offset, to_offset| pb::QueueReset { from_offset, to_offset, in_flight: 1, ..Default::default() };
        let told = total(&[queue(10, 4), queue(0, 7), queue(5, 0)]);
        assert_eq!(told, "in all 11 offsets come again, 7 are passed over; 3 deliveries are forgotten");
    }

    #[test]
    fn positions_are_words_offsets_or_times() {
        assert_eq!(parse_position("begin"), Ok(To::Begin(true)));
        assert_eq!(parse_position("end"), Ok(To::End(true)));
        assert_eq!(parse_position("1200"), Ok(To::Offset(1200)));
        let time = |seconds| Ok(To::Time(prost_types::Timestamp { seconds, nanos: 0 }));
        assert_eq!(parse_position("2026-01-31T08:00:00Z"), time(1_769_846_400));
        assert_eq!(parse_position("2026-01-31T08:00:00+01:00"), time(1_769_842_800));
        for text in ["", "soon", "-1", "99999999999999999999", "2026-13-01T00:00:00Z"] {
            assert!(parse_position(text).is_err(), "{text:?}");
        }
    }
}
