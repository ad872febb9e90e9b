//! The tasks of one HTTP/2 connection: hyper runs each stream's answer as a task of its own.
//!
//! A stream whose client gives it no window is not polled by hyper any more, so it cannot be told
//! to end. Its task can: when its request is aborted, all of it is dropped, which resets the
//! stream, frees what it holds and gives its place to another one. Costs a few tens of nanoseconds
//! a stream; HTTP/1 has no such tasks.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use hyper::rt::Executor;

use super::watch::Watch;

/// Spawns the tasks of one connection.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    watch: Arc<Watch>,
}

impl Streams {
    pub(super) const fn new(watch: Arc<Watch>) -> Self {
        Self { watch }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, task: F) {
        // hyper hands a stream's task over right after the request has begun.
        let Some(flow) = self.watch.take_fresh() else {
            tokio::spawn(task);
            return;
        };
        tokio::spawn(async move {
            let mut task = pin!(task);
            poll_fn(|cx| match task.as_mut().poll(cx) {
                Poll::Ready(_) => Poll::Ready(()),
                Poll::Pending => flow.poll_aborted(cx),
            })
            .await;
        });
    }
}
