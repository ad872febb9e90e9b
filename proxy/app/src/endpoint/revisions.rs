//! `/v1/revisions`: what this store has run, by digest or by name, and what is different.
//!
//! Where policy comes from sources the state directory is the memory: bundles outlive the process,
//! and one that is not kept any more is known as such. Their configs are compiled anew when
//! somebody asks. Where policy is one file, there are the configs of this process.

use std::sync::Arc;

use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use tillgate_config::bundle::wall_text;
use tillgate_config::effective::Effective;
use tillgate_core::reconcile::Run;

use super::past::differences;
use super::problem::Problem;
use super::{Desk, checks, lock};
use crate::reconcile::{Found, Office};

const REVISION: HeaderName = HeaderName::from_static("tillgate-revision");
const SEQUENCE: HeaderName = HeaderName::from_static("tillgate-sequence");

/// Says in the head of an answer about the config `digest` which bundle that came in: another one
/// may run by now.
pub(super) fn stamp(desk: &Desk, digest: &str, answer: &mut Response) {
    let past = lock(&desk.endpoint().past);
    let Some(bundle) = past.bundle_of(digest) else { return };
    let sequence = bundle.sequence.map(|sequence| sequence.to_string());
    for (name, value) in [(REVISION, Some(bundle.revision.clone())), (SEQUENCE, sequence)] {
        if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
            answer.headers_mut().insert(name, value);
        }
    }
}

/// All of them, newest first.
pub(super) async fn list(desk: &Arc<Desk>) -> Result<Value, Problem> {
    let office = desk.gateway.policy.office().filter(|office| office.standing().running.is_some());
    let Some(office) = office else { return Ok(lock(&desk.endpoint().past).list()) };
    let office = Arc::clone(office);
    // It looks which bundles are on disk; policies that are being looked at do not hold it up.
    let listed = desk.endpoint().read_apart(move || listed(&office)).await;
    listed.map_err(|_| {
        let detail = "the past could not be looked at; the log says why";
        Problem::internal(detail)
    })
}

fn listed(office: &Office) -> Value {
    let standing = office.standing();
    let runs = &standing.runs;
    let show = |(index, run): (usize, &Run)| {
        let mut shown = one(run);
        let is_last = index + 1 == runs.len();
        shown["until"] = json!(runs.get(index + 1).map(|next| wall_text(next.since)));
        shown["current"] = json!(is_last);
        shown["kept"] = json!(office.keeps(&run.digest));
        shown["names"] = json!(office.names(&run.digest));
        shown
    };
    let mut shown: Vec<Value> = runs.iter().enumerate().map(show).collect();
    shown.reverse();
    json!({ "revisions": shown })
}

fn one(run: &Run) -> Value {
    json!({
        "digest": &*run.effective,
        "bundle": &*run.digest,
        "sequence": run.sequence,
        "revision": &*run.revision,
        "since": wall_text(run.since),
        "fate": run.fate.name(),
    })
}

/// A revision that was asked for.
struct Asked {
    effective: Arc<Effective>,
    /// What is known of it beyond its config.
    more: Value,
}

/// The one called `name`.
async fn find(desk: &Arc<Desk>, name: &str) -> Result<Asked, Problem> {
    let Some(office) = desk.gateway.policy.office() else {
        return lock(&desk.endpoint().past)
            .find(name)
            .map(|(effective, more)| Asked { effective, more });
    };
    let (digest, run, candidate) = match office.find(name) {
        Found::Here { digest, run, candidate } => (digest, run, candidate),
        Found::Pruned => {
            let detail = format!("`{name}` was in effect here and is not kept any more");
            return Err(Problem::new(StatusCode::GONE, detail));
        }
        Found::Unknown => {
            // What runs without a bundle: the built-in minimal policy.
            let past = lock(&desk.endpoint().past);
            let found = past.find(name);
            return found.map(|(effective, more)| Asked { effective, more });
        }
    };
    let known = run.as_ref().and_then(|run| lock(&desk.endpoint().past).by_digest(&run.effective));
    let office = Arc::clone(office);
    let (effective, manifest) = checks::apart(desk, move || {
        office.open(&digest, candidate.as_deref(), known).map_err(|why| {
            let detail = format!("it cannot be read from the state directory: {why}");
            Problem::new(StatusCode::GONE, detail)
        })
    })
    .await?;
    let mut more = run.as_ref().map_or_else(|| json!({}), one);
    more["manifest"] = manifest;
    Ok(Asked { effective, more })
}

/// One of them.
pub(super) async fn show(desk: &Arc<Desk>, name: &str) -> Result<Value, Problem> {
    let Asked { effective, more } = find(desk, name).await?;
    let mut shown = effective.to_json();
    for (name, value) in more.as_object().into_iter().flatten() {
        if shown.get(name).is_none() {
            shown[name] = value.clone();
        }
    }
    Ok(shown)
}

/// What is different in `new`.
pub(super) async fn difference(desk: &Arc<Desk>, old: &str, new: &str) -> Result<Value, Problem> {
    let old = find(desk, old).await?.effective;
    let new = find(desk, new).await?.effective;
    Ok(json!({
        "from": &*old.digest,
        "to": &*new.digest,
        "changes": differences(&old, &new),
    }))
}
