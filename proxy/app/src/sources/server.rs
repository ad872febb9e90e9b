//! One web server of the centre: where it is, and a kept connection to it across the line.
//!
//! Used by whoever fetches policy and whoever reports. The connection has a class like others on
//! the line; after an error the next question finds a fresh one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, Uri, header, request};
use http_body_util::Full;
use tillgate_config::defaults;
use tillgate_core::tls::{ClientTls, TlsVersion, TrustAnchors};
use tillgate_net::http::post::Post;
use tillgate_net::tls::{Application, Connector};

use super::apart::apart;
use super::relay;
use crate::gateway::Gateway;
use crate::send::explain;

/// See the module.
#[derive(Debug)]
pub(crate) struct Server {
    pub(super) uri: Uri,
    pub(super) host: String,
    pub(super) port: u16,
    class: Arc<str>,
    roots: TrustAnchors,
    /// What it is called in the metrics of TLS.
    name: Arc<str>,
    post: Option<Post>,
    connector: Option<Arc<Connector>>,
}

impl Server {
    /// The server of `url`, asked in `class`; what it shows must be signed by one of `roots`.
    ///
    /// # Errors
    /// If that is no address.
    pub(crate) fn new(
        name: &str,
        url: &str,
        class: &str,
        roots: TrustAnchors,
    ) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(format!("{url} is no web server's address")),
        };
        let host = uri.host().ok_or_else(|| format!("{url} names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let (name, class) = (name.into(), class.into());
        Ok(Self { uri, host, port, class, roots, name, post: None, connector: None })
    }

    /// Whether it has proven who it is.
    pub(crate) const fn is_proven(&self) -> bool {
        self.connector.is_some()
    }

    /// The head of a request to its place.
    pub(crate) fn request(&self, method: Method) -> request::Builder {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = self.uri.authority().map_or("", |authority| authority.as_str());
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, concat!("tillgate/", env!("CARGO_PKG_VERSION")))
    }

    /// Asks it. A connection may take up to `patience`, the answer `timeout` and `most` bytes.
    ///
    /// # Errors
    /// Why there is no answer, for people.
    pub(crate) async fn ask(
        &mut self,
        gateway: &Arc<Gateway>,
        request: Request<Full<Bytes>>,
        patience: Duration,
        timeout: Duration,
        most: usize,
    ) -> Result<Response<Bytes>, String> {
        let mut post = match self.post.take().filter(Post::is_open) {
            Some(post) => post,
            None => self.connect(gateway, patience).await?,
        };
        let answer = post.ask(request, timeout, most).await.map_err(|error| explain(&error))?;
        self.post = Some(post);
        Ok(answer)
    }

    async fn connect(
        &mut self,
        gateway: &Arc<Gateway>,
        patience: Duration,
    ) -> Result<Post, String> {
        let patience = patience.min(defaults::CONNECT_TIMEOUT);
        if self.uri.scheme_str() == Some("https") && self.connector.is_none() {
            self.connector = Some(self.secure(gateway).await?);
        }
        let to = (self.host.as_str(), self.port);
        let tls = self.connector.as_deref();
        let stream = relay::dial(gateway, to, &self.class, patience, tls).await?;
        Post::begin(stream).await.map_err(|error| explain(&error))
    }

    /// TLS by its authorities; reading those blocks.
    async fn secure(&self, gateway: &Arc<Gateway>) -> Result<Arc<Connector>, String> {
        let (tls, name) = (Arc::clone(&gateway.tls), Arc::clone(&self.name));
        let spec = ClientTls {
            sni: None,
            roots: self.roots.clone(),
            certificate: None,
            min_version: TlsVersion::V1_2,
        };
        let made = apart(move || tls.connector(&name, &spec, Application::Http1));
        made.await?.map_err(|error| explain(&error))
    }
}
