//! Limits of HTTP/2 itself, against a client that keeps to none of them: frames made by hand.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower::Service;

use crate::proxy::testing::{Rig, config};

/// RFC 9113 section 6.
mod frame {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
}
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    /// The error code of a RST_STREAM or GOAWAY.
    fn error(&self) -> u32 {
        let at = if self.kind == frame::GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }
}

struct Raw {
    tcp: TcpStream,
}

fn encode(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// The head of a Heartbeat, each field as a literal without indexing (RFC 7541 section 6.2.2).
fn headers(stream: u32) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/apache.rocketmq.v2.MessagingService/Heartbeat"),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("x-mq-client-id", "raw"),
    ];
    let mut block = Vec::new();
    for (name, value) in fields {
        block.extend([0, name.len() as u8]);
        block.extend(name.bytes());
        block.push(value.len() as u8);
        block.extend(value.bytes());
    }
    encode(frame::HEADERS, frame::END_HEADERS, stream, &block)
}

impl Raw {
    async fn connect(rig: &Rig) -> Self {
        let mut tcp = rig.tcp().await;
        tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        tcp.write_all(&encode(frame::SETTINGS, 0, 0, &[])).await.unwrap();
        Self { tcp }
    }

    async fn write(&mut self, frames: &[u8]) {
        self.tcp.write_all(frames).await.unwrap();
    }

    async fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.tcp.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.tcp.read_exact(&mut payload).await.ok()?;
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of one of these kinds.
    async fn next(&mut self, kinds: &[u8]) -> Frame {
        loop {
            let frame = self.read().await.expect("the connection goes on");
            if kinds.contains(&frame.kind) && !(frame.kind == frame::PING && frame.flags & frame::ACK == 0) {
                return frame;
            }
        }
    }
}

#[tokio::test]
async fn metadata_above_the_limit_is_refused_and_the_connection_goes_on() {
    let rig = Rig::start().await;
    let mut channel = rig.channel().await;
    let ask = |bytes: usize| {
        http::Request::post("http://x/apache.rocketmq.v2.MessagingService/Heartbeat")
            .header("content-type", "application/grpc")
            .header("x-mq-client-id", "raw")
            .header("x-large", "x".repeat(bytes))
            .body(tonic::body::Body::new(http_body_util::Full::from(&[0u8, 0, 0, 0, 0][..])))
            .unwrap()
    };
    let mut answer = async |bytes| {
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
        channel.call(ask(bytes)).await.map(|response| response.status())
    };
    assert_eq!(answer(8 << 10).await.unwrap(), http::StatusCode::OK);
    assert_eq!(answer(20 << 10).await.unwrap(), http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(answer(8 << 10).await.unwrap(), http::StatusCode::OK);
}

#[tokio::test]
async fn calls_above_those_of_a_connection_are_refused_and_the_others_go_on() {
    let mut config = config();
    config.limits.connection_calls_max = 2;
    let rig = Rig::start_with(config).await;
    let mut raw = Raw::connect(&rig).await;
    // The client is held to the limit once it has been told of it.
    raw.next(&[frame::SETTINGS]).await;
    raw.write(&encode(frame::SETTINGS, frame::ACK, 0, &[])).await;
    for stream in [1, 3, 5] {
        raw.write(&headers(stream)).await;
    }
    let refused = raw.next(&[frame::RST_STREAM, frame::GOAWAY]).await;
    assert_eq!((refused.kind, refused.stream, refused.error()), (frame::RST_STREAM, 5, REFUSED_STREAM));
    // The first ends, which makes room for another.
    raw.write(&encode(frame::DATA, frame::END_STREAM, 1, &[0; 5])).await;
    let mut ended = raw.next(&[frame::HEADERS]).await;
    while ended.flags & frame::END_STREAM == 0 {
        ended = raw.next(&[frame::HEADERS]).await;
    }
    assert_eq!(ended.stream, 1);
    raw.write(&headers(7)).await;
    raw.write(&encode(frame::DATA, frame::END_STREAM, 7, &[0; 5])).await;
    assert_eq!(raw.next(&[frame::HEADERS, frame::RST_STREAM, frame::GOAWAY]).await.stream, 7);
}

#[tokio::test]
async fn calls_that_are_reset_at_once_end_the_connection_and_no_other() {
    let rig = Rig::start().await;
    let mut other = rig.client("other").await;
    other.send("T", "before").await;
    let mut raw = Raw::connect(&rig).await;
    let mut flood = Vec::new();
    for stream in (1..2000).step_by(2) {
        flood.extend(headers(stream));
        flood.extend(encode(frame::RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    // It may be closed before all is written.
    let _ = raw.tcp.write_all(&flood).await;
    let mut last = None;
    while let Ok(Some(read)) = tokio::time::timeout(Duration::from_secs(20), raw.read()).await {
        if read.kind == frame::GOAWAY {
            last = Some(read.error());
        }
    }
    assert_eq!(last, Some(ENHANCE_YOUR_CALM));
    other.send("T", "after").await;
}
