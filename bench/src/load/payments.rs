//! Payments, open loop: a call is due every so often, whether the ones before have ended or not.
//!
//! Latency counts from the moment the call was due, so a slow answer cannot hide the calls that
//! had to wait behind it. Up to [`Plan::connections`] kept-alive connections take turns, as the
//! tills of a store would. Every call is kept with its due time; nothing is aggregated here.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use super::{Client, Way};
use crate::origin::{PAYMENT_ANSWER, Service, noise};
use crate::stats::whole;
use crate::sys::{self, NANOS_PER_SEC, Nanos};

/// Body of a payment.
const PAYMENT: usize = 700;
/// A till gives up then.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Between the connections that are opened at the start, so that they do not queue on the line.
const OPENING_PACE: Duration = Duration::from_millis(20);
/// Calls that are due and not yet taken: ten seconds at 100/s.
const DUE_MAX: usize = 1_000;

#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub way: Way,
    pub per_second: f64,
    pub connections: usize,
}

/// One call.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub due: Nanos,
    pub took_us: u64,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Paid,
    Failed,
}

/// Payments that keep coming until this is stopped or dropped.
pub struct Payments {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    calls: Mutex<Vec<Call>>,
    last_error: Mutex<Option<String>>,
}

impl Payments {
    /// Starts in the network namespace of the caller.
    pub fn start(plan: Plan) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (due, calls) = mpsc::channel(DUE_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let at_till = Arc::clone(&shared);
        let tills = std::thread::Builder::new().name("tills".into()).spawn(move || {
            sys::exact_timers();
            runtime.block_on(LocalSet::new().run_until(run_tills(plan, calls, at_till)));
        })?;
        let at_clock = Arc::clone(&shared);
        let clock = std::thread::Builder::new().name("till-clock".into()).spawn(move || {
            sys::exact_timers();
            tick(plan.per_second, &due, &at_clock.stop);
        })?;
        Ok(Self { shared, threads: vec![clock, tills] })
    }

    /// All calls that have ended so far.
    pub fn so_far(&self) -> Vec<Call> {
        lock(&self.shared.calls).clone()
    }

    /// Why the latest failed call failed.
    pub fn last_error(&self) -> Option<String> {
        lock(&self.shared.last_error).clone()
    }

    /// Stops new calls, waits for the open ones and returns all.
    pub fn stop(mut self) -> Vec<Call> {
        self.end();
        std::mem::take(&mut lock(&self.shared.calls))
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl Drop for Payments {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The clock of the tills. Tokio's timers are exact to a millisecond only, hence a thread.
fn tick(per_second: f64, due: &mpsc::Sender<Nanos>, stop: &AtomicBool) {
    let period = whole(1e9 / per_second.max(0.001)).max(1);
    let mut at = sys::now() + period;
    while !stop.load(Ordering::Relaxed) {
        // In steps, so that a stop is noticed even at one call an hour.
        let step = at.min(sys::now() + NANOS_PER_SEC / 10);
        sys::sleep_until(step);
        if step == at {
            // A full queue means that the tills have been stuck for ten seconds; calls that
            // are waiting then already tell so.
            let _ = due.try_send(at);
            at += period;
        }
    }
}

/// Tills that are free (with or without a connection) and calls that wait for one.
#[derive(Default)]
struct Counter {
    free: VecDeque<Option<Client>>,
    waiting: VecDeque<Nanos>,
}

async fn run_tills(plan: Plan, mut calls: mpsc::Receiver<Nanos>, shared: Arc<Shared>) {
    let counter = Rc::new(RefCell::new(Counter::default()));
    let opening = Rc::clone(&counter);
    spawn_local(async move {
        for _ in 0..plan.connections {
            let client = plan.way.open(Service::Payments).await.ok();
            opening.borrow_mut().free.push_back(client);
            sleep(OPENING_PACE).await;
        }
    });
    let open_calls = Rc::new(());
    while let Some(due) = calls.recv().await {
        let till = counter.borrow_mut().free.pop_front();
        let Some(till) = till else {
            counter.borrow_mut().waiting.push_back(due);
            continue;
        };
        let (counter, shared) = (Rc::clone(&counter), Arc::clone(&shared));
        let open_call = Rc::clone(&open_calls);
        spawn_local(async move {
            serve_queue(plan.way, till, due, &counter, &shared).await;
            drop(open_call);
        });
    }
    // The clock has stopped; every open call still counts.
    while Rc::strong_count(&open_calls) > 1 {
        sleep(Duration::from_millis(5)).await;
    }
}

/// Makes a call, and then those that waited meanwhile; leaves the till free.
async fn serve_queue(
    way: Way,
    mut till: Option<Client>,
    mut due: Nanos,
    counter: &RefCell<Counter>,
    shared: &Shared,
) {
    loop {
        let answer = match timeout(CALL_TIMEOUT, pay(way, &mut till)).await {
            Ok(answer) => answer,
            Err(elapsed) => Err(elapsed.into()),
        };
        let outcome = match answer {
            Ok(()) => Outcome::Paid,
            Err(error) => {
                till = None;
                *lock(&shared.last_error) = Some(format!("{error:#}"));
                Outcome::Failed
            }
        };
        let took_us = sys::now().saturating_sub(due) / 1_000;
        lock(&shared.calls).push(Call { due, took_us, outcome });
        let mut counter = counter.borrow_mut();
        match counter.waiting.pop_front() {
            Some(next) => due = next,
            None => return counter.free.push_back(till),
        }
    }
}

/// One payment over the till's connection, or over a new one if that has been closed.
async fn pay(way: Way, till: &mut Option<Client>) -> Result<()> {
    let reusable = match till {
        Some(client) => client.ready().await.is_ok(),
        None => false,
    };
    if !reusable {
        *till = Some(way.open(Service::Payments).await?);
    }
    let client = till.as_mut().expect("opened just above");
    client.ready().await?;
    let request = Request::builder()
        .method(Method::POST)
        .uri("/pay")
        .header("host", Service::Payments.host())
        .header("content-type", "application/octet-stream")
        .body(Full::new(noise().slice(..PAYMENT)).boxed())?;
    let response = client.send_request(request).await?;
    let status = response.status();
    let body: Bytes = response.into_body().collect().await?.to_bytes();
    if status != StatusCode::OK || body.len() != PAYMENT_ANSWER {
        let text = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
        bail!("answer {status} with {} bytes: {text}", body.len());
    }
    Ok(())
}
