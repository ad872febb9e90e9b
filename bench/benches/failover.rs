//! What the healthy path pays for failover: the choice of an endpoint, and the record of how the
//! call went. Everything a request does when nothing is wrong; it must stay below a microsecond.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tillgate_core::backend::{BackendId, Endpoint, Host};
use tillgate_core::failover::{BackendLayout, Board, Layout, RuleLayout, Trip, Wiring};
use tillgate_core::health::Outcome;
use tillgate_core::load::Verdict;
use tillgate_core::matching::BackendRef;

/// A local tier and a cloud tier of so many endpoints each, in the numbers of the defaults.
fn wiring(endpoints: u16, now: Instant) -> Wiring {
    let policy = include_str!("failover.yaml");
    let effective = tillgate_config::load_text("failover.yaml", policy).expect("a valid policy");
    let rule = &effective.routes.rules[0];
    let backend = |place: u16| {
        let spec = effective.backend(rule.tiers[usize::from(place)][0].backend);
        let host = Host::Ip([127, 0, 0, 1].into());
        let endpoint = |port: u16| Endpoint { host: host.clone(), port: 9000 + port };
        BackendLayout {
            name: spec.name.clone(),
            endpoints: (0..endpoints).map(endpoint).collect(),
            health: Arc::clone(&spec.health),
            line: None,
        }
    };
    let reference = |place: u16| vec![BackendRef { backend: BackendId(place), weight: 1 }];
    let layout = Layout {
        backends: vec![backend(0), backend(1)],
        rules: vec![RuleLayout {
            name: (rule.route.clone(), rule.name.clone()),
            tiers: vec![reference(0), reference(1)],
            failover: rule.failover.clone(),
            budget: rule.retry.budget,
        }],
    };
    Board::new(7, now).follow(&layout, now)
}

fn healthy_path(criterion: &mut Criterion) {
    let policy = include_str!("failover.yaml");
    let effective = tillgate_config::load_text("failover.yaml", policy).expect("a valid policy");
    let retry = &effective.routes.rules[0].retry;
    let headers = http::HeaderMap::new();
    let mut group = criterion.benchmark_group("pick and record");
    for endpoints in [1, 2, 8, 64] {
        #[allow(clippy::disallowed_methods, reason = "the first instant of a simulated clock")]
        let mut now = Instant::now();
        let wiring = wiring(endpoints, now);
        let plan = &wiring.plans[0];
        let mut draw = 1_u64;
        group.bench_function(BenchmarkId::from_parameter(endpoints), |bencher| {
            bencher.iter(|| {
                draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                now += Duration::from_micros(50);
                let repeat = retry.repeat(&http::Method::POST, &headers);
                let mut trip = Trip::new(plan, retry, repeat);
                let choice = trip.begin(draw, now).expect("an endpoint");
                let load = plan.load(choice);
                load.enter();
                // The answer.
                let outcome = Outcome::of_status(black_box(http::StatusCode::OK));
                if outcome == Outcome::Good {
                    load.answered(Duration::from_micros(900), now);
                    load.succeeded();
                }
                load.leave();
                black_box(load.verdict() == Verdict::Usable)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, healthy_path);
criterion_main!(benches);
