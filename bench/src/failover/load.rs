//! The tills of a scene: POSTs at a fixed rate, each with its number, all of them kept.
//!
//! Latency counts from the moment a call was due. A call that has not ended by the deadline of
//! its till has failed. Over HTTP/1.1 every call has a connection to itself, over HTTP/2 calls
//! share a few; connections that are closed are opened again, as any till would.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::client::conn::http2;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use super::ledger::NOBODY;
use super::reply::{CALL, GRPC, PATH, TIER, framed};
use super::scene::{Protocol, Tier};
use crate::load::open_loop::{Done, OpenLoop, ended};
use crate::load::payments::PAYMENT;
use crate::load::{Client, Way};
use crate::origin::{PAYMENT_ANSWER, Service, noise};
use crate::stats::{Spread, millis};
use crate::sys::{self, Nanos};

/// A till gives up then: later than the proxy, whose own limit is 3 s.
const DEADLINE: Duration = Duration::from_secs(5);
/// Connections that HTTP/2 calls share.
const SHARED: usize = 16;
/// Calls from which the cloud's own time is taken.
const SAMPLES: usize = 9;

type Body = BoxBody<bytes::Bytes, std::convert::Infallible>;

/// What to send, and where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) to: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) rate: u32,
    /// Whether calls carry a key.
    pub(super) keyed: bool,
}

/// One call.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub(super) struct Call {
    pub(super) number: u64,
    pub(super) due: Nanos,
    pub(super) took_us: u64,
    /// Who has answered well; `None` = it failed.
    pub(super) answered: Option<Tier>,
    pub(super) failure: Option<String>,
}

impl Call {
    pub(super) const fn ended(&self) -> Nanos {
        self.due + self.took_us * 1_000
    }
}

/// Calls that keep coming.
pub(super) fn start(plan: Plan) -> Result<OpenLoop<Call>> {
    OpenLoop::start(f64::from(plan.rate), move |due, done| make_calls(plan, due, done))
}

async fn make_calls(plan: Plan, mut due: mpsc::Receiver<Nanos>, done: Done<Call>) {
    let (wires, done) = (Rc::new(Wires::new(plan)), Rc::new(done));
    let open_calls = Rc::new(());
    let mut number = NOBODY;
    while let Some(due) = due.recv().await {
        number += 1;
        let (wires, done) = (Rc::clone(&wires), Rc::clone(&done));
        let open_call = Rc::clone(&open_calls);
        spawn_local(async move {
            let answer = wires.call_in_time(number).await;
            let took_us = sys::now().saturating_sub(due) / 1_000;
            let failure = answer.as_ref().err().map(|error| format!("{error:#}"));
            done.push(Call { number, due, took_us, answered: answer.ok(), failure });
            drop(open_call);
        });
    }
    ended(&open_calls).await;
}

/// How long a replica itself takes for a call, without a proxy: the median in milliseconds.
pub(super) fn own_time_ms(plan: Plan) -> Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let wires = Wires::new(plan);
        wires.call_in_time(NOBODY).await.context("the first call to a replica")?;
        let mut times = Vec::new();
        for _ in 0..SAMPLES {
            let before = sys::now();
            // The others of the shared connections are as cold as the first was.
            wires.turn.set(0);
            wires.call_in_time(NOBODY).await.context("a call to a replica")?;
            times.push(millis((sys::now() - before) / 1_000));
        }
        Ok(Spread::of(times).median)
    })
}

/// The connections of a load.
struct Wires {
    plan: Plan,
    free: RefCell<Vec<Client>>,
    shared: RefCell<Vec<Option<http2::SendRequest<Body>>>>,
    turn: Cell<usize>,
}

impl Wires {
    fn new(plan: Plan) -> Self {
        let shared = RefCell::new(vec![None; SHARED]);
        Self { plan, free: RefCell::default(), shared, turn: Cell::new(0) }
    }

    async fn call_in_time(&self, number: u64) -> Result<Tier> {
        let call = async {
            match self.plan.protocol {
                Protocol::H1 => self.call_alone(number).await,
                Protocol::H2 | Protocol::Grpc => self.call_beside(number).await,
            }
        };
        timeout(DEADLINE, call).await.context("no answer by the till's deadline")?
    }

    async fn call_alone(&self, number: u64) -> Result<Tier> {
        let mut client = loop {
            let free = self.free.borrow_mut().pop();
            let mut client = match free {
                Some(client) => client,
                None => break Way::Entry(self.plan.to).open(Service::Payments).await?,
            };
            // It may have been closed since its last call.
            if client.ready().await.is_ok() {
                break client;
            }
        };
        let response = client.send_request(self.request(number)?).await?;
        let tier = judge(response, self.plan.protocol).await?;
        self.free.borrow_mut().push(client);
        Ok(tier)
    }

    async fn call_beside(&self, number: u64) -> Result<Tier> {
        let place = self.turn.get() % SHARED;
        self.turn.set(self.turn.get() + 1);
        let known = self.shared.borrow()[place].clone().filter(|client| !client.is_closed());
        let mut client = match known {
            Some(client) => client,
            None => {
                let opened = open_shared(self.plan.to).await?;
                self.shared.borrow_mut()[place] = Some(opened.clone());
                opened
            }
        };
        client.ready().await?;
        let response = client.send_request(self.request(number)?).await?;
        judge(response, self.plan.protocol).await
    }

    fn request(&self, number: u64) -> Result<Request<Body>> {
        let payload = noise().slice(..PAYMENT);
        let host = Service::Payments.host();
        let mut builder = Request::builder().method(Method::POST).header(CALL, number);
        if self.plan.keyed {
            builder = builder.header("idempotency-key", format!("till-{number}"));
        }
        let plain = "application/octet-stream";
        let (builder, payload) = match self.plan.protocol {
            Protocol::H1 => {
                (builder.uri("/pay").header("host", host).header("content-type", plain), payload)
            }
            Protocol::H2 => {
                (builder.uri(format!("http://{host}/pay")).header("content-type", plain), payload)
            }
            Protocol::Grpc => {
                let builder = builder.uri(format!("http://{host}{PATH}")).header("te", "trailers");
                (builder.header("content-type", GRPC), framed(&payload))
            }
        };
        Ok(builder.body(Full::new(payload).boxed())?)
    }
}

async fn open_shared(to: SocketAddr) -> Result<http2::SendRequest<Body>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let (client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    // Its end shows in the calls that were sent over it.
    spawn_local(connection);
    Ok(client)
}

/// Whether an answer is a good one, and from whom.
async fn judge(response: Response<hyper::body::Incoming>, protocol: Protocol) -> Result<Tier> {
    let (head, body) = response.into_parts();
    let tier = head.headers.get(TIER).and_then(|name| Tier::of(name.to_str().ok()?));
    let body = body.collect().await.context("the answer broke off")?;
    ensure!(head.status == StatusCode::OK, "status {}", head.status.as_u16());
    let length = if protocol == Protocol::Grpc {
        let trailer = body.trailers().and_then(|fields| fields.get("grpc-status"));
        let status = trailer.or(head.headers.get("grpc-status"));
        let status = status.and_then(|text| text.to_str().ok()).unwrap_or("missing");
        ensure!(status == "0", "grpc-status {status}");
        PAYMENT_ANSWER + 5
    } else {
        PAYMENT_ANSWER
    };
    let found = body.to_bytes().len();
    ensure!(found == length, "{found} bytes instead of {length}");
    match tier {
        Some(tier) => Ok(tier),
        None => bail!("an answer of no replica"),
    }
}
