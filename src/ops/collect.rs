//! The page of metrics: counters as they are, gauges from the books and tables when they are asked for.

use std::time::Duration;

use crate::{
    broker::{Backlog, Broker, Health, TopicCounts},
    meter::Distribution,
    observe::metrics::{Id, Names, Page},
    proxy::Proxy,
    types::{GroupName, TopicName},
};

use super::state::{Parts, State};

/// What topics and groups beyond the bound of series are called together.
const OTHER: &str = "other";
const NO: &str = "false";
const YES: &str = "true";
const LOCAL_DISK: [&str; 2] = ["local", "disk"];
/// How long ages of backlogs are read at most: each may be a read of a cold disk.
const AGES_TIME: Duration = Duration::from_millis(500);

/// Puts the page together. It may wait for the disk.
pub fn page(state: &State, names: &Names) -> String {
    let started = state.clock().now();
    let mut page = Page::new(names);
    page.add(Id::BuildInfo, &[env!("CARGO_PKG_VERSION")], 1);
    page.add(Id::Ready, &[], u8::from(state.ready().is_good));
    page.add(Id::StartTime, &[], state.started_at().as_millis() as f64 / 1000.0);
    if let Some(Parts { broker, proxy }) = state.parts() {
        tables(&mut page, &broker);
        topics(&mut page, &broker);
        groups(&mut page, &broker, state);
        timers(&mut page, &broker);
        store(&mut page, &broker);
        front(&mut page, &proxy);
    }
    let took = state.clock().now().remaining(started);
    page.add(Id::ScrapeDuration, &[], took.as_secs_f64());
    page.finish()
}

fn tables(page: &mut Page, broker: &Broker) {
    page.add(Id::TopicNumber, &[], broker.topics(true).len());
    page.add(Id::ConsumerGroupNumber, &[], broker.groups().len());
    page.add(Id::ParkedPolls, &[], broker.parked_polls());
    for (topic, count) in broker.pending_transactions_by_topic() {
        page.add(Id::HalfMessages, &[topic.as_str()], count);
    }
}

fn topics(page: &mut Page, broker: &Broker) {
    for TopicCounts { topic, sizes, delays, decisions } in broker.topic_counts() {
        let name = topic.as_ref().map_or(OTHER, TopicName::as_str);
        for (message_type, sizes) in &sizes {
            let labels = [name, message_type, NO];
            page.add(Id::MessagesIn, &labels, sizes.count);
            page.add(Id::ThroughputIn, &labels, sizes.sum);
            page.distribution(Id::MessageSize, &labels, sizes, 1.0);
        }
        if let Some((asked, delivered)) = delays {
            page.add(Id::TimerEnqueue, &[name], asked.count);
            page.add(Id::TimerDequeue, &[name], delivered);
            page.distribution(Id::DelayLatency, &[name], &asked, 1.0);
        }
        if let Some((committed, rolled_back, latency)) = decisions {
            page.add(Id::CommitMessages, &[name], committed);
            page.add(Id::RollbackMessages, &[name], rolled_back);
            page.distribution(Id::FinishLatency, &[name], &latency, 1.0);
        }
    }
}

fn groups(page: &mut Page, broker: &Broker, state: &State) {
    let names = |of: &Option<(TopicName, GroupName)>| match of {
        Some((topic, group)) => (topic.to_string(), group.to_string()),
        None => (OTHER.to_owned(), OTHER.to_owned()),
    };
    for counts in broker.group_counts() {
        let (topic, group) = names(&counts.of);
        let (first, again, dead) = (counts.first, counts.again, counts.dead);
        for (out, is_retry) in [(first, NO), (again, YES)] {
            if out.0 > 0 {
                let labels = [&*topic, &group, NO, is_retry];
                page.add(Id::MessagesOut, &labels, out.0);
                page.add(Id::ThroughputOut, &labels, out.1);
            }
        }
        if first.0 > 0 || dead > 0 {
            page.add(Id::SendToDlq, &[&group, &topic, NO], dead);
        }
    }
    let backlogs = broker.backlogs(state.in_a_while(AGES_TIME));
    page.add(Id::ScrapeAgesMissing, &[], backlogs.ages_missing);
    for backlog in &backlogs.all {
        let (topic, group) = names(&backlog.of);
        lag(page, backlog, &topic, &group);
    }
}

fn lag(page: &mut Page, backlog: &Backlog, topic: &str, group: &str) {
    let labels = [group, topic, NO, NO];
    page.add(Id::ConsumerLag, &labels, backlog.ready + backlog.in_flight);
    page.add(Id::ConsumerLag, &[group, topic, YES, NO], backlog.waiting);
    page.add(Id::ConsumerInflight, &labels, backlog.in_flight);
    page.add(Id::ConsumerReady, &labels, backlog.ready);
    if let Some(age) = backlog.lag_age {
        page.add(Id::ConsumerLagLatency, &labels, age.as_millis());
    }
    if let Some(age) = backlog.ready_age {
        page.add(Id::ConsumerQueueingLatency, &labels, age.as_millis());
    }
}

fn timers(page: &mut Page, broker: &Broker) {
    page.add(Id::TimingMessages, &[], broker.pending_timers());
    let late = broker.timer_lateness();
    let mut count = 0;
    let mut up_to = Vec::new();
    for (bound, more) in late.classes {
        count += more;
        up_to.extend(bound.map(|bound| (bound, count)));
    }
    page.distribution(Id::TimerLateness, &[], &Distribution { up_to, count, sum: late.sum_ms }, 1.0);
}

fn store(page: &mut Page, broker: &Broker) {
    let store = broker.store();
    let health = store.health();
    let (is_full, is_poisoned) = (matches!(health, Health::Full { .. }), matches!(health, Health::Poisoned(_)));
    page.add(Id::StoreFull, &[], u8::from(is_full));
    page.add(Id::StorePoisoned, &[], u8::from(is_poisoned));
    page.add(Id::BrokerPermission, &[], if is_full || is_poisoned { 4 } else { 6 });
    let marks = store.watermarks();
    // Read behind the marks, so that it is never before them.
    let end = store.end();
    page.add(Id::FlushBehind, &LOCAL_DISK, marks.durable.until(marks.written));
    page.add(Id::DispatchBehind, &LOCAL_DISK, marks.dispatched.until(end));
    page.add(Id::StorageLog, &[], store.start().until(end));
    if let Some(space) = store.space() {
        page.add(Id::StorageSize, &LOCAL_DISK, space.total.saturating_sub(space.free));
        page.add(Id::StorageFree, &[], space.free);
    }
    // What cannot be read now is told by other means.
    if let Ok(Some(oldest)) = store.oldest_stored_at() {
        page.add(Id::ReserveTime, &LOCAL_DISK, broker.clock().wall().since(oldest).as_millis());
    }
    page.distribution(Id::SyncTime, &[], &store.syncs(), 1e6);
}

fn front(page: &mut Page, proxy: &Proxy) {
    const GRPC: &str = "grpc";
    page.add(Id::ProxyUp, &[], u8::from(!proxy.is_draining()));
    page.add(Id::Connections, &[], proxy.connections());
    page.add(Id::Calls, &[], proxy.calls());
    page.add(Id::CallBytes, &[], proxy.bytes());
    for (language, group, count) in proxy.clients() {
        match group {
            None => page.add(Id::ProducerConnections, &[language, GRPC], count),
            Some(group) => {
                page.add(Id::ConsumerConnections, &[group.as_str(), language, "pop", GRPC, NO], count);
            }
        }
    }
    for rpc in proxy.rpc_counts() {
        let polls = if rpc.is_long_polling { YES } else { NO };
        let result = if rpc.is_ok { "success" } else { "process_request_failed" };
        let labels = [GRPC, rpc.request_code, &*rpc.response_code, polls, result];
        page.distribution(Id::RpcLatency, &labels, &rpc.latency, 1e3);
    }
}
