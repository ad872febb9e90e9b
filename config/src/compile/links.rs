//! The WAN lines: the store's numbers under the LinkPolicy's rules.
//!
//! The `Store` says what is installed, the `LinkPolicy` how it is used; numbers that differ from
//! store to store stay in the former. Without a policy every link of the store is taken and the
//! first is the primary one. Which line a connection takes is decided in the core.

use std::collections::BTreeMap;
use std::sync::Arc;

use tillgate_core::link::{LinkRole, LinkSpec};
use tillgate_core::units::{BitRate, PerDirection};

use super::select::Selected;
use super::{Output, step};
use crate::document::Spot;
use crate::effective::Origin;
use crate::kinds::RatePair;
use crate::kinds::link_policy::{PolicyLink, Role};
use crate::kinds::store::StoreLink;
use crate::{defaults, suggest};

type InStore<'a> = BTreeMap<&'a str, (&'a StoreLink, Spot<'a>)>;

/// The links in the order of the store's document; those that only the policy knows come last.
pub(super) fn compile(selected: &Selected<'_>, out: &mut Output) -> Vec<LinkSpec> {
    let Some((document, store)) = selected.store else { return Vec::new() };
    let spot = document.spec().key("links");
    let mut in_store: InStore<'_> = BTreeMap::new();
    let mut names = Vec::new();
    for (index, link) in store.spec.links.iter().enumerate() {
        let spot = spot.index(index);
        let first = in_store.get(&*link.name.0).map(|(_, first)| first.key("name").place());
        if let Some(first) = first {
            let message =
                format!("the link `{}` is there twice: rename or remove one", link.name.0);
            out.error(spot.key("name").finding(message).related(first, "is the first one"));
            continue;
        }
        names.push(link.name.0.as_str());
        in_store.insert(&link.name.0, (link, spot));
    }
    if selected.link_policy.is_some() {
        return by_policy(selected, &in_store, &names, out);
    }
    names
        .iter()
        .enumerate()
        .filter_map(|(index, name)| {
            let (link, spot) = in_store.get(name)?;
            let role = if index == 0 { LinkRole::Primary } else { LinkRole::Backup };
            let base = format!("links.{}", step(name));
            let mut spec = bare(name, role, capacity(&link.capacity, &base, spot, out));
            for field in ["role", "headroom", "overhead", "metered"] {
                out.origins.insert(format!("{base}.{field}"), Origin::Default);
            }
            bind(&mut spec, link, &base, spot, out);
            Some(spec)
        })
        .collect()
}

fn bare(name: &str, role: LinkRole, capacity: PerDirection<BitRate>) -> LinkSpec {
    LinkSpec {
        name: name.into(),
        role,
        capacity,
        headroom: defaults::HEADROOM,
        overhead_bytes: defaults::OVERHEAD_BYTES,
        metered: false,
        device: None,
        source: None,
    }
}

fn capacity(
    pair: &RatePair,
    base: &str,
    spot: &Spot<'_>,
    out: &mut Output,
) -> PerDirection<BitRate> {
    let spot = spot.key("capacity");
    PerDirection {
        up: out.given(&format!("{base}.capacity.up"), &spot.key("up"), pair.up.0),
        down: out.given(&format!("{base}.capacity.down"), &spot.key("down"), pair.down.0),
    }
}

fn bind(spec: &mut LinkSpec, link: &StoreLink, base: &str, spot: &Spot<'_>, out: &mut Output) {
    let device: Option<Arc<str>> = link.device.as_ref().map(|device| device.0.as_str().into());
    let source = link.source.map(|source| source.0);
    spec.device = out.value(&format!("{base}.device"), &spot.key("device"), device.map(Some), None);
    spec.source = out.value(&format!("{base}.source"), &spot.key("source"), source.map(Some), None);
}

fn by_policy(
    selected: &Selected<'_>,
    in_store: &InStore<'_>,
    names: &[&str],
    out: &mut Output,
) -> Vec<LinkSpec> {
    let Some((document, policy)) = selected.link_policy else { return Vec::new() };
    let spot = document.spec().key("links");
    let mut specs: BTreeMap<(usize, usize), LinkSpec> = BTreeMap::new();
    let mut seen: BTreeMap<&str, Spot<'_>> = BTreeMap::new();
    for (index, link) in policy.spec.links.iter().enumerate() {
        let spot = spot.index(index);
        if let Some(first) = seen.get(&*link.name.0) {
            let message = format!("the link `{}` is there twice: remove one", link.name.0);
            let finding = spot.key("name").finding(message);
            out.error(finding.related(first.key("name").place(), "is the first one"));
            continue;
        }
        let position = names.iter().position(|name| *name == link.name.0);
        if let Some(spec) = one(link, &spot, in_store, names, out) {
            specs.insert((position.unwrap_or(names.len()), index), spec);
        }
        seen.insert(&link.name.0, spot);
    }
    let no_primary = policy.spec.links.iter().all(|link| link.role != Role::Primary);
    if no_primary {
        out.error(spot.finding("no link has the role Primary: give it to the one used by default"));
    }
    for name in names.iter().filter(|name| !seen.contains_key(**name)) {
        if let Some((_, spot)) = in_store.get(name) {
            out.report.lints.push(spot.key("name").finding(format!(
                "the link `{name}` is not used, because {} does not name it: name it there, or \
                 remove it",
                document.title()
            )));
        }
    }
    specs.into_values().collect()
}

fn one(
    link: &PolicyLink,
    spot: &Spot<'_>,
    in_store: &InStore<'_>,
    names: &[&str],
    out: &mut Output,
) -> Option<LinkSpec> {
    let name = link.name.0.as_str();
    let base = format!("links.{}", step(name));
    let of_store = in_store.get(name);
    let capacity = match (&link.capacity, link.capacity_from, of_store) {
        (Some(_), Some(_), _) => {
            out.error(spot.key("capacityFrom").finding(format!(
                "the link `{name}` has both `capacity` and `capacityFrom`: remove one of them"
            )));
            return None;
        }
        (Some(pair), None, _) => capacity(pair, &base, spot, out),
        (None, _, Some((link, spot))) => capacity(&link.capacity, &base, spot, out),
        (None, _, None) => {
            let hint = suggest::hint(name, names.iter().copied());
            out.error(spot.key("name").finding(format!(
                "the Store has no link `{name}` to take the capacity from: {hint}"
            )));
            return None;
        }
    };
    let role = match link.role {
        Role::Primary => LinkRole::Primary,
        Role::Backup => LinkRole::Backup,
    };
    let role = out.given(&format!("{base}.role"), &spot.key("role"), role);
    let mut spec = bare(name, role, capacity);
    let headroom = link.headroom.map(|percent| percent.0);
    if headroom.is_some_and(|percent| percent.value() > 50) {
        out.error(spot.key("headroom").finding(
            "a headroom of more than 50% leaves most of the line unused: write the true capacity \
             instead",
        ));
    }
    let path = format!("{base}.headroom");
    spec.headroom = out.value(&path, &spot.key("headroom"), headroom, defaults::HEADROOM);
    let overhead = link.overhead.map(crate::scalar::Whole::fit);
    let path = format!("{base}.overhead");
    spec.overhead_bytes =
        out.value(&path, &spot.key("overhead"), overhead, defaults::OVERHEAD_BYTES);
    let metered = link.metered.map(|flag| flag.0);
    spec.metered = out.value(&format!("{base}.metered"), &spot.key("metered"), metered, false);
    match of_store {
        Some((link, spot)) => bind(&mut spec, link, &base, spot, out),
        None => {
            for field in ["device", "source"] {
                out.origins.insert(format!("{base}.{field}"), Origin::Default);
            }
        }
    }
    Some(spec)
}
