//! A source on a real web server (nginx, over TLS, with its own entity tags): a bundle is taken
//! once, asked for again without being sent, replaced, gone and back; and the server's clock
//! vouches for the store's.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tillgate_tests::chain::Chain;
use tillgate_tests::follower::{answers, applied, condition, shown, start};
use tillgate_tests::machine::sets_clock_ahead;
use tillgate_tests::origin::Origin;
use tillgate_tests::ports::nobody;
use tillgate_tests::program::{Program, policy};
use tillgate_tests::tls::{Authority, Volume};
use tillgate_tests::wire::Wire;
use tillgate_tests::{eventually, skipped};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An nginx that serves the files of a folder; it ends with the test.
struct Nginx {
    child: Child,
    port: u16,
}

impl Nginx {
    /// `None` where there is none, which is said aloud.
    fn start(folder: &Path, files: &Volume) -> Option<Self> {
        if Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_err() {
            skipped("no nginx on this machine");
            return None;
        }
        let port = nobody().port();
        let (own, www) = (folder.join("nginx"), folder.join("www"));
        for path in [&own, &www] {
            fs::create_dir_all(path).expect("room");
        }
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("  {name}_temp_path {}/{name};\n", own.display()))
            .concat();
        let config = format!(
            "daemon off;\npid {own}/pid;\nerror_log {own}/error.log;\nevents {{}}\nhttp {{\n  \
             access_log off;\n{temporary}  server {{\n    listen 127.0.0.1:{port} ssl;\n    \
             ssl_certificate {};\n    ssl_certificate_key {};\n    root {};\n  }}\n}}\n",
            files.path("tls.crt").display(),
            files.path("tls.key").display(),
            www.display(),
            own = own.display(),
        );
        fs::write(own.join("nginx.conf"), config).expect("room");
        // Whoever runs the test may read its folder.
        let user = if is_root() { "user root;" } else { "" };
        let mut nginx = Command::new("nginx");
        nginx.args(["-e", "stderr", "-g", user, "-c"]).arg(own.join("nginx.conf"));
        let mut child = nginx.stdin(Stdio::null()).spawn().expect("nginx starts");
        eventually("nginx listens", || {
            assert!(child.try_wait().expect("ours").is_none(), "nginx has ended");
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Some(Self { child, port })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it; killed, they would stay.
        tillgate_tests::program::signal(self.child.id(), "TERM");
        let _ = self.child.wait();
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// The value of a metric of this name with all these labels.
fn metric(program: &Program, name: &str, labels: &[&str]) -> Option<f64> {
    let mut wire = Wire::connect(program.address("admin"));
    wire.send("GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
    let scrape = wire.reply().text();
    let mut lines = scrape.lines().filter(|line| line.starts_with(name));
    let line = lines.find(|line| labels.iter().all(|label| line.contains(label)))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[test]
fn a_bundle_on_a_real_web_server_is_followed_and_its_clock_vouches_for_ours() {
    let (chain, origin) = (Chain::new("nginx"), Origin::answering(OK));
    let authority = Authority::default();
    let identity = authority.issue(&["127.0.0.1"]);
    let files = Volume::new(&[
        ("ca.crt", &authority.pem),
        ("tls.crt", &identity.chain),
        ("tls.key", &identity.key),
    ]);
    let Some(nginx) = Nginx::start(&chain.folder, &files) else { return };
    let source = format!(
        "{{name: central, type: HTTPBundle, url: \"https://127.0.0.1:{}/0412.tar.gz\", interval: \
         1s, timeout: 5s, spread: 0s}}",
        nginx.port
    );
    let bootstrap = chain.bootstrap(&[source], "");
    let bundle = chain.folder.join("www/0412.tar.gz");
    let put_as = |sequence, host, more: &[&str]| {
        let made = chain.bundle(sequence, &policy(host, origin.address), "ci", more);
        fs::write(bundle.with_extension("new"), made).expect("room");
        fs::rename(bundle.with_extension("new"), &bundle).expect("room");
    };
    let put = |sequence, host| put_as(sequence, host, &[]);
    let begin = |ahead| {
        start(PROGRAM, bootstrap.clone(), |command| {
            sets_clock_ahead(command, ahead);
            command.env("SSL_CERT_FILE", files.path("ca.crt"));
        })
    };
    put(7, "a.example");
    let mut program = begin(0);
    applied(&program, 7);
    answers(&program, "a.example", 200);
    eventually("what is in effect is not sent again", || {
        let labels = ["source=\"central\"", "not_modified"];
        metric(&program, "tillgate_source_fetch_total", &labels).filter(|count| *count >= 2.0)
    });
    let labels = ["source=\"central\"", "\"updated\""];
    assert_eq!(metric(&program, "tillgate_source_fetch_total", &labels), Some(1.0));
    eventually("the server's clock vouches for ours", || {
        (shown(&program)["clock"] == "Synced").then_some(())
    });
    let offset = metric(&program, "tillgate_clock_offset_seconds", &["central"]);
    assert!(offset.is_some_and(|offset| offset.abs() < 3.0), "{offset:?}");
    put(8, "b.example");
    applied(&program, 8);
    answers(&program, "b.example", 200);
    // One that cannot have been made yet would make every clock wrong that is right.
    put_as(9, "x.example", &["--created-at", "2100-01-01T00:00:00Z"]);
    assert_eq!(condition(&program, "Rejected", "made at 2100-01-01"), "MadeAhead");
    assert_eq!(shown(&program)["clock"], "Synced");
    fs::remove_file(&bundle).expect("it was there");
    condition(&program, "FetchFailed/central", "404");
    assert_eq!(program.get("b.example").status, 200);
    put(9, "c.example");
    applied(&program, 9);
    program.kill();
    // A clock that is a day ahead is seen, and vouched for by nobody.
    let program = begin(86_400);
    eventually("the server's clock is heard", || {
        let offset = metric(&program, "tillgate_clock_offset_seconds", &["central"])?;
        (offset > 86_000.0).then_some(())
    });
    assert_ne!(shown(&program)["clock"], "Synced");
}
