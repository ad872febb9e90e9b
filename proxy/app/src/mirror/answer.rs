//! Answers of the mirror: manifests, blobs, lists, and the errors of the OCI specification.
//!
//! Every answer carries the request's outcome. An error is JSON with the code that clients of
//! registries know, what is meant in words, and what holds a pull that is held.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, RETRY_AFTER,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde_json::{Value, json};
use tillgate_core::mirror::{Code, Digest};
use tillgate_net::error::Failure;
use tillgate_net::http::body::ResponseBody;
use tillgate_net::mirror::{Broken, Source};

use super::manifests::DOCKER_CONTENT_DIGEST;
use crate::outcome::Outcome;
use crate::problem::Answer;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const REGISTRY: HeaderValue = HeaderValue::from_static("registry/2.0");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(super) const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Why a request gets no image.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) code: Code,
    pub(super) failure: Option<Failure>,
    pub(super) message: String,
    pub(super) detail: Value,
    pub(super) retry_after: Option<Duration>,
}

impl Refused {
    pub(super) fn new(code: Code, failure: Option<Failure>, message: impl Into<String>) -> Self {
        Self { code, failure, message: message.into(), detail: Value::Null, retry_after: None }
    }
}

impl From<Broken> for Refused {
    fn from(broken: Broken) -> Self {
        let Broken { code, failure, detail, retry_after, .. } = broken;
        Self { retry_after, ..Self::new(code, failure, &*detail) }
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::new(Code::Unavailable, Some(failure), failure.row().meaning)
    }
}

/// The answer that says so.
pub(super) fn refuse(refused: &Refused, mut outcome: Outcome) -> Answer {
    let status = refused.code.status();
    if let Some(failure) = refused.failure {
        outcome.fail(failure);
    }
    let error = json!({
        "errors": [{
            "code": refused.code.label(),
            "message": refused.message,
            "detail": refused.detail,
        }]
    });
    let mut fields = HeaderMap::new();
    fields.insert(CONTENT_TYPE, JSON);
    let wait = refused.retry_after.or_else(|| {
        // Whoever is told to come again is told when.
        (status == StatusCode::TOO_MANY_REQUESTS).then_some(Duration::from_secs(5))
    });
    if let Some(wait) = wait {
        fields.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        fields.insert(http::header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    whole(status, fields, error.to_string().into(), outcome)
}

/// An answer of ours, in one piece.
pub(super) fn whole(
    status: StatusCode,
    fields: HeaderMap,
    body: Bytes,
    mut outcome: Outcome,
) -> Answer {
    outcome.answer(status);
    let mut answer = Response::new(ResponseBody::whole(body, outcome));
    *answer.status_mut() = status;
    *answer.headers_mut() = fields;
    answer.headers_mut().insert(API_VERSION, REGISTRY);
    answer
}

/// The fields that tell what something is.
pub(super) fn named(digest: &Digest, media_type: HeaderValue) -> HeaderMap {
    let mut fields = HeaderMap::new();
    let text = digest.to_string();
    if let Ok(value) = HeaderValue::try_from(format!("\"{text}\"")) {
        fields.insert(ETAG, value);
    }
    if let Ok(value) = HeaderValue::try_from(text) {
        fields.insert(DOCKER_CONTENT_DIGEST, value);
    }
    fields.insert(CONTENT_TYPE, media_type);
    fields
}

/// The head of something of `length` bytes without the bytes.
pub(super) fn head_only(mut fields: HeaderMap, length: u64, outcome: Outcome) -> Answer {
    fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
    whole(StatusCode::OK, fields, Bytes::new(), outcome)
}

/// A blob, or `part` of one of `total` bytes.
pub(super) fn blob(
    digest: &Digest,
    source: Box<dyn Source>,
    part: Option<(u64, u64)>,
    mut outcome: Outcome,
) -> Answer {
    let mut fields = named(digest, OCTETS);
    fields.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    fields.insert(CONTENT_LENGTH, HeaderValue::from(source.left()));
    fields.insert(API_VERSION, REGISTRY);
    let mut status = StatusCode::OK;
    if let Some((start, total)) = part {
        let end = start + source.left() - 1;
        if let Ok(value) = HeaderValue::try_from(format!("bytes {start}-{end}/{total}")) {
            fields.insert(CONTENT_RANGE, value);
        }
        status = StatusCode::PARTIAL_CONTENT;
    }
    outcome.answer(status);
    let flow = std::sync::Arc::clone(outcome.flow().flow());
    let mut answer = Response::new(ResponseBody::from_source(source, flow, outcome));
    *answer.status_mut() = status;
    *answer.headers_mut() = fields;
    answer
}

/// What is asked for lies behind the end.
pub(super) fn beyond(total: u64, outcome: Outcome) -> Answer {
    let mut fields = HeaderMap::new();
    if let Ok(value) = HeaderValue::try_from(format!("bytes */{total}")) {
        fields.insert(CONTENT_RANGE, value);
    }
    whole(StatusCode::RANGE_NOT_SATISFIABLE, fields, Bytes::new(), outcome)
}
