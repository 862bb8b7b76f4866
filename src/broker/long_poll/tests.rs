use std::sync::atomic::AtomicU64;

use super::*;
use crate::{broker::filter::Tag, types::tags_code};

fn names() -> (TopicName, GroupName) {
    (TopicName::parse("orders").expect("a name"), GroupName::parse("billing").expect("a name"))
}

fn tag(text: &str) -> Filter {
    Filter::Tags(vec![Tag { text: text.into(), code: tags_code(Some(text)) }])
}

/// A seat and how often its poll was woken.
struct Parked {
    seat: Seat,
    wakes: Arc<Count>,
}

#[derive(Default)]
struct Count(AtomicU64);

impl std::task::Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Parked {
    fn in_line(line: &Arc<Line>, filter: Filter) -> Self {
        let parked = Self { seat: line.sit(filter).expect("room"), wakes: Arc::default() };
        assert!(!parked.is_woken());
        parked
    }
    /// Polls, and so leaves its waker.
    fn is_woken(&self) -> bool {
        let waker = Waker::from(Arc::clone(&self.wakes));
        self.seat.poll_woken(&mut Context::from_waker(&waker)).is_ready()
    }
}

#[test]
fn an_arrival_wakes_the_oldest_poll_of_each_group_and_no_other() {
    let (topic, group) = names();
    let polls = LongPoll::new(10, 10);
    let line = polls.line(&topic, &group);
    let (first, second) = (Parked::in_line(&line, Filter::All), Parked::in_line(&line, Filter::All));
    let other_group = Parked::in_line(&polls.line(&topic, &GroupName::parse("audit").expect("a name")), Filter::All);
    let other_topic = Parked::in_line(&polls.line(&TopicName::parse("t").expect("a name"), &group), Filter::All);
    polls.arrived(&topic, QueueId(0), 0);
    assert!(first.is_woken() && !second.is_woken() && other_group.is_woken() && !other_topic.is_woken());
    polls.arrived(&topic, QueueId(0), 0);
    assert!(!second.is_woken(), "the first is on its way and will see both");
    assert_eq!(first.wakes.0.load(Ordering::SeqCst), 1);
}

#[test]
fn an_arrival_takes_no_lock_of_a_line_in_which_nobody_waits() {
    let (topic, group) = names();
    let polls = Arc::new(LongPoll::new(10, 10));
    let gone = polls.line(&topic, &GroupName::parse("audit").expect("a name"));
    drop(Parked::in_line(&gone, Filter::All));
    let parked = Parked::in_line(&polls.line(&topic, &group), Filter::All);
    let held = gone.seats.lock();
    let (tell, told) = std::sync::mpsc::channel();
    let arrives = std::thread::spawn({
        let (polls, topic) = (Arc::clone(&polls), topic.clone());
        move || {
            polls.arrived(&topic, QueueId(0), 0);
            tell.send(()).expect("the test listens");
        }
    });
    let told = told.recv_timeout(std::time::Duration::from_secs(10));
    drop(held);
    arrives.join().expect("no panic");
    told.expect("it waited for the lock");
    assert!(parked.is_woken());
    let back = Parked::in_line(&gone, Filter::All);
    polls.arrived(&topic, QueueId(0), 0);
    assert!(back.is_woken());
}

#[test]
fn an_arrival_wakes_every_pull_of_its_queue_that_may_want_it() {
    let (topic, group) = names();
    let polls = LongPoll::new(10, 10);
    let line = polls.queue_line(&topic, QueueId(1));
    let pulls = [Filter::All, tag("A"), Filter::All, tag("B")].map(|filter| Parked::in_line(&line, filter));
    let other_queue = Parked::in_line(&polls.queue_line(&topic, QueueId(0)), Filter::All);
    let poll = Parked::in_line(&polls.line(&topic, &group), Filter::All);
    polls.arrived(&topic, QueueId(1), tags_code(Some("A")));
    assert_eq!(pulls.each_ref().map(Parked::is_woken), [true, true, true, false]);
    assert!(!other_queue.is_woken() && poll.is_woken());
    polls.end();
    assert!(pulls[3].is_woken() && other_queue.is_woken());
}

#[test]
fn a_poll_that_looks_again_is_woken_by_what_arrives_after_that() {
    let (topic, group) = names();
    let polls = LongPoll::new(10, 10);
    let parked = Parked::in_line(&polls.line(&topic, &group), Filter::All);
    polls.arrived(&topic, QueueId(0), 0);
    parked.seat.about_to_look();
    assert!(!parked.is_woken());
    polls.arrived(&topic, QueueId(0), 0);
    assert!(parked.is_woken());
}

#[test]
fn a_woken_poll_that_goes_away_passes_the_wake_up_on() {
    let (topic, group) = names();
    let polls = LongPoll::new(10, 10);
    let line = polls.line(&topic, &group);
    let (first, second) = (Parked::in_line(&line, Filter::All), Parked::in_line(&line, Filter::All));
    polls.arrived(&topic, QueueId(0), 0);
    drop(first);
    assert!(second.is_woken());
    second.seat.about_to_look();
    second.seat.looked();
    let third = Parked::in_line(&line, Filter::All);
    drop(second);
    assert!(!third.is_woken(), "that wake-up was used");
}

#[test]
fn a_poll_whose_look_failed_passes_the_wake_up_on() {
    let (topic, group) = names();
    let polls = LongPoll::new(10, 10);
    let line = polls.line(&topic, &group);
    let (first, second) = (Parked::in_line(&line, Filter::All), Parked::in_line(&line, Filter::All));
    polls.arrived(&topic, QueueId(0), 0);
    first.seat.about_to_look();
    assert!(!second.is_woken());
    // It could not read, or its client went away meanwhile.
    drop(first);
    assert!(second.is_woken());
}

#[test]
fn a_message_wakes_a_poll_that_wants_it_not_merely_the_oldest() {
    let (topic, group) = names();
    let polls = LongPoll::new(10, 10);
    let line = polls.line(&topic, &group);
    let (a, b) = (Parked::in_line(&line, tag("A")), Parked::in_line(&line, tag("B")));
    polls.arrived(&topic, QueueId(0), tags_code(Some("C")));
    assert!(!a.is_woken() && !b.is_woken());
    polls.arrived(&topic, QueueId(0), tags_code(Some("B")));
    assert!(!a.is_woken() && b.is_woken());
    let b2 = Parked::in_line(&line, tag("B"));
    drop(b);
    assert!(!a.is_woken() && b2.is_woken(), "the wake-up goes to one that wants the message");
}

#[test]
fn what_may_concern_any_filter_wakes_one_poll_of_each() {
    let (topic, group) = names();
    let polls = LongPoll::new(10, 10);
    let line = polls.line(&topic, &group);
    let parked = [tag("A"), tag("A"), tag("B"), tag("B")].map(|filter| Parked::in_line(&line, filter));
    line.wake(Cause::Any);
    assert_eq!(parked.each_ref().map(Parked::is_woken), [true, false, true, false]);
}

#[test]
fn seats_are_bounded_and_come_free_again() {
    let (topic, group) = names();
    let polls = LongPoll::new(3, 2);
    let line = polls.line(&topic, &group);
    let (first, _second) = (line.sit(Filter::All).expect("room"), line.sit(Filter::All).expect("room"));
    let full = Full { parked: 2, max: 2, setting: "popPollingSize" };
    assert_eq!(line.sit(Filter::All).err(), Some(full));
    let other = polls.line(&TopicName::parse("t").expect("a name"), &group);
    let _third = other.sit(Filter::All).expect("room");
    let full = Full { parked: 3, max: 3, setting: "maxPopPollingSize" };
    assert_eq!(other.sit(Filter::All).err(), Some(full));
    drop(first);
    assert_eq!(polls.parked(), 2);
    assert!(other.sit(Filter::All).is_ok());
    assert_eq!(polls.parked(), 2);
}

#[test]
fn the_end_wakes_all_and_lets_nobody_wait_again() {
    let (topic, group) = names();
    let polls = LongPoll::new(10, 10);
    let line = polls.line(&topic, &group);
    let parked = [(); 3].map(|()| Parked::in_line(&line, Filter::All));
    polls.end();
    assert!(parked.iter().all(Parked::is_woken) && polls.has_ended());
    let late = line.sit(Filter::All).expect("room");
    let woken = late.poll_woken(&mut Context::from_waker(Waker::noop())).is_ready();
    assert!(woken);
}

#[test]
fn forgetting_sends_the_polls_to_look_again() {
    let (topic, group) = names();
    let polls = LongPoll::new(10, 10);
    let parked = Parked::in_line(&polls.line(&topic, &group), Filter::All);
    polls.forget_groups(|of| *of == group);
    assert!(parked.is_woken() && !parked.seat.is_in(&polls.line(&topic, &group)));
    let parked = Parked::in_line(&polls.line(&topic, &group), Filter::All);
    polls.forget_topic(&topic);
    assert!(parked.is_woken());
}

/// Producers and polls on threads of their own: every message is found by a look, though nobody looks without being
/// woken.
#[test]
fn no_wake_up_is_lost_under_contention() {
    const MESSAGES: u64 = 20_000;
    let (topic, group) = names();
    let polls = LongPoll::new(10, 10);
    let line = polls.line(&topic, &group);
    let (published, taken) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while taken.load(Ordering::SeqCst) < MESSAGES {
                    let seat = line.sit(Filter::All).expect("room");
                    for _ in 0..3 {
                        let seen = published.load(Ordering::Acquire);
                        taken.fetch_max(seen, Ordering::SeqCst);
                        if seen == MESSAGES {
                            return;
                        }
                        block_on(&seat);
                        seat.about_to_look();
                    }
                }
            });
        }
        for n in 1..=MESSAGES {
            published.store(n, Ordering::Release);
            polls.arrived(&topic, QueueId(0), 0);
            if n % 64 == 0 {
                // Only the polls can do this: the producer waits until its messages were seen.
                while taken.load(Ordering::SeqCst) < n {
                    std::thread::yield_now();
                }
            }
        }
        polls.end();
    });
    assert_eq!(taken.load(Ordering::SeqCst), MESSAGES);
}

fn block_on(seat: &Seat) {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    while seat.poll_woken(&mut Context::from_waker(&waker)).is_pending() {
        std::thread::park();
    }
}
