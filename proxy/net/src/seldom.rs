//! A future that is polled only when it was woken.
//!
//! A connection's task wakes for every read and write, and with it every future that waits beside
//! the connection: a timer, a drain. Polling those takes a lock each. Behind a [`Seldom`] they cost
//! one load until something wakes them. In goes a pinned future and the task's waker, out comes
//! what it is ready with; a finished one must be replaced, as ever.

#[cfg(test)]
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Remembers whether somebody was woken since it was asked last. See the module.
#[derive(Debug)]
pub(crate) struct Seldom {
    bell: Arc<Bell>,
    waker: Waker,
}

#[derive(Debug)]
struct Bell {
    rang: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl Default for Seldom {
    fn default() -> Self {
        let bell = Arc::new(Bell { rang: AtomicBool::new(true), task: Mutex::new(None) });
        Self { waker: Waker::from(Arc::clone(&bell)), bell }
    }
}

impl Seldom {
    /// Polls `poll` with a context of its own if something rang since the last time.
    pub(crate) fn poll<T>(
        &self,
        cx: &Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if !self.bell.rang.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        let mut task = self.bell.task.lock().unwrap_or_else(PoisonError::into_inner);
        if !task.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
        drop(task);
        // Before polling: what rings meanwhile must be heard.
        self.bell.rang.store(false, Ordering::Release);
        poll(&mut Context::from_waker(&self.waker))
    }

    /// The next poll polls, whether or not somebody rings: its future was replaced.
    pub(crate) fn ring(&self) {
        self.bell.rang.store(true, Ordering::Release);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rang.store(true, Ordering::Release);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task.as_ref() {
            task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;

    use super::*;

    #[test]
    fn it_is_polled_once_and_then_when_it_is_woken() {
        let (tell, told) = tokio::sync::oneshot::channel::<u8>();
        let mut told = pin!(told);
        let seldom = Seldom::default();
        let mut polls = 0;
        let mut ask = |told: Pin<&mut tokio::sync::oneshot::Receiver<u8>>| {
            let context = Context::from_waker(Waker::noop());
            seldom.poll(&context, |cx| {
                polls += 1;
                told.poll(cx)
            })
        };
        assert!(ask(told.as_mut()).is_pending());
        assert!(ask(told.as_mut()).is_pending());
        tell.send(7).unwrap();
        assert_eq!(ask(told.as_mut()), Poll::Ready(Ok(7)));
        assert_eq!(polls, 2);
    }
}
