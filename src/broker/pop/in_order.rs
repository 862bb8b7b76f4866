//! Taking from FIFO groups: which message groups the next messages are of, and the first message of each line.
//!
//! The message group stands in the log's record alone, so it is read before a message is chosen, each once: what is
//! blocked is remembered in its line. Reading happens without the book's lock; when two polls read the same, the second
//! finds its place taken.

use std::{hash::BuildHasher, sync::Arc};

use crate::{
    store::{Entry, ReadError},
    types::{PhysicalOffset, QueueOffset, StoredMessage, properties::key},
};

use super::{
    Broker, Delivery, Filter, Pages, QueueBook, Subscription, Take, TakeError,
    batch::{Batch, Booked},
    lines::LineId,
    take::{BATCH_MAX, Walk},
};
use crate::broker::{Group, long_poll::Cause};

/// Messages whose groups one poll reads before it looks at the time.
const LEARN_MAX: usize = 2048;
/// Messages whose groups are read at once, when those that were wanted did not do; then others of the thread get a turn.
const CHUNK: usize = 256;
/// Bytes of records that are read at once for their groups, unless the first alone is larger: about a millisecond.
const CHUNK_BYTES_MAX: u64 = 1 << 20;

/// Books whose lines can move on once a record is safe. Dropped, also when nobody waits for that record any more, it sees
/// to them.
pub struct Release {
    pub broker: Broker,
    pub books: Vec<Arc<QueueBook>>,
}

impl Drop for Release {
    fn drop(&mut self) {
        self.books.iter().for_each(|book| self.broker.release(book));
    }
}

/// Dropped with a book, it wakes another poll in the place of one that is gone.
struct HandOn<'a>(Option<&'a QueueBook>);

impl Drop for HandOn<'_> {
    fn drop(&mut self) {
        if let Some(book) = self.0 {
            book.owner.line.wake(Cause::Any);
        }
    }
}

/// The one poll that reads message groups of a book; the others wait for what it finds. Dropped, it lets another one do so.
/// The book must not be locked then.
struct Learner<'a> {
    book: &'a QueueBook,
    order: u32,
}

impl Drop for Learner<'_> {
    fn drop(&mut self) {
        self.book.open().book.end_learning(self.order);
    }
}

/// What a book has for a poll.
struct Supply {
    /// Messages that it lets through, as far as they were wanted.
    ready: usize,
    /// Whether more of them would be let through if their groups were known.
    takes_more: bool,
}

/// How it went.
#[derive(Debug, Default)]
pub struct Learnt {
    /// There was more than is looked at in one go.
    pub tired: bool,
    pub failure: Option<ReadError>,
}

/// What is to be done about an entry.
enum Look {
    /// It is known to be done.
    Done,
    /// The filter does not want it.
    Pass,
    Read,
}

/// Entries of a queue from where its message groups are not known.
pub(super) struct Unseen<'a> {
    from: QueueOffset,
    entries: Vec<(Entry, Look)>,
    learner: Learner<'a>,
}

impl Broker {
    /// Reads message groups until as many messages as a poll wants can be delivered, in order.
    pub(super) async fn learn(&self, subscription: &Arc<Subscription>, take: &Take) -> Learnt {
        let mut learnt = Learnt::default();
        let books = subscription.books();
        let (mut wanted, mut left) = (take.max.clamp(1, BATCH_MAX), LEARN_MAX);
        for index in subscription.turn(books.len()) {
            let book = &books[index];
            let mut chunk = wanted;
            loop {
                let supply = self.supply(book, wanted);
                if supply.ready >= wanted || !supply.takes_more {
                    wanted = wanted.saturating_sub(supply.ready);
                    break;
                }
                if left == 0 {
                    learnt.tired = true;
                    return learnt;
                }
                if chunk == CHUNK {
                    let mut handed_on = HandOn(Some(book));
                    tokio::task::yield_now().await;
                    handed_on.0 = None;
                }
                let unseen = match self.unseen(book, &take.filter, chunk.min(left)) {
                    Ok(Some(unseen)) => unseen,
                    Ok(None) => {
                        wanted = wanted.saturating_sub(supply.ready);
                        break;
                    }
                    Err(error) => {
                        learnt.failure = Some(error);
                        break;
                    }
                };
                left = left.saturating_sub(unseen.entries.len());
                chunk = CHUNK;
                if let Err(error) = self.see(book, unseen).await {
                    learnt.failure = Some(error);
                    break;
                }
            }
            if wanted == 0 {
                break;
            }
        }
        learnt
    }

    /// What the book has of the wanted messages, as far as there is room in flight.
    fn supply(&self, book: &QueueBook, wanted: usize) -> Supply {
        let config = &self.inner.config;
        let mut pages = book.open();
        pages.book.release(self.inner.store.watermarks().dispatched);
        let again = pages.book.due(self.inner.clock.now(), wanted);
        let takes_fresh = self.inner.pop.schedule.held() < config.in_flight_total_max;
        let held = pages.book.in_flight().max(pages.book.waiting());
        let room = if takes_fresh { config.in_flight_max.saturating_sub(held) } else { 0 };
        let again = again.min(config.in_flight_max.saturating_sub(pages.book.in_flight()));
        let fresh = pages.book.fresh_heads();
        Supply { ready: again + fresh.min(room), takes_more: fresh < room }
    }

    /// Lets through what follows what is safe by now, and has somebody look again if something is not.
    pub(super) fn release(&self, book: &Arc<QueueBook>) {
        let mut pages = book.open();
        pages.book.release(self.inner.store.watermarks().dispatched);
        let moved = pages.book.has_moved();
        self.close(book, pages, self.inner.clock.now());
        if moved {
            book.owner.line.wake(Cause::Any);
        }
    }

    /// The next entries whose message groups are not known, at most `max`; `None` when there are none, somebody else reads
    /// them, or too many messages wait already.
    pub(super) fn unseen<'a>(
        &self,
        book: &'a QueueBook,
        filter: &Filter,
        max: usize,
    ) -> Result<Option<Unseen<'a>>, ReadError> {
        let mut opened = book.open();
        if opened.forgotten {
            return Ok(None);
        }
        let pages = &mut opened.book;
        pages.keep_order(true);
        pages.release(self.inner.store.watermarks().dispatched);
        let Some((from, room)) = pages.unseen().filter(|(from, _)| *from < book.queue.max()) else { return Ok(None) };
        let mut bytes = 0;
        let mut entries = Vec::new();
        for entry in book.queue.entries(from, max.min(room))? {
            let look = match pages.is_done(entry.offset) {
                true => Look::Done,
                false if pages.is_untouched(entry.offset) && !filter.may_match(entry.tags_code) => Look::Pass,
                false => Look::Read,
            };
            if matches!(look, Look::Read) {
                bytes += u64::from(entry.size);
                if bytes > CHUNK_BYTES_MAX && !entries.is_empty() {
                    break;
                }
            }
            entries.push((entry, look));
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let Some(order) = pages.begin_learning() else { return Ok(None) };
        drop(opened);
        Ok(Some(Unseen { from, entries, learner: Learner { book, order } }))
    }

    /// Reads the groups of these messages and puts each in its line.
    pub(super) async fn see(&self, book: &QueueBook, unseen: Unseen<'_>) -> Result<(), ReadError> {
        let Unseen { from, entries, learner } = unseen;
        let to_read = entries.iter().filter(|(_, look)| matches!(look, Look::Read));
        let places: Vec<_> = to_read.map(|(entry, _)| (entry.physical, entry.size)).collect();
        let store = self.inner.store.clone();
        let read = move || -> Vec<_> { places.iter().map(|(at, size)| store.message(*at, *size)).collect() };
        let messages = match entries.first() {
            Some((first, _)) if self.inner.store.is_cold(first.physical) => {
                let at = first.physical;
                let failed = |error| ReadError::Io { at, error: Arc::new(error) };
                // The poll may have been woken for this, or others wait for it, and be dropped while it waits.
                let mut handed_on = HandOn(Some(book));
                let read = self.off_the_runtime(read).await;
                handed_on.0 = None;
                read.map_err(failed)?
            }
            _ => read(),
        };
        let mut pages = book.open();
        if pages.forgotten || pages.book.learning() != Some(learner.order) {
            // The group is not FIFO any more, or has begun anew in between.
            return Ok(());
        }
        self.inner.pop.touch();
        let mut messages = messages.into_iter();
        let mut expected = from;
        for (entry, look) in entries {
            let message = if matches!(look, Look::Read) { messages.next() } else { None };
            let line = message.map(|message| self.line_of(message)).transpose()?;
            if matches!(look, Look::Pass) && pages.book.is_untouched(entry.offset) {
                self.inner.meters.passed_over(&book.owner, 1, u64::from(entry.size));
            }
            if entry.offset > expected {
                // Retention was faster.
                pages.book.pass(expected..entry.offset);
            }
            expected = entry.offset.plus(1);
            if pages.book.seen().is_some_and(|seen| seen <= entry.offset) {
                place(&mut pages, entry.offset, line);
                self.inner.pop.schedule.count(&mut pages);
            }
            if pages.book.seen().is_none_or(|seen| seen <= entry.offset) {
                // It changed while it was read. The next look begins with it.
                return Ok(());
            }
        }
        Ok(())
    }

    /// The line of a message. What cannot be read and never will is passed over when its turn comes.
    fn line_of(&self, message: Result<StoredMessage, ReadError>) -> Result<LineId, ReadError> {
        match message {
            Ok(message) => Ok(match message.properties.get(key::SHARDING_KEY) {
                Some(group) => LineId(self.inner.pop.hasher.hash_one(group)),
                None => LineId::NO_GROUP,
            }),
            Err(error @ (ReadError::Io { .. } | ReadError::Queue(_) | ReadError::Index(_))) => Err(error),
            Err(error @ ReadError::Gone(at)) if at >= self.inner.store.start() => Err(error),
            Err(_) => Ok(LineId::NO_GROUP),
        }
    }

    /// A poll that is repeated gets what it got, as far as that is undone, whatever is locked.
    pub(super) async fn repeated(
        &self,
        subscription: &Arc<Subscription>,
        group: &Group,
        take: &Take,
    ) -> Result<Option<Vec<Delivery>>, TakeError> {
        let Some(id) = take.attempt_id.as_ref().filter(|_| group.fifo || take.filter.is_lite()) else {
            return Ok(None);
        };
        let now = self.inner.clock.now();
        let places = self.inner.pop.attempts.find(&subscription.owner, id, now);
        let books = subscription.books();
        let until = now.plus(take.invisible);
        let mut batch = Batch::of(self, subscription, &books, until);
        for place in places {
            let Some((index, book)) = books.iter().enumerate().find(|(_, book)| book.id == place.book) else {
                continue;
            };
            let mut pages = book.open();
            let offset = place.offset;
            let (physical, size) = match take.filter.is_lite() {
                // Found below.
                true => (PhysicalOffset::ZERO, 0),
                false => match book.queue.entries(offset, 1)?.first().filter(|entry| entry.offset == offset) {
                    Some(entry) => (entry.physical, entry.size),
                    // Not stored any more.
                    None => continue,
                },
            };
            let Some((attempt, nonce)) = pages.book.again(offset, place.nonce, now, until) else { continue };
            self.inner.pop.schedule.bring_forward(book, &mut pages, now);
            batch.book(Booked { book: index, offset, attempt, nonce, physical, size });
        }
        if take.filter.is_lite() {
            self.find_booked(&mut batch).await?;
        }
        if batch.is_empty() {
            return Ok(None);
        }
        let again = self.read(batch, &take.filter).await?;
        self.remember(subscription, group, take, &again);
        let again = self.put_on_record(subscription, group, again).await?;
        Ok((!again.is_empty()).then_some(again))
    }

    /// Remembers what a poll got, in case it is repeated.
    pub(super) fn remember(&self, subscription: &Subscription, group: &Group, take: &Take, found: &[Delivery]) {
        let Some(id) = take.attempt_id.as_ref().filter(|_| group.fifo || take.filter.is_lite()) else { return };
        let books = subscription.books();
        let places = found.iter().filter_map(|delivery| {
            let book = books.get(delivery.receipt.queue.0 as usize)?.id;
            Some(super::attempts::Place { book, offset: delivery.receipt.offset, nonce: delivery.receipt.nonce })
        });
        self.inner.pop.attempts.put(&subscription.owner, id, places.collect(), self.inner.clock.now());
    }
}

fn place(pages: &mut Pages, offset: QueueOffset, line: Option<LineId>) {
    match line {
        Some(line) => pages.book.see(offset, line),
        None => {
            if pages.book.is_untouched(offset) {
                pages.book.pass(offset..offset.plus(1));
            }
            // Done and safe; what was done, or became an exception, since it was looked at is the next one to look at.
            if pages.book.is_done(offset) && pages.book.is_safe(offset) {
                pages.book.see(offset, LineId::NO_GROUP);
            }
        }
    }
}

impl Walk<'_> {
    /// What was never delivered and comes first in its line, the oldest first.
    pub fn first_of_lines(
        &mut self,
        book: &QueueBook,
        pages: &mut Pages,
        index: usize,
        out: &mut Vec<Booked>,
    ) -> Result<(), ReadError> {
        let pages = &mut pages.book;
        while !self.is_full(out) && self.scans_left > 0 && self.room(pages) > 0 {
            let Some(offset) = pages.first_fresh() else { break };
            self.scans_left -= 1;
            let entry = book.queue.entries(offset, 1)?.first().copied().filter(|entry| entry.offset == offset);
            match entry.filter(|entry| self.wants(entry)) {
                // Filtered out, or not stored any more.
                None => pages.pass(offset..offset.plus(1)),
                Some(entry) if self.has_room(&entry, out) => {
                    let nonce = pages.deliver(offset, 1, self.until);
                    let (physical, size) = (entry.physical, entry.size);
                    out.push(Booked { book: index, offset, attempt: 1, nonce, physical, size });
                }
                Some(_) => break,
            }
        }
        Ok(())
    }
}
