//! Bytes of a client of HTTP/1, through a whole gateway that rewrites requests, to a server that
//! takes nothing which could be read in two ways.
//!
//! What the gateway answers is its affair; what it sends on must be whole, must have been changed
//! as the rule says, and every connection must come to its end.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use http::{HeaderName, HeaderValue};
use tillgate_core::filter::{Filters, HeaderChanges, PathRewrite, Rewrite};

use super::{Target, folder, way};
use crate::gateway::Gateway;
use crate::store::Store;

/// How long a connection may take to its end: far less than any limit of the gateway's own.
const PATIENCE: Duration = Duration::from_secs(10);

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What the server was sent that it must not be.
type Wrong = Arc<Mutex<Option<String>>>;

/// The gateway, its server, and what that has to complain about.
pub(super) struct Request {
    gateway: Gateway,
    wrong: Wrong,
}

impl Request {
    pub(super) fn start() -> Self {
        let wrong = Wrong::default();
        let store = Store::default()
            .local("api", "api.example", "default", serve(Arc::clone(&wrong)))
            .rule(|rule| {
                let set = (HeaderName::from_static("x-store"), HeaderValue::from_static("0412"));
                rule.filters = Filters {
                    request_headers: HeaderChanges {
                        set: vec![set],
                        remove: vec![HeaderName::from_static("x-debug")],
                        ..HeaderChanges::default()
                    },
                    rewrite: Some(Rewrite {
                        host: Some("inner.example".into()),
                        path: Some(PathRewrite::Prefix("/inner".into())),
                    }),
                    ..Filters::default()
                };
            });
        Self { gateway: Gateway::start(store.build()), wrong }
    }

    /// Sends `input` in pieces and ends; returns all answers.
    fn ask(&self, input: &[u8], rng: &mut Rng) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(self.gateway.http)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let cut = rng.usize(..=input.len());
        // The other side may have closed already; what it said is what counts.
        let sent = stream.write_all(&input[..cut]).and_then(|()| stream.write_all(&input[cut..]));
        drop(sent.and_then(|()| stream.shutdown(Shutdown::Write)));
        let mut answers = Vec::new();
        match stream.take(1 << 20).read_to_end(&mut answers) {
            Ok(_) => Ok(answers),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(answers),
            Err(error) => Err(error),
        }
    }
}

impl Target for Request {
    fn name(&self) -> &'static str {
        "request"
    }

    fn folders(&self) -> Vec<PathBuf> {
        vec![folder("request")]
    }

    fn words(&self) -> &'static [&'static [u8]] {
        &[
            b"\r\n",
            b"\r\n\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\t",
            b"GET / HTTP/1.1\r\nHost: api.example\r\n\r\n",
            b"POST /a HTTP/1.1\r\n",
            b"HTTP/1.0",
            b"Host: api.example\r\n",
            b"Content-Length: 3\r\n",
            b"Content-Length: +3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Transfer-Encoding:\x0bchunked\r\n",
            b"3\r\nabc\r\n0\r\n\r\n",
            b"0\r\nx: y\r\n\r\n",
            b"ffffffffffffffff\r\n",
            b"Connection: x-store, host\r\n",
            b"Connection: close\r\n",
            b"X-Debug: 1\r\n",
            b"X-Store: 9\r\n",
            b"Expect: 100-continue\r\n",
            b"TE: trailers\r\n",
            b"http://api.example/",
            b"/../%2e%2e//;?#",
            b"OPTIONS * HTTP/1.1\r\n",
        ]
    }

    fn bytes_max(&self) -> usize {
        24 * 1024
    }

    fn read(&mut self, input: &[u8], rng: &mut Rng) -> Result<u64, String> {
        let answers = self.ask(input, rng).map_err(|error| format!("no end: {error}"))?;
        if let Some(wrong) = self.wrong.lock().expect("no panic while writing").take() {
            return Err(format!("the server was sent {wrong}"));
        }
        if input.starts_with(b"PRI * HTTP/2.0") {
            return Ok(way(super::size(answers.len())));
        }
        if !answers.is_empty() && !answers.starts_with(b"HTTP/1.") {
            return Err(format!("no answer: {:?}", String::from_utf8_lossy(&answers)));
        }
        let text = String::from_utf8_lossy(&answers);
        let statuses = text.split("HTTP/1.1 ").skip(1).take(6);
        let statuses: Vec<&str> = statuses.filter_map(|answer| answer.get(..3)).collect();
        if statuses.contains(&"500") {
            return Err("it answers 500, which is a bug by definition".to_owned());
        }
        let detail = text.rsplit("\"detail\":").next().and_then(|rest| rest.split('"').nth(1));
        Ok(way((statuses, detail)))
    }
}

/// Starts the server.
fn serve(wrong: Wrong) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let wrong = Arc::clone(&wrong);
            std::thread::spawn(move || {
                if let Err(why) = take_all(stream) {
                    wrong.lock().expect("no panic while writing").get_or_insert(why);
                }
            });
        }
    });
    address
}

/// Takes requests until the connection ends; a request that ends with the connection is no
/// mistake, because its client may have left.
fn take_all(mut stream: TcpStream) -> Result<(), String> {
    let mut bytes = Vec::new();
    let mut piece = [0; 8192];
    loop {
        while let Some(length) = message(&bytes)? {
            bytes.drain(..length);
            if stream.write_all(OK).is_err() {
                return Ok(());
            }
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return Ok(()),
            Ok(read) => bytes.extend_from_slice(&piece[..read]),
        }
    }
}

/// The length of the request that `bytes` begin with, if it is whole.
fn message(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = &bytes[..end];
    let say = |what: &str| Err(format!("{what}: {:?}", String::from_utf8_lossy(head)));
    let Ok(text) = std::str::from_utf8(head) else {
        // Values may be of another alphabet; the rest is looked at as if they were not.
        return body(bytes, end + 4, &String::from_utf8_lossy(head));
    };
    if text.split("\r\n").any(|line| line.contains(['\r', '\n', '\0'])) {
        return say("a control character");
    }
    let mut lines = text.split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else { return say("a bad first line") };
    let is_inner = target
        .strip_prefix("/inner")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
    let is_of_server = target == "*" && method == "OPTIONS";
    if !(is_inner || is_of_server) {
        return say("a target that was not rewritten");
    }
    let named = |name: &str| -> Vec<&str> { fields(text, name) };
    if named("host") != ["inner.example"] {
        return say("a wrong host");
    }
    if named("x-store") != ["0412"] || !named("x-debug").is_empty() {
        return say("fields that were not changed");
    }
    for hop in ["keep-alive", "proxy-connection", "proxy-authorization", "trailer-part"] {
        if !named(hop).is_empty() {
            return say("a field of another hop");
        }
    }
    if text.split("\r\n").skip(1).any(|line| line.starts_with([' ', '\t']) || !line.contains(':')) {
        return say("a folded line, or one without a name");
    }
    body(bytes, end + 4, text)
}

/// The length of a request with its body.
fn body(bytes: &[u8], from: usize, head: &str) -> Result<Option<usize>, String> {
    let say = |what: &str| Err(format!("{what}: {head:?}"));
    let (lengths, codings) = (fields(head, "content-length"), fields(head, "transfer-encoding"));
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(Some(from)),
        ([length], []) if !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit()) => {
            let Ok(length) = length.parse::<usize>() else { return say("a huge length") };
            let whole = from.saturating_add(length);
            Ok((bytes.len() >= whole).then_some(whole))
        }
        ([], ["chunked"]) => chunks(bytes, from),
        _ => say("an ambiguous length"),
    }
}

fn chunks(bytes: &[u8], mut at: usize) -> Result<Option<usize>, String> {
    let line_end = |at: usize| {
        let rest = bytes.get(at..)?;
        rest.windows(2).position(|two| two == b"\r\n").map(|end| at + end)
    };
    loop {
        let Some(end) = line_end(at) else { return Ok(None) };
        let line = String::from_utf8_lossy(&bytes[at..end]).into_owned();
        let Ok(size) = usize::from_str_radix(&line, 16) else {
            return Err(format!("a chunk of size {line:?}"));
        };
        at = end + 2;
        if size == 0 {
            // Trailers, to an empty line.
            while let Some(end) = line_end(at) {
                if end == at {
                    return Ok(Some(end + 2));
                }
                at = end + 2;
            }
            return Ok(None);
        }
        at = at.saturating_add(size);
        match bytes.get(at..at.saturating_add(2)) {
            None => return Ok(None),
            Some(b"\r\n") => at += 2,
            Some(other) => return Err(format!("a chunk that ends with {other:?}")),
        }
    }
}

fn fields<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let field = |line: &'a str| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    };
    head.split("\r\n").skip(1).filter_map(field).collect()
}
