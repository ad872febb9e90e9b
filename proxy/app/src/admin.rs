//! The admin listener: probes, metrics, status. Own thread, own runtime; it only reads.

mod status;

use std::net::TcpListener;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;

use crate::gateway::Gateway;

/// What the text of a scrape is (OpenMetrics).
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves one admin socket until aborted.
pub(crate) async fn serve(listener: TcpListener, gateway: Arc<Gateway>) {
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(show_status))
        .route("/v1/config", get(config))
        .with_state(gateway);
    let served = async { axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await };
    if let Err(error) = served.await {
        tracing::error!(%error, "the admin listener ended");
    }
}

#[derive(Deserialize)]
struct Verbose {
    verbose: Option<String>,
}

async fn readyz(State(gateway): State<Arc<Gateway>>, Query(query): Query<Verbose>) -> Response {
    let why = gateway.not_ready();
    let code = if why.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verdict = why.unwrap_or("ok");
    if query.verbose.is_none() {
        return (code, format!("{verdict}\n")).into_response();
    }
    let digest = Arc::clone(&gateway.running().effective.digest);
    let mut text = format!("workers {}\nconfig {digest}\n", gateway.workers);
    for listening in &gateway.listeners {
        text.push_str(&format!("listener {} {}\n", listening.name, listening.address));
    }
    text.push_str(verdict);
    text.push('\n');
    (code, text).into_response()
}

async fn metrics(State(gateway): State<Arc<Gateway>>) -> Response {
    match gateway.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn show_status(State(gateway): State<Arc<Gateway>>) -> Json<serde_json::Value> {
    Json(status::of(&gateway))
}

async fn config(State(gateway): State<Arc<Gateway>>) -> Response {
    let digest = Arc::clone(&gateway.running().effective.digest);
    Json(serde_json::json!({ "digest": &*digest })).into_response()
}
