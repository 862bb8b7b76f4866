//! A message on its way in ([`NewMessage`]) and out ([`StoredMessage`]).

use std::net::SocketAddr;

use bytes::Bytes;

use super::{LiteId, PhysicalOffset, Properties, QueueId, QueueOffset, Timestamp, TopicName, properties::key};

/// What kind of message a topic takes; Apache's topic attribute `message.type`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MessageType {
    Normal,
    Fifo,
    Delay,
    Transaction,
    /// A topic that takes all of the four above. No message has this type.
    Mixed,
    Lite,
    Priority,
}

impl MessageType {
    pub const ALL: [Self; 7] =
        [Self::Normal, Self::Fifo, Self::Delay, Self::Transaction, Self::Mixed, Self::Lite, Self::Priority];

    /// As `topics.json` spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "NORMAL",
            Self::Fifo => "FIFO",
            Self::Delay => "DELAY",
            Self::Transaction => "TRANSACTION",
            Self::Mixed => "MIXED",
            Self::Lite => "LITE",
            Self::Priority => "PRIORITY",
        }
    }

    /// Reads the spelling of `topics.json`, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.as_str().eq_ignore_ascii_case(text))
    }

    /// Whether a topic of this type takes a message of that type.
    pub fn accepts(self, message: Self) -> bool {
        match self {
            Self::Mixed => matches!(message, Self::Normal | Self::Fifo | Self::Delay | Self::Transaction),
            _ => self == message,
        }
    }
}

/// The flag word of a record (`MessageSysFlag`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SysFlag(pub i32);

impl SysFlag {
    /// The body is compressed by the producer; the server stores it as it came.
    pub const COMPRESSED: i32 = 0x1;
    pub const TRANSACTION_MASK: i32 = 0xC;
    pub const TRANSACTION_PREPARED: i32 = 0x4;
    pub const TRANSACTION_COMMIT: i32 = 0x8;
    pub const TRANSACTION_ROLLBACK: i32 = 0xC;
    pub const BORN_HOST_V6: i32 = 0x10;
    pub const STORE_HOST_V6: i32 = 0x20;

    pub fn has(self, bits: i32) -> bool {
        self.0 & bits == bits
    }
    #[must_use]
    pub fn with(self, bits: i32) -> Self {
        Self(self.0 | bits)
    }
    /// With these bits for the transaction's phase; 0 for none.
    #[must_use]
    pub fn with_transaction(self, phase: i32) -> Self {
        Self(self.0 & !Self::TRANSACTION_MASK | phase)
    }
}

/// A message to be stored. Offsets, store time and store host are the log's to give.
#[derive(Clone, Debug)]
pub struct NewMessage {
    pub topic: TopicName,
    pub queue: QueueId,
    /// Opaque to the server (classic clients set it).
    pub flag: i32,
    pub sys_flag: SysFlag,
    pub born_at: Timestamp,
    pub born_host: SocketAddr,
    /// Failed attempts before this copy; 0 for what a producer sends.
    pub reconsume_times: u32,
    /// Where the half message lies, for a committed transaction.
    pub prepared_at: Option<PhysicalOffset>,
    pub properties: Properties,
    pub body: Bytes,
}

/// A message read back from the log: a view over its record, cheap to clone.
#[derive(Clone, Debug)]
pub struct StoredMessage {
    pub topic: TopicName,
    pub queue: QueueId,
    pub queue_offset: QueueOffset,
    pub physical: PhysicalOffset,
    pub flag: i32,
    pub sys_flag: SysFlag,
    pub born_at: Timestamp,
    pub born_host: SocketAddr,
    pub stored_at: Timestamp,
    pub store_host: SocketAddr,
    pub reconsume_times: u32,
    pub prepared_at: Option<PhysicalOffset>,
    /// Whether the record behind it belongs to the same append.
    pub goes_on: bool,
    /// Without the appended checksum.
    pub properties: Properties,
    pub body: Bytes,
}

impl StoredMessage {
    pub fn tag(&self) -> Option<&str> {
        self.properties.get(key::TAGS)
    }
    /// The producer's message id.
    pub fn message_id(&self) -> Option<&str> {
        self.properties.get(key::UNIQ_KEY)
    }
    /// How urgent it is, if it says so.
    pub fn priority(&self) -> Option<u32> {
        self.properties.get(key::PRIORITY)?.parse().ok()
    }
    /// The lite topic that it is for.
    pub fn lite_topic(&self) -> Option<&str> {
        self.properties.get(key::LITE_TOPIC)
    }
    /// The same message, to be stored elsewhere with other properties.
    pub fn copy_to(&self, topic: TopicName, queue: QueueId, properties: Properties) -> NewMessage {
        NewMessage {
            topic,
            queue,
            flag: self.flag,
            sys_flag: self.sys_flag,
            born_at: self.born_at,
            born_host: self.born_host,
            reconsume_times: self.reconsume_times,
            prepared_at: None,
            properties,
            body: self.body.clone(),
        }
    }

    /// The ordering key of a FIFO message.
    pub fn message_group(&self) -> Option<&str> {
        self.properties.get(key::SHARDING_KEY)
    }
}

/// Java's `String.hashCode`: over UTF-16 code units, wrapping at 32 bits.
pub fn java_hash(text: &str) -> i32 {
    java_hash_from(0, text)
}

/// The hash of a text that begins with one of this hash and goes on with `text`.
pub fn java_hash_from(hash: i32, text: &str) -> i32 {
    let add = |hash: i32, unit: u16| hash.wrapping_mul(31).wrapping_add(i32::from(unit));
    if !text.is_ascii() {
        return text.encode_utf16().fold(hash, add);
    }
    // Four at a time, so that not each has to wait for the one before it.
    let (fours, rest) = text.as_bytes().as_chunks::<4>();
    let hash = fours.iter().fold(hash, |hash, four| {
        let [a, b, c, d] = four.map(i32::from);
        hash.wrapping_mul(31 * 31 * 31 * 31).wrapping_add(a * (31 * 31 * 31) + b * (31 * 31) + c * 31 + d)
    });
    rest.iter().fold(hash, |hash, byte| add(hash, u16::from(*byte)))
}

/// What the consume queue keeps of a tag, to filter by without reading the log: the Java hash, sign-extended; 0
/// without a tag.
pub fn tags_code(tag: Option<&str>) -> i64 {
    tag.map_or(0, |t| i64::from(java_hash(t)))
}

/// Where messages lie that are to be delivered at a time (Apache's `TimerMessageStore.TIMER_TOPIC`).
pub const TIMER_TOPIC: &str = "rmq_sys_wheel_timer";

/// The last field of a message's consume queue entry: [`tags_code`], but of a message for a lite topic that one's id, and in
/// the timer topic the time of delivery, epoch ms, so that both are known without reading messages. Apache keeps the time there for its delay levels
/// (`CommitLog.checkMessageAndReturnSize`), and in its timer topic the tag's code, which is never as large as a time.
pub fn queue_code(topic: &TopicName, properties: &Properties) -> i64 {
    queue_code_of(topic, properties, properties.get_each([key::TAGS, key::LITE_TOPIC]))
}

/// [`queue_code`] where the tag and the lite topic are known already.
pub fn queue_code_of(topic: &TopicName, properties: &Properties, [tag, lite]: [Option<&str>; 2]) -> i64 {
    let due = if topic.as_str() == TIMER_TOPIC { properties.get(key::TIMER_OUT_MS) } else { None };
    if let Some(due) = due.and_then(|due| due.parse().ok()) {
        return due;
    }
    match lite {
        // Dead letters are in nobody's lite topic.
        Some(name) if !topic.is_derived() => LiteId::of(name).code(),
        _ => tags_code(tag),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_topic_has_times_where_others_have_tags() {
        let mut properties = super::super::properties::PropertiesBuilder::default();
        properties.push(key::TAGS, "TagA").push(key::TIMER_OUT_MS, "1725000000000");
        let properties = properties.build();
        assert_eq!(queue_code(&TopicName::system(TIMER_TOPIC), &properties), 1_725_000_000_000);
        assert_eq!(queue_code(&TopicName::parse("T").unwrap(), &properties), 2_598_919);
        assert_eq!(queue_code(&TopicName::system(TIMER_TOPIC), &Properties::default()), 0);
    }

    #[test]
    fn a_message_for_a_lite_topic_has_its_id_where_others_have_tags() {
        let mut properties = super::super::properties::PropertiesBuilder::default();
        properties.push(key::LITE_TOPIC, "session-1").push(key::TAGS, "TagA");
        let properties = properties.build();
        let code = |topic| queue_code(&TopicName::parse(topic).unwrap(), &properties);
        assert_eq!(code("T"), LiteId::of("session-1").code());
        assert_eq!(code("%DLQ%g"), 2_598_919);
    }

    #[test]
    fn java_hash_agrees_with_the_jdk() {
        assert_eq!(java_hash("TagA"), 2_598_919);
        assert_eq!(java_hash("订单"), 1_129_459);
        assert_eq!(java_hash("😀"), 1_772_899);
        assert_eq!(java_hash("TopicTest"), -1_902_610_879);
        assert_eq!(tags_code(Some("TopicTest")) as u64, 0xFFFF_FFFF_8E98_7641);
    }

    #[test]
    fn a_hash_goes_on_wherever_the_text_is_cut() {
        for text in ["", "a", "TopicTest#0123456789ABCDEF\u{7f}", "TopicTest#键0123456789"] {
            let one_by_one = |h: i32, unit: u16| h.wrapping_mul(31).wrapping_add(i32::from(unit));
            assert_eq!(java_hash(text), text.encode_utf16().fold(0, one_by_one));
            for (cut, _) in text.char_indices() {
                assert_eq!(java_hash_from(java_hash(&text[..cut]), &text[cut..]), java_hash(text), "{text} at {cut}");
            }
        }
    }
}
