//! `tillgate promote`: a signed word that a bundle may go on to further rings.
//!
//! The word is about one bundle, by digest and sequence, and travels beside it: adding one makes no
//! other bundle. Each signer adds his own; a store counts those that its rings ask for. With
//! `--reports` it is signed only if the ring that has the bundle shows that it is good, and with
//! `--prometheus` only if a number of its metrics is low.

use std::path::PathBuf;

use clap::Args;
use tillgate_config::bundle::{
    self as format, Manifest, PromotionEntry, PromotionStatement, SignatureEntry, wall_text,
};
use tillgate_core::reconcile::Wall;

use super::bundle::{answer, fleet, open, sign_with, wall_seconds, write};
use super::policy::{Answer, FINDINGS, USAGE};
use crate::bundle::Archive;
use crate::send::explain;

pub(super) use self::prometheus::Query;

mod evidence;
mod prometheus;

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// The bundle, which is written anew.
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// The last ring that may take it from now on.
    #[arg(long, value_name = "RING")]
    pub(super) through: String,
    /// Sign although the bundle has no such ring: a store goes by the rings of the policy that it
    /// runs, and those may have had other names.
    #[arg(long)]
    pub(super) unknown_ring: bool,
    /// The private key: PKCS#8 in PEM, Ed25519 or P-256.
    #[arg(long, value_name = "FILE")]
    pub(super) key: PathBuf,
    /// The key's name in the stores' `Bootstrap`.
    #[arg(long, value_name = "ID")]
    pub(super) key_id: String,
    /// Since when, as 2026-11-20T20:58:12Z; ramps count from it [default: now].
    #[arg(long, value_name = "TIME")]
    pub(super) at: Option<String>,
    /// What it was decided on, for people.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(super) evidence: String,
    /// What the stores of the ring before say: a folder of their `/v1/status`, or of what they
    /// report to their centre, one file each. It is signed only if they show that the bundle is
    /// good.
    #[arg(long, value_name = "FOLDER")]
    pub(super) reports: Option<PathBuf>,
    /// How long the first of them must have had it.
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(super) bake: String,
    /// How many percent of those that speak must call it good.
    #[arg(long, value_name = "PERCENT", default_value_t = 80, requires = "reports",
          value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(super) percent: u8,
    #[command(flatten)]
    pub(super) prometheus: Query,
    /// What Prometheus answered to an instant query, instead of asking it.
    #[arg(long, value_name = "FILE", requires = "at_most", group = "metric")]
    pub(super) query_result: Option<PathBuf>,
    /// The most that the query's value may be (the largest one, if there are several); a missing
    /// value is no zero.
    #[arg(long, value_name = "NUMBER", requires = "metric")]
    pub(super) at_most: Option<f64>,
}

/// Signs the promotion; one that says the same already gets another signature.
pub(crate) fn run(options: &Options) -> Answer {
    answer(promote(options))
}

/// A slip in a ring's name would be signed, and open nothing.
fn knows_ring(found: &Archive, through: &str) -> Result<(), (String, u8)> {
    let (_, fleet) = fleet(&found.files)?;
    let mut rings = fleet.rings();
    // Without rings of its own it opens those of the policy before.
    if fleet.rings().next().is_none() || rings.any(|ring| ring == through) {
        return Ok(());
    }
    let hint = tillgate_config::suggest::hint(through, fleet.rings());
    let why = format!(
        "the bundle has no ring `{through}`: {hint}, or say --unknown-ring if stores still run \
         rings of other names"
    );
    Err((why, USAGE))
}

fn promote(options: &Options) -> Result<String, (String, u8)> {
    let mut found = open(&options.file)?;
    let no = |error: format::FormatError| (explain(&error), FINDINGS);
    let manifest = Manifest::read(&found.manifest).map_err(no)?;
    if !options.unknown_ring {
        knows_ring(&found, &options.through)?;
    }
    let shown = evidence::of(options, &manifest)?;
    let evidence = match &shown {
        Some(shown) if options.evidence.is_empty() => shown.clone(),
        _ => options.evidence.clone(),
    };
    let mut promotions = match found.promotions.as_slice() {
        [] => Vec::new(),
        bytes => format::read_promotions(bytes).map_err(no)?,
    };
    let digest = found.digest();
    // Whoever signs second signs the same words, with the time of the first.
    let same = promotions.iter_mut().find(|entry| {
        let said = PromotionStatement::read(&entry.statement);
        said.is_ok_and(|said| said.through == options.through && *said.digest == *digest)
    });
    let entry = match same {
        Some(entry) => entry,
        None => {
            let now = || wall_text(Wall(wall_seconds()));
            let statement = PromotionStatement {
                digest: digest.to_string(),
                sequence: manifest.sequence,
                through: options.through.clone(),
                at: options.at.clone().unwrap_or_else(now),
                evidence,
            };
            let statement = statement.to_text();
            PromotionStatement::read(&statement).map_err(|error| (explain(&error), USAGE))?;
            promotions.push(PromotionEntry { statement, signatures: Vec::new() });
            promotions.last_mut().ok_or_else(|| (String::new(), FINDINGS))?
        }
    };
    let signature = sign_with(&options.key, &format::promotion_bytes(&entry.statement))?;
    entry.signatures.retain(|one| one.key_id != options.key_id);
    entry.signatures.push(SignatureEntry { key_id: options.key_id.clone(), signature });
    let count = entry.signatures.len();
    found.promotions = format::promotions_text(&promotions).into_bytes();
    write(&options.file, &found)?;
    let passed = shown.map_or_else(String::new, |shown| format!("pass: {shown}\n"));
    Ok(format!(
        "{passed}{}: sequence {} may go through {}, {count} signed\n",
        options.file.display(),
        manifest.sequence,
        options.through
    ))
}
