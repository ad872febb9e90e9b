//! Parts of the effective config for those who may see no more of it.
//!
//! A slice is canonical JSON with the digest of those very bytes. The whole config is the slice
//! of everything, and its digest is that of the config. Secrets are in none: the config holds
//! paths of files.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

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

/// What a proxy beside a workload needs to classify and to route to its gateway. Lines, rollouts,
/// other listeners and the endpoint itself are the gateway's own.
const SIDECAR: [&str; 6] = ["store", "timeZone", "classes", "backends", "routes", "egress"];

impl Effective {
    /// All of it.
    pub fn whole(&self) -> Slice {
        slice(&tree::of(self))
    }

    /// What a sidecar may see.
    pub fn for_sidecar(&self) -> Slice {
        let Value::Map(sections) = tree::of(self) else { return slice(&Value::Null) };
        let kept = sections.into_iter().filter(|(key, _)| SIDECAR.contains(&key.as_str()));
        slice(&Value::Map(kept.collect()))
    }
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
            ["backends", "classes", "egress", "routes", "store", "timeZone"]
        );
        assert!(keys(&whole.text).contains(&"links".to_owned()));
    }

    #[test]
    fn what_a_sidecar_does_not_see_does_not_wake_it() {
        let before = load_text("p", POLICY).unwrap();
        let after = load_text("p", &POLICY.replace("20Mbit/s", "30Mbit/s")).unwrap();
        assert_ne!(before.whole().digest, after.whole().digest);
        assert_eq!(before.for_sidecar(), after.for_sidecar());
    }
}
