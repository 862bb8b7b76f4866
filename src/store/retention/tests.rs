use super::*;
use crate::types::{Clock, ManualClock};

const HOUR: Duration = Duration::from_secs(3600);
/// 2025-09-01T12:00:00Z.
const NOON: i64 = 1_756_728_000_000;

fn at(hours: i64) -> Timestamp {
    Timestamp::from_millis(NOON + hours * 3_600_000)
}

fn offset(n: u64) -> PhysicalOffset {
    PhysicalOffset::new(n)
}

fn config(delete_when: &[u8]) -> Retention {
    Retention {
        reserved: 72 * HOUR,
        delete_when: delete_when.to_vec(),
        disk_max_used_ratio: 75,
        disk_warning_ratio: 90,
    }
}

/// Segments of 10 bytes whose newest messages were stored so many hours before noon.
fn segments(ages: &[i64]) -> Vec<Segment> {
    let segment = |(i, age): (usize, &i64)| Segment { base: offset(i as u64 * 10), bytes: 10, newest: at(-age) };
    ages.iter().enumerate().map(segment).collect()
}

struct Case {
    what: &'static str,
    ages: &'static [i64],
    hours: &'static [u8],
    /// Of 1000 bytes.
    used: u64,
    hold_from: u64,
    gone: &'static [u64],
}

const ANY: u64 = u64::MAX >> 1;

#[test]
fn only_what_may_go_goes() {
    let base = Case { what: "", ages: &[100, 90, 80, 1], hours: &[12], used: 100, hold_from: ANY, gone: &[] };
    let cases = [
        Case { what: "expired, at the hour", gone: &[0, 10, 20], ..base },
        Case { what: "expired, at another hour", hours: &[4, 13], ..base },
        Case { what: "expired, at another hour, disk at its limit", hours: &[4], used: 759, ..base },
        Case { what: "expired, at another hour, disk over it by two", hours: &[4], used: 770, gone: &[0, 10], ..base },
        Case { what: "nothing expired", ages: &[71, 50, 1], ..base },
        Case { what: "exactly as old as reserved", ages: &[72, 71, 1], gone: &[0], ..base },
        Case { what: "the last one stays, however old", ages: &[1000], ..base },
        Case { what: "all old but the last stays", ages: &[1000, 999], gone: &[0], ..base },
        Case { what: "the first that stays stops it", ages: &[100, 5, 90, 1], gone: &[0], ..base },
        Case { what: "held from its middle", hold_from: 15, gone: &[0], ..base },
        Case { what: "held from its end on", hold_from: 20, gone: &[0, 10], ..base },
        Case { what: "all held", hold_from: 0, ..base },
        Case { what: "unread is not deleted on a full disk", hold_from: 0, used: 1000, ..base },
        Case { what: "unread and unexpired stays on a full disk", ages: &[9, 8, 7], used: 1000, ..base },
        Case { what: "stored in the future", ages: &[-9, -8, -7], ..base },
        Case { what: "none at all", ages: &[], ..base },
        Case { what: "a batch at most", ages: &[99; 20], gone: &[0, 10, 20, 30, 40, 50, 60, 70, 80, 90], ..base },
    ];
    for case in cases {
        let look = Look {
            segments: &segments(case.ages),
            config: &config(case.hours),
            space: Space { total: 1000, free: 1000 - case.used },
            wall: at(0),
            trusted: at(0),
            hold_from: offset(case.hold_from),
        };
        let expected: Vec<PhysicalOffset> = case.gone.iter().map(|n| offset(*n)).collect();
        assert_eq!(expendable(&look), expected, "{}", case.what);
    }
}

#[test]
fn a_disk_without_a_size_counts_as_full() {
    assert_eq!(used_ratio(Space { total: 0, free: 0 }), 100);
    assert_eq!(used_ratio(Space { total: 1000, free: 241 }), 75);
    assert_eq!(used_ratio(Space { total: 10, free: 20 }), 0);
}

#[test]
fn the_hour_is_utc_and_holds_before_1970() {
    assert_eq!(hour_of(at(0)), 12);
    assert_eq!(hour_of(at(15)), 3);
    assert_eq!(hour_of(Timestamp::from_millis(-1)), 23);
}

/// A machine with its clocks, looking every 10 seconds as the server does.
struct Machine {
    clock: ManualClock,
    time: TrustedTime,
}

impl Machine {
    fn new() -> Self {
        let clock = ManualClock::at(at(0));
        let time = TrustedTime::start(None, None, clock.wall(), clock.now());
        Self { clock, time }
    }

    fn run(&mut self, long: Duration) -> Timestamp {
        for _ in 0..long.as_secs() / 10 {
            self.clock.advance(Duration::from_secs(10));
            self.look();
        }
        self.look()
    }

    fn look(&mut self) -> Timestamp {
        self.time.look(self.clock.wall(), self.clock.now(), 72 * HOUR)
    }

    fn restart(&mut self, off: Duration) {
        let wall = self.clock.wall().plus(off);
        self.clock = ManualClock::at(wall);
        self.time = TrustedTime::start(Some(self.time.saved()), None, wall, self.clock.now());
    }
}

#[test]
fn trusted_time_follows_a_good_clock() {
    let mut machine = Machine::new();
    assert_eq!(machine.run(5 * HOUR), at(5));
}

#[test]
fn a_step_forward_ages_nothing() {
    let mut machine = Machine::new();
    machine.run(HOUR);
    machine.clock.step_wall(at(24 * 365));
    assert_eq!(machine.look(), at(1));
    assert_eq!(machine.run(3 * HOUR), at(4));
}

#[test]
fn many_small_steps_forward_age_nothing_either() {
    let mut machine = Machine::new();
    for _ in 0..1000 {
        machine.clock.advance(Duration::from_secs(10));
        machine.clock.step_wall(machine.clock.wall().plus(Duration::from_millis(1900)));
        machine.look();
    }
    assert_eq!(machine.look(), at(0).plus(Duration::from_secs(10_000)));
}

#[test]
fn a_step_back_keeps_more_and_its_undoing_ages_nothing() {
    let mut machine = Machine::new();
    machine.run(10 * HOUR);
    machine.clock.step_wall(at(2));
    assert_eq!(machine.look(), at(2));
    machine.clock.step_wall(at(10));
    assert_eq!(machine.look(), at(2));
    assert_eq!(machine.run(HOUR), at(3));
}

#[test]
fn a_stepped_clock_is_believed_again_after_a_whole_reserved_time() {
    let mut machine = Machine::new();
    machine.clock.step_wall(at(1000));
    machine.look();
    assert_eq!(machine.run(71 * HOUR), at(71));
    assert_eq!(machine.run(HOUR + Duration::from_secs(20)), machine.clock.wall());
    machine.clock.step_wall(at(2000));
    assert!(machine.look() < at(1100));
}

#[test]
fn a_short_restart_is_no_step_and_a_long_one_is() {
    let mut machine = Machine::new();
    machine.run(73 * HOUR);
    machine.restart(Duration::from_secs(60));
    assert_eq!(machine.look(), machine.clock.wall(), "still believed");
    machine.restart(100 * HOUR);
    assert!(machine.look() <= at(74), "may as well be a step");
    assert_eq!(machine.run(2 * HOUR), at(75).plus(Duration::from_secs(60)));
}

#[test]
fn without_a_memory_the_newest_message_tells_the_time() {
    let clock = ManualClock::at(at(500));
    let mut time = TrustedTime::start(None, Some(at(3)), clock.wall(), clock.now());
    assert_eq!(time.look(clock.wall(), clock.now(), 72 * HOUR), at(3));
    let mut ahead = TrustedTime::start(None, Some(at(900)), clock.wall(), clock.now());
    assert_eq!(ahead.look(clock.wall(), clock.now(), 72 * HOUR), at(500));
}
