//! The public keys of a cluster: a JWK Set (RFC 7517), each key with the one algorithm it is for.
//!
//! A key that is no signature's, or of a kind that is not known here, is passed over: a cluster
//! may add what this version does not know. A symmetric key is passed over too: what is public
//! must not be anybody's secret. A set without one key that can be used is refused.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use crate::disk::read_bounded;

/// A key has some hundred bytes, in a certificate chain some kibibytes.
pub(super) const FILE_BYTES_MAX: u64 = 64 * 1024;

/// A cluster has one key, and a second one while it changes them.
const KEYS_MAX: usize = 32;

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read, or is too long.
    #[error("the file cannot be read, or has more than {FILE_BYTES_MAX} bytes")]
    File(#[source] io::Error),
    /// It is something else.
    #[error("this is no JWK Set")]
    Json(#[source] serde_json::Error),
    /// Too many to be a cluster's.
    #[error("{0} keys are more than {KEYS_MAX}")]
    TooMany(usize),
    /// A token that names it would have two.
    #[error("two keys are called `{0}`")]
    Twice(String),
    /// Nothing could be checked.
    #[error("none of its keys has a `kid` and is an RSA or ECDSA key for signatures")]
    NoKey,
}

/// A key and what it is for.
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    pub(super) public: DecodingKey,
}

/// The keys, by their names.
#[derive(Default)]
pub(super) struct Keys {
    by_id: BTreeMap<String, Key>,
    /// Of the file, to tell another one from it.
    digest: Vec<u8>,
}

impl PartialEq for Keys {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Keys {}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.by_id.keys()).finish()
    }
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

impl Keys {
    pub(super) fn read(path: &Path) -> Result<Self, KeysError> {
        Self::parse(&read_bounded(path, FILE_BYTES_MAX).map_err(KeysError::File)?)
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, KeysError> {
        let set: Set = serde_json::from_slice(bytes).map_err(KeysError::Json)?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeysError::TooMany(set.keys.len()));
        }
        let mut by_id = BTreeMap::new();
        for (id, key) in set.keys.into_iter().filter_map(usable) {
            if by_id.contains_key(&id) {
                return Err(KeysError::Twice(id));
            }
            by_id.insert(id, key);
        }
        if by_id.is_empty() {
            return Err(KeysError::NoKey);
        }
        Ok(Self { by_id, digest: digest(&SHA256, bytes).as_ref().to_vec() })
    }

    pub(super) fn find(&self, id: &str) -> Option<&Key> {
        self.by_id.get(id)
    }
}

/// The key with its name, if tokens can be checked by it.
fn usable(value: Value) -> Option<(String, Key)> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    if jwk.common.public_key_use.as_ref().is_some_and(|used| *used != PublicKeyUse::Signature) {
        return None;
    }
    let algorithm = algorithm(&jwk)?;
    let public = DecodingKey::from_jwk(&jwk).ok()?;
    Some((jwk.common.key_id?, Key { algorithm, public }))
}

/// What the key is for: what it says, if that fits its kind, else what its kind is used for most.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library's list of kinds may grow")]
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    use Algorithm::{ES256, ES384, PS256, PS384, PS512, RS256, RS384, RS512};
    let fitting: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[ES384],
        _ => return None,
    };
    match jwk.common.key_algorithm {
        None => fitting.first().copied(),
        Some(said) => fitting.iter().copied().find(|one| said == (*one).into()),
    }
}
