//! The fleet example does what its README says.
//!
//! Every `console` and `sh` block is run in a copy of the example: `tillgate` in this process, the
//! rest by the shell. What the former say is compared; `TILLGATE_BLESS=1` writes it into the README.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples/fleet")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// The words of a command line; nothing in the README needs more than quotes around none.
fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// What a line says, on both streams; its exit code may be so high.
fn said(line: &str, code_max: u8) -> String {
    if !line.starts_with("tillgate ") {
        let done = Command::new("sh").arg("-c").arg(line).output().unwrap();
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        return String::from_utf8(done.stdout).unwrap();
    }
    let (command, head) = match line.split_once(" | head -") {
        Some((command, lines)) => (command, lines.parse().unwrap()),
        None => (line, usize::MAX),
    };
    let answer = tillgate::cli::ask(words(command).into_iter().map(Into::into))
        .unwrap_or_else(|| panic!("{command} is no command that reads policy"));
    let all = format!("{}{}", answer.stderr, answer.stdout);
    assert!(answer.code <= code_max, "{line}: {all}");
    all.lines().take(head).fold(String::new(), |mut text, line| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", line.trim_end());
        text
    })
}

/// The README with every block as it is said now.
fn told(readme: &str) -> String {
    let mut out = String::new();
    let (mut in_block, mut is_run) = (false, false);
    for line in readme.lines() {
        match (in_block, line) {
            (false, "```console") => in_block = true,
            (false, "```sh") => is_run = true,
            (false, "```") => is_run = false,
            (false, line) if is_run => drop(said(line, 0)),
            (true, "```") => in_block = false,
            (true, line) if !line.starts_with("$ ") => continue,
            _ => {}
        }
        let _ = writeln!(out, "{line}");
        if in_block && let Some(command) = line.strip_prefix("$ ") {
            out.push_str(&said(command, 1));
        }
    }
    out
}

#[test]
fn every_command_of_the_readme_says_what_is_written_there() {
    let path = example().join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    copy(&example(), scratch.path());
    // What the chain keeps elsewhere.
    for name in ["ci.pem", "release.pem"] {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        fs::write(scratch.path().join(name), key.serialize_pem()).unwrap();
    }
    // Paths in answers are those that a reader types. This is the only test of its process.
    std::env::set_current_dir(scratch.path()).unwrap();
    let now = told(&readme);
    assert!(now.matches("$ tillgate ").count() >= 10, "the README shows the commands");
    if std::env::var_os("TILLGATE_BLESS").is_some() {
        fs::write(&path, &now).unwrap();
        return;
    }
    for (written, said) in readme.lines().zip(now.lines()) {
        assert_eq!(written, said, "bless the README if this is meant");
    }
    assert_eq!(readme.lines().count(), now.lines().count(), "bless the README");
}
