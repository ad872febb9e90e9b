//! Real repositories, over `file://`, made with the real `git`. Whole fetches over https and ssh
//! are in `tests/tests/policy_git.rs`.

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use super::*;
use crate::skipped::skipped;

/// A repository with a policy in it, and where askers keep theirs.
struct Repository(PathBuf);

impl Repository {
    /// `None` where there is no git, which is said aloud.
    fn new(name: &str) -> Option<Self> {
        if !["git", "ssh-keygen"].iter().all(|program| is_there(program)) {
            skipped("no git or ssh-keygen on this machine");
            return None;
        }
        let path = std::env::temp_dir().join(format!("tillgate-git-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("repo")).unwrap();
        let repository = Self(path);
        repository.git(&["init", "--quiet", "--initial-branch=main", "."]);
        repository.git(&["config", "uploadpack.allowFilter", "true"]);
        repository.git(&["config", "uploadpack.allowAnySHA1InWant", "true"]);
        Some(repository)
    }

    fn git(&self, arguments: &[&str]) -> String {
        let done = Command::new("git")
            .args(["-c", "user.name=Ann", "-c", "user.email=ann@fjordmart.example"])
            .args(["-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false"])
            .args(arguments)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .current_dir(self.0.join("repo"))
            .output()
            .unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    /// Commits `text` as the policy; the commit.
    fn commit(&self, text: &str, signing: &[&str]) -> String {
        fs::create_dir_all(self.0.join("repo/policy")).unwrap();
        fs::write(self.0.join("repo/policy/store.yaml"), text).unwrap();
        fs::write(self.0.join("repo/large.bin"), text.repeat(1000)).unwrap();
        self.git(&["add", "."]);
        let mut arguments = signing.to_vec();
        arguments.extend(["commit", "--quiet", "--allow-empty", "-m", "a change"]);
        if !signing.is_empty() {
            arguments.push("-S");
        }
        self.git(&arguments);
        self.git(&["rev-parse", "HEAD"])
    }

    fn file_url(&self) -> String {
        format!("file://{}", self.0.join("repo").display())
    }

    fn asker(&self, url: &str, reference: &str, signers: Option<&Path>) -> Asker {
        Asker {
            url: url.to_owned(),
            folder: Some("policy".to_owned()),
            reference: reference.to_owned(),
            signers: Signers { ssh: signers.map(Arc::from), open_pgp: None },
            ssh: Ssh::default(),
            repository: self.0.join("kept"),
            timeout: Duration::from_secs(30),
            given: Given::default(),
        }
    }

    /// A key pair, its public half as a line of allowed signers; the paths of both.
    fn key(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = self.0.join(name);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key)
            .output()
            .unwrap();
        assert!(made.status.success());
        let public = fs::read_to_string(key.with_extension("pub")).unwrap();
        let signers = self.0.join(format!("{name}.signers"));
        fs::write(&signers, format!("ann@fjordmart.example {public}")).unwrap();
        (key, signers)
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn is_there(program: &str) -> bool {
    Command::new(program).arg("--help").stdin(Stdio::null()).output().is_ok()
}

/// The policy's text and revision, or nothing new.
fn news(asker: &mut Asker) -> Result<Option<(String, String, Proof)>, String> {
    match asker.ask(Way::Direct).map_err(|error| error.why)? {
        Fetched::Same { .. } => Ok(None),
        Fetched::Bundle { archive, proof, .. } => {
            asker.given.settle();
            let names: Vec<_> = archive.files.keys().map(String::as_str).collect();
            assert_eq!(names, ["store.yaml"], "of one folder, without it in the name");
            let text = String::from_utf8(archive.files["store.yaml"].clone()).unwrap();
            let manifest = tillgate_config::bundle::Manifest::read(&archive.manifest).unwrap();
            Ok(Some((text, manifest.revision, proof)))
        }
    }
}

#[test]
fn branches_tags_and_commits_are_followed() {
    let Some(repository) = Repository::new("refs") else { return };
    let first = repository.commit("one", &[]);
    repository.git(&["tag", "-a", "v1", "-m", "the first"]);
    let url = repository.file_url();
    let mut branch = repository.asker(&url, "main", None);
    let found = news(&mut branch).unwrap().unwrap();
    assert_eq!(found, ("one".to_owned(), format!("main@sha1:{first}"), Proof::Nobody));
    assert_eq!(news(&mut branch).unwrap(), None, "only what is new is fetched");
    let second = repository.commit("two", &[]);
    let (text, revision, _) = news(&mut branch).unwrap().unwrap();
    assert_eq!((text.as_str(), revision), ("two", format!("main@sha1:{second}")));
    // Shallow and sparse: no history, and nothing of what was not asked for.
    let kept = repository.0.join("kept");
    assert!(!kept.join("large.bin").exists() && kept.join(".git/shallow").exists());

    for reference in ["v1", first.as_str()] {
        let _ = fs::remove_dir_all(&kept);
        let (text, revision, _) =
            news(&mut repository.asker(&url, reference, None)).unwrap().unwrap();
        assert_eq!((text.as_str(), revision), ("one", format!("{reference}@sha1:{first}")));
    }
    let (text, _, _) = news(&mut repository.asker(&url, "HEAD", None)).unwrap().unwrap();
    assert_eq!(text, "two");
    let why = news(&mut repository.asker(&url, "nowhere", None)).unwrap_err();
    assert!(why.contains("no branch or tag `nowhere`"), "{why}");
}

#[test]
fn only_who_may_sign_changes_the_policy() {
    let Some(repository) = Repository::new("signed") else { return };
    let (ann, signers) = repository.key("ann");
    let (eve, _) = repository.key("eve");
    let by = |key: &Path| format!("user.signingKey={}", key.display());
    let (ann, eve) = (by(&ann), by(&eve));
    let url = repository.file_url();
    let mut asker = repository.asker(&url, "main", Some(&signers));
    repository.commit("one", &["-c", "gpg.format=ssh", "-c", &ann]);
    assert_eq!(news(&mut asker).unwrap().unwrap().2, Proof::Commit);
    for signing in [&["-c", "gpg.format=ssh", "-c", eve.as_str()][..], &[]] {
        repository.commit("two", signing);
        let why = news(&mut asker).unwrap_err();
        assert!(why.contains("is not signed by a key of"), "{why}");
    }
    // The tag answers for a commit that nobody signed.
    repository.git(&["-c", "gpg.format=ssh", "-c", &ann, "tag", "-s", "v2", "-m", "released"]);
    let found = news(&mut repository.asker(&url, "v2", Some(&signers))).unwrap().unwrap();
    assert_eq!((found.0.as_str(), found.2), ("two", Proof::Commit));
    repository.git(&["tag", "-a", "v3", "-m", "by nobody"]);
    assert!(news(&mut repository.asker(&url, "v3", Some(&signers))).is_err());
}

#[test]
fn keys_of_gnupg_count_where_a_keyring_has_them() {
    let Some(repository) = Repository::new("gpg") else { return };
    if !is_there("gpg") {
        return skipped("no gpg on this machine");
    }
    // A home of the shortest name, because its sockets have paths of a hundred characters.
    let home = std::env::temp_dir().join(format!("tg{}", std::process::id()));
    fs::create_dir_all(&home).unwrap();
    fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let gpg = |arguments: &[&str]| {
        let mut gpg = Command::new("gpg");
        gpg.env("GNUPGHOME", &home).args(["--batch", "--quiet", "--passphrase", ""]);
        let done = gpg.args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {done:?}");
        done.stdout
    };
    for who in ["ann@fjordmart.example", "eve@fjordmart.example"] {
        gpg(&["--quick-gen-key", who, "ed25519", "sign", "never"]);
    }
    let keyring = repository.0.join("release.asc");
    fs::write(&keyring, gpg(&["--armor", "--export", "ann@fjordmart.example"])).unwrap();
    let script = repository.0.join("gpg.sh");
    let text = format!("#!/bin/sh\nGNUPGHOME={} exec gpg \"$@\"\n", home.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let program = format!("gpg.program={}", script.display());
    let sign = |text: &str, who: &str| {
        let key = format!("user.signingKey={who}@fjordmart.example");
        repository.commit(text, &["-c", &program, "-c", &key])
    };
    let mut asker = repository.asker(&repository.file_url(), "main", None);
    asker.signers.open_pgp = Some(keyring.into());
    sign("one", "ann");
    assert_eq!(news(&mut asker).unwrap().unwrap().2, Proof::Commit);
    sign("two", "eve");
    let why = news(&mut asker).unwrap_err();
    assert!(why.contains("is not signed by a key of") && why.contains("release.asc"), "{why}");
    repository.commit("three", &[]);
    assert!(news(&mut asker).is_err());
    sign("four", "ann");
    assert_eq!(news(&mut asker).unwrap().unwrap().0, "four");
    let _ = Command::new("gpgconf").args(["--homedir"]).arg(&home).args(["--kill", "all"]).output();
    let _ = fs::remove_dir_all(home);
}

#[test]
fn what_goes_wrong_is_said_and_not_inherited() {
    let Some(repository) = Repository::new("wrong") else { return };
    let gone = format!("file://{}", repository.0.join("gone").display());
    let why = news(&mut repository.asker(&gone, "main", None)).unwrap_err();
    assert!(why.starts_with("git ls-remote: "), "{why}");
    repository.commit("one", &[]);
    let url = repository.file_url();
    let mut asker = repository.asker(&url, "main", None);
    asker.folder = Some("nowhere".to_owned());
    assert!(news(&mut asker).unwrap_err().contains("nowhere"));
    // A power cut in the middle of a fetch.
    let mut asker = repository.asker(&url, "main", None);
    news(&mut asker).unwrap().unwrap();
    fs::write(repository.0.join("kept/.git/HEAD"), "").unwrap();
    fs::write(repository.0.join("kept/.git/shallow"), "nonsense").unwrap();
    repository.commit("two", &[]);
    let again = news(&mut asker).or_else(|_| news(&mut asker)).unwrap().unwrap();
    assert_eq!(again.0, "two");
    // Nothing but policy leaves a repository: a link is a text there.
    std::os::unix::fs::symlink("/etc/passwd", repository.0.join("repo/policy/link.yaml")).unwrap();
    repository.commit("three", &[]);
    let Fetched::Bundle { archive, .. } = asker.ask(Way::Direct).unwrap() else { panic!("news") };
    assert_eq!(archive.files["link.yaml"], b"/etc/passwd");
}

#[test]
fn a_server_that_hangs_costs_its_timeout_and_no_process() {
    let Some(repository) = Repository::new("hangs") else { return };
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/repo", silent.local_addr().unwrap());
    let mut asker = repository.asker(&url, "main", None);
    asker.timeout = Duration::from_millis(500);
    let why = news(&mut asker).unwrap_err();
    assert!(why.contains("timeout"), "{why}");
}

#[test]
fn addresses_say_how_the_line_is_crossed() {
    let kind = |url: &str| server(url).map(|found| found.map(|one| (one.host, one.port, one.kind)));
    let (connect, raw) = (relay::Kind::Connect, relay::Kind::Raw);
    let at = |host: &str, port, kind| Ok(Some((host.to_owned(), port, kind)));
    assert_eq!(kind("https://git.example/fleet"), at("git.example", 443, connect));
    assert_eq!(kind("https://git.example:8443/fleet"), at("git.example", 8443, connect));
    assert_eq!(kind("ssh://git@git.example/fleet"), at("git.example", 22, raw));
    assert_eq!(kind("file:///srv/fleet"), Ok(None));
    assert_eq!(kind("http://127.0.0.1:80/fleet"), Ok(None));
    assert!(kind("http://git.example/fleet").is_err() && kind("oci://x/y").is_err());
}
