//! Which way to a certificate somebody takes, and whom it is for.
//!
//! A certificate of the store's own authority, to be renewed; a token that an operator had minted;
//! or, with the two dots of a JWT, a token that a cluster has given to a workload.

use std::sync::Arc;

use http::HeaderMap;
use tillgate_core::tls::ClientIdentity;

use crate::client::is_jwt;
use crate::endpoint::callers::{Credential, bearer};

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::endpoint) struct Identity {
    pub(in crate::endpoint) id: Arc<str>,
    pub(in crate::endpoint) workload: Option<Arc<str>>,
    /// The service account whose token it came with.
    pub(in crate::endpoint) account: Option<Arc<str>>,
}

/// What is shown for one. Tokens are not for a log.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub(super) enum Voucher<'a> {
    /// A token that was minted here.
    Token(&'a [u8]),
    /// A token of a cluster.
    Workload(&'a [u8]),
    /// A certificate.
    Certificate(&'a ClientIdentity),
}

impl<'a> Voucher<'a> {
    /// What `credential` is here; its token is in `headers`.
    pub(super) fn of(headers: &'a HeaderMap, credential: &'a Credential) -> Option<Self> {
        match credential {
            Credential::None => None,
            Credential::Certificate(one) => Some(Self::Certificate(one)),
            Credential::Token(_) => bearer(headers).map(|token| {
                if is_jwt(token) { Self::Workload(token) } else { Self::Token(token) }
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;

    use super::*;

    #[test]
    fn a_bearer_counts_before_a_certificate_and_two_dots_are_a_jwt() {
        let certificate = Arc::<ClientIdentity>::default();
        let check = |text: &str, certificate, wanted| {
            let mut headers = HeaderMap::new();
            if !text.is_empty() {
                headers.insert(AUTHORIZATION, text.parse().unwrap());
            }
            let credential = Credential::of(&headers, certificate);
            assert_eq!(Voucher::of(&headers, &credential), wanted, "{text}");
        };
        let some = Some(&certificate);
        check("", None, None);
        check("Basic eDp5", some, None);
        check("", some, Some(Voucher::Certificate(&certificate)));
        check("Bearer tillgate-enrol-x", some, Some(Voucher::Token(b"tillgate-enrol-x")));
        check("Bearer a.b", some, Some(Voucher::Token(b"a.b")));
        check("Bearer a.b.c", some, Some(Voucher::Workload(b"a.b.c")));
        check("Bearer a.b.c.d", some, Some(Voucher::Token(b"a.b.c.d")));
    }
}
