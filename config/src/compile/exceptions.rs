//! Overrides and prohibitions: who may not, and who may all the same.
//!
//! An Override is short, selects some stores, names what it suspends, and carries enough
//! approvals; whether the signatures are right is found out where the keys are.

use std::collections::BTreeSet;
use std::time::Duration;

use tillgate_core::calendar::Effect;
use tillgate_core::civil::Interval;
use tillgate_core::gate::{Freeze, Gate, Override, Prohibition, RolloutName};

use super::calendar::applies_to;
use super::gate::{Of, names, refer};
use super::select::Selected;
use super::{Output, passages, rollouts};
use crate::document::{Body, Document, Spot};
use crate::kinds::calendar::{SuspendedDoc, SuspendedKind};
use crate::kinds::{Kind, OverrideDoc, ProhibitionDoc, StoreSelector};
use crate::scalar::Flag;

/// The longest that an Override may live: a long weekend. What is needed longer is a change of
/// the freeze, with everybody's eyes on it.
const LIFETIME_MAX: Duration = Duration::from_secs(72 * 3600);

pub(super) fn one(document: &Document, given: &OverrideDoc, out: &mut Output) -> Override {
    let spec = &given.spec;
    let spot = document.spec();
    selects(document, spec.store_selector.as_ref(), spec.all_stores, out);
    let valid = Interval::new(spec.valid_from.0, spec.expires_at.0);
    let expires = spot.key("expiresAt");
    if valid.is_empty() {
        out.error(expires.finding("the override ends before it begins: write a later moment"));
    } else if valid.length() > LIFETIME_MAX {
        let hours = valid.length().as_secs().div_ceil(3600);
        out.error(expires.finding(format!(
            "the override would live for {hours} hours: 72 are the most, end it earlier"
        )));
    }
    if spec.approvals.is_empty() {
        out.error(spot.key("approvals").finding(
            "nobody has approved the override: sign it with `tillgate approve` and add what that \
             prints",
        ));
    }
    let mut keys = BTreeSet::new();
    for (index, approval) in spec.approvals.iter().enumerate() {
        if !keys.insert(&approval.key_id) {
            let spot = spot.key("approvals").index(index).key("keyId");
            out.error(spot.finding(format!(
                "the key `{}` has signed already, and one key counts once: remove it",
                approval.key_id.0
            )));
        }
    }
    let named = |kind: SuspendedKind| {
        let of_kind = spec.suspends.iter().filter(move |one| one.kind == kind);
        of_kind.map(|one| one.name.0.as_str().into()).collect()
    };
    Override {
        name: document.name.clone(),
        applies_to: applies_to(&spec.applies_to),
        freezes: named(SuspendedKind::Freeze),
        windows: named(SuspendedKind::ChangeWindow),
        valid,
        reason: spec.reason.0.as_str().into(),
        ticket: spec.ticket.0.as_str().into(),
        signed: rollouts::signed(document, &spec.approvals),
    }
}

pub(super) fn prohibition(
    document: &Document,
    given: &ProhibitionDoc,
    out: &mut Output,
) -> Prohibition {
    selects(document, given.spec.store_selector.as_ref(), given.spec.all_stores, out);
    Prohibition {
        name: document.name.clone(),
        artifacts: rollouts::artifacts(&given.spec.artifacts),
        reason: given.spec.reason.0.as_str().into(),
    }
}

/// A document with such an effect says whom it means: an empty selector is more often a slip
/// than everybody.
pub(super) fn selects(
    document: &Document,
    selector: Option<&StoreSelector>,
    all: Option<Flag>,
    out: &mut Output,
) {
    let spot = document.spec();
    let all = all.is_some_and(|flag| flag.0);
    let empty = selector.is_none_or(|selector| *selector == StoreSelector::default());
    let title = document.title();
    match (all, selector, empty) {
        (false, None, _) => out.error(spot.key("storeSelector").finding(format!(
            "{title} names no stores: add a `storeSelector`, or `allStores: true` if every store \
             is meant"
        ))),
        (false, Some(_), true) => out.error(spot.key("storeSelector").finding(format!(
            "the selector of {title} is empty and would mean every store: name some, or write \
             `allStores: true` instead"
        ))),
        (true, Some(_), _) => out.error(spot.key("allStores").finding(format!(
            "{title} has both `storeSelector` and `allStores: true`: keep one of them"
        ))),
        (true, None, _) | (false, Some(_), false) => {}
    }
}

/// What overrides, windows and freezes say of each other and of rollouts.
pub(super) fn check(selected: &Selected<'_>, gate: &Gate, of: &Of<'_>, out: &mut Output) {
    for document in &selected.changes {
        if let Body::Override(body) = &document.body {
            suspended(document, body, (selected, gate, of), out);
        }
        let Some(applies) = document.body.applies_to() else { continue };
        let spot = document.spec().key("appliesTo");
        let list = spot.key("rollouts");
        for (index, name) in applies.rollouts.iter().flatten().enumerate() {
            rollout(&name.0, &list.index(index), selected, of, out);
        }
        passages::check(applies, &spot, selected, of, out);
    }
}

/// A rollout that is named is there, if not for this store.
fn rollout(
    name: &RolloutName,
    spot: &Spot<'_>,
    selected: &Selected<'_>,
    of: &Of<'_>,
    out: &mut Output,
) {
    let RolloutName::Named(name) = name else { return };
    let all = selected.changes.iter().chain(&selected.left_out);
    let names: Vec<&str> =
        all.filter(|one| one.kind == Kind::Rollout).map(|one| &*one.name).collect();
    refer(of, Kind::Rollout, name, spot, names, out);
}

fn suspended(
    document: &Document,
    given: &OverrideDoc,
    (selected, gate, of): (&Selected<'_>, &Gate, &Of<'_>),
    out: &mut Output,
) {
    for (index, one) in given.spec.suspends.iter().enumerate() {
        let spot = document.spec().key("suspends").index(index).key("name");
        match one.kind {
            SuspendedKind::Freeze => {
                freeze(one, given, (&spot, document), (selected, gate, of), out)
            }
            SuspendedKind::ChangeWindow => {
                let names = names(selected, Kind::ChangeWindow);
                refer(of, Kind::ChangeWindow, &one.name.0, &spot, names, out);
                let allows = gate.windows.iter().any(|window| {
                    *window.name == *one.name.0 && window.window.effect == Effect::Allow
                });
                if allows {
                    out.error(spot.finding(format!(
                        "the window `{}` allows, so there is nothing to suspend: name windows \
                         with `effect: Deny`",
                        one.name.0
                    )));
                }
            }
        }
    }
}

fn freeze(
    one: &SuspendedDoc,
    given: &OverrideDoc,
    (spot, document): (&Spot<'_>, &Document),
    (selected, gate, of): (&Selected<'_>, &Gate, &Of<'_>),
    out: &mut Output,
) {
    let names = names(selected, Kind::Freeze);
    refer(of, Kind::Freeze, &one.name.0, spot, names, out);
    let Some(freeze) = gate.freezes.iter().find(|freeze| *freeze.name == *one.name.0) else {
        return;
    };
    if !freeze.overridable {
        out.error(spot.finding(format!(
            "the freeze `{}` says `overridable: false`: nobody can suspend it, remove it here",
            freeze.name
        )));
    }
    let (signed, wanted) = approvals(freeze, given);
    if signed < wanted {
        let roles = freeze.approvals.as_ref().map(|approvals| approvals.roles.join(", "));
        out.error(document.spec().key("approvals").finding(format!(
            "{signed} of {wanted} approvals for the freeze `{}`: add signatures of {}",
            freeze.name,
            roles.unwrap_or_default()
        )));
    }
}

/// How many approvals of the right roles there are, and how many are needed.
fn approvals(freeze: &Freeze, given: &OverrideDoc) -> (usize, usize) {
    let Some(wanted) = &freeze.approvals else { return (1, 1) };
    let role = |role: &str| wanted.roles.iter().any(|one| **one == *role);
    let right = given.spec.approvals.iter().filter(|one| role(&one.role.0));
    let keys: BTreeSet<&str> = right.map(|one| &*one.key_id.0).collect();
    (keys.len(), usize::from(wanted.required))
}
