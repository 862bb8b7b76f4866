//! How far the wall clock, by which messages were accepted, was off the axis of the run.

use crate::types::{QueueOffset, Timestamp};

/// Differences up to this are one skew, ms: a clock that is slewed, and rounding.
const TOLERANCE_MS: i64 = 10;
/// Steps of the clock in one run that are told apart.
const STEPS_MAX: usize = 1024;

/// From which timer on which skew held.
pub struct Skews {
    steps: Vec<Step>,
    least: i64,
    most: i64,
}

struct Step {
    from: QueueOffset,
    base: i64,
    most: i64,
}

impl Default for Skews {
    fn default() -> Self {
        let first = Step { from: QueueOffset::ZERO, base: 0, most: 0 };
        Self { steps: vec![first], least: 0, most: 0 }
    }
}

impl Skews {
    /// Takes in a timer's time and the point it was given. Offsets grow, but for those of sends side by side.
    pub fn saw(&mut self, due: Timestamp, point: u64, offset: QueueOffset) {
        let skew = i64::try_from(point).unwrap_or(i64::MAX).saturating_sub(due.as_millis());
        (self.least, self.most) = (self.least.min(skew), self.most.max(skew));
        let full = self.steps.len() == STEPS_MAX;
        let Some(last) = self.steps.last_mut() else { return };
        if full || (skew - last.base).abs() <= TOLERANCE_MS {
            last.most = last.most.max(skew);
        } else {
            self.steps.push(Step { from: offset, base: skew, most: skew });
        }
    }

    /// The point of a timer that was accepted as this offset: up to the tolerance late, never early.
    pub fn point(&self, due: Timestamp, offset: QueueOffset) -> u64 {
        let step = self.steps.iter().rev().find(|step| step.from <= offset);
        shifted(due, step.map_or(0, |step| step.most))
    }

    /// Between which points every timer with this time lies.
    pub fn window(&self, due: Timestamp) -> std::ops::RangeInclusive<u64> {
        shifted(due, self.least)..=shifted(due, self.most)
    }
}

fn shifted(due: Timestamp, skew: i64) -> u64 {
    u64::try_from(due.as_millis().saturating_add(skew)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_timer_has_the_skew_of_its_time() {
        let at = |ms| Timestamp::from_millis(ms);
        let mut skews = Skews::default();
        // Slewed a little, stepped an hour forward, and back.
        let hour = 3_600_000;
        for (offset, skew) in [(0, 0), (1, 3), (2, -hour), (3, 1 - hour), (4, 2)] {
            skews.saw(at(10 * hour), (10 * hour + skew) as u64, QueueOffset::new(offset));
        }
        let points: Vec<i64> = (0..5).map(|offset| skews.point(at(0), QueueOffset::new(offset)) as i64).collect();
        assert_eq!(points, [3, 3, 0, 0, 2]);
        assert_eq!(skews.point(at(2 * hour), QueueOffset::new(3)) as i64, hour + 1);
        assert_eq!(skews.window(at(2 * hour)), hour as u64..=(2 * hour + 3) as u64);
    }
}
