//! Pulls and pushes that take whatever the line gives: one connection and one endless body each.
//!
//! Pulled bytes are counted here, pushed ones at the origin. A flow that breaks is opened again,
//! and the break is counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, bail};
use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

use super::Way;
use crate::origin::{Noise, Service};

/// A terabyte: no run sees its end.
const ENDLESS: u64 = 1 << 40;
/// Before a broken flow is opened again.
const PAUSE: Duration = Duration::from_millis(200);
/// More flows than anybody will ask for.
const FLOWS_MAX: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    Pull,
    Push,
}

/// Bulk flows that run until this is dropped.
pub struct Bulk {
    shared: Arc<Shared>,
    orders: Option<mpsc::Sender<(Flow, usize)>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    pulled: Mutex<Vec<Arc<AtomicU64>>>,
    breaks: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl Bulk {
    /// Starts without flows, in the network namespace of the caller.
    pub fn start(way: Way) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (orders, incoming) = mpsc::channel(FLOWS_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let inner = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("bulk".into()).spawn(move || {
            runtime.block_on(LocalSet::new().run_until(follow(way, incoming, inner)));
        })?;
        Ok(Self { shared, orders: Some(orders), thread: Some(thread) })
    }

    /// Opens so many more flows.
    pub fn add(&self, flow: Flow, count: usize) -> Result<()> {
        match &self.orders {
            Some(orders) if orders.try_send((flow, count)).is_ok() => Ok(()),
            _ => bail!("the load has ended"),
        }
    }

    /// Body bytes received by each pull, in the order of their start.
    pub fn pulled(&self) -> Vec<u64> {
        let flows = self.shared.pulled.lock().unwrap_or_else(PoisonError::into_inner);
        flows.iter().map(|flow| flow.load(Ordering::Relaxed)).collect()
    }

    /// Flows that broke so far.
    pub fn breaks(&self) -> u64 {
        self.shared.breaks.load(Ordering::Relaxed)
    }

    /// Why the latest broken flow broke.
    pub fn last_error(&self) -> Option<String> {
        self.shared.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Starts flows as ordered; when the orders end, dropping the local tasks closes all connections.
async fn follow(way: Way, mut orders: mpsc::Receiver<(Flow, usize)>, shared: Arc<Shared>) {
    while let Some((flow, count)) = orders.recv().await {
        for _ in 0..count {
            match flow {
                Flow::Pull => {
                    let bytes = Arc::new(AtomicU64::new(0));
                    let mut flows = shared.pulled.lock().unwrap_or_else(PoisonError::into_inner);
                    flows.push(Arc::clone(&bytes));
                    drop(flows);
                    spawn_local(keep(Arc::clone(&shared), move || pull(way, Arc::clone(&bytes))));
                }
                Flow::Push => {
                    spawn_local(keep(Arc::clone(&shared), move || push(way)));
                }
            }
        }
    }
}

/// Runs a flow again whenever it ends.
async fn keep<F: Future<Output = Result<()>>>(shared: Arc<Shared>, flow: impl Fn() -> F) {
    loop {
        if let Err(error) = flow().await {
            *shared.last_error.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(format!("{error:#}"));
        }
        shared.breaks.fetch_add(1, Ordering::Relaxed);
        sleep(PAUSE).await;
    }
}

async fn pull(way: Way, received: Arc<AtomicU64>) -> Result<()> {
    let mut client = way.open(Service::Registry).await?;
    let request = Request::get(format!("/blob/{ENDLESS}"))
        .header("host", Service::Registry.host())
        .body(Empty::new().boxed())?;
    let mut response = client.send_request(request).await?;
    if !response.status().is_success() {
        bail!("the pull was answered with {}", response.status());
    }
    while let Some(frame) = response.frame().await {
        if let Some(data) = frame?.data_ref() {
            received.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
    }
    bail!("the pull has ended")
}

async fn push(way: Way) -> Result<()> {
    let mut client = way.open(Service::Metrics).await?;
    let request = Request::builder()
        .method(Method::POST)
        .uri("/api/v1/write")
        .header("host", Service::Metrics.host())
        .header("content-type", "application/octet-stream")
        .body(Noise::new(ENDLESS).boxed())?;
    let response = client.send_request(request).await?;
    bail!("the push was answered with {}", response.status())
}
