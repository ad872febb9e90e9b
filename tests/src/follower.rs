//! A store that follows its sources of policy, and what it says of that.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::eventually;
use crate::program::Program;

/// Starts `program` with the file that says where its policy comes from; `change` has the last
/// word on the command.
pub fn start(program: &str, bootstrap: PathBuf, change: impl FnOnce(&mut Command)) -> Program {
    Program::start_as(program, "--bootstrap", bootstrap, &[], change)
}

/// The part of the status document about the policy.
///
/// # Panics
/// If it is no JSON.
pub fn shown(program: &Program) -> Value {
    let status: Value = serde_json::from_str(&program.status()).expect("JSON");
    status["policy"].clone()
}

/// Waits until the policy of this sequence is in effect.
#[track_caller]
pub fn applied(program: &Program, sequence: u64) {
    eventually(&format!("sequence {sequence} in effect\n{}", program.log()), || {
        (shown(program)["applied"]["sequence"] == sequence).then_some(())
    });
}

/// Waits until the policy of this sequence is the last known good; `ask` is done meanwhile.
#[track_caller]
pub fn is_good(program: &Program, sequence: u64, mut ask: impl FnMut()) {
    eventually(&format!("{sequence} is last known good\n{}", shown(program)), || {
        ask();
        (shown(program)["lastKnownGood"]["sequence"] == sequence).then_some(())
    });
}

/// Waits until a condition is so, with a text that has `part`; its reason.
#[track_caller]
pub fn condition(program: &Program, kind: &str, part: &str) -> String {
    let what = format!("{kind} with {part:?}");
    eventually(&what, || {
        let policy = shown(program);
        let found = policy["conditions"].as_array()?.iter().find(|one| one["type"] == kind)?;
        let (message, reason) = (found["message"].as_str()?, found["reason"].as_str()?);
        (found["status"] == "True" && message.contains(part)).then(|| reason.to_owned())
    })
}

/// Asks until the answer has this status.
#[track_caller]
pub fn answers(program: &Program, host: &str, status: u16) {
    eventually(&format!("{status} of {host}"), || {
        (program.get(host).status == status).then_some(())
    });
}
