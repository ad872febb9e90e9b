//! Days on which everything happens: properties 1 to 8 and 10 to 14 under random lines, classes,
//! flows, demands, refunds, cancels, moves, rate changes, reloads, late timers and odd clocks.
//!
//! What must hold is checked by `audit` at every step; here is only what happens.

use super::super::*;
use super::audit::Audited;
use super::draw::{Draw, each_seed};
use crate::units::Percent;

/// Rates: mostly lines that exist, sometimes the ends of the number line.
pub(super) fn some_rate(draw: &mut Draw) -> LineRate {
    let odd = [1, 7, 1_000, u64::MAX, u64::MAX / 2];
    let real = [1, 2, 3, 5, 10, 20, 50, 100, 300, 1_000];
    let bits = if draw.chance(6) { draw.pick(&odd) } else { draw.pick(&real) * 1_000_000 };
    let capacity = BitRate::from_bits_per_second(bits);
    let headroom = draw.pick(&[100, 95, 95, 93]);
    LineRate { capacity, shaped: capacity.scale(headroom, 100) }
}

fn percent(value: u64) -> Share {
    Share::Percent(Percent::new(u8::try_from(value).unwrap()).unwrap())
}

/// Up to 16 classes in up to 5 tiers. Floors may add up to more than is allowed.
pub(super) fn some_classes(draw: &mut Draw, capacity: BitRate) -> Vec<ClassShare> {
    let count = draw.between(1, 16);
    let priorities = draw.between(1, 5);
    (0..count)
        .map(|_| {
            let floor = if draw.chance(50) { draw.between(0, 80 / count + 4) } else { 0 };
            let ceiling = if draw.chance(60) { 100 } else { draw.between(floor.max(1), 100) };
            let absolute = draw.chance(20);
            let share = |value: u64| match absolute {
                true => Share::Rate(capacity.scale(value, 100)),
                false => percent(value),
            };
            ClassShare {
                priority: u16::try_from(100 * draw.between(1, priorities)).unwrap(),
                weight: draw.pick(&[1, 1, 2, 3, 5, 10, 100, 65_536]),
                guarantee: share(floor),
                ceiling: share(ceiling),
            }
        })
        .collect()
}

/// One simulated day.
struct Chaos {
    draw: Draw,
    line: Audited,
    rate: LineRate,
    flows: Vec<FlowId>,
    now: u64,
    timer: Option<u64>,
    /// How late a timer may be, and the chance of a longer stall.
    late_max: u64,
    stalls_percent: u64,
    /// The chance that a flow asks again at once.
    eager_percent: u64,
    /// Timers in a row that brought nothing.
    fruitless: u32,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let mut draw = Draw::new(seed);
        let rate = some_rate(&mut draw);
        let classes = some_classes(&mut draw, rate.capacity);
        let overhead = draw.pick(&[0, 0, 18, 26]);
        let mut line = Audited::new(rate, overhead, &classes);
        let count = if draw.chance(20) { draw.between(20, 200) } else { draw.between(1, 20) };
        let flows = (0..count).map(|_| line.add_flow(draw.index(classes.len()))).collect();
        // 6: some lines have been up for 400 days.
        let now = if draw.chance(10) { 400 * 86_400 * 1_000_000_000 } else { 0 };
        Self {
            line,
            rate,
            flows,
            now,
            timer: None,
            late_max: draw.pick(&[0, 1_100_000, 2_000_000]),
            stalls_percent: draw.pick(&[0, 0, 2]),
            eager_percent: draw.pick(&[100, 95, 70, 20]),
            fruitless: 0,
            draw,
        }
    }

    fn some_bytes(&mut self) -> u64 {
        let quantum = self.line.quantum();
        match self.draw.between(0, 9) {
            0 => 1,
            1..=3 => self.draw.between(1, 3_000),
            4..=6 => self.draw.between(1, 4 * quantum),
            7 => u64::MAX,
            _ => 1 << 40,
        }
    }

    fn pump(&mut self, now: u64) -> bool {
        let Self { draw, line, eager_percent, .. } = self;
        let mut granted = false;
        self.timer = line.pump_at_most(2_000, now, |line, grant| {
            granted = true;
            if draw.chance(3) {
                let unused = draw.between(0, grant.bytes);
                line.refund(grant.flow, unused, now);
            }
            if draw.chance(*eager_percent) {
                let bytes = match draw.between(0, 2) {
                    0 => grant.bytes,
                    1 => draw.between(1, 3_000),
                    _ => 1 << 40,
                };
                line.demand(grant.flow, bytes, now);
            }
        });
        granted
    }

    /// Fires the timers that are due before `until`, late as this machine is.
    fn run_until(&mut self, until: u64) {
        let mut fired = 0;
        while let Some(due) = self.timer.filter(|due| *due < until && fired < 300) {
            fired += 1;
            let stall = self.draw.chance(self.stalls_percent);
            let late_max = if stall { 500_000_000 } else { self.late_max };
            self.now = self.now.max(due + self.draw.between(0, late_max));
            let exact = self.now == due;
            let granted = self.pump(self.now);
            self.fruitless = if granted { 0 } else { self.fruitless + 1 };
            assert!(!exact || self.fruitless < 5, "5: timers that bring nothing");
        }
        self.now = self.now.max(until);
    }

    fn step(&mut self) {
        let gap = self.line.quantum_time().saturating_mul(4).min(1 << 40);
        let gap = if self.draw.chance(3) { gap.saturating_mul(30) } else { gap };
        let until = self.now + self.draw.between(0, gap.min(1 << 42));
        self.run_until(until);
        self.fruitless = 0;
        let now = self.now;
        let flow = self.draw.pick(&self.flows);
        match self.draw.between(0, 99) {
            0..=59 => {
                let bytes = self.some_bytes();
                self.line.demand(flow, bytes, now);
            }
            60..=69 => self.line.demand(flow, 0, now),
            70..=75 => {
                let class = self.draw.index(self.line.classes.len());
                self.line.remove_flow(flow);
                self.flows.retain(|other| *other != flow);
                let count = self.draw.between(1, 2);
                self.flows.extend((0..count).map(|_| self.line.add_flow(class)));
            }
            76..=80 => {
                let class = self.draw.index(self.line.classes.len());
                self.line.move_flow(flow, class, now);
            }
            81..=85 => {
                let unused = self.draw.between(0, self.line.quantum());
                self.line.refund(flow, unused, now);
            }
            86..=88 => {
                let wire = self.draw.between(1, 10_000);
                self.line.unasked(wire, now);
            }
            89..=91 => self.change_rate(),
            92..=93 => self.reload(),
            94..=95 => {
                // 7: a clock that stepped back.
                let back = self.draw.between(0, 5_000_000_000).min(now);
                self.pump(now - back);
            }
            _ => {}
        }
        if self.draw.chance(90) {
            self.pump(now);
            // 7: the same instant again brings nothing more, unless someone asks.
            let more = self.line.poll(now);
            assert!(more.is_none() || self.timer <= Some(now), "7: a repeated instant granted");
        }
    }

    fn change_rate(&mut self) {
        self.rate = match self.draw.between(0, 3) {
            0 => some_rate(&mut self.draw),
            1 => self.rate,
            _ => {
                let (numerator, denominator) =
                    self.draw.pick(&[(1, 10), (10, 1), (3, 4), (101, 100), (99, 100)]);
                let scale = |rate: BitRate| {
                    let scaled = rate.scale(numerator, denominator).bits_per_second();
                    BitRate::from_bits_per_second(scaled.max(1))
                };
                LineRate { capacity: scale(self.rate.capacity), shaped: scale(self.rate.shaped) }
            }
        };
        self.line.set_rate(self.rate, self.now);
    }

    /// A reload as the shell does it: flows of classes that go away move to the first class.
    fn reload(&mut self) {
        let classes = some_classes(&mut self.draw, self.rate.capacity);
        for flow in self.flows.clone() {
            if self.line.class_of(flow) >= classes.len() {
                self.line.move_flow(flow, 0, self.now);
            }
        }
        self.line.set_classes(&classes, self.now);
    }
}

#[test]
fn every_bound_holds_on_days_on_which_everything_happens() {
    each_seed("chaos", 100, |seed| {
        let mut chaos = Chaos::new(seed);
        for _ in 0..300 {
            chaos.step();
        }
    });
}
