//! Payments, open loop: a call is due every so often, whether the ones before have ended or not.
//!
//! Latency counts from the moment the call was due, so a slow answer cannot hide the calls that
//! had to wait behind it. Up to [`Plan::connections`] kept-alive connections take turns, as the
//! tills of a store would. Every call is kept with its due time; nothing is aggregated here.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};

use super::open_loop::{Done, OpenLoop, ended, lock};
use super::{Client, Way};
use crate::origin::{PAYMENT_ANSWER, Service, noise};
use crate::sys::{self, Nanos};

/// Body of a payment.
pub(crate) const PAYMENT: usize = 700;
/// A till gives up then.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Between the connections that are opened at the start, so that they do not queue on the line.
const OPENING_PACE: Duration = Duration::from_millis(20);

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
    calls: OpenLoop<Call>,
    last_error: Arc<Mutex<Option<String>>>,
}

impl Payments {
    /// Starts in the network namespace of the caller.
    pub fn start(plan: Plan) -> Result<Self> {
        let last_error = Arc::default();
        let errors = Arc::clone(&last_error);
        let calls =
            OpenLoop::start(plan.per_second, move |due, done| run_tills(plan, due, done, errors))?;
        Ok(Self { calls, last_error })
    }

    /// All calls that have ended so far.
    pub fn so_far(&self) -> Vec<Call> {
        self.calls.so_far()
    }

    /// Why the latest failed call failed.
    pub fn last_error(&self) -> Option<String> {
        lock(&self.last_error).clone()
    }

    /// Stops new calls, waits for the open ones and returns all.
    pub fn stop(self) -> Vec<Call> {
        self.calls.stop()
    }
}

/// Tills that are free (with or without a connection) and calls that wait for one.
#[derive(Default)]
struct Counter {
    free: VecDeque<Option<Client>>,
    waiting: VecDeque<Nanos>,
}

async fn run_tills(
    plan: Plan,
    mut calls: mpsc::Receiver<Nanos>,
    done: Done<Call>,
    last_error: Arc<Mutex<Option<String>>>,
) {
    let counter = Rc::new(RefCell::new(Counter::default()));
    let opening = Rc::clone(&counter);
    spawn_local(async move {
        for _ in 0..plan.connections {
            let client = plan.way.open(Service::Payments).await.ok();
            opening.borrow_mut().free.push_back(client);
            sleep(OPENING_PACE).await;
        }
    });
    let record = Rc::new(move |due, answer: Result<()>| {
        let outcome = match answer {
            Ok(()) => Outcome::Paid,
            Err(error) => {
                *lock(&last_error) = Some(format!("{error:#}"));
                Outcome::Failed
            }
        };
        done.push(Call { due, took_us: sys::now().saturating_sub(due) / 1_000, outcome });
    });
    let open_calls = Rc::new(());
    while let Some(due) = calls.recv().await {
        let till = counter.borrow_mut().free.pop_front();
        let Some(till) = till else {
            counter.borrow_mut().waiting.push_back(due);
            continue;
        };
        let (counter, record) = (Rc::clone(&counter), Rc::clone(&record));
        let open_call = Rc::clone(&open_calls);
        spawn_local(async move {
            serve_queue(plan.way, till, due, &counter, &*record).await;
            drop(open_call);
        });
    }
    ended(&open_calls).await;
}

/// Makes a call, and then those that waited meanwhile; leaves the till free.
async fn serve_queue(
    way: Way,
    mut till: Option<Client>,
    mut due: Nanos,
    counter: &RefCell<Counter>,
    record: &impl Fn(Nanos, Result<()>),
) {
    loop {
        let answer = match timeout(CALL_TIMEOUT, pay(way, &mut till)).await {
            Ok(answer) => answer,
            Err(elapsed) => Err(elapsed.into()),
        };
        if answer.is_err() {
            till = None;
        }
        record(due, answer);
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
