//! TLS of clients, ended here: the certificate by the name they ask for, HTTP/2 or HTTP/1.1 by
//! ALPN, their own certificate where the policy asks for one.
//!
//! Certificates are exchanged under a running listener: the next handshake shows the new one,
//! connections stay. New authorities for client certificates also begin new tickets, because a
//! ticket vouches for a certificate that was judged by the old ones. A handshake costs a hundred
//! times what a request does, so a worker takes one at a time and serves between them.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, Error, HandshakeKind, ProtocolVersion, RootCertStore, ServerConfig,
    ServerConnection,
};
use tillgate_core::tls::{ClientAuth, ClientIdentity, ServerTls};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificate::{counts, identity, may_renew};
use super::client::versions;
use super::error::HandshakeEnd;
use super::files::{self, FileError, Problem};
use super::own::{WithOwn, is_of};
use super::pairs::{Certificates, Pair, Watched, watch_pair};
use super::verifier::Telling;
use super::{Ground, OnFiles};
use crate::clock;
use crate::delegate::{WritePieces, delegate_read, delegate_write};
use crate::metrics::{TlsFileMeter, TlsListenerMeter, TlsMeters};
use crate::rarely::ByReason;

/// Handshakes of one listener between our answer to a client's hello and its last word. Some
/// 30 KiB each, so 16 MiB. One more ends the oldest: whoever means it needs a round trip inside a
/// store, far less than 512 further answers take to compute.
const HANDSHAKES_MAX: usize = 512;

/// Tickets sent after a full handshake. One is enough to come back once, and every connection
/// brings the next; a second would only be encrypted and sent for nothing.
const TICKETS: usize = 1;

/// What a slow reader can make rustls keep: one answer of the usual size.
const BUFFER_BYTES: usize = 64 * 1024;

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// TLS of one listener.
#[derive(Debug)]
pub struct Terminator {
    config: ArcSwap<ServerConfig>,
    certificates: Arc<ByName>,
    ground: Ground,
    spec: ServerTls,
    files: Mutex<Files>,
    half_open: Arc<HalfOpen>,
    told: ByReason,
    meter: TlsListenerMeter,
    file_meter: TlsFileMeter,
}

/// What the listener's files are, and what was made of them.
#[derive(Debug)]
struct Files {
    pairs: Vec<Watched<Pair>>,
    loaded: Vec<Pair>,
    authorities: Option<Watched<RootCertStore>>,
}

/// The certificates, behind the pointer that rustls asks.
#[derive(Debug)]
struct ByName(ArcSwap<Certificates>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load().find(hello.server_name(), hello.signature_schemes())
    }
}

impl Terminator {
    pub(super) fn new(
        name: &Arc<str>,
        spec: &ServerTls,
        ground: &Ground,
        meters: &TlsMeters,
    ) -> Result<Self, FileError> {
        let file_meter = meters.listener_files(name);
        let mut pairs: Vec<_> =
            spec.certificates.iter().map(|pair| watch_pair(pair, &ground.provider)).collect();
        let loaded = pairs
            .iter_mut()
            .map(|pair| pair.load(&file_meter.owner))
            .collect::<Result<Vec<_>, _>>()?;
        let mut authorities = spec.client_certificates.as_ref().map(|clients| {
            let paths = vec![Arc::clone(&clients.ca_file)];
            Watched::new(paths, |contents| {
                files::roots(contents.file(0)).map_err(|problem| (0, problem))
            })
        });
        let roots = authorities.as_mut().map(|one| one.load(&file_meter.owner)).transpose()?;
        let certificates =
            Arc::new(ByName(ArcSwap::from_pointee(Certificates::new(loaded.clone()))));
        let config = config(spec, ground, roots, &certificates, name).map_err(|problem| {
            let clients = spec.client_certificates.as_ref().map(|clients| &clients.ca_file);
            let pair = spec.certificates.first().map(|pair| &pair.cert_file);
            let path = clients.or(pair).map(|path| &**path);
            FileError::new(&file_meter.owner, path.unwrap_or("".as_ref()), problem)
        })?;
        let terminator = Self {
            config: ArcSwap::from_pointee(config),
            certificates,
            ground: ground.clone(),
            spec: spec.clone(),
            files: Mutex::new(Files { pairs, loaded, authorities }),
            half_open: Arc::default(),
            told: ByReason::default(),
            meter: meters.listener(name),
            file_meter,
        };
        terminator
            .show_ends(&terminator.files.lock().unwrap_or_else(PoisonError::into_inner).loaded);
        Ok(terminator)
    }

    /// Shakes hands with `client`, within `within`. Whatever goes wrong is counted, and told now
    /// and then; it is no reason to stop listening. `turns` has one permit for each worker.
    pub async fn accept(
        &self,
        (stream, client): (TcpStream, SocketAddr),
        within: Duration,
        turns: &Semaphore,
    ) -> Option<ClientSession> {
        let why = match tokio::time::timeout(within, self.shake_hands(stream, turns)).await {
            Ok(Ok(session)) => {
                self.meter.ended(if session.is_resumed() {
                    HandshakeEnd::Resumed
                } else {
                    HandshakeEnd::Full
                });
                return Some(session);
            }
            Ok(Err(error)) => error,
            Err(_) => io::Error::from(io::ErrorKind::TimedOut),
        };
        let end = HandshakeEnd::of(&why);
        self.meter.ended(end);
        let (listener, result) = (&*self.meter.listener, end.label());
        let told = || self.told.happens(result, clock::now());
        if let Some(count) = end.is_news().then(told).flatten() {
            tracing::warn!(listener, result, %client, error = %why, count, "{}", end.remedy());
        } else {
            tracing::debug!(listener, result, %client, error = %why, "{}", end.remedy());
        }
        None
    }

    async fn shake_hands(&self, stream: TcpStream, turns: &Semaphore) -> io::Result<ClientSession> {
        let closed = |_| io::Error::from(io::ErrorKind::Interrupted);
        let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        let limit = |session: &mut ServerConnection| session.set_buffer_limit(Some(BUFFER_BYTES));
        let turn = turns.acquire().await.map_err(closed)?;
        let place = HalfOpen::enter(&self.half_open);
        let mut accept = hello.into_stream_with(self.config.load_full(), limit);
        // Key exchange and signature happen in the first poll.
        let first = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut accept).poll(cx))).await;
        // Whoever is ready now is served before the next one computes.
        tokio::task::yield_now().await;
        drop(turn);
        let stream = match first {
            Poll::Ready(stream) => stream?,
            Poll::Pending => tokio::select! {
                stream = accept => stream?,
                () = place.ended.notified() => return Err(io::ErrorKind::ResourceBusy.into()),
            },
        };
        drop(place);
        let session = stream.get_ref().1;
        let leaf = session.peer_certificates().and_then(<[_]>::first);
        let client = leaf.map(|leaf| {
            let of_store = self.ground.own.as_ref().is_some_and(|own| is_of(own, leaf));
            Arc::new(ClientIdentity { of_store, ..identity(leaf) })
        });
        if client.as_ref().is_some_and(|client| !self.counts(client)) {
            // A ticket brings back a certificate that was good when the ticket was given.
            return Err(io::Error::other(Error::InvalidCertificate(CertificateError::Expired)));
        }
        Ok(ClientSession { stream: Box::new(stream), client })
    }

    /// Whether what a client has shown still counts, if only to be renewed.
    pub(crate) fn counts(&self, client: &ClientIdentity) -> bool {
        counts(client, &self.ground.floor) || may_renew(client, &self.ground.floor)
    }

    fn show_ends(&self, loaded: &[Pair]) {
        for (index, pair) in loaded.iter().enumerate() {
            self.file_meter.valid_until(index, pair.not_after);
        }
    }
}

/// The handshakes that have begun, oldest first.
#[derive(Debug, Default)]
struct HalfOpen(Mutex<Begun>);

#[derive(Debug, Default)]
struct Begun {
    /// The number of the next one.
    next: u64,
    queue: VecDeque<(u64, Arc<Notify>)>,
}

/// One of them, until dropped.
struct HalfOpenPlace {
    all: Arc<HalfOpen>,
    number: u64,
    /// It was the oldest of too many.
    ended: Arc<Notify>,
}

impl HalfOpen {
    fn enter(all: &Arc<Self>) -> HalfOpenPlace {
        let ended = Arc::<Notify>::default();
        let mut begun = all.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = begun.next;
        begun.next += 1;
        begun.queue.push_back((number, Arc::clone(&ended)));
        if begun.queue.len() > HANDSHAKES_MAX
            && let Some((_, oldest)) = begun.queue.pop_front()
        {
            oldest.notify_one();
        }
        drop(begun);
        HalfOpenPlace { all: Arc::clone(all), number, ended }
    }
}

impl Drop for HalfOpenPlace {
    fn drop(&mut self) {
        let mut begun = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(place) = begun.queue.binary_search_by_key(&self.number, |(number, _)| *number) {
            begun.queue.remove(place);
        }
    }
}

impl OnFiles for Terminator {
    fn check(&self) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let files = &mut *files;
        let mut changed = false;
        for (watched, loaded) in files.pairs.iter_mut().zip(&mut files.loaded) {
            if let Some(pair) = watched.look(&self.file_meter) {
                *loaded = pair;
                changed = true;
            }
        }
        if changed {
            self.certificates.0.store(Arc::new(Certificates::new(files.loaded.clone())));
        }
        self.show_ends(&files.loaded);
        let roots = files.authorities.as_mut().and_then(|one| one.look(&self.file_meter));
        let Some(roots) = roots else { return };
        let (certificates, listener) = (&self.certificates, &self.meter.listener);
        match config(&self.spec, &self.ground, Some(roots), certificates, listener) {
            Ok(config) => self.config.store(Arc::new(config)),
            Err(error) => {
                tracing::error!(owner = self.file_meter.owner, %error, "authorities refused");
            }
        }
    }
}

fn config(
    spec: &ServerTls,
    ground: &Ground,
    roots: Option<RootCertStore>,
    certificates: &Arc<ByName>,
    listener: &Arc<str>,
) -> Result<ServerConfig, Problem> {
    let provider = Arc::clone(&ground.provider);
    let builder = ServerConfig::builder_with_details(Arc::clone(&provider), ground.time())
        .with_protocol_versions(versions(spec.min_version))
        .map_err(Problem::Refused)?;
    let builder = match verifier(spec, ground, roots)? {
        Some(verifier) => builder.with_client_cert_verifier(Telling::new(verifier, listener)),
        None => builder.with_no_client_auth(),
    };
    let resolver = Arc::clone(certificates) as Arc<dyn ResolvesServerCert>;
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
    // Its keys change every six hours and are forgotten after twelve.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(Problem::Refused)?;
    config.send_tls13_tickets = TICKETS;
    Ok(config)
}

/// Who judges the certificates of clients, if any are asked for.
fn verifier(
    spec: &ServerTls,
    ground: &Ground,
    roots: Option<RootCertStore>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, Problem> {
    let mut verifier: Option<Arc<dyn ClientCertVerifier>> = None;
    if let (Some(clients), Some(roots)) = (&spec.client_certificates, roots) {
        let provider = Arc::clone(&ground.provider);
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = match clients.mode {
            ClientAuth::Required => builder,
            ClientAuth::Optional => builder.allow_unauthenticated(),
        };
        verifier = Some(builder.build().map_err(Problem::Verifier)?);
    }
    let Some(own) = &ground.own else { return Ok(verifier) };
    Ok(Some(WithOwn::new(verifier, own, &ground.provider, &ground.floor)?))
}

/// How a client speaks TLS. Nothing of it is secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// The version, as policies write it; `None` where it is not ended here.
    pub version: Option<&'static str>,
    /// The protocol inside (ALPN).
    pub alpn: Option<&'static str>,
    /// The server that it asked for (SNI).
    pub name: Option<Arc<str>>,
}

/// A client's connection, its TLS ended here.
#[derive(Debug)]
pub struct ClientSession {
    stream: Box<TlsStream<TcpStream>>,
    client: Option<Arc<ClientIdentity>>,
}

impl ClientSession {
    /// The connection below.
    pub(crate) fn socket(&self) -> &TcpStream {
        self.stream.get_ref().0
    }

    /// Whether HTTP/2 was agreed on; HTTP/1.1 otherwise.
    pub fn is_http2(&self) -> bool {
        self.stream.get_ref().1.alpn_protocol() == Some(HTTP2)
    }

    /// What the client's verified certificate says, if it showed one.
    pub const fn client(&self) -> Option<&Arc<ClientIdentity>> {
        self.client.as_ref()
    }

    /// What was agreed on, for whoever writes it down.
    pub(crate) fn agreed(&self) -> Agreed {
        let session = self.stream.get_ref().1;
        Agreed {
            version: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => Some("1.2"),
                Some(ProtocolVersion::TLSv1_3) => Some("1.3"),
                _ => None,
            },
            alpn: session.alpn_protocol().map(|agreed| match agreed {
                HTTP2 => "h2",
                _ => "http/1.1",
            }),
            name: session.server_name().map(Arc::from),
        }
    }

    fn is_resumed(&self) -> bool {
        self.stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
    }
}

impl WritePieces for Box<TlsStream<TcpStream>> {}

delegate_read!(ClientSession { Self { stream, .. } => stream });

delegate_write!(ClientSession { Self { stream, .. } => stream });
