//! TLS to servers: whom we trust, the name we ask for, what we show of ourselves.
//!
//! A [`Connector`] sits above the connection it is given: on a WAN line that one asks for every
//! byte, also of the handshake. Waiting for the line never counts against the time of a
//! handshake. Sessions are resumed; new files begin without them.

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion, version};
use tillgate_core::backend::Host;
use tillgate_core::tls::{ClientTls, TlsVersion, TrustAnchors};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::error::{TlsError, refused_us};
use super::files::{self, FileError, Problem};
use super::pairs::{Pair, Watched, watch_pair};
use super::{Ground, OnFiles, Tls};
use crate::delegate::{WritePieces, delegate_write};
use crate::metrics::TlsFileMeter;
use crate::shaped::LineWait;
use crate::upstream::Upstream;

/// Into how many parts a handshake's time is cut: a part in which the connection waited for its
/// line does not count, so at most one part of the limit is judged wrongly.
const LOOKS: u32 = 16;

/// What is spoken inside of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Application {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, which must be agreed on.
    Http2,
    /// Anything; nothing is agreed on.
    Bytes,
}

impl Application {
    fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http2 => vec![b"h2".to_vec()],
            Self::Bytes => Vec::new(),
        }
    }
}

/// TLS to the servers of one backend.
#[derive(Debug)]
pub struct Connector {
    id: u32,
    config: ArcSwap<ClientConfig>,
    sni: Option<ServerName<'static>>,
    application: Application,
    parts: Parts,
    files: Mutex<Files>,
    full: Counter,
    resumed: Counter,
    file_meter: TlsFileMeter,
}

/// What a config is made of besides files.
#[derive(Debug)]
struct Parts {
    ground: Ground,
    min_version: TlsVersion,
    application: Application,
}

/// The connector's files, and what was made of them.
#[derive(Debug)]
struct Files {
    /// `None`: the system's authorities, which do not change.
    roots_file: Option<Watched<RootCertStore>>,
    roots: Arc<RootCertStore>,
    pair: Option<Watched<Pair>>,
    loaded: Option<Pair>,
}

impl Connector {
    pub(super) fn new(
        id: u32,
        name: &Arc<str>,
        spec: &ClientTls,
        application: Application,
        tls: &Tls,
    ) -> Result<Self, FileError> {
        let file_meter = tls.meters.backend_files(name);
        let owner = &file_meter.owner;
        let mut roots_file = match &spec.roots {
            TrustAnchors::System => None,
            TrustAnchors::File(path) => Some(Watched::new(vec![Arc::clone(path)], |contents| {
                files::roots(contents.file(0)).map_err(|problem| (0, problem))
            })),
        };
        let roots = match &mut roots_file {
            Some(file) => Arc::new(file.load(owner)?),
            None => tls
                .system_roots()
                .map_err(|problem| FileError::new(owner, "the system's store".as_ref(), problem))?,
        };
        let mut pair = spec.certificate.as_ref().map(|pair| watch_pair(pair, &tls.ground.provider));
        let loaded = pair.as_mut().map(|pair| pair.load(owner)).transpose()?;
        let files = Files { roots_file, roots, pair, loaded };
        let parts =
            Parts { ground: tls.ground.clone(), min_version: spec.min_version, application };
        let sni = spec.sni.as_deref().map(|sni| ServerName::try_from(sni.to_owned()));
        let sni = sni.transpose().map_err(|_| Problem::InvalidName);
        let made = sni.and_then(|sni| Ok((sni, parts.config(&files)?)));
        let (sni, config) =
            made.map_err(|problem| FileError::new(owner, "the backend's `tls`".as_ref(), problem))?;
        let (full, resumed) = tls.meters.backend(name);
        let connector = Self {
            id,
            config: ArcSwap::from_pointee(config),
            sni,
            application,
            parts,
            files: Mutex::new(files),
            full,
            resumed,
            file_meter,
        };
        connector.show_end();
        Ok(connector)
    }

    /// Tells this identity from others, for as long as the process lives: connections of
    /// different ones are never mixed.
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// Shakes hands on `stream` with the server `host`, within `within`; what the connection
    /// waits for its line does not count. A connector for HTTP/2 agrees on HTTP/1.1 instead if
    /// this is for `http1`.
    ///
    /// # Errors
    /// `None`: not in time. Else [`TlsError`] says what is wrong and with whom.
    pub async fn connect(
        &self,
        stream: Upstream,
        host: &Host,
        http1: bool,
        within: Duration,
    ) -> Result<ServerStream, Option<TlsError>> {
        let name = match &self.sni {
            Some(name) => name.clone(),
            None => name_of(host)?,
        };
        let line = stream.line_wait();
        let other = http1 && self.application == Application::Http2;
        let config = if other { self.config_for_http1() } else { self.config.load_full() };
        let handshake = TlsConnector::from(config).connect(name, stream);
        let Some(done) = unless_late(handshake, within, line.as_ref()).await else {
            return Err(None);
        };
        let tls = Box::new(done.map_err(|error| Some(TlsError::of(&error)))?);
        let stream = ServerStream { tls, heard: false, refusal: Refusal::default() };
        let session = stream.tls.get_ref().1;
        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.resumed.inc();
        } else {
            self.full.inc();
        }
        let agreed = session.alpn_protocol();
        if self.application == Application::Http2 && !other && agreed != Some(b"h2") {
            let agreed = agreed.map_or("nothing".into(), String::from_utf8_lossy).into_owned();
            return Err(Some(TlsError::NoHttp2 { agreed }));
        }
        Ok(stream)
    }

    /// Made anew each time: only a server of HTTP/2 that carries no WebSocket is asked this way.
    fn config_for_http1(&self) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(&self.config.load());
        config.alpn_protocols = Application::Http1.alpn();
        Arc::new(config)
    }

    fn show_end(&self) {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pair) = &files.loaded {
            self.file_meter.valid_until(0, pair.not_after);
        }
    }
}

fn name_of(host: &Host) -> Result<ServerName<'static>, TlsError> {
    match host {
        Host::Ip(address) => Ok(ServerName::IpAddress((*address).into())),
        Host::Name(name) => ServerName::try_from(name.to_string())
            .map_err(|_| TlsError::InvalidName { name: name.to_string() }),
    }
}

/// What `future` gives within `limit`; a part of the limit in which `line` makes it wait does
/// not count.
pub(crate) async fn unless_late<F: Future>(
    future: F,
    limit: Duration,
    line: Option<&LineWait>,
) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = LOOKS;
    while left > 0 {
        if let Ok(done) = tokio::time::timeout(limit / LOOKS, future.as_mut()).await {
            return Some(done);
        }
        if !line.is_some_and(LineWait::is_waiting) {
            left -= 1;
        }
    }
    None
}

impl OnFiles for Connector {
    fn check(&self) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let roots = files.roots_file.as_mut().and_then(|file| file.look(&self.file_meter));
        let pair = files.pair.as_mut().and_then(|pair| pair.look(&self.file_meter));
        let changed = roots.is_some() || pair.is_some();
        if let Some(roots) = roots {
            files.roots = Arc::new(roots);
        }
        if pair.is_some() {
            files.loaded = pair;
        }
        if changed {
            match self.parts.config(&files) {
                Ok(config) => self.config.store(Arc::new(config)),
                Err(error) => {
                    tracing::error!(owner = self.file_meter.owner, %error, "files refused");
                }
            }
        }
        drop(files);
        self.show_end();
    }
}

impl Parts {
    fn config(&self, files: &Files) -> Result<ClientConfig, Problem> {
        let provider = Arc::clone(&self.ground.provider);
        let builder = ClientConfig::builder_with_details(provider, self.ground.time())
            .with_protocol_versions(versions(self.min_version))
            .map_err(Problem::Refused)?
            .with_root_certificates(Arc::clone(&files.roots));
        let mut config = match &files.loaded {
            Some(pair) => {
                let pair = SingleCertAndKey::from(Arc::clone(&pair.key));
                builder.with_client_cert_resolver(Arc::new(pair))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.application.alpn();
        Ok(config)
    }
}

/// The versions from `oldest` on.
pub(super) fn versions(oldest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    match oldest {
        TlsVersion::V1_2 => &BOTH,
        TlsVersion::V1_3 => &BOTH[..1],
    }
}

/// A connection to a server, inside of TLS.
#[derive(Debug)]
pub struct ServerStream {
    tls: Box<TlsStream<Upstream>>,
    /// Something was read.
    heard: bool,
    refusal: Refusal,
}

/// Whether the server at the other end of one connection ended it because of our certificate, or
/// its absence, before it said anything else: with TLS 1.3 that comes after the handshake, when
/// the first request may have been written already. It has not looked at that then.
#[derive(Clone, Debug, Default)]
pub struct Refusal(Arc<AtomicBool>);

impl Refusal {
    /// Whether it did.
    pub fn is_known(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl ServerStream {
    /// To ask whether the server refuses us on it.
    pub fn refusal(&self) -> Refusal {
        self.refusal.clone()
    }

    /// The connection that carries it.
    pub fn below(&self) -> &Upstream {
        self.tls.get_ref().0
    }

    /// To ask whether the connection below waits for its line.
    pub fn line_wait(&self) -> Option<LineWait> {
        self.tls.get_ref().0.line_wait()
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut *this.tls).poll_read(cx, buf);
        match &polled {
            Poll::Ready(Ok(())) => this.heard |= buf.filled().len() > before,
            Poll::Ready(Err(error)) if !this.heard && refused_us(error) => {
                this.refusal.0.store(true, Ordering::Relaxed);
            }
            Poll::Ready(Err(_)) | Poll::Pending => {}
        }
        polled
    }
}

impl WritePieces for Box<TlsStream<Upstream>> {}

delegate_write!(ServerStream { Self { tls, .. } => tls });
