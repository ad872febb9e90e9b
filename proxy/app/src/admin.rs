//! The admin listener: probes, metrics, status. Own thread, own runtime; it only reads.

pub(crate) mod status;

use std::fmt::Write as _;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::body::Incoming;
use tillgate_net::http::server::{Caller, Handler};
use tower::ServiceExt as _;

use crate::cli::windows;
use crate::gateway::Gateway;

/// What the text of a scrape is (OpenMetrics).
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The admin listener, as a handler of the same server that carries the traffic: it has the same
/// limits on its clients.
pub(crate) struct AdminEntry {
    router: Router,
}

impl AdminEntry {
    pub(crate) fn new(gateway: Arc<Gateway>) -> Arc<Self> {
        let router = Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/startupz", get(startupz))
            .route("/metrics", get(metrics))
            .route("/v1/status", get(show_status))
            .route("/v1/config", get(config))
            .route("/v1/rollouts", get(rollouts))
            .route("/v1/windows", get(calendar))
            .with_state(gateway);
        Arc::new(Self { router })
    }
}

impl Handler for AdminEntry {
    type Body = Body;

    async fn handle(self: Arc<Self>, request: Request<Incoming>, caller: Caller) -> Response {
        if let Some(why) = caller.refused {
            let status = why.failure().status().unwrap_or(StatusCode::BAD_REQUEST);
            return (status, format!("{}\n", why.detail())).into_response();
        }
        let answer = self.router.clone().oneshot(request.map(Body::new)).await;
        // An answer is a few kilobytes; from here on only its reader is timed.
        drop(caller);
        answer.unwrap_or_else(|never| match never {})
    }
}

/// Whether a probe's query asks what was looked at.
pub(crate) fn is_verbose(query: Option<&str>) -> bool {
    let mut words = query.unwrap_or_default().split('&');
    words.any(|word| word.split('=').next() == Some("verbose"))
}

/// A probe's answer: one word, or each check with its outcome, as the API server of Kubernetes
/// writes them, and `facts` for people.
fn probed(
    name: &str,
    checks: &[(&str, Option<&str>)],
    facts: impl FnOnce() -> String,
    is_verbose: bool,
) -> Response {
    let failed = checks.iter().find_map(|(_, why)| *why);
    let code = if failed.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if !is_verbose {
        return (code, format!("{}\n", failed.unwrap_or("ok"))).into_response();
    }
    let mut text = String::new();
    for (check, why) in checks {
        // Writing into a string cannot fail.
        let _ = match why {
            None => writeln!(text, "[+]{check} ok"),
            Some(why) => writeln!(text, "[-]{check} failed: {why}"),
        };
    }
    text.push_str(&facts());
    let verdict = if failed.is_none() { "passed" } else { "failed" };
    let _ = writeln!(text, "{name} check {verdict}");
    (code, text).into_response()
}

async fn livez(RawQuery(query): RawQuery) -> Response {
    live(is_verbose(query.as_deref()))
}

/// Whether the process lives: it answers.
pub(crate) fn live(is_verbose: bool) -> Response {
    probed("livez", &[("ping", None)], String::new, is_verbose)
}

async fn readyz(State(gateway): State<Arc<Gateway>>, RawQuery(query): RawQuery) -> Response {
    ready(&gateway, is_verbose(query.as_deref()))
}

/// Whether it should get traffic.
pub(crate) fn ready(gateway: &Gateway, is_verbose: bool) -> Response {
    let facts = || {
        let digest = Arc::clone(&gateway.running().effective.digest);
        let mut text = format!("workers {}\nconfig {digest}\n", gateway.workers);
        for listening in gateway.listeners.shown().iter() {
            let _ = writeln!(text, "listener {} {}", listening.name, listening.address);
        }
        let memory = gateway.memory();
        let _ = writeln!(text, "buffered {} of {} bytes", memory.held(), memory.ceiling());
        text
    };
    probed("readyz", &gateway.checks(), facts, is_verbose)
}

async fn startupz(State(gateway): State<Arc<Gateway>>, RawQuery(query): RawQuery) -> Response {
    started(&gateway, is_verbose(query.as_deref()))
}

/// Whether it has begun to serve; once it has, it stays so.
pub(crate) fn started(gateway: &Gateway, is_verbose: bool) -> Response {
    let checks = gateway.checks();
    let workers: Vec<_> = checks.into_iter().filter(|(name, _)| *name == "workers").collect();
    probed("startupz", &workers, String::new, is_verbose)
}

async fn metrics(State(gateway): State<Arc<Gateway>>) -> Response {
    scrape(&gateway).unwrap_or_else(|| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// All instruments, if they can be written.
pub(crate) fn scrape(gateway: &Gateway) -> Option<Response> {
    let text = gateway.metrics.encode().ok()?;
    Some(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

async fn show_status(State(gateway): State<Arc<Gateway>>) -> Json<serde_json::Value> {
    Json(status::of(&gateway))
}

async fn rollouts(State(gateway): State<Arc<Gateway>>) -> Json<serde_json::Value> {
    let mirror = gateway.mirror();
    let shown = mirror.map(|mirror| mirror.show(&gateway.running()));
    Json(shown.unwrap_or_else(|| serde_json::json!({"rollouts": []})))
}

async fn calendar(State(gateway): State<Arc<Gateway>>) -> Response {
    match windows::of_gateway(&gateway.running().effective, gateway.clock.now()) {
        Some(shown) => Json(shown).into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn config(State(gateway): State<Arc<Gateway>>) -> Json<serde_json::Value> {
    Json(gateway.running().effective.to_json())
}
