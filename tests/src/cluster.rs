//! A Kubernetes cluster, as far as it signs the tokens that kubelets project into pods.

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tillgate_net::clock;

/// Who signs, as its tokens say.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// See the module.
pub struct Cluster {
    /// By their names; the last one signs.
    keys: Vec<(String, EncodingKey)>,
}

impl Default for Cluster {
    fn default() -> Self {
        let mut cluster = Self { keys: Vec::new() };
        cluster.rotate();
        cluster
    }
}

impl Cluster {
    /// Takes another key to sign with; the ones before still count.
    ///
    /// # Panics
    /// If there can be no key.
    pub fn rotate(&mut self) {
        let key = rcgen::KeyPair::generate().expect("a key").serialize_der();
        self.keys.push((format!("key-{}", self.keys.len()), EncodingKey::from_ec_der(&key)));
    }

    /// The public keys, as the API server tells them.
    ///
    /// # Panics
    /// If a key is none.
    pub fn jwks(&self) -> String {
        let keys: Vec<Value> = self
            .keys
            .iter()
            .map(|(id, key)| {
                let mut jwk = Jwk::from_encoding_key(key, Algorithm::ES256).expect("a key");
                jwk.common.key_id = Some(id.clone());
                serde_json::to_value(jwk).expect("JSON")
            })
            .collect();
        json!({ "keys": keys }).to_string()
    }

    /// The token of a pod of `account` (`shop/basket`), for `audience` and an hour.
    ///
    /// # Panics
    /// If it cannot be signed.
    pub fn token(&self, (pod, account): (&str, &str), audience: &str) -> String {
        let now = clock::wall_seconds();
        let (namespace, account) = account.split_once('/').expect("a namespace and a name");
        let claims = json!({
            "aud": [audience],
            "exp": now + 3600,
            "iat": now,
            "iss": ISSUER,
            "kubernetes.io": {
                "namespace": namespace,
                "pod": {"name": pod, "uid": "2c9e8b1a-5a3f-4a52-9a7e-0f6f2d1b7c44"},
                "serviceaccount": {"name": account, "uid": "7d3f1c52-1f5a-4f2e-8f0c-2a86d1d7e0b9"},
            },
            "nbf": now,
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
        });
        let (id, key) = self.keys.last().expect("it has one from the beginning");
        let header = Header { kid: Some(id.clone()), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims, key).expect("a token")
    }
}
