//! The tasks of one HTTP/2 connection: hyper runs each stream's answer as a task of its own, and
//! what sends a tunnel's bytes to the client as another.
//!
//! A stream whose client gives it no window is not polled by hyper any more, so it cannot be told
//! to end. Its task can: when its request is aborted, all of it is dropped, which resets the
//! stream, frees what it holds and gives its place to another one. Costs a few tens of nanoseconds
//! a stream; HTTP/1 has no such tasks.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::rt::Executor;

use super::super::flow::Flow;
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
        // hyper hands a stream's task over right after the request has begun, and a tunnel's right
        // after the answer that makes it one.
        if let Some(flow) = self.watch.take_fresh() {
            tokio::spawn(unless_aborted(task, flow, Flow::poll_aborted));
        } else if let Some(flow) = self.watch.take_tunnel() {
            let cut = Arc::clone(&flow);
            let task = async move {
                let mut task = pin!(task);
                poll_fn(|cx| match cut.is_aborted() {
                    // One that is cut must not come to an end of its own.
                    true => Poll::Pending,
                    false => task.as_mut().poll(cx).map(|_| ()),
                })
                .await;
            };
            tokio::spawn(unless_aborted(task, flow, Flow::poll_tunnel_aborted));
        } else {
            tokio::spawn(task);
        }
    }
}

/// Runs `task` to its end, or until `flow` is aborted.
async fn unless_aborted(
    task: impl Future,
    flow: Arc<Flow>,
    aborted: impl Fn(&Flow, &Context<'_>) -> Poll<()>,
) {
    let mut task = pin!(task);
    poll_fn(|cx| match task.as_mut().poll(cx) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => aborted(&flow, cx),
    })
    .await;
}
