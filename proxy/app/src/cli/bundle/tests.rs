//! The commands on real files, and beside the real `openssl` where there is one.

use std::process::Command as Process;

use super::*;
use crate::bundle::keys::tests::ED25519_PRIVATE;
use crate::skipped::skipped;

const STORE: &str = "apiVersion: tillgate.dev/v1alpha1
kind: Store
metadata: {name: store-0412, labels: {storeId: \"0412\"}}
spec:
  timeZone: Europe/Oslo
  links: [{name: primary, capacity: {up: 5Mbit/s, down: 20Mbit/s}}]
---
apiVersion: tillgate.dev/v1alpha1
kind: Store
metadata: {name: store-0977, labels: {storeId: \"0977\"}}
spec:
  timeZone: Europe/Oslo
  links: [{name: primary, capacity: {up: 5Mbit/s, down: 20Mbit/s}}]
";

/// A folder of this test's own with a policy in it, gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("tillgate-bundle-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        for folder in ["policy/stores", "policy/.git"] {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        fs::write(path.join("policy/stores/0412.yaml"), STORE).unwrap();
        fs::write(path.join("policy/a.yml"), "# to come\n").unwrap();
        fs::write(path.join("policy/README.md"), "no policy").unwrap();
        fs::write(path.join("policy/.git/x.yaml"), "hidden").unwrap();
        fs::write(path.join("key.pem"), ED25519_PRIVATE).unwrap();
        let public = include_str!("../../../corpus/keys/ed25519.pub.pem");
        fs::write(path.join("key.pub"), public).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn build(&self, sequence: u64) -> Answer {
        run(&Command::Build(Build {
            folder: self.path("policy"),
            output: self.path("bundle.tar.gz"),
            sequence,
            revision: "main@sha1:1".into(),
            created_at: Some("2026-11-20T20:58:12Z".into()),
            store: Some("0412".into()),
            min_gateway_version: "0.1.0".into(),
        }))
    }

    fn sign(&self, key: Option<&str>, signature: Option<&str>) -> Answer {
        run(&Command::Sign(Sign {
            file: self.path("bundle.tar.gz"),
            key_id: "ci".into(),
            key: key.map(|name| self.path(name)),
            signature: signature.map(|name| self.path(name)),
        }))
    }

    fn verify(&self, key: &str, store: &str) -> Answer {
        run(&Command::Verify(Verify {
            file: self.path("bundle.tar.gz"),
            keys: vec![format!("ci={}", self.path(key).display())],
            promotion_keys: vec![format!("ci={}", self.path(key).display())],
            override_keys: vec![format!("ci={}", self.path(key).display())],
            threshold: 1,
            store: Some(store.into()),
        }))
    }

    fn promote(&self, through: &str) -> Answer {
        super::super::promote::run(&super::super::promote::Options {
            file: self.path("bundle.tar.gz"),
            through: through.into(),
            unknown_ring: false,
            key: self.path("key.pem"),
            key_id: "ci".into(),
            at: None,
            evidence: "12 of 12 stores well".into(),
            reports: None,
            bake: "1h".into(),
            percent: 80,
            prometheus: super::super::promote::Query::default(),
            query_result: None,
            at_most: None,
        })
    }

    fn inspect(&self, signing_input: bool, output: Output) -> Answer {
        let file = self.path("bundle.tar.gz");
        run(&Command::Inspect(Inspect { file, output, signing_input }))
    }

    fn openssl(&self, line: &str) -> bool {
        let arguments = line.split(' ');
        let done = Process::new("openssl").args(arguments).current_dir(&self.0).output();
        done.is_ok_and(|done| done.status.success())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_ring_that_does_not_exist_is_not_signed() {
    let folder = Folder::new("rings");
    let rings = "apiVersion: tillgate.dev/v1alpha1\nkind: Bundle\nmetadata: {name: b}\nspec:\n  \
                 schemaVersion: v1alpha1\n  minGatewayVersion: \"0.1.0\"\n  \
                 rollout:\n    rings:\n      \
                 - {name: lab, storeSelector: {matchLabels: {ring: lab}}}\n      \
                 - {name: broad, storeSelector: {}}\n    promotion: {mode: Signed}\n";
    fs::write(folder.path("policy/bundle.yaml"), rings).unwrap();
    assert_eq!(folder.build(7).code, OK);
    let refused = folder.promote("nosuch");
    assert_eq!(refused.code, USAGE, "{}", refused.stderr);
    assert!(refused.stderr.contains("use one of `lab`, `broad`"), "{}", refused.stderr);
    let promoted = folder.promote("broad");
    assert_eq!(promoted.code, OK, "{}", promoted.stderr);
}

#[test]
fn build_sign_verify_inspect() {
    let folder = Folder::new("all");
    let built = folder.build(7);
    assert_eq!(built.code, OK, "{}", built.stderr);
    let first = fs::read(folder.path("bundle.tar.gz")).unwrap();
    assert_eq!(folder.build(7), built);
    assert_eq!(fs::read(folder.path("bundle.tar.gz")).unwrap(), first, "the same bytes");
    let refused = folder.verify("key.pub", "0412");
    assert!(
        refused.code == FINDINGS && refused.stderr.contains("0 of 1 signatures"),
        "{refused:?}"
    );
    assert_eq!(folder.sign(Some("key.pem"), None).code, OK);
    let taken = folder.verify("key.pub", "0412");
    assert_eq!(taken.code, OK, "{}", taken.stderr);
    assert!(taken.stdout.contains("sequence 7") && taken.stdout.contains("signed by ci"));
    let promoted = folder.promote("pilot");
    assert_eq!(promoted.code, OK, "{}", promoted.stderr);
    let taken = folder.verify("key.pub", "0412");
    assert!(taken.stdout.contains("opened through pilot by ci\n"), "{}", taken.stdout);
    assert!(taken.stdout.contains("signed as an emergency by 1\n"), "{}", taken.stdout);
    assert_eq!(folder.verify("key.pub", "0977").code, FINDINGS);
    let shown = folder.inspect(false, Output::Text).stdout;
    assert!(shown.contains("store     0412") && shown.contains(" a.yml\n"), "{shown}");
    assert!(shown.contains(" stores/0412.yaml\n") && !shown.contains("README"), "{shown}");
    assert!(shown.contains("compiles to sha256:"), "{shown}");
    let packed = fs::read(folder.path("bundle.tar.gz")).unwrap();
    let text = archive::read(&packed).unwrap().files["stores/0412.yaml"].clone();
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("store-0412") && !text.contains("store-0977"), "{text}");
    let shown: serde_json::Value =
        serde_json::from_str(&folder.inspect(false, Output::Json).stdout).unwrap();
    assert_eq!(shown["manifest"]["sequence"], 7);
    assert_eq!(shown["signatures"][0]["keyId"], "ci");
}

#[test]
fn mistakes_in_asking_are_told_apart_from_a_no() {
    let folder = Folder::new("usage");
    assert_eq!(folder.verify("key.pub", "0412").code, USAGE, "there is no bundle yet");
    folder.build(7);
    assert_eq!(folder.sign(Some("key.pub"), None).code, USAGE, "a public key cannot sign");
    assert_eq!(folder.verify("key.pem", "0412").code, USAGE, "a private key is no trust");
    fs::write(folder.path("bundle.tar.gz"), "<html>please log in</html>").unwrap();
    let refused = folder.verify("key.pub", "0412");
    assert!(refused.code == FINDINGS && refused.stderr.contains("a web page"), "{refused:?}");
    fs::remove_dir_all(folder.path("policy")).unwrap();
    fs::create_dir(folder.path("policy")).unwrap();
    assert_eq!(folder.build(7).code, USAGE, "nothing to pack");
}

#[test]
fn openssl_signs_what_a_store_believes_and_believes_what_is_signed() {
    let folder = Folder::new("openssl");
    if !folder.openssl("version") {
        return skipped("no openssl on this machine");
    }
    for (kind, digest) in
        [("ed25519", ""), ("EC -pkeyopt ec_paramgen_curve:P-256", " -digest sha256")]
    {
        folder.build(7);
        let input = folder.inspect(true, Output::Text).stdout;
        fs::write(folder.path("input"), input).unwrap();
        assert!(folder.openssl(&format!("genpkey -algorithm {kind} -out other.pem")));
        assert!(folder.openssl("pkey -in other.pem -pubout -out other.pub"));
        let sign = format!("pkeyutl -sign -rawin{digest} -inkey other.pem -in input -out raw.sig");
        assert!(folder.openssl(&sign));
        assert_eq!(folder.sign(None, Some("raw.sig")).code, OK);
        let taken = folder.verify("other.pub", "0412");
        assert_eq!(taken.code, OK, "{kind}: {}", taken.stderr);
        assert!(folder.openssl("base64 -in raw.sig -out b64.sig"));
        assert_eq!(folder.sign(None, Some("b64.sig")).code, OK);
        assert_eq!(folder.verify("other.pub", "0412").code, OK, "{kind}");
        // And the other way round.
        assert_eq!(folder.sign(Some("other.pem"), None).code, OK);
        let shown: serde_json::Value =
            serde_json::from_str(&folder.inspect(false, Output::Json).stdout).unwrap();
        let signature = shown["signatures"][0]["signature"].as_str().unwrap();
        fs::write(folder.path("ours.b64"), format!("{signature}\n")).unwrap();
        assert!(folder.openssl("base64 -d -A -in ours.b64 -out ours.sig"));
        let verify = format!(
            "pkeyutl -verify -rawin{digest} -pubin -inkey other.pub -in input -sigfile ours.sig"
        );
        assert!(folder.openssl(&verify), "{kind}");
    }
}
