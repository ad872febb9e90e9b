//! What tests of the registry mirror share: a store with one, questions, a gate from documents.

use std::time::Duration;

use tempfile::TempDir;
use tillgate_config::effective::Effective;
use tillgate_core::backend::{BackendProtocol, Location};
use tillgate_core::civil::Timestamp;
use tillgate_core::class::ClassId;
use tillgate_core::gate::Gate;
use tillgate_core::mirror::MirrorSpec;

use crate::gateway::Gateway;
use crate::registry::Registry;
use crate::store::Store;
use crate::wire::{Reply, Wire};

/// Of the stores of tests.
const PAYMENT: ClassId = ClassId(0);

/// See above.
const IMAGE_PULL: ClassId = ClassId(2);

/// So many bytes that are the same for the same seed.
pub fn bytes(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..size).map(next).collect()
}

/// A store with a mirror of `registry` (docker.io) whose cache is in `folder`. A registry that
/// pauses for some seconds is not asked again for the rest.
pub fn store(registry: &Registry, folder: &TempDir, change: impl FnOnce(&mut MirrorSpec)) -> Store {
    let directory = folder.path().join("images");
    Store::default()
        .backend("registry", Location::Cloud, BackendProtocol::Http, registry.address)
        .mirror("docker.io", &directory, |spec| {
            spec.fetches.stall = Duration::from_secs(20);
            change(spec);
        })
}

/// A gateway with it.
pub fn start(registry: &Registry, folder: &TempDir) -> Gateway {
    Gateway::start(store(registry, folder, |_| ()).build())
}

/// A folder for a cache.
pub fn folder() -> TempDir {
    TempDir::new().expect("a folder")
}

/// Makes the cache in `folder` that of a store which has run something: one with nothing is being
/// rebuilt, and waits for less.
pub fn used_before(folder: &TempDir) {
    let images = folder.path().join("images");
    if std::fs::create_dir(&images).is_ok() {
        std::fs::write(images.join("layout"), "tillgate image cache 1\n").expect("a layout");
        std::fs::write(images.join("releases"), "").expect("what it has run");
    }
}

/// A registry with one blob, and a gateway that mirrors it.
pub struct OneBlob {
    /// Where the blob comes from.
    pub registry: Registry,
    /// Where the cache is.
    pub folder: TempDir,
    /// The mirror.
    pub gateway: Gateway,
    /// The blob.
    pub content: Vec<u8>,
    /// Its digest.
    pub digest: String,
}

impl OneBlob {
    /// A blob of so many bytes.
    pub fn new(seed: u64, size: usize) -> Self {
        let (registry, folder) = (Registry::start(), folder());
        let content = bytes(seed, size);
        let digest = registry.blob(&content);
        let gateway = start(&registry, &folder);
        Self { registry, folder, gateway, content, digest }
    }

    /// Where the mirror has it.
    pub fn path(&self) -> String {
        blob_path(&self.digest)
    }

    /// Pulls it, whatever comes.
    pub fn pull(&self) -> Reply {
        get(&self.gateway, &self.path())
    }

    /// Pulls it: the whole blob comes.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn pull_whole(&self) {
        let reply = self.pull();
        assert!(reply.complete && reply.body == self.content, "not the blob: {}", reply.line);
    }

    /// Begins to pull it: what comes behind a good head.
    ///
    /// # Panics
    /// If the head is another.
    #[track_caller]
    pub fn begin_pull(&self) -> Wire {
        let mut wire = Wire::connect(self.gateway.listeners["registry"]);
        wire.send(format!("GET {} HTTP/1.1\r\nHost: gw\r\n\r\n", self.path()));
        assert_eq!(wire.head().status, 200);
        wire
    }
}

/// Asks the mirror, with further fields.
pub fn ask_with(gateway: &Gateway, method: &str, path: &str, fields: &str) -> Reply {
    let mut wire = Wire::connect(gateway.listeners["registry"]);
    wire.send(format!("{method} {path} HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n{fields}\r\n"));
    if method == "HEAD" { wire.head() } else { wire.reply() }
}

/// Asks the mirror.
pub fn get(gateway: &Gateway, path: &str) -> Reply {
    ask_with(gateway, "GET", path, "")
}

/// Where a blob is.
pub fn blob_path(digest: &str) -> String {
    format!("/v2/pos/checkout/blobs/{digest}")
}

/// The code of an OCI error.
pub fn code(reply: &Reply) -> String {
    assert_eq!(reply.header("content-type"), Some("application/json"), "{reply:?}");
    let text = reply.text();
    let rest = text.split("\"code\":\"").last().expect("a code");
    rest.split('"').next().expect("a closing quote").to_owned()
}

/// The series of requests that were answered so.
pub fn served(result: &str) -> String {
    format!(r#"tillgate_mirror_requests_total{{result="{result}"}}"#)
}

/// The gate of a store with a rollout of `images` (repository and digest) and these documents.
pub fn gate(images: &[(&str, &str)], documents: &str) -> Gate {
    gate_of("pos-47", images, "", documents)
}

/// The same for a release of this name, with further fields of the rollout.
pub fn gate_of(release: &str, images: &[(&str, &str)], fields: &str, documents: &str) -> Gate {
    compile(&policy_of(release, images, fields, documents)).gate
}

/// The config of a policy.
pub fn compile(text: &str) -> Effective {
    let effective = tillgate_config::load_text("gate.yaml", text);
    let mut effective = effective.map_err(|report| report.to_text()).expect("a gate");
    // Stores of tests have classes of their own.
    for rollout in &mut effective.gate.rollouts {
        rollout.pulls.class = IMAGE_PULL;
        if let Some(busy) = &mut rollout.pulls.pause_while {
            busy.class = PAYMENT;
        }
    }
    effective
}

/// The text of such a policy.
pub fn policy_of(release: &str, images: &[(&str, &str)], fields: &str, documents: &str) -> String {
    let images: Vec<String> = images
        .iter()
        .map(|(repository, digest)| format!("{{repository: {repository}, digest: '{digest}'}}"))
        .collect();
    let held = if fields.contains("whenHeld") {
        ""
    } else {
        "  whenHeld: {action: Hold, retryAfter: 15m}\n"
    };
    format!(
        "apiVersion: tillgate.dev/v1alpha1\nkind: Store\nmetadata: {{name: store-0412}}\nspec:\n  \
         timeZone: Etc/UTC\n  links:\n    \
         - {{name: primary, capacity: {{up: 5Mbit/s, down: 20Mbit/s}}}}\n\
         ---\napiVersion: tillgate.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: pos}}\nspec:\n  \
         artifacts: [{{registry: docker.io, repositories: ['pos/**']}}]\n  \
         trafficClass: image-pull\n  release: {{name: {release}, images: [{}]}}\n{held}{fields}  \
         rings: [{{name: broad, storeSelector: {{}}}}]\n  promotion: {{mode: Manual}}\n  \
         releasedThrough: broad\n{documents}",
        images.join(", ")
    )
}

/// A freeze of all rollouts that ends in so many seconds.
pub fn freeze(seconds: i64) -> String {
    freeze_of("{rollouts: ['*']}", Timestamp(seconds_now() + seconds))
}

/// A freeze of these that has begun and ends then.
pub fn freeze_of(applies_to: &str, until: Timestamp) -> String {
    let civil = until.to_string();
    format!(
        "---\napiVersion: tillgate.dev/v1alpha1\nkind: Freeze\nmetadata: {{name: peak}}\nspec:\n  \
         appliesTo: {applies_to}\n  from: '{}'\n  until: '{}'\n  timeZone: Etc/UTC\n  \
         reason: a test\n",
        self::civil(-3600),
        civil.trim_end_matches('Z')
    )
}

/// A window of every day, which begins and ends so many minutes after `now`.
pub fn window_of(name: &str, applies_to: &str, now: i64, minutes: std::ops::Range<i64>) -> String {
    let civil = |after: i64| {
        let minute = (now / 60 + after) % (24 * 60);
        format!("{:02}:{:02}", minute / 60, minute % 60)
    };
    format!(
        "---\napiVersion: tillgate.dev/v1alpha1\nkind: ChangeWindow\nmetadata: {{name: {name}}}\n\
         spec:\n  effect: Allow\n  appliesTo: {applies_to}\n  timeZone: Etc/UTC\n  schedule:\n    \
         weekly: [{{days: [Mon, Tue, Wed, Thu, Fri, Sat, Sun], start: '{}', end: '{}'}}]\n",
        civil(minutes.start),
        civil(minutes.end)
    )
}

/// The UTC clock in so many seconds.
pub fn civil(seconds: i64) -> String {
    moment(seconds).trim_end_matches('Z').to_owned()
}

/// The moment in so many seconds.
pub fn moment(seconds: i64) -> String {
    Timestamp(seconds_now() + seconds).to_string()
}

/// Seconds since 1970.
pub fn seconds_now() -> i64 {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    i64::try_from(now).expect("before the end of time")
}

/// An image of these layers under a tag: the digest of its manifest.
pub fn image(registry: &Registry, repository: &str, tag: &str, layers: &[Vec<u8>]) -> String {
    let layer = |bytes: &Vec<u8>| {
        format!(r#"{{"digest":"{}","size":{}}}"#, registry.blob(bytes), bytes.len())
    };
    let layers: Vec<String> = layers.iter().map(layer).collect();
    let body = format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, layers.join(","));
    registry.manifest(repository, tag, &body)
}
