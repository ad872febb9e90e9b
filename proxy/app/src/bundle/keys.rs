//! Keys and signatures: Ed25519, and ECDSA on P-256 with SHA-256.
//!
//! Public keys are a SubjectPublicKeyInfo in PEM (or its bare base64), private ones PKCS#8 in PEM:
//! what `openssl` and `cosign` write. Signatures are detached, in base64; the one over P-256 is
//! ASN.1 DER. Which of the two a key is follows from the key.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
    ParsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A key's text is some 100 bytes; what is longer is no key.
const KEY_TEXT_MAX: usize = 8 * 1024;

/// Why a key or a signature cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error(
        "this is no public key; write one with `openssl pkey -in KEY.pem -pubout`, Ed25519 or P-256"
    )]
    Public,
    #[error(
        "this is no private key; make one with `openssl genpkey -algorithm ed25519`, unencrypted"
    )]
    Private,
    #[error("the signature is no base64")]
    Encoding,
    #[error("the key cannot sign")]
    Signing,
}

/// A key that checks signatures.
#[derive(Clone, Debug)]
pub(crate) struct PublicKey(ParsedPublicKey);

impl PublicKey {
    /// Reads a public key.
    pub(crate) fn read(text: &str) -> Result<Self, KeyError> {
        let der = decode(text, "PUBLIC KEY").ok_or(KeyError::Public)?;
        let parsed = ParsedPublicKey::new(&ED25519, &der)
            .or_else(|_| ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &der));
        parsed.map(Self).map_err(|_| KeyError::Public)
    }

    /// Whether `signature` is of this key over `message`.
    pub(crate) fn verifies(&self, message: &[u8], signature: &str) -> bool {
        let signature = STANDARD.decode(squeeze(signature));
        signature.is_ok_and(|bytes| self.0.verify_sig(message, &bytes).is_ok())
    }
}

/// A key that signs.
pub(crate) enum PrivateKey {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

impl PrivateKey {
    /// Reads a private key.
    pub(crate) fn read(text: &str) -> Result<Self, KeyError> {
        let der = decode(text, "PRIVATE KEY").ok_or(KeyError::Private)?;
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8(&der) {
            return Ok(Self::Ed25519(pair));
        }
        let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, &der);
        pair.map(Self::P256).map_err(|_| KeyError::Private)
    }

    /// Signs `message`, in base64.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<String, KeyError> {
        match self {
            Self::Ed25519(pair) => Ok(STANDARD.encode(pair.sign(message))),
            Self::P256(pair) => {
                let signature = pair.sign(&SystemRandom::new(), message);
                Ok(STANDARD.encode(signature.map_err(|_| KeyError::Signing)?))
            }
        }
    }
}

/// A signature that another program has written: base64, or the bare bytes of one.
pub(crate) fn signature_text(bytes: &[u8]) -> Result<String, KeyError> {
    let text = std::str::from_utf8(bytes).ok().map(squeeze);
    match text.filter(|text| STANDARD.decode(text).is_ok_and(|bytes| bytes.len() >= 64)) {
        Some(text) => Ok(text),
        None if (64..=72).contains(&bytes.len()) => Ok(STANDARD.encode(bytes)),
        None => Err(KeyError::Encoding),
    }
}

/// The bytes of a PEM block whose name ends with `name`, or of bare base64.
fn decode(text: &str, name: &str) -> Option<Vec<u8>> {
    if text.len() > KEY_TEXT_MAX {
        return None;
    }
    let Some((_, rest)) = text.split_once("-----BEGIN ") else {
        return STANDARD.decode(squeeze(text)).ok();
    };
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    if !label.ends_with(name) || label.contains("ENCRYPTED") {
        return None;
    }
    STANDARD.decode(squeeze(body)).ok()
}

fn squeeze(text: &str) -> String {
    text.chars().filter(|char| !char.is_ascii_whitespace()).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Made by OpenSSL 3.0 for these tests alone (`openssl genpkey`, `openssl pkeyutl -rawin`).
    pub(crate) const ED25519_PUBLIC: &str = include_str!("../../corpus/keys/ed25519.pub.pem");
    pub(crate) const ED25519_PRIVATE: &str = include_str!("../../corpus/keys/ed25519.pem");
    pub(crate) const P256_PUBLIC: &str = include_str!("../../corpus/keys/p256.pub.pem");
    pub(crate) const P256_PRIVATE: &str = include_str!("../../corpus/keys/p256.pem");
    const MESSAGE: &[u8] = b"tillgate-bundle-v1\n{}\n";
    const BY_OPENSSL: [(&str, &str); 2] = [
        (ED25519_PUBLIC, include_str!("../../corpus/keys/ed25519.sig.b64")),
        (P256_PUBLIC, include_str!("../../corpus/keys/p256.sig.b64")),
    ];

    #[test]
    fn signatures_of_openssl_are_taken() {
        for (key, signature) in BY_OPENSSL {
            let public = PublicKey::read(key).unwrap();
            assert!(public.verifies(MESSAGE, signature));
            assert!(!public.verifies(b"tillgate-bundle-v1\n{} \n", signature));
            let bare: String = key.lines().filter(|line| !line.starts_with("-----")).collect();
            assert!(PublicKey::read(&bare).unwrap().verifies(MESSAGE, signature));
        }
    }

    #[test]
    fn what_is_signed_here_is_verified_by_the_other_half() {
        for (private, public) in [(ED25519_PRIVATE, ED25519_PUBLIC), (P256_PRIVATE, P256_PUBLIC)] {
            let signature = PrivateKey::read(private).unwrap().sign(MESSAGE).unwrap();
            let public = PublicKey::read(public).unwrap();
            assert!(public.verifies(MESSAGE, &signature));
            assert!(!public.verifies(MESSAGE, "AAAA") && !public.verifies(MESSAGE, "%"));
            let raw = STANDARD.decode(&signature).unwrap();
            assert_eq!(signature_text(&raw).unwrap(), signature);
            assert_eq!(signature_text(signature.as_bytes()).unwrap(), signature);
        }
        assert!(signature_text(b"short").is_err());
    }

    #[test]
    fn a_key_of_the_wrong_kind_is_named() {
        assert!(PublicKey::read(ED25519_PRIVATE).is_err());
        assert!(PrivateKey::read(ED25519_PUBLIC).is_err());
        assert!(PublicKey::read("").is_err() && PublicKey::read("AAAA").is_err());
        assert!(PublicKey::read(&"A".repeat(9000)).is_err());
        let encrypted = ED25519_PRIVATE.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        assert!(PrivateKey::read(&encrypted).is_err());
    }
}
