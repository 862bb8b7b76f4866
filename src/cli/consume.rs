//! `ferromq consume`.

use std::{future::Future, io::IsTerminal as _, process::ExitCode, time::Duration};

use serde_json::{Map, Value, json};

use crate::{
    config::value::{self, Unit},
    proto::v2,
};

use super::{
    client::{self, Client, EndpointArgs, Error, Role},
    output,
};

/// Messages of one poll.
const BATCH: u64 = 32;
/// How long a poll waits; the shortest that servers allow.
const WAIT: Duration = Duration::from_secs(5);
/// How often the server is told that we are here.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long `--follow` waits before it connects again.
const RECONNECT: Duration = Duration::from_secs(1);

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  ferromq consume orders --group billing                what is there, and no more
  ferromq consume orders --group billing --follow       until Ctrl-C
  ferromq consume orders --group audit --filter 'paid || refunded' --json
  ferromq consume orders --group audit --sql \"price > 100 AND region IN ('eu', 'us')\"
  ferromq consume chats --group phone --lite-topic room-1 --lite-topic room-2 --follow
  ferromq consume '%DLQ%billing' --group rescue --no-ack")]
pub struct Args {
    /// Topic to receive from.
    topic: String,
    /// Consumer group.
    #[arg(long)]
    group: String,
    /// Tags to receive, joined by ||.
    #[arg(long, default_value = "*", value_name = "TAGS")]
    filter: String,
    /// Receive what this SQL92 condition on the properties is true of.
    #[arg(long, value_name = "CONDITION", conflicts_with = "filter")]
    sql: Option<String>,
    /// Receive from this lite topic, in its order; for topics of type lite. Repeatable.
    #[arg(long = "lite-topic", value_name = "NAME")]
    lite_topics: Vec<String>,
    /// Stop after this many messages.
    #[arg(long)]
    count: Option<u64>,
    /// Exit code 1 when fewer than --count came.
    #[arg(long, requires = "count")]
    require: bool,
    /// Wait for more instead of stopping when nothing has come for 5 seconds.
    #[arg(long)]
    follow: bool,
    /// Do not acknowledge: the messages come again when their invisible time is over.
    #[arg(long)]
    no_ack: bool,
    /// How long messages stay invisible to others, at least 10s.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = parse_time)]
    invisible: Duration,
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// Print messages as JSON, one document in each line.
    #[arg(long)]
    json: bool,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    value::span(text, Unit::Seconds).ok_or_else(|| "it is not a time, like 30s or 5m".to_owned())
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let mut left = self.count.unwrap_or(u64::MAX);
        let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
        loop {
            let ended = self.session(&mut left, stop.as_mut()).await;
            if ended.is_ok() {
                self.tell_end(left);
            }
            match ended {
                Ok(()) if self.require && left > 0 => anyhow::bail!("{left} messages of --count did not come"),
                Ok(()) => return Ok(ExitCode::SUCCESS),
                // A server that restarts is waited for; one that says no would say it again.
                Err(error @ (Error::Broken(_) | Error::Connect(_))) if self.follow => {
                    eprintln!("ferromq: {error}; connecting again");
                }
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                _ = stop.as_mut() => return Ok(ExitCode::SUCCESS),
                () = tokio::time::sleep(RECONNECT) => {}
            }
        }
    }

    /// To standard error: what was asked for is on standard output.
    fn tell_end(&self, left: u64) {
        let came = self.count.unwrap_or(u64::MAX) - left;
        let why = match (left, self.follow) {
            (0, _) => "as many as --count asked for",
            (_, true) => "stopped",
            (_, false) => "no more came within 5 s; --follow waits for more",
        };
        let kept = if self.no_ack && came > 0 { ", not acknowledged" } else { "" };
        eprintln!("ferromq: {came} messages{kept}; {why}");
    }

    fn filter(&self) -> v2::FilterExpression {
        match &self.sql {
            Some(sql) => v2::FilterExpression { r#type: v2::FilterType::Sql.into(), expression: sql.clone() },
            None => v2::FilterExpression { r#type: v2::FilterType::Tag.into(), expression: self.filter.clone() },
        }
    }

    /// Receives over one connection until there is a reason to stop.
    async fn session(&self, left: &mut u64, stop: impl Future) -> Result<(), Error> {
        let (group, topic, filter) = (self.group.clone(), self.topic.clone(), self.filter());
        let role = if self.lite_topics.is_empty() {
            Role::Consumer { group, topic, filter }
        } else {
            Role::LiteConsumer { group, topic, filter }
        };
        let mut client = Client::start(&self.endpoint, role).await?;
        // A poll that is dropped takes nothing, so that leaving in its midst loses nothing.
        let done = tokio::select! {
            _ = stop => Ok(()),
            done = self.receive(&mut client, left) => done,
        };
        // What was received counts: a server that does not hear the goodbye finds out by itself.
        drop(client.close().await);
        done
    }

    /// Says again which lite topics are wanted: a server forgets them when it hears nothing for long, or starts anew.
    async fn stay(&self, client: &mut Client) -> Result<(), Error> {
        if self.lite_topics.is_empty() {
            return Ok(());
        }
        client.subscribe_lite(&self.topic, &self.lite_topics).await
    }

    async fn receive(&self, client: &mut Client, left: &mut u64) -> Result<(), Error> {
        self.stay(client).await?;
        let mut last_heartbeat = tokio::time::Instant::now();
        while *left > 0 {
            if last_heartbeat.elapsed() >= HEARTBEAT {
                client.heartbeat().await?;
                self.stay(client).await?;
                last_heartbeat = tokio::time::Instant::now();
            }
            let messages = client.receive(self.poll(client.queue(), *left), WAIT).await?;
            if messages.is_empty() && !self.follow {
                return Ok(());
            }
            *left = left.saturating_sub(messages.len() as u64);
            for message in &messages {
                match self.print(message) {
                    Ok(()) => {}
                    // Nobody reads any more, so nobody has seen these: they come again.
                    Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
                    Err(e) => return Err(Error::Connect(anyhow::anyhow!("printing: {e}"))),
                }
            }
            let entries: Vec<_> = messages.into_iter().map(ack_entry).collect();
            if !self.no_ack && !entries.is_empty() {
                client.ack(&self.topic, entries).await?;
            }
        }
        Ok(())
    }

    fn poll(&self, queue: Option<v2::MessageQueue>, left: u64) -> v2::ReceiveMessageRequest {
        v2::ReceiveMessageRequest {
            group: Some(client::resource(&self.group)),
            message_queue: queue,
            filter_expression: Some(self.filter()),
            batch_size: left.min(BATCH) as i32,
            invisible_duration: Some(client::wire_duration(self.invisible)),
            auto_renew: false,
            long_polling_timeout: Some(client::wire_duration(WAIT)),
            attempt_id: None,
        }
    }

    fn print(&self, message: &v2::Message) -> std::io::Result<()> {
        let line = if self.json { as_json(message).to_string() } else { as_text(message) };
        output::line_for_sure(&line)
    }
}

fn ack_entry(message: v2::Message) -> v2::AckMessageEntry {
    let system = message.system_properties.unwrap_or_default();
    v2::AckMessageEntry {
        message_id: system.message_id,
        receipt_handle: system.receipt_handle.unwrap_or_default(),
        lite_topic: system.lite_topic,
    }
}

/// `queue@offset`, what the message carries beside its body, and the body.
pub(super) fn as_text(message: &v2::Message) -> String {
    let system = message.system_properties.clone().unwrap_or_default();
    let mut parts = vec![format!("{}@{}", system.queue_id, system.queue_offset.unwrap_or_default())];
    if let Some(tag) = &system.tag {
        parts.push(format!("tag={tag}"));
    }
    parts.extend(system.keys.iter().map(|k| format!("key={k}")));
    parts.extend(system.message_group.iter().map(|g| format!("group={g}")));
    parts.extend(system.lite_topic.iter().map(|name| format!("lite-topic={name}")));
    parts.extend(system.priority.iter().map(|n| format!("priority={n}")));
    let mut properties: Vec<_> = message.user_properties.iter().collect();
    properties.sort();
    parts.extend(properties.into_iter().map(|(k, v)| format!("{k}={v}")));
    if system.delivery_attempt.unwrap_or(1) > 1 {
        parts.push(format!("attempt={}", system.delivery_attempt.unwrap_or(1)));
    }
    let body = match std::str::from_utf8(&message.body) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("<{} bytes that are not text>", message.body.len()),
    };
    let line = format!("[{}] {body}", parts.join(" "));
    if std::io::stdout().is_terminal() { output::harmless(&line) } else { line }
}

pub(super) fn as_json(message: &v2::Message) -> Value {
    let system = message.system_properties.clone().unwrap_or_default();
    let millis = |t: &prost_types::Timestamp| t.seconds.saturating_mul(1000) + i64::from(t.nanos / 1_000_000);
    let mut document = json!({
        "topic": message.topic.as_ref().map(|t| t.name.as_str()),
        "messageId": system.message_id,
        "queue": system.queue_id,
        "offset": system.queue_offset,
        "attempt": system.delivery_attempt,
        "tag": system.tag,
        "keys": system.keys,
        "messageGroup": system.message_group,
        "liteTopic": system.lite_topic,
        "priority": system.priority,
        "properties": message.user_properties.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect::<Map<_, _>>(),
        "bornMs": system.born_timestamp.as_ref().map(millis),
        "storedMs": system.store_timestamp.as_ref().map(millis),
        "encoding": system.body_encoding().as_str_name(),
    });
    match std::str::from_utf8(&message.body) {
        Ok(text) => document["body"] = text.into(),
        Err(_) => document["bodyBase64"] = output::base64(&message.body).into(),
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &'static [u8]) -> v2::Message {
        v2::Message {
            topic: Some(client::resource("T")),
            user_properties: [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())].into(),
            system_properties: Some(v2::SystemProperties {
                tag: Some("red".into()),
                keys: vec!["k".into()],
                queue_id: 3,
                queue_offset: Some(17),
                delivery_attempt: Some(2),
                ..Default::default()
            }),
            body: body.into(),
        }
    }

    #[test]
    fn a_line_tells_where_the_message_is_from_and_what_it_carries() {
        assert_eq!(as_text(&message(b"hi")), "[3@17 tag=red key=k a=1 b=2 attempt=2] hi");
        assert_eq!(as_text(&message(&[0xff])).split("] ").nth(1), Some("<1 bytes that are not text>"));
    }

    #[test]
    fn a_body_that_is_not_text_comes_as_base64() {
        assert_eq!(as_json(&message(&[0xff]))["bodyBase64"], "/w==");
        let text = as_json(&message(b"hi"));
        assert_eq!((&text["body"], &text["offset"]), (&json!("hi"), &json!(17)));
    }
}
