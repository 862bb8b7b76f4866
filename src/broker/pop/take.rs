//! Taking messages: choose, book, read; or park until there is something.

use std::{sync::Arc, time::Duration};

use crate::{
    store::{Entry, ReadError},
    types::{Deadline, PhysicalOffset, StoredMessage},
};

use super::{
    Book, Broker, Delivery, Filter, Pages, QueueBook, Subscription, Take, TakeError,
    batch::{Batch, Booked},
    in_order::Learnt,
    lanes::FeedsOthers,
};
use crate::broker::{
    Group,
    filter::{LOOK_MIN, UNWANTED_MAX},
    long_poll::{Cause, Seat},
};

/// Messages that one take answers at most. RocketMQ's limit for a pop.
pub(super) const BATCH_MAX: usize = 32;
/// Bytes of log records that one take answers, unless the first message alone is larger.
pub(super) const BATCH_BYTES_MAX: u64 = 8 << 20;
/// Entries that are looked at before other tasks of the thread get a turn: about a millisecond.
const SCAN_MAX: usize = 8192;
/// Entries that are read from a queue at once while a filter passes over some.
const SCAN_CHUNK: usize = 256;
/// How long a message waits after it could not be read because the device failed.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The limits of one walk.
pub(super) struct Walk<'a> {
    pub filter: &'a Filter,
    max: usize,
    bytes_left: u64,
    pub scans_left: usize,
    in_flight_max: usize,
    /// All books together have room for more.
    takes_fresh: bool,
    pub max_attempts: u32,
    pub now: Deadline,
    pub until: Deadline,
    fifo: bool,
    /// Messages of a book, and their bytes, that the filter does not want.
    unwanted: (u64, u64),
}

impl Broker {
    /// Takes up to `max` messages and books them in flight; parks until something arrives, is due, or the poll ends.
    /// Empty when nothing came in time. Dropped while it waits, it takes nothing.
    pub async fn take(&self, take: Take) -> Result<Vec<Delivery>, TakeError> {
        let polls = &self.inner.pop.polls;
        // Dropped after the seat.
        let mut _feeds_others = None;
        let mut seat: Option<Seat> = None;
        loop {
            let (topic, group) = self.may_take(&take.topic, &take.group).await?;
            if group.broadcast != take.group.is_member() {
                // The group has become broadcasting, or ceased to be, since the poll began: the next one is as who it is.
                return Ok(Vec::new());
            }
            self.lite_or_not(&topic, &group, &take.filter)?;
            let subscription = self.subscription(&topic, &take.group)?;
            let line = match &take.filter {
                Filter::Lite(set) => &set.line,
                _ => &subscription.owner.line,
            };
            if let Some(again) = self.repeated(&subscription, &group, &take).await? {
                return Ok(again);
            }
            let (found, more) = self.look(&subscription, &group, &take).await?;
            if let Some(seat) = &seat {
                seat.looked();
            }
            if more || !found.is_empty() {
                drop(seat);
                self.remember(&subscription, &group, &take, &found);
                if more {
                    line.wake(Cause::Any);
                }
                return self.put_on_record(&subscription, &group, found).await;
            }
            // A set that has ended gets nothing more; its client's next poll is for another.
            let ended = matches!(&take.filter, Filter::Lite(set) if set.is_closed());
            if ended || polls.has_ended() || take.until <= self.inner.clock.now() {
                return Ok(Vec::new());
            }
            match seat.take().filter(|seat| seat.is_in(line)) {
                Some(seated) => {
                    if !self.woken_in_time(&seated, take.until).await {
                        return Ok(Vec::new());
                    }
                    seated.about_to_look();
                    seat = Some(seated);
                }
                // Seated first, the next round is the last look before it waits.
                None => {
                    _feeds_others = FeedsOthers::of(self, &subscription);
                    seat = Some(line.sit(take.filter.clone())?);
                }
            }
        }
    }

    /// False when the poll's time is up first.
    pub(in crate::broker) async fn woken_in_time(&self, seat: &Seat, until: Deadline) -> bool {
        let time_left = until.remaining(self.inner.clock.now());
        tokio::select! {
            biased;
            () = seat.woken() => true,
            () = tokio::time::sleep(time_left) => false,
        }
    }

    /// One look at everything, and whether it left something: the batch was full, or the time was up.
    async fn look(
        &self,
        subscription: &Arc<Subscription>,
        group: &Group,
        take: &Take,
    ) -> Result<(Vec<Delivery>, bool), TakeError> {
        let (mut unwanted, mut ends) = (0, None);
        loop {
            let learnt = match group.fifo && !take.filter.is_lite() {
                true => self.learn(subscription, take).await,
                false => Learnt::default(),
            };
            if let Some(parent) = subscription.owner.lite.get() {
                self.lite_catch_up(parent).await?;
            }
            let mut batch = self.walk(subscription, group, take)?;
            if take.filter.is_lite() {
                self.find_booked(&mut batch).await?;
            }
            let (tired, more, booked) = (batch.tired || learnt.tired, batch.more, batch.booked.len());
            if let Some(error) = learnt.failure.filter(|_| booked == 0) {
                return Err(error.into());
            }
            if booked > 0 {
                let deliveries = self.read(batch, &take.filter).await?;
                if !deliveries.is_empty() {
                    return Ok((deliveries, more || tired));
                }
            } else if !tired {
                return Ok((Vec::new(), false));
            }
            unwanted += booked;
            if !tired && unwanted < UNWANTED_MAX {
                continue;
            }
            unwanted = 0;
            let now = self.inner.clock.now();
            if now >= *ends.get_or_insert(take.until.max(now.plus(LOOK_MIN))) || self.inner.pop.polls.has_ended() {
                return Ok((Vec::new(), true));
            }
            // It passed over what it looked at, so this ends; others of this thread go first.
            tokio::task::yield_now().await;
        }
    }

    /// Walks over the queues, another one first each time, and books until the batch is full.
    pub(super) fn walk(
        &self,
        subscription: &Arc<Subscription>,
        group: &Group,
        take: &Take,
    ) -> Result<Batch, TakeError> {
        let inner = &self.inner;
        let now = inner.clock.now();
        let mut walk = Walk {
            filter: &take.filter,
            max: take.max.clamp(1, BATCH_MAX),
            bytes_left: BATCH_BYTES_MAX,
            scans_left: SCAN_MAX,
            in_flight_max: inner.config.in_flight_max,
            takes_fresh: inner.pop.schedule.held() < inner.config.in_flight_total_max,
            max_attempts: group.max_attempts(),
            now,
            until: now.plus(take.invisible),
            fifo: group.fifo,
            unwanted: (0, 0),
        };
        let books = subscription.books();
        let mut batch = Batch::of(self, subscription, &books, walk.until);
        for index in subscription.next_turn(books.len()) {
            let book = &books[index];
            let mut pages = book.open();
            self.keep_order(book, &mut pages, group.fifo);
            let visited = walk.visit(book, &mut pages, index, &mut batch.booked);
            self.close(book, pages, now);
            let (messages, bytes) = std::mem::take(&mut walk.unwanted);
            inner.meters.passed_over(&subscription.owner, messages, bytes);
            match visited {
                Ok(()) => {}
                Err(error) if batch.booked.is_empty() => return Err(error.into()),
                Err(_) => break,
            }
            (batch.more, batch.tired) = (walk.is_full(&batch.booked), walk.scans_left == 0);
            if batch.more || batch.tired {
                break;
            }
        }
        if walk.scans_left < SCAN_MAX {
            inner.pop.touch();
        }
        if batch.booked.is_empty() && !walk.takes_fresh {
            let (held, max) = (inner.pop.schedule.held(), inner.config.in_flight_total_max);
            return Err(TakeError::TooManyInFlight { held, max });
        }
        Ok(batch)
    }

    /// Reads what was booked; what turns out not to be for this consumer is passed over.
    pub(super) async fn read(&self, mut batch: Batch, filter: &Filter) -> Result<Vec<Delivery>, TakeError> {
        let store = &self.inner.store;
        let messages = if batch.booked.iter().any(|booked| store.is_cold(booked.physical)) {
            self.read_cold(&batch.booked).await?
        } else {
            batch.booked.iter().map(|booked| store.message(booked.physical, booked.size)).collect()
        };
        let mut deliveries = Vec::with_capacity(messages.len());
        let (mut passed, mut unread, mut failure) = (Vec::new(), Vec::new(), None);
        let mut unwanted = (0, 0);
        for (booked, message) in std::mem::take(&mut batch.booked).into_iter().zip(messages) {
            match message {
                Ok(message) if filter.matches(&message) => deliveries.push(batch.delivery(&booked, message)),
                Ok(_) => {
                    unwanted = (unwanted.0 + 1, unwanted.1 + u64::from(booked.size));
                    passed.push(booked);
                }
                // Only what lies before the log's start was deleted. Anything else that cannot be read now may be read later.
                Err(error @ (ReadError::Io { .. } | ReadError::Queue(_) | ReadError::Index(_))) => {
                    failure = Some(error);
                    unread.push(booked);
                }
                Err(error @ ReadError::Gone(at)) if at >= store.start() => {
                    failure = Some(error);
                    unread.push(booked);
                }
                Err(error) => {
                    let owner = &batch.subscription.owner;
                    let (topic, group, offset) = (&owner.topic, &owner.group, booked.offset);
                    tracing::error!(%topic, %group, queue = booked.book, %offset, %error, "passing over a message that cannot be read");
                    passed.push(booked);
                }
            }
        }
        self.inner.meters.passed_over(&batch.subscription.owner, unwanted.0, unwanted.1);
        batch.pass(&passed);
        batch.give_back(unread, READ_AGAIN_AFTER);
        match failure {
            Some(error) if deliveries.is_empty() => Err(error.into()),
            _ => Ok(deliveries),
        }
    }

    async fn read_cold(&self, booked: &[Booked]) -> Result<Vec<Result<StoredMessage, ReadError>>, TakeError> {
        let store = self.inner.store.clone();
        let places: Vec<_> = booked.iter().map(|booked| (booked.physical, booked.size)).collect();
        let at = places.first().map_or(PhysicalOffset::ZERO, |(at, _)| *at);
        let read = move || places.into_iter().map(|(at, size)| store.message(at, size)).collect();
        self.off_the_runtime(read).await.map_err(|error| ReadError::Io { at, error: Arc::new(error) }.into())
    }
}

impl Walk<'_> {
    pub fn is_full(&self, booked: &[Booked]) -> bool {
        booked.len() >= self.max || self.bytes_left == 0
    }

    fn visit(
        &mut self,
        book: &QueueBook,
        pages: &mut Pages,
        index: usize,
        out: &mut Vec<Booked>,
    ) -> Result<(), ReadError> {
        if pages.forgotten {
            return Ok(());
        }
        if let Filter::Lite(set) = self.filter {
            self.first_of_lanes(book, pages, set, out);
            return Ok(());
        }
        self.retries(book, pages, index, out)?;
        match self.fifo {
            true => self.first_of_lines(book, pages, index, out),
            false => self.fresh(book, pages, index, out),
        }
    }

    /// What is due again, longest due first.
    fn retries(
        &mut self,
        book: &QueueBook,
        pages: &mut Pages,
        index: usize,
        out: &mut Vec<Booked>,
    ) -> Result<(), ReadError> {
        let pages = &mut pages.book;
        while !self.is_full(out) && self.scans_left > 0 && pages.in_flight() < self.in_flight_max {
            let Some((offset, attempt)) = pages.ready(self.now) else { break };
            self.scans_left -= 1;
            if attempt > self.max_attempts {
                // The group was given fewer attempts meanwhile, or the log did not say how many it had.
                pages.retry(offset, attempt, self.now, self.max_attempts);
                continue;
            }
            let entry = book.queue.entries(offset, 1)?.first().copied().filter(|entry| entry.offset == offset);
            match entry.filter(|entry| self.wants(entry)) {
                // Filtered out, or not stored any more.
                None => pages.pass(offset..offset.plus(1)),
                Some(entry) if self.has_room(&entry, out) => {
                    let nonce = pages.deliver(offset, attempt, self.until);
                    out.push(Booked {
                        book: index,
                        offset,
                        attempt,
                        nonce,
                        physical: entry.physical,
                        size: entry.size,
                    });
                }
                Some(_) => break,
            }
        }
        Ok(())
    }

    /// What was never delivered, in order.
    fn fresh(
        &mut self,
        book: &QueueBook,
        pages: &mut Pages,
        index: usize,
        out: &mut Vec<Booked>,
    ) -> Result<(), ReadError> {
        let pages = &mut pages.book;
        let end = book.queue.max();
        loop {
            let mut expected = pages.next();
            let room = self.room(pages);
            if expected >= end || self.is_full(out) || self.scans_left == 0 || room == 0 {
                return Ok(());
            }
            let chunk = match self.filter {
                Filter::All | Filter::Sql(_) | Filter::Lite(_) => self.max - out.len(),
                Filter::Tags(_) => SCAN_CHUNK,
            };
            let entries = book.queue.entries(expected, chunk.min(room).min(self.scans_left))?;
            if entries.is_empty() {
                return Ok(());
            }
            for entry in entries {
                if entry.offset > expected {
                    // Retention was faster.
                    pages.pass(expected..entry.offset);
                }
                expected = entry.offset.plus(1);
                if !pages.is_untouched(entry.offset) {
                    continue;
                }
                self.scans_left -= 1;
                if !self.wants(&entry) {
                    pages.pass(entry.offset..expected);
                } else if !self.is_full(out) && self.has_room(&entry, out) {
                    let nonce = pages.deliver(entry.offset, 1, self.until);
                    let (offset, physical, size) = (entry.offset, entry.physical, entry.size);
                    out.push(Booked { book: index, offset, attempt: 1, nonce, physical, size });
                } else {
                    return Ok(());
                }
            }
        }
    }

    /// Whether the filter may want a message; one that it does not is counted.
    pub fn wants(&mut self, entry: &Entry) -> bool {
        let wants = self.filter.may_match(entry.tags_code);
        if !wants {
            self.unwanted = (self.unwanted.0 + 1, self.unwanted.1 + u64::from(entry.size));
        }
        wants
    }

    /// Messages that may be delivered for the first time.
    pub fn room(&self, book: &Book) -> usize {
        if self.takes_fresh { self.in_flight_max.saturating_sub(book.in_flight().max(book.waiting())) } else { 0 }
    }

    /// Whether one more message may be in flight; one that waits for an attempt has its place already.
    pub fn has_place(&self, book: &Book, fresh: bool) -> bool {
        if fresh { self.room(book) > 0 } else { book.in_flight() < self.in_flight_max }
    }

    /// Counts an entry's bytes; false when they are too many behind what is booked already.
    pub fn has_room(&mut self, entry: &Entry, out: &[Booked]) -> bool {
        let size = u64::from(entry.size);
        let fits = out.is_empty() || size <= self.bytes_left;
        self.bytes_left = if fits { self.bytes_left.saturating_sub(size) } else { 0 };
        fits
    }
}
