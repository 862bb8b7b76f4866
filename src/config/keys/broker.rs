//! The rules of messaging.

use crate::{
    broker::{DEFAULT_LEVELS, parse_levels},
    types::BrokerName,
};

use super::{Key, Rule, Unit};

pub static KEYS: &[Key] = &[
    Key {
        name: "brokerName",
        aliases: &[],
        default: "broker-a",
        doc: "Name that clients see in routes.",
        rule: Rule::Text {
            form: "a name",
            set: |c, text| {
                c.broker.broker_name = BrokerName::parse(text).map_err(|e| format!("is not a name: {e}"))?;
                Ok(())
            },
        },
    },
    Key {
        name: "brokerClusterName",
        // As the proxy's file has it.
        aliases: &["rocketMQClusterName"],
        default: "DefaultCluster",
        doc: "Name of the cluster.",
        rule: Rule::Text {
            form: "a name",
            set: |c, text| {
                if text.is_empty() {
                    return Err("is blank; give a name".to_owned());
                }
                text.clone_into(&mut c.broker.cluster_name);
                Ok(())
            },
        },
    },
    Key {
        name: "brokerIP1",
        aliases: &[],
        default: "127.0.0.1",
        doc: "Address that is written into messages as the host that stored them. Clients do not dial it: they are \
              told the address that they dialled.",
        rule: Rule::Text {
            form: "an IP address",
            set: |c, text| {
                c.broker.store_host.set_ip(text.parse().map_err(|_| "is not an IP address, like 192.0.2.7")?);
                Ok(())
            },
        },
    },
    Key {
        name: "autoCreateTopicEnable",
        aliases: &[],
        default: "true",
        doc: "Whether a topic is made when a client first names it. Production: false.",
        rule: Rule::Flag(|c, v| c.broker.auto_create_topic = v),
    },
    Key {
        name: "autoCreateSubscriptionGroup",
        aliases: &[],
        default: "true",
        doc: "Whether a consumer group is made when a client first names it. Production: false.",
        rule: Rule::Flag(|c, v| c.broker.auto_create_group = v),
    },
    Key {
        name: "defaultTopicQueueNums",
        aliases: &[],
        default: "8",
        doc: "Queues of a topic that is made without a number.",
        rule: Rule::Count { range: 1..=1024, set: |c, n| c.broker.default_queues = n as u32 },
    },
    Key {
        name: "enableTopicMessageTypeCheck",
        aliases: &[],
        default: "true",
        doc: "Whether a topic refuses messages of another type than its own.",
        rule: Rule::Flag(|c, v| c.broker.check_message_type = v),
    },
    Key {
        name: "retryMaxTimes",
        aliases: &[],
        default: "16",
        doc: "Redeliveries of a message before it goes to the dead-letter topic, for groups that are made without a \
              number.",
        rule: Rule::Count { range: 0..=999, set: |c, n| c.broker.retry_max_times = n as u32 },
    },
    Key {
        name: "popInflightMessageThreshold",
        aliases: &[],
        default: "1000000",
        doc: "Messages of one queue that one group holds unacknowledged at most.",
        rule: Rule::Count { range: 1..=100_000_000, set: |c, n| c.broker.in_flight_max = n as usize },
    },
    Key {
        name: "popInflightTotalMax",
        aliases: &[],
        default: "4000000",
        doc: "Messages that all groups together hold unacknowledged, or that wait for another attempt, at most; about 100 \
              bytes of memory each. Above it polls get what is due again, and no new messages.",
        rule: Rule::Count { range: 1..=1_000_000_000, set: |c, n| c.broker.in_flight_total_max = n as usize },
    },
    Key {
        name: "popBooksMax",
        aliases: &[],
        default: "500000",
        doc: "Queues that groups consume at most, each group's counted; about 450 bytes of memory each.",
        rule: Rule::Count { range: 1..=100_000_000, set: |c, n| c.broker.books_max = n as usize },
    },
    Key {
        name: "popPollingSize",
        aliases: &[],
        default: "1024",
        doc: "Long polls that wait for one topic and group at most, of a LITE topic those of one client.",
        rule: Rule::Count { range: 1..=1_000_000, set: |c, n| c.broker.polls_per_group_max = n as usize },
    },
    Key {
        name: "maxPopPollingSize",
        aliases: &[],
        default: "100000",
        doc: "Long polls that wait in all at most.",
        rule: Rule::Count { range: 1..=10_000_000, set: |c, n| c.broker.polls_max = n as usize },
    },
    Key {
        name: "flushConsumerOffsetInterval",
        aliases: &[],
        default: "5000",
        doc: "How often the state of consumption is snapshotted. It is in the log before that: this only makes a \
              restart quicker.",
        rule: Rule::Span { unit: Unit::Millis, range: 100..=3_600_000, set: |c, d| c.broker.snapshot_interval = d },
    },
    Key {
        name: "timerMaxDelaySec",
        aliases: &[],
        default: "34560000",
        doc: "How far ahead the delivery time of a message may lie: 400 days.",
        rule: Rule::Span { unit: Unit::Seconds, range: 1..=34_560_000, set: |c, d| c.broker.timer_delay_max = d },
    },
    Key {
        name: "timerPendingMax",
        aliases: &[],
        default: "10000000",
        doc: "Messages that wait for their delivery time at most. Each takes 16 bytes of memory or so, and up to 46 when \
              every other one is delivered or recalled.",
        rule: Rule::Count { range: 0..=1_000_000_000, set: |c, n| c.broker.timers_max = n as usize },
    },
    Key {
        name: "timerRollWindowSlot",
        aliases: &[],
        default: "172800",
        doc: "A message that has waited for its delivery time this long is appended to the log anew, so that it does not \
              keep the log around it from being deleted: 2 days.",
        rule: Rule::Span { unit: Unit::Seconds, range: 60..=34_560_000, set: |c, d| c.broker.timer_carry_after = d },
    },
    Key {
        name: "messageDelayLevel",
        aliases: &[],
        default: DEFAULT_LEVELS,
        doc: "Delays of the levels 1, 2, ... that clients of RocketMQ 4 name.",
        rule: Rule::Text {
            form: "delays like 1s 5m 2h 1d",
            set: |c, text| {
                c.broker.delay_levels = parse_levels(text)?;
                Ok(())
            },
        },
    },
    Key {
        name: "recallMessageEnable",
        aliases: &[],
        default: "true",
        doc: "Whether producers may take back messages that wait for their delivery time.",
        rule: Rule::Flag(|c, v| c.broker.recall_enabled = v),
    },
    Key {
        name: "transactionTimeOut",
        aliases: &[],
        default: "6000",
        doc: "How long a producer has to commit or roll back before it is asked, unless its message says so itself.",
        rule: Rule::Span { unit: Unit::Millis, range: 100..=86_400_000, set: |c, d| c.broker.transaction_timeout = d },
    },
    Key {
        name: "transactionCheckInterval",
        aliases: &[],
        default: "30000",
        doc: "How often a producer is asked about a transaction that it has not decided.",
        rule: Rule::Span {
            unit: Unit::Millis,
            range: 100..=86_400_000,
            set: |c, d| c.broker.transaction_check_interval = d,
        },
    },
    Key {
        name: "transactionCheckMax",
        aliases: &[],
        default: "15",
        doc: "How often producers are asked before the message is given up and kept in TRANS_CHECK_MAX_TIME_TOPIC.",
        rule: Rule::Count { range: 1..=1_000_000, set: |c, n| c.broker.transaction_checks_max = n as u32 },
    },
    Key {
        name: "transactionPendingMax",
        aliases: &[],
        default: "200000",
        doc: "Transactions that wait for their decision at most; about 200 bytes of memory each.",
        rule: Rule::Count { range: 1..=100_000_000, set: |c, n| c.broker.transactions_max = n as usize },
    },
    Key {
        name: "liteTopicsMax",
        aliases: &[],
        default: "200000",
        doc: "Lite topics of all topics together at most, those whose messages are stored among them; about 200 bytes of memory each.",
        rule: Rule::Count { range: 1..=100_000_000, set: |c, n| c.broker.lite_topics_max = n as usize },
    },
    Key {
        name: "liteMessagesMax",
        aliases: &[],
        default: "10000000",
        doc: "Messages of all lite topics together that are known at most, 8 to 16 bytes of memory each. Beyond it those that all groups have consumed cannot be begun with any more, and when none are left sends are refused.",
        rule: Rule::Count { range: 1..=1_000_000_000, set: |c, n| c.broker.lite_messages_max = n as usize },
    },
    Key {
        name: "liteSubscriptionQuota",
        aliases: &[],
        default: "2000",
        doc: "Lite topics of one topic that one client of a group may subscribe to.",
        rule: Rule::Count { range: 1..=1_000_000, set: |c, n| c.broker.lite_subscription_quota = n as usize },
    },
    Key {
        name: "liteSubscriptionsMax",
        aliases: &[],
        default: "1000000",
        doc: "Lite topics that all clients subscribe to, each pair counted, at most; about 110 bytes of memory each.",
        rule: Rule::Count { range: 1..=100_000_000, set: |c, n| c.broker.lite_subscriptions_max = n as usize },
    },
    Key {
        name: "maxLiteTopicSize",
        aliases: &[],
        default: "64",
        doc: "Characters of a lite topic's name at most.",
        rule: Rule::Count { range: 1..=1024, set: |c, n| c.broker.lite_name_max = n as usize },
    },
    Key {
        name: "liteTopicIdleTime",
        aliases: &[],
        default: "3600",
        doc: "A lite topic that had neither stored messages nor subscribers for this long ends, and counts no more.",
        rule: Rule::Span { unit: Unit::Seconds, range: 1..=31_536_000, set: |c, d| c.broker.lite_topic_idle = d },
    },
    Key {
        name: "topicsMax",
        aliases: &[],
        default: "100000",
        doc: "Topics at most, those made by themselves included.",
        rule: Rule::Count { range: 1..=10_000_000, set: |c, n| c.broker.topics_max = n as usize },
    },
    Key {
        name: "groupsMax",
        aliases: &[],
        default: "100000",
        doc: "Consumer groups at most, those made by themselves included.",
        rule: Rule::Count { range: 1..=10_000_000, set: |c, n| c.broker.groups_max = n as usize },
    },
];
