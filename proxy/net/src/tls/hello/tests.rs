//! Every hello of the corpus, whole and in pieces of any size, and bytes that are none.

use proptest::prelude::*;

use super::*;

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/hello");

/// What the reader says of each file of the corpus, in one line.
const EXPECTED: &str = include_str!("../../../corpus/hello/expected.txt");

fn corpus() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(CORPUS).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "bin") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            found.push((name, std::fs::read(path).unwrap()));
        }
    }
    found.sort();
    found
}

fn whole(bytes: &[u8]) -> Step {
    HelloReader::default().feed(bytes)
}

/// Feeds pieces that end at `cuts`, as a connection does: until the reader knows.
fn in_pieces(bytes: &[u8], mut cuts: Vec<usize>) -> Step {
    cuts.push(bytes.len());
    cuts.sort_unstable();
    let mut reader = HelloReader::default();
    let mut from = 0;
    let mut step = Step::NeedMore;
    for to in cuts {
        step = reader.feed(&bytes[from..to]);
        if step != Step::NeedMore {
            assert_eq!(reader.into_bytes(), bytes[..to], "what came is passed on as it came");
            return step;
        }
        from = to;
    }
    step
}

fn line(step: &Step) -> String {
    match step {
        Step::NeedMore => "more".to_owned(),
        Step::NotTls(why) => why.reason().to_owned(),
        Step::Hello(hello) => {
            let alpn: Vec<_> =
                hello.alpn.iter().map(|name| String::from_utf8_lossy(name)).collect();
            let sni = hello.sni.as_deref().unwrap_or("-");
            format!("sni={sni} alpn={} ech={}", alpn.join(","), hello.ech)
        }
    }
}

#[test]
fn the_corpus_reads_as_it_should() {
    let corpus = corpus();
    assert!(corpus.len() >= 40, "{} files", corpus.len());
    let read: String =
        corpus.iter().map(|(name, bytes)| format!("{name}: {}\n", line(&whole(bytes)))).collect();
    assert_eq!(read, EXPECTED, "\n{read}");
}

#[test]
fn every_single_cut_of_the_corpus_reads_the_same() {
    for (name, bytes) in corpus() {
        let expected = whole(&bytes);
        for cut in 0..bytes.len().min(700) {
            assert_eq!(in_pieces(&bytes, vec![cut]), expected, "{name} cut at {cut}");
        }
    }
}

#[test]
fn no_prefix_of_a_hello_is_refused() {
    for (name, bytes) in corpus() {
        if !matches!(whole(&bytes), Step::Hello(_)) {
            continue;
        }
        let mut reader = HelloReader::default();
        let end = bytes.iter().position(|byte| {
            let step = reader.feed(std::slice::from_ref(byte));
            assert!(!matches!(step, Step::NotTls(_)), "{name}: {step:?}");
            step != Step::NeedMore
        });
        assert!(end.is_some(), "{name} never ends");
    }
}

#[test]
fn other_protocols_are_refused_at_their_first_byte() {
    for first in ["G", "S", "P", "\0", "\u{15}"] {
        assert_eq!(whole(first.as_bytes()), Step::NotTls(NotTls::OtherProtocol), "{first:?}");
    }
    assert_eq!(whole(&[RECORD_HANDSHAKE]), Step::NeedMore);
    assert_eq!(whole(&[RECORD_HANDSHAKE, 3, 1, 0, 80, 2]), Step::NotTls(NotTls::OtherProtocol));
}

#[test]
fn a_hello_that_never_ends_is_refused_at_the_bound() {
    let mut reader = HelloReader::default();
    let mut fed = 0;
    // One byte of message in every record, so that the lengths promise a hello that could fit.
    let mut message = vec![CLIENT_HELLO, 0, 0x20, 0];
    message.resize(message.len() + 0x2000, 0);
    for byte in message {
        let step = reader.feed(&[RECORD_HANDSHAKE, 3, 1, 0, 1, byte]);
        fed += 6;
        if step != Step::NeedMore {
            assert_eq!(step, Step::NotTls(NotTls::Oversize));
            assert!(fed <= HELLO_BYTES_MAX + 6, "{fed} bytes");
            return;
        }
        assert_eq!(reader.room(), HELLO_BYTES_MAX - fed);
    }
    panic!("{fed} bytes were kept");
}

#[test]
fn the_largest_hello_that_fits_is_read() {
    let mut body = vec![3, 3];
    body.resize(2 + 32, 7);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    let room = HELLO_BYTES_MAX - RECORD_HEADER - HANDSHAKE_HEADER - body.len() - 2;
    body.extend(u16::try_from(room).unwrap().to_be_bytes());
    body.extend([0, 21]);
    body.extend(u16::try_from(room - 4).unwrap().to_be_bytes());
    body.resize(body.len() + room - 4, 0);
    for (extra, expected) in [(0, true), (1, false)] {
        let mut message = vec![CLIENT_HELLO, 0];
        message.extend(u16::try_from(body.len() + extra).unwrap().to_be_bytes());
        message.extend(&body);
        message.resize(message.len() + extra, 0);
        let mut record = vec![RECORD_HANDSHAKE, 3, 1];
        record.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
        record.extend(message);
        assert_eq!(matches!(whole(&record), Step::Hello(_)), expected, "{} bytes", record.len());
    }
}

#[test]
fn an_alert_is_one_record() {
    assert_eq!(Alert::UnrecognizedName.record(), [21, 3, 3, 0, 2, 2, 112]);
}

proptest! {
    #[test]
    fn pieces_read_like_the_whole(
        which in any::<proptest::sample::Index>(),
        cuts in prop::collection::vec(any::<proptest::sample::Index>(), 0..12),
    ) {
        let corpus = corpus();
        let (name, bytes) = which.get(&corpus);
        let cuts = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        prop_assert_eq!(in_pieces(bytes, cuts), whole(bytes), "{}", name);
    }

    #[test]
    fn a_changed_hello_never_panics_and_reads_the_same_in_pieces(
        which in any::<proptest::sample::Index>(),
        changes in prop::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        cuts in prop::collection::vec(any::<proptest::sample::Index>(), 0..6),
    ) {
        let corpus = corpus();
        let (_, bytes) = which.get(&corpus);
        let mut bytes = bytes.clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let cuts = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        prop_assert_eq!(in_pieces(&bytes, cuts), whole(&bytes));
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut record = vec![RECORD_HANDSHAKE, 3, 1, 2, 0, CLIENT_HELLO, 0, 1, 0];
        record.extend(&bytes);
        let _ = (whole(&bytes), whole(&record));
    }
}
