//! Schemathesis asks the config endpoint whatever its OpenAPI document allows and forbids, and
//! looks for server errors, statuses and media types that the document does not know: of a small
//! policy, and of a fleet's store with everything in it.
//!
//! It is a Python package that installs itself into a folder of its own, so this is a command of
//! its own: `cargo test -p tillgate-tests --test endpoint_schemathesis -- --ignored`. Where it
//! cannot be installed it says SKIPPED; where `CI` is set that is a failure.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what was found is said aloud")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tillgate_tests::endpoint::{self, NAME, Wanted, write_secret};
use tillgate_tests::operated::Operated;
use tillgate_tests::program::Program;
use tillgate_tests::tls::Authority;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");

const PACKAGE: &str = "schemathesis==4.32.5";

/// All roles, and the name of the instance that it may speak for.
const TOKEN: (&str, &str) = ("pos-1", "viewer, sidecar, operator, auditor");

const SECRET: &str = "schemathesis-0123456789abcdef0123456789";

const HUB: &str = "hub-0123456789abcdef0123456789abcdef";

fn is_done(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// The program, installed below `folder`.
fn installed(folder: &Path) -> Option<std::path::PathBuf> {
    let place = folder.join("python");
    let bin = place.join("bin");
    let made = is_done(Command::new("python3").args(["-m", "venv"]).arg(&place));
    let has = made && is_done(Command::new(bin.join("pip")).args(["install", "-q", PACKAGE]));
    has.then(|| bin.join("schemathesis"))
}

/// Asks the endpoint at `address`; whether nothing was found.
fn finds_nothing(schemathesis: &Path, address: SocketAddr, secret: &str, examples: u32) -> bool {
    let base = format!("https://{address}");
    let output = Command::new(schemathesis)
        .current_dir(schemathesis.parent().unwrap())
        .args(["run", &format!("{base}/v1/openapi.json"), "--url", &base])
        .args(["--header", &format!("Authorization: Bearer {secret}")])
        // The authority of the tests has the name of what it signs, which OpenSSL takes for one.
        .args(["--tls-verify", "false"])
        // A stream has no end.
        .args(["--exclude-path", "/v1/config/events"])
        .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"])
        .args(["--max-examples", &examples.to_string(), "--seed", "4182"])
        .args(["--request-timeout", "30", "--no-color"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    output.status.success()
}

#[test]
#[ignore = "installs a Python package; it has a command of its own"]
fn schemathesis_finds_no_server_error_and_nothing_undocumented() {
    let folder = TempDir::new().unwrap();
    let Some(schemathesis) = installed(folder.path()) else {
        tillgate_tests::skipped(&format!(
            "{PACKAGE} cannot be installed here (python3 with venv, a registry)"
        ));
        return;
    };
    of_one_file(&folder, &schemathesis);
    of_a_fleet(&schemathesis);
}

/// A policy of one file, which answers nothing but what it must.
fn of_one_file(folder: &TempDir, schemathesis: &Path) {
    let authority = Authority::default();
    let identity = authority.issue(&[NAME, "127.0.0.1"]);
    for (name, text) in
        [("ca.crt", &authority.pem), ("tls.crt", &identity.chain), ("tls.key", &identity.key)]
    {
        fs::write(folder.path().join(name), text).unwrap();
    }
    write_secret(&folder.path().join(TOKEN.0), SECRET);
    let (tokens, hooks) = (&[TOKEN][..], &[("hub", "GitHub")][..]);
    write_secret(&folder.path().join("hub"), HUB);
    let wanted = Wanted { auth: "Token", has_ca: true, tokens, hooks, down: "20Mbit/s" };
    let at = |name: &str| folder.path().join(name).display().to_string();
    let program = Program::start(PROGRAM, "schemathesis", &endpoint::policy(at, &wanted), &[]);
    let address = program.address("config-endpoint");
    assert!(finds_nothing(schemathesis, address, SECRET, 30));
    assert!(!program.log().contains("panicked"), "{}", program.log());
}

/// A store of a fleet with everything in its policy, and two revisions to go back and forth.
fn of_a_fleet(schemathesis: &Path) {
    let store = Operated::new(PROGRAM, "schemathesis", |chain| {
        let [own, hub] = [TOKEN.0, "hub"].map(|name| chain.folder.join(name));
        write_secret(&own, SECRET);
        write_secret(&hub, HUB);
        format!(
            "      - {{name: {}, roles: [{}], file: {}}}\n    hooks:\n      \
             - {{name: hub, type: GitHub, secretFiles: [{}]}}\n",
            TOKEN.0,
            TOKEN.1,
            own.display(),
            hub.display()
        )
    });
    let images = store.chain.folder.join("images");
    store.good(1, "api.example");
    store.put_text(2, &(store.policy("api.example") + &endpoint::everything(&images)));
    store.applied(2);
    let address = store.program.address("config-endpoint");
    assert!(finds_nothing(schemathesis, address, SECRET, 30));
    assert!(!store.program.log().contains("panicked"), "{}", store.program.log());
}
