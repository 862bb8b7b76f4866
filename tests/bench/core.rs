//! Micro benches of the core, on the real store: `cargo bench`.
//!
//! Bodies are 1 KiB. The store lies in the build directory, so that what is synced goes to a disk and not to memory.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use divan::{Bencher, black_box, counter::ItemsCount};
use ferromq::{
    broker::{self, Broker, Delivery, Draft, Filter, Take},
    meter::{Counter, Histogram},
    observe::trace::{Method, Span, Tracer},
    proto::v2,
    store::{self, FlushPolicy, Purpose, RealDisk, Store},
    types::{
        Clock as _, Deadline, GroupName, MessageType, NewMessage, PhysicalOffset, QueueId, SysFlag, SystemClock,
        Timestamp, TopicName,
        properties::{Properties, PropertiesBuilder, key},
    },
};
use prost::Message;
use tempfile::TempDir;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const ASYNC: FlushPolicy = FlushPolicy::Async { interval: Duration::from_millis(500) };
const HOST: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8081);
/// Messages of a poll, as RocketMQ's clients ask for.
const BATCH: usize = 32;

fn main() {
    divan::main();
}

/// A store in a directory of its own.
fn store(flush: FlushPolicy) -> (Store, TempDir) {
    let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let config = store::Config { flush, ..store::Config::at(dir.path()) };
    let (store, _) = Store::open(config, Arc::new(RealDisk), Arc::new(SystemClock::new())).expect("an empty store");
    (store, dir)
}

fn broker(flush: FlushPolicy) -> (Broker, TempDir) {
    let (store, dir) = store(flush);
    let broker = Broker::open(broker::Config::default(), store, Arc::new(SystemClock::new())).expect("an empty store");
    (broker, dir)
}

fn topic() -> TopicName {
    TopicName::parse("bench").expect("a name")
}

fn body() -> Bytes {
    (0..1024).map(|n| n as u8).collect()
}

fn properties() -> Properties {
    let mut properties = PropertiesBuilder::default();
    properties.push(key::UNIQ_KEY, "01A4BB6D19F2C41A2B0A0B0C0D00000005").push(key::TAGS, "tag");
    properties.build()
}

fn message() -> NewMessage {
    NewMessage {
        topic: topic(),
        queue: QueueId(0),
        flag: 0,
        sys_flag: SysFlag::default(),
        born_at: Timestamp::from_millis(1_725_000_000_000),
        born_host: HOST,
        reconsume_times: 0,
        prepared_at: None,
        properties: properties(),
        body: body(),
    }
}

fn draft() -> Draft {
    Draft {
        message_type: MessageType::Normal,
        sys_flag: SysFlag::default(),
        flag: 0,
        born_at: Timestamp::from_millis(1_725_000_000_000),
        born_host: HOST,
        message_group: None,
        properties: properties(),
        body: body(),
    }
}

/// Appends as the kernel takes them.
#[divan::bench(args = [1, BATCH])]
fn append_async(bencher: Bencher<'_, '_>, batch: usize) {
    append(bencher, ASYNC, batch);
}

/// Appends and waits for the disk; with threads, several wait for the same sync.
#[divan::bench(args = [1, BATCH], threads = [1, 16], sample_count = 20)]
fn append_sync(bencher: Bencher<'_, '_>, batch: usize) {
    append(bencher, FlushPolicy::Sync, batch);
}

fn append(bencher: Bencher<'_, '_>, flush: FlushPolicy, batch: usize) {
    let (store, _dir) = store(flush);
    let unit = vec![message(); batch];
    bencher.counter(ItemsCount::new(batch)).bench(|| {
        let ticket = store.append(&unit, Purpose::User).expect("room on the disk");
        store.committed_blocking(ticket.end).expect("a disk that works");
    });
    store.close();
}

/// Reads a record back, checks its checksum and decodes it.
#[divan::bench]
fn decode_record(bencher: Bencher<'_, '_>) {
    let (store, _dir) = store(ASYNC);
    let ticket = store.append(&vec![message(); BATCH], Purpose::User).expect("room on the disk");
    store.committed_blocking(ticket.end).expect("a disk that works");
    let queue = store.queue(&topic(), QueueId(0));
    let entry = queue.entries(queue.min(), 1).expect("what was appended")[0];
    assert_eq!(entry.physical, PhysicalOffset::ZERO);
    bencher.bench(|| store.message(entry.physical, entry.size).expect("the record"));
    store.close();
}

/// Decodes a SendMessage request; the body is a slice of it.
#[divan::bench]
fn decode_request(bencher: Bencher<'_, '_>) {
    let message = v2::Message {
        topic: Some(v2::Resource { name: "bench".into(), ..Default::default() }),
        system_properties: Some(v2::SystemProperties {
            message_id: "01A4BB6D19F2C41A2B0A0B0C0D00000005".into(),
            born_host: "client".into(),
            ..Default::default()
        }),
        body: body(),
        ..Default::default()
    };
    let request = Bytes::from(v2::SendMessageRequest { messages: vec![message] }.encode_to_vec());
    bencher.bench(|| v2::SendMessageRequest::decode(request.clone()).expect("what was encoded"));
}

/// Sends through the rules of the broker.
#[divan::bench(args = [1, BATCH])]
fn produce_async(bencher: Bencher<'_, '_>, batch: usize) {
    let (broker, _dir) = broker(ASYNC);
    let runtime = runtime();
    bencher.counter(ItemsCount::new(batch)).with_inputs(|| vec![draft(); batch]).bench_local_values(|drafts| {
        runtime.block_on(broker.produce(&topic(), drafts)).expect("a topic that is made at once");
    });
    broker.store().close();
}

/// Takes 32 messages, in flight from then on.
#[divan::bench]
fn take(bencher: Bencher<'_, '_>) {
    let consumer = Consumer::new(ASYNC);
    bencher.counter(ItemsCount::new(BATCH)).with_inputs(|| consumer.fill()).bench_local_values(|()| consumer.take());
    consumer.broker.store().close();
}

/// Acknowledges 32 messages in one call.
#[divan::bench]
fn ack_async(bencher: Bencher<'_, '_>) {
    ack(bencher, ASYNC);
}

/// The same, kept by the disk before it is answered.
#[divan::bench(sample_count = 20)]
fn ack_sync(bencher: Bencher<'_, '_>) {
    ack(bencher, FlushPolicy::Sync);
}

fn ack(bencher: Bencher<'_, '_>, flush: FlushPolicy) {
    let consumer = Consumer::new(flush);
    let taken = || {
        consumer.fill();
        consumer.take()
    };
    bencher.counter(ItemsCount::new(BATCH)).with_inputs(taken).bench_local_values(|taken| consumer.ack(&taken));
    consumer.broker.store().close();
}

/// Bounds of the histograms of a message's size and of a call's time, as many as those have.
const SIZES: &[u64] = &[1 << 10, 4 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];
const TIMES: &[u64] = &[100, 250, 500, 1_000, 3_000, 5_000, 7_000, 10_000, 100_000, 1_000_000, 2_000_000, 3_000_000];

/// What every call counts, whatever it is: two readings of the clock and its time.
struct CallMeter {
    clock: SystemClock,
    times: Histogram,
}

impl CallMeter {
    fn new() -> Self {
        Self { clock: SystemClock::new(), times: Histogram::new(TIMES) }
    }

    fn measure(&self, call: impl FnOnce()) {
        let since = self.clock.now();
        call();
        self.times.add(self.clock.now().remaining(since).as_micros() as u64);
    }
}

/// Counting a call alone.
#[divan::bench(threads = [1, 2])]
fn count_call(bencher: Bencher<'_, '_>) {
    let meter = CallMeter::new();
    bencher.bench(|| meter.measure(|| ()));
}

/// Counting a call that sends a batch: the size of each message, and how many there were.
#[divan::bench(args = [1, BATCH], threads = [1, 2])]
fn count_send(bencher: Bencher<'_, '_>, batch: usize) {
    let (meter, sizes, rate) = (CallMeter::new(), Histogram::new(SIZES), Counter::default());
    bencher.counter(ItemsCount::new(batch)).bench(|| {
        meter.measure(|| {
            (0..batch).for_each(|_| sizes.add(black_box(1200)));
            rate.add(batch as u64);
        });
    });
}

/// Counting a call that receives a batch: each message and its bytes, and how many there were.
#[divan::bench(args = [1, BATCH], threads = [1, 2])]
fn count_receive(bencher: Bencher<'_, '_>, batch: usize) {
    let (meter, messages, bytes, rate) = (CallMeter::new(), Counter::default(), Counter::default(), Counter::default());
    bencher.counter(ItemsCount::new(batch)).bench(|| {
        meter.measure(|| {
            for _ in 0..batch {
                messages.add(1);
                bytes.add(black_box(1200));
            }
            rate.add(batch as u64);
        });
    });
}

/// Deciding that a call is not traced: by lot, and by what its caller says.
#[divan::bench(args = ["", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"])]
fn trace_not_sampled(bencher: Bencher<'_, '_>, parent: &str) {
    let (tracer, _spans) = tracer(f64::MIN_POSITIVE);
    let headers = headers(parent);
    bencher.bench(|| assert!(tracer.begin(&headers, Deadline::default(), || METHOD).is_none()));
}

/// A span from begin to the queue's end.
#[divan::bench]
fn trace_sampled(bencher: Bencher<'_, '_>) {
    let (tracer, mut spans) = tracer(1.0);
    let headers = headers("");
    bencher.bench_local(|| {
        let span = tracer.begin(&headers, Deadline::default(), || METHOD).expect("sampled");
        span.note(|notes| notes.topic = "orders".into());
        drop(span);
        spans.try_recv().expect("a span")
    });
}

const METHOD: Method = Method { name: "SendMessage", operation: Some(("send", "send")) };

fn tracer(ratio: f64) -> (Tracer, tokio::sync::mpsc::Receiver<Span>) {
    Tracer::new(ratio, 8192, Arc::default(), Arc::new(SystemClock::new()))
}

/// Those of an official client, and a `traceparent` where there is one.
fn headers(parent: &str) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    for name in [
        "content-type",
        "te",
        "user-agent",
        "grpc-timeout",
        "authorization",
        "x-mq-client-id",
        "x-mq-client-version",
        "x-mq-date-time",
        "x-mq-language",
        "x-mq-protocol",
        "x-mq-request-id",
    ] {
        headers.insert(name, http::HeaderValue::from_static("a value of a client"));
    }
    if let Some(parent) = Some(parent).filter(|parent| !parent.is_empty()) {
        headers.insert("traceparent", parent.parse().expect("ASCII"));
    }
    headers
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A group that receives what it has just sent.
struct Consumer {
    broker: Broker,
    group: GroupName,
    runtime: tokio::runtime::Runtime,
    _dir: TempDir,
}

impl Consumer {
    fn new(flush: FlushPolicy) -> Self {
        let (broker, dir) = broker(flush);
        let group = GroupName::parse("bench").expect("a name");
        let consumer = Self { broker, group, runtime: runtime(), _dir: dir };
        // Makes topic, group and books.
        consumer.fill();
        consumer.ack(&consumer.take());
        consumer
    }

    fn fill(&self) {
        let sent = self.runtime.block_on(self.broker.produce(&topic(), vec![draft(); BATCH]));
        sent.expect("a topic that is made at once");
    }

    fn take(&self) -> Vec<Delivery> {
        let take = Take {
            topic: topic(),
            group: self.group.clone(),
            filter: Filter::All,
            max: BATCH,
            invisible: Duration::from_secs(600),
            until: Deadline::default(),
            attempt_id: None,
        };
        let taken = self.runtime.block_on(self.broker.take(take)).expect("a group that is made at once");
        assert_eq!(taken.len(), BATCH);
        taken
    }

    fn ack(&self, taken: &[Delivery]) {
        let receipts: Vec<_> = taken.iter().map(|delivery| delivery.receipt.clone()).collect();
        let acked = self.runtime.block_on(self.broker.ack(&topic(), &self.group, &receipts)).expect("live receipts");
        assert!(acked.iter().all(Result::is_ok));
    }
}
