//! Whose certificate is refused, and until when it was good: rustls's error alone does not say.
//!
//! In goes what a client shows, before anything of it is believed: its names are a stranger's text,
//! told as such, and not more often than once in a while. rustls alone decides.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DistinguishedName, Error};

use super::certificate::{Facts, identity};
use super::error::date;
use crate::clock;
use crate::metrics::Label;
use crate::rarely::{Rarely, TOLD_EVERY};

/// Characters of a stranger's names.
const NAMES_CHARS_MAX: usize = 200;

/// What a verifier of clients says of signatures: the same as the one within.
macro_rules! signatures_by {
    ($inner:ident) => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &rustls::pki_types::CertificateDer<'_>,
            dss: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            self.$inner.verify_tls12_signature(message, cert, dss)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &rustls::pki_types::CertificateDer<'_>,
            dss: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            self.$inner.verify_tls13_signature(message, cert, dss)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.$inner.supported_verify_schemes()
        }
    };
}
pub(super) use signatures_by;

/// A verifier that tells. See the module.
#[derive(Debug)]
pub(super) struct Telling {
    inner: Arc<dyn ClientCertVerifier>,
    listener: Label,
    told: Mutex<Rarely>,
}

impl Telling {
    pub(super) fn new(inner: Arc<dyn ClientCertVerifier>, listener: &Label) -> Arc<Self> {
        Arc::new(Self { inner, listener: Arc::clone(listener), told: Mutex::default() })
    }

    fn tell(&self, shown: &CertificateDer<'_>, problem: &CertificateError) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(count) = told.happens(TOLD_EVERY, clock::now()) else { return };
        drop(told);
        let (listener, client) = (&*self.listener, identity(shown));
        let names: String = client.sans.join(", ").chars().take(NAMES_CHARS_MAX).collect();
        let (subject, fingerprint) = (names.escape_debug(), &*client.fingerprint);
        match why(problem) {
            Why::Expired => {
                let until = Facts::of(shown).map(|facts| date(facts.not_after));
                let until = until.unwrap_or_default();
                tracing::warn!(
                    listener, %subject, fingerprint, until, count,
                    "a client's certificate has expired, it is refused: renew it there; if it is \
                     not that old, set this machine's clock"
                );
            }
            Why::Early => tracing::warn!(
                listener, %subject, fingerprint, count,
                "a client's certificate is not valid yet, it is refused: set the clocks of both \
                 machines"
            ),
            Why::Other => tracing::warn!(
                listener, %subject, fingerprint, why = %problem, count,
                "a client's certificate is refused: have it signed by an authority of caFile"
            ),
        }
    }
}

/// What is wrong with a certificate, as far as somebody can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Expired,
    Early,
    Other,
}

/// What rustls's word comes to.
pub(super) fn why(problem: &CertificateError) -> Why {
    if matches!(problem, CertificateError::Expired | CertificateError::ExpiredContext { .. }) {
        Why::Expired
    } else if matches!(
        problem,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }
    ) {
        Why::Early
    } else {
        Why::Other
    }
}

impl ClientCertVerifier for Telling {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now);
        if let Err(Error::InvalidCertificate(problem)) = &verified {
            self.tell(end_entity, problem);
        }
        verified
    }

    signatures_by!(inner);

    fn requires_raw_public_keys(&self) -> bool {
        self.inner.requires_raw_public_keys()
    }
}
