//! The real store over the lying disk, and what it has promised so far.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    store::{
        Config, FlushPolicy, Health, Purpose, Sought, Store, Threads,
        scan::scan,
        sim::{CrashChoice, SimDisk},
    },
    types::{
        ManualClock, NewMessage, PhysicalOffset, Properties, QueueId, QueueOffset, SysFlag, Timestamp, TopicName,
        properties::PropertiesBuilder,
    },
};

/// Queues that histories write to: two of topic `t`, and one of topic `gone`, which is deleted now and then.
const QUEUES: u32 = 3;
const DELETED: u32 = 2;
/// Bytes of a segment: some histories' appends fill several.
pub(super) const SEGMENT: u64 = 16 << 10;

/// One record of an append: how long its body and its properties are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) body: usize,
    pub(super) properties: usize,
}

/// What happens to a store.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Append(Vec<Sizes>),
    Commit,
    /// A whole round of the background.
    Step,
    /// The next sync fails, and the kernel forgets what was dirty.
    FailSync,
    /// The store is closed and opened.
    Restart,
    /// Everything but the newest half of the records expires.
    Expire,
    /// Topic `gone` is deleted.
    Delete,
    /// The process dies and starts again; the page cache stays.
    Kill,
    PowerCut(CrashChoice),
}

/// A record that was given a place.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Placed {
    size: u64,
    offset: u64,
    sent: Sent,
}

/// What a message said.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Sent {
    queue: u32,
    properties: Properties,
    body: Bytes,
    /// Number of its append.
    unit: u64,
}

pub(super) struct World {
    pub(super) disk: SimDisk,
    clock: Arc<ManualClock>,
    config: Config,
    store: Option<Store>,
    /// Every record that may be there, by position.
    placed: BTreeMap<u64, Placed>,
    /// Those that must be there: acknowledged or shown to a consumer, and with ASYNC_FLUSH those below the durable mark.
    promised: BTreeSet<u64>,
    /// Retention may take what lies before this, as long as the store is open.
    expiring: u64,
    /// A deletion was begun, and may take its part of an append.
    is_deleting: bool,
    /// Appends not yet acknowledged: their end and their records.
    waiting: Vec<(PhysicalOffset, Vec<u64>)>,
    /// Messages of an append that was refused while the power failed, by their number: they may be there too.
    attempted: BTreeMap<u64, Sent>,
    /// Numbers the messages.
    serial: u64,
    units: u64,
    /// Changes after the first crash at which the power fails again.
    second: Option<u64>,
}

/// A promise that was broken.
pub(super) type Broken = String;

impl World {
    pub(super) fn new(flush: FlushPolicy) -> Self {
        let mut config = Config::at("/store");
        config.flush = flush;
        config.segment_bytes = SEGMENT;
        config.consume_queue_entries = 16;
        config.index_slots = 16;
        config.index_entries = 32;
        config.threads = Threads::Stepped;
        config.retention.delete_when = (0..24).collect();
        Self {
            disk: SimDisk::new(),
            clock: Arc::new(ManualClock::at(Timestamp::from_millis(1_700_000_000_000))),
            config,
            store: None,
            placed: BTreeMap::new(),
            promised: BTreeSet::new(),
            expiring: 0,
            is_deleting: false,
            waiting: Vec::new(),
            attempted: BTreeMap::new(),
            serial: 0,
            units: 0,
            second: None,
        }
    }

    fn is_sync(&self) -> bool {
        self.config.flush == FlushPolicy::Sync
    }

    /// Plays a history; whenever the power fails in between, it comes back with `choice`.
    pub(super) fn play(&mut self, history: &[Event], choice: CrashChoice) -> Result<(), Broken> {
        self.start(choice)?;
        for event in history {
            self.clock.advance(Duration::from_millis(7));
            self.happen(event)?;
            self.observe();
            // Not always, so that what is committed and what is not may come to the index together.
            if self.serial.is_multiple_of(3) {
                self.check_running()?;
            }
            if self.disk.is_off() {
                self.power_cut(choice)?;
            }
        }
        self.power_cut(CrashChoice::DropAll)
    }

    /// [`Self::play`], but the recovery after the first crash meets a second one, so many changes later.
    pub(super) fn play_with_second_crash(
        &mut self,
        history: &[Event],
        choice: CrashChoice,
        second: u64,
    ) -> Result<(), Broken> {
        self.second = Some(second);
        self.play(history, choice)
    }

    fn happen(&mut self, event: &Event) -> Result<(), Broken> {
        let store = self.store.clone().ok_or("no store is open")?;
        match event {
            Event::Append(sizes) => self.append(&store, sizes)?,
            // Refusals are judged by what is observed afterwards.
            Event::Commit => drop(store.step_commit()),
            Event::Step => drop(store.step()),
            Event::FailSync => self.disk.fail_sync_once_then_lie(),
            Event::Restart => {
                store.close();
                self.observe();
                drop(store);
                self.reopen()?;
            }
            Event::Expire => {
                let held_from = self.placed.keys().nth(self.placed.len() / 2).copied().unwrap_or(0);
                self.expiring = self.expiring.max(held_from);
                self.promised.retain(|at| *at >= held_from);
                store.hold_from(PhysicalOffset::new(held_from));
                self.clock.advance(Duration::from_secs(80 * 3600));
                drop(store.step());
            }
            Event::Delete => {
                let gone: Vec<u64> =
                    self.placed.iter().filter(|(_, p)| p.sent.queue == DELETED).map(|(at, _)| *at).collect();
                self.promised.retain(|at| !gone.contains(at));
                self.is_deleting = true;
                if store.delete_topic(&topic(DELETED)).is_ok() {
                    self.is_deleting = false;
                    self.placed.retain(|at, _| !gone.contains(at));
                }
                self.waiting.iter_mut().for_each(|(_, records)| records.retain(|at| !gone.contains(at)));
            }
            Event::Kill => {
                drop(store);
                self.reopen()?;
            }
            Event::PowerCut(choice) => {
                drop(store);
                self.power_cut(*choice)?;
            }
        }
        Ok(())
    }

    fn append(&mut self, store: &Store, sizes: &[Sizes]) -> Result<(), Broken> {
        self.units += 1;
        let first = self.serial + 1;
        let messages: Vec<NewMessage> = sizes.iter().map(|sizes| self.message(*sizes)).collect();
        let sent = messages.iter().map(|message| Sent {
            queue: queue_of(&message.topic, message.queue),
            properties: message.properties.clone(),
            body: message.body.clone(),
            unit: self.units,
        });
        let ticket = match store.append(&messages, Purpose::User) {
            Ok(ticket) => ticket,
            Err(_) if self.disk.is_off() || matches!(store.health(), Health::Poisoned(_)) => {
                self.attempted.extend((first..).zip(sent));
                return Ok(());
            }
            Err(refused) => return Err(format!("an append was refused: {refused}")),
        };
        let ends = ticket.appended.iter().skip(1).map(|a| a.physical).chain([ticket.end]);
        for ((appended, end), sent) in ticket.appended.iter().zip(ends).zip(sent) {
            let (at, offset) = (appended.physical, appended.queue_offset.get());
            self.placed.insert(at.get(), Placed { size: at.until(end), offset, sent });
        }
        self.waiting.push((ticket.end, ticket.appended.iter().map(|a| a.physical.get()).collect()));
        Ok(())
    }

    fn message(&mut self, sizes: Sizes) -> NewMessage {
        self.serial += 1;
        let fill = |len: usize, salt: u64| -> String {
            let from = ((self.serial * 13 + salt) % 26) as usize;
            "the quick brown fox jumps over lazy dogs; ".repeat(len / 42 + 2)[from..from + len].to_owned()
        };
        let mut properties = PropertiesBuilder::default();
        properties.push("KEYS", &self.serial.to_string()).push("p", &fill(sizes.properties, 3));
        let queue = (self.serial % u64::from(QUEUES)) as u32;
        NewMessage {
            topic: topic(queue),
            queue: queue_id(queue),
            flag: 0,
            sys_flag: SysFlag::default(),
            born_at: Timestamp::from_millis(self.serial as i64),
            born_host: self.config.store_host,
            reconsume_times: 0,
            prepared_at: None,
            properties: properties.build(),
            body: fill(sizes.body, 5).into(),
        }
    }

    /// Takes note of what a producer was told and of what a consumer could see.
    pub(super) fn observe(&mut self) {
        let Some(store) = &self.store else { return };
        let mut promised: Vec<u64> = Vec::new();
        if self.is_sync() {
            self.waiting.retain(|(end, records)| match poll_once(store.committed(*end)) {
                Poll::Pending => true,
                Poll::Ready(Ok(())) => {
                    promised.extend(records);
                    false
                }
                Poll::Ready(Err(_)) => false,
            });
            for queue in 0..QUEUES {
                let queue = store.queue(&topic(queue), queue_id(queue));
                // A read that fails shows nothing.
                promised.extend(all_entries(&queue).unwrap_or_default().iter().map(|entry| entry.physical.get()));
            }
        } else {
            let durable = store.watermarks().durable.get();
            promised.extend(self.placed.iter().filter(|(at, p)| *at + p.size <= durable).map(|(at, _)| *at));
        }
        let is_going = |at: &u64| {
            *at < self.expiring
                || self.is_deleting && self.placed.get(at).is_some_and(|placed| placed.sent.queue == DELETED)
        };
        self.promised.extend(promised.into_iter().filter(|at| !is_going(at)));
    }

    fn start(&mut self, choice: CrashChoice) -> Result<(), Broken> {
        self.reopen()?;
        if self.disk.is_off() { self.power_cut(choice) } else { Ok(()) }
    }

    /// The power goes and comes back.
    pub(super) fn power_cut(&mut self, choice: CrashChoice) -> Result<(), Broken> {
        self.store = None;
        self.disk.crash_with(choice);
        if let Some(second) = self.second.take() {
            self.disk.fail_after(second);
            self.reopen()?;
            if self.disk.is_off() {
                return self.power_cut(choice);
            }
            return Ok(());
        }
        self.reopen()
    }

    /// Opens the store and compares what is there with what was promised. When the power fails meanwhile, nothing is
    /// said.
    fn reopen(&mut self) -> Result<(), Broken> {
        self.store = None;
        self.waiting.clear();
        self.expiring = 0;
        let open = || Store::open(self.config.clone(), Arc::new(self.disk.clone()), self.clock.clone());
        // A sync may be about to fail: the operator starts the server once more.
        let store = match open().or_else(|_| open()) {
            Ok((store, _)) => store,
            // The caller sees to the power.
            Err(_) if self.disk.is_off() => return Ok(()),
            Err(refused) => return Err(format!("the store does not open: {refused}")),
        };
        let found = match self.found(&store) {
            Err(_) if self.disk.is_off() => return Ok(()),
            other => other?,
        };
        if let Some(lost) = self.promised.iter().find(|at| !found.contains_key(*at)) {
            return Err(format!("lost: {lost} {:?}", self.placed.get(lost)));
        }
        let units: BTreeSet<u64> = found.values().map(|placed| placed.sent.unit).collect();
        let missing = self.placed.iter().filter(|(at, _)| !found.contains_key(*at));
        let mut missing = missing.filter(|(_, p)| p.sent.queue != DELETED || !self.is_deleting);
        if let Some((at, half)) = missing.find(|(_, placed)| units.contains(&placed.sent.unit)) {
            return Err(format!("half an append is there, without {at} {half:?}"));
        }
        match self.compare_index(&store, &found) {
            Err(_) if self.disk.is_off() => return Ok(()),
            other => other?,
        }
        // What recovery has given up must stay away, and what it found must stay.
        self.promised = found.keys().copied().collect();
        self.placed = found;
        self.attempted.clear();
        self.is_deleting = false;
        self.store = Some(store);
        Ok(())
    }

    /// While the store runs: recovery would begin where a unit does, and the newest messages are found by their keys if
    /// they are committed, and else are not.
    fn check_running(&self) -> Result<(), Broken> {
        let Some(store) = self.store.as_ref().filter(|_| !self.disk.is_off() && !self.is_deleting) else {
            return Ok(());
        };
        let is_ready = !matches!(store.health(), Health::Poisoned(_));
        let segments = &store.core.log.segments;
        let recover_from = store.core.progress.lock().written.recover_from;
        if let Some(segment) = segments.find(recover_from).filter(|_| is_ready) {
            let range = segment.base()..recover_from;
            let end = scan(segments, range, PhysicalOffset::ZERO, |_| ControlFlow::Continue(()));
            let end = end.map_err(|e| format!("the log cannot be read: {e}"))?;
            if end.at != recover_from && end.defect.is_none() {
                return Err(format!("recovery would begin at {recover_from}, and a unit ends at {end:?}"));
            }
        }
        let dispatched = store.watermarks().dispatched;
        let there = self.placed.range(store.start().get()..);
        for (at, placed) in there.rev().filter(|_| is_ready).take(4) {
            let key = placed.sent.properties.get("KEYS").unwrap_or_default();
            let places = match store.core.keyed(&Sought::any(&topic(placed.sent.queue), key), 8) {
                Err(_) if self.disk.is_off() || matches!(store.health(), Health::Poisoned(_)) => return Ok(()),
                other => other.map_err(|e| format!("{key} cannot be sought: {e}"))?.found,
            };
            let expected = Some(PhysicalOffset::new(*at)).filter(|at| *at < dispatched);
            if places != Vec::from_iter(expected) {
                return Err(format!("{key} is at {at}, and was found at {places:?}, with {dispatched} dispatched"));
            }
        }
        Ok(())
    }

    /// The newest messages must be found by their keys too.
    fn compare_index(&self, store: &Store, found: &BTreeMap<u64, Placed>) -> Result<(), Broken> {
        for (at, placed) in found.iter().rev().take(3) {
            let key = placed.sent.properties.get("KEYS").unwrap_or_default();
            let topic = topic(placed.sent.queue);
            let by_key = store.find(Sought::any(&topic, key), 8, 1000, |_| true);
            let by_key = by_key.map_err(|e| format!("the index cannot be read: {e}"))?;
            if by_key.iter().filter(|message| message.physical.get() == *at).count() != 1 {
                return Err(format!("{key} is at {at}, and found by its key: {by_key:?}"));
            }
        }
        Ok(())
    }

    /// All messages that a consumer finds, by position, each compared with what was sent.
    fn found(&self, store: &Store) -> Result<BTreeMap<u64, Placed>, Broken> {
        let mut found = BTreeMap::new();
        for id in 0..QUEUES {
            let queue = store.queue(&topic(id), queue_id(id));
            let entries = all_entries(&queue)?;
            if entries.len() as u64 != queue.min().until(queue.max()) {
                return Err(format!("queue {id} has {} entries, {} to {}", entries.len(), queue.min(), queue.max()));
            }
            for entry in entries {
                let at = entry.physical.get();
                let message = store.message(entry.physical, entry.size).map_err(|e| format!("cannot be read: {e}"))?;
                let serial = message.properties.get("KEYS").and_then(|serial| serial.parse().ok()).unwrap_or(0);
                let placed = match (self.placed.get(&at), self.attempted.get(&serial)) {
                    (Some(placed), _) => placed.clone(),
                    (None, Some(sent)) => {
                        Placed { size: entry.size.into(), offset: entry.offset.get(), sent: sent.clone() }
                    }
                    (None, None) => return Err(format!("nothing should be at {at}: {entry:?}")),
                };
                let is_same = (queue_of(&message.topic, message.queue), &message.properties, &message.body)
                    == (placed.sent.queue, &placed.sent.properties, &placed.sent.body)
                    && (id, entry.offset.get()) == (placed.sent.queue, placed.offset)
                    && message.queue_offset == entry.offset;
                if !is_same {
                    return Err(format!("altered: {message:?} at {entry:?}, was {placed:?}"));
                }
                found.insert(at, placed);
            }
        }
        Ok(found)
    }
}

fn topic(queue: u32) -> TopicName {
    TopicName::parse(if queue == DELETED { "gone" } else { "t" }).expect("a name")
}

fn queue_id(queue: u32) -> QueueId {
    QueueId(if queue == DELETED { 0 } else { queue })
}

fn queue_of(topic: &TopicName, id: QueueId) -> u32 {
    if topic.as_str() == "gone" { DELETED } else { id.0 }
}

fn all_entries(queue: &crate::store::Queue) -> Result<Vec<crate::store::Entry>, Broken> {
    let mut all = Vec::new();
    let mut from = QueueOffset::ZERO;
    loop {
        let more = queue.entries(from, 1000).map_err(|e| format!("entries from {from} cannot be read: {e}"))?;
        let Some(last) = more.last() else { return Ok(all) };
        from = last.offset.plus(1);
        all.extend(more);
    }
}

fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    std::pin::pin!(future).as_mut().poll(&mut Context::from_waker(Waker::noop()))
}
