//! Questions that block, apart from the runtime that asks: a file system or a program may hang.
//!
//! One at a time. While one hangs, the next is told so instead of taking another thread.

use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use super::{FetchError, Fetched, Given};

/// A source that blocks whoever asks it.
pub(crate) trait Blocks: Send + 'static {
    /// How it is reached this time.
    type Way: Send + 'static;
    /// What is said while a question hangs.
    const HANGS: &'static str;

    /// Asks it.
    fn ask(&mut self, way: Self::Way) -> Result<Fetched, FetchError>;

    /// What it gave.
    fn given(&mut self) -> &mut Given;
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Apart<T>(Arc<Mutex<T>>);

impl<T: Blocks> Apart<T> {
    pub(super) fn new(source: T) -> Self {
        Self(Arc::new(Mutex::new(source)))
    }

    pub(super) fn settle(&self) {
        if let Ok(mut source) = self.0.try_lock() {
            source.given().settle();
        }
    }

    /// Whether a question hangs, as an error.
    pub(super) fn free(&self) -> Result<(), FetchError> {
        let hangs = matches!(self.0.try_lock(), Err(TryLockError::WouldBlock));
        if hangs { Err(T::HANGS.to_owned().into()) } else { Ok(()) }
    }

    pub(super) async fn ask(&self, way: T::Way) -> Result<Fetched, FetchError> {
        self.free()?;
        let source = Arc::clone(&self.0);
        apart(move || source.lock().unwrap_or_else(PoisonError::into_inner).ask(way)).await?
    }
}

/// Does what blocks apart from the runtime that asks.
pub(crate) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|_| "a panic, which is a bug".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Slow(mpsc::Receiver<()>, Given);

    impl Blocks for Slow {
        type Way = ();
        const HANGS: &'static str = "it hangs";

        fn ask(&mut self, (): ()) -> Result<Fetched, FetchError> {
            self.0.recv().map_err(|error| error.to_string())?;
            self.1.gives(Some("a".to_owned()));
            Ok(Fetched::Same { held: false })
        }

        fn given(&mut self) -> &mut Given {
            &mut self.1
        }
    }

    #[tokio::test]
    async fn a_question_that_hangs_is_told_and_takes_one_thread() {
        let (go, waits) = mpsc::channel();
        let source = Arc::new(Apart::new(Slow(waits, Given::default())));
        let first = tokio::spawn({
            let source = Arc::clone(&source);
            async move { source.ask(()).await.is_ok() }
        });
        while source.free().is_ok() {
            tokio::task::yield_now().await;
        }
        let told = source.ask(()).await.expect_err("the one before has not ended");
        assert_eq!(told.why, "it hangs");
        source.settle();
        go.send(()).unwrap();
        assert!(first.await.unwrap());
        assert!(source.free().is_ok());
        source.settle();
        assert!(source.0.lock().unwrap().1.is_settled("a"));
    }
}
