//! Rules that look at clients' certificates need a listener that asks for them.
//!
//! Such a rule would otherwise never match, and its requests would meet a less precise one, which
//! is the wrong direction for a mistake to go.

use tillgate_core::listener::{ListenerProtocol, ListenerSpec};

use super::Output;
use super::select::Selected;
use crate::document::Spot;
use crate::kinds::filters::RateKeyType;

/// Reports conditions and keys that no listener can ever fill.
pub(super) fn check(selected: &Selected<'_>, listeners: &[ListenerSpec], out: &mut Output) {
    let asks = |one: &ListenerSpec| {
        let tls = one.tls.as_ref().filter(|_| one.protocol == ListenerProtocol::Http);
        tls.is_some_and(|tls| tls.client_certificates.is_some())
    };
    if listeners.iter().any(asks) {
        return;
    }
    for (document, route) in &selected.routes {
        for (index, rule) in route.spec.rules.iter().enumerate() {
            let spot = document.spec().key("rules").index(index);
            for (index, one) in rule.matches.iter().flatten().enumerate() {
                if one.client_certificate.is_some() {
                    tell(&spot.key("matches").index(index).key("clientCertificate"), out);
                }
            }
            for (index, one) in rule.rate_limits.iter().flatten().enumerate() {
                let kind = one.key.as_ref().map(|key| key.kind);
                if kind == Some(RateKeyType::ClientCertificate) {
                    tell(&spot.key("rateLimits").index(index).key("key").key("type"), out);
                }
            }
        }
    }
}

fn tell(spot: &Spot<'_>, out: &mut Output) {
    out.error(spot.finding(
        "no HTTP listener asks its clients for a certificate: add `tls.clientCertificates` to a \
         Listener of `protocol: HTTP`",
    ));
}
