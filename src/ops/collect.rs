//! All samples of all metrics: counters as they are, gauges from the books and tables when they are asked for.

use std::time::Duration;

use crate::{
    broker::{Backlog, Broker, Health, TopicCounts},
    meter::Distribution,
    observe::metrics::{Id, Names, Page, Sink},
    proxy::{Clients, Proxy},
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
    let mut page = Page::new(names);
    tell(state, &mut page);
    page.finish()
}

/// Tells every sample. It may wait for the disk.
pub fn tell(state: &State, page: &mut impl Sink) {
    let started = state.clock().now();
    page.add(Id::BuildInfo, &[env!("CARGO_PKG_VERSION")], 1u64);
    page.add(Id::Ready, &[], u8::from(state.ready().is_good));
    page.add(Id::StartTime, &[], state.started_at().as_millis() as f64 / 1000.0);
    exports(page, state);
    if let Some(Parts { broker, proxy }) = state.parts() {
        tables(page, &broker);
        topics(page, &broker);
        groups(page, &broker, state);
        timers(page, &broker);
        store(page, &broker);
        front(page, &proxy);
    }
    let took = state.clock().now().remaining(started);
    page.add(Id::ScrapeDuration, &[], took.as_secs_f64());
}

fn exports(page: &mut impl Sink, state: &State) {
    let counts = state.exports();
    for (signal, of) in [("metrics", &counts.metrics), ("traces", &counts.traces)] {
        page.add(Id::Exports, &[signal, "success"], of.taken.get());
        page.add(Id::Exports, &[signal, "failure"], of.failed.get());
    }
    for (result, spans) in [("sent", &counts.sent), ("dropped", &counts.dropped), ("failed", &counts.lost)] {
        page.add(Id::Spans, &[result], spans.get());
    }
}

fn tables(page: &mut impl Sink, broker: &Broker) {
    page.add(Id::TopicNumber, &[], broker.topics(true).len());
    page.add(Id::ConsumerGroupNumber, &[], broker.groups().len());
    page.add(Id::ParkedPolls, &[], broker.parked_polls());
    let (topics, groups) = broker.creation_counts();
    for (status, (topics, groups)) in ["success", "failure"].into_iter().zip(topics.iter().zip(&groups)) {
        if topics.count > 0 {
            page.distribution(Id::TopicCreation, &[status, NO], topics, 1.0);
        }
        if groups.count > 0 {
            page.distribution(Id::GroupCreation, &[status], groups, 1.0);
        }
    }
    for (topic, count) in broker.pending_transactions_by_topic() {
        page.add(Id::HalfMessages, &[topic.as_str()], count);
    }
}

fn topics(page: &mut impl Sink, broker: &Broker) {
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

fn groups(page: &mut impl Sink, broker: &Broker, state: &State) {
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
        let broadcasts = || broker.group(&group).is_some_and(|group| group.broadcast);
        if counts.given_up > 0 || (first.0 > 0 && broadcasts()) {
            page.add(Id::GivenUp, &[&group, &topic, NO], counts.given_up);
        }
        if counts.unwanted.0 > 0 {
            page.add(Id::FilteredMessages, &[&group, &topic], counts.unwanted.0);
            page.add(Id::FilteredBytes, &[&group, &topic], counts.unwanted.1);
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

fn lag(page: &mut impl Sink, backlog: &Backlog, topic: &str, group: &str) {
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

fn timers(page: &mut impl Sink, broker: &Broker) {
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

fn store(page: &mut impl Sink, broker: &Broker) {
    let store = broker.store();
    let health = store.health();
    let (is_full, is_poisoned) = (matches!(health, Health::Full { .. }), matches!(health, Health::Poisoned(_)));
    page.add(Id::StoreFull, &[], u8::from(is_full));
    page.add(Id::StorePoisoned, &[], u8::from(is_poisoned));
    page.add(Id::BrokerPermission, &[], if is_full || is_poisoned { 4u64 } else { 6 });
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

fn front(page: &mut impl Sink, proxy: &Proxy) {
    const GRPC: &str = "grpc";
    page.add(Id::ProxyUp, &[], u8::from(!proxy.is_draining()));
    page.add(Id::Connections, &[], proxy.connections());
    page.add(Id::Calls, &[], proxy.calls());
    page.add(Id::CallBytes, &[], proxy.bytes());
    for Clients { language, version, group, count } in proxy.clients() {
        match group {
            None => page.add(Id::ProducerConnections, &[language, &version, GRPC], count),
            Some(group) => {
                page.add(Id::ConsumerConnections, &[&group, language, &version, "pop", GRPC, NO], count);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        broker::{
            Decision, Draft, Filter, GroupChange, Take,
            testing::{Machine, draft, normal, topic},
        },
        observe::metrics::catalogue,
        proxy,
        types::{
            ClientId, Deadline, MessageType,
            properties::{PropertiesBuilder, key},
        },
    };

    fn with(mut draft: Draft, properties: &[(&'static str, &str)]) -> Draft {
        let mut all = PropertiesBuilder::default();
        for (key, value) in properties {
            all.push(key, value);
        }
        draft.properties = all.build();
        draft
    }

    /// A client of a broadcasting group gives up a message.
    async fn give_up(broker: &Broker, take: Take) {
        let (group, client) = (GroupName::parse("all").expect("a name"), ClientId::parse("c").expect("a name"));
        broker.group_for(&group).await.expect("made");
        let change = GroupChange { broadcast: Some(true), ..Default::default() };
        broker.update_group(&group, change).expect("changed");
        broker.join(&take.topic, &group, &client).expect("joined");
        broker.produce(&take.topic, vec![normal("z")]).await.expect("stored");
        let member = broker.consumes_as(&group, &client);
        let taken = broker.take(Take { group: member.clone(), ..take.clone() }).await.expect("taken");
        broker.forward_to_dead_letter(&take.topic, &member, &taken[0].receipt).await.expect("given up");
    }

    /// What is on the page of a server that had messages of all kinds, without clients.
    async fn full_page(machine: &Machine) -> String {
        let broker = machine.start();
        let group = GroupName::parse("g").expect("a name");
        broker.produce(&topic("T"), vec![normal("x"), normal("y")]).await.expect("stored");
        let later = with(draft(MessageType::Delay, None, "z"), &[(key::TIMER_DELAY_MS, "60000")]);
        broker.produce(&topic("D"), vec![later]).await.expect("stored");
        for id in ["1", "2"] {
            let half = with(draft(MessageType::Transaction, None, "h"), &[(key::UNIQ_KEY, id)]);
            let produced = broker.produce(&topic("X"), vec![half]).await.expect("stored");
            if id == "1" {
                let transaction = produced[0].transaction.expect("a half").to_string();
                broker.end_transaction(&topic("X"), id, &transaction, Decision::Commit).await.expect("decided");
            }
        }
        let take = Take {
            topic: topic("T"),
            group,
            filter: Filter::All,
            max: 1,
            invisible: Duration::from_secs(30),
            until: Deadline::default(),
            attempt_id: None,
        };
        assert_eq!(broker.take(take.clone()).await.expect("taken").len(), 1);
        give_up(&broker, take.clone()).await;
        let (filter, group) = (Filter::tags("other").expect("a filter"), GroupName::parse("h").expect("a name"));
        assert!(broker.take(Take { filter, group, ..take }).await.expect("nothing").is_empty());
        let state = State::new(machine.clock.clone());
        state.up(broker.clone(), Proxy::new(proxy::Config::default(), broker).expect("a front"));
        page(&state, &Names { with_units: true, common: vec![] })
    }

    #[tokio::test]
    async fn every_metric_of_the_table_is_on_the_page_of_a_server_that_has_something_to_tell() {
        let machine = Machine::new();
        let page = full_page(&machine).await;
        // Those of clients are shown from outside, with clients; a disk that nobody looked at yet has no size.
        let elsewhere =
            [Id::ProducerConnections, Id::ConsumerConnections, Id::RpcLatency, Id::StorageSize, Id::StorageFree];
        for metric in catalogue::ALL.iter().filter(|metric| !elsewhere.contains(&metric.id)) {
            let name = metric.full_name();
            assert!(page.contains(&format!("# TYPE {name} ")), "no {name} in\n{page}");
        }
    }

    #[tokio::test]
    async fn what_a_filter_keeps_back_is_told_in_messages_and_bytes() {
        let machine = Machine::new();
        let page = full_page(&machine).await;
        let of = |name: &str, group: &str| {
            let line = page.lines().find(|line| line.starts_with(name) && line.contains(group))?;
            line.rsplit_once(' ')?.1.parse::<u64>().ok()
        };
        assert_eq!(of("ferromq_filtered_messages_total{", "consumer_group=\"h\""), Some(3));
        let bytes = of("rocketmq_message_size_sum{", "topic=\"T\"");
        assert!(bytes.is_some());
        assert_eq!(of("ferromq_filtered_bytes_total{", "consumer_group=\"h\""), bytes);
        assert_eq!(of("ferromq_filtered_messages_total{", "consumer_group=\"g\""), None);
    }

    #[tokio::test]
    async fn no_sample_is_told_twice_and_every_value_is_a_number() {
        let machine = Machine::new();
        let page = full_page(&machine).await;
        let mut series = std::collections::BTreeSet::new();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
            assert!(series.insert(name), "{name} is told twice");
        }
    }

    #[tokio::test]
    async fn a_server_that_recovers_tells_that_it_is_not_ready() {
        let machine = Machine::new();
        let page = page(&State::new(machine.clock.clone()), &Names { with_units: true, common: vec![] });
        assert!(page.contains("ferromq_ready{} 0\n") && page.contains("ferromq_build_info{version="), "{page}");
    }
}
