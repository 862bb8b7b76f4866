use std::collections::HashSet;

use serde_json::{Value, json};

use super::*;
use crate::{
    broker::{
        ProduceError,
        testing::{Machine, bodies, normal, topic},
    },
    store::{Purpose, disk::Disk},
    types::{NewMessage, Properties, QueueId, QueueOffset, SysFlag, Timestamp},
};

fn settings(name: &str, queues: u32) -> Topic {
    Topic {
        name: topic(name),
        message_type: Some(MessageType::Normal),
        read_queues: queues,
        write_queues: queues,
        readable: true,
        writable: true,
    }
}

fn group(name: &str) -> Group {
    Group {
        name: GroupName::parse(name).unwrap(),
        fifo: false,
        broadcast: false,
        retry_max_times: 16,
        retry_policy: RetryPolicy::apache(),
        consume_enabled: true,
    }
}

fn names(broker: &Broker) -> Vec<String> {
    broker.topics(false).iter().map(|topic| topic.name.to_string()).collect()
}

fn file(machine: &Machine, name: &str) -> Value {
    serde_json::from_slice(&machine.read(name)).unwrap()
}

#[test]
fn what_was_made_and_changed_is_there_after_a_crash() {
    let machine = Machine::new();
    let broker = machine.start();
    broker.create_topic(settings("a", 2)).unwrap();
    broker.create_topic(settings("b", 2)).unwrap();
    broker.create_topic(settings("c", 2)).unwrap();
    let change = TopicChange {
        queues: Some(5),
        message_type: Some(MessageType::Fifo),
        readable: Some(false),
        writable: Some(false),
    };
    let changed = broker.update_topic(&topic("b"), change).unwrap();
    broker.delete_topic(&topic("c")).unwrap();
    broker.create_group(group("g")).unwrap();
    broker.create_group(group("h")).unwrap();
    let policy = RetryPolicy::Customized(vec![std::time::Duration::from_secs(3)]);
    let change = GroupChange {
        broadcast: None,
        fifo: Some(true),
        retry_max_times: Some(2),
        retry_policy: Some(policy),
        consume_enabled: Some(false),
    };
    let other = broker.update_group(&group("g").name, change).unwrap();
    assert_eq!((other.fifo, other.max_attempts(), other.consume_enabled), (true, 3, false));
    broker.delete_group(&group("h").name).unwrap();

    let broker = machine.crash(broker, 7);
    assert_eq!(names(&broker), ["a", "b"]);
    assert_eq!(broker.topic("a").unwrap(), settings("a", 2).into());
    assert_eq!(broker.topic("b").unwrap(), changed);
    assert_eq!((changed.read_queues, changed.write_queues, changed.readable), (5, 5, false));
    assert_eq!(broker.groups(), [other]);
    broker.store().close();
}

#[test]
fn creating_what_exists_succeeds_when_it_is_the_same() {
    let machine = Machine::new();
    let broker = machine.start();
    assert!(broker.create_topic(settings("a", 2)).unwrap().1);
    assert!(!broker.create_topic(settings("a", 2)).unwrap().1);
    assert!(!broker.create_topic(Topic { message_type: None, ..settings("a", 2) }).unwrap().1);
    for other in [settings("a", 3), Topic { message_type: Some(MessageType::Fifo), ..settings("a", 2) }] {
        let error = broker.create_topic(other).unwrap_err();
        assert!(matches!(&error, AdminError::Conflict(why) if why.contains("ferromq topic update a")), "{error}");
    }
    assert!(broker.create_group(group("g")).unwrap().1);
    assert!(!broker.create_group(group("g")).unwrap().1);
    let error = broker.create_group(Group { fifo: true, ..group("g") }).unwrap_err();
    assert!(matches!(&error, AdminError::Conflict(why) if why.contains("ferromq group update g")), "{error}");
    broker.store().close();
}

#[test]
fn creating_a_topic_whose_type_is_open_gives_it_one() {
    let machine = Machine::new();
    let broker = machine.start();
    assert_eq!(broker.topic_or_create(&topic("auto")).unwrap().unwrap().message_type, None);
    let fifo = Topic { message_type: Some(MessageType::Fifo), ..settings("auto", 4) };
    assert!(matches!(broker.create_topic(Topic { read_queues: 1, ..fifo.clone() }), Err(AdminError::Conflict(_))));
    assert_eq!(broker.topic("auto").unwrap().message_type, None, "a conflict decides nothing");
    let (made, created) = broker.create_topic(fifo.clone()).unwrap();
    assert_eq!((&*made, created), (&fifo, false));
    assert!(matches!(broker.create_topic(settings("auto", 4)), Err(AdminError::Conflict(_))));
    broker.store().close();
}

#[test]
fn settings_out_of_range_are_refused() {
    let machine = Machine::new();
    let broker = machine.start();
    for bad in [settings("a", 0), settings("a", 1025), Topic { read_queues: 0, ..settings("a", 1) }] {
        assert!(matches!(broker.create_topic(bad), Err(AdminError::Invalid(_))));
    }
    broker.create_topic(settings("a", 4)).unwrap();
    for queues in [3, 1025] {
        let change = TopicChange { queues: Some(queues), ..TopicChange::default() };
        assert!(matches!(broker.update_topic(&topic("a"), change), Err(AdminError::Invalid(_))));
    }
    for bad in [
        Group { retry_max_times: 1000, ..group("g") },
        Group { retry_policy: RetryPolicy::Customized(vec![]), ..group("g") },
    ] {
        assert!(matches!(broker.create_group(bad), Err(AdminError::Invalid(_))));
    }
    broker.create_group(group("g")).unwrap();
    let change = GroupChange { retry_max_times: Some(1000), ..GroupChange::default() };
    assert!(matches!(broker.update_group(&group("g").name, change), Err(AdminError::Invalid(_))));
    assert_eq!(broker.group("g").unwrap().retry_max_times, 16);
    broker.store().close();
}

#[test]
fn what_does_not_exist_is_not_found() {
    let machine = Machine::new();
    let broker = machine.start();
    let (none, nobody) = (topic("none"), group("nobody").name);
    assert!(
        matches!(broker.update_topic(&none, TopicChange::default()), Err(AdminError::TopicNotFound(t)) if t == none)
    );
    assert!(matches!(broker.delete_topic(&none), Err(AdminError::TopicNotFound(t)) if t == none));
    assert!(
        matches!(broker.update_group(&nobody, GroupChange::default()), Err(AdminError::GroupNotFound(g)) if g == nobody)
    );
    assert!(matches!(broker.delete_group(&nobody), Err(AdminError::GroupNotFound(g)) if g == nobody));
    broker.store().close();
}

#[test]
fn system_topics_are_shown_when_asked_and_left_alone() {
    let machine = Machine::new();
    let broker = machine.start();
    let settle = topic(SETTLE_TOPIC);
    assert!(names(&broker).is_empty());
    let own: Vec<_> = broker.topics(true).iter().map(|t| t.name.clone()).collect();
    assert!(own.contains(&settle) && own.iter().all(TopicName::is_system), "{own:?}");
    for reserved in [settle, topic("TBW102"), topic("rmq_sys_wheel_timer")] {
        assert!(matches!(broker.create_topic(settings(reserved.as_str(), 1)), Err(AdminError::Reserved(_))));
        assert!(matches!(broker.update_topic(&reserved, TopicChange::default()), Err(AdminError::Reserved(_))));
        assert!(matches!(broker.delete_topic(&reserved), Err(AdminError::Reserved(_))));
    }
    assert!(matches!(broker.topic_or_create(&topic("TBW102")), Err(AdminError::Reserved(_))));
    broker.create_topic(settings("a", 1)).unwrap();
    assert!(file(&machine, "config/topics.json")["topicConfigTable"].get(SETTLE_TOPIC).is_none());
    broker.store().close();
}

#[tokio::test]
async fn topics_and_groups_are_made_on_demand_only_where_that_is_on() {
    let mut machine = Machine::new();
    let broker = machine.start();
    let name = group("g").name;
    let made = broker.topic_for(&topic("auto")).await.unwrap().unwrap();
    assert_eq!(*made, Topic { message_type: None, ..settings("auto", 4) });
    assert_eq!(*broker.topic_for(&topic("%DLQ%g")).await.unwrap().unwrap(), settings("%DLQ%g", 1));
    assert_eq!(*broker.group_for(&name).await.unwrap().unwrap(), group("g"));
    machine.config.auto_create_topic = false;
    machine.config.auto_create_group = false;
    let broker = machine.restart(broker);
    assert_eq!(broker.topic_for(&topic("auto")).await.unwrap(), Some(made));
    assert_eq!(broker.topic_for(&topic("other")).await.unwrap(), None);
    assert_eq!(broker.group_for(&name).await.unwrap(), Some(group("g").into()));
    assert_eq!(broker.group_for(&group("other").name).await.unwrap(), None);
    broker.store().close();
}

#[tokio::test]
async fn a_start_removes_the_queues_of_a_deleted_topic_only_as_long_as_there_are_any() {
    let machine = Machine::new();
    let broker = machine.start();
    broker.create_topic(settings("a", 1)).unwrap();
    broker.produce(&topic("a"), vec![normal("x")]).await.unwrap();
    broker.delete_topic(&topic("a")).unwrap();
    let end = broker.store().end();
    let broker = machine.restart(broker);
    assert_eq!(broker.store().end(), end, "it is gone: nothing is recorded anew");
    // As when a crash came between the table and the queues.
    let broker = machine.crash(broker, 1);
    let stray = NewMessage {
        topic: topic("a"),
        queue: QueueId(0),
        flag: 0,
        sys_flag: SysFlag::default(),
        born_at: Timestamp::ZERO,
        born_host: ([127, 0, 0, 1], 1).into(),
        reconsume_times: 0,
        prepared_at: None,
        properties: Properties::default(),
        body: "y".into(),
    };
    let ticket = broker.store().append(&[stray], Purpose::User).unwrap();
    broker.store().committed(ticket.end).await.unwrap();
    assert!(broker.store().has_messages(&topic("a")));
    let broker = machine.restart(broker);
    assert!(!broker.store().has_messages(&topic("a")));
    broker.store().close();
}

#[test]
fn the_tables_have_a_limit_and_dead_letters_find_their_topic_all_the_same() {
    let mut machine = Machine::new();
    (machine.config.topics_max, machine.config.groups_max) = (1, 1);
    let broker = machine.start();
    broker.create_topic(settings("a", 1)).unwrap();
    assert!(matches!(broker.create_topic(settings("b", 1)), Err(AdminError::TooMany(1))));
    assert!(matches!(broker.topic_or_create(&topic("b")), Err(AdminError::TooMany(1))));
    assert!(!broker.create_topic(settings("a", 1)).unwrap().1);
    broker.create_group(group("g")).unwrap();
    assert!(matches!(broker.create_group(group("h")), Err(AdminError::TooMany(1))));
    let dead = broker.ensure_dead_letter_topic(&group("g").name).unwrap();
    assert_eq!(*dead, settings("%DLQ%g", 1));
    assert!(Arc::ptr_eq(&dead, &broker.ensure_dead_letter_topic(&group("g").name).unwrap()));
    broker.store().close();
}

#[tokio::test]
async fn a_change_that_cannot_be_saved_has_not_happened() {
    let machine = Machine::new();
    let broker = machine.start();
    broker.create_topic(settings("a", 1)).unwrap();
    broker.create_group(group("g")).unwrap();
    machine.disk.set_capacity(0);
    let grow = TopicChange { queues: Some(2), ..TopicChange::default() };
    assert!(matches!(broker.create_topic(settings("b", 1)), Err(AdminError::Metadata(_))));
    assert!(matches!(broker.update_topic(&topic("a"), grow.clone()), Err(AdminError::Metadata(_))));
    assert!(matches!(broker.delete_topic(&topic("a")), Err(AdminError::Metadata(_))));
    assert!(matches!(broker.create_group(group("h")), Err(AdminError::Metadata(_))));
    assert!(matches!(broker.delete_group(&group("g").name), Err(AdminError::Metadata(_))));
    assert_eq!((names(&broker), broker.groups().len()), (vec!["a".to_owned()], 1));
    assert_eq!(broker.topic("a").unwrap().read_queues, 1);
    machine.disk.set_capacity(1 << 40);
    broker.produce(&topic("a"), vec![normal("after a deletion that failed")]).await.unwrap();
    assert_eq!(broker.update_topic(&topic("a"), grow).unwrap().read_queues, 2);
    broker.store().close();
}

#[test]
fn files_of_apaches_broker_are_read_and_nothing_in_them_is_lost() {
    let machine = Machine::new();
    machine.write(
        "config/topics.json",
        br#"{"dataVersion":{"counter":2,"stateVersion":1,"timestamp":1725000000000},"custom":[1],"topicConfigTable":{
            "TBW102":{"order":false,"perm":7,"readQueueNums":8,"topicFilterType":"SINGLE_TAG","topicName":"TBW102","topicSysFlag":0,"writeQueueNums":8},
            "%RETRY%g+T":{"perm":6,"readQueueNums":1,"topicName":"%RETRY%g+T","writeQueueNums":1},
            "T":{"attributes":{"queue.type":"SimpleCQ"},"order":true,"perm":6,"readQueueNums":8,"topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":4,"writeQueueNums":8}}}"#,
    );
    machine.write(
        "config/subscriptionGroup.json",
        br#"{"dataVersion":{"counter":5,"stateVersion":0,"timestamp":1},"forbiddenTable":{"G":{"T":3}},"subscriptionGroupTable":{
            "CID_RMQ_SYS_TRANS":{"groupName":"CID_RMQ_SYS_TRANS","retryMaxTimes":16},
            "G":{"brokerId":1,"consumeEnable":true,"consumeMessageOrderly":true,"groupName":"G","groupRetryPolicy":{"type":"CUSTOMIZED"},"retryMaxTimes":3,"consumerMap":{0:1}}}}"#,
    );
    let broker = machine.start();
    assert_eq!(*broker.topic("T").unwrap(), settings("T", 8));
    assert_eq!(names(&broker), ["T"]);
    assert!(matches!(broker.delete_topic(&topic("TBW102")), Err(AdminError::Reserved(_))));
    assert_eq!(*broker.group("G").unwrap(), Group { fifo: true, retry_max_times: 3, ..group("G") });
    machine.clock.step_wall(Timestamp::from_millis(1_725_000_000_999));
    broker.create_topic(settings("new", 1)).unwrap();
    broker.create_group(group("new")).unwrap();

    let topics = file(&machine, "config/topics.json");
    assert_eq!(topics["dataVersion"], json!({"counter": 3, "stateVersion": 1, "timestamp": 1_725_000_000_999_i64}));
    assert_eq!(topics["custom"], json!([1]));
    let table = &topics["topicConfigTable"];
    assert_eq!((&table["T"]["order"], &table["T"]["topicSysFlag"]), (&json!(true), &json!(4)));
    assert_eq!(table["T"]["attributes"], json!({"queue.type": "SimpleCQ", "message.type": "NORMAL"}));
    assert_eq!((&table["TBW102"]["perm"], &table["new"]["perm"]), (&json!(7), &json!(6)));
    assert_eq!(table["%RETRY%g+T"]["readQueueNums"], 1);
    let groups = file(&machine, "config/subscriptionGroup.json");
    assert_eq!(groups["forbiddenTable"], json!({"G": {"T": 3}}));
    let table = &groups["subscriptionGroupTable"];
    assert_eq!((&table["G"]["brokerId"], &table["G"]["consumerMap"]), (&json!(1), &json!({"0": 1})));
    assert_eq!(table["CID_RMQ_SYS_TRANS"]["retryMaxTimes"], 16);
    assert_eq!(table["new"]["groupName"], "new");
    broker.store().close();
}

#[test]
fn a_damaged_file_is_named_and_never_replaced() {
    for (name, bytes) in [
        ("config/topics.json", &b"{\"topicConfigTable\":{"[..]),
        ("config/topics.json", b"{\"topicConfigTable\":{\"T\":{\"perm\":\"x\"}}}"),
        ("config/subscriptionGroup.json", b"[1]"),
        ("config/subscriptionGroup.json", b"{\"subscriptionGroupTable\":{\"G\":{\"retryMaxTimes\":true}}}"),
    ] {
        let machine = Machine::new();
        machine.write(name, bytes);
        let Err(OpenError::State { file, why }) = machine.try_start() else { panic!("{name} was taken") };
        assert_eq!(format!("config/{file}"), name);
        assert!(why.contains("repair") || why.contains("mend"), "{why}");
        assert_eq!(machine.read(name), bytes);
    }
}

#[tokio::test]
async fn a_topic_made_again_has_nothing_of_the_deleted_one() {
    let machine = Machine::new();
    let mut broker = machine.start();
    let name = topic("T");
    let mut sent = 0;
    for round in 0..4_u64 {
        broker.create_topic(settings("T", 1)).unwrap();
        let start = broker.queue_start(&name, QueueId(0));
        assert_eq!(start, QueueOffset::new(sent));
        assert_eq!(bodies(&broker, &name), [""; 0], "round {round}");
        for _ in 0..3 {
            let produced = broker.produce(&name, vec![normal(&format!("of {round}"))]).await.unwrap();
            assert_eq!(produced[0].offset, QueueOffset::new(sent), "an offset is used once");
            sent += 1;
        }
        broker = match round {
            0 => machine.restart(broker),
            1 => machine.crash(broker, round),
            _ => {
                broker.store().close();
                drop(broker);
                let queues = std::path::Path::new("/store/consumequeue");
                if machine.disk.exists(queues).unwrap() {
                    machine.disk.remove_dir_all(queues).unwrap();
                }
                machine.start()
            }
        };
        assert_eq!(bodies(&broker, &name), vec![format!("of {round}"); 3], "round {round}");
        broker.delete_topic(&name).unwrap();
        if round % 2 == 1 {
            broker = machine.crash(broker, round);
        }
        assert_eq!(bodies(&broker, &name), [""; 0], "the deleted topic has queues in round {round}");
    }
    broker.store().close();
}

#[tokio::test]
async fn a_queue_that_comes_later_begins_behind_the_deleted_one_too() {
    let machine = Machine::new();
    let broker = machine.start();
    let name = topic("T");
    broker.create_topic(settings("T", 2)).unwrap();
    broker.produce(&name, vec![normal("old")]).await.unwrap();
    broker.produce(&name, vec![normal("old")]).await.unwrap();
    broker.delete_topic(&name).unwrap();
    broker.create_topic(settings("T", 1)).unwrap();
    broker.delete_topic(&name).unwrap();
    broker.create_topic(settings("T", 1)).unwrap();
    broker.update_topic(&name, TopicChange { queues: Some(3), ..TopicChange::default() }).unwrap();
    let starts = [0, 1, 2].map(|queue| broker.queue_start(&name, QueueId(queue)).get());
    assert_eq!(starts, [1, 1, 0]);
    let broker = machine.crash(broker, 3);
    for expected in [1, 1, 0] {
        assert_eq!(broker.produce(&name, vec![normal("new")]).await.unwrap()[0].offset, QueueOffset::new(expected));
    }
    assert_eq!(bodies(&broker, &name), ["new", "new", "new"]);
    broker.store().close();
}

/// The power goes at every change that the disk sees while a topic is made, sent to, deleted and made again.
#[tokio::test]
async fn a_crash_leaves_the_old_table_or_the_new_one() {
    let name = topic("T");
    for seed in 0.. {
        let machine = Machine::new();
        let broker = machine.start();
        // Each change with three outcomes for what was not synced.
        let at = seed / 3;
        machine.disk.crash_at(machine.disk.ops() + at);
        let mut done = 0;
        let mut steps = async || -> Result<(), String> {
            broker.create_topic(settings("T", 1)).map_err(|e| e.to_string())?;
            done = 1;
            broker.produce(&name, vec![normal("old")]).await.map_err(|e| e.to_string())?;
            done = 2;
            broker.delete_topic(&name).map_err(|e| e.to_string())?;
            done = 3;
            broker.create_topic(settings("T", 1)).map_err(|e| e.to_string())?;
            done = 4;
            broker.produce(&name, vec![normal("new")]).await.map_err(|e| e.to_string())?;
            done = 5;
            Ok(())
        };
        let result = steps().await;
        let was_cut = machine.disk.is_off();
        assert!(was_cut || result.is_ok(), "{result:?}");
        let broker = machine.crash(broker, seed);
        let there = broker.topic("T").is_some();
        let has = bodies(&broker, &name);
        match done {
            0 => assert!(has.is_empty()),
            1 => assert!(there && has != ["new"]),
            2 => assert!(if there { has == ["old"] } else { has.is_empty() }, "{has:?}"),
            3 => assert!(has.is_empty(), "{has:?}"),
            4 => assert!(there && (has.is_empty() || has == ["new"]), "{has:?}"),
            _ => assert!(there && has == ["new"], "{has:?}"),
        }
        broker.create_topic(settings("T", 1)).unwrap();
        let offset = broker.produce(&name, vec![normal("last")]).await.unwrap()[0].offset;
        let used = u64::from(done >= 2) + u64::from(done >= 5);
        assert!(offset.get() >= used, "crash at {at}: offset {offset} is used twice");
        broker.store().close();
        if !was_cut {
            assert!(at > 20, "the history is too short to say anything");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn sends_beside_deletions_never_share_an_offset() {
    let mut machine = Machine::new();
    machine.config.default_queues = 1;
    let broker = machine.start();
    let name = topic("T");
    broker.create_topic(settings("T", 1)).unwrap();
    let senders: Vec<_> = (0..3)
        .map(|_| {
            let (broker, name) = (broker.clone(), name.clone());
            tokio::spawn(async move {
                let mut offsets = Vec::new();
                while offsets.len() < 100 {
                    match broker.produce(&name, vec![normal("x")]).await {
                        Ok(produced) => offsets.push(produced[0].offset),
                        Err(ProduceError::TopicNotFound(_)) => tokio::task::yield_now().await,
                        Err(error) => panic!("{error}"),
                    }
                }
                offsets
            })
        })
        .collect();
    let deleting = tokio::task::spawn_blocking({
        let (broker, name) = (broker.clone(), name.clone());
        move || {
            for _ in 0..20 {
                match broker.delete_topic(&name) {
                    Ok(()) | Err(AdminError::TopicNotFound(_)) => {}
                    Err(error) => panic!("{error}"),
                }
                broker.topic_or_create(&name).unwrap();
            }
        }
    });
    let mut seen = HashSet::new();
    for sender in senders {
        for offset in sender.await.unwrap() {
            assert!(seen.insert(offset), "offset {offset} was given out twice");
        }
    }
    deleting.await.unwrap();
    let start = broker.queue_start(&name, QueueId(0)).get() as usize;
    let left = bodies(&broker, &name).len();
    let broker = machine.crash(broker, 5);
    assert_eq!(broker.queue_start(&name, QueueId(0)).get() as usize, start);
    assert_eq!(bodies(&broker, &name).len(), left);
    broker.store().close();
}

async fn take(broker: &Broker, name: &TopicName, max: usize) -> Vec<crate::broker::Delivery> {
    let take = crate::broker::Take {
        topic: name.clone(),
        group: group("g").name,
        filter: crate::broker::Filter::All,
        max,
        invisible: std::time::Duration::from_secs(60),
        until: broker.clock().now(),
        attempt_id: None,
    };
    broker.take(take).await.unwrap()
}

#[tokio::test]
async fn a_group_reads_a_topic_made_again_from_its_first_message() {
    let machine = Machine::new();
    let mut broker = machine.start();
    let (name, group) = (topic("T"), group("g").name);
    for round in 0..4_u64 {
        broker.create_topic(settings("T", 1)).unwrap();
        let send: Vec<_> = (0..3).map(|i| normal(&format!("{round} {i}"))).collect();
        broker.produce(&name, send).await.unwrap();
        if round % 2 == 1 {
            broker = machine.crash(broker, round);
        }
        let got = take(&broker, &name, 2).await;
        let bodies: Vec<_> = got.iter().map(|d| String::from_utf8_lossy(&d.message.body).into_owned()).collect();
        assert_eq!(bodies, [format!("{round} 0"), format!("{round} 1")]);
        let acked = broker.ack(&name, &group, std::slice::from_ref(&got[0].receipt)).await.unwrap();
        assert!(acked[0].is_ok());
        broker.delete_topic(&name).unwrap();
        assert_eq!(broker.progress(&group), []);
        if round >= 2 {
            broker = machine.crash(broker, round);
            assert_eq!(broker.progress(&group), []);
        }
    }
    broker.store().close();
}

#[tokio::test]
async fn a_group_made_again_has_nothing_done() {
    let machine = Machine::new();
    let mut broker = machine.start();
    let (name, group) = (topic("T"), group("g").name);
    broker.create_topic(settings("T", 1)).unwrap();
    broker.produce(&name, vec![normal("a")]).await.unwrap();
    for round in 0..3 {
        let got = take(&broker, &name, 1).await;
        assert_eq!(got.len(), 1, "round {round}");
        assert_eq!(got[0].attempt, 1);
        broker.ack(&name, &group, &[got[0].receipt.clone()]).await.unwrap()[0].clone().unwrap();
        broker.delete_group(&group).unwrap();
        if round == 1 {
            broker = machine.crash(broker, 9);
        }
    }
    broker.store().close();
}

#[tokio::test]
async fn a_crash_leaves_a_group_with_its_progress_or_neither() {
    let (name, group) = (topic("T"), group("g").name);
    for at in 0.. {
        let machine = Machine::new();
        let broker = machine.start();
        broker.create_topic(settings("T", 1)).unwrap();
        broker.produce(&name, vec![normal("a")]).await.unwrap();
        let got = take(&broker, &name, 1).await;
        broker.ack(&name, &group, &[got[0].receipt.clone()]).await.unwrap()[0].clone().unwrap();
        machine.disk.crash_at(machine.disk.ops() + at);
        let deleted = broker.delete_group(&group).is_ok();
        let was_cut = machine.disk.is_off();
        let broker = machine.crash(broker, at);
        let there = broker.group("g").is_some();
        assert!(!(deleted && there), "crash at {at}: the group is back");
        assert_eq!(take(&broker, &name, 1).await.len(), usize::from(!there), "crash at {at}");
        broker.store().close();
        if !was_cut {
            assert!(deleted && at > 5, "the history is too short to say anything");
            return;
        }
    }
}

#[tokio::test]
async fn a_change_whose_caller_is_gone_keeps_its_turn_until_it_is_done() {
    use std::sync::{
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    };
    let machine = Machine::new();
    let broker = machine.start();
    let done = Arc::new(AtomicBool::new(false));
    let (began, begins) = tokio::sync::oneshot::channel();
    let (let_go, held) = mpsc::channel::<()>();
    let (changing, ended) = (broker.clone(), done.clone());
    let caller = tokio::spawn(async move {
        let change = move |_: &Broker| {
            began.send(()).unwrap();
            held.recv().unwrap();
            ended.store(true, SeqCst);
            Ok(())
        };
        changing.change_metadata(change).await
    });
    begins.await.unwrap();
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    let mut next = std::pin::pin!(broker.change_metadata(move |_| Ok(done.load(SeqCst))));
    // Long enough for it to run, had it the turn.
    let early = tokio::time::timeout(std::time::Duration::from_millis(100), next.as_mut()).await;
    assert!(early.is_err(), "two changes ran at once");
    let_go.send(()).unwrap();
    assert!(next.await.unwrap(), "the change went on without its caller");
    broker.store().close();
}

#[tokio::test]
async fn a_change_that_the_disk_does_not_take_is_answered_in_time() {
    let mut machine = Machine::new();
    machine.config.sync_flush_timeout = std::time::Duration::from_millis(50);
    let broker = machine.start();
    let (let_go, held) = std::sync::mpsc::channel::<()>();
    let hung = broker.change_metadata(move |_| Ok(held.recv().is_ok())).await;
    assert!(matches!(hung, Err(AdminError::Late { .. })), "{hung:?}");
    let behind = broker.change_metadata(|_| Ok(())).await;
    assert!(matches!(behind, Err(AdminError::Late { .. })), "it waits for its turn: {behind:?}");
    let_go.send(()).unwrap();
    let goes_on = async { while broker.change_metadata(|_| Ok(())).await.is_err() {} };
    tokio::time::timeout(std::time::Duration::from_secs(20), goes_on).await.expect("the disk answers again");
    broker.store().close();
}
