//! A chain of one store in the hands of a test: keys, bundles, the web server that has them, the
//! store's `Bootstrap` and its disk.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::origin::Origin;
use crate::program::scratch;
use crate::wire::Wire;

/// What the web server does when it is asked.
#[derive(Clone, Debug, Default)]
pub enum Mood {
    /// It has nothing.
    #[default]
    Nothing,
    /// It has this, with its tag.
    Bundle(Arc<Vec<u8>>),
    /// It wants to be asked again in so many seconds.
    Later(u64),
    /// It answers with this text and status.
    Text(u16, &'static str),
    /// It sends the head and half of this, and then nothing as long as it is in this mood.
    Half(Arc<Vec<u8>>),
    /// It does not answer as long as it is in this mood, and then breaks off.
    Hangs,
    /// It sends zeros without end.
    Endless,
}

/// See the module.
pub struct Chain {
    /// Everything that is on disk.
    pub folder: PathBuf,
    /// What the web server does next.
    pub mood: Arc<Mutex<Mood>>,
    /// Times it answered with a bundle, and with "not modified".
    pub sent: Arc<Mutex<(usize, usize)>>,
    server: Origin,
}

impl Chain {
    /// A chain with a key, and a web server that has nothing.
    ///
    /// # Panics
    /// If the temporary folder cannot be written.
    pub fn new(name: &str) -> Self {
        let folder = scratch(&format!("chain-{name}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("policy")).expect("a folder");
        let (mood, sent) = (Arc::<Mutex<Mood>>::default(), Arc::<Mutex<(usize, usize)>>::default());
        let (shown, counted) = (Arc::clone(&mood), Arc::clone(&sent));
        let server = Origin::start(move |wire, _| serve(wire, &shown, &counted));
        let chain = Self { folder, mood, sent, server };
        for key in ["ci", "eve", "release", "boss"] {
            let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
            fs::write(chain.folder.join(format!("{key}.pem")), pair.serialize_pem()).expect("room");
            fs::write(chain.folder.join(format!("{key}.pub")), pair.public_key_pem())
                .expect("room");
        }
        chain
    }

    /// Where the web server is.
    pub const fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// The same web server inside of TLS.
    pub fn secure(&self, config: Arc<rustls::ServerConfig>) -> Origin {
        let (mood, sent) = (Arc::clone(&self.mood), Arc::clone(&self.sent));
        Origin::start(move |wire, _| {
            if let Some(wire) = crate::tls::accept(wire, &config) {
                serve(wire, &mood, &sent);
            }
        })
    }

    /// Where the store keeps its state.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Writes the store's `Bootstrap` with these `sources` (YAML of a list, in one line each) and
    /// `more` fields.
    ///
    /// # Panics
    /// If the temporary folder cannot be written.
    pub fn bootstrap(&self, sources: &[String], more: &str) -> PathBuf {
        self.bootstrap_of("store-0412", &self.state(), sources, more)
    }

    /// The same of a store that keeps its state in `state`.
    ///
    /// # Panics
    /// If the temporary folder cannot be written.
    pub fn bootstrap_of(
        &self,
        store: &str,
        state: &Path,
        sources: &[String],
        more: &str,
    ) -> PathBuf {
        let key = |name: &str, roles: &str| {
            let pem = fs::read_to_string(self.folder.join(format!("{name}.pub"))).expect("a key");
            let key: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
            format!("{{id: {name}, algorithm: Ed25519, publicKey: \"{key}\", {roles}}}")
        };
        let text = format!(
            "apiVersion: tillgate.dev/v1alpha1\nkind: Bootstrap\nmetadata: {{name: \
             {store}}}\nspec:\n  storeId: {store}\n  role: Gateway\n  stateDir: {}\n  \
             sources:\n{}  trust:\n    threshold: 1\n    keys:\n      - {}\n      - {}\n      - \
             {}\n{more}",
            state.display(),
            sources.iter().map(|one| format!("    - {one}\n")).collect::<String>(),
            key("ci", "roles: [bundle]"),
            key("release", "roles: [ring-promotion, override], approvesAs: [release-manager]"),
            key("boss", "roles: [operation]"),
        );
        let path = self.folder.join(format!("{store}.bootstrap.yaml"));
        fs::write(&path, text).expect("room");
        path
    }

    /// The source that asks the web server.
    pub fn http(&self) -> String {
        self.http_within("1s")
    }

    /// The same; it waits so long for an answer.
    pub fn http_within(&self, timeout: &str) -> String {
        format!(
            "{{name: central, type: HTTPBundle, url: \"http://{}/0412\", interval: 1s, timeout: \
             {timeout}, spread: 0s}}",
            self.address()
        )
    }

    /// A source that looks into the folder `stick`, as often as any folder is looked into; its
    /// interval says only when it counts as silent.
    pub fn stick(&self, more: &str) -> String {
        let path = self.folder.join("stick");
        fs::create_dir_all(&path).expect("a folder");
        format!("{{name: stick, type: Directory, path: {}, interval: 30s{more}}}", path.display())
    }

    /// A bundle of `policy`, signed with `key`.
    ///
    /// # Panics
    /// If the commands refuse it.
    pub fn bundle(&self, sequence: u64, policy: &str, key: &str, more: &[&str]) -> Vec<u8> {
        fs::write(self.folder.join("policy/store.yaml"), policy).expect("room");
        let output = self.folder.join("made.tar.gz");
        let (folder, output) = (self.folder.join("policy"), output.display().to_string());
        let number = sequence.to_string();
        let (folder, revision) = (folder.display().to_string(), format!("main@sha1:{sequence}"));
        let mut build = vec![
            "build",
            &folder,
            "--output",
            &output,
            "--sequence",
            &number,
            "--revision",
            &revision,
        ];
        build.extend(more);
        bundle(&build);
        let private = self.folder.join(format!("{key}.pem")).display().to_string();
        bundle(&["sign", &output, "--key", &private, "--key-id", key]);
        fs::read(&output).expect("it was written")
    }

    /// Adds the signature of `key` to the bundle that was made last, and puts it on the stick.
    ///
    /// # Panics
    /// If the commands refuse it.
    pub fn sign(&self, key: &str) {
        let made = self.folder.join("made.tar.gz");
        let private = self.folder.join(format!("{key}.pem")).display().to_string();
        bundle(&["sign", &made.display().to_string(), "--key", &private, "--key-id", key]);
        self.put(&fs::read(&made).expect("it was written"));
    }

    /// The web server has this from now on.
    pub fn publish(&self, bundle: Vec<u8>) {
        self.feels(Mood::Bundle(Arc::new(bundle)));
    }

    /// The web server does this from now on.
    ///
    /// # Panics
    /// If its thread has panicked.
    pub fn feels(&self, mood: Mood) {
        *self.mood.lock().expect("no panic") = mood;
    }

    /// Puts `bytes` as the bundle on the stick, as a copy does: beside, then renamed.
    ///
    /// # Panics
    /// If the temporary folder cannot be written.
    pub fn put(&self, bytes: &[u8]) {
        let stick = self.folder.join("stick");
        fs::write(stick.join(".new"), bytes).expect("room");
        fs::rename(stick.join(".new"), stick.join("bundle.tar.gz")).expect("room");
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        self.feels(Mood::Nothing);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// `tillgate bundle`, which must go well.
#[track_caller]
pub fn bundle(arguments: &[&str]) {
    tillgate(&[&["bundle"], arguments].concat());
}

/// `tillgate`, which must go well.
#[track_caller]
pub fn tillgate(arguments: &[&str]) {
    let words = ["tillgate"].iter().chain(arguments).map(Into::into);
    let answer = tillgate::cli::ask(words).expect("a command that ends");
    assert_eq!(answer.code, 0, "{arguments:?}: {}{}", answer.stdout, answer.stderr);
}

/// What `tillgate approve` prints for the document in `file`, at the place of a list in it.
#[track_caller]
pub fn approval(file: &str, role: &str, key: &str, id: &str) -> String {
    let words = ["tillgate", "approve", file, "--role", role, "--key", key, "--key-id", id];
    let answer = tillgate::cli::ask(words.map(Into::into)).expect("a command");
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    answer.stdout.lines().map(|line| format!("    {line}\n")).collect()
}

/// The tag of a bundle.
fn tag(bundle: &[u8]) -> String {
    format!("\"{}\"", tillgate_config::bundle::hex(bundle))
}

fn serve(mut wire: Wire, mood: &Mutex<Mood>, sent: &Mutex<(usize, usize)>) {
    while wire.waits_for_more() {
        let request = wire.reply();
        let now = mood.lock().expect("no panic").clone();
        match now {
            Mood::Nothing => wire.send("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
            Mood::Later(seconds) => wire.send(format!(
                "HTTP/1.1 503 X\r\nRetry-After: {seconds}\r\nContent-Length: 0\r\n\r\n"
            )),
            Mood::Text(status, text) => wire.send(format!(
                "HTTP/1.1 {status} X\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n\
                 {text}",
                text.len()
            )),
            Mood::Bundle(bytes) => {
                let (tag, mut sent) = (tag(&bytes), sent.lock().expect("no panic"));
                if request.header("if-none-match") == Some(tag.as_str()) {
                    sent.1 += 1;
                    wire.send(format!("HTTP/1.1 304 Not Modified\r\nETag: {tag}\r\n\r\n"));
                    continue;
                }
                sent.0 += 1;
                wire.send(format!(
                    "HTTP/1.1 200 OK\r\nETag: {tag}\r\nContent-Length: {}\r\n\r\n",
                    bytes.len()
                ));
                wire.send(&**bytes);
            }
            Mood::Half(bytes) => {
                wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len()));
                wire.send(&bytes[..bytes.len() / 2]);
                sent.lock().expect("no panic").0 += 1;
                return while_it_lasts(mood, |now| matches!(now, Mood::Half(_)));
            }
            Mood::Hangs => return while_it_lasts(mood, |now| matches!(now, Mood::Hangs)),
            Mood::Endless => {
                wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 10_u64 << 30));
                while std::io::Write::write_all(wire.stream(), &[0; 65_536]).is_ok() {}
                return;
            }
        }
    }
}

fn while_it_lasts(mood: &Mutex<Mood>, lasts: impl Fn(&Mood) -> bool) {
    while lasts(&mood.lock().expect("no panic")) {
        crate::dawdle(crate::LOOK_EVERY);
    }
}

/// The bytes of an archive with one file called `path`: what a bundle's own commands refuse.
pub fn hostile(path: &str) -> Vec<u8> {
    // A tar header by hand (POSIX ustar), because libraries refuse such names.
    let mut header = [0_u8; 512];
    header[..path.len()].copy_from_slice(path.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(b"00000000001\0");
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = header.to_vec();
    tar.extend([b'x'; 1]);
    tar.resize(512 * 4, 0);
    stored(&tar)
}

/// gzip without compression (RFC 1951, 3.2.4).
fn stored(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1];
    let length = u16::try_from(bytes.len()).expect("a small archive");
    out.extend(length.to_le_bytes());
    out.extend((!length).to_le_bytes());
    out.extend(bytes);
    out.extend(crc32(bytes).to_le_bytes());
    out.extend(u32::from(length).to_le_bytes());
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 }
        })
    })
}
