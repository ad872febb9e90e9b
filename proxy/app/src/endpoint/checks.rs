//! `/v1/validate` and `/v1/plan`: what a policy would be here, without changing anything.
//!
//! The same compiler as at a reload, for this store. A policy may take a processor for a second,
//! so one is looked at at a time, on a thread that serves nobody; explanations take turns with it.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tillgate_config::compile::against;
use tillgate_config::effective::Effective;
use tillgate_config::fleet::{Fleet, Source};
use tillgate_config::report::Report;
use tillgate_config::{Checked, check_text};
use tillgate_net::clock;
use tillgate_net::threads::making_way;

use super::audit::{Action, Record};
use super::past::differences;
use super::problem::Problem;
use super::{Ask, Desk, impact};
use crate::bundle::archive;

/// A machine may ask every second, and changes nothing: the audit log has the last one of this
/// time, with how many there were.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// What the policy is called in messages: it came without a name.
pub(super) const NAME: &str = "policy.yaml";

/// Looks at the policy in the body.
pub(super) async fn validate(desk: &Desk, ask: Ask) -> Result<Value, Problem> {
    let running = desk.running();
    let (config, report) = asked(desk, ask, &running.store).await?;
    let not_in_effect: Vec<&str> = config.not_in_effect.iter().map(|one| &*one.field).collect();
    Ok(json!({
        "valid": true,
        "digest": &*config.digest,
        "warnings": report.to_json()["warnings"],
        "notInEffect": not_in_effect,
    }))
}

/// Looks at the policy in the body, and at what it would change here.
pub(super) async fn plan(desk: &Desk, ask: Ask) -> Result<Value, Problem> {
    let running = desk.running();
    let (config, report) = asked(desk, ask, &running.store).await?;
    let machine = running.machine_endpoint.clone();
    let config = config.with_flags_of(&running).with_machine_endpoint(machine);
    if config.store != running.store {
        let detail =
            format!("the policy is of store {}, this one is {}", config.store, running.store);
        return Err(Problem::invalid(detail, Vec::new()));
    }
    let mut refused = Report::default();
    refused.errors = against(&running, &config, None);
    Ok(json!({
        "from": &*running.digest,
        "to": &*config.digest,
        "changes": differences(&running, &config),
        "refusals": refused.to_json()["errors"],
        "impact": impact::of(&desk.gateway, &running, &config),
        "warnings": report.to_json()["warnings"],
    }))
}

fn valid(checked: Checked) -> Result<(Effective, Report), Problem> {
    let Checked { effective, report } = checked;
    effective.map(|config| (config, report.clone())).ok_or_else(|| {
        let detail = format!("the policy is refused: {}", report.summary());
        let mut errors = report.to_json()["errors"].take();
        let errors = errors.as_array_mut().map(std::mem::take).unwrap_or_default();
        Problem::invalid(detail, errors)
    })
}

/// Compiles a policy that a question brings along, for the store that is meant: the one that is
/// named, else `own`, else the only one. Its approvals are taken for right. See [`apart`].
pub(super) fn compiled(
    own: &str,
    sources: Vec<Source>,
    store: Option<String>,
) -> Result<Effective, Problem> {
    let (fleet, report) = Fleet::read(&sources, 1);
    let only = fleet.stores().next().filter(|_| fleet.stores().len() == 1).map(str::to_owned);
    let own = fleet.find(own).ok().map(str::to_owned);
    let checked = match store.or(own).or(only) {
        Some(meant) => of_fleet(&fleet, report, &meant),
        None if report.errors.is_empty() => {
            let why = "the policy has several stores, and not this one: name one as `store`";
            Checked { effective: None, report: Report::of_error(why) }
        }
        None => Checked { effective: None, report },
    };
    let (config, _) = valid(checked)?;
    let gate = config.gate.clone().verified(|_, _, _| true);
    Ok(Effective { gate, ..config })
}

/// The policy in the body, if it is one; that somebody asked is written down now and then.
async fn asked(desk: &Desk, ask: Ask, store: &Arc<str>) -> Result<(Effective, Report), Problem> {
    let actor = ask.who.actor.to_string();
    let checked = look(desk, ask, store).await?;
    let endpoint = desk.endpoint();
    let count = super::lock(&endpoint.validated).happens(TOLD_EVERY, clock::now());
    let fields = |count: u64| {
        let digest = checked.effective.as_ref().map(|config| &*config.digest);
        let result = if digest.is_some() { "Valid" } else { "Invalid" };
        let errors = checked.report.errors.len();
        vec![
            ("to", json!(digest)),
            ("errors", json!(errors)),
            ("count", json!(count)),
            ("result", json!(result)),
        ]
    };
    if let Some(fields) = count.map(fields) {
        endpoint.record(Record { action: Action::Validate, actor, fields });
    }
    valid(checked)
}

/// Compiles the policy in the body for `store`.
async fn look(desk: &Desk, ask: Ask, store: &Arc<str>) -> Result<Checked, Problem> {
    let store = Arc::clone(store);
    apart(desk, move || compile(&ask, &store)).await
}

/// One at a time, on a thread that serves nobody.
pub(super) async fn apart<T: Send + 'static>(
    desk: &Desk,
    compile: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let Ok(turn) = Arc::clone(&desk.endpoint().checks).try_acquire_owned() else {
        let detail = "another policy is looked at: ask again";
        return Err(Problem::later(StatusCode::TOO_MANY_REQUESTS, 1, detail));
    };
    let compiled = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        making_way(compile)
    });
    compiled.await.unwrap_or_else(|_| {
        let detail = "the policy could not be looked at; the log says why";
        Err(Problem::internal(detail))
    })
}

fn compile(ask: &Ask, store: &str) -> Result<Checked, Problem> {
    let media = ask.head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !media.is_some_and(|media| media.to_ascii_lowercase().starts_with("application/gzip")) {
        let text = std::str::from_utf8(&ask.body)
            .map_err(|_| Problem::malformed("the policy is not UTF-8 text"))?;
        return Ok(check_text(NAME, text));
    }
    let archive = archive::read(&ask.body)
        .map_err(|error| Problem::malformed(crate::send::explain(&error)))?;
    let mut sources = Vec::new();
    for (file, bytes) in archive.files {
        let text = String::from_utf8(bytes)
            .map_err(|_| Problem::malformed(format!("{file} is not UTF-8 text")))?;
        let is_policy = [".yaml", ".yml"].iter().any(|end| file.ends_with(end));
        if is_policy {
            sources.push(Source { file, text });
        }
    }
    let (fleet, report) = Fleet::read(&sources, 1);
    Ok(of_fleet(&fleet, report, store))
}

/// What `fleet` is for `store`; `report` is what is wrong with it by itself.
fn of_fleet(fleet: &Fleet, mut report: Report, store: &str) -> Checked {
    let effective = match fleet.compile(store) {
        Ok(Checked { effective, report: found }) => {
            report.append(found);
            effective.filter(|_| report.errors.is_empty())
        }
        // Where no document could be read there is no store, which is not what is wrong.
        Err(_) if !report.errors.is_empty() => None,
        Err(message) => {
            report.append(Report::of_error(message));
            None
        }
    };
    Checked { effective, report }
}
