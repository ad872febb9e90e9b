//! `tillgate explain`: what a policy does with a request, without a gateway.
//!
//! In: a policy file and a request as a person writes it. Out: which rule it meets, and what
//! follows. Exit code 1 says that it meets none.

use std::path::{Path, PathBuf};

use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use serde_json::{Value, json};
use tillgate_config::effective::Effective;
use tillgate_config::fleet::Source;

use super::ask::{self, Question, Remote};
use super::policy::{Answer, FINDINGS, Output};
use super::{files, fleet, windows};
use crate::endpoint::explained_offline;
use crate::explain::image;
use crate::explain::text;

/// Arguments of `tillgate explain`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The policy: a file, or the folder of a fleet. With --endpoint it is asked about instead of
    /// the policy that runs there.
    #[arg(long, visible_alias = "dir", value_name = "PATH", required_unless_present = "endpoint")]
    config: Option<PathBuf>,
    /// The store, by name or id; needed where there are several, with --endpoint the gateway's own
    /// without it.
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    #[command(flatten)]
    about: About,
    /// An image instead of a request, as `registry.example/pos/checkout@sha256:…`; without a
    /// registry the one whose rollout has it, without a digest the one of its release.
    #[arg(long, value_name = "IMAGE", conflicts_with = "request")]
    image: Option<String>,
    /// How it looks.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// The request: a URL, or a method and a URL. Instead of a URL a path will do where `-H Host:
    /// NAME` says the host; after CONNECT it is `host:port`.
    #[arg(value_name = "[METHOD] URL", num_args = 1..=2, required_unless_present = "image")]
    request: Vec<String>,
    #[command(flatten)]
    remote: Remote,
}

/// What is said of a request or an image beside its name.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct About {
    /// A field of the request's head, such as `Idempotency-Key: 1`; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", conflicts_with = "image")]
    headers: Vec<String>,
    /// By which way the request comes: `http`, `forward-proxy`, `tls-passthrough`, or a listener's
    /// name [default: CONNECT by the forward proxy, all else by the HTTP entry].
    #[arg(long, value_name = "WAY", conflicts_with = "image")]
    via: Option<String>,
    /// A name in the certificate that the client shows, such as `DNS:till-7.store.example`; may be
    /// repeated.
    #[arg(long = "certificate-name", value_name = "NAME", conflicts_with = "image")]
    certificate_names: Vec<String>,
    /// Another time than now, as `2026-11-27T20:10:00Z`.
    #[arg(long, value_name = "MOMENT")]
    at: Option<String>,
}

pub(super) fn run(options: &Options) -> Answer {
    answered(options).unwrap_or_else(|message| Answer::refusal(&message))
}

/// The same question, whoever answers it.
fn answered(options: &Options) -> Result<Answer, String> {
    let mut asked = options.about.asked(options.image.as_deref(), &options.request)?;
    if options.remote.endpoint.is_some() {
        if let Some(config) = &options.config {
            asked["bundle"] = policy(config)?;
        }
        if let Some(store) = &options.store {
            asked["store"] = json!(store);
        }
        return Ok(options.remote.ask(&Question::explain(asked), options.output));
    }
    let Some(config) = &options.config else { return Err("there is no config".to_owned()) };
    let effective = match fleet::one(config, options.store.as_deref()) {
        Ok((_, checked)) => checked.effective,
        Err(answer) => return Ok(answer),
    };
    let Some(effective) = effective else { return Err("there is no config".to_owned()) };
    // Signatures are taken for right: whoever reads a policy has no keys.
    let gate = effective.gate.clone().verified(|_, _, _| true);
    let effective = Effective { gate, ..effective };
    let shown = explained_offline(&effective, asked, windows::now())?;
    let stdout = match options.output {
        Output::Text => text::of(&shown),
        Output::Json => format!("{shown:#}\n"),
    };
    let code = if ask::shown::is_refused(&shown) { FINDINGS } else { super::policy::OK };
    Ok(Answer { stdout, code, ..Answer::default() })
}

/// The policy that is asked about, with the names of its files, for a gateway to look at.
fn policy(config: &Path) -> Result<Value, String> {
    let one = |source: Source| json!({"file": source.file, "text": source.text});
    Ok(files::sources(config)?.into_iter().map(one).collect())
}

impl About {
    /// The question about an image or a request, as the config endpoint takes it.
    ///
    /// # Errors
    /// What is wrong with the request.
    pub(super) fn asked(&self, image: Option<&str>, request: &[String]) -> Result<Value, String> {
        let mut asked = match image {
            Some(name) => json!({ "image": image::asked(name) }),
            None => json!({"http": ask::request(&head(request, &self.headers)?)}),
        };
        if let Some(at) = &self.at {
            asked["at"] = json!(at);
        }
        if let Some(via) = &self.via {
            asked["via"] = json!(via);
        }
        if !self.certificate_names.is_empty() {
            asked["source"] = json!({ "certificate": self.certificate_names });
        }
        Ok(asked)
    }
}

/// The request that is meant: a URL, or a method and a URL, and its fields.
fn head(request: &[String], headers: &[String]) -> Result<Parts, String> {
    let (method, target) = match request {
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
    for field in headers {
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
