//! What would happen to a request, without sending it.
//!
//! In: an effective config, the head of a request and the way by which it comes. Out: the rule that
//! it meets, its class, how long it may take, whether it may be sent again and why, and where it
//! goes. Every decision is asked of the code that makes it for real requests; here it is only put
//! into words. Nothing is known of what is alive: a running gateway's `/v1/status` says that.

use http::request::Parts;
use serde_json::{Value, json};
use tillgate_config::effective::Effective;
use tillgate_core::backend::{BackendProtocol, Location};
use tillgate_core::civil::Timestamp;
use tillgate_core::class::ClassId;
use tillgate_core::filter::Action;
use tillgate_core::gate::Clock;
use tillgate_core::link::{Destination, link_for};
use tillgate_core::matching::{BackendRef, Condition, Found, NaturalClasses, Rule};
use tillgate_core::mirror::MirrorSpec;
use tillgate_core::retry::{Permission, Repeat, Scope};
use tillgate_core::tls::ClientIdentity;
use tillgate_net::error::Failure;
use tillgate_net::http::headers;

use self::entrance::{Entrance, FORWARD_PROXY};
use crate::doors;
use crate::mirror;
use crate::problem::Refusal;
use crate::running::mirror_for;
use crate::serve;

#[cfg(test)]
mod agrees;
mod egress;
pub(crate) mod entrance;
pub(crate) mod image;
pub(crate) mod text;

/// A request that is asked about.
pub(crate) struct Asked<'a> {
    pub(crate) head: &'a Parts,
    pub(crate) entrance: Entrance<'a>,
    /// What the client's certificate says, if it shows one.
    pub(crate) client: Option<&'a ClientIdentity>,
}

/// What would happen to such a request at some moment, or why nothing would.
pub(crate) fn of(effective: &Effective, asked: &Asked<'_>, at: (Clock, Timestamp)) -> Value {
    let Asked { head, entrance, client } = *asked;
    match entrance {
        Entrance::Http { is_said } => match mirror_for(effective, &head.uri, &head.headers) {
            Some(spec) => at_mirror(effective, spec, head),
            None => at_entry(effective, (head, client), is_said, at),
        },
        Entrance::ForwardProxy(name) => egress::by_proxy(effective, name, head, at),
        Entrance::Passthrough(listener) => egress::passed_on(effective, listener, head, at),
    }
}

/// At the HTTP entry. Where nobody has said that it is meant and no route has the host, the forward
/// proxy may be: what that would do is told too.
fn at_entry(
    effective: &Effective,
    (head, client): (&Parts, Option<&ClientIdentity>),
    is_said: bool,
    at: (Clock, Timestamp),
) -> Value {
    let refusal = match Explanation::of(effective, head, client) {
        Ok(explanation) => return explanation.to_json(at),
        Err(refusal) => refusal,
    };
    let mut shown = json!({
        "request": request(head),
        "refused": refusal.failure.reason(),
        "detail": refusal.detail,
        "rejected": rejected(effective, (head, client), None),
    });
    let is_unknown = refusal.failure == Failure::UnknownHost;
    if is_unknown && !is_said && effective.egress.is_some() {
        shown["forwardProxy"] = egress::by_proxy(effective, FORWARD_PROXY, head, at);
    }
    shown
}

/// At the registry mirror, which is not asked by rules.
fn at_mirror(effective: &Effective, spec: &MirrorSpec, head: &Parts) -> Value {
    let (upstream, repository, id) = mirror::meant(effective, spec, head);
    let rollout = effective.gate.in_charge(&upstream.registry, repository, "");
    let why = match rollout {
        Some(_) => "the Rollout of the image names it",
        None => "the registry's, as no Rollout has the image",
    };
    let repository = Some(repository).filter(|name| !name.is_empty());
    json!({
        "request": request(head),
        "mirror": {
            "name": &*spec.name,
            "registry": &*upstream.registry,
            "repository": repository,
            "rollout": rollout.map(|rollout| &*rollout.name),
        },
        "origin": effective.origin("mirror").map(ToString::to_string),
        "trafficClass": class(effective, id, why, None),
    })
}

fn request(head: &Parts) -> Value {
    json!({"method": head.method.as_str(), "target": head.uri.to_string()})
}

/// The rules of the request's host that it did not meet, and why not.
fn rejected(
    effective: &Effective,
    (head, client): (&Parts, Option<&ClientIdentity>),
    found: Option<Found>,
) -> Value {
    let Ok(host) = headers::host_of(head) else { return json!([]) };
    let near = effective.routes.near(serve::facts(&host, head, client), found);
    let shown = near.into_iter().map(|one| {
        let rule = effective.routes.rule(one.rule);
        let missed: Vec<String> = one.missed.iter().map(Condition::to_string).collect();
        let because = match missed.as_slice() {
            [] => "it matches too, but less precisely".to_owned(),
            missed => format!("not {}", missed.join(", not ")),
        };
        json!({
            "document": format!("ServiceRoute/{}", rule.route),
            "rule": &*rule.name,
            "because": because,
            "origin": effective.origin(&effective.path_of_rule(rule)).map(ToString::to_string),
        })
    });
    shown.collect()
}

/// A class, and why it is this one.
fn class(effective: &Effective, id: ClassId, why: &str, origin: Option<String>) -> Value {
    let class = effective.classes.get(id);
    let shown = effective.class_to_json(class);
    json!({
        "name": &*class.name,
        "priority": class.priority,
        "critical": class.critical,
        "guarantee": shown["guarantee"],
        "maxWait": shown["queue"]["maxWait"],
        "why": why,
        "origin": origin,
    })
}

/// Why a request that nothing names a class for is of this one.
fn why_natural(natural: NaturalClasses, class: ClassId) -> &'static str {
    if class == natural.default() {
        "nothing names one, so it is the default"
    } else {
        "nothing names one, and this is how the request looks"
    }
}

/// See the module; of a request at the HTTP entry.
pub(crate) struct Explanation<'a> {
    effective: &'a Effective,
    head: &'a Parts,
    client: Option<&'a ClientIdentity>,
    found: Found,
    class: ClassId,
    rule: &'a Rule,
    /// The rule as the effective config shows it.
    shown: Value,
    permission: Permission,
}

impl<'a> Explanation<'a> {
    /// What would happen to a request with this head, from such a client.
    ///
    /// # Errors
    /// Why it meets no rule.
    pub(crate) fn of(
        effective: &'a Effective,
        head: &'a Parts,
        client: Option<&'a ClientIdentity>,
    ) -> Result<Self, Refusal> {
        let natural = NaturalClasses::of(&effective.classes);
        let (found, class) = serve::classify(effective, natural, head, client)?;
        let rule = effective.routes.rule(found.rule);
        let permission = rule.retry.permission(&head.method, &head.headers);
        let shown = effective.rule_to_json(rule);
        Ok(Self { effective, head, client, found, class, rule, shown, permission })
    }

    /// For machines; only windows and freezes depend on the time.
    pub(crate) fn to_json(&self, at: (Clock, Timestamp)) -> Value {
        let Self { rule, effective, head, .. } = self;
        let place = rule.class.and_then(|_| self.origin("trafficClass"));
        let mut shown = json!({
            "request": request(head),
            "document": format!("ServiceRoute/{}", rule.route),
            "route": &*rule.route,
            "rule": &*rule.name,
            "origin": self.origin(""),
            "matched": self.value(&format!("/matches/{}", self.found.alternative)),
            "because": self.because(),
            "rejected": rejected(effective, (head, self.client), Some(self.found)),
            "trafficClass": class(effective, self.class, self.why_class(), place),
        });
        shown["gate"] = doors::explained(effective, doors::of_route(rule), at);
        if rule.action != Action::Forward {
            shown["answer"] = self.value("/redirect").or_else(|| self.value("/response")).into();
            return shown;
        }
        shown["timeouts"] = self.value("/timeouts").into();
        shown["retry"] = self.value("/retry").into();
        shown["retry"]["permission"] = json!({"where": self.place(), "why": self.why()});
        shown["idempotency"] = self.idempotency();
        shown["tiers"] = rule.tiers.iter().map(|tier| self.tier(tier)).collect();
        shown["failover"] = self.value("/failover").into();
        shown["sessionPersistence"] = self.value("/sessionPersistence").into();
        shown
    }

    /// What of the request met the rule.
    fn because(&self) -> Vec<String> {
        let host = self.rule.hosts.iter().map(ToString::to_string);
        let met = self.effective.routes.alternative(self.found).conditions();
        let hosts = format!("host {}", host.collect::<Vec<_>>().join(" or "));
        std::iter::once(hosts).chain(met.map(|one| one.to_string())).collect()
    }

    /// A part of the rule, as the effective config shows it.
    fn value(&self, path: &str) -> Option<Value> {
        self.shown.pointer(path).cloned()
    }

    /// Where a value of the rule stands, or without a field the rule: as `store.yaml:12:5`.
    fn origin(&self, field: &str) -> Option<String> {
        let rule = self.effective.path_of_rule(self.rule);
        let path = if field.is_empty() { rule } else { format!("{rule}.{field}") };
        self.effective.origin(&path).map(ToString::to_string)
    }

    fn why_class(&self) -> &'static str {
        match self.rule.class {
            Some(_) => "the rule or its route names it",
            None => why_natural(NaturalClasses::of(&self.effective.classes), self.class),
        }
    }

    const fn place(&self) -> &'static str {
        match self.permission.repeat() {
            Repeat::Nowhere => "nowhere",
            Repeat::SameBackend => "the same backend",
            Repeat::Anywhere => "every backend of the rule",
        }
    }

    /// Why a call may be sent again after it was sent, or may not.
    fn why(&self) -> String {
        let Self { rule, head, .. } = self;
        let key = rule.retry.idempotency.as_ref().map(|key| key.header.as_str());
        let key = key.unwrap_or_default();
        let why = match self.permission {
            Permission::Method => format!("{} is idempotent (RFC 9110)", head.method),
            Permission::Key(Scope::AllBackends) => {
                format!("it carries `{key}`, which all backends remember together")
            }
            Permission::Key(Scope::Backend) => {
                format!("it carries `{key}`, which each backend remembers for itself")
            }
            Permission::Rule => "the rule says `retry.unsafeMethods: true`".to_owned(),
            Permission::None if key.is_empty() => {
                format!("{} is not idempotent, and the rule knows no key", head.method)
            }
            Permission::None => {
                format!("{} is not idempotent, and the request carries no `{key}`", head.method)
            }
        };
        let off = self.permission != Permission::None && rule.retry.attempts == 0;
        if off { format!("{why}; but `retry.attempts` is 0") } else { why }
    }

    /// What the rule's key means, whether this request carries it or not.
    fn idempotency(&self) -> Value {
        let Some(key) = &self.rule.retry.idempotency else { return Value::Null };
        let falls_back = self.rule.tiers.len() > 1;
        let is_written = !matches!(self.origin("idempotency.scope").as_deref(), Some("default"));
        let means = match (key.scope, falls_back) {
            (Scope::AllBackends, _) => {
                "all backends remember the key together: a keyed call that was sent may be sent \
                 again to any of them, also in another tier"
            }
            (Scope::Backend, true) => {
                "each backend remembers the key for itself: a keyed call that was sent to one is \
                 never sent to another tier, so it fails if that backend dies while it waits; if \
                 all backends share what they remember, write `scope: AllBackends`"
            }
            (Scope::Backend, false) => {
                "each backend remembers the key for itself: a keyed call that was sent may be sent \
                 again inside that backend"
            }
        };
        json!({
            "header": key.header.as_str(),
            "scope": match key.scope {
                Scope::Backend => "Backend",
                Scope::AllBackends => "AllBackends",
            },
            "scopeIsWritten": is_written,
            "carried": matches!(self.permission, Permission::Key(_))
                || self.head.headers.contains_key(&key.header),
            "means": means,
        })
    }

    fn tier(&self, tier: &[BackendRef]) -> Value {
        tier.iter().map(|one| self.backend(one)).collect()
    }

    fn backend(&self, reference: &BackendRef) -> Value {
        let spec = self.effective.backend(reference.backend);
        let class = self.effective.classes.get(self.class);
        let location = spec.location;
        let link = link_for(Destination { location }, class, &self.effective.links);
        let link = link.map(|link| &*self.effective.links[usize::from(link.0)].name);
        let endpoints = spec.endpoints.iter().map(ToString::to_string);
        json!({
            "backend": &*spec.name,
            "location": match location {
                Location::Local => "Local",
                Location::Cloud => "Cloud",
            },
            "protocol": match spec.protocol {
                BackendProtocol::Http => "HTTP",
                BackendProtocol::Http2 => "HTTP2",
                BackendProtocol::Grpc => "GRPC",
                BackendProtocol::Tcp => "TCP",
                BackendProtocol::Udp => "UDP",
            },
            "line": link,
            "weight": reference.weight,
            "endpoints": endpoints.collect::<Vec<_>>(),
        })
    }
}
