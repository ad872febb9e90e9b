//! What decides when a store changes: windows, freezes, rollouts, exceptions.
//!
//! In: the selected documents and the facts of the store. Out: the core's gate, with references
//! between its parts checked. Signatures are looked at by whoever has the keys.

use std::sync::Arc;

use tillgate_core::calendar::{Hours, Zone};
use tillgate_core::class::ClassTable;
use tillgate_core::gate::Gate;

use super::select::Selected;
use super::{Input, Output, calendar, dangling, exceptions, rollouts, step};
use crate::document::{Body, Document, Spot};
use crate::kinds::{Kind, StoreDoc};
use crate::zones::Zones;

/// Where the kinds stand in the effective config.
const SECTIONS: [(Kind, &str); 6] = [
    (Kind::ChangeWindow, "windows"),
    (Kind::Freeze, "freezes"),
    (Kind::Override, "overrides"),
    (Kind::Prohibition, "prohibitions"),
    (Kind::Rollout, "rollouts"),
    (Kind::Bundle, "gate.policy"),
];

/// The store, and what its documents may refer to.
pub(super) struct Of<'a> {
    pub(super) input: &'a Input,
    pub(super) store: Option<(&'a Document, &'a StoreDoc)>,
    /// Its own zone, if there is such a zone.
    pub(super) zone: Option<Arc<Zone>>,
    pub(super) hours: Option<Arc<Hours>>,
    pub(super) zones: &'a Zones,
    pub(super) classes: &'a ClassTable,
}

/// The identity of a store for ramps, bundles and the Bootstrap: its label `storeId`, or its name.
pub(crate) fn store_id(document: &Document) -> &str {
    let label = crate::scalar::LabelKey("storeId".to_owned());
    let labels = &document.body.metadata().labels;
    labels.get(&label).map_or(&document.name, |value| &value.0)
}

pub(super) fn compile(
    selected: &Selected<'_>,
    input: &Input,
    zones: &Zones,
    classes: &ClassTable,
    out: &mut Output,
) -> Gate {
    let store = selected.store;
    let zone = store.and_then(|(_, store)| zones.find(&store.spec.time_zone.0).ok());
    let hours = store.and_then(|(_, store)| calendar::hours(store)).map(Arc::new);
    let of = Of { input, store, zone, hours, zones, classes };
    let mut gate = Gate::default();
    for document in &selected.changes {
        note(document, out);
        match &document.body {
            Body::ChangeWindow(body) => {
                gate.windows.extend(calendar::window(document, body, &of, out));
            }
            Body::Freeze(body) => gate.freezes.extend(calendar::freeze(document, body, &of, out)),
            Body::Override(body) => gate.overrides.push(exceptions::one(document, body, out)),
            Body::Prohibition(body) => {
                gate.prohibitions.push(exceptions::prohibition(document, body, out));
            }
            Body::Rollout(body) => {
                gate.rollouts.extend(rollouts::one(document, body, selected, &of, out));
            }
            Body::Bundle(body) => {
                gate.policy = rollouts::of_policy(document, body, selected, &of, out);
            }
            Body::Backend(_)
            | Body::Bootstrap(_)
            | Body::EgressPolicy(_)
            | Body::LinkPolicy(_)
            | Body::Listener(_)
            | Body::RegistryMirror(_)
            | Body::RingPromotion(_)
            | Body::ServiceRoute(_)
            | Body::Store(_)
            | Body::TelemetryPolicy(_)
            | Body::TrafficClass(_) => {}
        }
    }
    rollouts::check(selected, &gate, &of, out);
    exceptions::check(selected, &gate, &of, out);
    gate
}

/// Where a document's part of the effective config comes from.
fn note(document: &Document, out: &mut Output) {
    let Some((_, section)) = SECTIONS.iter().find(|(kind, _)| *kind == document.kind) else {
        return;
    };
    if out.without_origins {
        return;
    }
    if document.kind == Kind::Bundle {
        let spot = document.spec().key("rollout");
        out.origins.insert((*section).to_owned(), spot.origin());
        return;
    }
    let path = format!("gate.{section}.{}", step(&document.name));
    out.origins.insert(path, document.name_spot().origin());
}

/// Names of the documents of `kind` that count for the store, wrong ones too: a reference to one
/// of those is not a second mistake.
pub(super) fn names<'a>(selected: &Selected<'a>, kind: Kind) -> Vec<&'a str> {
    let of_kind = selected.changes.iter().filter(|one| one.kind == kind);
    of_kind.map(|one| &*one.name).collect()
}

/// Reports a reference that names nothing.
pub(super) fn refer<'a>(
    of: &Of<'_>,
    kind: Kind,
    name: &str,
    spot: &Spot<'_>,
    known: impl IntoIterator<Item = &'a str> + Clone,
    out: &mut Output,
) -> bool {
    if known.clone().into_iter().any(|one| one == name) {
        return true;
    }
    out.report.errors.extend(dangling(of.input, kind, name, spot, known));
    false
}
