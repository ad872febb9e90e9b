//! Which documents count for this store: selectors, then precedence.
//!
//! Of the documents of one identity (kind and name; for single kinds the kind alone) that select
//! the store, the highest precedence counts as a whole. A tie is an error that names both
//! places: a file has no creation time, and the order in it must not decide.

use std::collections::BTreeMap;

use super::{Input, Output};
use crate::document::{Body, Document, Spot};
use crate::kinds::{
    BackendDoc, Cardinality, EgressPolicyDoc, Kind, LabelExpression, LabelOperator, LinkPolicyDoc,
    ListenerDoc, Metadata, ServiceRouteDoc, StoreDoc, StoreSelector, TelemetryPolicyDoc,
    TrafficClassDoc,
};
use crate::report::Finding;
use crate::scalar::StorePath;

/// The documents that count, each with its typed body; named kinds in the order of their names.
pub(super) struct Selected<'a> {
    /// `None` if it is missing or was refused; the rest is checked all the same.
    pub(super) store: Option<(&'a Document, &'a StoreDoc)>,
    pub(super) link_policy: Option<(&'a Document, &'a LinkPolicyDoc)>,
    pub(super) egress: Option<(&'a Document, &'a EgressPolicyDoc)>,
    pub(super) telemetry: Option<(&'a Document, &'a TelemetryPolicyDoc)>,
    /// The built-in classes in their order, then the others by name.
    pub(super) classes: Vec<(&'a Document, &'a TrafficClassDoc)>,
    pub(super) backends: Vec<(&'a Document, &'a BackendDoc)>,
    pub(super) routes: Vec<(&'a Document, &'a ServiceRouteDoc)>,
    pub(super) listeners: Vec<(&'a Document, &'a ListenerDoc)>,
    /// What says when the store changes, by kind and name.
    pub(super) changes: Vec<&'a Document>,
    /// Documents that do not apply to this store.
    pub(super) left_out: Vec<&'a Document>,
}

impl<'a> Selected<'a> {
    /// Every document that counts and is not built in.
    pub(super) fn all(&self) -> impl Iterator<Item = &'a Document> {
        let single = [
            self.store.map(|s| s.0),
            self.link_policy.map(|p| p.0),
            self.egress.map(|p| p.0),
            self.telemetry.map(|p| p.0),
        ];
        single
            .into_iter()
            .flatten()
            .chain(self.classes.iter().map(|one| one.0))
            .chain(self.backends.iter().map(|one| one.0))
            .chain(self.routes.iter().map(|one| one.0))
            .chain(self.listeners.iter().map(|one| one.0))
            .chain(self.changes.iter().copied())
            .filter(|document| !document.is_built_in())
    }
}

/// Picks the documents for the one store of `input`. Without a store only those that apply to
/// every store can be picked.
pub(super) fn select<'a>(
    input: &'a Input,
    built_in: &'a [Document],
    out: &mut Output,
) -> Selected<'a> {
    let store = the_store(input, out);
    let mut candidates: BTreeMap<(Kind, &str), Vec<&Document>> = BTreeMap::new();
    let mut left_out = Vec::new();
    for document in input.documents.iter().filter(|one| one.kind != Kind::Store) {
        check_selector(document, out);
        let applies = |selector| match store {
            Some((_, store)) => applies(selector, store),
            None => *selector == StoreSelector::default(),
        };
        if document.selector().is_none_or(applies) {
            let name: &str = match document.kind.cardinality() {
                Cardinality::Single | Cardinality::Fixed => "",
                Cardinality::Named | Cardinality::Additive => &document.name,
                Cardinality::Elsewhere => {
                    out.error(no_part(document));
                    continue;
                }
            };
            candidates.entry((document.kind, name)).or_default().push(document);
        } else {
            left_out.push(document);
        }
    }
    let mut chosen: BTreeMap<(Kind, &str), &Document> = BTreeMap::new();
    for (identity, documents) in candidates {
        let top = documents.iter().map(|one| one.precedence()).max().unwrap_or(0);
        let mut highest = documents.into_iter().filter(|one| one.precedence() == top);
        let Some(first) = highest.next() else { continue };
        for other in highest {
            out.error(tie(first, other));
        }
        chosen.insert(identity, first);
    }
    sort_out(store, chosen, built_in, left_out)
}

fn sort_out<'a>(
    store: Option<(&'a Document, &'a StoreDoc)>,
    mut chosen: BTreeMap<(Kind, &'a str), &'a Document>,
    built_in: &'a [Document],
    left_out: Vec<&'a Document>,
) -> Selected<'a> {
    let mut selected = Selected {
        store,
        link_policy: None,
        egress: None,
        telemetry: None,
        classes: Vec::new(),
        backends: Vec::new(),
        routes: Vec::new(),
        listeners: Vec::new(),
        changes: Vec::new(),
        left_out,
    };
    for class in built_in {
        let replaced = chosen.remove(&(Kind::TrafficClass, &*class.name));
        selected.put(replaced.unwrap_or(class));
    }
    for document in chosen.into_values() {
        selected.put(document);
    }
    selected
}

impl<'a> Selected<'a> {
    fn put(&mut self, document: &'a Document) {
        match &document.body {
            Body::Backend(body) => self.backends.push((document, body)),
            Body::EgressPolicy(body) => self.egress = Some((document, body)),
            Body::LinkPolicy(body) => self.link_policy = Some((document, body)),
            Body::Listener(body) => self.listeners.push((document, body)),
            Body::ServiceRoute(body) => self.routes.push((document, body)),
            Body::TelemetryPolicy(body) => self.telemetry = Some((document, body)),
            Body::TrafficClass(body) => self.classes.push((document, body)),
            Body::Bundle(_)
            | Body::ChangeWindow(_)
            | Body::Freeze(_)
            | Body::Override(_)
            | Body::Prohibition(_)
            | Body::RegistryMirror(_)
            | Body::RingPromotion(_)
            | Body::Rollout(_) => self.changes.push(document),
            Body::Bootstrap(_) | Body::Store(_) => {}
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "one kind is asked for")]
fn the_store<'a>(input: &'a Input, out: &mut Output) -> Option<(&'a Document, &'a StoreDoc)> {
    let mut stores = input.documents.iter().filter_map(|document| match &document.body {
        Body::Store(body) => Some((document, body)),
        _ => None,
    });
    let first = stores.next();
    let second = stores.next();
    match (first, second) {
        (Some(store), None) => Some(store),
        (Some((first, body)), Some((second, _))) => {
            let message = format!(
                "the file describes two stores, `{}` and `{}`: a gateway runs for one, keep its \
                 document and remove the other",
                first.name, second.name
            );
            let finding = second.name_spot().finding(message);
            out.error(finding.related(first.name_spot().place(), "is the first Store"));
            Some((first, body))
        }
        (None, _) => {
            if !input.may_have_refused(Kind::Store, None) {
                let message = format!(
                    "`{}` has no Store document: add one with the store's name, timeZone and links",
                    input.file
                );
                out.error(Finding::new(None, message));
            }
            None
        }
    }
}

/// A document that belongs on the store's own disk.
fn no_part(document: &Document) -> Finding {
    document.name_spot().finding(format!(
        "{} is no part of a policy: keep it on the store's own disk, and start the gateway with \
         --bootstrap",
        document.title()
    ))
}

fn tie(first: &Document, second: &Document) -> Finding {
    let only_one = || {
        format!(
            "`{}` and `{}` both apply to this store, and only one {} can",
            first.name,
            second.name,
            first.kind.name()
        )
    };
    let what = match first.kind.cardinality() {
        Cardinality::Fixed => format!("{}: keep one of them", only_one()),
        Cardinality::Additive => {
            format!("{} is there twice for this store: rename or remove one", first.title())
        }
        Cardinality::Single => only_one(),
        Cardinality::Named | Cardinality::Elsewhere => {
            format!("{} is there twice for this store", first.title())
        }
    };
    let message = match first.kind.cardinality() {
        Cardinality::Fixed | Cardinality::Additive => what,
        Cardinality::Named | Cardinality::Single | Cardinality::Elsewhere => {
            equal(&what, first.precedence())
        }
    };
    second.name_spot().finding(message).related(first.name_spot().place(), "is the other one")
}

fn equal(what: &str, precedence: u64) -> String {
    format!(
        "{what} (both have the precedence {precedence}): raise the `precedence` of one, narrow a \
         `storeSelector`, or remove one"
    )
}

/// Whether `selector` selects the store: all present terms must hold.
fn applies(selector: &StoreSelector, store: &StoreDoc) -> bool {
    let Metadata { labels, .. } = &store.metadata;
    let by_label = selector.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
    let by_expression = selector.match_expressions.iter().flatten().all(|expression| {
        let value = labels.get(&expression.key);
        let listed = value.is_some_and(|value| {
            expression.values.iter().flatten().any(|candidate| candidate == value)
        });
        match expression.operator {
            LabelOperator::In => listed,
            LabelOperator::NotIn => !listed,
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    });
    let by_path = selector.under_paths.as_ref().is_none_or(|groups| {
        let under = |path: &StorePath| groups.iter().any(|group| path.is_under(group));
        store.spec.member_of.iter().any(under)
    });
    by_label && by_expression && by_path
}

fn check_selector(document: &Document, out: &mut Output) {
    let Some(expressions) = document.selector().and_then(|one| one.match_expressions.as_ref())
    else {
        return;
    };
    let spot = document.spec().key("storeSelector").key("matchExpressions");
    for (index, expression) in expressions.iter().enumerate() {
        check_expression(expression, &spot.index(index), out);
    }
}

fn check_expression(expression: &LabelExpression, spot: &Spot<'_>, out: &mut Output) {
    let wants_values = match expression.operator {
        LabelOperator::In | LabelOperator::NotIn => true,
        LabelOperator::Exists | LabelOperator::DoesNotExist => false,
    };
    let operator = spot.key("operator");
    match (&expression.values, wants_values) {
        (None, true) => out.error(operator.finding(format!(
            "the condition on `{}` has no values to compare with: add `values`",
            expression.key.0
        ))),
        (Some(_), false) => out.error(spot.key("values").finding(format!(
            "the condition on `{}` asks only whether the label is there: remove `values`, or use \
             In or NotIn",
            expression.key.0
        ))),
        _ => {}
    }
}
