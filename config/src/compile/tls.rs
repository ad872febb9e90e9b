//! TLS of listeners and to backends.
//!
//! In: what a document says. Out: the core's values. What would be read one way and meant another
//! is refused: a client certificate without the mode that shows it, an authority that nothing can
//! find, the same certificate twice. Whether files exist is not asked here.

use tillgate_core::backend::{BackendProtocol, Host};
use tillgate_core::tls::{
    ClientAuth, ClientCertificates, ClientTls, KeyPair, ServerTls, TlsVersion, TrustAnchors,
};

use super::Output;
use crate::defaults;
use crate::document::Spot;
use crate::kinds::backend::{BackendTls, BackendTlsMode};
use crate::kinds::listener::{ClientCertificateMode, ClientCertificatesDoc, ListenerTls};
use crate::kinds::tls::{CertificateDoc, TlsVersionDoc};

/// TLS that ends at a listener. `spot` is that of `tls`, `base` its path in the effective config.
pub(super) fn server(
    tls: &ListenerTls,
    spot: &Spot<'_>,
    base: &str,
    out: &mut Output,
) -> ServerTls {
    out.given(base, spot, ());
    let list = spot.key("certificates");
    let mut certificates: Vec<KeyPair> = Vec::new();
    for (index, certificate) in tls.certificates.iter().enumerate() {
        let pair = key_pair(certificate);
        if let Some(first) = certificates.iter().position(|one| one.cert_file == pair.cert_file) {
            let message = format!(
                "the certificate `{}` is there twice: remove one",
                pair.cert_file.display()
            );
            let finding = list.index(index).key("certFile").finding(message);
            out.error(finding.related(list.index(first).place(), "is the first one"));
        }
        certificates.push(pair);
    }
    let clients = tls.client_certificates.as_ref();
    let clients =
        clients.and_then(|given| client_certificates(given, &spot.key("clientCertificates"), out));
    let min_version = version(tls.min_version, spot, base, out);
    ServerTls { certificates, client_certificates: clients, min_version }
}

fn client_certificates(
    given: &ClientCertificatesDoc,
    spot: &Spot<'_>,
    out: &mut Output,
) -> Option<ClientCertificates> {
    let mode = match given.mode {
        ClientCertificateMode::Required => ClientAuth::Required,
        ClientCertificateMode::Optional => ClientAuth::Optional,
    };
    let Some(file) = &given.ca_file else {
        out.error(spot.key("mode").finding(
            "nothing says who may have signed the clients' certificates: add `caFile` with the \
             authorities in PEM",
        ));
        return None;
    };
    Some(ClientCertificates { mode, ca_file: file.0.clone() })
}

/// What a backend's TLS stands beside.
pub(super) struct About<'a> {
    pub(super) name: &'a str,
    pub(super) protocol: BackendProtocol,
    pub(super) hosts: &'a [tillgate_core::backend::Endpoint],
}

/// TLS to a backend. `spot` is that of `tls`.
pub(super) fn client(
    tls: &BackendTls,
    about: &About<'_>,
    spot: &Spot<'_>,
    base: &str,
    out: &mut Output,
) -> Option<ClientTls> {
    if let Some(authority) = &tls.ca_ref {
        out.error(spot.key("caRef").finding(format!(
            "certificate authorities have no names in this release, so nothing knows `{}`: write \
             `caFile` with the path of the authority's certificate",
            authority.0
        )));
    }
    if about.protocol == BackendProtocol::Udp {
        out.error(spot.key("mode").finding(format!(
            "the backend `{}` speaks UDP, which TLS does not go over: remove `tls`",
            about.name
        )));
        return None;
    }
    match tls.mode {
        BackendTlsMode::None | BackendTlsMode::Passthrough => {
            without(tls, about, spot, out);
            None
        }
        BackendTlsMode::Simple | BackendTlsMode::Mutual => Some(with(tls, about, spot, base, out)),
    }
}

fn with(
    tls: &BackendTls,
    about: &About<'_>,
    spot: &Spot<'_>,
    base: &str,
    out: &mut Output,
) -> ClientTls {
    out.given(base, spot, ());
    match (tls.mode, &tls.client_certificate) {
        (BackendTlsMode::Mutual, None) => out.error(spot.key("mode").finding(format!(
            "`mode: Mutual` shows a certificate to `{}`, and none is named: add \
             `clientCertificate`, or write `mode: Simple`",
            about.name
        ))),
        (BackendTlsMode::Simple, Some(_)) => out.error(spot.key("clientCertificate").finding(
            "with `mode: Simple` no certificate is shown to the server: write `mode: Mutual`, or \
             remove `clientCertificate`",
        )),
        _ => {}
    }
    let nameless = about.hosts.iter().any(|one| matches!(one.host, Host::Ip(_)));
    if nameless && tls.sni.is_none() {
        out.report.lints.push(spot.key("mode").finding(
            "an endpoint has no name, so the server's certificate must name its address: add `sni` \
             with the name in the certificate",
        ));
    }
    let roots = tls.ca_file.as_ref().map(|file| TrustAnchors::File(file.0.clone()));
    let roots_path = format!("{base}.caFile");
    ClientTls {
        sni: tls.sni.as_ref().map(|name| name.0.as_str().into()),
        roots: out.value(&roots_path, &spot.key("caFile"), roots, TrustAnchors::System),
        certificate: tls.client_certificate.as_ref().map(key_pair),
        min_version: version(tls.min_version, spot, base, out),
    }
}

/// The modes that leave the bytes as they are have nothing else to say.
fn without(tls: &BackendTls, about: &About<'_>, spot: &Spot<'_>, out: &mut Output) {
    let fields = [
        ("sni", tls.sni.is_some()),
        ("caFile", tls.ca_file.is_some()),
        ("clientCertificate", tls.client_certificate.is_some()),
        ("minVersion", tls.min_version.is_some()),
    ];
    if let Some((field, _)) = fields.iter().find(|(_, given)| *given) {
        out.error(spot.key(field).finding(format!(
            "calls to `{}` would travel unencrypted in spite of `{field}`: write `mode: Simple` or \
             `Mutual`, or remove it",
            about.name
        )));
    }
    if tls.mode == BackendTlsMode::Passthrough && about.protocol != BackendProtocol::Tcp {
        out.error(spot.key("mode").finding(format!(
            "requests to `{}` are HTTP that the gateway reads, not TLS that it passes on: write \
             `mode: Simple`, or `protocol: TCP`",
            about.name
        )));
    }
}

fn key_pair(certificate: &CertificateDoc) -> KeyPair {
    KeyPair { cert_file: certificate.cert_file.0.clone(), key_file: certificate.key_file.0.clone() }
}

fn version(
    given: Option<TlsVersionDoc>,
    spot: &Spot<'_>,
    base: &str,
    out: &mut Output,
) -> TlsVersion {
    let given = given.map(|version| match version {
        TlsVersionDoc::V1_2 => TlsVersion::V1_2,
        TlsVersionDoc::V1_3 => TlsVersion::V1_3,
    });
    let path = format!("{base}.minVersion");
    out.value(&path, &spot.key("minVersion"), given, defaults::TLS_MIN_VERSION)
}
