//! Calls as their traces tell them: what each RPC is to messaging, what a request is about, what an answer means.

use crate::{
    observe::trace::{Failure, Method, Notes, Outcome, cut},
    proto::v2::{self, Code},
    types::{Properties, properties::key},
};

use super::meters::Refused;

/// The property in which producers' libraries leave the span that a message was made in, where they do not set the field
/// `trace_context`, as the official clients do.
const PARENT: &str = "traceparent";

/// Bytes of a message id at most; those of the clients have 34.
const ID_BYTES_MAX: usize = 128;

/// An RPC by its name in the API. Names and types of operations are OpenTelemetry's, as far as it has them.
pub fn method(name: &'static str) -> Method {
    let operation = match name {
        "SendMessage" => Some(("send", "send")),
        "ReceiveMessage" => Some(("receive", "receive")),
        "PullMessage" => Some(("pull", "receive")),
        "AckMessage" => Some(("ack", "settle")),
        "ChangeInvisibleDuration" => Some(("change_invisible_duration", "settle")),
        "ForwardMessageToDeadLetterQueue" => Some(("forward_to_dead_letter_queue", "settle")),
        "EndTransaction" => Some(("end_transaction", "settle")),
        _ => None,
    };
    Method { name: if name.is_empty() { "unknown" } else { name }, operation }
}

/// How a call ended by its answer.
pub fn outcome(refused: Option<Refused>) -> Outcome {
    let code = match refused {
        None => Code::Ok,
        Some(Refused::Grpc(code)) => return Outcome::Grpc(code),
        Some(Refused::Api(code)) => code,
    };
    let failure = match code {
        // An empty poll is as it should be.
        Code::Ok | Code::MultipleResults | Code::MessageNotFound => Failure::None,
        code if (code as i32) < Code::InternalError as i32 => Failure::Refused,
        _ => Failure::Fault,
    };
    Outcome::Answered { code: code as i32, name: code.as_str_name(), failure }
}

/// Links a span to the one that a stored message was made in.
pub fn link_to(notes: &mut Notes, properties: &Properties) {
    if let [Some(parent), _] | [None, Some(parent)] = properties.get_each([key::TRACE_CONTEXT, PARENT]) {
        notes.link(parent);
    }
}

/// A request that says what it is about.
pub trait Described {
    fn describe(&self, _: &mut Notes) {}
}

fn name(of: Option<&v2::Resource>) -> String {
    of.map(|resource| cut(&resource.name)).unwrap_or_default()
}

/// A message id, which clients make: letters, digits and the like. What is something else is nobody's to export.
fn id(given: &str) -> String {
    let is_id = given.len() <= ID_BYTES_MAX && given.bytes().all(|b| b.is_ascii_graphic());
    if is_id { given.to_owned() } else { String::new() }
}

macro_rules! described {
    ($($request:ident { $($note:ident: $field:ident),* })*) => {$(
        impl Described for v2::$request {
            fn describe(&self, notes: &mut Notes) {
                $(notes.$note = name(self.$field.as_ref());)*
            }
        }
    )*};
}

described! {
    QueryRouteRequest { topic: topic }
    QueryAssignmentRequest { topic: topic, group: group }
    HeartbeatRequest { group: group }
    NotifyClientTerminationRequest { group: group }
    RecallMessageRequest { topic: topic }
    SyncLiteSubscriptionRequest { topic: topic, group: group }
}

macro_rules! about_one_message {
    ($($request:ident { $($note:ident: $field:ident),* })*) => {$(
        impl Described for v2::$request {
            fn describe(&self, notes: &mut Notes) {
                $(notes.$note = name(self.$field.as_ref());)*
                notes.message_id = id(&self.message_id);
            }
        }
    )*};
}

about_one_message! {
    ChangeInvisibleDurationRequest { topic: topic, group: group }
    ForwardMessageToDeadLetterQueueRequest { topic: topic, group: group }
    EndTransactionRequest { topic: topic }
}

macro_rules! about_a_queue {
    ($($request:ident $($group:ident)?;)*) => {$(
        impl Described for v2::$request {
            fn describe(&self, notes: &mut Notes) {
                notes.topic = name(self.message_queue.as_ref().and_then(|queue| queue.topic.as_ref()));
                $(notes.group = name(self.$group.as_ref());)?
            }
        }
    )*};
}

about_a_queue! {
    ReceiveMessageRequest group;
    PullMessageRequest group;
    UpdateOffsetRequest group;
    GetOffsetRequest group;
    QueryOffsetRequest;
}

impl Described for v2::SendMessageRequest {
    fn describe(&self, notes: &mut Notes) {
        notes.messages = Some(self.messages.len() as u64);
        if let Some(first) = self.messages.first() {
            notes.topic = name(first.topic.as_ref());
        }
        if let [only] = &self.messages[..] {
            notes.message_id = only.system_properties.as_ref().map(|system| id(&system.message_id)).unwrap_or_default();
        }
        for message in &self.messages {
            let context = message.system_properties.as_ref().and_then(|system| system.trace_context.as_ref());
            let parent = context.filter(|context| !context.is_empty()).or_else(|| message.user_properties.get(PARENT));
            if let Some(parent) = parent {
                notes.link(parent);
            }
        }
    }
}

impl Described for v2::AckMessageRequest {
    fn describe(&self, notes: &mut Notes) {
        (notes.topic, notes.group) = (name(self.topic.as_ref()), name(self.group.as_ref()));
        notes.messages = Some(self.entries.len() as u64);
        if let [only] = &self.entries[..] {
            notes.message_id = id(&only.message_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::properties::PropertiesBuilder;

    const PARENT_TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn message(context: Option<&str>, property: Option<&str>) -> v2::Message {
        v2::Message {
            topic: Some(v2::Resource { name: "orders".into(), ..Default::default() }),
            user_properties: property.map(|parent| (PARENT.to_owned(), parent.to_owned())).into_iter().collect(),
            system_properties: Some(v2::SystemProperties {
                message_id: "ID".into(),
                keys: vec!["secret".into()],
                tag: Some("secret".into()),
                trace_context: context.map(str::to_owned),
                ..Default::default()
            }),
            body: "secret".into(),
        }
    }

    #[test]
    fn a_send_is_linked_to_the_spans_that_its_messages_were_made_in_by_field_or_property() {
        let mut notes = Notes::default();
        let messages = vec![
            message(Some(PARENT_TEXT), None),
            message(None, Some(PARENT_TEXT)),
            message(Some(""), Some(PARENT_TEXT)),
            message(Some("nonsense"), None),
            message(None, None),
        ];
        v2::SendMessageRequest { messages }.describe(&mut notes);
        assert_eq!((notes.links.len(), notes.messages, &*notes.topic), (3, Some(5), "orders"));
        assert!(!format!("{notes:?}").contains("secret"));
    }

    #[test]
    fn a_stored_message_is_linked_by_what_its_producer_left_in_it() {
        for (key, linked) in [(key::TRACE_CONTEXT, 1), (PARENT, 1), ("other", 0)] {
            let mut properties = PropertiesBuilder::default();
            properties.push(key, PARENT_TEXT);
            let mut notes = Notes::default();
            link_to(&mut notes, &properties.build());
            assert_eq!(notes.links.len(), linked, "{key}");
        }
    }

    #[test]
    fn what_is_no_message_id_is_not_exported_as_one() {
        assert_eq!(id("01A2B3C4D5E6F708090A0B0C0D0E0F1011"), "01A2B3C4D5E6F708090A0B0C0D0E0F1011");
        for text in ["a secret", "é", "a\nb", &"a".repeat(ID_BYTES_MAX + 1)] {
            assert_eq!(id(text), "", "{text}");
        }
    }

    #[test]
    fn an_answer_is_the_clients_fault_the_servers_or_nobodys() {
        let failure = |code| match outcome(Some(Refused::Api(code))) {
            Outcome::Answered { failure, .. } => failure,
            other => panic!("{other:?}"),
        };
        assert_eq!(failure(Code::MessageNotFound), Failure::None);
        assert_eq!(failure(Code::TopicNotFound), Failure::Refused);
        assert_eq!(failure(Code::MasterPersistenceTimeout), Failure::Fault);
        assert_eq!(outcome(Some(Refused::Grpc(13))), Outcome::Grpc(13));
        let ok = Outcome::Answered { code: 20000, name: "OK", failure: Failure::None };
        assert_eq!(outcome(None), ok);
    }
}
