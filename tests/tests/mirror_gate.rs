//! Rollouts in front of the mirror: what is held, by what, and when it opens.

use tillgate_core::civil::Timestamp;
use tillgate_core::mirror::{MirrorSpec, Unknown};
use tillgate_tests::eventually;
use tillgate_tests::gateway::Gateway;
use tillgate_tests::mirror::{
    blob_path, bytes, civil, code, compile, folder, freeze, freeze_of, gate, gate_of, get, image,
    moment, policy_of, seconds_now, start, store, window_of,
};
use tillgate_tests::registry::{Registry, Twist};

/// A release that is frozen for so many seconds is held, and not for long after; `None` if they
/// were over before that could be seen, or it opened late, as it does where nothing is on time.
fn is_held_for(seconds: i64) -> Option<()> {
    let (registry, folder) = (Registry::start(), folder());
    let digest = registry.manifest("pos/checkout", "47", r#"{"schemaVersion":2}"#);
    let mut effective = store(&registry, &folder, |_| ()).build();
    let until = seconds_now() + seconds;
    let frozen = freeze_of("{rollouts: ['*']}", Timestamp(until));
    effective.gate = gate(&[("pos/checkout", &digest)], &frozen);
    let gateway = Gateway::start(effective);
    for reference in ["47", &digest] {
        let held = get(&gateway, &format!("/v2/pos/checkout/manifests/{reference}"));
        if seconds_now() >= until {
            return None;
        }
        let text = held.text();
        assert_eq!((held.status, &*code(&held)), (429, "HELD"), "{text}");
        assert!(text.contains(r#""heldBy":["Freeze/peak"]"#), "{text}");
        assert!(text.contains(r#""code":"TOOMANYREQUESTS""#), "{text}");
        // When it opens or soon after, so that not all come at once; not in the rollout's
        // quarter of an hour.
        let wait: i64 = held.header("retry-after").expect("when").parse().expect("seconds");
        assert!((1..=seconds + 2).contains(&wait), "{wait}");
    }
    assert!(registry.asked("GET /v2/pos/checkout/manifests/sha256").is_empty());
    gateway.expect_metric(r#"tillgate_failures_total{class="image-pull",reason="pull_held"}"#, 2.0);
    let mut is_late = false;
    eventually("it opens by itself", || {
        let asked = seconds_now();
        let status = get(&gateway, "/v2/pos/checkout/manifests/47").status;
        // Whoever asks a second after its time, or later, is let in.
        is_late |= status != 200 && asked > until + 1;
        (status == 200).then_some(())
    });
    (!is_late).then_some(())
}

#[test]
fn a_frozen_release_is_held_and_opens_by_itself() {
    let seen = [3, 12, 12, 40].into_iter().find_map(is_held_for);
    assert!(seen.is_some(), "held long enough to be seen, and open in time");
}

#[test]
fn what_lies_on_disk_as_a_whole_is_never_held() {
    let (registry, folder) = (Registry::start(), folder());
    let (layer, config) = (registry.blob(b"layer"), registry.blob(b"config"));
    let body = format!(r#"{{"config":{{"digest":"{config}"}},"layers":[{{"digest":"{layer}"}}]}}"#);
    let manifest = registry.manifest("pos/checkout", "47", &body);
    let index = format!(r#"{{"manifests":[{{"digest":"{manifest}"}}]}}"#);
    let index = registry.manifest("pos/checkout", "48", &index);
    let gateway = start(&registry, &folder);
    let path = |reference: &str| format!("/v2/pos/checkout/manifests/{reference}");
    for reference in [&*index, &manifest] {
        assert_eq!(get(&gateway, &path(reference)).status, 200);
    }
    let frozen = |digest: &str| {
        let mut effective = store(&registry, &folder, |_| ()).digest(digest).build();
        effective.gate = gate(&[("pos/checkout", &index)], &freeze(3600));
        effective
    };
    gateway.control.reload(frozen("sha256:frozen")).unwrap();
    // Its layers are not there yet.
    assert_eq!(get(&gateway, &path(&manifest)).status, 429);
    for digest in [&layer, &config] {
        assert_eq!(get(&gateway, &blob_path(digest)).status, 200, "a pull that has begun ends");
    }
    eventually("all of it is there", || {
        (gateway.metric("tillgate_mirror_blobs") >= 2.0).then_some(())
    });
    assert_eq!(get(&gateway, &path(&manifest)).status, 200);
    assert_eq!(get(&gateway, &path(&index)).status, 200, "by its index too");
    // The box that is replaced asks another process.
    drop(gateway);
    registry.twist(|_, _| Twist::Close);
    let gateway = Gateway::start(frozen("sha256:frozen"));
    for reference in [&*index, &manifest] {
        assert_eq!(get(&gateway, &path(reference)).status, 200);
    }
}

#[test]
fn an_index_releases_what_it_names_and_nothing_else_is_released() {
    let (registry, folder) = (Registry::start(), folder());
    let manifest = registry.manifest("pos/checkout", "amd64", r#"{"layers":[]}"#);
    let index = format!(r#"{{"manifests":[{{"digest":"{manifest}"}}]}}"#);
    let index = registry.manifest("pos/checkout", "47", &index);
    let stray = registry.manifest("pos/checkout", "48", r#"{"schemaVersion":2}"#);
    let other = registry.manifest("pos/secret", "1", r#"{"schemaVersion":1}"#);
    let gated = |change: fn(&mut MirrorSpec), digest: &str| {
        let mut effective = store(&registry, &folder, change).digest(digest).build();
        let prohibition = "---\napiVersion: tillgate.dev/v1alpha1\nkind: Prohibition\n\
             metadata: {name: no-secrets}\nspec:\n  storeSelector:\n    \
             matchExpressions: [{key: closed, operator: DoesNotExist}]\n  \
             artifacts: [{registry: docker.io, repositories: [pos/secret]}]\n  \
             reason: not for stores\n";
        effective.gate = gate(&[("pos/checkout", &index)], prohibition);
        effective
    };
    let gateway = Gateway::start(gated(|_| (), "sha256:one"));
    let path = |repository: &str, digest: &str| format!("/v2/{repository}/manifests/{digest}");
    assert_eq!(get(&gateway, &path("pos/checkout", &manifest)).status, 429, "nobody named it yet");
    assert_eq!(get(&gateway, &path("pos/checkout", &index)).status, 200);
    assert_eq!(get(&gateway, &path("pos/checkout", &manifest)).status, 200);
    let unknown = get(&gateway, &path("pos/checkout", &stray));
    assert_eq!((unknown.status, &*code(&unknown)), (429, "HELD"));
    assert!(unknown.text().contains("UnknownArtifact"), "{}", unknown.text());
    let forbidden = get(&gateway, &path("pos/secret", &other));
    assert_eq!((forbidden.status, &*code(&forbidden)), (403, "DENIED"));
    assert!(forbidden.text().contains("Prohibition/no-secrets"), "{}", forbidden.text());
    // Nor to whoever has the manifest from elsewhere.
    let blob = registry.blob(b"secret");
    let forbidden = get(&gateway, &format!("/v2/pos/secret/blobs/{blob}"));
    assert_eq!((forbidden.status, &*code(&forbidden)), (403, "DENIED"));
    gateway.expect_metric(r#"tillgate_mirror_refusals_total{code="DENIED"}"#, 2.0);
    let allow = |spec: &mut MirrorSpec| spec.upstreams[0].unknown = Unknown::Allow;
    gateway.control.reload(gated(allow, "sha256:two")).unwrap();
    assert_eq!(get(&gateway, &path("pos/checkout", &stray)).status, 200);
    assert_eq!(get(&gateway, &path("pos/secret", &other)).status, 403);
}

fn manifest(repository: &str, reference: &str) -> String {
    format!("/v2/{repository}/manifests/{reference}")
}

const BOOTSTRAP: &str = "apiVersion: tillgate.dev/v1alpha1\nkind: Bootstrap\nmetadata: {name: a}\n\
     spec:\n  storeId: \"0412\"\n  role: Gateway\n  stateDir: /var/lib/tillgate\n  \
     sources: [{name: a, type: Directory, path: policy, interval: 30s}]\n  trust:\n    \
     threshold: 1\n    keys:\n";

fn key(name: &str) -> String {
    format!("{}/../proxy/app/corpus/keys/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What `tillgate approve` prints, at the place of a list in a document.
fn approval(file: &str, role: &str, private: &str, id: &str) -> String {
    tillgate_tests::chain::approval(file, role, &key(private), id)
}

#[test]
fn an_override_with_the_right_signatures_opens_what_it_names_alone() {
    let (registry, folder) = (Registry::start(), folder());
    let one = registry.manifest("pos/checkout", "47", r#"{"schemaVersion":2}"#);
    let two = registry.manifest("pos/other", "47", r#"{"schemaVersion":2,"layers":[]}"#);
    let exception = format!(
        "apiVersion: tillgate.dev/v1alpha1\nkind: Override\nmetadata: {{name: hotfix}}\nspec:\n  \
         suspends: [{{kind: Freeze, name: peak}}]\n  allStores: true\n  \
         appliesTo: {{rollouts: [pos], images: [pos/checkout]}}\n  reason: a test\n  \
         ticket: CHG-1\n  validFrom: '{}'\n  expiresAt: '{}'\n",
        moment(-60),
        moment(3600)
    );
    let file = folder.path().join("override.yaml");
    std::fs::write(&file, &exception).unwrap();
    let file = file.to_str().unwrap();
    let public = |name: &str| -> String {
        let pem = std::fs::read_to_string(key(name)).unwrap();
        pem.lines().filter(|line| !line.starts_with("-----")).collect()
    };
    let bootstrap = format!(
        "{BOOTSTRAP}      \
         - {{id: boss, algorithm: Ed25519, publicKey: {}, roles: [override]}}\n      \
         - {{id: ops, algorithm: ECDSA-P256, publicKey: {}, roles: [override], \
         approvesAs: [ops]}}\n",
        public("ed25519.pub.pem"),
        public("p256.pub.pem")
    );
    let approvers = tillgate::Approvers::read("bootstrap.yaml", &bootstrap).unwrap();
    let frozen = freeze(3600) + "  approvals: {required: 2, roles: [boss, ops]}\n";
    let images = [("pos/checkout", &*one), ("pos/other", &two)];
    let effective = |approvals: &str, digest: &str| {
        let documents = format!("{frozen}---\n{exception}  approvals:\n{approvals}");
        let policy = policy_of("pos-47", &images, "", &documents);
        let gate = approvers.believe(compile(&policy)).gate;
        let mut effective = store(&registry, &folder, |_| ()).digest(digest).build();
        effective.gate = gate;
        effective
    };
    let boss = approval(file, "boss", "ed25519.pem", "boss");
    let ops = approval(file, "ops", "p256.pem", "ops");
    let gateway = tillgate_tests::gateway::Gateway::start(effective(&format!("{boss}{ops}"), "a"));
    assert_eq!(get(&gateway, &manifest("pos/checkout", "47")).status, 200);
    let other = get(&gateway, &manifest("pos/other", "47"));
    assert_eq!((other.status, &*code(&other)), (429, "HELD"), "it does not name this one");
    gateway.expect_metric(r#"tillgate_override_active{override="hotfix"}"#, 1.0);
    drop(gateway);
    // Somebody who says that he is somebody else, and a text that was changed afterwards.
    let fool = approval(file, "boss", "p256.pem", "ops");
    let lied = format!("{boss}{}", fool.replace("role: boss", "role: ops"));
    let changed = format!("{boss}{ops}").replacen("keyId: ops", "keyId: boss2", 1);
    for approvals in [lied, changed] {
        let folder = tempfile::TempDir::new().unwrap();
        let mut effective = effective(&approvals, "b");
        let mirror = effective.mirror.as_mut().unwrap();
        mirror.cache.directory = folder.path().join("images").into();
        let gateway = Gateway::start(effective);
        assert_eq!(get(&gateway, &manifest("pos/checkout", "47")).status, 429);
        gateway.expect_metric(r#"tillgate_override_active{override="hotfix"}"#, 0.0);
    }
}

#[test]
fn a_replaced_box_pulls_the_running_release_in_a_freeze() {
    let (registry, folder) = (Registry::start(), folder());
    let before = image(&registry, "pos/checkout", "46", &[bytes(46, 5000)]);
    let running = image(&registry, "pos/checkout", "47", &[bytes(47, 5000)]);
    let next = image(&registry, "pos/checkout", "48", &[bytes(48, 5000)]);
    let effective = |release: &str, digest: &str, documents: &str| {
        let mut effective = store(&registry, &folder, |_| ()).digest(release).build();
        effective.gate = gate_of(release, &[("pos/checkout", digest)], "", documents);
        effective
    };
    let gateway = Gateway::start(effective("pos-46", &before, ""));
    assert_eq!(get(&gateway, &manifest("pos/checkout", "46")).status, 200);
    gateway.control.reload(effective("pos-47", &running, "")).unwrap();
    assert_eq!(get(&gateway, &manifest("pos/checkout", "47")).status, 200);
    gateway.control.reload(effective("pos-48", &next, &freeze(3600))).unwrap();
    let check = |gateway: &Gateway| {
        let status = |digest: &str| get(gateway, &manifest("pos/checkout", digest)).status;
        assert_eq!(status(&running), 200, "none of its layers is on disk");
        assert_eq!(status(&before), 200, "the one before, too");
        assert_eq!(status(&next), 429);
    };
    check(&gateway);
    eventually("it is told what has run", || {
        let told = gateway.admin("/v1/rollouts").text();
        let ran = |release: &str| format!(r#"{{"release":"{release}","since":"#);
        (told.contains(&ran("pos-47")) && told.contains(&ran("pos-46"))).then_some(())
    });
    drop(gateway);
    let gateway = Gateway::start(effective("pos-48", &next, &freeze(3600)));
    check(&gateway);
}

/// A window that is not now.
fn elsewhen() -> String {
    window_of("later", "{rollouts: ['*']}", seconds_now(), 180..210)
}

#[test]
fn a_store_with_nothing_waits_for_no_window_and_one_that_has_something_does() {
    let (registry, folder, other) =
        (Registry::start(), folder(), tempfile::TempDir::new().unwrap());
    let digest = image(&registry, "pos/checkout", "47", &[bytes(1, 3000)]);
    let effective = |folder: &tempfile::TempDir| {
        let mut effective = store(&registry, folder, |_| ()).build();
        effective.gate = gate(&[("pos/checkout", &digest)], &elsewhen());
        effective
    };
    let restoring = Gateway::start(effective(&folder));
    assert_eq!(get(&restoring, &manifest("pos/checkout", "47")).status, 200);
    let told = restoring.admin("/v1/rollouts").text();
    assert!(told.contains(r#""name":"pos""#), "{told}");
    // This one had images, and nobody knows which release they were.
    let used = start(&registry, &other);
    let blob = registry.blob(b"of another time");
    assert_eq!(get(&used, &blob_path(&blob)).status, 200);
    used.expect_metric("tillgate_mirror_blobs", 1.0);
    drop(used);
    std::fs::remove_file(other.path().join("images/releases")).ok();
    let used = Gateway::start(effective(&other));
    let held = get(&used, &manifest("pos/checkout", "47"));
    assert_eq!((held.status, &*code(&held)), (429, "HELD"));
    assert!(held.text().contains("outside ChangeWindow/later"), "{}", held.text());
}

#[test]
fn a_clock_that_cannot_be_right_opens_nothing_that_needs_one() {
    let (registry, folder) = (Registry::start(), folder());
    let digest = image(&registry, "pos/checkout", "47", &[bytes(1, 3000)]);
    let now = civil(0);
    let day = "---\napiVersion: tillgate.dev/v1alpha1\nkind: ChangeWindow\n\
         metadata: {name: always}\n\
         spec:\n  effect: Allow\n  appliesTo: {rollouts: ['*']}\n  timeZone: Etc/UTC\n  \
         schedule:\n    \
         weekly: [{days: [Mon, Tue, Wed, Thu, Fri, Sat, Sun], start: '00:00', end: '00:00'}]\n";
    let effective = || {
        let mut effective = store(&registry, &folder, |_| ()).build();
        effective.gate = gate(&[("pos/checkout", &digest)], day);
        effective
    };
    let gateway = Gateway::start(effective());
    assert_eq!(get(&gateway, &manifest("pos/checkout", "47")).status, 200, "it is {now}");
    drop(gateway);
    let images = folder.path().join("images");
    std::fs::remove_file(images.join("releases")).unwrap();
    // A year later was written down once: the clock has lost its battery.
    std::fs::write(images.join("releases"), "").unwrap();
    std::fs::write(images.join("time"), (seconds_now() + 365 * 86_400).to_string()).unwrap();
    let gateway = Gateway::start(effective());
    let held = get(&gateway, &manifest("pos/checkout", "47"));
    assert_eq!((held.status, &*code(&held)), (429, "HELD"));
    assert!(held.text().contains("Clock, ChangeWindow/always"), "{}", held.text());
    gateway.expect_metric(r#"tillgate_clock_state{state="Untrusted"}"#, 1.0);
    let told = gateway.admin("/v1/windows").text();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["windows"][0]["document"], "ChangeWindow/always");
    let rollout = &told["rollouts"][0];
    assert_eq!(rollout["document"], "Rollout/pos");
    assert_eq!(rollout["heldBy"], serde_json::json!(["Clock, ChangeWindow/always"]));
    assert!(rollout["nextOpen"].is_null(), "as the data path says: {rollout}");
    let document = r#"tillgate_window_active{window="always",effect="allow"}"#;
    gateway.expect_metric(document, 0.0);
}
