//! One question over HTTP to a server that an operator names: a gateway's config endpoint, a
//! Prometheus.
//!
//! Bounded in time and bytes; TLS by the system's authorities or by a file of them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use tillgate_core::backend::Host;
use tillgate_core::tls::{ClientTls, KeyPair, TlsVersion, TrustAnchors};
use tillgate_net::http::post::Post;
use tillgate_net::metrics::Metrics;
use tillgate_net::tls::{Application, Tls};
use tillgate_net::upstream::Upstream;
use tokio::net::TcpStream;

use crate::send::explain;

/// A person waits no longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server, and how both sides prove who they are.
pub(super) struct Server<'a> {
    /// Of scheme `https`, or of another one, which means no TLS.
    pub(super) uri: &'a Uri,
    /// The name in its certificate, if it is not the host's.
    pub(super) name: Option<&'a str>,
    /// The file of the authority that has signed it, if it is none of the system's, and the flag
    /// that names it.
    pub(super) ca: (Option<&'a Path>, &'static str),
    /// The files of our own certificate and key.
    pub(super) pair: Option<(&'a Path, &'a Path)>,
    /// The oldest TLS that will do.
    pub(super) oldest: TlsVersion,
}

impl Server<'_> {
    /// Asks; an answer has at most `bytes_max`.
    ///
    /// # Errors
    /// Why there is no answer, in words for a person.
    pub(super) fn ask(
        &self,
        request: Request<Full<Bytes>>,
        bytes_max: usize,
    ) -> Result<Response<Bytes>, String> {
        let runtime = crate::bound::runtime().map_err(|error| error.to_string())?;
        let whole = async {
            let mut post = self.connect().await?;
            post.ask(request, PATIENCE, bytes_max).await.map_err(|error| explain(&error))
        };
        runtime.block_on(async {
            tokio::time::timeout(PATIENCE, whole)
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
        })
    }

    async fn connect(&self) -> Result<Post, String> {
        let is_secure = self.uri.scheme_str() == Some("https");
        let host = self.uri.host().ok_or_else(|| format!("{} names no host", self.uri))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await;
        let stream = stream.map_err(|error| format!("{host}:{port} cannot be reached: {error}"))?;
        let mut stream = Upstream::Local(stream);
        if is_secure {
            stream = self.secure(stream, (host, port)).await?;
        }
        Post::begin(stream).await.map_err(|error| explain(&error))
    }

    async fn secure(
        &self,
        stream: Upstream,
        (host, port): (&str, u16),
    ) -> Result<Upstream, String> {
        let tls = Tls::new(&Metrics::new(env!("CARGO_PKG_VERSION")));
        let file = |path: &Path| Arc::from(path);
        let (ca, flag) = self.ca;
        let spec = ClientTls {
            sni: Some(self.name.unwrap_or(host).into()),
            roots: ca.map_or(TrustAnchors::System, |ca| TrustAnchors::File(file(ca))),
            certificate: self
                .pair
                .map(|(cert, key)| KeyPair { cert_file: file(cert), key_file: file(key) }),
            min_version: self.oldest,
        };
        let connector = tls.connector(&host.into(), &spec, Application::Http1);
        let connector = connector.map_err(|error| explain(&error))?;
        let target = match host.parse() {
            Ok(address) => Host::Ip(address),
            Err(_) => Host::Name(host.into()),
        };
        let shaken = connector.connect(stream, &target, true, PATIENCE).await;
        shaken.map(Upstream::Tls).map_err(|error| match error {
            Some(error) => {
                format!(
                    "no TLS with {host}:{port}: {}; here `{flag}` names that file",
                    explain(&error)
                )
            }
            None => format!("{host}:{port} does not shake hands in time"),
        })
    }
}
