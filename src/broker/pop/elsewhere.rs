//! Work that may wait for a disk, on threads that may.

use std::sync::Arc;

use super::Broker;

impl Broker {
    /// Runs what a client asked for and may wait for a disk on a thread that may; at most `COLD_READS_MAX` at once.
    pub(in crate::broker) async fn off_the_runtime<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> std::io::Result<R> {
        let permit = Arc::clone(&self.inner.pop.cold_reads).acquire_owned().await.map_err(std::io::Error::other)?;
        let run = move || {
            let result = work();
            drop(permit);
            result
        };
        tokio::task::spawn_blocking(run).await.map_err(std::io::Error::other)
    }

    /// [`Broker::off_the_runtime`] for the server's own loops, of which each does one thing at a time: clients that read
    /// what is cold do not keep them waiting.
    pub(in crate::broker) async fn behind_the_runtime<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> std::io::Result<R> {
        tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)
    }
}
