//! `/v1/pin` and `/v1/rollback`: an operator keeps the store on a revision, or goes back to one.
//!
//! What is asked for is checked here, and decided and done by the one who owns the policy. Both
//! end by themselves, after a week at most. Who sets a pin says by `If-Match` what he has seen, so
//! that nobody pins what came into effect meanwhile.

use std::sync::Arc;

use axum::response::{IntoResponse as _, Response};
use http::header::{ETAG, IF_MATCH};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tillgate_config::bundle::wall;
use tillgate_net::clock;

use super::operations::Kind;
use super::problem::Problem;
use super::{Ask, Desk, answers, asked, lock};
use crate::reconcile::{Hold, Office, Order, OrderError, Tags};

/// Characters of a reason or a ticket.
const TEXT_MAX: usize = 200;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PinText {
    digest: Option<String>,
    reason: String,
    ticket: String,
    expires_at: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RollbackText {
    to: String,
    reason: String,
    ticket: String,
    expires_at: String,
}

fn hold(reason: String, ticket: String, expires_at: &str) -> Result<Hold, Problem> {
    for (name, text) in [("reason", &reason), ("ticket", &ticket)] {
        let length = text.trim().chars().count();
        if length == 0 || length > TEXT_MAX || text.chars().any(char::is_control) {
            let detail = format!("`{name}` is one line of 1 to {TEXT_MAX} characters");
            return Err(Problem::malformed(detail));
        }
    }
    let until = wall(expires_at)
        .ok_or_else(|| Problem::malformed("`expiresAt` is a moment, as `2026-11-28T06:00:00Z`"))?;
    Ok(Hold { until, reason: reason.trim().into(), ticket: ticket.trim().into() })
}

/// What `If-Match` names, if it is there.
fn tags(headers: &HeaderMap) -> Option<Tags> {
    let values: Vec<_> = headers.get_all(IF_MATCH).iter().collect();
    if values.is_empty() {
        return None;
    }
    // What is no text names nothing.
    let texts = values.iter().filter_map(|value| value.to_str().ok());
    let all: Vec<String> = texts
        .flat_map(|value| value.split(','))
        .map(|one| one.trim().trim_matches('"').to_owned())
        .collect();
    Some(if all.iter().any(|one| one == "*") { Tags::Any } else { Tags::These(all) })
}

fn office(desk: &Desk) -> Result<&Arc<Office>, Problem> {
    desk.gateway.policy.office().ok_or_else(|| {
        Problem::conflict(
            "no sources of policy are followed here (yet): where policy is one file, nothing else \
             comes, and there is nothing to go back to",
        )
    })
}

fn refused(error: OrderError) -> Problem {
    match error {
        OrderError::Stale(why) => Problem::new(StatusCode::PRECONDITION_FAILED, why),
        OrderError::Unknown(why) => Problem::absent(why),
        OrderError::Gone(why) => Problem::new(StatusCode::GONE, why),
        OrderError::Conflict(why) => Problem::conflict(why),
        // A disk that is full is emptied by people.
        OrderError::Unwritten(why) => Problem::later(StatusCode::SERVICE_UNAVAILABLE, 60, why),
        OrderError::Busy => {
            let detail = "the policy is busy with something else: ask again";
            Problem::later(StatusCode::TOO_MANY_REQUESTS, 5, detail)
        }
    }
}

/// The pin as it is, with the tag of it.
fn shown(pin: &Value) -> Response {
    let mut answer = answers::document(pin);
    let tag = pin["tag"].as_str().and_then(|tag| HeaderValue::try_from(format!("\"{tag}\"")).ok());
    if let Some(tag) = tag {
        answer.headers_mut().insert(ETAG, tag);
    }
    answer
}

/// `GET /v1/pin`.
pub(super) fn show(desk: &Desk) -> Response {
    match desk.gateway.policy.office() {
        Some(office) => shown(&office.standing().pin),
        None => answers::document(&serde_json::json!({ "pinned": false })),
    }
}

/// `PUT /v1/pin`.
pub(super) async fn set(desk: &Desk, ask: &Ask) -> Result<Response, Problem> {
    let PinText { digest, reason, ticket, expires_at } = ask.json()?;
    let hold = hold(reason, ticket, &expires_at)?;
    let Some(tags) = tags(&ask.head.headers) else {
        let detail = "say with `If-Match` what you have seen: the `ETag` of `GET /v1/pin`";
        return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, detail));
    };
    let order = Order::Pin { name: digest.map(Into::into), hold };
    let pin = office(desk)?.order(order, Some(tags), &ask.who.actor).await.map_err(refused)?;
    Ok(shown(&pin))
}

/// `DELETE /v1/pin`.
pub(super) async fn clear(desk: &Desk, ask: &Ask) -> Result<Response, Problem> {
    let tags = tags(&ask.head.headers);
    office(desk)?.order(Order::Unpin, tags, &ask.who.actor).await.map_err(refused)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `POST /v1/rollback`.
pub(super) async fn roll_back(desk: &Desk, ask: &Ask) -> Result<Response, Problem> {
    let RollbackText { to, reason, ticket, expires_at } = ask.json()?;
    let hold = hold(reason, ticket, &expires_at)?;
    let office = office(desk)?;
    let actor = &ask.who.actor;
    let now = (clock::now(), clock::wall());
    let id = lock(&desk.endpoint().operations).add_running(Kind::Rollback, actor, now);
    let order = Order::RollBack { name: to.into(), hold, operation: Some(Arc::clone(&id)) };
    match office.order(order, tags(&ask.head.headers), actor).await {
        Ok(_) => Ok(asked::accepted(Some(&id))),
        Err(error) => {
            desk.endpoint().ended(&id, Err(error.why()));
            Err(refused(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_named_by_its_tag() {
        let mut headers = HeaderMap::new();
        assert_eq!(tags(&headers), None);
        headers.append(IF_MATCH, HeaderValue::from_static("\"sha256:ab\", \"x\""));
        let two = vec!["sha256:ab".to_owned(), "x".to_owned()];
        assert_eq!(tags(&headers), Some(Tags::These(two)));
        headers.append(IF_MATCH, HeaderValue::from_static("*"));
        assert_eq!(tags(&headers), Some(Tags::Any));
    }

    #[test]
    fn a_hold_has_a_reason_a_ticket_and_an_end() {
        let hold = |reason: &str, until: &str| hold(reason.to_owned(), "CHG-1".to_owned(), until);
        assert!(hold("Black Friday", "2026-11-28T06:00:00Z").is_ok());
        for reason in ["", "  ", "two\nlines", &"x".repeat(TEXT_MAX + 1)] {
            assert!(hold(reason, "2026-11-28T06:00:00Z").is_err(), "{reason}");
        }
        for until in ["", "tomorrow", "2026-11-28", "2026-11-28T06:00:00"] {
            assert!(hold("x", until).is_err(), "{until}");
        }
    }
}
