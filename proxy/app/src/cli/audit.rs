//! `tillgate audit`: whether an audit log is what was written.

use std::path::Path;

use serde_json::json;

use super::policy::{Answer, FINDINGS, Output};
use crate::endpoint::audit::verify;

/// Follows the chain in `directory`.
pub(super) fn check(directory: &Path, output: Output) -> Answer {
    let (standing, broken) = match verify(directory) {
        Ok(found) => found,
        Err(error) => {
            let message = format!("`{}` cannot be read: {error}", directory.display());
            return Answer::refusal(&message);
        }
    };
    let told = broken.as_ref().map(ToString::to_string);
    let stdout = match output {
        Output::Json => {
            let value = json!({
                "records": standing.records,
                "sequence": standing.sequence,
                "head": standing.head,
                "intact": broken.is_none(),
                "broken": told,
            });
            format!("{value:#}\n")
        }
        Output::Text => format!(
            "{} records up to number {}, head {}\n",
            standing.records, standing.sequence, standing.head
        ),
    };
    let Some(told) = told else { return Answer::success(stdout) };
    let stderr = format!("error: the chain is broken: {told}\n");
    Answer { stdout, stderr, code: FINDINGS }
}
