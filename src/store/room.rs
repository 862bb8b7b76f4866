//! Whether the disk has room.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{AppendError, Purpose, disk::Space};

/// What is known about room on the disk. Looked at once a second by the background, read by every append.
#[derive(Debug)]
pub(super) struct Room {
    /// Percent of the disk that may be used before users' messages are refused.
    warning_ratio: u8,
    free: AtomicU64,
    /// 0: not looked yet.
    total: AtomicU64,
    /// More than [`Self::warning_ratio`] is used.
    is_scarce: AtomicBool,
    /// The file system refused a write.
    is_out: AtomicBool,
}

impl Room {
    pub(super) fn new(warning_ratio: u8) -> Self {
        Self {
            warning_ratio,
            free: AtomicU64::new(u64::MAX),
            total: AtomicU64::new(0),
            is_scarce: AtomicBool::new(false),
            is_out: AtomicBool::new(false),
        }
    }

    /// Takes note of a look at the disk, or at the fuller one of several.
    pub(super) fn seen(&self, space: Space) {
        let used = u128::from(space.total.saturating_sub(space.free));
        self.free.store(space.free, Ordering::Relaxed);
        self.total.store(space.total, Ordering::Relaxed);
        self.is_scarce.store(used * 100 > u128::from(space.total) * u128::from(self.warning_ratio), Ordering::Relaxed);
    }

    /// What was seen last.
    pub(super) fn space(&self) -> Option<Space> {
        let (total, free) = (self.total.load(Ordering::Relaxed), self.free.load(Ordering::Relaxed));
        (total > 0).then(|| Space { total, free: free.min(total) })
    }

    /// A write did not fit. Until [`Self::found`] nobody tries again.
    pub(super) fn ran_out(&self) {
        self.free.store(0, Ordering::Relaxed);
        self.is_out.store(true, Ordering::Relaxed);
    }

    /// A write fits again.
    pub(super) fn found(&self) {
        self.is_out.store(false, Ordering::Relaxed);
    }

    /// True after a write that did not fit.
    pub(super) fn is_out(&self) -> bool {
        self.is_out.load(Ordering::Relaxed)
    }

    /// Free bytes, when users' messages are refused.
    pub(super) fn is_full(&self) -> Option<u64> {
        let full = self.is_out() || self.is_scarce.load(Ordering::Relaxed);
        full.then(|| self.free.load(Ordering::Relaxed))
    }

    /// Refuses users' messages when there is too little room.
    pub(super) fn admit(&self, purpose: Purpose) -> Result<(), AppendError> {
        match (purpose, self.is_full()) {
            (Purpose::User, Some(free)) => Err(AppendError::Full { free }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_refused_above_the_ratio_and_the_server_itself_is_not() {
        let room = Room::new(90);
        for (free, refused) in [(100, false), (10, false), (9, true), (0, true), (10, false)] {
            room.seen(Space { total: 100, free });
            assert_eq!(room.admit(Purpose::User).is_err(), refused, "{free} free");
            assert!(room.admit(Purpose::Deferrable).is_ok());
            assert!(room.admit(Purpose::Internal).is_ok());
        }
    }

    #[test]
    fn a_look_at_the_disk_does_not_hide_that_a_write_did_not_fit() {
        let room = Room::new(90);
        room.ran_out();
        room.seen(Space { total: 100, free: 50 });
        assert_eq!(room.is_full(), Some(50));
        room.found();
        assert_eq!(room.is_full(), None);
    }
}
