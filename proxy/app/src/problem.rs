//! Answers of our own: `application/problem+json` (RFC 9457) with the `reason` of the failure
//! table. A gRPC client gets the same in its own words.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use tillgate_net::error::{Blame, Failure};
use tillgate_net::http::body::ResponseBody;
use tillgate_net::http::grpc::{self, Speech};
use tillgate_net::http::server::Malformed;

use crate::outcome::Outcome;

/// Seconds after which a refused request may come again: the time in which a full queue of a
/// class drains on a working line.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Bodies of every answer of the data plane.
pub(crate) type Answer = Response<ResponseBody<Outcome>>;

#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none", rename = "heldBy")]
    held_by: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none", rename = "nextOpen")]
    next_open: Option<&'a str>,
}

/// What happened, in the words of the request at hand.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) failure: Failure,
    pub(crate) detail: String,
    wait: Option<Box<Wait>>,
}

/// What has to end before the request may come again.
#[derive(Debug)]
pub(crate) struct Wait {
    /// When to ask again.
    pub(crate) after: Duration,
    /// The documents of the policy.
    pub(crate) held_by: Arc<[String]>,
    /// When it ends, as far as that is known.
    pub(crate) opens: Option<String>,
}

impl Refusal {
    pub(crate) fn new(failure: Failure, detail: impl Into<String>) -> Self {
        Self { failure, detail: detail.into(), wait: None }
    }

    /// The same, for now.
    pub(crate) fn until(self, wait: Wait) -> Self {
        Self { wait: Some(Box::new(wait)), ..self }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::new(failure, failure.row().meaning)
    }
}

impl From<Malformed> for Refusal {
    fn from(why: Malformed) -> Self {
        Self::new(why.failure(), why.detail())
    }
}

/// The answer that says so, with the request's outcome.
pub(crate) fn answer(refusal: &Refusal, mut outcome: Outcome) -> Answer {
    let row = refusal.failure.row();
    // Without a status nobody is there to read it; 502 keeps the answer well formed.
    let status = row.status.unwrap_or(StatusCode::BAD_GATEWAY);
    outcome.fail(refusal.failure);
    if outcome.speech() == Speech::Grpc {
        outcome.answer(StatusCode::OK);
        let mut answer = Response::new(ResponseBody::whole(Bytes::new(), outcome));
        grpc::refuse(answer.headers_mut(), refusal.failure, &refusal.detail);
        return answer;
    }
    let problem = Problem {
        kind: format!("urn:tillgate:problem:{}", row.reason),
        title: status.canonical_reason().unwrap_or("Error"),
        status: status.as_u16(),
        detail: &refusal.detail,
        reason: row.reason,
        held_by: refusal.wait.as_ref().map(|wait| &*wait.held_by),
        next_open: refusal.wait.as_ref().and_then(|wait| wait.opens.as_deref()),
    };
    let body = serde_json::to_vec(&problem).map(Bytes::from).unwrap_or_default();
    let mut answer = Response::new(ResponseBody::whole(body, outcome));
    *answer.status_mut() = status;
    let json = HeaderValue::from_static("application/problem+json");
    answer.headers_mut().insert(CONTENT_TYPE, json);
    if let Some(wait) = &refusal.wait {
        answer.headers_mut().insert(RETRY_AFTER, wait.after.as_secs().max(1).into());
    } else if status == StatusCode::SERVICE_UNAVAILABLE && row.blame != Blame::Client {
        answer.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
    }
    answer
}
