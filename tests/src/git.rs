//! The `git` program, as nobody in particular: without the settings of whoever runs the tests.

use std::path::Path;
use std::process::Command;

use crate::skipped;

/// Whether there is one; where there is none, that is said aloud.
///
/// # Panics
/// Where `CI` is set and there is none.
#[track_caller]
pub fn is_there() -> bool {
    let is_there = Command::new("git").arg("--version").output().is_ok();
    if !is_there {
        skipped("no git on this machine");
    }
    is_there
}

/// Runs it in `folder`, which must go well; what it says.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn run(folder: &Path, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    git.args(["-c", "user.name=Ann", "-c", "user.email=ann@chain.example"]);
    let output = git.args(arguments).current_dir(folder).output().expect("git runs");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
