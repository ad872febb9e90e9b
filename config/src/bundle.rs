//! A bundle's own files, as text: what it holds, who signed it, who promoted it.
//!
//! The manifest is signed over its exact bytes behind a prefix that says what it is, so that a
//! signature of one thing is never one of another; [`signed_bytes`] is what `openssl pkeyutl
//! -rawin` must be given. Everything here is strict and bounded: it comes from a network.

mod memory;
mod operation;

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tillgate_core::reconcile::Wall;

pub use memory::{MemoryError, decode_memory, encode_memory};
pub use operation::{
    OPERATION_LASTS_MAX, OPERATIONS_MAX, OperationAction, OperationStatement, Reply,
    operation_bytes, operations_text, read_operations,
};

/// In front of a manifest that is signed.
const MANIFEST_PREFIX: &[u8] = b"tillgate-bundle-v1\n";

/// In front of a promotion that is signed.
const PROMOTION_PREFIX: &[u8] = b"tillgate-promotion-v1\n";

/// The version of the format, which is that of the language.
pub const SCHEMA_VERSION: &str = "v1alpha1";

/// Files of a bundle.
pub const FILES_MAX: usize = 2000;

/// Signatures and promotions that are looked at: each costs a verification.
pub const SIGNATURES_MAX: usize = 64;

/// Why a bundle's own file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It is not what it should be.
    #[error("{what} cannot be read; build the bundle with `tillgate bundle build`")]
    Json {
        /// Which.
        what: &'static str,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// It is well formed and wrong.
    #[error("{what}: {why}")]
    Invalid {
        /// Which.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// What a bundle holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Manifest {
    /// Version of the format.
    pub schema_version: String,
    /// Where it comes from, as `main@sha1:…`.
    pub revision: String,
    /// Its place in the order of bundles; a store never goes back.
    pub sequence: u64,
    /// When it was made (RFC 3339).
    pub created_at: String,
    /// Of which store; absent = of any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// The oldest gateway that reads it.
    pub min_gateway_version: String,
    /// Every file, by path.
    pub files: Vec<FileEntry>,
    /// What it compiles to for the store of its scope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_digest: Option<String>,
    /// Which version of the compiler says so; another one may say something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiler_version: Option<String>,
}

/// Of which store a bundle is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Scope {
    /// Its id, as in the `Bootstrap`.
    pub store_id: String,
}

/// A file of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Where, relative, with forward slashes.
    pub path: String,
    /// SHA-256 of its bytes in hex.
    pub sha256: String,
    /// How many they are.
    pub bytes: u64,
}

/// A detached signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SignatureEntry {
    /// Name of the key, as in the `Bootstrap`.
    pub key_id: String,
    /// Base64, as `openssl base64` and `cosign sign-blob` write it.
    pub signature: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureList {
    signatures: Vec<SignatureEntry>,
}

/// A promotion, and who signed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromotionEntry {
    /// The exact text that is signed.
    pub statement: String,
    /// By whom.
    pub signatures: Vec<SignatureEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PromotionList {
    promotions: Vec<PromotionEntry>,
}

/// What a promotion says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromotionStatement {
    /// Digest of the bundle.
    pub digest: String,
    /// Its sequence.
    pub sequence: u64,
    /// The last ring that is opened.
    pub through: String,
    /// Since when (RFC 3339).
    pub at: String,
    /// What it was decided on, for people.
    pub evidence: String,
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// [`FormatError`]
    pub fn read(bytes: &[u8]) -> Result<Self, FormatError> {
        let what = "manifest.json";
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|source| FormatError::Json { what, source })?;
        manifest.check().map_err(|why| FormatError::Invalid { what, why })?;
        Ok(manifest)
    }

    /// The text of it, always the same.
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("strings and numbers only");
        text.push('\n');
        text
    }

    /// When it was made.
    pub fn created(&self) -> Wall {
        wall(&self.created_at).unwrap_or_default()
    }

    /// Whether this program, of `version`, is too old for it.
    pub fn needs_upgrade(&self, version: &str) -> bool {
        self.schema_version != SCHEMA_VERSION
            || version_numbers(version) < version_numbers(&self.min_gateway_version)
    }

    /// Whether its digest is of this very compiler.
    pub fn is_compiled_by(&self, version: &str) -> bool {
        self.compiler_version.as_deref() == Some(version)
    }

    fn check(&self) -> Result<(), String> {
        if wall(&self.created_at).is_none() {
            return Err(format!(
                "createdAt {:?} is not a time as 2026-11-20T20:58:12Z",
                self.created_at
            ));
        }
        if self.sequence == 0 {
            return Err("sequence must be 1 or more".to_owned());
        }
        if version_numbers(&self.min_gateway_version).is_none() {
            return Err(format!(
                "minGatewayVersion {:?} is not as 0.4.0",
                self.min_gateway_version
            ));
        }
        if self.files.is_empty() || self.files.len() > FILES_MAX {
            return Err(format!("{} files, must be 1 to {FILES_MAX}", self.files.len()));
        }
        let mut seen = BTreeSet::new();
        for file in &self.files {
            check_path(&file.path)?;
            let hex = file.sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            if file.sha256.len() != 64 || !hex {
                return Err(format!("{}: sha256 must be 64 lower-case hex digits", file.path));
            }
            if !seen.insert(&file.path) {
                return Err(format!("{} is listed twice", file.path));
            }
        }
        Ok(())
    }
}

/// A path that leads nowhere but into the bundle.
///
/// # Errors
/// What is wrong with it.
pub fn check_path(path: &str) -> Result<(), String> {
    let plain = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && part.len() <= 100 && part.is_ascii()
    };
    let strange = |byte: u8| byte < 0x20 || byte == 0x7f || byte == b'\\' || byte == b':';
    if path.len() > 200 || !path.split('/').all(plain) || path.bytes().any(strange) {
        return Err(format!(
            "the path {path:?} is refused: it must be relative, without `..`, at most 200 characters"
        ));
    }
    Ok(())
}

/// `sha256:` and the hex digits over `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

/// SHA-256 in hex.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
    }
    text
}

/// Where in a phase or a ramp something stands: the first eight bytes of SHA-256 over `salt`, a
/// line end and `name`. A salt keeps the same stores from always being first.
pub fn place(salt: &str, name: &str) -> u64 {
    let hash = Sha256::digest(format!("{salt}\n{name}"));
    hash.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

/// What a signature of a manifest is over.
pub fn signed_bytes(manifest: &[u8]) -> Vec<u8> {
    [MANIFEST_PREFIX, manifest].concat()
}

/// What a signature of a promotion is over.
pub fn promotion_bytes(statement: &str) -> Vec<u8> {
    [PROMOTION_PREFIX, statement.as_bytes()].concat()
}

/// Reads `signatures.json`.
///
/// # Errors
/// [`FormatError`]
pub fn read_signatures(bytes: &[u8]) -> Result<Vec<SignatureEntry>, FormatError> {
    let what = "signatures.json";
    let list: SignatureList =
        serde_json::from_slice(bytes).map_err(|source| FormatError::Json { what, source })?;
    few(what, list.signatures.len())?;
    Ok(list.signatures)
}

/// The text of `signatures.json`.
pub fn signatures_text(signatures: &[SignatureEntry]) -> String {
    let list = SignatureList { signatures: signatures.to_vec() };
    format!("{:#}\n", serde_json::to_value(list).expect("strings only"))
}

/// Reads `promotions.json`.
///
/// # Errors
/// [`FormatError`]
pub fn read_promotions(bytes: &[u8]) -> Result<Vec<PromotionEntry>, FormatError> {
    let what = "promotions.json";
    let list: PromotionList =
        serde_json::from_slice(bytes).map_err(|source| FormatError::Json { what, source })?;
    few(what, list.promotions.iter().map(|one| one.signatures.len().max(1)).sum())?;
    Ok(list.promotions)
}

/// The text of `promotions.json`.
pub fn promotions_text(promotions: &[PromotionEntry]) -> String {
    let list = PromotionList { promotions: promotions.to_vec() };
    format!("{:#}\n", serde_json::to_value(list).expect("strings only"))
}

impl PromotionStatement {
    /// Reads the statement of a promotion.
    ///
    /// # Errors
    /// [`FormatError`]
    pub fn read(text: &str) -> Result<Self, FormatError> {
        let what = "a promotion";
        let statement: Self =
            serde_json::from_str(text).map_err(|source| FormatError::Json { what, source })?;
        if wall(&statement.at).is_none() {
            let why = format!("`at` {:?} is not a time", statement.at);
            return Err(FormatError::Invalid { what, why });
        }
        Ok(statement)
    }

    /// The exact text to be signed.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers only")
    }

    /// Since when the rings are open.
    pub fn since(&self) -> Wall {
        wall(&self.at).unwrap_or_default()
    }
}

/// The time in an RFC 3339 text.
pub fn wall(text: &str) -> Option<Wall> {
    let timestamp: Timestamp = text.parse().ok()?;
    Some(Wall(u64::try_from(timestamp.as_second()).unwrap_or(0)))
}

/// The RFC 3339 text of a time.
pub fn wall_text(wall: Wall) -> String {
    let seconds = i64::try_from(wall.0).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
}

fn few(what: &'static str, count: usize) -> Result<(), FormatError> {
    if count > SIGNATURES_MAX {
        let why = format!("{count} signatures, at most {SIGNATURES_MAX} are looked at");
        return Err(FormatError::Invalid { what, why });
    }
    Ok(())
}

/// `0.4.0` as numbers; what follows a `-` does not count.
fn version_numbers(text: &str) -> Option<[u32; 3]> {
    let mut parts = text.split(['-', '+']).next()?.split('.');
    let mut next = || parts.next()?.parse().ok();
    let numbers = [next()?, next()?, next()?];
    parts.next().is_none().then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            schema_version: SCHEMA_VERSION.into(),
            revision: "main@sha1:132f4e719209eb10b9485302f8593fc0e680f4fc".into(),
            sequence: 4182,
            created_at: "2026-11-20T20:58:12Z".into(),
            scope: Some(Scope { store_id: "0412".into() }),
            min_gateway_version: "0.1.0".into(),
            files: vec![FileEntry { path: "policy/a.yaml".into(), sha256: hex(b"a"), bytes: 1 }],
            effective_digest: None,
            compiler_version: None,
        }
    }

    fn refused(change: impl Fn(&mut Manifest)) -> String {
        let mut bad = manifest();
        change(&mut bad);
        Manifest::read(bad.to_text().as_bytes()).expect_err("it is wrong").to_string()
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written_and_strictly() {
        let good = manifest();
        assert_eq!(Manifest::read(good.to_text().as_bytes()).unwrap(), good);
        assert_eq!(good.created(), Wall(1_795_208_292));
        assert_eq!(wall_text(good.created()), good.created_at);
        assert!(refused(|one| one.sequence = 0).contains("sequence"));
        assert!(refused(|one| one.created_at = "yesterday".into()).contains("createdAt"));
        assert!(refused(|one| one.min_gateway_version = "4".into()).contains("minGatewayVersion"));
        assert!(refused(|one| one.files.clear()).contains("files"));
        assert!(refused(|one| one.files[0].sha256 = "A".repeat(64)).contains("sha256"));
        assert!(refused(|one| one.files.push(one.files[0].clone())).contains("twice"));
        let entry = manifest().files.remove(0);
        assert!(refused(|one| one.files = vec![entry.clone(); 2001]).contains("2001 files"));
        let extra = good.to_text().replacen('{', "{\"x\": 1,", 1);
        assert!(Manifest::read(extra.as_bytes()).is_err(), "unknown fields are refused");
    }

    #[test]
    fn paths_stay_inside() {
        for path in
            ["../a", "a/../b", "/etc/passwd", "a//b", "./a", "", "a\\b", "c:a", "a\nb", "é", "a/"]
        {
            assert!(check_path(path).is_err(), "{path:?}");
        }
        for path in ["a.yaml", "policy/base/10-classes.yaml", "..data", "a..b/c"] {
            assert_eq!(check_path(path), Ok(()), "{path:?}");
        }
    }

    #[test]
    fn an_old_program_says_so_cleanly() {
        let mut one = manifest();
        for (version, old) in
            [("0.1.0", false), ("0.0.9", true), ("0.1.0-rc1", false), ("1.0.0", false)]
        {
            assert_eq!(one.needs_upgrade(version), old, "{version}");
        }
        one.schema_version = "v1".into();
        assert!(one.needs_upgrade("9.0.0"));
    }

    /// The vectors of rollout ramps: one release, three stores.
    #[test]
    fn places_are_the_published_ones() {
        for (store, wanted) in [("0412", 0.945_783), ("0977", 0.008_708), ("2001", 0.644_911)] {
            let part = place("pos-2026.47.1", store) as f64 / 2f64.powi(64);
            assert!((part - wanted).abs() < 1e-6, "{store}: {part}");
        }
    }

    #[test]
    fn signatures_and_promotions_are_few_and_survive_their_text() {
        let one = SignatureEntry { key_id: "ci".into(), signature: "AA==".into() };
        let text = signatures_text(std::slice::from_ref(&one));
        assert_eq!(read_signatures(text.as_bytes()).unwrap(), std::slice::from_ref(&one));
        let many = signatures_text(&vec![one.clone(); 65]);
        assert!(read_signatures(many.as_bytes()).is_err());
        let statement = PromotionStatement {
            digest: digest(b"x"),
            sequence: 7,
            through: "pilot".into(),
            at: "2026-11-20T20:58:12Z".into(),
            evidence: "12 of 12 stores well for 4h".into(),
        };
        let entry = PromotionEntry { statement: statement.to_text(), signatures: vec![one] };
        let text = promotions_text(std::slice::from_ref(&entry));
        assert_eq!(read_promotions(text.as_bytes()).unwrap(), std::slice::from_ref(&entry));
        assert_eq!(PromotionStatement::read(&entry.statement).unwrap(), statement);
        assert!(PromotionStatement::read("{}").is_err());
        assert_ne!(promotion_bytes("x"), signed_bytes(b"x"), "one is never the other");
    }
}
