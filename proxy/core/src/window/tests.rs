//! Properties of the window allocator over simulated minutes: the sum of all windows stays under
//! its bound (but for one least window per class), a window is never too small to work, more share
//! means no smaller a window, nobody changes state twice within a turn, everybody gets turns, and
//! over twenty seconds turns are fair.

use proptest::prelude::*;

use super::*;

#[expect(clippy::disallowed_methods, reason = "no other way to make an instant; used as zero")]
fn epoch() -> Instant {
    Instant::now()
}

fn line(mbit: u64, rtt_ms: u64) -> WindowLine {
    let rtt = Duration::from_millis(rtt_ms);
    WindowLine { rate: BitRate::from_mbit(mbit), rtt, ack_wait: Duration::ZERO }
}

fn flow(key: u64, class: usize) -> WindowFlow {
    WindowFlow { key, class, rtt: None, busy_for: SETTLED_AFTER, want: Want::All }
}

fn lines() -> impl Strategy<Value = WindowLine> {
    (1u64..200, 1u64..650, 0u64..20).prop_map(|(mbit, rtt, ack)| WindowLine {
        ack_wait: Duration::from_millis(ack),
        ..line(mbit, rtt)
    })
}

/// Up to three classes with a share each, and flows that belong to them.
fn stores() -> impl Strategy<Value = (Vec<u64>, Vec<WindowFlow>)> {
    let shares = proptest::collection::vec(1u64..100, 1..4);
    shares.prop_flat_map(|shares| {
        let classes = shares.len();
        let flows = proptest::collection::vec((0..classes, 0u64..5_000), 1..24);
        let flows = flows.prop_map(|flows| {
            let named = (0..).zip(flows);
            named
                .map(|(key, (class, busy_ms))| WindowFlow {
                    busy_for: Duration::from_millis(busy_ms),
                    ..flow(key, class)
                })
                .collect()
        });
        (Just(shares), flows)
    })
}

fn class_rates(line: WindowLine, shares: &[u64]) -> Vec<BitRate> {
    let total: u64 = shares.iter().sum();
    shares.iter().map(|share| line.rate.scale(*share, total)).collect()
}

proptest! {
    #[test]
    fn the_sum_is_bounded_and_every_window_works(line in lines(), store in stores()) {
        let (shares, flows) = store;
        let rates = class_rates(line, &shares);
        let mut allocator = WindowAllocator::default();
        let start = epoch();
        for tenth in 0..30u32 {
            let plans = allocator.plan(line, &rates, &flows, start + tenth * TURN / 10);
            prop_assert_eq!(plans.len(), flows.len());
            let open = plans.iter().filter(|plan| !plan.parked);
            let sum: u64 = open.clone().map(|plan| plan.window).sum();
            let least = WINDOW_MIN * u64::try_from(open.count()).unwrap();
            prop_assert_eq!(sum, allocator.window_sum());
            let most = window_sum_max(line);
            // Nobody can have less than the least window, and every class has at least one turn.
            let classes = WINDOW_MIN * u64::try_from(shares.len()).unwrap();
            prop_assert!(sum <= most || sum == least, "{} of {}", sum, most);
            prop_assert!(least <= most + classes, "{} of {}", least, most);
            for plan in &plans {
                prop_assert!(plan.window >= WINDOW_MIN);
            }
        }
    }

    #[test]
    fn a_larger_share_is_no_smaller_a_window(
        line in lines(), shares in (1u64..100, 1u64..100), rtt_ms in 1u64..600,
    ) {
        let rates = class_rates(line, &[shares.0, shares.1]);
        let rtt = Some(Duration::from_millis(rtt_ms));
        let flows = [WindowFlow { rtt, ..flow(1, 0) }, WindowFlow { rtt, ..flow(2, 1) }];
        let plans = WindowAllocator::default().plan(line, &rates, &flows, epoch());
        let more_first = (plans[0].window >= plans[1].window) == (shares.0 >= shares.1);
        prop_assert!(more_first || plans[0].window == plans[1].window, "{:?}", plans);
    }

    #[test]
    fn nobody_flips_twice_within_a_turn_and_everybody_has_one(
        line in lines(), store in stores(), step_ms in 20u64..400,
    ) {
        let (shares, flows) = store;
        let rates = class_rates(line, &shares);
        let mut allocator = WindowAllocator::default();
        let start = epoch();
        let mut changed: BTreeMap<u64, (bool, Instant)> = BTreeMap::new();
        let mut last_turn: BTreeMap<u64, Instant> = BTreeMap::new();
        let step = Duration::from_millis(step_ms);
        let rounds = u32::try_from(flows.len()).unwrap() + 1;
        let mut now = start;
        while now < start + (TURN + step) * rounds * 2 {
            for plan in allocator.plan(line, &rates, &flows, now) {
                if let Some((parked, since)) = changed.get(&plan.key).copied()
                    && parked != plan.parked
                {
                    // A flow that never had a turn has not flipped yet.
                    let first = since == start && parked;
                    prop_assert!(first || now - since >= TURN, "flow {} flaps", plan.key);
                    changed.insert(plan.key, (plan.parked, now));
                }
                changed.entry(plan.key).or_insert((plan.parked, now));
                if !plan.parked {
                    last_turn.insert(plan.key, now);
                }
                let waited = now - last_turn.get(&plan.key).copied().unwrap_or(start);
                prop_assert!(waited <= (TURN + step) * rounds, "flow {} starves", plan.key);
            }
            now += step;
        }
    }
}

#[test]
fn over_twenty_seconds_turns_are_fair() {
    let line = line(2, 40);
    let flows: Vec<WindowFlow> = (0..5).map(|key| flow(key, 0)).collect();
    let mut allocator = WindowAllocator::default();
    let start = epoch();
    let mut turns = [0u64; 5];
    for tenth in 0..200u32 {
        let now = start + tenth * Duration::from_millis(100);
        for (plan, turns) in allocator.plan(line, &[line.rate], &flows, now).iter().zip(&mut turns)
        {
            *turns += u64::from(!plan.parked);
        }
    }
    assert!(allocator.parked() > 0, "five flows fit a line of 2 Mbit/s: the test tests nothing");
    let (sum, squares): (u64, u64) = (turns.iter().sum(), turns.iter().map(|t| t * t).sum());
    let jain = sum * sum * 1_000 / (5 * squares);
    assert!(jain >= 900, "Jain index {jain} of a thousand: {turns:?}");
}

#[test]
fn a_lone_survivor_gets_the_whole_line() {
    let line = line(50, 40);
    let flows: Vec<WindowFlow> = (0..4).map(|key| flow(key, 0)).collect();
    let mut allocator = WindowAllocator::default();
    let start = epoch();
    let four = allocator.plan(line, &[line.rate], &flows, start)[0].window;
    let one = allocator.plan(line, &[line.rate], &flows[..1], start + TURN)[0].window;
    let product = line.rate.bytes_in(line.rtt);
    assert!(four < product / 2, "a quarter of the line, not {four} of {product}");
    assert!(one >= product, "{one} cannot carry {product}");
    assert!(one <= window_sum_max(line));
}
