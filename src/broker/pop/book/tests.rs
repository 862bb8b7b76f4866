use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;

const MAX_ATTEMPTS: u32 = 3;

fn at(n: u64) -> QueueOffset {
    QueueOffset::new(n)
}
fn one(n: u64) -> Range<QueueOffset> {
    at(n)..at(n + 1)
}
fn t(us: u64) -> Deadline {
    Deadline::from_micros(us)
}
fn claim(offset: u64, nonce: u32) -> Claim {
    Claim { offset: at(offset), attempt: 1, run: ClaimedRun::This { nonce }, open: true, passed: false }
}
fn earlier(offset: u64, attempt: u32) -> Claim {
    let run = ClaimedRun::Earlier { issue: Issue { run: 1, nonce: 1 }, end: at(100) };
    Claim { offset: at(offset), attempt, run, open: true, passed: false }
}

#[test]
fn acks_out_of_order_move_the_commit_point_once_the_gap_closes() {
    let mut book = Book::starting_at(at(0));
    for n in 0..4 {
        book.deliver(at(n), 1, t(100));
    }
    book.done(one(1));
    book.done(one(3));
    assert_eq!((book.commit(), book.in_flight()), (at(0), 2));
    assert_eq!(book.done_ranges().count(), 2);
    book.done(one(0));
    assert_eq!(book.commit(), at(2));
    book.done(one(2));
    assert_eq!((book.commit(), book.next(), book.in_flight()), (at(4), at(4), 0));
    assert_eq!(book.done_ranges().count(), 0);
}

#[test]
fn an_expired_lease_becomes_the_next_attempt_and_its_receipt_goes_stale() {
    let mut book = Book::starting_at(at(0));
    let first = book.deliver(at(0), 1, t(100));
    assert_eq!(book.next_event(t(0)), Some(t(100)));
    assert_eq!(book.expire(t(99), MAX_ATTEMPTS, 10), []);
    assert_eq!(book.judge(claim(0, first), t(99)), Verdict::Live);
    assert_eq!(book.judge(claim(0, first), t(100)), Verdict::Stale);
    assert_eq!(book.ready(t(100)), None);
    let failed = Failed { offset: at(0), attempt: 2, is_logged: false };
    assert_eq!(book.expire(t(100), MAX_ATTEMPTS, 10), [failed]);
    assert_eq!(book.ready(t(100)), Some((at(0), 2)));
    let second = book.deliver(at(0), 2, t(200));
    assert_ne!(first, second);
    assert_eq!(book.judge(claim(0, first), t(150)), Verdict::Stale);
    assert_eq!(book.judge(claim(0, second), t(150)), Verdict::Live);
}

#[test]
fn a_held_message_is_live_until_its_time_and_needs_no_record_then() {
    let mut book = Book::starting_at(at(0));
    let old = book.deliver(at(0), 1, t(100));
    let new = book.hold(at(0), 1, t(500));
    assert_eq!(book.judge(claim(0, old), t(50)), Verdict::Stale);
    assert_eq!(book.judge(claim(0, new), t(499)), Verdict::Live);
    assert_eq!(book.expire(t(500), MAX_ATTEMPTS, 10), [Failed { offset: at(0), attempt: 2, is_logged: true }]);
}

#[test]
fn the_last_attempt_is_followed_by_doom_and_a_failed_move_comes_again() {
    let mut book = Book::starting_at(at(0));
    book.deliver(at(0), MAX_ATTEMPTS, t(100));
    assert_eq!(book.expire(t(100), MAX_ATTEMPTS, 10).len(), 1);
    assert_eq!(book.ready(t(100)), None);
    assert_eq!(book.doomed(t(100), MAX_ATTEMPTS, 10), [(at(0), 4)]);
    assert_eq!(book.doomed(t(100), MAX_ATTEMPTS, 10), [], "it is being moved");
    book.doom_again(at(0), t(300));
    assert_eq!(book.doomed(t(299), MAX_ATTEMPTS, 10), []);
    assert_eq!(book.next_event(t(299)), Some(t(300)));
    assert_eq!(book.doomed(t(300), MAX_ATTEMPTS, 10), [(at(0), 4)]);
    book.done(one(0));
    assert_eq!((book.commit(), book.waiting()), (at(1), 0));
}

#[test]
fn a_doomed_message_is_spared_when_its_group_gets_more_attempts() {
    let mut book = Book::starting_at(at(0));
    book.retry(at(0), 4, t(10), MAX_ATTEMPTS);
    assert_eq!(book.doomed(t(10), MAX_ATTEMPTS + 1, 10), []);
    assert_eq!(book.ready(t(10)), Some((at(0), 4)));
}

#[test]
fn a_retry_that_is_ready_is_no_event_any_more() {
    let mut book = Book::starting_at(at(0));
    book.retry(at(0), 2, t(10), MAX_ATTEMPTS);
    book.retry(at(1), 2, t(20), MAX_ATTEMPTS);
    assert_eq!(book.next_event(t(9)), Some(t(10)));
    assert_eq!(book.next_event(t(10)), Some(t(20)));
    assert_eq!(book.next_event(t(20)), None);
}

#[test]
fn what_is_given_back_comes_again_as_the_same_attempt_unless_it_was_settled() {
    let mut book = Book::starting_at(at(0));
    let nonce = book.deliver(at(0), 1, t(100));
    book.give_back(at(0), nonce, t(5));
    assert_eq!(book.ready(t(5)), Some((at(0), 1)));
    let nonce = book.deliver(at(0), 1, t(100));
    book.give_back(at(0), nonce.wrapping_sub(1), t(5));
    assert_eq!(book.in_flight(), 1);
    book.done(one(0));
    book.give_back(at(0), nonce, t(5));
    assert_eq!((book.commit(), book.waiting()), (at(1), 0));
}

#[test]
fn after_a_restart_the_walk_passes_over_what_is_known() {
    let mut book = Book::starting_at(at(0));
    book.done(at(2)..at(4));
    book.retry(at(5), 2, t(10), MAX_ATTEMPTS);
    let mut fresh = Vec::new();
    while book.next() < at(8) {
        let next = book.next();
        assert!(book.is_untouched(next));
        book.deliver(next, 1, t(99));
        fresh.push(next.get());
    }
    assert_eq!(fresh, [0, 1, 4, 6, 7]);
    assert_eq!(book.ready(t(10)), Some((at(5), 2)));
}

#[test]
fn passing_moves_on_without_an_exception() {
    let mut book = Book::starting_at(at(0));
    book.pass(one(0));
    let nonce = book.deliver(at(1), 1, t(9));
    book.pass(at(2)..at(50));
    assert_eq!((book.commit(), book.next()), (at(1), at(50)));
    book.pass_delivery(at(1), nonce);
    assert_eq!((book.commit(), book.in_flight()), (at(50), 0));
}

#[test]
fn a_receipt_of_an_earlier_run_holds_until_the_message_is_delivered_again() {
    let mut book = Book::starting_at(at(10));
    assert_eq!(book.judge(earlier(9, 1), t(0)), Verdict::Done);
    assert_eq!(book.judge(earlier(10, 1), t(0)), Verdict::Live);
    assert_eq!(book.judge(earlier(100, 1), t(0)), Verdict::Unknown);
    assert_eq!(book.judge(Claim { open: false, ..earlier(10, 1) }, t(0)), Verdict::Stale);
    book.retry(at(10), 3, t(50), MAX_ATTEMPTS);
    assert_eq!(book.judge(earlier(10, 1), t(0)), Verdict::Stale, "attempt 2 was delivered since");
    assert_eq!(book.judge(earlier(10, 2), t(0)), Verdict::Live);
    book.deliver(at(10), 3, t(90));
    assert_eq!(book.judge(earlier(10, 2), t(60)), Verdict::Stale);
}

#[test]
fn offsets_behind_the_queues_end_are_forgotten() {
    let mut book = Book::starting_at(at(3));
    book.done(at(6)..at(12));
    book.retry(at(4), 2, t(10), MAX_ATTEMPTS);
    book.retry(at(11), 2, t(10), MAX_ATTEMPTS);
    assert!(book.truncate(at(10)));
    assert!(!book.truncate(at(10)));
    assert_eq!(book.done_ranges().collect::<Vec<_>>(), [at(6)..at(10)]);
    assert!(book.is_untouched(at(11)));
    assert!(book.truncate(at(2)));
    assert_eq!((book.commit(), book.next(), book.waiting()), (at(2), at(2), 0));
}

#[test]
fn many_in_flight_are_acked_in_any_order() {
    const COUNT: u64 = 100_000;
    let mut book = Book::starting_at(at(0));
    for n in 0..COUNT {
        book.deliver(at(n), 1, t(1000 + n / 32));
    }
    assert_eq!(book.in_flight() as u64, COUNT);
    for n in 0..COUNT {
        let offset = n.wrapping_mul(48_271) % COUNT; // a permutation: 48271 is prime and no factor of COUNT
        book.done(one(offset));
    }
    assert_eq!((book.commit(), book.in_flight(), book.done_ranges().count()), (at(COUNT), 0, 0));
}

/// What happens to one offset, in the simplest terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Simple {
    Done,
    InFlight { until: u64, attempt: u32, nonce: u32 },
    Waiting { due: u64, attempt: u32 },
    Doomed { due: u64 },
    Moving,
}

#[derive(Clone, Debug)]
enum Op {
    Fresh(u64),
    Ready(u64),
    Done(u64, u64),
    Pass(u64),
    GiveBack(u64, u64),
    Hold(u64, u64),
    Renew(u64, u64),
    Retry(u64, u32, u64),
    Expire,
    Doom,
    DoomAgain(u64),
    Tick(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let offset = || 0u64..24;
    let later = || 0u64..20;
    prop_oneof![
        4 => later().prop_map(Op::Fresh),
        3 => later().prop_map(Op::Ready),
        3 => (offset(), 1u64..4).prop_map(|(o, n)| Op::Done(o, n)),
        1 => (1u64..4).prop_map(Op::Pass),
        1 => (offset(), later()).prop_map(|(o, d)| Op::GiveBack(o, d)),
        2 => (offset(), later()).prop_map(|(o, d)| Op::Hold(o, d)),
        1 => (offset(), later()).prop_map(|(o, d)| Op::Renew(o, d)),
        1 => (offset(), 1u32..6, later()).prop_map(|(o, a, d)| Op::Retry(o, a, d)),
        3 => Just(Op::Expire),
        2 => Just(Op::Doom),
        1 => (offset()).prop_map(Op::DoomAgain),
        4 => (1u64..12).prop_map(Op::Tick),
    ]
}

/// A map from offset to state, and the rules in their plainest form.
#[derive(Default)]
struct Model {
    map: BTreeMap<u64, Simple>,
    now: u64,
}

impl Model {
    fn first_untouched(&self) -> u64 {
        (0..).find(|n| !self.map.contains_key(n)).expect("finite")
    }

    fn apply(&mut self, op: &Op, book: &mut Book) {
        let now = self.now;
        match *op {
            Op::Fresh(lease) => {
                let next = book.next();
                assert_eq!(next.get(), self.first_untouched());
                let nonce = book.deliver(next, 1, t(now + lease));
                self.map.insert(next.get(), Simple::InFlight { until: now + lease, attempt: 1, nonce });
            }
            Op::Ready(lease) => {
                let waiting = self.map.iter().filter_map(|(o, s)| match s {
                    Simple::Waiting { due, attempt } if *due <= now => Some((*due, *o, *attempt)),
                    _ => None,
                });
                let expected = waiting.min().map(|(_, o, attempt)| (at(o), attempt));
                assert_eq!(book.ready(t(now)), expected);
                if let Some((offset, attempt)) = expected {
                    let nonce = book.deliver(offset, attempt, t(now + lease));
                    self.map.insert(offset.get(), Simple::InFlight { until: now + lease, attempt, nonce });
                }
            }
            Op::Done(offset, len) => {
                book.done(at(offset)..at(offset + len));
                self.map.extend((offset..offset + len).map(|o| (o, Simple::Done)));
            }
            Op::Pass(len) => {
                let next = book.next();
                book.pass(next..next.plus(len));
                self.map.extend((next.get()..next.get() + len).map(|o| (o, Simple::Done)));
            }
            Op::GiveBack(..) | Op::Hold(..) | Op::Renew(..) => self.apply_to_lease(op, book),
            Op::Retry(offset, attempt, delay) => {
                book.retry(at(offset), attempt, t(now + delay), MAX_ATTEMPTS);
                if self.map.get(&offset) != Some(&Simple::Done) {
                    self.map.insert(offset, Self::failed(attempt, now + delay));
                }
            }
            Op::Expire => {
                book.expire(t(now), MAX_ATTEMPTS, 100);
                for state in self.map.values_mut() {
                    match *state {
                        Simple::InFlight { until, attempt, .. } if until <= now => {
                            *state = Self::failed(attempt + 1, until);
                        }
                        _ => {}
                    }
                }
            }
            Op::Doom => {
                let moved: Vec<_> = book.doomed(t(now), MAX_ATTEMPTS, 100).iter().map(|(o, _)| o.get()).collect();
                for (offset, state) in &mut self.map {
                    let due = matches!(state, Simple::Doomed { due } if *due <= now);
                    assert_eq!(moved.contains(offset), due);
                    if due {
                        *state = Simple::Moving;
                    }
                }
            }
            Op::DoomAgain(offset) => {
                book.doom_again(at(offset), t(now + 3));
                if self.map.get(&offset) == Some(&Simple::Moving) {
                    self.map.insert(offset, Simple::Doomed { due: now + 3 });
                }
            }
            Op::Tick(us) => self.now += us,
        }
    }

    fn failed(attempt: u32, due: u64) -> Simple {
        if attempt > MAX_ATTEMPTS { Simple::Doomed { due } } else { Simple::Waiting { due, attempt } }
    }

    fn apply_to_lease(&mut self, op: &Op, book: &mut Book) {
        let now = self.now;
        let (Op::GiveBack(offset, _) | Op::Hold(offset, _) | Op::Renew(offset, _)) = *op else { unreachable!() };
        let Some(&Simple::InFlight { attempt, nonce, until }) = self.map.get(&offset) else { return };
        let held = book
            .exceptions()
            .any(|(o, e)| o == at(offset) && matches!(e, Exception::InFlight { logged: Logged::Change, .. }));
        let live = book.judge(claim(offset, nonce), t(now));
        assert_eq!(live == Verdict::Live, now < until);
        let after = match *op {
            Op::GiveBack(_, delay) => {
                book.give_back(at(offset), nonce, t(now + delay));
                if held {
                    return;
                }
                Simple::Waiting { due: now + delay, attempt }
            }
            Op::Hold(_, delay) => {
                let nonce = book.hold(at(offset), attempt, t(now + delay));
                Simple::InFlight { until: now + delay, attempt, nonce }
            }
            Op::Renew(_, delay) => {
                book.renew(at(offset), t(now + delay));
                Simple::InFlight { until: now + delay, attempt, nonce }
            }
            _ => unreachable!(),
        };
        self.map.insert(offset, after);
    }

    fn check(&self, book: &mut Book) {
        let commit = (0..).find(|n| self.map.get(n) != Some(&Simple::Done)).expect("finite");
        assert_eq!(book.commit().get(), commit);
        assert_eq!(book.next().get(), self.first_untouched());
        for n in 0..40 {
            assert_eq!(book.is_done(at(n)), self.map.get(&n) == Some(&Simple::Done), "done {n}");
            let undone = book.undone_from(at(n));
            assert!(!book.is_done(undone) && (n..undone.get()).all(|m| book.is_done(at(m))), "undone from {n}");
            assert_eq!(book.is_untouched(at(n)), !self.map.contains_key(&n), "untouched {n}");
        }
        let in_flight = self.map.values().filter(|s| matches!(s, Simple::InFlight { .. })).count();
        let exceptions = self.map.values().filter(|s| **s != Simple::Done).count();
        assert_eq!((book.in_flight(), book.waiting()), (in_flight, exceptions - in_flight));
        let events = self.map.values().filter_map(|s| match *s {
            Simple::InFlight { until, .. } => Some(until),
            Simple::Waiting { due, .. } => Some(due).filter(|due| *due > self.now),
            Simple::Doomed { due } => Some(due),
            Simple::Done | Simple::Moving => None,
        });
        assert_eq!(book.next_event(t(self.now)).map(Deadline::as_micros), events.min());
    }
}

proptest! {
    #[test]
    fn the_book_agrees_with_a_plain_map(ops in vec(op(), 1..120)) {
        let (mut book, mut model) = (Book::starting_at(at(0)), Model::default());
        for op in &ops {
            model.apply(op, &mut book);
            model.check(&mut book);
        }
    }
}

#[test]
fn a_lease_of_an_earlier_run_is_settled_by_its_own_receipt_until_it_ends() {
    let issue = |run, nonce| Issue { run, nonce };
    let mut book = Book::starting_at(at(0));
    book.hold_over(at(3), 2, t(100), issue(1, 3));
    let claim = |attempt, issue, open| {
        let run = ClaimedRun::Earlier { issue, end: at(100) };
        Claim { offset: at(3), attempt, run, open, passed: false }
    };
    for (attempt, issue, open, now, verdict) in [
        (2, issue(1, 3), false, 99, Verdict::Live),
        (2, issue(1, 3), false, 100, Verdict::Stale),
        (2, issue(1, 3), true, 100, Verdict::Live),
        // Given out before it.
        (2, issue(1, 2), true, 0, Verdict::Stale),
        (2, issue(0, 9), true, 0, Verdict::Stale),
        (3, issue(0, 9), true, 0, Verdict::Stale),
        // Given out later, which the log does not have.
        (2, issue(1, 4), true, 0, Verdict::Live),
        (3, issue(2, 1), true, 0, Verdict::Live),
        (3, issue(2, 1), false, 0, Verdict::Stale),
    ] {
        assert_eq!(book.judge(claim(attempt, issue, open), t(now)), verdict, "{attempt} {issue:?} {open} {now}");
    }
    let own = Claim { run: ClaimedRun::This { nonce: 3 }, ..claim(2, issue(1, 3), true) };
    assert_eq!(book.judge(own, t(0)), Verdict::Stale, "this run delivered nothing");
    assert_eq!(book.renew(at(3), t(900)), None, "who prolonged it is gone");
    assert_eq!(book.issue(at(3), 9), Some(issue(1, 3)));
    assert_eq!((book.in_flight(), book.next_event(t(0))), (1, Some(t(100))));
    let failed = Failed { offset: at(3), attempt: 3, is_logged: false };
    assert_eq!(book.expire(t(100), MAX_ATTEMPTS, 10), [failed]);
    assert_eq!(book.deliver(at(3), 3, t(200)), 1);
    assert_eq!(book.issue(at(3), 9), Some(issue(9, 1)), "that run is forgotten with its delivery");
}
