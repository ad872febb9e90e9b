//! What would happen to what the egress policy decides: requests and tunnels of the forward proxy,
//! and TLS that is passed on by the name in its hello.
//!
//! The functions that real requests ask before anything is resolved, put into words. Nothing is
//! resolved here: where no rule has the name, every rule that an address may meet is told.

use std::net::{IpAddr, SocketAddr};

use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{Method, Uri};
use serde_json::{Value, json};
use tillgate_config::effective::Effective;
use tillgate_core::backend::{Host, Location};
use tillgate_core::civil::Timestamp;
use tillgate_core::class::ClassId;
use tillgate_core::gate::Clock;
use tillgate_core::link::{Destination, link_for};
use tillgate_core::listener::ListenerSpec;
use tillgate_core::matching::{
    EgressTable, EgressVerdict, NaturalClasses, NearEgress, canonical_host,
};
use tillgate_net::error::Failure;
use tillgate_net::http::headers;

use crate::doors;
use crate::forward::{self, Place};
use crate::problem::Refusal;

/// What is asked, whichever way it came.
pub(super) struct Asked<'a> {
    effective: &'a Effective,
    request: Value,
    via: &'a str,
    pub(super) place: Place,
    /// Its class where no rule names one, and why that.
    unnamed: (ClassId, &'static str),
}

/// A request or tunnel of the forward proxy, listener `via`.
pub(super) fn by_proxy(
    effective: &Effective,
    via: &str,
    head: &Parts,
    at: (Clock, Timestamp),
) -> Value {
    let tunnel = tunnel_of(head);
    let head = tunnel.as_ref().unwrap_or(head);
    match Asked::by_proxy(effective, via, head) {
        Ok(asked) => asked.told(at),
        Err(refusal) => refused(super::request(head), via, &refusal),
    }
}

/// TLS that `listener` passes on to the host of `head`.
pub(super) fn passed_on(
    effective: &Effective,
    listener: &ListenerSpec,
    head: &Parts,
    at: (Clock, Timestamp),
) -> Value {
    let named = headers::host_of(head);
    match named {
        Ok(host) => Asked::passed_on(effective, listener, &host).told(at),
        Err(failure) => refused(super::request(head), &listener.name, &failure.into()),
    }
}

fn refused(request: Value, via: &str, refusal: &Refusal) -> Value {
    json!({
        "request": request,
        "via": via,
        "refused": refusal.failure.reason(),
        "detail": refusal.detail,
        "rejected": [],
    })
}

/// What a client sends to a proxy for an `https` URL.
fn tunnel_of(head: &Parts) -> Option<Parts> {
    if head.method == Method::CONNECT || head.uri.scheme() != Some(&Scheme::HTTPS) {
        return None;
    }
    let authority = head.uri.authority()?;
    let named = match authority.port() {
        Some(_) => authority.clone(),
        None => Authority::try_from(format!("{authority}:443")).ok()?,
    };
    let mut head = head.clone();
    head.method = Method::CONNECT;
    head.uri = Uri::builder().authority(named).build().ok()?;
    Some(head)
}

impl<'a> Asked<'a> {
    /// As `forward::serve_request` tells them apart.
    pub(super) fn by_proxy(
        effective: &'a Effective,
        via: &'a str,
        head: &Parts,
    ) -> Result<Self, Refusal> {
        let natural = NaturalClasses::of(&effective.classes);
        let (place, unnamed) = if head.method == Method::CONNECT {
            let why = "no rule names one, and of a tunnel nothing is seen: the default";
            (Place::of_connect(&head.uri)?, (natural.default(), why))
        } else {
            if headers::wanted_upgrade(head).is_some() {
                return Err(Failure::UpgradeUnsupported.into());
            }
            let place = Place::of_plain(head)?;
            let class = place.natural(natural, head);
            (place, (class, super::why_natural(natural, class)))
        };
        Ok(Self { effective, request: super::request(head), via, place, unnamed })
    }

    pub(super) fn passed_on(
        effective: &'a Effective,
        listener: &'a ListenerSpec,
        host: &str,
    ) -> Self {
        let place = Place { host: host.to_owned(), port: listener.destination_port };
        let unnamed = match listener.class {
            Some(class) => (class, "no rule names one, and this is the listener's"),
            None => {
                let natural = NaturalClasses::of(&effective.classes);
                (natural.default(), "nothing names one, so it is the default")
            }
        };
        let request = json!({"method": "TLS", "target": host});
        Self { effective, request, via: &listener.name, place, unnamed }
    }

    /// What the policy says, by name, and of an address that needs no lookup by that.
    pub(super) fn verdict(&self) -> Result<EgressVerdict, Refusal> {
        let by_name = forward::by_name(self.effective, &self.place)?;
        match (by_name, self.address()) {
            (EgressVerdict::AskAddress, Some(address)) => {
                let mut only = vec![SocketAddr::new(address, self.place.port)];
                forward::by_address(self.effective, &self.place, &mut only)
            }
            (by_name, _) => Ok(by_name),
        }
    }

    /// The class of what this says.
    pub(super) fn class(&self, verdict: EgressVerdict) -> ClassId {
        forward::class_of(self.effective, verdict, || self.unnamed.0)
    }

    fn address(&self) -> Option<IpAddr> {
        if let Host::Ip(address) = self.place.as_host() { Some(address) } else { None }
    }

    /// Whether who asks from outside is refused, because no rule names this very address.
    fn is_own(&self, verdict: Option<&EgressVerdict>) -> bool {
        let (Some(address), Some(verdict)) = (self.address(), verdict) else { return false };
        forward::is_own(address)
            && !forward::is_named(self.effective, *verdict, &self.place, address)
    }

    fn told(&self, at: (Clock, Timestamp)) -> Value {
        let Place { host, port } = &self.place;
        let verdict = self.verdict();
        let mut shown = match &verdict {
            Ok(EgressVerdict::AskAddress) => json!({
                "verdict": "ByAddress",
                "because": ["no rule has the name: each of its addresses is asked for"],
                "byAddress": self.by_address(at),
            }),
            Ok(verdict) => self.way(*verdict, at),
            Err(refusal) => {
                let mut shown = if refusal.failure == Failure::EgressDenied {
                    self.way(EgressVerdict::Denied, at)
                } else {
                    json!({"verdict": "Denied", "because": [refusal.detail]})
                };
                shown["refused"] = json!(refusal.failure.reason());
                shown["detail"] = json!(refusal.detail);
                shown
            }
        };
        if self.is_own(verdict.as_ref().ok()) {
            let why = "it is an address of this machine's own: clients elsewhere are refused";
            shown["unless"] = json!(why);
        }
        shown["request"] = self.request.clone();
        shown["via"] = json!(self.via);
        shown["destination"] = json!({"host": host, "port": port});
        let (met, rejected) = self.near(verdict.ok());
        if let Some(met) = met {
            shown["because"] = json!(met);
        }
        shown["rejected"] = json!(rejected);
        shown
    }

    /// What a verdict leads to.
    fn way(&self, verdict: EgressVerdict, at: (Clock, Timestamp)) -> Value {
        let effective = self.effective;
        let rule = forward::named(effective, verdict);
        let path = |name: &str| effective.path_of_egress(name);
        let origin = |path: &str| effective.origin(path).map(ToString::to_string);
        let because = match (&effective.egress, rule) {
            (None, _) => "there is no EgressPolicy: everything passes",
            (_, Some(_)) => "it is what the rule takes",
            (_, None) if verdict == EgressVerdict::Denied => {
                "no rule lets it pass, and the policy refuses the rest"
            }
            (_, None) => "no rule has it, and the policy lets the rest pass",
        };
        let held = rule
            .map_or(Value::Null, |rule| doors::explained(effective, doors::of_egress(rule), at));
        let mut shown = json!({
            "verdict": match verdict {
                EgressVerdict::Denied => "Denied",
                EgressVerdict::Rule(_) if held["gate"] == "Held" => "Held",
                EgressVerdict::Rule(_) | EgressVerdict::Allowed | EgressVerdict::AskAddress => {
                    "Passes"
                }
            },
            "document": effective.egress.as_ref().map(|_| "EgressPolicy"),
            "egressRule": rule.map(|rule| &*rule.name),
            "origin": match rule {
                Some(rule) => origin(&path(&rule.name)),
                None => effective.egress.as_ref().and_then(|_| origin("egress.trafficPolicy")),
            },
            "because": [because],
        });
        if verdict == EgressVerdict::Denied {
            return shown;
        }
        let class = self.class(verdict);
        let named = rule.filter(|rule| rule.class.is_some());
        let (why, place) = match named {
            Some(rule) => {
                ("the rule names it", origin(&format!("{}.trafficClass", path(&rule.name))))
            }
            None => (self.unnamed.1, None),
        };
        shown["trafficClass"] = super::class(effective, class, why, place);
        shown["gate"] = held;
        let location = forward::location_of(effective, verdict);
        let spec = effective.classes.get(class);
        let line = link_for(Destination { location }, spec, &effective.links);
        let line = line.map(|line| &*effective.links[usize::from(line.0)].name);
        shown["location"] = json!(match location {
            Location::Local => "Local",
            Location::Cloud => "Cloud",
        });
        shown["line"] = json!(line);
        shown
    }

    /// What each rule with networks would do to an address of its own, and what becomes of others.
    fn by_address(&self, at: (Clock, Timestamp)) -> Vec<Value> {
        let Some(egress) = &self.effective.egress else { return Vec::new() };
        let port = self.place.port;
        let rules = egress.rules.iter().enumerate().filter_map(|(rule, of)| {
            let taken = of.destinations.iter().filter(|one| one.takes(port));
            let networks = taken.flat_map(|one| &one.networks).map(ToString::to_string);
            let networks: Vec<String> = networks.collect();
            (!networks.is_empty()).then_some((EgressVerdict::Rule(rule), networks))
        });
        let rest = (egress.rest(port), vec!["every other".to_owned()]);
        let told = |(verdict, addresses): (EgressVerdict, Vec<String>)| {
            let mut shown = self.way(verdict, at);
            shown["addresses"] = json!(addresses);
            shown
        };
        rules.chain([rest]).map(told).collect()
    }

    /// What of the rule that was met has the destination, and the rules that nearly met it.
    fn near(&self, verdict: Option<EgressVerdict>) -> (Option<Vec<String>>, Vec<Value>) {
        let Some(egress) = &self.effective.egress else { return (None, Vec::new()) };
        let host = canonical_host(&self.place.host);
        let near = egress.near(&host, self.address(), self.place.port);
        let is_met = |one: &&NearEgress<'_>| verdict == Some(EgressVerdict::Rule(one.rule));
        let met = near.iter().find(is_met).map(|one| {
            let port = (!one.ports.is_empty()).then(|| format!("port {}", self.place.port));
            [Some(one.place.to_string()), port].into_iter().flatten().collect()
        });
        let others = near.iter().filter(|one| !is_met(one));
        (met, others.map(|one| self.rejected(egress, one)).collect())
    }

    fn rejected(&self, egress: &EgressTable, one: &NearEgress<'_>) -> Value {
        let name = &*egress.rules[one.rule].name;
        let because = if one.takes_port {
            "it matches too, but less precisely".to_owned()
        } else {
            let ports: Vec<String> = one.ports.iter().map(ToString::to_string).collect();
            format!("not port {}", ports.join(" or "))
        };
        let path = self.effective.path_of_egress(name);
        json!({
            "document": "EgressPolicy",
            "rule": name,
            "because": because,
            "origin": self.effective.origin(&path).map(ToString::to_string),
        })
    }
}
