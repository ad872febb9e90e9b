//! Calls at a fixed rate, whether those before have ended or not.
//!
//! A clock thread says when a call is due, a second thread makes the calls with a runtime of its
//! own, both in the network namespace of whoever starts them. What a call was like is whatever
//! the caller's work pushes into [`Done`].

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::sleep;

use crate::stats::whole;
use crate::sys::{self, NANOS_PER_SEC, Nanos};

/// Calls that are due and not yet taken: ten seconds at 100/s.
const DUE_MAX: usize = 1_000;

/// Calls that keep coming until this is stopped or dropped.
pub(crate) struct OpenLoop<T> {
    shared: Arc<Shared<T>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<T> {
    stop: AtomicBool,
    done: Mutex<Vec<T>>,
}

/// Where calls are recorded when they have ended.
pub(crate) struct Done<T>(Arc<Shared<T>>);

impl<T> Done<T> {
    pub(crate) fn push(&self, call: T) {
        lock(&self.0.done).push(call);
    }
}

impl<T: Clone + Send + 'static> OpenLoop<T> {
    /// `work` is given the moments at which calls are due. When there are no more, it waits for
    /// the open calls and ends.
    pub(crate) fn start<F>(
        per_second: f64,
        work: impl FnOnce(mpsc::Receiver<Nanos>, Done<T>) -> F + Send + 'static,
    ) -> Result<Self>
    where
        F: Future<Output = ()>,
    {
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), done: Mutex::default() });
        let (due, calls) = mpsc::channel(DUE_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let done = Done(Arc::clone(&shared));
        let callers = std::thread::Builder::new().name("callers".into()).spawn(move || {
            sys::exact_timers();
            runtime.block_on(LocalSet::new().run_until(async { work(calls, done).await }));
        })?;
        let at_clock = Arc::clone(&shared);
        let clock = std::thread::Builder::new().name("call-clock".into()).spawn(move || {
            sys::exact_timers();
            tick(per_second, &due, &at_clock.stop);
        })?;
        Ok(Self { shared, threads: vec![clock, callers] })
    }

    /// All calls that have ended so far.
    pub(crate) fn so_far(&self) -> Vec<T> {
        lock(&self.shared.done).clone()
    }

    /// Stops new calls, waits for the open ones and returns all.
    pub(crate) fn stop(mut self) -> Vec<T> {
        self.end();
        std::mem::take(&mut lock(&self.shared.done))
    }
}

impl<T> OpenLoop<T> {
    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl<T> Drop for OpenLoop<T> {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until every open call has given its share of `open_calls` back.
pub(crate) async fn ended(open_calls: &Rc<()>) {
    while Rc::strong_count(open_calls) > 1 {
        sleep(Duration::from_millis(5)).await;
    }
}

/// The clock. Tokio's timers are exact to a millisecond only, hence a thread.
fn tick(per_second: f64, due: &mpsc::Sender<Nanos>, stop: &AtomicBool) {
    let period = whole(1e9 / per_second.max(0.001)).max(1);
    let mut at = sys::now() + period;
    while !stop.load(Ordering::Relaxed) {
        // In steps, so that a stop is noticed even at one call an hour.
        let step = at.min(sys::now() + NANOS_PER_SEC / 10);
        sys::sleep_until(step);
        if step == at {
            // A full queue means that the callers have been stuck for seconds; calls that
            // are waiting then already tell so.
            let _ = due.try_send(at);
            at += period;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_come_at_their_rate_and_open_ones_are_waited_for() {
        let open_loop = OpenLoop::start(200.0, |mut due, done: Done<Nanos>| async move {
            let (open_calls, done) = (Rc::new(()), Rc::new(done));
            while let Some(at) = due.recv().await {
                let (open_call, done) = (Rc::clone(&open_calls), Rc::clone(&done));
                tokio::task::spawn_local(async move {
                    sleep(Duration::from_millis(50)).await;
                    done.push(at);
                    drop(open_call);
                });
            }
            ended(&open_calls).await;
        });
        let open_loop = open_loop.unwrap();
        let patience = sys::now() + 20 * NANOS_PER_SEC;
        while open_loop.so_far().len() < 20 && sys::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
        let seen = open_loop.so_far().len();
        let mut calls = open_loop.stop();
        assert!(calls.len() > seen, "those that were open are missing: {seen}");
        calls.sort_unstable();
        assert!(calls.windows(2).all(|pair| pair[1] - pair[0] == NANOS_PER_SEC / 200));
    }
}
