//! `tillgate enrol`: an operator has a token minted with which one sidecar gets a certificate.
//!
//! The token alone is printed, to be put into a file of its own.

use clap::Args;
use serde_json::{Value, json};
use tillgate_config::scalar::DurationText;

use super::ask::{Question, Remote};
use super::policy::{Answer, Output};

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// What the sidecar is called.
    #[arg(value_name = "ID")]
    id: String,
    /// What it stands beside, as `pos/checkout`; without it the sidecar says so itself.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    workload: Option<String>,
    /// For how long the token can be exchanged, as `24h`; a week at most.
    #[arg(long = "for", value_name = "DURATION", default_value = "1h")]
    time: DurationText,
    /// How it looks.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

/// Has it minted.
pub(super) fn run(options: &Options) -> Answer {
    let Options { id, workload, time, output, remote } = options;
    let mut wanted = json!({ "id": id, "expiresIn": time.to_string() });
    if let Some(workload) = workload {
        wanted["workload"] = json!(workload);
    }
    remote.ask(&Question::post("/v1/enrolments", wanted).shown_by(token), *output)
}

fn token(minted: &Value) -> String {
    format!("{}\n", minted["token"].as_str().unwrap_or_default())
}
