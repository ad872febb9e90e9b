//! Files that change, and what is read out of certificates.

use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair as Key, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tillgate_core::tls::{KeyPair, ServerTls, TlsVersion};

use super::certificate::identity;
use super::*;

fn signed_by_itself(names: &[SanType]) -> (String, String) {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names.to_vec();
    let key = Key::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn names_and_fingerprint_of_a_client_are_plain_text() {
    let (chain, _) = signed_by_itself(&[
        SanType::URI("spiffe://store/till-7".try_into().unwrap()),
        SanType::DnsName("Till-7.Store.Example".try_into().unwrap()),
        SanType::Rfc822Name("till@store.example".try_into().unwrap()),
        SanType::IpAddress("10.0.0.7".parse().unwrap()),
    ]);
    let der = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    let client = identity(&der);
    let sans: Vec<&str> = client.sans.iter().map(|san| &**san).collect();
    let expected = [
        "URI:spiffe://store/till-7",
        "DNS:till-7.store.example",
        "email:till@store.example",
        "IP:10.0.0.7",
    ];
    assert_eq!(sans, expected);
    assert_eq!(client.fingerprint.len(), 64);
    assert!(client.fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_ne!(identity(&CertificateDer::from(vec![1, 2])).fingerprint, client.fingerprint);
}

#[test]
fn a_connector_is_one_for_one_spec_as_long_as_it_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.crt");
    std::fs::write(&path, signed_by_itself(&[]).0).unwrap();
    let spec = ClientTls {
        sni: None,
        roots: tillgate_core::tls::TrustAnchors::File(path.into()),
        certificate: None,
        min_version: TlsVersion::V1_2,
    };
    let tls = Tls::new(&Metrics::new("0"));
    let name: Arc<str> = "pay".into();
    let connector = |name: &Arc<str>, application| tls.connector(name, &spec, application).unwrap();
    let one = connector(&name, Application::Http1);
    assert_eq!(one.id(), connector(&name, Application::Http1).id());
    assert_ne!(one.id(), connector(&name, Application::Http2).id());
    assert_ne!(one.id(), connector(&"other".into(), Application::Http1).id());
    let id = one.id();
    drop(one);
    assert_ne!(id, connector(&name, Application::Http1).id(), "what was forgotten is begun anew");
}

#[test]
fn files_that_cannot_be_a_pair_are_named_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| -> Arc<Path> {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.into()
    };
    let (chain, key) = signed_by_itself(&[]);
    let (_, other_key) = signed_by_itself(&[]);
    let tls = Tls::new(&Metrics::new("0"));
    let try_pair = |chain: &str, key: &str| {
        let pair = KeyPair { cert_file: file("tls.crt", chain), key_file: file("tls.key", key) };
        let spec = ServerTls {
            certificates: vec![pair],
            client_certificates: None,
            min_version: TlsVersion::V1_2,
        };
        let error = tls.terminator(&"https".into(), &spec).err()?;
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        Some(format!("{error}: {}", cause.unwrap_or_default()))
    };
    assert_eq!(try_pair(&chain, &key), None);
    let half = &chain[..chain.len() / 2];
    for (chain, key, file, said) in [
        (&*chain, &*other_key, "tls.key", "does not belong"),
        (half, &key, "tls.crt", "cut short"),
        ("", &key, "tls.crt", "has no certificate"),
        (&key, &key, "tls.crt", "has no certificate"),
        (&chain, "", "tls.key", "not PEM"),
        (&chain, &key[..key.len() / 2], "tls.key", "not PEM"),
    ] {
        let text = try_pair(chain, key).unwrap_or_default();
        assert!(text.starts_with("listener https: "), "{text}");
        assert!(text.contains(file) && text.contains(said), "{file}, {said}: {text}");
    }
    let large = "x".repeat(2 * 1024 * 1024);
    assert!(try_pair(&large, &key).is_some_and(|text| text.contains("more than 1048576 bytes")));
}
