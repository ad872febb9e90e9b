//! Manifests and tags on disk: what a store needs to be rebuilt while its line is down.
//!
//! A manifest is kept under its digest, after one line with its media type, and is checked whenever
//! it is read: it is small. A tag is a file of one line; what a registry said of it last survives a
//! restart.

use std::fs;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tillgate_core::mirror::ledger::{Blob, Proof};
use tillgate_core::mirror::tags::{Known, Tag, Tags};
use tillgate_core::mirror::{Digest, TagSpec};

use super::digest_of;
use super::disk::{self, Layout, Sync};
use super::store::Store;
use crate::clock;

/// Bytes of manifests that are kept: some ten thousand, of a few KiB each.
const MANIFESTS_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// A tag that means what it did is written again after this, so that its age on disk is about
/// right.
const TAG_PRECISION: u64 = 3600;

/// A manifest or index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What it is called by.
    pub digest: Digest,
    /// Its `Content-Type`.
    pub media_type: Arc<str>,
    /// As the registry sent it, to the byte.
    pub body: Bytes,
}

/// A tag of a repository of a registry.
pub fn tag_of(registry: &str, repository: &str, tag: &str) -> Tag {
    Tag { registry: registry.into(), repository: repository.into(), tag: tag.into() }
}

impl Store {
    /// The manifest, if it is kept and undamaged.
    pub async fn manifest(&self, digest: Digest) -> Option<Manifest> {
        let disk = {
            let mut inner = self.inner();
            inner.manifests.touch(&digest, clock::wall_seconds())?;
            drop(inner);
            self.disk()?
        };
        let read = self.reading().run(move || fs::read(disk.manifest(&digest))).await;
        let manifest = read.ok().and_then(|bytes| parse(digest, bytes.into()));
        if manifest.is_none() {
            self.inner().manifests.remove(&digest);
        }
        manifest
    }

    /// Whether the manifest is kept.
    pub fn has_manifest(&self, digest: &Digest) -> bool {
        self.inner().manifests.get(digest).is_some()
    }

    /// How many manifests are kept.
    pub fn manifests(&self) -> usize {
        self.inner().manifests.len()
    }

    /// Keeps a manifest, if it can be kept.
    pub async fn keep_manifest(&self, manifest: &Manifest) {
        let Some(disk) = self.disk() else { return };
        let digest = manifest.digest;
        let mut bytes = Vec::with_capacity(manifest.media_type.len() + 1 + manifest.body.len());
        bytes.extend_from_slice(manifest.media_type.as_bytes());
        bytes.push(b'\n');
        bytes.extend_from_slice(&manifest.body);
        let size = bytes.len() as u64;
        let to = Arc::clone(&disk);
        let write = move || disk::write_whole(&to.manifest(&digest), &bytes, Sync::Yes);
        let kept = async {
            self.writing().run(write).await?;
            // Known once it is there: who finds a manifest missing that is known forgets it.
            let going = self.knows_manifest(digest, size);
            if going.is_empty() {
                return Ok(());
            }
            let delete = move || going.iter().try_for_each(|one| disk::delete(&disk.manifest(one)));
            self.writing().run(delete).await
        };
        if let Err(error) = kept.await {
            self.degrade(&error);
        }
    }

    /// What has to go for it, which is not known any more.
    fn knows_manifest(&self, digest: Digest, bytes: u64) -> Vec<Digest> {
        let used = clock::wall_seconds();
        let mut inner = self.inner();
        inner.manifests.insert(digest, Blob { bytes, used, proof: Proof::Checked });
        let going = inner.manifests.surplus(MANIFESTS_BYTES_MAX);
        for one in &going {
            inner.manifests.remove(one);
        }
        going
    }

    /// What is known of a tag.
    pub fn tag(&self, tag: &Tag, spec: &TagSpec) -> Known {
        self.inner().tags.look(tag, spec, clock::wall_seconds())
    }

    /// A registry says what a tag is.
    pub async fn learn_tag(&self, tag: Tag, digest: Digest) {
        let now = clock::wall_seconds();
        let long = TagSpec {
            fresh: std::time::Duration::from_secs(TAG_PRECISION),
            stale: std::time::Duration::ZERO,
        };
        let (forgotten, is_news) = {
            let mut inner = self.inner();
            let is_news = inner.tags.look(&tag, &long, now) != Known::Fresh(digest);
            (inner.tags.learn(tag.clone(), digest, now), is_news)
        };
        let Some(disk) = self.disk() else { return };
        if !is_news && forgotten.is_none() {
            return;
        }
        let Tag { registry, repository, tag: name } = &tag;
        let line = format!("{registry} {repository} {name} {digest} {now}\n");
        let write = self.writing().run(move || {
            if let Some(forgotten) = forgotten {
                disk::delete(&disk.tag(&file_name(&forgotten)))?;
            }
            disk::write_whole(&disk.tag(&file_name(&tag)), line.as_bytes(), Sync::No)
        });
        if let Err(error) = write.await {
            self.degrade(&error);
        }
    }

    /// A registry says that there is no such tag.
    pub async fn forget_tag(&self, tag: Tag) {
        self.inner().tags.forget(&tag);
        let Some(disk) = self.disk() else { return };
        let delete = self.writing().run(move || disk::delete(&disk.tag(&file_name(&tag))));
        if let Err(error) = delete.await {
            tracing::warn!(%error, "a tag of the image cache cannot be deleted");
        }
    }
}

/// Names may be longer than file names may.
fn file_name(tag: &Tag) -> String {
    let Tag { registry, repository, tag } = tag;
    digest_of(format!("{registry}\n{repository}\n{tag}").as_bytes()).hex()
}

/// The tags that were kept; what cannot be read is no tag.
pub(super) fn read_tags(disk: &Layout) -> io::Result<Tags> {
    let mut tags = Tags::default();
    for entry in fs::read_dir(disk.tags())? {
        let path = entry?.path();
        if disk::is_left_over(&path) {
            continue;
        }
        let Ok(text) = fs::read_to_string(path) else { continue };
        let words: Vec<&str> = text.split_whitespace().collect();
        let [registry, repository, tag, digest, at] = words.as_slice() else { continue };
        if let (Ok(digest), Ok(at)) = (digest.parse(), at.parse()) {
            tags.learn(tag_of(registry, repository, tag), digest, at);
        }
    }
    Ok(tags)
}

fn parse(digest: Digest, bytes: Bytes) -> Option<Manifest> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let media_type = std::str::from_utf8(&bytes[..end]).ok()?.into();
    let body = bytes.slice(end + 1..);
    (digest_of(&body) == digest).then_some(Manifest { digest, media_type, body })
}
