//! The store's own authority: it signs what its sidecars show, and nothing else.
//!
//! Text in, text out: where its key and its certificate are kept is the caller's affair. Its name
//! has the hash of its key in it, so certificates of two stores are never taken for one another,
//! and whoever reads the key knows the name. What it signs says who by URIs alone, is good for
//! clients alone, and is valid from before any clock here can show: only the end means something.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Encode as _};

use super::request::RequestedKey;
use crate::clock;

/// Longer than a box in a store lives: who takes another one enrols everybody anew.
const LIFETIME: Duration = Duration::from_secs(20 * 365 * 86_400);

/// 9999-01-01: no certificate can say a much later end.
const LAST: u64 = 253_370_764_800;

/// What every name of an authority begins with.
const NAME: &str = "Tillgate store authority";

/// Why there is no authority, or no certificate of it.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// It is not what one wrote.
    #[error("{0}")]
    Foreign(&'static str),
    /// The library refuses.
    #[error("a certificate cannot be made")]
    Refused(#[from] rcgen::Error),
    /// The machine gives no random numbers.
    #[error("the machine gives no random numbers")]
    Random,
}

/// See the module.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("name", &name(self.issuer.key())).finish_non_exhaustive()
    }
}

impl Authority {
    /// The text of a new one, its private key first; `now` is in seconds since 1970.
    ///
    /// # Errors
    /// If the machine cannot make a key.
    pub fn generate(now: u64) -> Result<String, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(&key);
        good_until(&mut params, now.saturating_add(LIFETIME.as_secs()));
        let certificate = params.self_signed(&key)?;
        Ok(key.serialize_pem() + &certificate.pem())
    }

    /// The one with this text.
    ///
    /// # Errors
    /// If it is cut short, or is not what [`Authority::generate`] writes.
    pub fn read(text: &str) -> Result<Self, AuthorityError> {
        let foreign = AuthorityError::Foreign;
        let begin = text.find("-----BEGIN CERTIFICATE-----").unwrap_or(text.len());
        let (key, pem) = text.split_at(begin);
        let key = KeyPair::from_pem(key).map_err(|_| foreign("it has no whole private key"))?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| foreign("it has no whole certificate"))?;
        let read = Certificate::from_der(&der).map_err(|_| foreign("its certificate is none"))?;
        let body = read.tbs_certificate();
        let public = body.subject_public_key_info().subject_public_key.raw_bytes();
        if public != key.der_bytes() {
            return Err(foreign("its key is not that of its certificate"));
        }
        let params = params(&key);
        if !body.subject().to_string().contains(&name(&key)) {
            return Err(foreign("its certificate was not made by Tillgate"));
        }
        Ok(Self { issuer: Issuer::new(params, key), pem: pem.trim().to_owned() + "\n", der })
    }

    /// Its certificate, in PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The same, as it is on the wire.
    pub const fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// A certificate in PEM for the URIs `names` and this key, which is good until `not_after`
    /// (seconds since 1970).
    ///
    /// # Errors
    /// If a name is no URI.
    pub fn issue(
        &self,
        key: &RequestedKey,
        names: &[String],
        not_after: u64,
    ) -> Result<String, AuthorityError> {
        let mut serial = [0; 16];
        rand::fill(&mut serial).map_err(|_| AuthorityError::Random)?;
        // A positive number.
        serial[0] &= 0x7f;
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names
            .iter()
            .map(|name| name.as_str().try_into().map(SanType::URI))
            .collect::<Result<_, _>>()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        good_until(&mut params, not_after);
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }
}

fn params(key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name(key));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn name(key: &KeyPair) -> String {
    let hash = digest(&SHA256, key.der_bytes());
    let hash: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{NAME} {hash}")
}

/// Good from before any clock here can show until `not_after`, in seconds since 1970.
fn good_until(params: &mut CertificateParams, not_after: u64) {
    let moment = |seconds: u64| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    let not_after = not_after.min(LAST);
    params.not_before = moment(clock::BUILT.min(not_after));
    params.not_after = moment(not_after);
}

/// Whom a certificate says that it is from, as it is written there.
pub(super) fn issuer_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    Certificate::from_der(certificate).ok()?.tbs_certificate().issuer().to_der().ok()
}

#[cfg(test)]
mod tests {
    use super::super::certificate::{Facts, identity};
    use super::super::request::OwnKey;
    use super::*;

    const NOW: u64 = 1_790_000_000;

    #[test]
    fn what_it_signs_has_the_names_it_is_given_and_no_others() {
        let text = Authority::generate(NOW).unwrap();
        let authority = Authority::read(&text).unwrap();
        let request = OwnKey::generate().unwrap().request().unwrap();
        let key = RequestedKey::of_request(&request).unwrap();
        let names = ["tillgate://sidecar/pos-1", "tillgate://workload/pos/checkout"];
        let issue = || authority.issue(&key, &names.map(str::to_owned), NOW + 60).unwrap();
        let read = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let leaf = read(&issue());
        let sans: Vec<String> = identity(&leaf).sans.iter().map(ToString::to_string).collect();
        assert_eq!(sans, names.map(|name| format!("URI:{name}")));
        assert_eq!(clock::seconds_of(Facts::of(&leaf).unwrap().not_after), NOW + 60);
        assert_eq!(issuer_of(&leaf), issuer_of(authority.der()));
        assert_ne!(leaf, read(&issue()), "each has a number of its own");
        assert!(!authority.pem().contains("PRIVATE"));
        let again = Authority::read(&text).unwrap();
        assert_eq!(issuer_of(again.der()), issuer_of(authority.der()));
        assert!(authority.issue(&key, &["käse".to_owned()], NOW).is_err());
    }

    #[test]
    fn what_is_torn_or_not_ours_is_no_authority() {
        let (one, other) = (Authority::generate(NOW).unwrap(), Authority::generate(NOW).unwrap());
        let begin = one.find("-----BEGIN CERTIFICATE").unwrap();
        let swapped =
            format!("{}{}", &one[..begin], &other[other.find("-----BEGIN CERT").unwrap()..]);
        let key = KeyPair::generate().unwrap();
        let stranger =
            key.serialize_pem() + &CertificateParams::default().self_signed(&key).unwrap().pem();
        for (text, why) in [
            ("", "no whole private key"),
            (&one[..begin / 2], "no whole private key"),
            (&one[..begin], "no whole certificate"),
            (&one[..one.len() - 40], "no whole certificate"),
            (&swapped, "not that of its certificate"),
            (&stranger, "not made by Tillgate"),
        ] {
            let error = Authority::read(text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}, not {why}");
        }
    }
}
