//! What a request nearly met, and why it did not: the same conditions, each told by itself.
//!
//! For people who wonder about a rule; the data path stops at the first that does not hold.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    EgressDestination, EgressTable, Found, HeaderMatch, HostPattern, PathMatch, QueryMatch,
    RequestFacts, RequestMatch, RouteTable, RuleId,
};
use crate::tls::SanMatch;

/// Rules that are told: more is nothing that anybody reads.
const NEAR_MAX: usize = 8;

/// A condition of an alternative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition<'a> {
    /// On the path.
    Path(&'a PathMatch),
    /// On the method.
    Method(&'a http::Method),
    /// On a header.
    Header(&'a HeaderMatch),
    /// On a parameter of the query.
    Query(&'a QueryMatch),
    /// On the client's certificate.
    Client(&'a SanMatch),
}

/// A rule of the request's host that another one was preferred to, or that does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Near<'a> {
    /// The rule.
    pub rule: RuleId,
    /// What does not hold of the alternative that came closest; empty where a more precise rule
    /// was met.
    pub missed: Vec<Condition<'a>>,
}

impl fmt::Display for Condition<'_> {
    /// `path prefix /v1`, `method POST`, `header x-lane`; values of headers are not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(PathMatch::Exact(path)) => write!(f, "path {path}"),
            Self::Path(PathMatch::Prefix(path)) => write!(f, "path prefix {path}"),
            Self::Method(method) => write!(f, "method {method}"),
            Self::Header(header) => write!(f, "header {}", header.name),
            Self::Query(one) => write!(f, "query {}={}", one.name, one.value),
            Self::Client(SanMatch::Exact(san)) => write!(f, "client certificate {san}"),
            Self::Client(SanMatch::DnsSuffix(suffix)) => {
                write!(f, "client certificate DNS:*.{suffix}")
            }
        }
    }
}

impl Condition<'_> {
    /// Whether it holds.
    pub fn holds(&self, facts: RequestFacts<'_>) -> bool {
        match self {
            Self::Path(path) => path.matches(facts.path),
            Self::Method(method) => *method == facts.method,
            Self::Header(wanted) => {
                facts.headers.get_all(&wanted.name).iter().any(|value| *value == wanted.value)
            }
            Self::Query(wanted) => wanted.matches(facts.query),
            Self::Client(wanted) => facts.client.is_some_and(|client| wanted.matches(client)),
        }
    }
}

impl RequestMatch {
    /// Each of its conditions.
    pub fn conditions(&self) -> impl Iterator<Item = Condition<'_>> {
        let path = [Condition::Path(&self.path)].into_iter();
        path.chain(self.method.as_ref().map(Condition::Method))
            .chain(self.headers.iter().map(Condition::Header))
            .chain(self.query.iter().map(Condition::Query))
            .chain(self.client.as_ref().map(Condition::Client))
    }
}

/// Where a rule of the egress table has a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// By its name.
    Host(&'a HostPattern),
    /// By its address.
    Network(&'a IpNet),
}

/// A rule of the egress table that has a destination's host or address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NearEgress<'a> {
    /// The rule (its index).
    pub rule: usize,
    /// Where it has it.
    pub place: Place<'a>,
    /// The ports that it takes there; empty = every port.
    pub ports: &'a [u16],
    /// Whether the destination's is one of them.
    pub takes_port: bool,
}

impl fmt::Display for Place<'_> {
    /// `host *.pay.example`, `network 10.0.0.0/8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => write!(f, "host {host}"),
            Self::Network(network) => write!(f, "network {network}"),
        }
    }
}

impl Place<'_> {
    /// A larger one is more precise: a name, the longest suffix, the longest network, `*`.
    fn precision(&self) -> (u8, usize) {
        match self {
            Self::Host(HostPattern::Exact(_)) => (3, 0),
            Self::Host(HostPattern::Suffix(suffix)) => (2, suffix.len()),
            Self::Network(network) => (1, usize::from(network.prefix_len())),
            Self::Host(HostPattern::Any) => (0, 0),
        }
    }
}

impl EgressDestination {
    /// Whether connections to `port` are among these.
    pub fn takes(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.contains(&port)
    }

    /// Everything of it that has the destination.
    fn places(&self, host: &str, address: Option<IpAddr>) -> impl Iterator<Item = Place<'_>> {
        let hosts = self.hosts.iter().filter(move |one| one.matches(host)).map(Place::Host);
        let has = move |one: &&IpNet| address.is_some_and(|address| one.contains(&address));
        hosts.chain(self.networks.iter().filter(has).map(Place::Network))
    }
}

impl EgressTable {
    /// The rules that have the destination's host (canonical, see [`super::canonical_host`]) or,
    /// where it is known, its address: the one that it met and those that it nearly met, the
    /// nearest first.
    pub fn near(&self, host: &str, address: Option<IpAddr>, port: u16) -> Vec<NearEgress<'_>> {
        let address = address.map(|address| address.to_canonical());
        let nearness =
            |one: &NearEgress<'_>| (one.takes_port, one.place.precision(), !one.ports.is_empty());
        let mut near: Vec<NearEgress<'_>> = self
            .rules
            .iter()
            .enumerate()
            .filter_map(|(rule, of)| {
                let all = of.destinations.iter().flat_map(|one| {
                    let near = move |place| {
                        let takes_port = one.takes(port);
                        NearEgress { rule, place, ports: &one.ports, takes_port }
                    };
                    one.places(host, address).map(near)
                });
                all.max_by_key(nearness)
            })
            .collect();
        near.sort_by_key(|one| std::cmp::Reverse(nearness(one)));
        near.truncate(NEAR_MAX);
        near
    }
}

impl RouteTable {
    /// The rules of the request's host beside the one that it met, the nearest first.
    pub fn near(&self, facts: RequestFacts<'_>, found: Option<Found>) -> Vec<Near<'_>> {
        let others = self.rules.iter().zip(0u16..).filter(|(rule, index)| {
            let is_met = found.is_some_and(|found| found.rule.0 == *index);
            !is_met && rule.hosts.iter().any(|host| host.matches(facts.host))
        });
        let mut near: Vec<Near<'_>> = others
            .filter_map(|(rule, index)| {
                let missed = |one| {
                    let conditions = RequestMatch::conditions(one);
                    conditions.filter(|condition| !condition.holds(facts)).collect::<Vec<_>>()
                };
                let missed = rule.matches.iter().map(missed).min_by_key(Vec::len)?;
                Some(Near { rule: RuleId(index), missed })
            })
            .collect();
        near.sort_by_key(|one| one.missed.len());
        near.truncate(NEAR_MAX);
        near
    }
}
