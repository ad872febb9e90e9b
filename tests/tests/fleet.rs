//! Fleets from outside: the example with all kinds, what breaks it, and what must hold for any
//! set of stores.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tillgate_config::fleet::{Fleet, Source};
use tillgate_config::scalar::{Instant, Text as _};
use tillgate_config::{Effective, Report};
use tillgate_core::civil::{Interval, Timestamp};
use tillgate_core::gate::{Ask, Clock, Holding, StoreState, Verdict};

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/examples/fleet")
}

/// The files of the example's policy, by their names in it.
fn sources() -> Vec<Source> {
    fn collect(folder: &Path, found: &mut Vec<Source>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else {
                let file = path.strip_prefix(example()).unwrap().display().to_string();
                found.push(Source { file, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    let mut found = Vec::new();
    collect(&example().join("policy"), &mut found);
    found.sort_by(|a, b| a.file.cmp(&b.file));
    found
}

fn read(sources: &[Source]) -> (Fleet, Report) {
    let (fleet, mut report) = Fleet::read(sources, 2);
    let mut survey = fleet.survey(2);
    report.append(std::mem::take(&mut survey.report));
    report.sort();
    (fleet, report)
}

fn good() -> Fleet {
    let (fleet, report) = read(&sources());
    assert!(report.is_empty(), "{report}");
    fleet
}

fn effective(fleet: &Fleet, store: &str) -> Effective {
    let checked = fleet.compile(store).unwrap();
    checked.effective.unwrap_or_else(|| panic!("{}", checked.report))
}

fn at(text: &str) -> Timestamp {
    Instant::read(text).unwrap().0
}

#[test]
fn the_example_is_right_and_every_store_has_the_digest_of_the_survey() {
    let fleet = good();
    assert_eq!(fleet.stores().len(), 5);
    for one in fleet.survey(1).stores {
        let config = effective(&fleet, &one.store);
        assert_eq!(one.digest.as_deref(), Some(&*config.digest), "{}", one.store);
        for path in config.paths() {
            assert!(config.origin(&path).is_some(), "{}: where does {path} come from?", one.store);
        }
    }
    assert_eq!(effective(&fleet, "0977").store, effective(&fleet, "store-0977").store);
    assert!(fleet.find("store-0413").unwrap_err().contains("`store-0412`"));
    let of_lte = effective(&fleet, "0977");
    assert_eq!(&*of_lte.links[0].name, "primary");
    assert!(of_lte.links[0].metered && of_lte.links.len() == 1);
}

/// The published vectors, from the text of a policy to moments.
#[test]
fn stores_are_closed_and_frozen_as_published() {
    let fleet = good();
    let closed = |store: &str, from: &str, until: &str| {
        let config = effective(&fleet, store);
        let within = Interval::new(at(from), at(until));
        let entries = config.gate.calendar(within);
        let show = |one: &Interval| format!("{} {}", one.from, one.until);
        let of = |name: &str| -> Vec<String> {
            let entry = entries.iter().find(|entry| entry.document == name).unwrap();
            entry.intervals.iter().map(show).collect()
        };
        (of("ChangeWindow/closed-hours"), of("Freeze/black-friday-2026"))
    };
    let (hours, _) = closed("store-0412", "2026-11-15T23:00:00Z", "2026-11-18T23:00:00Z");
    assert_eq!(
        hours,
        [
            "2026-11-15T23:00:00Z 2026-11-16T07:30:00Z",
            "2026-11-16T19:30:00Z 2026-11-17T07:30:00Z",
            "2026-11-17T19:30:00Z 2026-11-18T07:30:00Z",
            "2026-11-18T19:30:00Z 2026-11-18T23:00:00Z",
        ]
    );
    let (hours, _) = closed("store-0977", "2026-11-15T23:00:00Z", "2026-11-18T23:00:00Z");
    assert_eq!(
        hours,
        [
            "2026-11-15T23:00:00Z 2026-11-16T07:30:00Z",
            "2026-11-16T17:30:00Z 2026-11-17T07:30:00Z",
            "2026-11-17T17:30:00Z 2026-11-18T07:30:00Z",
            "2026-11-18T17:30:00Z 2026-11-18T23:00:00Z",
        ]
    );
    let (hours, _) = closed("store-2001", "2026-11-15T22:00:00Z", "2026-11-18T22:00:00Z");
    assert_eq!(
        hours,
        ["2026-11-17T01:00:00Z 2026-11-17T03:00:00Z", "2026-11-18T01:00:00Z 2026-11-18T03:00:00Z",]
    );
    for (store, freeze) in [
        ("store-0412", "2026-11-19T23:00:00Z 2026-12-01T05:00:00Z"),
        ("store-0977", "2026-11-19T23:00:00Z 2026-12-01T05:00:00Z"),
        ("store-2001", "2026-11-19T22:00:00Z 2026-12-01T04:00:00Z"),
    ] {
        let (_, found) = closed(store, "2026-11-01T00:00:00Z", "2026-12-31T00:00:00Z");
        assert_eq!(found, [freeze], "{store}");
    }
}

#[test]
fn rings_ramps_and_overrides_reach_the_stores_they_name() {
    let fleet = good();
    let ask = Ask {
        registry: "registry.fjordmart.example",
        repository: "pos/checkout",
        digest: "sha256:9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a0b9c8d7e6f5a4b3c2d1e0f9a8b",
        holding: Holding::New,
        store: StoreState::Running,
    };
    let stands = |store: &str, moment: &str| {
        let gate = effective(&fleet, store).gate.verified(|_, _, _| true);
        match gate.verdict(&ask, Clock::Synced, at(moment)) {
            Verdict::Open(_) => "open".to_owned(),
            Verdict::Held(held) => {
                held.held_by.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            }
            other @ (Verdict::Prohibited(_) | Verdict::Kept(_) | Verdict::Unknown(_)) => {
                format!("{other:?}")
            }
        }
    };
    assert_eq!(stands("store-9001", "2026-11-18T12:00:00Z"), "open", "the lab waits for nobody");
    assert_eq!(stands("store-0412", "2026-11-18T20:00:00Z"), "open", "promoted, and closed");
    assert_eq!(stands("store-0977", "2026-11-18T20:00:00Z"), "Ring/broad");
    let night = "2026-11-27T22:00:00Z";
    assert_eq!(stands("store-0412", night), "open", "the override");
    let others = "Freeze/black-friday-2026 ChangeWindow/no-weekend-nights";
    assert_eq!(stands("store-9001", night), others);
    let gate = effective(&fleet, "store-3105").gate;
    let vision = Ask { repository: "vision/face-analytics", ..ask };
    let verdict = gate.verdict(&vision, Clock::Synced, at(night));
    assert!(matches!(verdict, Verdict::Prohibited(_)));
    // What was signed does not depend on how it is written.
    let signed = &effective(&fleet, "0412").gate.overrides[0].signed;
    assert!(signed.content.starts_with("{\"apiVersion\":\"tillgate.dev/v1alpha1\",\"kind\":"));
    assert!(!signed.content.contains("signature") && signed.content.contains("CHG-77120"));
}

/// A slip: where, what it was, what it is.
struct Slip(&'static str, &'static str, &'static str);

include!("../policy/fleet_slips.rs");

#[test]
fn every_slip_is_refused_with_its_place() {
    assert!(SLIPS.len() >= 75, "{}", SLIPS.len());
    let mut told = String::new();
    for (number, Slip(file, was, is)) in SLIPS.iter().enumerate() {
        let mut sources = sources();
        let name = format!("policy/{file}");
        let source = sources.iter_mut().find(|one| one.file == name).expect(file);
        assert!(source.text.contains(was), "{name} has no {was}");
        source.text = source.text.replacen(was, is, 1);
        let (fleet, report) = read(&sources);
        assert!(!report.errors.is_empty(), "accepted: {name}: {was} -> {is}");
        for error in &report.errors {
            let place = error.place.as_ref();
            assert!(place.is_some(), "{name}: {is}: no place: {}", error.message);
        }
        let _ = writeln!(told, "### {number}: {file}: {was:?} -> {is:?}\n");
        told.push_str(&report.to_text());
        let stores = fleet.survey(2).stores;
        let broken = stores.iter().filter(|one| one.digest.is_none()).count();
        let _ = writeln!(told, "{} stores without a config\n", broken);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("policy/fleet_slips.txt");
    if std::env::var_os("TILLGATE_BLESS").is_some() {
        fs::write(&path, &told).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    for (line, (was, is)) in (1..).zip(committed.lines().zip(told.lines())) {
        assert_eq!(was, is, "policy/fleet_slips.txt:{line}");
    }
    assert_eq!(committed.lines().count(), told.lines().count());
}

#[test]
fn what_is_wrong_for_many_stores_is_told_once() {
    let mut sources = sources();
    let links = sources.iter_mut().find(|one| one.file.ends_with("20-links.yaml")).unwrap();
    links.text = links.text.replace("name: backup, role", "name: spare, role");
    let (_, report) = read(&sources);
    assert_eq!(report.errors.len(), 1, "{report}");
    assert_eq!(report.errors[0].stores.count, 4);
    assert!(report.to_text().contains("= for 4 stores, such as store-0412"), "{report}");
}

#[test]
fn a_plan_counts_stores_and_guards_hold() {
    let old = good();
    let mut sources = sources();
    let classes = sources.iter_mut().find(|one| one.file.ends_with("10-classes.yaml")).unwrap();
    classes.text = classes.text.replace("{up: 20%, down: 15%}", "{up: 5%, down: 15%}");
    let (new, report) = read(&sources);
    assert!(report.errors.is_empty(), "{report}");
    let plan = tillgate_config::fleet::plan(&old, &new, 2);
    assert_eq!(plan.documents.len(), 1);
    assert_eq!((plan.documents[0].selects, plan.documents[0].counts), (1, 1));
    assert_eq!((plan.effects.len(), plan.unchanged), (1, 4));
    assert_eq!(plan.effects[0].changes[0].path, "classes.payment.guarantee.up");
    assert_eq!(plan.report.errors.len(), 1, "{}", plan.report);
    assert!(plan.report.errors[0].message.contains("from 20% to 5%"), "{}", plan.report);
    assert_eq!(tillgate_config::fleet::too_wide(&plan, 0).len(), 1);
    assert!(tillgate_config::fleet::plan(&old, &old, 2).effects.is_empty());
}

fn any_store() -> impl Strategy<Value = (u8, u8, u8, u16)> {
    (0..4u8, 0..3u8, 0..3u8, 1..500u16)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// What is compiled for all at once is what is compiled for one.
    #[test]
    fn the_survey_and_one_store_agree(
        stores in proptest::collection::vec(any_store(), 1..24),
        threads in 1..4usize,
    ) {
        let mut sources = sources();
        sources.retain(|source| !source.file.starts_with("policy/stores"));
        let mut text = String::new();
        for (number, (ring, country, zone, rate)) in stores.iter().enumerate() {
            let ring = ["lab", "beta", "pilot", "broad"][usize::from(*ring)];
            let country = ["\"NO\"", "DK", "FI"][usize::from(*country)];
            let zone = ["Europe/Oslo", "Europe/Helsinki", "America/New_York"][usize::from(*zone)];
            let name = format!("metadata:\n  name: s{number}\n");
            let labels = format!("  labels: {{ring: {ring}, country: {country}, wan: lte-only}}\n");
            let hours = "  hours: {weekly: [{days: [Mon], open: \"08:00\", close: \"20:00\"}]}\n";
            let capacity = format!("capacity: {{up: {rate}Mbit/s, down: 50Mbit/s}}");
            text.push_str("---\napiVersion: tillgate.dev/v1alpha1\nkind: Store\n");
            text.push_str(&name);
            text.push_str(&labels);
            text.push_str(&format!("spec:\n  timeZone: {zone}\n"));
            text.push_str(hours);
            text.push_str(&format!("  links: [{{name: primary, {capacity}}}]\n"));
        }
        sources.push(Source { file: "stores.yaml".to_owned(), text });
        let (fleet, report) = read(&sources);
        prop_assert!(report.errors.is_empty(), "{report}");
        for one in fleet.survey(threads).stores {
            let digest = effective(&fleet, &one.store).digest;
            prop_assert_eq!(one.digest, Some(digest));
        }
    }
}
