//! The crash matrix with the real program: it is killed (SIGKILL) at each point of a policy's way,
//! and started again on the disk that it left, without a source at first. What serves then, what is
//! said of it, and whether the policy is tried again is judged row by row.
//!
//! Where it dies is decided outside of it, at the call of the C library that changes the disk
//! (`tillgate_tests::machine::dies`). The matrix as it was run:
//! `cargo test -p tillgate-tests --test policy_crash -- --nocapture`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tillgate_config::bundle::decode_memory;
use tillgate_tests::chain::{Chain, Mood};
use tillgate_tests::follower::{answers, applied, condition, is_good, shown, start};
use tillgate_tests::machine::dies;
use tillgate_tests::origin::Origin;
use tillgate_tests::ports::nobody;
use tillgate_tests::program::{Program, policy};
use tillgate_tests::{PATIENCE, eventually, now, skipped};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A probation that a test can wait for.
const SOON: &str = "  probation: {least: 1s, requests: 20, most: 1h}\n";

/// What a start may find remarkable.
const REMARKS: [&str; 5] = ["BootLoop", "MemoryLost", "CurrentDamaged", "LkgDamaged", "Unproven"];

/// For a baseline: the last known good at work, over two looks at the store's health.
const BASELINE: Duration = Duration::from_secs(12);

/// Stores at the same time.
const AT_ONCE: usize = 4;

/// What becomes of the policy 42 that a store with the last known good 41 is given.
#[derive(Clone, Copy, PartialEq)]
enum Policy {
    /// It is good, and nobody asks for anything: it stays on probation.
    Watched,
    /// It is good, and proves itself.
    Good,
    /// It does harm, and is taken back.
    Harmful,
}

/// How the matrix goes on when the policy comes again.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    /// It is taken.
    Taken,
    /// It is not tried again.
    Denied,
    /// It is what serves.
    Serves,
}

/// One row: where it dies, and what the next start does.
struct Row {
    point: &'static str,
    /// When, and the changes of the disk that come until then, see [`dies`].
    at: (&'static str, &'static str),
    policy: Policy,
    serves: u64,
    remarks: &'static [&'static str],
    then: Then,
}

const fn row(
    point: &'static str,
    at: (&'static str, &'static str),
    policy: Policy,
    serves: u64,
    remarks: &'static [&'static str],
    then: Then,
) -> Row {
    Row { point, at, policy, serves, remarks, then }
}

const UNPROVEN: &[&str] = &["Unproven"];

/// Fetch has a test of its own; `begun` is the first change of the disk after all that is checked.
const ROWS: [Row; 15] = {
    use Policy::{Good, Harmful, Watched};
    use Then::{Denied, Serves, Taken};
    [
        row("verified, nothing written", ("before", "begun"), Watched, 41, &[], Taken),
        row("in the middle of its bytes", ("inside", "bundles"), Watched, 41, &[], Taken),
        row("written beside", ("before", "bundles"), Watched, 41, &[], Taken),
        row("staged, not swapped", ("after", "bundles"), Watched, 41, &[], Taken),
        row("swapped, symlink not", ("before", "current"), Watched, 41, &[], Taken),
        row("symlink, state.json not", ("after", "current"), Watched, 41, UNPROVEN, Taken),
        row("inside state.json", ("inside", "current state.json"), Watched, 41, UNPROVEN, Taken),
        row("in probation", ("after", "current state.json"), Watched, 41, UNPROVEN, Taken),
        row("promoted, not on disk", ("before", "lkg"), Good, 41, UNPROVEN, Taken),
        row("lkg, state.json not", ("after", "lkg"), Good, 42, &[], Serves),
        row("inside it, after lkg", ("inside", "lkg state.json"), Good, 42, &[], Serves),
        row("after promote", ("after", "lkg state.json"), Good, 42, &[], Serves),
        row("back, symlink not", ("before", BACK), Harmful, 41, UNPROVEN, Taken),
        row("symlink back, state.json not", ("after", BACK), Harmful, 41, &[], Taken),
        row("rolled back", ("after", BACK_AND_WRITTEN), Harmful, 41, &[], Denied),
    ]
};

const BACK: &str = "current state.json current";
const BACK_AND_WRITTEN: &str = "current state.json current state.json";

/// A chain whose store runs 41 as last known good, and the disk that it left.
struct Scene {
    chain: Chain,
    origin: Origin,
}

/// One store: its disk, its stick, its `Bootstrap`.
struct Store {
    folder: PathBuf,
    bootstrap: PathBuf,
}

impl Scene {
    fn new(name: &str) -> Self {
        let (chain, origin) = (Chain::new(name), Origin::answering(OK));
        let bootstrap = chain.bootstrap(&[chain.stick("")], SOON);
        let mut program = start(PROGRAM, bootstrap.clone(), |_| {});
        chain.put(&chain.bundle(41, &policy("a.example", origin.address), "ci", &[]));
        applied(&program, 41);
        is_good(&program, 41, || drop(program.get("a.example")));
        // Told to stop, it has not died young; but its end waits for no slow disk.
        eventually("the disk knows of no early death", || {
            program.signal("TERM");
            assert!(program.ended(), "{}", program.log());
            if has_lived(&chain.state()) {
                return Some(());
            }
            program = start(PROGRAM, bootstrap.clone(), |_| {});
            applied(&program, 41);
            None
        });
        Self { chain, origin }
    }

    /// A store with that disk, whose stick is empty.
    fn store(&self, name: &str) -> Store {
        let folder = self.chain.folder.join(name);
        let (stick, state) = (folder.join("stick"), folder.join("state"));
        fs::create_dir_all(&stick).expect("room");
        let copied = Command::new("cp").arg("-a").arg(self.chain.state()).arg(&state).status();
        assert!(copied.expect("cp is there").success());
        let source =
            format!("{{name: stick, type: Directory, path: {}, interval: 1s}}", stick.display());
        let bootstrap = folder.join("bootstrap.yaml");
        let written = self.chain.bootstrap_of("store-0412", &state, &[source], SOON);
        fs::rename(written, &bootstrap).expect("the same disk");
        Store { folder, bootstrap }
    }

    /// The bundles that do no harm, and the one that does: nobody listens at its backend.
    fn bundles(&self) -> (Vec<u8>, Vec<u8>) {
        let bundle = |host, address| self.chain.bundle(42, &policy(host, address), "ci", &[]);
        let good = bundle("b.example", self.origin.address);
        (good, bundle("a.example", nobody()))
    }
}

/// Whether the start that this disk knows of has not died young.
fn has_lived(state: &Path) -> bool {
    let memory = fs::read(state.join("state.json")).expect("it is written");
    decode_memory(&memory).expect("it is whole").boots.short == 0
}

impl Store {
    fn start(&self) -> Program {
        start(PROGRAM, self.bootstrap.clone(), |_| {})
    }

    /// `None` where the program cannot be made to die at a point of our choice.
    fn start_to_die(&self, at: (&str, &str)) -> Option<Program> {
        let mut can = true;
        let program =
            start(PROGRAM, self.bootstrap.clone(), |command| can = dies(command, at.0, at.1));
        can.then_some(program)
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn put(&self, bundle: &[u8]) {
        let stick = self.folder.join("stick");
        fs::write(stick.join(".new"), bundle).expect("room");
        fs::rename(stick.join(".new"), stick.join("bundle.tar.gz")).expect("room");
    }

    fn take_away(&self) {
        let _ = fs::remove_file(self.folder.join("stick/bundle.tar.gz"));
    }
}

/// Asks once, whatever comes of it.
fn ask(address: SocketAddr, host: &str) {
    let Ok(mut stream) = TcpStream::connect(address) else { return };
    let text = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let asked = stream.write_all(text.as_bytes());
    let _ = asked.and_then(|()| stream.read_to_end(&mut Vec::new()));
}

/// Lets the store of a row die on its way, and says whether it could be.
fn die(row: &Row, store: &Store, bundle: &[u8]) -> bool {
    let Some(mut program) = store.start_to_die(row.at) else { return false };
    let host = if row.policy == Policy::Good { "b.example" } else { "a.example" };
    if row.policy == Policy::Harmful {
        let began = now();
        eventually("a baseline", || {
            assert_eq!(program.get(host).status, 200);
            (began.elapsed() > BASELINE).then_some(())
        });
    }
    let http = program.address("http");
    store.put(bundle);
    eventually(&format!("it dies: {}\n{}", row.point, program.log()), || {
        if row.policy != Policy::Watched {
            ask(http, host);
        }
        program.has_ended().then_some(())
    });
    assert!(!program.ended(), "{}: it was killed", row.point);
    true
}

/// What a start serves from the disk alone: it must be `serves`, with these `remarks`.
fn judge(point: &str, program: &Program, serves: u64, remarks: &[&str]) {
    if serves == 0 {
        condition(program, "Minimal", "no policy");
        answers(program, "a.example", 404);
    } else {
        applied(program, serves);
        answers(program, if serves == 41 { "a.example" } else { "b.example" }, 200);
    }
    let conditions = shown(program)["conditions"].clone();
    let conditions = conditions.as_array().expect("a list");
    let is = |kind: &&&str| {
        conditions.iter().any(|one| one["type"] == ***kind && one["status"] == "True")
    };
    let found: Vec<&str> = REMARKS.iter().filter(is).copied().collect();
    assert_eq!(found, remarks, "{point}");
    told(point, serves, &found);
}

/// Tells a row of the matrix, as it was found.
#[allow(clippy::print_stdout, reason = "the matrix is what these tests are for")]
fn told(point: &str, serves: u64, remarks: &[&str]) {
    let serves = if serves == 0 { "the minimal policy".to_owned() } else { serves.to_string() };
    println!("{point:<44} the next start serves {serves} {remarks:?}");
}

/// The policy comes again, or is what serves.
fn comes_again(program: &Program, store: &Store, bundle: &[u8], then: Then) {
    match then {
        Then::Serves => return,
        Then::Taken | Then::Denied => store.put(bundle),
    }
    if then == Then::Taken {
        applied(program, 42);
    } else {
        assert_eq!(condition(program, "Rejected", "rolled back"), "Denied");
    }
}

fn nothing_half(folder: &Path) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let name = entry.file_name();
        assert!(!name.to_string_lossy().starts_with(".tmp-"), "{}", entry.path().display());
    }
}

/// `false` where the program cannot be made to die at a point of our choice.
fn run(row: &Row, store: &Store, bundle: &[u8]) -> bool {
    if !die(row, store, bundle) {
        return false;
    }
    store.take_away();
    let mut program = store.start();
    judge(row.point, &program, row.serves, row.remarks);
    nothing_half(&store.state());
    nothing_half(&store.state().join("bundles"));
    comes_again(&program, store, bundle, row.then);
    if row.point != "in probation" {
        return true;
    }
    // Once more: that was the second of its probations that no process has survived.
    program.kill();
    store.take_away();
    let program = store.start();
    judge("in probation, twice", &program, 41, UNPROVEN);
    store.put(bundle);
    assert_eq!(condition(&program, "Rejected", "died twice"), "Denied");
    true
}

#[test]
fn each_row_of_the_crash_matrix_with_the_program_killed_there() {
    let scene = Scene::new("crash");
    let (good, harmful) = scene.bundles();
    // The slow ones first.
    let mut rows: Vec<_> =
        ROWS.iter().enumerate().map(|(at, row)| (row, scene.store(&format!("row-{at}")))).collect();
    rows.reverse();
    for some in rows.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            for (row, store) in some {
                let bundle = if row.policy == Policy::Harmful { &harmful } else { &good };
                scope.spawn(|| {
                    if !run(row, store, bundle) {
                        skipped("no C compiler to let the program die at a point");
                    }
                });
            }
        });
    }
}

#[test]
fn killed_while_a_bundle_comes_it_serves_what_ran() {
    let (chain, origin) = (Chain::new("crash-fetch"), Origin::answering(OK));
    let bootstrap = chain.bootstrap(&[chain.http()], SOON);
    let mut program = start(PROGRAM, bootstrap.clone(), |_| {});
    chain.publish(chain.bundle(41, &policy("a.example", origin.address), "ci", &[]));
    applied(&program, 41);
    is_good(&program, 41, || drop(program.get("a.example")));
    let next = chain.bundle(42, &policy("b.example", origin.address), "ci", &[]);
    let before = chain.sent.lock().expect("no panic").0;
    chain.feels(Mood::Half(next.clone().into()));
    eventually("half of it has come", || {
        (chain.sent.lock().expect("no panic").0 > before).then_some(())
    });
    program.kill();
    chain.feels(Mood::Nothing);
    let program = start(PROGRAM, bootstrap, |_| {});
    judge("while it comes", &program, 41, &[]);
    chain.publish(next);
    applied(&program, 42);
}

#[test]
fn what_is_torn_on_disk_is_passed_over_and_told() {
    let scene = Scene::new("crash-torn");
    let (good, _) = scene.bundles();
    for (name, bytes) in [("of zero length", &b""[..]), ("torn", b"tillgate-state-v1 0a1b\n{\"hi")]
    {
        let store = scene.store(&format!("memory-{}", bytes.len()));
        fs::write(store.state().join("state.json"), bytes).expect("room");
        let program = store.start();
        judge(&format!("state.json is {name}"), &program, 41, &["MemoryLost"]);
        // The order of bundles is known from those that are there.
        let old = policy("a.example", scene.origin.address);
        store.put(&scene.chain.bundle(40, &old, "ci", &[]));
        assert_eq!(condition(&program, "Rejected", "40 is older than 41"), "OldSequence");
        comes_again(&program, &store, &good, Then::Taken);

        let store = scene.store(&format!("bundle-{}", bytes.len()));
        fs::write(store.state().join("current/bundle.tar.gz"), bytes).expect("room");
        let program = store.start();
        let both = ["CurrentDamaged", "LkgDamaged"];
        judge(&format!("the one bundle is {name}"), &program, 0, &both);
        let kept = fs::read_dir(store.state().join("quarantine")).expect("a folder").flatten();
        assert_eq!(kept.count(), 1, "for someone to look at");
        comes_again(&program, &store, &good, Then::Taken);
    }
}
