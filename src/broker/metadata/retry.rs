//! When a delivery is made again, and how `subscriptionGroup.json` says it (`GroupRetryPolicy`).

use std::time::Duration;

use serde_json::{Map, Value, json};

/// Steps of a customized policy at most.
pub const STEPS_MAX: usize = 128;
/// A delay at most.
pub const DELAY_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// When a refused or expired delivery is made again.
#[derive(Clone, Debug, PartialEq)]
pub enum RetryPolicy {
    /// Delay after failed attempt 1, 2, ...; the last one repeats. Never empty.
    Customized(Vec<Duration>),
    Exponential {
        initial: Duration,
        max: Duration,
        multiplier: f64,
    },
}

impl std::fmt::Display for RetryPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Customized(steps) => {
                let steps: Vec<String> = steps.iter().map(|step| format!("{step:?}")).collect();
                write!(f, "retry after {}", steps.join(","))
            }
            Self::Exponential { initial, max, multiplier } => {
                write!(f, "retry after {initial:?}, times {multiplier} each time up to {max:?}")
            }
        }
    }
}

impl RetryPolicy {
    /// Apache's default: 1 s, 5 s, 10 s, 30 s, 1 to 10 min, 20 min, 30 min, 1 h, 2 h.
    pub fn apache() -> Self {
        let seconds = [1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200];
        Self::Customized(seconds.map(Duration::from_secs).to_vec())
    }

    /// Delay after failed attempt `attempt` (1 is the first); at most [`DELAY_MAX`].
    pub fn delay(&self, attempt: u32) -> Duration {
        let failed_before = attempt.saturating_sub(1);
        let delay = match self {
            Self::Customized(steps) => {
                let step = usize::try_from(failed_before).unwrap_or(usize::MAX).min(steps.len().saturating_sub(1));
                steps.get(step).copied().unwrap_or_default()
            }
            Self::Exponential { initial, max, multiplier } => {
                let growth = multiplier.powi(i32::try_from(failed_before).unwrap_or(i32::MAX));
                Duration::try_from_secs_f64(initial.as_secs_f64() * growth).map_or(*max, |grown| grown.min(*max))
            }
        };
        delay.min(DELAY_MAX)
    }

    /// What is wrong with the policy, if anything.
    pub(super) fn check(&self) -> Result<(), String> {
        let long = |d: &Duration| *d > DELAY_MAX;
        match self {
            Self::Customized(steps) if steps.is_empty() => {
                Err("a customized retry policy needs at least one delay".into())
            }
            Self::Customized(steps) if steps.len() > STEPS_MAX => {
                Err(format!("a customized retry policy takes at most {STEPS_MAX} delays, this one has {}", steps.len()))
            }
            Self::Customized(steps) if steps.iter().any(long) => Err(too_long()),
            Self::Customized(_) => Ok(()),
            Self::Exponential { initial, max, .. } if long(initial) || long(max) => Err(too_long()),
            Self::Exponential { initial, max, .. } if initial > max => {
                Err(format!("the retry delay begins at {initial:?}, which is more than its maximum {max:?}"))
            }
            Self::Exponential { multiplier, .. } if !(1.0..=1000.0).contains(multiplier) => {
                Err(format!("the retry multiplier {multiplier} is not between 1 and 1000"))
            }
            Self::Exponential { .. } => Ok(()),
        }
    }

    /// Writes the policy over an object as Apache's broker reads it; what else the object has stays. Apache counts
    /// milliseconds and wants a whole multiplier; a fraction is read there without what follows the point.
    pub(super) fn write(&self, object: &mut Map<String, Value>) {
        let millis = |d: &Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        match self {
            Self::Customized(steps) => {
                object.insert("type".into(), "CUSTOMIZED".into());
                // Apache writes nothing for its default steps, and so do we.
                if *self == Self::apache() {
                    object.remove("customizedRetryPolicy");
                } else {
                    let next: Vec<i64> = steps.iter().map(millis).collect();
                    object.insert("customizedRetryPolicy".into(), json!({ "next": next }));
                }
            }
            Self::Exponential { initial, max, multiplier } => {
                let whole = multiplier.fract() == 0.0 && multiplier.abs() < 1e15;
                let multiplier = if whole { json!(*multiplier as i64) } else { json!(multiplier) };
                object.insert("type".into(), "EXPONENTIAL".into());
                object.insert(
                    "exponentialRetryPolicy".into(),
                    json!({ "initial": millis(initial), "max": millis(max), "multiplier": multiplier }),
                );
            }
        }
    }

    /// Reads what [`RetryPolicy::write`] or Apache's broker wrote. What is absent has Apache's default: 5 s doubling up to
    /// 2 h for an exponential policy.
    pub(super) fn read(object: &Map<String, Value>) -> Result<Self, String> {
        let policy = match object.get("type").map_or(Some("CUSTOMIZED"), Value::as_str) {
            Some("CUSTOMIZED") => match object.get("customizedRetryPolicy").and_then(|p| p.get("next")) {
                None => Self::apache(),
                Some(Value::Array(steps)) => Self::Customized(steps.iter().map(millis).collect::<Result<_, _>>()?),
                Some(other) => return Err(format!("{other} is not a list of delays")),
            },
            Some("EXPONENTIAL") => {
                let field = |name| object.get("exponentialRetryPolicy").and_then(|p| p.get(name));
                Self::Exponential {
                    initial: field("initial").map_or(Ok(Duration::from_secs(5)), millis)?,
                    max: field("max").map_or(Ok(Duration::from_secs(7200)), millis)?,
                    multiplier: field("multiplier")
                        .map_or(Some(2.0), Value::as_f64)
                        .ok_or("the multiplier is no number")?,
                }
            }
            other => return Err(format!("the retry policy type {other:?} is neither CUSTOMIZED nor EXPONENTIAL")),
        };
        policy.check().map(|()| policy)
    }
}

fn millis(value: &Value) -> Result<Duration, String> {
    value.as_u64().map(Duration::from_millis).ok_or_else(|| format!("{value} is not a delay in milliseconds"))
}

fn too_long() -> String {
    format!("a retry delay is at most {} hours", DELAY_MAX.as_secs() / 3600)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn round_trip(policy: &RetryPolicy) -> RetryPolicy {
        let mut object = Map::new();
        policy.write(&mut object);
        RetryPolicy::read(&object).unwrap()
    }

    #[test]
    fn customized_delays_follow_the_list_and_the_last_repeats() {
        let policy = RetryPolicy::apache();
        let seconds = [1, 2, 3, 4, 5, 18, 19, u32::MAX].map(|attempt| policy.delay(attempt).as_secs());
        assert_eq!(seconds, [1, 5, 10, 30, 60, 7200, 7200, 7200]);
        assert_eq!(policy.delay(0), policy.delay(1));
    }

    #[test]
    fn exponential_delays_grow_up_to_their_maximum() {
        let policy = RetryPolicy::Exponential { initial: SECOND, max: 60 * SECOND, multiplier: 2.0 };
        let seconds = [1, 2, 3, 6, 7, 8, 5000, u32::MAX].map(|attempt| policy.delay(attempt).as_secs());
        assert_eq!(seconds, [1, 2, 4, 32, 60, 60, 60, 60]);
        let flat = RetryPolicy::Exponential { initial: SECOND, max: 60 * SECOND, multiplier: 1.0 };
        assert_eq!(flat.delay(u32::MAX), SECOND);
    }

    #[test]
    fn what_apache_writes_is_read() {
        let read = |value: Value| RetryPolicy::read(value.as_object().unwrap());
        assert_eq!(read(json!({})), Ok(RetryPolicy::apache()));
        assert_eq!(read(json!({"type": "CUSTOMIZED"})), Ok(RetryPolicy::apache()));
        assert_eq!(
            read(json!({"type": "CUSTOMIZED", "customizedRetryPolicy": {"next": [1000, 3000]}})),
            Ok(RetryPolicy::Customized(vec![SECOND, 3 * SECOND]))
        );
        assert_eq!(
            read(json!({"type": "EXPONENTIAL"})),
            Ok(RetryPolicy::Exponential { initial: 5 * SECOND, max: 7200 * SECOND, multiplier: 2.0 })
        );
        for bad in [
            json!({"type": "NONE"}),
            json!({"type": "CUSTOMIZED", "customizedRetryPolicy": {"next": []}}),
            json!({"type": "CUSTOMIZED", "customizedRetryPolicy": {"next": [-1]}}),
            json!({"type": "EXPONENTIAL", "exponentialRetryPolicy": {"multiplier": 0}}),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_policy_is_written_as_apache_does() {
        let mut object = Map::new();
        RetryPolicy::apache().write(&mut object);
        assert_eq!(Value::from(object.clone()), json!({"type": "CUSTOMIZED"}));
        RetryPolicy::Exponential { initial: SECOND, max: 9 * SECOND, multiplier: 3.0 }.write(&mut object);
        let written = json!({
            "type": "EXPONENTIAL",
            "exponentialRetryPolicy": {"initial": 1000, "max": 9000, "multiplier": 3},
        });
        assert_eq!(Value::from(object), written);
    }

    #[test]
    fn a_policy_out_of_range_is_refused() {
        let exponential = |initial, max, multiplier| RetryPolicy::Exponential { initial, max, multiplier };
        for bad in [
            RetryPolicy::Customized(vec![]),
            RetryPolicy::Customized(vec![SECOND; STEPS_MAX + 1]),
            RetryPolicy::Customized(vec![DELAY_MAX + SECOND]),
            exponential(SECOND, DELAY_MAX + SECOND, 2.0),
            exponential(2 * SECOND, SECOND, 2.0),
            exponential(SECOND, SECOND, f64::NAN),
            exponential(SECOND, SECOND, 0.5),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        assert_eq!(RetryPolicy::apache().check(), Ok(()));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(steps in prop::collection::vec(0u64..=604_800_000, 1..20), multiplier in 1.0f64..1000.0) {
            let customized = RetryPolicy::Customized(steps.iter().map(|ms| Duration::from_millis(*ms)).collect());
            prop_assert_eq!(round_trip(&customized), customized);
            let max = Duration::from_millis(steps[0].saturating_add(5).min(604_800_000));
            let exponential = RetryPolicy::Exponential { initial: Duration::from_millis(steps[0]), max, multiplier };
            prop_assert_eq!(round_trip(&exponential), exponential);
        }

        #[test]
        fn a_delay_is_never_over_its_maximum(initial in 0u64..1_000_000, more in 0u64..1_000_000, multiplier in 1.0f64..1000.0, attempt: u32) {
            let max = Duration::from_millis(initial + more);
            let policy = RetryPolicy::Exponential { initial: Duration::from_millis(initial), max, multiplier };
            prop_assert!(policy.delay(attempt) <= max);
            prop_assert!(policy.delay(attempt) <= policy.delay(attempt.saturating_add(1)));
        }
    }
}
