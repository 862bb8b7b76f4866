//! Delay levels of RocketMQ 4 (`messageDelayLevel`, `ScheduleMessageService`): numbers from 1 on that stand for a delay.

use std::time::Duration;

/// Apache's.
pub const DEFAULT_LEVELS: &str = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h";
/// Levels at most.
const LEVELS_MAX: usize = 256;

/// Reads delays apart by spaces: whole numbers of s, m, h or d.
pub fn parse_levels(text: &str) -> Result<Vec<Duration>, String> {
    let levels = text.split_whitespace().map(level).collect::<Result<Vec<_>, _>>()?;
    match levels.len() {
        1..=LEVELS_MAX => Ok(levels),
        count => Err(format!("has {count} levels; give 1 to {LEVELS_MAX}")),
    }
}

fn level(text: &str) -> Result<Duration, String> {
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => return Err(format!("has {text:?}, which is no delay like 30s, 5m, 2h or 1d")),
    };
    // No delay is longer than what `timerMaxDelaySec` may be.
    let seconds = text[..text.len() - 1].parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    match seconds.filter(|seconds| (1..=400 * 86_400).contains(seconds)) {
        Some(seconds) => Ok(Duration::from_secs(seconds)),
        None => Err(format!("has {text:?}, which is not from 1s to 400d")),
    }
}

/// The delay of a level; beyond the last one, the last one's. `None` below 1.
pub fn delay(levels: &[Duration], level: i64) -> Option<Duration> {
    let place = usize::try_from(level).ok()?.checked_sub(1)?;
    levels.get(place).or(levels.last()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_as_apache_reads_them() {
        let levels = parse_levels(DEFAULT_LEVELS).unwrap();
        assert_eq!(levels.len(), 18);
        let seconds = |level| delay(&levels, level).map(|delay| delay.as_secs());
        assert_eq!([1, 5, 18, 19, 1000].map(seconds), [Some(1), Some(60), Some(7200), Some(7200), Some(7200)]);
        assert_eq!([0, -1, i64::MIN].map(seconds), [None; 3]);
        assert_eq!(parse_levels("1d"), Ok(vec![Duration::from_secs(86_400)]));
    }

    #[test]
    fn what_is_no_delay_is_refused() {
        for text in ["", " ", "1", "s", "0s", "1s 5", "-1s", "401d", "1w", "1é"] {
            assert!(parse_levels(text).is_err(), "{text}");
        }
        assert!(parse_levels(&"1s ".repeat(257)).is_err());
    }
}
