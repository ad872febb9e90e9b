//! How long a fleet takes: one store from text to effective config, and all stores to digests.
//!
//! The fleet is generated in memory: shared documents with selectors by region, size, line and
//! ring, and stores with those labels, so that thousands of different selections come together.
//! What is measured is what `tillgate compile --all-stores` does, reading of files left out.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use tillgate_config::fleet::{Fleet, Source};

use crate::say;
use crate::stats::{Spread, real};
use crate::sys::{NANOS_PER_SEC, Nanos, now, process_cpu};
use crate::verdict::Demands;

/// Stores in one file, as a generator from an inventory would write them.
const STORES_A_FILE: usize = 500;
/// Runs of the compilation of one store; the median counts.
const RUNS: usize = 51;
const REGIONS: usize = 40;
const HEAD: &str = "---\napiVersion: tillgate.dev/v1alpha1\nkind: ";

/// What one store's documents may take from text to effective config.
const STORE_MAX_MS: f64 = 20.0;
/// What the whole fleet may take on two cores, and what is aimed at.
const FLEET_MAX_SECONDS: f64 = 60.0;
const FLEET_AIM_SECONDS: f64 = 20.0;

/// Arguments of `lab fleet`.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct FleetArgs {
    /// Stores.
    #[arg(long, default_value_t = 60_000)]
    stores: usize,
    /// Documents that a store's config is made of.
    #[arg(long, default_value_t = 200)]
    documents: usize,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Runs of the whole fleet; the median counts.
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

/// What something took, in seconds: on the wall, and of all processors together.
#[derive(Clone, Copy)]
struct Took {
    wall: f64,
    cpu: f64,
}

/// What was measured.
struct Figures {
    store: Vec<Took>,
    fleet: Vec<Took>,
}

/// Does `work`; what it gives, and what it took.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Took) {
    let (wall, cpu) = (now(), process_cpu());
    let done = work();
    let seconds = |from: Nanos, to: Nanos| real(to.saturating_sub(from)) / real(NANOS_PER_SEC);
    (done, Took { wall: seconds(wall, now()), cpu: seconds(cpu, process_cpu()) })
}

/// Of each the wall's spread, and the median of the processors', both times `unit`.
fn spread(all: &[Took], unit: f64) -> (Spread, f64) {
    let cpu = Spread::of(all.iter().map(|took| took.cpu * unit)).median;
    (Spread::of(all.iter().map(|took| took.wall * unit)), cpu)
}

/// Runs both measurements and judges.
pub(crate) fn run(args: &FleetArgs) -> Result<()> {
    let demands = judge(&measure(args)?);
    say!("peak memory {} MiB", peak_mib()?);
    demands.tell();
    ensure!(demands.hold(), "compiling takes too long");
    Ok(())
}

fn measure(args: &FleetArgs) -> Result<Figures> {
    let shared = Source { file: "shared.yaml".to_owned(), text: shared(args.documents) };
    let store = one_store(&shared)?;
    let mut sources = vec![shared];
    for first in (0..args.stores).step_by(STORES_A_FILE) {
        let last = args.stores.min(first + STORES_A_FILE);
        let text = (first..last).map(self::store).collect();
        sources.push(Source { file: format!("stores-{first}.yaml"), text });
    }
    let mut fleet = Vec::new();
    for _ in 0..args.runs.max(1) {
        fleet.push(whole(&sources, args.threads)?);
    }
    Ok(Figures { store, fleet })
}

/// All stores, from text to digests.
fn whole(sources: &[Source], threads: usize) -> Result<Took> {
    let ((fleet, report), read) = timed(|| Fleet::read(sources, threads));
    ensure!(report.errors.is_empty(), "{report}");
    let (survey, compiled) = timed(|| fleet.survey(threads));
    ensure!(survey.report.errors.is_empty(), "{}", survey.report);
    let counts: usize = survey.counts.iter().sum();
    say!(
        "{} stores x {} documents (of {} shared ones, in {} selections), {threads} threads: read \
         and check {:.1} s, compile and digest {:.1} s",
        survey.stores.len(),
        counts / survey.stores.len().max(1),
        fleet.documents().len(),
        survey.groups,
        read.wall,
        compiled.wall
    );
    Ok(Took { wall: read.wall + compiled.wall, cpu: read.cpu + compiled.cpu })
}

/// One store with all of its documents, from text to effective config, again and again.
fn one_store(shared: &Source) -> Result<Vec<Took>> {
    let sources = [shared.clone(), Source { file: "store.yaml".to_owned(), text: store(7) }];
    let mut times = Vec::new();
    let mut documents = 0;
    for _ in 0..RUNS {
        let ((fleet, report, checked), took) = timed(|| {
            let (fleet, report) = Fleet::read(&sources, 1);
            let checked = fleet.compile("store-00007");
            (fleet, report, checked)
        });
        times.push(took);
        ensure!(report.errors.is_empty(), "{report}");
        let checked = checked.map_err(anyhow::Error::msg)?;
        checked.effective.with_context(|| checked.report.to_text())?;
        documents = fleet.documents().len();
    }
    say!("one store, {documents} documents read, one thread, {RUNS} times");
    Ok(times)
}

fn judge(figures: &Figures) -> Demands {
    let mut demands = Demands::default();
    let (store, cpu) = spread(&figures.store, 1e3);
    demands.add(
        store.median <= STORE_MAX_MS,
        format!(
            "one store compiles in {:.1} ms ({STORE_MAX_MS}), median of {} from {:.1} to {:.1}; \
             {cpu:.1} ms of processor time",
            store.median,
            figures.store.len(),
            store.low,
            store.high
        ),
    );
    let (fleet, cpu) = spread(&figures.fleet, 1.0);
    let aim = if fleet.median <= FLEET_AIM_SECONDS { "met" } else { "missed" };
    demands.add(
        fleet.median <= FLEET_MAX_SECONDS,
        format!(
            "the fleet compiles in {:.1} s ({FLEET_MAX_SECONDS}; the aim of {FLEET_AIM_SECONDS} is \
             {aim}), median of {} from {:.1} to {:.1}; {cpu:.1} s of processor time",
            fleet.median,
            figures.fleet.len(),
            fleet.low,
            fleet.high
        ),
    );
    demands
}

/// Documents of which about `count` apply to each store: half of them backends and their routes,
/// some of them with a variant for each region.
fn shared(count: usize) -> String {
    let mut text = format!(
        "{HEAD}Bundle\nmetadata: {{name: bench}}\nspec: {{schemaVersion: v1alpha1, \
         minGatewayVersion: \"0.1.0\"}}\n"
    );
    for (wan, precedence) in [("fibre", 0), ("lte", 1)] {
        let metered = wan == "lte";
        let _ = write!(
            text,
            "{HEAD}LinkPolicy\nmetadata: {{name: {wan}}}\nspec:\n  precedence: {precedence}\n  \
             storeSelector: {{matchLabels: {{wan: {wan}}}}}\n  links: [{{name: primary, role: \
             Primary, metered: {metered}, capacityFrom: Store}}]\n"
        );
    }
    for region in 0..REGIONS {
        let _ = write!(
            text,
            "{HEAD}EgressPolicy\nmetadata: {{name: region-{region}}}\nspec:\n  storeSelector: \
             {{underPaths: [/geo/r{region}]}}\n  trafficPolicy: Deny\n  rules:\n    - name: \
             payments\n      destinations: [{{hostnames: [pay{region}.example], \
             ports: [443]}}]\n      trafficClass: payment\n"
        );
    }
    text.push_str(CHANGES);
    // Some thirty are there already for each store.
    for number in 0..count.saturating_sub(8) / 2 {
        service(&mut text, number);
    }
    text
}

/// A backend and its route; every tenth only for one size of store.
fn service(text: &mut String, number: usize) {
    let selector = match number % 10 {
        0 => format!("  storeSelector: {{matchLabels: {{size: s{}}}}}\n", number / 10 % 3),
        _ => String::new(),
    };
    let _ = write!(
        text,
        "{HEAD}Backend\nmetadata: {{name: b{number:03}}}\nspec:\n{selector}  location: Cloud\n  \
         protocol: HTTP2\n  endpoints:\n    - fqdn: {{hostname: b{number}.api.example, \
         port: 443}}\n    - fqdn: {{hostname: b{number}-dr.api.example, port: 443}}\n  tls: \
         {{mode: Simple}}\n\
         {HEAD}ServiceRoute\nmetadata: {{name: r{number:03}}}\nspec:\n{selector}  hostnames: \
         [s{number}.internal]\n  trafficClass: pos-interactive\n  rules:\n    - name: call\n      \
         matches: [{{path: {{type: PathPrefix, value: /v1}}, method: POST}}]\n      timeouts: \
         {{request: 800ms, backendRequest: 350ms}}\n      backendRefs: \
         [{{name: b{number:03}}}]\n    - name: files\n      matches: [{{path: \
         {{type: PathPrefix, value: /files}}}}]\n      \
         trafficClass: default\n      timeouts: {{request: 10m}}\n      backendRefs: [{{name: \
         b{number:03}}}]\n"
    );
}

/// Windows, a freeze, a rollout.
const CHANGES: &str = "\
---
apiVersion: tillgate.dev/v1alpha1
kind: ChangeWindow
metadata: {name: closed}
spec:
  effect: Allow
  appliesTo: {rollouts: [\"*\"]}
  timeZone: Store
  schedule: {storeHours: {state: Closed, afterClose: 30m, beforeOpen: 1h30m}}
---
apiVersion: tillgate.dev/v1alpha1
kind: ChangeWindow
metadata: {name: weekend}
spec:
  effect: Deny
  appliesTo: {rollouts: [\"*\"]}
  timeZone: Store
  schedule: {weekly: [{days: [Fri, Sat], start: \"16:00\", end: \"09:00\"}]}
---
apiVersion: tillgate.dev/v1alpha1
kind: Freeze
metadata: {name: black-friday}
spec:
  appliesTo: {rollouts: [\"*\"]}
  from: \"2026-11-20T00:00:00\"
  until: \"2026-12-01T06:00:00\"
  timeZone: Store
  reason: Black Friday
---
apiVersion: tillgate.dev/v1alpha1
kind: Rollout
metadata: {name: apps}
spec:
  artifacts: [{registry: registry.example, repositories: [\"pos/**\"]}]
  trafficClass: image-pull
  release:
    name: pos-1
    images:
      - repository: pos/checkout
        digest: sha256:9a8b7c6d5e4f3a2b1c0d9e8f7a6b5c4d3e2f1a0b9c8d7e6f5a4b3c2d1e0f9a8b
  rings:
    - {name: lab, storeSelector: {matchLabels: {ring: r0}}, ignoreWindows: true}
    - {name: pilot, storeSelector: {matchLabels: {ring: r1}}}
    - {name: broad, storeSelector: {}, ramp: {over: 72h}}
  promotion: {mode: Signed}
";

/// Store `number`, with labels that follow from it.
fn store(number: usize) -> String {
    let zone = ["Europe/Oslo", "Europe/Helsinki", "America/New_York", "Asia/Tokyo"][number % 4];
    let wan = if number.is_multiple_of(5) { "lte" } else { "fibre" };
    let (region, size, ring) = (number % REGIONS, number % 3, number % 7 % 3);
    let (up, down) = (5 + number % 90, 20 + number % 300);
    format!(
        "{HEAD}Store\nmetadata:\n  name: store-{number:05}\n  labels: {{storeId: \"{number:05}\", \
         size: s{size}, ring: r{ring}, wan: {wan}}}\nspec:\n  memberOf: [/geo/r{region}/c{}, \
         /org/corporate]\n  timeZone: {zone}\n  hours:\n    weekly:\n      - {{days: [Mon, Tue, \
         Wed, Thu, Fri], open: \"10:00\", close: \"20:00\"}}\n      - {{days: [Sat], \
         open: \"10:00\", \
         close: \"18:00\"}}\n  links:\n    - {{name: primary, capacity: {{up: {up}Mbit/s, down: \
         {down}Mbit/s}}}}\n",
        number % 11
    )
}

/// The most memory that this process has held.
fn peak_mib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("no /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.unwrap_or(0) / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_fleet_is_right() {
        let args = FleetArgs { stores: 130, documents: 30, threads: 2, runs: 2 };
        let figures = measure(&args).unwrap();
        assert_eq!((figures.store.len(), figures.fleet.len()), (RUNS, 2));
    }

    #[test]
    fn what_takes_too_long_is_missed() {
        let took = |seconds: f64| Took { wall: seconds, cpu: 0.0 };
        let holds = |store: f64, fleet: &[f64]| {
            let fleet = fleet.iter().copied().map(took).collect();
            let store = [1.0, store, 90.0].map(|millis: f64| took(millis / 1e3)).to_vec();
            judge(&Figures { store, fleet }).hold()
        };
        assert!(holds(19.0, &[59.0, 10.0, 90.0]));
        assert!(!holds(21.0, &[10.0]));
        assert!(!holds(1.0, &[61.0, 10.0, 90.0]));
    }
}
