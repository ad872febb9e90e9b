//! `tillgate bundle`: build, sign, verify and look into the archives that stores fetch.
//!
//! For CI: `build` makes the same bytes from the same files, `sign` adds a signature (with a key,
//! or one that `openssl` or a key service has made over what `inspect --signing-input` prints),
//! `verify` says what a store would say. Exit codes as everywhere: 1 = no, 2 = a mistake in asking.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;
use tillgate_config::Report;
use tillgate_config::bundle::{
    self as format, Manifest, SCHEMA_VERSION, Scope, SignatureEntry, wall_text,
};
use tillgate_config::fleet::{Fleet, Source};
use tillgate_core::reconcile::Wall;
use tillgate_net::clock;

use super::policy::{Answer, FINDINGS, OK, Output, USAGE};
use crate::bundle::archive::{self, PACKED_BYTES_MAX, UNPACKED_BYTES_MAX};
use crate::bundle::keys::{PrivateKey, PublicKey, signature_text};
use crate::bundle::verify::{KeyRole, Trust, TrustedKey};
use crate::bundle::{Archive, Files, entries};
use crate::disk::read_bounded;
use crate::send::explain;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Folders in folders: a repository has five levels.
const DEPTH_MAX: usize = 16;

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Pack the YAML files of a folder into an unsigned bundle.
    Build(Build),
    /// Add a signature to a bundle.
    Sign(Sign),
    /// Say whether a store with these keys would believe a bundle.
    Verify(Verify),
    /// Show what a bundle holds; nothing of it is believed.
    Inspect(Inspect),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Build {
    /// The folder of the policy.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// The bundle to write.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Its place in the order of bundles: higher than every one before.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    sequence: u64,
    /// Where it comes from, as `main@sha1:…`.
    #[arg(long, value_name = "TEXT", default_value = "unknown")]
    revision: String,
    /// When it was made, as 2026-11-20T20:58:12Z [default: now].
    #[arg(long, value_name = "TIME")]
    created_at: Option<String>,
    /// For which store, by name or id: what does not concern it is left out, and what it compiles
    /// to is written down. Without it, for any.
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// The oldest gateway that reads it [default: this one's version].
    #[arg(long, value_name = "VERSION", default_value = env!("CARGO_PKG_VERSION"))]
    min_gateway_version: String,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Sign {
    /// The bundle, which is written anew.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The key's name in the stores' `Bootstrap`.
    #[arg(long, value_name = "ID")]
    key_id: String,
    /// The private key: PKCS#8 in PEM, Ed25519 or P-256.
    #[arg(long, value_name = "FILE", required_unless_present = "signature")]
    key: Option<PathBuf>,
    /// A signature that was made elsewhere, in base64 or raw.
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    signature: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Verify {
    /// The bundle.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A key that counts, as ID=FILE with a public key in PEM.
    #[arg(long = "key", value_name = "ID=FILE", required = true)]
    keys: Vec<String>,
    /// A key that may open rings, as ID=FILE.
    #[arg(long = "promotion-key", value_name = "ID=FILE")]
    promotion_keys: Vec<String>,
    /// A key that may say that a bundle cannot wait for rings, as ID=FILE.
    #[arg(long = "override-key", value_name = "ID=FILE")]
    override_keys: Vec<String>,
    /// How many different keys must have signed.
    #[arg(long, value_name = "N", default_value_t = 1)]
    threshold: usize,
    /// The store that asks.
    #[arg(long, value_name = "ID")]
    store: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Inspect {
    /// The bundle.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How it looks.
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    /// Print the bytes that a signature is over, for `openssl pkeyutl -sign -rawin`.
    #[arg(long)]
    signing_input: bool,
}

/// Why there is no answer: what to say, and the exit code.
pub(super) type Refused = (String, u8);

/// Runs one of the commands.
pub(crate) fn run(command: &Command) -> Answer {
    let done = match command {
        Command::Build(options) => build(options),
        Command::Sign(options) => sign(options),
        Command::Verify(options) => verify(options),
        Command::Inspect(options) => inspect(options),
    };
    answer(done)
}

/// What a command says.
pub(super) fn answer(done: Result<String, Refused>) -> Answer {
    match done {
        Ok(stdout) => Answer { stdout, stderr: String::new(), code: OK },
        Err((why, code)) => {
            Answer { stdout: String::new(), stderr: format!("error: {why}\n"), code }
        }
    }
}

fn build(options: &Build) -> Result<String, Refused> {
    let mut files = Files::new();
    gather(&options.folder, "", 0, &mut files)?;
    archive::check_files(&files).map_err(no)?;
    if files.is_empty() {
        let why =
            format!("no .yaml file in {}: name the policy's folder", options.folder.display());
        return Err((why, USAGE));
    }
    let made_for = options.store.as_deref().map(|store| of_store(&mut files, store)).transpose()?;
    let (scope, effective_digest) = made_for.unzip();
    let now = || wall_text(Wall(wall_seconds()));
    let manifest = Manifest {
        schema_version: SCHEMA_VERSION.to_owned(),
        revision: options.revision.clone(),
        sequence: options.sequence,
        created_at: options.created_at.clone().unwrap_or_else(now),
        scope,
        min_gateway_version: options.min_gateway_version.clone(),
        files: entries(&files),
        compiler_version: effective_digest.is_some().then(|| VERSION.to_owned()),
        effective_digest,
    };
    let manifest = manifest.to_text().into_bytes();
    Manifest::read(&manifest).map_err(|error| (explain(&error), USAGE))?;
    let made = Archive { manifest, files, ..Archive::default() };
    let bytes = write(&options.output, &made)?;
    let (path, count) = (options.output.display(), made.files.len());
    Ok(format!("{path}: {count} files, {bytes} bytes, {}\n", made.digest()))
}

/// Leaves in `files` what concerns `store`; its id, and what they compile to for it.
fn of_store(files: &mut Files, store: &str) -> Result<(Scope, String), Refused> {
    let (sources, fleet) = fleet(files)?;
    let unknown = |why| (why, USAGE);
    let checked = fleet.compile(store).map_err(unknown)?;
    let effective = checked.effective.ok_or_else(|| refused(&checked.report))?;
    let store_id = fleet.id(store).map_err(unknown)?.to_owned();
    let part = fleet.part(&sources, store).map_err(unknown)?;
    *files = part.into_iter().map(|one| (one.file, one.text.into_bytes())).collect();
    Ok((Scope { store_id }, effective.digest.to_string()))
}

/// The documents in the files of a bundle.
pub(super) fn fleet(files: &Files) -> Result<(Vec<Source>, Fleet), Refused> {
    let mut sources = Vec::with_capacity(files.len());
    for (path, bytes) in files {
        let text = String::from_utf8(bytes.clone());
        let text = text.map_err(|_| (format!("{path} is no text"), FINDINGS))?;
        sources.push(Source { file: path.clone(), text });
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (fleet, report) = Fleet::read(&sources, threads);
    if !report.errors.is_empty() {
        return Err(refused(&report));
    }
    Ok((sources, fleet))
}

fn refused(report: &Report) -> Refused {
    (format!("{}\n{}", report.summary(), report.to_text()), FINDINGS)
}

fn sign(options: &Sign) -> Result<String, Refused> {
    let mut found = open(&options.file)?;
    let message = format::signed_bytes(&found.manifest);
    let signature = match (&options.key, &options.signature) {
        (Some(key), _) => sign_with(key, &message)?,
        (None, Some(file)) => {
            let bytes = read(file, 4096)?;
            signature_text(&bytes).map_err(|error| (explain(&error), USAGE))?
        }
        (None, None) => return Err(("name a --key or a --signature".to_owned(), USAGE)),
    };
    let mut signatures = match found.signatures.as_slice() {
        [] => Vec::new(),
        bytes => format::read_signatures(bytes).map_err(no)?,
    };
    signatures.retain(|one| one.key_id != options.key_id);
    signatures.push(SignatureEntry { key_id: options.key_id.clone(), signature });
    found.signatures = format::signatures_text(&signatures).into_bytes();
    write(&options.file, &found)?;
    let signers: Vec<_> = signatures.iter().map(|one| one.key_id.as_str()).collect();
    Ok(format!("{}: {} signed by {}\n", options.file.display(), found.digest(), signers.join(", ")))
}

/// Signs `message` with the private key in `file`.
pub(super) fn sign_with(file: &Path, message: &[u8]) -> Result<String, Refused> {
    let text = String::from_utf8(read(file, 64 * 1024)?).unwrap_or_default();
    let key = PrivateKey::read(&text)
        .map_err(|error| (format!("{}: {}", file.display(), explain(&error)), USAGE))?;
    key.sign(message).map_err(no)
}

fn verify(options: &Verify) -> Result<String, Refused> {
    let mut keys: Vec<TrustedKey> = Vec::new();
    let given = [
        (KeyRole::Bundle, &options.keys),
        (KeyRole::RingPromotion, &options.promotion_keys),
        (KeyRole::Override, &options.override_keys),
    ];
    for (role, text) in given.iter().flat_map(|(role, texts)| texts.iter().map(|one| (*role, one)))
    {
        let (id, key) = public_key(text)?;
        match keys.iter_mut().find(|known| *known.id == *id) {
            Some(known) => known.roles.push(role),
            None => {
                keys.push(TrustedKey { id: id.into(), key, roles: vec![role], approves_as: None })
            }
        }
    }
    let trust = Trust { threshold: options.threshold, keys };
    let found = open(&options.file)?;
    let verified = trust.verify(&found, options.store.as_deref()).map_err(no)?;
    let mut text = format!(
        "{}: ok, sequence {}, {}, signed by {}\n",
        options.file.display(),
        verified.manifest.sequence,
        verified.digest,
        verified.signers.join(", ")
    );
    if verified.emergency > 0 {
        text.push_str(&format!("signed as an emergency by {}\n", verified.emergency));
    }
    for one in &verified.promotions {
        let by: Vec<&str> = one.approvals.iter().map(|approval| &*approval.key).collect();
        let by = if by.is_empty() { "nobody who may" } else { &by.join(", ") };
        text.push_str(&format!("opened through {} by {by}\n", one.through));
    }
    Ok(text)
}

/// The name and the key of `ID=FILE`.
fn public_key(given: &str) -> Result<(String, PublicKey), Refused> {
    let (id, file) =
        given.split_once('=').ok_or_else(|| (format!("{given}: write it as ID=FILE"), USAGE))?;
    let text = String::from_utf8(read(Path::new(file), 64 * 1024)?).unwrap_or_default();
    let key =
        PublicKey::read(&text).map_err(|error| (format!("{file}: {}", explain(&error)), USAGE))?;
    Ok((id.to_owned(), key))
}

fn inspect(options: &Inspect) -> Result<String, Refused> {
    let found = open(&options.file)?;
    if options.signing_input {
        let bytes = format::signed_bytes(&found.manifest);
        return String::from_utf8(bytes).map_err(|_| ("the manifest is no text".into(), FINDINGS));
    }
    let manifest = Manifest::read(&found.manifest).map_err(no)?;
    let signatures = match found.signatures.as_slice() {
        [] => Vec::new(),
        bytes => format::read_signatures(bytes).map_err(no)?,
    };
    let signers: Vec<_> = signatures.iter().map(|one| one.key_id.as_str()).collect();
    if options.output == Output::Json {
        let shown = json!({
            "digest": &*found.digest(),
            "manifest": manifest,
            "signatures": signatures,
        });
        return Ok(format!("{shown:#}\n"));
    }
    let mut text = format!(
        "digest    {}\nsequence  {}\nrevision  {}\ncreated   {}\nstore     {}\nsigned by {}\n",
        found.digest(),
        manifest.sequence,
        manifest.revision,
        manifest.created_at,
        manifest.scope.as_ref().map_or("any", |scope| &scope.store_id),
        if signers.is_empty() { "nobody".to_owned() } else { signers.join(", ") },
    );
    if let Some(digest) = &manifest.effective_digest {
        text.push_str(&format!("compiles to {digest}\n"));
    }
    for file in &manifest.files {
        text.push_str(&format!("{:>9} {}\n", file.bytes, file.path));
    }
    Ok(text)
}

/// The YAML files below `folder`, by path; what is hidden is no policy.
fn gather(folder: &Path, prefix: &str, depth: usize, into: &mut Files) -> Result<(), Refused> {
    let shown = folder.display();
    let io = |error| (format!("cannot read {shown}: {error}"), USAGE);
    if depth > DEPTH_MAX {
        return Err((format!("{shown} is more than {DEPTH_MAX} folders deep"), USAGE));
    }
    for entry in fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let name =
            name.to_str().ok_or_else(|| (format!("{name:?} in {shown} is no text"), USAGE))?;
        if name.starts_with('.') {
            continue;
        }
        let kind = entry.file_type().map_err(io)?;
        let path = format!("{prefix}{name}");
        if kind.is_dir() {
            gather(&entry.path(), &format!("{path}/"), depth + 1, into)?;
        } else if kind.is_file() && (name.ends_with(".yaml") || name.ends_with(".yml")) {
            into.insert(path, read(&entry.path(), UNPACKED_BYTES_MAX)?);
        }
    }
    Ok(())
}

/// Opens an archive.
pub(super) fn open(file: &Path) -> Result<Archive, Refused> {
    let bytes = read(file, PACKED_BYTES_MAX)?;
    archive::read(&bytes)
        .map_err(|error| (format!("{}: {}", file.display(), explain(&error)), FINDINGS))
}

/// Writes an archive beside where it shall be, and moves it there; how many bytes it has.
pub(super) fn write(file: &Path, archive: &Archive) -> Result<usize, Refused> {
    let io = |error| (format!("cannot write {}: {error}", file.display()), USAGE);
    let bytes = archive::write(archive).map_err(io)?;
    if bytes.len() as u64 > PACKED_BYTES_MAX {
        return Err((explain(&archive::ArchiveError::Packed), FINDINGS));
    }
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    fs::write(&beside, &bytes).and_then(|()| fs::rename(&beside, file)).map_err(io)?;
    Ok(bytes.len())
}

pub(super) fn read(file: &Path, most: u64) -> Result<Vec<u8>, Refused> {
    read_bounded(file, most).map_err(|error| {
        if error.kind() == ErrorKind::FileTooLarge {
            (format!("{} has more than {most} bytes", file.display()), FINDINGS)
        } else {
            (format!("cannot read {}: {error}", file.display()), USAGE)
        }
    })
}

/// Seconds of the wall clock, or what a reproducible build says instead.
pub(super) fn wall_seconds() -> u64 {
    let said = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    said.unwrap_or_else(clock::wall_seconds)
}

fn no(error: impl std::error::Error) -> Refused {
    (explain(&error), FINDINGS)
}

#[cfg(test)]
mod tests;
