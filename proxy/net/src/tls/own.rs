//! Certificates of the store's own authority, beside those of the configured ones.
//!
//! Whom a certificate says that it is from decides who judges it, so what our authority has not
//! signed never passes for its own. One of ours that has run out is let in for a week longer while
//! this machine's clock is not believed, to be renewed and for nothing else (`may_renew`): a clock
//! that is ahead must not lock every sidecar out. The others are judged as ever.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName, Error, RootCertStore};

use super::authority::issuer_of;
use super::certificate::{Facts, is_in_grace};
use super::files::Problem;
use super::verifier::{Why, signatures_by, why};
use crate::clock::{self, Floor};

/// See the module.
#[derive(Debug)]
pub(super) struct WithOwn {
    configured: Option<Arc<dyn ClientCertVerifier>>,
    own: Arc<dyn ClientCertVerifier>,
    /// The names of both's authorities.
    hints: Vec<DistinguishedName>,
    name: Vec<u8>,
    floor: Arc<Floor>,
}

impl WithOwn {
    /// Judges those of `authority` too; without `configured` no others, and none must be shown.
    pub(super) fn new(
        configured: Option<Arc<dyn ClientCertVerifier>>,
        authority: &CertificateDer<'static>,
        provider: &Arc<CryptoProvider>,
        floor: &Arc<Floor>,
    ) -> Result<Arc<Self>, Problem> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).map_err(Problem::Refused)?;
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let own = builder.allow_unauthenticated().build().map_err(Problem::Verifier)?;
        let mut hints = own.root_hint_subjects().to_vec();
        hints.extend(configured.iter().flat_map(|one| one.root_hint_subjects().iter().cloned()));
        // It has signed itself.
        let name = issuer_of(authority).unwrap_or_default();
        Ok(Arc::new(Self { configured, own, hints, name, floor: Arc::clone(floor) }))
    }

    fn late(&self, end: u64, now: UnixTime) -> Option<UnixTime> {
        let at = UnixTime::since_unix_epoch(Duration::from_secs(end));
        is_in_grace(end, now.as_secs(), &self.floor).then_some(at)
    }
}

/// Whether `certificate` says that it is from `authority`.
pub(super) fn is_of(authority: &CertificateDer<'_>, certificate: &CertificateDer<'_>) -> bool {
    let issuer = issuer_of(certificate);
    issuer.is_some() && issuer == issuer_of(authority)
}

impl ClientCertVerifier for WithOwn {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.configured.as_ref().is_some_and(|one| one.client_auth_mandatory())
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if issuer_of(end_entity).is_none_or(|issuer| issuer != self.name) {
            return match &self.configured {
                Some(one) => one.verify_client_cert(end_entity, intermediates, now),
                None => Err(CertificateError::UnknownIssuer.into()),
            };
        }
        let judged = self.own.verify_client_cert(end_entity, intermediates, now);
        let Err(Error::InvalidCertificate(problem)) = &judged else { return judged };
        if why(problem) != Why::Expired {
            return judged;
        }
        let end = Facts::of(end_entity).map(|facts| clock::seconds_of(facts.not_after));
        match end.ok().and_then(|end| self.late(end, now)) {
            Some(then) => self.own.verify_client_cert(end_entity, intermediates, then),
            None => judged,
        }
    }

    signatures_by!(own);
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::pem::PemObject as _;
    use tillgate_core::tls::ClientIdentity;

    use super::super::authority::Authority;
    use super::super::certificate::{GRACE, counts, may_renew};
    use super::super::request::{OwnKey, RequestedKey};
    use super::*;

    const END: u64 = 1_800_000_000;

    fn authority() -> Authority {
        Authority::read(&Authority::generate(END).unwrap()).unwrap()
    }

    fn leaf(of: &Authority) -> CertificateDer<'static> {
        let request = OwnKey::generate().unwrap().request().unwrap();
        let key = RequestedKey::of_request(&request).unwrap();
        let names = ["tillgate://sidecar/pos-1".to_owned()];
        CertificateDer::from_pem_slice(of.issue(&key, &names, END).unwrap().as_bytes()).unwrap()
    }

    #[test]
    fn what_has_run_out_is_let_in_for_a_week_while_the_clock_is_not_believed() {
        let (ours, floor) = (authority(), Arc::<Floor>::default());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let judge = WithOwn::new(None, ours.der(), &provider, &floor).unwrap();
        let ours = leaf(&ours);
        let good = |leaf: &CertificateDer<'_>, at: u64| {
            let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
            judge.verify_client_cert(leaf, &[], at).is_ok()
        };
        let week = GRACE.as_secs();
        for (doubted, at, is_good) in [
            (false, clock::BUILT, true),
            (false, END, true),
            (false, END + 1, false),
            (true, END + 1, true),
            (true, END + week, true),
            (true, END + week + 1, false),
        ] {
            floor.doubt(doubted);
            assert_eq!(good(&ours, at), is_good, "{doubted} {}", at - END.min(at));
        }
        assert!(!good(&leaf(&authority()), END), "of another store");
    }

    #[test]
    fn one_that_has_run_out_is_renewed_and_good_for_nothing_else() {
        let (floor, later) = (Floor::default(), clock::wall_seconds() + 1_000_000);
        floor.set(later);
        let client = |ago: u64, of_store| ClientIdentity {
            not_after: later - ago,
            of_store,
            ..ClientIdentity::default()
        };
        let week = GRACE.as_secs();
        for (doubted, ago, of_store, expected) in [
            (false, 0, true, (true, true)),
            (false, 0, false, (true, false)),
            (false, 1, true, (false, false)),
            (true, 1, true, (false, true)),
            (true, 1, false, (false, false)),
            (true, week, true, (false, true)),
            (true, week + 1, true, (false, false)),
        ] {
            floor.doubt(doubted);
            let client = client(ago, of_store);
            let found = (counts(&client, &floor), may_renew(&client, &floor));
            assert_eq!(found, expected, "{doubted} {ago} {of_store}");
        }
    }
}
