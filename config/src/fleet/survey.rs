//! All stores at once: which of them would run what, and what is wrong for whom.
//!
//! Stores that choose the same documents form a group. What follows from the documents alone is
//! compiled and written down once for each group; a store adds its own part, and a digest.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Fleet, body, parallel};
use crate::compile::{Group, select};
use crate::document::Document;
use crate::effective::{NotInEffect, Origin};
use crate::kinds::Kind;
use crate::report::{Finding, Place, Report, Stores};

/// Stores of one group that one thread takes at a time: large enough that the group's own part
/// is small against them, small enough that both cores end together.
const SLICE: usize = 1_000;

/// What there is to say of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surveyed {
    /// Its name.
    pub store: Arc<str>,
    /// Digest of its effective config; `None` if there is none, because of errors.
    pub digest: Option<Arc<str>>,
    /// Stores with the same number select the same documents.
    pub group: usize,
}

/// What there is to say of all stores.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// By name.
    pub stores: Vec<Surveyed>,
    /// What is wrong, each with the number of stores for which it is.
    pub report: Report,
    /// What has no effect yet, in the order in which it stands, each with the stores in which it
    /// does not; of stores' own documents one for each field.
    pub not_in_effect: Vec<(NotInEffect, Stores)>,
    /// How many different sets of documents the stores select.
    pub groups: usize,
    /// In how many stores each document of the fleet counts, in their order.
    pub counts: Vec<usize>,
}

/// What a thread brings back.
#[derive(Default)]
struct Found {
    stores: Vec<(usize, Surveyed)>,
    errors: Findings,
    lints: Findings,
    idle: Idle,
}

/// What has no effect, by where it stands.
type Idle = BTreeMap<String, (NotInEffect, Stores)>;

/// Findings by what they say, with the stores for which they are said.
type Findings = BTreeMap<(Option<Place>, String), Finding>;

pub(super) fn of(fleet: &Fleet, threads: usize) -> Survey {
    let choices = select::Choices::new(fleet.documents());
    let indices: Vec<usize> = (0..fleet.stores.len()).collect();
    let chosen = parallel(&indices, threads, |at| {
        fleet.stores.get(*at).and_then(body).map(|store| choices.choose(Some(store)).numbers)
    });
    let mut groups: BTreeMap<Vec<u32>, Vec<usize>> = BTreeMap::new();
    for (at, numbers) in chosen.into_iter().enumerate() {
        groups.entry(numbers.unwrap_or_default()).or_default().push(at);
    }
    let mut counts = vec![0; fleet.documents().len()];
    for (numbers, stores) in &groups {
        for number in numbers.iter().filter_map(|number| usize::try_from(*number).ok()) {
            counts[number] += stores.len();
        }
    }
    let slices: Vec<(usize, &[usize])> = groups
        .values()
        .enumerate()
        .flat_map(|(group, stores)| stores.chunks(SLICE).map(move |slice| (group, slice)))
        .collect();
    let found = parallel(&slices, threads, |slice| self::slice(fleet, &choices, *slice));
    let mut survey = Survey { groups: groups.len(), counts, ..Survey::default() };
    let mut all = Found::default();
    for one in found {
        all.stores.extend(one.stores);
        join(&mut all.errors, one.errors);
        join(&mut all.lints, one.lints);
        for (_, (idle, stores)) in one.idle {
            rests(&mut all.idle, idle, (stores.count, &stores.first));
        }
    }
    all.stores.sort_by_key(|(at, _)| *at);
    survey.stores = all.stores.into_iter().map(|(_, store)| store).collect();
    survey.not_in_effect = all.idle.into_values().collect();
    survey.report.errors = all.errors.into_values().collect();
    survey.report.lints = all.lints.into_values().collect();
    useless(fleet, &survey.counts, &mut survey.report);
    for document in fleet.documents() {
        document.add_source(&mut survey.report);
    }
    survey.report.sort();
    survey
}

fn slice(
    fleet: &Fleet,
    choices: &select::Choices<'_>,
    (number, members): (usize, &[usize]),
) -> Found {
    let stores = members.iter().filter_map(|at| {
        let document = fleet.stores.get(*at)?;
        Some((*at, document, body(document)?))
    });
    let mut stores = stores.peekable();
    let mut found = Found::default();
    let Some((_, document, store)) = stores.peek().copied() else { return found };
    let context = (&fleet.input, fleet.built_in.as_slice(), &fleet.zones);
    let mut group = Group::new(choices.choose(Some(store)), (document, store), context);
    let shared = group.take_report();
    let idle = group.not_in_effect();
    for (at, document, store) in stores {
        let digest = group.digest((document, store), context, shared.errors.is_empty());
        let own = group.take_report();
        note(&mut found.errors, own.errors, document);
        note(&mut found.lints, own.lints, document);
        note(&mut found.errors, shared.errors.clone(), document);
        note(&mut found.lints, shared.lints.clone(), document);
        for one in &idle {
            rests(&mut found.idle, one.clone(), (1, &document.name));
        }
        for one in group.own_not_in_effect() {
            rests(&mut found.idle, of_any_store(one), (1, &document.name));
        }
        found.stores.push((at, Surveyed { store: document.name.clone(), digest, group: number }));
    }
    found
}

/// `Store/store-0412 spec.hours` of one store is that of all: sixty thousand lines are no help.
fn of_any_store(one: NotInEffect) -> NotInEffect {
    match one.field.split_once(' ') {
        Some((_, path)) => {
            NotInEffect { field: format!("{} {path}", Kind::Store.name()).into(), ..one }
        }
        None => one,
    }
}

fn rests(all: &mut Idle, one: NotInEffect, (count, first): (usize, &Arc<str>)) {
    let place = match &one.origin {
        Origin::File { file, line, column } if !one.field.starts_with("Store ") => {
            format!("{file}:{line:09}:{column:09}")
        }
        Origin::File { .. } | Origin::BuiltIn | Origin::Default | Origin::Flag(_) => {
            one.field.to_string()
        }
    };
    let (_, stores) = all.entry(place).or_insert_with(|| (one, Stores::default()));
    stores.add(count, first);
}

fn note(findings: &mut Findings, new: Vec<Finding>, store: &Document) {
    for finding in new {
        let key = (finding.place.clone(), finding.message.clone());
        let known = findings.entry(key).or_insert(finding);
        known.stores.add(1, &store.name);
    }
}

fn join(all: &mut Findings, more: Findings) {
    for (key, finding) in more {
        let Stores { count, first } = (*finding.stores).clone();
        match all.entry(key) {
            std::collections::btree_map::Entry::Vacant(free) => drop(free.insert(finding)),
            std::collections::btree_map::Entry::Occupied(mut known) => {
                known.get_mut().stores.add(count, &first);
            }
        }
    }
}

/// Documents that count in no store.
fn useless(fleet: &Fleet, counts: &[usize], report: &mut Report) {
    for (document, count) in fleet.documents().iter().zip(counts) {
        if *count > 0 || fleet.stores.is_empty() || document.kind == Kind::Bootstrap {
            continue;
        }
        let spot = document.spec().key("storeSelector");
        let message = match fleet.selects(document) {
            0 => format!(
                "{} selects none of the {} stores: change its storeSelector, or remove it",
                document.title(),
                fleet.stores.len()
            ),
            some => format!(
                "{} selects {some} stores, and in each another document has a higher precedence: \
                 raise its `precedence`, or remove it",
                document.title()
            ),
        };
        report.lints.push(spot.finding(message));
    }
}
