//! Time, handed in. Only this file reads the machine's clocks.
//!
//! Wall-clock time ([`Timestamp`]) is for what is stored and shown. Whatever must happen after a while (leases,
//! invisible times, polls) is a [`Deadline`] on the monotonic clock, which no clock step moves.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    pub const ZERO: Self = Self(0);

    pub const fn from_millis(ms: i64) -> Self {
        Self(ms)
    }
    pub const fn as_millis(self) -> i64 {
        self.0
    }
    /// Saturates far in the future.
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
    }
    /// Time from `earlier` to this; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A point on the monotonic clock: microseconds since this process (or this test) began.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Deadline(u64);

impl Deadline {
    pub const fn from_micros(us: u64) -> Self {
        Self(us)
    }
    pub const fn as_micros(self) -> u64 {
        self.0
    }
    /// Saturates far in the future.
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
    }
    /// Time from `now` to this; zero when it has passed.
    pub fn remaining(self, now: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(now.0))
    }
}

/// Where time comes from.
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time. It may jump either way.
    fn wall(&self) -> Timestamp;
    /// The same in nanoseconds, for what is set in order with the times of other programs; 0 before 1970.
    fn wall_nanos(&self) -> u64 {
        u64::try_from(self.wall().as_millis()).unwrap_or(0).saturating_mul(1_000_000)
    }
    /// Monotonic time. It never goes back.
    fn now(&self) -> Deadline;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    #[expect(clippy::new_without_default, reason = "starting a clock is an act")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
    fn wall_nanos(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
    fn now(&self) -> Deadline {
        Deadline(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

/// A clock that stands still until it is told to move: for tests and simulations.
#[derive(Debug)]
pub struct ManualClock {
    wall_ms: AtomicU64,
    mono_us: AtomicU64,
}

impl ManualClock {
    pub fn at(wall: Timestamp) -> Self {
        Self { wall_ms: AtomicU64::new(wall.0 as u64), mono_us: AtomicU64::new(0) }
    }
    /// Moves both clocks forward.
    pub fn advance(&self, d: Duration) {
        self.wall_ms.fetch_add(d.as_millis() as u64, Ordering::SeqCst);
        self.mono_us.fetch_add(d.as_micros() as u64, Ordering::SeqCst);
    }
    /// Steps the wall clock alone, as an operator or NTP does.
    pub fn step_wall(&self, to: Timestamp) {
        self.wall_ms.store(to.0 as u64, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> Timestamp {
        Timestamp(self.wall_ms.load(Ordering::SeqCst) as i64)
    }
    fn now(&self) -> Deadline {
        Deadline(self.mono_us.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_clock_time_is_the_same_in_milliseconds_and_in_nanoseconds() {
        let clock = SystemClock::new();
        let (before, at, after) = (clock.wall(), clock.wall_nanos(), clock.wall());
        assert!((before.as_millis()..=after.as_millis()).contains(&((at / 1_000_000) as i64)));
        assert_eq!(ManualClock::at(Timestamp::from_millis(7)).wall_nanos(), 7_000_000);
        assert_eq!(ManualClock::at(Timestamp::from_millis(-7)).wall_nanos(), 0);
    }
}
