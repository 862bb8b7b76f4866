//! What a driver has said so far, as the events of `tests/clients/README.md`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Deserializer};

/// One line of a driver.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Event {
    pub event: String,
    pub id: Option<String>,
    pub body: Option<String>,
    pub tag: Option<String>,
    #[serde(deserialize_with = "null_is_none_of_it")]
    pub keys: Vec<String>,
    #[serde(deserialize_with = "null_is_none_of_it")]
    pub properties: BTreeMap<String, String>,
    pub attempt: Option<u32>,
    pub len: Option<usize>,
    pub corrupted: bool,
    /// RocketMQ's status code of an error; none when the transport or the client itself refused.
    pub code: Option<i32>,
    pub message: Option<String>,
    /// What an error befell.
    pub op: Option<String>,
    /// Milliseconds since the epoch.
    pub ts: u64,
    pub version: Option<String>,
    /// A line that is no event.
    #[serde(skip)]
    pub noise: bool,
}

fn null_is_none_of_it<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Event {
    pub fn is(&self, event: &str) -> bool {
        self.event == event
    }
    /// The message id of an event that has one.
    pub fn id(&self) -> &str {
        self.id.as_deref().expect("an event about a message names it")
    }
    pub fn body(&self) -> &str {
        self.body.as_deref().expect("an event about a message has its body")
    }
    /// What an error was about, and its code or the beginning of what the client said.
    pub fn cause(&self) -> String {
        let op = self.op.as_deref().unwrap_or("?");
        let said = self.message.as_deref().unwrap_or_default();
        self.code.map_or_else(
            || format!("{op}: {}", said.chars().take(60).collect::<String>()),
            |code| format!("{op}: {code}"),
        )
    }
    pub fn attempt(&self) -> u32 {
        self.attempt.expect("every delivered message has its attempt")
    }
}

#[derive(Default)]
struct Said {
    lines: Vec<String>,
    events: Vec<Event>,
    closed: bool,
}

/// Grows while the driver runs.
#[derive(Default)]
pub struct Transcript {
    said: Mutex<Said>,
    grew: Condvar,
}

impl Transcript {
    pub fn add(&self, line: String) {
        let event = serde_json::from_str(&line).unwrap_or(Event { noise: true, ..Event::default() });
        let mut said = self.said.lock();
        said.lines.push(line);
        said.events.push(event);
        self.grew.notify_all();
    }

    /// The driver will say no more.
    pub fn close(&self) {
        self.said.lock().closed = true;
        self.grew.notify_all();
    }

    /// Whether `seen` became true of the events before the driver fell silent or the time was over.
    pub fn wait(&self, within: Duration, seen: impl Fn(&[Event]) -> bool) -> bool {
        let end = Instant::now() + within;
        let mut said = self.said.lock();
        loop {
            if seen(&said.events) {
                return true;
            }
            if said.closed || self.grew.wait_until(&mut said, end).timed_out() {
                return seen(&said.events);
            }
        }
    }

    pub fn events(&self) -> Vec<Event> {
        self.said.lock().events.clone()
    }

    pub fn text(&self) -> String {
        self.said.lock().lines.join("\n")
    }
}
