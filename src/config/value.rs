//! Texts to values: sizes, spans of time, flags and counts, with the units that RocketMQ's keys imply.

use std::time::Duration;

/// The unit that a bare number of a key is counted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    Millis,
    Seconds,
    Hours,
}

impl Unit {
    /// How it is written behind a number.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Millis => "ms",
            Self::Seconds => "s",
            Self::Hours => "h",
        }
    }
    const fn millis(self) -> u64 {
        match self {
            Self::Millis => 1,
            Self::Seconds => 1_000,
            Self::Hours => 3_600_000,
        }
    }
    /// `n` of this unit; saturates.
    pub const fn times(self, n: u64) -> Duration {
        Duration::from_millis(n.saturating_mul(self.millis()))
    }
}

/// Digits, and what stands behind them in lower case. `None` when it does not start with a digit, or overflows.
fn number(text: &str) -> Option<(u64, String)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let n = text.get(..digits)?.parse().ok()?;
    Some((n, text.get(digits..)?.trim().to_ascii_lowercase()))
}

/// Bytes: a number, or a number with `K`, `M`, `G` or `T` (also `KB`, `KiB` ...), each 1024 times the one before.
pub fn size(text: &str) -> Option<u64> {
    let (n, suffix) = number(text)?;
    let shift = match suffix.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    n.checked_mul(1u64 << shift)
}

/// Bytes for people: in the largest unit that keeps them whole.
pub fn size_text(bytes: u64) -> String {
    let unit = [(40, "TB"), (30, "GB"), (20, "MB"), (10, "KB")]
        .into_iter()
        .find(|(shift, _)| bytes != 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(|| bytes.to_string(), |(shift, name)| format!("{}{name}", bytes >> shift))
}

/// A span: a number in the key's own unit, or a number with `ms`, `s`, `m`, `h` or `d`.
pub fn span(text: &str, unit: Unit) -> Option<Duration> {
    let (n, suffix) = number(text)?;
    let millis = match suffix.as_str() {
        "" => unit.millis(),
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    n.checked_mul(millis).map(Duration::from_millis)
}

/// A plain number.
pub fn count(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// `true` or `false`, in any case.
pub fn flag(text: &str) -> Option<bool> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// The member of a closed set that is meant, in any case.
pub fn choice(text: &str, of: &[&'static str]) -> Option<&'static str> {
    of.iter().find(|c| c.eq_ignore_ascii_case(text.trim())).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_take_binary_suffixes_in_any_case() {
        for (text, bytes) in [
            ("0", 0),
            ("1073741824", 1 << 30),
            ("128MB", 128 << 20),
            ("64 k", 65536),
            ("1GiB", 1 << 30),
            ("2t", 2 << 40),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "MB", "-1", "1.5G", "12 parsecs", "99999999999999999999", "9999999999T"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn a_bare_span_counts_the_keys_own_unit() {
        assert_eq!(span("72", Unit::Hours), Some(Duration::from_secs(72 * 3600)));
        assert_eq!(span("500", Unit::Millis), Some(Duration::from_millis(500)));
        assert_eq!(span("30", Unit::Seconds), Some(Duration::from_secs(30)));
        assert_eq!(span("3d", Unit::Hours), span("72", Unit::Hours));
        assert_eq!(span("2 m", Unit::Millis), Some(Duration::from_secs(120)));
        assert_eq!(span("soon", Unit::Millis), None);
        assert_eq!(span("18446744073709551615d", Unit::Millis), None);
    }

    #[test]
    fn flags_and_choices_ignore_case_and_refuse_the_rest() {
        assert_eq!(flag(" True "), Some(true));
        assert_eq!(flag("FALSE"), Some(false));
        assert_eq!(flag("yes"), None);
        assert_eq!(choice("sync_flush", &["SYNC_FLUSH", "ASYNC_FLUSH"]), Some("SYNC_FLUSH"));
        assert_eq!(choice("never", &["SYNC_FLUSH", "ASYNC_FLUSH"]), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,24}") {
            let _ = (size(&text), span(&text, Unit::Hours), count(&text), flag(&text));
        }

        #[test]
        fn every_number_of_bytes_reads_back(n: u64) {
            prop_assert_eq!(size(&n.to_string()), Some(n));
            prop_assert_eq!(size(&size_text(n)), Some(n));
        }
    }
}
