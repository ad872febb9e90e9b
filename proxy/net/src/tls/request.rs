//! Requests for certificates (PKCS #10): what a sidecar makes, and what is taken from one.
//!
//! Taken is the public key alone, and only if whoever asks has the private one: the request is
//! signed with it. Whatever else a request says, names above all, is not read. Keys are ECDSA
//! P-256, which is what [`OwnKey`] makes, so that nothing else has to be judged.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rcgen::{
    CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SignatureAlgorithm,
};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject as _;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::request::CertReq;

/// id-ecPublicKey.
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");

/// secp256r1.
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");

/// ecdsa-with-SHA256.
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It cannot be read.
    #[error("it is no certificate request in PEM (-----BEGIN CERTIFICATE REQUEST-----)")]
    Malformed,
    /// Its key is of another kind.
    #[error("its key is not ECDSA P-256, or it is not signed with SHA-256")]
    OtherKey,
    /// Whoever made it does not have its key.
    #[error("it is not signed with its own key")]
    Unproven,
}

/// The public key of somebody who has the private one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedKey(Vec<u8>);

impl RequestedKey {
    /// The key of the request `pem`.
    ///
    /// # Errors
    /// [`RequestError`] says what is wrong with the request.
    pub fn of_request(pem: &str) -> Result<Self, RequestError> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes());
        let der = der.map_err(|_| RequestError::Malformed)?;
        let request = CertReq::from_der(&der).map_err(|_| RequestError::Malformed)?;
        let public = &request.info.public_key;
        let curve = public.algorithm.parameters.as_ref();
        let curve = curve.and_then(|curve| curve.decode_as::<ObjectIdentifier>().ok());
        let is_known = public.algorithm.oid == EC
            && curve == Some(P256)
            && request.algorithm.oid == ECDSA_SHA256;
        if !is_known {
            return Err(RequestError::OtherKey);
        }
        let key = public.subject_public_key.raw_bytes();
        let signed = request.info.to_der().map_err(|_| RequestError::Malformed)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
            .verify(&signed, request.signature.raw_bytes())
            .map_err(|_| RequestError::Unproven)?;
        Ok(Self(key.to_vec()))
    }
}

impl RequestedKey {
    /// The point on the curve.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl PublicKeyData for RequestedKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// A private key that was made here.
pub struct OwnKey(KeyPair);

impl OwnKey {
    /// A new one.
    ///
    /// # Errors
    /// If the machine cannot make one.
    pub fn generate() -> Result<Self, rcgen::Error> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self)
    }

    /// The one with this text; `None` if it is not what [`OwnKey::pem`] gave.
    pub fn read(pem: &str) -> Option<Self> {
        let key = KeyPair::from_pem(pem).ok()?;
        key.is_compatible(&PKCS_ECDSA_P256_SHA256).then_some(Self(key))
    }

    /// The key in PEM: whoever has it is this sidecar.
    pub fn pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// A request in PEM for a certificate; names come from whoever signs.
    ///
    /// # Errors
    /// If the machine cannot sign.
    pub fn request(&self) -> Result<String, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serialize_request(&self.0)?.pem()
    }
}

#[cfg(test)]
mod tests {
    use super::super::authority::Authority;
    use super::*;

    fn pem(request: &CertReq) -> String {
        let body = base64_of(&request.to_der().unwrap());
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
    }

    fn base64_of(bytes: &[u8]) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(bytes)
    }

    fn read(text: &str) -> CertReq {
        let der = CertificateSigningRequestDer::from_pem_slice(text.as_bytes()).unwrap();
        CertReq::from_der(&der).unwrap()
    }

    #[test]
    fn a_key_is_taken_from_who_has_it() {
        let key = OwnKey::generate().unwrap();
        let text = key.request().unwrap();
        let taken = RequestedKey::of_request(&text).unwrap();
        assert_eq!(taken.der_bytes(), key.0.der_bytes());
        // Somebody else's key under one's own signature.
        let mut stolen = read(&text);
        let other = read(&OwnKey::generate().unwrap().request().unwrap());
        stolen.info.public_key = other.info.public_key;
        assert_eq!(RequestedKey::of_request(&pem(&stolen)), Err(RequestError::Unproven));
        assert_eq!(RequestedKey::of_request(&pem(&read(&text))), Ok(taken), "the same, anew");
    }

    #[test]
    fn what_is_no_request_is_told_from_what_is_one_of_another_kind() {
        let ed = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let other = CertificateParams::default().serialize_request(&ed).unwrap().pem().unwrap();
        assert_eq!(RequestedKey::of_request(&other), Err(RequestError::OtherKey));
        let text = OwnKey::generate().unwrap().request().unwrap();
        let authority = Authority::generate(0).unwrap();
        for wrong in ["", "x", &text[..text.len() / 2], &authority] {
            assert_eq!(RequestedKey::of_request(wrong), Err(RequestError::Malformed), "{wrong}");
        }
    }
}
