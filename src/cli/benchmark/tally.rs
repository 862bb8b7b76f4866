//! What a load has measured, and how it is told.

use std::{
    fmt,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Microseconds. Longer times are counted as this.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Kept of the different errors of a run.
const ERRORS_KEPT: usize = 3;

/// What calls have brought so far; one per connection, merged at the end.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Of measured calls, or of measured messages where the work times each.
    latency_us: Histogram<u64>,
    /// Messages of measured calls.
    measured: u64,
    /// Messages of all calls that were answered OK, measured or not.
    messages: u64,
    failed_calls: u64,
    errors: Vec<String>,
    last: Option<Instant>,
}

impl Tally {
    pub fn new() -> Self {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("constant bounds that fit");
        Self { latency_us, measured: 0, messages: 0, failed_calls: 0, errors: Vec::new(), last: None }
    }

    /// Counts a call that was answered OK, outside of what is measured.
    pub fn pass(&mut self, messages: u64) {
        self.messages += messages;
    }

    /// Counts a call that was answered OK at `end`; its latencies are added by [`Tally::latency`].
    pub fn measure(&mut self, messages: u64, end: Instant) {
        self.messages += messages;
        self.measured += messages;
        self.last = self.last.max(Some(end));
    }

    pub fn latency(&mut self, latency: Duration) {
        self.latency_us.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    pub fn fail(&mut self, error: &anyhow::Error) {
        self.failed_calls += 1;
        let text = format!("{error:#}");
        if self.errors.len() < ERRORS_KEPT && !self.errors.contains(&text) {
            self.errors.push(text);
        }
    }

    pub fn merge(&mut self, other: Self) {
        self.latency_us.add(&other.latency_us).expect("both have the same bounds");
        self.measured += other.measured;
        self.messages += other.messages;
        self.failed_calls += other.failed_calls;
        self.last = self.last.max(other.last);
        for text in other.errors {
            if self.errors.len() < ERRORS_KEPT && !self.errors.contains(&text) {
                self.errors.push(text);
            }
        }
    }

    /// Messages of all calls that were answered OK, those of the warm-up included.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// When the last measured call ended.
    pub fn last(&self) -> Option<Instant> {
        self.last
    }

    /// Sums up, for a load whose measured part took `elapsed`. `size` is bytes of a body; `unsent` messages were due in
    /// an open loop and never sent.
    pub fn report(&self, elapsed: Duration, size: usize, unsent: u64) -> Report {
        let seconds = elapsed.as_secs_f64();
        let per_second = if seconds > 0.0 { self.measured as f64 / seconds } else { 0.0 };
        Report {
            messages: self.measured,
            seconds,
            messages_per_second: per_second,
            mib_per_second: per_second * size as f64 / f64::from(1 << 20),
            latency_us: Latency::of(&self.latency_us),
            failed_calls: self.failed_calls,
            errors: self.errors.clone(),
            unsent,
        }
    }
}

/// The outcome of one load.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub messages: u64,
    pub seconds: f64,
    pub messages_per_second: f64,
    pub mib_per_second: f64,
    pub latency_us: Latency,
    pub failed_calls: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    pub unsent: u64,
}

/// Microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    pub count: u64,
    pub mean: f64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    #[serde(rename = "p99.9")]
    pub p999: u64,
    pub max: u64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            mean: histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max(),
        }
    }
}

impl Report {
    /// True when nothing was refused or lost on the way.
    pub fn is_clean(&self) -> bool {
        self.failed_calls == 0 && self.messages > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:.0} messages/s, {:.1} MiB/s ({} messages in {:.2} s)",
            self.messages_per_second, self.mib_per_second, self.messages, self.seconds
        )?;
        let l = &self.latency_us;
        write!(
            f,
            "latency ms: p50 {}  p90 {}  p99 {}  p99.9 {}  max {}  (of {})",
            Millis(l.p50),
            Millis(l.p90),
            Millis(l.p99),
            Millis(l.p999),
            Millis(l.max),
            l.count
        )?;
        if self.unsent > 0 {
            write!(f, "\n{} messages were due and not sent: the rate is more than the server takes", self.unsent)?;
        }
        if self.failed_calls > 0 {
            write!(f, "\n{} calls failed, e.g.", self.failed_calls)?;
        }
        self.errors.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

/// Microseconds, shown as milliseconds.
pub struct Millis(pub u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.0 < 10_000 { 3 } else { 1 };
        write!(f, "{:.digits$}", self.0 as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_what_was_measured_and_keeps_a_few_errors() {
        let start = Instant::now();
        let mut tally = Tally::new();
        tally.pass(5);
        for ms in 1..=100 {
            tally.measure(2, start + Duration::from_millis(ms));
            tally.latency(Duration::from_millis(ms));
        }
        let mut other = Tally::new();
        (0..10).for_each(|n| other.fail(&anyhow::anyhow!("refusal {n}")));
        tally.merge(other);
        assert_eq!(tally.messages(), 205);
        assert_eq!(tally.last(), Some(start + Duration::from_millis(100)));

        let report = tally.report(Duration::from_secs(2), 1 << 20, 0);
        assert_eq!((report.messages, report.failed_calls, report.errors.len()), (200, 10, ERRORS_KEPT));
        assert!((report.messages_per_second - 100.0).abs() < 1e-9);
        assert!((report.mib_per_second - 100.0).abs() < 1e-9);
        // Three significant digits.
        assert!(report.latency_us.p50.abs_diff(50_000) < 100, "{:?}", report.latency_us);
        assert!(report.latency_us.p99.abs_diff(99_000) < 200, "{:?}", report.latency_us);
        assert!(!report.is_clean());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["latency_us"]["count"], 100);
        assert!(json["latency_us"]["p99.9"].is_u64());
    }
}
