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
