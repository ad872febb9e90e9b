//! Two rules that the same request could meet, with nothing to say which is meant.
//!
//! Host, path, method, numbers of headers and query parameters, and how precisely a client is
//! named decide between rules. Two alternatives of different rules are ambiguous if all of them are
//! equal and their conditions do not exclude each other: the same header, parameter or name with
//! another value does. Order in the file never decides, so this is an error.

use std::collections::BTreeMap;

use tillgate_core::matching::{HostPattern, PathMatch, RequestMatch};

use super::Output;
use super::routes::{Placed, host_text};

/// What orders two alternatives; equal keys are candidates for a tie.
type Key<'a> = (&'a HostPattern, PathMatch, Option<&'a str>, [usize; 3]);

/// Reports every pair of rules that is ambiguous, once.
pub(super) fn check(rules: &[Placed<'_>], out: &mut Output) {
    let mut groups: BTreeMap<Key<'_>, Vec<(usize, usize)>> = BTreeMap::new();
    for (index, placed) in rules.iter().enumerate() {
        for (alternative, one) in placed.rule.matches.iter().enumerate() {
            for host in &placed.rule.hosts {
                let method = one.method.as_ref().map(|method| method.as_str());
                let counts = [one.headers.len(), one.query.len(), one.client_precision()];
                let key = (host, normal(&one.path), method, counts);
                groups.entry(key).or_default().push((index, alternative));
            }
        }
    }
    let mut told = std::collections::BTreeSet::new();
    for ((host, ..), members) in &groups {
        for (position, second) in members.iter().enumerate() {
            for first in &members[..position] {
                let (a, b) = (&rules[first.0], &rules[second.0]);
                let tied = first.0 != second.0
                    && compatible(&a.rule.matches[first.1], &b.rule.matches[second.1]);
                if tied && told.insert((first.0, second.0)) {
                    // Told at the place that comes later in the file.
                    if a.spot.place() <= b.spot.place() {
                        tell(a, b, (host, second.1), out);
                    } else {
                        tell(b, a, (host, first.1), out);
                    }
                }
            }
        }
    }
}

/// `/v1/` and `/v1` are the same prefix.
fn normal(path: &PathMatch) -> PathMatch {
    match path {
        PathMatch::Exact(_) => path.clone(),
        PathMatch::Prefix(prefix) => PathMatch::Prefix(prefix.trim_end_matches('/').into()),
    }
}

/// Whether one request can meet the conditions of both. A header, parameter or name in the client's
/// certificate that both name with different values excludes it (a request that has both is served
/// by the first rule by name).
fn compatible(a: &RequestMatch, b: &RequestMatch) -> bool {
    a.headers.iter().all(|header| {
        b.headers.iter().all(|other| other.name != header.name || other.value == header.value)
    }) && a
        .query
        .iter()
        .all(|one| b.query.iter().all(|other| other.name != one.name || other.value == one.value))
        && a.client == b.client
}

fn tell(a: &Placed<'_>, b: &Placed<'_>, at: (&HostPattern, usize), out: &mut Output) {
    let (host, alternative) = at;
    let host = host_text(host);
    let names =
        (format!("{}/{}", a.rule.route, a.rule.name), format!("{}/{}", b.rule.route, b.rule.name));
    let message = format!(
        "the rules `{}` and `{}` match the same requests for `{host}`, equally precisely: give one \
         a longer path, a method or a header more, or another hostname",
        names.0, names.1
    );
    let written = b.spot.key("matches").index(alternative);
    let spot = if matches!(written.origin(), crate::effective::Origin::Default) {
        b.spot.key("name")
    } else {
        written
    };
    let mut finding = spot.finding(message).related(a.spot.key("name").place(), "is the first one");
    if a.rule.route != b.rule.route {
        finding = finding
            .related(a.hosts.place(), "has the hostname")
            .related(b.hosts.place(), "has it too");
    }
    out.error(finding);
}
