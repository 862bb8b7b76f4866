//! What the rounds come to.

use std::fmt;

use serde::Serialize;

use super::{
    Subject,
    sample::{Phase, Sample},
};

/// Medians of every figure, and how they stand to the yardstick's.
#[derive(Clone, Debug, Serialize)]
pub struct Medians(Vec<Row>);

/// One figure of all subjects.
#[derive(Clone, Debug, Serialize)]
struct Row {
    figure: &'static str,
    yardstick: f64,
    #[serde(rename = "async")]
    asynchronous: f64,
    #[serde(rename = "sync")]
    synchronous: f64,
    async_of_yardstick: f64,
    sync_of_yardstick: f64,
}

type Figure = (&'static str, fn(&Sample) -> f64);

const FIGURES: [Figure; 13] = [
    ("single_messages_per_second", |s| rate(&s.single)),
    ("single_server_cpu_us_per_message", |s| s.single.server_cpu_us_per_message),
    ("single_latency_p50_us", |s| s.single.report.latency_us.p50 as f64),
    ("single_latency_p99_us", |s| s.single.report.latency_us.p99 as f64),
    ("batch_messages_per_second", |s| rate(&s.batch)),
    ("batch_server_cpu_us_per_message", |s| s.batch.server_cpu_us_per_message),
    ("batch_latency_p99_us", |s| s.batch.report.latency_us.p99 as f64),
    ("receive_messages_per_second", |s| rate(&s.receive)),
    ("receive_server_cpu_us_per_message", |s| s.receive.server_cpu_us_per_message),
    ("receive_latency_p99_us", |s| s.receive.report.latency_us.p99 as f64),
    ("receive_to_single_messages_per_second", |s| rate(&s.receive) / rate(&s.single)),
    ("first_ack_ms", |s| s.first_ack_ms),
    ("idle_rss_anon_kib", |s| s.idle_rss_anon_kib as f64),
];

fn rate(phase: &Phase) -> f64 {
    phase.report.messages_per_second
}

impl Medians {
    pub fn of(samples: &[Sample]) -> Self {
        let row = |(figure, of): Figure| {
            let median = |subject| median(samples.iter().filter(|s| s.subject == subject).map(of).collect());
            let [yardstick, asynchronous, synchronous] = Subject::ALL.map(median);
            Row {
                figure,
                yardstick,
                asynchronous,
                synchronous,
                async_of_yardstick: asynchronous / yardstick,
                sync_of_yardstick: synchronous / yardstick,
            }
        };
        Self(FIGURES.map(row).to_vec())
    }
}

/// The one in the middle; between the two where there is none. NaN for nothing.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

impl fmt::Display for Medians {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<38}{:>12}{:>12}{:>8}{:>12}{:>8}", "", "yardstick Y", "async", "of Y", "sync", "of Y")?;
        for row in &self.0 {
            let shown = |value: f64| format!("{value:.*}", if value < 100.0 { 2 } else { 0 });
            writeln!(
                f,
                "{:<38}{:>12}{:>12}{:>8.2}{:>12}{:>8.2}",
                row.figure.replace('_', " "),
                shown(row.yardstick),
                shown(row.asynchronous),
                row.async_of_yardstick,
                shown(row.synchronous),
                row.sync_of_yardstick,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::super::tally::Tally, *};

    fn sample(subject: Subject, messages: u64) -> Sample {
        let mut tally = Tally::new();
        tally.measure(messages, std::time::Instant::now());
        tally.latency(Duration::from_millis(1));
        let report = tally.report(Duration::from_secs(1), 1024, 0);
        let phase = Phase { server_cpu_us_per_message: 1e6 / messages as f64, report };
        let (single, batch, receive) = (phase.clone(), phase.clone(), phase);
        Sample { subject, first_ack_ms: 10.0, idle_rss_anon_kib: 4096, single, batch, receive }
    }

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(vec![9.0, 1.0, 5.0]) - 5.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn ratios_are_to_the_yardstick_and_one_bad_round_does_not_move_them() {
        let mut samples = Vec::new();
        for (y, a, s) in [(1000, 750, 400), (1010, 10, 410), (990, 760, 390)] {
            let round = [(Subject::Yardstick, y), (Subject::Async, a), (Subject::Sync, s)];
            samples.extend(round.map(|(subject, messages)| sample(subject, messages)));
        }
        let medians = Medians::of(&samples);
        let json = serde_json::to_value(&medians).unwrap();
        assert_eq!(json[0]["figure"], "single_messages_per_second");
        assert_eq!(json[0]["async_of_yardstick"], 0.75);
        assert_eq!(json[0]["sync_of_yardstick"], 0.4);
        assert!(medians.to_string().contains("single messages per second"));
    }
}
