//! How the command line reads and writes times: RFC 3339 in UTC, and milliseconds since 1970 where they are typed.

use std::time::Duration;

use prost_types::Timestamp as WireTime;

/// A whole number of ms, s, m, h or d.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("it is no time like 500ms, 30s, 5m, 2h or 1d".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "it begins with no whole number".to_owned())?;
    number.checked_mul(unit).map(Duration::from_millis).ok_or_else(|| "it is too long".to_owned())
}

/// RFC 3339, with any offset from UTC.
pub fn parse_instant(text: &str) -> Option<WireTime> {
    text.parse().ok()
}

/// RFC 3339, or milliseconds since 1970.
pub fn parse_time(text: &str) -> Result<WireTime, String> {
    let millis = text.parse().ok().map(wire_time);
    millis.or_else(|| parse_instant(text)).ok_or_else(|| "it is no time like 2026-01-31T08:00:00Z".to_owned())
}

/// Epoch ms as the wire has them.
pub fn wire_time(millis: i64) -> WireTime {
    WireTime { seconds: millis.div_euclid(1000), nanos: (millis.rem_euclid(1000) * 1_000_000) as i32 }
}

pub fn millis(time: Option<&WireTime>) -> i64 {
    time.map_or(0, |t| t.seconds.saturating_mul(1000).saturating_add(i64::from(t.nanos / 1_000_000)))
}

/// RFC 3339 in UTC.
pub fn shown(time: Option<&WireTime>) -> String {
    time.map_or_else(|| "-".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_understood_with_their_units() {
        assert_eq!(parse_span("90m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_span("1ms"), Ok(Duration::from_millis(1)));
        for wrong in ["", "5", "m", "-1s", "1w", "99999999999999999999s", "18446744073709551615d"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_is_read_as_it_is_shown_and_as_milliseconds() {
        let at = wire_time(1_769_846_400_500);
        assert_eq!(shown(Some(&at)), "2026-01-31T08:00:00.500Z");
        for text in ["1769846400500", "2026-01-31T08:00:00.500Z", "2026-01-31T09:00:00.5+01:00"] {
            assert_eq!(parse_time(text), Ok(at), "{text}");
        }
        assert_eq!(millis(Some(&at)), 1_769_846_400_500);
        for wrong in ["", "soon", "2026-13-01T00:00:00Z"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
