//! Driver of the official RocketMQ 5 Rust client (crate `rocketmq`). Contract: ../README.md
//!
//! This client has a producer and a simple consumer; it has no push consumer and no call to
//! change the invisible duration.

use std::collections::HashMap;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::process::exit;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rocketmq::conf::{ClientOption, LoggingFormat, ProducerOption, SimpleConsumerOption};
use rocketmq::error::ClientError;
use rocketmq::model::common::{FilterExpression, FilterType};
use rocketmq::model::message::{MessageBuilder, MessageView};
use rocketmq::model::transaction::{Transaction, TransactionResolution};
use rocketmq::{Producer, SimpleConsumer};
use serde_json::{json, Value};
use tokio::time::{sleep, timeout};

/// Between a failure and the next try.
const PAUSE: Duration = Duration::from_millis(200);

static OUT: Mutex<bool> = Mutex::new(false); // true: the closing line is out

fn write(event: &str, fields: Value) {
    let mut line = json!({ "event": event });
    let fields = fields.as_object().cloned().unwrap_or_default();
    line.as_object_mut().unwrap().extend(fields);
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn emit(event: &str, fields: Value) {
    let finished = OUT.lock().unwrap();
    if !*finished {
        write(event, fields);
    }
}

/// Prints the closing line once and leaves.
fn finish(status: i32, event: &str, fields: Value) -> ! {
    let mut finished = OUT.lock().unwrap();
    if !*finished {
        *finished = true;
        if !event.is_empty() {
            write(event, fields);
        }
    }
    exit(status)
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// What went wrong in a call of the client.
struct Failure {
    code: Option<i32>,
    message: String,
}

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Self {
        // The status code comes as its name in the context; gRPC errors come as `source`.
        let name = e.context().iter().find(|(key, _)| *key == "code").map(|(_, v)| v.as_str());
        let mut message = e.to_string();
        if let Some(source) = e.source() {
            for cause in source.chain().skip(1) {
                message += &format!(": {cause}");
            }
        }
        Failure { code: name.and_then(code_by_name), message }
    }
}

/// Runs a call in a task of its own: this client panics where it cannot reach a broker.
async fn call<T, F>(f: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ClientError>> + Send + 'static,
{
    match tokio::spawn(f).await {
        Ok(result) => result.map_err(Failure::from),
        Err(e) => Err(Failure { code: None, message: format!("client panicked: {e}") }),
    }
}

fn code_by_name(name: &str) -> Option<i32> {
    const CODES: &[(&str, i32)] = &[
        ("MULTIPLE_RESULTS", 30000),
        ("BAD_REQUEST", 40000),
        ("ILLEGAL_ACCESS_POINT", 40001),
        ("ILLEGAL_TOPIC", 40002),
        ("ILLEGAL_CONSUMER_GROUP", 40003),
        ("ILLEGAL_MESSAGE_TAG", 40004),
        ("ILLEGAL_MESSAGE_KEY", 40005),
        ("ILLEGAL_MESSAGE_GROUP", 40006),
        ("ILLEGAL_MESSAGE_PROPERTY_KEY", 40007),
        ("INVALID_TRANSACTION_ID", 40008),
        ("ILLEGAL_MESSAGE_ID", 40009),
        ("ILLEGAL_FILTER_EXPRESSION", 40010),
        ("ILLEGAL_INVISIBLE_TIME", 40011),
        ("ILLEGAL_DELIVERY_TIME", 40012),
        ("INVALID_RECEIPT_HANDLE", 40013),
        ("MESSAGE_PROPERTY_CONFLICT_WITH_TYPE", 40014),
        ("UNRECOGNIZED_CLIENT_TYPE", 40015),
        ("MESSAGE_CORRUPTED", 40016),
        ("CLIENT_ID_REQUIRED", 40017),
        ("ILLEGAL_POLLING_TIME", 40018),
        ("UNAUTHORIZED", 40100),
        ("PAYMENT_REQUIRED", 40200),
        ("FORBIDDEN", 40300),
        ("NOT_FOUND", 40400),
        ("MESSAGE_NOT_FOUND", 40401),
        ("TOPIC_NOT_FOUND", 40402),
        ("CONSUMER_GROUP_NOT_FOUND", 40403),
        ("REQUEST_TIMEOUT", 40800),
        ("PAYLOAD_TOO_LARGE", 41300),
        ("MESSAGE_BODY_TOO_LARGE", 41301),
        ("PRECONDITION_FAILED", 42800),
        ("TOO_MANY_REQUESTS", 42900),
        ("REQUEST_HEADER_FIELDS_TOO_LARGE", 43100),
        ("MESSAGE_PROPERTIES_TOO_LARGE", 43101),
        ("INTERNAL_ERROR", 50000),
        ("INTERNAL_SERVER_ERROR", 50001),
        ("HA_NOT_AVAILABLE", 50002),
        ("NOT_IMPLEMENTED", 50100),
        ("PROXY_TIMEOUT", 50400),
        ("MASTER_PERSISTENCE_TIMEOUT", 50401),
        ("SLAVE_PERSISTENCE_TIMEOUT", 50402),
        ("UNSUPPORTED", 50500),
        ("VERSION_UNSUPPORTED", 50501),
        ("VERIFY_FIFO_MESSAGE_UNSUPPORTED", 50502),
        ("FAILED_TO_CONSUME_MESSAGE", 60000),
    ];
    CODES.iter().find(|(n, _)| *n == name).map(|(_, code)| *code)
}

/// The command line: `--name value`, repeated names kept in order, and flags.
struct Args(Vec<(String, String)>);

impl Args {
    fn parse(rest: &[String], flags: &[&str], known: &[&str]) -> Args {
        let mut found = Vec::new();
        let mut rest = rest.iter();
        while let Some(word) = rest.next() {
            let Some(name) = word.strip_prefix("--") else { usage(&format!("{word}?")) };
            let (name, inline) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_string())),
                None => (name, None),
            };
            let value = if flags.contains(&name) {
                String::new()
            } else if !known.contains(&name) {
                usage(&format!("--{name}?"))
            } else {
                match inline.or_else(|| rest.next().cloned()) {
                    Some(value) => value,
                    None => usage(&format!("--{name} needs a value")),
                }
            };
            found.push((name.to_string(), value));
        }
        Args(found)
    }
    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect()
    }
    fn get(&self, name: &str) -> Option<String> {
        self.all(name).pop()
    }
    fn need(&self, name: &str) -> String {
        self.get(name).unwrap_or_else(|| usage(&format!("--{name} is needed")))
    }
    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
    fn number<T: std::str::FromStr>(&self, name: &str, standard: T) -> T {
        match self.get(name) {
            None => standard,
            Some(v) => v.parse().unwrap_or_else(|_| usage(&format!("--{name} {v}?"))),
        }
    }
    fn millis(&self, name: &str, standard: u64) -> Duration {
        Duration::from_millis(self.number(name, standard))
    }
    fn timeout(&self) -> Duration {
        self.millis("timeout-ms", self.number("timeout", 30000))
    }
}

fn usage(text: &str) -> ! {
    eprintln!("driver: {text}");
    exit(1)
}

fn unsupported(what: &str) -> ! {
    finish(4, "unsupported", json!({ "what": what }))
}

fn client_option(a: &Args) -> ClientOption {
    let mut option = ClientOption::default();
    option.set_access_url(a.need("endpoint"));
    option.set_enable_tls(a.has("tls"));
    option
}

/// Starts a client within the start time.
async fn start<T>(a: &Args, f: impl Future<Output = Result<T, ClientError>> + Send + 'static) -> T
where
    T: Send + 'static,
{
    let failure = match timeout(a.millis("start-timeout-ms", 30000), call(f)).await {
        Ok(Ok(client)) => {
            emit("ready", json!({}));
            return client;
        }
        Ok(Err(failure)) => failure,
        Err(_) => Failure { code: None, message: "start timed out".into() },
    };
    finish(3, "start-error", json!({ "code": failure.code, "message": failure.message }))
}

async fn produce(a: Args) {
    if a.has("recall") {
        unsupported("recall: this client has no such call");
    }
    let topic = a.need("topic");
    let (count, size) = (a.number("count", 1u64), a.number("size", 0usize));
    let rate: f64 = a.number("rate", 0.0);
    let prefix = a.get("prefix").unwrap_or("m".into());
    let group = a.get("message-group").or(a.get("fifo"));
    let delay = a.has("delay-ms").then(|| a.number("delay-ms", 0i64));
    let properties: HashMap<String, String> = a
        .all("prop")
        .iter()
        .map(|kv| kv.split_once('=').unwrap_or((kv, "")))
        .map(|(k, v)| (k.into(), v.into()))
        .collect();

    let mut option = ProducerOption::default();
    option.set_logging_format(LoggingFormat::Json);
    if a.get("topic-declare").as_deref() != Some("no") {
        option.set_topics(vec![topic.clone()]);
    }
    let connection = client_option(&a);
    let transaction = a.get("transaction");
    let is_checking = transaction.is_some() || a.has("checker");
    let (answer, checked) = (a.get("checker").unwrap_or("unknown".into()), Arc::new(AtomicI64::new(0)));
    let count_checks = checked.clone();
    let check = move |_: String, m: MessageView| {
        emit("checked", json!({ "id": m.message_id(), "body": text(&m), "resolution": answer, "ts": now_ms() }));
        count_checks.fetch_add(1, SeqCst);
        match answer.as_str() {
            "commit" => TransactionResolution::COMMIT,
            "rollback" => TransactionResolution::ROLLBACK,
            _ => TransactionResolution::UNKNOWN,
        }
    };
    let producer = Arc::new(
        start(&a, async move {
            let mut producer = match is_checking {
                true => Producer::new_transaction_producer(option, connection, Box::new(check))?,
                false => Producer::new(option, connection)?,
            };
            producer.start().await?;
            Ok(producer)
        })
        .await,
    );
    let sent = Arc::new(AtomicI64::new(0));
    let (time, so_far) = (a.timeout(), sent.clone());
    tokio::spawn(async move {
        sleep(time).await;
        finish(2, "done", json!({ "reason": "timeout", "sent": so_far.load(SeqCst) }))
    });
    let t0 = Instant::now();
    for i in 0..count {
        if rate > 0.0 {
            sleep(Duration::from_secs_f64(i as f64 / rate).saturating_sub(t0.elapsed())).await;
        }
        let text = format!("{prefix}{i}");
        let mut body = text.clone().into_bytes();
        body.resize(body.len().max(size), b'.');
        let mut open = None;
        loop {
            let mut builder = MessageBuilder::builder().set_topic(topic.clone()).set_body(body.clone());
            if let Some(tag) = a.get("tag") {
                builder = builder.set_tag(tag);
            }
            if a.has("key") {
                builder = builder.set_keys(a.all("key"));
            }
            if !properties.is_empty() {
                builder = builder.set_properties(properties.clone());
            }
            if let Some(group) = &group {
                builder = builder.set_message_group(group.clone());
            }
            if let Some(delay) = delay {
                // Whole seconds only.
                builder = builder.set_delivery_timestamp((now_ms() + delay + 999) / 1000);
            }
            let producer = producer.clone();
            let result = match &transaction {
                None => call(async move { Ok(producer.send(builder.build()?).await?.message_id().to_string()) }).await,
                Some(_) => {
                    let message = builder.enable_transaction();
                    let begun = call(async move { producer.send_transaction_message(message.build()?).await }).await;
                    begun.map(|begun| {
                        let id = begun.message_id().to_string();
                        open = Some(begun);
                        id
                    })
                }
            };
            match result {
                Ok(id) => {
                    emit("sent", json!({ "i": i, "id": id, "body": text, "ts": now_ms() }));
                    sent.fetch_add(1, SeqCst);
                    break;
                }
                Err(e) => {
                    let line = json!({ "i": i, "code": e.code, "message": e.message, "op": "send" });
                    emit("error", line);
                    if !a.has("keep-going") {
                        finish(1, "", json!({}));
                    }
                    sleep(PAUSE).await;
                }
            }
        }
        if let (Some(open), Some("commit" | "rollback")) = (open, transaction.as_deref()) {
            sleep(a.millis("end-after-ms", 0)).await;
            end(open, transaction.as_deref() == Some("commit")).await;
        }
    }
    let checks: i64 = a.number("checks", 0);
    while checked.load(SeqCst) < checks {
        sleep(PAUSE).await;
    }
    if checks > 0 {
        sleep(Duration::from_secs(1)).await; // the answer to the last check goes out
    }
    // This producer has no shutdown.
    finish(0, "done", json!({ "sent": sent.load(SeqCst) }))
}

/// Ending takes the transaction, so a failure cannot be tried again.
async fn end(open: impl Transaction + Send + 'static, commits: bool) {
    let id = open.message_id().to_string();
    let ended = call(async move { if commits { open.commit().await } else { open.rollback().await } }).await;
    match ended {
        Ok(()) => {
            let resolution = if commits { "commit" } else { "rollback" };
            emit("ended", json!({ "id": id, "resolution": resolution, "ts": now_ms() }));
        }
        Err(e) => {
            emit("error", json!({ "id": id, "code": e.code, "message": e.message, "op": "end" }));
            finish(1, "", json!({}));
        }
    }
}

/// The body up to the padding.
fn text(m: &MessageView) -> String {
    String::from_utf8_lossy(m.body().split(|b| *b == b'.').next().unwrap_or_default()).into_owned()
}

fn received(m: &MessageView) {
    let body = m.body();
    let end = body.iter().position(|b| *b == b'.').unwrap_or(body.len());
    emit(
        "received",
        json!({
            "id": m.message_id(), "body": String::from_utf8_lossy(&body[..end]), "tag": m.tag(),
            "keys": m.keys(), "properties": m.properties(), "attempt": m.delivery_attempt(),
            "topic": m.topic(), "len": body.len(), "group": m.message_group(), "ts": now_ms(),
        }),
    );
}

async fn simple(a: Args) {
    let on_message = a.get("on-message").unwrap_or("ack".into());
    let (kind, n) = on_message.split_once(':').unwrap_or((&on_message, "0"));
    let n: i32 = n.parse().unwrap_or_else(|_| usage("--on-message?"));
    match kind {
        "ack" | "nothing" | "ack-after-attempt" => {}
        "change" => unsupported("change invisible duration: this client has no such call"),
        _ => usage("--on-message?"),
    }
    let (topic, group) = (a.need("topic"), a.need("group"));
    let (count, batch) = (a.number("count", 0i64), a.number("batch", 16i32));
    let (invisible, keep_going) = (a.millis("invisible-ms", 10000), a.has("keep-going"));
    let filter = a.get("filter").unwrap_or("*".into());
    let sql = a.has("sql");

    let mut option = SimpleConsumerOption::default();
    option.set_logging_format(LoggingFormat::Json);
    option.set_consumer_group(group);
    option.set_topics(vec![topic.clone()]);
    let mut connection = client_option(&a);
    connection.set_long_polling_timeout(a.millis("await-ms", 5000));
    let consumer = Arc::new(
        start(&a, async move {
            let mut consumer = SimpleConsumer::new(option, connection)?;
            consumer.start().await?;
            Ok(consumer)
        })
        .await,
    );
    let (seen, acked) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
    let state = {
        let (seen, acked) = (seen.clone(), acked.clone());
        move || json!({ "received": seen.load(SeqCst), "acked": acked.load(SeqCst), "changed": 0 })
    };
    let (time, at_end) = (a.timeout(), state.clone());
    tokio::spawn(async move {
        sleep(time).await;
        let mut fields = at_end();
        fields["reason"] = json!("timeout");
        finish(if count > 0 { 2 } else { 0 }, "done", fields)
    });
    let failed = |op: &str, id: Option<&str>, e: Failure| {
        let mut line = json!({ "code": e.code, "message": e.message, "op": op });
        if let Some(id) = id {
            line["id"] = json!(id);
        }
        emit("error", line);
        if !keep_going {
            finish(1, "", json!({}));
        }
        sleep(PAUSE)
    };
    loop {
        let (c, t, f) = (consumer.clone(), topic.clone(), filter.clone());
        let messages = call(async move {
            let kind = if sql { FilterType::Sql } else { FilterType::Tag };
            c.receive_with(t, &FilterExpression::new(kind, f), batch, invisible).await
        })
        .await;
        let messages = match messages {
            Ok(messages) => messages,
            Err(e) => {
                failed("receive", None, e).await;
                continue;
            }
        };
        for m in messages {
            received(&m);
            seen.fetch_add(1, SeqCst);
            if kind == "ack" || (kind == "ack-after-attempt" && m.delivery_attempt() >= n) {
                let (c, id) = (consumer.clone(), m.message_id().to_string());
                match call(async move { c.ack(&m).await }).await {
                    Ok(()) => {
                        emit("acked", json!({ "id": id, "ts": now_ms() }));
                        acked.fetch_add(1, SeqCst);
                    }
                    Err(e) => failed("ack", Some(&id), e).await,
                }
            }
            let reached = if kind == "nothing" { &seen } else { &acked };
            if count > 0 && reached.load(SeqCst) >= count {
                if let Some(consumer) = Arc::into_inner(consumer) {
                    let _ = timeout(Duration::from_secs(3), call(consumer.shutdown())).await;
                }
                finish(0, "done", state())
            }
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(command) = args.first() else { usage("version | produce | simple | push") };
    const FLAGS: &[&str] = &["tls", "keep-going", "sql", "recall"];
    const KNOWN: &[&str] = &[
        "endpoint",
        "ca",
        "topic",
        "count",
        "timeout",
        "timeout-ms",
        "start-timeout-ms",
        "size",
        "tag",
        "key",
        "prop",
        "message-group",
        "fifo",
        "delay-ms",
        "prefix",
        "rate",
        "topic-declare",
        "transaction",
        "end-after-ms",
        "checker",
        "checks",
        "group",
        "filter",
        "on-message",
        "batch",
        "invisible-ms",
        "await-ms",
        "linger-ms",
    ];
    let a = Args::parse(&args[1..], FLAGS, KNOWN);
    if command == "version" {
        return write("version", json!({ "client": "rocketmq", "version": "5.0.0" }));
    }
    if command == "push" {
        unsupported("push consumer: this client has none")
    }
    if a.has("tls") {
        match a.get("ca") {
            // The client trusts the system's roots, which this variable replaces.
            Some(ca) => match std::fs::canonicalize(&ca) {
                Ok(ca) => std::env::set_var("SSL_CERT_FILE", ca),
                Err(e) => usage(&format!("--ca {ca}: {e}")),
            },
            None => unsupported("TLS without --ca: this client trusts the system roots only"),
        }
    }
    // With LoggingFormat::Json the client logs to logs/rocketmq_client.log below the working
    // directory, which must be there.
    let logs = std::env::var_os("FERROMQ_DRIVER_LOGS").map(PathBuf::from);
    let logs = logs.unwrap_or_else(|| std::env::temp_dir().join("ferromq-drivers"));
    let logs = logs.join(format!("rust-{}", std::process::id()));
    let made = std::fs::create_dir_all(logs.join("logs"));
    if let Err(e) = made.and_then(|()| std::env::set_current_dir(&logs)) {
        usage(&format!("{}: {e}", logs.display()));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match command.as_str() {
        "produce" => runtime.block_on(produce(a)),
        "simple" => runtime.block_on(simple(a)),
        other => usage(&format!("unknown command {other}")),
    }
}
