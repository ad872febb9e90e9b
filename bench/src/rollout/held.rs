//! A release in a freeze: held, opened by its time, by an override for the stores that it selects,
//! and what the store ran before, which is never held.
//!
//! A real registry and a real client; the gateway is started with one policy after the other on the
//! same cache. The override is signed by the product's own command.

use std::fs;

use anyhow::{Context, Result, ensure};
use rcgen::{KeyPair, PKCS_ED25519};
use tillgate_core::civil::Timestamp;

use super::ask::{digest, manifest};
use super::programs::{Programs, REPOSITORY};
use super::scene::tillgate;
use super::{MIRROR, image, rest};
use crate::preset::LineSpec;
use crate::process::{Process, Ready, Scratch};
use crate::sys;
use crate::system::ADMIN;
use crate::testbed::Testbed;

/// How late a frozen release may open.
const LATE_MAX: f64 = 1.0;

/// How long the freeze lasts that is waited for.
const FREEZE_SECONDS: i64 = 6;

/// Size of the images: what they are is not the point.
const BYTES: u64 = 2_000_000;

/// Whom the override asks for, and the names of their keys.
const APPROVERS: [&str; 2] = ["release-manager", "store-ops-lead"];

/// Plays all of it; what holds and what does not.
pub(super) fn play(programs: &Programs, line: LineSpec) -> Result<Vec<(bool, String)>> {
    let bed = Testbed::build(line.line(), None)?;
    let scratch = Scratch::new()?;
    let registry = programs.registry(bed.cloud_ns(), &scratch)?;
    let mut digests = Vec::new();
    for (tag, seed) in [("47", 47), ("48", 48)] {
        let folder = scratch.path().join(format!("image-{tag}"));
        image::write(&folder, BYTES, seed)?;
        programs.push_as(&folder, &format!("{REPOSITORY}:{tag}"), bed.cloud_ns())?;
        digests.push(digest(&folder)?);
    }
    let scene = Store { programs, line, bed, scratch };
    let mut judged = Vec::new();

    let until = now() + FREEZE_SECONDS;
    let gateway = scene.gateway(&[rollout("47", &digests[0]), freeze(until)], None)?;
    let (status, text) = manifest(REPOSITORY, "47");
    let named = text.contains("Freeze/peak") && text.contains("retry-after");
    judged.push((status == 429 && named, format!("a frozen release is answered with {status}")));
    let late = opened_after(until);
    judged.push((
        late.is_some_and(|late| (0.0..=LATE_MAX).contains(&late)),
        match late {
            Some(late) => format!("it opened {late:.2} s after its time, at most {LATE_MAX}"),
            None => "it did not open".to_owned(),
        },
    ));
    judged.push(scene.pulls("47", "once open"));
    drop(gateway);

    // A box is replaced: nothing of the image lies on disk, and the next release is frozen.
    fs::remove_dir_all(scene.scratch.path().join("cache/blobs")).context("empty the cache")?;
    let sent = registry.sent();
    let hour = now() + 3600;
    let frozen = [rollout("48", &digests[1]), freeze(hour)];
    let gateway = scene.gateway(&frozen, None)?;
    judged.push(scene.pulls("47", "what the store ran, in a freeze"));
    judged.push((registry.sent() > sent, "and it came from the registry".to_owned()));
    let (status, _) = manifest(REPOSITORY, "48");
    judged.push((status == 429, format!("the next release is answered with {status}")));
    drop(gateway);

    let trust = scene.keys()?;
    let mine = "matchExpressions: [{key: closed, operator: DoesNotExist}]";
    let cases = [
        ("for other stores", "matchLabels: {ring: other}", APPROVERS, 429),
        ("that one person signed for both", mine, [APPROVERS[0]; 2], 429),
        ("that both signed, for this store", mine, APPROVERS, 200),
    ];
    for (text, selector, signers, expected) in cases {
        let exception = scene.exception(selector, signers)?;
        let [release, freeze] = frozen.clone();
        let approvals =
            format!("  approvals: {{required: 2, roles: [{}]}}\n", APPROVERS.join(", "));
        let gateway = scene.gateway(&[release, freeze + &approvals, exception], Some(&trust))?;
        let (status, _) = manifest(REPOSITORY, "48");
        let holds = status == expected;
        judged.push((holds, format!("an override {text}: {status}, and must be {expected}")));
        drop(gateway);
    }
    Ok(judged)
}

struct Store<'a> {
    programs: &'a Programs,
    line: LineSpec,
    bed: Testbed,
    scratch: Scratch,
}

impl Store<'_> {
    fn gateway(&self, documents: &[String], trust: Option<&str>) -> Result<Process> {
        let mut command = tillgate(self.line, &self.scratch, &documents.concat())?;
        if let Some(trust) = trust {
            command.args(["--trust", trust]);
        }
        let mut gateway = Process::start(command, self.bed.store_ns(), &self.scratch)?;
        gateway.wait_ready(Ready::Says(ADMIN))?;
        Ok(gateway)
    }

    fn pulls(&self, tag: &str, when: &str) -> (bool, String) {
        let (folder, image) = (self.scratch.path().join("till"), format!("{REPOSITORY}:{tag}"));
        let pull = self.programs.pull_as(MIRROR, &image, &folder, self.bed.store_ns(), 0);
        match pull.map_err(|error| error.to_string()).and_then(super::programs::Pull::end) {
            Ok(()) => (true, format!("skopeo pulls {when}")),
            Err(error) => (false, format!("skopeo does not pull {when}: {error}")),
        }
    }

    /// Makes the keys of who may approve; the Bootstrap that names them.
    fn keys(&self) -> Result<String> {
        let mut text =
            "apiVersion: tillgate.dev/v1alpha1\nkind: Bootstrap\nmetadata: {name: lab}\n\
             spec:\n  storeId: \"0412\"\n  role: Gateway\n  stateDir: /var/lib/tillgate\n  \
             sources: [{name: lab, type: Directory, path: policy, interval: 30s}]\n  trust:\n    \
             threshold: 1\n    keys:\n"
                .to_owned();
        for role in APPROVERS {
            let pair = KeyPair::generate_for(&PKCS_ED25519)?;
            self.scratch.write(&format!("{role}.pem"), &pair.serialize_pem())?;
            let public = pair.public_key_pem();
            let public: String = public.lines().filter(|line| !line.starts_with("---")).collect();
            text.push_str(&format!(
                "      - {{id: {role}, algorithm: Ed25519, publicKey: {public}, \
                 roles: [override], approvesAs: [{role}]}}\n"
            ));
        }
        let file = self.scratch.write("bootstrap.yaml", &text)?;
        Ok(file.display().to_string())
    }

    /// An override of the freeze, approved in the names of all by the keys of `signers`.
    fn exception(&self, selector: &str, signers: [&str; 2]) -> Result<String> {
        let text = format!(
            "apiVersion: tillgate.dev/v1alpha1\nkind: Override\nmetadata: {{name: hotfix}}\n\
             spec:\n  suspends: [{{kind: Freeze, name: peak}}]\n  storeSelector: {{{selector}}}\n  \
             appliesTo: {{rollouts: [pos]}}\n  reason: wrong VAT rate on gift cards\n  \
             ticket: CHG-1\n  validFrom: '{}'\n  expiresAt: '{}'\n",
            Timestamp(now() - 60),
            Timestamp(now() + 3600)
        );
        let file = self.scratch.write("override.yaml", &text)?.display().to_string();
        let mut all = format!("---\n{text}  approvals:\n");
        for (role, signer) in APPROVERS.into_iter().zip(signers) {
            let key = self.scratch.path().join(format!("{signer}.pem")).display().to_string();
            let words =
                ["tillgate", "approve", &file, "--role", role, "--key", &key, "--key-id", role];
            let answer =
                tillgate::cli::ask(words.map(Into::into)).context("ask for a signature")?;
            ensure!(answer.code == 0, "no signature: {}", answer.stderr);
            all.extend(answer.stdout.lines().map(|line| format!("    {line}\n")));
        }
        Ok(all)
    }
}

/// How long after its time the release opened, watched 50 times a second.
fn opened_after(until: i64) -> Option<f64> {
    let patience = sys::now() + 20 * sys::NANOS_PER_SEC;
    while sys::now() < patience {
        if manifest(REPOSITORY, "47").0 == 200 {
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed().ok()?.as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "seconds of this century")]
            return Some(now - until as f64);
        }
        rest(0.02);
    }
    None
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// A rollout of one image of this tag.
fn rollout(tag: &str, digest: &str) -> String {
    rollout_of(tag, &[(REPOSITORY, digest)], "")
}

/// A rollout of these repositories and digests, with further fields.
pub(super) fn rollout_of(tag: &str, images: &[(&str, &str)], fields: &str) -> String {
    let images = images
        .iter()
        .map(|(repository, digest)| format!("{{repository: {repository}, digest: '{digest}'}}"));
    let images = images.collect::<Vec<_>>().join(", ");
    format!(
        "---\napiVersion: tillgate.dev/v1alpha1\nkind: Rollout\nmetadata: {{name: pos}}\nspec:\n  \
         artifacts: [{{registry: registry.example, repositories: ['pos/**']}}]\n  \
         trafficClass: image-pull\n  \
         release: {{name: pos-{tag}, images: [{images}]}}\n  \
         whenHeld: {{action: Hold, retryAfter: 15m}}\n{fields}  \
         rings: [{{name: broad, storeSelector: {{}}}}]\n  promotion: {{mode: Manual}}\n  \
         releasedThrough: broad\n"
    )
}

/// A freeze of every rollout until then.
pub(super) fn freeze(until: i64) -> String {
    let civil = |seconds: i64| Timestamp(seconds).to_string().trim_end_matches('Z').to_owned();
    format!(
        "---\napiVersion: tillgate.dev/v1alpha1\nkind: Freeze\nmetadata: {{name: peak}}\nspec:\n  \
         appliesTo: {{rollouts: ['*']}}\n  from: '{}'\n  until: '{}'\n  timeZone: Etc/UTC\n  \
         reason: the busy week\n",
        civil(now() - 3600),
        civil(until)
    )
}
