//! A signed bundle on a web server: conditional requests, held ones where the server can.
//!
//! The connection crosses the line in class `control`, is kept, and asks for nothing that is in
//! effect already (`If-None-Match`, kept across errors). What comes instead of a bundle (a portal's
//! page, JSON, ten gigabytes) is refused for what it is.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tillgate_core::tls::TrustAnchors;
use tillgate_net::clock;
use tillgate_net::http::retry_after::{date, retry_after};

use super::server::Server;
use super::{FetchError, Fetched, Given, Proof, relay};
use crate::bundle::archive::{self, PACKED_BYTES_MAX};
use crate::gateway::Gateway;
use crate::send::explain;

/// What is added to a held question for its answer to arrive.
const HOLD_MARGIN: Duration = Duration::from_secs(10);

/// A bundle's place on a web server.
#[derive(Debug)]
pub(crate) struct HttpBundle {
    server: Server,
    timeout: Duration,
    long_poll: Duration,
    /// By its tag.
    given: Given,
    /// How far this machine's clock is ahead of its server's, if that has proven who it is.
    ahead: Option<f64>,
}

impl HttpBundle {
    pub(crate) fn new(url: &str, timeout: Duration, long_poll: Duration) -> Result<Self, String> {
        let server = Server::new("policy-source", url, relay::CLASS, TrustAnchors::System)?;
        Ok(Self { server, timeout, long_poll, given: Given::default(), ahead: None })
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
        // A part of the answer that does not come must not hold the next question for ever.
        let timeout = match self.long_poll {
            Duration::ZERO => self.timeout,
            hold => hold + hold / 16 + HOLD_MARGIN,
        };
        let most = usize::try_from(PACKED_BYTES_MAX).unwrap_or(usize::MAX);
        let request = self.request()?;
        let answer = self.server.ask(gateway, request, self.timeout, timeout, most).await?;
        if self.server.is_proven() {
            self.ahead = ahead(answer.headers(), clock::wall());
        }
        self.read(answer)
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, String> {
        let mut request = self
            .server
            .request(Method::GET)
            .header(header::ACCEPT, "application/gzip, application/octet-stream");
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
        assert_eq!((source.server.port, source.server.host.as_str()), (8000, "::1"));
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
