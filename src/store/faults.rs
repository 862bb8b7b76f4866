//! Mistakes that tests plant, to prove that the crash tests would find them. In a build without tests nothing can be
//! planted and every question is the constant `false`.

/// A mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// Waiters are woken before the sync.
    AckBeforeSync,
    /// A failed sync is tried again, and believed.
    RetrySync,
    /// A new segment's directory entry is not synced.
    NoDirSync,
    /// The record's checksum ends where its properties start.
    ChecksumSkipsProperties,
    /// Consumers see a message before the sync.
    DispatchBeforeDurable,
    /// Recovery takes the tail for cut and leaves the bytes behind it on the disk.
    TruncateInMemory,
}

#[cfg(not(test))]
#[inline(always)]
pub(super) const fn planted(_fault: Fault) -> bool {
    false
}

#[cfg(test)]
pub(super) use planting::{plant, planted};

#[cfg(test)]
mod planting {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        // Of the thread, so that tests side by side do not plant for each other; a stepped store runs on one thread.
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    pub(in super::super) fn planted(fault: Fault) -> bool {
        PLANTED.get() == Some(fault)
    }

    /// Plants a fault in this thread until the guard is dropped.
    pub(in super::super) fn plant(fault: Fault) -> Planted {
        PLANTED.set(Some(fault));
        Planted
    }

    pub(in super::super) struct Planted;

    impl Drop for Planted {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }
}
