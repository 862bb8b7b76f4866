//! The samples of the table of metrics as OTLP has them, in messages of a bounded size.

use prost::Message as _;

use super::{About, MESSAGE_BYTES_MAX, nanos, text};
use crate::{
    meter::Distribution,
    observe::metrics::{
        Id, Names, Number, Sink,
        catalogue::{self, Kind, Unit},
    },
    proto::opentelemetry::proto::{
        collector::metrics::v1::ExportMetricsServiceRequest,
        common::v1::KeyValue,
        metrics::v1::{
            AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
            ScopeMetrics, Sum, metric::Data, number_data_point::Value,
        },
    },
    types::Timestamp,
};

/// What a point and a metric take beyond themselves: tags and lengths.
const FRAME: usize = 16;

/// One snapshot. Its messages are handed over as they become full, so that however many series there are, one message is in
/// memory.
pub struct Snapshot<F> {
    about: About,
    names: Names,
    /// On every point, as on every sample of the page: cluster, node, `metricsLabel`.
    common: Vec<KeyValue>,
    /// Since when counters count, and what time it is. A topic or group that was deleted and made again counts from 0 under the
    /// same start: of a cumulative sum that falls, collectors and their backends know that it was reset.
    start: u64,
    now: u64,
    /// By id; those that have points.
    metrics: Vec<Option<Metric>>,
    /// What each message takes before its first metric.
    resource: usize,
    bytes: usize,
    hand_over: F,
    /// Nobody takes any more.
    is_over: bool,
}

impl<F: FnMut(ExportMetricsServiceRequest) -> bool> Snapshot<F> {
    /// `hand_over` takes messages, and says whether it takes more.
    pub fn new(about: About, names: &Names, start: Timestamp, now: Timestamp, hand_over: F) -> Self {
        let common = names.common.iter().map(|(name, value)| text(name, value.as_str())).collect();
        let metrics = catalogue::ALL.iter().map(|_| None).collect();
        // The wall clock may have been set back since.
        let (start, now) = (nanos(start), nanos(now.max(start)));
        let resource = about.resource.encoded_len() + 4 * FRAME;
        Self { about, names: names.clone(), common, start, now, metrics, resource, bytes: 0, hand_over, is_over: false }
    }

    /// Hands over the rest.
    pub fn finish(mut self) {
        self.hand_over();
    }

    fn hand_over(&mut self) {
        self.bytes = 0;
        let metrics: Vec<_> = self.metrics.iter_mut().filter_map(Option::take).collect();
        if metrics.is_empty() || self.is_over {
            return;
        }
        let scope_metrics = vec![ScopeMetrics { scope: Some(self.about.scope.clone()), metrics }];
        let resource = Some(self.about.resource.clone());
        let all = ResourceMetrics { resource, scope_metrics, schema_url: String::new() };
        self.is_over = !(self.hand_over)(ExportMetricsServiceRequest { resource_metrics: vec![all] });
    }

    fn attributes(&self, id: Id, labels: &[&str]) -> Vec<KeyValue> {
        let own = catalogue::metric(id).labels;
        debug_assert_eq!(own.len(), labels.len(), "labels of {id:?}");
        let own = own.iter().zip(labels).map(|(name, value)| text(name, *value));
        self.common.iter().cloned().chain(own).collect()
    }

    /// Where a point of so many bytes goes; what is full has been handed over.
    fn room(&mut self, id: Id, point: usize) -> &mut Data {
        let metric = catalogue::metric(id);
        let head =
            if self.metrics[id as usize].is_none() { metric.name.len() + metric.help.len() + 4 * FRAME } else { 0 };
        if self.bytes + head + point + FRAME + self.resource > MESSAGE_BYTES_MAX {
            self.hand_over();
        }
        self.bytes += head + point + FRAME;
        let names = &self.names;
        let metric = self.metrics[id as usize].get_or_insert_with(|| Metric {
            name: names.of(metric),
            description: metric.help.to_owned(),
            unit: unit(metric.unit).to_owned(),
            data: None,
        });
        metric.data.get_or_insert_with(|| empty(catalogue::metric(id).kind))
    }
}

impl<F: FnMut(ExportMetricsServiceRequest) -> bool> Sink for Snapshot<F> {
    fn add(&mut self, id: Id, labels: &[&str], value: impl Into<Number>) {
        if self.is_over {
            return;
        }
        let value = match value.into() {
            Number::Whole(n) => Value::AsInt(i64::try_from(n).unwrap_or(i64::MAX)),
            Number::Real(n) => Value::AsDouble(n),
        };
        let is_counter = catalogue::metric(id).kind == Kind::Counter;
        let point = NumberDataPoint {
            attributes: self.attributes(id, labels),
            start_time_unix_nano: if is_counter { self.start } else { 0 },
            time_unix_nano: self.now,
            value: Some(value),
        };
        match self.room(id, point.encoded_len()) {
            Data::Gauge(gauge) => gauge.data_points.push(point),
            Data::Sum(sum) => sum.data_points.push(point),
            Data::Histogram(_) => debug_assert!(false, "{id:?} is a histogram"),
        }
    }

    fn distribution(&mut self, id: Id, labels: &[&str], counted: &Distribution, scale: f64) {
        if self.is_over {
            return;
        }
        let mut below = 0;
        let own = counted.up_to.iter().map(|(_, count)| *count).chain([counted.count]);
        let point = HistogramDataPoint {
            attributes: self.attributes(id, labels),
            start_time_unix_nano: self.start,
            time_unix_nano: self.now,
            count: counted.count,
            sum: Some(counted.sum as f64 / scale),
            bucket_counts: own.map(|up_to| up_to.saturating_sub(std::mem::replace(&mut below, up_to))).collect(),
            explicit_bounds: counted.up_to.iter().map(|(bound, _)| *bound as f64 / scale).collect(),
        };
        match self.room(id, point.encoded_len()) {
            Data::Histogram(histogram) => histogram.data_points.push(point),
            Data::Gauge(_) | Data::Sum(_) => debug_assert!(false, "{id:?} is no histogram"),
        }
    }
}

fn empty(kind: Kind) -> Data {
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    match kind {
        Kind::Counter => Data::Sum(Sum { data_points: Vec::new(), aggregation_temporality, is_monotonic: true }),
        Kind::Gauge => Data::Gauge(Gauge { data_points: Vec::new() }),
        Kind::Histogram => Data::Histogram(Histogram { data_points: Vec::new(), aggregation_temporality }),
    }
}

/// UCUM's spelling. What has no unit has none here: `1` would be read as a ratio.
fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::None => "",
        Unit::Bytes => "By",
        Unit::Seconds => "s",
        Unit::Milliseconds => "ms",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names { with_units: true, common: vec![("cluster".into(), "c".into()), ("node_id".into(), "n".into())] }
    }

    fn snapshot(
        tell: impl FnOnce(&mut Snapshot<&mut dyn FnMut(ExportMetricsServiceRequest) -> bool>),
    ) -> Vec<ExportMetricsServiceRequest> {
        let mut messages = Vec::new();
        let mut take = |message| {
            messages.push(message);
            true
        };
        let (start, now) = (Timestamp::from_millis(1), Timestamp::from_millis(5));
        let take: &mut dyn FnMut(ExportMetricsServiceRequest) -> bool = &mut take;
        let mut snapshot = Snapshot::new(About::new(&names(), None), &names(), start, now, take);
        tell(&mut snapshot);
        snapshot.finish();
        messages
    }

    fn metrics(message: &ExportMetricsServiceRequest) -> &[Metric] {
        &message.resource_metrics[0].scope_metrics[0].metrics
    }

    #[test]
    fn each_kind_of_metric_becomes_its_kind_of_data() {
        let counted = Distribution { up_to: vec![(500, 1), (1000, 3)], count: 4, sum: 9500 };
        let messages = snapshot(|snapshot| {
            snapshot.add(Id::CommitMessages, &["x"], 7u64);
            snapshot.add(Id::CommitMessages, &["y"], 8u64);
            snapshot.add(Id::StartTime, &[], 1.5);
            snapshot.distribution(Id::SyncTime, &[], &counted, 1000.0);
        });
        let [message] = &messages[..] else { panic!("{} messages", messages.len()) };
        let found = |name: &str| metrics(message).iter().find(|metric| metric.name == name).expect(name);
        let Some(Data::Sum(sum)) = &found("rocketmq_commit_messages_total").data else { panic!("a sum") };
        assert!(sum.is_monotonic && sum.aggregation_temporality() == AggregationTemporality::Cumulative);
        let point = &sum.data_points[1];
        assert_eq!((point.start_time_unix_nano, point.time_unix_nano), (1_000_000, 5_000_000));
        assert_eq!(point.value, Some(Value::AsInt(8)));
        assert_eq!(point.attributes, [text("cluster", "c"), text("node_id", "n"), text("topic", "y")]);
        let gauge = found("process_start_time_seconds");
        assert_eq!(gauge.unit, "s");
        let Some(Data::Gauge(gauge)) = &gauge.data else { panic!("a gauge") };
        assert_eq!(
            (gauge.data_points[0].value, gauge.data_points[0].start_time_unix_nano),
            (Some(Value::AsDouble(1.5)), 0)
        );
        let Some(Data::Histogram(histogram)) = &found("ferromq_storage_sync_time_seconds").data else {
            panic!("a histogram")
        };
        let point = &histogram.data_points[0];
        assert_eq!((&point.bucket_counts[..], &point.explicit_bounds[..]), (&[1, 2, 1][..], &[0.5, 1.0][..]));
        assert_eq!((point.count, point.sum), (4, Some(9.5)));
    }

    #[test]
    fn many_series_go_in_several_messages_of_a_bounded_size_and_none_is_lost() {
        const SERIES: usize = 30_000;
        let messages = snapshot(|snapshot| {
            for n in 0..SERIES {
                snapshot.add(Id::CommitMessages, &[&format!("topic-{n}")], n as u64);
            }
        });
        assert!(messages.len() > 1, "{}", messages.len());
        let mut topics = std::collections::BTreeSet::new();
        for message in &messages {
            assert!(message.encoded_len() <= MESSAGE_BYTES_MAX, "{}", message.encoded_len());
            let Some(Data::Sum(sum)) = &metrics(message)[0].data else { panic!("a sum") };
            topics.extend(sum.data_points.iter().map(|point| format!("{:?}", point.attributes[2])));
        }
        assert_eq!(topics.len(), SERIES);
    }

    #[test]
    fn no_point_lies_before_its_start_even_when_the_clock_was_set_back() {
        let (start, now) = (Timestamp::from_millis(9), Timestamp::from_millis(5));
        let snapshot = Snapshot::new(About::new(&names(), None), &names(), start, now, |_| true);
        assert_eq!((snapshot.start, snapshot.now), (9_000_000, 9_000_000));
    }

    #[test]
    fn when_nobody_takes_more_nothing_more_is_made() {
        let mut taken = 0;
        let refuse = |_| {
            taken += 1;
            false
        };
        let at = Timestamp::from_millis(1);
        let mut snapshot = Snapshot::new(About::new(&names(), None), &names(), at, at, refuse);
        for n in 0..30_000u64 {
            snapshot.add(Id::CommitMessages, &[&format!("topic-{n}")], n);
        }
        // The sample for which there was no room.
        assert!(snapshot.bytes < 1000, "{}", snapshot.bytes);
        snapshot.finish();
        assert_eq!(taken, 1);
    }
}
