//! The rules of the forward proxy, indexed by host, network and port.
//!
//! Precedence: exact host, longest wildcard, then (on the resolved address) longest network,
//! then `*`, then the policy for the rest; inside each of them a rule that names the port comes
//! before one that takes every port. Ties are refused when the policy is compiled.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::routes::{lengths, suffix_of};
use super::{EgressRule, EgressVerdict, HostPattern, TrafficPolicy};

/// Rules of one host or network by port.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Ports {
    named: BTreeMap<u16, usize>,
    every: Option<usize>,
}

/// The forward proxy's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressTable {
    /// For what no rule names.
    pub traffic_policy: TrafficPolicy,
    /// Every rule, in the order of the document; verdicts name them by index.
    pub rules: Vec<EgressRule>,
    exact: BTreeMap<Arc<str>, Ports>,
    suffixes: BTreeMap<Arc<str>, Ports>,
    suffix_lengths: Vec<usize>,
    any: Ports,
    /// By prefix length, so that the longest is asked first.
    networks: BTreeMap<u8, BTreeMap<IpNet, Ports>>,
}

impl EgressTable {
    /// A table of `rules`.
    pub fn new(traffic_policy: TrafficPolicy, rules: Vec<EgressRule>) -> Self {
        let mut table = Self {
            traffic_policy,
            rules: Vec::new(),
            exact: BTreeMap::new(),
            suffixes: BTreeMap::new(),
            suffix_lengths: Vec::new(),
            any: Ports::default(),
            networks: BTreeMap::new(),
        };
        for (index, rule) in rules.iter().enumerate() {
            for destination in &rule.destinations {
                for host in &destination.hosts {
                    table.host_ports(host).add(&destination.ports, index);
                }
                for network in &destination.networks {
                    let network = network.trunc();
                    let same_length = table.networks.entry(network.prefix_len()).or_default();
                    same_length.entry(network).or_default().add(&destination.ports, index);
                }
            }
        }
        table.suffix_lengths = lengths(table.suffixes.keys());
        table.rules = rules;
        table
    }

    /// The verdict on a destination by its name (canonical, see
    /// [`super::canonical_host`]; also an IP literal) and port, before anything was resolved.
    pub fn by_host(&self, host: &str, port: u16) -> EgressVerdict {
        if let Some(rule) = self.exact.get(host).and_then(|ports| ports.find(port)) {
            return EgressVerdict::Rule(rule);
        }
        let literal = host.parse::<IpAddr>().is_ok();
        let by_suffix = self.suffix_lengths.iter().filter(|_| !literal).find_map(|length| {
            let suffix = suffix_of(host, *length)?;
            self.suffixes.get(suffix)?.find(port)
        });
        match by_suffix {
            Some(rule) => EgressVerdict::Rule(rule),
            None if !self.networks.is_empty() => EgressVerdict::AskAddress,
            None => self.rest(port),
        }
    }

    /// The verdict on a resolved address: the answer to [`EgressVerdict::AskAddress`].
    /// Never returns `AskAddress`. An IPv4 address inside IPv6 counts as the former.
    pub fn by_address(&self, address: IpAddr, port: u16) -> EgressVerdict {
        let address = address.to_canonical();
        for (length, networks) in self.networks.iter().rev() {
            let Ok(network) = IpNet::new(address, *length) else { continue };
            if let Some(rule) = networks.get(&network.trunc()).and_then(|ports| ports.find(port)) {
                return EgressVerdict::Rule(rule);
            }
        }
        self.rest(port)
    }

    /// The verdict on what no name and no network of the rules has.
    pub fn rest(&self, port: u16) -> EgressVerdict {
        match (self.any.find(port), self.traffic_policy) {
            (Some(rule), _) => EgressVerdict::Rule(rule),
            (None, TrafficPolicy::Allow) => EgressVerdict::Allowed,
            (None, TrafficPolicy::Deny) => EgressVerdict::Denied,
        }
    }

    fn host_ports(&mut self, host: &HostPattern) -> &mut Ports {
        match host {
            HostPattern::Exact(name) => self.exact.entry(name.clone()).or_default(),
            HostPattern::Suffix(suffix) => self.suffixes.entry(suffix.clone()).or_default(),
            HostPattern::Any => &mut self.any,
        }
    }
}

impl Ports {
    fn add(&mut self, ports: &[u16], rule: usize) {
        if ports.is_empty() {
            self.every.get_or_insert(rule);
        }
        for port in ports {
            self.named.entry(*port).or_insert(rule);
        }
    }

    fn find(&self, port: u16) -> Option<usize> {
        self.named.get(&port).copied().or(self.every)
    }
}
