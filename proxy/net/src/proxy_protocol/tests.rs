//! Headers in any pieces, a corpus of good and bad ones, and real connections.

use std::path::PathBuf;

use proptest::prelude::*;
use tillgate_core::backend::ProxyProtocol;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::header::{Step, V1_BYTES_MAX, V2_BYTES_MAX, decode, encode};
use super::*;

/// Reads a header as [`read_header`] does, from bytes that are all there; how long it was.
fn read(bytes: &[u8]) -> Result<Option<(Header, usize)>, Invalid> {
    let mut have = 0;
    for _ in 0..=V2_BYTES_MAX {
        let more = match decode(&bytes[..have])? {
            Step::Done(header) => return Ok(Some((header, have))),
            Step::Need(more) => more,
            Step::Line(most) => {
                let rest = &bytes[have..];
                let rest = &rest[..rest.len().min(most)];
                let line = rest.iter().position(|byte| *byte == b'\n');
                line.map_or(rest.len().max(1), |at| at + 1)
            }
        };
        assert!(more > 0, "progress is asked for");
        have += more;
        assert!(have <= V2_BYTES_MAX, "bounded");
        if have > bytes.len() {
            return Ok(None);
        }
    }
    panic!("it never ends");
}

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus/proxy-header");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path())))
        .map(|(name, bytes)| (name, bytes.unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn the_corpus_is_read_as_its_names_say() {
    let files = corpus();
    assert!(files.len() >= 24, "only {} files", files.len());
    for (name, bytes) in files {
        let found = read(&bytes);
        let kind = name.split('-').next().unwrap_or("");
        match (kind, &found) {
            ("client", Ok(Some((Header::Client { .. }, _))))
            | ("unknown", Ok(Some((Header::Unknown, _))))
            | ("short", Ok(None))
            | ("bad", Err(_)) => {}
            _ => panic!("{name}: {found:?}"),
        }
    }
}

#[test]
fn addresses_are_told_in_both_versions() {
    let from = "192.0.2.1:51234".parse().unwrap();
    let to = "198.51.100.1:443".parse().unwrap();
    let line = encode(ProxyProtocol::V1, from, to);
    assert_eq!(line, b"PROXY TCP4 192.0.2.1 198.51.100.1 51234 443\r\n");
    let binary = encode(ProxyProtocol::V2, from, to);
    assert_eq!(binary.len(), 28);
    assert_eq!(&binary[12..16], [0x21, 0x11, 0, 12]);
    // One of each family is told in IPv6.
    let mixed = encode(ProxyProtocol::V1, "[2001:db8::1]:1".parse().unwrap(), to);
    assert_eq!(mixed, b"PROXY TCP6 2001:db8::1 ::ffff:198.51.100.1 1 443\r\n");
}

#[test]
fn a_line_is_never_longer_than_its_bound() {
    let far: SocketAddr = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
    let longest = encode(ProxyProtocol::V1, far, far);
    assert!(longest.len() <= V1_BYTES_MAX, "{}", longest.len());
    assert_eq!(read(&longest), Ok(Some((Header::Client { from: far, to: far }, longest.len()))));
    let mut over = b"PROXY UNKNOWN ".to_vec();
    over.resize(V1_BYTES_MAX, b'x');
    over.extend_from_slice(b"\r\n");
    assert_eq!(read(&over), Err(Invalid::Line));
}

fn address() -> impl Strategy<Value = SocketAddr> {
    let v4 = (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from);
    let v6 = (any::<[u16; 8]>(), any::<u16>()).prop_map(SocketAddr::from);
    prop_oneof![v4, v6]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(from in address(), to in address(), text in any::<bool>(),
        after in prop::collection::vec(any::<u8>(), 0..64))
    {
        let version = if text { ProxyProtocol::V1 } else { ProxyProtocol::V2 };
        let mut bytes = encode(version, from, to);
        let length = bytes.len();
        bytes.extend_from_slice(&after);
        let (header, taken) = read(&bytes).unwrap().unwrap();
        prop_assert_eq!(taken, length, "not a byte more");
        let client = header.client().unwrap();
        prop_assert_eq!(client.ip().to_canonical(), from.ip().to_canonical());
        prop_assert_eq!(client.port(), from.port());
        for cut in 0..length {
            prop_assert_eq!(read(&bytes[..cut]), Ok(None), "cut at {}", cut);
        }
    }

    #[test]
    fn no_bytes_surprise_it(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0..3) {
        let start: &[u8] = match kind {
            0 => b"",
            1 => b"PROXY ",
            _ => b"\r\n\r\n\0\r\nQUIT\n",
        };
        let bytes = [start, &bytes].concat();
        if let Ok(Some((_, taken))) = read(&bytes) {
            prop_assert!(taken <= bytes.len());
        }
    }

    #[test]
    fn a_corpus_file_with_one_byte_changed_does_no_harm(pick in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(), byte in any::<u8>())
    {
        let files = corpus();
        let mut bytes = files[pick.index(files.len())].1.clone();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = read(&bytes);
    }
}

fn trust(network: &str) -> ProxyTrust {
    ProxyTrust { trusted_sources: vec![network.parse().unwrap()] }
}

/// Sends `pieces` one after the other on a connection that is accepted by `trust`; what was made
/// of it, and what can still be read.
async fn through(
    pieces: &[&[u8]],
    trust: &ProxyTrust,
    within: Duration,
) -> (Result<SocketAddr, Refused>, Vec<u8>, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.set_nodelay(true).unwrap();
    let (mut server, peer) = listener.accept().await.unwrap();
    let send = async {
        for piece in pieces {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let (found, ()) = tokio::join!(accept(&mut server, peer, trust, within), send);
    let mut rest = Vec::new();
    if found.is_ok() {
        client.shutdown().await.unwrap();
        server.read_to_end(&mut rest).await.unwrap();
    }
    (found, rest, peer)
}

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn who_ends_in_the_middle_of_what_may_be_a_header_is_not_waited_for() {
    let elsewhere = trust("192.0.2.0/24");
    for start in [&b"P"[..], b"PROXY", b"\r\n\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, peer) = listener.accept().await.unwrap();
        client.write_all(start).await.unwrap();
        client.shutdown().await.unwrap();
        // Nothing else ends this than the end of the connection.
        let found = accept(&mut server, peer, &elsewhere, Duration::MAX);
        let found = tokio::time::timeout(PATIENCE, found).await.expect("it ends");
        assert_eq!(found.unwrap(), peer);
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, start, "nothing was taken off");
    }
}

#[tokio::test]
async fn a_header_is_taken_off_exactly_however_it_arrives() {
    let from: SocketAddr = "192.0.2.1:51234".parse().unwrap();
    let here = trust("127.0.0.0/8");
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let bytes =
            [encode(version, from, "[2001:db8::1]:443".parse().unwrap()), b"hello".into()].concat();
        for cut in 1..bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let (found, rest, _) = through(&[first, second], &here, PATIENCE).await;
            assert_eq!(found.unwrap().ip().to_canonical(), from.ip(), "cut at {cut}");
            assert_eq!(rest, b"hello", "cut at {cut}");
        }
    }
}

#[tokio::test]
async fn a_trusted_source_must_send_one_and_another_must_not() {
    let here = trust("127.0.0.0/8");
    let elsewhere = trust("192.0.2.0/24");
    let header =
        encode(ProxyProtocol::V1, "192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap());
    let soon = Duration::from_millis(20);

    let (found, ..) = through(&[b"GET / HTTP/1.1\r\n\r\n"], &here, PATIENCE).await;
    assert!(matches!(found, Err(Refused::Invalid(Invalid::NotOne))), "{found:?}");
    let (found, ..) = through(&[], &here, soon).await;
    assert!(matches!(found, Err(Refused::Late(_))), "{found:?}");
    let (found, ..) = through(&[&header[..3], &header[3..]], &elsewhere, PATIENCE).await;
    assert!(matches!(found, Err(Refused::Untrusted)), "{found:?}");

    let (found, rest, peer) = through(&[b"P", b"OST / HTTP/1.1\r\n"], &elsewhere, PATIENCE).await;
    assert_eq!(found.unwrap(), peer);
    assert_eq!(rest, b"POST / HTTP/1.1\r\n", "nothing was taken");
    let (found, _, peer) = through(&[], &elsewhere, soon).await;
    assert_eq!(found.unwrap(), peer, "silence is no header");
}

#[tokio::test]
async fn a_local_connection_keeps_its_own_address() {
    let bytes = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    let (found, _, peer) = through(&[bytes], &trust("127.0.0.1/32"), PATIENCE).await;
    assert_eq!(found.unwrap(), peer);
}

#[tokio::test]
async fn a_guarded_connection_passes_everything_but_a_header() {
    use crate::http::flow::Flow;
    use std::sync::Arc;
    let guard = |bytes: &'static [u8]| {
        let (near, far) = tokio::io::duplex(64);
        let flow = Arc::new(Flow::new(crate::clock::now()));
        tokio::spawn(async move {
            let mut far = far;
            for byte in bytes {
                far.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        (Guarded::new(near, Arc::clone(&flow)), flow)
    };
    let (mut stream, flow) = guard(b"PROXIMITY");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert_eq!((&*all, flow.ended()), (&b"PROXIMITY"[..], None));

    let (mut stream, flow) = guard(b"PROXY TCP4 ");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap_err();
    assert_eq!((&*all, flow.ended()), (&b"PROXY"[..], Some(Failure::ProxyUntrusted)));
}
