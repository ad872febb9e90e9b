//! The policy commands on real files.
//!
//! What a policy means and how its mistakes read is tested with the language; here it is the
//! files, the exit codes and the flags.

use super::*;
use crate::cli::scratch::Scratch;

const GOOD: &str = "\
apiVersion: tillgate.dev/v1alpha1
kind: Store
metadata: {name: store-1}
spec:
  timeZone: Europe/Oslo
  links: [{name: primary, capacity: {up: 5Mbit/s, down: 20Mbit/s}}]
";

#[test]
fn a_good_file_is_ok_and_a_bad_one_is_not() {
    let good = Scratch::new("good.yaml", GOOD.as_bytes());
    let answer = validate(std::slice::from_ref(&good.path), Output::Text);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    assert!(answer.stdout.contains(": ok"), "{}", answer.stdout);

    let bad = Scratch::new("bad.yaml", GOOD.replace("20Mbit/s", "20Mbps").as_bytes());
    let answer = validate(&[good.path.clone(), bad.path.clone()], Output::Text);
    assert_eq!(answer.code, 1);
    assert!(answer.stderr.contains("`20Mbps`"), "{}", answer.stderr);
    assert!(answer.stdout.contains(": ok"), "the other file is still reported");

    let answer = validate(&[good.path.clone(), bad.path.clone()], Output::Json);
    let reports: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(reports[0]["valid"], json!(true));
    assert_eq!(reports[1]["errors"][0]["line"], json!(6));
    assert!(load(&bad.path).is_err());
}

#[test]
fn a_file_that_cannot_be_read_is_no_policy() {
    let missing = PathBuf::from("/nonexistent/policy.yaml");
    let answer = validate(std::slice::from_ref(&missing), Output::Text);
    assert_eq!(answer.code, 2);
    assert!(answer.stderr.contains("cannot read `/nonexistent/policy.yaml`"), "{}", answer.stderr);
    assert_eq!(config(&missing, ConfigFormat::Yaml, Overrides::default()).code, 2);
    assert!(load(&missing).unwrap_err().to_text().contains("check the path"));
    assert_eq!(validate(&[], Output::Text).code, 2);

    let latin = Scratch::new("latin.yaml", b"kind: Caf\xe9\n");
    assert!(load(&latin.path).unwrap_err().to_text().contains("is not UTF-8 text (byte 9)"));
    let endless = load(Path::new("/dev/zero")).unwrap_err().to_text();
    assert!(endless.contains("more than the 4194304 bytes"), "{endless}");
}

#[test]
fn flags_move_listeners_and_say_so() {
    let good = Scratch::new("flags.yaml", GOOD.as_bytes());
    let overrides = Overrides {
        http: Some("127.0.0.1:1234".parse().unwrap()),
        workers: Some(3),
        ..Overrides::default()
    };
    let answer = config(&good.path, ConfigFormat::Yaml, overrides);
    assert_eq!(answer.code, 0);
    assert!(answer.stdout.contains("address: \"127.0.0.1:1234\"  # flag --http"));
    assert!(answer.stdout.contains("workers: 3  # flag --workers"));
    let json = config(&good.path, ConfigFormat::Json, overrides).stdout;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["effective"]["listeners"]["http"]["address"], json!("127.0.0.1:1234"));
    assert_ne!(json["digest"], json!(&*load(&good.path).unwrap().digest));
}

#[test]
fn schemas_are_found_by_kind() {
    assert_eq!(schema(None).code, 0);
    assert!(schema(Some("backend")).stdout.contains("\"title\": \"Backend\""));
    let answer = schema(Some("Bakend"));
    assert_eq!(answer.code, 2);
    assert!(answer.stderr.contains("did you mean `Backend`?"));
}
