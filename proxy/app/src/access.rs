//! The access log: one JSON line for each request and tunnel that is sampled or has failed.
//!
//! What is logged of a class is decided when a config is compiled; a request of a class that is
//! not logged costs nothing here. A line never holds a path, a query, a body or the value of a
//! header that the policy does not name; of those that it names, secrets and card numbers never.

mod line;
mod redact;

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::OnceLock;

use http::HeaderMap;
use prometheus_client::metrics::counter::Counter;
use tillgate_config::effective::{ClassLog, ClientAddress, LogOutput};

pub(crate) use self::line::Line;
pub use self::line::{FIELDS, Field};
pub(crate) use self::redact::{HIDDEN, without_cards};
use crate::spool::{Output, Spool};

/// The process's access log; its thread runs from the first config that wants one.
#[derive(Debug)]
pub(crate) struct AccessLog {
    spool: OnceLock<Spool>,
    dropped: Counter,
    /// Of this process alone: who has the log cannot try out all addresses.
    key: RandomState,
}

/// Header fields as a line shows them, made when the request is here.
pub(crate) type Shown = Box<[(http::HeaderName, String)]>;

impl AccessLog {
    /// No log yet; dropped lines are counted in `dropped`.
    pub(crate) fn new(dropped: Counter) -> Self {
        Self { spool: OnceLock::new(), dropped, key: RandomState::new() }
    }

    /// A client's address as a line may show it.
    pub(crate) fn client(&self, policy: ClientAddress, address: IpAddr) -> String {
        match (policy, address) {
            (ClientAddress::Full, address) => address.to_string(),
            (ClientAddress::Prefix, IpAddr::V4(address)) => {
                let [a, b, c, _] = address.octets();
                format!("{a}.{b}.{c}.0/24")
            }
            (ClientAddress::Prefix, IpAddr::V6(address)) => {
                let [a, b, c, ..] = address.segments();
                format!("{}/48", Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
            }
            (ClientAddress::Hash, address) => format!("{:016x}", self.key.hash_one(address)),
        }
    }

    /// Writes to `output` from here on, if `wanted` lines are.
    pub(crate) fn follow(&self, output: &LogOutput, wanted: Wanted) {
        let output = Output::Policy(output.clone());
        if let Some(spool) = self.spool.get() {
            return spool.move_to(output);
        }
        if wanted == Wanted::No {
            return;
        }
        match Spool::start("access-log", output) {
            Ok(spool) => {
                spool.count_drops(self.dropped.clone());
                // Policies are compiled one after the other: nobody else has set it meanwhile.
                let _ = self.spool.set(spool);
            }
            Err(error) => tracing::error!(%error, "no access log: its thread cannot start"),
        }
    }

    /// Opens its file anew.
    pub(crate) fn reopen(&self) {
        if let Some(spool) = self.spool.get() {
            spool.reopen();
        }
    }

    /// Writes `line` some time soon, or drops it.
    pub(crate) fn put(&self, line: Vec<u8>) {
        if let Some(spool) = self.spool.get() {
            spool.put(line);
        }
    }

    /// Waits, not for long, until everything is written.
    pub(crate) fn flush(&self) {
        if let Some(spool) = self.spool.get() {
            spool.flush();
        }
    }
}

/// Whether any class is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// One at least.
    Yes,
    /// None.
    No,
}

/// The fields of `headers` that a class logs. Values are shown only as far as that is harmless.
pub(crate) fn show(log: &ClassLog, headers: &HeaderMap) -> Shown {
    let shown = log.headers.iter().filter_map(|wanted| {
        let value = headers.get(&wanted.name)?;
        let secret = wanted.redacted || redact::is_secret(&wanted.name);
        let text = if secret { redact::HIDDEN.to_owned() } else { redact::harmless(value) };
        Some((wanted.name.clone(), text))
    });
    shown.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_as_far_as_the_policy_says() {
        let log = AccessLog::new(Counter::default());
        let show = |policy, address: &str| log.client(policy, address.parse().unwrap());
        assert_eq!(show(ClientAddress::Full, "10.4.12.7"), "10.4.12.7");
        assert_eq!(show(ClientAddress::Prefix, "10.4.12.7"), "10.4.12.0/24");
        assert_eq!(show(ClientAddress::Prefix, "2001:db8:1:2::7"), "2001:db8:1::/48");
        let one = show(ClientAddress::Hash, "10.4.12.7");
        assert_eq!(
            one,
            show(ClientAddress::Hash, "10.4.12.7"),
            "lines of a client belong together"
        );
        assert_ne!(one, show(ClientAddress::Hash, "10.4.12.8"));
        assert!(one.len() == 16 && one.bytes().all(|b| b.is_ascii_hexdigit()), "{one}");
        let other = AccessLog::new(Counter::default());
        let theirs = other.client(ClientAddress::Hash, "10.4.12.7".parse().unwrap());
        assert_ne!(one, theirs, "nobody can make a table of all addresses");
    }
}
