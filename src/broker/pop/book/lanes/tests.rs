use std::sync::Arc;

use super::*;
use crate::{broker::lite::Index, store::Entry};

fn at(n: u64) -> QueueOffset {
    QueueOffset::new(n)
}
fn t(us: u64) -> Deadline {
    Deadline::from_micros(us)
}
fn a() -> LiteId {
    LiteId::of("a")
}

/// An index of messages of lite topic a at these offsets.
fn index(offsets: std::ops::Range<u64>) -> Index {
    let mut index = Index::new(Arc::default());
    let entry = |n| Entry { offset: at(n), physical: PhysicalOffset::ZERO, size: 1, tags_code: a().code() };
    index.take_in(QueueOffset::ZERO, &offsets.map(entry).collect::<Vec<_>>(), t(0));
    index
}

fn book() -> Book {
    let mut book = Book::starting_at(QueueOffset::ZERO);
    book.use_lanes();
    book
}

#[test]
fn callers_that_read_the_clock_in_another_order_disturb_nothing() {
    let (mut book, index) = (book(), index(0..1));
    book.deliver_in_lane(a(), at(0), 1, t(5));
    book.expire(t(5), 9, 9);
    book.retry(at(0), 2, t(8), 9);
    assert_eq!(book.take_moved_lanes(t(10)), [a()]);
    assert_eq!(book.take_moved_lanes(t(7)), []);
    // What was told to be due is due for who looks with the older time, too: nobody tells it again.
    assert_eq!(book.head(a(), &index, at(0), t(7)), Head::Ready { offset: at(0), attempt: 2, fresh: false });
}

#[test]
fn a_lease_that_ended_before_a_moment_that_was_told_moves_its_lane() {
    let mut book = book();
    book.deliver_in_lane(a(), at(0), 1, t(5));
    assert_eq!(book.take_moved_lanes(t(10)), []);
    assert_eq!(book.expire(t(9), 9, 9).len(), 1);
    assert_eq!(book.next_event(t(9)), Some(t(9)), "a book with a lane that nobody told of is looked after at once");
    assert_eq!(book.take_moved_lanes(t(9)), [a()]);
    assert_eq!(book.next_event(t(9)), None);
}

#[test]
fn a_retry_that_falls_due_between_two_looks_is_told() {
    let mut book = book();
    book.deliver_in_lane(a(), at(0), 1, t(5));
    assert_eq!(book.take_moved_lanes(t(3)), []);
    book.retry(at(0), 2, t(6), 9);
    // As a poll does that only has the book looked after.
    assert_eq!(book.next_event(t(7)), Some(t(6)));
    assert_eq!(book.take_moved_lanes(t(7)), [a()]);
}

#[test]
fn nothing_of_a_lane_is_ready_before_what_was_done_is_safe() {
    let (mut book, index) = (book(), index(0..3));
    for offset in [1, 0] {
        book.enlist(at(offset), a(), &index, at(0));
        book.done_at(at(offset)..at(offset + 1), PhysicalOffset::new(10));
    }
    book.enlist(at(2), a(), &index, at(0));
    book.retry(at(2), 2, t(0), 9);
    assert_eq!(book.head(a(), &index, at(0), t(1)), Head::None);
    book.release(PhysicalOffset::new(9));
    assert_eq!(book.head(a(), &index, at(0), t(1)), Head::None);
    book.release(PhysicalOffset::new(10));
    assert_eq!(book.head(a(), &index, at(0), t(1)), Head::Ready { offset: at(2), attempt: 2, fresh: false });
    assert!(book.take_moved_lanes(t(1)).contains(&a()));
}

#[test]
fn an_end_of_a_lite_topic_forgets_no_progress_that_was_made_since() {
    let mut book = book();
    book.set_cursor(a(), at(5));
    book.forget_lanes(&[a()], at(4));
    assert_eq!(book.cursor(a()), Some(at(5)));
    book.forget_lanes(&[a()], at(5));
    assert_eq!(book.cursor(a()), None);
}

#[test]
fn what_expires_in_flight_lets_its_lane_go_on() {
    let (mut book, index) = (book(), index(0..2));
    book.deliver_in_lane(a(), at(0), 1, t(50));
    book.retained_from(at(1));
    assert_eq!((book.in_flight(), book.take_moved_lanes(t(1))), (0, vec![a()]));
    assert_eq!(book.head(a(), &index, at(1), t(1)), Head::Ready { offset: at(1), attempt: 1, fresh: true });
    // An ack of it that comes late changes nothing.
    book.enlist(at(0), a(), &index, at(1));
    book.done(at(0)..at(1));
    assert_eq!(book.cursor(a()), None);
}

#[test]
fn sets_that_wait_for_room_and_are_gone_do_not_pile_up() {
    let (sets, polls) = (crate::broker::lite::Sets::default(), crate::broker::long_poll::LongPoll::new(1, 1));
    let (mut book, mut seat) = (book(), None);
    let (topic, group) = (crate::types::TopicName::parse("t").unwrap(), crate::types::GroupName::parse("g").unwrap());
    for n in 0..1000 {
        let client = crate::types::ClientId::parse(&format!("c{n}")).unwrap();
        let (set, _) = sets.of(&client, &topic, &group, || polls.loose_line(), t(0)).unwrap();
        book.is_hungry(&set, true);
        if n > 0 {
            sets.close(&set);
        } else {
            seat = set.line.sit(crate::broker::Filter::All).ok();
        }
    }
    assert!(book.lanes.as_ref().unwrap().hungry.sets.len() <= 2 * HUNGRY_MIN);
    assert_eq!((book.fed(9).len(), seat.is_some()), (1, true));
}

#[test]
fn what_is_held_before_its_turn_is_told_when_it_is_due() {
    let (mut book, index) = (book(), index(0..2));
    // Of a receipt from before a crash, after its group went back.
    book.enlist(at(1), a(), &index, at(0));
    book.hold(at(1), 1, t(5));
    book.deliver_in_lane(a(), at(0), 1, t(50));
    book.take_moved_lanes(t(4));
    book.expire(t(5), 9, 9);
    assert_eq!(book.take_moved_lanes(t(5)), [a()]);
    book.enlist(at(0), a(), &index, at(0));
    book.done(at(0)..at(1));
    assert_eq!(book.head(a(), &index, at(0), t(5)), Head::Ready { offset: at(1), attempt: 2, fresh: false });
}

#[test]
fn what_is_over_is_forgotten_only_where_it_still_is() {
    let mut book = book();
    book.set_cursor(a(), at(0));
    book.set_cursor(a(), at(6));
    book.forget_cursors(&[(a(), at(0))]);
    assert_eq!(book.cursor(a()), Some(at(6)), "an ack came since it was looked at");
    book.forget_cursors(&[(a(), at(6))]);
    assert_eq!(book.cursor(a()), None);
}
