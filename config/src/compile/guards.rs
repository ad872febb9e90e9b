//! What a policy may not lose: by itself, and against the one before it.
//!
//! The guards of the Bundle. Classes that must be there are checked in every store; a fall of a
//! critical guarantee and the end of a route need the policy that runs now.

use tillgate_core::class::{ClassTable, Share};
use tillgate_core::units::{BitRate, Direction, PerDirection};

use super::Output;
use super::classes::share_text;
use super::select::Selected;
use crate::document::{Body, Document};
use crate::effective::Effective;
use crate::kinds::BundleDoc;
use crate::report::Finding;
use crate::scalar::VersionText;
use crate::suggest;

/// The version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Classes that must be there, and must be critical; and a program that is new enough.
pub(super) fn check(selected: &Selected<'_>, classes: Option<&ClassTable>, out: &mut Output) {
    let Some((document, bundle)) = bundle(&selected.changes) else { return };
    let spec = &bundle.spec;
    let own: VersionText = VERSION.parse().unwrap_or(VersionText([0, 0, 0]));
    if own < spec.min_gateway_version {
        out.error(document.spec().key("minGatewayVersion").finding(format!(
            "this policy is for gateways from {} on, and this one is {own}: use a newer one",
            spec.min_gateway_version
        )));
    }
    let Some(classes) = classes else { return };
    let list = document.spec().key("guards").key("requiredClasses");
    let required = spec.guards.iter().flat_map(|guards| guards.required_classes.iter().flatten());
    for (index, name) in required.enumerate() {
        let spot = list.index(index);
        match classes.iter().find(|(_, class)| *class.name == *name.0) {
            None => {
                let names: Vec<&str> = classes.iter().map(|(_, class)| &*class.name).collect();
                let hint = suggest::hint(&name.0, names);
                out.error(spot.finding(format!(
                    "the class `{}` has to be there, and is not: {hint}",
                    name.0
                )));
            }
            Some((_, class)) if !class.critical => out.error(spot.finding(format!(
                "the class `{}` has to be there, and is not critical: write `critical: true` in \
                 its TrafficClass",
                name.0
            ))),
            Some(_) => {}
        }
    }
}

fn bundle<'a>(documents: &[&'a Document]) -> Option<(&'a Document, &'a BundleDoc)> {
    documents.iter().find_map(|document| {
        let Body::Bundle(body) = &document.body else { return None };
        Some((*document, body))
    })
}

/// Why `new` must not follow `old` in one store, as the guards of the new policy have it: a
/// guarantee of a critical class falls by more than `most` percent of what it was, or a rule that
/// sent requests somewhere sends them nowhere.
pub fn against(old: &Effective, new: &Effective, most: Option<u8>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let error = |message: String, path: String| Finding::new(None, message).at_path(path);
    for (_, class) in old.classes.iter().filter(|(_, class)| class.critical) {
        let path = format!("classes.{}", super::step(&class.name));
        let Some((_, after)) = new.classes.iter().find(|(_, after)| after.name == class.name)
        else {
            let message = format!(
                "the critical class `{}` would be gone: keep it, or make it uncritical first",
                class.name
            );
            findings.push(error(message, path));
            continue;
        };
        let Some(most) = most else { continue };
        let capacity = |config: &Effective| {
            config.links.first().map(|link| link.capacity).unwrap_or(PerDirection {
                up: BitRate::from_bits_per_second(0),
                down: BitRate::from_bits_per_second(0),
            })
        };
        for direction in Direction::BOTH {
            let (was, is) = (*class.guarantee.get(direction), *after.guarantee.get(direction));
            let before = bits(was, *capacity(old).get(direction));
            let now = bits(is, *capacity(new).get(direction));
            if u128::from(now) * 100 < u128::from(before) * u128::from(100 - most.min(100)) {
                findings.push(error(
                    format!(
                        "the guarantee of the critical class `{}` ({}) would fall from {} to {}, \
                         by more than {most}%: lower it in steps, or raise `maxCapacityDrop`",
                        class.name,
                        direction.label(),
                        share_text(was),
                        share_text(is)
                    ),
                    format!("{path}.guarantee.{}", direction.label()),
                ));
            }
        }
    }
    findings.extend(unserved(old, new));
    findings
}

fn bits(share: Share, capacity: BitRate) -> u64 {
    share.of(capacity).bits_per_second()
}

/// Rules that had a backend and have none.
fn unserved(old: &Effective, new: &Effective) -> Vec<Finding> {
    let mut findings = Vec::new();
    for before in old.routes.rules.iter().filter(|rule| !rule.tiers.is_empty()) {
        let after = new
            .routes
            .rules
            .iter()
            .find(|rule| rule.route == before.route && rule.name == before.name);
        if after.is_some_and(|rule| rule.tiers.is_empty()) {
            let path =
                format!("routes.{}.{}", super::step(&before.route), super::step(&before.name));
            let message = format!(
                "the rule `{}` of the route `{}` had backends and would have none: keep one, or \
                 give the new answer a rule of its own",
                before.name, before.route
            );
            findings.push(Finding::new(None, message).at_path(path));
        }
    }
    findings
}
