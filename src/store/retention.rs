//! Which whole segments of the log may be deleted.
//!
//! A segment goes when it is *expired* (its newest message is older than `fileReservedTime`) and it is the hour for it
//! (`deleteWhen`), or the disk is fuller than `diskMaxUsedSpaceRatio`. Always: the oldest first, stopping at the first
//! that has to stay; never the last segment; never anything at or behind what is held (what the broker's state is rebuilt
//! from). Whether a message was read is not known here: unread ones stay until they expire, and go then, as Apache's do.
//!
//! What has not expired never goes, however full the disk is: Apache's `cleanFileForciblyEnable` (on there) would delete
//! what nobody has read yet, so there is no such setting here. A full disk refuses sends instead.
//!
//! # Which time it is
//!
//! A message's age is its store time compared with a wall clock, and wall clocks are set. So age is judged by
//! [`TrustedTime`], which follows the wall clock but never goes faster than the monotonic one: a step forward is not
//! believed, so it expires nothing; a step back is, so it keeps more. A trusted time that lags because of a step (or
//! because the machine was off, which looks the same) takes the wall clock's word again once that has gone without a
//! step for a whole `fileReservedTime`: by then everything stored before the step has expired by the monotonic clock alone,
//! and everything stored since carries times of the clock as it is now.

use std::time::Duration;

use super::{Retention, disk::Space};
use crate::types::{Deadline, PhysicalOffset, Timestamp};

/// Segments deleted in one look at most (`deleteFileBatchMax`), so that freeing them does not starve the disk.
pub(super) const BATCH_MAX: usize = 10;
/// A difference between the advance of the two clocks, from one look to the next, that is no step: slewing and the time
/// between reading the one and the other.
const STEP_MIN: Duration = Duration::from_secs(2);
/// A restart that takes no longer does not count as a step.
const RESTART_MAX: Duration = Duration::from_secs(600);

/// One segment, as far as its deletion goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Segment {
    pub base: PhysicalOffset,
    /// Bytes that deleting it frees.
    pub bytes: u64,
    /// A time that its newest message is not younger than.
    pub newest: Timestamp,
}

/// The state of things when retention looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    /// Ascending, the last one being written.
    pub segments: &'a [Segment],
    pub config: &'a Retention,
    pub space: Space,
    /// For the hour of the day.
    pub wall: Timestamp,
    /// [`TrustedTime::look`]'s.
    pub trusted: Timestamp,
    /// Nothing at or behind it may go.
    pub hold_from: PhysicalOffset,
}

/// The bases of the segments that may go now, oldest first.
pub(super) fn expendable(look: &Look<'_>) -> Vec<PhysicalOffset> {
    let is_hour = look.config.delete_when.contains(&hour_of(look.wall));
    let mut freed = 0;
    let mut gone = Vec::new();
    for pair in look.segments.windows(2) {
        let (segment, end) = (&pair[0], pair[1].base);
        if gone.len() == BATCH_MAX || end > look.hold_from {
            break;
        }
        let ratio = used_ratio(Space { total: look.space.total, free: look.space.free.saturating_add(freed) });
        let is_expired = look.trusted.since(segment.newest) >= look.config.reserved;
        if !is_expired || !(is_hour || ratio > look.config.disk_max_used_ratio) {
            break;
        }
        freed += segment.bytes;
        gone.push(segment.base);
    }
    gone
}

/// How full a disk is, percent, rounded down; 100 for one without a size.
pub(super) fn used_ratio(space: Space) -> u8 {
    let used = space.total.saturating_sub(space.free);
    (u128::from(used) * 100).checked_div(u128::from(space.total)).map_or(100, |percent| percent as u8)
}

/// Hour of the UTC day.
fn hour_of(wall: Timestamp) -> u8 {
    (wall.as_millis().rem_euclid(86_400_000) / 3_600_000) as u8
}

/// A time to judge ages by: at most the wall clock's, and never faster than the monotonic clock. See the door of this
/// module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TrustedTime {
    trusted: Timestamp,
    wall: Timestamp,
    mono: Deadline,
    /// How long the wall clock has gone without a step.
    steady: Duration,
}

/// What of a [`TrustedTime`] outlives the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SavedTime {
    pub trusted: Timestamp,
    pub wall: Timestamp,
    pub steady: Duration,
}

impl TrustedTime {
    /// At start-up. Without anything saved, the time of the newest message in the log is the latest that is known to
    /// have come.
    pub fn start(saved: Option<SavedTime>, newest: Option<Timestamp>, wall: Timestamp, mono: Deadline) -> Self {
        let saved = saved.unwrap_or_else(|| {
            let known = newest.unwrap_or(wall).min(wall);
            SavedTime { trusted: known, wall: known, steady: Duration::ZERO }
        });
        let is_step = wall < saved.wall || wall.since(saved.wall) > RESTART_MAX;
        let steady = if is_step { Duration::ZERO } else { saved.steady };
        Self { trusted: saved.trusted.min(wall), wall, mono, steady }
    }

    /// Takes in what the clocks say now; `reserved` is `fileReservedTime`. To be called every few seconds. Returns the
    /// time to judge ages by.
    pub fn look(&mut self, wall: Timestamp, mono: Deadline, reserved: Duration) -> Timestamp {
        let passed = mono.remaining(self.mono);
        let (least, most) = (self.wall.plus(passed.saturating_sub(STEP_MIN)), self.wall.plus(passed + STEP_MIN));
        let is_step = wall < least || wall > most;
        self.steady = if is_step { Duration::ZERO } else { self.steady + passed };
        self.trusted = if self.steady >= reserved { wall } else { self.trusted.plus(passed).min(wall) };
        (self.wall, self.mono) = (wall, mono);
        self.trusted
    }

    /// To be saved now and then and handed to the next [`TrustedTime::start`].
    pub fn saved(&self) -> SavedTime {
        SavedTime { trusted: self.trusted, wall: self.wall, steady: self.steady }
    }
}

#[cfg(test)]
mod tests;
