//! Parts of the effective config for those who may see no more of it.
//!
//! A slice is canonical JSON with the digest of those very bytes. The whole config is the slice
//! of everything, and its digest is that of the config. Secrets are in none: the config holds
//! paths of files.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tillgate_core::gate::Passage;
use tillgate_core::listener::{ListenerProtocol, ListenerSpec};
use tillgate_core::tls::ClientAuth;

use super::Effective;
use super::render::{canonical, shown};
use super::tree::{self, Value};

/// Canonical JSON with its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// `sha256:` and 64 hex digits over the text.
    pub digest: Arc<str>,
    /// The text.
    pub text: String,
}

/// What a proxy beside a workload needs to classify and to route. Lines, rollouts, what may leave
/// the store, other listeners and the endpoint itself are the gateway's own.
const SIDECAR: [&str; 5] = ["store", "timeZone", "classes", "backends", "routes"];

/// What it needs to know of a server across the line: it never asks one itself.
const ACROSS: [&str; 2] = ["location", "protocol"];

impl Effective {
    /// All of it.
    pub fn whole(&self) -> Slice {
        slice(&tree::of(self))
    }

    /// What a sidecar may see, and where the gateway takes what leads across the line.
    pub fn for_sidecar(&self) -> Slice {
        let Value::Map(sections) = tree::of(self) else { return slice(&Value::Null) };
        let mut kept: Vec<(String, Value)> =
            sections.into_iter().filter(|(key, _)| SIDECAR.contains(&key.as_str())).collect();
        let backends = kept.iter_mut().filter(|(key, _)| key == "backends");
        for (_, backend) in backends.flat_map(|(_, all)| fields(all)) {
            let across = self::across(backend);
            if let Value::Map(fields) = backend
                && across
            {
                fields.retain(|(key, _)| ACROSS.contains(&key.as_str()));
            }
        }
        for (_, routes) in kept.iter_mut().filter(|(key, _)| key == "routes") {
            for (route, rules) in fields(routes) {
                for (rule, shown) in fields(rules) {
                    let passage = Passage::Route { route: route.as_str(), rule: rule.as_str() };
                    if let Value::Map(shown) = shown
                        && self.gate.guards(passage)
                    {
                        // When is the gateway's to know.
                        shown.push(("guarded".to_owned(), Value::Flag(true)));
                    }
                }
            }
        }
        let hops = [
            ("http", self.hop(ListenerProtocol::Http)),
            ("forwardProxy", self.hop(ListenerProtocol::ForwardProxy)),
        ];
        let hops = hops.map(|(key, value)| (key.to_owned(), value));
        kept.push(("gateway".to_owned(), Value::Map(hops.into())));
        slice(&Value::Map(kept))
    }

    /// The listener of `protocol` that sidecars use: one on the network rather than one on
    /// loopback, one in the clear rather than one with TLS.
    fn hop(&self, protocol: ListenerProtocol) -> Value {
        let usable = |one: &&ListenerSpec| {
            let wants_certificate = one.tls.as_ref().is_some_and(|tls| {
                tls.client_certificates.as_ref().is_some_and(|it| it.mode == ClientAuth::Required)
            });
            one.protocol == protocol && one.proxy_protocol.is_none() && !wants_certificate
        };
        let rank = |one: &&ListenerSpec| (one.address.ip().is_loopback(), one.tls.is_some());
        let Some(found) = self.listeners.iter().filter(usable).min_by_key(rank) else {
            return Value::Null;
        };
        let entries = [
            ("port", Value::Number(found.address.port().into())),
            ("tls", Value::Flag(found.tls.is_some())),
        ];
        Value::Map(entries.map(|(key, value)| (key.to_owned(), value)).into())
    }
}

/// The entries of a map.
fn fields(value: &mut Value) -> &mut [(String, Value)] {
    match value {
        Value::Map(entries) => entries,
        Value::Null | Value::Flag(_) | Value::Number(_) | Value::Text(_) | Value::List(_) => {
            &mut []
        }
    }
}

/// Whether a backend is across the line.
fn across(backend: &mut Value) -> bool {
    let cloud = Value::Text("Cloud".to_owned());
    fields(backend).iter().any(|(key, value)| key == "location" && *value == cloud)
}

fn slice(value: &Value) -> Slice {
    let text = canonical(value);
    Slice { digest: shown(&Sha256::digest(text.as_bytes())), text }
}

#[cfg(test)]
mod tests {
    use crate::load_text;

    const POLICY: &str = "apiVersion: tillgate.dev/v1alpha1\nkind: Store\n\
        metadata: {name: store-0412}\nspec:\n  timeZone: Europe/Oslo\n  links:\n    \
        - {name: primary, capacity: {up: 5Mbit/s, down: 20Mbit/s}}\n";

    #[test]
    fn the_whole_has_the_digest_of_the_config_and_a_sidecar_sees_less() {
        let config = load_text("p", POLICY).unwrap();
        let (whole, sidecar) = (config.whole(), config.for_sidecar());
        assert_eq!(whole.digest, config.digest);
        assert_ne!(sidecar.digest, config.digest);
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&whole.text), config.to_json()["effective"]);
        let keys = |text: &str| read(text).as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(
            keys(&sidecar.text),
            ["backends", "classes", "gateway", "routes", "store", "timeZone"]
        );
        assert!(keys(&whole.text).contains(&"links".to_owned()));
        let gateway = &read(&sidecar.text)["gateway"];
        assert_eq!(
            (&gateway["http"]["port"], &gateway["http"]["tls"]),
            (&8080.into(), &false.into())
        );
        assert_eq!(gateway["forwardProxy"]["port"], 3128);
    }

    #[test]
    fn what_a_sidecar_does_not_see_does_not_wake_it() {
        let before = load_text("p", POLICY).unwrap();
        let after = load_text("p", &POLICY.replace("20Mbit/s", "30Mbit/s")).unwrap();
        assert_ne!(before.whole().digest, after.whole().digest);
        assert_eq!(before.for_sidecar(), after.for_sidecar());
    }
}
