//! Questions that a server holds (`Prefer: wait`): a new policy comes with the answer to a question
//! that was asked before it was there; and a server that only says that it holds is not asked in a
//! loop.

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tillgate_tests::chain::Chain;
use tillgate_tests::follower::{answers, applied, start};
use tillgate_tests::origin::Origin;
use tillgate_tests::program::policy;
use tillgate_tests::wire::Wire;
use tillgate_tests::{PATIENCE, eventually, now};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tillgate-process");
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Longer than the test: what comes in time was not asked for anew.
const HOLD: &str = "interval: 1h, longPoll: 5m, timeout: 30s, spread: 0s";

/// What a server has, and what it was asked.
#[derive(Default)]
struct Desk {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    sequence: u64,
    bundle: Vec<u8>,
    asked: Vec<Instant>,
    /// The number of each question that was answered with a bundle, and which.
    given: Vec<(usize, u64)>,
    /// It answers at once, and says that it has held the question.
    lies: bool,
}

impl Desk {
    fn publish(&self, sequence: u64, bundle: Vec<u8>) {
        let mut inner = self.inner.lock().expect("no panic");
        (inner.sequence, inner.bundle) = (sequence, bundle);
        self.changed.notify_all();
    }

    fn asked(&self) -> Vec<Instant> {
        self.inner.lock().expect("no panic").asked.clone()
    }

    fn serve(&self, mut wire: Wire) {
        while wire.waits_for_more() {
            let question = wire.reply();
            let mut inner = self.inner.lock().expect("no panic");
            inner.asked.push(now());
            let number = inner.asked.len();
            let has = question.header("if-none-match").map(str::to_owned);
            let held = question.header("prefer") == Some("wait=300");
            let news = |inner: &Inner| has.as_ref() != Some(&tag(inner.sequence));
            if held && !inner.lies {
                let waited = self.changed.wait_timeout_while(inner, PATIENCE, |inner| !news(inner));
                inner = waited.expect("no panic").0;
            }
            let fields = format!(
                "ETag: {}\r\n{}",
                tag(inner.sequence),
                if held { "Preference-Applied: wait=300\r\n" } else { "" }
            );
            if news(&inner) {
                let given = (number, inner.sequence);
                inner.given.push(given);
                let length = inner.bundle.len();
                wire.send(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {length}\r\n\r\n"));
                wire.send(&inner.bundle);
            } else {
                wire.send(format!("HTTP/1.1 304 Not Modified\r\n{fields}\r\n"));
            }
        }
    }
}

fn tag(sequence: u64) -> String {
    format!("\"{sequence}\"")
}

/// A server of `desk`, and the source that asks it.
fn served(desk: &Arc<Desk>) -> (Origin, String) {
    let desk = Arc::clone(desk);
    let server = Origin::start(move |wire, _| desk.serve(wire));
    let source = format!(
        "{{name: central, type: HTTPBundle, url: \"http://{}/0412\", {HOLD}}}",
        server.address
    );
    (server, source)
}

#[test]
fn a_policy_comes_with_the_question_that_was_held_for_it() {
    let (chain, origin) = (Chain::new("wait"), Origin::answering(OK));
    let bundle =
        |sequence, host: &str| chain.bundle(sequence, &policy(host, origin.address), "ci", &[]);
    let desk = Arc::<Desk>::default();
    desk.publish(1, bundle(1, "a.example"));
    let (_server, source) = served(&desk);
    let program = start(PROGRAM, chain.bootstrap(&[source], ""), |_| {});
    applied(&program, 1);
    for sequence in 2..=4 {
        let number = usize::try_from(sequence).expect("a small number");
        eventually("the next question is held", || (desk.asked().len() == number).then_some(()));
        desk.publish(sequence, bundle(sequence, &format!("host-{sequence}.example")));
        applied(&program, sequence);
        answers(&program, &format!("host-{sequence}.example"), 200);
    }
    let given = desk.inner.lock().expect("no panic").given.clone();
    assert_eq!(given, [(1, 1), (2, 2), (3, 3), (4, 4)]);
}

#[test]
fn a_server_that_does_not_hold_is_not_asked_in_a_loop() {
    let (chain, origin) = (Chain::new("wait-not"), Origin::answering(OK));
    let desk = Arc::<Desk>::default();
    desk.publish(1, chain.bundle(1, &policy("a.example", origin.address), "ci", &[]));
    desk.inner.lock().expect("no panic").lies = true;
    let (_server, source) = served(&desk);
    let program = start(PROGRAM, chain.bootstrap(&[source], ""), |_| {});
    applied(&program, 1);
    let asked = eventually("six questions", || Some(desk.asked()).filter(|one| one.len() >= 6));
    // A second between two of them; the first may have been late.
    let took = asked[5].duration_since(asked[0]);
    assert!(took >= Duration::from_secs(4), "{took:?}");
}
