//! What a request nearly met, and why it did not: the same conditions, each told by itself.
//!
//! For people who wonder about a rule; the data path stops at the first that does not hold.

use std::fmt;

use super::{
    Found, HeaderMatch, PathMatch, QueryMatch, RequestFacts, RequestMatch, RouteTable, RuleId,
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
