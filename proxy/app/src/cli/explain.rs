//! `tillgate explain`: what a policy does with a request, without a gateway.
//!
//! In: a policy file and a request as a person writes it. Out: which rule it meets, and what
//! follows. Exit code 1 says that it meets none.

use std::path::PathBuf;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use serde_json::json;

use super::ask::{Question, Remote};
use super::fleet;
use super::policy::{Answer, FINDINGS, Output};
use crate::explain::Explanation;

/// Arguments of `tillgate explain`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The policy: a file, or the folder of a fleet.
    #[arg(long, value_name = "PATH", required_unless_present = "endpoint")]
    config: Option<PathBuf>,
    /// The store, by name or id; needed where there are several.
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// A field of the request's head, such as `Idempotency-Key: 1`; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// How it looks.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// The request: a URL, or a method and a URL. Instead of a URL a path will do where `-H Host:
    /// NAME` says the host.
    #[arg(value_name = "[METHOD] URL", num_args = 1..=2, required = true)]
    request: Vec<String>,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(options: &Options) -> Answer {
    let head = match head(options) {
        Ok(head) => head,
        Err(message) => return Answer::refusal(&message),
    };
    let Some(config) = &options.config else {
        return options.remote.ask(&Question::explain(&head), options.output);
    };
    let effective = match fleet::one(config, options.store.as_deref()) {
        Ok((_, checked)) => checked.effective,
        Err(answer) => return answer,
    };
    let Some(effective) = effective else { return Answer::refusal("there is no config") };
    match Explanation::of(&effective, &head) {
        Ok(explanation) => Answer::success(match options.output {
            Output::Text => explanation.to_text(),
            Output::Json => format!("{:#}\n", explanation.to_json()),
        }),
        Err(refusal) => {
            let reason = refusal.failure.reason();
            let stdout = match options.output {
                Output::Text => format!("no rule: {reason}: {}\n", refusal.detail),
                Output::Json => {
                    format!("{:#}\n", json!({"refused": reason, "detail": refusal.detail}))
                }
            };
            Answer { stdout, code: FINDINGS, ..Answer::default() }
        }
    }
}

/// The request that is meant.
fn head(options: &Options) -> Result<Parts, String> {
    let (method, target) = match options.request.as_slice() {
        [method, target] => (method.as_str(), target),
        [target] => ("GET", target),
        _ => return Err("write a URL, or a method and a URL".to_owned()),
    };
    let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes())
        .map_err(|_| format!("`{method}` is no method: write it as `POST`"))?;
    let wrong = |why: String| {
        format!("`{target}` is no URL: {why}; write it as in `http://pay.example/v1`")
    };
    let uri: Uri =
        target.parse().map_err(|error: http::uri::InvalidUri| wrong(error.to_string()))?;
    let mut request = Request::builder().method(method).uri(uri);
    for field in &options.headers {
        let (name, value) = field
            .split_once(':')
            .ok_or_else(|| format!("`{field}` is no field: write it as `Idempotency-Key: 1`"))?;
        let name = HeaderName::from_bytes(name.trim().as_bytes())
            .map_err(|_| format!("`{name}` is no name of a field"))?;
        let value = HeaderValue::from_str(value.trim())
            .map_err(|_| format!("`{value}` is no value of a field"))?;
        request = request.header(name, value);
    }
    let (head, ()) = request.body(()).map_err(|error| error.to_string())?.into_parts();
    let names_host = head.uri.authority().is_some() || head.headers.contains_key("host");
    if !names_host {
        return Err(wrong("it names no host".to_owned()));
    }
    Ok(head)
}

#[cfg(test)]
mod tests;
