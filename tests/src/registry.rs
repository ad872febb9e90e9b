//! A registry in the hands of a test: it serves what it was given, remembers what it was asked,
//! and lies, cuts or refuses when it is told to.
//!
//! Digests are real. What a test wants of one request it says by a [`Twist`], chosen by the
//! request's line and number.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tillgate_net::mirror::digest_of;

use crate::origin::Origin;
use crate::wire::{Reply, Wire};

/// What a registry does with one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Twist {
    /// What it should.
    #[default]
    Honest,
    /// Sends the head and so many bytes of the body, then breaks the connection.
    Cut(usize),
    /// One byte of the body is another.
    Corrupt,
    /// The body has so many bytes less, and says so.
    Short(usize),
    /// Ignores `Range`.
    Whole,
    /// Answers this instead.
    Say(String),
    /// Closes the connection without a word.
    Close,
}

/// Decides by the request's line and how many requests came before.
type Twister = Box<dyn Fn(&Reply, usize) -> Twist + Send + Sync>;

#[derive(Default)]
struct State {
    blobs: BTreeMap<String, Vec<u8>>,
    /// By repository and reference.
    manifests: BTreeMap<(String, String), (String, Vec<u8>)>,
    requests: Vec<Reply>,
    body_bytes: u64,
    twister: Option<Twister>,
}

/// See the module.
pub struct Registry {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    _origin: Origin,
}

impl Registry {
    /// An empty registry on a port of the kernel's choice.
    pub fn start() -> Self {
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let origin = Origin::start(move |wire, _| serve(wire, &shared));
        Self { address: origin.address, state, _origin: origin }
    }

    /// A blob; its digest.
    pub fn blob(&self, bytes: &[u8]) -> String {
        let digest = digest_of(bytes).to_string();
        self.state().blobs.insert(digest.clone(), bytes.to_vec());
        digest
    }

    /// A manifest under a tag; its digest.
    pub fn manifest(&self, repository: &str, tag: &str, body: &str) -> String {
        let digest = digest_of(body.as_bytes()).to_string();
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let entry = (media_type.to_owned(), body.as_bytes().to_vec());
        let mut state = self.state();
        for reference in [tag.to_owned(), digest.clone()] {
            state.manifests.insert((repository.to_owned(), reference), entry.clone());
        }
        digest
    }

    /// Does this with requests from now on.
    pub fn twist(&self, twister: impl Fn(&Reply, usize) -> Twist + Send + Sync + 'static) {
        self.state().twister = Some(Box::new(twister));
    }

    /// Does what it should from now on.
    pub fn be_honest(&self) {
        self.state().twister = None;
    }

    /// Requests whose line has this in it.
    pub fn asked(&self, part: &str) -> Vec<Reply> {
        let state = self.state();
        state.requests.iter().filter(|request| request.line.contains(part)).cloned().collect()
    }

    /// Bytes of bodies of blobs that it has sent.
    pub fn body_bytes(&self) -> u64 {
        self.state().body_bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(mut wire: Wire, state: &Mutex<State>) {
    while wire.waits_for_more() && !wire.speaks_tls() {
        let request = wire.reply();
        let twist = {
            let mut state = lock(state);
            let number = state.requests.len();
            let twist = state.twister.as_ref().map(|twister| twister(&request, number));
            state.requests.push(request.clone());
            twist.unwrap_or_default()
        };
        match &twist {
            Twist::Close => return wire.reset(),
            Twist::Say(text) => {
                if !wire.try_send(text) {
                    return;
                }
            }
            Twist::Honest | Twist::Cut(_) | Twist::Corrupt | Twist::Short(_) | Twist::Whole => {
                if !answer(&mut wire, state, &request, &twist) {
                    // What was sent arrives: an end, not a reset, which would take it back.
                    return;
                }
            }
        }
    }
}

/// Whether the connection goes on.
fn answer(wire: &mut Wire, state: &Mutex<State>, request: &Reply, twist: &Twist) -> bool {
    let mut words = request.line.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let Some((name, kind, last)) = parts(path) else {
        return wire.try_send("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    };
    let found = {
        let state = lock(state);
        match kind {
            "blobs" => {
                let blob = state.blobs.get(last).cloned();
                blob.map(|bytes| ("application/octet-stream".to_owned(), bytes))
            }
            "manifests" => state.manifests.get(&(name.to_owned(), last.to_owned())).cloned(),
            _ => None,
        }
    };
    let Some((media_type, mut bytes)) = found else {
        return wire.try_send("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    };
    let digest = digest_of(&bytes);
    if *twist == Twist::Corrupt {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    } else if let Twist::Short(less) = twist {
        bytes.truncate(bytes.len().saturating_sub(*less));
    }
    let total = bytes.len();
    let range = request.header("range").filter(|_| *twist != Twist::Whole);
    let from = range.and_then(|text| text.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let from: usize = from.unwrap_or(0);
    if from > 0 && from >= total {
        let head = format!(
            "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{total}\r\n\
             Content-Length: 0\r\n\r\n"
        );
        return wire.try_send(head);
    }
    let mut head = match from {
        0 => "HTTP/1.1 200 OK\r\n".to_owned(),
        from => format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}\r\n",
            total - 1
        ),
    };
    head.push_str(&format!(
        "Content-Type: {media_type}\r\nDocker-Content-Digest: {digest}\r\nContent-Length: {}\r\n\r\n",
        total - from
    ));
    if !wire.try_send(head) || method == "HEAD" {
        return method == "HEAD";
    }
    let rest = &bytes[from..];
    let sent = if let Twist::Cut(after) = twist { rest.len().min(*after) } else { rest.len() };
    if kind == "blobs" {
        lock(state).body_bytes += sent as u64;
    }
    wire.try_send(&rest[..sent]) && sent == rest.len()
}

/// Repository, kind and the last segment of a path.
fn parts(path: &str) -> Option<(&str, &str, &str)> {
    let path = path.split('?').next()?.strip_prefix("/v2/")?;
    let (front, last) = path.rsplit_once('/')?;
    let (name, kind) = front.rsplit_once('/')?;
    Some((name, kind, last))
}
