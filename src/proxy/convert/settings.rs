//! Telemetry: what a client says about itself, checked, and what it is told back.

use std::{collections::HashMap, time::Duration};

use crate::{
    broker::{Group, RetryPolicy, Role},
    proto::v2::{self, Code, retry_policy::Strategy, settings::PubSub},
    types::GroupName,
};

use super::{
    super::{
        config::{Polling, ProducerBackoff},
        status::Refusal,
    },
    filter, group, topic, wire_duration,
};

/// Limits of `client_properties`, from the API's own contract.
const CLIENT_PROPERTIES_MAX: usize = 32;
const CLIENT_PROPERTY_KEY_MAX: usize = 64;
const CLIENT_PROPERTY_VALUE_MAX: usize = 256;
const CLIENT_PROPERTIES_BYTES_MAX: usize = 4 << 10;
const CLIENT_PROPERTY_RESERVED: &str = "rocketmq.";

/// What the client is to the broker; every name and filter in its settings is checked on the way.
pub fn role(settings: &v2::Settings) -> Result<Role, Refusal> {
    check_client_properties(&settings.client_properties)?;
    let role = match &settings.pub_sub {
        Some(PubSub::Publishing(publishing)) => {
            let topics = publishing.topics.iter().map(|t| topic(Some(t))).collect::<Result<_, _>>()?;
            Role::Producer { topics }
        }
        Some(PubSub::Subscription(subscription)) => {
            let group = group(subscription.group.as_ref())?;
            for entry in &subscription.subscriptions {
                topic(entry.topic.as_ref())?;
                filter(entry.expression.as_ref())?;
            }
            Role::Consumer { group }
        }
        None => {
            let text = "there is no publishing or subscription data in settings";
            return Err(Refusal::new(Code::BadRequest, text));
        }
    };
    check_client_type(settings, &role)?;
    Ok(role)
}

/// A client need not say its type; what it says must be one that is served.
fn check_client_type(settings: &v2::Settings, role: &Role) -> Result<(), Refusal> {
    use v2::ClientType as Type;
    let Some(number) = settings.client_type else { return Ok(()) };
    match (Type::try_from(number), role) {
        (Ok(Type::Unspecified), _)
        | (Ok(Type::Producer), Role::Producer { .. })
        | (
            Ok(Type::PushConsumer | Type::SimpleConsumer | Type::LitePushConsumer | Type::LiteSimpleConsumer),
            Role::Consumer { .. },
        ) => Ok(()),
        (Ok(other), _) => {
            let text = format!("client type {} does not fit its settings", other.as_str_name());
            Err(Refusal::new(Code::UnrecognizedClientType, text))
        }
        (Err(_), _) => Err(Refusal::new(Code::UnrecognizedClientType, format!("client type {number} is not known"))),
    }
}

fn check_client_properties(properties: &HashMap<String, String>) -> Result<(), Refusal> {
    let illegal = |text: String| Refusal::new(Code::InvalidClientProperties, text);
    if properties.len() > CLIENT_PROPERTIES_MAX {
        return Err(illegal(format!("{} client properties, the most is {CLIENT_PROPERTIES_MAX}", properties.len())));
    }
    let mut bytes = 0;
    for (key, value) in properties {
        let tail = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        let formed = key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.bytes().all(tail);
        if !formed || key.len() > CLIENT_PROPERTY_KEY_MAX || key.starts_with(CLIENT_PROPERTY_RESERVED) {
            return Err(illegal(format!("the client property key {key:?} is malformed, too long or reserved")));
        }
        if value.chars().count() > CLIENT_PROPERTY_VALUE_MAX {
            return Err(illegal(format!(
                "the client property {key:?} is above {CLIENT_PROPERTY_VALUE_MAX} characters"
            )));
        }
        bytes += key.len() + value.len();
    }
    if bytes > CLIENT_PROPERTIES_BYTES_MAX {
        return Err(illegal(format!(
            "client properties have {bytes} bytes, the most is {CLIENT_PROPERTIES_BYTES_MAX}"
        )));
    }
    Ok(())
}

/// What the server decides for its clients.
pub struct Decided<'a> {
    /// `maxMessageSize`.
    pub body_max: usize,
    /// `enableTopicMessageTypeCheck`.
    pub check_message_type: bool,
    pub producer: &'a ProducerBackoff,
    pub polling: &'a Polling,
    /// The consumer's group; `None` when it does not exist and may not be made.
    pub group: Option<&'a Group>,
    /// Whether the client reads a customized back-off. One that passes it over takes its messages to have one attempt, and
    /// has those that fail in a FIFO group dead-lettered at once.
    pub reads_customized: bool,
    /// `retryMaxTimes` where there is no group.
    pub retry_max_times: u32,
    /// `liteSubscriptionQuota` and `maxLiteTopicSize`.
    pub lite_subscription_quota: usize,
    pub lite_name_max: usize,
}

impl Decided<'_> {
    /// The policy in a form that the client reads: from its first delay to its last, each twice the one before.
    fn readable(&self, policy: &RetryPolicy) -> RetryPolicy {
        match policy {
            RetryPolicy::Customized(delays) if !self.reads_customized => {
                let at = |delay: Option<&Duration>| delay.copied().unwrap_or_default();
                RetryPolicy::Exponential { initial: at(delays.first()), max: at(delays.last()), multiplier: 2.0 }
            }
            other => other.clone(),
        }
    }
}

/// The client's own settings with the server's values in them: what every client type waits for before it starts.
pub fn merged(mut settings: v2::Settings, decided: &Decided<'_>) -> v2::Settings {
    use v2::ClientType::{LitePushConsumer, LiteSimpleConsumer};
    settings.metric = Some(v2::Metric { on: false, endpoints: None });
    let is_lite = matches!(settings.client_type(), LitePushConsumer | LiteSimpleConsumer);
    match &mut settings.pub_sub {
        Some(PubSub::Publishing(publishing)) => {
            publishing.max_body_size = i32::try_from(decided.body_max).unwrap_or(i32::MAX);
            publishing.validate_message_type = decided.check_message_type;
            settings.backoff_policy = Some(producer_policy(decided.producer));
        }
        Some(PubSub::Subscription(subscription)) => {
            let batch = i32::try_from(decided.polling.batch_max).unwrap_or(i32::MAX);
            let polling = wire_duration(decided.polling.max);
            if is_lite {
                let wire = |n| Some(i32::try_from(n).unwrap_or(i32::MAX));
                subscription.lite_subscription_quota = wire(decided.lite_subscription_quota);
                subscription.max_lite_topic_size = wire(decided.lite_name_max);
            }
            if let Some(group) = decided.group {
                subscription.fifo = Some(group.fifo);
                subscription.receive_batch_size = Some(batch);
                subscription.long_polling_timeout = Some(polling);
                let of_group = decided.readable(&group.retry_policy);
                settings.backoff_policy = Some(policy(group.max_attempts(), &of_group));
            } else {
                subscription.fifo.get_or_insert(false);
                subscription.receive_batch_size.get_or_insert(batch);
                subscription.long_polling_timeout.get_or_insert(polling);
                if settings.backoff_policy.as_ref().is_none_or(|p| p.strategy.is_none()) {
                    let attempts = decided.retry_max_times.saturating_add(1);
                    settings.backoff_policy = Some(policy(attempts, &decided.readable(&RetryPolicy::apache())));
                }
            }
        }
        None => {}
    }
    settings
}

/// Producers understand an exponential policy only.
fn producer_policy(backoff: &ProducerBackoff) -> v2::RetryPolicy {
    v2::RetryPolicy {
        max_attempts: i32::try_from(backoff.max_attempts).unwrap_or(i32::MAX),
        strategy: Some(Strategy::ExponentialBackoff(v2::ExponentialBackoff {
            initial: Some(wire_duration(backoff.initial)),
            max: Some(wire_duration(backoff.max)),
            multiplier: backoff.multiplier,
        })),
    }
}

fn policy(max_attempts: u32, policy: &RetryPolicy) -> v2::RetryPolicy {
    let strategy = match policy {
        RetryPolicy::Customized(delays) => Strategy::CustomizedBackoff(v2::CustomizedBackoff {
            next: delays.iter().copied().map(wire_duration).collect(),
        }),
        RetryPolicy::Exponential { initial, max, multiplier } => Strategy::ExponentialBackoff(v2::ExponentialBackoff {
            initial: Some(wire_duration(*initial)),
            max: Some(wire_duration(*max)),
            multiplier: *multiplier as f32,
        }),
    };
    v2::RetryPolicy { max_attempts: i32::try_from(max_attempts).unwrap_or(i32::MAX), strategy: Some(strategy) }
}

/// The group of a consumer's role.
pub fn group_of(role: &Role) -> Option<&GroupName> {
    match role {
        Role::Consumer { group } => Some(group),
        Role::Producer { .. } => None,
    }
}

#[cfg(test)]
mod tests;
