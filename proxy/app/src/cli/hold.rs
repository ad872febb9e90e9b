//! `tillgate pin` and `tillgate rollback`: an operator keeps a store on what it runs, or takes it
//! back to what it ran before.
//!
//! Both end by themselves, and both name a reason and a ticket, which the gateway writes into its
//! audit log. What is pinned is what was seen: if something else came into effect meanwhile, the
//! gateway refuses.

use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};
use tillgate_config::bundle::wall_text;
use tillgate_config::scalar::DurationText;
use tillgate_core::reconcile::Wall;
use tillgate_net::clock;

use super::ask::{Question, Remote, shown};
use super::policy::{Answer, FINDINGS, Output};

/// How long an operation is followed, and how often it is asked about.
const FOLLOWED: Duration = Duration::from_secs(60);
const ASKED_EVERY: Duration = Duration::from_millis(200);

const PIN: &str = "/v1/pin";

/// Why, and for how long.
#[derive(Clone, Debug, Args)]
pub(crate) struct Hold {
    /// Why, in one line, for the audit log.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The change record it belongs to.
    #[arg(long, value_name = "TICKET")]
    ticket: String,
    /// For how long, as `24h`; a week at most.
    #[arg(long = "for", value_name = "DURATION", default_value = "24h")]
    time: DurationText,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PinOptions {
    /// Let the store stay on what it runs, and why, in one line for the audit log.
    #[arg(long, value_name = "TEXT", requires = "ticket")]
    reason: Option<String>,
    /// The change record it belongs to.
    #[arg(long, value_name = "TICKET", requires = "reason")]
    ticket: Option<String>,
    /// For how long, as `24h`; a week at most.
    #[arg(long = "for", value_name = "DURATION", default_value = "24h", requires = "reason")]
    time: DurationText,
    /// Let the store follow its sources again.
    #[arg(long, conflicts_with = "reason")]
    remove: bool,
    /// How it looks.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RollbackOptions {
    /// Where to: `lkg` (the last known good), `previous`, or a digest of `tillgate history`.
    #[arg(value_name = "REVISION", default_value = "lkg")]
    to: String,
    #[command(flatten)]
    hold: Hold,
    /// How it looks.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

impl Hold {
    fn body(&self) -> Value {
        let until = Wall(clock::wall_seconds() + self.time.0.as_secs());
        json!({
            "reason": self.reason,
            "ticket": self.ticket,
            "expiresAt": wall_text(until),
        })
    }
}

/// Shows the pin, sets one or takes it away.
pub(super) fn pin(options: &PinOptions) -> Answer {
    let PinOptions { reason, ticket, time, remove, output, remote } = options;
    let given = reason.clone().zip(ticket.clone());
    let hold = given.map(|(reason, ticket)| Hold { reason, ticket, time: *time });
    let look = Question::new(PIN, shown::pin);
    if hold.is_none() && !remove {
        return remote.ask(&look, *output);
    }
    let tag = match remote.tag(&look) {
        Ok(tag) => tag,
        Err(answer) => return answer,
    };
    match hold {
        Some(hold) => {
            let set = Question::put(PIN, hold.body(), tag, shown::pin);
            remote.ask(&set, *output)
        }
        None => remote.ask(&Question::delete(PIN, tag), *output),
    }
}

/// Takes the store back, and says what came of it.
pub(super) fn rollback(options: &RollbackOptions) -> Answer {
    let RollbackOptions { to, hold, output, remote } = options;
    let mut body = hold.body();
    body["to"] = json!(to);
    let begun = remote.ask(&Question::post("/v1/rollback", body), Output::Json);
    let accepted: Value = serde_json::from_str(&begun.stdout).unwrap_or_default();
    let Some(id) = accepted["operation"].as_str() else {
        return if *output == Output::Text { shown::refusal(begun) } else { begun };
    };
    let look = Question::operation(id);
    let until: Instant = clock::now() + FOLLOWED;
    loop {
        let answer = remote.ask(&look, Output::Json);
        let operation: Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
        let goes_on = matches!(operation["state"].as_str(), Some("Pending" | "Running"));
        if goes_on && clock::now() < until {
            thread::sleep(ASKED_EVERY);
            continue;
        }
        let stdout = match output {
            Output::Json => answer.stdout,
            Output::Text => shown::operation(&operation),
        };
        let has_failed = operation["state"] != "Succeeded";
        let code = if answer.code == 0 && has_failed { FINDINGS } else { answer.code };
        return Answer { stdout, code, ..answer };
    }
}
