//! What an operator can set about messaging. `config.rs` of the crate fills it from Apache's keys.

use std::time::Duration;

use crate::types::BrokerName;

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `brokerName`.
    pub broker_name: BrokerName,
    /// `brokerClusterName`.
    pub cluster_name: String,
    /// `brokerIP1` and port, written into records as the store host.
    pub store_host: std::net::SocketAddr,
    /// `autoCreateTopicEnable`.
    pub auto_create_topic: bool,
    /// `autoCreateSubscriptionGroup`.
    pub auto_create_group: bool,
    /// `defaultTopicQueueNums`: queues of a topic that is made without a number.
    pub default_queues: u32,
    /// `maxMessageSize`, bytes of a body.
    pub max_message_bytes: usize,
    /// `enableTopicMessageTypeCheck`.
    pub check_message_type: bool,
    /// `maxPopPollingSize` and `popPollingSize`: parked polls in all, and for one topic and group.
    pub polls_max: usize,
    pub polls_per_group_max: usize,
    /// `popInflightMessageThreshold`: deliveries of one queue and group that are neither acked nor expired, at most.
    pub in_flight_max: usize,
    /// `popInflightTotalMax`: messages of all groups that are in flight or wait for an attempt, at most; give or take what
    /// the polls under way take.
    pub in_flight_total_max: usize,
    /// `popBooksMax`: queues that groups consume, each pair counted, at most.
    pub books_max: usize,
    /// `retryMaxTimes` of a group that is made without one; deliveries are one more.
    pub retry_max_times: u32,
    /// `flushConsumerOffsetInterval`: how often consumption state is snapshotted when it changed.
    pub snapshot_interval: Duration,
    /// `channelExpiredTimeout`: a client without heartbeat for this long is gone.
    pub client_timeout: Duration,
    /// `timerMaxDelaySec`: how far ahead a message's time may lie.
    pub timer_delay_max: Duration,
    /// `timerPendingMax`: messages that wait for their time at most.
    pub timers_max: usize,
    /// `timerRollWindowSlot`: a message that has waited this long since it was appended is appended anew.
    pub timer_carry_after: Duration,
    /// `messageDelayLevel`: the delays of levels 1, 2, ...
    pub delay_levels: Vec<Duration>,
    /// `recallMessageEnable`.
    pub recall_enabled: bool,
    /// `transactionTimeOut`: how long a producer has to decide before it is asked, unless its message says so itself.
    pub transaction_timeout: Duration,
    /// `transactionCheckInterval`: how often it is asked from then on.
    pub transaction_check_interval: Duration,
    /// `transactionCheckMax`: how often at most, before the half message is given up.
    pub transaction_checks_max: u32,
    /// `transactionPendingMax`: half messages that wait for their decision at most.
    pub transactions_max: usize,
    /// `liteTopicsMax`: lite topics of all topics together at most.
    pub lite_topics_max: usize,
    /// `liteMessagesMax`: messages of all lite topics together that are known at most; beyond it those go that every
    /// group is past.
    pub lite_messages_max: usize,
    /// `liteSubscriptionQuota`: lite topics that one client may subscribe to in one topic.
    pub lite_subscription_quota: usize,
    /// `liteSubscriptionsMax`: lite topics that all clients subscribe to, each pair counted, at most.
    pub lite_subscriptions_max: usize,
    /// `maxLiteTopicSize`: characters of a lite topic's name at most.
    pub lite_name_max: usize,
    /// `liteTopicIdleTime`: a lite topic that had neither stored messages nor subscribers for this long ends.
    pub lite_topic_idle: Duration,
    /// `syncFlushTimeout`: how long a send or an acknowledgement waits to be as safe as the flush policy says, before it is
    /// answered that this is not known.
    pub sync_flush_timeout: Duration,
    /// Topics and groups at most (together with what was auto-created).
    pub topics_max: usize,
    pub groups_max: usize,
    /// `metricsOtelCardinalityLimit`: topics, and pairs of topic and group, that are counted apart at most.
    pub series_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            broker_name: BrokerName::parse("broker-a").expect("a constant name"),
            cluster_name: "DefaultCluster".into(),
            store_host: ([127, 0, 0, 1], 8081).into(),
            auto_create_topic: true,
            auto_create_group: true,
            default_queues: 8,
            max_message_bytes: 4 << 20,
            check_message_type: true,
            polls_max: 100_000,
            polls_per_group_max: 1024,
            in_flight_max: 1_000_000,
            in_flight_total_max: 4_000_000,
            books_max: 500_000,
            retry_max_times: 16,
            snapshot_interval: Duration::from_secs(5),
            client_timeout: Duration::from_secs(120),
            timer_delay_max: Duration::from_secs(400 * 24 * 3600),
            timers_max: 10_000_000,
            timer_carry_after: Duration::from_secs(48 * 3600),
            delay_levels: super::parse_levels(super::DEFAULT_LEVELS).unwrap_or_default(),
            recall_enabled: true,
            transaction_timeout: Duration::from_secs(6),
            transaction_check_interval: Duration::from_secs(30),
            transaction_checks_max: 15,
            transactions_max: 200_000,
            lite_topics_max: 200_000,
            lite_messages_max: 10_000_000,
            lite_subscription_quota: 2000,
            lite_subscriptions_max: 1_000_000,
            lite_name_max: 64,
            lite_topic_idle: Duration::from_secs(3600),
            sync_flush_timeout: Duration::from_secs(5),
            topics_max: 100_000,
            groups_max: 100_000,
            series_max: 10_000,
        }
    }
}
