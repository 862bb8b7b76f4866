//! What clients told about themselves, and their open Telemetry streams.
//!
//! A session lives while a stream of its client is open, and without one until the client says goodbye or has been
//! silent for too long. Clients are served without one too: after a restart of the server some do not repeat their
//! settings for minutes, or never.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::RwLock;
use tokio::sync::mpsc;

use crate::{
    broker::Role,
    proto::v2::{Code, TelemetryCommand},
    types::ClientId,
};

use super::status::Refusal;

/// Commands that wait for one client at most.
const COMMANDS_MAX: usize = 16;

/// Topics of one producer that are kept.
const TOPICS_MAX: usize = 1024;

/// The sessions of all clients.
pub struct Sessions {
    table: RwLock<Table>,
    /// Numbers the streams; a later one is a newer one.
    streams: AtomicU64,
    sessions_max: usize,
    streams_max: u32,
}

#[derive(Default)]
struct Table {
    sessions: HashMap<ClientId, Session>,
    /// Those without a stream, by how long they have had none: they make room for others, since their clients are
    /// served without a session too.
    loose: BTreeMap<u64, ClientId>,
    /// Numbers what becomes loose.
    loosened: u64,
}

impl Table {
    fn insert(&mut self, client: &ClientId) {
        let session = Session { loose: Some(self.loosened), ..Session::default() };
        self.loose.insert(self.loosened, client.clone());
        self.loosened += 1;
        self.sessions.insert(client.clone(), session);
    }

    /// The session has no stream any more.
    fn loosen(&mut self, client: &ClientId) {
        if let Some(session) = self.sessions.get_mut(client) {
            session.loose = Some(self.loosened);
            self.loose.insert(self.loosened, client.clone());
            self.loosened += 1;
        }
    }

    fn remove(&mut self, client: &ClientId) {
        if let Some(number) = self.sessions.remove(client).and_then(|session| session.loose) {
            self.loose.remove(&number);
        }
    }

    /// Forgets the session that has been without a stream for longest; false when all have one.
    fn make_room(&mut self) -> bool {
        let Some((_, client)) = self.loose.pop_first() else { return false };
        self.sessions.remove(&client);
        true
    }
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
    newest: Option<(u64, mpsc::Sender<TelemetryCommand>)>,
    /// Given up for silence; kept only for its streams.
    silent: bool,
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

/// An open stream; dropping it closes it.
pub struct Stream {
    sessions: Arc<Sessions>,
    client: ClientId,
    number: u64,
    pub commands: mpsc::Receiver<TelemetryCommand>,
}

impl Sessions {
    pub fn new(sessions_max: usize, streams_max: u32) -> Self {
        Self { table: RwLock::default(), streams: AtomicU64::new(0), sessions_max, streams_max }
    }

    /// Opens a stream, which from now on gets the client's commands.
    pub fn open(self: &Arc<Self>, client: &ClientId) -> Result<Stream, Refusal> {
        let mut table = self.table.write();
        let table = &mut *table;
        let session = self.entry(&mut *table, client)?;
        if session.streams >= self.streams_max {
            let text = format!("the client id has {} open Telemetry streams, which is the most", session.streams);
            return Err(Refusal::new(Code::TooManyRequests, text));
        }
        let number = self.streams.fetch_add(1, Relaxed);
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        session.streams += 1;
        session.newest = Some((number, sender));
        if let Some(loose) = session.loose.take() {
            table.loose.remove(&loose);
        }
        Ok(Stream { sessions: self.clone(), client: client.clone(), number, commands })
    }

    /// Remembers what a client told; true when it is the first time.
    pub fn tell(&self, client: &ClientId, mut told: Told) -> Result<bool, Refusal> {
        if let Role::Producer { topics } = &mut told.role {
            topics.truncate(TOPICS_MAX);
        }
        let mut table = self.table.write();
        let session = self.entry(&mut table, client)?;
        session.silent = false;
        Ok(session.told.replace(told).is_none())
    }

    fn entry<'a>(&self, table: &'a mut Table, client: &ClientId) -> Result<&'a mut Session, Refusal> {
        if !table.sessions.contains_key(client) {
            if table.sessions.len() >= self.sessions_max && !table.make_room() {
                let text = format!("{} clients are connected, which is the most", table.sessions.len());
                return Err(Refusal::new(Code::TooManyRequests, text));
            }
            table.insert(client);
        }
        Ok(table.sessions.entry(client.clone()).or_default())
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
        let (_, sender) = table.sessions.get(client).and_then(|s| s.newest.as_ref()).ok_or(PushError::NoStream)?;
        sender.try_send(command).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => PushError::Full,
            mpsc::error::TrySendError::Closed(_) => PushError::NoStream,
        })
    }

    /// The client said goodbye: forgets its settings; true when they were known. Its streams are its own to close.
    pub fn goodbye(&self, client: &ClientId) -> bool {
        let mut table = self.table.write();
        let Some(session) = table.sessions.get_mut(client) else { return false };
        let known = session.told.take().is_some();
        if session.streams == 0 {
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
        if session.newest.as_ref().is_some_and(|(n, _)| *n == number) {
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

    #[cfg(test)]
    fn len(&self) -> usize {
        self.table.read().sessions.len()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.sessions.close(&self.client, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(id: &str) -> ClientId {
        ClientId::parse(id).unwrap()
    }

    fn told() -> Told {
        Told { role: Role::Producer { topics: vec![] }, request_timeout: Some(Duration::from_secs(3)) }
    }

    fn sessions() -> Arc<Sessions> {
        Arc::new(Sessions::new(2, 2))
    }

    #[test]
    fn the_newest_stream_gets_the_commands() {
        let (all, a) = (sessions(), client("a"));
        let mut old = all.open(&a).unwrap();
        let mut new = all.open(&a).unwrap();
        all.push(&a, TelemetryCommand::default()).unwrap();
        assert!(new.commands.try_recv().is_ok());
        assert!(old.commands.try_recv().is_err());
    }

    #[test]
    fn an_older_stream_that_ends_does_not_end_the_newer() {
        let (all, a) = (sessions(), client("a"));
        let old = all.open(&a).unwrap();
        let mut new = all.open(&a).unwrap();
        all.tell(&a, told()).unwrap();
        drop(old);
        all.push(&a, TelemetryCommand::default()).unwrap();
        assert!(new.commands.try_recv().is_ok());
        drop(new);
        assert_eq!(all.push(&a, TelemetryCommand::default()), Err(PushError::NoStream));
        assert!(all.knows(&a), "settings outlive the stream, since the client reconnects");
    }

    #[test]
    fn settings_stay_while_a_stream_is_open() {
        let (all, a) = (sessions(), client("a"));
        let stream = all.open(&a).unwrap();
        assert!(all.tell(&a, told()).unwrap());
        assert!(!all.tell(&a, told()).unwrap());
        all.silent(std::slice::from_ref(&a));
        assert!(all.knows(&a));
        drop(stream);
        assert!(!all.knows(&a));
        assert_eq!(all.len(), 0);
    }

    #[test]
    fn a_sign_of_life_undoes_silence() {
        let (all, a) = (sessions(), client("a"));
        let stream = all.open(&a).unwrap();
        all.tell(&a, told()).unwrap();
        all.silent(std::slice::from_ref(&a));
        assert!(all.heard(&a).is_some());
        drop(stream);
        assert!(all.knows(&a));
        all.silent(std::slice::from_ref(&a));
        assert_eq!(all.len(), 0);
    }

    #[test]
    fn sessions_streams_and_commands_are_bounded() {
        let (all, a) = (sessions(), client("a"));
        let streams = [all.open(&a).unwrap(), all.open(&a).unwrap()];
        assert_eq!(all.open(&a).err().unwrap().code, Code::TooManyRequests);
        let b = all.open(&client("b")).unwrap();
        assert_eq!(all.tell(&client("c"), told()).unwrap_err().code, Code::TooManyRequests);
        assert_eq!(all.open(&client("c")).err().unwrap().code, Code::TooManyRequests);
        for _ in 0..COMMANDS_MAX {
            all.push(&a, TelemetryCommand::default()).unwrap();
        }
        assert_eq!(all.push(&a, TelemetryCommand::default()), Err(PushError::Full));
        drop(streams);
        drop(b);
        assert_eq!(all.len(), 0, "a stream without settings leaves nothing behind");
    }

    #[test]
    fn a_full_table_forgets_who_has_no_stream_for_who_comes() {
        let (all, [a, b, c, d]) = (sessions(), ["a", "b", "c", "d"].map(client));
        let kept = all.open(&a).unwrap();
        all.tell(&a, told()).unwrap();
        all.tell(&b, told()).unwrap();
        let stream = all.open(&c).expect("the client without a stream makes room");
        all.tell(&c, told()).unwrap();
        assert!(all.knows(&a) && !all.knows(&b) && all.knows(&c));
        // The one whose stream ended is the next to go, and comes back as if it were new.
        drop(stream);
        assert!(all.knows(&c), "not before there is need");
        all.tell(&d, told()).unwrap();
        assert!(all.knows(&a) && !all.knows(&c) && all.knows(&d));
        assert_eq!(all.len(), 2);
        drop((kept, all.open(&d).unwrap()));
        let Table { sessions, loose, .. } = &*all.table.read();
        assert_eq!((sessions.len(), loose.len()), (2, 2), "each is in the order of leaving once");
    }

    #[test]
    fn the_topics_that_a_client_names_are_kept_up_to_a_bound() {
        let (all, a) = (sessions(), client("a"));
        let topic = |n: usize| crate::types::TopicName::parse(&format!("T{n}")).unwrap();
        let role = Role::Producer { topics: (0..TOPICS_MAX + 1).map(topic).collect() };
        all.tell(&a, Told { role, request_timeout: None }).unwrap();
        let Role::Producer { topics } = all.heard(&a).unwrap().role else { panic!("it is a producer") };
        assert_eq!(topics.len(), TOPICS_MAX);
    }

    #[test]
    fn goodbye_forgets_the_settings() {
        let (all, a) = (sessions(), client("a"));
        assert!(!all.goodbye(&a));
        all.tell(&a, told()).unwrap();
        assert!(all.goodbye(&a));
        assert_eq!(all.len(), 0);
    }
}
