//! Load and origin of the cost measurement, both as cheap as they can be: fixed bytes out, a
//! search for the end of a head in, one thread.
//!
//! The load is closed: each connection sends its next request when it has the whole answer.

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

use super::requests::Scenario;
use crate::stats::real;
use crate::sys;

/// The host of the one route.
pub(super) const HOST: &str = "pay.example";
/// Before counting, for connections and caches to settle.
const WARM_UP: Duration = Duration::from_secs(1);
/// No answer takes this long but a lost one.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Answers every request with as many bytes as the path's last segment says.
pub(super) struct Origin {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Origin {
    pub(super) fn start() -> Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("origin".into()).spawn(move || {
            let accepting = async {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                while let Ok((stream, _)) = listener.accept().await {
                    drop(stream.set_nodelay(true));
                    tokio::task::spawn_local(answer(stream));
                }
            };
            LocalSet::new().block_on(&runtime, async {
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn answer(mut stream: TcpStream) {
    let mut buffer = Vec::with_capacity(16 * 1024);
    let mut cached: (usize, Vec<u8>) = (0, Vec::new());
    loop {
        while let Some(end) = head_end(&buffer) {
            let length = asked_for(&buffer[..end]);
            if cached.0 != length {
                let mut whole = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                     Content-Length: {length}\r\n\r\n"
                )
                .into_bytes();
                whole.resize(whole.len() + length, b'x');
                cached = (length, whole);
            }
            buffer.drain(..end);
            if stream.write_all(&cached.1).await.is_err() {
                return;
            }
        }
        if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
            return;
        }
    }
}

/// `GET /bytes/1024 HTTP/1.1` asks for 1024.
fn asked_for(head: &[u8]) -> usize {
    let path = head.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    std::str::from_utf8(last).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// What to ask for, how often, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) scenario: Scenario,
    pub(super) connections: usize,
    pub(super) seconds: u64,
    pub(super) to: SocketAddr,
}

/// What was answered while it was counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) seconds: f64,
}

#[derive(Default)]
struct Counters {
    requests: Cell<u64>,
    failed: Cell<u64>,
    over: Cell<bool>,
}

/// Runs `load`; calls `begin` and `end` around the counted part.
pub(super) fn run(load: &Load, begin: impl FnOnce(), end: impl FnOnce()) -> Result<Done> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let counters = Rc::new(Counters::default());
    LocalSet::new().block_on(&runtime, async {
        let tls = connector(load.scenario)?;
        let mut tasks = Vec::new();
        for _ in 0..load.connections {
            let (counters, tls) = (Rc::clone(&counters), tls.clone());
            let client = client(*load, tls, Rc::clone(&counters));
            tasks.push(tokio::task::spawn_local(async move {
                if client.await.is_err() && !counters.over.get() {
                    counters.failed.set(counters.failed.get() + 1);
                }
            }));
        }
        tokio::time::sleep(WARM_UP).await;
        begin();
        let (start, before) = (sys::now(), counters.requests.get());
        tokio::time::sleep(Duration::from_secs(load.seconds)).await;
        let (stop, after) = (sys::now(), counters.requests.get());
        end();
        counters.over.set(true);
        for task in tasks {
            task.abort();
        }
        let seconds = real(stop - start) / 1e9;
        Ok(Done { requests: after - before, failed: counters.failed.get(), seconds })
    })
}

async fn client(load: Load, tls: TlsConnector, counters: Rc<Counters>) -> Result<()> {
    let count = || counters.requests.set(counters.requests.get() + 1);
    match load.scenario {
        Scenario::H1 | Scenario::H1Large => {
            let mut stream = dial(load.to).await?;
            let mut exchange = Exchange::new(load.scenario, "keep-alive");
            loop {
                exchange.next(&mut stream).await?;
                count();
            }
        }
        Scenario::TlsH1 => {
            let mut stream = secure(&tls, load.to).await?;
            let mut exchange = Exchange::new(load.scenario, "keep-alive");
            loop {
                exchange.next(&mut stream).await?;
                count();
            }
        }
        Scenario::TlsConnection => loop {
            let mut stream = secure(&tls, load.to).await?;
            Exchange::new(load.scenario, "close").next(&mut stream).await?;
            count();
        },
        Scenario::TlsH2 => {
            let io = TokioIo::new(secure(&tls, load.to).await?);
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
            tokio::task::spawn_local(connection);
            let uri = format!("https://{HOST}/bytes/{}", load.scenario.body());
            let request = http::Request::get(uri).body(Empty::<Bytes>::new())?;
            loop {
                sender.ready().await?;
                let response = sender.send_request(request.clone()).await?;
                anyhow::ensure!(response.status() == 200, "{}", response.status());
                let mut body = response.into_body();
                while let Some(frame) = body.frame().await {
                    frame?;
                }
                count();
            }
        }
    }
}

/// A client's connection.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Wire {
    /// On a connection that stands, with TLS where the scenario has it.
    pub(super) async fn over(stream: TcpStream, of: Scenario, tls: &TlsConnector) -> Result<Self> {
        Ok(if of.is_tls() {
            Self::Tls(Box::new(shake_hands(tls, stream).await?))
        } else {
            Self::Plain(stream)
        })
    }

    /// Asks once and reads the whole answer.
    pub(super) async fn ask(&mut self, scenario: Scenario) -> Result<()> {
        let mut exchange = Exchange::new(scenario, "keep-alive");
        match self {
            Self::Plain(stream) => exchange.next(stream).await,
            Self::Tls(stream) => exchange.next(&mut **stream).await,
        }
    }
}

async fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(PATIENCE, TcpStream::connect(to)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn secure(
    tls: &TlsConnector,
    to: SocketAddr,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    shake_hands(tls, dial(to).await?).await
}

async fn shake_hands(
    tls: &TlsConnector,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let name = ServerName::try_from(HOST).context("a constant name")?;
    Ok(tokio::time::timeout(PATIENCE, tls.connect(name, stream)).await??)
}

/// Requests on one HTTP/1.1 connection.
struct Exchange {
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Exchange {
    fn new(scenario: Scenario, connection: &str) -> Self {
        let request = format!(
            "GET /bytes/{} HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: till/7.1\r\n\
             Accept: application/json\r\nConnection: {connection}\r\n\r\n",
            scenario.body()
        );
        Self { request: request.into_bytes(), buffer: Vec::with_capacity(96 * 1024) }
    }

    /// Sends one request and reads its whole answer.
    async fn next<S: AsyncRead + AsyncWrite + Unpin>(&mut self, stream: &mut S) -> Result<()> {
        stream.write_all(&self.request).await?;
        self.buffer.clear();
        let mut whole = None;
        while whole.is_none_or(|whole| self.buffer.len() < whole) {
            let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut self.buffer)).await??;
            anyhow::ensure!(read > 0, "the connection closed inside an answer");
            if whole.is_none()
                && let Some(end) = head_end(&self.buffer)
            {
                whole = Some(end + content_length(&self.buffer[..end])?);
            }
        }
        Ok(())
    }
}

fn content_length(head: &[u8]) -> Result<usize> {
    let head = std::str::from_utf8(head)?;
    anyhow::ensure!(head.get(9..12) == Some("200"), "{}", head.lines().next().unwrap_or_default());
    let field = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim())
    });
    Ok(field.context("an answer without Content-Length")?.parse()?)
}

/// A client that believes every certificate and never resumes a session.
pub(super) fn connector(scenario: Scenario) -> Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believer))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    let alpn: &[u8] = if scenario == Scenario::TlsH2 { b"h2" } else { b"http/1.1" };
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

#[derive(Debug)]
struct Believer;

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
