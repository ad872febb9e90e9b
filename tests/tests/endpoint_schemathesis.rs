//! Schemathesis asks the config endpoint whatever its OpenAPI document allows and forbids, and
//! looks for server errors, statuses and media types that the document does not know.
//!
//! It is a Python package that installs itself into a folder of its own, so this is a command of
//! its own: `cargo test -p tillgate-tests --test endpoint_schemathesis -- --ignored`. Where it
//! cannot be installed it says SKIPPED; where `CI` is set that is a failure.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "what was found is said aloud")]

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tillgate_tests::endpoint::{self, NAME, Wanted, write_secret};
use tillgate_tests::program::Program;
use tillgate_tests::tls::Authority;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");

const PACKAGE: &str = "schemathesis==4.32.5";

/// All roles, and the name of the instance that it may speak for.
const TOKEN: (&str, &str) = ("pos-1", "viewer, sidecar, operator, auditor");

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
    let authority = Authority::default();
    let identity = authority.issue(&[NAME, "127.0.0.1"]);
    for (name, text) in
        [("ca.crt", &authority.pem), ("tls.crt", &identity.chain), ("tls.key", &identity.key)]
    {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let secret = "schemathesis-0123456789abcdef0123456789";
    write_secret(&folder.path().join(TOKEN.0), secret);
    write_secret(&folder.path().join("hub"), "hub-0123456789abcdef0123456789abcdef");
    let wanted = Wanted {
        auth: "Token",
        has_ca: true,
        tokens: &[TOKEN],
        hooks: &[("hub", "GitHub")],
        down: "20Mbit/s",
    };
    let at = |name: &str| folder.path().join(name).display().to_string();
    let program = Program::start(PROGRAM, "schemathesis", &endpoint::policy(at, &wanted), &[]);
    let base = format!("https://{}", program.address("config-endpoint"));
    let output = Command::new(schemathesis)
        .current_dir(folder.path())
        .args(["run", &format!("{base}/v1/openapi.json"), "--url", &base])
        .args(["--header", &format!("Authorization: Bearer {secret}")])
        // The authority of the tests has the name of what it signs, which OpenSSL takes for one.
        .args(["--tls-verify", "false"])
        // A stream has no end.
        .args(["--exclude-path", "/v1/config/events"])
        .args(["--checks", "not_a_server_error,status_code_conformance,content_type_conformance"])
        .args(["--max-examples", "60", "--seed", "4182"])
        .args(["--request-timeout", "30", "--no-color"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success());
    assert!(!program.log().contains("panicked"), "{}", program.log());
}
