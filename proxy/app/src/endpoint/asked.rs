//! What people and hooks ask for: to look for another policy now.
//!
//! The one who reads policy is told and says what came of it; here it is only remembered who asked.
//! In the log of the gateway and in its audit log is what was asked by whom.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, StatusCode};
use serde_json::json;
use tillgate_core::reconcile::Hint;
use tillgate_net::clock;

use super::audit::{Action, Record};
use super::callers::Callers;
use super::hooks::{Receiver, Then};
use super::operations::Busy;
use super::problem::Problem;
use super::routes::{JSON, NDJSON};
use super::{Ask, Desk, audit, lock};

/// Forged messages are told once in this time, with their number.
const FORGED_TOLD: Duration = Duration::from_secs(10);

/// Records of one answer, and their bytes.
const RECORDS_MAX: usize = 1000;
const RECORDS_BYTES_MAX: usize = 1024 * 1024;

/// How many are sent to who does not say.
const RECORDS: usize = 100;

/// `POST /v1/reconcile`.
pub(super) fn reconcile(desk: &Desk, ask: &Ask) -> Result<Response, Problem> {
    let busy = |Busy { why, seconds }| Problem::later(StatusCode::TOO_MANY_REQUESTS, seconds, why);
    let id = desk.endpoint().look(&ask.who.actor, Hint::Operator).map_err(busy)?;
    Ok(accepted(Some(&id)))
}

pub(super) fn accepted(id: Option<&str>) -> Response {
    let mut answer = Response::new(Body::from(json!({ "operation": id }).to_string()));
    *answer.status_mut() = StatusCode::ACCEPTED;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    let place = id.and_then(|id| HeaderValue::try_from(format!("/v1/operations/{id}")).ok());
    if let Some(place) = place {
        answer.headers_mut().insert(LOCATION, place);
    }
    answer
}

/// The receiver of webhooks called `name`.
pub(super) fn receiver<'a>(callers: &'a Callers, name: &str) -> Result<&'a Receiver, Problem> {
    callers.receiver(name).ok_or_else(|| Problem::absent("no receiver has this name"))
}

/// `POST /v1/hooks/{receiver}`.
pub(super) async fn hook(desk: &Arc<Desk>, ask: &Ask) -> Result<Response, Problem> {
    let name = ask.part("receiver");
    let callers = desk.endpoint().callers.load();
    let receiver = receiver(&callers, name)?;
    if !receiver.believes(&ask.head.headers, &ask.body) {
        forged(desk, name).await;
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "the signature is not of this body with a secret of this receiver",
        ));
    }
    let delivery = receiver.delivery(&ask.head.headers);
    let then = {
        let mut heard = lock(&desk.endpoint().heard);
        heard.entry(Arc::clone(&receiver.name)).or_default().hear(delivery, clock::now())
    };
    let actor: Arc<str> = format!("hook:{name}").into();
    match then {
        Then::Look => desk.endpoint().hint(&actor),
        Then::LookIn(time) => {
            let desk = Arc::clone(desk);
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                desk.endpoint().hint(&actor);
            });
        }
        Then::Nothing => {}
    }
    Ok(accepted(None))
}

/// Somebody sends what he cannot sign: counted, and told now and then.
async fn forged(desk: &Desk, receiver: &str) {
    let now = clock::now();
    let count = lock(&desk.endpoint().forged).happens(FORGED_TOLD, now);
    let Some(count) = count else { return };
    tracing::warn!(receiver, count, "a webhook came with a wrong signature");
    let fields = vec![("count", json!(count)), ("reason", json!("wrong signature"))];
    let actor = format!("hook:{receiver}");
    desk.record(Record { action: Action::VerifyFailed, actor, fields }).await;
}

/// `GET /v1/operations/{id}`.
pub(super) fn operation(desk: &Desk, ask: &Ask) -> Result<serde_json::Value, Problem> {
    let found = lock(&desk.endpoint().operations).show(ask.part("id"));
    found.ok_or_else(|| Problem::absent("no operation of this process has this id, or it is old"))
}

/// `GET /v1/audit`.
pub(super) async fn records(desk: &Desk, ask: &Ask) -> Result<Response, Problem> {
    let (mut after, mut limit) = (0, RECORDS);
    for (name, value) in ask.query()? {
        let wrong = |_| Problem::malformed(format!("`{name}` is a number"));
        match &*name {
            "after" => after = value.parse().map_err(wrong)?,
            "limit" => limit = value.parse::<usize>().map_err(wrong)?.min(RECORDS_MAX),
            _ => {}
        }
    }
    let gateway = Arc::clone(&desk.gateway);
    let read = move || {
        let directory = lock(&gateway.endpoint.audit).as_ref()?.directory().to_owned();
        Some(audit::read(&directory, after, limit, RECORDS_BYTES_MAX))
    };
    let records = match desk.endpoint().read_apart(read).await {
        Ok(None) => return Err(Problem::absent("there is no audit log")),
        Ok(Some(Ok(records))) => records,
        Ok(Some(Err(error))) => {
            let detail = format!("the audit log cannot be read: {error}");
            return Err(Problem::later(StatusCode::SERVICE_UNAVAILABLE, 60, detail));
        }
        Err(_) => {
            let detail = "the audit log could not be read; the log of the process says why";
            return Err(Problem::internal(detail));
        }
    };
    let mut answer = Response::new(Body::from(records));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    Ok(answer)
}
