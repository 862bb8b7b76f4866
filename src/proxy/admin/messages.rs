//! Finding, sending and verifying messages.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use crate::{
    broker::{Broker, Browse, Cursor, Filter, LookError, Page},
    proto::v2::{self, Code, list_message_request::SearchKey},
    types::{QueueId, StoredMessage, Timestamp, TopicName},
};

use super::{Administration, Outcome, Refusal, convert, status};
use crate::proxy::convert::{
    delivery::{self, DigestKind},
    draft,
};

/// Messages of an answer that asks for no number, and the most.
const NUMBER_DEFAULT: usize = 32;
const NUMBER_MAX: usize = 1000;
/// Bytes of bodies in one answer: what clients of gRPC take by default is 4 MiB. A message alone may have more.
const ANSWER_BYTES_MAX: usize = 3 << 20;
/// Messages that pages by number may lie behind; further on there are cursors.
const SKIPPED_MAX: usize = 10_000;
/// Messages that one call looks at, at most, those before its page among them, and for how long.
const LOOKED_AT_MAX: usize = 20_000;
const LOOK_TIME_MAX: Duration = Duration::from_secs(10);

/// A span of store times, both ends included.
type Span = (Timestamp, Timestamp);

/// How a query goes about it.
enum Search {
    Id(String),
    Key(String, Pages),
    Time(Filter, Pages),
}

/// Where an answer begins: where the one before it ended, or behind so many messages.
struct Pages {
    after: Option<Cursor>,
    skip: usize,
}

struct Query {
    topic: TopicName,
    queue: Option<QueueId>,
    span: Span,
    max: usize,
    search: Search,
}

impl Administration {
    /// Messages of a topic: by id out of the index, newest first; those of a span of time with a key, newest first; else
    /// those of a span in their order, which a subscription (a tag expression) narrows. `scroll_id` is given when there is
    /// more, or might be: a call looks at so many messages and for so long, and goes on from there; before its page was
    /// reached, with the rest of those before it. Nothing with an id is MESSAGE_NOT_FOUND; nothing with a key or in a span
    /// is an empty list.
    pub(super) async fn messages(&self, request: v2::ListMessageRequest) -> Outcome<v2::ListMessageResponse> {
        let name = self.broker().config().broker_name.as_str();
        let elsewhere = request.broker_name.as_deref().is_some_and(|broker| !broker.is_empty() && broker != name);
        let query = Query::of(request)?;
        if elsewhere {
            return Ok(v2::ListMessageResponse { status: Some(status::ok()), ..Default::default() });
        }
        let page = self.blocking(move |broker| query.run(broker)).await?;
        let now = self.broker().clock().wall();
        let shown = |message| delivery::undelivered(message, DigestKind::Md5, now);
        Ok(v2::ListMessageResponse {
            status: Some(status::ok()),
            messages: page.messages.into_iter().map(shown).collect(),
            scroll_id: page.next.map(|cursor| cursor.to_string()).unwrap_or_default(),
        })
    }

    pub(super) async fn verify(&self, request: v2::VerifyMessageRequest) -> Outcome<v2::VerifyMessageResponse> {
        let (topic, group) = (self.topic(request.topic.as_ref())?, self.group(request.group.as_ref())?);
        let id = checked_id(request.message_id)?;
        let (client, _) = self.member(&request.client_id, Some(&group))?;
        let message = self.blocking(move |broker| newest(broker, &topic, &id)).await?;
        self.proxy.verify_message(&client, message).await?;
        Ok(v2::VerifyMessageResponse { status: Some(status::ok()) })
    }

    /// Sends a message as a producer would; the id is the request's own, or a new one.
    pub(super) async fn send(
        &self,
        request: v2::AdminSendMessageRequest,
        peer: Option<SocketAddr>,
    ) -> Outcome<v2::AdminSendMessageResponse> {
        let mut system = request.system_properties.unwrap_or_default();
        if system.message_id.is_empty() {
            system.message_id = self.ids.next(self.broker().clock().wall());
        }
        system.tag = request.tag.or(system.tag);
        system.keys.extend(request.key);
        let message = v2::Message {
            topic: request.topic,
            user_properties: request.user_properties,
            system_properties: Some(system),
            body: request.body,
        };
        let broker = self.broker();
        let rules = draft::Rules {
            limits: &self.front().config.messages,
            body_max: broker.config().max_message_bytes,
            lite_name_max: broker.config().lite_name_max,
            now: broker.clock().wall(),
            peer: peer.unwrap_or_else(|| (Ipv4Addr::LOCALHOST, 0).into()),
        };
        let (topic, named) = draft::drafts(vec![message], &rules)?;
        let Some(named) = named.into_iter().next() else {
            return Err(Refusal::new(Code::MessageCorrupted, "the request has no message"));
        };
        if named.draft.message_type == crate::types::MessageType::Transaction {
            let text = "nobody would decide about a half message that an operator sends; send it as another type";
            return Err(Refusal::new(Code::BadRequest, text));
        }
        broker.produce(&topic, vec![named.draft]).await?;
        Ok(v2::AdminSendMessageResponse { status: Some(status::ok()), message_id: named.message_id })
    }
}

impl Query {
    fn of(request: v2::ListMessageRequest) -> Outcome<Self> {
        let bad = |text: String| Refusal::new(Code::BadRequest, text);
        let topic = convert::topic(request.topic.as_ref())?;
        let asked = request.page_size.unwrap_or(request.max_message_nums);
        let asked = usize::try_from(asked).map_err(|_| bad(format!("{asked} messages is below 0")))?;
        let max = if asked == 0 { NUMBER_DEFAULT } else { asked.min(NUMBER_MAX) };
        let begin = request.begin_timestamp.as_ref().map_or(Timestamp::ZERO, convert::timestamp);
        let end = request.end_timestamp.as_ref();
        let end = end.map_or(Timestamp::from_millis(i64::MAX), convert::timestamp);
        if end < begin {
            return Err(bad(format!("the span of time ends at {end} and begins at {begin}, later")));
        }
        let queue = match request.queue_id {
            None | Some(-1) => None,
            Some(id) => Some(QueueId(u32::try_from(id).map_err(|_| bad(format!("queue {id} is no queue")))?)),
        };
        let skip = match request.page_num.unwrap_or(1) {
            page @ 1.. => usize::try_from(page - 1).unwrap_or(usize::MAX).saturating_mul(max),
            page => return Err(bad(format!("page {page} is none; the first is 1"))),
        };
        if skip > SKIPPED_MAX {
            return Err(bad(format!("{skip} messages lie before that page, the most is {SKIPPED_MAX}; use scroll_id")));
        }
        let after = request.scroll_id.filter(|id| !id.is_empty());
        let after = after.map(|id| id.parse().map_err(|()| bad(format!("scroll_id {id:?} is none of this server's"))));
        let after: Option<Cursor> = after.transpose()?;
        if after.is_some() && skip > 0 {
            return Err(bad("scroll_id and page_num are two ways to go on; give one".into()));
        }
        let pages = Pages { after, skip };
        let search = match request.search_key {
            Some(SearchKey::MessageId(id)) => Search::Id(checked_id(id)?),
            Some(SearchKey::MessageKey(key)) if key.trim().is_empty() => {
                return Err(Refusal::new(Code::IllegalMessageKey, "the key is blank"));
            }
            Some(SearchKey::MessageKey(key)) => Search::Key(key, pages),
            Some(SearchKey::Subscription(tags)) => Search::Time(Filter::tags(&tags)?, pages),
            Some(SearchKey::LiteTopic(_)) => return Err(Refusal::not_implemented("looking at lite topics")),
            None => Search::Time(Filter::All, pages),
        };
        Ok(Self { topic, queue, span: (begin, end), max, search })
    }

    fn run(self, broker: &Broker) -> Outcome<Page> {
        let Self { topic, queue, span: (from, to), max, search } = self;
        let (key, filter, Pages { after, skip }) = match search {
            Search::Id(id) => {
                let mut found = broker.find_by_id(&topic, &id)?;
                if found.is_empty() {
                    return Err(not_found(&topic, &id));
                }
                found.retain(|message| queue.is_none_or(|queue| message.queue == queue));
                found.truncate(max);
                let looked_at = found.len();
                return Ok(Page { messages: within(found), next: None, looked_at });
            }
            Search::Key(key, pages) => (Some(key), Filter::All, pages),
            Search::Time(filter, pages) => (None, filter, pages),
        };
        let (bytes_max, looked_at_max) = (ANSWER_BYTES_MAX, LOOKED_AT_MAX);
        let until = broker.clock().now().plus(LOOK_TIME_MAX);
        let browse = Browse { topic, queue, from, to, filter, after, max, bytes_max, looked_at_max, until };
        page_behind(broker, browse, skip, |browse| match &key {
            Some(key) => broker.find_by_key(key, browse),
            None => broker.browse(browse),
        })
    }
}

/// The page behind so many messages; an empty one, with where to go on, when that is farther than the call may look.
fn page_behind(
    broker: &Broker,
    mut browse: Browse,
    mut skip: usize,
    look: impl Fn(&Browse) -> Result<Page, LookError>,
) -> Outcome<Page> {
    let max = browse.max;
    while skip > 0 {
        browse.max = skip;
        let page = look(&browse)?;
        skip -= page.messages.len();
        browse.looked_at_max = browse.looked_at_max.saturating_sub(page.looked_at);
        let is_over = browse.looked_at_max == 0 || broker.clock().now() >= browse.until;
        match page.next {
            Some(next) if !is_over => browse.after = Some(next),
            next => return Ok(Page { messages: Vec::new(), next, looked_at: page.looked_at }),
        }
    }
    browse.max = max;
    Ok(look(&browse)?)
}

/// As many as fit into an answer, and one at least.
fn within(mut messages: Vec<StoredMessage>) -> Vec<StoredMessage> {
    let mut bytes = 0;
    let fits = messages.iter().take_while(|message| {
        bytes += message.body.len();
        bytes <= ANSWER_BYTES_MAX
    });
    let count = fits.count().max(1);
    messages.truncate(count);
    messages
}

fn newest(broker: &Broker, topic: &TopicName, id: &str) -> Outcome<StoredMessage> {
    let found = broker.find_by_id(topic, id).map_err(|error: LookError| Refusal::from(error))?;
    found.into_iter().next().ok_or_else(|| not_found(topic, id))
}

fn not_found(topic: &TopicName, id: &str) -> Refusal {
    let text = format!("topic {topic} has no message {id}; it may be of another topic, expired, or not delivered yet");
    Refusal::new(Code::MessageNotFound, text)
}

fn checked_id(id: String) -> Outcome<String> {
    if id.trim().is_empty() || id.chars().any(char::is_control) {
        return Err(Refusal::new(Code::IllegalMessageId, "the message id is blank or has a control character"));
    }
    Ok(id)
}

/// Makes message ids of version 1 (`MessageIdCodec`): version, machine (random here), process, seconds since 2021,
/// counter.
pub(super) struct MessageIds {
    machine: u64,
    counter: AtomicU32,
}

/// Seconds. 2021-01-01T00:00:00Z.
const EPOCH: i64 = 1_609_459_200;

impl MessageIds {
    pub(super) fn new() -> Self {
        let random = RandomState::new().hash_one(std::process::id());
        Self { machine: random & 0xFFFF_FFFF_FFFF, counter: AtomicU32::new(0) }
    }

    fn next(&self, now: Timestamp) -> String {
        let seconds = now.as_millis().div_euclid(1000).wrapping_sub(EPOCH) as u32;
        let counter = self.counter.fetch_add(1, Relaxed);
        format!("01{:012X}{:04X}{seconds:08X}{counter:08X}", self.machine, std::process::id() as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::testing::{Machine, normal, topic};

    #[tokio::test]
    async fn a_page_far_behind_what_matches_nothing_ends_with_a_cursor() {
        let mut machine = Machine::new();
        machine.config.default_queues = 1;
        let broker = machine.start();
        for n in 0..25 {
            broker.produce(&topic("T"), vec![normal(&n.to_string())]).await.unwrap();
        }
        let browse = || Browse {
            topic: topic("T"),
            queue: None,
            from: Timestamp::ZERO,
            to: Timestamp::from_millis(i64::MAX),
            filter: Filter::tags("none").unwrap(),
            after: None,
            max: 1,
            bytes_max: 1 << 20,
            looked_at_max: 10,
            until: broker.clock().now().plus(LOOK_TIME_MAX),
        };
        let (mut after, mut pages) = (None, 0);
        loop {
            let page = page_behind(&broker, Browse { after, ..browse() }, 5, |b| broker.browse(b)).unwrap();
            assert!(page.messages.is_empty() && page.looked_at <= 10);
            (after, pages) = (page.next, pages + 1);
            if after.is_none() {
                break;
            }
        }
        assert_eq!(pages, 3);
        let late = Browse { until: broker.clock().now(), filter: Filter::All, ..browse() };
        let page = page_behind(&broker, late, 5, |b| broker.browse(b)).unwrap();
        assert!(page.messages.is_empty() && page.looked_at == 1 && page.next.is_some());
    }
}
