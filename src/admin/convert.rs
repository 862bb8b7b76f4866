//! The admin service's messages to the broker's types and back.

use std::time::Duration;

use prost_types::Duration as WireDuration;
use tonic::Status;

use crate::{
    broker::{Group, RetryPolicy, Topic},
    proto::admin::{self as pb, retry_policy::Strategy},
    types::MessageType,
};

/// Deliveries of one message at most, the first included.
const ATTEMPTS_MAX: u32 = 1000;
/// Entries of a retry policy at most.
const BACKOFFS_MAX: usize = 64;
/// The longest delay before a retry: a week, beyond which a message is better sent again.
const BACKOFF_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// A type off the wire; `None` when it is unspecified.
pub fn message_type(wire: i32) -> Result<Option<MessageType>, Status> {
    let kind = pb::TopicType::try_from(wire)
        .map_err(|_| Status::invalid_argument(format!("topic type {wire} is unknown; is the server older?")))?;
    Ok(match kind {
        pb::TopicType::Unspecified => None,
        pb::TopicType::Normal => Some(MessageType::Normal),
        pb::TopicType::Fifo => Some(MessageType::Fifo),
        pb::TopicType::Delay => Some(MessageType::Delay),
        pb::TopicType::Transaction => Some(MessageType::Transaction),
        pb::TopicType::Mixed => Some(MessageType::Mixed),
        pb::TopicType::Lite => Some(MessageType::Lite),
        pb::TopicType::Priority => Some(MessageType::Priority),
    })
}

/// A type for the wire.
pub fn topic_type(kind: MessageType) -> pb::TopicType {
    match kind {
        MessageType::Normal => pb::TopicType::Normal,
        MessageType::Fifo => pb::TopicType::Fifo,
        MessageType::Delay => pb::TopicType::Delay,
        MessageType::Transaction => pb::TopicType::Transaction,
        MessageType::Mixed => pb::TopicType::Mixed,
        MessageType::Lite => pb::TopicType::Lite,
        MessageType::Priority => pb::TopicType::Priority,
    }
}

pub fn topic(topic: &Topic) -> pb::Topic {
    pb::Topic {
        name: topic.name.to_string(),
        r#type: topic.message_type.map_or(pb::TopicType::Unspecified, topic_type).into(),
        read_queues: topic.read_queues,
        write_queues: topic.write_queues,
        readable: topic.readable,
        writable: topic.writable,
    }
}

pub fn group(group: &Group) -> pb::Group {
    pb::Group {
        name: group.name.to_string(),
        fifo: group.fifo,
        broadcast: group.broadcast,
        max_attempts: group.max_attempts(),
        retry_policy: Some(wire_policy(&group.retry_policy)),
        consume_enabled: group.consume_enabled,
    }
}

/// Attempts, the first included, to retries.
pub fn retry_max_times(max_attempts: u32) -> Result<u32, Status> {
    if (1..=ATTEMPTS_MAX).contains(&max_attempts) {
        Ok(max_attempts - 1)
    } else {
        Err(Status::invalid_argument(format!("max attempts {max_attempts} is not from 1 to {ATTEMPTS_MAX}")))
    }
}

pub fn retry_policy(wire: pb::RetryPolicy) -> Result<RetryPolicy, Status> {
    match wire.strategy {
        Some(Strategy::Customized(customized)) => {
            let delays = customized.next.iter().map(backoff).collect::<Result<Vec<_>, _>>()?;
            if delays.is_empty() || delays.len() > BACKOFFS_MAX {
                let message =
                    format!("a customized retry policy has {} delays, give 1 to {BACKOFFS_MAX}", delays.len());
                return Err(Status::invalid_argument(message));
            }
            Ok(RetryPolicy::Customized(delays))
        }
        Some(Strategy::Exponential(pb::ExponentialBackoff { initial: Some(initial), max: Some(max), multiplier })) => {
            let (initial, max) = (backoff(&initial)?, backoff(&max)?);
            let grows = multiplier.is_finite() && (1.0..=1000.0).contains(&multiplier);
            if initial > max || !grows {
                let message = "an exponential retry policy wants initial <= max and a multiplier from 1 to 1000";
                return Err(Status::invalid_argument(message));
            }
            Ok(RetryPolicy::Exponential { initial, max, multiplier })
        }
        Some(Strategy::Exponential(_)) => {
            Err(Status::invalid_argument("an exponential retry policy wants both initial and max"))
        }
        None => Err(Status::invalid_argument("the retry policy is empty; give customized or exponential")),
    }
}

fn backoff(wire: &WireDuration) -> Result<Duration, Status> {
    let delay = Duration::try_from(*wire).ok().filter(|d| *d <= BACKOFF_MAX);
    delay.ok_or_else(|| Status::invalid_argument("a retry delay is not from 0 s to 7 days"))
}

fn wire_policy(policy: &RetryPolicy) -> pb::RetryPolicy {
    let strategy = match policy {
        RetryPolicy::Customized(delays) => {
            Strategy::Customized(pb::CustomizedBackoff { next: delays.iter().copied().map(wire_duration).collect() })
        }
        RetryPolicy::Exponential { initial, max, multiplier } => Strategy::Exponential(pb::ExponentialBackoff {
            initial: Some(wire_duration(*initial)),
            max: Some(wire_duration(*max)),
            multiplier: *multiplier,
        }),
    };
    pb::RetryPolicy { strategy: Some(strategy) }
}

fn wire_duration(d: Duration) -> WireDuration {
    WireDuration { seconds: i64::try_from(d.as_secs()).unwrap_or(i64::MAX), nanos: d.subsec_nanos() as i32 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn every_type_survives_the_wire() {
        for kind in MessageType::ALL {
            assert_eq!(message_type(topic_type(kind).into()).expect("known"), Some(kind));
        }
        assert_eq!(message_type(0).expect("known"), None);
        assert!(message_type(99).is_err());
    }

    #[test]
    fn attempts_are_one_more_than_retries() {
        assert_eq!(retry_max_times(16).expect("in range"), 15);
        assert_eq!(retry_max_times(1).expect("in range"), 0);
        for n in [0, 1001] {
            assert!(retry_max_times(n).is_err(), "{n}");
        }
    }

    #[test]
    fn policies_without_sense_are_refused() {
        let customized =
            |next| pb::RetryPolicy { strategy: Some(Strategy::Customized(pb::CustomizedBackoff { next })) };
        let exponential = |initial, max, multiplier| pb::RetryPolicy {
            strategy: Some(Strategy::Exponential(pb::ExponentialBackoff { initial, max, multiplier })),
        };
        let seconds = |seconds| WireDuration { seconds, nanos: 0 };
        let refused = [
            pb::RetryPolicy { strategy: None },
            customized(vec![]),
            customized(vec![seconds(-1)]),
            customized(vec![seconds(8 * 24 * 3600)]),
            customized(vec![seconds(1); BACKOFFS_MAX + 1]),
            exponential(None, Some(seconds(1)), 2.0),
            exponential(Some(seconds(2)), Some(seconds(1)), 2.0),
            exponential(Some(seconds(1)), Some(seconds(2)), f64::NAN),
            exponential(Some(seconds(1)), Some(seconds(2)), 0.5),
        ];
        for policy in refused {
            assert!(retry_policy(policy.clone()).is_err(), "{policy:?}");
        }
    }

    proptest! {
        #[test]
        fn policies_survive_the_wire(ms in prop::collection::vec(0u64..600_000, 1..20), exponential in any::<bool>()) {
            let policy = if exponential {
                let (initial, max) = (Duration::from_millis(ms[0]), Duration::from_millis(ms[0] + 1));
                RetryPolicy::Exponential { initial, max, multiplier: 2.0 }
            } else {
                RetryPolicy::Customized(ms.into_iter().map(Duration::from_millis).collect())
            };
            prop_assert_eq!(retry_policy(wire_policy(&policy)).expect("valid"), policy);
        }
    }
}
