//! Makes records visible: consume queue entries, then whoever waits for arrivals.

use std::sync::OnceLock;

use super::{Arrival, unit::Dispatch};

type Listener = Box<dyn Fn(&Arrival<'_>) + Send + Sync>;

#[derive(Default)]
pub(super) struct Dispatcher {
    listener: OnceLock<Listener>,
}

impl Dispatcher {
    /// Sets who hears of arrivals. The first one stays.
    pub(super) fn listen(&self, listener: Listener) {
        // A second listener is a mistake of the composition, and there is nobody to answer to at run time.
        let is_first = self.listener.set(listener).is_ok();
        debug_assert!(is_first, "one listener hears of arrivals");
    }

    /// Adds the entries to their queues, in the order of the log.
    pub(super) fn show(&self, dispatches: &[Dispatch]) {
        for dispatch in dispatches {
            dispatch.queue.push(&dispatch.entry);
        }
    }

    /// Tells the listener of entries that are shown.
    pub(super) fn announce(&self, dispatches: &[Dispatch]) {
        let Some(listener) = self.listener.get() else { return };
        for Dispatch { queue, entry } in dispatches {
            listener(&Arrival {
                topic: queue.topic(),
                queue: queue.id(),
                queue_offset: entry.offset,
                tags_code: entry.tags_code,
            });
        }
    }
}
