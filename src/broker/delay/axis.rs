//! The time that timers go by.
//!
//! A message asks for a wall-clock time, and must not come early because somebody set the clock. So a run has one axis of
//! its own: the wall clock as it was when the run began, going on as fast as the monotonic clock. When a message is
//! accepted, what is left until its time *by the wall clock of that moment* is laid onto the axis, and from then on no
//! step of the wall clock moves it.

use crate::types::{Clock, Deadline, Timestamp};

/// See the module. Points are ms.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    began_us: i64,
    mono: Deadline,
}

impl Axis {
    pub fn begin(clock: &dyn Clock) -> Self {
        let (wall, mono) = (clock.wall(), clock.now());
        Self { began_us: wall.as_millis().saturating_mul(1000), mono }
    }

    /// What the axis says at a time of the monotonic clock, in µs.
    pub fn micros(&self, now: Deadline) -> i64 {
        self.began_us.saturating_add(now.as_micros().saturating_sub(self.mono.as_micros()) as i64)
    }

    /// The last point that has come.
    pub fn now(&self, now: Deadline) -> u64 {
        u64::try_from(self.micros(now).div_euclid(1000)).unwrap_or(0)
    }

    /// The first point that is not before `due`, when the wall clock says `wall` at `now`. The wall clock gives whole
    /// milliseconds, rounded down, so what is left is never taken for less than it is.
    pub fn point(&self, due: Timestamp, wall: Timestamp, now: Deadline) -> u64 {
        let left_us = due.as_millis().saturating_sub(wall.as_millis()).saturating_mul(1000);
        let us = self.micros(now).saturating_add(left_us);
        u64::try_from(us.div_euclid(1000) + i64::from(us.rem_euclid(1000) > 0)).unwrap_or(0)
    }

    /// When a point comes.
    pub fn deadline(&self, point: u64) -> Deadline {
        let us = i64::try_from(point).unwrap_or(i64::MAX).saturating_mul(1000).saturating_sub(self.began_us);
        Deadline::from_micros(self.mono.as_micros().saturating_add(u64::try_from(us).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::types::ManualClock;

    #[test]
    fn no_step_of_the_wall_clock_moves_a_point() {
        let clock = ManualClock::at(Timestamp::from_millis(1_000_000));
        let axis = Axis::begin(&clock);
        clock.advance(Duration::from_micros(1_500));
        let point = axis.point(Timestamp::from_millis(1_011_000), clock.wall(), clock.now());
        // 10,999 ms by a clock that shows whole milliseconds, from 1.5 ms on.
        assert_eq!(point, 1_011_001);
        clock.step_wall(Timestamp::from_millis(5_000_000));
        assert_eq!(axis.now(clock.now()), 1_000_001);
        assert_eq!(axis.deadline(point).remaining(clock.now()), Duration::from_micros(10_999_500));
        // One second ahead by the clock as it is now.
        let point = axis.point(Timestamp::from_millis(5_001_000), clock.wall(), clock.now());
        assert_eq!(axis.deadline(point).remaining(clock.now()), Duration::from_micros(1_000_500));
    }

    #[test]
    fn at_the_beginning_a_point_is_the_time_itself() {
        let clock = ManualClock::at(Timestamp::from_millis(77));
        let axis = Axis::begin(&clock);
        for due in [0, 76, 77, 78, 1 << 40] {
            assert_eq!(axis.point(Timestamp::from_millis(due), clock.wall(), clock.now()), due as u64);
        }
    }

    #[test]
    fn absurd_times_saturate() {
        let clock = ManualClock::at(Timestamp::from_millis(77));
        let axis = Axis::begin(&clock);
        for due in [i64::MIN, i64::MAX] {
            axis.deadline(axis.point(Timestamp::from_millis(due), clock.wall(), clock.now()));
        }
    }
}
