//! What a test says that cannot run on this machine, and where it must not say so. It is beside the
//! product because the harness of the end-to-end tests is made of the product.

/// Says aloud that a test does not run here, for want of `what`.
#[track_caller]
#[allow(clippy::print_stderr, reason = "a test that does not run says so")]
pub(crate) fn skipped(what: &str) {
    eprintln!("SKIPPED: {what}");
    assert!(std::env::var_os("CI").is_none(), "a skip is a failure here: {what}");
}
