//! A position that only grows, and those who wait for it.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use parking_lot::Mutex;

use super::Poisoned;
use crate::types::PhysicalOffset;

/// A monotonic position in the log. Whoever waits for a position is woken once it is reached, in the order of the
/// positions, or once the watermark is closed; what was reached before stays reached. Wakers are called outside its
/// lock. The waiters are as many as there are appends unanswered, so the bound on pending bytes bounds them too.
pub(super) struct Watermark {
    at: AtomicU64,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// By position and then by arrival.
    wakers: BTreeMap<(u64, u64), Waker>,
    arrivals: u64,
    closed: Option<Poisoned>,
}

impl Watermark {
    pub(super) fn new(at: PhysicalOffset) -> Self {
        Self { at: AtomicU64::new(at.get()), waiting: Mutex::default() }
    }

    pub(super) fn get(&self) -> PhysicalOffset {
        PhysicalOffset::new(self.at.load(Ordering::Acquire))
    }

    /// Moves the position forward; nothing happens when it is there already, or when the watermark is closed.
    pub(super) fn advance(&self, to: PhysicalOffset) {
        let ready = {
            let mut waiting = self.waiting.lock();
            if waiting.closed.is_some() || to <= self.get() {
                return;
            }
            self.at.store(to.get(), Ordering::Release);
            let later = waiting.wakers.split_off(&(to.get() + 1, 0));
            std::mem::replace(&mut waiting.wakers, later)
        };
        ready.into_values().for_each(Waker::wake);
    }

    /// Ends all waiting, now and later, for what is not reached yet. The first reason stays.
    pub(super) fn close(&self, reason: Poisoned) {
        let all = {
            let mut waiting = self.waiting.lock();
            waiting.closed.get_or_insert(reason);
            std::mem::take(&mut waiting.wakers)
        };
        all.into_values().for_each(Waker::wake);
    }

    /// Waits for a position. May be dropped at any time.
    pub(super) fn reached(&self, position: PhysicalOffset) -> Reached<'_> {
        Reached { mark: self, position: position.get(), ticket: None }
    }

    /// [`Self::reached`] for a thread that may block.
    pub(super) fn reached_blocking(&self, position: PhysicalOffset) -> Result<(), Poisoned> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut reached = std::pin::pin!(self.reached(position));
        loop {
            match reached.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(result) => return result,
                Poll::Pending => thread::park(),
            }
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// See [`Watermark::reached`].
pub(super) struct Reached<'a> {
    mark: &'a Watermark,
    position: u64,
    /// Which arrival this waits as.
    ticket: Option<u64>,
}

impl Future for Reached<'_> {
    type Output = Result<(), Poisoned>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mark = self.mark;
        if mark.get().get() >= self.position {
            return Poll::Ready(Ok(()));
        }
        let mut waiting = mark.waiting.lock();
        // Again under the lock: an advance between the look and the lock has woken nobody.
        if mark.get().get() >= self.position {
            return Poll::Ready(Ok(()));
        }
        if let Some(reason) = &waiting.closed {
            return Poll::Ready(Err(reason.clone()));
        }
        let ticket = *self.ticket.get_or_insert_with(|| {
            waiting.arrivals += 1;
            waiting.arrivals
        });
        match waiting.wakers.get_mut(&(self.position, ticket)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => {
                waiting.wakers.insert((self.position, ticket), cx.waker().clone());
            }
        }
        Poll::Pending
    }
}

impl Drop for Reached<'_> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            // The waker may own a task: it is dropped outside the lock.
            let waker = self.mark.waiting.lock().wakers.remove(&(self.position, ticket));
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);
    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn at(n: u64) -> PhysicalOffset {
        PhysicalOffset::new(n)
    }

    fn poll(future: &mut Reached<'_>, count: &Arc<Count>) -> Poll<Result<(), Poisoned>> {
        let waker = Waker::from(count.clone());
        Pin::new(future).poll(&mut Context::from_waker(&waker))
    }

    #[test]
    fn an_advance_wakes_what_lies_at_or_below_it_and_nothing_else() {
        let mark = Watermark::new(at(5));
        let counts: [Arc<Count>; 3] = Default::default();
        let mut waits = [mark.reached(at(6)), mark.reached(at(9)), mark.reached(at(10))];
        for (wait, count) in waits.iter_mut().zip(&counts) {
            assert!(poll(wait, count).is_pending());
        }
        mark.advance(at(9));
        assert_eq!(counts.each_ref().map(|c| c.0.load(Ordering::SeqCst)), [1, 1, 0]);
        assert!(matches!(poll(&mut waits[1], &counts[1]), Poll::Ready(Ok(()))));
        assert!(poll(&mut waits[2], &counts[2]).is_pending());
    }

    #[test]
    fn a_position_never_goes_back() {
        let mark = Watermark::new(at(5));
        mark.advance(at(3));
        assert_eq!(mark.get(), at(5));
    }

    #[test]
    fn a_dropped_wait_leaves_nothing_behind() {
        let mark = Watermark::new(at(0));
        let count = Arc::new(Count::default());
        let mut wait = mark.reached(at(1));
        assert!(poll(&mut wait, &count).is_pending());
        drop(wait);
        assert!(mark.waiting.lock().wakers.is_empty());
        mark.advance(at(1));
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn closing_ends_waits_with_the_first_reason_and_what_was_reached_stays_reached() {
        let mark = Watermark::new(at(4));
        let count = Arc::new(Count::default());
        let mut wait = mark.reached(at(8));
        assert!(poll(&mut wait, &count).is_pending());
        mark.close(Poisoned("first".into()));
        mark.close(Poisoned("second".into()));
        mark.advance(at(8));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(matches!(poll(&mut wait, &count), Poll::Ready(Err(Poisoned(why))) if &*why == "first"));
        assert!(matches!(poll(&mut mark.reached(at(4)), &count), Poll::Ready(Ok(()))));
        assert!(mark.reached_blocking(at(8)).is_err());
    }

    #[test]
    fn a_thread_that_waits_sees_every_advance() {
        let mark = Watermark::new(at(0));
        thread::scope(|scope| {
            for n in 1..=50 {
                let mark = &mark;
                scope.spawn(move || mark.reached_blocking(at(n)).map_err(|e| e.to_string()));
            }
            for n in 1..=50 {
                mark.advance(at(n));
            }
        });
        assert!(mark.waiting.lock().wakers.is_empty());
    }
}
