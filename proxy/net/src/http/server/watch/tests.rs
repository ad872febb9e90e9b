//! Clients inside of TLS that stand still: a write is taken by TLS before the client takes it, so
//! that only the flush tells.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use rcgen::{CertificateParams, KeyPair as Key};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tillgate_core::tls::{KeyPair, ServerTls, TlsVersion};
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

use super::super::framing::Framing;
use super::*;
use crate::http::flow::Critical;
use crate::metrics::Metrics;
use crate::tls::{Terminator, Tls};

fn terminator(folder: &std::path::Path) -> (Arc<Terminator>, ClientConfig) {
    let key = Key::generate().unwrap();
    let params = CertificateParams::new(vec!["pay.example".to_owned()]).unwrap();
    let chain = params.self_signed(&key).unwrap().pem();
    let (cert_file, key_file) = (folder.join("tls.crt"), folder.join("tls.key"));
    std::fs::write(&cert_file, &chain).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    let spec = ServerTls {
        certificates: vec![KeyPair { cert_file: cert_file.into(), key_file: key_file.into() }],
        client_certificates: None,
        min_version: TlsVersion::V1_2,
    };
    let tls = Tls::new(&Metrics::new("0")).terminator(&"https".into(), &spec).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    (tls, builder.with_root_certificates(roots).with_no_client_auth())
}

#[test]
fn a_client_that_reads_again_does_not_stand_still() {
    let folder = tempfile::tempdir().unwrap();
    let (tls, config) = terminator(folder.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = tokio::spawn(async move {
            let stream = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("pay.example").unwrap();
            TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
        });
        let (stream, peer) = listener.accept().await.unwrap();
        let turns = Semaphore::new(1);
        let session = tls.accept((stream, peer), Duration::from_secs(10), &turns).await.unwrap();
        let mut client = client.await.unwrap();

        let watch = Arc::new(Watch::new(clock::now(), None));
        let framing = Framing::new(&Limits::FOR_ONE, 64 * 1024);
        let mut server = ClientStream::new(ClientIo::Tls(session), framing, Arc::clone(&watch));
        let since = || watch.stalled_since.load(Ordering::Relaxed);
        loop {
            let mut server = Pin::new(&mut server);
            let piece = [0; 16 * 1024];
            let _ = poll_fn(|cx| Poll::Ready(server.as_mut().poll_write(cx, &piece))).await;
            if poll_fn(|cx| Poll::Ready(server.as_mut().poll_flush(cx))).await.is_pending() {
                break;
            }
            assert_eq!(since(), 0, "it takes what there is");
        }
        assert_ne!(since(), 0, "it stands still");
        let reader = tokio::spawn(async move {
            let mut buffer = [0; 64 * 1024];
            while client.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {}
        });
        poll_fn(|cx| Pin::new(&mut server).poll_flush(cx)).await.unwrap();
        assert_eq!(since(), 0, "it has taken everything; now it may be quiet");
        drop(server);
        reader.await.unwrap();
    });
}

#[test]
fn a_reader_may_pause_as_long_as_its_request_lets_it() {
    let (now, limits) = (clock::now(), Limits::FOR_ONE);
    let watch = Arc::new(Watch::new(now, None));
    let (flow, _) = Watch::begin(&watch, now);
    let idle = limits.header_timeout * 3;
    flow.bind(idle, Critical::No);
    watch.is_stalled();
    let at = |pause: Duration| watch.judge(now + pause, &limits);
    assert_eq!(at(limits.header_timeout * 2), Verdict::Keep, "it unpacks what it has");
    assert_eq!(at(idle * 2), Verdict::Close);
}

#[test]
fn who_idles_is_told_to_end_and_then_made_to() {
    let (now, limits) = (clock::now(), Limits::FOR_ONE);
    let watch = Arc::new(Watch::new(now, None));
    drop(Watch::begin(&watch, now));
    let at = |idle: Duration| watch.judge(now + idle, &limits);
    assert_eq!(at(limits.idle_timeout / 2), Verdict::Keep);
    assert_eq!(at(limits.idle_timeout + limits.header_timeout / 2), Verdict::Finish);
    assert_eq!(at(limits.idle_timeout * 2 + limits.header_timeout), Verdict::Close);
    assert_eq!([watch.overstays(), watch.overstays()], [true, false], "it is counted once");
}
