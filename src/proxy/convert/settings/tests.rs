use super::*;
use crate::{proxy::config::Config, types::TopicName};

fn resource(name: &str) -> v2::Resource {
    v2::Resource { resource_namespace: "ns".into(), name: name.into() }
}

fn producer(topics: &[&str]) -> v2::Settings {
    let topics = topics.iter().map(|t| resource(t)).collect();
    v2::Settings {
        client_type: Some(v2::ClientType::Producer as i32),
        access_point: Some(v2::Endpoints { scheme: v2::AddressScheme::IPv4 as i32, addresses: vec![] }),
        request_timeout: Some(prost_types::Duration { seconds: 3, nanos: 0 }),
        pub_sub: Some(PubSub::Publishing(v2::Publishing { topics, ..Default::default() })),
        user_agent: Some(v2::Ua { version: "5.2.1".into(), ..Default::default() }),
        ..Default::default()
    }
}

fn consumer(kind: v2::ClientType) -> v2::Settings {
    let expression = v2::FilterExpression { r#type: v2::FilterType::Tag as i32, expression: "*".into() };
    let entry = v2::SubscriptionEntry { topic: Some(resource("T")), expression: Some(expression) };
    let subscription =
        v2::Subscription { group: Some(resource("g")), subscriptions: vec![entry], ..Default::default() };
    v2::Settings { client_type: Some(kind as i32), pub_sub: Some(PubSub::Subscription(subscription)), ..producer(&[]) }
}

fn merge(settings: v2::Settings, group: Option<&Group>) -> v2::Settings {
    let config = Config::default();
    let decided = Decided {
        body_max: 4 << 20,
        check_message_type: true,
        producer: &config.producer,
        polling: &config.polling,
        group,
        reads_customized: true,
        retry_max_times: 16,
        lite_subscription_quota: 2000,
        lite_name_max: 64,
    };
    merged(settings, &decided)
}

fn group(retry_policy: RetryPolicy) -> Group {
    let name = GroupName::parse("g").unwrap();
    Group { name, fifo: true, broadcast: false, retry_max_times: 3, retry_policy, consume_enabled: true }
}

fn subscription(settings: &v2::Settings) -> &v2::Subscription {
    match settings.pub_sub.as_ref() {
        Some(PubSub::Subscription(s)) => s,
        other => panic!("no subscription in {other:?}"),
    }
}

#[test]
fn lite_consumers_are_told_both_limits_and_no_others_are() {
    use v2::ClientType::{LitePushConsumer, LiteSimpleConsumer, PushConsumer};
    for (kind, limits) in [
        (LitePushConsumer, (Some(2000), Some(64))),
        (LiteSimpleConsumer, (Some(2000), Some(64))),
        (PushConsumer, (None, None)),
    ] {
        let settings = consumer(kind);
        assert!(role(&settings).is_ok(), "{kind:?}");
        let told = merge(settings, Some(&group(RetryPolicy::apache())));
        let told = subscription(&told);
        assert_eq!((told.lite_subscription_quota, told.max_lite_topic_size), limits, "{kind:?}");
    }
}

#[test]
fn a_producer_is_told_an_exponential_policy_and_the_limits_of_a_body() {
    let told = merge(producer(&["T"]), None);
    let policy = told.backoff_policy.unwrap();
    assert_eq!(policy.max_attempts, 3);
    let Some(Strategy::ExponentialBackoff(backoff)) = policy.strategy else { panic!("{:?}", policy.strategy) };
    assert_eq!(backoff.initial.unwrap().nanos, 10_000_000);
    assert_eq!(backoff.max.unwrap().seconds, 1);
    let Some(PubSub::Publishing(publishing)) = told.pub_sub else { panic!() };
    assert_eq!(publishing.max_body_size, 4 << 20);
    assert!(publishing.validate_message_type);
    assert_eq!(publishing.topics, [resource("T")]);
}

#[test]
fn what_the_client_sent_comes_back() {
    let sent = consumer(v2::ClientType::PushConsumer);
    let told = merge(sent.clone(), None);
    assert_eq!(told.client_type, sent.client_type);
    assert_eq!(told.access_point, sent.access_point);
    assert_eq!(told.request_timeout, sent.request_timeout);
    assert_eq!(told.user_agent, sent.user_agent);
    assert_eq!(subscription(&told).group, subscription(&sent).group);
    assert_eq!(subscription(&told).subscriptions, subscription(&sent).subscriptions);
    assert_eq!(told.metric, Some(v2::Metric { on: false, endpoints: None }));
}

#[test]
fn a_consumer_is_told_its_groups_settings_over_its_own() {
    let mut sent = consumer(v2::ClientType::PushConsumer);
    if let Some(PubSub::Subscription(s)) = &mut sent.pub_sub {
        s.fifo = Some(false);
        s.receive_batch_size = Some(1);
    }
    let told = merge(sent, Some(&group(RetryPolicy::apache())));
    assert_eq!(subscription(&told).fifo, Some(true));
    assert_eq!(subscription(&told).receive_batch_size, Some(32));
    assert_eq!(subscription(&told).long_polling_timeout, Some(prost_types::Duration { seconds: 20, nanos: 0 }));
    let policy = told.backoff_policy.unwrap();
    assert_eq!(policy.max_attempts, 4);
    let Some(Strategy::CustomizedBackoff(backoff)) = policy.strategy else { panic!("{:?}", policy.strategy) };
    assert_eq!(backoff.next.len(), 18);
    assert_eq!(backoff.next[1].seconds, 5);
}

#[test]
fn without_a_group_the_clients_values_win_and_the_rest_is_filled() {
    let mut sent = consumer(v2::ClientType::PushConsumer);
    if let Some(PubSub::Subscription(s)) = &mut sent.pub_sub {
        s.receive_batch_size = Some(7);
    }
    sent.backoff_policy = Some(v2::RetryPolicy { max_attempts: 9, strategy: None });
    let told = merge(sent, None);
    assert_eq!(subscription(&told).receive_batch_size, Some(7));
    assert_eq!(subscription(&told).fifo, Some(false));
    assert!(subscription(&told).long_polling_timeout.is_some());
    let policy = told.backoff_policy.unwrap();
    assert_eq!(policy.max_attempts, 17);
    assert!(policy.strategy.is_some(), "a push consumer does not start without a strategy");
}

#[test]
fn an_exponential_group_policy_is_told_as_one() {
    let policy = RetryPolicy::Exponential {
        initial: std::time::Duration::from_secs(5),
        max: std::time::Duration::from_secs(7200),
        multiplier: 2.0,
    };
    let told = merge(consumer(v2::ClientType::PushConsumer), Some(&group(policy)));
    let Some(Strategy::ExponentialBackoff(backoff)) = told.backoff_policy.unwrap().strategy else { panic!() };
    assert_eq!((backoff.initial.unwrap().seconds, backoff.max.unwrap().seconds), (5, 7200));
}

#[test]
fn roles_come_from_what_the_settings_have() {
    let topics = vec![TopicName::parse("A").unwrap(), TopicName::parse("B").unwrap()];
    assert_eq!(role(&producer(&["A", "B"])).unwrap(), Role::Producer { topics });
    assert_eq!(role(&producer(&[])).unwrap(), Role::Producer { topics: vec![] });
    let untyped = v2::Settings { client_type: None, ..producer(&[]) };
    assert_eq!(role(&untyped).unwrap(), Role::Producer { topics: vec![] });
}

#[test]
fn settings_that_cannot_be_served_have_their_codes() {
    let code = |s: v2::Settings| role(&s).unwrap_err().code;
    assert_eq!(code(v2::Settings::default()), Code::BadRequest);
    assert_eq!(code(producer(&["a/b"])), Code::IllegalTopic);
    let mut nameless = consumer(v2::ClientType::PushConsumer);
    if let Some(PubSub::Subscription(s)) = &mut nameless.pub_sub {
        s.group = None;
    }
    assert_eq!(code(nameless), Code::IllegalConsumerGroup);
    let mistyped = v2::Settings { client_type: Some(v2::ClientType::PushConsumer as i32), ..producer(&[]) };
    assert_eq!(code(mistyped), Code::UnrecognizedClientType);
    let unknown = v2::Settings { client_type: Some(99), ..producer(&[]) };
    assert_eq!(code(unknown), Code::UnrecognizedClientType);
}

#[test]
fn client_properties_keep_to_the_contract() {
    let with = |entries: Vec<(String, String)>| v2::Settings {
        client_properties: entries.into_iter().collect(),
        ..producer(&[])
    };
    let one = |k: &str, v: &str| with(vec![(k.into(), v.into())]);
    for legal in [one("a", ""), one("App.name_1-x", "值"), one(&"k".repeat(64), &"v".repeat(256))] {
        assert!(role(&legal).is_ok());
    }
    let many = |n: usize, v: &str| with((0..n).map(|i| (format!("k{i}"), v.to_owned())).collect());
    for illegal in [
        one("", ""),
        one("1a", ""),
        one("a b", ""),
        one("rocketmq.x", ""),
        one(&"k".repeat(65), ""),
        one("a", &"v".repeat(257)),
        many(33, ""),
        many(32, &"v".repeat(200)),
    ] {
        assert_eq!(role(&illegal).unwrap_err().code, Code::InvalidClientProperties);
    }
}

#[test]
fn who_does_not_read_a_customized_back_off_is_told_another_with_as_many_attempts() {
    let config = Config::default();
    let seconds = |n| Duration::from_secs(n);
    let group = group(RetryPolicy::Customized(vec![seconds(1), seconds(5), seconds(60)]));
    let decided = Decided {
        body_max: 4 << 20,
        check_message_type: true,
        producer: &config.producer,
        polling: &config.polling,
        group: Some(&group),
        reads_customized: false,
        retry_max_times: 16,
        lite_subscription_quota: 2000,
        lite_name_max: 64,
    };
    let told = merged(consumer(v2::ClientType::PushConsumer), &decided).backoff_policy.unwrap();
    let Some(Strategy::ExponentialBackoff(backoff)) = told.strategy else { panic!("{told:?}") };
    assert_eq!((told.max_attempts, backoff.multiplier), (4, 2.0));
    assert_eq!((backoff.initial.unwrap().seconds, backoff.max.unwrap().seconds), (1, 60));
}
