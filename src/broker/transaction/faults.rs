//! Mistakes that tests plant, to prove that the model would find them. In a build without tests nothing can be planted
//! and every question is the constant `false`.

/// A mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::broker) enum Fault {
    /// A half message is stored in the topic that it is meant for.
    HalfIsVisible,
    /// A decision is taken for whatever half lies at the place that it names.
    DecisionIsNotBound,
    /// The message is committed in a unit of its own, before its half is done.
    CommitInTwoSteps,
    /// The store takes no record of halves whose topic is gone.
    DropIsRefused,
}

#[cfg(not(test))]
#[inline(always)]
pub(in crate::broker) const fn planted(_fault: Fault) -> bool {
    false
}

#[cfg(test)]
pub(in crate::broker) use planting::{plant, planted};

#[cfg(test)]
mod planting {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        // Of the thread, so that tests side by side do not plant for each other.
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    pub(in crate::broker) fn planted(fault: Fault) -> bool {
        PLANTED.get() == Some(fault)
    }

    /// Plants a fault in this thread until the guard is dropped.
    pub(in crate::broker) fn plant(fault: Fault) -> Planted {
        PLANTED.set(Some(fault));
        Planted
    }

    pub(in crate::broker) struct Planted;

    impl Drop for Planted {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }
}
