//! The way to the gateway: one kept-alive connection, questions with their deadlines.
//!
//! A held question has the time it asked for and ten seconds: a network that has forgotten the
//! connection must not hold it for ever. What comes back counts if it has the digest that it is
//! said to have.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{HeaderMap, Method, Response, StatusCode, header};
use serde_json::Value;
use tillgate_net::http::post::{Post, PostError};
use tillgate_net::http::retry_after::retry_after;
use tillgate_net::tls::{Application, Connector, Tls};
use tokio::sync::watch;

use super::Spec;
use super::enrol::Enrolling;
use super::kept::Slice;
use crate::client::{self, ANSWER_BYTES_MAX, Address, Credentials};
use crate::endpoint::routes::JSON_V1;
use crate::send::explain;

/// How long the gateway may hold a question: what NAT entries and proxies outlive.
pub(super) const WAIT: Duration = Duration::from_secs(55);

/// What is added to a held question for its answer to arrive.
const MARGIN: Duration = Duration::from_secs(10);

/// A gateway in the same store that does not answer a short question by then is not well.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came of a question for the config.
pub(super) enum Asked {
    /// Nothing new.
    Same {
        /// Whether the gateway held the question.
        held: bool,
        /// Which of the known slices it wants.
        digest: Option<Arc<str>>,
    },
    Slice(Slice),
}

/// Why there is no answer.
pub(super) struct Unanswered {
    pub(super) why: String,
    pub(super) retry_after: Option<Duration>,
    /// Of an answer that was a refusal; 401 if TLS refuses what is shown.
    pub(super) status: Option<StatusCode>,
}

impl From<String> for Unanswered {
    fn from(why: String) -> Self {
        Self { why, retry_after: None, status: None }
    }
}

/// See the module.
pub(super) struct Line {
    address: Address,
    credentials: Credentials,
    tls: Arc<Tls>,
    /// Made when its files can be read.
    connector: Option<Arc<Connector>>,
    post: Option<Post>,
    /// Where what it shows comes from an enrolment, and when there is another one.
    enrolling: Option<(Arc<Enrolling>, watch::Receiver<()>)>,
}

impl Line {
    pub(super) fn new(spec: &Spec, tls: Arc<Tls>) -> Self {
        let enrolling = spec.enrolling.as_ref().map(|it| (Arc::clone(it), it.renewed()));
        Self { enrolling, ..Self::to(spec.address.clone(), spec.credentials.clone(), tls) }
    }

    /// The same, with nothing but these.
    pub(super) fn to(address: Address, credentials: Credentials, tls: Arc<Tls>) -> Self {
        Self { address, credentials, tls, connector: None, post: None, enrolling: None }
    }

    /// Asks for the config. What has one of the digests `known` is not sent again, and is waited
    /// out.
    pub(super) async fn config(&mut self, known: &[Arc<str>]) -> Result<Asked, Unanswered> {
        // Whoever may see more than a sidecar asks for a sidecar's part.
        let request = self.address.question("/v1/config?role=sidecar", &self.credentials)?;
        // The shape that this version understands, and no other.
        let mut request = request.header(header::ACCEPT_ENCODING, "gzip");
        if let Some(headers) = request.headers_mut() {
            headers.insert(header::ACCEPT, http::HeaderValue::from_static(JSON_V1));
        }
        let mut within = PATIENCE;
        if !known.is_empty() {
            let tags: Vec<String> = known.iter().map(|digest| format!("\"{digest}\"")).collect();
            request = request.header(header::IF_NONE_MATCH, tags.join(", "));
            request = request.header("prefer", format!("wait={}", WAIT.as_secs()));
            within = WAIT + MARGIN;
        }
        let answer = self.exchange(request, Bytes::new(), within).await?;
        read(answer)
    }

    /// Tells the gateway something; its status.
    pub(super) async fn tell(
        &mut self,
        method: Method,
        path: &str,
        what: &Value,
    ) -> Result<(), Unanswered> {
        self.say(method, path, what).await.map(drop)
    }

    /// Asks the gateway for something, and reads what it gives.
    pub(super) async fn ask(&mut self, path: &str, what: &Value) -> Result<Value, Unanswered> {
        let answer = self.say(Method::POST, path, what).await?;
        let read = serde_json::from_slice(answer.body());
        read.map_err(|error| format!("the gateway's answer cannot be read: {error}").into())
    }

    async fn say(
        &mut self,
        method: Method,
        path: &str,
        what: &Value,
    ) -> Result<Response<Bytes>, Unanswered> {
        let request = self.address.question(path, &self.credentials)?;
        let request = request.method(method).header(header::CONTENT_TYPE, "application/json");
        let answer = self.exchange(request, what.to_string().into(), PATIENCE).await?;
        if answer.status().is_success() { Ok(answer) } else { Err(refusal(&answer)) }
    }

    async fn exchange(
        &mut self,
        request: http::request::Builder,
        body: Bytes,
        within: Duration,
    ) -> Result<Response<Bytes>, Unanswered> {
        let answered = self.carry(request, body, within).await;
        let status = answered.as_ref().map_or_else(|error| error.status, |it| Some(it.status()));
        if let Some((enrolling, _)) = &self.enrolling
            && status == Some(StatusCode::UNAUTHORIZED)
        {
            enrolling.refused();
        }
        answered
    }

    async fn carry(
        &mut self,
        request: http::request::Builder,
        body: Bytes,
        within: Duration,
    ) -> Result<Response<Bytes>, Unanswered> {
        let request = client::whole(request, body)?;
        if let Some((enrolling, renewed)) = &mut self.enrolling {
            if let Some(why) = enrolling.not_yet() {
                return Err(why.into());
            }
            if renewed.has_changed().unwrap_or_default() {
                renewed.mark_unchanged();
                self.post = None;
            }
        }
        if let Some(mut post) = self.post.take().filter(Post::is_open) {
            // An idle connection may be gone already; what is asked here may be asked twice.
            match post.ask(request.clone(), within, ANSWER_BYTES_MAX).await {
                Ok(answer) => {
                    self.post = Some(post);
                    return Ok(answer);
                }
                Err(PostError::Broken(_)) => {}
                Err(error @ (PostError::Answer | PostError::TimedOut(_))) => {
                    return Err(explain(&error).into());
                }
            }
        }
        let mut post = self.connect().await?;
        let answer = post.ask(request, within, ANSWER_BYTES_MAX).await;
        let answer = answer.map_err(|error| Unanswered {
            status: post.is_refused().then_some(StatusCode::UNAUTHORIZED),
            ..explain(&error).into()
        })?;
        self.post = Some(post);
        Ok(answer)
    }

    async fn connect(&mut self) -> Result<Post, String> {
        if self.connector.is_none() {
            let owner: Arc<str> = "config endpoint".into();
            let spec = self.credentials.tls(&self.address.host);
            let made = self.tls.connector(&owner, &spec, Application::Http1);
            self.connector = Some(made.map_err(|error| explain(&error))?);
        }
        let connector = self.connector.as_ref().expect("it was made above");
        let at = (self.address.host.as_str(), self.address.port);
        client::dial(at, Some((connector, "--ca")), PATIENCE).await
    }
}

fn refusal(answer: &Response<Bytes>) -> Unanswered {
    let problem: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or("it does not say why");
    Unanswered {
        why: format!("the gateway answers {}: {detail}", answer.status()),
        retry_after: retry_after(answer.headers(), None),
        status: Some(answer.status()),
    }
}

fn read(answer: Response<Bytes>) -> Result<Asked, Unanswered> {
    let headers = answer.headers();
    let held = headers.contains_key("preference-applied");
    let wanted = headers.get("tillgate-digest").and_then(|value| value.to_str().ok());
    match answer.status() {
        StatusCode::NOT_MODIFIED => {
            return Ok(Asked::Same { held, digest: wanted.map(Arc::from) });
        }
        StatusCode::OK => {}
        _ => return Err(refusal(&answer)),
    }
    let slice = Slice::new(text(headers, answer.body())?);
    if wanted != Some(&*slice.digest) {
        let why = "the slice is not what its digest says: it was changed on its way";
        return Err(why.to_owned().into());
    }
    Ok(Asked::Slice(slice))
}

/// The answer's text, unpacked; no more of it than a slice may have.
fn text(headers: &HeaderMap, body: &[u8]) -> Result<String, String> {
    let bytes = match headers.get(header::CONTENT_ENCODING).map(http::HeaderValue::as_bytes) {
        None => body.to_vec(),
        Some(b"gzip") => {
            let mut bytes = Vec::new();
            let unpacked = GzDecoder::new(body).take(ANSWER_BYTES_MAX as u64 + 1);
            { unpacked }.read_to_end(&mut bytes).map_err(|error| format!("no slice: {error}"))?;
            bytes
        }
        Some(_) => return Err("the slice is packed in a way that nobody asked for".to_owned()),
    };
    if bytes.len() > ANSWER_BYTES_MAX {
        return Err(format!("the slice has more than {ANSWER_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "the slice is no text".to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Result<Asked, Unanswered> {
        let mut answer = Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        read(answer.body(Bytes::copy_from_slice(body)).unwrap())
    }

    #[test]
    fn an_answer_counts_if_it_has_its_digest() {
        let slice = Slice::new("{}".to_owned());
        let digest = ("tillgate-digest", &*slice.digest);
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packer.write_all(b"{}").unwrap();
        let packed = packer.finish().unwrap();
        let gzip = ("content-encoding", "gzip");
        for (headers, body) in [(&[digest][..], &b"{}"[..]), (&[digest, gzip], &packed)] {
            match answer(200, headers, body) {
                Ok(Asked::Slice(got)) => assert_eq!(got, slice),
                Ok(Asked::Same { .. }) => panic!("it is new"),
                Err(error) => panic!("{}", error.why),
            }
        }
        match answer(304, &[digest], b"") {
            Ok(Asked::Same { held: false, digest: Some(same) }) => assert_eq!(same, slice.digest),
            _ => panic!("it says which one"),
        }
        for (headers, body) in [
            (&[digest][..], &b"{ }"[..]),
            (&[], b"{}"),
            (&[digest, gzip], b"{}"),
            (&[digest, ("content-encoding", "br")], b"{}"),
        ] {
            assert!(answer(200, headers, body).is_err());
        }
        assert!(matches!(answer(304, &[], b""), Ok(Asked::Same { held: false, .. })));
        let held = [("preference-applied", "wait=55")];
        assert!(matches!(answer(304, &held, b""), Ok(Asked::Same { held: true, .. })));
        let late = answer(503, &[("retry-after", "7")], br#"{"detail":"stopping"}"#).err().unwrap();
        assert_eq!(late.retry_after, Some(Duration::from_secs(7)));
        assert!(late.why.contains("503") && late.why.contains("stopping"), "{}", late.why);
    }

    #[test]
    fn what_unpacks_to_too_much_is_no_slice() {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        for _ in 0..=ANSWER_BYTES_MAX / 65536 {
            packer.write_all(&[b' '; 65536]).unwrap();
        }
        let headers = HeaderMap::from_iter([(
            header::CONTENT_ENCODING,
            http::HeaderValue::from_static("gzip"),
        )]);
        let error = text(&headers, &packer.finish().unwrap()).unwrap_err();
        assert!(error.contains("more than"), "{error}");
    }
}
