//! Refusals of the config endpoint: `application/problem+json` (RFC 9457), with the places of
//! what is wrong with a policy.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::routes::PROBLEM;

/// A refusal. In a box: it is rare, and what may fail with it is not.
#[derive(Debug)]
pub(crate) struct Problem(Box<Told>);

#[derive(Debug)]
struct Told {
    status: StatusCode,
    detail: String,
    errors: Vec<Value>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let told = Told { status, detail: detail.into(), errors: Vec::new(), header: None };
        Self(Box::new(told))
    }

    /// 400: what came cannot be read.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 401: nobody knows who asks.
    pub(crate) fn unknown_caller() -> Self {
        Self::unauthenticated(
            "no credential that counts here: show a certificate with a role that has not ended, \
             or a token as `Authorization: Bearer …`",
        )
    }

    /// 401: what is shown does not count.
    pub(crate) fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, detail)
            .with(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tillgate\""))
    }

    /// 403: it is known who asks.
    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// 404.
    pub(crate) fn absent(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// 405.
    pub(crate) fn method(allowed: &str) -> Self {
        let detail = format!(
            "only {allowed} is answered here; policy comes from its sources alone and cannot be \
             written"
        );
        let problem = Self::new(StatusCode::METHOD_NOT_ALLOWED, detail);
        match HeaderValue::from_str(allowed) {
            Ok(allowed) => problem.with(ALLOW, allowed),
            Err(_) => problem,
        }
    }

    /// 409.
    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// 500: it is our fault.
    pub(crate) fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, detail)
    }

    /// 429 or 503: another time.
    pub(crate) fn later(status: StatusCode, seconds: u64, detail: impl Into<String>) -> Self {
        Self::new(status, detail).with(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// 422 with everything that is wrong.
    pub(crate) fn invalid(detail: impl Into<String>, errors: Vec<Value>) -> Self {
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail);
        problem.0.errors = errors;
        problem
    }

    /// A header of the answer, beside what it says.
    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.header = Some((name, value));
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Told { status, detail, errors, header } = *self.0;
        let title = status.canonical_reason().unwrap_or("Error");
        let slug = title.to_ascii_lowercase().replace(' ', "-");
        let mut document = json!({
            "type": format!("urn:tillgate:problem:{slug}"),
            "title": title,
            "status": status.as_u16(),
            "detail": detail,
        });
        if !errors.is_empty() {
            document["errors"] = Value::Array(errors);
        }
        let mut answer = Response::new(Body::from(document.to_string()));
        *answer.status_mut() = status;
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
        if let Some((name, value)) = header {
            answer.headers_mut().insert(name, value);
        }
        answer
    }
}
