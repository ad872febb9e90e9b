//! Who is hungry, and what follows: stories of one flow, and simulated seconds of a store in which
//! probes, a slow reader and downloads share a line as the shell makes them share it.

use super::*;
use crate::share::{Claim, water_fill_lending};
use crate::units::MSS;
use crate::window::{WindowAllocator, WindowPlan};

/// How often the shell looks.
const TICK: Duration = Duration::from_millis(100);
/// The bound of a flow that has shown nothing.
const LEAST: Bound = Bound::Window(WINDOW_MIN);

#[expect(clippy::disallowed_methods, reason = "no other way to make an instant; used as zero")]
fn epoch() -> Instant {
    Instant::now()
}

fn line(mbit: u64) -> WindowLine {
    let rtt = Duration::from_millis(40);
    WindowLine { rate: BitRate::from_mbit(mbit), rtt, ack_wait: Duration::ZERO }
}

/// A flow that moved `bytes` in each of `ticks` ticks within `bound`, and when that ended.
fn looked_at(bytes: u64, bound: Bound, ticks: u32) -> (Demand, Instant) {
    let start = epoch();
    let mut demand = Demand::new(start);
    for tick in 1..=ticks {
        demand.moved(bytes, TICK, bound, line(20), start + TICK * tick);
    }
    (demand, start + TICK * ticks)
}

#[test]
fn a_flow_that_just_began_claims_the_least_window() {
    let now = epoch();
    let demand = Demand::new(now);
    assert_eq!(demand.want(now), Want::New);
    let claim = demand.want(now).claim(line(50)).expect("a bound");
    let window = crate::window::window_for(claim, line(50));
    assert!((WINDOW_MIN..=WINDOW_MIN + 2 * MSS).contains(&window), "{window}");
    assert_eq!(demand.want(now + NEW_FOR), Want::Rate(BitRate::default()));
}

#[test]
fn who_waits_wants_everything_for_a_second() {
    let now = epoch();
    let mut demand = Demand::new(now);
    demand.look(true, now);
    let again = now + TICK;
    demand.look(true, again);
    assert_eq!(demand.want(again + HUNGRY_FOR - TICK), Want::All);
    assert_eq!(demand.want(again + HUNGRY_FOR), Want::Rate(BitRate::default()));
}

#[test]
fn who_waits_at_one_look_and_not_at_the_next_wants_what_it_uses() {
    let start = epoch();
    let mut demand = Demand::new(start);
    for tick in 1..100u32 {
        let now = start + TICK * tick;
        demand.look(!tick.is_multiple_of(2), now);
        // A look in between because something else changed says no more.
        demand.look(!tick.is_multiple_of(2), now + TICK / 10);
        assert_ne!(demand.want(now + TICK / 10), Want::All, "at {tick}");
    }
}

#[test]
fn who_sends_what_it_may_wants_everything() {
    let rate = 60_000;
    let (full, now) = looked_at(rate / 10, Bound::Pacing(rate), 3);
    assert_eq!(full.want(now), Want::All);
    let (less, now) = looked_at(rate / 10 * 7 / 10, Bound::Pacing(rate), 40);
    assert!(matches!(less.want(now), Want::Rate(_)), "{less:?}");
}

#[test]
fn what_a_small_sender_leaves_is_sent_by_the_others_and_they_stay_within_their_class() {
    let rate = BitRate::from_mbit(10);
    let little = Want::Rate(BitRate::from_bits_per_second(100_000));
    let shares = SendShares::new(rate, &[Want::All, Want::All, little, Want::New]);
    // A quarter is the newcomer's, twice what it uses the small one's.
    assert_eq!(shares.of(Want::All).bits_per_second(), (10_000_000 - 2_500_000 - 200_000) / 2);
    assert_eq!(shares.of(little), rate.scale(1, 4));
    let alone = SendShares::new(rate, &[little]);
    assert_eq!(alone.of(little), rate);
    let equal = SendShares::new(rate, &[Want::All, Want::All]);
    assert_eq!(equal.of(Want::All), rate.scale(1, 2));
}

#[test]
fn a_class_that_wants_little_claims_little_of_the_uplink() {
    let flow = |want| WindowFlow { key: 0, class: 1, rtt: None, busy_for: TICK, want };
    let rate = BitRate::from_mbit(1);
    assert_eq!(claim_up_of(1, &[flow(Want::New)]), Some(BitRate::default()));
    assert_eq!(claim_up_of(1, &[flow(Want::New), flow(Want::Rate(rate))]), Some(rate.scale(2, 1)));
    assert_eq!(claim_up_of(1, &[flow(Want::Rate(rate)), flow(Want::All)]), None);
    assert_eq!(claim_up_of(0, &[flow(Want::All)]), Some(BitRate::default()));
}

#[test]
fn who_fills_its_window_wants_everything_and_who_does_not_wants_what_it_uses() {
    let window = 20_000;
    // A round trip is 40 ms and the loaded one at most 55, so a full window is 36 KB in a tick.
    let (full, now) = looked_at(2 * window, Bound::Window(window), 3);
    assert_eq!(full.want(now), Want::All);
    let (half, now) = looked_at(window, Bound::Window(window), 40);
    let Want::Rate(rate) = half.want(now) else { panic!("{half:?}") };
    let real = wire_bytes(window, 0) * 8 * 10;
    assert!((real * 95 / 100..=real).contains(&rate.bits_per_second()), "{rate:?} of {real}");
    let (unbounded, now) = looked_at(2 * window, Bound::Nothing, 40);
    assert!(matches!(unbounded.want(now), Want::Rate(_)), "no window of ours held it back");
}

#[test]
fn who_fills_the_least_window_once_may_have_more() {
    let start = epoch();
    let mut demand = Demand::new(start);
    demand.moved(WINDOW_MIN, TICK * 10, LEAST, line(20), start + TICK * 10);
    assert_eq!(demand.want(start + TICK * 10), Want::All);
    let (mut demand, now) = looked_at(0, LEAST, 10);
    demand.moved(WINDOW_MIN / 2, TICK, LEAST, line(20), now + TICK);
    assert!(matches!(demand.want(now + TICK), Want::Rate(_)), "half of it says nothing");
}

#[test]
fn one_answer_a_second_over_a_satellite_is_no_full_window() {
    let far = WindowLine { rtt: Duration::from_millis(600), ..line(10) };
    let start = epoch();
    let mut demand = Demand::new(start);
    for tick in 1..100u32 {
        let now = start + TICK * tick;
        let bytes = if tick.is_multiple_of(10) { 1_200 } else { 0 };
        demand.moved(bytes, TICK, LEAST, far, now);
        assert_ne!(demand.want(now), Want::All, "at {tick}");
    }
}

/// What a flow of the simulation would do.
#[derive(Clone, Copy)]
enum Load {
    /// An answer of so many bytes every second.
    Answers(u64),
    /// As much as the line gives.
    Download,
    /// A download that is taken at so many bytes per second.
    SlowReader(u64),
}

/// One flow of the simulation.
struct Flow {
    class: usize,
    load: Load,
    demand: Demand,
    window: u64,
    parked: bool,
    moved: u64,
}

/// A line of 50 Mbit/s with the classes `control` (0) and `image-pull` (1), of which the first
/// goes first.
struct Store {
    start: Instant,
    ticks: u32,
    flows: Vec<Flow>,
    allocator: WindowAllocator,
}

impl Store {
    const MBIT: u64 = 50;

    fn new(loads: &[(usize, Load)]) -> Self {
        let mut store = Self {
            start: epoch(),
            ticks: 0,
            flows: Vec::new(),
            allocator: WindowAllocator::default(),
        };
        for (class, load) in loads {
            store.begin(*class, *load);
        }
        store
    }

    fn now(&self) -> Instant {
        self.start + TICK * self.ticks
    }

    fn begin(&mut self, class: usize, load: Load) {
        let demand = Demand::new(self.now());
        let window = WINDOW_MIN;
        self.flows.push(Flow { class, load, demand, window, parked: false, moved: 0 });
    }

    /// One tick: flows move what window, line and wish allow, upper classes first; then the
    /// windows are planned anew.
    fn tick(&mut self) {
        self.ticks += 1;
        let (now, line) = (self.now(), line(Self::MBIT));
        let mut left = line.rate.bytes_in(TICK) * MSS / (MSS + 52);
        for class in 0..2 {
            let mine = self.flows.iter_mut().filter(|flow| flow.class == class);
            let mut wishes: Vec<(&mut Flow, u64)> = mine
                .map(|flow| {
                    let wish = flow.wish(self.ticks);
                    (flow, wish)
                })
                .collect();
            wishes.sort_by_key(|(_, wish)| *wish);
            let count = wishes.len();
            for (index, (flow, wish)) in wishes.into_iter().enumerate() {
                let most = left / u64::try_from(count - index).unwrap();
                let got = wish.min(most);
                left -= got;
                flow.moved += got;
                flow.demand.look(got < wish || flow.parked, now);
                flow.demand.moved(got, TICK, Bound::Window(flow.window), line, now);
            }
        }
        self.plan(line, now);
    }

    fn plan(&mut self, line: WindowLine, now: Instant) {
        let flow = |(key, flow): (usize, &Flow)| WindowFlow {
            key: key as u64,
            class: flow.class,
            rtt: None,
            busy_for: Duration::ZERO,
            want: flow.demand.want(now),
        };
        let flows: Vec<WindowFlow> = self.flows.iter().enumerate().map(flow).collect();
        let claim = |class: usize| Claim {
            priority: 9 - u16::try_from(class).unwrap(),
            weight: 1,
            floor: line.rate.scale(1, 100),
            cap: claim_of(class, &flows, line).unwrap_or(line.rate),
        };
        let claims = [claim(0), claim(1)];
        let rates = water_fill_lending(line.rate, &claims, &[line.rate; 2]);
        let plans = self.allocator.plan(line, &rates, &flows, now);
        for (flow, WindowPlan { window, parked, .. }) in self.flows.iter_mut().zip(plans) {
            (flow.window, flow.parked) = (window, parked);
        }
    }

    /// Megabits per second that the flows of `class` moved in `seconds`.
    fn run(&mut self, seconds: u32, class: usize) -> u64 {
        let moved = |store: &Self| -> u64 {
            store.flows.iter().filter(|f| f.class == class).map(|f| f.moved).sum()
        };
        let before = moved(self);
        for _ in 0..seconds * 10 {
            self.tick();
        }
        (moved(self) - before) * 8 / 1_000_000 / u64::from(seconds)
    }
}

impl Flow {
    /// What it would move in this tick if the line were its own.
    fn wish(&self, tick: u32) -> u64 {
        if self.parked {
            return 0;
        }
        // Nothing waits at the provider: a window goes round in the plain round-trip time.
        let windows = self.window * 100 / 40;
        match self.load {
            Load::Answers(bytes) if tick.is_multiple_of(10) => bytes.min(windows),
            Load::Answers(_) => 0,
            Load::Download => windows,
            Load::SlowReader(rate) => (rate / 10).min(windows),
        }
    }
}

#[test]
fn probes_of_an_upper_class_take_nothing_from_downloads() {
    let downloads = [(1, Load::Download); 4];
    let alone = Store::new(&downloads).run(20, 1);
    assert!(alone >= 45, "{alone} of 50 Mbit/s");
    let mut store = Store::new(&downloads);
    for _ in 0..6 {
        store.begin(0, Load::Answers(400));
    }
    let beside = store.run(20, 1);
    assert!(beside * 100 >= alone * 98, "{beside} of {alone} Mbit/s beside probes");
}

#[test]
fn an_upper_class_that_wants_the_line_has_it_within_half_a_second() {
    let mut store = Store::new(&[(1, Load::Download), (0, Load::Answers(400))]);
    store.run(5, 1);
    store.flows[1].load = Load::Download;
    for _ in 0..5 {
        store.tick();
    }
    let upper = store.run(1, 0);
    assert!(upper >= 40, "{upper} Mbit/s of 50 for the class that goes first");
    store.flows[1].load = Load::Answers(400);
    store.run(2, 1);
    let lower = store.run(2, 1);
    assert!(lower >= 45, "{lower} Mbit/s of 50 when it is quiet again");
}

#[test]
fn a_slow_reader_keeps_what_it_reads_and_no_more() {
    let mut store = Store::new(&[(1, Load::SlowReader(200_000)), (1, Load::Download)]);
    store.run(3, 1);
    let before = store.flows[0].moved;
    let both = store.run(10, 1);
    let slow = (store.flows[0].moved - before) / 10;
    assert!(both >= 45, "{both} of 50 Mbit/s are used");
    assert!((190_000..=200_000).contains(&slow), "{slow} bytes per second");
}

#[test]
fn many_probes_are_never_out_of_turn() {
    let thin = line(2);
    let start = epoch();
    let rate = BitRate::from_bits_per_second(3_000);
    let flow = |key: u64, class, want| WindowFlow {
        key,
        class,
        rtt: None,
        busy_for: Duration::ZERO,
        want,
    };
    let mut flows: Vec<WindowFlow> = (0..20).map(|key| flow(key, 0, Want::Rate(rate))).collect();
    flows.extend((20..26).map(|key| flow(key, 1, Want::All)));
    let mut allocator = WindowAllocator::default();
    let rates = [rate.scale(40, 1), thin.rate];
    let plans = allocator.plan(thin, &rates, &flows, start);
    assert!(plans[..20].iter().all(|plan| !plan.parked && plan.window == WINDOW_MIN), "{plans:?}");
    let open = plans[20..].iter().filter(|plan| !plan.parked).count();
    assert!(open >= 2, "downloads have their turns beside them: {plans:?}");
}
