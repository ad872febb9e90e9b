//! What each route does, once it is known that it may be done.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};
use tillgate_config::schema;
use tillgate_core::endpoint::is_name;
use tillgate_core::gate::Clock;
use tillgate_net::clock;
use tillgate_net::http::server::InFlight;

use super::instances::{Acknowledgement, Refused, Registration};
use super::problem::Problem;
use super::routes::{JSON, Op};
use super::{
    Ask, Desk, asked, checks, drift, enrol, events, explain, lock, openapi, pin, revisions, slices,
};
use crate::admin;
use crate::cli::windows::{self, Times};

/// The answer to `ask`. `flow` is the request's life, for an answer that goes on.
pub(super) async fn answer(
    desk: &Arc<Desk>,
    op: Op,
    ask: Ask,
    flow: Option<InFlight>,
) -> Result<Response, Problem> {
    match op {
        Op::Config => slices::show(desk, ask),
        Op::Events => events::open(desk, &ask, flow),
        Op::Register => register(desk, &ask),
        Op::Acknowledge => acknowledge(desk, &ask),
        Op::Instances => {
            let wanted = desk.endpoint().slices(&desk.running()).for_sidecars();
            Ok(document(&lock(&desk.endpoint().instances).list(&wanted, clock::now())))
        }
        Op::Status => Ok(document(&admin::status::of(&desk.gateway))),
        Op::Drift => drift::show(desk).await.map(|it| document(&it)),
        Op::Revisions => revisions::list(desk).await.map(|it| document(&it)),
        Op::Revision => revisions::show(desk, ask.part("digest")).await.map(|it| document(&it)),
        Op::Difference => {
            let (old, new) = (ask.part("digest"), ask.part("other"));
            revisions::difference(desk, old, new).await.map(|it| document(&it))
        }
        Op::Validate => checks::validate(desk, ask).await.map(|it| document(&it)),
        Op::Plan => checks::plan(desk, ask).await.map(|it| document(&it)),
        Op::Explain => explain::explain(desk, ask).await.map(|it| document(&it)),
        Op::Reconcile => asked::reconcile(desk, &ask),
        Op::Pin => Ok(pin::show(desk)),
        Op::SetPin => pin::set(desk, &ask).await,
        Op::Unpin => pin::clear(desk, &ask).await,
        Op::RollBack => pin::roll_back(desk, &ask).await,
        Op::Operation => asked::operation(desk, &ask).map(|it| document(&it)),
        Op::Hook => asked::hook(desk, &ask).await,
        Op::Mint => enrol::mint(desk, &ask).await,
        Op::Enrol => enrol::exchange(desk, &ask).await,
        Op::Audit => asked::records(desk, &ask).await,
        Op::Windows => shown_windows(desk, &ask),
        Op::Overrides => Ok(document(&overrides(desk))),
        Op::Schema => schema_of(&ask),
        Op::OpenApi => Ok(lasting(&ask, openapi::document().to_string())),
        Op::Live => Ok(admin::live(is_verbose(&ask))),
        Op::Ready => Ok(admin::ready(&desk.gateway, is_verbose(&ask))),
        Op::Started => Ok(admin::started(&desk.gateway, is_verbose(&ask))),
        Op::Metrics => admin::scrape(&desk.gateway)
            .ok_or_else(|| Problem::internal("the metrics could not be written")),
    }
}

fn is_verbose(ask: &Ask) -> bool {
    admin::is_verbose(ask.head.uri.query())
}

/// A JSON document.
pub(super) fn document(value: &Value) -> Response {
    let mut answer = Response::new(Body::from(value.to_string()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    answer
}

/// A document that changes with the program alone.
fn lasting(ask: &Ask, text: String) -> Response {
    let tag = format!("\"{}\"", tillgate_config::bundle::digest(text.as_bytes()));
    let known = ask.head.headers.get_all(IF_NONE_MATCH).iter();
    let mut known = known.filter_map(|value| value.to_str().ok()).flat_map(|one| one.split(','));
    let mut answer = if known.any(|one| one.trim().trim_start_matches("W/") == tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut answer = Response::new(Body::from(text));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        answer
    };
    if let Ok(tag) = HeaderValue::try_from(tag) {
        answer.headers_mut().insert(ETAG, tag);
    }
    answer
}

fn schema_of(ask: &Ask) -> Result<Response, Problem> {
    let name = ask.part("name");
    let name = name.strip_suffix(".json").unwrap_or(name);
    let kind = Some(name).filter(|name| *name != "all");
    let schema = schema::by_name(kind).map_err(Problem::absent)?;
    Ok(lasting(ask, schema.to_string()))
}

/// The id of the path, if it is the caller's own.
fn own_id(ask: &Ask) -> Result<&str, Problem> {
    let id = ask.part("id");
    if !is_name(id) || *id != *ask.who.name {
        return Err(Problem::forbidden(format!(
            "you are `{}`, and an instance speaks for itself alone",
            ask.who.name
        )));
    }
    Ok(id)
}

fn taken(result: Result<(), Refused>) -> Result<Response, Problem> {
    match result {
        Ok(()) => Ok(StatusCode::NO_CONTENT.into_response()),
        Err(Refused::Malformed(why)) => Err(Problem::malformed(why)),
        Err(Refused::Conflict(why)) => Err(Problem::conflict(why)),
        Err(Refused::Full) => {
            let detail = "this gateway has as many instances as it may have";
            Err(Problem::later(StatusCode::TOO_MANY_REQUESTS, 60, detail))
        }
    }
}

fn register(desk: &Desk, ask: &Ask) -> Result<Response, Problem> {
    let id = own_id(ask)?;
    let mut given: Registration = ask.json()?;
    if let Some(own) = &ask.who.workload
        && given.workload.get_or_insert_with(|| own.to_string()) != &**own
    {
        let detail = format!("you stand beside `{own}`, and say of yourself no other workload");
        return Err(Problem::forbidden(detail));
    }
    let result = lock(&desk.endpoint().instances).register(id, given, clock::now());
    desk.endpoint().show(&desk.running());
    taken(result)
}

fn acknowledge(desk: &Desk, ask: &Ask) -> Result<Response, Problem> {
    let id = own_id(ask)?;
    let given: Acknowledgement = ask.json()?;
    let wanted = desk.endpoint().slices(&desk.running()).for_sidecars();
    let sent = |digest: &str| lock(&desk.endpoint().past).has_sent(digest);
    let mut instances = lock(&desk.endpoint().instances);
    let result = instances.acknowledge(id, given, &wanted, sent, clock::now());
    drop(instances);
    desk.endpoint().show(&desk.running());
    taken(result)
}

fn shown_windows(desk: &Desk, ask: &Ask) -> Result<Response, Problem> {
    let query = ask.query()?;
    let one =
        |name: &str| query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let times = Times { from: one("from"), until: one("until"), rollout: one("rollout") };
    let running = desk.running();
    let shown = windows::json(&running, &times, desk.gateway.clock.now());
    shown.map(|it| document(&it)).map_err(Problem::malformed)
}

/// Signed exceptions, with where they stand now.
fn overrides(desk: &Desk) -> Value {
    let running = desk.running();
    let (clock, now) = desk.gateway.clock.now();
    let active = running.gate.active_overrides(clock, now);
    let list: Vec<Value> = running
        .gate
        .overrides
        .iter()
        .map(|one| {
            let state = if active.contains(&&one.name) {
                "Active"
            } else if matches!(clock, Clock::Untrusted(_)) {
                // By such a clock none counts, and nobody knows which ones would.
                "Suspended"
            } else if one.counts(clock, now) {
                // It is its time, and not enough of whom it needs have signed.
                "Unapproved"
            } else if now < one.valid.from {
                "Future"
            } else {
                "Expired"
            };
            let names = |kind: &str, names: &[Arc<str>]| -> Vec<String> {
                names.iter().map(|name| format!("{kind}/{name}")).collect()
            };
            let mut suspends = names("Freeze", &one.freezes);
            suspends.extend(names("ChangeWindow", &one.windows));
            let signers = running.gate.signers(one).map(|(approval, counts)| {
                json!({ "keyId": &*approval.key_id, "role": &*approval.role, "counts": counts })
            });
            json!({
                "name": &*one.name,
                "state": state,
                "approvals": signers.collect::<Vec<Value>>(),
                "suspends": suspends,
                "validFrom": one.valid.from.to_string(),
                "expiresAt": one.valid.until.to_string(),
                "reason": &*one.reason,
                "ticket": &*one.ticket,
            })
        })
        .collect();
    json!({ "overrides": list })
}
