//! The admin listener: probes, metrics, status. Own thread, own runtime; it only reads.

pub(crate) mod status;

use std::fmt::Write as _;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper::body::Incoming;
use serde::Deserialize;
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
            .route("/livez", get(|| async { "ok\n" }))
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

#[derive(Deserialize)]
struct Verbose {
    verbose: Option<String>,
}

async fn readyz(State(gateway): State<Arc<Gateway>>, Query(query): Query<Verbose>) -> Response {
    ready(&gateway, query.verbose.is_some())
}

/// Whether it should get traffic, and what was looked at.
pub(crate) fn ready(gateway: &Gateway, is_verbose: bool) -> Response {
    let why = gateway.not_ready();
    let code = if why.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verdict = why.unwrap_or("ok");
    if !is_verbose {
        return (code, format!("{verdict}\n")).into_response();
    }
    let digest = Arc::clone(&gateway.running().effective.digest);
    let mut text = format!("workers {}\nconfig {digest}\n", gateway.workers);
    for listening in gateway.listeners.shown().iter() {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "listener {} {}", listening.name, listening.address);
    }
    let memory = gateway.memory();
    let _ = writeln!(text, "buffered {} of {} bytes", memory.held(), memory.ceiling());
    text.push_str(verdict);
    text.push('\n');
    (code, text).into_response()
}

async fn startupz(State(gateway): State<Arc<Gateway>>) -> Response {
    started(&gateway)
}

/// Whether it has begun to serve; once it has, it stays so.
pub(crate) fn started(gateway: &Gateway) -> Response {
    if gateway.has_started() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response()
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
