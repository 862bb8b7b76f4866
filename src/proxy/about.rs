//! What clients say about themselves, as operators see it.

use std::{collections::HashMap, net::IpAddr};

use prost::Message as _;

use crate::{
    proto::v2::{self, settings::PubSub},
    types::{Timestamp, TopicName},
};

/// Bytes of filters and of properties that are kept of one client; what comes behind is left out.
const KEPT_BYTES_MAX: usize = 16 << 10;

/// What one client says about itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct About {
    /// Where its stream came from, as the server sees it.
    pub peer: Option<IpAddr>,
    /// As the API spells it.
    pub language: String,
    pub version: String,
    pub hostname: String,
    pub platform: String,
    pub client_type: String,
    /// What a consumer wants of which topic.
    pub subscriptions: Vec<Subscribed>,
    pub properties: HashMap<String, String>,
    pub told_at: Timestamp,
}

/// What a consumer wants of a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscribed {
    pub topic: TopicName,
    pub expression: v2::FilterExpression,
}

impl About {
    /// Whether it is a consumer of lite topics.
    pub fn is_lite(&self) -> bool {
        matches!(self.client_type.as_str(), "LITE_PUSH_CONSUMER" | "LITE_SIMPLE_CONSUMER")
    }

    /// Out of settings that were checked.
    pub fn of(settings: &v2::Settings, peer: IpAddr, now: Timestamp) -> Self {
        let agent = settings.user_agent.clone().unwrap_or_default();
        let language = agent.language().as_str_name();
        let mut left = KEPT_BYTES_MAX;
        let mut keep = |bytes: usize| {
            let fits = bytes <= left;
            left = left.saturating_sub(bytes);
            fits
        };
        let short = |text: String| if text.len() <= 256 { text } else { String::new() };
        let subscriptions = match &settings.pub_sub {
            Some(PubSub::Subscription(subscription)) => {
                let wanted = subscription.subscriptions.iter().filter_map(subscribed);
                wanted.filter(|s| keep(s.topic.as_str().len() + s.expression.encoded_len())).collect()
            }
            Some(PubSub::Publishing(_)) | None => Vec::new(),
        };
        let properties = settings.client_properties.iter().filter(|(name, value)| keep(name.len() + value.len()));
        Self {
            peer: Some(peer.to_canonical()),
            language: language.strip_prefix("LANGUAGE_").unwrap_or(language).into(),
            version: short(agent.version),
            hostname: short(agent.hostname),
            platform: short(agent.platform),
            client_type: settings.client_type().as_str_name().into(),
            subscriptions,
            properties: properties.map(|(name, value)| (name.clone(), value.clone())).collect(),
            told_at: now,
        }
    }

    /// What it wants of a topic.
    pub fn wants(&self, topic: &TopicName) -> Option<&v2::FilterExpression> {
        self.subscriptions.iter().find(|s| s.topic == *topic).map(|s| &s.expression)
    }
}

fn subscribed(entry: &v2::SubscriptionEntry) -> Option<Subscribed> {
    let topic = TopicName::parse(&entry.topic.as_ref()?.name).ok()?;
    let all = || v2::FilterExpression { r#type: v2::FilterType::Tag as i32, expression: "*".into() };
    let mut expression = entry.expression.clone().unwrap_or_else(all);
    if expression.r#type() != v2::FilterType::Sql {
        // None given, none specified and an empty one all mean the same.
        expression.r#type = v2::FilterType::Tag as i32;
        if expression.expression.trim().is_empty() {
            expression = all();
        }
    }
    Some(Subscribed { topic, expression })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::testing::{consumer_settings, resource};

    fn entry(topic: &str, expression: Option<&str>) -> v2::SubscriptionEntry {
        let expression = expression.map(|e| v2::FilterExpression { r#type: 0, expression: e.into() });
        v2::SubscriptionEntry { topic: resource(topic), expression }
    }

    #[test]
    fn filters_that_mean_the_same_are_told_alike_and_what_is_kept_is_bounded() {
        let mut settings = consumer_settings("g");
        let Some(PubSub::Subscription(subscription)) = &mut settings.pub_sub else { panic!("a consumer") };
        subscription.subscriptions = vec![entry("A", None), entry("B", Some("")), entry("C", Some("*"))];
        let long = "x".repeat(KEPT_BYTES_MAX);
        subscription.subscriptions.push(entry("D", Some(&long)));
        let about = About::of(&settings, [127, 0, 0, 1].into(), Timestamp::ZERO);
        let told: Vec<_> = about.subscriptions.iter().map(|s| (s.topic.as_str(), &*s.expression.expression)).collect();
        assert_eq!(told, [("A", "*"), ("B", "*"), ("C", "*")]);
        assert!(about.subscriptions.iter().all(|s| s.expression.r#type() == v2::FilterType::Tag));
    }
}
