//! What is read out of a certificate: its names and until when it is valid. Whether it may be
//! trusted is decided by rustls alone.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tillgate_core::tls::{ClientIdentity, San, san_text};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::clock::{self, Floor};

/// How long a certificate that has ended can be renewed while nobody knows the time.
pub const GRACE: Duration = Duration::from_secs(7 * 86_400);

/// The parts of a certificate that rustls does not tell.
#[derive(Debug)]
pub(super) struct Facts {
    /// Lower case, as [`san_text`] has them, without its prefix.
    pub(super) dns_names: Vec<String>,
    pub(super) not_after: SystemTime,
    sans: Vec<Arc<str>>,
}

/// It is not a certificate.
#[derive(Debug, thiserror::Error)]
#[error("a certificate in it cannot be read")]
pub(super) struct Unreadable(#[source] x509_cert::der::Error);

impl Facts {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Result<Self, Unreadable> {
        let certificate = Certificate::from_der(certificate).map_err(Unreadable)?;
        let body = certificate.tbs_certificate();
        let names = body.get_extension::<SubjectAltName>().map_err(Unreadable)?;
        let mut facts = Self {
            dns_names: Vec::new(),
            not_after: SystemTime::UNIX_EPOCH + until(body.validity().not_after),
            sans: Vec::new(),
        };
        for name in names.iter().flat_map(|(_, names)| &names.0) {
            let Some(san) = san(name) else { continue };
            let text = san_text(san);
            if let (San::Dns(_), Some(name)) = (san, text.strip_prefix("DNS:")) {
                facts.dns_names.push(name.to_owned());
            }
            facts.sans.push(text.into());
        }
        Ok(facts)
    }
}

fn until(time: x509_cert::time::Time) -> Duration {
    time.to_unix_duration()
}

/// The names that policy knows; the others (directory names, Kerberos) are passed over.
fn san(name: &GeneralName) -> Option<San<'_>> {
    if let GeneralName::DnsName(name) = name {
        return Some(San::Dns(name.as_str()));
    }
    if let GeneralName::UniformResourceIdentifier(uri) = name {
        return Some(San::Uri(uri.as_str()));
    }
    if let GeneralName::Rfc822Name(mailbox) = name {
        return Some(San::Email(mailbox.as_str()));
    }
    let GeneralName::IpAddress(address) = name else { return None };
    let bytes = address.as_bytes();
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)).map(San::Ip)
}

/// What rules and limits may know of a client whose certificate was verified.
pub(super) fn identity(leaf: &CertificateDer<'_>) -> ClientIdentity {
    // What rustls has verified can be read; what cannot has no names and has ended.
    let (sans, not_after) = Facts::of(leaf)
        .map(|facts| (facts.sans, clock::seconds_of(facts.not_after)))
        .unwrap_or_default();
    let hash = digest(&SHA256, leaf);
    let fingerprint: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    ClientIdentity { sans, not_after, fingerprint: fingerprint.into(), of_store: false }
}

/// What the first certificate of `pem` says, whoever has signed it, if there is one.
pub fn shown(pem: &str) -> Option<ClientIdentity> {
    let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    Facts::of(&leaf).ok()?;
    Some(identity(&leaf))
}

/// Whether the certificate that was verified still counts: connections and tickets outlive it.
/// `floor` has the clock that its verifier had.
pub fn counts(client: &ClientIdentity, floor: &Floor) -> bool {
    floor.lately() <= client.not_after
}

/// Whether another certificate may be had for this one, which has been verified: one of the
/// store's own authority that counts, or has ended no longer ago than [`is_in_grace`] says. One
/// that has ended is good for nothing else.
pub fn may_renew(client: &ClientIdentity, floor: &Floor) -> bool {
    let is_good = counts(client, floor) || is_in_grace(client.not_after, floor.lately(), floor);
    client.of_store && is_good
}

/// Whether a certificate that ended at `end` may be renewed at `now`: for a week, while the clock
/// of `floor` is not believed. A clock that is ahead must not lock every sidecar out.
pub(super) fn is_in_grace(end: u64, now: u64, floor: &Floor) -> bool {
    floor.is_doubted() && now.saturating_sub(end) <= GRACE.as_secs()
}

/// The first moment at which a certificate of the chain is no longer valid.
pub(super) fn earliest_end(chain: &[CertificateDer<'_>]) -> Result<Option<SystemTime>, Unreadable> {
    let ends = chain.iter().map(|one| Facts::of(one).map(|facts| facts.not_after));
    Ok(ends.collect::<Result<Vec<_>, _>>()?.into_iter().min())
}
