//! How handshakes end, in words and labels: what is wrong, until when it was right, what to do.

use std::error::Error as StdError;
use std::io;
use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};

use super::verifier::{Why, why};
use crate::error::Failure;

/// Why there is no TLS with a server.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Its certificate is not signed by anyone we trust.
    #[error(
        "the server's certificate is not trusted ({why}); name the file of its authority in the \
         backend's `tls.caFile`, or give the server a certificate of a known one"
    )]
    Untrusted {
        /// rustls's word.
        why: String,
    },
    /// It shows the certificate of an authority.
    #[error(
        "the server shows the certificate of an authority as its own; give it one that says \
         CA:FALSE (`openssl req -x509` makes authorities, unless told \
         `-addext basicConstraints=critical,CA:FALSE`)"
    )]
    Authority,
    /// Its certificate is no longer valid.
    #[error(
        "the server's certificate expired on {until}; renew it on the server, or set the clock of \
         this machine"
    )]
    Expired {
        /// When, in GMT.
        until: String,
    },
    /// Its certificate is not valid yet.
    #[error(
        "the server's certificate is valid only from {from}; check the clocks of both machines"
    )]
    NotYetValid {
        /// When, in GMT.
        from: String,
    },
    /// Its certificate is for somebody else.
    #[error(
        "the server's certificate is not for {expected} but for {presented}; set the backend's \
         `tls.sni` to one of its names, or renew it with this one"
    )]
    WrongName {
        /// Who was asked for.
        expected: String,
        /// The names in it.
        presented: String,
    },
    /// It refuses our certificate, or wants one.
    #[error(
        "the server refuses the client certificate, or its absence ({alert}); check the backend's \
         `tls.clientCertificate` and the authorities of the server"
    )]
    ClientCertificate {
        /// Its alert.
        alert: String,
    },
    /// It does not speak HTTP/2 inside.
    #[error("the server agreed on {agreed}, not on HTTP/2; set the backend's `protocol` to HTTP")]
    NoHttp2 {
        /// What it agreed on.
        agreed: String,
    },
    /// The endpoint's host is no name that a certificate can have.
    #[error("{name} is no name for a certificate; set the backend's `tls.sni`")]
    InvalidName {
        /// The host.
        name: String,
    },
    /// Anything else.
    #[error(
        "no TLS with the server: {why}; check that it speaks TLS on this port, and the backend's \
         `tls.minVersion`"
    )]
    Handshake {
        /// rustls's word, or the kernel's.
        why: String,
    },
}

impl TlsError {
    /// Its row's name in the failure table.
    pub const fn failure(&self) -> Failure {
        match self {
            Self::Untrusted { .. } | Self::Authority => Failure::TlsUntrusted,
            Self::Expired { .. } | Self::NotYetValid { .. } => Failure::TlsExpired,
            Self::WrongName { .. } | Self::InvalidName { .. } => Failure::TlsWrongName,
            Self::ClientCertificate { .. } => Failure::TlsClientCertificate,
            Self::NoHttp2 { .. } | Self::Handshake { .. } => Failure::TlsHandshake,
        }
    }

    /// What an error of a client's handshake says.
    pub(super) fn of(error: &io::Error) -> Self {
        match error_of(error) {
            Some(Error::InvalidCertificate(problem)) => Self::of_certificate(problem),
            Some(Error::AlertReceived(alert)) if is_about_certificates(*alert) => {
                Self::ClientCertificate { alert: format!("{alert:?}") }
            }
            // All that TLS 1.2 has to say where it misses a certificate.
            Some(Error::AlertReceived(AlertDescription::HandshakeFailure)) => Self::Handshake {
                why: "it refuses without a reason; it may want a `tls.clientCertificate`".into(),
            },
            Some(error) => Self::Handshake { why: error.to_string() },
            None => Self::Handshake { why: error.to_string() },
        }
    }

    fn of_certificate(problem: &CertificateError) -> Self {
        if let CertificateError::ExpiredContext { not_after, .. } = problem {
            return Self::Expired { until: date(moment(*not_after)) };
        }
        if let CertificateError::NotValidYetContext { not_before, .. } = problem {
            return Self::NotYetValid { from: date(moment(*not_before)) };
        }
        if let CertificateError::NotValidForNameContext { expected, presented } = problem {
            let expected = expected.to_str().into_owned();
            return Self::WrongName { expected, presented: names(presented) };
        }
        match problem.to_string() {
            // rustls has no name of its own for it.
            why if why.contains("CaUsedAsEndEntity") => Self::Authority,
            why => Self::Untrusted { why },
        }
    }
}

/// The names in a certificate as rustls tells them (`DnsName("a.example")`), for people.
fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "no name at all".to_owned();
    }
    let bare = |name: &String| match name.split_once("(\"") {
        Some((_, rest)) => rest.trim_end_matches("\")").to_owned(),
        None => name.clone(),
    };
    presented.iter().map(bare).collect::<Vec<_>>().join(", ")
}

fn moment(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

/// In GMT, for people.
pub(super) fn date(time: SystemTime) -> String {
    httpdate::fmt_http_date(time)
}

/// Alerts with which a server refuses a client for its certificate.
fn is_about_certificates(alert: AlertDescription) -> bool {
    [
        AlertDescription::AccessDenied,
        AlertDescription::BadCertificate,
        AlertDescription::CertificateExpired,
        AlertDescription::CertificateRequired,
        AlertDescription::CertificateRevoked,
        AlertDescription::CertificateUnknown,
        AlertDescription::NoCertificate,
        AlertDescription::UnknownCA,
        AlertDescription::UnsupportedCertificate,
    ]
    .contains(&alert)
}

/// What rustls says inside of `error`, however deep.
pub(super) fn error_of<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<Error>() {
            return Some(found);
        }
        // An io::Error names as its source what its content has as a source, not its content.
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inside {
            Some(inside) => Some(inside as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

/// Whether a connection ended because its server refuses the certificate we showed, or did not.
/// With TLS 1.3 it says so only after the handshake.
pub(super) fn refused_us(error: &(dyn StdError + 'static)) -> bool {
    matches!(error_of(error), Some(Error::AlertReceived(alert)) if is_about_certificates(*alert))
}

/// How a handshake with a client ended, as a label of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum HandshakeEnd {
    Full,
    Resumed,
    NotInTime,
    CrowdedOut,
    Gone,
    NotTls,
    Incompatible,
    NoProtocol,
    NoCertificate,
    BadCertificate,
    ExpiredCertificate,
    EarlyCertificate,
    RefusedByClient,
    Broken,
}

impl HandshakeEnd {
    pub(crate) const ALL: [Self; 14] = [
        Self::Full,
        Self::Resumed,
        Self::NotInTime,
        Self::CrowdedOut,
        Self::Gone,
        Self::NotTls,
        Self::Incompatible,
        Self::NoProtocol,
        Self::NoCertificate,
        Self::BadCertificate,
        Self::ExpiredCertificate,
        Self::EarlyCertificate,
        Self::RefusedByClient,
        Self::Broken,
    ];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::NotInTime => "timeout",
            Self::CrowdedOut => "crowded_out",
            Self::Gone => "client_gone",
            Self::NotTls => "not_tls",
            Self::Incompatible => "incompatible",
            Self::NoProtocol => "no_protocol",
            Self::NoCertificate => "no_certificate",
            Self::BadCertificate => "bad_certificate",
            Self::ExpiredCertificate => "expired_certificate",
            Self::EarlyCertificate => "early_certificate",
            Self::RefusedByClient => "refused_by_client",
            Self::Broken => "broken",
        }
    }

    /// Whether somebody has to be told. Who only connects and leaves is a health check, mostly; a
    /// refused certificate is told where it is judged.
    pub(super) const fn is_news(self) -> bool {
        !matches!(
            self,
            Self::Full
                | Self::Resumed
                | Self::Gone
                | Self::BadCertificate
                | Self::ExpiredCertificate
                | Self::EarlyCertificate
        )
    }

    /// What is wrong, and with whom; for the log.
    pub(super) const fn remedy(self) -> &'static str {
        match self {
            Self::Full | Self::Resumed => "the handshake is complete",
            Self::NotInTime => "the client did not complete its handshake within headerTimeout",
            Self::CrowdedOut => "the oldest of too many clients that do not end their handshake",
            Self::Gone => "the client left during the handshake",
            Self::NotTls => "the client does not speak TLS; this listener does",
            Self::Incompatible => "no version, cipher or key exchange in common; see minVersion",
            Self::NoProtocol => "the client offers neither h2 nor http/1.1",
            Self::NoCertificate => "the client shows no certificate; this listener requires one",
            Self::BadCertificate => "the client's certificate is refused; renew it, or see its CA",
            Self::ExpiredCertificate => "the client's certificate has expired; renew it there",
            Self::EarlyCertificate => "the client's certificate is not valid yet; set the clocks",
            Self::RefusedByClient => "the client refuses our certificate; does it trust its CA?",
            Self::Broken => "the client does not follow the protocol",
        }
    }

    /// Which end an error is.
    pub(super) fn of(error: &io::Error) -> Self {
        let Some(found) = error_of(error) else {
            let kind = error.kind();
            return if kind == io::ErrorKind::TimedOut {
                Self::NotInTime
            } else if kind == io::ErrorKind::ResourceBusy {
                Self::CrowdedOut
            } else {
                Self::Gone
            };
        };
        if matches!(found, Error::NoCertificatesPresented) {
            Self::NoCertificate
        } else if let Error::InvalidCertificate(problem) = found {
            match why(problem) {
                Why::Expired => Self::ExpiredCertificate,
                Why::Early => Self::EarlyCertificate,
                Why::Other => Self::BadCertificate,
            }
        } else if matches!(found, Error::NoApplicationProtocol) {
            Self::NoProtocol
        } else if matches!(found, Error::PeerIncompatible(_)) {
            Self::Incompatible
        } else if matches!(found, Error::AlertReceived(_)) {
            Self::RefusedByClient
        } else if matches!(found, Error::InvalidMessage(_)) {
            Self::NotTls
        } else {
            Self::Broken
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::ServerName;

    use super::*;

    #[test]
    fn an_authority_that_is_shown_as_a_server_is_told_with_the_remedy() {
        let mut params = CertificateParams::new(["pay.example".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(own.der().clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let name = ServerName::try_from("pay.example").unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_790_000_000));
        let judged = verifier.build().unwrap().verify_server_cert(own.der(), &[], &name, &[], now);
        let told = TlsError::of(&io::Error::other(judged.unwrap_err()));
        assert_eq!(told.failure(), Failure::TlsUntrusted);
        assert!(told.to_string().contains("CA:FALSE"), "{told}");
    }
}
