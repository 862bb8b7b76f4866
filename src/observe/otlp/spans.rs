//! Spans as OTLP has them, in messages of a bounded size. Names of attributes are those of OpenTelemetry's conventions for
//! RPC and messaging; `rocketmq.status.*` are ours.

use prost::Message as _;

use super::{About, MESSAGE_BYTES_MAX, text, whole};
use crate::{
    observe::trace::{Context, Failure, Outcome, Span},
    proto::opentelemetry::proto::{
        collector::trace::v1::ExportTraceServiceRequest,
        common::v1::KeyValue,
        trace::v1::{
            self as wire, ResourceSpans, ScopeSpans, Status,
            span::{Link, SpanKind},
            status::StatusCode,
        },
    },
};

const SERVICE: &str = "apache.rocketmq.v2.MessagingService";
/// The flags say whether the other span is elsewhere, and it is.
const IS_REMOTE: u32 = 0x300;
/// What a span takes beyond itself.
const FRAME: usize = 16;
/// gRPC's codes that are the server's fault, as OpenTelemetry counts them: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED,
/// INTERNAL, UNAVAILABLE, DATA_LOSS.
const FAULTS: [i32; 6] = [2, 4, 12, 13, 14, 15];

/// gRPC's code for a call that its client gave up.
const CANCELLED: i64 = 1;

/// Messages of all these spans, each with how many it has.
pub fn requests(about: &About, spans: Vec<Span>) -> Vec<(ExportTraceServiceRequest, u64)> {
    let room = MESSAGE_BYTES_MAX - about.resource.encoded_len().min(MESSAGE_BYTES_MAX / 2) - 8 * FRAME;
    let mut requests = Vec::new();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for span in spans {
        let span = convert(span);
        let size = span.encoded_len() + FRAME;
        if bytes + size > room && !batch.is_empty() {
            requests.push(request(about, std::mem::take(&mut batch)));
            bytes = 0;
        }
        bytes += size;
        batch.push(span);
    }
    if !batch.is_empty() {
        requests.push(request(about, batch));
    }
    requests
}

fn request(about: &About, spans: Vec<wire::Span>) -> (ExportTraceServiceRequest, u64) {
    let count = spans.len() as u64;
    let scope_spans = vec![ScopeSpans { scope: Some(about.scope.clone()), spans }];
    let all = ResourceSpans { resource: Some(about.resource.clone()), scope_spans, schema_url: String::new() };
    (ExportTraceServiceRequest { resource_spans: vec![all] }, count)
}

fn convert(span: Span) -> wire::Span {
    let start = span.started_at;
    let took = u64::try_from(span.took.as_nanos()).unwrap_or(u64::MAX);
    let flags = u32::from(span.context.flags);
    wire::Span {
        trace_id: span.context.trace.to_vec(),
        span_id: span.context.span.to_vec(),
        parent_span_id: span.parent.map(|parent| parent.to_vec()).unwrap_or_default(),
        flags: if span.parent.is_some() { flags | IS_REMOTE } else { flags },
        name: format!("{SERVICE}/{}", span.method.name),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(took),
        attributes: attributes(&span),
        links: span.notes.links.iter().map(link).collect(),
        dropped_links_count: span.notes.links_dropped,
        status: Some(status(span.outcome)),
        trace_state: span.state,
    }
}

fn link(to: &Context) -> Link {
    Link {
        trace_id: to.trace.to_vec(),
        span_id: to.span.to_vec(),
        trace_state: String::new(),
        attributes: Vec::new(),
        flags: u32::from(to.flags) | IS_REMOTE,
    }
}

fn attributes(span: &Span) -> Vec<KeyValue> {
    let mut all = vec![
        text("rpc.system", "grpc"),
        text("rpc.service", SERVICE),
        text("rpc.method", span.method.name),
        text("messaging.system", "rocketmq"),
    ];
    if let Some((name, kind)) = span.method.operation {
        all.push(text("messaging.operation.name", name));
        all.push(text("messaging.operation.type", kind));
    }
    let notes = &span.notes;
    for (key, value) in [
        ("messaging.destination.name", &notes.topic),
        ("messaging.consumer.group.name", &notes.group),
        ("messaging.client.id", &notes.client),
        ("messaging.message.id", &notes.message_id),
    ] {
        if !value.is_empty() {
            all.push(text(key, value.as_str()));
        }
    }
    all.extend(notes.messages.map(|n| whole("messaging.batch.message_count", i64::try_from(n).unwrap_or(i64::MAX))));
    match span.outcome {
        Outcome::Aborted => all.push(whole("rpc.grpc.status_code", CANCELLED)),
        Outcome::Grpc(code) => {
            all.push(whole("rpc.grpc.status_code", code.into()));
            all.push(text("error.type", code.to_string()));
        }
        Outcome::Answered { code, name, failure } => {
            all.push(whole("rpc.grpc.status_code", 0));
            all.push(whole("rocketmq.status.code", code.into()));
            all.push(text("rocketmq.status.name", name));
            if failure != Failure::None {
                all.push(text("error.type", name));
            }
        }
    }
    all
}

/// An error is what the server should have done and did not; what it rightly refuses is none of its span's.
fn status(outcome: Outcome) -> Status {
    let is_error = match outcome {
        // A client may leave: a long poll that nobody waits for any more is no error of anybody's.
        Outcome::Aborted => false,
        Outcome::Grpc(code) => FAULTS.contains(&code),
        Outcome::Answered { failure, .. } => failure == Failure::Fault,
    };
    let code = if is_error { StatusCode::Error } else { StatusCode::Unset };
    Status { message: String::new(), code: code.into() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::observe::{
        metrics::Names,
        trace::{Method, Notes},
    };

    fn span(outcome: Outcome) -> Span {
        let context = Context { trace: [1; 16], span: [2; 8], flags: 1 };
        Span {
            context,
            parent: Some([3; 8]),
            state: "a=1".into(),
            method: Method { name: "ReceiveMessage", operation: Some(("receive", "receive")) },
            started_at: 1_000_000_001,
            took: Duration::from_micros(1500),
            notes: Notes { topic: "orders".into(), messages: Some(2), links: vec![context], ..Notes::default() },
            outcome,
        }
    }

    #[test]
    fn a_span_is_told_with_its_parent_times_links_and_the_status_of_the_body() {
        let told = convert(span(Outcome::Answered { code: 40402, name: "TOPIC_NOT_FOUND", failure: Failure::Refused }));
        assert_eq!(told.name, "apache.rocketmq.v2.MessagingService/ReceiveMessage");
        assert_eq!((&told.parent_span_id[..], told.flags, told.kind()), (&[3; 8][..], 0x301, SpanKind::Server));
        assert_eq!((told.start_time_unix_nano, told.end_time_unix_nano), (1_000_000_001, 1_001_500_001));
        assert_eq!((told.links[0].span_id.len(), &*told.trace_state), (8, "a=1"));
        for attribute in [
            text("messaging.destination.name", "orders"),
            text("messaging.operation.type", "receive"),
            whole("messaging.batch.message_count", 2),
            whole("rocketmq.status.code", 40402),
            text("error.type", "TOPIC_NOT_FOUND"),
            whole("rpc.grpc.status_code", 0),
        ] {
            assert!(told.attributes.contains(&attribute), "{attribute:?}");
        }
        assert!(!told.attributes.iter().any(|attribute| attribute.key == "messaging.consumer.group.name"));
    }

    #[test]
    fn only_what_the_server_failed_to_do_is_an_error() {
        let answered = |failure| Outcome::Answered { code: 1, name: "X", failure };
        for (outcome, is_error) in [
            (answered(Failure::None), false),
            (answered(Failure::Refused), false),
            (answered(Failure::Fault), true),
            (Outcome::Grpc(3), false),
            (Outcome::Grpc(13), true),
            (Outcome::Aborted, false),
        ] {
            assert_eq!(status(outcome).code() == StatusCode::Error, is_error, "{outcome:?}");
        }
    }

    #[test]
    fn a_client_that_left_cancelled_its_call() {
        let told = convert(span(Outcome::Aborted));
        assert!(told.attributes.contains(&whole("rpc.grpc.status_code", 1)));
        assert!(!told.attributes.iter().any(|attribute| attribute.key == "error.type"));
    }

    #[test]
    fn many_spans_go_in_several_messages_of_a_bounded_size_and_none_is_lost() {
        let about = About::new(&Names::default(), None);
        let mut large = span(Outcome::Aborted);
        large.notes.links = vec![large.context; 128];
        let requests = requests(&about, vec![large; 1000]);
        assert!(requests.len() > 1);
        assert!(requests.iter().all(|(request, _)| request.encoded_len() <= MESSAGE_BYTES_MAX));
        assert_eq!(requests.iter().map(|(_, count)| count).sum::<u64>(), 1000);
    }
}
