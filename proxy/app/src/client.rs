//! Questions to a config endpoint, and to an admin listener: how a person's command and a sidecar
//! reach a gateway and prove who they are.
//!
//! One connection, one question at a time. What a token or a key is comes from files, never from
//! arguments, which everybody on the machine sees. Nothing here crosses a line: the gateway is in
//! the store, or the asker is no part of one.

use std::io::ErrorKind;
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
use tokio::net::TcpStream;

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
    pub(crate) uri: Uri,
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
        let (authority, (host, port)) = (authority.to_string(), server(&uri)?);
        Ok(Self { authority, host: host.to_owned(), port, uri })
    }

    /// The beginning of a question for `path`.
    pub(crate) fn question(
        &self,
        path: &str,
        credentials: &Credentials,
    ) -> Result<request::Builder, String> {
        let request = question(&self.authority, path);
        Ok(match &credentials.token_file {
            Some(file) => request.header(header::AUTHORIZATION, bearer(file)?),
            None => request,
        })
    }
}

/// Host and port of a URL.
pub(crate) fn server(uri: &Uri) -> Result<(&str, u16), String> {
    let host = uri.host().ok_or_else(|| format!("{uri} names no host"))?;
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    Ok((host.trim_start_matches('[').trim_end_matches(']'), uri.port_u16().unwrap_or(usual)))
}

/// Opens a connection; with TLS where `secure` says how, and which flag names the authority.
pub(crate) async fn dial(
    (host, port): (&str, u16),
    secure: Option<(&Connector, &str)>,
    patience: Duration,
) -> Result<Post, String> {
    let mut stream = match tokio::time::timeout(patience, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => Upstream::Local(stream),
        Ok(Err(error)) => return Err(format!("{host}:{port} cannot be reached: {error}")),
        Err(_) => return Err(format!("{host}:{port} cannot be reached in time")),
    };
    if let Some((connector, flag)) = secure {
        let target = host.parse().map_or_else(|_| Host::Name(host.into()), Host::Ip);
        let shaken = connector.connect(stream, &target, true, patience).await;
        stream = shaken.map(Upstream::Tls).map_err(|error| match error {
            Some(error) => format!(
                "no TLS with {host}:{port}: {}; here `{flag}` names that file",
                explain(&error)
            ),
            None => format!("{host}:{port} does not shake hands in time"),
        })?;
    }
    Post::begin(stream).await.map_err(|error| explain(&error))
}

/// The token in a file, as it is sent.
pub(crate) fn bearer(file: &Path) -> Result<String, String> {
    let token = read(file, TOKEN_BYTES_MAX)?;
    Ok(format!("Bearer {}", String::from_utf8_lossy(&token).trim()))
}

/// Whether a token is of a cluster, by the two dots of a JWT; those of an operator have none.
pub(crate) fn is_jwt(token: &[u8]) -> bool {
    token.iter().filter(|byte| **byte == b'.').count() == 2
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
