//! A signed bundle on a web server: conditional requests, held ones where the server can.
//!
//! The connection crosses the line in class `control`, is kept, and asks for nothing that is in
//! effect already (`If-None-Match`, kept across errors). What comes instead of a bundle (a portal's
//! page, JSON, ten gigabytes) is refused for what it is.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use tillgate_config::defaults;
use tillgate_core::tls::{ClientTls, TlsVersion, TrustAnchors};
use tillgate_net::clock;
use tillgate_net::http::post::Post;
use tillgate_net::http::retry_after::{date, retry_after};
use tillgate_net::tls::{Application, Connector};

use super::apart::apart;
use super::{FetchError, Fetched, Given, Proof, relay};
use crate::bundle::archive::{self, PACKED_BYTES_MAX};
use crate::gateway::Gateway;
use crate::send::explain;

/// What is added to a held question for its answer to arrive.
const HOLD_MARGIN: Duration = Duration::from_secs(10);

/// A bundle's place on a web server.
#[derive(Debug)]
pub(crate) struct HttpBundle {
    uri: Uri,
    host: String,
    port: u16,
    timeout: Duration,
    long_poll: Duration,
    post: Option<Post>,
    connector: Option<Arc<Connector>>,
    /// By its tag.
    given: Given,
    /// How far this machine's clock is ahead of its server's, if that has proven who it is.
    ahead: Option<f64>,
}

impl HttpBundle {
    pub(crate) fn new(url: &str, timeout: Duration, long_poll: Duration) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let tls = uri.scheme_str() == Some("https");
        let name = uri.host().ok_or_else(|| format!("{url} names no host"))?;
        let host = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self {
            uri,
            host,
            port,
            timeout,
            long_poll,
            post: None,
            connector: None,
            given: Given::default(),
            ahead: None,
        })
    }

    /// By how many seconds this machine's clock is ahead of its server's, by its last answer.
    pub(crate) const fn ahead(&self) -> Option<f64> {
        self.ahead
    }

    pub(crate) fn settle(&mut self) {
        self.given.settle();
    }

    pub(crate) async fn fetch(&mut self, gateway: &Arc<Gateway>) -> Result<Fetched, FetchError> {
        self.ahead = None;
        let mut post = match self.post.take().filter(Post::is_open) {
            Some(post) => post,
            None => self.connect(gateway).await?,
        };
        // A part of the answer that does not come must not hold the next question for ever.
        let timeout = match self.long_poll {
            Duration::ZERO => self.timeout,
            hold => hold + hold / 16 + HOLD_MARGIN,
        };
        let most = usize::try_from(PACKED_BYTES_MAX).unwrap_or(usize::MAX);
        let answer = post.ask(self.request()?, timeout, most).await;
        let answer = answer.map_err(|error| explain(&error))?;
        if self.connector.is_some() {
            self.ahead = ahead(answer.headers(), clock::wall());
        }
        self.post = Some(post);
        self.read(answer)
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, String> {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = self.uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::get(path)
            .header(header::HOST, host)
            .header(header::ACCEPT, "application/gzip, application/octet-stream")
            .header(header::USER_AGENT, concat!("tillgate/", env!("CARGO_PKG_VERSION")));
        if let Some(tag) = self.given.settled() {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        if !self.long_poll.is_zero() {
            request = request.header("prefer", format!("wait={}", self.long_poll.as_secs()));
        }
        request.body(Full::default()).map_err(|error| error.to_string())
    }

    fn read(&mut self, answer: Response<Bytes>) -> Result<Fetched, FetchError> {
        let (head, body) = answer.into_parts();
        let held = head.headers.contains_key("preference-applied") && !self.long_poll.is_zero();
        match head.status {
            StatusCode::NOT_MODIFIED => return Ok(Fetched::Same { held }),
            StatusCode::OK => {}
            status => {
                // The store's own clock may be wrong; the server's is the one that counts here.
                let retry_after = retry_after(&head.headers, date(&head.headers));
                let why = format!("the server answers {status}");
                return Err(FetchError { why, retry_after, instead: None });
            }
        }
        let archive = archive::read(&body).map_err(|error| FetchError {
            why: explain(&error),
            retry_after: None,
            instead: Some(body.to_vec()),
        })?;
        let tag = head.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
        self.given.gives(tag.map(str::to_owned));
        Ok(Fetched::Bundle { archive, proof: Proof::Signatures, held })
    }

    async fn connect(&mut self, gateway: &Arc<Gateway>) -> Result<Post, String> {
        let patience = self.timeout.min(defaults::CONNECT_TIMEOUT);
        if self.uri.scheme_str() == Some("https") && self.connector.is_none() {
            self.connector = Some(secure(gateway).await?);
        }
        let tls = self.connector.as_deref();
        let stream = relay::dial(gateway, &self.host, self.port, patience, tls).await?;
        Post::begin(stream).await.map_err(|error| explain(&error))
    }
}

/// TLS by the system's authorities; reading those blocks.
async fn secure(gateway: &Arc<Gateway>) -> Result<Arc<Connector>, String> {
    let tls = Arc::clone(&gateway.tls);
    let spec = ClientTls {
        sni: None,
        roots: TrustAnchors::System,
        certificate: None,
        min_version: TlsVersion::V1_2,
    };
    let made = apart(move || tls.connector(&"policy-source".into(), &spec, Application::Http1));
    made.await?.map_err(|error| explain(&error))
}

/// By how many seconds `now` is ahead of `Date`, which tells whole ones.
fn ahead(headers: &HeaderMap, now: SystemTime) -> Option<f64> {
    let date = date(headers)?;
    let behind = || date.duration_since(now).ok().map(|behind| -behind.as_secs_f64());
    now.duration_since(date).ok().map(|ahead| ahead.as_secs_f64()).or_else(behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_what_time_it_is() {
        let mut headers = HeaderMap::new();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_208_700);
        assert_eq!(ahead(&headers, now), None, "it says nothing");
        let date = httpdate::fmt_http_date(now);
        headers.insert(header::DATE, http::HeaderValue::from_str(&date).unwrap());
        let apart = Duration::from_secs(86_400 * 365);
        assert_eq!(ahead(&headers, now), Some(0.0));
        assert_eq!(ahead(&headers, now + apart), Some(apart.as_secs_f64()));
        assert_eq!(ahead(&headers, now - apart), Some(-apart.as_secs_f64()));
    }

    #[test]
    fn answers_are_read_for_what_they_are() {
        let mut source =
            HttpBundle::new("http://[::1]:8000/b?x=1", Duration::from_secs(1), Duration::ZERO)
                .unwrap();
        assert_eq!((source.port, source.host.as_str()), (8000, "::1"));
        let mut read = |status: u16, body: &'static str| {
            let answer = Response::builder().status(status).header("etag", "\"a\"");
            source.read(answer.body(Bytes::from_static(body.as_bytes())).unwrap())
        };
        assert!(matches!(read(304, ""), Ok(Fetched::Same { held: false })));
        let html = read(200, "<html>log in</html>").expect_err("no bundle");
        assert!(html.why.contains("a web page") && html.instead.is_some(), "{html:?}");
        for status in [204, 301, 404, 500] {
            assert!(read(status, "").is_err(), "{status}");
        }
        source.given.settle();
        assert_eq!(source.given.settled(), None, "what was refused has no tag to ask with");
        let request = source.request().unwrap();
        assert_eq!(request.uri(), "/b?x=1");
        assert_eq!(request.headers()["host"], "[::1]:8000");
        assert!(HttpBundle::new("http:///x", Duration::ZERO, Duration::ZERO).is_err());
    }
}
