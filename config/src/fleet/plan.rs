//! What a change of a fleet does: to which documents, in how many stores, and what there.
//!
//! Stores that chose the same documents before and choose the same ones now have the same
//! changes but for their own lines and calendars, so one of them is shown for all.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use super::{Fleet, Survey, Surveyed};
use crate::compile::against;
use crate::document::Document;
use crate::effective::{Change, Effective, changes};
use crate::kinds::Kind;
use crate::report::{Finding, Report};

/// What a change of a fleet does.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Documents that are new, gone or different, stores not counted.
    pub documents: Vec<DocumentChange>,
    /// Stores that are new.
    pub stores_added: Vec<Arc<str>>,
    /// Stores that are gone.
    pub stores_removed: Vec<Arc<str>>,
    /// What it means in the stores that were there and are there.
    pub effects: Vec<Effect>,
    /// Stores that run the same as before.
    pub unchanged: usize,
    /// What is wrong with the new policy, against the old one too.
    pub report: Report,
}

/// What happened to a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It is new.
    Added,
    /// It says something else.
    Changed,
    /// It is gone.
    Removed,
}

/// A document that is new, gone or different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentChange {
    /// `Freeze/black-friday`.
    pub document: String,
    /// Where it is, or was.
    pub place: String,
    /// What happened to it.
    pub happened: Happened,
    /// Stores that it selects, or selected.
    pub selects: usize,
    /// Stores in which it counts, or counted: no other document beats it there.
    pub counts: usize,
}

/// The same changes in some stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// How many stores.
    pub stores: usize,
    /// One of them.
    pub first: Arc<str>,
    /// What is different there.
    pub changes: Vec<Change>,
}

/// What `new` would do after `old`, with so many `threads`.
pub fn plan(old: &Fleet, new: &Fleet, threads: usize) -> Plan {
    let (before, after) = (old.survey(threads), new.survey(threads));
    let mut plan = Plan { report: after.report.clone(), ..Plan::default() };
    plan.documents = documents(old, &before, new, &after);
    let names = |survey: &Survey| -> Vec<Arc<str>> {
        survey.stores.iter().map(|one| one.store.clone()).collect()
    };
    let (was, is) = (names(&before), names(&after));
    let missing = |from: &[Arc<str>], other: &[Arc<str>]| -> Vec<Arc<str>> {
        from.iter().filter(|name| other.binary_search(name).is_err()).cloned().collect()
    };
    plan.stores_added = missing(&is, &was);
    plan.stores_removed = missing(&was, &is);
    let pairs = pairs(&before, &after);
    plan.unchanged =
        pairs.iter().filter(|(a, b)| a.digest.is_some() && a.digest == b.digest).count();
    let drop = new.bundle().and_then(|bundle| bundle.spec.guards.as_ref()?.max_capacity_drop);
    let most = drop.map(|percent| percent.0.value());
    for (effect, old, new) in compared(old, new, &pairs) {
        for mut finding in against(&old, &new, most) {
            finding.stores.add(effect.stores, &effect.first);
            let same = |known: &&mut Finding| {
                known.message == finding.message && known.path == finding.path
            };
            match plan.report.errors.iter_mut().find(same) {
                Some(known) => known.stores.add(effect.stores, &effect.first),
                None => plan.report.errors.push(finding),
            }
        }
        plan.effects.push(effect);
    }
    plan.effects = alike(plan.effects);
    plan
}

/// What is different in each store that both fleets have, most stores first; the survey's
/// findings are left to the caller.
pub fn effects(old: &Fleet, new: &Fleet, threads: usize) -> Vec<Effect> {
    let (before, after) = (old.survey(threads), new.survey(threads));
    let compared = compared(old, new, &pairs(&before, &after));
    alike(compared.into_iter().map(|(effect, ..)| effect).collect())
}

/// Effects on the same values are one, shown as they are in its first store; most stores first.
fn alike(effects: Vec<Effect>) -> Vec<Effect> {
    let mut merged: BTreeMap<Vec<(String, bool, bool)>, Effect> = BTreeMap::new();
    for effect in effects {
        let key = effect
            .changes
            .iter()
            .map(|change| (change.path.clone(), change.before.is_some(), change.after.is_some()));
        match merged.entry(key.collect()) {
            Entry::Vacant(free) => drop(free.insert(effect)),
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.stores += effect.stores;
                if effect.first < known.first {
                    (known.first, known.changes) = (effect.first, effect.changes);
                }
            }
        }
    }
    let mut effects: Vec<Effect> = merged.into_values().collect();
    effects.sort_by(|a, b| b.stores.cmp(&a.stores).then_with(|| a.first.cmp(&b.first)));
    effects
}

/// The stores that both have.
fn pairs<'a>(before: &'a Survey, after: &'a Survey) -> Vec<(&'a Surveyed, &'a Surveyed)> {
    let find = |name: &Arc<str>| {
        let at = before.stores.binary_search_by(|one| one.store.cmp(name)).ok()?;
        before.stores.get(at)
    };
    after.stores.iter().filter_map(|one| Some((find(&one.store)?, one))).collect()
}

/// One store of each kind of change, compiled before and after.
fn compared(
    old: &Fleet,
    new: &Fleet,
    pairs: &[(&Surveyed, &Surveyed)],
) -> Vec<(Effect, Effective, Effective)> {
    let mut groups: BTreeMap<(usize, usize), (usize, &Arc<str>)> = BTreeMap::new();
    for (before, after) in pairs {
        if before.digest.is_some() && after.digest.is_some() && before.digest != after.digest {
            groups.entry((before.group, after.group)).or_insert((0, &after.store)).0 += 1;
        }
    }
    let mut found: Vec<(Effect, Effective, Effective)> = Vec::new();
    for (stores, first) in groups.into_values() {
        let compile = |fleet: &Fleet| fleet.compile(first).ok()?.effective;
        let (Some(before), Some(after)) = (compile(old), compile(new)) else { continue };
        let changes = changes(&before, &after);
        found.push((Effect { stores, first: first.clone(), changes }, before, after));
    }
    found
}

/// What one of several documents of a name is told apart by.
type Key<'a> = (Kind, &'a str, u64, usize);

fn keyed<'a>(fleet: &'a Fleet, survey: &Survey) -> BTreeMap<Key<'a>, (&'a Document, usize)> {
    let mut keyed = BTreeMap::new();
    for (document, count) in fleet.documents().iter().zip(&survey.counts) {
        let mut key = (document.kind, &*document.name, document.precedence(), 0);
        while keyed.contains_key(&key) {
            key.3 += 1;
        }
        keyed.insert(key, (document, *count));
    }
    keyed
}

fn documents(old: &Fleet, before: &Survey, new: &Fleet, after: &Survey) -> Vec<DocumentChange> {
    let (was, is) = (keyed(old, before), keyed(new, after));
    let note = |fleet: &Fleet, (document, counts): (&Document, usize), happened| DocumentChange {
        document: document.title(),
        place: document.name_spot().origin().to_string(),
        happened,
        selects: fleet.selects(document),
        counts,
    };
    let mut found = Vec::new();
    for (key, one) in &is {
        match was.get(key) {
            None => found.push(note(new, *one, Happened::Added)),
            Some((before, _)) if before.body != one.0.body => {
                found.push(note(new, *one, Happened::Changed));
            }
            Some(_) => {}
        }
    }
    let gone = was.iter().filter(|(key, _)| !is.contains_key(*key));
    found.extend(gone.map(|(_, one)| note(old, *one, Happened::Removed)));
    found.sort_by(|a, b| a.document.cmp(&b.document));
    found
}

/// A blast radius that is too large: the documents that change in more stores than `most`.
pub fn too_wide(plan: &Plan, most: usize) -> Vec<Finding> {
    let wide = plan.documents.iter().filter(|one| one.counts > most);
    wide.map(|one| {
        Finding::new(
            None,
            format!(
                "{} changes {} stores at once, and {most} are allowed: narrow its storeSelector, \
                 or raise --max-stores for this change",
                one.document, one.counts
            ),
        )
    })
    .collect()
}
