//! `ferromq produce`.

use std::{io::BufRead as _, process::ExitCode, time::Duration};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use serde_json::json;
use tokio::sync::{Notify, mpsc};

use crate::{proto::v2, types::Timestamp};

use super::{
    client::{self, Client, EndpointArgs, MessageIds, Role},
    output,
};

/// Sends under way side by side, where no order was asked for.
const IN_FLIGHT: usize = 16;
/// Lines of standard input that are read ahead.
const LINES_AHEAD: usize = 64;

#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  ferromq produce orders 'hello' --tag paid --key order-7 --prop region=eu
  ferromq produce orders --count 1000 'load'
  tail -f app.log | ferromq produce logs         one message for each line
  ferromq produce reminders 'wake up' --delay 8h     to a DELAY topic
  ferromq produce orders 'a' 'b' --message-group customer-1     in order, to a FIFO topic
  ferromq produce jobs 'now' --priority 9                       to a PRIORITY topic
  ferromq produce chats 'hi' --lite-topic room-1                to a LITE topic
  ferromq produce payments 'paid' --transaction                 to a TRANSACTION topic")]
pub struct Args {
    /// Topic to send to.
    topic: String,
    /// Bodies; without any, each line of standard input is one.
    body: Vec<String>,
    /// Tag, for consumers to filter by.
    #[arg(long)]
    tag: Option<String>,
    /// Key to find the message by. Repeatable.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// User property. Repeatable.
    #[arg(long = "prop", value_name = "NAME=VALUE", value_parser = parse_property)]
    properties: Vec<(String, String)>,
    #[command(flatten)]
    kind: Kind,
    /// Send every body this often.
    #[arg(long, default_value_t = 1)]
    count: u64,
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// Print results as JSON, one document in each line.
    #[arg(long)]
    json: bool,
}

/// What makes the messages other than normal ones.
#[derive(clap::Args, Debug)]
#[group(multiple = false)]
struct Kind {
    /// Messages of one group are kept in order; for topics of type fifo.
    #[arg(long, value_name = "GROUP")]
    message_group: Option<String>,
    /// Deliver after this time, like 30s, 5m or 2h; for topics of type delay. The answer names the recall handle.
    #[arg(long, value_name = "TIME", value_parser = super::times::parse_span)]
    delay: Option<Duration>,
    /// Deliver before messages of a lower number; for topics of type priority.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    priority: Option<i32>,
    /// Send to this lite topic; for topics of type lite.
    #[arg(long, value_name = "NAME")]
    lite_topic: Option<String>,
    /// Send each message in a transaction of its own and commit it; for topics of type transaction.
    #[arg(long)]
    transaction: bool,
}

impl Kind {
    fn message_type(&self) -> v2::MessageType {
        match self {
            Self { message_group: Some(_), .. } => v2::MessageType::Fifo,
            Self { delay: Some(_), .. } => v2::MessageType::Delay,
            Self { priority: Some(_), .. } => v2::MessageType::Priority,
            Self { lite_topic: Some(_), .. } => v2::MessageType::Lite,
            Self { transaction: true, .. } => v2::MessageType::Transaction,
            Self { .. } => v2::MessageType::Normal,
        }
    }

    /// Whether messages are sent one after the other.
    fn is_ordered(&self) -> bool {
        self.message_group.is_some() || self.lite_topic.is_some()
    }
}

fn parse_property(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is not NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Args {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let client = Client::start(&self.endpoint, Role::Producer { topic: self.topic.clone() }).await?;
        let sent = self.send_all(&client).await;
        // The messages are what counts: a server that does not hear the goodbye finds out by itself.
        drop(client.close().await);
        sent?;
        Ok(ExitCode::SUCCESS)
    }

    async fn send_all(&self, client: &Client) -> anyhow::Result<()> {
        let in_flight = if self.kind.is_ordered() { 1 } else { IN_FLIGHT };
        let mut ids = MessageIds::new();
        let enough = Notify::new();
        let sends = self.bodies().take_until(enough.notified()).map(|body| {
            let message = body.map(|body| self.message(body, ids.next()));
            async {
                let sent = client.send(message?).await?;
                if self.kind.transaction {
                    let undecided = || {
                        let id = &sent.message_id;
                        format!(
                            "{id} is stored, and not known to be committed; `ferromq message explain {id}` shows it"
                        )
                    };
                    client.commit(&self.topic, &sent).await.with_context(undecided)?;
                }
                anyhow::Ok(sent)
            }
        });
        let mut answers = sends.buffered(in_flight).boxed_local();
        let mut refused = None;
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(sent) => self.print(&sent)?,
                Err(error) => {
                    // What is under way may be stored, and its sender is told; no more is begun.
                    enough.notify_one();
                    refused.get_or_insert(error);
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }

    fn bodies(&self) -> impl Stream<Item = anyhow::Result<Bytes>> + '_ {
        let once = if self.body.is_empty() { lines().left_stream() } else { given(&self.body).right_stream() };
        once.flat_map(|body| match body {
            Ok(body) => stream::iter(0..self.count).map(move |_| Ok(body.clone())).left_stream(),
            Err(e) => stream::iter([Err(e)]).right_stream(),
        })
    }

    fn message(&self, body: Bytes, message_id: String) -> v2::Message {
        let born = client::now_millis();
        let due = self.kind.delay.map(|delay| Timestamp::from_millis(born).plus(delay).as_millis());
        v2::Message {
            topic: Some(client::resource(&self.topic)),
            user_properties: self.properties.iter().cloned().collect(),
            system_properties: Some(v2::SystemProperties {
                tag: self.tag.clone(),
                keys: self.keys.clone(),
                message_id,
                body_encoding: v2::Encoding::Identity.into(),
                message_type: self.kind.message_type().into(),
                message_group: self.kind.message_group.clone(),
                priority: self.kind.priority,
                lite_topic: self.kind.lite_topic.clone(),
                born_timestamp: Some(super::times::wire_time(born)),
                delivery_timestamp: due.map(super::times::wire_time),
                ..Default::default()
            }),
            body,
        }
    }

    fn print(&self, sent: &v2::SendResultEntry) -> anyhow::Result<()> {
        if self.json {
            let mut document = json!({ "topic": self.topic, "messageId": sent.message_id });
            if !self.kind.transaction {
                document["offset"] = sent.offset.into();
            }
            if !sent.recall_handle.is_empty() {
                document["recallHandle"] = sent.recall_handle.as_str().into();
            }
            output::line(&document.to_string())?;
        } else if !sent.recall_handle.is_empty() {
            output::line(&format!("{} waits; recall handle {}", sent.message_id, sent.recall_handle))?;
        } else if self.kind.transaction {
            // Its offset is that of the half message, which nobody consumes.
            output::line(&format!("{} committed", sent.message_id))?;
        } else {
            output::line(&format!("{} at offset {}", sent.message_id, sent.offset))?;
        }
        Ok(())
    }
}

fn given(bodies: &[String]) -> impl Stream<Item = anyhow::Result<Bytes>> + '_ {
    stream::iter(bodies).map(|body| Ok(Bytes::copy_from_slice(body.as_bytes())))
}

/// The lines of standard input, read as they come, on a thread of its own: a read of a terminal cannot be cancelled.
fn lines() -> impl Stream<Item = anyhow::Result<Bytes>> {
    let (read, queued) = mpsc::channel(LINES_AHEAD);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().split(b'\n') {
            let mut line = line.map_err(|e| anyhow!("reading standard input: {e}"));
            if let Ok(line) = &mut line
                && line.last() == Some(&b'\r')
            {
                line.pop();
            }
            if read.blocking_send(line.map(Bytes::from)).is_err() {
                return;
            }
        }
    });
    stream::unfold(queued, |mut queued| async { queued.recv().await.map(|line| (line, queued)) })
}
