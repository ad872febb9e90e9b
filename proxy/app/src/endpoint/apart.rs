//! What reads files for a caller, apart from the thread that serves.

use std::sync::Arc;

use tokio::task::JoinError;

use super::Endpoint;

impl Endpoint {
    /// Does `work`, which reads files, on a thread that serves nobody; one at a time, the others in
    /// turn, so that a disk that hangs takes one thread and no more.
    ///
    /// # Errors
    /// If `work` panicked.
    pub(super) async fn read_apart<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        // It is never closed.
        let turn = Arc::clone(&self.looking).acquire_owned().await;
        let looked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        looked.await
    }
}
