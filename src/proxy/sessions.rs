//! What clients told about themselves, and their open Telemetry streams.
//!
//! A session lives while a stream of its client is open, and without one until the client says goodbye or has been
//! silent for too long. Clients are served without one too: after a restart of the server some do not repeat their
//! settings for minutes, or never.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::{RwLock, RwLockWriteGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::{
    broker::Role,
    proto::v2::{Code, TelemetryCommand},
    types::{ClientId, GroupName, TopicName},
};

use super::{
    about::About,
    census::Clients,
    layers::Language,
    producers::{Producers, TOPICS_MAX},
    status::Refusal,
};

/// Commands that wait for one client at most.
const COMMANDS_MAX: usize = 32;
/// KiB of the questions about messages that wait for one client at most: each has a whole message in it.
const QUESTIONS_KIB_MAX: u32 = 8 << 10;
/// Producers that are tried, at most, until one takes a question.
const TRIES_MAX: usize = 64;

/// The sessions of all clients.
pub struct Sessions {
    table: RwLock<Table>,
    /// Whose turn it is to be asked.
    turn: AtomicUsize,
    /// Numbers the streams; a later one is a newer one.
    streams: AtomicU64,
    sessions_max: usize,
    streams_max: u32,
}

#[derive(Default)]
struct Table {
    sessions: HashMap<ClientId, Session>,
    producers: Producers,
    /// Those without a stream, by how long they have had none: they make room for others, since their clients are
    /// served without a session too.
    loose: BTreeMap<u64, ClientId>,
    /// Numbers what becomes loose.
    loosened: u64,
}

/// What the server keeps of one client.
#[derive(Default)]
struct Session {
    told: Option<Told>,
    /// Its place among those without a stream.
    loose: Option<u64>,
    /// Open streams.
    streams: u32,
    /// The newest stream: the one that commands go to.
    newest: Option<Newest>,
    /// What it publishes to: what it told, and what it sent.
    topics: Vec<TopicName>,
    /// Given up for silence; kept only for its streams.
    silent: bool,
    /// For operators.
    about: Option<Arc<About>>,
}

struct Newest {
    number: u64,
    language: Language,
    commands: mpsc::Sender<Queued>,
    /// KiB that questions can still take.
    room: Arc<Semaphore>,
}

/// A command that waits for its client.
pub struct Queued {
    pub command: TelemetryCommand,
    /// It asks about a transaction.
    pub question: Option<Question>,
    /// Given back when the client takes it, or its stream ends.
    _room: Option<OwnedSemaphorePermit>,
}

/// A question about a transaction on its way to a producer; says once what became of it.
pub struct Question {
    ended: Option<Box<dyn FnOnce(bool) + Send + Sync>>,
}

impl Question {
    /// `ended` is told whether the producer took it, outside of all locks.
    pub fn new(ended: impl FnOnce(bool) + Send + Sync + 'static) -> Self {
        Self { ended: Some(Box::new(ended)) }
    }

    /// The producer took it.
    pub fn taken(mut self) {
        if let Some(ended) = self.ended.take() {
            ended(true);
        }
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        if let Some(ended) = self.ended.take() {
            ended(false);
        }
    }
}

/// What is used of a client's settings.
#[derive(Clone, Debug)]
pub struct Told {
    pub role: Role,
    pub request_timeout: Option<Duration>,
}

/// Why a command did not reach its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    #[error("the client has no open Telemetry stream")]
    NoStream,
    #[error("{COMMANDS_MAX} commands already wait for the client")]
    Full,
}

/// Among the commands of a stream, with room for the bytes, and what the client is written in.
type Place = (mpsc::OwnedPermit<Queued>, OwnedSemaphorePermit, Language);

/// An open stream; dropping it closes it.
pub struct Stream {
    sessions: Arc<Sessions>,
    client: ClientId,
    number: u64,
    pub commands: mpsc::Receiver<Queued>,
}

impl Sessions {
    pub fn new(sessions_max: usize, streams_max: u32) -> Self {
        Self {
            table: RwLock::default(),
            turn: AtomicUsize::new(0),
            streams: AtomicU64::new(0),
            sessions_max,
            streams_max,
        }
    }

    /// Opens a stream, which from now on gets the client's commands.
    pub fn open(self: &Arc<Self>, client: &ClientId, language: Language) -> Result<Stream, Refusal> {
        let Table { sessions, loose, .. } = &mut *self.admit(client)?;
        let session = sessions.entry(client.clone()).or_default();
        if session.streams >= self.streams_max {
            let text = format!("the client id has {} open Telemetry streams, which is the most", session.streams);
            return Err(Refusal::new(Code::TooManyRequests, text));
        }
        let number = self.streams.fetch_add(1, Relaxed);
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        session.streams += 1;
        let room = Arc::new(Semaphore::new(QUESTIONS_KIB_MAX as usize));
        session.newest = Some(Newest { number, language, commands, room });
        if let Some(place) = session.loose.take() {
            loose.remove(&place);
        }
        Ok(Stream { sessions: self.clone(), client: client.clone(), number, commands: receiver })
    }

    /// Remembers what a client told; true when it is the first time.
    pub fn tell(&self, client: &ClientId, mut told: Told) -> Result<bool, Refusal> {
        if let Role::Producer { topics } = &mut told.role {
            topics.truncate(TOPICS_MAX);
        }
        let Table { sessions, producers, .. } = &mut *self.admit(client)?;
        let session = sessions.entry(client.clone()).or_default();
        session.silent = false;
        match &told.role {
            Role::Producer { topics } => topics.iter().for_each(|topic| session.publishes(producers, client, topic)),
            Role::Consumer { .. } => producers.remove(&std::mem::take(&mut session.topics), client),
        }
        Ok(session.told.replace(told).is_none())
    }

    /// What a client that is known says about itself.
    pub fn introduce(&self, client: &ClientId, about: About) {
        if let Some(session) = self.table.write().sessions.get_mut(client) {
            session.about = Some(Arc::new(about));
        }
    }

    /// What a client told: its role, and what it says about itself.
    pub fn about(&self, client: &ClientId) -> Option<(Role, Arc<About>)> {
        self.table.read().sessions.get(client)?.introduced()
    }

    /// The consumers whose settings are known, by client id; of a group, or all.
    pub fn consumers(&self, of: Option<&GroupName>) -> Vec<(ClientId, GroupName, Arc<About>)> {
        let table = self.table.read();
        let consumer = |(client, session): (&ClientId, &Session)| match session.introduced()? {
            (Role::Consumer { group }, about) if of.is_none_or(|of| *of == group) => {
                Some((client.clone(), group, about))
            }
            _ => None,
        };
        let mut consumers: Vec<_> = table.sessions.iter().filter_map(consumer).collect();
        drop(table);
        consumers.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        consumers
    }

    /// The client sent to a topic.
    pub fn published(&self, client: &ClientId, topic: &TopicName) {
        let is_new = |session: &Session| session.topics.len() < TOPICS_MAX && !session.topics.contains(topic);
        if !self.table.read().sessions.get(client).is_some_and(is_new) {
            return;
        }
        let Table { sessions, producers, .. } = &mut *self.table.write();
        if let Some(session) = sessions.get_mut(client) {
            session.publishes(producers, client, topic);
        }
    }

    /// How many questions the producers of a topic can take now; `None` when there is no producer with a stream.
    pub fn room_to_ask(&self, topic: &TopicName) -> Option<usize> {
        let table = self.table.read();
        let streams = table.producers.of(topic).iter().filter_map(|client| table.sessions.get(client)?.newest.as_ref());
        streams.map(Newest::capacity).reduce(|a, b| a + b)
    }

    /// Gives a question of about so many bytes to one of the producers of its topic, in turn; false when none can take
    /// it, and then the question has ended. `command` is written once there is a place for it, outside the table's lock.
    pub fn ask(
        &self,
        topic: &TopicName,
        bytes: usize,
        question: Question,
        command: impl FnOnce(Language) -> TelemetryCommand,
    ) -> bool {
        let Some((place, room, language)) = self.place_to_ask(topic, bytes) else { return false };
        place.send(Queued { command: command(language), question: Some(question), _room: Some(room) });
        true
    }

    fn place_to_ask(&self, topic: &TopicName, bytes: usize) -> Option<Place> {
        let table = self.table.read();
        let producers = table.producers.of(topic);
        let turn = self.turn.fetch_add(1, Relaxed) % producers.len().max(1);
        let in_turn = producers[turn..].iter().chain(&producers[..turn]).take(TRIES_MAX);
        let mut able = in_turn.filter_map(|client| table.sessions.get(client)?.newest.as_ref());
        able.find_map(|newest| newest.reserve(bytes))
    }

    /// The table, in which the client has a session now.
    fn admit(&self, client: &ClientId) -> Result<RwLockWriteGuard<'_, Table>, Refusal> {
        let mut table = self.table.write();
        if !table.sessions.contains_key(client) {
            if table.sessions.len() >= self.sessions_max && !table.make_room() {
                let text = format!("{} clients are connected, which is the most", table.sessions.len());
                return Err(Refusal::new(Code::TooManyRequests, text));
            }
            table.sessions.insert(client.clone(), Session::default());
            table.loosen(client);
        }
        Ok(table)
    }

    pub fn request_timeout(&self, client: &ClientId) -> Option<Duration> {
        self.table.read().sessions.get(client)?.told.as_ref()?.request_timeout
    }

    /// Whether the client's settings are known.
    pub fn knows(&self, client: &ClientId) -> bool {
        self.table.read().sessions.get(client).is_some_and(|s| s.told.is_some())
    }

    /// Gives a command to the client's newest stream.
    pub fn push(&self, client: &ClientId, command: TelemetryCommand) -> Result<(), PushError> {
        let table = self.table.read();
        let newest = table.sessions.get(client).and_then(|s| s.newest.as_ref()).ok_or(PushError::NoStream)?;
        newest.commands.try_send(Queued { command, question: None, _room: None }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => PushError::Full,
            mpsc::error::TrySendError::Closed(_) => PushError::NoStream,
        })
    }

    /// What the client of the newest stream is written in.
    pub fn language(&self, client: &ClientId) -> Option<Language> {
        Some(self.table.read().sessions.get(client)?.newest.as_ref()?.language)
    }

    /// The client said goodbye: forgets its settings; true when they were known. Its streams are its own to close.
    pub fn goodbye(&self, client: &ClientId) -> bool {
        let mut table = self.table.write();
        let Some(session) = table.sessions.get_mut(client) else { return false };
        let known = session.told.take().is_some();
        let topics = std::mem::take(&mut session.topics);
        table.producers.remove(&topics, client);
        if table.sessions.get(client).is_some_and(|session| session.streams == 0) {
            table.remove(client);
        }
        known
    }

    /// The clients have been silent for too long. Settings stay while a stream is open.
    pub fn silent(&self, clients: &[ClientId]) {
        let mut table = self.table.write();
        for client in clients {
            match table.sessions.get_mut(client) {
                Some(session) if session.streams > 0 => session.silent = true,
                Some(_) => table.remove(client),
                None => {}
            }
        }
    }

    /// The client gave a sign of life.
    pub fn heard(&self, client: &ClientId) -> Option<Told> {
        let told = {
            let table = self.table.read();
            let session = table.sessions.get(client)?;
            if !session.silent {
                return session.told.clone();
            }
            session.told.clone()
        };
        if let Some(session) = self.table.write().sessions.get_mut(client) {
            session.silent = false;
        }
        told
    }

    fn close(&self, client: &ClientId, number: u64) {
        let mut table = self.table.write();
        let Some(session) = table.sessions.get_mut(client) else { return };
        session.streams = session.streams.saturating_sub(1);
        if session.newest.as_ref().is_some_and(|newest| newest.number == number) {
            session.newest = None;
        }
        if session.streams > 0 {
            return;
        }
        if session.silent || session.told.is_none() {
            table.remove(client);
        } else {
            table.loosen(client);
        }
    }

    /// How many clients there are that have told what they are, by language, version and, of consumers, group. Versions are
    /// the clients' to say: beyond `max` rows the smallest are told together.
    pub fn census(&self, max: usize) -> Vec<Clients> {
        let mut census: HashMap<(&'static str, &str, Option<&GroupName>), u64> = HashMap::new();
        let table = self.table.read();
        for session in table.sessions.values().filter(|session| !session.silent) {
            let Some(told) = &session.told else { continue };
            let group = match &told.role {
                Role::Producer { .. } => None,
                Role::Consumer { group } => Some(group),
            };
            let language = session.newest.as_ref().map_or("other", |newest| newest.language.name());
            let version = session.about.as_ref().map_or("", |about| about.version.as_str());
            *census.entry((language, version, group)).or_default() += 1;
        }
        let row = |((language, version, group), count): ((_, &str, Option<&GroupName>), _)| {
            let version = if version.is_empty() { "unknown".into() } else { version.to_lowercase() };
            Clients { language, version, group: group.map(GroupName::to_string), count }
        };
        let rows = census.into_iter().map(row).collect();
        drop(table);
        Clients::bounded(rows, max)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.table.read().sessions.len()
    }
}

impl Table {
    fn remove(&mut self, client: &ClientId) {
        let Some(session) = self.sessions.remove(client) else { return };
        self.producers.remove(&session.topics, client);
        if let Some(place) = session.loose {
            self.loose.remove(&place);
        }
    }

    /// The session has no stream, from now on.
    fn loosen(&mut self, client: &ClientId) {
        if let Some(session) = self.sessions.get_mut(client) {
            session.loose = Some(self.loosened);
            self.loose.insert(self.loosened, client.clone());
            self.loosened += 1;
        }
    }

    /// Forgets the session that has been without a stream for longest; false when all have one.
    fn make_room(&mut self) -> bool {
        let Some(client) = self.loose.first_key_value().map(|(_, client)| client.clone()) else { return false };
        self.remove(&client);
        true
    }
}

impl Newest {
    /// How many more commands with questions it can take.
    fn capacity(&self) -> usize {
        if self.room.available_permits() == 0 { 0 } else { self.commands.capacity() }
    }

    /// A place for a question of so many bytes.
    fn reserve(&self, bytes: usize) -> Option<Place> {
        let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).saturating_add(1);
        // One that is larger than all the room waits alone.
        let room = Arc::clone(&self.room).try_acquire_many_owned(kib.min(QUESTIONS_KIB_MAX)).ok()?;
        let place = self.commands.clone().try_reserve_owned().ok()?;
        Some((place, room, self.language))
    }
}

impl Session {
    /// One that is silent is not there for operators.
    fn introduced(&self) -> Option<(Role, Arc<About>)> {
        let told = self.told.as_ref().filter(|_| !self.silent)?;
        Some((told.role.clone(), self.about.clone()?))
    }

    fn publishes(&mut self, producers: &mut Producers, client: &ClientId, topic: &TopicName) {
        if self.topics.len() < TOPICS_MAX && !self.topics.contains(topic) {
            self.topics.push(topic.clone());
            producers.add(topic, client);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.sessions.close(&self.client, self.number);
    }
}

#[cfg(test)]
mod tests;
