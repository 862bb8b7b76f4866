//! `ferromq group lag` and `ferromq group connections`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    cli::{
        client, output,
        remote::{AdminArgs, refused},
    },
    proto::{
        admin as pb,
        v2::{self, describe_group_accumulation_response::GroupAccumulation},
    },
};

/// What a group has before it, topic by topic.
pub async fn lag(group: String, topic: Option<String>, admin: &AdminArgs) -> anyhow::Result<()> {
    let topics: BTreeSet<String> = match topic {
        Some(topic) => [topic].into(),
        None => {
            let request = pb::DescribeGroupRequest { name: group.clone() };
            let known = admin.connect().await?.describe_group(request).await.map_err(refused)?.into_inner();
            let own = format!("%DLQ%{group}");
            known.queues.into_iter().map(|queue| queue.topic).filter(|topic| *topic != own).collect()
        }
    };
    let request = v2::DescribeGroupAccumulationRequest {
        group: Some(client::resource(&group)),
        topics: topics.iter().map(|topic| client::resource(topic)).collect(),
        ..Default::default()
    };
    let answer = admin.official().await?.describe_group_accumulation(request).await.map_err(refused)?.into_inner();
    client::check(answer.status)?;
    let of = |topic: &String| answer.topic_accumulation.get(topic).cloned().unwrap_or_default();
    if admin.json {
        return Ok(topics
            .iter()
            .try_for_each(|topic| output::line(&lag_json(&group, topic, &of(topic)).to_string()))?);
    }
    let rows = topics.iter().map(|topic| lag_row(topic, &of(topic))).collect();
    output::table(&["TOPIC", "READY", "IN FLIGHT", "LAG", "OLDEST READY (MS)", "CONSUMED TO"], rows)?;
    Ok(())
}

fn oldest_ms(lag: &GroupAccumulation) -> i64 {
    lag.deliver_delay_time.as_ref().map_or(0, |d| d.seconds * 1000 + i64::from(d.nanos / 1_000_000))
}

fn lag_row(topic: &str, lag: &GroupAccumulation) -> Vec<String> {
    let consumed = match lag.last_consume_timestamp {
        0 => "-".to_owned(),
        at => crate::cli::times::wire_time(at).to_string(),
    };
    let numbers = [lag.ready_messages, lag.inflight_messages, lag.accumulation, oldest_ms(lag)];
    let numbers = numbers.iter().map(ToString::to_string);
    std::iter::once(topic.to_owned()).chain(numbers).chain([consumed]).collect()
}

fn lag_json(group: &str, topic: &str, lag: &GroupAccumulation) -> Value {
    json!({
        "group": group,
        "topic": topic,
        "ready": lag.ready_messages,
        "inFlight": lag.inflight_messages,
        "lag": lag.accumulation,
        "oldestReadyMs": oldest_ms(lag),
        "consumedToMs": Some(lag.last_consume_timestamp).filter(|at| *at > 0),
    })
}

/// The consumers of a group that are connected.
pub async fn connections(group: String, topic: Option<String>, admin: &AdminArgs) -> anyhow::Result<()> {
    let request = v2::ListConsumerConnectionRequest {
        group: Some(client::resource(&group)),
        topic: topic.map(|topic| client::resource(&topic)),
        ..Default::default()
    };
    let answer = admin.official().await?.list_consumer_connection(request).await.map_err(refused)?.into_inner();
    client::check(answer.status)?;
    if admin.json {
        return Ok(answer
            .client_info
            .iter()
            .try_for_each(|c| output::line(&connection_json(&group, c).to_string()))?);
    }
    let row = |client: &v2::ClientInfo| {
        let told = [&client.client_id, &client.language, &client.version, &client.hostname, &client.egress_ip];
        told.map(|text| if text.is_empty() { "-".to_owned() } else { output::harmless(text) }).to_vec()
    };
    output::table(&["CLIENT", "LANGUAGE", "VERSION", "HOST", "ADDRESS"], answer.client_info.iter().map(row).collect())?;
    Ok(())
}

fn connection_json(group: &str, client: &v2::ClientInfo) -> Value {
    json!({
        "group": group,
        "client": client.client_id,
        "language": client.language,
        "version": client.version,
        "host": client.hostname,
        "address": client.egress_ip,
    })
}
