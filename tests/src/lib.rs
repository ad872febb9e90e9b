//! The harness of the end-to-end tests: a whole gateway in this process, servers and clients
//! that send exactly the bytes (or, for HTTP/2, the frames) a test wants.
//!
//! [`store`] makes effective configs by hand, [`gateway`] runs them with real sockets on ports
//! of the kernel's choice, [`origin`] answers byte by byte, [`wire`] asks byte by byte, [`tls`]
//! issues certificates and puts TLS on a wire; [`fuzz`] tries what nobody thought of. Whoever
//! waits, waits for a condition, at most [`PATIENCE`]; who is slow because that is what is tested
//! says so with [`dawdle`]. Nothing else sleeps.

pub mod chain;
pub mod cluster;
pub mod collector;
pub mod endpoint;
pub mod follower;
pub mod frames;
pub mod fuzz;
pub mod gateway;
pub mod git;
pub mod h2;
pub mod hammer;
pub mod machine;
pub mod metered;
pub mod mirror;
pub mod moody;
pub mod operated;
pub mod origin;
pub mod ports;
pub mod program;
pub mod registry;
pub mod store;
pub mod tls;
pub mod wire;

use std::time::{Duration, Instant};

/// How long a test waits for something that must happen. Nothing takes that long on a working
/// machine; a slower one changes this number alone.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Waits until `condition` gives something.
///
/// # Panics
/// If it does not within [`PATIENCE`]; `what` says what was waited for.
#[track_caller]
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Is slow on purpose, as people and servers are: how the product bears that is what is tested.
/// Never a wait for something to happen, which is [`eventually`].
pub fn dawdle(time: Duration) {
    std::thread::sleep(time);
}

/// Says aloud that a test does not run here, for want of `what`.
///
/// # Panics
/// Where `CI` is set: what the tests need is installed there.
#[track_caller]
#[allow(clippy::print_stderr, reason = "a test that does not run says so")]
pub fn skipped(what: &str) {
    eprintln!("SKIPPED: {what}");
    assert!(std::env::var_os("CI").is_none(), "a skip is a failure here: {what}");
}

/// The clock of the tests.
#[allow(clippy::disallowed_methods, reason = "tests measure the product from outside")]
pub fn now() -> Instant {
    Instant::now()
}
