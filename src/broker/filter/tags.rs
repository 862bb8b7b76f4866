//! Tag expressions.
//!
//! They are decided in two steps, as in RocketMQ (`FilterAPI`, `DefaultMessageFilter`): the consume queue keeps the hash
//! of each message's tag, so most of what does not match is passed over without reading the log; a hash is no proof, so
//! the text decides once the message is read.

use crate::types::tags_code;

use super::FilterError;

/// A tag and the hash that consume queues keep of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    pub text: String,
    pub code: i64,
}

/// The tags of an expression, sorted by hash, then text, each once; `None` when it is everything.
pub(super) fn parse(expression: &str) -> Result<Option<Vec<Tag>>, FilterError> {
    if expression.is_empty() || trim(expression) == "*" {
        return Ok(None);
    }
    let mut tags: Vec<Tag> = expression
        .split("||")
        .map(trim)
        .filter(|text| !text.is_empty())
        .map(|text| Tag { text: text.into(), code: tags_code(Some(text)) })
        .collect();
    if tags.is_empty() {
        return Err(FilterError::NoTag(expression.into()));
    }
    tags.sort_unstable_by(|a, b| (a.code, &a.text).cmp(&(b.code, &b.text)));
    tags.dedup();
    Ok(Some(tags))
}

/// Whether one of the tags has this hash.
pub(super) fn may_match(tags: &[Tag], tags_code: i64) -> bool {
    tags.binary_search_by_key(&tags_code, |tag| tag.code).is_ok()
}

/// Java's `String.trim`: everything up to the space goes, other white space stays.
fn trim(text: &str) -> &str {
    text.trim_matches(|c| c <= ' ')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::broker::filter::{EXPRESSION_LEN_MAX, Filter};
    use crate::types::{
        PhysicalOffset, Properties, QueueId, QueueOffset, StoredMessage, SysFlag, Timestamp, TopicName,
        properties::{PropertiesBuilder, key},
    };

    fn tagged(tag: Option<&str>) -> StoredMessage {
        let mut properties = PropertiesBuilder::default();
        if let Some(tag) = tag {
            properties.push(key::TAGS, tag);
        }
        let host = ([127, 0, 0, 1], 1).into();
        StoredMessage {
            topic: TopicName::parse("T").unwrap(),
            queue: QueueId(0),
            queue_offset: QueueOffset::ZERO,
            physical: PhysicalOffset::ZERO,
            flag: 0,
            sys_flag: SysFlag::default(),
            born_at: Timestamp::ZERO,
            born_host: host,
            stored_at: Timestamp::ZERO,
            store_host: host,
            reconsume_times: 0,
            prepared_at: None,
            goes_on: false,
            properties: if tag.is_some() { properties.build() } else { Properties::default() },
            body: bytes::Bytes::new(),
        }
    }

    fn texts(expression: &str) -> Vec<String> {
        match Filter::tags(expression).unwrap() {
            Filter::All => vec![],
            Filter::Tags(tags) => tags.into_iter().map(|tag| tag.text).collect(),
            Filter::Sql(_) | Filter::Lite(_) => panic!("a tag expression"),
        }
    }

    #[test]
    fn empty_and_star_are_everything() {
        for expression in ["", "*", " * "] {
            let filter = Filter::tags(expression).unwrap();
            assert_eq!(filter, Filter::All);
            assert!(filter.may_match(0) && filter.may_match(42));
            assert!(filter.matches(&tagged(None)) && filter.matches(&tagged(Some("a"))));
        }
    }

    #[test]
    fn tags_are_split_trimmed_and_counted_once() {
        assert_eq!(texts("a || b||a"), ["a", "b"]);
        assert_eq!(texts("|| a ||\t|| ||"), ["a"]);
        assert_eq!(texts("a|b"), ["a|b"]);
        assert_eq!(texts("|||a"), ["|a"]);
        assert_eq!(Filter::tags("a||b"), Filter::tags(" b||a "));
    }

    #[test]
    fn an_expression_without_a_tag_is_refused() {
        for expression in ["||", " ", "|| ||"] {
            assert_eq!(Filter::tags(expression), Err(FilterError::NoTag(expression.into())));
        }
    }

    #[test]
    fn an_expression_over_the_limit_is_refused() {
        let len = EXPRESSION_LEN_MAX + 1;
        assert!(Filter::tags(&"x".repeat(EXPRESSION_LEN_MAX)).is_ok());
        assert_eq!(Filter::tags(&"x".repeat(len)), Err(FilterError::TooLong { len, max: EXPRESSION_LEN_MAX }));
    }

    #[test]
    fn tags_match_by_whole_text_and_case() {
        let filter = Filter::tags("TagA || 订单").unwrap();
        assert!(filter.matches(&tagged(Some("TagA"))) && filter.matches(&tagged(Some("订单"))));
        for other in [None, Some("taga"), Some("TagA "), Some("Tag"), Some("TagAB")] {
            assert!(!filter.matches(&tagged(other)), "{other:?}");
        }
        assert!(filter.may_match(2_598_919) && filter.may_match(1_129_459) && !filter.may_match(0));
    }

    #[test]
    fn an_equal_hash_is_not_a_match() {
        assert_eq!(tags_code(Some("Aa")), tags_code(Some("BB")));
        let filter = Filter::tags("Aa").unwrap();
        assert!(filter.may_match(tags_code(Some("BB"))));
        assert!(!filter.matches(&tagged(Some("BB"))));
        let both = Filter::tags("BB||Aa").unwrap();
        assert!(both.matches(&tagged(Some("Aa"))) && both.matches(&tagged(Some("BB"))));
    }

    proptest! {
        #[test]
        fn what_matches_by_text_is_never_lost_by_hash(tags in prop::collection::vec("[a-zA-Z0-9\u{4e00}-\u{4e20}]{1,6}", 1..20)) {
            let filter = Filter::tags(&tags.join(" || ")).unwrap();
            for tag in &tags {
                prop_assert!(filter.may_match(tags_code(Some(tag))));
                prop_assert!(filter.matches(&tagged(Some(tag))));
            }
        }

        #[test]
        fn any_expression_is_an_answer(expression in ".{0,200}") {
            let _ = Filter::tags(&expression);
        }
    }
}
