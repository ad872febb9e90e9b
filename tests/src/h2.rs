//! HTTP/2 with prior knowledge, both sides, for tests that need frames instead of bytes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A client with one HTTP/2 connection.
pub struct Client {
    runtime: Runtime,
    sender: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Status and fields.
    pub head: http::response::Parts,
    /// All data that came.
    pub body: Bytes,
    /// After the data.
    pub trailers: Option<HeaderMap>,
    /// Whether the stream came to its end; else it was reset.
    pub complete: bool,
}

impl Client {
    /// A connection to `address`.
    ///
    /// # Panics
    /// If there is none.
    pub fn connect(address: SocketAddr) -> Self {
        let runtime = runtime();
        let sender = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await.expect("somebody listens");
            start(stream).await
        });
        Self { runtime, sender }
    }

    /// A connection to `address` inside of TLS, which asks for `name`.
    ///
    /// # Panics
    /// If there is none.
    pub fn connect_tls(address: SocketAddr, name: &str, config: Arc<rustls::ClientConfig>) -> Self {
        let runtime = runtime();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("a name");
        let sender = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await.expect("somebody listens");
            let connector = tokio_rustls::TlsConnector::from(config);
            start(connector.connect(name, stream).await.expect("a handshake")).await
        });
        Self { runtime, sender }
    }

    /// Sends requests at the same time; their answers, in the same order.
    ///
    /// # Panics
    /// If the connection breaks before an answer's head.
    pub fn ask_all(&mut self, requests: Vec<Request<Full<Bytes>>>) -> Vec<Answer> {
        let asked: Vec<_> = requests
            .into_iter()
            .map(|request| {
                let response = self.sender.send_request(request);
                self.runtime.spawn(async move { collect(response.await.expect("a head")).await })
            })
            .collect();
        let answers = asked.into_iter().map(|answer| self.runtime.block_on(answer));
        answers.map(|answer| answer.expect("no panic")).collect()
    }

    /// Sends one request.
    ///
    /// # Panics
    /// If the connection breaks before the answer's head.
    pub fn ask(&mut self, request: Request<Full<Bytes>>) -> Answer {
        self.ask_all(vec![request]).pop().expect("one answer")
    }
}

async fn start(
    stream: impl Stream + 'static,
) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .handshake(TokioIo::new(stream))
        .await
        .expect("HTTP/2 is spoken");
    tokio::spawn(connection);
    sender
}

async fn collect(response: Response<Incoming>) -> Answer {
    let (head, mut incoming) = response.into_parts();
    let (mut body, mut trailers, mut complete) = (Vec::new(), None, true);
    while let Some(frame) = incoming.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => body.extend_from_slice(&data),
            Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
            Err(_) => {
                complete = false;
                break;
            }
        }
    }
    Answer { head, body: body.into(), trailers, complete }
}

/// What HTTP/2 is spoken on, with TLS or without.
trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Stream for S {}

/// A server that speaks nothing but HTTP/2.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _runtime: Runtime,
}

/// What an origin answers with: fields, pieces of a body, trailers.
pub type Frames = Vec<Frame<Bytes>>;

impl Origin {
    /// A server that answers whole requests with `answer`.
    ///
    /// # Panics
    /// If there is no free port.
    pub fn start(
        answer: impl Fn(http::request::Parts, Bytes, Option<HeaderMap>) -> Frames
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self::with_streams(200, answer)
    }

    /// The same inside of TLS.
    ///
    /// # Panics
    /// If there is no free port.
    pub fn start_tls(
        config: Arc<rustls::ServerConfig>,
        answer: impl Fn(http::request::Parts, Bytes, Option<HeaderMap>) -> Frames
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self::serve(200, Some(config), answer)
    }

    /// The same; it takes `streams_max` requests at a time on one connection.
    ///
    /// # Panics
    /// If there is no free port.
    pub fn with_streams(
        streams_max: u32,
        answer: impl Fn(http::request::Parts, Bytes, Option<HeaderMap>) -> Frames
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self::serve(streams_max, None, answer)
    }

    fn serve(
        streams_max: u32,
        tls: Option<Arc<rustls::ServerConfig>>,
        answer: impl Fn(http::request::Parts, Bytes, Option<HeaderMap>) -> Frames
        + Send
        + Sync
        + 'static,
    ) -> Self {
        let answer = Arc::new(answer);
        Self::listen(tls, move |stream| {
            let answer = Arc::clone(&answer);
            async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = Arc::clone(&answer);
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.expect("a whole request");
                        let trailers = body.trailers().cloned();
                        let frames = answer(head, body.to_bytes(), trailers);
                        Ok::<_, Infallible>(Response::new(Pieces(frames.into())))
                    }
                });
                let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                server.max_concurrent_streams(streams_max);
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            }
        })
    }

    /// A server of both versions, which echoes on WebSockets after it has said `hello`: by
    /// extended CONNECT only if it `takes_streams` of them, by `Upgrade` always.
    ///
    /// # Panics
    /// If there is no free port.
    pub fn sockets(tls: Option<Arc<rustls::ServerConfig>>, takes_streams: bool) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        Self::listen(tls, move |stream| serve_sockets(stream, takes_streams, scheme))
    }

    /// A server that gives each connection to `serve`, after TLS if there is any.
    fn listen<S>(
        tls: Option<Arc<rustls::ServerConfig>>,
        serve: impl Fn(Box<dyn Stream>) -> S + Send + Sync + 'static,
    ) -> Self
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let runtime = runtime();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let tls = tls.map(tokio_rustls::TlsAcceptor::from);
        let serve = Arc::new(serve);
        let listener =
            runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let (tls, serve) = (tls.clone(), Arc::clone(&serve));
                tokio::spawn(async move {
                    match tls {
                        None => serve(Box::new(stream)).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(Box::new(stream)).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, connections, _runtime: runtime }
    }

    /// How many connections it has taken.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve_sockets(stream: Box<dyn Stream>, takes_streams: bool, scheme: &'static str) {
    let mut server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    if takes_streams {
        server.http2().enable_connect_protocol();
    }
    let service = service_fn(move |request: Request<Incoming>| async move {
        Ok::<_, Infallible>(socket(request, scheme))
    });
    let _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

/// The answer to one who wants a WebSocket, in the words of its version; to others, which.
fn socket(mut request: Request<Incoming>, scheme: &str) -> Response<Full<Bytes>> {
    let is_stream = request.extensions().get::<hyper::ext::Protocol>().is_some();
    let key = request.headers().get("sec-websocket-key").map(|key| key.as_bytes().to_vec());
    let said = format!("{:?} {} {:?}", request.version(), request.method(), request.uri().path());
    if request.version() == http::Version::HTTP_2 {
        assert_eq!(request.uri().scheme_str(), Some(scheme), "as it was reached: {said}");
    }
    if !is_stream && request.headers().get("upgrade").is_none() {
        return Response::new(said.into());
    }
    assert_eq!(is_stream, key.is_none(), "a key belongs to an upgrade: {said}");
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.expect("a tunnel"));
        let (mut reader, mut writer) = tokio::io::split(&mut stream);
        let _ = tokio::io::AsyncWriteExt::write_all(&mut writer, b"hello").await;
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut writer).await;
    });
    let answer = Response::builder().header("sec-websocket-protocol", "till");
    let answer = match key {
        None => answer.status(200),
        Some(key) => answer
            .status(101)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-accept", tillgate_net::http::websocket::accept(&key)),
    };
    answer.body(Full::default()).expect("a head")
}

/// A body in the pieces that it is made of.
struct Pieces(VecDeque<Frame<Bytes>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

/// A runtime on a thread of its own; it ends when this is dropped.
struct Runtime {
    handle: Handle,
    _over: oneshot::Sender<()>,
}

impl std::ops::Deref for Runtime {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

fn runtime() -> Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be had");
    let handle = runtime.handle().clone();
    let (over, ended) = oneshot::channel();
    std::thread::spawn(move || runtime.block_on(ended));
    Runtime { handle, _over: over }
}
