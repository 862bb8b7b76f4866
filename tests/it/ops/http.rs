//! A plain request to the port of operations.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

pub fn request(at: &str, method: &str, path: &str) -> Answer {
    let mut tcp = TcpStream::connect(at).expect("the port is open");
    tcp.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    write!(tcp, "{method} {path} HTTP/1.1\r\nHost: {at}\r\n\r\n").expect("written");
    let mut text = String::new();
    tcp.read_to_string(&mut text).expect("an answer, and its end");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

pub fn get(at: &str, path: &str) -> Answer {
    request(at, "GET", path)
}

/// The sample of a page whose name and labels contain all of these.
pub fn sample(page: &str, parts: &[&str]) -> Option<f64> {
    let line =
        page.lines().filter(|line| !line.starts_with('#')).find(|line| parts.iter().all(|p| line.contains(p)))?;
    line.rsplit_once(' ').and_then(|(_, value)| value.parse().ok())
}
