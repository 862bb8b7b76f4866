//! A consumer group as `subscriptionGroup.json` has it (`SubscriptionGroupConfig`).

use serde_json::{Map, Value};

use crate::types::GroupName;

use super::{
    Group, RetryPolicy,
    document::{Kind, left_over},
};

pub(super) const KIND: Kind = Kind { file: "subscriptionGroup.json", table: "subscriptionGroupTable" };

/// `retryMaxTimes` where the file says nothing.
const RETRY_MAX_TIMES_DEFAULT: u32 = 16;

const RETRY_POLICY: &str = "groupRetryPolicy";
const ATTRIBUTES: &str = "attributes";
/// Of ours, among the attributes, which are texts: Apache's broker keeps those that it does not know.
const BROADCAST: &str = "ferromq.broadcast";

/// What an entry has and [`Group`] has not; written back as it was.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Kept {
    policy: Map<String, Value>,
    attributes: Map<String, Value>,
    members: Map<String, Value>,
}

/// Reads an entry; the error says what is wrong with it.
pub(super) fn decode(name: &GroupName, entry: Value) -> Result<(Group, Kept), String> {
    let Value::Object(mut entry) = entry else { return Err("it is not an object".into()) };
    let policy = object(&mut entry, RETRY_POLICY)?;
    let mut attributes = object(&mut entry, ATTRIBUTES)?;
    let group = Group {
        name: name.clone(),
        fifo: flag(&mut entry, "consumeMessageOrderly", false)?,
        broadcast: broadcast(&mut attributes)?,
        retry_max_times: retry_max_times(&mut entry)?,
        retry_policy: RetryPolicy::read(&policy).map_err(|why| format!("{RETRY_POLICY}: {why}"))?,
        consume_enabled: flag(&mut entry, "consumeEnable", true)?,
    };
    let mut ours = Map::new();
    group.retry_policy.write(&mut ours);
    let members = left_over(entry, &members_of(&group));
    let kept = Kept { policy: left_over(policy, &ours), attributes, members };
    Ok((group, kept))
}

/// Writes an entry.
pub(super) fn encode(group: &Group, kept: &Kept) -> Value {
    let mut policy = kept.policy.clone();
    group.retry_policy.write(&mut policy);
    let mut entry = members_of(group);
    entry.extend(kept.members.clone());
    let mut attributes = kept.attributes.clone();
    if group.broadcast {
        attributes.insert(BROADCAST.into(), "true".into());
    }
    entry.insert(ATTRIBUTES.into(), attributes.into());
    entry.insert("consumeEnable".into(), group.consume_enabled.into());
    entry.insert("consumeMessageOrderly".into(), group.fifo.into());
    entry.insert(RETRY_POLICY.into(), policy.into());
    entry.insert("retryMaxTimes".into(), group.retry_max_times.into());
    entry.into()
}

fn object(entry: &mut Map<String, Value>, name: &str) -> Result<Map<String, Value>, String> {
    match entry.remove(name) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(object)) => Ok(object),
        Some(_) => Err(format!("{name} is not an object")),
    }
}

fn broadcast(attributes: &mut Map<String, Value>) -> Result<bool, String> {
    match attributes.remove(BROADCAST) {
        None => Ok(false),
        Some(Value::String(text)) if text == "true" => Ok(true),
        Some(Value::String(text)) if text == "false" => Ok(false),
        Some(value) => Err(format!("the attribute {BROADCAST} is {value}, not \"true\" or \"false\"")),
    }
}

fn flag(entry: &mut Map<String, Value>, name: &str, default: bool) -> Result<bool, String> {
    match entry.remove(name) {
        None => Ok(default),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(value) => Err(format!("{name} is {value}, not true or false")),
    }
}

/// A negative number means no retry to Apache's broker.
fn retry_max_times(entry: &mut Map<String, Value>) -> Result<u32, String> {
    match entry.remove("retryMaxTimes") {
        None => Ok(RETRY_MAX_TIMES_DEFAULT),
        Some(value) => match value.as_i64().map(|n| u32::try_from(n.clamp(0, i64::from(i32::MAX)))) {
            Some(Ok(times)) => Ok(times),
            _ => Err(format!("retryMaxTimes is {value}, not a whole number")),
        },
    }
}

/// The members that a group of ours has always the same: Apache's defaults.
fn members_of(group: &Group) -> Map<String, Value> {
    Map::from_iter([
        ("brokerId".to_owned(), 0.into()),
        ("consumeBroadcastEnable".to_owned(), true.into()),
        ("consumeFromMinEnable".to_owned(), true.into()),
        ("consumeTimeoutMinute".to_owned(), 15.into()),
        ("groupName".to_owned(), group.name.as_str().into()),
        ("groupSysFlag".to_owned(), 0.into()),
        ("notifyConsumerIdsChangedEnable".to_owned(), true.into()),
        ("retryQueueNums".to_owned(), 1.into()),
        ("whichBrokerWhenConsumeSlowly".to_owned(), 1.into()),
    ])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn name() -> GroupName {
        GroupName::parse("G").unwrap()
    }

    /// As a Java broker writes it.
    fn by_apache() -> Value {
        json!({
            "attributes": {}, "brokerId": 0, "consumeBroadcastEnable": false, "consumeEnable": true,
            "consumeFromMinEnable": true, "consumeMessageOrderly": true, "consumeTimeoutMinute": 15, "groupName": "G",
            "groupRetryPolicy": {"type": "CUSTOMIZED", "exponentialRetryPolicy": {"initial": 1, "max": 2, "multiplier": 3}},
            "groupSysFlag": 0, "notifyConsumerIdsChangedEnable": true, "retryMaxTimes": 5, "retryQueueNums": 1,
            "subscriptionDataSet": [{"expression": "*", "expressionType": "TAG", "topic": "T", "version": 1}],
            "whichBrokerWhenConsumeSlowly": 1,
        })
    }

    #[test]
    fn an_entry_of_apaches_loses_nothing_on_the_way_through() {
        let (group, kept) = decode(&name(), by_apache()).unwrap();
        assert!(group.fifo && group.consume_enabled);
        assert_eq!((group.retry_max_times, group.max_attempts()), (5, 6));
        assert_eq!(group.retry_policy, RetryPolicy::apache());
        assert_eq!(encode(&group, &kept), by_apache());
    }

    #[test]
    fn a_change_touches_only_what_it_changes() {
        let (group, kept) = decode(&name(), by_apache()).unwrap();
        let retry_policy = RetryPolicy::Customized(vec![Duration::from_millis(1500)]);
        let changed = Group { fifo: false, retry_policy, ..group };
        let mut expected = by_apache();
        expected["consumeMessageOrderly"] = false.into();
        expected["groupRetryPolicy"]["customizedRetryPolicy"] = json!({"next": [1500]});
        assert_eq!(encode(&changed, &kept), expected);
        assert_eq!(decode(&name(), expected).unwrap().0, changed);
    }

    #[test]
    fn broadcasting_is_an_attribute_beside_those_of_others() {
        let mut entry = by_apache();
        entry["attributes"] = json!({"odd": "kept"});
        let (group, kept) = decode(&name(), entry.clone()).unwrap();
        assert!(!group.broadcast, "consumeBroadcastEnable means that clients may");
        assert_eq!(encode(&group, &kept), entry);
        entry["attributes"][BROADCAST] = "true".into();
        let changed = Group { broadcast: true, ..group };
        assert_eq!(encode(&changed, &kept), entry);
        assert_eq!(decode(&name(), entry).unwrap(), (changed, kept));
    }

    #[test]
    fn a_plain_group_keeps_nothing_beside_its_settings_and_has_apaches_defaults() {
        let (group, _) = decode(&name(), json!({})).unwrap();
        let expected = Group {
            name: name(),
            fifo: false,
            broadcast: false,
            retry_max_times: 16,
            retry_policy: RetryPolicy::apache(),
            consume_enabled: true,
        };
        assert_eq!(group, expected);
        let (again, kept) = decode(&name(), encode(&group, &Kept::default())).unwrap();
        assert_eq!((again, kept), (group, Kept::default()));
    }

    #[test]
    fn an_entry_that_makes_no_sense_is_refused() {
        for bad in [
            json!(1),
            json!({"consumeEnable": "yes"}),
            json!({"retryMaxTimes": "many"}),
            json!({"groupRetryPolicy": []}),
            json!({"attributes": "none"}),
            json!({"attributes": {"ferromq.broadcast": "yes"}}),
            json!({"groupRetryPolicy": {"type": "RANDOM"}}),
        ] {
            assert!(decode(&name(), bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_negative_retry_count_is_none() {
        assert_eq!(decode(&name(), json!({"retryMaxTimes": -1})).unwrap().0.retry_max_times, 0);
    }
}
