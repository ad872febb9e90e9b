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
use tillgate_core::tls::{ClientTls, KeyPair, TlsVersion, TrustAnchors};
use tillgate_net::http::post::Post;
use tillgate_net::metrics::Metrics;
use tillgate_net::tls::{Application, Connector, Tls};

use crate::client;
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
        let (host, port) = client::server(self.uri)?;
        let connector = match self.uri.scheme_str() {
            Some("https") => Some(self.connector(host)?),
            _ => None,
        };
        let secure = connector.as_deref().map(|connector| (connector, self.ca.1));
        client::dial((host, port), secure, PATIENCE).await
    }

    fn connector(&self, host: &str) -> Result<Arc<Connector>, String> {
        let tls = Tls::new(&Metrics::new(env!("CARGO_PKG_VERSION")));
        let file = |path: &Path| Arc::from(path);
        let spec = ClientTls {
            sni: Some(self.name.unwrap_or(host).into()),
            roots: self.ca.0.map_or(TrustAnchors::System, |ca| TrustAnchors::File(file(ca))),
            certificate: self
                .pair
                .map(|(cert, key)| KeyPair { cert_file: file(cert), key_file: file(key) }),
            min_version: self.oldest,
        };
        let connector = tls.connector(&host.into(), &spec, Application::Http1);
        connector.map_err(|error| explain(&error))
    }
}
