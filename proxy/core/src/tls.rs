//! TLS as policy says it: which certificates are shown, whose are asked for, who is trusted.
//!
//! Plain values. Certificates are known by their files; who reads them, and when, is decided by
//! the shell. What a client's certificate says about it ([`ClientIdentity`]) is brought into one
//! text form here, so that rules compare texts and nothing is parsed per request.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// The oldest version of TLS that is spoken. Nothing older than 1.2 exists here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

/// A certificate chain with its key, by their files (PEM).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPair {
    /// The chain, the own certificate first.
    pub cert_file: Arc<Path>,
    /// Its private key.
    pub key_file: Arc<Path>,
}

/// Whether clients must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    /// A handshake without a valid one fails.
    Required,
    /// A client without one is served, without an identity; an invalid one still fails.
    Optional,
}

/// Certificates of clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientCertificates {
    /// Whether there must be one.
    pub mode: ClientAuth,
    /// Authorities that may have signed it (PEM, one or more).
    pub ca_file: Arc<Path>,
}

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerTls {
    /// Never empty; chosen by the name asked for, the first is shown where none fits.
    pub certificates: Vec<KeyPair>,
    /// Asked of clients; `None` = no certificate is asked for.
    pub client_certificates: Option<ClientCertificates>,
    /// Oldest version.
    pub min_version: TlsVersion,
}

/// Who is trusted to have signed a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TrustAnchors {
    /// The system's authorities.
    System,
    /// Those in this file alone (PEM, one or more).
    File(Arc<Path>),
}

/// TLS to the servers of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientTls {
    /// Name asked for and checked; `None` = the host of the endpoint, name or address.
    pub sni: Option<Arc<str>>,
    /// Who may have signed the server's certificate.
    pub roots: TrustAnchors,
    /// Shown to the server where it asks.
    pub certificate: Option<KeyPair>,
    /// Oldest version.
    pub min_version: TlsVersion,
}

/// What the verified certificate of a client says about it. Made once per connection.
#[derive(Clone, Debug, PartialEq, Eq, Default, Hash)]
pub struct ClientIdentity {
    /// Subject alternative names as [`san_text`] writes them.
    pub sans: Vec<Arc<str>>,
    /// The last second of its validity, since 1970 (UTC).
    pub not_after: u64,
    /// Identifies the certificate in limits: hex of the SHA-256 of its DER form.
    pub fingerprint: Arc<str>,
    /// Signed by the store's own authority, as enrolled sidecars have them.
    pub of_store: bool,
}

/// A subject alternative name of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum San<'a> {
    /// A DNS name; case does not matter.
    Dns(&'a str),
    /// A URI, as SPIFFE writes identities.
    Uri(&'a str),
    /// A mailbox.
    Email(&'a str),
    /// An address.
    Ip(IpAddr),
}

/// The one text form of a subject alternative name: that of policy and of [`ClientIdentity`],
/// with the prefixes that `openssl x509 -text` shows: `DNS:till-7.store.example`, `URI:…`,
/// `email:…`, `IP:10.0.0.7`. DNS names in lower case without a trailing dot.
pub fn san_text(san: San<'_>) -> String {
    match san {
        San::Dns(name) => format!("DNS:{}", name.trim_end_matches('.').to_ascii_lowercase()),
        San::Uri(uri) => format!("URI:{uri}"),
        San::Email(mailbox) => format!("email:{mailbox}"),
        San::Ip(address) => format!("IP:{}", address.to_canonical()),
    }
}

/// A condition on the names in a client's certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SanMatch {
    /// One of them is this, in the form of [`san_text`].
    Exact(Arc<str>),
    /// One of them is a DNS name below this: holds `tills.example` for `DNS:*.tills.example`.
    DnsSuffix(Arc<str>),
}

impl SanMatch {
    /// Whether `client` has such a name. Allocates nothing.
    pub fn matches(&self, client: &ClientIdentity) -> bool {
        match self {
            Self::Exact(wanted) => client.sans.iter().any(|san| san == wanted),
            Self::DnsSuffix(suffix) => client.sans.iter().any(|san| {
                san.strip_prefix("DNS:")
                    .and_then(|name| name.strip_suffix(&**suffix))
                    .and_then(|labels| labels.strip_suffix('.'))
                    .is_some_and(|labels| !labels.is_empty())
            }),
        }
    }

    /// How precise it is; larger wins: a whole name before a suffix, a longer suffix first.
    pub fn precision(&self) -> usize {
        match self {
            Self::Exact(_) => usize::MAX,
            Self::DnsSuffix(suffix) => suffix.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_form_and_are_compared_whole() {
        assert_eq!(san_text(San::Dns("Till-7.Store.Example.")), "DNS:till-7.store.example");
        assert_eq!(san_text(San::Ip("::ffff:10.0.0.7".parse().unwrap())), "IP:10.0.0.7");
        let client = ClientIdentity {
            sans: vec!["URI:spiffe://store/till".into(), "DNS:a.tills.example".into()],
            not_after: 0,
            fingerprint: "ab".into(),
            of_store: false,
        };
        let exact = |text: &str| SanMatch::Exact(text.into()).matches(&client);
        assert!(exact("DNS:a.tills.example") && exact("URI:spiffe://store/till"));
        assert!(!exact("DNS:tills.example") && !exact("a.tills.example"));
        let below = |text: &str| SanMatch::DnsSuffix(text.into()).matches(&client);
        assert!(below("tills.example") && below("example"));
        assert!(!below("a.tills.example") && !below("lls.example") && !below("store/till"));
    }
}
