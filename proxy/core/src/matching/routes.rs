//! The routes of the HTTP entry, indexed by host and path.
//!
//! A lookup costs a few map reads, whatever the number of routes: one by exact host, one for
//! each suffix length in use, one for `*`; inside a host one by exact path and one for each
//! prefix length in use. What hangs on one host and path is tried in order of precedence.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Found, HostPattern, NoRule, PathMatch, RequestFacts, RequestMatch, Rule, RuleId};

/// All rules of a store, indexed by host and path.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RouteTable {
    /// Every rule; [`RuleId`] is its index.
    pub rules: Vec<Rule>,
    exact: BTreeMap<Arc<str>, HostRules>,
    suffixes: BTreeMap<Arc<str>, HostRules>,
    /// Lengths of the keys of `suffixes`, longest first.
    suffix_lengths: Vec<usize>,
    any: HostRules,
}

/// One alternative of one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Candidate {
    rule: u16,
    alternative: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct HostRules {
    exact: BTreeMap<Arc<str>, Vec<Candidate>>,
    prefixes: BTreeMap<Arc<str>, Vec<Candidate>>,
    /// Lengths of the keys of `prefixes`, longest first.
    prefix_lengths: Vec<usize>,
}

impl RouteTable {
    /// A table of `rules`; ids are their positions. `None` if there are more than 65,536 rules,
    /// or as many alternatives in one rule.
    pub fn new(rules: Vec<Rule>) -> Option<Self> {
        let mut table = Self::default();
        for (rule, position) in rules.iter().zip(0u32..) {
            let rule_index = u16::try_from(position).ok()?;
            for (alternative, position) in rule.matches.iter().zip(0u32..) {
                let candidate =
                    Candidate { rule: rule_index, alternative: u16::try_from(position).ok()? };
                for host in &rule.hosts {
                    table.host_rules(host).add(&alternative.path, candidate);
                }
            }
        }
        table.rules = rules;
        let Self { rules, exact, suffixes, suffix_lengths, any } = &mut table;
        for host in exact.values_mut().chain(suffixes.values_mut()).chain([any]) {
            host.sort(rules);
        }
        *suffix_lengths = lengths(suffixes.keys());
        Some(table)
    }

    /// The rule that `facts` meet, by the precedence of the first paragraph of
    /// [`crate::matching`].
    ///
    /// # Errors
    /// [`NoRule`] says whether the host or only the rest of the request is unknown.
    pub fn find(&self, facts: RequestFacts<'_>) -> Result<RuleId, NoRule> {
        self.find_match(facts).map(|found| found.rule)
    }

    /// The same with the alternative that was met, which says what a rewritten prefix was.
    ///
    /// # Errors
    /// As [`RouteTable::find`].
    pub fn find_match(&self, facts: RequestFacts<'_>) -> Result<Found, NoRule> {
        let mut known = false;
        if let Some(rules) = self.exact.get(facts.host) {
            known = true;
            if let Some(found) = rules.find(&self.rules, facts) {
                return Ok(found);
            }
        }
        for length in &self.suffix_lengths {
            let Some(suffix) = suffix_of(facts.host, *length) else { continue };
            let Some(rules) = self.suffixes.get(suffix) else { continue };
            if facts.host.parse::<std::net::IpAddr>().is_ok() {
                break;
            }
            known = true;
            if let Some(found) = rules.find(&self.rules, facts) {
                return Ok(found);
            }
        }
        if !self.any.is_empty() {
            known = true;
            if let Some(found) = self.any.find(&self.rules, facts) {
                return Ok(found);
            }
        }
        Err(if known { NoRule::NoMatch } else { NoRule::UnknownHost })
    }

    /// The rule with this id.
    ///
    /// # Panics
    /// If the id is of another table: ids are handed out by [`RouteTable::find`] alone.
    pub fn rule(&self, id: RuleId) -> &Rule {
        &self.rules[usize::from(id.0)]
    }

    /// The alternative that was found.
    ///
    /// # Panics
    /// If `found` is of another table.
    pub fn alternative(&self, found: Found) -> &RequestMatch {
        &self.rule(found.rule).matches[usize::from(found.alternative)]
    }

    fn host_rules(&mut self, host: &HostPattern) -> &mut HostRules {
        match host {
            HostPattern::Exact(name) => self.exact.entry(name.clone()).or_default(),
            HostPattern::Suffix(suffix) => self.suffixes.entry(suffix.clone()).or_default(),
            HostPattern::Any => &mut self.any,
        }
    }
}

/// The last `length` bytes of `host` if a dot and something else stand before them.
pub(super) fn suffix_of(host: &str, length: usize) -> Option<&str> {
    let start = host.len().checked_sub(length)?;
    let before = host.get(..start)?;
    (before.len() > 1 && before.ends_with('.')).then(|| &host[start..])
}

/// The lengths of `keys` without repetition, longest first.
pub(super) fn lengths<'a>(keys: impl Iterator<Item = &'a Arc<str>>) -> Vec<usize> {
    let mut lengths: Vec<usize> = keys.map(|key| key.len()).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths.dedup();
    lengths
}

impl HostRules {
    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty()
    }

    fn add(&mut self, path: &PathMatch, candidate: Candidate) {
        let map = match path {
            PathMatch::Exact(_) => &mut self.exact,
            PathMatch::Prefix(_) => &mut self.prefixes,
        };
        map.entry(path.key().into()).or_default().push(candidate);
    }

    /// Most precise first: with a method before without, then by the number of headers, then of
    /// query parameters, then by the client's name; equals stay in the order of the rules.
    fn sort(&mut self, rules: &[Rule]) {
        for candidates in self.exact.values_mut().chain(self.prefixes.values_mut()) {
            candidates.sort_by_key(|candidate| {
                let alternative = candidate.of(rules);
                std::cmp::Reverse((
                    alternative.method.is_some(),
                    alternative.headers.len(),
                    alternative.query.len(),
                    alternative.client_precision(),
                ))
            });
        }
        self.prefix_lengths = lengths(self.prefixes.keys());
    }

    fn find(&self, rules: &[Rule], facts: RequestFacts<'_>) -> Option<Found> {
        let first = |candidates: &Vec<Candidate>| {
            let candidate = candidates.iter().find(|one| one.of(rules).rest_matches(facts))?;
            Some(Found { rule: RuleId(candidate.rule), alternative: candidate.alternative })
        };
        if let Some(found) = self.exact.get(facts.path).and_then(first) {
            return Some(found);
        }
        self.prefix_lengths.iter().find_map(|length| {
            let prefix = facts.path.get(..*length)?;
            let whole = *length == 0
                || facts.path.len() == *length
                || facts.path.as_bytes()[*length] == b'/';
            self.prefixes.get(prefix).filter(|_| whole).and_then(first)
        })
    }
}

impl Candidate {
    fn of(self, rules: &[Rule]) -> &super::RequestMatch {
        &rules[usize::from(self.rule)].matches[usize::from(self.alternative)]
    }
}
