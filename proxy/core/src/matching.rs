//! Matching: which rule a request meets, which class a destination has.
//!
//! The tables here are compiled from policy once and read on every request. Precedence is the
//! one of Gateway API's HTTPRoute: exact host before wildcard (longest first), exact path before
//! prefix (longest first), then method, then the number of headers, then of query parameters;
//! after those, ours, the name in the client's certificate. What that leaves tied is refused when
//! the policy is compiled, so order in the file never decides. A more precise host whose rules do
//! not match leaves the request to the next less precise one.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;

use crate::backend::{BackendId, Location, Timeouts};
use crate::class::ClassId;
use crate::failover::FailoverSpec;
use crate::filter::{Action, Filters, SessionPersistence};
use crate::limit::RateLimit;
use crate::retry::RetrySpec;
use crate::tls::{ClientIdentity, SanMatch};

mod egress;
mod natural;
mod near;
mod query;
mod routes;

pub use egress::EgressTable;
pub use natural::{NaturalClasses, natural_class};
pub use near::{Condition, Near, NearEgress, Place};
pub use query::QueryMatch;
pub use routes::RouteTable;

/// A hostname pattern of a route or an egress rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// This name (lower case, no trailing dot) or IP literal, exactly.
    Exact(Arc<str>),
    /// `*.suffix`: any name that ends with `.suffix` and has at least one label before it.
    /// Holds the suffix without the leading `*.`.
    Suffix(Arc<str>),
    /// `*`: every host.
    Any,
}

/// A path condition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathMatch {
    /// The whole path.
    Exact(Arc<str>),
    /// Whole segments of the path: `/v1` matches `/v1` and `/v1/x`, not `/v10`.
    Prefix(Arc<str>),
}

/// A header that must be present with exactly this value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Name, compared case-insensitively.
    pub name: HeaderName,
    /// Value of any one field of that name, compared byte for byte.
    pub value: HeaderValue,
}

/// One alternative of a rule: all present conditions must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestMatch {
    /// Condition on the path. A match without one has `Prefix("/")`.
    pub path: PathMatch,
    /// Condition on the method.
    pub method: Option<Method>,
    /// Conditions on headers.
    pub headers: Vec<HeaderMatch>,
    /// Conditions on query parameters.
    pub query: Vec<QueryMatch>,
    /// Condition on the client's certificate; a client without one does not meet it.
    pub client: Option<SanMatch>,
}

/// A weighted reference to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendRef {
    /// Which backend.
    pub backend: BackendId,
    /// Share against the others of its tier; 0 takes no traffic.
    pub weight: u32,
}

/// Index of a rule in the [`RouteTable`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(pub u16);

/// One rule of a route, ready to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Name of the route that holds it (the `route` label of metrics).
    pub route: Arc<str>,
    /// Name of the rule inside its route.
    pub name: Arc<str>,
    /// Hosts of its route.
    pub hosts: Vec<HostPattern>,
    /// Alternatives; one that holds is enough. Never empty.
    pub matches: Vec<RequestMatch>,
    /// Class named by the rule or its route; `None` = the traffic's natural class, else `default`.
    pub class: Option<ClassId>,
    /// Who answers.
    pub action: Action,
    /// Backends in tiers of failover: the refs without `fallback` first, then each fallback.
    /// Empty exactly where `action` is not [`Action::Forward`]; no tier is empty.
    pub tiers: Vec<Vec<BackendRef>>,
    /// How long its steps may take.
    pub timeouts: Timeouts,
    /// When its tiers change.
    pub failover: FailoverSpec,
    /// When its calls are sent again.
    pub retry: RetrySpec,
    /// What it changes.
    pub filters: Filters,
    /// Whether requests of one session stay on one endpoint.
    pub persistence: Option<SessionPersistence>,
    /// How often requests may come; all must agree.
    pub rate_limits: Vec<RateLimit>,
}

impl Rule {
    /// A rule that sends what meets `matches` to `tiers`, with nothing else said.
    pub fn forward(
        names: (&str, &str),
        hosts: Vec<HostPattern>,
        matches: Vec<RequestMatch>,
        tiers: Vec<Vec<BackendRef>>,
        timeouts: Timeouts,
    ) -> Self {
        Self {
            route: names.0.into(),
            name: names.1.into(),
            hosts,
            matches,
            class: None,
            action: Action::Forward,
            tiers,
            timeouts,
            failover: FailoverSpec::PLAIN,
            retry: RetrySpec::never(),
            filters: Filters::default(),
            persistence: None,
            rate_limits: Vec::new(),
        }
    }
}

/// A rule with the alternative of it that a request met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Found {
    /// The rule.
    pub rule: RuleId,
    /// Which of its `matches`.
    pub alternative: u16,
}

/// One rule of the forward proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressRule {
    /// Name in policy, logs and `explain`.
    pub name: Arc<str>,
    /// What it applies to; any one is enough. Never empty.
    pub destinations: Vec<EgressDestination>,
    /// Class named by the rule; `None` = natural, else `default`.
    pub class: Option<ClassId>,
    /// Across the line or inside the store.
    pub location: Location,
}

impl EgressRule {
    /// Whether it was written for this very place: it has the host by its whole name (canonical,
    /// see [`canonical_host`]), or a network around the address that is not that of every address.
    pub fn names(&self, host: &str, port: u16, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let is_host =
            |one: &HostPattern| matches!(one, HostPattern::Exact(name) if **name == *host);
        let is_around = |one: &IpNet| one.prefix_len() > 0 && one.contains(&address);
        self.destinations.iter().any(|one| {
            one.takes(port) && (one.hosts.iter().any(is_host) || one.networks.iter().any(is_around))
        })
    }
}

/// A set of destinations: one of the hosts or networks, on one of the ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressDestination {
    /// Matched before resolution. Empty when `networks` is not.
    pub hosts: Vec<HostPattern>,
    /// Matched after resolution, on the address that is then dialled.
    pub networks: Vec<IpNet>,
    /// Empty = every port.
    pub ports: Vec<u16>,
}

/// What happens to destinations that no rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// They pass, in their natural class or `default`, across the line.
    Allow,
    /// They are refused (403).
    Deny,
}

/// Where a rule of the egress table matched, or that none did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressVerdict {
    /// This rule (its index) names the destination.
    Rule(usize),
    /// No rule by name; addresses must be asked next (some rule has networks).
    AskAddress,
    /// No rule names it and the policy lets it pass.
    Allowed,
    /// No rule names it and the policy refuses it.
    Denied,
}

/// The facts of a request that matching may look at.
#[derive(Clone, Copy, Debug)]
pub struct RequestFacts<'a> {
    /// Host without port, lower case, without a trailing dot.
    pub host: &'a str,
    /// Path without query, as sent.
    pub path: &'a str,
    /// Query without `?`, as sent; empty if there is none.
    pub query: &'a str,
    /// Method.
    pub method: &'a Method,
    /// All headers.
    pub headers: &'a http::HeaderMap,
    /// What the client's verified certificate says; `None` without one.
    pub client: Option<&'a ClientIdentity>,
}

/// Why a request met no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRule {
    /// No route has this host.
    UnknownHost,
    /// A route has the host, but none of its rules matches.
    NoMatch,
}

/// What traffic is recognised as by its shape, where no rule names a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Natural {
    /// OCI distribution: `/v2/` and below.
    ImagePull,
    /// Prometheus remote write, OTLP.
    Metrics,
}

/// A host as the tables here know it: lower case, without a trailing dot, without the brackets
/// of an IPv6 literal, and addresses in their shortest form. The port is not looked at; cut it
/// off first. Borrows when nothing changes.
pub fn canonical_host(host: &str) -> Cow<'_, str> {
    if host.contains(':') {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        return match bare.parse::<IpAddr>() {
            Ok(address) => Cow::Owned(address.to_string()),
            Err(_) => Cow::Borrowed(host),
        };
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Owned(name.to_ascii_lowercase());
    }
    Cow::Borrowed(name)
}

/// Whether a segment of `path` is `.` or `..`, also encoded (`%2e`) or with parameters (`..;v=1`).
/// A server resolves those (RFC 3986 section 5.2.4) and serves another path than the one that a
/// rule was found for; clients resolve them before they ask.
pub fn has_dot_segment(path: &str) -> bool {
    // Most paths have neither, and need no second look.
    let is_likely = path.contains("/.") || path.contains("/%2");
    is_likely && path.split('/').any(is_dots)
}

fn is_dots(segment: &str) -> bool {
    let mut rest = segment.split(';').next().unwrap_or_default();
    let mut dots = 0;
    while !rest.is_empty() {
        let after = rest.strip_prefix('.').or_else(|| rest.strip_prefix("%2e"));
        let Some(after) = after.or_else(|| rest.strip_prefix("%2E")) else { return false };
        (rest, dots) = (after, dots + 1);
    }
    (1..=2).contains(&dots)
}

impl HostPattern {
    /// Whether `host` (canonical, see [`canonical_host`]) is one of this pattern's.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Suffix(suffix) => host
                .strip_suffix(&**suffix)
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|labels| !labels.is_empty() && host.parse::<IpAddr>().is_err()),
            Self::Any => true,
        }
    }
}

impl fmt::Display for HostPattern {
    /// As a policy writes it: `pay.example`, `*.pay.example`, `*`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*.{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

impl PathMatch {
    /// The path of a prefix without the slashes at its end: `/v1/` says the same as `/v1`, and
    /// `/` says nothing (the empty text).
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Exact(path) => path,
            Self::Prefix(path) => path.trim_end_matches('/'),
        }
    }

    /// Whether `path` (without query) meets the condition.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *path,
            Self::Prefix(_) => path.strip_prefix(self.key()).is_some_and(|rest| {
                rest.is_empty() || rest.starts_with('/') || self.key().is_empty()
            }),
        }
    }
}

impl RequestMatch {
    /// A match on the path alone.
    pub fn on_path(path: PathMatch) -> Self {
        Self { path, method: None, headers: Vec::new(), query: Vec::new(), client: None }
    }

    /// How precise the certificate condition is; 0 without one.
    pub fn client_precision(&self) -> usize {
        self.client.as_ref().map_or(0, SanMatch::precision)
    }

    /// Whether everything but the path meets the conditions; the path is looked at elsewhere.
    fn rest_matches(&self, facts: RequestFacts<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method == facts.method)
            && self.headers.iter().all(|wanted| {
                facts.headers.get_all(&wanted.name).iter().any(|value| *value == wanted.value)
            })
            && self.query.iter().all(|wanted| wanted.matches(facts.query))
            && self
                .client
                .as_ref()
                .is_none_or(|wanted| facts.client.is_some_and(|client| wanted.matches(client)))
    }

    /// Whether all conditions hold.
    pub fn matches(&self, facts: RequestFacts<'_>) -> bool {
        self.path.matches(facts.path) && self.rest_matches(facts)
    }
}

#[cfg(test)]
mod tests;
