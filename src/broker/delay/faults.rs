//! Mistakes that tests plant, to prove that the model would find them. In a build without tests nothing can be planted and
//! every question is the constant `false`.

/// A mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// That a timer is done is in the log before its message is.
    DoneAhead,
    /// The message is in the log before it says that its timer is done.
    DoneBehind,
    /// A recall is not written down.
    RecallInMemory,
}

/// What is planted in one broker.
#[derive(Default)]
pub struct Faults {
    #[cfg(test)]
    planted: parking_lot::Mutex<Option<Fault>>,
}

impl Faults {
    #[cfg(not(test))]
    #[inline(always)]
    pub const fn has(&self, _fault: Fault) -> bool {
        false
    }

    #[cfg(test)]
    pub fn has(&self, fault: Fault) -> bool {
        *self.planted.lock() == Some(fault)
    }

    #[cfg(test)]
    pub fn plant(&self, fault: Option<Fault>) {
        *self.planted.lock() = fault;
    }
}
