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
///
/// To wake a task of another thread's runtime costs a call to the system. So an advance wakes one waiter of each
/// thread, and that one, once it is polled or dropped there, wakes the others that came from its thread.
pub(super) struct Watermark {
    at: AtomicU64,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// By position and then by arrival.
    waiters: BTreeMap<(u64, u64), Waiter>,
    /// Those whose position is reached and who are still to be woken by another of their thread.
    relayed: BTreeMap<Lane, Vec<Waker>>,
    arrivals: u64,
    closed: Option<Poisoned>,
}

struct Waiter {
    lane: Lane,
    waker: Waker,
}

/// The thread that a waiter was polled on first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Lane(u64);

impl Lane {
    fn of_this_thread() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        thread_local! {
            static LANE: Lane = Lane(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        LANE.with(|lane| *lane)
    }
}

impl Waiting {
    /// Takes out who waits for `to` or less: one of each thread to be woken now, in the order of the positions.
    fn reach(&mut self, to: u64) -> Vec<Waker> {
        let later = self.waiters.split_off(&(to + 1, 0));
        let mut first = Vec::new();
        for Waiter { lane, waker } in std::mem::replace(&mut self.waiters, later).into_values() {
            match self.relayed.get_mut(&lane) {
                Some(others) => others.push(waker),
                None => {
                    self.relayed.insert(lane, Vec::new());
                    first.push(waker);
                }
            }
        }
        first
    }

    /// Takes out a waiter that waits no more, and whom it has to wake.
    fn leave(&mut self, place: (u64, u64), lane: Lane) -> (Option<Waiter>, Vec<Waker>) {
        let waiter = self.waiters.remove(&place);
        // One that is still among the waiters was not the one that was woken.
        let others = if waiter.is_none() { self.relayed.remove(&lane).unwrap_or_default() } else { Vec::new() };
        (waiter, others)
    }
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
            waiting.reach(to.get())
        };
        ready.into_iter().for_each(Waker::wake);
    }

    /// Ends all waiting, now and later, for what is not reached yet. The first reason stays.
    pub(super) fn close(&self, reason: Poisoned) {
        let all = {
            let mut waiting = self.waiting.lock();
            waiting.closed.get_or_insert(reason);
            std::mem::take(&mut waiting.waiters)
        };
        all.into_values().for_each(|waiter| waiter.waker.wake());
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
    /// Which arrival this waits as, and from which thread.
    ticket: Option<(u64, Lane)>,
}

impl Reached<'_> {
    /// Waits no more. Whoever relies on this one to be woken is.
    fn leave(&mut self) {
        if let Some((arrival, lane)) = self.ticket.take() {
            // Wakers may own tasks: they are called and dropped outside the lock.
            let (_waiter, others) = self.mark.waiting.lock().leave((self.position, arrival), lane);
            others.into_iter().for_each(Waker::wake);
        }
    }
}

impl Future for Reached<'_> {
    type Output = Result<(), Poisoned>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mark = self.mark;
        if mark.get().get() >= self.position {
            self.leave();
            return Poll::Ready(Ok(()));
        }
        let mut waiting = mark.waiting.lock();
        // Again under the lock: an advance between the look and the lock has woken nobody.
        let is_reached = mark.get().get() >= self.position;
        if is_reached || waiting.closed.is_some() {
            let result = if is_reached { Ok(()) } else { waiting.closed.clone().map_or(Ok(()), Err) };
            drop(waiting);
            self.leave();
            return Poll::Ready(result);
        }
        let (arrival, lane) = self.ticket.unwrap_or_else(|| {
            waiting.arrivals += 1;
            (waiting.arrivals, Lane::of_this_thread())
        });
        match waiting.waiters.get_mut(&(self.position, arrival)) {
            Some(waiter) => waiter.waker.clone_from(cx.waker()),
            None => {
                let waker = cx.waker().clone();
                waiting.waiters.insert((self.position, arrival), Waiter { lane, waker });
            }
        }
        drop(waiting);
        self.ticket = Some((arrival, lane));
        Poll::Pending
    }
}

impl Drop for Reached<'_> {
    fn drop(&mut self) {
        self.leave();
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

    fn woken(counts: &[Arc<Count>]) -> Vec<usize> {
        counts.iter().map(|c| c.0.load(Ordering::SeqCst)).collect()
    }

    #[test]
    fn an_advance_wakes_what_lies_at_or_below_it_and_nothing_else() {
        let mark = Watermark::new(at(5));
        let counts: [Arc<Count>; 4] = Default::default();
        let mut waits = [mark.reached(at(6)), mark.reached(at(8)), mark.reached(at(9)), mark.reached(at(10))];
        for (wait, count) in waits.iter_mut().zip(&counts) {
            assert!(poll(wait, count).is_pending());
        }
        mark.advance(at(9));
        // One call to the thread, where the first wakes the others.
        assert_eq!(woken(&counts), [1, 0, 0, 0]);
        assert!(matches!(poll(&mut waits[0], &counts[0]), Poll::Ready(Ok(()))));
        assert_eq!(woken(&counts), [1, 1, 1, 0]);
        assert!(matches!(poll(&mut waits[1], &counts[1]), Poll::Ready(Ok(()))));
        assert!(poll(&mut waits[3], &counts[3]).is_pending());
        assert_eq!(woken(&counts), [1, 1, 1, 0]);
    }

    #[test]
    fn each_thread_that_waits_is_woken_by_the_advance_itself() {
        let mark = Watermark::new(at(0));
        let counts: [Arc<Count>; 4] = Default::default();
        let mut waits = [1, 2, 3, 4].map(|n| mark.reached(at(n)));
        let (here, there) = waits.split_at_mut(2);
        let register = |waits: &mut [Reached<'_>], counts: &[Arc<Count>]| {
            waits.iter_mut().zip(counts).for_each(|(wait, count)| assert!(poll(wait, count).is_pending()));
        };
        register(here, &counts[..2]);
        thread::scope(|scope| scope.spawn(|| register(there, &counts[2..])).join().unwrap());
        mark.advance(at(4));
        assert_eq!(woken(&counts), [1, 0, 1, 0]);
    }

    #[test]
    fn a_waiter_that_is_dropped_once_it_was_woken_leaves_nobody_asleep() {
        let mark = Watermark::new(at(0));
        let counts: [Arc<Count>; 3] = Default::default();
        let [mut first, mut second, mut third] = [1, 1, 2].map(|n| mark.reached(at(n)));
        for (wait, count) in [&mut first, &mut second, &mut third].into_iter().zip(&counts) {
            assert!(poll(wait, count).is_pending());
        }
        mark.advance(at(1));
        // Reached while the one that was woken has not come yet.
        mark.advance(at(2));
        assert_eq!(woken(&counts), [1, 0, 0]);
        drop(first);
        assert_eq!(woken(&counts), [1, 1, 1]);
        assert!(matches!(poll(&mut second, &counts[1]), Poll::Ready(Ok(()))));
        assert!(matches!(poll(&mut third, &counts[2]), Poll::Ready(Ok(()))));
        assert!(mark.waiting.lock().relayed.is_empty());
    }

    #[test]
    fn a_waiter_that_gives_up_before_its_position_does_not_take_the_place_of_one_that_was_woken() {
        let mark = Watermark::new(at(0));
        let counts: [Arc<Count>; 3] = Default::default();
        let [mut first, mut second, mut late] = [1, 1, 9].map(|n| mark.reached(at(n)));
        for (wait, count) in [&mut first, &mut second, &mut late].into_iter().zip(&counts) {
            assert!(poll(wait, count).is_pending());
        }
        mark.advance(at(1));
        drop(late);
        assert_eq!(woken(&counts), [1, 0, 0]);
        assert!(matches!(poll(&mut first, &counts[0]), Poll::Ready(Ok(()))));
        assert_eq!(woken(&counts), [1, 1, 0]);
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
        assert!(mark.waiting.lock().waiters.is_empty());
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
        assert!(mark.waiting.lock().waiters.is_empty());
    }
}
