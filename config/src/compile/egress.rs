//! The forward proxy's rules.
//!
//! In: the one `EgressPolicy` that applies. Out: its table, with rules in the order of the
//! document, which never decides: two rules for the same destination and port are refused.
//! Without a policy there is no table; who may listen then is decided in `listeners`.

use std::collections::BTreeMap;

use ipnet::IpNet;
use tillgate_core::backend::Location;
use tillgate_core::class::{ClassId, ClassTable};
use tillgate_core::matching::{
    EgressDestination, EgressRule, EgressTable, HostPattern, TrafficPolicy,
};

use super::backends::location;
use super::routes::{host_text, hosts};
use super::select::Selected;
use super::{Input, Output, dangling, step};
use crate::document::Spot;
use crate::effective::Origin;
use crate::kinds::Kind;
use crate::kinds::egress_policy::{DestinationDoc, EgressRuleDoc, TrafficPolicyDoc};
use crate::scalar::Whole;
use crate::suggest;

/// What a destination is told apart by: rules that share one are ambiguous.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Host(HostPattern, Option<u16>),
    Network(IpNet, Option<u16>),
}

/// The table; `None` without an EgressPolicy.
pub(super) fn compile(
    selected: &Selected<'_>,
    input: &Input,
    classes: &Option<ClassTable>,
    out: &mut Output,
) -> Option<EgressTable> {
    let Some((document, policy)) = selected.egress else {
        out.origins.insert("egress".to_owned(), Origin::Default);
        return None;
    };
    let spot = document.spec();
    let traffic_policy = match policy.spec.traffic_policy {
        TrafficPolicyDoc::Allow => TrafficPolicy::Allow,
        TrafficPolicyDoc::Deny => TrafficPolicy::Deny,
    };
    out.given("egress.trafficPolicy", &spot.key("trafficPolicy"), ());
    let mut names: BTreeMap<&str, Spot<'_>> = BTreeMap::new();
    let mut targets: BTreeMap<Target, (String, Spot<'_>)> = BTreeMap::new();
    let mut rules = Vec::new();
    for (index, rule) in policy.spec.rules.iter().flatten().enumerate() {
        let spot = spot.key("rules").index(index);
        let name = rule.name.0.as_str();
        if let Some(first) = names.get(name) {
            let message = format!("the rule `{name}` is there twice: rename one");
            let first = first.place();
            out.error(spot.key("name").finding(message).related(first, "is the first one"));
            continue;
        }
        names.insert(name, spot.key("name"));
        let base = format!("egress.rules.{}", step(name));
        out.origins.insert(base.clone(), spot.origin());
        let compiled = EgressRule {
            name: name.into(),
            destinations: destinations(rule, &spot, &base, out),
            class: class(rule, &spot, &base, (input, classes), out),
            location: out.value(
                &format!("{base}.location"),
                &spot.key("location"),
                rule.location.map(location),
                Location::Cloud,
            ),
        };
        ties(&compiled, &spot, &mut targets, out);
        rules.push(compiled);
    }
    Some(EgressTable::new(traffic_policy, rules))
}

/// Links that rules prefer must exist in this store, though the choice is not built yet.
pub(super) fn check_links(selected: &Selected<'_>, out: &mut Output) {
    let Some((document, policy)) = selected.egress else { return };
    for (index, rule) in policy.spec.rules.iter().flatten().enumerate() {
        preferred(rule, &document.spec().key("rules").index(index), selected, out);
    }
}

fn preferred(rule: &EgressRuleDoc, spot: &Spot<'_>, selected: &Selected<'_>, out: &mut Output) {
    let Some((_, store)) = selected.store else { return };
    let policy = selected.link_policy.iter().flat_map(|(_, policy)| &policy.spec.links);
    let store = store.spec.links.iter().map(|link| link.name.0.as_str());
    let known: Vec<&str> = store.chain(policy.map(|link| link.name.0.as_str())).collect();
    let wanted = rule.links.as_ref().and_then(|links| links.prefer.as_ref());
    for (index, name) in wanted.into_iter().flatten().enumerate() {
        if !known.contains(&name.0.as_str()) {
            let spot = spot.key("links").key("prefer").index(index);
            let hint = suggest::hint(&name.0, known.iter().copied());
            out.error(spot.finding(format!("the store has no link `{}`: {hint}", name.0)));
        }
    }
}

fn class(
    rule: &EgressRuleDoc,
    spot: &Spot<'_>,
    base: &str,
    known: (&Input, &Option<ClassTable>),
    out: &mut Output,
) -> Option<ClassId> {
    let spot = spot.key("trafficClass");
    out.origins.insert(format!("{base}.trafficClass"), spot.origin());
    let (name, classes) = (rule.traffic_class.as_ref()?, known.1.as_ref()?);
    let id = classes.id(&name.0);
    if id.is_none() {
        let names: Vec<&str> = classes.iter().map(|(_, class)| &*class.name).collect();
        let finding = dangling(known.0, Kind::TrafficClass, &name.0, &spot, names);
        out.report.errors.extend(finding);
    }
    id
}

fn destinations(
    rule: &EgressRuleDoc,
    spot: &Spot<'_>,
    base: &str,
    out: &mut Output,
) -> Vec<EgressDestination> {
    let spot = spot.key("destinations");
    let one = |(index, destination)| {
        let base = format!("{base}.destinations[{index}]");
        destination_of(destination, &spot.index(index), &base, out)
    };
    rule.destinations.iter().enumerate().map(one).collect()
}

fn destination_of(
    destination: &DestinationDoc,
    spot: &Spot<'_>,
    base: &str,
    out: &mut Output,
) -> EgressDestination {
    match (&destination.hostnames, &destination.cidrs) {
        (Some(_), Some(_)) => {
            out.error(spot.key("cidrs").finding(
                "a destination has `hostnames` or `cidrs`, not both: write two destinations",
            ))
        }
        (None, None) => out.error(
            spot.finding("the destination says neither `hostnames` nor `cidrs`: add one of them"),
        ),
        _ => {}
    }
    let names = match &destination.hostnames {
        Some(names) => hosts(names, &spot.key("hostnames"), out),
        None => Vec::new(),
    };
    let networks = numbered(
        destination.cidrs.as_ref().map(|list| list.iter().map(|cidr| cidr.0).collect()),
        (&spot.key("cidrs"), "cidrs", "network"),
        base,
        out,
    );
    let ports = numbered(
        destination
            .ports
            .as_ref()
            .map(|list| list.iter().map(|port| Whole::fit::<u16>(*port)).collect()),
        (&spot.key("ports"), "ports", "port"),
        base,
        out,
    );
    for (index, _) in names.iter().enumerate() {
        let host = spot.key("hostnames").index(index);
        out.given(&format!("{base}.hostnames[{index}]"), &host, ());
    }
    EgressDestination { hosts: names, networks, ports }
}

/// A list that may be absent but not empty, and has nothing twice.
pub(super) fn numbered<T: PartialEq + std::fmt::Display>(
    items: Option<Vec<T>>,
    about: (&Spot<'_>, &str, &str),
    base: &str,
    out: &mut Output,
) -> Vec<T> {
    let (spot, field, noun) = about;
    let Some(items) = items else { return Vec::new() };
    for (index, item) in items.iter().enumerate() {
        if let Some(first) = items[..index].iter().position(|earlier| earlier == item) {
            let message = format!("the {noun} `{item}` is there twice: remove one");
            let first = spot.index(first).place();
            out.error(spot.index(index).finding(message).related(first, "is the first one"));
        }
        out.given(&format!("{base}.{field}[{index}]"), &spot.index(index), ());
    }
    items
}

/// Two rules for the same destination and port: nothing says which one is meant.
fn ties<'a>(
    rule: &EgressRule,
    spot: &Spot<'a>,
    targets: &mut BTreeMap<Target, (String, Spot<'a>)>,
    out: &mut Output,
) {
    for (index, destination) in rule.destinations.iter().enumerate() {
        let at = spot.key("destinations").index(index);
        let ports: Vec<Option<u16>> = match destination.ports.as_slice() {
            [] => vec![None],
            ports => ports.iter().copied().map(Some).collect(),
        };
        for port in ports {
            let hosts = destination.hosts.iter().map(|host| Target::Host(host.clone(), port));
            let networks = destination.networks.iter().map(|net| Target::Network(*net, port));
            for target in hosts.chain(networks) {
                let Some((name, first)) = targets.get(&target) else {
                    targets.insert(target, (rule.name.to_string(), at.clone()));
                    continue;
                };
                if *name == *rule.name {
                    continue;
                }
                let message = format!(
                    "the rules `{name}` and `{}` name the same destination, {}: remove it from one",
                    rule.name,
                    target.text()
                );
                out.error(at.finding(message).related(first.place(), "is the first one"));
            }
        }
    }
}

impl Target {
    fn text(&self) -> String {
        let (what, port) = match self {
            Self::Host(host, port) => (host_text(host), port),
            Self::Network(network, port) => (network.to_string(), port),
        };
        match port {
            Some(port) => format!("`{what}` on port {port}"),
            None => format!("`{what}` on every port"),
        }
    }
}
