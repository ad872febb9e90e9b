//! Rules of routes and of the egress policy that windows, freezes and overrides name.
//!
//! In: what a document applies to. Out: nothing, or what is wrong with it. Whatever is named is
//! there, if not for this store, and carries no critical class: a slip in a calendar must not stop
//! payments.

use tillgate_core::class::ClassId;
use tillgate_core::gate::RouteName;
use tillgate_core::matching::NaturalClasses;

use super::Output;
use super::gate::{Of, refer};
use super::select::Selected;
use crate::document::{Body, Spot};
use crate::kinds::calendar::AppliesToDoc;
use crate::kinds::egress_policy::EgressRuleDoc;
use crate::kinds::service_route::ServiceRouteSpec;
use crate::kinds::{EgressPolicyDoc, Kind};
use crate::scalar::Name;
use crate::suggest;

impl AppliesToDoc {
    /// Whether it holds requests that meet a rule, not only images.
    pub(super) const fn names_rules(&self) -> bool {
        self.routes.is_some() || self.egress_rules.is_some()
    }
}

/// See the module.
pub(super) fn check(
    given: &AppliesToDoc,
    spot: &Spot<'_>,
    selected: &Selected<'_>,
    of: &Of<'_>,
    out: &mut Output,
) {
    if given.rollouts.is_none() && !given.names_rules() {
        out.error(
            spot.finding("it applies to nothing: name `rollouts`, `routes` or `egressRules`"),
        );
    }
    if given.rollouts.is_none() && given.images.is_some() {
        out.error(
            spot.key("images").finding("only rollouts have images: add `rollouts`, or remove this"),
        );
    }
    let list = spot.key("routes");
    for (index, name) in given.routes.iter().flatten().enumerate() {
        route(&name.0, &list.index(index), selected, of, out);
    }
    let list = spot.key("egressRules");
    for (index, name) in given.egress_rules.iter().flatten().enumerate() {
        egress(name, &list.index(index), selected, of, out);
    }
}

fn route(
    name: &RouteName,
    spot: &Spot<'_>,
    selected: &Selected<'_>,
    of: &Of<'_>,
    out: &mut Output,
) {
    let left_out = selected.left_out.iter().filter_map(|document| {
        let Body::ServiceRoute(body) = &document.body else { return None };
        Some((*document, body))
    });
    let mut specs: Vec<&ServiceRouteSpec> = Vec::new();
    let mut names = Vec::new();
    for (document, body) in selected.routes.iter().copied().chain(left_out) {
        names.push(&*document.name);
        if *document.name == *name.route {
            specs.push(&body.spec);
        }
    }
    if !refer(of, Kind::ServiceRoute, &name.route, spot, names, out) || specs.is_empty() {
        return;
    }
    let rules = || specs.iter().flat_map(|spec| &spec.rules);
    let meant = |rule: &str| name.rule.as_ref().is_none_or(|meant| **meant == *rule);
    if !rules().any(|rule| meant(&rule.name.0)) {
        let wanted = name.rule.as_deref().unwrap_or_default();
        let hint = suggest::hint(wanted, rules().map(|rule| &*rule.name.0));
        let route = &name.route;
        out.error(spot.finding(format!("the route `{route}` has no rule `{wanted}`: {hint}")));
    }
    for spec in specs {
        for rule in spec.rules.iter().filter(|rule| meant(&rule.name.0)) {
            let class = rule.traffic_class.as_ref().or(spec.traffic_class.as_ref());
            let rule = format!("the rule `{}` of the route `{}`", rule.name.0, name.route);
            is_bulk(class, &rule, spot, of, out);
        }
    }
}

fn egress(name: &Name, spot: &Spot<'_>, selected: &Selected<'_>, of: &Of<'_>, out: &mut Output) {
    let left_out = selected.left_out.iter().filter_map(|document| {
        let Body::EgressPolicy(body) = &document.body else { return None };
        Some(body)
    });
    let policies = selected.egress.iter().map(|(_, body)| *body).chain(left_out);
    let rules: Vec<&EgressRuleDoc> = policies.flat_map(rules_of).collect();
    if !rules.iter().any(|rule| rule.name == *name) {
        if of.input.may_have_refused(Kind::EgressPolicy, None) {
            return;
        }
        let hint = suggest::hint(&name.0, rules.iter().map(|rule| &*rule.name.0));
        out.error(
            spot.finding(format!("no rule of an EgressPolicy is called `{}`: {hint}", name.0)),
        );
    }
    for rule in rules.into_iter().filter(|rule| rule.name == *name) {
        let text = format!("the rule `{}` of the EgressPolicy", name.0);
        is_bulk(rule.traffic_class.as_ref(), &text, spot, of, out);
    }
}

fn rules_of(policy: &EgressPolicyDoc) -> impl Iterator<Item = &EgressRuleDoc> {
    policy.spec.rules.iter().flatten()
}

/// What must never wait carries no critical class. Without a class of its own, what meets a rule
/// has one of the natural ones, as it looks: none of them may be critical then.
fn is_bulk(class: Option<&Name>, rule: &str, spot: &Spot<'_>, of: &Of<'_>, out: &mut Output) {
    let critical = |id: &ClassId| of.classes.get(*id).critical;
    if let Some(name) = class {
        if of.classes.id(&name.0).as_ref().is_some_and(critical) {
            out.error(spot.finding(format!(
                "{rule} has the critical class `{}`, which no calendar may hold: name other rules, \
                 or give it another class",
                name.0
            )));
        }
        return;
    }
    if let Some(id) = NaturalClasses::of(of.classes).all().find(critical) {
        out.error(spot.finding(format!(
            "{rule} has no class, so its requests may get the critical class `{}`, which no \
             calendar may hold: give it a class that is not critical",
            of.classes.get(id).name
        )));
    }
}
