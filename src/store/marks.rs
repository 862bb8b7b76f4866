//! How far the log is written, durable and dispatched.

use std::sync::{Arc, OnceLock};

use super::{Poisoned, Watermarks, watermark::Watermark};
use crate::types::PhysicalOffset;

/// The positions that others wait on. `dispatched <= durable <= written` with SYNC_FLUSH; with ASYNC_FLUSH
/// `dispatched <= written` and `durable <= written`. All are ends of appends, never inside one.
pub(super) struct Marks {
    /// The kernel has it.
    pub(super) written: Watermark,
    /// The device has it.
    pub(super) durable: Watermark,
    /// Consumers may see it, and its producer may be told.
    pub(super) dispatched: Watermark,
    poisoned: OnceLock<Poisoned>,
}

impl Marks {
    /// All at the end of what recovery found.
    pub(super) fn at(end: PhysicalOffset) -> Self {
        Self {
            written: Watermark::new(end),
            durable: Watermark::new(end),
            dispatched: Watermark::new(end),
            poisoned: OnceLock::new(),
        }
    }

    pub(super) fn get(&self) -> Watermarks {
        // The lowest first, so that what is returned is in order whatever moves meanwhile.
        let dispatched = self.dispatched.get();
        let durable = self.durable.get();
        Watermarks { dispatched, durable, written: self.written.get() }
    }

    /// Stops the store for good: no mark moves any more and whoever waits is told. The first reason stays.
    pub(super) fn poison(&self, doing: &str, error: &dyn std::fmt::Display) -> Poisoned {
        let reason = Poisoned(Arc::from(format!("{doing}: {error}")));
        let reason = self.poisoned.get_or_init(|| reason).clone();
        for mark in [&self.dispatched, &self.durable, &self.written] {
            mark.close(reason.clone());
        }
        reason
    }

    pub(super) fn alive(&self) -> Result<(), Poisoned> {
        self.poisoned.get().map_or(Ok(()), |reason| Err(reason.clone()))
    }
}

/// Poisons the store when its thread panics while this lives: what it was changing is half changed, and whatever came
/// later would be built on that.
pub(super) struct Intact<'a>(pub(super) &'a Marks);

impl Drop for Intact<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poison("changing the log", &"the thread panicked; this is a bug of FerroMQ, its report is above");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_while_the_log_changes_poisons_the_store() {
        let marks = Marks::at(PhysicalOffset::ZERO);
        drop(Intact(&marks));
        assert!(marks.alive().is_ok());
        let fell = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _intact = Intact(&marks);
            panic!("as told");
        }));
        assert!(fell.is_err());
        assert!(marks.alive().is_err_and(|reason| reason.to_string().contains("panicked")));
    }
}
