//! Taking and settling.

use std::time::Duration;

use crate::proto::v2::{self, Code, receive_message_response::Content};

use crate::proxy::testing::{Client, Rig, code, config, eventually, pass, resource, system};

#[tokio::test]
async fn what_is_acked_does_not_come_again() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    client.send("T", "a").await;
    let received = client.receive("T", "g").await;
    assert_eq!(received.code(), Code::Ok);
    let acked = client.ack("T", "g", &received.handles()).await;
    assert_eq!(code(&acked.status), Code::Ok);
    assert_eq!(acked.entries[0].receipt_handle, received.handles()[0]);
    let again = client.ack("T", "g", &received.handles()).await;
    assert_eq!(code(&again.status), Code::Ok, "an ack may be repeated");
    pass(&rig, Duration::from_secs(31)).await;
    assert_eq!(client.receive("T", "g").await.code(), Code::MessageNotFound);
    assert_eq!(client.receive("T", "other").await.bodies(), [b"a"], "each group has everything");
}

#[tokio::test]
async fn silence_is_a_failed_attempt_and_kills_the_handle() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    client.send("T", "a").await;
    let first = client.receive("T", "g").await;
    pass(&rig, Duration::from_secs(29)).await;
    assert_eq!(client.receive("T", "g").await.code(), Code::MessageNotFound);
    pass(&rig, Duration::from_secs(1)).await;
    let second = client.receive("T", "g").await;
    assert_eq!(system(&second.messages[0]).delivery_attempt, Some(2));
    let dead = client.ack("T", "g", &first.handles()).await;
    assert_eq!(code(&dead.status), Code::InvalidReceiptHandle);
    assert_eq!(code(&dead.entries[0].status), Code::InvalidReceiptHandle);
}

#[tokio::test]
async fn entries_of_an_ack_have_their_own_results() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    client.send("T", "a").await;
    let handle = client.receive("T", "g").await.handles().remove(0);
    let acked = client.ack("T", "g", &["junk".into(), handle, String::new()]).await;
    assert_eq!(code(&acked.status), Code::MultipleResults);
    let codes: Vec<Code> = acked.entries.iter().map(|e| code(&e.status)).collect();
    assert_eq!(codes, [Code::InvalidReceiptHandle, Code::Ok, Code::InvalidReceiptHandle]);
    assert_eq!(acked.entries[0].receipt_handle, "junk");
    let junk = client.ack("T", "g", &["junk".into()]).await;
    assert_eq!((code(&junk.status), junk.entries.len()), (Code::InvalidReceiptHandle, 1));
    assert_eq!(code(&client.ack("T", "g", &[]).await.status), Code::InternalServerError);
    assert_eq!(code(&client.ack("a/b", "g", &["x".into()]).await.status), Code::IllegalTopic);
}

#[tokio::test]
async fn a_handle_of_another_group_is_invalid() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    client.send("T", "a").await;
    let handles = client.receive("T", "g").await.handles();
    client.receive("T", "other").await;
    assert_eq!(code(&client.ack("T", "other", &handles).await.status), Code::InvalidReceiptHandle);
}

#[tokio::test]
async fn a_changed_lease_has_a_new_handle_and_the_old_one_is_dead() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    client.send("T", "a").await;
    let old = client.receive("T", "g").await.handles().remove(0);
    let changed = client.change("T", "g", &old, 60).await;
    assert_eq!(code(&changed.status), Code::Ok);
    assert_ne!(changed.receipt_handle, old);
    let dead = client.change("T", "g", &old, 60).await;
    assert_eq!(code(&dead.status), Code::InvalidReceiptHandle);
    assert_eq!(dead.receipt_handle, old, "a client that does not look at the status keeps what it has");
    assert_eq!(code(&client.change("T", "g", "", 43_201).await.status), Code::IllegalInvisibleTime);
    assert_eq!(code(&client.ack("T", "g", &[changed.receipt_handle]).await.status), Code::Ok);
}

#[tokio::test]
async fn a_nack_of_nothing_comes_again_at_once() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    client.send("T", "a").await;
    let handle = client.receive("T", "g").await.handles().remove(0);
    assert_eq!(code(&client.change("T", "g", &handle, 0).await.status), Code::Ok);
    let again = client.receive("T", "g").await;
    assert_eq!(system(&again.messages[0]).delivery_attempt, Some(2));
}

#[tokio::test]
async fn a_dead_letter_tells_where_it_came_from() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    client.send("T", "a").await;
    let handle = client.receive("T", "g").await.handles().remove(0);
    assert_eq!(client.dead_letter("T", "g", &handle, "id-a").await, Code::Ok);
    pass(&rig, Duration::from_secs(31)).await;
    assert_eq!(client.receive("T", "g").await.code(), Code::MessageNotFound);
    let dead = client.receive("%DLQ%g", "inspector").await;
    let origin = system(&dead.messages[0]).dead_letter_queue.clone().unwrap();
    assert_eq!((&*origin.topic, &*origin.message_id), ("T", "id-a"));
    assert_eq!(dead.bodies(), [b"a"]);
    assert_eq!(client.dead_letter("T", "g", "junk", "id-a").await, Code::InvalidReceiptHandle);
}

#[tokio::test]
async fn a_client_that_names_only_the_message_can_dead_letter_it() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    client.send("T", "a").await;
    let poll = v2::ReceiveMessageRequest { auto_renew: true, ..Client::poll("T", "g", Duration::from_millis(20)) };
    client.receive_by(poll).await;
    assert_eq!(client.dead_letter("T", "g", "", "unknown").await, Code::InvalidReceiptHandle);
    assert_eq!(client.dead_letter("T", "g", "", "id-a").await, Code::Ok);
    assert_eq!(client.receive("%DLQ%g", "inspector").await.bodies(), [b"a"]);
}

#[tokio::test]
async fn a_parked_poll_is_woken_by_a_message() {
    let rig = Rig::start().await;
    let (mut producer, mut consumer) = (rig.client("p").await, rig.client("c").await);
    producer.route("T", None).await;
    let poll = Client::poll("T", "g", Duration::from_millis(900));
    let poll = v2::ReceiveMessageRequest { long_polling_timeout: None, ..poll };
    let parked = tokio::spawn(async move { consumer.receive_by(poll).await });
    eventually("the poll is under way", || rig.broker.group("g").is_some()).await;
    producer.send("T", "a").await;
    assert_eq!(parked.await.unwrap().bodies(), [b"a"]);
}

#[tokio::test]
async fn polls_say_what_is_wrong_with_them() {
    let rig = Rig::start_with(crate::proxy::Config::default()).await;
    let mut client = rig.client("c").await;
    let good = Client::poll("T", "g", Duration::from_millis(20));
    let mut bad = good.clone();
    bad.invisible_duration = None;
    assert_eq!(client.receive_by(bad).await.code(), Code::IllegalInvisibleTime);
    let mut bad = good.clone();
    bad.filter_expression = Some(v2::FilterExpression { r#type: 1, expression: "||".into() });
    assert_eq!(client.receive_by(bad).await.code(), Code::IllegalFilterExpression);
    let bad = v2::ReceiveMessageRequest { group: None, ..good.clone() };
    assert_eq!(client.receive_by(bad).await.code(), Code::IllegalConsumerGroup);
    let bad = v2::ReceiveMessageRequest { message_queue: None, ..good.clone() };
    assert_eq!(client.receive_by(bad).await.code(), Code::IllegalTopic);
    client.timeout = Duration::from_secs(4);
    assert_eq!(client.receive_by(good).await.code(), Code::IllegalPollingTime);
}

#[tokio::test]
async fn a_tag_filter_lets_through_what_it_names() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    for tag in ["A", "B", "C"] {
        let mut m = crate::proxy::testing::message("T", tag, tag);
        m.system_properties.as_mut().unwrap().tag = Some(tag.into());
        client.send_all(vec![m]).await;
    }
    let expression = v2::FilterExpression { r#type: v2::FilterType::Tag as i32, expression: "A || C".into() };
    let poll = v2::ReceiveMessageRequest {
        filter_expression: Some(expression),
        ..Client::poll("T", "g", Duration::from_millis(20))
    };
    let mut bodies = Vec::new();
    for _ in 0..2 {
        bodies.extend(client.receive_by(poll.clone()).await.messages.into_iter().map(|m| m.body));
    }
    bodies.sort();
    assert_eq!(bodies, ["A", "C"]);
}

#[tokio::test]
async fn a_poll_whose_client_is_gone_takes_nothing() {
    let rig = Rig::start().await;
    let (mut producer, mut consumer) = (rig.client("p").await, rig.client("c").await);
    producer.route("T", None).await;
    let poll =
        v2::ReceiveMessageRequest { long_polling_timeout: None, ..Client::poll("T", "g", Duration::from_millis(900)) };
    let mut request = consumer.request(poll);
    request.set_timeout(Duration::from_secs(20));
    let gone = tokio::spawn(async move { consumer.api.receive_message(request).await });
    let calls = || rig.proxy.calls();
    eventually("the poll is under way", || rig.broker.group("g").is_some() && calls() == 1).await;
    gone.abort();
    eventually("the server has heard of it", || calls() == 0).await;
    producer.send("T", "a").await;
    let received = producer.receive("T", "g").await;
    assert_eq!(system(&received.messages[0]).delivery_attempt, Some(1));
}

#[tokio::test]
async fn what_a_client_did_not_read_of_an_answer_comes_again_at_once_as_the_same_attempt() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    // More than the windows of HTTP/2 and the buffers of the sockets take ahead of the reader.
    for i in 0..20 {
        let body = vec![b'a' + i; 900 << 10];
        let sent = client.send_all(vec![crate::proxy::testing::message("T", &format!("{i}"), body)]).await;
        assert_eq!(code(&sent.status), Code::Ok, "{:?}", sent.status);
    }
    let mut taken = Vec::new();
    for _ in 0..4 {
        let mut request = client.request(Client::poll("T", "g", Duration::from_millis(20)));
        request.set_timeout(Duration::from_secs(20));
        let mut stream = client.api.receive_message(request).await.unwrap().into_inner();
        let status = stream.message().await.unwrap().unwrap().content;
        taken.push(matches!(&status, Some(Content::Status(s)) if s.code() == Code::Ok));
    }
    assert!(taken[0]);
    eventually("the streams are gone", || rig.proxy.calls() == 0).await;
    let again = client.receive("T", "g").await;
    assert_eq!(again.code(), Code::Ok, "nothing came back");
    assert!(again.messages.iter().all(|m| system(m).delivery_attempt == Some(1)));
}

#[tokio::test]
async fn a_renewed_lease_outlasts_its_length_and_ends_when_the_client_goes() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    client.send("T", "a").await;
    let poll = v2::ReceiveMessageRequest {
        auto_renew: true,
        invisible_duration: None,
        ..Client::poll("T", "g", Duration::from_millis(20))
    };
    let received = client.receive_by(poll).await;
    assert_eq!(received.code(), Code::Ok);
    // Ten minutes of work, with a heartbeat each half minute.
    for _ in 0..20 {
        for _ in 0..6 {
            pass(&rig, Duration::from_secs(5)).await;
            rig.proxy.tick().await;
        }
        assert_eq!(client.beat(v2::ClientType::PushConsumer, Some("g")).await, Code::Ok);
    }
    assert_eq!(client.receive("T", "g").await.code(), Code::MessageNotFound);
    assert_eq!(client.terminate(Some("g")).await, Code::Ok);
    pass(&rig, Duration::from_secs(1)).await;
    let again = client.receive("T", "g").await;
    assert_eq!(system(&again.messages[0]).delivery_attempt, Some(2));
    assert_eq!(code(&client.ack("T", "g", &received.handles()).await.status), Code::InvalidReceiptHandle);
}

#[tokio::test]
async fn a_renewed_lease_of_a_silent_client_ends() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    client.send("T", "a").await;
    let poll = v2::ReceiveMessageRequest { auto_renew: true, ..Client::poll("T", "g", Duration::from_millis(20)) };
    client.receive_by(poll).await;
    let mut silent = Duration::ZERO;
    let mut other = rig.client("other").await;
    while other.receive("T", "g").await.code() == Code::MessageNotFound {
        pass(&rig, Duration::from_secs(5)).await;
        rig.proxy.tick().await;
        silent += Duration::from_secs(5);
        assert!(silent < Duration::from_secs(140), "kept for a client that is gone");
    }
    assert!(silent >= Duration::from_secs(120), "given up after {silent:?}");
}

#[tokio::test]
async fn the_handle_of_a_renewed_lease_acks() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    client.send("T", "a").await;
    let poll = v2::ReceiveMessageRequest { auto_renew: true, ..Client::poll("T", "g", Duration::from_millis(20)) };
    let received = client.receive_by(poll).await;
    for _ in 0..20 {
        pass(&rig, Duration::from_secs(5)).await;
        rig.proxy.tick().await;
    }
    assert_eq!(code(&client.ack("T", "g", &received.handles()).await.status), Code::Ok);
    for _ in 0..100 {
        pass(&rig, Duration::from_secs(60)).await;
        rig.proxy.tick().await;
    }
    assert_eq!(client.receive("T", "g").await.code(), Code::MessageNotFound);
}

#[tokio::test]
async fn filters_by_properties_are_refused_where_the_operator_says_so() {
    let mut config = config();
    config.polling.filter_by_properties = false;
    let rig = Rig::start_with(config).await;
    let mut poll = Client::poll("T", "g", Duration::from_millis(20));
    let sql = v2::FilterExpression { r#type: v2::FilterType::Sql as i32, expression: "a = 1".into() };
    poll.filter_expression = Some(sql);
    let refused = rig.client("c").await.receive_by(poll).await;
    assert_eq!(refused.code(), Code::IllegalFilterExpression);
    assert!(refused.status.message.contains("enablePropertyFilter"), "{}", refused.status.message);
}

#[tokio::test]
async fn an_acknowledgement_of_too_many_messages_is_refused_whole_and_clearly() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    client.send("T", "a").await;
    let handle = client.receive("T", "g").await.handles().remove(0);
    let refused = client.ack("T", "g", &vec![handle.clone(); 1025]).await;
    let status = refused.status.unwrap();
    assert_eq!((status.code(), refused.entries.len()), (v2::Code::BadRequest, 0));
    assert!(status.message.contains("1025") && status.message.contains("1024"), "{}", status.message);
    assert_eq!(client.ack("T", "g", &vec![handle; 1024]).await.status.unwrap().code(), v2::Code::Ok);
}

#[tokio::test]
async fn what_a_group_delivered_before_it_was_broadcasting_is_settled_beside_what_came_since() {
    let rig = Rig::start().await;
    let mut client = rig.client("c").await;
    client.send("T", "a").await;
    client.send("T", "b").await;
    let before = client.receive("T", "g").await.handles();
    let group = crate::types::GroupName::parse("g").unwrap();
    let change = crate::broker::GroupChange { broadcast: Some(true), ..Default::default() };
    rig.broker.update_group(&group, change).unwrap();
    assert_eq!(client.receive("T", "g").await.code(), Code::MessageNotFound, "it begins now");
    client.send("T", "c").await;
    let since = client.receive("T", "g").await.handles();
    assert_eq!((before.len(), since.len()), (2, 1));
    let both = [before[0].clone(), "none of ours".into(), since[0].clone()];
    let acked = client.ack("T", "g", &both).await;
    let codes: Vec<_> = acked.entries.iter().map(|entry| code(&entry.status)).collect();
    assert_eq!(codes, [Code::Ok, Code::InvalidReceiptHandle, Code::Ok]);
    assert_eq!(acked.entries.iter().map(|entry| &entry.receipt_handle).collect::<Vec<_>>(), both.each_ref());
    let request = v2::ForwardMessageToDeadLetterQueueRequest {
        group: resource("g"),
        topic: resource("T"),
        receipt_handle: before[1].clone(),
        ..Default::default()
    };
    let request = client.request(request);
    let moved = client.api.forward_message_to_dead_letter_queue(request).await.unwrap().into_inner();
    assert_eq!(code(&moved.status), Code::Ok);
    assert!(rig.broker.topic("%DLQ%g").is_some(), "it was the group's, not a client's");
}
