//! Certificates and versions of TLS, as `Listener` and `Backend` both say them.
//!
//! Certificates are paths: reading a policy opens no file, so that a policy can be checked where
//! the store's secrets are not.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::scalar::FilePath;

/// A certificate with its key, by their files. They are read when the gateway starts and again
/// when they change.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CertificateDoc {
    /// The certificate and its chain, in PEM.
    pub cert_file: FilePath,
    /// Its private key, in PEM.
    pub key_file: FilePath,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum TlsVersionDoc {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V1_3,
}
