//! `tillgate approve`: somebody's signature for an override, or for a promotion of rings.
//!
//! Who approves reads the document and signs it as it is, with his role, and without the approvals
//! of others: the order of signers does not matter, and any change of the document undoes them
//! all. A key that is in no file (an HSM, a cloud's) signs what `--bytes` prints.

use std::path::{Path, PathBuf};

use clap::Args;
use tillgate_config::Report;
use tillgate_config::document::{self, Body, Document};
use tillgate_core::gate::Purpose;

use super::bundle::{answer, sign_with};
use super::policy::{Answer, FINDINGS, USAGE};

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// The file with the Override or the RingPromotion.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The document, where the file has several.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The role in which it is approved, as the freeze or the ring asks for.
    #[arg(long, value_name = "ROLE")]
    role: String,
    /// The private key: PKCS#8 in PEM, Ed25519 or P-256.
    #[arg(long, value_name = "FILE", required_unless_present = "bytes")]
    key: Option<PathBuf>,
    /// The key's name in the stores' `Bootstrap`.
    #[arg(long, value_name = "ID", required_unless_present = "bytes")]
    key_id: Option<String>,
    /// Print what has to be signed, for a key that is elsewhere (`openssl pkeyutl -rawin`).
    #[arg(long, conflicts_with_all = ["key", "key_id"])]
    bytes: bool,
}

/// Prints the approval, or what has to be signed.
pub(crate) fn run(options: &Options) -> Answer {
    answer(approve(options))
}

fn approve(options: &Options) -> Result<String, (String, u8)> {
    let text = std::fs::read_to_string(&options.file)
        .map_err(|error| (format!("cannot read {}: {error}", options.file.display()), USAGE))?;
    let message = message(&options.file, &text, options)?;
    let (Some(key), Some(id)) = (&options.key, &options.key_id) else {
        return Ok(String::from_utf8_lossy(&message).into_owned());
    };
    let signature = sign_with(key, &message)?;
    let role = &options.role;
    Ok(format!("- role: {role}\n  keyId: {id}\n  signature: {signature}\n"))
}

fn message(file: &Path, text: &str, options: &Options) -> Result<Vec<u8>, (String, u8)> {
    let mut report = Report::default();
    let input = document::read(&file.display().to_string(), text, &mut report);
    if !report.errors.is_empty() {
        return Err((format!("{}\n{}", report.summary(), report.to_text().trim_end()), FINDINGS));
    }
    let named = |one: &&Document| {
        purpose(one).is_some() && options.name.as_ref().is_none_or(|name| **name == *one.name)
    };
    let mut found = input.documents.iter().filter(named);
    let file = file.display();
    match (found.next(), found.next()) {
        (Some(one), None) => {
            let purpose = purpose(one).unwrap_or(Purpose::Override);
            Ok(purpose.message(&options.role, &one.signed_content()))
        }
        (None, _) => Err((
            format!("{file} has no Override or RingPromotion that can be read, or none so called"),
            FINDINGS,
        )),
        (Some(_), Some(_)) => {
            Err((format!("{file} has several: say which one with --name"), USAGE))
        }
    }
}

fn purpose(document: &Document) -> Option<Purpose> {
    if matches!(document.body, Body::Override(_)) {
        Some(Purpose::Override)
    } else if matches!(document.body, Body::RingPromotion(_)) {
        Some(Purpose::RingPromotion)
    } else {
        None
    }
}
