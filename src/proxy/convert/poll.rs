//! ReceiveMessage: how long a poll may wait, how much it takes and for how long.

use std::time::Duration;

use crate::proto::v2::{self, Code};

use super::{
    super::{
        config::{Leases, Polling},
        status::Refusal,
    },
    duration,
};

/// Client versions from this one on know ILLEGAL_POLLING_TIME; compared as text, as RocketMQ does.
const KNOWS_POLLING_TIME: &str = "5.0.3";

/// What the client said about time.
pub struct Wait<'a> {
    /// `long_polling_timeout` of the request.
    pub asked: Option<Duration>,
    /// `request_timeout` of the client's settings.
    pub request_timeout: Duration,
    /// What is left until the call's deadline (`grpc-timeout`); `None` is no deadline.
    pub remaining: Option<Duration>,
    pub version: Option<&'a str>,
}

impl Wait<'_> {
    /// How long the poll waits: within the bounds, and so that its answer is there before the deadline.
    pub fn length(&self, bounds: &Polling) -> Result<Duration, Refusal> {
        let remaining = self.remaining.unwrap_or(Duration::MAX);
        let asked = self.asked.unwrap_or_else(|| remaining.saturating_sub(self.request_timeout / 2));
        let mut length = asked.clamp(bounds.min, bounds.max);
        if length > remaining {
            if remaining < bounds.min {
                return Err(self.too_short(remaining, bounds.min));
            }
            length = remaining;
        }
        Ok(length.min(remaining.saturating_sub(bounds.reserve)))
    }

    fn too_short(&self, remaining: Duration, min: Duration) -> Refusal {
        let code = match self.version {
            Some(version) if version >= KNOWS_POLLING_TIME => Code::IllegalPollingTime,
            _ => Code::BadRequest,
        };
        let (remaining, min) = (remaining.as_millis(), min.as_millis());
        Refusal::new(code, format_args!("the deadline leaves {remaining} ms for the poll, the least is {min} ms"))
    }
}

/// How long a pull waits: as it asks, if it does, and so that its answer is there before the deadline.
pub fn pull_length(asked: Option<&prost_types::Duration>, remaining: Option<Duration>, bounds: &Polling) -> Duration {
    let asked = asked.and_then(duration).unwrap_or_default().min(bounds.max);
    asked.min(remaining.unwrap_or(Duration::MAX).saturating_sub(bounds.reserve))
}

/// Messages of one poll.
pub fn batch(asked: i32, bounds: &Polling) -> usize {
    u32::try_from(asked).unwrap_or(0).clamp(1, bounds.batch_max) as usize
}

/// The lease of what a poll delivers.
pub fn lease(request: &v2::ReceiveMessageRequest, renewed: bool, bounds: &Leases) -> Result<Duration, Refusal> {
    if renewed {
        return Ok(bounds.renewed);
    }
    let asked = request.invisible_duration.as_ref().and_then(duration);
    asked.filter(|d| (bounds.min..=bounds.max).contains(d)).ok_or_else(|| illegal_lease(bounds.min, bounds.max))
}

/// The lease that a consumer changes one to; nothing left of it is legal and means "at once".
pub fn changed_lease(asked: Option<&prost_types::Duration>, bounds: &Leases) -> Result<Duration, Refusal> {
    let asked = asked.map_or(Some(Duration::ZERO), duration);
    asked.filter(|d| *d <= bounds.max).ok_or_else(|| illegal_lease(Duration::ZERO, bounds.max))
}

fn illegal_lease(min: Duration, max: Duration) -> Refusal {
    let (min, max) = (min.as_millis(), max.as_millis());
    Refusal::new(Code::IllegalInvisibleTime, format_args!("invisible_duration must be from {min} ms to {max} ms"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proxy::config::Config;

    fn length(asked: Option<u64>, remaining: Option<u64>, version: Option<&str>) -> Result<u64, Code> {
        let wait = Wait {
            asked: asked.map(Duration::from_millis),
            request_timeout: Duration::from_secs(3),
            remaining: remaining.map(Duration::from_millis),
            version,
        };
        wait.length(&Config::default().polling).map(|d| d.as_millis() as u64).map_err(|r| r.code)
    }

    #[test]
    fn a_poll_lasts_as_asked_within_its_bounds() {
        for (asked, remaining, expected) in [
            (Some(15_000), Some(18_000), 15_000),
            (Some(1_000), Some(18_000), 5_000),
            (Some(30_000), Some(33_000), 20_000),
            (Some(40_000), Some(40_000), 20_000),
            (Some(20_000), Some(20_050), 19_950),
            (Some(20_000), Some(8_000), 7_900),
            (None, Some(18_000), 16_500),
            (None, Some(33_000), 20_000),
            (None, Some(6_000), 5_000),
            (None, None, 20_000),
            (Some(7_000), None, 7_000),
        ] {
            assert_eq!(length(asked, remaining, None), Ok(expected), "{asked:?} {remaining:?}");
        }
    }

    #[test]
    fn a_deadline_too_near_has_the_code_that_the_client_knows() {
        for (version, code) in [
            (None, Code::BadRequest),
            (Some("5.0.2"), Code::BadRequest),
            (Some("5.0.3"), Code::IllegalPollingTime),
            (Some("5.1.4"), Code::IllegalPollingTime),
            (Some("4.9"), Code::BadRequest),
        ] {
            assert_eq!(length(Some(10_000), Some(4_999), version), Err(code), "{version:?}");
        }
    }

    #[test]
    fn batches_are_cut_and_never_empty() {
        let polling = Config::default().polling;
        for (asked, taken) in [(i32::MIN, 1), (0, 1), (1, 1), (32, 32), (33, 32), (i32::MAX, 32)] {
            assert_eq!(batch(asked, &polling), taken);
        }
    }

    #[test]
    fn leases_keep_to_their_bounds() {
        let leases = Config::default().leases;
        let wire = |seconds| prost_types::Duration { seconds, nanos: 0 };
        let poll = |seconds: Option<i64>, renewed| {
            let request = v2::ReceiveMessageRequest { invisible_duration: seconds.map(wire), ..Default::default() };
            lease(&request, renewed, &leases).map(|d| d.as_secs()).map_err(|r| r.code)
        };
        let illegal = Err(Code::IllegalInvisibleTime);
        for (seconds, expected) in
            [(None, illegal), (Some(9), illegal), (Some(-1), illegal), (Some(43_201), illegal), (Some(10), Ok(10))]
        {
            assert_eq!(poll(seconds, false), expected, "{seconds:?}");
            assert_eq!(poll(seconds, true), Ok(60));
        }
        let change = |seconds| changed_lease(Some(&wire(seconds)), &leases).map(|d| d.as_secs()).map_err(|r| r.code);
        for (seconds, expected) in [(0, Ok(0)), (43_200, Ok(43_200)), (43_201, illegal), (-1, illegal)] {
            assert_eq!(change(seconds), expected);
        }
        assert_eq!(changed_lease(None, &leases), Ok(Duration::ZERO));
    }

    proptest! {
        /// The answer is there before the client gives up, whatever it asked for.
        #[test]
        fn no_poll_outlasts_its_deadline(asked in any::<Option<u64>>(), remaining in any::<Option<u64>>(), timeout: u64) {
            let bounds = Config::default().polling;
            let wait = Wait {
                asked: asked.map(Duration::from_micros),
                request_timeout: Duration::from_micros(timeout),
                remaining: remaining.map(Duration::from_micros),
                version: None,
            };
            if let Ok(length) = wait.length(&bounds) {
                prop_assert!(length <= bounds.max);
                if let Some(remaining) = wait.remaining {
                    prop_assert!(length + bounds.reserve <= remaining);
                }
            }
        }
    }
}
