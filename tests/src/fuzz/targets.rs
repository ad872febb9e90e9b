//! What is fuzzed, and what each of them promises whatever it is given.

use std::path::{Path, PathBuf};

use fastrand::Rng;
use tillgate_core::backend::ProxyProtocol;
use tillgate_net::proxy_protocol::header::{self, Header};
use tillgate_net::tls::hello::{HELLO_BYTES_MAX, HelloReader, Step};

use super::manifest::Manifest;
use super::request::Request;
use super::{Target, folder, size, way};

/// The names of all.
pub const ALL: [&str; 5] = ["sni", "proxy-header", "policy", "request", "manifest"];

/// The target of this name.
pub fn by_name(name: &str) -> Option<Box<dyn Target>> {
    match name {
        "sni" => Some(Box::new(Sni)),
        "proxy-header" => Some(Box::new(ProxyHeader)),
        "policy" => Some(Box::new(Policy)),
        "request" => Some(Box::new(Request::start())),
        "manifest" => Some(Box::new(Manifest)),
        _ => None,
    }
}

fn of_workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn promise(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// The name in a ClientHello.
struct Sni;

impl Target for Sni {
    fn name(&self) -> &'static str {
        "sni"
    }

    fn folders(&self) -> Vec<PathBuf> {
        vec![of_workspace("proxy/net/corpus/hello"), folder("sni")]
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            &[22, 3, 1],
            &[22, 3, 3, 0, 1],
            &[1, 0, 0],
            &[0, 0, 0, 14, 0, 12, 0, 0, 9],
            &[0, 16, 0, 5, 0, 3, 2],
            &[0xfe, 0x0d, 0, 1, 0],
            &[0x40, 0],
            &[0x3f, 0xff],
            b"pay.example",
            b"xn--",
            b".",
            b"localhost",
        ]
    }

    fn bytes_max(&self) -> usize {
        HELLO_BYTES_MAX + 512
    }

    fn read(&mut self, input: &[u8], rng: &mut Rng) -> Result<u64, String> {
        let whole = HelloReader::default().feed(input);
        let mut reader = HelloReader::default();
        let (mut from, mut step) = (0, Step::NeedMore);
        while from < input.len() && step == Step::NeedMore {
            let to = input.len().min(from + rng.usize(1..=700));
            step = reader.feed(&input[from..to]);
            from = to;
        }
        promise(reader.into_bytes() == input[..from], "what came is passed on as it came")?;
        if let Step::Hello(_) = step {
            promise(step == whole, "a hello is the same in pieces and as a whole")?;
        }
        Ok(match whole {
            Step::NeedMore => way((0, size(input.len()))),
            Step::NotTls(why) => way((1, why)),
            Step::Hello(hello) => {
                let name = hello.sni.as_deref().unwrap_or("a");
                let is_host = (1..=253).contains(&name.len())
                    && name.bytes().all(|byte| byte.is_ascii_graphic())
                    && !name.bytes().any(|byte| byte.is_ascii_uppercase())
                    && !name.ends_with('.');
                promise(is_host, "a name is a host name in lower case")?;
                let (alpn, labels) = (hello.alpn.len(), name.split('.').count());
                way((2, hello.sni.is_some(), size(name.len()), labels.min(4), alpn, hello.ech))
            }
        })
    }
}

/// The header of a proxy in front.
struct ProxyHeader;

/// Reads it as a connection does: never beyond what is asked for.
fn read_header(input: &[u8]) -> Result<Option<(Header, usize)>, header::Invalid> {
    let mut taken = 0;
    loop {
        match header::decode(&input[..taken])? {
            header::Step::Done(header) => return Ok(Some((header, taken))),
            header::Step::Need(more) if taken + more <= input.len() => taken += more.max(1),
            header::Step::Line(room) => {
                let rest = &input[taken..];
                let end = rest.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
                match end {
                    Some(end) if end <= room => taken += end,
                    _ if rest.len() >= room => taken += room.max(1).min(rest.len()),
                    _ => return Ok(None),
                }
            }
            header::Step::Need(_) => return Ok(None),
        }
        if taken > input.len() {
            return Ok(None);
        }
    }
}

impl Target for ProxyHeader {
    fn name(&self) -> &'static str {
        "proxy-header"
    }

    fn folders(&self) -> Vec<PathBuf> {
        vec![of_workspace("proxy/net/corpus/proxy-header"), folder("proxy-header")]
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"PROXY ",
            b"TCP4 ",
            b"TCP6 ",
            b"UNKNOWN",
            b"192.0.2.1 ",
            b"2001:db8::1 ",
            b"::ffff:1.2.3.4 ",
            b" 65535",
            b" 65536",
            b"\r\n",
            b"\r\n\r\n\0\r\nQUIT\n",
            &[0x21, 0x11, 0, 12],
            &[0x21, 0x21, 0, 36],
            &[0x20, 0, 0, 0],
        ]
    }

    fn bytes_max(&self) -> usize {
        header::V2_BYTES_MAX + 64
    }

    fn read(&mut self, input: &[u8], _: &mut Rng) -> Result<u64, String> {
        let read = match read_header(input) {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(way((0, input.len().min(20)))),
            Err(why) => return Ok(way((1, std::mem::discriminant(&why)))),
        };
        let (found, taken) = read;
        promise(taken <= input.len(), "no byte is taken that did not come")?;
        if let Header::Client { from, to } = found {
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let written = header::encode(version, from, to);
                let again = read_header(&written).ok().flatten();
                let same = again.is_some_and(|(again, length)| {
                    let client = again.client().map(|at| (at.ip().to_canonical(), at.port()));
                    length == written.len()
                        && client == Some((from.ip().to_canonical(), from.port()))
                });
                promise(same, "a client that was read is written and read back")?;
            }
        }
        let family = found.client().map(|client| client.is_ipv4());
        Ok(way((2, family, input.starts_with(b"P"), size(taken))))
    }
}

/// The language of policies.
struct Policy;

impl Target for Policy {
    fn name(&self) -> &'static str {
        "policy"
    }

    fn folders(&self) -> Vec<PathBuf> {
        vec![
            of_workspace("config/examples"),
            of_workspace("tests/policy/good"),
            of_workspace("tests/policy/bad"),
            folder("policy"),
        ]
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"---\n",
            b"kind: ",
            b"kind: Listener\n",
            b"spec:\n",
            b"  - ",
            b"{}",
            b"[]",
            b"null",
            b"&a ",
            b"*a",
            b"<<: *a",
            b"!!binary ",
            b"\"",
            b"|\n",
            b"\t",
            b"0",
            b"-1",
            b"1e99",
            b"18446744073709551616",
            b"5Mbit/s",
            b"0%",
            b"101%",
            b"10ms",
            b"99999999h",
            b"/",
            b"::1/129",
            b"*.",
            b"\xf0\x9f\x92\xb3",
        ]
    }

    fn bytes_max(&self) -> usize {
        64 * 1024
    }

    fn read(&mut self, input: &[u8], _: &mut Rng) -> Result<u64, String> {
        let text = String::from_utf8_lossy(input);
        let checked = tillgate_config::check_text("fuzz.yaml", &text);
        let report = checked.report;
        drop((report.to_text(), report.to_json()));
        if let Some(effective) = checked.effective {
            promise(report.errors.is_empty(), "what has errors gives no config")?;
            let again = tillgate_config::load_text("fuzz.yaml", &text).ok();
            let same = again.is_some_and(|again| again.digest == effective.digest);
            promise(same, "the same text is the same config")?;
            drop(effective.to_yaml());
            let (listeners, backends) = (effective.listeners.len(), effective.backends.len());
            return Ok(way((0, listeners, backends, size(effective.paths().len()))));
        }
        promise(!report.errors.is_empty(), "a text without a config has a reason")?;
        // The same mistake about another name is the same mistake.
        let kinds: Vec<String> = report
            .errors
            .iter()
            .take(3)
            .map(|finding| finding.message.split('`').step_by(2).collect())
            .collect();
        Ok(way((1, kinds)))
    }
}
