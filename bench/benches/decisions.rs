//! What the decisions cost: a scheduler grant, the choice of a rule, the compilation of a policy.
//!
//! Time is simulated: the benchmark hands the scheduler its own clock, so only the decision is
//! measured and nothing ever waits.

use std::fmt::Write;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, Method};
use tillgate_core::class::Share;
use tillgate_core::matching::RequestFacts;
use tillgate_core::schedule::{ClassShare, Demand, LineRate, Scheduler};
use tillgate_core::units::{BitRate, Percent, wire_bytes};

const CLASSES: usize = 8;
/// More than any benchmark moves, so that every flow stays ready.
const ENDLESS: u64 = 1 << 50;

fn percent(value: u8) -> Percent {
    Percent::new(value).unwrap_or(Percent::FULL)
}

/// Eight classes in seven tiers on a 1 Gbit/s line, all flows of all classes saturated.
fn saturated(flows: usize, now: Instant) -> Scheduler {
    let classes: Vec<ClassShare> = (0..CLASSES)
        .map(|index| ClassShare {
            priority: [900, 800, 700, 600, 500, 400, 300, 300][index],
            weight: 1,
            guarantee: Share::Percent(percent(if index == 0 { 20 } else { 5 })),
            ceiling: Share::Percent(percent(if index == 0 { 60 } else { 100 })),
        })
        .collect();
    let capacity = BitRate::from_mbit(1_000);
    let line = LineRate { capacity, shaped: capacity.percent(percent(95)) };
    let mut scheduler = Scheduler::new(line, 0, &classes, now);
    for index in 0..flows {
        let flow = scheduler.add_flow(index % CLASSES);
        scheduler.handle_demand(Demand { flow, bytes: ENDLESS }, now);
    }
    scheduler
}

fn grants(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("grant");
    for flows in [10, 100, 1_000, 10_000] {
        #[allow(clippy::disallowed_methods, reason = "the first instant of a simulated clock")]
        let mut now = Instant::now();
        let mut scheduler = saturated(flows, now);
        // What a grant takes on the wire: the line is free again just when the next one is asked.
        let step = scheduler.line().shaped.time_for(wire_bytes(scheduler.quantum(), 0));
        group.bench_function(BenchmarkId::from_parameter(flows), |bencher| {
            bencher.iter(|| {
                now += step;
                loop {
                    if let Some(grant) = scheduler.poll_grant(now) {
                        break black_box(grant);
                    }
                    now = scheduler.poll_timeout().unwrap_or(now + Duration::from_millis(1));
                }
            });
        });
    }
    group.finish();
}

/// A policy of one store with so many services.
fn policy(services: usize) -> String {
    let mut text = String::from(
        "apiVersion: tillgate.dev/v1alpha1\nkind: Store\nmetadata: {name: store-0412}\nspec:\n  \
         timeZone: Europe/Oslo\n  links:\n    \
         - {name: primary, capacity: {up: 5Mbit/s, down: 20Mbit/s}}\n",
    );
    for number in 0..services {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "---\napiVersion: tillgate.dev/v1alpha1\nkind: Backend\nmetadata: {{name: s{number}}}\n\
             spec:\n  location: Cloud\n  protocol: HTTP\n  endpoints:\n    \
             - ip: {{address: 10.9.0.1, port: 9000}}\n\
             ---\napiVersion: tillgate.dev/v1alpha1\nkind: ServiceRoute\n\
             metadata: {{name: s{number}}}\nspec:\n  hostnames: [s{number}.example]\n  \
             trafficClass: payment\n  rules:\n    - name: all\n      \
             backendRefs: [{{name: s{number}}}]\n"
        );
    }
    text
}

fn classification(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("classify");
    for services in [3, 100, 1_000] {
        let effective =
            tillgate_config::load_text("bench.yaml", &policy(services)).expect("a valid policy");
        let host = format!("s{}.example", services - 1);
        let headers = HeaderMap::new();
        group.bench_function(BenchmarkId::new("last of", services), |bencher| {
            bencher.iter(|| {
                let facts = RequestFacts {
                    host: black_box(&host),
                    path: black_box("/pay/authorise"),
                    query: "",
                    method: &Method::POST,
                    headers: &headers,
                    client: None,
                };
                black_box(effective.routes.find(facts)).is_ok()
            });
        });
    }
    group.finish();
}

/// A route whose rules all stand on one path and differ in what else they ask for; the last
/// one is met, so that every condition is looked at.
fn conditions(criterion: &mut Criterion) {
    let mut text = policy(1);
    text.push_str(
        "---\napiVersion: tillgate.dev/v1alpha1\nkind: ServiceRoute\nmetadata: {name: api}\nspec:\n  \
         hostnames: [api.example]\n  rules:\n",
    );
    for number in 0..8 {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "    - name: lane{number}\n      matches: [{{path: {{value: /v1}}, queryParams: \
             [{{name: lane, value: \"{number}\"}}]}}]\n      backendRefs: [{{name: s0}}]\n"
        );
    }
    let effective = tillgate_config::load_text("bench.yaml", &text).expect("a valid policy");
    let headers = HeaderMap::new();
    criterion.bench_function("classify/eight rules by query", |bencher| {
        bencher.iter(|| {
            let facts = RequestFacts {
                host: black_box("api.example"),
                path: black_box("/v1/quote"),
                query: black_box("till=12&lane=7"),
                method: &Method::POST,
                headers: &headers,
                client: None,
            };
            black_box(effective.routes.find(facts)).is_ok()
        });
    });
}

fn compilation(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile");
    for services in [3, 100] {
        let text = policy(services);
        group.bench_function(BenchmarkId::new("services", services), |bencher| {
            bencher.iter(|| tillgate_config::load_text("bench.yaml", black_box(&text)).is_ok());
        });
    }
    group.finish();
}

criterion_group!(benches, grants, classification, conditions, compilation);
criterion_main!(benches);
