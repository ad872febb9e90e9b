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
    ListenerDoc, Metadata, RegistryMirrorDoc, ServiceRouteDoc, StoreDoc, StoreSelector,
    TelemetryPolicyDoc, TrafficClassDoc,
};
use crate::report::{Finding, Report};
use crate::scalar::StorePath;

/// The documents that count, each with its typed body; named kinds in the order of their names.
pub(super) struct Selected<'a> {
    /// `None` if it is missing or was refused; the rest is checked all the same.
    pub(super) store: Option<(&'a Document, &'a StoreDoc)>,
    pub(super) link_policy: Option<(&'a Document, &'a LinkPolicyDoc)>,
    pub(super) egress: Option<(&'a Document, &'a EgressPolicyDoc)>,
    pub(super) telemetry: Option<(&'a Document, &'a TelemetryPolicyDoc)>,
    pub(super) mirror: Option<(&'a Document, &'a RegistryMirrorDoc)>,
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
            self.mirror.map(|p| p.0),
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

/// The documents of each identity, which a store chooses from.
pub(crate) struct Choices<'a> {
    /// Each with its number among all documents.
    by_identity: Vec<Vec<(u32, &'a Document)>>,
}

/// What one store has chosen.
pub(crate) struct Chosen<'a> {
    /// One document for each identity that has one.
    pub(crate) documents: Vec<&'a Document>,
    /// Their numbers among all documents: equal numbers, equal choice.
    pub(crate) numbers: Vec<u32>,
    /// Documents that do not apply to the store.
    pub(crate) left_out: Vec<&'a Document>,
    /// Pairs that nothing decides between.
    pub(crate) ties: Vec<(&'a Document, &'a Document)>,
}

impl<'a> Choices<'a> {
    /// Sorts `documents` by identity. Stores are no choice, and a Bootstrap is none either.
    pub(crate) fn new(documents: &'a [Document]) -> Self {
        let mut by_identity: BTreeMap<(Kind, &str), Vec<(u32, &Document)>> = BTreeMap::new();
        for (number, document) in (0..).zip(documents) {
            if document.kind == Kind::Store {
                continue;
            }
            let name: &str = match document.kind.cardinality() {
                Cardinality::Single | Cardinality::Fixed => "",
                Cardinality::Named | Cardinality::Additive => &document.name,
                Cardinality::Elsewhere => continue,
            };
            by_identity.entry((document.kind, name)).or_default().push((number, document));
        }
        Self { by_identity: by_identity.into_values().collect() }
    }

    /// Chooses for `store`. Without a store only what applies to every store can be chosen.
    pub(crate) fn choose(&self, store: Option<&StoreDoc>) -> Chosen<'a> {
        let mut chosen = Chosen {
            documents: Vec::new(),
            numbers: Vec::new(),
            left_out: Vec::new(),
            ties: Vec::new(),
        };
        let applies = |selector: &StoreSelector| match store {
            Some(store) => applies(selector, store),
            None => *selector == StoreSelector::default(),
        };
        for documents in &self.by_identity {
            let mut best: Option<(u32, &Document)> = None;
            for (number, document) in documents {
                if !document.selector().is_none_or(applies) {
                    chosen.left_out.push(document);
                    continue;
                }
                match best {
                    Some((_, other)) if document.precedence() < other.precedence() => {}
                    Some((_, other)) if document.precedence() == other.precedence() => {
                        chosen.ties.push((other, document));
                        // A tie is part of the choice, so that it is told for the right stores.
                        chosen.numbers.push(*number);
                    }
                    _ => {
                        let beaten = best.map(|(_, other)| other);
                        chosen.ties.retain(|(first, _)| {
                            beaten.is_none_or(|beaten| !std::ptr::eq(*first, beaten))
                        });
                        best = Some((*number, document));
                    }
                }
            }
            chosen.numbers.extend(best.map(|(number, _)| number));
            chosen.documents.extend(best.map(|(_, document)| document));
        }
        chosen
    }
}

/// Picks the documents that count for `store`, built-in ones included.
pub(super) fn select<'a>(
    chosen: Chosen<'a>,
    store: Option<(&'a Document, &'a StoreDoc)>,
    built_in: &'a [Document],
    out: &mut Output,
) -> Selected<'a> {
    for (first, other) in &chosen.ties {
        out.error(tie(first, other));
    }
    let by_identity = chosen.documents.into_iter().map(|one| ((one.kind, &*one.name), one));
    sort_out(store, by_identity.collect(), built_in, chosen.left_out)
}

/// What is wrong with documents wherever they apply.
pub(crate) fn check_documents(documents: &[Document], report: &mut Report) {
    let mut out = Output { report: std::mem::take(report), ..Output::default() };
    for document in documents {
        if let Some(selector) = document.selector() {
            check_expressions(selector, &document.spec().key("storeSelector"), &mut out);
        }
        if document.kind.cardinality() == Cardinality::Elsewhere {
            out.error(no_part(document));
        }
    }
    *report = out.report;
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
        mirror: None,
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
            Body::RegistryMirror(body) => self.mirror = Some((document, body)),
            Body::ServiceRoute(body) => self.routes.push((document, body)),
            Body::TelemetryPolicy(body) => self.telemetry = Some((document, body)),
            Body::TrafficClass(body) => self.classes.push((document, body)),
            Body::Bundle(_)
            | Body::ChangeWindow(_)
            | Body::Freeze(_)
            | Body::Override(_)
            | Body::Prohibition(_)
            | Body::RingPromotion(_)
            | Body::Rollout(_) => self.changes.push(document),
            Body::Bootstrap(_) | Body::Store(_) => {}
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "one kind is asked for")]
pub(super) fn the_store<'a>(
    input: &'a Input,
    out: &mut Output,
) -> Option<(&'a Document, &'a StoreDoc)> {
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
pub(crate) fn applies(selector: &StoreSelector, store: &StoreDoc) -> bool {
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

/// What a selector says must make sense.
pub(super) fn check_expressions(selector: &StoreSelector, spot: &Spot<'_>, out: &mut Output) {
    let spot = spot.key("matchExpressions");
    for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
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
