//! Mistakes that tests plant, to prove that the histories against the model would find them. In a build without tests
//! nothing can be planted and every question is the constant `false`.

/// A mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// What waits for a retry since an earlier run does not lock its message group.
    LocksLostAtRestart,
    /// The snapshot has the commit offset behind what is in flight.
    CommitAheadOfAcks,
    /// A lease that outlives the run is settled by any receipt of its message.
    ReceiptNotBoundToLease,
    /// What the log says of lite topics is not read at a start.
    LanesNotReplayed,
    /// What failed before its group went on elsewhere in a lite topic counts after a start.
    AttemptsOutliveRewind,
}

#[cfg(not(test))]
#[inline(always)]
pub const fn planted(_fault: Fault) -> bool {
    false
}

#[cfg(test)]
pub use planting::{plant, planted};

#[cfg(test)]
mod planting {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        // Of the thread, so that tests side by side do not plant for each other.
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    pub fn planted(fault: Fault) -> bool {
        PLANTED.get() == Some(fault)
    }

    /// Plants a fault in this thread until the guard is dropped.
    pub fn plant(fault: Fault) -> Planted {
        PLANTED.set(Some(fault));
        Planted
    }

    pub struct Planted;

    impl Drop for Planted {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }
}
