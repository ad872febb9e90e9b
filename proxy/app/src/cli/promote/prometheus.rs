//! An instant query to a Prometheus, or to what speaks like one.

use std::path::PathBuf;

use clap::Args;
use http::{Method, Request, Uri, header};
use http_body_util::Full;
use serde_json::Value;
use tillgate_config::defaults;

use super::super::ask::{bearer, escaped};
use super::super::bundle::Refused;
use super::super::client::Server;
use super::super::policy::{FINDINGS, USAGE};

/// A query gives a number, or one for each store of a ring.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Which, what, and how to prove who asks.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Query {
    /// A Prometheus, as `https://prometheus.example/`: `--query` is asked there.
    #[arg(long, value_name = "URL", requires_all = ["query", "at_most"], group = "metric")]
    prometheus: Option<String>,
    /// What is asked, in PromQL: an error ratio of the ring that has the bundle.
    #[arg(long, value_name = "PROMQL", requires = "prometheus")]
    pub(super) query: Option<String>,
    /// The file of a token for it.
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    prometheus_token_file: Option<PathBuf>,
    /// The file of the authority that signed its certificate [default: the system's].
    #[arg(long, value_name = "FILE", requires = "prometheus")]
    prometheus_ca: Option<PathBuf>,
}

impl Query {
    /// What it answers; `None` = nobody is to be asked.
    ///
    /// # Errors
    /// If it cannot be asked, or does not answer in its own words.
    pub(super) fn ask(&self) -> Result<Option<Value>, Refused> {
        let (Some(url), Some(query)) = (&self.prometheus, &self.query) else { return Ok(None) };
        let usage = |why: String| (why, USAGE);
        let uri: Uri = url.parse().map_err(|error| usage(format!("`{url}`: {error}")))?;
        let host = match (uri.scheme_str(), uri.authority()) {
            (Some("http" | "https"), Some(authority)) => authority.as_str(),
            _ => return Err(usage(format!("`{url}` is no address: write https://"))),
        };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}/api/v1/query", uri.path().trim_end_matches('/')))
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("tillgate/", env!("CARGO_PKG_VERSION")));
        if let Some(file) = &self.prometheus_token_file {
            request = request.header(header::AUTHORIZATION, bearer(file).map_err(usage)?);
        }
        let body = format!("query={}", escaped(query));
        let request = request.body(Full::from(body)).map_err(|error| usage(error.to_string()))?;
        let server = Server {
            uri: &uri,
            name: None,
            ca: (self.prometheus_ca.as_deref(), "--prometheus-ca"),
            pair: None,
            oldest: defaults::TLS_MIN_VERSION,
        };
        // Who cannot be asked has said nothing, and that is no reason to go on.
        let told = |why: String| (format!("inconclusive: {why}"), FINDINGS);
        let answer = server.ask(request, ANSWER_BYTES_MAX).map_err(told)?;
        serde_json::from_slice(answer.body()).map(Some).map_err(|_| {
            told(format!("{url} answers {} with something else than JSON", answer.status()))
        })
    }
}
