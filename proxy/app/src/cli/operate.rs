//! `tillgate operate`: a signed word that a store shall do something, once.
//!
//! It travels beside the store's bundle, which stays the same bundle. The store believes keys of
//! role `operation` in its Bootstrap, carries an id out once, and answers in its next report.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use tillgate_config::bundle::{
    self as format, OperationAction, OperationStatement, PromotionEntry, SignatureEntry, wall_text,
};
use tillgate_config::scalar::DurationText;
use tillgate_core::reconcile::Wall;
use tillgate_net::clock;

use super::bundle::{answer, open, sign_with, write};
use super::explain::About;
use super::policy::{Answer, FINDINGS, USAGE};
use crate::send::explain;

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// The bundle, which is written anew.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The store, as its Bootstrap calls it.
    #[arg(long, value_name = "STORE")]
    store: String,
    /// What is to be done.
    #[arg(long, value_enum)]
    action: Action,
    /// Where to, with `rollback`: `lkg`, `previous` or a digest.
    #[arg(long, value_name = "REVISION", default_value = "lkg")]
    to: String,
    /// For how long the store stays there, with `pin` and `rollback`; a week at most.
    #[arg(long = "for", value_name = "DURATION", default_value = "24h")]
    time: DurationText,
    /// The request that is asked about, with `explain`: a URL, or a method and a URL.
    #[arg(long, value_name = "[METHOD] URL", num_args = 1..=2, conflicts_with = "image")]
    url: Vec<String>,
    /// The image that is asked about, with `explain`, as `registry.example/pos/checkout@sha256:…`.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    #[command(flatten, next_help_heading = "With explain")]
    about: About,
    /// Why, in one line.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The change record it belongs to.
    #[arg(long, value_name = "TICKET")]
    ticket: String,
    /// Another one for each operation [default: made of chance].
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// For how long it may be carried out; a week at most.
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    expires_in: DurationText,
    /// The private key: PKCS#8 in PEM, Ed25519 or P-256.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The key's name in the store's `Bootstrap`.
    #[arg(long, value_name = "ID")]
    key_id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Action {
    /// Stay on what runs.
    Pin,
    /// Follow the sources again.
    Unpin,
    /// Go back to what ran before, and stay there.
    Rollback,
    /// Say what would happen to a request.
    Explain,
    /// Send status, audit log and recent log, without secrets.
    SupportBundle,
}

impl Action {
    const fn of(self) -> OperationAction {
        match self {
            Self::Pin => OperationAction::Pin,
            Self::Unpin => OperationAction::Unpin,
            Self::Rollback => OperationAction::Rollback,
            Self::Explain => OperationAction::Explain,
            Self::SupportBundle => OperationAction::SupportBundle,
        }
    }
}

/// Signs the operation, and puts it beside the bundle in place of those that are over.
pub(crate) fn run(options: &Options) -> Answer {
    answer(operate(options))
}

fn operate(options: &Options) -> Result<String, (String, u8)> {
    let mut found = open(&options.file)?;
    let no = |error: format::FormatError| (explain(&error), FINDINGS);
    let mut operations = match found.operations.as_slice() {
        [] => Vec::new(),
        bytes => format::read_operations(bytes).map_err(no)?,
    };
    let now = Wall(clock::wall_seconds());
    let statement = statement(options, now)?;
    let (id, text) = (statement.id.clone(), statement.to_text());
    OperationStatement::read(&text).map_err(|error| (explain(&error), USAGE))?;
    let signature = sign_with(&options.key, &format::operation_bytes(&text))?;
    let signatures = vec![SignatureEntry { key_id: options.key_id.clone(), signature }];
    let is_over = |entry: &PromotionEntry| {
        let known = OperationStatement::read(&entry.statement);
        known.is_ok_and(|known| known.expires() <= now)
    };
    operations.retain(|entry| !is_over(entry));
    operations.push(PromotionEntry { statement: text, signatures });
    found.operations = format::operations_text(&operations).into_bytes();
    format::read_operations(&found.operations).map_err(no)?;
    write(&options.file, &found)?;
    let file = options.file.display();
    Ok(format!("{file}: operation {id} for store {}\n", options.store))
}

fn statement(options: &Options, now: Wall) -> Result<OperationStatement, (String, u8)> {
    let action = options.action.of();
    let later = |time: DurationText| wall_text(Wall(now.0 + time.0.as_secs()));
    let stays = matches!(action, OperationAction::Pin | OperationAction::Rollback);
    let question = match action {
        OperationAction::Explain => Some(question(options)?),
        OperationAction::Pin
        | OperationAction::Unpin
        | OperationAction::Rollback
        | OperationAction::SupportBundle => None,
    };
    Ok(OperationStatement {
        id: options.id.clone().unwrap_or_else(|| format!("{:016x}", fastrand::u64(..))),
        store_id: options.store.clone(),
        action,
        issued_at: wall_text(now),
        expires_at: later(options.expires_in),
        reason: options.reason.clone(),
        ticket: options.ticket.clone(),
        to: (action == OperationAction::Rollback).then(|| options.to.clone()),
        until: stays.then(|| later(options.time)),
        question,
    })
}

/// What is asked, as the config endpoint takes it.
fn question(options: &Options) -> Result<Value, (String, u8)> {
    if options.url.is_empty() && options.image.is_none() {
        let why = "what shall be explained? add `--url` or `--image`";
        return Err((why.to_owned(), USAGE));
    }
    options.about.asked(options.image.as_deref(), &options.url).map_err(|why| (why, USAGE))
}
