use super::World;
use crate::{
    proto::v2::{self, Code, list_message_request::SearchKey},
    proxy::testing::{code, resource, system},
    types::Clock,
};

fn query(key: Option<SearchKey>) -> v2::ListMessageRequest {
    v2::ListMessageRequest { topic: resource("T"), search_key: key, ..Default::default() }
}

fn bodies(answer: &v2::ListMessageResponse) -> Vec<&[u8]> {
    answer.messages.iter().map(|m| &*m.body).collect()
}

fn by_id(id: &str) -> v2::ListMessageRequest {
    query(Some(SearchKey::MessageId(id.into())))
}

#[tokio::test]
async fn a_message_is_found_by_its_id() {
    let mut world = World::start().await;
    world.send(&["a", "b"]).await;
    let found = world.admin.query_message(by_id("b")).await.unwrap().into_inner();
    assert_eq!((code(&found.status), bodies(&found)), (Code::Ok, vec![&b"b"[..]]));
    let told = system(&found.messages[0]);
    assert_eq!((told.message_id.as_str(), told.queue_offset, told.receipt_handle.as_deref()), ("b", Some(1), None));
    let none = world.admin.query_message(by_id("x")).await.unwrap().into_inner();
    assert_eq!(code(&none.status), Code::MessageNotFound);
}

#[tokio::test]
async fn messages_of_a_span_come_page_by_page_by_cursor_and_by_number() {
    let mut world = World::start().await;
    let start = world.rig.machine.clock.wall().as_millis() / 1000;
    world.send(&["a", "b", "c", "d", "e"]).await;
    let (mut seen, mut scroll) = (Vec::new(), None);
    for _ in 0..10 {
        let request = v2::ListMessageRequest { max_message_nums: 2, scroll_id: scroll.clone(), ..query(None) };
        let page = world.admin.query_message(request).await.unwrap().into_inner();
        seen.extend(bodies(&page).concat());
        if page.scroll_id.is_empty() {
            break;
        }
        scroll = Some(page.scroll_id);
    }
    assert_eq!(seen, b"abcde");
    let page = |n| v2::ListMessageRequest { page_num: Some(n), page_size: Some(2), ..query(None) };
    for (number, expected) in [(1, &b"ab"[..]), (2, b"cd"), (3, b"e"), (4, b"")] {
        let answer = world.admin.query_message(page(number)).await.unwrap().into_inner();
        assert_eq!(bodies(&answer).concat(), expected, "page {number}");
    }
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let span = v2::ListMessageRequest { begin_timestamp: at(start + 1), end_timestamp: at(start + 3), ..query(None) };
    let answer = world.admin.query_message(span.clone()).await.unwrap().into_inner();
    assert_eq!(bodies(&answer).concat(), b"bcd");
    let elsewhere = v2::ListMessageRequest { broker_name: Some("other".into()), ..span };
    assert!(world.admin.query_message(elsewhere).await.unwrap().into_inner().messages.is_empty());
}

#[tokio::test]
async fn messages_of_a_key_come_page_by_page_by_cursor_and_by_number() {
    let mut world = World::start().await;
    for n in 0..5 {
        let (body, key) = (format!("{n}").into(), Some("k".to_owned()));
        let send = v2::AdminSendMessageRequest { topic: resource("T"), key, body, ..Default::default() };
        assert_eq!(code(&world.admin.admin_send_message(send).await.unwrap().into_inner().status), Code::Ok);
    }
    let of_key = || query(Some(SearchKey::MessageKey("k".into())));
    let (mut seen, mut scroll) = (Vec::new(), None);
    for _ in 0..10 {
        let request = v2::ListMessageRequest { max_message_nums: 2, scroll_id: scroll.clone(), ..of_key() };
        let page = world.admin.query_message(request).await.unwrap().into_inner();
        seen.extend(bodies(&page).concat());
        if page.scroll_id.is_empty() {
            break;
        }
        scroll = Some(page.scroll_id);
    }
    assert_eq!(seen, b"43210");
    for (number, expected) in [(1, &b"43"[..]), (2, b"21"), (3, b"0"), (4, b"")] {
        let request = v2::ListMessageRequest { page_num: Some(number), page_size: Some(2), ..of_key() };
        let answer = world.admin.query_message(request).await.unwrap().into_inner();
        assert_eq!(bodies(&answer).concat(), expected, "page {number}");
    }
    let of_a_span = v2::ListMessageRequest { scroll_id: Some("1.0".into()), ..of_key() };
    assert_eq!(code(&world.admin.query_message(of_a_span).await.unwrap().into_inner().status), Code::BadRequest);
}

#[tokio::test]
async fn a_sent_message_is_found_by_key_and_tag_and_has_an_id_of_its_own() {
    let mut world = World::start().await;
    let send = v2::AdminSendMessageRequest {
        topic: resource("T"),
        tag: Some("paid".into()),
        key: Some("order-1".into()),
        body: "hello".into(),
        user_properties: [("by".to_owned(), "operator".to_owned())].into(),
        ext_info: [("protocol_type".to_owned(), "GRPC_V2".to_owned())].into(),
        ..Default::default()
    };
    let sent = world.admin.admin_send_message(send.clone()).await.unwrap().into_inner();
    assert_eq!((code(&sent.status), sent.message_id.len()), (Code::Ok, 34));
    let again = world.admin.admin_send_message(send).await.unwrap().into_inner();
    assert_ne!(sent.message_id, again.message_id);
    let find = async |admin: &mut v2::admin_client::AdminClient<_>, key: SearchKey| {
        admin.query_message(query(Some(key))).await.unwrap().into_inner()
    };
    let by_key = find(&mut world.admin, SearchKey::MessageKey("order-1".into())).await;
    assert_eq!(bodies(&by_key), [b"hello", b"hello"]);
    assert_eq!(by_key.messages[0].user_properties["by"], "operator");
    assert_eq!(find(&mut world.admin, SearchKey::Subscription("paid".into())).await.messages.len(), 2);
    assert!(find(&mut world.admin, SearchKey::Subscription("red || blue".into())).await.messages.is_empty());
    let none = find(&mut world.admin, SearchKey::MessageKey("none".into())).await;
    assert_eq!((code(&none.status), none.messages.len()), (Code::Ok, 0));
    let received = world.rig.client("consumer").await.receive("T", "g").await;
    assert_eq!((received.bodies().len(), system(&received.messages[0]).tag()), (2, "paid"));
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_as_a_producers_is() {
    let mut world = World::start().await;
    let send = |topic: &str, body: usize| v2::AdminSendMessageRequest {
        topic: resource(topic),
        body: vec![b'x'; body].into(),
        ..Default::default()
    };
    let half = v2::SystemProperties { message_type: v2::MessageType::Transaction as i32, ..Default::default() };
    for (request, expected) in [
        (send("a/b", 1), Code::IllegalTopic),
        (send("T", (4 << 20) + 1), Code::MessageBodyTooLarge),
        (v2::AdminSendMessageRequest { key: Some(" ".into()), ..send("T", 1) }, Code::IllegalMessageKey),
        (v2::AdminSendMessageRequest { tag: Some("a|b".into()), ..send("T", 1) }, Code::IllegalMessageTag),
        (v2::AdminSendMessageRequest { system_properties: Some(half), ..send("T", 1) }, Code::BadRequest),
    ] {
        let refused = world.admin.admin_send_message(request).await.unwrap().into_inner();
        assert_eq!(code(&refused.status), expected);
    }
}

#[tokio::test]
async fn queries_that_make_no_sense_are_refused_with_their_codes() {
    let mut world = World::start().await;
    world.send(&["a"]).await;
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    let base = || query(None);
    for (request, expected) in [
        (v2::ListMessageRequest { topic: resource("x"), ..base() }, Code::TopicNotFound),
        (v2::ListMessageRequest { topic: resource("rmq_sys_x"), ..base() }, Code::IllegalTopic),
        (v2::ListMessageRequest { max_message_nums: -1, ..base() }, Code::BadRequest),
        (v2::ListMessageRequest { page_num: Some(0), ..base() }, Code::BadRequest),
        (v2::ListMessageRequest { page_num: Some(i32::MAX), page_size: Some(1000), ..base() }, Code::BadRequest),
        (v2::ListMessageRequest { queue_id: Some(7), ..base() }, Code::BadRequest),
        (v2::ListMessageRequest { queue_id: Some(-2), ..base() }, Code::BadRequest),
        (v2::ListMessageRequest { scroll_id: Some("x".into()), ..base() }, Code::BadRequest),
        (v2::ListMessageRequest { scroll_id: Some("1.0.0".into()), ..base() }, Code::BadRequest),
        (v2::ListMessageRequest { scroll_id: Some("1.0".into()), page_num: Some(2), ..base() }, Code::BadRequest),
        (v2::ListMessageRequest { begin_timestamp: at(9), end_timestamp: at(8), ..base() }, Code::BadRequest),
        (by_id(" "), Code::IllegalMessageId),
        (query(Some(SearchKey::MessageKey("".into()))), Code::IllegalMessageKey),
        (query(Some(SearchKey::Subscription("||".into()))), Code::IllegalFilterExpression),
        (query(Some(SearchKey::LiteTopic("l".into()))), Code::NotImplemented),
    ] {
        let told = format!("{request:?}");
        let refused = world.admin.query_message(request).await.unwrap().into_inner();
        assert_eq!(code(&refused.status), expected, "{told}");
    }
}
