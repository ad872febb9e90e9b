//! An image of a given size, in the layout of skopeo's `dir:`.
//!
//! Its layers are noise that begins like gzip: nobody unpacks them here, and nothing on the way can
//! make them smaller.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use tillgate_net::mirror::digest_of;

/// Layers of an image: what a usual one has, so that several are fetched at once.
const LAYERS: u64 = 4;

/// The first bytes of a gzip file (RFC 1952).
const GZIP: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];

/// Writes an image of about `bytes` into `folder`; the exact sum of its blobs.
pub(super) fn write(folder: &Path, bytes: u64, seed: u64) -> Result<u64> {
    fs::create_dir_all(folder)?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut layers = Vec::new();
    let mut sum = 0;
    for _ in 0..LAYERS {
        let size = usize::try_from(bytes / LAYERS).context("a layer's size")?;
        let mut layer = vec![0; size.max(GZIP.len())];
        random.fill(&mut layer);
        layer[..GZIP.len()].copy_from_slice(&GZIP);
        let digest = put(folder, &layer)?;
        sum += layer.len() as u64;
        layers.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "size": layer.len(),
            "digest": digest,
        }));
    }
    let of = |layer: &serde_json::Value| layer["digest"].clone();
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(of).collect::<Vec<_>>()},
    });
    let config = serde_json::to_vec(&config)?;
    sum += config.len() as u64;
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "size": config.len(),
            "digest": put(folder, &config)?,
        },
        "layers": layers,
    });
    fs::write(folder.join("manifest.json"), serde_json::to_vec(&manifest)?)?;
    fs::write(folder.join("version"), "Directory Transport Version: 1.1\n")?;
    Ok(sum)
}

/// A blob by the hex digits of its digest; the digest.
fn put(folder: &Path, bytes: &[u8]) -> Result<String> {
    let digest = digest_of(bytes);
    let mut file = fs::File::create(folder.join(digest.hex()))?;
    file.write_all(bytes)?;
    Ok(digest.to_string())
}

/// Digest and size of the largest layer of the image in `folder`.
pub(super) fn layer(folder: &Path) -> Result<(String, u64)> {
    let manifest = fs::read(folder.join("manifest.json"))?;
    let manifest: serde_json::Value = serde_json::from_slice(&manifest)?;
    let layer = &manifest["layers"][0];
    let digest = layer["digest"].as_str().context("a digest")?.to_owned();
    Ok((digest, layer["size"].as_u64().context("a size")?))
}
