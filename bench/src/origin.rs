//! The services in the cloud: payments, a registry and a metrics store, over real HTTP.
//!
//! HTTP/1.1 and h2c on each port, kernel defaults everywhere. Payments answers 900 bytes to any
//! POST, the registry streams as many incompressible bytes as the last segment of the path says,
//! the metrics store swallows uploads and counts their body bytes: goodput is judged at the
//! receiver.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::certificate::Certificate;

/// Body of the answer to a payment.
pub const PAYMENT_ANSWER: usize = 900;
/// One chunk of a stream of noise.
pub const CHUNK: usize = 16 * 1_024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    Payments,
    Registry,
    Metrics,
}

impl Service {
    pub const ALL: [Self; 3] = [Self::Payments, Self::Registry, Self::Metrics];

    pub fn port(self) -> u16 {
        match self {
            Self::Payments => 9_000,
            Self::Registry => 9_001,
            Self::Metrics => 9_002,
        }
    }

    /// The same inside of TLS.
    pub fn tls_port(self) -> u16 {
        self.port() + 100
    }

    /// The name that the store's devices use.
    pub fn host(self) -> &'static str {
        match self {
            Self::Payments => "pay.example",
            Self::Registry => "registry.example",
            Self::Metrics => "metrics.example",
        }
    }
}

/// What the origins have seen.
#[derive(Debug, Default)]
pub struct Counters {
    pub payments: AtomicU64,
    pub metrics_bytes: AtomicU64,
}

/// The running origins; they stop when this is dropped.
pub struct Origins {
    counters: Arc<Counters>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Origins {
    /// Serves on `address` in the network namespace of the caller.
    pub fn start(address: Ipv4Addr) -> Result<Self> {
        let counters = Arc::new(Counters::default());
        let (stop, stopped) = oneshot::channel();
        let mut listeners = Vec::new();
        for service in Service::ALL {
            let tls = TlsAcceptor::from(Arc::clone(&Certificate::of_the_lab()?.server));
            for (port, tls) in [(service.port(), None), (service.tls_port(), Some(tls))] {
                let listener = std::net::TcpListener::bind(SocketAddr::from((address, port)))?;
                listener.set_nonblocking(true)?;
                listeners.push((service, tls, listener));
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let seen = Arc::clone(&counters);
        let thread = std::thread::Builder::new().name("origins".into()).spawn(move || {
            runtime.block_on(async move {
                for (service, tls, listener) in listeners {
                    // A listener that tokio refuses shows as an origin that does not answer.
                    if let Ok(listener) = TcpListener::from_std(listener) {
                        tokio::spawn(accept(service, tls, listener, Arc::clone(&seen)));
                    }
                }
                drop(stopped.await);
            });
        })?;
        Ok(Self { counters, stop: Some(stop), thread: Some(thread) })
    }

    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}

impl Drop for Origins {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn accept(
    service: Service,
    tls: Option<TlsAcceptor>,
    listener: TcpListener,
    counters: Arc<Counters>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        // The lab's clients decide how many connections there are.
        drop(stream.set_nodelay(true));
        let (counters, tls) = (Arc::clone(&counters), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => talk(service, stream, counters).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        talk(service, stream, counters).await;
                    }
                }
            }
        });
    }
}

async fn talk<S>(service: Service, stream: S, counters: Arc<Counters>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request| serve(service, request, Arc::clone(&counters)));
    let server = auto::Builder::new(TokioExecutor::new());
    // Clients that go away in the middle are part of every experiment.
    drop(server.serve_connection(TokioIo::new(stream), answer).await);
}

type Answer = Response<Either<Full<Bytes>, Noise>>;

async fn serve(
    service: Service,
    request: Request<Incoming>,
    counters: Arc<Counters>,
) -> Result<Answer, Infallible> {
    let answer = match service {
        Service::Payments => match request.into_body().collect().await {
            Ok(_) => {
                counters.payments.fetch_add(1, Ordering::Relaxed);
                whole(StatusCode::OK, noise().slice(..PAYMENT_ANSWER))
            }
            Err(_) => whole(StatusCode::BAD_REQUEST, Bytes::from_static(b"half a payment\n")),
        },
        Service::Registry => {
            let length = request.uri().path().rsplit('/').next().and_then(|last| last.parse().ok());
            match length {
                Some(length) => Response::new(Either::Right(Noise::new(length))),
                None => whole(StatusCode::NOT_FOUND, Bytes::from_static(b"use /blob/BYTES\n")),
            }
        }
        Service::Metrics => {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                if let Some(data) = frame.data_ref() {
                    counters.metrics_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
                }
            }
            whole(StatusCode::OK, Bytes::from_static(b"stored\n"))
        }
    };
    Ok(answer)
}

fn whole(status: StatusCode, body: Bytes) -> Answer {
    let mut response = Response::new(Either::Left(Full::new(body)));
    *response.status_mut() = status;
    response
}

/// A chunk of bytes that no compression makes smaller.
pub fn noise() -> Bytes {
    static BLOCK: std::sync::OnceLock<Bytes> = std::sync::OnceLock::new();
    BLOCK
        .get_or_init(|| {
            let mut random = fastrand::Rng::with_seed(9);
            (0..CHUNK).map(|_| random.u8(..)).collect()
        })
        .clone()
}

/// A body of so many bytes of noise.
#[derive(Debug)]
pub struct Noise {
    left: u64,
}

impl Noise {
    pub fn new(length: u64) -> Self {
        Self { left: length }
    }
}

impl Body for Noise {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let length = usize::try_from(self.left).map_or(CHUNK, |left| left.min(CHUNK));
        self.left -= length as u64;
        Poll::Ready(Some(Ok(Frame::data(noise().slice(..length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
