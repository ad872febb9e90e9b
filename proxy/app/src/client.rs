//! Questions to a config endpoint, and to an admin listener: how a person's command and a sidecar
//! reach a gateway and prove who they are.
//!
//! One connection, one question at a time. What a token or a key is comes from files, never from
//! arguments, which everybody on the machine sees. Nothing here crosses a line: the gateway is in
//! the store, or the asker is no part of one.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Request, Uri, header, request};
use http_body_util::Full;
use tillgate_config::defaults;
use tillgate_core::backend::Host;
use tillgate_core::tls::{ClientTls, KeyPair, TrustAnchors};
use tillgate_net::http::post::Post;
use tillgate_net::tls::Connector;
use tillgate_net::upstream::Upstream;
use tokio::net::{TcpStream, ToSocketAddrs};

use crate::disk::read_bounded;
use crate::send::explain;

/// An answer: an effective config of a large store is some hundred kibibytes.
pub(crate) const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What no token is longer than; the gateway says so too.
const TOKEN_BYTES_MAX: u64 = 4096;

/// How to prove who asks, and who answers.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Credentials {
    /// The file of a token.
    #[arg(long, value_name = "FILE", requires = "endpoint")]
    pub(crate) token_file: Option<PathBuf>,
    /// The file of a certificate, in PEM.
    #[arg(long, value_name = "FILE", requires_all = ["endpoint", "key"])]
    pub(crate) cert: Option<PathBuf>,
    /// The file of its private key, in PEM.
    #[arg(long, value_name = "FILE", requires_all = ["endpoint", "cert"])]
    pub(crate) key: Option<PathBuf>,
    /// The file of the authority that signed the gateway's certificate [default: the system's].
    #[arg(long, value_name = "FILE", requires = "endpoint")]
    pub(crate) ca: Option<PathBuf>,
    /// The name in the gateway's certificate [default: the host of the URL].
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    pub(crate) server_name: Option<String>,
}

impl Credentials {
    /// TLS to the gateway called `host`.
    pub(crate) fn tls(&self, host: &str) -> ClientTls {
        let file = |path: &PathBuf| Arc::from(path.as_path());
        let pair = self.cert.as_ref().zip(self.key.as_ref());
        ClientTls {
            sni: Some(self.server_name.as_deref().unwrap_or(host).into()),
            roots: self.ca.as_ref().map_or(TrustAnchors::System, |ca| TrustAnchors::File(file(ca))),
            certificate: pair
                .map(|(cert, key)| KeyPair { cert_file: file(cert), key_file: file(key) }),
            min_version: defaults::ENDPOINT_TLS,
        }
    }
}

/// The address of a config endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    authority: String,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    /// The one that `url` names.
    pub(crate) fn of(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("`{url}`: {error}"))?;
        let (Some("https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(format!("`{url}` is no address of a config endpoint: write https://"));
        };
        Ok(Self {
            authority: authority.to_string(),
            host: authority.host().trim_start_matches('[').trim_end_matches(']').to_owned(),
            port: authority.port_u16().unwrap_or(443),
        })
    }

    /// The beginning of a question for `path`.
    pub(crate) fn question(
        &self,
        path: &str,
        credentials: &Credentials,
    ) -> Result<request::Builder, String> {
        let mut request = question(&self.authority, path);
        if let Some(file) = &credentials.token_file {
            let token = read(file, TOKEN_BYTES_MAX)?;
            let token = String::from_utf8_lossy(&token);
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.trim()));
        }
        Ok(request)
    }

    /// Opens a connection, with TLS.
    pub(crate) async fn connect(
        &self,
        connector: &Connector,
        patience: Duration,
    ) -> Result<Post, String> {
        let Self { host, port, .. } = self;
        let stream = reach((host.as_str(), *port), patience).await;
        let stream = stream.map_err(|why| format!("{host}:{port} cannot be reached: {why}"))?;
        let target = host.parse().map_or_else(|_| Host::Name(host.as_str().into()), Host::Ip);
        let shaken = connector.connect(stream, &target, true, patience).await;
        let stream = shaken.map_err(|error| match error {
            Some(error) => format!(
                "no TLS with {host}:{port}: {}; here `--ca` names that file",
                explain(&error)
            ),
            None => format!("{host}:{port} does not shake hands in time"),
        })?;
        Post::begin(Upstream::Tls(stream)).await.map_err(|error| explain(&error))
    }
}

/// Opens a connection to an admin listener, in the clear.
pub(crate) async fn connect_plain(address: SocketAddr, patience: Duration) -> Result<Post, String> {
    let stream = reach(address, patience).await?;
    Post::begin(stream).await.map_err(|error| explain(&error))
}

async fn reach(address: impl ToSocketAddrs, patience: Duration) -> Result<Upstream, String> {
    match tokio::time::timeout(patience, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Ok(Upstream::Local(stream)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no connection within {} s", patience.as_secs())),
    }
}

/// The beginning of a question for `path`.
pub(crate) fn question(authority: &str, path: &str) -> request::Builder {
    Request::builder()
        .uri(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("tillgate/", env!("CARGO_PKG_VERSION")))
}

/// The question with its body.
pub(crate) fn whole(
    request: request::Builder,
    body: impl Into<Bytes>,
) -> Result<Request<Full<Bytes>>, String> {
    request.body(Full::new(body.into())).map_err(|_| "the token is no plain text".to_owned())
}

/// A file that goes into a question.
pub(crate) fn read(file: &Path, most: u64) -> Result<Vec<u8>, String> {
    read_bounded(file, most).map_err(|error| {
        if error.kind() == ErrorKind::FileTooLarge {
            format!("`{}` is longer than {most} bytes", file.display())
        } else {
            format!("`{}` cannot be read: {error}", file.display())
        }
    })
}
