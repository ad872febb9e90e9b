//! `tillgate explain`: what a policy does with a request, without a gateway.
//!
//! In: a policy file and a request as a person writes it. Out: which rule it meets, and what
//! follows. Exit code 1 says that it meets none.

use std::path::{Path, PathBuf};

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use serde_json::{Value, json};
use tillgate_config::effective::Effective;
use tillgate_config::scalar::{Instant, Text as _};
use tillgate_core::civil::Timestamp;
use tillgate_core::gate::Clock;

use super::ask::{self, Question, Remote};
use super::policy::{Answer, FINDINGS, Output};
use super::{files, fleet, windows};
use crate::explain::image::{self, Image};
use crate::explain::{self, text};

/// Arguments of `tillgate explain`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The policy: a file, or the folder of a fleet. With --endpoint a file that is asked about
    /// instead of the policy that runs there.
    #[arg(long, visible_alias = "dir", value_name = "PATH", required_unless_present = "endpoint")]
    config: Option<PathBuf>,
    /// The store, by name or id; needed where there are several.
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// A field of the request's head, such as `Idempotency-Key: 1`; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// An image instead of a request, as `registry.example/pos/checkout@sha256:…`; without a
    /// registry the one whose rollout has it, without a digest the one of its release.
    #[arg(long, value_name = "IMAGE", conflicts_with = "request")]
    image: Option<String>,
    /// Another time than now, as `2026-11-27T20:10:00Z`.
    #[arg(long, value_name = "MOMENT")]
    at: Option<String>,
    /// How it looks.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// The request: a URL, or a method and a URL. Instead of a URL a path will do where `-H Host:
    /// NAME` says the host.
    #[arg(value_name = "[METHOD] URL", num_args = 1..=2, required_unless_present = "image")]
    request: Vec<String>,
    #[command(flatten)]
    remote: Remote,
}

pub(super) fn run(options: &Options) -> Answer {
    if options.remote.endpoint.is_some() {
        return match asked(options) {
            Ok(asked) => options.remote.ask(&Question::explain(asked), options.output),
            Err(message) => Answer::refusal(&message),
        };
    }
    let head = match &options.image {
        Some(_) => None,
        None => match head(options) {
            Ok(head) => Some(head),
            Err(message) => return Answer::refusal(&message),
        },
    };
    let Some(config) = &options.config else { return Answer::refusal("there is no config") };
    let effective = match fleet::one(config, options.store.as_deref()) {
        Ok((_, checked)) => checked.effective,
        Err(answer) => return answer,
    };
    let Some(effective) = effective else { return Answer::refusal("there is no config") };
    // Signatures are taken for right: whoever reads a policy has no keys.
    let gate = effective.gate.clone().verified(|_, _, _| true);
    let effective = Effective { gate, ..effective };
    let shown = at(options).and_then(|at| match (&options.image, head) {
        (Some(name), _) => pull(&effective, name, at),
        (None, Some(head)) => Ok(explain::of(&effective, &head, (Clock::Synced, at))),
        (None, None) => Err("what is asked about?".to_owned()),
    });
    let shown = match shown {
        Ok(shown) => shown,
        Err(message) => return Answer::refusal(&message),
    };
    let stdout = match options.output {
        Output::Text => text::of(&shown),
        Output::Json => format!("{shown:#}\n"),
    };
    let code = if ask::shown::is_refused(&shown) { FINDINGS } else { super::policy::OK };
    Answer { stdout, code, ..Answer::default() }
}

/// The moment that is meant.
fn at(options: &Options) -> Result<Timestamp, String> {
    let at = options.at.as_deref().map(Instant::read).transpose();
    Ok(at.map_err(|why| format!("--at: {why}"))?.map_or_else(windows::now, |at| at.0))
}

/// What would happen to a pull in a store that has nothing of the image.
fn pull(effective: &Effective, name: &str, at: Timestamp) -> Result<Value, String> {
    let at = (Clock::Synced, at);
    let image = Image::named(effective, name)?;
    Ok(image::of(effective, &image, &image.judge(effective, at), at))
}

/// The question for a running gateway.
fn asked(options: &Options) -> Result<Value, String> {
    let mut asked = match &options.image {
        Some(name) => {
            let (registry, repository, digest) = image::split(name);
            json!({"image": {"registry": registry, "repository": repository, "digest": digest}})
        }
        None => json!({"http": ask::request(&head(options)?)}),
    };
    if let Some(at) = &options.at {
        asked["at"] = json!(at);
    }
    if let Some(config) = &options.config {
        asked["bundle"] = json!(policy(config)?);
    }
    Ok(asked)
}

/// The policy that is asked about.
fn policy(config: &Path) -> Result<String, String> {
    if config.is_dir() {
        return Err(
            "a gateway is asked about a file: name one, or ask without --endpoint".to_owned()
        );
    }
    files::read(config)
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
