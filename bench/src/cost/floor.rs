//! The floor of our own stack: the least that a proxy made of hyper and tokio does.
//!
//! One thread, connections to one origin in a plain list, no routing, no limits, no counting. What
//! Tillgate costs above it is what its features cost.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Context, Result};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

/// The argument that makes this program the floor.
pub(crate) const ROLE: &str = "floor-role";

type Idle = Rc<RefCell<Vec<client::SendRequest<Incoming>>>>;

/// This program as a bare proxy from the first address to the second.
pub(crate) fn run(args: &[String]) -> ExitCode {
    let addresses = args.iter().filter_map(|text| text.parse().ok()).collect::<Vec<SocketAddr>>();
    let [from, to] = addresses[..] else {
        eprintln!("lab: the floor needs two addresses");
        return ExitCode::FAILURE;
    };
    match serve(from, to) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(from: SocketAddr, to: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(from).await.context("listen")?;
        let idle = Idle::default();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let idle = Rc::clone(&idle);
            let answer = service_fn(move |request| pass(request, Rc::clone(&idle), to));
            spawn_local(server::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    })
}

async fn pass(
    request: Request<Incoming>,
    idle: Idle,
    to: SocketAddr,
) -> Result<Response<Incoming>, Box<dyn std::error::Error + Send + Sync>> {
    let free = idle.borrow().iter().position(client::SendRequest::is_ready);
    let known = free.map(|place| idle.borrow_mut().swap_remove(place));
    let mut sender = match known {
        Some(sender) => sender,
        None => {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = client::handshake(TokioIo::new(stream)).await?;
            spawn_local(connection);
            sender
        }
    };
    let response = sender.send_request(request).await?;
    idle.borrow_mut().push(sender);
    Ok(response)
}
