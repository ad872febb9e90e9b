//! The commands that ask a running gateway: `status`, `history`, `pin`, `rollback`, `enrol`, and
//! `diff`, `plan` and `windows` with `--endpoint`.
//!
//! One request over TLS to its config endpoint, shown for people or passed on as JSON. What a
//! token or a key is comes from files, never from arguments, which everybody on the machine sees.

use std::path::Path;

use bytes::Bytes;
use clap::Args;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Map, Value, json};
use tillgate_config::defaults;

use self::shown::text;
use super::client::Server;
use super::policy::{Answer, FINDINGS, OK, Output, USAGE};
use super::windows::Times;
pub(super) use crate::client::bearer;
use crate::client::{self, ANSWER_BYTES_MAX, Address, Credentials};

pub(super) mod shown;

/// What a policy is not longer than; the gateway says so too.
const POLICY_BYTES_MAX: u64 = 1024 * 1024;

/// The gateway to ask, and how to prove who asks.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Remote {
    /// The config endpoint of a running gateway, as `https://gateway.example:17443`.
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    #[command(flatten)]
    credentials: Credentials,
}

/// A question, and how its answer is shown.
pub(super) struct Question<'a> {
    path: String,
    /// A policy to send along.
    policy: Option<&'a Path>,
    /// A question to send along.
    body: Option<Value>,
    /// Another method than a body has.
    method: Option<Method>,
    /// What was seen of what it changes.
    seen: Option<String>,
    show: fn(&Value) -> String,
    /// Whether an answer is a finding, as `diff` says it with its exit code.
    finds: fn(&Value) -> bool,
}

impl<'a> Question<'a> {
    /// What is at `path`.
    pub(super) fn new(path: &str, show: fn(&Value) -> String) -> Self {
        Self {
            path: path.to_owned(),
            policy: None,
            body: None,
            method: None,
            seen: None,
            show,
            finds: |_| false,
        }
    }

    /// What is at `path` becomes this, if it still is what was `seen`.
    pub(super) fn put(path: &str, body: Value, seen: String, show: fn(&Value) -> String) -> Self {
        let (body, method, seen) = (Some(body), Some(Method::PUT), Some(seen));
        Self { body, method, seen, ..Self::new(path, show) }
    }

    /// What is at `path` goes, if it still is what was `seen`.
    pub(super) fn delete(path: &str, seen: String) -> Self {
        let (method, seen) = (Some(Method::DELETE), Some(seen));
        Self { method, seen, ..Self::new(path, |_| String::new()) }
    }

    /// Something is to be done.
    pub(super) fn post(path: &str, body: Value) -> Self {
        Self { body: Some(body), ..Self::new(path, shown::operation) }
    }

    /// The same, with its answer for people made by `show`.
    pub(super) fn shown_by(self, show: fn(&Value) -> String) -> Self {
        Self { show, ..self }
    }

    /// What became of it.
    pub(super) fn operation(id: &str) -> Self {
        Self::new(&format!("/v1/operations/{}", escaped(id)), shown::operation)
    }

    /// What is different between two configs of the gateway's past.
    pub(super) fn difference(old: &str, new: &str) -> Self {
        let path = format!("/v1/revisions/{}/diff/{}", escaped(old), escaped(new));
        Self { finds: shown::has_changes, ..Self::new(&path, shown::changes) }
    }

    /// What `policy` would change.
    pub(super) fn plan(policy: &'a Path) -> Self {
        Self {
            policy: Some(policy),
            finds: shown::has_refusals,
            ..Self::new("/v1/plan", shown::plan)
        }
    }

    /// What would happen to what `asked` describes.
    pub(super) fn explain(asked: Value) -> Self {
        Self {
            body: Some(asked),
            finds: shown::is_refused,
            ..Self::new("/v1/explain", crate::explain::text::of)
        }
    }

    /// When the store may change.
    pub(super) fn windows(times: &Times<'_>) -> Self {
        let all = [("from", times.from), ("until", times.until), ("rollout", times.rollout)];
        let given = all.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let pairs: Vec<String> =
            given.map(|(name, value)| format!("{name}={}", escaped(value))).collect();
        Self::new(&format!("/v1/windows?{}", pairs.join("&")), shown::windows)
    }
}

/// A request with this head, as a question has it.
pub(super) fn request(head: &Parts) -> Value {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers: Map<String, Value> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), Value::from(text(value))))
        .collect();
    let named = head.uri.authority().map(ToString::to_string);
    let authority = named.or_else(|| head.headers.get(header::HOST).map(text));
    let target = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut shown = json!({
        "method": head.method.as_str(), "authority": authority, "path": target, "headers": headers,
    });
    if let Some(scheme) = head.uri.scheme_str() {
        shown["scheme"] = json!(scheme);
    }
    shown
}

/// As a part of a path or of a query.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b':' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

impl Remote {
    /// Asks, and says what came of it.
    pub(super) fn ask(&self, question: &Question<'_>, output: Output) -> Answer {
        let answer = match self.exchange(question) {
            Ok(answer) => answer,
            Err(message) => return Answer::refusal(&message),
        };
        if answer.status() == StatusCode::NO_CONTENT {
            return Answer { stdout: String::new(), stderr: String::new(), code: OK };
        }
        let value: Value = match serde_json::from_slice(answer.body()) {
            Ok(value) => value,
            Err(_) => {
                let status = answer.status();
                return Answer::refusal(&format!(
                    "{} answers {status} with something else than JSON; is it a config endpoint?",
                    self.endpoint.as_deref().unwrap_or_default()
                ));
            }
        };
        if !answer.status().is_success() {
            return refused(answer.status(), &value, output);
        }
        let stdout = match output {
            Output::Json => format!("{value:#}\n"),
            Output::Text => (question.show)(&value),
        };
        let code = if (question.finds)(&value) { FINDINGS } else { OK };
        Answer { stdout, stderr: String::new(), code }
    }

    /// The tag of what is there now.
    pub(super) fn tag(&self, question: &Question<'_>) -> Result<String, Answer> {
        let answer = self.exchange(question).map_err(|message| Answer::refusal(&message))?;
        if !answer.status().is_success() {
            let value = serde_json::from_slice(answer.body()).unwrap_or_default();
            return Err(refused(answer.status(), &value, Output::Text));
        }
        let tag = answer.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
        // Without one nothing can be changed, which the gateway says better.
        Ok(tag.unwrap_or_default().to_owned())
    }

    fn exchange(&self, question: &Question<'_>) -> Result<Response<Bytes>, String> {
        let Some(endpoint) = self.endpoint.as_deref() else {
            return Err("which gateway? add `--endpoint https://gateway.example:17443`".to_owned());
        };
        let address = Address::of(endpoint)?;
        let request = self.request(&address, question)?;
        let Credentials { cert, key, ca, server_name, .. } = &self.credentials;
        let server = Server {
            uri: &address.uri,
            name: server_name.as_deref(),
            ca: (ca.as_deref(), "--ca"),
            pair: cert.as_deref().zip(key.as_deref()),
            oldest: defaults::ENDPOINT_TLS,
        };
        server.ask(request, ANSWER_BYTES_MAX)
    }

    fn request(
        &self,
        address: &Address,
        question: &Question<'_>,
    ) -> Result<Request<Full<Bytes>>, String> {
        let mut request = address.question(&question.path, &self.credentials)?;
        let mut body = Bytes::new();
        if let Some(policy) = question.policy {
            body = client::read(policy, POLICY_BYTES_MAX)?.into();
            let is_packed = body.starts_with(&[0x1f, 0x8b]);
            let media = if is_packed { "application/gzip" } else { "application/yaml" };
            request = request.method(Method::POST).header(header::CONTENT_TYPE, media);
        }
        if let Some(question) = &question.body {
            body = question.to_string().into();
            request = request.method(Method::POST).header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(method) = &question.method {
            request = request.method(method);
        }
        if let Some(seen) = &question.seen {
            request = request.header(header::IF_MATCH, seen);
        }
        client::whole(request, body)
    }
}

/// A refusal of the gateway, with everything that it says is wrong.
fn refused(status: StatusCode, problem: &Value, output: Output) -> Answer {
    let code = if status == StatusCode::UNPROCESSABLE_ENTITY { FINDINGS } else { USAGE };
    if output == Output::Json {
        return Answer { stdout: format!("{problem:#}\n"), stderr: String::new(), code };
    }
    let mut stderr = format!("error: {status}: {}\n", text(&problem["detail"]));
    for one in problem["errors"].as_array().into_iter().flatten() {
        if let Some(line) = one["line"].as_u64() {
            let (file, column) = (text(&one["file"]), &one["column"]);
            stderr.push_str(&format!("{file}:{line}:{column}: "));
        }
        stderr.push_str(&format!("{}\n", text(&one["message"])));
    }
    Answer { stdout: String::new(), stderr, code }
}
