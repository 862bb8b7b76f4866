//! TRACES: a span for each call that is sampled, queued for the exporter.
//!
//! A call whose caller says by `traceparent` whether the trace is recorded is as its caller says; of the others a share is
//! drawn by lot. A call that is not sampled allocates nothing; one that is waits for nobody: where the queue is full its span
//! is dropped, and counted.

mod context;
mod span;

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use parking_lot::Mutex;
use tokio::sync::mpsc;

pub use context::Context;
pub use span::{Failure, Method, Notes, Outcome, Span, cut};

use crate::{
    observe::otlp::Counts,
    types::{Clock, Deadline, random},
};

/// Begins spans; a cheap clone.
#[derive(Clone)]
pub struct Tracer {
    inner: Arc<Inner>,
}

struct Inner {
    /// Of all numbers, those up to this one win; `None` for none.
    wins: Option<u64>,
    queue: mpsc::Sender<Span>,
    counts: Arc<Counts>,
    clock: Arc<dyn Clock>,
}

impl Tracer {
    /// `ratio`, from 0 to 1, is the share of calls without a context that are sampled; `queue` is how many spans may wait.
    pub fn new(ratio: f64, queue: usize, counts: Arc<Counts>, clock: Arc<dyn Clock>) -> (Self, mpsc::Receiver<Span>) {
        let (queue, spans) = mpsc::channel(queue.max(1));
        let wins = (ratio > 0.0).then_some((ratio * u64::MAX as f64) as u64);
        (Self { inner: Arc::new(Inner { wins, queue, counts, clock }) }, spans)
    }

    /// The span of a call that has arrived, if it is sampled; only then it is asked what is called.
    pub fn begin(&self, headers: &HeaderMap, since: Deadline, method: impl FnOnce() -> Method) -> Option<OpenSpan> {
        let parent = match Context::of_call(headers) {
            Some(parent) if parent.is_sampled() => Some(parent),
            None if self.inner.wins.is_some_and(|wins| random() <= wins) => None,
            Some(_) | None => return None,
        };
        Some(self.open(method(), headers, parent, since))
    }

    #[cold]
    fn open(&self, method: Method, headers: &HeaderMap, parent: Option<Context>, since: Deadline) -> OpenSpan {
        let span = Span {
            context: parent.map_or_else(Context::new_trace, Context::child),
            parent: parent.map(|parent| parent.span),
            state: parent.map(|_| context::state_of_call(headers)).unwrap_or_default(),
            method,
            started_at: self.inner.clock.wall_nanos(),
            took: Duration::ZERO,
            notes: Notes::default(),
            outcome: Outcome::default(),
        };
        OpenSpan { tracer: self.clone(), since, span: Mutex::new(Some(Box::new(span))) }
    }

    fn end(&self, mut span: Box<Span>, since: Deadline) {
        span.took = self.inner.clock.now().remaining(since);
        if self.inner.queue.try_send(*span).is_err() {
            self.inner.counts.dropped.add(1);
        }
    }
}

/// A call that is traced. It ends once: when it is answered, or else when it is dropped.
pub struct OpenSpan {
    tracer: Tracer,
    since: Deadline,
    span: Mutex<Option<Box<Span>>>,
}

impl OpenSpan {
    /// Notes what the call is about.
    pub fn note(&self, what: impl FnOnce(&mut Notes)) {
        if let Some(span) = &mut *self.span.lock() {
            what(&mut span.notes);
        }
    }

    /// The call is answered.
    pub fn answered(&self, outcome: Outcome) {
        if let Some(mut span) = self.span.lock().take() {
            span.outcome = outcome;
            self.tracer.end(span, self.since);
        }
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        if let Some(span) = self.span.get_mut().take() {
            self.tracer.end(span, self.since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ManualClock, Timestamp};

    const METHOD: Method = Method { name: "SendMessage", operation: Some(("send", "send")) };

    fn tracer(ratio: f64, queue: usize) -> (Tracer, mpsc::Receiver<Span>, Arc<Counts>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1000)));
        let counts = Arc::<Counts>::default();
        let (tracer, spans) = Tracer::new(ratio, queue, counts.clone(), clock.clone());
        (tracer, spans, counts, clock)
    }

    fn parent(flags: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let text = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
        headers.insert("traceparent", text.parse().expect("ASCII"));
        headers
    }

    #[test]
    fn a_caller_decides_for_its_trace_and_a_lot_for_the_others() {
        let none = HeaderMap::new();
        for (ratio, headers, sampled) in [
            (0.0, &none, false),
            (1.0, &none, true),
            (0.0, &parent("01"), true),
            (1.0, &parent("00"), false),
            (0.0, &parent("03"), true),
        ] {
            let (tracer, ..) = tracer(ratio, 1);
            assert_eq!(tracer.begin(headers, Deadline::default(), || METHOD).is_some(), sampled, "{ratio} {headers:?}");
        }
        let (tracer, ..) = tracer(0.25, 1);
        let won = (0..10_000).filter(|_| tracer.begin(&none, Deadline::default(), || METHOD).is_some()).count();
        assert!((2000..3000).contains(&won), "{won} of 10,000 at a ratio of a quarter");
    }

    #[test]
    fn a_span_goes_on_with_its_callers_trace_and_says_how_the_call_ended() {
        let (tracer, mut spans, _, clock) = tracer(0.0, 8);
        let open = tracer.begin(&parent("01"), clock.now(), || METHOD).expect("sampled");
        open.note(|notes| notes.topic = "orders".into());
        clock.advance(Duration::from_millis(5));
        let answered = Outcome::Answered { code: 20000, name: "OK", failure: Failure::None };
        open.answered(answered);
        // Ended once.
        open.answered(Outcome::Aborted);
        drop(open);
        let span = spans.try_recv().expect("a span");
        let asked = Context::of_call(&parent("01")).expect("a context");
        assert_eq!((span.context.trace, span.parent), (asked.trace, Some(asked.span)));
        assert_ne!(span.context.span, asked.span);
        assert_eq!((span.took, span.outcome, &*span.notes.topic), (Duration::from_millis(5), answered, "orders"));
        assert!(spans.try_recv().is_err());
    }

    #[test]
    fn a_call_that_nobody_answers_is_told_as_aborted() {
        let (tracer, mut spans, ..) = tracer(1.0, 8);
        drop(tracer.begin(&HeaderMap::new(), Deadline::default(), || METHOD));
        assert_eq!(spans.try_recv().expect("a span").outcome, Outcome::Aborted);
    }

    #[test]
    fn spans_beyond_the_bound_are_dropped_and_counted() {
        let (tracer, mut spans, counts, _) = tracer(1.0, 3);
        for _ in 0..5 {
            drop(tracer.begin(&HeaderMap::new(), Deadline::default(), || METHOD));
        }
        assert_eq!(counts.dropped.get(), 2);
        assert_eq!(std::iter::from_fn(|| spans.try_recv().ok()).count(), 3);
    }
}
