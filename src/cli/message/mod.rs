//! `ferromq message`.

mod explain;

use std::process::ExitCode;

use prost_types::Timestamp as WireTime;
use serde_json::json;
use tonic::transport::Channel;

use crate::{
    config::value::{self, Unit},
    proto::{
        admin as pb,
        v2::{self, admin_client::AdminClient, list_message_request::SearchKey},
    },
    types::{Clock as _, SystemClock},
};

use super::{
    client, consume, output,
    remote::{AdminArgs, refused},
};

/// Messages that are asked for in one call.
const PAGE: u64 = 256;

#[derive(clap::Subcommand, Debug)]
#[command(after_help = "\
Examples:
  ferromq message get 01A4BB6D19F2C41A2B0A0B0C0D00000005 --topic orders
  ferromq message find order-4711 --topic orders
  ferromq message browse orders --from 10m --tags 'paid || refunded' --json | jq .body
  ferromq message browse orders --from 2026-01-31T08:00:00Z --to 2026-01-31T08:05:00Z --queue 3
  ferromq message explain 01A4BB6D19F2C41A2B0A0B0C0D00000005
  ferromq message resend 01A4BB6D19F2C41A2B0A0B0C0D00000005 --topic orders")]
pub enum Verb {
    /// Show the message with an id.
    Get {
        /// Its id, as the producer was told it.
        message_id: String,
        /// Its topic.
        #[arg(long)]
        topic: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show messages with a key, the newest first.
    Find {
        /// One of the keys that the producer gave it.
        key: String,
        /// Their topic.
        #[arg(long)]
        topic: String,
        #[command(flatten)]
        span: Span,
        /// How many at most.
        #[arg(long, default_value_t = 100)]
        limit: u64,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show messages in the order in which they were stored. It consumes nothing.
    Browse {
        /// The topic.
        topic: String,
        #[command(flatten)]
        span: Span,
        /// Of this queue alone.
        #[arg(long, value_name = "N")]
        queue: Option<u16>,
        /// With one of these tags, joined by ||.
        #[arg(long)]
        tags: Option<String>,
        /// How many at most.
        #[arg(long, default_value_t = 100)]
        limit: u64,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Send a message to its topic again, as it was sent and with its id. Every group of the topic gets it.
    Resend {
        /// Its id, as the producer was told it.
        message_id: String,
        /// Its topic.
        #[arg(long)]
        topic: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Tell a message's life: where it is stored, who got it, what became of it.
    Explain(explain::Args),
}

/// Store times, both ends included.
#[derive(clap::Args, Debug)]
pub struct Span {
    /// Stored then or later: a time like 2026-01-31T08:00:00Z, or how long ago, like 10m.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Option<WireTime>,
    /// Stored then or earlier.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to: Option<WireTime>,
}

fn parse_time(text: &str) -> Result<WireTime, String> {
    if let Some(ago) = value::span(text, Unit::Seconds).filter(|_| text.ends_with(char::is_alphabetic)) {
        let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        return Ok(super::times::wire_time(SystemClock::new().wall().as_millis().saturating_sub(ago)));
    }
    text.parse().map_err(|_| "it is no time like 2026-01-31T08:00:00Z, and no span like 10m".to_owned())
}

impl Verb {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Get { message_id, topic, admin } => {
                let request = query(&topic, Some(SearchKey::MessageId(message_id)), None);
                let found = ask(&mut admin.official().await?, request).await?;
                found.messages.iter().try_for_each(|message| show(message, admin.json))?;
            }
            Self::Find { key, topic, span, limit, admin } => {
                let request = query(&topic, Some(SearchKey::MessageKey(key)), Some(span));
                browse(request, limit, &admin).await?;
            }
            Self::Browse { topic, span, queue, tags, limit, admin } => {
                let mut request = query(&topic, tags.map(SearchKey::Subscription), Some(span));
                request.queue_id = queue.map(i32::from);
                browse(request, limit, &admin).await?;
            }
            Self::Resend { message_id, topic, admin } => resend(message_id, topic, &admin).await?,
            Self::Explain(args) => args.run().await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn query(topic: &str, search_key: Option<SearchKey>, span: Option<Span>) -> v2::ListMessageRequest {
    let (begin_timestamp, end_timestamp) = span.map_or((None, None), |span| (span.from, span.to));
    let topic = Some(client::resource(topic));
    v2::ListMessageRequest { topic, search_key, begin_timestamp, end_timestamp, ..Default::default() }
}

async fn ask(
    admin: &mut AdminClient<Channel>,
    request: v2::ListMessageRequest,
) -> anyhow::Result<v2::ListMessageResponse> {
    let answer = admin.query_message(request).await.map_err(refused)?.into_inner();
    client::check(answer.status.clone())?;
    Ok(answer)
}

/// Page by page, each printed before the next is asked for.
async fn browse(mut request: v2::ListMessageRequest, limit: u64, admin: &AdminArgs) -> anyhow::Result<()> {
    let (mut left, mut official) = (limit, admin.official().await?);
    while left > 0 {
        request.max_message_nums = left.min(PAGE) as i32;
        let page = ask(&mut official, request.clone()).await?;
        page.messages.iter().try_for_each(|message| show(message, admin.json))?;
        left = left.saturating_sub(page.messages.len() as u64);
        if page.scroll_id.is_empty() {
            break;
        }
        request.scroll_id = Some(page.scroll_id);
    }
    Ok(())
}

fn show(message: &v2::Message, json: bool) -> std::io::Result<()> {
    if json {
        return output::line(&consume::as_json(message).to_string());
    }
    let system = message.system_properties.clone().unwrap_or_default();
    let stored = system.store_timestamp.map(|at| at.to_string()).unwrap_or_default();
    output::line(&format!("{stored}  {}  {}", output::harmless(&system.message_id), consume::as_text(message)))
}

async fn resend(message_id: String, topic: String, admin: &AdminArgs) -> anyhow::Result<()> {
    let request = pb::ResendMessageRequest { topic, message_id };
    let answer = admin.connect_to_change().await?.resend_message(request).await.map_err(refused)?.into_inner();
    show_resent(&answer.resent.unwrap_or_default(), admin.json)?;
    Ok(())
}

/// Where a message was sent again.
pub fn show_resent(resent: &pb::Resent, json: bool) -> std::io::Result<()> {
    if json {
        return output::line(
            &json!({
                "messageId": resent.message_id,
                "topic": resent.topic,
                "queue": resent.queue_id,
                "offset": resent.offset,
                "deadLetter": resent.dead_letter,
            })
            .to_string(),
        );
    }
    let (id, queue, offset) = (output::harmless(&resent.message_id), resent.queue_id, resent.offset);
    output::line(&format!("message {id} sent to {} again: queue {queue}, offset {offset}", resent.topic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_points_or_spans_before_now() {
        assert_eq!(parse_time("2026-01-31T08:00:00Z").unwrap().seconds, 1_769_846_400);
        let now = SystemClock::new().wall().as_millis() / 1000;
        let ago = now - parse_time("10m").unwrap().seconds;
        assert!((599..=661).contains(&ago), "{ago}");
        for text in ["", "soon", "10", "10x", "2026-13-01T00:00:00Z"] {
            assert!(parse_time(text).is_err(), "{text:?}");
        }
    }
}
