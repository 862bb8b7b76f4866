//! What senders to a topic share, and how a deletion stops them.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU32, Ordering},
};

use parking_lot::RwLock;

use crate::{broker::meters::TopicMeter, types::QueueId};

/// What senders to a topic share, for as long as the topic exists.
#[derive(Default)]
pub(in crate::broker) struct Lane {
    turn: AtomicU32,
    pub(in crate::broker) gate: Gate,
    /// What happens to the topic.
    pub(in crate::broker) meter: OnceLock<Arc<TopicMeter>>,
}

impl Lane {
    /// The queue whose turn it is, of so many; at least one.
    pub(in crate::broker) fn next_queue(&self, queues: u32) -> QueueId {
        QueueId(self.turn.fetch_add(1, Ordering::Relaxed) % queues.max(1))
    }
}

/// Lets appends to a topic pass until the topic is deleted.
///
/// An append passes while the gate is certain to stay open, and closing waits for those that are passing (an append does
/// not wait for the disk). So once it is closed every record of the topic has its queue offset, and none can get one later.
pub(in crate::broker) struct Gate {
    open: RwLock<bool>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { open: RwLock::new(true) }
    }
}

impl Gate {
    /// Does the append; `None` when the topic is being deleted or was.
    pub(in crate::broker) fn pass<T>(&self, append: impl FnOnce() -> T) -> Option<T> {
        let open = self.open.read();
        open.then(append)
    }

    pub(in crate::broker) fn close(&self) -> Closed<'_> {
        *self.open.write() = false;
        Closed { gate: self, stays: false }
    }
}

/// A closed gate. It opens again when this is dropped, unless the deletion has succeeded.
pub(in crate::broker) struct Closed<'a> {
    gate: &'a Gate,
    stays: bool,
}

impl Closed<'_> {
    pub(super) fn for_good(mut self) {
        self.stays = true;
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        *self.gate.open.write() = !self.stays;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn queues_take_turns_and_the_count_may_overflow() {
        let lane = Lane { turn: AtomicU32::new(u32::MAX), ..Lane::default() };
        let turns: Vec<u32> = (0..5).map(|_| lane.next_queue(4).0).collect();
        assert_eq!(turns, [3, 0, 1, 2, 3]);
        assert_eq!(lane.next_queue(0), QueueId(0));
    }

    #[test]
    fn a_failed_deletion_opens_the_gate_again() {
        let gate = Gate::default();
        let closed = gate.close();
        assert_eq!(gate.pass(|| 1), None);
        drop(closed);
        assert_eq!(gate.pass(|| 1), Some(1));
        gate.close().for_good();
        assert_eq!(gate.pass(|| 1), None);
    }

    #[test]
    fn nothing_passes_once_the_gate_is_closed() {
        let (gate, passed) = (Gate::default(), AtomicUsize::new(0));
        std::thread::scope(|threads| {
            let senders: Vec<_> = (0..4)
                .map(|_| threads.spawn(|| while gate.pass(|| passed.fetch_add(1, Ordering::SeqCst)).is_some() {}))
                .collect();
            while passed.load(Ordering::SeqCst) < 100 {
                std::thread::yield_now();
            }
            gate.close().for_good();
            let at_close = passed.load(Ordering::SeqCst);
            senders.into_iter().for_each(|s| s.join().unwrap());
            assert_eq!(passed.load(Ordering::SeqCst), at_close);
        });
    }
}
