//! Fields that are in the language but not built yet. Nothing is silently ignored: each one that
//! a policy uses is listed with its place, in `validate`, `/v1/status` and once in the log.
//! A field leaves this list in the change that builds it.

use super::select::Selected;
use crate::document::{Body, Document};
use crate::effective::NotInEffect;
use crate::kinds::Kind;
use crate::kinds::calendar::AppliesToDoc;
use crate::kinds::rollout::PromotedKind;
use crate::yaml::Step;

/// Paths of fields that are not built, by kind. `*` is any item of a list.
const NOT_BUILT: [(Kind, &[&str]); 5] = [
    (Kind::Store, &["hours"]),
    (Kind::TrafficClass, &["queue.limit", "metered"]),
    (Kind::LinkPolicy, &["failover", "links.*.autorate", "links.*.monthlyQuota"]),
    (Kind::Rollout, &["limits.rate.up"]),
    (Kind::TelemetryPolicy, &["metrics", "buffer", "accessLogging.*.trafficClass"]),
];

/// Kinds that are the gate in front of the mirror, and nothing without one, unless they name rules
/// of routes or of the EgressPolicy.
const GATE: [Kind; 6] = [
    Kind::ChangeWindow,
    Kind::Freeze,
    Kind::Override,
    Kind::Prohibition,
    Kind::RingPromotion,
    Kind::Rollout,
];

/// The same for EgressPolicy, where a rule may also have `tls`, which is in effect.
const EGRESS: [&str; 2] = ["rules.*.links", "rules.*.destinations.*.protocol"];

/// How a policy gets into the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Entry {
    /// By `--bootstrap`, with keys and a loop that watches it.
    #[default]
    Bootstrap,
    /// By `--config`.
    File,
}

/// Every field of the selected documents that has no effect yet.
pub(super) fn collect(selected: &Selected<'_>, entry: Entry) -> Vec<NotInEffect> {
    let mut found = own(selected);
    found.extend(shared(selected, entry));
    found
}

/// Those of the store's own document.
pub(super) fn own(selected: &Selected<'_>) -> Vec<NotInEffect> {
    let mut found = Vec::new();
    if let Some((document, _)) = selected.store
        && !hours_count(selected)
    {
        of_document(document, not_built(Kind::Store), &mut found);
    }
    found
}

/// Those of all other documents, which are the same for all stores that select the same.
pub(super) fn shared(selected: &Selected<'_>, entry: Entry) -> Vec<NotInEffect> {
    let mut found = Vec::new();
    for document in selected.all().filter(|document| document.kind != Kind::Store) {
        let is_idle = selected.mirror.is_none()
            && GATE.contains(&document.kind)
            && !document.body.applies_to().is_some_and(AppliesToDoc::names_rules);
        let is_fleets = entry == Entry::File && document.kind == Kind::Bundle;
        if is_idle || is_fleets || promotes_policy(document) {
            let spot = document.name_spot();
            found.push(NotInEffect { field: document.title().into(), origin: spot.origin() });
            continue;
        }
        of_document(document, not_built(document.kind), &mut found);
    }
    untold_traces(selected, &mut found);
    found
}

fn not_built(kind: Kind) -> &'static [&'static str] {
    let table = NOT_BUILT.iter().find(|(known, _)| *known == kind);
    match (kind, table) {
        (Kind::EgressPolicy, _) => &EGRESS,
        (_, Some((_, patterns))) => patterns,
        (_, None) => &[],
    }
}

/// Whether a window that is in effect goes by opening hours: of a store, nothing else may be idle.
fn hours_count(selected: &Selected<'_>) -> bool {
    selected.changes.iter().any(|document| {
        let Body::ChangeWindow(body) = &document.body else { return false };
        let is_in_effect = selected.mirror.is_some() || body.spec.applies_to.names_rules();
        is_in_effect && body.spec.schedule.store_hours.is_some()
    })
}

/// Bundles take their promotions from beside the archive.
fn promotes_policy(document: &Document) -> bool {
    let Body::RingPromotion(body) = &document.body else { return false };
    body.spec.rollout_ref.kind == Some(PromotedKind::Bundle)
}

/// Spans that are sampled and have nowhere to go.
fn untold_traces(selected: &Selected<'_>, found: &mut Vec<NotInEffect>) {
    let Some((document, policy)) = selected.telemetry else { return };
    if policy.spec.tracing.as_ref().is_some_and(|tracing| tracing.endpoint.is_none()) {
        let spot = document.spec().key("tracing");
        let field = format!("{} (no endpoint)", spot.path());
        found.push(NotInEffect { field: field.into(), origin: spot.origin() });
    }
}

fn of_document(document: &Document, patterns: &[&str], found: &mut Vec<NotInEffect>) {
    if patterns.is_empty() {
        return;
    }
    document.walk(|path, _| {
        let Some((Step::Key(root), rest)) = path.split_first() else { return };
        if root == "spec" && patterns.iter().any(|pattern| fits(pattern, rest)) {
            let spot = document.spot(path);
            found.push(NotInEffect { field: spot.path().into(), origin: spot.origin() });
        }
    });
}

fn fits(pattern: &str, path: &[Step]) -> bool {
    let mut words = pattern.split('.');
    let all = path.iter().all(|step| match (words.next(), step) {
        (Some("*"), Step::Index(_)) => true,
        (Some(word), Step::Key(key)) => word == key,
        _ => false,
    });
    all && words.next().is_none()
}
