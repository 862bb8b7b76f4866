//! The text format of Prometheus, version 0.0.4.

use std::fmt::{Display, Write as _};

use super::{
    catalogue::{self, Id, Kind, Metric},
    sink::{Number, Sink},
};
use crate::meter::Distribution;

/// How metrics are named and labelled, the same on every page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// `metricsUnitSuffixEnable`: with the unit, as newer OpenTelemetry libraries have it, or without, as older ones.
    pub with_units: bool,
    /// On every sample: cluster, node and `metricsLabel`.
    pub common: Vec<(String, String)>,
}

impl Names {
    /// A metric's name.
    pub fn of(&self, metric: &Metric) -> String {
        if self.with_units { metric.full_name() } else { metric.name.to_owned() }
    }
}

/// A page in the making. Samples may come in any order; each metric's are kept together.
pub struct Page {
    names: Names,
    /// As it stands in every sample, escaped, with a comma behind it.
    common: String,
    /// By metric.
    samples: Vec<String>,
}

impl Page {
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    pub fn new(names: &Names) -> Self {
        let mut common = String::new();
        for (name, value) in &names.common {
            label(&mut common, name, value);
        }
        let samples = catalogue::ALL.iter().map(|_| String::new()).collect();
        Self { names: names.clone(), common, samples }
    }

    fn name(&self, id: Id) -> String {
        self.names.of(catalogue::metric(id))
    }

    fn sample(&mut self, id: Id, name: &str, labels: &[&str], more: &str, value: impl Display) {
        let metric = catalogue::metric(id);
        debug_assert_eq!(metric.labels.len(), labels.len(), "labels of {name}");
        let samples = &mut self.samples[id as usize];
        let _ = write!(samples, "{name}{{{}", self.common);
        for (name, value) in metric.labels.iter().zip(labels) {
            label(samples, name, value);
        }
        samples.push_str(more);
        if samples.ends_with(',') {
            samples.pop();
        }
        let _ = writeln!(samples, "}} {value}");
    }

    /// The whole page.
    pub fn finish(self) -> String {
        let mut out = String::with_capacity(self.samples.iter().map(|samples| samples.len() + 256).sum());
        for (metric, samples) in catalogue::ALL.iter().zip(&self.samples) {
            if !samples.is_empty() {
                head(&mut out, metric, &self.names.of(metric));
                out.push_str(samples);
            }
        }
        out
    }
}

impl Sink for Page {
    fn add(&mut self, id: Id, labels: &[&str], value: impl Into<Number>) {
        let name = self.name(id);
        self.sample(id, &name, labels, "", value.into());
    }

    fn distribution(&mut self, id: Id, labels: &[&str], counted: &Distribution, scale: f64) {
        let name = self.name(id);
        let bucket = format!("{name}_bucket");
        for (bound, count) in &counted.up_to {
            let le = format!("le=\"{}\",", *bound as f64 / scale);
            self.sample(id, &bucket, labels, &le, count);
        }
        self.sample(id, &bucket, labels, "le=\"+Inf\",", counted.count);
        self.sample(id, &format!("{name}_sum"), labels, "", counted.sum as f64 / scale);
        self.sample(id, &format!("{name}_count"), labels, "", counted.count);
    }
}

fn head(out: &mut String, metric: &Metric, name: &str) {
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let help = metric.help;
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

fn label(out: &mut String, name: &str, value: &str) {
    let _ = write!(out, "{name}=\"");
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push_str("\",");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(with_units: bool) -> Names {
        Names { with_units, common: vec![("cluster".into(), "a \"b\"\\\n".into())] }
    }

    #[test]
    fn samples_of_a_metric_stand_together_behind_its_head_and_are_escaped() {
        let mut page = Page::new(&names(true));
        page.add(Id::CommitMessages, &["x"], 1u64);
        page.add(Id::TopicNumber, &[], 7u64);
        page.add(Id::CommitMessages, &["y"], 2u64);
        let expected = "# HELP rocketmq_topic_number Topics.\n# TYPE rocketmq_topic_number gauge\n\
            rocketmq_topic_number{cluster=\"a \\\"b\\\"\\\\\\n\"} 7\n\
            # HELP rocketmq_commit_messages_total Transactions committed.\n\
            # TYPE rocketmq_commit_messages_total counter\n\
            rocketmq_commit_messages_total{cluster=\"a \\\"b\\\"\\\\\\n\",topic=\"x\"} 1\n\
            rocketmq_commit_messages_total{cluster=\"a \\\"b\\\"\\\\\\n\",topic=\"y\"} 2\n";
        assert_eq!(page.finish(), expected);
    }

    #[test]
    fn a_histogram_is_told_in_the_metrics_unit_and_ends_with_everything() {
        let counted = Distribution { up_to: vec![(500, 1), (1000, 3)], count: 4, sum: 9500 };
        let mut page = Page::new(&Names { with_units: false, common: vec![] });
        page.distribution(Id::SyncTime, &[], &counted, 1000.0);
        let text = page.finish();
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            "ferromq_storage_sync_time_bucket{le=\"0.5\"} 1",
            "ferromq_storage_sync_time_bucket{le=\"1\"} 3",
            "ferromq_storage_sync_time_bucket{le=\"+Inf\"} 4",
            "ferromq_storage_sync_time_sum{} 9.5",
            "ferromq_storage_sync_time_count{} 4",
        ];
        assert_eq!(samples, expected);
    }
}
