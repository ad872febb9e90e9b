//! A day of a platform engineer, with a real repository and three real gateways of three rings: an
//! edit in Git reaches the stores ring by ring, a commit with a slip is refused with its line, and
//! one that is valid and does harm is taken back by the first store that has it.
//!
//! `cargo test -p tillgate-tests --test policy_tour -- --nocapture` prints what the engineer sees.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use tillgate_tests::chain::Chain;
use tillgate_tests::follower::{shown, start};
use tillgate_tests::git;
use tillgate_tests::origin::Origin;
use tillgate_tests::ports::nobody;
use tillgate_tests::program::{Program, route};
use tillgate_tests::{eventually, now};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// The stores, each of a ring of its own, in the order of the rings.
const STORES: [(&str, &str); 3] =
    [("store-0001", "lab"), ("store-0412", "pilot"), ("store-2001", "broad")];

const BUNDLE: &str = "apiVersion: tillgate.dev/v1alpha1
kind: Bundle
metadata: {name: chain}
spec:
  schemaVersion: v1alpha1
  minGatewayVersion: \"0.1.0\"
  rollout:
    rings:
      - {name: lab, storeSelector: {matchLabels: {ring: lab}}}
      - name: pilot
        storeSelector: {matchLabels: {ring: pilot}}
        approvals: {required: 1, roles: [release-manager]}
      - {name: broad, storeSelector: {}, approvals: {required: 1, roles: [release-manager]}}
    promotion: {mode: Signed}
";

const CLASSES: &str = "apiVersion: tillgate.dev/v1alpha1
kind: TrafficClass
metadata: {name: payment}
spec:
  priority: 1000
  critical: true
  guarantee: {up: 15%, down: 15%}
";

fn stores() -> String {
    let mut text = String::new();
    for (store, ring) in STORES {
        let _ = write!(
            text,
            "---
apiVersion: tillgate.dev/v1alpha1
kind: Store
metadata: {{name: {store}, labels: {{ring: {ring}}}}}
spec:
  timeZone: Europe/Oslo
  links:
    - {{name: primary, capacity: {{up: 5Mbit/s, down: 20Mbit/s}}}}
"
        );
    }
    text
}

/// Everything that the engineer has in front of him.
struct Tour {
    chain: Chain,
    origin: Origin,
    programs: Vec<Program>,
    seen: String,
    sequence: u64,
    published: Instant,
}

impl Tour {
    /// The repository with its first commit, and three gateways that have no policy yet.
    fn begin() -> Self {
        let (chain, origin) = (Chain::new("tour"), Origin::answering(OK));
        let probation = "  probation: {least: 1s, requests: 20, most: 1h}\n";
        let boot = |(store, _)| {
            let state = chain.folder.join(format!("{store}.state"));
            let file = chain.bootstrap_of(store, &state, &[chain.http()], probation);
            start(PROGRAM, file, |_| {})
        };
        let programs = STORES.into_iter().map(boot).collect();
        let (seen, published) = (String::new(), now());
        let tour = Self { chain, origin, programs, seen, sequence: 0, published };
        for (name, text) in [
            ("bundle.yaml", BUNDLE.to_owned()),
            ("stores.yaml", stores()),
            ("classes.yaml", CLASSES.to_owned()),
            ("routes.yaml", route("payments", "pay.example", tour.origin.address)),
        ] {
            fs::write(tour.file(name), text).expect("room");
        }
        tour.git(&["init", "-q", "-b", "main", "."]);
        tour
    }

    fn file(&self, name: &str) -> PathBuf {
        self.chain.folder.join("policy").join(name)
    }

    /// Adds to what the engineer sees; folders are shown from where he stands.
    #[allow(clippy::print_stdout, reason = "the transcript is what this is for")]
    fn say(&mut self, text: &str) {
        let text = text.replace(&format!("{}/", self.chain.folder.display()), "");
        println!("{}", text.trim_end());
        self.seen.push_str(text.trim_end());
        self.seen.push('\n');
    }

    fn git(&self, arguments: &[&str]) -> String {
        git::run(&self.chain.folder.join("policy"), arguments)
    }

    /// Runs a command of `tillgate`; its exit code.
    fn tillgate(&mut self, arguments: &[&str]) -> u8 {
        let words = ["tillgate"].iter().chain(arguments).map(Into::into);
        let answer = tillgate::cli::ask(words).expect("a command that ends");
        self.say(&format!("$ tillgate {}", arguments.join(" ")));
        self.say(&(answer.stdout + &answer.stderr));
        if answer.code != 0 {
            self.say(&format!("(exit code {})", answer.code));
        }
        answer.code
    }

    /// Commits an edit, `from` one text to another.
    fn commit(&mut self, name: &str, (from, to): (&str, &str), message: &str) {
        let text = fs::read_to_string(self.file(name)).expect("it is there");
        assert!(text.contains(from), "{from:?} in {text}");
        fs::write(self.file(name), text.replacen(from, to, 1)).expect("room");
        let changed = self.git(&["diff", "-U0"]);
        let lines = changed.lines().filter(|line| line.starts_with(['+', '-']));
        self.say("$ git diff");
        self.say(&lines.collect::<Vec<_>>().join("\n"));
        self.save(message);
    }

    fn save(&mut self, message: &str) {
        self.git(&["add", "."]);
        self.git(&["commit", "-q", "-m", message]);
        let log = self.git(&["log", "--oneline", "-1"]);
        self.say(&format!("$ git commit -am '{message}'\n{log}"));
    }

    /// What CI does with a commit.
    fn publish(&mut self) {
        let commit = self.git(&["rev-parse", "HEAD"]);
        let count = self.git(&["rev-list", "--count", "HEAD"]);
        self.sequence = count.trim().parse().expect("a number");
        let revision = format!("main@sha1:{}", commit.trim());
        let path = |name: &str| self.chain.folder.join(name).display().to_string();
        let (folder, made, key) = (path("policy"), path("made.tar.gz"), path("ci.pem"));
        let sequence = count.trim().to_owned();
        let words = ["bundle", "build", &folder, "--output", &made, "--sequence", &sequence];
        assert_eq!(self.tillgate(&[&words[..], &["--revision", &revision]].concat()), 0);
        let words = ["bundle", "sign", &made, "--key", &key, "--key-id", "ci"];
        assert_eq!(self.tillgate(&words), 0);
        self.upload();
    }

    fn upload(&mut self) {
        let made = self.chain.folder.join("made.tar.gz");
        self.chain.publish(fs::read(made).expect("it was built"));
        self.published = now();
        self.say("# CI puts made.tar.gz on the web server.");
    }

    /// Whether CI lets a commit pass.
    fn validate(&mut self) -> u8 {
        let folder = self.chain.folder.join("policy").display().to_string();
        self.tillgate(&["validate", &folder])
    }

    /// Customers pay in all stores until `condition` holds of what the stores say.
    #[track_caller]
    fn until(&mut self, what: &str, condition: impl Fn(&[Value]) -> bool) {
        eventually(what, || {
            for program in &self.programs {
                (0..5).for_each(|_| drop(program.get("pay.example")));
            }
            let all: Vec<Value> = self.programs.iter().map(shown).collect();
            condition(&all).then_some(())
        });
        self.look(what);
    }

    /// What the stores say.
    fn look(&mut self, what: &str) {
        let after = self.published.elapsed().as_secs_f64();
        self.say(&format!("{what}, {after:.1} s after the upload:"));
        for ((store, ring), program) in STORES.into_iter().zip(&self.programs) {
            let policy = shown(program);
            let of = |place: &str| {
                let sequence = &policy[place]["sequence"];
                sequence.as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string())
            };
            let conditions = policy["conditions"].as_array().into_iter().flatten();
            let bad = ["Held", "Rejected", "RolledBack"];
            let mut told = String::new();
            for one in conditions.filter(|one| one["status"] == "True") {
                if let Some(kind) = bad.iter().find(|kind| one["type"] == **kind) {
                    let message = one["message"].as_str().unwrap_or_default();
                    let _ = write!(told, "\n    {kind}: {}", message.replace('\n', "\n    "));
                }
            }
            let (runs, good) = (of("applied"), of("lastKnownGood"));
            let line = format!("  {store} ({ring:<5}) runs {runs}, last known good {good}{told}");
            self.seen.push_str(&line);
            self.seen.push('\n');
            self.print(&line);
        }
    }

    #[allow(clippy::print_stdout, reason = "the transcript is what this is for")]
    fn print(&self, text: &str) {
        println!("{text}");
    }

    /// Signs that the ring `through` may have it, if the stores `of` the rings before say so.
    fn promote(&mut self, through: &str, of: usize) -> u8 {
        let reports = self.chain.folder.join(format!("reports-{}-{through}", self.sequence));
        fs::create_dir_all(&reports).expect("room");
        for ((store, _), program) in STORES.into_iter().zip(&self.programs).take(of) {
            fs::write(reports.join(format!("{store}.json")), program.status()).expect("room");
        }
        let path = |name: &str| self.chain.folder.join(name).display().to_string();
        let (made, key, reports) =
            (path("made.tar.gz"), path("release.pem"), reports.display().to_string());
        let words = ["promote", &made, "--through", through, "--reports", &reports];
        let more = ["--bake", "1s", "--key", &key, "--key-id", "release"];
        let code = self.tillgate(&[&words[..], &more].concat());
        if code == 0 {
            self.upload();
        }
        code
    }
}

/// Whether each of the stores runs this, by sequence.
fn run(stores: &[Value], sequences: [u64; 3]) -> bool {
    stores.iter().zip(sequences).all(|(store, wanted)| store["applied"]["sequence"] == wanted)
}

/// Whether the first so many stores call this the last known good.
fn good(stores: &[Value], count: usize, sequence: u64) -> bool {
    stores.iter().take(count).all(|store| store["lastKnownGood"]["sequence"] == sequence)
}

fn says(store: &Value, kind: &str, part: &str) -> bool {
    let mut conditions = store["conditions"].as_array().into_iter().flatten();
    conditions.any(|one| {
        let message = one["message"].as_str().unwrap_or_default();
        one["type"] == kind && one["status"] == "True" && message.contains(part)
    })
}

#[test]
fn an_edit_in_git_reaches_the_stores_and_a_bad_one_does_not() {
    if !git::is_there() {
        return;
    }
    let mut tour = Tour::begin();
    first(&mut tour);
    ring_by_ring(&mut tour);
    slip(&mut tour);
    harm(&mut tour);
    let transcript = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("policy-tour.txt");
    fs::write(transcript, &tour.seen).expect("room");
}

fn first(tour: &mut Tour) {
    tour.say("# A store that has no policy takes what there is.");
    tour.save("The chain's policy");
    assert_eq!(tour.validate(), 0);
    tour.publish();
    tour.until("all three run it and call it good", |stores| good(stores, 3, 1));
}

fn ring_by_ring(tour: &mut Tour) {
    tour.say("\n# An edit goes out ring by ring.");
    let edit = ("guarantee: {up: 15%, down: 15%}", "guarantee: {up: 20%, down: 15%}");
    tour.commit("classes.yaml", edit, "Payments may have 20 % of the uplink");
    assert_eq!(tour.validate(), 0);
    tour.publish();
    tour.until("the lab has it, the others wait", |stores| {
        let waits = |store| says(store, "Held", "sequence 2");
        run(stores, [2, 1, 1]) && good(stores, 1, 2) && stores[1..].iter().all(waits)
    });
    // How long the lab has had it is counted in whole seconds.
    eventually("the bake time", || (tour.published.elapsed().as_secs() >= 3).then_some(()));
    assert_eq!(tour.promote("pilot", 1), 0);
    tour.until("the pilot has it too", |stores| run(stores, [2, 2, 1]) && good(stores, 2, 2));
    eventually("the bake time", || (tour.published.elapsed().as_secs() >= 3).then_some(()));
    assert_eq!(tour.promote("broad", 2), 0);
    tour.until("everybody has it", |stores| good(stores, 3, 2));
}

fn slip(tour: &mut Tour) {
    tour.say("\n# A slip in one store's document. CI stops it; should it come out, the stores do.");
    let edit = ("capacity: {up: 5Mbit/s", "capacity: {up: 5Mbps");
    tour.commit("stores.yaml", edit, "A faster line");
    assert_eq!(tour.validate(), 1);
    tour.publish();
    tour.until("nobody takes it, and each store names the line", |stores| {
        let refuses = |store| says(store, "Rejected", "stores.yaml:");
        run(stores, [2, 2, 2]) && stores.iter().all(refuses)
    });
    tour.git(&["revert", "--no-edit", "HEAD"]);
    tour.say("$ git revert --no-edit HEAD");
}

fn harm(tour: &mut Tour) {
    tour.say("\n# A commit that is valid, and sends payments to a port where nobody listens.");
    let [closed, port] =
        [nobody(), tour.origin.address].map(|one| format!("port: {}}}", one.port()));
    // What was good is known from a while of it.
    let since = now();
    eventually("business as usual", || {
        let paid = |one: &Program| (0..5).all(|_| one.get("pay.example").status == 200);
        assert!(tour.programs.iter().all(paid), "somebody cannot pay");
        (since.elapsed() > Duration::from_secs(12)).then_some(())
    });
    tour.commit("routes.yaml", (&port, &closed), "The new payment server");
    assert_eq!(tour.validate(), 0);
    tour.publish();
    let bad = tour.sequence;
    tour.until("the lab has taken it back by itself, the others never had it", |stores| {
        let waits = |store| says(store, "Held", &format!("sequence {bad}"));
        run(stores, [2, 2, 2])
            && says(&stores[0], "RolledBack", "critical requests failed")
            && stores[1..].iter().all(waits)
    });
    assert_eq!(tour.promote("pilot", 1), 1, "it is not promoted");
    for program in &tour.programs {
        assert_eq!(program.get("pay.example").status, 200);
    }
    tour.commit("routes.yaml", (&closed, &port), "Back to the payment server that is there");
    assert_eq!(tour.validate(), 0);
    tour.publish();
    let fix = tour.sequence;
    tour.until("the fix is taken", |stores| run(stores, [fix, 2, 2]) && good(stores, 1, fix));
}
