//! Taking from FIFO groups: which message groups the next messages are of, and the first message of each line.
//!
//! The message group stands in the log's record alone, so it is read before a message is chosen, each once: what is
//! blocked is remembered in its line. Reading happens without the book's lock; when two polls read the same, the second
//! finds its place taken.

use std::{hash::BuildHasher, sync::Arc};

use crate::{
    store::{Entry, ReadError},
    types::{QueueOffset, StoredMessage, properties::key},
};

use super::{
    Broker, Delivery, Filter, Pages, QueueBook, Subscription, Take, TakeError,
    lines::LineId,
    take::{BATCH_MAX, Batch, Booked, Walk},
};
use crate::broker::{Group, long_poll::Cause};

/// Messages whose groups one poll reads before other tasks of the thread get a turn: a few milliseconds.
const LEARN_MAX: usize = 2048;
/// Messages whose groups are read at once, when those that were wanted did not do.
const CHUNK: usize = 256;
/// Bytes of records that are read at once for their groups, unless the first alone is larger.
const CHUNK_BYTES_MAX: u64 = 8 << 20;

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
struct Unseen {
    from: QueueOffset,
    entries: Vec<(Entry, Look)>,
}

impl Broker {
    /// Reads message groups until as many messages as a poll wants can be delivered, in order.
    pub(super) async fn learn(&self, subscription: &Arc<Subscription>, take: &Take) -> Learnt {
        let mut learnt = Learnt::default();
        let (books, first) = (subscription.books(), subscription.turn());
        let (mut wanted, mut left) = (take.max.clamp(1, BATCH_MAX), LEARN_MAX);
        for index in (0..books.len()).map(|n| first.wrapping_add(n) % books.len()) {
            let book = &books[index];
            let mut chunk = wanted;
            while self.missing(book, wanted) > 0 {
                if left == 0 {
                    learnt.tired = true;
                    return learnt;
                }
                let unseen = match self.unseen(book, &take.filter, chunk.min(left)) {
                    Ok(Some(unseen)) => unseen,
                    Ok(None) => break,
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
            wanted = self.missing(book, wanted);
            if wanted == 0 {
                break;
            }
        }
        learnt
    }

    /// How many of the wanted messages the book does not let through now.
    fn missing(&self, book: &QueueBook, wanted: usize) -> usize {
        let mut pages = book.open();
        pages.book.release(self.inner.store.watermarks().dispatched);
        wanted.saturating_sub(pages.book.deliverable(self.inner.clock.now(), wanted))
    }

    /// Lets through what follows what is safe by now, and has somebody look again if something is not.
    pub(super) fn release(&self, book: &Arc<QueueBook>) {
        let mut pages = book.open();
        pages.book.release(self.inner.store.watermarks().dispatched);
        self.inner.pop.schedule.bring_forward(book, &mut pages, self.inner.clock.now());
        let moved = pages.book.has_moved();
        drop(pages);
        if moved {
            book.owner.line.wake(Cause::Any);
        }
    }

    /// The next entries whose message groups are not known, at most `max`; `None` when there are none, or too many messages
    /// wait already.
    fn unseen(&self, book: &QueueBook, filter: &Filter, max: usize) -> Result<Option<Unseen>, ReadError> {
        let mut pages = book.open();
        if pages.forgotten {
            return Ok(None);
        }
        let pages = &mut pages.book;
        pages.keep_order(true, || self.inner.store.end());
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
        Ok((!entries.is_empty()).then_some(Unseen { from, entries }))
    }

    /// Reads the groups of these messages and puts each in its line.
    async fn see(&self, book: &QueueBook, unseen: Unseen) -> Result<(), ReadError> {
        let to_read = unseen.entries.iter().filter(|(_, look)| matches!(look, Look::Read));
        let places: Vec<_> = to_read.map(|(entry, _)| (entry.physical, entry.size)).collect();
        let store = self.inner.store.clone();
        let read = move || -> Vec<_> { places.iter().map(|(at, size)| store.message(*at, *size)).collect() };
        let messages = match unseen.entries.first() {
            Some((first, _)) if self.inner.store.is_cold(first.physical) => {
                let at = first.physical;
                let failed = |error| ReadError::Io { at, error: Arc::new(error) };
                // The poll may have been woken for this, and be dropped while it waits.
                let mut handed_on = HandOn(Some(book));
                let read = self.off_the_runtime(read).await;
                handed_on.0 = None;
                read.map_err(failed)?
            }
            _ => read(),
        };
        let mut pages = book.open();
        if pages.forgotten || pages.book.seen().is_none_or(|seen| seen < unseen.from) {
            // The group is not FIFO any more, or was not in between.
            return Ok(());
        }
        let mut messages = messages.into_iter();
        let mut expected = unseen.from;
        for (entry, look) in unseen.entries {
            let message = if matches!(look, Look::Read) { messages.next() } else { None };
            let line = message.map(|message| self.line_of(message)).transpose()?;
            if entry.offset > expected {
                // Retention was faster.
                pages.book.pass(expected..entry.offset);
            }
            expected = entry.offset.plus(1);
            if pages.book.seen().is_some_and(|seen| seen <= entry.offset) {
                place(&mut pages, entry.offset, line);
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
        let Some(id) = take.attempt_id.as_ref().filter(|_| group.fifo) else { return Ok(None) };
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
            let Some(entry) = book.queue.entries(offset, 1)?.first().copied() else { continue };
            let Some((attempt, nonce)) = pages.book.again(offset, place.nonce, now, until) else { continue };
            self.inner.pop.schedule.bring_forward(book, &mut pages, now);
            batch.book(Booked { book: index, offset, attempt, nonce, physical: entry.physical, size: entry.size });
        }
        if batch.is_empty() {
            return Ok(None);
        }
        let again = self.read(batch, &take.filter).await?;
        self.remember(subscription, group, take, &again);
        Ok((!again.is_empty()).then_some(again))
    }

    /// Remembers what a poll got, in case it is repeated.
    pub(super) fn remember(&self, subscription: &Subscription, group: &Group, take: &Take, found: &[Delivery]) {
        let Some(id) = take.attempt_id.as_ref().filter(|_| group.fifo) else { return };
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
            // Done by now; what became an exception meanwhile is not, and is read as the next one.
            if pages.book.is_done(offset) {
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
            match entry.filter(|entry| self.filter.may_match(entry.tags_code)) {
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
