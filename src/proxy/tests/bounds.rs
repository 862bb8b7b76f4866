//! Bounds on what a connection may hold, and that they bind nobody else.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use tonic::{body::Body, codec::CompressionEncoding, transport::Channel};
use tower::Service;

use crate::{
    proto::v2::{self, Code},
    proxy::{
        Config,
        testing::{Client, Rig, Telemetry, code, config, eventually, message, producer_settings},
    },
};

const KIB: usize = 1 << 10;

fn limited(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = config();
    change(&mut config);
    config
}

fn call(method: &str, body: Body) -> http::Request<Body> {
    http::Request::post(format!("http://127.0.0.1/apache.rocketmq.v2.MessagingService/{method}"))
        .header("content-type", "application/grpc")
        .header("x-mq-client-id", "raw")
        .body(body)
        .unwrap()
}

fn framed(prefix_len: usize, bytes: Vec<u8>) -> Bytes {
    let mut frame = vec![0];
    frame.extend((prefix_len as u32).to_be_bytes());
    frame.extend(bytes);
    frame.into()
}

/// A send of which so many bytes come, and then nothing more.
fn hold_upload(mut channel: Channel, bytes: usize) -> tokio::task::JoinHandle<Code> {
    let begin = framed(4 << 20, vec![0; bytes - 5]);
    let frames = stream::iter([Ok::<_, std::convert::Infallible>(http_body::Frame::data(begin))]);
    let body = Body::new(StreamBody::new(frames.chain(stream::pending())));
    tokio::spawn(async move {
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
        let response = channel.call(call("SendMessage", body)).await.unwrap();
        let answer = response.into_body().collect().await.unwrap().to_bytes();
        code(&v2::SendMessageResponse::decode(&answer[5..]).unwrap().status)
    })
}

#[tokio::test]
async fn greedy_connections_together_leave_a_share_for_the_next() {
    let share = 128 * KIB;
    let rig = Rig::start_with(limited(|c| {
        c.limits.bytes_max = 8 * share;
        c.limits.connection_bytes_max = share;
    }))
    .await;
    let mut uploads = Vec::new();
    for _ in 0..8 {
        uploads.push(hold_upload(rig.channel().await, share));
    }
    eventually("all hold what they get", || {
        rig.proxy.bytes() == 7 * share && uploads.iter().filter(|u| u.is_finished()).count() == 1
    })
    .await;
    let mut modest = rig.client("modest").await;
    assert_eq!(code(&modest.send_all(vec![message("T", "id", vec![7; 32 * KIB])]).await.status), Code::Ok);
    let refused = uploads.remove(uploads.iter().position(|u| u.is_finished()).unwrap());
    assert_eq!(refused.await.unwrap(), Code::TooManyRequests);
    uploads.iter().for_each(|upload| upload.abort());
    eventually("everything was given back", || rig.proxy.bytes() == 0).await;
}

#[tokio::test]
async fn one_connection_holds_half_of_all_and_no_more() {
    let rig = Rig::start_with(limited(|c| c.limits.bytes_max = 1024 * KIB)).await;
    let greedy = hold_upload(rig.channel().await, 600 * KIB);
    eventually("it is refused", || greedy.is_finished()).await;
    assert_eq!(greedy.await.unwrap(), Code::TooManyRequests);
    eventually("everything was given back", || rig.proxy.bytes() == 0).await;
    let fair = hold_upload(rig.channel().await, 500 * KIB);
    eventually("it is held", || rig.proxy.bytes() == 500 * KIB).await;
    fair.abort();
}

#[tokio::test]
async fn an_acknowledgement_is_let_in_where_a_send_is_not() {
    let rig = Rig::start_with(limited(|c| c.limits.connection_bytes_max = 64 * KIB)).await;
    let channel = rig.channel().await;
    let mut client = rig.client("c").await;
    client.api = v2::messaging_service_client::MessagingServiceClient::new(channel.clone());
    client.send("T", "a").await;
    let held = client.receive("T", "g").await.handles();
    let upload = hold_upload(channel, 64 * KIB);
    eventually("the connection is full", || rig.proxy.bytes() >= 64 * KIB).await;
    assert_eq!(code(&client.send_all(vec![message("T", "id", "b")]).await.status), Code::TooManyRequests);
    assert_eq!(code(&client.ack("T", "g", &held).await.status), Code::Ok);
    upload.abort();
}

#[tokio::test]
async fn a_compressed_request_counts_as_what_it_grows_to() {
    let rig = Rig::start_with(limited(|c| c.limits.connection_bytes_max = 256 * KIB)).await;
    let mut client = rig.client("c").await;
    client.api = client.api.send_compressed(CompressionEncoding::Gzip);
    let sent = client.send_all(vec![message("T", "id", vec![7; 300 * KIB])]).await;
    assert_eq!(code(&sent.status), Code::TooManyRequests);
    client.send("T", "still there").await;
    eventually("everything was given back", || rig.proxy.bytes() == 0).await;
}

#[tokio::test]
async fn a_compressed_request_cannot_grow_above_the_limit_of_one() {
    let rig = Rig::start_with(limited(|c| {
        c.limits.inbound_bytes_max = 256 * KIB;
        c.limits.control_bytes_max = 64 * KIB;
    }))
    .await;
    let mut client = rig.client("c").await;
    client.api = client.api.send_compressed(CompressionEncoding::Gzip);
    let sent = client.send_all(vec![message("T", "id", vec![7; 1024 * KIB])]).await;
    assert_eq!(code(&sent.status), Code::MessageBodyTooLarge);
    let acked = client.ack("T", "g", &vec!["x".repeat(100); 2000]).await;
    assert_eq!(code(&acked.status), Code::PayloadTooLarge);
    client.send("T", "still there").await;
}

#[tokio::test]
async fn settings_without_end_are_not_gathered() {
    let rig = Rig::start_with(limited(|c| c.limits.settings_bytes_max = 4 * KIB)).await;
    let mut client = rig.client("c").await;
    let mut stream = Telemetry::open(&mut client).await;
    let topic = "t".repeat(100);
    for _ in 0..100 {
        stream.tell(producer_settings(&[topic.as_str(); 20])).await;
        stream.told().await;
        assert!(rig.proxy.bytes() < 4 * KIB, "{} bytes are held", rig.proxy.bytes());
    }
}

#[tokio::test]
async fn a_command_that_is_too_large_ends_its_stream_before_it_has_come() {
    let rig = Rig::start().await;
    let mut channel = rig.channel().await;
    let begin = framed(4 << 20, vec![0; KIB]);
    let frames = stream::iter([Ok::<_, std::convert::Infallible>(http_body::Frame::data(begin))]);
    let body = Body::new(StreamBody::new(frames.chain(stream::pending())));
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
    let answer = channel.call(call("Telemetry", body)).await.unwrap().into_body();
    tokio::time::timeout(Duration::from_secs(20), answer.collect()).await.expect("the rest is waited for").unwrap();
    rig.client("c").await.send("T", "still there").await;
}

#[tokio::test]
async fn a_slow_client_that_reads_on_is_not_taken_for_one_that_does_not() {
    let rig = Rig::start_with(limited(|c| c.limits.stall_timeout = Duration::from_secs(3))).await;
    let body = vec![7; 900 * KIB];
    rig.client("p").await.send_all(vec![message("T", "id", body.clone())]).await;
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://127.0.0.1:{}", rig.port)).unwrap();
    let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let mut channel = endpoint.connect().await.unwrap();
    let poll = Client::poll("T", "g", Duration::from_millis(20)).encode_to_vec();
    let request = call("ReceiveMessage", Body::new(http_body_util::Full::new(framed(poll.len(), poll))));
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
    let mut answer = channel.call(request).await.unwrap().into_body();
    let mut read = 0;
    // 16 KiB each time: the message takes half as long again as a client may be still.
    while let Some(frame) = answer.frame().await {
        let frame = frame.expect("the connection stays");
        read += frame.data_ref().map_or(0, Bytes::len);
        tokio::time::sleep(Duration::from_millis(80)).await;
    }
    assert!(read > body.len(), "{read} bytes of the answer came");
}
