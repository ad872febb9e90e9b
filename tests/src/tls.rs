//! Certificates of an authority of our own, files that are swapped, TLS on a wire.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, Stream,
    SupportedProtocolVersion, version,
};
use tempfile::TempDir;
use tillgate_net::clock;

use crate::wire::{Session, Wire};

/// An authority that signs what a test asks for.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub pem: String,
}

/// A chain and its key.
#[derive(Clone)]
pub struct Identity {
    /// The certificate alone: its authority is the root.
    pub chain: String,
    /// In PKCS#8.
    pub key: String,
}

/// The latest end that a test gives a certificate.
pub const NOT_AFTER: (i32, u8, u8) = (2049, 1, 2);

/// [`NOT_AFTER`] as Unix time.
pub const NOT_AFTER_UNIX: f64 = 2_493_158_400.0;

impl Default for Authority {
    fn default() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("an authority").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }
}

impl Authority {
    /// A certificate for `names`: host names, addresses, URIs (with a colon), mailboxes.
    pub fn issue(&self, names: &[&str]) -> Identity {
        self.issue_until(names, NOT_AFTER)
    }

    /// The same, no longer valid after this day.
    pub fn issue_until(&self, names: &[&str], end: (i32, u8, u8)) -> Identity {
        self.issue_within(names, (2000, 1, 1), end)
    }

    /// The same, valid from the first day to the second.
    ///
    /// # Panics
    /// If a name is none.
    pub fn issue_within(
        &self,
        names: &[&str],
        begin: (i32, u8, u8),
        end: (i32, u8, u8),
    ) -> Identity {
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(begin.0, begin.1, begin.2);
        params.not_after = rcgen::date_time_ymd(end.0, end.1, end.2);
        self.sign(params, names)
    }

    /// The same, no longer valid after so many seconds from now.
    pub fn issue_for(&self, names: &[&str], seconds: u64) -> Identity {
        let mut params = CertificateParams::default();
        let end = Duration::from_secs(clock::wall_seconds() + seconds);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + end;
        self.sign(params, names)
    }

    fn sign(&self, mut params: CertificateParams, names: &[&str]) -> Identity {
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = names.iter().map(|name| san(name)).collect();
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity { chain: certificate.pem(), key: key.serialize_pem() }
    }
}

fn san(name: &str) -> SanType {
    let text = || name.try_into().expect("plain text");
    if let Ok(address) = name.parse() {
        SanType::IpAddress(address)
    } else if name.contains(':') {
        SanType::URI(text())
    } else if name.contains('@') {
        SanType::Rfc822Name(text())
    } else {
        SanType::DnsName(text())
    }
}

/// Files in a folder that goes with the test, swapped as Kubernetes swaps mounted secrets: every
/// name is a link through `..data`, and that link is exchanged as a whole.
pub struct Volume {
    folder: TempDir,
    versions: usize,
}

impl Volume {
    /// A folder with these files.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let mut volume = Self { folder: TempDir::new().expect("a folder"), versions: 0 };
        volume.swap(files);
        for (name, _) in files {
            let link = volume.path(name);
            std::os::unix::fs::symlink(PathBuf::from("..data").join(name), link).expect("a link");
        }
        volume
    }

    /// A folder with `tls.crt` and `tls.key`.
    pub fn pair(identity: &Identity) -> Self {
        Self::new(&[("tls.crt", &identity.chain), ("tls.key", &identity.key)])
    }

    /// Exchanges all files at once.
    pub fn swap(&mut self, files: &[(&str, &str)]) {
        self.versions += 1;
        let version = format!("..version-{}", self.versions);
        std::fs::create_dir(self.path(&version)).expect("a folder");
        for (name, text) in files {
            std::fs::write(self.path(&version).join(name), text).expect("a file");
        }
        let fresh = self.path("..data_tmp");
        std::os::unix::fs::symlink(&version, &fresh).expect("a link");
        std::fs::rename(fresh, self.path("..data")).expect("a swap");
    }

    /// Exchanges `tls.crt` and `tls.key` at once.
    pub fn swap_pair(&mut self, identity: &Identity) {
        self.swap(&[("tls.crt", &identity.chain), ("tls.key", &identity.key)]);
    }

    /// Writes one file in place, through its link.
    pub fn edit(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("a file");
    }

    /// Where a file is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same, as policy has it.
    pub fn file(&self, name: &str) -> Arc<Path> {
        self.path(name).into()
    }

    /// `tls.crt` and `tls.key`, as policy has them.
    pub fn key_pair(&self) -> tillgate_core::tls::KeyPair {
        let (cert_file, key_file) = (self.file("tls.crt"), self.file("tls.key"));
        tillgate_core::tls::KeyPair { cert_file, key_file }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn roots(pem: &str) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.expect("PEM")).expect("an authority");
    }
    Arc::new(roots)
}

fn parts(of: &Identity) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(of.chain.as_bytes());
    let chain = chain.collect::<Result<_, _>>().expect("PEM");
    (chain, PrivateKeyDer::from_pem_slice(of.key.as_bytes()).expect("PEM"))
}

/// The certificate of an identity, as it is on the wire.
pub fn certificate(of: &Identity) -> CertificateDer<'static> {
    parts(of).0.swap_remove(0)
}

/// What one side of a connection wants.
#[derive(Clone, Default)]
pub struct Wants<'a> {
    /// Protocols inside.
    pub alpn: Vec<&'a str>,
    /// The only version.
    pub only: Option<Version>,
    /// What it shows; a server always has this.
    pub identity: Option<&'a Identity>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug)]
pub enum Version {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

impl Wants<'_> {
    fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        match self.only {
            Some(Version::V1_2) => vec![&version::TLS12],
            Some(Version::V1_3) => vec![&version::TLS13],
            None => vec![&version::TLS13, &version::TLS12],
        }
    }

    fn alpn(&self) -> Vec<Vec<u8>> {
        self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect()
    }
}

/// A client that trusts `authority`.
pub fn client(authority: &Authority, wants: &Wants<'_>) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&wants.versions())
        .expect("known versions")
        .with_root_certificates(roots(&authority.pem));
    let mut config = match wants.identity {
        Some(identity) => {
            let (chain, key) = parts(identity);
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = wants.alpn();
    Arc::new(config)
}

/// A server; it asks for certificates of `clients`, if that is given.
///
/// # Panics
/// If it has no identity.
pub fn server(wants: &Wants<'_>, clients: Option<&Authority>) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&wants.versions())
        .expect("known versions");
    let builder = match clients {
        Some(authority) => {
            let roots = roots(&authority.pem);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            builder.with_client_cert_verifier(verifier.build().expect("an authority"))
        }
        None => builder.with_no_client_auth(),
    };
    let (chain, key) = parts(wants.identity.expect("a server has an identity"));
    let mut config = builder.with_single_cert(chain, key).expect("a pair");
    config.alpn_protocols = wants.alpn();
    config.ticketer = aws_lc_rs::Ticketer::new().expect("a ticketer");
    Arc::new(config)
}

/// What came of a client's handshake.
pub struct Shaken {
    /// To ask inside.
    pub wire: Wire,
    /// The server's certificate.
    pub shown: CertificateDer<'static>,
    /// What was agreed on inside.
    pub agreed: Option<String>,
    /// Whether an earlier session was taken up.
    pub resumed: bool,
}

/// A connection to `address` that asks for `name`.
///
/// # Errors
/// Why the handshake failed.
///
/// # Panics
/// If nobody listens.
pub fn connect(address: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> io::Result<Shaken> {
    shake(Wire::connect(address), name, config)
}

/// The same on a connection that is there already.
///
/// # Errors
/// Why the handshake failed.
///
/// # Panics
/// If `name` is none.
pub fn shake(mut wire: Wire, name: &str, config: &Arc<ClientConfig>) -> io::Result<Shaken> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut session = ClientConnection::new(Arc::clone(config), name).expect("a session");
    while session.is_handshaking() {
        session.complete_io(wire.stream())?;
    }
    let shown = session.peer_certificates().and_then(<[_]>::first);
    let shown = shown.expect("a server shows one").clone().into_owned();
    let agreed = session.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
    let resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    Ok(Shaken { wire: wire.with_session(Client(session)), shown, agreed, resumed })
}

/// The first words of a client that asks for `name`.
///
/// # Panics
/// If that is no name.
pub fn hello(name: &str, config: &Arc<ClientConfig>) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut session = ClientConnection::new(Arc::clone(config), name).expect("a session");
    let mut bytes = Vec::new();
    while session.wants_write() {
        session.write_tls(&mut bytes).expect("memory takes it");
    }
    bytes
}

/// TLS on a connection that a server has taken; `None` if the client does not want it so.
pub fn accept(mut wire: Wire, config: &Arc<ServerConfig>) -> Option<Wire> {
    let mut session = ServerConnection::new(Arc::clone(config)).expect("a session");
    while session.is_handshaking() {
        session.complete_io(wire.stream()).ok()?;
    }
    Some(wire.with_session(Server(session)))
}

struct Client(ClientConnection);
struct Server(ServerConnection);

impl Session for Client {
    fn read(&mut self, stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut Stream::new(&mut self.0, stream), buffer)
    }

    fn write(&mut self, stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let mut stream = Stream::new(&mut self.0, stream);
        let written = io::Write::write(&mut stream, bytes)?;
        io::Write::flush(&mut stream)?;
        Ok(written)
    }

    fn finish(&mut self, stream: &mut TcpStream) {
        self.0.send_close_notify();
        // The other side may be gone.
        let _ = io::Write::flush(&mut Stream::new(&mut self.0, stream));
    }
}

impl Session for Server {
    fn read(&mut self, stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut Stream::new(&mut self.0, stream), buffer)
    }

    fn write(&mut self, stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let mut stream = Stream::new(&mut self.0, stream);
        let written = io::Write::write(&mut stream, bytes)?;
        io::Write::flush(&mut stream)?;
        Ok(written)
    }

    fn finish(&mut self, stream: &mut TcpStream) {
        self.0.send_close_notify();
        // The other side may be gone.
        let _ = io::Write::flush(&mut Stream::new(&mut self.0, stream));
    }
}
