//! Every fuzz target reads its whole corpus, and some mutations of it that are the same each time.
//! `cargo fuzz-all` goes on for minutes, from another seed.

use tillgate_tests::fuzz::{self, targets};

/// The corpus, and so many inputs in all.
fn replay(name: &str, runs: u64) {
    let mut target = targets::by_name(name).expect("a target of this name");
    let known = fuzz::corpus(&*target).len();
    assert!(known >= 20, "{known} inputs of {name}");
    let report = fuzz::run(&mut *target, 1, |done| done < runs);
    if let Some((input, why)) = report.finding {
        panic!("{name}: {why}\n{:?}", String::from_utf8_lossy(&input));
    }
    assert!(report.runs >= runs && report.ways > 10, "{report:?}");
}

#[test]
fn names_in_hellos() {
    replay("sni", 20_000);
}

#[test]
fn headers_of_proxies() {
    replay("proxy-header", 20_000);
}

#[test]
fn policies() {
    replay("policy", 800);
}

#[test]
fn requests_that_are_rewritten() {
    replay("request", 1_500);
}

#[test]
fn manifests_of_images() {
    replay("manifest", 20_000);
}
