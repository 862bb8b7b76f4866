//! Every metric, once: RocketMQ's names, units and labels where RocketMQ has the metric (`BrokerMetricsConstant`,
//! `DefaultStoreMetricsConstant`, `RemotingMetricsConstant`), `ferromq_` in front of what it lacks.

/// What kind of number it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The unit, which is a part of the name; see [`Names`](super::Names).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    None,
    Bytes,
    Seconds,
    Milliseconds,
}

/// One metric.
#[derive(Debug)]
pub struct Metric {
    pub id: Id,
    /// Without the unit, unless RocketMQ itself has it in the name.
    pub name: &'static str,
    pub kind: Kind,
    pub unit: Unit,
    /// Its own, in order; those of the server come before them.
    pub labels: &'static [&'static str],
    pub help: &'static str,
}

impl Metric {
    /// The name with the unit, as OpenTelemetry's exporter for Prometheus writes it.
    pub fn full_name(&self) -> String {
        let unit = match self.unit {
            Unit::None => return self.name.to_owned(),
            Unit::Bytes => "bytes",
            Unit::Seconds => "seconds",
            Unit::Milliseconds => "milliseconds",
        };
        if self.name.ends_with(unit) {
            return self.name.to_owned();
        }
        match self.name.strip_suffix("_total") {
            Some(name) => format!("{name}_{unit}_total"),
            None => format!("{}_{unit}", self.name),
        }
    }
}

macro_rules! catalogue {
    ($($id:ident $kind:ident $name:literal $unit:ident [$($label:literal),*] $help:literal;)*) => {
        /// Names a metric of the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Id { $($id),* }

        /// The table, in the order of [`Id`].
        pub static ALL: &[Metric] = &[$(Metric {
            id: Id::$id,
            name: $name,
            kind: Kind::$kind,
            unit: Unit::$unit,
            labels: &[$($label),*],
            help: $help,
        }),*];
    };
}

catalogue! {
    BuildInfo Gauge "ferromq_build_info" None ["version"] "1; the version is in the label.";
    Ready Gauge "ferromq_ready" None [] "1 while the server is ready, as /readyz says.";
    StartTime Gauge "process_start_time" Seconds [] "When the server was started, since 1970.";
    ProxyUp Gauge "rocketmq_proxy_up" None [] "1 while the gRPC front is open.";

    BrokerPermission Gauge "rocketmq_broker_permission" None [] "6: readable and writable; 4: only readable, since the disk is full or failed.";
    TopicNumber Gauge "rocketmq_topic_number" None [] "Topics.";
    ConsumerGroupNumber Gauge "rocketmq_consumer_group_number" None [] "Consumer groups.";
    TopicCreation Histogram "rocketmq_topic_create_execution_time" Milliseconds ["invocation_status", "is_system"] "How long it took to make each new topic, or to fail at it.";
    GroupCreation Histogram "rocketmq_consumer_group_create_execution_time" Milliseconds ["invocation_status"] "The same of consumer groups.";

    MessagesIn Counter "rocketmq_messages_in_total" None ["topic", "message_type", "is_system"] "Messages stored by producers.";
    ThroughputIn Counter "rocketmq_throughput_in_total" None ["topic", "message_type", "is_system"] "Bytes that they took in the log.";
    MessageSize Histogram "rocketmq_message_size" None ["topic", "message_type", "is_system"] "Bytes that each of them took in the log.";
    MessagesOut Counter "rocketmq_messages_out_total" None ["topic", "consumer_group", "is_system", "is_retry"] "Messages handed to consumers; is_retry: not for the first time.";
    ThroughputOut Counter "rocketmq_throughput_out_total" None ["topic", "consumer_group", "is_system", "is_retry"] "Bytes of these.";
    SendToDlq Counter "rocketmq_send_to_dlq_messages_total" None ["consumer_group", "topic", "is_system"] "Messages that had their attempts and went to the dead-letter topic.";
    GivenUp Counter "ferromq_broadcast_given_up_total" None ["consumer_group", "topic", "is_system"] "Messages that a client of a broadcasting group had its attempts at or gave up; such groups have no dead letters.";
    FilteredMessages Counter "ferromq_filtered_messages_total" None ["consumer_group", "topic"] "Messages that a filter kept back: done for the group, and never delivered.";
    FilteredBytes Counter "ferromq_filtered_total" Bytes ["consumer_group", "topic"] "Bytes of these in the log.";

    ConsumerLag Gauge "rocketmq_consumer_lag_messages" None ["consumer_group", "topic", "is_retry", "is_system"] "Messages that are not done: never delivered or in flight; with is_retry, those that wait for another attempt.";
    ConsumerLagLatency Gauge "rocketmq_consumer_lag_latency" Milliseconds ["consumer_group", "topic", "is_retry", "is_system"] "Age of the oldest message that is not done.";
    ConsumerInflight Gauge "rocketmq_consumer_inflight_messages" None ["consumer_group", "topic", "is_retry", "is_system"] "Messages handed out and neither acknowledged nor expired.";
    ConsumerQueueingLatency Gauge "rocketmq_consumer_queueing_latency" Milliseconds ["consumer_group", "topic", "is_retry", "is_system"] "Age of the oldest message that was never delivered.";
    ConsumerReady Gauge "rocketmq_consumer_ready_messages" None ["consumer_group", "topic", "is_retry", "is_system"] "Messages that were never delivered.";

    ProducerConnections Gauge "rocketmq_producer_connections" None ["language", "version", "protocol_type"] "Producers that have told their settings.";
    ConsumerConnections Gauge "rocketmq_consumer_connections" None ["consumer_group", "language", "version", "consume_mode", "protocol_type", "is_system"] "Consumers that have told their settings.";
    RpcLatency Histogram "rocketmq_rpc_latency" Milliseconds ["protocol_type", "request_code", "response_code", "is_long_polling", "result"] "From a call's arrival to the beginning of its answer: until it is on the disk for a send or an ack, until there is a message for a poll.";
    Connections Gauge "ferromq_connections" None [] "Open connections of clients.";
    Calls Gauge "ferromq_calls" None [] "Calls under way, parked polls and Telemetry streams among them.";
    CallBytes Gauge "ferromq_calls_held" Bytes [] "Bytes of requests and answers under way.";
    ParkedPolls Gauge "ferromq_parked_polls" None [] "Polls that wait for a message.";

    CommitMessages Counter "rocketmq_commit_messages_total" None ["topic"] "Transactions committed.";
    RollbackMessages Counter "rocketmq_rollback_messages_total" None ["topic"] "Transactions rolled back.";
    FinishLatency Histogram "rocketmq_finish_message_latency" Milliseconds ["topic"] "From a transaction's birth to its decision, in seconds whatever the name says.";
    HalfMessages Gauge "rocketmq_half_messages" None ["topic"] "Transactions that nobody has decided about.";

    TimingMessages Gauge "rocketmq_timing_messages" None [] "Messages that wait for their delivery time.";
    TimerEnqueue Counter "rocketmq_timer_enqueue_total" None ["topic"] "Messages accepted for later.";
    TimerDequeue Counter "rocketmq_timer_dequeue_total" None ["topic"] "Messages for later that went to their topic.";
    DelayLatency Histogram "rocketmq_delay_message_latency" Seconds ["topic"] "For how much later messages were sent.";
    TimerLateness Histogram "ferromq_timer_lateness" Milliseconds [] "How late messages for later went to their topic, and were safe there.";

    StorageSize Gauge "rocketmq_storage_size" Bytes ["storage_type", "storage_medium"] "Used bytes of the file system that the store is on.";
    StorageFree Gauge "ferromq_storage_free" Bytes [] "Free bytes of it.";
    StorageLog Gauge "ferromq_storage_log" Bytes [] "Bytes of the log from its oldest record to its end.";
    FlushBehind Gauge "rocketmq_storage_flush_behind_bytes" Bytes ["storage_type", "storage_medium"] "Bytes of the log that are written and not yet on the device.";
    DispatchBehind Gauge "rocketmq_storage_dispatch_behind_bytes" Bytes ["storage_type", "storage_medium"] "Bytes of the log that consumers cannot see yet.";
    ReserveTime Gauge "rocketmq_storage_message_reserve_time" Milliseconds ["storage_type", "storage_medium"] "Age of the oldest record.";
    SyncTime Histogram "ferromq_storage_sync_time" Seconds [] "How long each sync of the log took.";
    StoreFull Gauge "ferromq_store_full" None [] "1 while sends are refused, since the disk is full.";
    StorePoisoned Gauge "ferromq_store_poisoned" None [] "1 once a write or sync has failed: nothing is acknowledged any more, and the server leaves.";

    Exports Counter "ferromq_otlp_exports_total" None ["signal", "result"] "Messages of metrics or traces to a collector: taken by it, or given up.";
    Spans Counter "ferromq_otlp_spans_total" None ["result"] "Spans of calls that were sampled; dropped: the queue was full, failed: the collector did not take them.";
    ScrapeDuration Gauge "ferromq_scrape_duration" Seconds [] "How long it took to put this page together.";
    ScrapeAgesMissing Gauge "ferromq_scrape_ages_missing" None [] "Backlogs whose age is not on this page, since reading it would have taken too long.";
}

/// The metric of an id.
pub fn metric(id: Id) -> &'static Metric {
    &ALL[id as usize]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_its_ids_and_names_are_unique() {
        for metric in ALL {
            assert!(std::ptr::eq(super::metric(metric.id), metric));
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
        assert_eq!(ALL.iter().map(Metric::full_name).collect::<BTreeSet<_>>().len(), ALL.len());
    }

    #[test]
    fn names_have_their_unit_as_opentelemetry_writes_it() {
        assert_eq!(metric(Id::RpcLatency).full_name(), "rocketmq_rpc_latency_milliseconds");
        assert_eq!(metric(Id::StorageSize).full_name(), "rocketmq_storage_size_bytes");
        assert_eq!(metric(Id::MessagesIn).full_name(), "rocketmq_messages_in_total");
    }

    #[test]
    fn a_unit_that_is_in_rocketmqs_own_name_stays_there_and_comes_once() {
        for (id, name) in [
            (Id::FlushBehind, "rocketmq_storage_flush_behind_bytes"),
            (Id::DispatchBehind, "rocketmq_storage_dispatch_behind_bytes"),
        ] {
            assert_eq!((metric(id).name, metric(id).full_name().as_str()), (name, name));
        }
    }
}
