//! A span: one call as its trace tells it.

use std::time::Duration;

use super::context::Context;

/// Spans that one is linked to at most; further ones are counted.
const LINKS_MAX: usize = 128;
/// Bytes of a text that a client chose.
const TEXT_BYTES_MAX: usize = 256;

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// As the API has it.
    pub name: &'static str,
    /// What it is to messaging, where it is something: its name, and OpenTelemetry's type of operation.
    pub operation: Option<(&'static str, &'static str)>,
}

/// One call, from its arrival to the beginning of its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub context: Context,
    /// The caller's span.
    pub parent: Option<[u8; 8]>,
    /// `tracestate`.
    pub state: String,
    pub method: Method,
    /// In nanoseconds since 1970, so that the spans of calls that follow each other stand in their order.
    pub started_at: u64,
    pub took: Duration,
    pub notes: Notes,
    pub outcome: Outcome,
}

/// What a call is about. Never a body, a key, a tag or a property: those are the users'.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes {
    pub topic: String,
    pub group: String,
    pub client: String,
    /// Of a call about one message.
    pub message_id: String,
    pub messages: Option<u64>,
    /// Spans in which messages of the call were made.
    pub links: Vec<Context>,
    pub links_dropped: u32,
}

impl Notes {
    /// Links the span to the one that a message was made in. `parent` is a `traceparent`, and none when it is malformed.
    pub fn link(&mut self, parent: &str) {
        let Some(context) = Context::parse(parent.as_bytes()) else { return };
        if self.links.len() < LINKS_MAX {
            self.links.push(context);
        } else {
            self.links_dropped = self.links_dropped.saturating_add(1);
        }
    }
}

/// A text that a client chose, cut to what a span has room for.
pub fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

/// How a call ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// Without an answer: the client left. (A handler that panics is answered for.)
    #[default]
    Aborted,
    /// By a gRPC status other than OK.
    Grpc(i32),
    /// With a status in its body.
    Answered { code: i32, name: &'static str, failure: Failure },
}

/// Whose fault an answer is that is not OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    None,
    /// The request could not be met as it was.
    Refused,
    /// The server did not do what it should.
    Fault,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_have_a_bound_and_the_rest_is_counted() {
        let mut notes = Notes::default();
        notes.link("nonsense");
        for n in 1..=LINKS_MAX + 2 {
            notes.link(&format!("00-{n:032x}-{n:016x}-01"));
        }
        assert_eq!((notes.links.len(), notes.links_dropped), (LINKS_MAX, 2));
    }

    #[test]
    fn texts_of_clients_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "é".repeat(TEXT_BYTES_MAX);
        assert_eq!(cut(&format!("x{long}")).len(), TEXT_BYTES_MAX - 1);
    }
}
