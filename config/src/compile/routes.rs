//! Routes: hosts, tiers of backends, timeouts; matches and filters in modules of their own.
//!
//! In: the selected `ServiceRoute` documents and what they may refer to. Out: the core's table of
//! rules. Order in a file never decides between rules; pairs that nothing orders are found in
//! `ambiguity`.

use std::collections::BTreeMap;
use std::time::Duration;

use tillgate_core::backend::{BackendId, BackendProtocol, Timeouts};
use tillgate_core::class::{ClassId, ClassTable};
use tillgate_core::filter::Action;
use tillgate_core::matching::{BackendRef, HostPattern, RouteTable, Rule};

use super::backends::Compiled;
use super::select::Selected;
use super::{Input, Output, ambiguity, dangling, filters, matches, persistence, resilience, step};
use crate::defaults;
use crate::document::{Document, Spot};
use crate::effective::Origin;
use crate::kinds::service_route::{RuleDoc, TimeoutsDoc};
use crate::kinds::{Kind, ServiceRouteDoc, duration};
use crate::report::Finding;
use crate::scalar::{DurationText, HostText, Name, Whole};

/// What a reference may name.
struct Known<'a> {
    input: &'a Input,
    classes: &'a ClassTable,
    backends: &'a [Compiled],
    /// Positions in `backends` by name.
    by_name: BTreeMap<&'a str, usize>,
}

/// A rule with where it stands, for messages about two of them.
pub(super) struct Placed<'a> {
    pub(super) rule: Rule,
    pub(super) hosts: Spot<'a>,
    pub(super) spot: Spot<'a>,
}

/// The rules in the order of route names and documents. `None` if there are too many, or no
/// classes to refer to.
pub(super) fn compile(
    selected: &Selected<'_>,
    input: &Input,
    classes: &Option<ClassTable>,
    backends: &[Compiled],
    out: &mut Output,
) -> Option<RouteTable> {
    let by_name = backends.iter().enumerate().map(|(at, one)| (&*one.spec.name, at)).collect();
    let known = Known { input, classes: classes.as_ref()?, backends, by_name };
    let mut rules = Vec::new();
    for (document, route) in &selected.routes {
        one(document, route, &known, &mut rules, out);
    }
    ambiguity::check(&rules, out);
    let count = rules.len();
    let table = RouteTable::new(rules.into_iter().map(|placed| placed.rule).collect());
    if table.is_none() {
        let message = format!("the store has {count} rules, more than 65536: merge some");
        out.error(Finding::new(None, message));
    }
    table
}

fn one<'a>(
    document: &'a Document,
    route: &ServiceRouteDoc,
    known: &Known<'_>,
    rules: &mut Vec<Placed<'a>>,
    out: &mut Output,
) {
    let spot = document.spec();
    let hosts = hosts(&route.spec.hostnames, &spot.key("hostnames"), out);
    let class_spot = spot.key("trafficClass");
    let class = class(route.spec.traffic_class.as_ref(), &class_spot, known, out);
    let mut names: BTreeMap<&str, Spot<'_>> = BTreeMap::new();
    for (index, rule) in route.spec.rules.iter().enumerate() {
        let spot = spot.key("rules").index(index);
        let name = rule.name.0.as_str();
        let name_spot = spot.key("name");
        if let Some(first) = names.get(name) {
            let message = format!("the rule `{name}` is there twice in this route: rename one");
            out.error(name_spot.finding(message).related(first.place(), "is the first one"));
            continue;
        }
        names.insert(name, name_spot);
        let base = format!("routes.{}.{}", step(&document.name), step(name));
        out.origins.insert(base.clone(), spot.origin());
        for (index, _) in hosts.iter().enumerate() {
            let host = document.spec().key("hostnames").index(index);
            out.given(&format!("{base}.hostnames[{index}]"), &host, ());
        }
        let (class, class_spot) = match rule.traffic_class.is_some() {
            true => {
                let spot = spot.key("trafficClass");
                (self::class(rule.traffic_class.as_ref(), &spot, known, out), spot)
            }
            false => (class, class_spot.clone()),
        };
        out.origins.insert(format!("{base}.trafficClass"), class_spot.origin());
        let matches = matches::compile(rule, &spot, &base, out);
        let given = filters::Given { rule, matches: &matches, spot: &spot, base: &base };
        let (action, filters) = filters::compile(&given, out);
        let tiers = tiers(rule, &action, (&spot, &base), known, out);
        let timeouts = timeouts(rule.timeouts.as_ref(), &action, (&spot, &base), out);
        let about = resilience::About {
            rule,
            action: &action,
            tiers: &tiers,
            timeouts: &timeouts,
            backends: known.backends,
            spot: &spot,
            base: &base,
        };
        let (failover, retry) = resilience::compile(&about, out);
        let rule = Rule {
            route: document.name.clone(),
            name: name.into(),
            hosts: hosts.clone(),
            class,
            tiers,
            timeouts,
            failover,
            retry,
            matches,
            action,
            filters,
            persistence: persistence::session(rule.session_persistence.as_ref(), &spot, &base, out),
            rate_limits: persistence::rate_limits(rule.rate_limits.as_ref(), &spot, &base, out),
        };
        rules.push(Placed { rule, hosts: document.spec().key("hostnames"), spot });
    }
}

/// The hosts without repetition.
pub(super) fn hosts(texts: &[HostText], spot: &Spot<'_>, out: &mut Output) -> Vec<HostPattern> {
    let mut hosts: Vec<HostPattern> = Vec::new();
    for (index, host) in texts.iter().enumerate() {
        if let Some(first) = hosts.iter().position(|known| *known == host.0) {
            let message =
                format!("the hostname `{}` is there twice: remove one", host_text(&host.0));
            let first = spot.index(first).place();
            out.error(spot.index(index).finding(message).related(first, "is the first one"));
        }
        hosts.push(host.0.clone());
    }
    hosts
}

/// A pattern as a policy writes it.
pub(crate) fn host_text(pattern: &HostPattern) -> String {
    pattern.to_string()
}

fn class(
    name: Option<&Name>,
    spot: &Spot<'_>,
    known: &Known<'_>,
    out: &mut Output,
) -> Option<ClassId> {
    let name = name?;
    let id = known.classes.id(&name.0);
    if id.is_none() {
        let names: Vec<&str> = known.classes.iter().map(|(_, class)| &*class.name).collect();
        let finding = dangling(known.input, Kind::TrafficClass, &name.0, spot, names);
        out.report.errors.extend(finding);
    }
    id
}

/// A reference with where it stands.
struct Placement<'a> {
    reference: BackendRef,
    weight_given: bool,
    spot: Spot<'a>,
}

/// Refs without `fallback` are tier one, each fallback is one further tier, in order.
fn tiers(
    rule: &RuleDoc,
    action: &Action,
    (spot, base): (&Spot<'_>, &str),
    known: &Known<'_>,
    out: &mut Output,
) -> Vec<Vec<BackendRef>> {
    if *action != Action::Forward {
        return Vec::new();
    }
    let spot = spot.key("backendRefs");
    let mut first: Vec<Placement<'_>> = Vec::new();
    let mut fallbacks: Vec<Placement<'_>> = Vec::new();
    let mut seen: BTreeMap<&str, Spot<'_>> = BTreeMap::new();
    for (index, reference) in rule.backend_refs.iter().flatten().enumerate() {
        let spot = spot.index(index);
        let name = reference.name.0.as_str();
        if let Some(earlier) = seen.get(name) {
            let message = format!(
                "the backend `{name}` is there twice in this rule: remove one, or add the weights"
            );
            let finding = spot.key("name").finding(message);
            out.error(finding.related(earlier.key("name").place(), "is the first one"));
            continue;
        }
        seen.insert(name, spot.clone());
        let Some(backend) = backend(name, &spot.key("name"), known, out) else { continue };
        let fallback = reference.fallback.is_some_and(|flag| flag.0);
        let weight = reference.weight.map_or(1, Whole::fit);
        if fallback && reference.weight.is_some_and(|weight| weight.value() == 0) {
            out.error(spot.key("weight").finding(format!(
                "the fallback `{name}` has the weight 0 and could never take traffic: remove the \
                 weight, or the reference"
            )));
        }
        let list = if fallback { &mut fallbacks } else { &mut first };
        let weight_given = reference.weight.is_some();
        list.push(Placement { reference: BackendRef { backend, weight }, weight_given, spot });
    }
    if first.is_empty() && !fallbacks.is_empty() && known.sound() {
        out.error(spot.finding(
            "every backend of the rule is a fallback: leave out `fallback` for those that come first",
        ));
    }
    if !first.is_empty() && first.iter().all(|one| one.reference.weight == 0) {
        out.error(spot.finding(
            "all weights are 0, so no backend would take traffic: raise one, or remove the rule",
        ));
    }
    let tiers = std::iter::once(first).chain(fallbacks.into_iter().map(|one| vec![one]));
    let tiers: Vec<Vec<Placement<'_>>> = tiers.filter(|tier| !tier.is_empty()).collect();
    note_tiers(&tiers, base, out);
    let bare = |tier: Vec<Placement<'_>>| tier.into_iter().map(|one| one.reference).collect();
    tiers.into_iter().map(bare).collect()
}

fn note_tiers(tiers: &[Vec<Placement<'_>>], base: &str, out: &mut Output) {
    for (tier, references) in tiers.iter().enumerate() {
        for (index, reference) in references.iter().enumerate() {
            let spot = &reference.spot;
            let base = format!("{base}.tiers[{tier}][{index}]");
            let weight =
                if reference.weight_given { spot.key("weight").origin() } else { Origin::Default };
            out.given(&format!("{base}.backend"), &spot.key("name"), ());
            out.origins.insert(format!("{base}.weight"), weight);
        }
    }
}

impl Known<'_> {
    /// Nothing was refused, so that a missing reference is a mistake of its own.
    fn sound(&self) -> bool {
        self.input.refused.is_empty()
    }
}

fn backend(name: &str, spot: &Spot<'_>, known: &Known<'_>, out: &mut Output) -> Option<BackendId> {
    let Some(&position) = known.by_name.get(name) else {
        let names: Vec<&str> = known.by_name.keys().copied().collect();
        out.report.errors.extend(dangling(known.input, Kind::Backend, name, spot, names));
        return None;
    };
    let speaks = match known.backends[position].spec.protocol {
        BackendProtocol::Tcp => Some("TCP"),
        BackendProtocol::Udp => Some("UDP"),
        BackendProtocol::Http | BackendProtocol::Http2 | BackendProtocol::Grpc => None,
    };
    if let Some(speaks) = speaks {
        out.error(spot.finding(format!(
            "the backend `{name}` speaks {speaks} and cannot answer HTTP requests: give it `protocol: \
             HTTP`, or name another one"
        )));
    }
    u16::try_from(position).ok().map(BackendId)
}

fn timeouts(
    given: Option<&TimeoutsDoc>,
    action: &Action,
    (spot, base): (&Spot<'_>, &str),
    out: &mut Output,
) -> Timeouts {
    if *action != Action::Forward {
        return defaults::TIMEOUTS;
    }
    let spot = spot.key("timeouts");
    let path = |field: &str| format!("{base}.timeouts.{field}");
    // Gateway API: zero switches the timeout off.
    let optional = |text: Option<DurationText>| {
        duration(text).map(|time| (time > Duration::ZERO).then_some(time))
    };
    let request = optional(given.and_then(|given| given.request));
    let backend_request = optional(given.and_then(|given| given.backend_request));
    if let (Some(Some(request)), Some(Some(one))) = (request, backend_request)
        && one > request
    {
        let message = "one try may take longer than the whole request: lower `backendRequest`, or \
                       raise `request`";
        let finding = spot.key("backendRequest").finding(message);
        out.error(finding.related(spot.key("request").place(), "is the whole request"));
    }
    Timeouts {
        request: out.value(&path("request"), &spot.key("request"), request, None),
        backend_request: out.value(
            &path("backendRequest"),
            &spot.key("backendRequest"),
            backend_request,
            Some(defaults::BACKEND_REQUEST_TIMEOUT),
        ),
        connect: out.positive(
            &path("connect"),
            &spot.key("connect"),
            given.and_then(|given| given.connect),
            defaults::CONNECT_TIMEOUT,
        ),
        idle: out.positive(
            &path("idle"),
            &spot.key("idle"),
            given.and_then(|given| given.idle),
            defaults::IDLE_TIMEOUT,
        ),
    }
}
