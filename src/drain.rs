//! The end of tasks: a signal to stop, and the count of those that have not stopped yet.
//!
//! Every long-lived task starts here, so that a shutdown can wait for all of them.

use std::{future::Future, time::Duration};

use tokio::runtime::Handle;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture},
    task::TaskTracker,
};

/// A group of tasks that end together; a cheap clone.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Drain {
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task that is waited for. It must end soon after [`Drain::stopping`] does.
    pub fn spawn(&self, on: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, on);
    }

    /// Returns once the tasks should stop.
    pub fn stopping(&self) -> WaitForCancellationFuture<'_> {
        self.stop.cancelled()
    }

    /// The signal itself, for code that wants to keep it.
    pub fn token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Tasks that have not ended.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Tells every task to stop, and waits for that; `false` when some have not after `within`.
    pub async fn finish(&self, within: Duration) -> bool {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(within, self.tasks.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn finish_waits_for_every_task() {
        let drain = Drain::new();
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        for n in 0..3 {
            let (stop, told) = (drain.token(), told.clone());
            drain.spawn(&Handle::current(), async move {
                stop.cancelled().await;
                told.send(n).expect("the test listens");
            });
        }
        assert!(drain.finish(Duration::from_secs(10)).await);
        let mut ended = [heard.recv().await, heard.recv().await, heard.recv().await];
        ended.sort_unstable();
        assert_eq!(ended, [Some(0), Some(1), Some(2)]);
        assert!(drain.is_empty());
    }

    #[tokio::test]
    async fn finish_gives_up_on_a_task_that_hangs() {
        let drain = Drain::new();
        drain.spawn(&Handle::current(), std::future::pending());
        assert!(!drain.finish(Duration::from_millis(1)).await);
        assert_eq!(drain.len(), 1);
    }
}
