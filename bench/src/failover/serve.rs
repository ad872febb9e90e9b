//! A replica of the service, as a process of its own: HTTP/1.1, HTTP/2 and gRPC on one port, a
//! book of everything it does, and the faults that a process can be told to have.
//!
//! It is this program in another role, started with the address, its tier, where its book and its
//! control socket are, and for how long it sleeps before it listens. Killing and freezing is done
//! to it from outside.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixDatagram};
use tokio::sync::watch;
use tokio::time::sleep;

use super::ledger::Book;
use super::reply;
use super::scene::{Behaviour, Tier};
use crate::load::open_loop::lock;

/// The argument that makes this program a replica.
pub(crate) const ROLE: &str = "replica-role";

/// What all connections of a replica share.
pub(super) struct Replica {
    pub(super) tier: Tier,
    pub(super) book: Book,
    behaviour: Mutex<Behaviour>,
}

impl Replica {
    pub(super) fn behaviour(&self) -> Behaviour {
        *lock(&self.behaviour)
    }
}

/// Where everything is, as arguments.
struct Place {
    address: SocketAddr,
    tier: Tier,
    book: PathBuf,
    control: PathBuf,
    late: Duration,
}

/// The arguments of a replica.
pub(super) fn arguments(
    address: SocketAddr,
    tier: Tier,
    book: &Path,
    control: &Path,
    late: Duration,
) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    let late = late.as_millis().to_string();
    [ROLE, &address.to_string(), tier.name(), &text(book), &text(control), &late]
        .map(str::to_owned)
        .to_vec()
}

/// This program as a replica.
pub(crate) fn run(args: &[String]) -> ExitCode {
    match parse(args).and_then(|place| serve(&place)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> Result<Place> {
    let [address, tier, book, control, late] = args else { bail!("a replica needs five words") };
    Ok(Place {
        address: address.parse()?,
        tier: Tier::of(tier).context("a tier")?,
        book: book.into(),
        control: control.into(),
        late: Duration::from_millis(late.parse()?),
    })
}

fn serve(place: &Place) -> Result<()> {
    let replica = Arc::new(Replica {
        tier: place.tier,
        book: Book::open(&place.book)?,
        behaviour: Mutex::new(Behaviour::Well),
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // A replica that was killed has left its socket.
        drop(std::fs::remove_file(&place.control));
        let control = UnixDatagram::bind(&place.control).context("open the control socket")?;
        sleep(place.late).await;
        loop {
            accept(place.address, &replica, &control).await?;
            while replica.behaviour() == Behaviour::Closed {
                obey(&control, &replica).await?;
            }
        }
    })
}

/// Takes connections until the replica is told to be closed; then ends all of them.
async fn accept(address: SocketAddr, replica: &Arc<Replica>, control: &UnixDatagram) -> Result<()> {
    let listener = TcpListener::bind(address).await.context("listen")?;
    let (closing, closed) = watch::channel(());
    while replica.behaviour() != Behaviour::Closed {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                tokio::spawn(converse(stream, Arc::clone(replica), closed.clone()));
            }
            told = obey(control, replica) => told?,
        }
    }
    drop(closing);
    Ok(())
}

async fn obey(control: &UnixDatagram, replica: &Replica) -> Result<()> {
    let mut word = [0; 64];
    let length = control.recv(&mut word).await?;
    *lock(&replica.behaviour) = serde_json::from_slice(&word[..length])?;
    Ok(())
}

async fn converse(stream: TcpStream, replica: Arc<Replica>, mut closed: watch::Receiver<()>) {
    drop(stream.set_nodelay(true));
    let broken = Arc::new(AtomicBool::new(false));
    let wire = Wire { stream, broken: Arc::clone(&broken) };
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        reply::answer(Arc::clone(&replica), request, Arc::clone(&broken))
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut connection = pin!(builder.serve_connection(TokioIo::new(wire), service));
    // Proxies that go away in the middle are part of every scene.
    tokio::select! {
        _ = connection.as_mut() => return,
        // It fails when the sender has gone, and that is the news.
        _ = closed.changed() => connection.as_mut().graceful_shutdown(),
    }
    drop(connection.await);
}

/// A connection that ends with a reset when it is broken on purpose.
struct Wire {
    stream: TcpStream,
    broken: Arc<AtomicBool>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.broken.load(Ordering::Relaxed) {
            drop(SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)));
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A FIN in front of the reset would be an orderly end.
        if self.broken.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
