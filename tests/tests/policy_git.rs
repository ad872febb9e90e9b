//! Policy from real Git servers, across the line by the gateway's own relay: a whole fetch over
//! https (`git http-backend`, inside of TLS) and over ssh (`sshd`), the next commit, and a server
//! that is not who it should be.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tillgate_tests::chain::Chain;
use tillgate_tests::follower::{answers, condition, shown, start};
use tillgate_tests::git;
use tillgate_tests::origin::Origin;
use tillgate_tests::ports::nobody;
use tillgate_tests::program::{Program, policy};
use tillgate_tests::tls::{Authority, Volume, Wants, accept, server};
use tillgate_tests::wire::Wire;
use tillgate_tests::{eventually, skipped};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A repository with a policy in it.
struct Repository(PathBuf);

impl Repository {
    /// `None` where there is no git, which is said aloud.
    fn new(folder: &Path) -> Option<Self> {
        if !git::is_there() {
            return None;
        }
        let path = folder.join("fleet");
        fs::create_dir_all(path.join("policy")).expect("room");
        let repository = Self(path);
        repository.git(&["init", "--quiet", "--initial-branch=main", "."]);
        repository.git(&["config", "uploadpack.allowFilter", "true"]);
        repository.git(&["config", "uploadpack.allowAnySHA1InWant", "true"]);
        Some(repository)
    }

    fn git(&self, arguments: &[&str]) -> String {
        git::run(&self.0, arguments)
    }

    /// Commits `text` as the policy; the commit.
    fn commit(&self, text: &str) -> String {
        fs::write(self.0.join("policy/store.yaml"), text).expect("room");
        self.git(&["add", "."]);
        self.git(&["commit", "--quiet", "-m", "a change"]);
        self.git(&["rev-parse", "HEAD"])
    }
}

fn source(url: &str, more: &str) -> String {
    format!(
        "{{name: git, type: Git, url: \"{url}\", ref: main, path: policy, interval: 1s, timeout: \
         30s, spread: 0s, allowUnsigned: true{more}}}"
    )
}

/// Waits until this commit is in effect.
fn follows(program: &Program, commit: &str) {
    let revision = format!("main@sha1:{commit}");
    eventually(&format!("{revision} in effect\n{}", program.log()), || {
        (shown(program)["applied"]["revision"] == *revision).then_some(())
    });
}

/// Two commits, one after the other, by the source that `start` begins with.
fn is_followed(repository: &Repository, origin: SocketAddr, start: impl FnOnce() -> Program) {
    let first = repository.commit(&policy("a.example", origin));
    let program = start();
    follows(&program, &first);
    answers(&program, "a.example", 200);
    let second = repository.commit(&policy("b.example", origin));
    follows(&program, &second);
    answers(&program, "b.example", 200);
}

#[test]
fn a_repository_behind_https_is_followed_through_the_relay() {
    let (chain, origin) = (Chain::new("git-https"), Origin::answering(OK));
    let Some(repository) = Repository::new(&chain.folder) else { return };
    let authority = Authority::default();
    let identity = authority.issue(&["127.0.0.1"]);
    let config = server(&Wants { identity: Some(&identity), ..Wants::default() }, None);
    let root = chain.folder.clone();
    let git = Origin::start(move |wire, _| {
        if let Some(wire) = accept(wire, &config) {
            backend(wire, &root);
        }
    });
    let url = format!("https://{}/fleet", git.address);
    let others = Authority::default();
    let files = Volume::new(&[("ca.crt", &authority.pem), ("others.crt", &others.pem)]);
    let bootstrap = chain.bootstrap(&[source(&url, "")], "");
    let begin = |roots: &str| {
        let roots = files.path(roots);
        start(PROGRAM, bootstrap.clone(), |command| {
            command.env("SSL_CERT_FILE", roots);
        })
    };
    condition(&begin("others.crt"), "FetchFailed/git", "certificate");
    is_followed(&repository, origin.address, || begin("ca.crt"));
}

/// `git http-backend` behind one connection, as CGI has it (RFC 3875).
fn backend(mut wire: Wire, root: &Path) {
    if !wire.waits_for_more() {
        return;
    }
    let request = wire.reply();
    let mut words = request.line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let field = |name: &str| request.header(name).unwrap_or_default().to_owned();
    let mut git = Command::new("git");
    git.arg("http-backend").env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1");
    git.env("GIT_PROTOCOL", field("git-protocol")).env("REQUEST_METHOD", method);
    git.env("HTTP_CONTENT_ENCODING", field("content-encoding"));
    git.env("CONTENT_TYPE", field("content-type")).env("PATH_INFO", path);
    git.env("CONTENT_LENGTH", request.body.len().to_string()).env("QUERY_STRING", query);
    let piped = git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = piped.expect("git is there");
    child.stdin.take().expect("a pipe").write_all(&request.body).expect("it reads");
    let said = child.wait_with_output().expect("it ends").stdout;
    // CGI's head has its status as a field; git says 200 by saying nothing.
    let text = String::from_utf8_lossy(&said).into_owned();
    let status = text.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
    wire.send(format!("HTTP/1.1 {status}\r\nConnection: close\r\n"));
    wire.send(&said);
    wire.finish();
}

/// An `sshd` of this test's own; it ends with it.
struct Sshd {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Sshd {
    /// `None` where there is none, which is said aloud.
    fn start(folder: &Path) -> Option<Self> {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        let program = path.split(':').map(|folder| Path::new(folder).join("sshd"));
        let program = program.into_iter().find(|program| program.exists());
        let (Some(program), true) = (program, is_there("ssh")) else {
            skipped("no sshd or ssh on this machine");
            return None;
        };
        let folder = folder.join("ssh");
        fs::create_dir(&folder).expect("room");
        for key in ["host", "other", "client"] {
            let mut made = Command::new("ssh-keygen");
            made.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join(key));
            assert!(made.status().expect("it comes with ssh").success());
        }
        let port = nobody().port();
        let here = folder.display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {here}/host\nPidFile none\n\
             AuthorizedKeysFile {here}/client.pub\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nPermitRootLogin yes\n"
        );
        fs::write(folder.join("config"), config).expect("room");
        let mut sshd = Command::new(program);
        sshd.args(["-D", "-e", "-f"]).arg(folder.join("config")).stdin(Stdio::null());
        let log = fs::File::create(folder.join("log")).expect("room");
        let mut child = sshd.stderr(log).spawn().expect("sshd starts");
        eventually("sshd listens, or ends", || {
            let ended = child.try_wait().expect("ours").is_some();
            (ended || TcpStream::connect(("127.0.0.1", port)).is_ok()).then_some(())
        });
        if child.try_wait().expect("ours").is_some() {
            let why = fs::read_to_string(folder.join("log")).unwrap_or_default();
            skipped(&format!("sshd does not run here: {why}"));
            return None;
        }
        Some(Self { child, port, folder })
    }

    /// What a client knows of the server, if `key` is its key.
    fn known(&self, key: &str) -> PathBuf {
        let public = self.folder.join(key).with_extension("pub");
        let public = fs::read_to_string(public).expect("it was made");
        let file = self.folder.join(format!("known-{key}"));
        fs::write(&file, format!("127.0.0.1 {public}")).expect("room");
        file
    }

    /// A source that asks it, as it is known by `key`.
    fn source(&self, repository: &Repository, key: &str) -> String {
        let user = Command::new("id").arg("-un").output().expect("id is there").stdout;
        let user = String::from_utf8_lossy(&user).trim().to_owned();
        let url = format!("ssh://{user}@127.0.0.1:{}{}", self.port, repository.0.display());
        let (identity, known) = (self.folder.join("client"), self.known(key));
        source(
            &url,
            &format!(", identity: {}, knownHosts: {}", identity.display(), known.display()),
        )
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("-V").output().is_ok()
}

#[test]
fn a_repository_behind_ssh_is_followed_through_the_relay() {
    let (chain, origin) = (Chain::new("git-ssh"), Origin::answering(OK));
    let Some(repository) = Repository::new(&chain.folder) else { return };
    let Some(sshd) = Sshd::start(&chain.folder) else { return };
    let begin = |key| {
        let bootstrap = chain.bootstrap(&[sshd.source(&repository, key)], "");
        start(PROGRAM, bootstrap, |_| {})
    };
    // Somebody else with the server's address.
    condition(&begin("other"), "FetchFailed/git", "git ls-remote");
    is_followed(&repository, origin.address, || begin("host"));
}

/// The first bytes that `git` sends to a server, on the way that the gateway gives it.
fn first_bytes(name: &str, scheme: &str) -> Vec<u8> {
    let chain = Chain::new(name);
    let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("{scheme}://{}/fleet", server.local_addr().expect("bound"));
    let program = start(PROGRAM, chain.bootstrap(&[source(&url, "")], ""), |_| {});
    let (mut stream, _) = server.accept().expect("git comes");
    let mut bytes = [0; 7];
    std::io::Read::read_exact(&mut stream, &mut bytes).expect("it speaks");
    drop((stream, server));
    condition(&program, "FetchFailed/git", "git ls-remote");
    bytes.to_vec()
}

#[test]
fn git_reaches_its_server_by_the_relay_alone() {
    if !is_there("git") || !is_there("ssh") {
        skipped("no git or ssh on this machine");
        return;
    }
    // Its proxy is the relay, and nothing else leads there.
    assert_eq!(first_bytes("git-https-first", "https")[..2], [0x16, 3], "a ClientHello");
    assert_eq!(first_bytes("git-ssh-first", "ssh"), b"SSH-2.0");
}
