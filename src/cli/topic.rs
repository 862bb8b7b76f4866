//! `ferromq topic`.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::{proto::admin as pb, types::MessageType};

use super::{
    output,
    remote::{AdminArgs, refused},
};

#[derive(clap::Subcommand, Debug)]
#[command(after_help = "\
Examples:
  ferromq topic create orders --type fifo --queues 16
  ferromq topic update orders --writable false
  ferromq topic describe orders --json")]
pub enum Verb {
    /// Create a topic; succeeds when the same one exists already.
    Create {
        /// Name of the topic.
        name: String,
        /// What it takes: normal, fifo, delay, transaction, mixed or priority (and lite, whose messages are not served yet).
        #[arg(long = "type", value_name = "TYPE", default_value = "normal", value_parser = parse_type)]
        kind: MessageType,
        /// Queues, 1 to 1024; the server's defaultTopicQueueNums when not given.
        #[arg(long)]
        queues: Option<u32>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Change what is given, and leave the rest.
    #[command(group(clap::ArgGroup::new("change").required(true).multiple(true)
        .args(["kind", "queues", "readable", "writable"])))]
    Update {
        /// Name of the topic.
        name: String,
        /// What it takes from now on.
        #[arg(long = "type", value_name = "TYPE", value_parser = parse_type)]
        kind: Option<MessageType>,
        /// Queues; may grow, never shrink.
        #[arg(long)]
        queues: Option<u32>,
        /// Whether consumers may read it.
        #[arg(long, value_name = "true|false")]
        readable: Option<bool>,
        /// Whether producers may send to it.
        #[arg(long, value_name = "true|false")]
        writable: Option<bool>,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Delete a topic with its messages.
    Delete {
        /// Name of the topic.
        name: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// List topics.
    List {
        /// Those of the system too.
        #[arg(long)]
        system: bool,
        #[command(flatten)]
        admin: AdminArgs,
    },
    /// Show one topic with the offsets of its queues.
    Describe {
        /// Name of the topic.
        name: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

fn parse_type(text: &str) -> Result<MessageType, String> {
    let names = || MessageType::ALL.map(|t| t.as_str().to_lowercase()).join(", ");
    MessageType::parse(text).ok_or_else(|| format!("it is none of {}", names()))
}

impl Verb {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Create { name, kind, queues, admin } => create(name, kind, queues, &admin).await,
            Self::Update { name, kind, queues, readable, writable, admin } => {
                let kind = kind.map(|k| wire_type(k).into());
                let change = pb::UpdateTopicRequest { name, r#type: kind, queues, readable, writable };
                update(change, &admin).await
            }
            Self::Delete { name, admin } => delete(name, &admin).await,
            Self::List { system, admin } => list(system, &admin).await,
            Self::Describe { name, admin } => describe(name, &admin).await,
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn create(name: String, kind: MessageType, queues: Option<u32>, admin: &AdminArgs) -> anyhow::Result<()> {
    let request = pb::CreateTopicRequest { name, r#type: wire_type(kind).into(), queues };
    let answer = admin.connect_to_change().await?.create_topic(request).await.map_err(refused)?.into_inner();
    let topic = answer.topic.unwrap_or_default();
    if admin.json {
        let mut document = as_json(&topic);
        document["created"] = answer.created.into();
        output::json(&document)?;
    } else {
        let how = if answer.created { "created" } else { "exists already, with the same attributes" };
        output::line(&format!("topic {} {how}", topic.name))?;
    }
    Ok(())
}

async fn update(change: pb::UpdateTopicRequest, admin: &AdminArgs) -> anyhow::Result<()> {
    let answer = admin.connect_to_change().await?.update_topic(change).await.map_err(refused)?.into_inner();
    let topic = answer.topic.unwrap_or_default();
    if admin.json {
        output::json(&as_json(&topic))?
    } else {
        output::line(&format!("topic {} updated", topic.name))?
    }
    Ok(())
}

async fn delete(name: String, admin: &AdminArgs) -> anyhow::Result<()> {
    admin
        .connect_to_change()
        .await?
        .delete_topic(pb::DeleteTopicRequest { name: name.clone() })
        .await
        .map_err(refused)?;
    if admin.json {
        output::json(&json!({ "name": name, "deleted": true }))?;
    } else {
        output::line(&format!("topic {name} deleted"))?;
    }
    Ok(())
}

async fn list(include_system: bool, admin: &AdminArgs) -> anyhow::Result<()> {
    let request = pb::ListTopicsRequest { include_system };
    let topics = admin.connect().await?.list_topics(request).await.map_err(refused)?.into_inner().topics;
    if admin.json {
        output::json(&topics.iter().map(as_json).collect())?;
    } else {
        output::table(&HEAD, topics.iter().map(row).collect())?;
    }
    Ok(())
}

async fn describe(name: String, admin: &AdminArgs) -> anyhow::Result<()> {
    let request = pb::DescribeTopicRequest { name };
    let answer = admin.connect().await?.describe_topic(request).await.map_err(refused)?.into_inner();
    let topic = answer.topic.unwrap_or_default();
    if admin.json {
        let queue = |q: &pb::QueueStatus| json!({ "id": q.queue_id, "min": q.min_offset, "max": q.max_offset });
        let mut document = as_json(&topic);
        document["queues"] = answer.queues.iter().map(queue).collect();
        output::json(&document)?;
        return Ok(());
    }
    output::table(&HEAD, vec![row(&topic)])?;
    output::line("")?;
    let messages = |q: &pb::QueueStatus| q.max_offset.saturating_sub(q.min_offset).to_string();
    let rows = answer
        .queues
        .iter()
        .map(|q| vec![q.queue_id.to_string(), q.min_offset.to_string(), q.max_offset.to_string(), messages(q)]);
    output::table(&["QUEUE", "MIN OFFSET", "MAX OFFSET", "MESSAGES"], rows.collect())?;
    Ok(())
}

const HEAD: [&str; 5] = ["TOPIC", "TYPE", "QUEUES", "READABLE", "WRITABLE"];

fn row(topic: &pb::Topic) -> Vec<String> {
    let queues = if topic.read_queues == topic.write_queues {
        topic.read_queues.to_string()
    } else {
        format!("{} read, {} write", topic.read_queues, topic.write_queues)
    };
    let kind = type_name(topic).unwrap_or("undecided").to_owned();
    vec![topic.name.clone(), kind, queues, topic.readable.to_string(), topic.writable.to_string()]
}

fn as_json(topic: &pb::Topic) -> Value {
    json!({
        "name": topic.name,
        "type": type_name(topic),
        "readQueues": topic.read_queues,
        "writeQueues": topic.write_queues,
        "readable": topic.readable,
        "writable": topic.writable,
    })
}

/// `None` for a topic whose first message will decide.
pub(super) fn type_name(topic: &pb::Topic) -> Option<&'static str> {
    match topic.r#type() {
        pb::TopicType::Unspecified => None,
        named => Some(named.as_str_name()),
    }
}

pub(super) fn wire_type(kind: MessageType) -> pb::TopicType {
    crate::admin::topic_type(kind)
}
