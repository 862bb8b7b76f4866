//! Wire types <-> vocabulary. Every check of a field's form is here; what passes is trusted from then on.

pub mod delivery;
pub mod draft;
pub mod poll;
pub mod queues;
pub mod settings;

use std::time::Duration;

use crate::{
    broker::Filter,
    proto::v2,
    types::{GroupName, QueueId, QueueOffset, Timestamp, TopicName},
};

use super::status::Refusal;

/// The topic that a request names.
pub fn topic(resource: Option<&v2::Resource>) -> Result<TopicName, Refusal> {
    TopicName::parse(resource.map_or("", |r| &r.name)).map_err(|e| Refusal::topic(&e))
}

/// The consumer group that a request names.
pub fn group(resource: Option<&v2::Resource>) -> Result<GroupName, Refusal> {
    GroupName::parse(resource.map_or("", |r| &r.name)).map_err(|e| Refusal::group(&e))
}

/// The one queue that a request names, of which topic.
pub fn queue(wire: Option<&v2::MessageQueue>) -> Result<(TopicName, QueueId), Refusal> {
    let topic = topic(wire.and_then(|queue| queue.topic.as_ref()))?;
    let id = wire.map_or(0, |queue| queue.id);
    let queue = u32::try_from(id).map_err(|_| {
        let text = format!("queue id {id} is no queue; name one of topic {topic}, from 0 on");
        Refusal::new(v2::Code::BadRequest, text)
    })?;
    Ok((topic, QueueId(queue)))
}

/// An offset off the wire.
pub fn offset(wire: i64) -> Result<QueueOffset, Refusal> {
    QueueOffset::from_wire(wire)
        .ok_or_else(|| Refusal::new(v2::Code::IllegalOffset, format_args!("offset {wire} is below 0")))
}

/// The filter of a poll or a subscription; none means everything.
pub fn filter(expression: Option<&v2::FilterExpression>) -> Result<Filter, Refusal> {
    let Some(filter) = expression else { return Ok(Filter::All) };
    match filter.r#type() {
        v2::FilterType::Tag | v2::FilterType::Unspecified => Ok(Filter::tags(&filter.expression)?),
        v2::FilterType::Sql => Ok(Filter::sql(&filter.expression)?),
    }
}

/// A duration off the wire; `None` when it is negative or malformed.
pub fn duration(wire: &prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(wire.seconds).ok()?;
    let nanos = u32::try_from(wire.nanos).ok().filter(|n| *n < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

pub fn wire_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos() as i32,
    }
}

/// A time off the wire, to the millisecond below; saturates.
pub fn timestamp(wire: &prost_types::Timestamp) -> Timestamp {
    let millis = i64::from(wire.nanos).div_euclid(1_000_000);
    Timestamp::from_millis(wire.seconds.saturating_mul(1000).saturating_add(millis))
}

pub fn wire_timestamp(at: Timestamp) -> prost_types::Timestamp {
    let millis = at.as_millis();
    prost_types::Timestamp { seconds: millis.div_euclid(1000), nanos: (millis.rem_euclid(1000) * 1_000_000) as i32 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn illegal_names_have_their_codes() {
        let resource = |name: &str| v2::Resource { name: name.into(), ..Default::default() };
        for name in ["", " ", "a/b", "rmq_sys_x", "TBW102", &"t".repeat(128)] {
            assert_eq!(topic(Some(&resource(name))).unwrap_err().code, v2::Code::IllegalTopic, "{name}");
        }
        for name in ["", "a b", "CID_RMQ_SYS_X", &"g".repeat(121)] {
            assert_eq!(group(Some(&resource(name))).unwrap_err().code, v2::Code::IllegalConsumerGroup, "{name}");
        }
        assert_eq!(topic(None).unwrap_err().code, v2::Code::IllegalTopic);
        assert_eq!(group(None).unwrap_err().code, v2::Code::IllegalConsumerGroup);
        assert_eq!(topic(Some(&resource("%DLQ%g"))).unwrap().as_str(), "%DLQ%g");
    }

    #[test]
    fn the_namespace_takes_no_part_in_the_name() {
        let resource = v2::Resource { resource_namespace: "n/a".into(), name: "T".into() };
        assert_eq!(topic(Some(&resource)).unwrap().as_str(), "T");
    }

    #[test]
    fn an_sql_filter_that_does_not_read_is_an_illegal_expression_and_names_its_column() {
        let sql = |text: &str| v2::FilterExpression { r#type: v2::FilterType::Sql as i32, expression: text.into() };
        assert!(matches!(filter(Some(&sql("a > 1"))), Ok(Filter::Sql(_))));
        for (text, told) in [("a > ", "column 5"), ("", "empty"), ("a LIKE 'x'", "found LIKE")] {
            let refusal = filter(Some(&sql(text))).unwrap_err();
            assert_eq!(refusal.code, v2::Code::IllegalFilterExpression);
            assert!(refusal.message.contains(told), "{text:?}: {}", refusal.message);
        }
        assert_eq!(filter(None).unwrap(), Filter::All);
    }

    proptest! {
        #[test]
        fn any_wire_duration_is_read_or_refused(seconds: i64, nanos: i32) {
            let wire = prost_types::Duration { seconds, nanos };
            match duration(&wire) {
                Some(d) => prop_assert_eq!(wire_duration(d), wire),
                None => prop_assert!(seconds < 0 || !(0..1_000_000_000).contains(&nanos)),
            }
        }

        #[test]
        fn any_wire_timestamp_is_read(seconds: i64, nanos: i32) {
            timestamp(&prost_types::Timestamp { seconds, nanos });
        }

        #[test]
        fn times_survive_the_wire(millis in i64::MIN / 2..i64::MAX / 2) {
            let at = Timestamp::from_millis(millis);
            prop_assert_eq!(timestamp(&wire_timestamp(at)), at);
        }
    }
}
