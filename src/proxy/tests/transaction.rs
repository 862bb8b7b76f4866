//! Transactions and commands, as clients see them.

use std::time::Duration;

use crate::{
    broker::{Topic, testing::topic},
    proto::v2::{self, Code, TelemetryCommand, TransactionResolution as Resolution, telemetry_command::Command},
    proxy::{
        AskError, PushError,
        testing::{Client, Rig, Telemetry, code, consumer_settings, message, producer_settings, resource, system},
    },
    types::{ClientId, MessageType},
};

async fn rig() -> Rig {
    let rig = Rig::start().await;
    let settings = Topic {
        name: topic("T"),
        message_type: Some(MessageType::Mixed),
        read_queues: 4,
        write_queues: 4,
        readable: true,
        writable: true,
    };
    rig.broker.create_topic(settings).unwrap();
    rig
}

fn half(id: &str) -> v2::Message {
    let mut message = message("T", id, format!("body of {id}"));
    let system = message.system_properties.as_mut().unwrap();
    system.message_type = v2::MessageType::Transaction as i32;
    message
}

async fn send_half(client: &mut Client, id: &str) -> v2::SendResultEntry {
    let sent = client.send_all(vec![half(id)]).await;
    assert_eq!(code(&sent.status), Code::Ok, "{:?}", sent.status);
    sent.entries[0].clone()
}

async fn end(client: &mut Client, topic: &str, id: &str, transaction: &str, resolution: i32) -> Code {
    let request = v2::EndTransactionRequest {
        topic: resource(topic),
        message_id: id.into(),
        transaction_id: transaction.into(),
        resolution,
        ..Default::default()
    };
    code(&client.api.end_transaction(client.request(request)).await.unwrap().into_inner().status)
}

/// A producer of T with a stream.
async fn producer(rig: &Rig, id: &'static str) -> (Client, Telemetry) {
    let mut client = rig.client(id).await;
    let mut stream = Telemetry::open(&mut client).await;
    stream.tell(producer_settings(&["T"])).await;
    stream.told().await;
    (client, stream)
}

async fn command(stream: &mut Telemetry) -> Command {
    stream.down.message().await.unwrap().expect("the stream goes on").command.unwrap()
}

async fn asked(stream: &mut Telemetry) -> v2::RecoverOrphanedTransactionCommand {
    match command(stream).await {
        Command::RecoverOrphanedTransactionCommand(orphan) => orphan,
        other => panic!("{other:?} instead of a check"),
    }
}

async fn later(rig: &Rig, seconds: u64) {
    rig.machine.clock.advance(Duration::from_secs(seconds));
    rig.proxy.check_transactions().await;
}

#[tokio::test]
async fn a_committed_message_is_received_and_a_rolled_back_one_is_not() {
    let rig = rig().await;
    let mut client = rig.client("c").await;
    let (a, b) = (send_half(&mut client, "a").await, send_half(&mut client, "b").await);
    assert_eq!(client.receive("T", "g").await.code(), Code::MessageNotFound);
    assert_eq!(end(&mut client, "T", "a", &a.transaction_id, Resolution::Rollback as i32).await, Code::Ok);
    assert_eq!(end(&mut client, "T", "b", &b.transaction_id, Resolution::Commit as i32).await, Code::Ok);
    assert_eq!(end(&mut client, "T", "b", &b.transaction_id, Resolution::Commit as i32).await, Code::Ok);
    let received = client.receive("T", "g").await;
    assert_eq!(received.bodies(), [b"body of b"]);
    let told = system(&received.messages[0]);
    assert_eq!((told.message_id.as_str(), told.message_type()), ("b", v2::MessageType::Transaction));
    assert!(received.messages[0].user_properties.is_empty(), "{:?}", received.messages[0].user_properties);
}

#[tokio::test]
async fn what_ends_no_transaction_is_refused_with_its_code() {
    let rig = rig().await;
    let mut client = rig.client("c").await;
    let a = send_half(&mut client, "a").await.transaction_id;
    let commit = Resolution::Commit as i32;
    assert_eq!(end(&mut client, "a/b", "a", &a, commit).await, Code::IllegalTopic);
    assert_eq!(end(&mut client, "RMQ_SYS_TRANS_HALF_TOPIC", "a", &a, commit).await, Code::IllegalTopic);
    assert_eq!(end(&mut client, "T", "a", " ", commit).await, Code::InvalidTransactionId);
    assert_eq!(end(&mut client, "T", "a", "a", commit).await, Code::InvalidTransactionId);
    assert_eq!(end(&mut client, "T", "b", &a, commit).await, Code::InvalidTransactionId);
    assert_eq!(end(&mut client, "T", "a", &a, 17).await, Code::BadRequest);
    assert_eq!(end(&mut client, "T", "a", &a, Resolution::Unspecified as i32).await, Code::Ok);
    assert_eq!(rig.broker.pending_transactions(), 1, "nothing was decided");
    assert_eq!(end(&mut client, "T", "a", &a, Resolution::Rollback as i32).await, Code::Ok);
    assert_eq!(end(&mut client, "T", "a", &a, commit).await, Code::InvalidTransactionId);
}

#[tokio::test]
async fn nobody_reads_the_topic_of_the_halves() {
    let rig = rig().await;
    let mut client = rig.client("c").await;
    send_half(&mut client, "a").await;
    for name in ["RMQ_SYS_TRANS_HALF_TOPIC", "TRANS_CHECK_MAX_TIME_TOPIC"] {
        assert_eq!(client.receive(name, "g").await.code(), Code::IllegalTopic);
    }
    assert_eq!(client.receive("T", "CID_RMQ_SYS_TRANS").await.code(), Code::IllegalConsumerGroup);
}

#[tokio::test]
async fn a_delivery_time_and_a_transaction_do_not_go_together() {
    let rig = rig().await;
    let mut client = rig.client("c").await;
    let mut both = half("a");
    let due = prost_types::Timestamp { seconds: 1_725_000_010, nanos: 0 };
    both.system_properties.as_mut().unwrap().delivery_timestamp = Some(due);
    let refused = client.send_all(vec![both]).await;
    assert_eq!(code(&refused.status), Code::MessagePropertyConflictWithType);
}

#[tokio::test]
async fn an_orphan_is_shown_whole_to_a_producer_of_its_topic_whose_answer_counts() {
    let rig = rig().await;
    let (mut sender, sender_stream) = producer(&rig, "sender").await;
    let sent = send_half(&mut sender, "a").await;
    drop((sender, sender_stream));
    let (mut other, mut stream) = producer(&rig, "other").await;
    later(&rig, 6).await;
    let orphan = asked(&mut stream).await;
    assert_eq!(orphan.transaction_id, sent.transaction_id);
    let shown = orphan.message.unwrap();
    assert_eq!((shown.topic.clone(), &shown.body[..]), (resource("T"), &b"body of a"[..]));
    let told = system(&shown);
    assert_eq!((told.message_id.as_str(), told.message_type()), ("a", v2::MessageType::Transaction));
    assert!(told.body_digest.is_some() && told.born_timestamp.is_some() && told.receipt_handle.is_none());
    assert_eq!(told.body_encoding(), v2::Encoding::Identity);
    let answered = end(&mut other, "T", "a", &orphan.transaction_id, Resolution::Commit as i32).await;
    assert_eq!(answered, Code::Ok);
    assert_eq!(other.receive("T", "g").await.bodies(), [b"body of a"]);
}

#[tokio::test]
async fn a_producer_that_named_no_topic_is_asked_about_what_it_sent_and_a_consumer_is_not() {
    let rig = rig().await;
    let mut client = rig.client("undeclared").await;
    let mut stream = Telemetry::open(&mut client).await;
    stream.tell(producer_settings(&[])).await;
    stream.told().await;
    let mut consumer = rig.client("consumer").await;
    let mut consumes = Telemetry::open(&mut consumer).await;
    consumes.tell(consumer_settings("g")).await;
    consumes.told().await;
    send_half(&mut client, "a").await;
    later(&rig, 6).await;
    asked(&mut stream).await;
    later(&rig, 30).await;
    asked(&mut stream).await;
}

#[tokio::test]
async fn producers_take_turns_and_one_that_is_gone_is_passed_over() {
    let rig = rig().await;
    let (mut a, mut from_a) = producer(&rig, "a").await;
    let (_b, mut from_b) = producer(&rig, "b").await;
    let (mut c, from_c) = producer(&rig, "c").await;
    assert_eq!(c.terminate(None).await, Code::Ok);
    drop(from_c);
    for id in ["1", "2", "3", "4"] {
        send_half(&mut a, id).await;
    }
    later(&rig, 6).await;
    for _ in 0..2 {
        asked(&mut from_a).await;
        asked(&mut from_b).await;
    }
}

#[tokio::test]
async fn many_orphans_are_asked_about_as_fast_as_their_producer_reads_and_each_once() {
    let rig = rig().await;
    let (mut client, mut stream) = producer(&rig, "a").await;
    client.send_all((0..100).map(|i| half(&format!("m{i}"))).collect()).await;
    rig.machine.clock.advance(Duration::from_secs(6));
    let mut told = Vec::new();
    let mut rounds = 0;
    while told.len() < 100 {
        rig.proxy.check_transactions().await;
        while let Ok(orphan) = tokio::time::timeout(Duration::from_millis(50), asked(&mut stream)).await {
            told.push(orphan.transaction_id);
        }
        if rounds == 0 {
            assert_eq!(told.len(), 32, "as many as wait for one client at most");
        }
        rig.machine.clock.advance(Duration::from_secs(1));
        rounds += 1;
        assert!(rounds < 20, "{} of 100", told.len());
    }
    told.sort();
    told.dedup();
    assert_eq!(told.len(), 100);
}

#[tokio::test]
async fn thread_stacks_and_verified_messages_come_back_by_their_nonce() {
    let rig = rig().await;
    let (_client, mut stream) = producer(&rig, "c").await;
    let id = ClientId::parse("c").unwrap();
    let up = stream.up.clone().unwrap();
    let answers = tokio::spawn(async move {
        let answer = |command, code: Code| TelemetryCommand {
            status: Some(v2::Status { code: code as i32, message: "why".into() }),
            command: Some(command),
        };
        for (text, code) in [("main: at work", Code::Ok), ("", Code::Unsupported)] {
            let Command::PrintThreadStackTraceCommand(print) = command(&mut stream).await else { panic!() };
            let trace = v2::ThreadStackTrace { nonce: print.nonce, thread_stack_trace: Some(text.into()) };
            up.send(answer(Command::ThreadStackTrace(trace), code)).await.unwrap();
        }
        for code in [Code::Ok, Code::FailedToConsumeMessage] {
            let Command::VerifyMessageCommand(verify) = command(&mut stream).await else { panic!() };
            assert_eq!(&verify.message.unwrap().body[..], b"body of a");
            let result = v2::VerifyMessageResult { nonce: verify.nonce };
            up.send(answer(Command::VerifyMessageResult(result), code)).await.unwrap();
        }
        stream
    });
    assert_eq!(rig.proxy.print_thread_stack(&id).await.unwrap(), "main: at work");
    let refused = rig.proxy.print_thread_stack(&id).await.unwrap_err();
    assert_eq!(refused, AskError::Refused { code: Code::Unsupported, message: "why".into() });
    let mut client = rig.client("d").await;
    client.send_all(vec![message("T", "a", "body of a")]).await;
    let stored = (0..4).flat_map(|queue| crate::broker::testing::messages(&rig.broker, &topic("T"), queue)).next();
    let stored = stored.unwrap();
    rig.proxy.verify_message(&id, stored.clone()).await.unwrap();
    let failed = rig.proxy.verify_message(&id, stored.clone()).await.unwrap_err();
    assert!(matches!(failed, AskError::Refused { code: Code::FailedToConsumeMessage, .. }));
    drop(answers.await.unwrap());
    let nobody = ClientId::parse("nobody").unwrap();
    assert_eq!(rig.proxy.print_thread_stack(&nobody).await, Err(AskError::Push(PushError::NoStream)));
    assert_eq!(rig.proxy.verify_message(&nobody, stored).await, Err(AskError::Push(PushError::NoStream)));
}

#[tokio::test]
async fn commands_without_an_answer_reach_their_client() {
    let rig = rig().await;
    let (_client, mut stream) = producer(&rig, "c").await;
    let id = ClientId::parse("c").unwrap();
    rig.proxy.reconnect_endpoints(&id).unwrap();
    assert!(matches!(command(&mut stream).await, Command::ReconnectEndpointsCommand(_)));
    rig.proxy.notify_unsubscribe_lite(&id, "lite-7").unwrap();
    let Command::NotifyUnsubscribeLiteCommand(notified) = command(&mut stream).await else { panic!() };
    assert_eq!(notified.lite_topic, "lite-7");
}

#[tokio::test]
async fn a_check_that_its_producer_never_reads_does_not_count() {
    let rig = rig().await;
    let (mut client, stream) = producer(&rig, "deaf").await;
    // A stream of the server's side that nobody drives.
    let id = ClientId::parse("deaf").unwrap();
    drop(stream);
    let deaf = rig.proxy.front().sessions.open(&id, crate::proxy::layers::Language::Java).unwrap();
    send_half(&mut client, "a").await;
    for _ in 0..20 {
        later(&rig, 30).await;
    }
    assert_eq!(rig.broker.pending_transactions(), 1, "it was given up though nobody was asked");
    drop(deaf);
    let (_client, mut stream) = producer(&rig, "b").await;
    later(&rig, 30).await;
    asked(&mut stream).await;
}
