//! Questions to the mirror and to the gateway's admin side, from the store.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use tillgate_net::mirror::digest_of;

use super::MIRROR;
use crate::process;
use crate::system::ADMIN;

/// The status of a manifest at the mirror, and the whole answer.
pub(super) fn manifest(repository: &str, reference: &str) -> (u16, String) {
    let path = format!("/v2/{repository}/manifests/{reference}");
    let answer = process::ask(MIRROR, &path).unwrap_or_default();
    let status = answer.get(9..12).and_then(|digits| digits.parse().ok());
    (status.unwrap_or(0), answer)
}

/// The value of a series, 0 if it is not there.
pub(super) fn metric(series: &str) -> f64 {
    let text = process::ask(ADMIN, "/metrics").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
}

/// Body bytes that the running gateway has got from registries.
pub(super) fn fetched() -> u64 {
    crate::stats::whole(metric("tillgate_mirror_fetched_bytes_total"))
}

/// The digest of the image in `folder`, as a registry calls it.
pub(super) fn digest(folder: &Path) -> Result<String> {
    let manifest = fs::read(folder.join("manifest.json")).context("read the image's manifest")?;
    Ok(digest_of(&manifest).to_string())
}
